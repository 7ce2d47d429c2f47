"""A debugger that forgets what the caches need is found out, and one that does not is not."""

from __future__ import annotations

import pytest
from bare_machine import Machine

from gdbserver.chip.cortex_m import CCR, DBGKEY, DCCISW, DCCMVAU, DCCSW, DHCSR, ICIALLU, Ccr, Dhcsr
from gdbserver.chip.stm32h743 import BANK1, DTCM
from gdbserver.sim.bus import Ram
from gdbserver.sim.caches import SETS, WAYS, Caches

CODE = 0x24000000
LOOP = 0xE7FEBF00  # nop; b .
ICIMVAU = 0xE000EF58
PC = 15
BOTH = Ccr.IC | Ccr.DC
FLUSHED = [(ICIALLU, 0)]
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
    caches.revoked(BANK1)
    assert caches.stale == [BANK1]
    caches.invalidate_instructions()
    assert caches.stale == []


def test_reset_invalidates_both(machine: Machine) -> None:
    machine[CCR] = machine[CCR] | BOTH
    machine[CODE] = LOOP
    assert machine.scs.caches.stale
    machine.core.reset()
    assert not machine.scs.caches.stale
