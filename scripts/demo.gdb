# What scripts/demo has GDB do.  It is connected by then.
set confirm off
set pagination off
set width 0
set trace-commands on
load
break main
continue
next
next
step
print greeting
tbreak sum_in_nor
continue
backtrace
print values[15]
finish
watch counter
continue
delete
python __import__("threading").Timer(1, lambda: __import__("os").kill(__import__("os").getpid(), 2)).start()
continue
print counter
compare-sections
detach
