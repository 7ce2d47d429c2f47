"""Address ranges, flash geometry and memory maps: values that every layer passes around.

Rule 1: a range is a `Span`, half-open, wherever it is passed or printed.
Rule 2: geometry answers questions ("which sectors does this touch?") and changes nothing.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

_ADDRESSES = 1 << 32


def parse_number(text: str, what: str) -> int:
    """An unsigned 32-bit number, decimal or 0x.

    Raises: ValueError, with a sentence.
    """
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < _ADDRESSES:
        raise ValueError(f"{text!r} is no {what}")
    return value


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The addresses from `start` up to, but not including, `end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.end < self.start:
            raise ValueError(f"no span goes from {self.start:#x} to {self.end:#x}")

    @classmethod
    def of(cls, start: int, length: int) -> Span:
        return cls(start, start + length)

    @classmethod
    def parse(cls, text: str) -> Span:
        """START+LENGTH, START-LAST, or one address, as people write them.

        Raises: ValueError, with a sentence.
        """
        for separator in "+-":
            first, found, second = text.partition(separator)
            if found:
                start = parse_number(first, "address")
                if separator == "+":
                    span = cls.of(start, parse_number(second, "length"))
                    if span.end > _ADDRESSES:
                        raise ValueError(f"{text} ends where there are no addresses")
                    return span
                last = parse_number(second, "address")
                if last < start:
                    raise ValueError(f"{text} ends before it begins")
                return cls(start, last + 1)
        return cls.of(parse_number(text, "address"), 1)

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, item: int | Span) -> bool:
        if isinstance(item, Span):
            return self.start <= item.start and item.end <= self.end
        return self.start <= item < self.end

    def __and__(self, other: Span) -> Span:
        """The overlap; empty, at some address, when there is none."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.end, other.end)))

    def __str__(self) -> str:
        """As datasheets print a range: first and last address."""
        if not len(self):
            return f"{self.start:#010x} (empty)"
        return f"{self.start:#010x}-{self.end - 1:#010x}"


def merge(spans: list[Span]) -> list[Span]:
    """The same addresses in as few spans as possible, ascending."""
    merged: list[Span] = []
    for span in sorted(s for s in spans if len(s)):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


@dataclass(frozen=True)
class FlashRegion:
    """A flash device as GDB sees it: where it is, and how it is cut.

    `groups` are runs of equal sectors, (count, size in bytes), ascending from
    `span.start`; they add up to `span`.  A sector is erased, a page programmed.
    """

    name: str
    span: Span
    groups: tuple[tuple[int, int], ...]
    page_size: int
    erased: int = 0xFF

    def __post_init__(self) -> None:
        total = sum(count * size for count, size in self.groups)
        if total != len(self.span):
            raise ValueError(f"{self.name}: sectors add up to {total:#x}, not {len(self.span):#x}")

    def __str__(self) -> str:
        return f"{self.name} {self.span}"

    @cached_property
    def _group_starts(self) -> list[int]:
        starts = [self.span.start]
        for count, size in self.groups:
            starts.append(starts[-1] + count * size)
        return starts

    def sector_at(self, address: int) -> Span:
        """The sector that holds `address`, which must lie in this region."""
        if address not in self.span:
            raise ValueError(f"{address:#010x} is not in {self}")
        index = bisect_right(self._group_starts, address) - 1
        base, size = self._group_starts[index], self.groups[index][1]
        return Span.of(base + (address - base) // size * size, size)

    def sectors(self, span: Span) -> Iterator[Span]:
        """The sectors that share an address with `span`, ascending."""
        here = span & self.span
        address = here.start
        while len(here) and address < here.end:
            sector = self.sector_at(address)
            yield sector
            address = sector.end

    def pages(self, span: Span) -> Iterator[Span]:
        """The pages that share an address with `span`, ascending."""
        here = span & self.span
        if not len(here):
            return
        offset = (here.start - self.span.start) // self.page_size * self.page_size
        for start in range(self.span.start + offset, here.end, self.page_size):
            yield Span(start, min(start + self.page_size, self.span.end))


class Kind(Enum):
    """What GDB may do with a range: its words in the memory-map document."""

    RAM = "ram"
    ROM = "rom"
    FLASH = "flash"


@dataclass(frozen=True, slots=True)
class Region:
    """A named range of the address map that is not flash.

    `volatile` marks registers, where a read can have side effects and is never cached.
    """

    name: str
    span: Span
    kind: Kind = Kind.RAM
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """Everything that a client may look at: disjoint, ascending."""

    regions: tuple[Region, ...]
    flash: tuple[FlashRegion, ...]

    def __post_init__(self) -> None:
        spans = sorted([r.span for r in self.regions] + [f.span for f in self.flash])
        for before, after in itertools.pairwise(spans):
            if before.end > after.start:
                raise ValueError(f"{before} and {after} overlap")

    def flash_at(self, address: int) -> FlashRegion | None:
        return next((f for f in self.flash if address in f.span), None)

    def region_at(self, address: int) -> Region | None:
        return next((r for r in self.regions if address in r.span), None)
