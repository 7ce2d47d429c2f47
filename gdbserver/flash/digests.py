"""What an external device holds, in CRC-32s that the core computes where it is mapped.

A sector's digest is the CRC-32 of the CRC-32s of its blocks, so a sector may be larger than a
buffer: a block that must be read through the loader's `Read` is read into one first.  Without
the resident helpers (`gdbserver.loader.resident`) the host reads everything.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator, Sequence

from gdbserver.chip.memory import Span
from gdbserver.flash.buffer_pool import BufferPool
from gdbserver.flash.driver import Did, Event
from gdbserver.flash.plan import SectorPlan
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.dialect import read_seconds
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.readout import Readout
from gdbserver.loader.resident import RESULTS, SPREAD
from gdbserver.target.busy import finish
from gdbserver.target.target import Target

_BLOCK = 64 * 1024  # what one CRC-32 covers; no more than a buffer holds, where it is read first
_BLOCKS = 64  # digests per call: four megabytes, a tenth of a second
_LOOKS = 4096  # bytes from one look to the next: no NOR erases less, and files begin there


def _fold(crcs: Sequence[int]) -> int:
    """One digest for a sector: the CRC-32 of the CRC-32s of its blocks."""
    return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in crcs))


class Digests:
    """Of the device of one loader; `meanwhile` is called now and then while the core computes."""

    def __init__(
        self,
        target: Target,
        loader: LoaderFile,
        queue: CallQueue,
        readout: Readout,
        buffers: BufferPool,
        *,
        meanwhile: Callable[[], None],
    ) -> None:
        self._target = target
        self._loader = loader
        self._erased = loader.region.erased
        self._queue = queue
        self._readout = readout
        self._buffers = buffers
        self._meanwhile = meanwhile
        self._block = _BLOCK if readout.mapped else min(_BLOCK, buffers.full_size)

    def digest_of(self, data: bytes) -> int:
        view = memoryview(data)
        starts = range(0, len(data), self._block)
        return _fold([zlib.crc32(view[start : start + self._block]) for start in starts])

    def compare(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int | None]]:
        """A look at the beginning of each sector tells most of those that must be erased.

        Of one that begins blank, and shall not, a look at each 4 KiB tells whether all of it is;
        where that is wrong, the digest after programming will not be right.  Those that come
        first are looked at in this way before anything else: for a NOR that is blank it is all.

        Not with a loader that others have made: where one does nothing at all, digests tell.
        """
        wanted = [s.sector for s in sectors]
        told: dict[int, int | None] = {}
        known = self._loader.finds_out and self._queue.helpers and self._readout.mapped
        if known and all(len(s) > 4 * SPREAD for s in wanted):
            first = next(_adjacent([s.sector for s in self._written(sectors)], 1 << 32), [])
            blank = set(first[: (yield from self._count_blank(first))])
            others = [s for s in sectors if s.sector not in blank]
            differing, maybe_blank = yield from self._beginnings(others)
            blank |= yield from self._blank(maybe_blank)
            told = dict.fromkeys([*differing, *(s.start for s in maybe_blank)])
            for sector in blank:
                told[sector.start] = self.digest_of(bytes([self._erased]) * len(sector))
                yield Did("compared", sector)
        rest = [s for s in wanted if s.start not in told]
        told.update(zip((s.start for s in rest), (yield from self.digest(rest)), strict=True))
        return [told[s.start] for s in wanted]

    def _written(self, sectors: Sequence[SectorPlan]) -> list[SectorPlan]:
        """Those that shall begin with something: of the others a digest has to tell."""
        blank = bytes([self._erased]) * SPREAD
        return [s for s in sectors if s.beginning(SPREAD) != blank]

    def _blank(self, sectors: Sequence[Span]) -> Generator[Event, None, set[Span]]:
        """Those in which nothing was found."""
        blank: set[Span] = set()
        for together in _adjacent(sectors, 1 << 32):
            left = together
            while left:
                whole = yield from self._count_blank(left)
                blank.update(left[:whole])
                yield from (Did("compared", sector) for sector in left[whole : whole + 1])
                left = left[whole + 1 :]
        return blank

    def _count_blank(self, sectors: Sequence[Span]) -> Generator[Event, None, int]:
        """In how many adjacent ones nothing was found, up to the first in which something was."""
        if not sectors:
            return 0
        size = len(sectors[0])
        looks = len(sectors) * size // _LOOKS
        number = yield from self._queue.call(
            "blank_spread",
            *(sectors[0].start, _LOOKS, looks, SPREAD),
            timeout=read_seconds(SPREAD * looks),
            checked=False,
        )
        return number * _LOOKS // size

    def _beginnings(
        self, sectors: Sequence[SectorPlan]
    ) -> Generator[Event, None, tuple[set[int], list[Span]]]:
        """By their first bytes: the starts of those that differ from the plan and are not blank,
        and those that differ and may be blank."""
        if not sectors:
            return set(), []
        beginnings = {s.sector.start: s.beginning(SPREAD) for s in sectors}
        blank = zlib.crc32(bytes([self._erased]) * SPREAD)
        differing = set()
        maybe_blank = []
        results = self._queue.results
        for together in _adjacent([s.sector for s in sectors], RESULTS * len(sectors[0].sector)):
            start, stride, count = together[0].start, len(together[0]), len(together)
            yield from self._queue.call(
                "crc32_spread",
                *(start, stride, count, results),
                timeout=read_seconds(SPREAD * count),
                checked=False,
            )
            for sector, crc in zip(together, self._target.read_words(results, count), strict=True):
                if crc == zlib.crc32(beginnings[sector.start]):
                    continue
                if crc == blank:
                    maybe_blank.append(sector)
                else:
                    differing.add(sector.start)
                    yield Did("compared", sector)
        return differing, maybe_blank

    def digest(self, sectors: Sequence[Span]) -> Generator[Event, None, list[int]]:
        if not self._queue.helpers:
            digests = []
            for sector in sectors:
                digests.append(self.digest_of(finish(self._readout.read(sector))))
                yield Did("compared", sector)
            return digests
        return (yield from self._digest_by_helpers(sectors))

    def _digest_by_helpers(self, sectors: Sequence[Span]) -> Generator[Event, None, list[int]]:
        digests = []
        results = self._queue.results
        for together in _adjacent(sectors, _BLOCKS * self._block):
            blocks = [block for sector in together for block in self._blocks(sector)]
            if self._readout.mapped:
                yield from self._crc_mapped(blocks, results)
            else:
                yield from self._crc_through_read(blocks, results)
            crcs = iter(self._target.read_words(results, len(blocks)))
            for sector in together:
                digests.append(_fold([next(crcs) for _ in self._blocks(sector)]))
                yield Did("compared", sector)
        return digests

    def _blocks(self, sector: Span) -> list[Span]:
        return [
            Span(start, min(start + self._block, sector.end))
            for start in range(sector.start, sector.end, self._block)
        ]

    def _crc_mapped(self, blocks: Sequence[Span], results: int) -> Generator[Event, None, None]:
        """Equal blocks in one call; the last one of a sector may be shorter."""
        done = 0
        while done < len(blocks):
            size = len(blocks[done])
            count = 1
            while done + count < len(blocks) and len(blocks[done + count]) == size:
                count += 1
            for busy in self._queue.call(
                "crc32_each",
                blocks[done].start,
                size,
                count,
                results + 4 * done,
                timeout=read_seconds(size * count),
                checked=False,
            ):
                self._meanwhile()
                yield busy
            done += count

    def _crc_through_read(
        self, blocks: Sequence[Span], results: int
    ) -> Generator[Event, None, None]:
        with self._buffers.whole() as buffer:
            for number, block in enumerate(blocks):
                yield from self._readout.fetch(block, buffer)
                yield from self._queue.call(
                    "crc32_each",
                    *(buffer.start, len(block), 1, results + 4 * number),
                    timeout=read_seconds(len(block)),
                    checked=False,
                )


def _adjacent(sectors: Sequence[Span], limit: int) -> Iterator[list[Span]]:
    """Runs of sectors without a hole, of at most `limit` bytes, or one sector."""
    together: list[Span] = []
    for sector in sectors:
        if together and (
            sector.start != together[-1].end or sector.end - together[0].start > limit
        ):
            yield together
            together = []
        together.append(sector)
    if together:
        yield together
