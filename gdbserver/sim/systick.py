"""SysTick: a 24-bit counter that counts down on the board's clock.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "System timer, SysTick".  Nothing
happens between two wraps: the value is worked out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable

from gdbserver.sim.clock import SECOND, Clock, Event

ENABLE = 1 << 0
TICKINT = 1 << 1
CLKSOURCE = 1 << 2
COUNTFLAG = 1 << 16

EXTERNAL_DIVIDER = 8
"""RM0433, "SysTick": the alternative to the core's clock is an eighth of it."""


class SysTick:
    """The counter, its three registers, and its wraps as events of the clock."""

    def __init__(self, clock: Clock, on_tick: Callable[[], None]) -> None:
        self._clock = clock
        self._core_hz = 0
        self._on_tick = on_tick
        self._wrap: Event | None = None
        self._frozen = False
        self.reset()

    def reset(self) -> None:
        self.reload = 0
        self._control = 0
        self._counted = False
        self._value = 0
        self._since = self._clock.now
        self._hz = 0
        self._restart()

    def read_control(self) -> int:
        """CSR; reading it clears COUNTFLAG."""
        value = self._control | (COUNTFLAG if self._counted else 0)
        self._counted = False
        return value

    def write_control(self, value: int) -> None:
        self._value = self.value
        self._control = value & (ENABLE | TICKINT | CLKSOURCE)
        self._restart()

    @property
    def value(self) -> int:
        """CVR."""
        if not self._running:
            return self._value
        passed = (self._clock.now - self._since) * self._hz // SECOND
        if passed == 0:
            return self._value
        if passed <= self._value:
            return self._value - passed
        return self.reload - (passed - self._value - 1) % (self.reload + 1)

    def clear(self) -> None:
        """A write to CVR, of whatever value."""
        self._value = 0
        self._counted = False
        self._restart()

    def rebase(self, core_hz: int) -> None:
        """The core's frequency changed: count on from here at the new one."""
        self._value = self.value
        self._core_hz = core_hz
        self._restart()

    def freeze(self, frozen: bool) -> None:
        """A halted core holds the counter."""
        if frozen != self._frozen:
            self._value = self.value
            self._frozen = frozen
            self._restart()

    @property
    def _running(self) -> bool:
        return bool(self._control & ENABLE) and not self._frozen and self._hz > 0

    def _restart(self) -> None:
        """Count from `_value`, which holds as of now."""
        if self._wrap is not None:
            self._wrap.cancel()
            self._wrap = None
        divider = 1 if self._control & CLKSOURCE else EXTERNAL_DIVIDER
        self._hz = self._core_hz // divider
        self._since = self._clock.now
        if self._running and (self._value or self.reload):
            self._schedule(self._value or self.reload + 1)

    def _schedule(self, ticks: int) -> None:
        self._wrap = self._clock.after(-(-ticks * SECOND // self._hz), self._tick)

    def _tick(self) -> None:
        """The counter went from one to zero; the next tick reloads it."""
        self._value = 0
        self._since = self._clock.now
        self._counted = True
        self._wrap = None
        if self.reload:
            self._schedule(self.reload + 1)
        if self._control & TICKINT:
            self._on_tick()
