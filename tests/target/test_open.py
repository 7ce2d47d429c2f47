"""Connecting, and what stands in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from pyocd.core import exceptions
from pyocd.probe.aggregator import PROBE_CLASSES
from target_bench import LINKS, load

from gdbserver.chip.cortex_m import DEMCR, DHCSR, Dhcsr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import DBGMCU, DBGMCU_APB4FZ1_OFFSET, DBGMCU_CR_OFFSET
from gdbserver.errors import (
    AccessRefused,
    ChipLocked,
    HeldInReset,
    ProbeError,
    StreamStalled,
    explain,
)
from gdbserver.sim import stlink
from gdbserver.sim.board import Board
from gdbserver.sim.bus import Master
from gdbserver.sim.probe import SimProbe
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.connect import Connect
from gdbserver.target.link import Deadline
from gdbserver.target.probes import find_probe
from gdbserver.target.target import Target


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("connect", Connect)
def test_every_link_and_every_way_to_connect(link: str, connect: Connect) -> None:
    target = Target.open(f"sim:{link}", connect=connect)
    assert target.is_halted() is (connect is not Connect.ATTACH)
    assert target.simulated
    assert target.probe_uid == f"sim:{link}"
    assert link in target.probe_name
    chip = target.chip
    assert (chip.device_id, chip.revision, chip.flash_kib) == (0x450, "V", 2048)
    assert (chip.rdp_level, chip.swap_bank, chip.protected_sectors) == (0, False, ())
    target.close()


def test_the_simulated_board_is_only_used_when_it_is_asked_for() -> None:
    with pytest.raises(ProbeError, match="no debug probe is connected") as caught:
        Target.open(None)
    assert caught.value.hint == "--probe sim is a simulated board"


def test_a_probe_that_is_not_there_is_named() -> None:
    with pytest.raises(ProbeError, match="there is no debug probe '0669FF'") as caught:
        Target.open("0669FF")
    assert caught.value.hint == "none is connected; --probe sim is a simulated board"


class ForbiddenProbe(SimProbe):
    """A probe that this user may not open: pyOCD's drivers log that, and leave it out."""

    @classmethod
    def get_all_connected_probes(
        cls, unique_id: str | None = None, is_explicit: bool = False
    ) -> Sequence[SimProbe]:
        log = logging.getLogger("pyocd.probe.stlink.usb")
        log.warning("Access denied (VID=%04x PID=%04x), a udev rule is missing", 0x483, 0x374E)
        return []


def test_a_probe_that_may_not_be_opened_is_not_kept_quiet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(PROBE_CLASSES, "forbidden", ForbiddenProbe)
    for uid in (None, "0669FF"):
        with pytest.raises(ProbeError) as caught:
            find_probe(uid)
        told = list(explain(caught.value))
        assert told[1] == "Access denied (VID=0483 PID=374e), a udev rule is missing"
        assert len(told) == 3, "once, although it was looked for twice"
    assert not caplog.records, "not beside the error as well"


class SlowProbe(SimProbe):
    """One whose driver refuses what is too quick for it, instead of taking what it can."""

    def set_clock(self, frequency: float) -> None:
        if frequency > 4_000_000:
            raise exceptions.ProbeError("unsupported clock")
        super().set_clock(frequency)


class OneClockProbe(SimProbe):
    def set_clock(self, frequency: float) -> None:
        raise NotImplementedError


class StubbornProbe(SimProbe):
    def set_clock(self, frequency: float) -> None:
        raise exceptions.ProbeError("this probe's clock cannot be changed")


@pytest.mark.parametrize("probe", [SlowProbe, OneClockProbe, StubbornProbe])
def test_a_probe_that_takes_no_clock_of_10_mhz_is_used_all_the_same(probe: type[SimProbe]) -> None:
    target = Target.behind(probe("sim"), connect=Connect.UNDER_RESET)
    target.link.reconnect()
    assert target.chip.revision == "V"
    target.close()


class UnwiredProbe(SimProbe):
    """One whose NRST ends in the cable."""

    def assert_reset(self, asserted: bool) -> None:
        pass


def test_nrst_that_resets_nothing_keeps_nobody_waiting() -> None:
    target = Target.behind(UnwiredProbe("sim"), connect=Connect.UNDER_RESET)
    assert target.monotonic() < 0.1
    stop = target.poll_stop()
    assert stop is not None
    assert stop.kind == "reset", "by software"
    target.close()


def test_a_clock_that_was_asked_for_and_is_refused_is_named() -> None:
    with pytest.raises(ProbeError, match="does not take a clock of 8000000 Hz") as caught:
        Target.behind(SlowProbe("sim"), connect=Connect.UNDER_RESET, frequency=8_000_000)
    assert caught.value.hint == "give another --frequency"


def test_a_kind_of_probe_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ProbeError) as caught:
        Target.open("nonsense:1")
    assert "nonsense" in str(caught.value.__cause__)


def test_options_that_no_board_has_are_an_error() -> None:
    with pytest.raises(ProbeError) as caught:
        find_probe("sim:stlink-v9")
    assert "stlink-v9" in str(caught.value.__cause__)


def test_a_locked_chip_is_refused_with_what_to_do() -> None:
    with pytest.raises(ChipLocked, match="RDP level 1") as caught:
        Target.open("sim:ideal,rdp=0x55")
    assert caught.value.hint is not None
    assert "0xAA" in caught.value.hint


def test_the_revision_is_a_letter() -> None:
    target = Target.open("sim:ideal,revision=0x1003")
    assert target.chip.revision == "Y"
    target.close()


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def running(request: pytest.FixtureRequest, drills_elf: Path) -> tuple[SimProbe, dict[str, int]]:
    """A probe on a board whose program has been left running, and the program's names."""
    probe = SimProbe(f"sim:{request.param}")
    target = Target.behind(probe, connect=Connect.UNDER_RESET)
    names = load(probe.board, drills_elf)
    target.reset(halt=False)
    target.close()
    return probe, names


def test_a_program_that_runs_is_left_running_by_attaching(
    running: tuple[SimProbe, dict[str, int]],
) -> None:
    probe, names = running
    target = Target.behind(probe, connect=Connect.ATTACH)
    before = target.read_word(names["counter"])
    assert target.poll_stop() is None
    assert target.read_word(names["counter"]) > before > 0
    target.close()
    assert not probe.board.core.halted


def test_connecting_with_halt_stops_the_program_where_it_is(
    running: tuple[SimProbe, dict[str, int]],
) -> None:
    probe, names = running
    target = Target.behind(probe, connect=Connect.HALT)
    stop = target.poll_stop()
    assert stop is not None
    assert stop.kind == "halted"
    assert target.read_word(names["counter"]) > 0
    target.close()


def test_a_core_that_was_left_halted_is_not_resumed_by_attaching(
    running: tuple[SimProbe, dict[str, int]],
) -> None:
    probe, _names = running
    target = Target.behind(probe, connect=Connect.HALT)
    target.close(resume=False)
    assert probe.board.core.halted
    target = Target.behind(probe, connect=Connect.ATTACH)
    assert target.is_halted()
    target.close()


def test_after_closing_no_trace_of_the_debugger_is_left(
    running: tuple[SimProbe, dict[str, int]],
) -> None:
    probe, _names = running
    settings = [DBGMCU + DBGMCU_CR_OFFSET, DBGMCU + DBGMCU_APB4FZ1_OFFSET, DEMCR, DHCSR]

    def look() -> list[int]:
        sticky = Dhcsr.S_RETIRE_ST | Dhcsr.S_RESET_ST | Dhcsr.S_REGRDY
        return [probe.board.bus.read(address, 4, Master.AP0) & ~sticky for address in settings]

    before = look()
    target = Target.behind(probe, connect=Connect.HALT)
    assert look() != before
    target.step()
    target.close()
    assert look() == before


def test_a_locked_chip_is_let_go() -> None:
    probe = SimProbe("sim:ideal,rdp=0x55")
    with pytest.raises(ChipLocked):
        Target.behind(probe, connect=Connect.HALT)
    assert not probe.board.core.halted
    assert not probe.is_open


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_probe_that_is_pulled_out_is_an_error_and_closing_still_works(link: str) -> None:
    target = Target.open(f"sim:{link}")
    target.link.probe.board.unplug()
    with pytest.raises(ProbeError, match="the debug probe stopped working"):
        target.is_halted()
    with pytest.raises(ProbeError):
        target.read_memory(0x24000000, 4)
    with pytest.raises(ProbeError):
        target.resume()
    target.close()
    target.close()
    with pytest.raises(ProbeError, match="closed"):
        target.read_memory(0x24000000, 4)


def test_a_probe_that_is_gone_before_opening_is_an_error() -> None:
    probe = SimProbe("sim:stlink-v3")
    assert probe.link_time == 0
    probe.board.unplug()
    with pytest.raises(ProbeError, match="cannot open the debug probe") as caught:
        Target.behind(probe, connect=Connect.HALT)
    assert caught.value.hint is not None


def test_an_unplugged_probe_is_an_error_at_every_call() -> None:
    target = Target.open("sim:cmsis-dap-v2")
    target.link.probe.board.unplug()
    for _ in range(3):
        with pytest.raises(ProbeError):
            target.read_word(0x24000000)
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_bus_that_is_busy_for_a_while_is_waited_for(link: str) -> None:
    target = Target.open(f"sim:{link},waits=8")
    target.write_memory(0x24000000, b"patience")
    target.link.probe.board.wait_storm()
    assert target.read_memory(0x24000000, 8) == b"patience"
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v2", "stlink-v3", "ideal"])
def test_a_stream_that_stalls_says_how_far_it_got(link: str) -> None:
    target = Target.open(f"sim:{link},waits=0")
    address = unlocked_flash(target)
    data = bytes(range(256)) * 8
    with pytest.raises(StreamStalled) as caught:
        target.stream(address, data)
    written = caught.value.written
    assert 0 < written < len(data)
    while written < len(data):
        try:
            target.stream(address + written, data[written:])
            written = len(data)
        except StreamStalled as stalled:
            written += stalled.written
    span = Span.of(address, len(data))
    target.link.probe.board.clock.advance_to(target.link.probe.board.clock.now + 10_000_000)
    assert target.link.probe.board.flash.contents(span) == data
    target.close()


def unlocked_flash(target: Target) -> int:
    """Bank 1 ready to be programmed; an address in it."""
    target.write_word(0x52002004, 0x45670123)
    target.write_word(0x52002004, 0xCDEF89AB)
    target.write_word(0x5200200C, 0x32)  # PG, x64
    return 0x08020000


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_chip_that_lost_power_is_taken_up_again_by_a_reset(link: str, drills_elf: Path) -> None:
    target = Target.open(f"sim:{link}")
    board = target.link.probe.board
    names = load(board, drills_elf)
    target.set_breakpoint(BreakKind.HARDWARE, names["main"] & ~1, 2)
    target.reset(halt=False)
    board.power_cycle()
    with pytest.raises(ProbeError, match="the chip stopped answering"):
        target.is_halted()
    target.reset(halt=True)
    stop = target.poll_stop()
    assert stop is not None
    assert stop.kind == "reset"
    target.resume()
    deadline = target.deadline(0.1)
    while (stop := target.poll_stop()) is None:
        assert not deadline.expired()
    assert stop.kind == "hwbreak", "breakpoints are there again"
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_chip_that_is_halted_when_its_power_is_back_has_its_breakpoints(
    link: str, drills_elf: Path
) -> None:
    target = Target.open(f"sim:{link}")
    board = target.link.probe.board
    where = load(board, drills_elf)["main"] & ~1
    target.set_breakpoint(BreakKind.HARDWARE, where, 2)
    target.reset(halt=False)
    board.power_off()
    with pytest.raises(ProbeError, match="the chip does not answer the debug probe"):
        target.reach()
    board.power_on()
    assert not target.reach()
    target.halt()
    assert target.unasked_resets == 1
    target.write_registers({"pc": where})
    target.resume()
    stop = target.poll_stop()
    assert stop is not None
    assert stop.kind == "hwbreak"
    assert target.unasked_resets == 1, "and it is not told once more, as if it had happened now"
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_chip_that_runs_when_its_power_is_back_stops_at_breakpoints(
    link: str, drills_elf: Path
) -> None:
    target = Target.open(f"sim:{link}")
    board = target.link.probe.board
    where = load(board, drills_elf)["step_1"] & ~1
    target.reset(halt=False)
    board.power_off()
    with pytest.raises(ProbeError):
        target.reach()
    board.power_on()
    assert not target.reach()
    target.set_breakpoint(BreakKind.HARDWARE, where, 2)
    deadline = target.deadline(0.1)
    while (stop := target.poll_stop()) is None:
        assert not deadline.expired(), "without C_DEBUGEN it is a fault, and no stop"
    assert stop.kind == "hwbreak"
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_core_that_is_halted_when_its_probe_is_back_stays_so(link: str) -> None:
    target = Target.open(f"sim:{link}")
    pc = target.read_registers(["pc"])
    target.link.probe.board.unplug()
    with pytest.raises(ProbeError):
        target.reach()
    target.link.probe.board.replug()
    assert target.reach()
    assert target.read_registers(["pc"]) == pc
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
@pytest.mark.parametrize("act", [Target.halt, partial(Target.reset, halt=True)])
def test_a_chip_whose_nrst_is_pulled_low_is_said_to_be_held_in_reset(
    link: str, act: Callable[[Target], None]
) -> None:
    target = Target.open(f"sim:{link}")
    target.resume()
    target.link.probe.board.hold_reset(True, who="button")
    with pytest.raises(HeldInReset) as error:
        act(target)
    assert list(explain(error.value)) == [
        "the chip is held in reset",
        "hint: NRST is low: the reset button, another probe, or a part on the board pulls it",
    ]
    target.link.probe.board.hold_reset(False, who="button")
    target.reset(halt=True)
    assert target.is_halted()
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_who_attaches_to_a_chip_that_is_held_in_reset_hears_what_may_hold_it(link: str) -> None:
    probe = find_probe(f"sim:{link}")
    probe.board.hold_reset(True, who="button")
    with pytest.raises(AccessRefused) as error:
        Target.behind(probe, connect=Connect.ATTACH)
    assert error.value.hint is not None
    assert "does the reset button, another probe, or a part hold NRST low?" in error.value.hint
    probe.board.hold_reset(False, who="button")
    Target.behind(probe, connect=Connect.ATTACH).close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_probe_that_is_put_back_is_taken_up_again_by_a_reset(link: str) -> None:
    target = Target.open(f"sim:{link}")
    target.link.probe.board.unplug()
    with pytest.raises(ProbeError):
        target.reset(halt=True)
    target.link.probe.board.replug()
    target.reset(halt=True)
    assert target.is_halted()
    target.close()


# --- Time-outs ---------------------------------------------------------------------------------


class Hands:
    """A clock whose hands one moves."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_in_step_with_the_target_expires_at_the_first_look_behind_it() -> None:
    clock = Hands()
    deadline = Deadline(1.0, clock, in_step=True)
    assert not any(deadline.expired() for _ in range(100_000))
    clock.now += 1.0
    assert not deadline.expired(), "this look may have begun long ago"
    assert deadline.expired()


def test_a_deadline_of_what_may_be_a_simulation_wants_looks_as_well() -> None:
    clock = Hands()
    deadline = Deadline(1.0, clock, in_step=False)
    clock.now += 2.0
    assert not any(deadline.expired() for _ in range(9_999))
    assert deadline.expired()


def test_a_deadline_of_a_very_slow_simulation_expires_in_the_end() -> None:
    clock = Hands()
    deadline = Deadline(1.0, clock, in_step=False)
    clock.now += 10.0
    assert not any(deadline.expired() for _ in range(999))
    assert deadline.expired()


def test_a_deadline_knows_that_no_probe_answers_so_soon() -> None:
    """A simulation that keeps its time to itself spends some on each look, however quick."""
    clock = Hands()
    deadline = Deadline(1.0, clock, in_step=False)
    looks = 0
    while not deadline.expired():
        looks += 1
        clock.now += 50e-6
    assert looks == pytest.approx(100_000, rel=1e-3)


def test_pyocds_log_is_quiet() -> None:
    find_probe("sim")
    assert logging.getLogger("pyocd").level >= logging.CRITICAL


def wall_off(board: Board, start: int) -> None:
    """Take the device at `start` off the bus."""
    devices = [entry for entry in board.bus.devices if entry[0].start != start]
    assert len(devices) < len(board.bus.devices)
    board.bus.devices.clear()
    for span, device in devices:
        board.bus.attach(span.start, len(span), device)


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
@pytest.mark.parametrize("connect", Connect)
@pytest.mark.parametrize(
    ("device", "what", "hint"),
    [
        (0xE0002000, "the core's breakpoint unit (FPB) at 0xe0002000", "does the reset button"),
        (0xE0001000, "the core's watchpoint unit (DWT) at 0xe0001000", "does the reset button"),
        (0x52002000, "the option bytes (FLASH_OPTSR_CUR) at 0x5200201c", "does the reset button"),
        (0x1FF00000, "the word that tells how much flash there is at 0x1ff1e880", "is it an STM32"),
    ],
)
def test_what_cannot_be_reached_on_connecting_is_named(
    link: str, connect: Connect, device: int, what: str, hint: str
) -> None:
    probe = find_probe(f"sim:{link}")
    wall_off(probe.board, device)
    with pytest.raises(AccessRefused) as error:
        Target.behind(probe, connect=connect)
    assert str(error.value) == f"the chip does not let a debugger reach {what}"
    assert str(error.value.hint).startswith(hint)


@pytest.mark.parametrize(("version", "old"), [(31, True), (32, False)])
def test_an_st_link_whose_firmware_takes_no_csw_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: int, old: bool
) -> None:
    monkeypatch.setattr(stlink, "_VERSION_V2", 2 << 12 | version << 6 | 7)
    target = Target.open("sim:stlink-v2")
    target.read_memory(0x24000000, 64)
    target.link.reconnect()
    target.close()
    told = [m for m in caplog.messages if "STM32CubeProgrammer" in m]
    assert len(told) == old
    assert all(m.startswith("the ST-LINK's firmware V2J31M7 ") for m in told) or not old
