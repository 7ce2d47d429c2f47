"""The watchdogs: IWDG1, which runs on LSI, and WWDG1, which runs on the clock of APB3.

RM0433, "Independent watchdog (IWDG)", "System window watchdog (WWDG)".

DBGMCU can stop both while the core is halted.  The core does not announce that it halts, so
whether time counts is sampled every `SAMPLE`; a watchdog is off by no more than that for
each halt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gdbserver.sim.clock import MILLISECOND, SECOND, Clock, Event
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    on_read,
    on_write,
)

log = logging.getLogger(__name__)

SAMPLE = MILLISECOND


class Stopwatch:
    """Time that passes only while nothing freezes it, up to a limit."""

    def __init__(self, clock: Clock, frozen: Callable[[], bool]) -> None:
        self._clock = clock
        self._frozen = frozen
        self._event: Event | None = None
        self._counted = self._since = self._limit = 0
        self._expired: Callable[[], None] = lambda: None

    def start(self, limit: int, expired: Callable[[], None]) -> None:
        """Count from zero; call `expired` when `limit` nanoseconds are counted."""
        self.stop()
        self._counted, self._limit, self._expired = 0, limit, expired
        self._wait()

    def stop(self) -> None:
        if self._event is not None:
            self._event.cancel()
        self._event = None

    @property
    def elapsed(self) -> int:
        if self._event is None or self._frozen():
            return self._counted
        return self._counted + self._clock.now - self._since

    def _wait(self) -> None:
        self._since = self._clock.now
        self._event = self._clock.after(min(SAMPLE, self._limit - self._counted), self._sample)

    def _sample(self) -> None:
        if not self._frozen():
            self._counted += self._clock.now - self._since
        if self._counted >= self._limit:
            self._event = None
            self._expired()
        else:
            self._wait()


class Iwdg(Peripheral):
    """IWDG1.  Once started it runs until a reset; `on_timeout` is that reset."""

    KR = Register(0x00, BitStruct(Padding(16), "KEY" / BitsInteger(16)), writable=0)
    PR = Register(0x04, BitStruct(Padding(29), "PR" / BitsInteger(3)))
    RLR = Register(0x08, BitStruct(Padding(20), "RL" / BitsInteger(12)), reset=0x00000FFF)
    SR = Register(
        0x0C, BitStruct(Padding(29), "WVU" / Flag, "RVU" / Flag, "PVU" / Flag), writable=0
    )
    WINR = Register(0x10, BitStruct(Padding(20), "WIN" / BitsInteger(12)), reset=0x00000FFF)

    UNLOCK, RELOAD, START = 0x5555, 0xAAAA, 0xCCCC

    idle_writes = frozenset({KR.offset})

    def __init__(
        self,
        clock: Clock,
        *,
        lsi_hz: Callable[[], int],
        frozen: Callable[[], bool] = lambda: False,
    ) -> None:
        self.on_timeout: Callable[[], None] = lambda: None
        self.running = False
        self._clock = clock
        self._lsi_hz = lsi_hz
        self._stopwatch = Stopwatch(clock, frozen)
        self._unlocked = False
        self._crossed: dict[Register, int] = {}  # when a value has crossed to LSI's domain
        super().__init__("IWDG1")

    def reset(self) -> None:
        super().reset()
        self._stopwatch.stop()
        self._crossed = {}
        self.running = self._unlocked = False

    def start(self) -> None:
        """Run, as key 0xCCCC asks, or the option byte for a hardware watchdog."""
        self.running = True
        self._reload()

    @property
    def tick(self) -> int:
        """Nanoseconds between two steps of the down-counter."""
        return (4 << min(6, self[self.PR].PR)) * SECOND // self._lsi_hz()

    @property
    def counter(self) -> int:
        return self[self.RLR].RL - self._stopwatch.elapsed // self.tick

    def _reload(self) -> None:
        if self.running:
            self._stopwatch.start((self[self.RLR].RL + 1) * self.tick, self._time_out)

    def _time_out(self) -> None:
        log.info("IWDG1: time is up")
        self.on_timeout()

    @on_write(KR)
    def _take_key(self, kr: Fields) -> None:
        self._unlocked = kr.KEY == self.UNLOCK
        if kr.KEY == self.START:
            self.start()
        elif kr.KEY == self.RELOAD and self.running:
            if self.counter > self[self.WINR].WIN:
                log.info("IWDG1: reloaded outside its window")
                self.on_timeout()
            else:
                self._reload()

    @on_write(PR, RLR)
    def _change(self, written: Fields) -> None:
        """Values cross to the LSI's domain, for which SR asks to wait; about five cycles.

        No event marks the end: programs that feed the watchdog in a waiting loop would
        have one pending all the time, and time could not be skipped to what they wait for.
        """
        now, register = self._clock.now, written.register
        if self._unlocked and now >= self._crossed.get(register, now):
            self.store(written)
            self._crossed[register] = now + 5 * SECOND // self._lsi_hz()

    @on_read(SR)
    def _show_crossing(self) -> None:
        now = self._clock.now
        self.set_raw(self.SR, 0)
        for register, flag in ((self.PR, "PVU"), (self.RLR, "RVU"), (self.WINR, "WVU")):
            self.update(self.SR, **{flag: now < self._crossed.get(register, now)})

    @on_write(WINR)
    def _set_window(self, winr: Fields) -> None:
        if self._unlocked:
            self._change(winr)
            self._reload()


class Wwdg(Peripheral):
    """WWDG1: bites when its counter falls below 0x40, or is reloaded above the window.

    `on_timeout` is the reset; `on_irq` gets the level of the early wake-up interrupt.
    """

    CR = Register(
        0x00, BitStruct(Padding(24), "WDGA" / Flag, "T" / BitsInteger(7)), reset=0x0000007F
    )
    CFR = Register(
        0x04,
        BitStruct(
            Padding(18),
            "WDGTB" / BitsInteger(3),
            Padding(1),
            "EWI" / Flag,
            Padding(2),
            "W" / BitsInteger(7),
        ),
        reset=0x0000007F,
    )
    SR = Register(0x08, BitStruct(Padding(31), "EWIF" / Flag), writable=0)

    def __init__(
        self,
        clock: Clock,
        *,
        pclk_hz: Callable[[], int],
        frozen: Callable[[], bool] = lambda: False,
    ) -> None:
        self.on_timeout: Callable[[], None] = lambda: None
        self.on_irq: Callable[[bool], None] = lambda level: None
        self._pclk_hz = pclk_hz
        self._stopwatch = Stopwatch(clock, frozen)
        self._loaded = 0x7F
        super().__init__("WWDG1")

    def reset(self) -> None:
        super().reset()
        self._stopwatch.stop()
        self._loaded = 0x7F
        self.on_irq(False)

    @property
    def tick(self) -> int:
        return (4096 << self[self.CFR].WDGTB) * SECOND // self._pclk_hz()

    @property
    def counter(self) -> int:
        return max(0, self._loaded - self._stopwatch.elapsed // self.tick)

    @property
    def running(self) -> bool:
        return bool(self[self.CR].WDGA)

    @on_read(CR)
    def _show_counter(self) -> None:
        if self.running:
            self.update(self.CR, T=self.counter)

    @on_write(CR)
    def _load(self, cr: Fields) -> None:
        early = self.running and self.counter > self[self.CFR].W
        self.update(self.CR, T=cr.T, WDGA=cr.WDGA or self.running)
        self._loaded = cr.T
        if not self.running:
            return
        if early or cr.T < 0x40:
            log.info("WWDG1: %s", "reloaded outside its window" if early else "told to bite")
            self._stopwatch.stop()
            self.on_timeout()
        else:
            self._stopwatch.start((cr.T - 0x40) * self.tick, self._almost)

    def _almost(self) -> None:
        """The counter is at 0x40: the next step is the last."""
        self.update(self.SR, EWIF=1)
        self._update_irq()
        self._loaded = 0x40
        self._stopwatch.start(self.tick, self._time_out)

    def _time_out(self) -> None:
        log.info("WWDG1: time is up")
        self.on_timeout()

    @on_write(CFR)
    def _configure(self, cfr: Fields) -> None:
        """EWI can be set and not cleared."""
        ewi = self[self.CFR].EWI
        self.store(cfr)
        self.update(self.CFR, EWI=cfr.EWI or ewi)
        self._update_irq()

    @on_write(SR)
    def _clear(self, sr: Fields) -> None:
        if not sr.EWIF:
            self.update(self.SR, EWIF=0)
            self._update_irq()

    def _update_irq(self) -> None:
        self.on_irq(bool(self[self.SR].EWIF and self[self.CFR].EWI))
