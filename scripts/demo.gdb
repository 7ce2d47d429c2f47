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
set trace-commands off
python
import os, signal, threading
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
end
echo (the script presses Ctrl-C after one second)\n
set trace-commands on
continue
print counter
compare-sections
detach
