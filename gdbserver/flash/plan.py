"""Decide what a download does to flash, before anything is done.

GDB erases and writes by address, in as many packets as it likes.  A flash device wants each
sector erased once, and each page programmed once and whole.  `plan` goes from the one to the
other.  It is a pure function, and checks all that can be checked without the target: a
download that cannot work fails before the first erase.

What a download means:

1. A sector that the client names for erasing, if only in part, is erased whole.  GDB rounds
   its requests out to sectors itself; a client that does not means the same.
2. All erases come before all writes, whatever the order of the packets.  The remote protocol
   lets a server put off both until vFlashDone; GDB erases first anyway, and LLDB, which goes
   through an image segment by segment, erases the next block after it has written the last.
   None of them erases a block in order to lose what it has just sent.
3. Of two writes to one address the later wins.
4. A write to a sector that is not erased is refused: there is no read-modify-write.  So what
   each sector holds afterwards is known completely, which is what makes `diff` possible.
5. What is neither erased nor written is not touched.

Where writes leave gaps inside a page, the page is filled up with the erased value.

An image is kept once: what is written piece by piece is put together as it comes, and the plan
shows it through views.  Only where a page has gaps, or is written twice, is it made anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gdbserver.chip.memory import FlashRegion, Span, merge
from gdbserver.chip.stm32h743 import QSPI_WINDOW
from gdbserver.errors import FlashError, OutsideFlash

_LONG: Final = 1024 * 1024
"""No packet is so long; what is, is a file's, and kept as it is."""


class Download:
    """What a client wants in flash: staged as it comes, linear in time and memory."""

    def __init__(self) -> None:
        self.erases: list[Span] = []
        self.writes: list[tuple[Span, bytes | bytearray]] = []

    def __bool__(self) -> bool:
        return bool(self.erases or self.writes)

    def erase(self, span: Span) -> None:
        if len(span):
            self.erases.append(span)

    def write(self, address: int, data: bytes) -> None:
        if not data:
            return
        if self.writes:
            span, before = self.writes[-1]
            if span.end == address and isinstance(before, bytearray):
                before += data
                self.writes[-1] = Span.of(span.start, len(before)), before
                return
        kept = data if len(data) > _LONG else bytearray(data)
        self.writes.append((Span.of(address, len(data)), kept))

    def erase_devices(self, regions: Sequence[FlashRegion]) -> None:
        """Erase the whole of each device that something is written to."""
        for region in regions:
            if any(len(span & region.span) for span, _ in self.writes):
                self.erase(region.span)


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent pages, programmed one after the other; whole pages, nothing missing."""

    span: Span
    view: memoryview

    @property
    def data(self) -> bytes:
        """A copy of what is programmed."""
        return bytes(self.view)

    def part(self, start: int, end: int) -> Run:
        """The pages from offset `start` up to offset `end`, or to where the run ends."""
        end = min(end, len(self.view))
        return Run(Span(self.span.start + start, self.span.start + end), self.view[start:end])


@dataclass(frozen=True, slots=True)
class SectorPlan:
    """One sector: whether it is erased, and what is programmed into it afterwards.

    `runs` ascend and do not touch.  What they leave out holds the erased value in the end.
    """

    sector: Span
    erased: int
    runs: tuple[Run, ...]
    erase: bool = True

    def contents(self) -> bytes:
        """All that the sector holds when the plan has been carried out."""
        if len(self.runs) == 1 and self.runs[0].span == self.sector:
            return self.runs[0].data
        return self.beginning(len(self.sector))

    def beginning(self, length: int) -> bytes:
        """The first so many bytes of `contents`."""
        contents = bytearray([self.erased]) * length
        for run in self.runs:
            offset = run.span.start - self.sector.start
            if offset < length:
                part = run.view[: length - offset]
                contents[offset : offset + len(part)] = part
        return bytes(contents)


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """The sectors of one flash device that a download changes, ascending."""

    region: FlashRegion
    sectors: tuple[SectorPlan, ...]

    @property
    def erase_bytes(self) -> int:
        return sum(len(sector.sector) for sector in self.sectors if sector.erase)

    @property
    def program_bytes(self) -> int:
        return sum(len(run.span) for sector in self.sectors for run in sector.runs)


def plan(download: Download, regions: Sequence[FlashRegion]) -> list[RegionPlan]:
    """Work out the operations, region by region, in address order.

    Raises:
        OutsideFlash: part of the download lies in no region.
        FlashError: a write is not covered by an erase.
    """
    wanted = merge([*download.erases, *(span for span, _ in download.writes)])
    for span in wanted:
        _check_inside(span, regions)
    plans = [_plan_region(download, region) for region in sorted(regions, key=lambda r: r.span)]
    return [p for p in plans if p.sectors]


def _check_inside(span: Span, regions: Sequence[FlashRegion]) -> None:
    """Refuse addresses that no flash has, naming exactly the first stretch of them."""
    address, before = span.start, None
    for region in sorted(regions, key=lambda r: r.span):
        here = span & region.span
        if len(here) and address == here.start:
            address, before = here.end, region
        elif len(here):
            raise OutsideFlash(Span(address, here.start), regions, past=before)
    if address < span.end:
        if before is None and address in QSPI_WINDOW:
            below = [r for r in regions if r.span in QSPI_WINDOW and r.span.end <= address]
            before = max(below, key=lambda r: r.span, default=None)
        raise OutsideFlash(Span(address, span.end), regions, past=before)


def _plan_region(download: Download, region: FlashRegion) -> RegionPlan:
    sectors: dict[int, Span] = {}
    for span in merge(download.erases):
        sectors.update((sector.start, sector) for sector in region.sectors(span))
    images = {start: _Image(sector, region) for start, sector in sectors.items()}
    for span, data in download.writes:
        if not len(span & region.span):
            continue
        view = memoryview(data)
        for sector in region.sectors(span):
            here = sector & span
            image = images.get(sector.start)
            if image is None:
                raise FlashError(
                    f"{here} is written, but its sector {sector} of {region.name} is not erased"
                )
            image.write(here, view[here.start - span.start : here.end - span.start])
    return RegionPlan(region, tuple(images[start].plan() for start in sorted(images)))


class _Image:
    """The contents of one sector while a download is laid over it."""

    def __init__(self, sector: Span, region: FlashRegion) -> None:
        self._sector = sector
        self._region = region
        self._written: list[tuple[Span, memoryview]] = []

    def write(self, span: Span, data: memoryview) -> None:
        self._written.append((span, data))

    def plan(self) -> SectorPlan:
        spans = merge([self._whole_pages(span) for span, _ in self._written])
        starts = [span.start for span in spans]
        pieces: list[list[tuple[Span, memoryview]]] = [[] for _ in spans]
        for piece in self._written:
            pieces[bisect_right(starts, piece[0].start) - 1].append(piece)
        runs = map(self._run, spans, pieces)
        return SectorPlan(self._sector, self._region.erased, tuple(runs))

    def _run(self, span: Span, pieces: Sequence[tuple[Span, memoryview]]) -> Run:
        if len(pieces) == 1 and pieces[0][0] == span:
            return Run(span, pieces[0][1])
        contents = bytearray([self._region.erased]) * len(span)
        for piece, data in pieces:
            offset = piece.start - span.start
            contents[offset : offset + len(data)] = data
        return Run(span, memoryview(contents))

    def _whole_pages(self, span: Span) -> Span:
        """Rounded out to pages, a whole number of which make a sector."""
        origin, size = self._region.span.start, self._region.page_size
        start = origin + (span.start - origin) // size * size
        end = origin - (origin - span.end) // size * size
        return Span(start, end)
