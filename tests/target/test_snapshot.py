"""What is read of a halted core is what is there, whatever happened since it was read before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from target_bench import Bench

from gdbserver.chip.stm32h743 import BANK1
from gdbserver.errors import MemoryFault
from gdbserver.sim.bus import Master
from gdbserver.target.access import Write
from gdbserver.target.breakpoints import BreakKind

WORD = 0x24000400


def behind_our_back(bench: Bench, value: int) -> None:
    bench.board.bus.write(WORD, 4, value, Master.DMA)


def let_a_while_pass(bench: Bench) -> None:
    bench.target.link.probe.link.sleep(300_000_000)


def void(_: object) -> None:
    pass


def write_through_the_port(bench: Bench) -> None:
    tar, drw = 1, 3
    bench.target.raw.write_ap(tar, WORD)
    bench.target.raw.write_ap(drw, 5)


CHANGES: list[tuple[str, Callable[[Bench], None], int]] = [
    ("bytes", lambda b: b.target.write_memory(WORD, b"\x01\0\0\0"), 1),
    ("words", lambda b: b.target.write_words(WORD, [2]), 2),
    ("an access list", lambda b: void(b.target.run([Write(WORD, [3])])), 3),
    ("a stream", lambda b: b.target.stream(WORD, b"\x04\0\0\0"), 4),
    (
        "the access port's own registers",
        write_through_the_port,
        5,
    ),
]


@pytest.mark.parametrize(
    ("change", "value"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_whoever_writes_and_however_the_next_read_has_it(
    bench: Bench, change: Callable[[Bench], None], value: int
) -> None:
    bench.target.write_word(WORD, 0)
    assert bench.target.view_memory(WORD, 4) == bytes(4)
    change(bench)
    assert bench.target.view_memory(WORD, 4) == value.to_bytes(4, "little")


@pytest.mark.parametrize("action", ["step", "reset"])
def test_an_action_ends_the_moment(bench: Bench, action: str) -> None:
    bench.target.write_word(WORD, 0)
    bench.target.view_memory(WORD, 4)
    behind_our_back(bench, 9)
    if action == "step":
        bench.target.step()
    else:
        bench.target.reset(halt=True)
    assert bench.target.view_memory(WORD, 4)[0] == 9


def test_what_dma_writes_is_seen_soon(bench: Bench) -> None:
    bench.target.write_word(WORD, 0)
    bench.target.view_memory(WORD, 4)
    behind_our_back(bench, 7)
    let_a_while_pass(bench)
    assert bench.target.view_memory(WORD, 4)[0] == 7


def test_a_chip_that_was_reset_by_hand_is_not_taken_for_halted(bench: Bench) -> None:
    bench.target.poll_stop()
    bench.board.hold_reset(True)
    bench.board.hold_reset(False)
    let_a_while_pass(bench)
    assert not bench.target.seems_halted()


def test_registers_are_read_each_time(bench: Bench) -> None:
    before = bench.cost()
    for _ in range(3):
        bench.target.view_memory(0xE000E018, 4)
    assert bench.cost() - before >= 3


def test_memory_is_read_once(bench: Bench) -> None:
    bench.target.view_memory(WORD, 4)
    before = bench.cost()
    for offset in range(0, 32, 2):
        bench.target.view_memory(WORD + offset, 2)
    assert bench.cost() == before


def test_reading_on_takes_less_and_less(bench: Bench) -> None:
    start = BANK1.start + 0x2000
    before = bench.cost()
    for offset in range(0, 1024, 4):
        bench.target.view_memory(start + offset, 4)
    assert bench.cost() - before <= 8


def test_of_a_running_core_nothing_is_kept(bench: Bench) -> None:
    bench.target.resume()
    before = bench.cost()
    for _ in range(3):
        bench.target.view_memory(WORD, 4)
    assert bench.cost() - before >= 3


def test_a_refused_read_is_refused_as_often_as_asked_with_the_same_words(bench: Bench) -> None:
    said = set()
    for _ in range(2):
        with pytest.raises(MemoryFault) as caught:
            bench.target.view_memory(0x70000000, 4)
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_refused_word_is_asked_for_once(bench: Bench) -> None:
    with pytest.raises(MemoryFault):
        bench.target.view_memory(0x8FFFFFFC, 4)  # what comes before the first function in the NOR
    before = bench.cost()
    for address, length in (0x8FFFFFFE, 2), (0x8FFFFFFC, 2), (0x8FFFFFFC, 4):
        with pytest.raises(MemoryFault, match=f"{address:#010x}-{address + length - 1:#010x}"):
            bench.target.view_memory(address, length)
    assert bench.cost() == before


def test_a_software_breakpoint_that_comes_and_goes_is_never_seen(bench: Bench) -> None:
    bench.target.write_memory(WORD, b"\x01\x30\x02\x30")
    for _ in range(2):
        bench.target.view_memory(WORD, 4)
        bench.target.set_breakpoint(BreakKind.SOFTWARE, WORD, 2)
        assert bench.target.view_memory(WORD, 4) == b"\x01\x30\x02\x30"
        bench.target.clear_breakpoint(BreakKind.SOFTWARE, WORD, 2)
        assert bench.target.view_memory(WORD, 4) == b"\x01\x30\x02\x30"
