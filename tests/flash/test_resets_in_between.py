"""Somebody presses the reset button during a download."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip.stm32h743 import AXI_SRAM, DTCM
from gdbserver.errors import ChipReset, HeldInReset, explain
from gdbserver.sim.clock import MILLISECOND
from gdbserver.target.registers import REGISTERS

BANK1, NOR = 0x08000000, 0x90000000
IMAGES = {"both": ((BANK1, noise(3000)), (NOR, noise(3000))), "bank 1": ((BANK1, noise(70_000)),)}
NAMES = [register.name for register in REGISTERS]


def press(bench: Bench, milliseconds: float, *, for_how_long: float = 2) -> None:
    board = bench.board
    for delay, low in ((milliseconds, True), (milliseconds + for_how_long, False)):
        when = int(delay * MILLISECOND)
        board.clock.after(when, partial(board.hold_reset, low, who="button"))


def ram(bench: Bench) -> bytes:
    return b"".join(bench.target.read_memory(s.start, len(s)) for s in (DTCM, AXI_SRAM))


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
@pytest.mark.parametrize("image", IMAGES)
def test_all_is_as_before_whenever_the_button_is_pressed(
    link: str, image: str, bench_at: Callable[..., Bench]
) -> None:
    wanted = download(*IMAGES[image])
    measured = bench_at(f"sim:{link}")
    measured.carry_out(wanted)
    begun = measured.target.monotonic()
    measured.board.flash.load(BANK1, noise(100))
    measured.board.nor.memory[:100] = noise(100)
    measured.carry_out(wanted)
    took = 1000 * (measured.target.monotonic() - begun)
    bench = bench_at(f"sim:{link}")
    bench.target.halt()
    failures = 0
    for part in range(1, 7):
        bench.target.reset(halt=True)
        before, registers = ram(bench), bench.target.read_registers(NAMES)
        bench.board.flash.load(BANK1, noise(100, part))
        bench.board.nor.memory[:100] = noise(100, part)
        press(bench, took * part / 7)
        try:
            bench.carry_out(wanted)
        except ChipReset:
            failures += 1
        assert bench.target.is_halted()
        assert ram(bench) == before, part
        if image == "both":  # beside a loader; else the core is where the reset has put it
            assert bench.target.read_registers(NAMES) == registers, part
    assert failures
    bench.carry_out(wanted)
    for address, data in IMAGES[image]:
        assert bench.target.read_memory(address, len(data)) == data


def test_who_holds_the_button_is_told_so_and_the_next_download_works(quick: Bench) -> None:
    wanted = download(*IMAGES["both"])
    press(quick, 60, for_how_long=30_000)
    with pytest.raises(HeldInReset) as error:
        quick.carry_out(wanted)
    assert next(explain(error.value)) == "the chip is held in reset"
    quick.board.hold_reset(False, who="button")
    quick.target.reset(halt=True)
    quick.carry_out(wanted)


@pytest.mark.parametrize("action", ["compared", "verified"])
def test_after_a_reset_while_digests_are_computed_the_crc_unit_is_used_as_before(
    quick: Bench, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = download((BANK1, noise(300_000)))
    steps = quick.programmer.carry_out(wanted)
    next(step for step in steps if step.action == action)
    for low in (True, False):
        quick.board.hold_reset(low, who="button")
    with pytest.raises(ChipReset) as failed:
        list(steps)
    met = failed.value.__cause__ or failed.value.__context__  # before it was known to be a reset
    assert str(met) == "bank 1 was locked while its contents were compared"
    before = quick.target.link.probe.counters.bytes_in
    quick.carry_out(wanted)
    assert quick.target.link.probe.counters.bytes_in - before < 300_000
    assert "CRC unit" not in caplog.text


def test_a_reset_is_named_with_what_was_being_done(quick: Bench) -> None:
    quick.board.flash.load(BANK1, noise(100))
    press(quick, 500)
    with pytest.raises(ChipReset) as error:
        quick.carry_out(download((BANK1, noise(3000, 1))))
    told = [line for line in explain(error.value) if not line.startswith("because")]
    assert told == [
        "the chip was reset during the download, by the reset pin (NRST)",
        "hint: load again; if it comes back: who pulls NRST, and is the supply steady?",
    ]
