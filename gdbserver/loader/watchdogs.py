"""Watchdogs that a program has started, kept from biting while a loader has the core.

Nothing but a reset stops either of them, DBGMCU freezes them only while the core is halted, and a
loader does not know of them.  But their registers can be written, from outside as well: so each
gets all the time that it can be given, and no window, and is fed: by the debugger while a routine
runs, by the call queue between two; a program that is not reset afterwards finds what it had
set up.

RM0433, "Independent watchdog (IWDG)": with a prescaler of 256 it waits for half a minute, and
writing its window reloads it.  "System window watchdog (WWDG)": with a prescaler of 128, and APB3
at its highest clock of 120 MHz, it waits for 64 x 4096 x 128 cycles, which are 0.28 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gdbserver.chip import stm32h743 as chip
from gdbserver.target.access import Read, Write
from gdbserver.target.target import Target

_LSIRDY = 1 << 1  # in RCC_CSR

_IWDG_KR, _IWDG_PR, _IWDG_RLR = chip.IWDG1, chip.IWDG1 + 0x04, chip.IWDG1 + 0x08
_IWDG_SR, _IWDG_WINR = chip.IWDG1 + 0x0C, chip.IWDG1 + 0x10
_UNLOCK, _RELOAD = 0x5555, 0xAAAA
_LONGEST = ((_IWDG_PR, 6), (_IWDG_RLR, 0xFFF))  # LSI / 256; 4096 of these: 32 seconds
_NO_WINDOW = 0xFFF
_CROSSING = 0.01  # five cycles of LSI, and time to look
_IWDG_INTERVAL = 10.0

_WWDG_CR, _WWDG_CFR = chip.WWDG1, chip.WWDG1 + 0x04
_WDGA, _FULL = 1 << 7, 0x7F
_WWDG_FOOD = _WDGA | _FULL  # would start one that does not run
_SLOWEST, _EWI = 7 << 11, 1 << 9
_WWDG_INTERVAL = 0.05


class Watchdogs:
    """Which of the two run; to be fed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._now = target.monotonic
        (csr,), (clocks,) = target.run([Read(chip.RCC_CSR), Read(chip.RCC_APB3ENR)])
        # A started IWDG keeps LSI on; a program may have other uses for LSI, and no harm is done.
        self.iwdg = bool(csr & _LSIRDY)
        self.wwdg = bool(clocks & chip.APB3_WWDG1) and bool(target.read_word(_WWDG_CR) & _WDGA)
        self._fed = self._now()

    @property
    def food(self) -> list[int]:
        """What to write to WWDG1_CR and to IWDG1_KR; 0 where that one does not run."""
        return [_WWDG_FOOD if self.wwdg else 0, _RELOAD if self.iwdg else 0]

    @property
    def interval(self) -> float | None:
        """How often to call `feed`, in seconds; None when no watchdog runs."""
        if self.wwdg:
            return _WWDG_INTERVAL
        return _IWDG_INTERVAL if self.iwdg else None

    def feed(self) -> None:
        """Where it is due."""
        if self.interval is None or self._now() - self._fed < self.interval:
            return
        self._fed = self._now()
        if self.iwdg:
            self._target.write_word(_IWDG_KR, _RELOAD)
        if self.wwdg:
            self._target.write_word(_WWDG_CR, _WWDG_FOOD)


@contextmanager
def patient_watchdogs(target: Target) -> Iterator[Watchdogs]:
    """What runs of them has all the time that it can be given.  The core is halted at both ends."""
    watchdogs = Watchdogs(target)
    with _patient_iwdg(target, runs=watchdogs.iwdg), _patient_wwdg(target, runs=watchdogs.wwdg):
        yield watchdogs


@contextmanager
def _patient_iwdg(target: Target, *, runs: bool) -> Iterator[None]:
    if not runs:
        yield
        return
    before = [(register, target.read_word(register)) for register, _ in _LONGEST]
    window = target.read_word(_IWDG_WINR)
    # Reloading outside the window is a reset, so the window goes first and comes back last.
    _set_iwdg(target, _IWDG_WINR, _NO_WINDOW)
    for register, value in _LONGEST:
        _set_iwdg(target, register, value)
    target.write_word(_IWDG_KR, _RELOAD)
    try:
        yield
    finally:
        for register, value in before:
            _set_iwdg(target, register, value)
        _wait_for_crossing(target)
        target.write_word(_IWDG_KR, _RELOAD)
        _set_iwdg(target, _IWDG_WINR, window)


def _set_iwdg(target: Target, register: int, value: int) -> None:
    _wait_for_crossing(target)
    if target.read_word(register) != value:
        target.run([Write(_IWDG_KR, [_UNLOCK]), Write(register, [value])])


def _wait_for_crossing(target: Target) -> None:
    """What was written last is still on its way, perhaps."""
    deadline = target.deadline(_CROSSING)
    while target.read_word(_IWDG_SR) and not deadline.expired():
        pass


@contextmanager
def _patient_wwdg(target: Target, *, runs: bool) -> Iterator[None]:
    if not runs:
        yield
        return
    counter, configuration = target.read_words(_WWDG_CR, 2)
    # The window is opened first, for reloading outside of it is a reset, and closed last.
    patient = _SLOWEST | configuration & _EWI | _FULL
    target.run([Write(_WWDG_CFR, [patient]), Write(_WWDG_CR, [_WWDG_FOOD])])
    try:
        yield
    finally:
        target.run([Write(_WWDG_CR, [_WDGA | counter]), Write(_WWDG_CFR, [configuration])])
