"""What the instruction and data caches may still hold that memory no longer does, or not yet.

The caches hold no data here: the core sees memory as it is.  But what a debugger writes while a
cache is on, and flash that changes then, is remembered until the maintenance operation that
makes the core see it on silicon:

* the instruction cache knows nothing of it until ICIALLU, or ICIMVAU of each line;
* and what the debugger has written through AHBD may wait in the data cache, past which
  instructions are fetched, until it is cleaned: by DCCMVAU and its like, line by line, or by set
  and way, all of them.

A core that executes such a line without that is told of in the log, and in `executed`: silicon
would execute what was there before, if it was in the cache.  Reset invalidates both caches.

DDI 0489 (Cortex-M7), "Memory System", "AHBD"; Armv7-M ARM (DDI 0403E.e), "Cache maintenance
operations", "The system address map" for what is cached when no MPU says otherwise.
"""

from __future__ import annotations

import logging

from gdbserver.chip.cortex_m import Ccr
from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import BANK1, BANK2, DTCM, ITCM

log = logging.getLogger(__name__)

LINE = 32
WAYS, SETS = 4, 128
"""Of the data cache: 16 KiB."""

_CODE_AND_RAM = Span(0x00000000, 0x40000000)
_EXTERNAL = Span(0x60000000, 0xA0000000)
_FLASH = (BANK1, BANK2)


class Caches:
    """Both, of one core; its control register says which are on."""

    def __init__(self) -> None:
        self.ccr = Ccr(0)
        self.stale: list[Span] = []
        """What the core must not execute now."""
        self.executed: list[int] = []
        """Where it has done so, each line once."""
        self._old: list[Span] = []
        self._unclean: list[Span] = []
        self._cleaned: set[int] = set()

    def reset(self) -> None:
        self.ccr = Ccr(0)
        self._old, self._unclean = [], []
        self._update()

    def changed(self, span: Span) -> None:
        """Memory was changed by somebody else than the core."""
        if not self.ccr & (Ccr.IC | Ccr.DC) or not _is_cached(span):
            return
        lines = Span(span.start & -LINE, span.end + LINE - 1 & -LINE)
        if Ccr.IC in self.ccr:
            self._old = merge([*self._old, lines])
        if Ccr.DC in self.ccr and not any(span in bank for bank in _FLASH):
            self._unclean = merge([*self._unclean, lines])
            self._cleaned.clear()
        self._update()

    def revoked(self, span: Span) -> None:
        """A bank of flash begins to be erased or programmed."""
        if span in _FLASH:
            self.changed(span)

    def execute(self, address: int) -> None:
        """The core fetches from a stale line."""
        line = address & -LINE
        if line not in self.executed:
            self.executed.append(line)
            log.warning("%#010x: executed, and a cache may hold what was there before", address)

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
