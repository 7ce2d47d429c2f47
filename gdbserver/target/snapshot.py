"""Memory as the client sees it while the core is halted: read once, answered as often as asked.

At each stop GDB reads the same few instructions and the same piece of stack a dozen times over,
two or four bytes at a time.  Here a read brings the whole line that it lies in, and as long as
memory cannot have changed, the next is answered from it.

Rule 1: what is kept belongs to one moment.  The core is halted, and `Link.changes` is what it
was: whatever this program does to the chip, for whichever client, goes over the link, which
counts it.  So nothing has to remember to invalidate anything.
Rule 2: the chip itself goes on while its core stands still: DMA writes, somebody presses the
reset button.  So a moment lasts `FRESH` seconds and no longer.
Rule 3: only memory proper is kept or read ahead.  Registers, and whatever may hang on the external
bus, are read exactly as asked, each time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    BANK1,
    BANK2,
    DTCM,
    ITCM,
    QSPI_WINDOW,
    SRAM1,
    SRAM2,
    SRAM3,
    SRAM4,
    SYSTEM_FLASH_1,
    SYSTEM_FLASH_2,
)
from gdbserver.errors import MemoryFault
from gdbserver.target.access import Read
from gdbserver.target.link import Link
from gdbserver.target.memory import Memory, is_volatile

FRESH: Final = 0.2
"""Seconds: shorter than a person needs to look twice, longer than what GDB does at one stop."""

LINE: Final = 64
"""Bytes that are read at once, from a multiple of them: what GDB's own cache of the stack asks."""

RUN: Final = 256
"""Bytes that are read at once where reads follow each other upwards."""

_LONG: Final = 4096 + 1
"""A read of so many bytes is a download, of which nothing is asked twice."""

_ALWAYS_THERE: Final = (ITCM, DTCM, AXI_SRAM, SRAM4)
_FLASH: Final = (BANK1, BANK2, SYSTEM_FLASH_1, SYSTEM_FLASH_2, QSPI_WINDOW)
_PLAIN: Final = (*_ALWAYS_THERE, SRAM1, SRAM2, SRAM3, *_FLASH)


class Snapshot:
    """What was read at this moment."""

    def __init__(self, link: Link, memory: Memory) -> None:
        self._link = link
        self._memory = memory
        self._now = link.monotonic
        self._changes = -1
        self._taken = 0.0
        self._lines: dict[int, bytes] = {}
        self._refused: dict[Span, MemoryFault] = {}
        self._next = 0

    def read(self, address: int, length: int) -> bytes:
        """As `Memory.read`, of a core that is halted."""
        span = Span.of(address, length)
        if is_volatile(address) or is_volatile(span.end - 1) or not 0 < length < _LONG:
            return self._memory.read(address, length)
        self._begin()
        # Where GDB looks for the beginning of a function, it asks for each half of a word.
        words = Span(address & -4, span.end + 3 & -4)
        one = len(words) == 4
        asked = words if one else span
        if (known := self._refused.get(asked)) is not None:
            raise known.again(span if one else None)
        region = next((plain for plain in _PLAIN if span in plain), None)
        try:
            if region is None or not self._fetch(span, region):
                return self._memory.read(address, length)
        except MemoryFault as fault:
            self._refused[asked] = fault
            raise
        lines = range(address & -LINE, span.end, LINE)
        data = b"".join(self._lines[line] for line in lines)
        return data[address - lines.start :][:length]

    def _begin(self) -> None:
        """Start anew, if the moment is over."""
        if self._changes != self._link.changes or self._now() - self._taken > FRESH:
            self._changes, self._taken = self._link.changes, self._now()
            self._lines, self._refused = {}, {}

    def _fetch(self, span: Span, region: Span) -> bool:
        """Have all lines of `span`; False where there is something that cannot be read."""
        missing = [a for a in range(span.start & -LINE, span.end, LINE) if a not in self._lines]
        if not missing:
            return True
        start, end = missing[0], missing[-1] + LINE
        if (
            self._memory.has_memory_commands
        ):  # with such a probe an access costs the same, however long
            start, end = start & -RUN, end + RUN - 1 & -RUN
        elif start == self._next:
            end = max(end, min(start + RUN, region.end))
        words = self._memory.try_words(start, (end - start) // 4, span)
        if words is None:
            return False
        self._keep(start, words)
        self._next = end
        return True

    def _keep(self, start: int, words: Sequence[int]) -> None:
        data = struct.pack(f"<{len(words)}I", *words)
        for offset in range(0, len(data), LINE):
            self._lines[start + offset] = data[offset : offset + LINE]

    # --- Together with the stop itself ---------------------------------------------------------

    def ahead(self, pointer: int) -> list[Read]:
        """Reads that may ride along with those of a stop: the stack around `pointer`.

        Only RAM, because flash that is busy would hold up all the rest.
        """
        start = pointer & -LINE
        lines = (start, start + LINE)
        return [
            Read(line, LINE // 4, cacheable=True)
            for line in lines
            if any(Span.of(line, LINE) in ram for ram in _ALWAYS_THERE)
        ]

    def keep(self, reads: Sequence[Read], found: Sequence[Sequence[int]]) -> None:
        """What reads of `ahead` have found, just now."""
        self._begin()
        for read, words in zip(reads, found, strict=True):
            self._keep(read.address, words)
