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
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gdbserver.chip.memory import FlashRegion, Span, merge
from gdbserver.chip.stm32h743 import QSPI_WINDOW
from gdbserver.errors import FlashError, OutsideFlash


class Download:
    """What a client wants in flash: staged as it comes, linear in time and memory."""

    def __init__(self) -> None:
        self.erases: list[Span] = []
        self.writes: list[tuple[Span, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.erases or self.writes)

    def erase(self, span: Span) -> None:
        if len(span):
            self.erases.append(span)

    def write(self, address: int, data: bytes) -> None:
        if data:
            self.writes.append((Span.of(address, len(data)), data))

    def erase_devices(self, regions: Sequence[FlashRegion]) -> None:
        """Erase the whole of each device that something is written to."""
        for region in regions:
            if any(len(span & region.span) for span, _ in self.writes):
                self.erase(region.span)


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent pages, programmed one after the other; whole pages, nothing missing."""

    span: Span
    data: bytes

    def part(self, start: int, end: int) -> Run:
        """The pages from offset `start` up to offset `end`, or to where the run ends."""
        end = min(end, len(self.data))
        return Run(Span(self.span.start + start, self.span.start + end), self.data[start:end])


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
                part = run.data[: length - offset]
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
        return sum(len(run.data) for sector in self.sectors for run in sector.runs)


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
        self._contents = bytearray()  # allocated at the first write: most erases stay empty
        self._written: list[Span] = []

    def write(self, span: Span, data: memoryview) -> None:
        if not self._contents:
            self._contents = bytearray([self._region.erased]) * len(self._sector)
        offset = span.start - self._sector.start
        self._contents[offset : offset + len(data)] = data
        self._written.append(span)

    def plan(self) -> SectorPlan:
        runs = tuple(self._runs())
        return SectorPlan(self._sector, self._region.erased, runs)

    def _runs(self) -> Iterator[Run]:
        for span in merge([self._whole_pages(span) for span in self._written]):
            offset = span.start - self._sector.start
            yield Run(span, bytes(self._contents[offset : offset + len(span)]))

    def _whole_pages(self, span: Span) -> Span:
        """Rounded out to pages, a whole number of which make a sector."""
        origin, size = self._region.span.start, self._region.page_size
        start = origin + (span.start - origin) // size * size
        end = origin - (origin - span.end) // size * size
        return Span(start, end)
