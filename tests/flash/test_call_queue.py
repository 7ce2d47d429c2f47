"""Calling routines on the core: in order, many at a time, and told apart when they fail.

The routines are our own loader's, with a few instructions of their code replaced.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from flash_bench import Bench, noise

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import RCC_AHB2ENR, RCC_D1CFGR, SRAM1, SRAM2
from gdbserver.errors import LoaderFault, LoaderRefused, LoaderTimeout
from gdbserver.loader.borrowed_ram import clocked
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.file import Image, LoaderFile, built

RETURN_R1 = b"\x08\x46\x70\x47"  # mov r0, r1; bx lr
UNDEFINED = b"\x00\xbf\x00\xde"  # nop; udf #0
SPIN = b"\xfe\xe7"  # b .
SLEEP = b"\x30\xbf\xfd\xe7"  # wfi; b .-2
DEEP = b"\x00\xb5\xff\xf7\xfd\xff"  # push {lr}; bl to itself

modes = pytest.mark.parametrize("queued", [True, False], ids=["queued", "one at a time"])


def with_write(code: bytes) -> Image:
    """The loader's image, with another `Write`."""
    return LoaderFile.load(built("qspi.stldr")).image.patched("Write", code)


def wait(queue: CallQueue, number: int) -> None:
    while queue.poll() <= number:
        pass


def finish(bench: Bench, image: Image, *arguments: int, queued: bool, timeout: float = 1.0) -> int:
    with CallQueue(bench.target, image, good=1, queued=queued) as queue:
        number = queue.post("Write", *arguments, timeout=timeout)
        wait(queue, number)
        queue.check_stack()
        return queue.stack_used()


@modes
def test_success_is_what_the_loaders_kind_calls_so(quick: Bench, queued: bool) -> None:
    finish(quick, with_write(RETURN_R1), 0, 1, queued=queued)
    with pytest.raises(LoaderRefused) as failed:
        finish(quick, with_write(RETURN_R1), 0x90000000, 5, queued=queued)
    assert str(failed.value) == (
        "loader qspi.stldr: Write(0x90000000, 0x5) returned 0x5 (expected 1)"
    )


def test_calls_finish_in_order_and_the_first_failure_ends_the_queue(bench: Bench) -> None:
    with CallQueue(bench.target, with_write(RETURN_R1), good=1) as queue:
        results = (1, 1, 7, 1)
        for result in results:
            queue.post("Write", 0, result, timeout=1.0)
        with pytest.raises(LoaderRefused, match="returned 0x7"):
            wait(queue, 3)


@pytest.mark.parametrize("results", [(5,), (5, 1)], ids=["the last call", "one before the last"])
def test_a_call_that_a_slow_core_has_counted_and_not_judged_is_not_taken_for_good(
    bench_at: Callable[..., Bench], results: tuple[int, ...]
) -> None:
    target = bench_at("sim:ideal").target
    for number in range(16):  # so that some of the looks come in between
        with CallQueue(target, with_write(RETURN_R1), good=1) as queue:
            target.write_word(RCC_D1CFGR, 0xF << 8)  # D1CPRE: the core at 125 kHz
            numbers = [queue.post("Write", number, result, timeout=1.0) for result in results]
            with pytest.raises(LoaderRefused, match=f"Write\\({number:#x}, 0x5\\) returned 0x5"):
                wait(queue, numbers[-1])


def test_more_calls_than_the_ring_holds_come_back_with_their_own_results(quick: Bench) -> None:
    with CallQueue(quick.target, with_write(RETURN_R1), good=1) as queue:
        wanted = 100
        numbers: list[int] = []
        results = []
        while len(results) < wanted:
            while len(numbers) < wanted and queue.has_room():
                value = 1000 + len(numbers)
                numbers.append(queue.post("Write", 0, value, timeout=1.0, checked=False))
            finished = queue.poll()
            for number in numbers[len(results) :]:
                if number < finished:
                    results.append(queue.result(number))
        assert results == list(range(1000, 1000 + wanted))


def test_the_helpers_agree_with_zlib(quick: Bench) -> None:
    data = noise(1000)
    with CallQueue(quick.target, with_write(RETURN_R1), good=1) as queue:
        where = queue.free.start
        queue.ram.borrow(Span.of(where, 1024))
        quick.target.write_memory(where, data)
        for start, length in ((0, 1000), (1, 998), (3, 1), (0, 0)):
            number = queue.post("crc32", where + start, length, timeout=1.0, checked=False)
            wait(queue, number)
            assert queue.result(number) == zlib.crc32(data[start : start + length])


def test_the_ram_that_a_loader_lies_in_has_a_clock_for_as_long_as_it_needs_one(
    quick: Bench,
) -> None:
    target = quick.target
    before = target.read_word(RCC_AHB2ENR)
    with clocked(target, [Span.of(SRAM1.start, 64)]):
        assert target.read_word(RCC_AHB2ENR) != before
        target.write_word(SRAM1.start, 0x12345678)
        target.write_word(SRAM2.start, 0x12345678)
        assert target.read_word(SRAM1.start) == 0x12345678
        assert target.read_word(SRAM2.start) == 0  # which nobody asked for
    assert target.read_word(RCC_AHB2ENR) == before


@modes
def test_a_crash_names_routine_place_and_fault(quick: Bench, queued: bool) -> None:
    with pytest.raises(LoaderFault) as failed:
        finish(quick, with_write(UNDEFINED), 1, 2, 3, queued=queued)
    message = str(failed.value)
    assert message.startswith("loader qspi.stldr crashed in Write(0x1, 0x2, 0x3) at Write+0x2 (0x")
    assert "undefined" in message


@modes
def test_a_routine_that_never_returns_is_told_where_it_spins(quick: Bench, queued: bool) -> None:
    started = quick.seconds()
    with pytest.raises(LoaderTimeout) as failed:
        finish(quick, with_write(SPIN), queued=queued, timeout=0.5)
    assert 0.5 < quick.seconds() - started < 1.0
    message = str(failed.value)
    assert "Write() has not returned after 0.5 s; it is at Write+0x0" in message
    assert "SysTick is stopped" in message


@modes
def test_a_routine_that_sleeps_is_told_apart(quick: Bench, queued: bool) -> None:
    with pytest.raises(LoaderTimeout, match="the core sleeps"):
        finish(quick, with_write(SLEEP), queued=queued, timeout=0.1)


@modes
def test_a_stack_that_is_used_up_is_named(quick: Bench, queued: bool) -> None:
    with pytest.raises(LoaderFault, match="needs more than 4096 bytes of stack") as failed:
        finish(quick, with_write(DEEP), queued=queued, timeout=0.2)
    assert "crashed in Write()" in str(failed.value)


def test_how_much_stack_was_used_is_known(quick: Bench) -> None:
    assert finish(quick, with_write(RETURN_R1), 0, 1, queued=False) == 0
    assert 0 <= finish(quick, with_write(RETURN_R1), 0, 1, queued=True) < 64


def test_an_interrupt_that_nobody_handles_is_named(quick: Bench) -> None:
    with CallQueue(quick.target, with_write(SPIN), good=1) as queue:
        number = queue.post("Write", timeout=2.0)
        assert queue.poll() <= number
        quick.target.write_words(cm.NVIC_ISER, [1 << 4])
        quick.target.write_words(cm.NVIC_ISPR, [1 << 4])
        with pytest.raises(LoaderFault, match="interrupt 4 came, and the loader has no handler"):
            wait(queue, number)


def test_closing_waits_for_the_call_under_way_and_forgets_the_others(quick: Bench) -> None:
    counting = b"\x01\x68\x01\x31\x01\x60\x01\x20\x70\x47"  # *r0 += 1; return 1
    with CallQueue(quick.target, with_write(counting), good=1) as queue:
        quick.target.write_memory(0x24070000, bytes(4))
        for _ in range(20):
            queue.post("Write", 0x24070000, timeout=1.0)
    assert quick.target.is_halted()
    assert 1 <= int.from_bytes(quick.target.read_memory(0x24070000, 4), "little") <= 20


def test_a_loader_that_was_put_away_is_there_again_when_it_is_called(quick: Bench) -> None:
    image = with_write(RETURN_R1)
    (span,) = image.memory
    before = noise(len(span))
    quick.target.write_memory(span.start, before)
    with CallQueue(quick.target, image, good=1) as queue:
        wait(queue, queue.post("Write", 0, 1, timeout=1.0))
        queue.put_image_away()
        assert quick.target.read_memory(span.start, len(span)) == before
        wait(queue, queue.post("Write", 0, 1, timeout=1.0))
        assert quick.target.read_memory(span.start, len(span)) != before
    assert quick.target.read_memory(span.start, len(span)) == before


@modes
def test_ram_and_registers_are_restored_after_a_crash(quick: Bench, queued: bool) -> None:
    ram = {0x24000000: noise(0x4000), 0x20000000: noise(0x4000, seed=1)}
    for address, data in ram.items():
        quick.target.write_memory(address, data)
    quick.target.write_registers({"r4": 0x11223344, "msp": 0x20001000})
    with pytest.raises(LoaderFault):
        finish(quick, with_write(UNDEFINED), queued=queued)
    for address, data in ram.items():
        assert quick.target.read_memory(address, len(data)) == data
    registers = {"r4": 0x11223344, "msp": 0x20001000}
    assert quick.target.read_registers(registers) == registers
