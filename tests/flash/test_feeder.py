"""Internal flash, fed from buffers in SRAM by the resident routine: no loader is on the core."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    DTCM,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CR,
    RCC,
    WWDG1,
    FlashSr,
)
from gdbserver.errors import AccessStalled, FlashError, LoaderReset
from gdbserver.flash.feeder import BUFFER
from gdbserver.flash.programmer import Programmer
from gdbserver.sim.clock import MILLISECOND
from gdbserver.sim.probe import SimProbe
from gdbserver.sim.rcc import ResetCause
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

SECTOR = 0x20000
SIZE = 0x8000  # of each bank's part: 1024 flash words, 0.1 s
BOTH = ((0x08000000, noise(SIZE, seed=1)), (0x08100000, noise(SIZE, seed=2)))


def all_there(bench: Bench) -> bool:
    flash = bench.board.flash
    return set(flash.programs.values()) == {1} and all(
        bench.contents(Span.of(address, SIZE)) == data for address, data in BOTH
    )


def dirty(bench: Bench) -> None:
    """Something to erase, during which buffers can be filled: then feeding is worth while."""
    for address, data in BOTH:
        bench.board.flash.load(address, data[::-1])


def test_both_banks_are_programmed_at_once(bench: Bench) -> None:
    dirty(bench)
    programs = bench.board.flash.programs
    for step in bench.programmer.carry_out(download(*BOTH)):
        if step.action == "programmed" and step.region.name == "bank 1":
            done = [
                sum(0x100000 * n <= word - 0x08000000 < 0x100000 * (n + 1) for word in programs)
                for n in range(2)
            ]
            assert abs(done[0] - done[1]) < 0x2000 // 32
    assert all_there(bench)


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_probe_that_gives_up_at_once_never_has_to_wait(
    bench_at: Callable[..., Bench], link: str
) -> None:
    bench = bench_at(f"sim:{link},waits=1")
    dirty(bench)
    bench.carry_out(download(*BOTH))
    assert all_there(bench)


def test_ram_and_core_are_as_they_were(quick: Bench) -> None:
    dirty(quick)
    target = quick.target
    target.halt()
    ram = {span: noise(0x10000, seed=span.start) for span in (AXI_SRAM, DTCM)}
    for span, data in ram.items():
        target.write_memory(span.start, data)
    target.write_registers({"r7": 0x12345678, "psp": 0x20001000, "primask": 1})
    before = target.read_registers([f"r{n}" for n in range(13)] + ["pc", "psp", "primask"])
    quick.carry_out(download(*BOTH))
    assert all(target.read_memory(s.start, len(data)) == data for s, data in ram.items())
    assert target.read_registers(list(before)) == before


@pytest.mark.parametrize("word", [bytes(4), b"\xa5\x5a\xc3\x3c"])
def test_ram_that_one_word_fills_need_not_cross_a_slow_link(
    bench_at: Callable[..., Bench], word: bytes
) -> None:
    filled = word * 0x10000
    read = []
    for ram in (filled, filled[:0x3001] + b"!" + filled[0x3002:]):
        bench = bench_at("sim:stlink-v2")
        dirty(bench)
        bench.target.halt()
        bench.target.write_memory(AXI_SRAM.start, ram)
        counters = bench.target.link.probe.counters
        before = counters.bytes_in
        bench.carry_out(download(*BOTH))
        read.append(counters.bytes_in - before)
        assert all_there(bench)
        assert bench.target.read_memory(AXI_SRAM.start, len(ram)) == ram
    assert read[0] < read[1] / 2


def test_a_link_that_is_too_slow_for_both_banks_is_there_for_one_after_the_other(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:stlink-v2")
    whole = [(address, noise(0x18000, seed=address)) for address, _ in BOTH]
    for address, data in whole:
        bench.board.flash.load(address, data[::-1])
    done = {"bank 1": 0, "bank 2": 0}
    for step in bench.carry_out(download(*whole)):
        if step.action == "programmed":
            done[step.region.name] += len(step.span)
            if max(done.values()) == 0x18000:
                break
    assert min(done.values()) <= 4 * BUFFER  # which waited when its erase ended
    assert all(bench.contents(Span.of(address, 0x18000)) == data for address, data in whole)


def test_a_window_watchdog_that_the_program_started_does_not_bite(quick: Bench) -> None:
    dirty(quick)
    quick.target.halt()
    quick.target.write_memory(AXI_SRAM.start, b"\xfe\xe7")  # b .
    quick.target.write_word(RCC + 0xE4, 1 << 6)  # RCC_APB3ENR.WWDG1EN
    quick.target.write_word(WWDG1, 0xFF)
    quick.carry_out(download(*BOTH))
    assert all_there(quick)


def test_an_abandoned_download_leaves_banks_idle_and_ram_as_it_was(quick: Bench) -> None:
    dirty(quick)
    target, flash = quick.target, quick.board.flash
    target.halt()
    data = noise(0x20000, seed=3)
    target.write_memory(AXI_SRAM.start, data)
    steps = quick.programmer.carry_out(download(*BOTH))
    for step in steps:
        if step.action == "programmed":
            break
    steps.close()
    assert not flash.banks[0].busy
    assert not flash.banks[1].busy
    assert set(flash.programs.values()) == {1}
    assert [target.read_word(FLASH + n * FLASH_BANK2_OFFSET + FLASH_CR) for n in (0, 1)] == [
        0x31
    ] * 2
    assert target.is_halted()
    assert target.read_memory(AXI_SRAM.start, len(data)) == data


def test_an_error_flag_stops_the_bank_and_is_a_sentence(quick: Bench) -> None:
    dirty(quick)
    steps = quick.programmer.carry_out(download(*BOTH))
    for step in steps:
        if step.action == "programmed":
            quick.board.flash.raise_error(1, FlashSr.WRPERR)
            break
    with pytest.raises(FlashError, match=r"cannot program 0x0800.* in bank 1: WRPERR"):
        list(steps)
    assert quick.target.is_halted()


class Reticent(SimProbe):
    """A board that keeps its time to itself, as all do but ours."""

    @property
    def monotonic(self) -> float:  # type: ignore[override]
        raise AttributeError


def test_a_board_that_is_slower_than_the_host_is_not_taken_for_one_that_is_stuck() -> None:
    """Behind a probe that nobody has met there may be a simulation, on a host that is busy."""
    target = Target.behind(Reticent("sim:cmsis-dap-v2"), connect=Connect.UNDER_RESET)
    bench = Bench(target, target.link.probe.board, Programmer(target, []))
    dirty(bench)
    slept = 0.0
    target.link.monotonic = lambda: bench.seconds() + slept
    for step in bench.programmer.carry_out(download(*BOTH)):
        if step.action == "programmed":
            slept += 3.0
    target.close()
    assert slept > 0
    assert all_there(bench)


def test_a_reset_in_the_middle_is_noticed(quick: Bench) -> None:
    dirty(quick)
    steps = quick.programmer.carry_out(download(*BOTH))
    for step in steps:
        if step.action == "programmed":
            quick.board.reset(ResetCause.PIN)
            break
    with pytest.raises(LoaderReset, match="the chip was reset during feed"):
        list(steps)


@pytest.mark.parametrize("milliseconds", [3, 8, 20])
def test_a_link_that_fails_does_not_keep_the_client_waiting_for_the_feeder(
    bench_at: Callable[..., Bench], milliseconds: int
) -> None:
    """The word that stops it does not arrive, and it would go on for ever.

    The link is good again before that is noticed, or only after.
    """
    bench = bench_at("sim:cmsis-dap-v2,waits=4")
    dirty(bench)
    before = bench.target.read_memory(AXI_SRAM.start, SIZE)
    steps = bench.programmer.carry_out(download(*BOTH))
    for step in steps:
        if step.action == "programmed":
            bench.board.wait_storm(milliseconds * MILLISECOND)
            break
    begun = bench.seconds()
    with pytest.raises(AccessStalled):
        list(steps)
    assert bench.seconds() - begun < 5
    assert bench.target.is_halted()
    assert bench.target.read_memory(AXI_SRAM.start, SIZE) == before
