"""A debugger that forgets what the caches need is found out, and one that does not is not."""

from __future__ import annotations

import struct

import pytest
from bare_machine import Machine

from gdbserver.chip.cortex_m import (
    CCR,
    DBGKEY,
    DCCISW,
    DCCMVAU,
    DCCSW,
    DCIMVAC,
    DCISW,
    DHCSR,
    ICIALLU,
    Ccr,
    Dhcsr,
)
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK1, BANK2, DTCM
from gdbserver.sim.board import Board, BoardOptions
from gdbserver.sim.bus import Master, Ram
from gdbserver.sim.caches import SETS, WAYS, Caches
from gdbserver.sim.clock import MILLISECOND

CODE = 0x24000000
LOOP = 0xE7FEBF00  # nop; b .
ICIMVAU = 0xE000EF58
PC = 15
BOTH = Ccr.IC | Ccr.DC
FLUSHED = [(ICIALLU, 0)]
LOAD_FROM_BANK_2 = bytes.fromhex("4ff00161 0868 fee7")  # mov.w r1, #0x08100000; ldr r0, [r1]; b .
SWEPT = [(DCCSW, way << 30 | number << 5) for way in range(WAYS) for number in range(SETS)]


@pytest.fixture
def machine() -> Machine:
    """A core that is halted, with memory to write programs into."""
    machine = Machine("b .")
    machine.bus.attach(CODE, 0x1000, Ram(0x1000))
    machine[DHCSR] = DBGKEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    return machine


def executed(
    machine: Machine, on: Ccr, maintenance: list[tuple[int, int]], code: int = CODE
) -> list[int]:
    """Write code by a debugger's access, and run it: which lines of it were stale."""
    machine[CCR] = machine[CCR] | on
    machine[code] = LOOP
    for register, value in maintenance:
        machine[register] = value
    machine.set_register(PC, code)
    machine.resume()
    machine.run()
    return machine.scs.caches.executed


@pytest.mark.parametrize(
    ("on", "maintenance"),
    [
        (Ccr.IC, []),
        (Ccr.DC, []),
        (BOTH, FLUSHED),
        (BOTH, [(DCCMVAU, CODE)]),
        (BOTH, [(DCCMVAU, CODE + 32), *FLUSHED]),
        (BOTH, [*SWEPT[:-1], *FLUSHED]),
        (Ccr.IC, [(ICIMVAU, CODE + 32)]),
    ],
)
def test_code_that_a_cache_may_hide_is_told_of(
    machine: Machine,
    on: Ccr,
    maintenance: list[tuple[int, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert executed(machine, on, maintenance) == [CODE]
    assert "0x24000000: executed, and a cache may hold what was there before" in caplog.text


@pytest.mark.parametrize(
    ("on", "maintenance"),
    [
        (Ccr(0), []),
        (Ccr.IC, FLUSHED),
        (Ccr.IC, [(ICIMVAU, CODE + 8)]),
        (BOTH, [(DCCMVAU, CODE + 4), *FLUSHED]),
        (BOTH, [*SWEPT, *FLUSHED]),
        (BOTH, [*((DCCISW, value) for _, value in SWEPT), *FLUSHED]),
    ],
)
def test_code_that_no_cache_hides_is_not(
    machine: Machine, on: Ccr, maintenance: list[tuple[int, int]]
) -> None:
    assert executed(machine, on, maintenance) == []


def test_tightly_coupled_memory_is_not_cached(machine: Machine) -> None:
    assert executed(machine, BOTH, [], DTCM.start + 0x8000) == []


def test_a_bank_that_is_erased_while_the_cache_is_on_is_old_code() -> None:
    caches = Caches()
    caches.ccr = Ccr.IC
    caches.flash_changes(BANK1)
    assert caches.stale == [BANK1]
    caches.invalidate_instructions()
    assert caches.stale == []


def test_reset_invalidates_both(machine: Machine) -> None:
    machine[CCR] = machine[CCR] | BOTH
    machine[CODE] = LOOP
    assert machine.scs.caches.stale
    machine.core.reset()
    assert not machine.scs.caches.stale


SWEPT_AWAY = [(DCISW, value) for _, value in SWEPT]


@pytest.mark.parametrize(
    ("maintenance", "looks_up", "misread"),
    [
        ([], True, [BANK1.start]),
        (SWEPT, True, [BANK1.start]),
        (SWEPT_AWAY[1:], True, [BANK1.start]),
        (SWEPT_AWAY, True, []),
        ([(DCIMVAC, BANK1.start + 8)], True, []),
        ([], False, []),
    ],
)
def test_flash_that_changed_is_read_past_the_data_cache_or_after_it_was_invalidated(
    machine: Machine, maintenance: list[tuple[int, int]], looks_up: bool, misread: list[int]
) -> None:
    machine[CCR] = machine[CCR] | Ccr.DC
    caches = machine.scs.caches
    caches.flash_changes(BANK1)
    for register, value in maintenance:
        machine[register] = value
    caches.debugger_access(Span.of(BANK1.start, 4), write=False, looks_up=looks_up)
    assert caches.misread == misread


@pytest.mark.parametrize("write", [True, False])
def test_a_debugger_that_passes_by_a_data_cache_that_is_on_is_told_of(write: bool) -> None:
    caches = Caches()
    ram = Span.of(CODE, 4)
    caches.debugger_access(ram, write=write, looks_up=False)
    caches.ccr = Ccr.DC
    caches.debugger_access(ram, write=write, looks_up=True)
    caches.debugger_access(Span.of(DTCM.start, 4), write=write, looks_up=False)
    assert caches.misread == []
    caches.debugger_access(ram, write=write, looks_up=False)
    assert caches.misread == [CODE]


def test_a_core_that_reads_flash_which_changed_behind_its_data_cache_is_told_of() -> None:
    board = Board(BoardOptions())
    board.flash.load(BANK1.start, struct.pack("<II", DTCM.end, BANK1.start + 9))
    board.flash.load(BANK1.start + 8, LOAD_FROM_BANK_2)
    board.hold_reset(True)
    board.hold_reset(False)
    board.bus.write(CCR, 4, Ccr.DC, Master.AP0)
    board.scs.caches.flash_changes(BANK2)
    board.run_until(board.clock.now + MILLISECOND)
    assert board.scs.caches.misread == [BANK2.start]
