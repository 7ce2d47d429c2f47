"""What the instruction and data caches may still hold that memory no longer does, or not yet.

The caches hold no data here: the core sees memory as it is.  But what a debugger writes while a
cache is on, and flash that changes then, is remembered until the maintenance operation that
makes the core see it on silicon:

* the instruction cache knows nothing of it until ICIALLU, or ICIMVAU of each line;
* what the debugger has written through AHBD may wait in the data cache, past which
  instructions are fetched, until it is cleaned: by DCCMVAU and its like, line by line, or by set
  and way, all of them;
* and the data cache knows nothing of flash that has changed, until it is invalidated: by
  DCIMVAC, DCCIMVAC, or by set and way.

A core that executes such a line before is logged, and noted in `executed`: silicon would execute
what was there earlier, if the cache holds it.  `misread` notes reads of flash of which the data
cache may hold the old contents, and accesses of the debugger that go past the data cache
(HPROT[3] = 0) to a line that it may hold: what memory has may be older, or become newer.  Reset
invalidates both caches.

DDI 0489 (Cortex-M7), "Memory System", "AHBD"; Armv7-M ARM (DDI 0403E.e), "Cache maintenance
operations", "The system address map" for what is cached when no MPU says otherwise.
"""

from __future__ import annotations

import logging

from gdbserver.chip.cortex_m import Ccr
from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import DTCM, INTERNAL_FLASH, ITCM

log = logging.getLogger(__name__)

LINE = 32
WAYS, SETS = 4, 128
"""Of the data cache: 16 KiB."""

_CODE_AND_RAM = Span(0x00000000, 0x40000000)
_EXTERNAL = Span(0x60000000, 0xA0000000)
_EITHER = Ccr.IC | Ccr.DC


class Caches:
    """Both, of one core; its control register says which are on."""

    def __init__(self) -> None:
        self.ccr = Ccr(0)
        self.stale: list[Span] = []
        """What the core must not execute now."""
        self.executed: list[int] = []
        """Where it has done so, each line once."""
        self.stale_data: list[Span] = []
        """Flash that must not be read by way of the data cache now."""
        self.misread: list[int] = []
        """Where data may have been wrong, or have become so, each line once."""
        self._old: list[Span] = []
        self._unclean: list[Span] = []
        self._cleaned: set[int] = set()
        self._invalidated: set[int] = set()

    def reset(self) -> None:
        self.ccr = Ccr(0)
        self._old, self._unclean = [], []
        self.stale_data = []
        self._update()

    def changed(self, span: Span) -> None:
        """Memory was changed by somebody else than the core."""
        if not self.ccr & _EITHER or not _is_cached(span):
            return
        lines = Span(span.start & -LINE, span.end + LINE - 1 & -LINE)
        if Ccr.IC in self.ccr:
            self._old = merge([*self._old, lines])
        if Ccr.DC in self.ccr and span not in INTERNAL_FLASH:
            self._unclean = merge([*self._unclean, lines])
            self._cleaned.clear()
        self._update()

    def flash_changes(self, span: Span) -> None:
        """A bank of flash begins to be erased or programmed."""
        if not self.ccr & _EITHER:
            return
        self.changed(span)
        if Ccr.DC in self.ccr and span not in self.stale_data:
            self.stale_data = merge([*self.stale_data, span])
            self._invalidated.clear()

    def execute(self, address: int) -> None:
        """The core fetches from a stale line."""
        line = address & -LINE
        if line not in self.executed:
            self.executed.append(line)
            log.warning("%#010x: executed, and a cache may hold what was there before", address)

    def read(self, address: int) -> None:
        """The core reads data from a stale line, or the debugger does."""
        if self._note(address):
            log.warning("%#010x: read, and the data cache may hold what was there before", address)

    def debugger_access(self, span: Span, *, write: bool, looks_up: bool) -> None:
        """An access through AHBD; `looks_up`: in the data cache."""
        if Ccr.DC not in self.ccr or not _is_cached(span):
            return
        if looks_up:
            if not write and any(len(span & stale) for stale in self.stale_data):
                self.read(span.start)
        elif span not in INTERNAL_FLASH and self._note(span.start):
            log.warning("%#010x: accessed past the data cache, which is on", span.start)

    def _note(self, address: int) -> bool:
        line = address & -LINE
        new = line not in self.misread
        if new:
            self.misread.append(line)
        return new

    # --- Maintenance -----------------------------------------------------------------------------

    def invalidate_instructions(self, address: int | None = None) -> None:
        self._old = [] if address is None else _without(self._old, address)
        self._update()

    def clean(self, address: int) -> None:
        self._unclean = _without(self._unclean, address)
        self._update()

    def clean_set_and_way(self, value: int) -> None:
        """One line of the cache; what is in it is not known, so it takes all of them."""
        self._cleaned.add(value)
        if len(self._cleaned) == WAYS * SETS:
            self._unclean = []
            self._cleaned.clear()
            self._update()

    def invalidate_data(self, address: int) -> None:
        self.stale_data = _without(self.stale_data, address)

    def invalidate_set_and_way(self, value: int) -> None:
        """As with cleaning."""
        self._invalidated.add(value)
        if len(self._invalidated) == WAYS * SETS:
            self.stale_data = []
            self._invalidated.clear()

    def _update(self) -> None:
        """A new list where there is news: that is how whoever watches these lines sees it."""
        stale = merge([*self._old, *self._unclean])
        if stale != self.stale:
            self.stale = stale


def _is_cached(span: Span) -> bool:
    if span in ITCM or span in DTCM:
        return False
    return span in _CODE_AND_RAM or span in _EXTERNAL


def _without(spans: list[Span], address: int) -> list[Span]:
    line = Span.of(address & -LINE, LINE)
    kept: list[Span] = []
    for span in spans:
        if line.start in span:
            pieces = (Span(span.start, line.start), Span(line.end, span.end))
            kept += [piece for piece in pieces if piece]
        else:
            kept.append(span)
    return kept
