"""External flash, driven by a loader: routines that run on the core and know the device.

The host keeps the loader's call queue filled: it writes the next pages into one of several
buffers in SRAM, and posts the call that programs them, while the core is still busy with those
before.  So the device never waits for the link, and the link is free for other lanes while
the device works.

What is said to which kind of loader is `dialect`'s business.

Digests are CRC-32s of blocks, computed by the resident helpers where the device is mapped; a
block that must be read through the loader's `Read` is read into a buffer first.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, cast

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import KIB, QSPI_WINDOW
from gdbserver.errors import (
    FlashError,
    LoaderRefused,
    LoaderRejected,
    LoaderTimeout,
    ProbeError,
    TargetError,
)
from gdbserver.flash.driver import Did, Event
from gdbserver.flash.packing import MARGIN, pack
from gdbserver.flash.plan import RegionPlan, SectorPlan
from gdbserver.loader.call_queue import (
    FOREIGN_STACK,
    OWN_STACK,
    RESULTS,
    SPREAD,
    Busy,
    CallQueue,
)
from gdbserver.loader.diagnosis import (
    explain_refusal,
    explain_timeout,
    inherited,
    what_it_found,
)
from gdbserver.loader.dialect import Request, dialect, read_seconds
from gdbserver.loader.file import LoaderFile, cut
from gdbserver.loader.known_state import caches_off
from gdbserver.loader.nor_survey import Die, find_die
from gdbserver.loader.quadspi_state import QuadspiState, Sample, switch_off_unless_mapped
from gdbserver.loader.window import SHOWN_BYTES, THREE_BYTES, Window, falls_short
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

T = TypeVar("T")

_BUFFER = 12 * 1024  # 48 pages of 256 bytes, 34 ms of programming; two commands to an ST-LINK
_SMALL = 1024  # the device gets something to do at once
_LAST = 4096  # the last ones: only one of them cannot be given back before the device is done
_FEW = 3  # buffers can keep the device busy, and fewer cannot
_BUFFERS = 12  # a quarter of a second, for as long as other lanes keep the link
_SLOW_BUFFERS = 5  # the same over a link that is slower than the device, for as long as that erases
_BLOCK = 64 * 1024  # what one CRC-32 covers; no more than a buffer holds, where it is read first
_BLOCKS = 64  # digests per call: four megabytes, a tenth of a second
_PAUSE = 0.005  # seconds between two looks, while others may have the link
_SLOW_LOOK, _SLOWEST_LOOK = 0.01, 0.03  # seconds, at least and at most
_IN_NO_HURRY = 3  # where the queue has work for so many times as long
_SAMPLE = 64  # bytes that a program shall find where they were programmed
_LOOKS = 4096  # bytes from one look to the next: no NOR erases less, and files begin there

# W25Q256JV, "AC Electrical Characteristics".
_TYPICAL_ERASE = 0.15 / 65536  # seconds per byte
_TYPICAL_PROGRAM = 0.7e-3 / 256

_SLOW = 1.2 * _TYPICAL_PROGRAM  # seconds per byte of a link that had better get data packed


def _fold(crcs: Sequence[int]) -> int:
    """One digest for a sector: the CRC-32 of the CRC-32s of its blocks."""
    return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in crcs))


def _typically(did: Did | None) -> float:
    """Seconds that the device takes for it."""
    if did is None:
        return 0.0
    return len(did.span) * (_TYPICAL_ERASE if did.action == "erased" else _TYPICAL_PROGRAM)


class ExternalFlash:
    """The device of one loader; Init has been called inside the ``with`` block."""

    def __init__(
        self,
        target: Target,
        loader: LoaderFile,
        *,
        queued: bool = True,
        for_good: bool = False,
    ) -> None:
        """`for_good`: the QUADSPI shall stay as the loader sets it up, whoever used it before."""
        self.region = loader.region
        self._for_good = for_good
        # Of our own loader it is known, and one call is not worth telling.
        self._tells = queued and not loader.finds_out
        self._target = target
        self._loader = loader
        self._dialect = dialect(loader)
        self._window = Window(target, loader, for_good=for_good)
        self._new_queue = partial(
            CallQueue,
            target,
            loader.image,
            good=loader.good,
            queued=queued,
            quick=loader.finds_out,
            stack=OWN_STACK if loader.finds_out else FOREIGN_STACK,
        )
        self._queue = self._new_queue()
        self._under_way: deque[tuple[int, Did | None]] = deque()
        self._work = 0.0
        """Seconds that these take the device, typically, from `_since` on."""
        self._used: deque[tuple[int, int]] = deque()  # buffers: (address, call that reads it)
        self._free: deque[int] = deque()
        self._since = 0.0
        """When the first of those under way had its turn, at the latest."""
        self._changed: int | None = None  # where something has been programmed
        self._modes_kept = True  # of the NOR: those that the loader has chosen
        free = self._queue.free
        page = self.region.page_size
        self._unit = -(-_SMALL // page) * page
        self._last_unit = -(-_LAST // page) * page
        self._left = 0  # bytes that have no buffer yet
        self._buffer_size = min(max(_BUFFER // page, 1), len(free) // page) * page
        if not self._buffer_size:
            raise LoaderRejected(loader.path, "leaves no RAM for a buffer")
        self._next_buffer = free.start
        self._grows = False  # begins with small buffers
        self._sizes: dict[int, int] = {}  # of buffers, by address
        self._spare = 0  # bytes behind each, where its contents come packed
        self._buffers_end = min(free.end, free.start + _BUFFERS * (self._buffer_size + MARGIN))
        self._pause_ends = 0.0  # of the last pause that was asked for
        # Where there is a routine that reads, mapped reads need not work, whatever the device's
        # type says; but our own loader leaves the NOR mapped after every routine.
        by_routine = "Read" in loader.image.entries and loader.kind == "stldr"
        self._mapped = "found" in loader.image.symbols or not by_routine
        self._block = _BLOCK if self._mapped else min(_BLOCK, self._buffer_size)

    # --- Opening and closing --------------------------------------------------------------

    def __enter__(self) -> Self:
        self._quadspi = None if self._for_good else QuadspiState.of(self._target)
        try:
            self._begin()
        except (LoaderRefused, LoaderTimeout) as error:
            if not error.nor_answers:
                raise
            # A program may have left it in QPI, in continuous read or powered down, which a reset
            # of the chip does not end; finding out whether it answers has.
            log.info("%s; but the NOR answers: once more", error)
            self._queue = self._new_queue()
            self._begin()
        return self

    def _begin(self) -> None:
        self._queue.__enter__()
        try:
            _finish(self._say(self._dialect.start()))
            _finish(self._open_window())
            if self._tells:
                self._queue.check_stack()
                self._note_hazards()
            if not self._loader.finds_out:
                caches_off(self._target)  # or what is programmed may not be what is read
        except BaseException as error:
            self._leave(error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Let all be as it was before the loader came."""
        sample = None
        try:
            if isinstance(error, LoaderRefused):
                explain_refusal(self._target, self._loader, error)
            elif isinstance(error, LoaderTimeout):
                explain_timeout(self._target, self._loader, error)
            if error is None:
                sample = self._sample()
                if not self._for_good:  # else it would not stay mapped
                    self._window.close()
                    if self._modes_kept:  # else an UnInit may wait for ever for a NOR in QPI
                        _finish(self._say(self._dialect.finish()))
                self._queue.check_stack()
                if self._tells:
                    log.info("%s used %d bytes of stack", self._loader.path.name, self.stack_used())
        finally:
            self._queue.__exit__(type(error) if error else None, error, None)
            if not isinstance(error, ProbeError):
                self._put_quadspi_back(sample, error)

    def _put_quadspi_back(self, sample: Sample | None, error: BaseException | None) -> None:
        try:
            if self._quadspi is not None:
                self._quadspi.put_back(self._target, sample)
            elif not self._for_good and not self._loader.finds_out:
                switch_off_unless_mapped(self._target)
        except TargetError as failure:
            if error is None:
                raise
            log.warning("the QUADSPI is as the loader left it: %s", failure)

    def _sample(self) -> Sample | None:
        """Something that is known to be in the device, where a program will look for it."""
        if self._quadspi is None or not self._quadspi.mapped or not self._loader.mapped:
            return None
        start = self._changed if self._changed is not None else self.region.span.start
        span = Span.of(start, _SAMPLE)
        return Sample(span, self.read(span))

    def stack_used(self) -> int:
        """Bytes, at most, of all routines so far."""
        return self._queue.stack_used()

    def refresh(self) -> None:
        """Start anew, so that nothing read from now on was read before."""
        self._window.close()
        self._dialect = dialect(self._loader)
        _finish(self._say(self._dialect.start()))
        _finish(self._open_window())

    def found(self) -> dict[str, int] | None:
        """What our own loader has learned about the NOR; None for other loaders."""
        return what_it_found(self._target, self._loader)

    def look_at_die(self) -> Die | None:
        """What the NOR says of itself; the loader needs another Init before it can go on."""
        self._modes_kept = False
        before = QuadspiState.of(self._target)
        die = find_die(self._target)
        if before is not None:
            before.put_registers_back(self._target)
        return die

    def seconds(self, plan: RegionPlan) -> float:
        return plan.erase_bytes * _TYPICAL_ERASE + plan.program_bytes * _TYPICAL_PROGRAM

    # --- Changing -------------------------------------------------------------------------

    def change(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, None]:
        if not sectors:
            return
        self._window.close()
        if self._queue.bring_image_back():
            yield from self._say(self._dialect.start())
        seconds = self._queue.seconds_per_byte
        waits = seconds > _TYPICAL_PROGRAM  # the device for the link, anyway
        self._grows = not waits
        if waits:
            most = self._queue.free.start + _SLOW_BUFFERS * (self._buffer_size + MARGIN)
            self._buffers_end = min(self._buffers_end, most)
        slow = seconds > _SLOW
        roomy = len(self._queue.free) >= _BUFFER + MARGIN
        self._spare = MARGIN if slow and roomy and self._queue.helpers else 0
        self._left = sum(len(run.span) for sector in sectors for run in sector.runs)
        for sectors_together in _erased_together(sectors):
            spans = [s.sector for s in sectors_together]
            if sectors_together[0].erase:
                did = Did("erased", Span(spans[0].start, spans[-1].end))
                yield from self._post(self._dialect.erase(spans), did)
            for sector in sectors_together:
                for run in sector.runs:
                    start = 0
                    while start < len(run.span):
                        buffer = yield from self._buffer()
                        part = run.part(start, start + self._sizes[buffer])
                        start += len(part.data)
                        self._left -= len(part.data)
                        carrying = yield from self._contents(buffer, part.data)
                        self._changed = part.span.start
                        did = Did("programmed", part.span)
                        requests = self._dialect.program(part.span, buffer)
                        number = yield from self._post(requests, did, carrying)
                        self._used.append((buffer, number))
                        yield Busy(0)
        yield from self._post(self._dialect.look())
        if self._queue.helpers:
            self._queue.prepare_digests()
        yield from self._give_back_buffers()
        while self._under_way:
            yield from self._collect()
        yield from self._open_window()
        if self._tells:
            self._queue.check_stack()

    def erase_all(self) -> Generator[Event, None, None]:
        requests = self._dialect.erase_all()
        if requests is None:
            all_of_it = [
                SectorPlan(sector, self.region.erased, ())
                for sector in self.region.sectors(self.region.span)
            ]
            yield from self.change(all_of_it)
            return
        self._window.close()
        yield from self._post([*requests, *self._dialect.look()], Did("erased", self.region.span))
        while self._under_way:
            yield from self._collect(self._queue.patience)
        yield from self._open_window()

    def _contents(
        self, buffer: int, data: bytes
    ) -> Generator[Event, None, tuple[int, bytes] | None]:
        """What is to be written where, so that a call finds `data` in a buffer; None if all is
        under way.  Over a slow link it goes packed, and is unpacked first."""
        packed = pack(data) if self._spare else None
        if packed is None:
            return buffer, data
        yield from self._room_in_queue()
        source = buffer + self._sizes[buffer] + self._spare - len(packed)
        number = self._queue.post(
            "unpack",
            *(source, len(packed), buffer, len(data)),
            timeout=read_seconds(len(data)),
            expected=len(data),
            carrying=(source, packed),
        )
        self._under_way.append((number, None))
        return None

    def _post(
        self,
        requests: Sequence[Request],
        did: Did | None = None,
        carrying: tuple[int, bytes] | None = None,
    ) -> Generator[Event, None, int]:
        """Put calls into the queue; `did` is told of when the last has returned, whose number
        is the result.  The first takes `carrying` along."""
        number = -1
        for request in requests:
            yield from self._room_in_queue()
            number = self._queue.post(
                request.routine, *request.arguments, timeout=request.timeout, carrying=carrying
            )
            carrying = None
            if not self._under_way:
                self._since = self._target.monotonic()
            last = did if request is requests[-1] else None
            self._under_way.append((number, last))
            self._work += _typically(last)
        return number

    def _say(self, requests: Sequence[Request]) -> Generator[Event, None, None]:
        """Have routines called, and wait until they have returned."""
        for request in requests:
            yield from self._queue.call(
                request.routine, *request.arguments, timeout=request.timeout
            )

    def _open_window(self) -> Generator[Event, None, None]:
        """Have the NOR mapped, where the loader does not do it."""
        if self._window.routine is not None and self._window.needs_showing():
            buffer = self._whole_buffer()
            yield from self._queue.call(
                self._window.routine,
                *(self.region.span.start, min(SHOWN_BYTES, self._buffer_size), buffer),
                timeout=read_seconds(SHOWN_BYTES),
                checked=False,
            )
            self._free.append(buffer)
            self._window.learn()
        self._window.open()

    def _note_hazards(self) -> None:
        """What Init has left running would meet whatever came next; here it is taken away."""
        vtor = self._target.read_word(cm.VTOR)
        notes = list(inherited(self._target, primask=0))
        if any(vtor in span for span in self._loader.image.memory):
            notes.append(f"the vector table is the loader's (VTOR {vtor:#010x})")
        for note in notes:
            log.info("after Init of %s: %s", self._loader.path.name, note)

    def _room_in_queue(self) -> Generator[Event, None, None]:
        while not self._queue.has_room():
            yield from self._collect()

    def _collect(self, pause: float = _PAUSE) -> Generator[Event, None, None]:
        """Look once; tell what has finished, or that nothing has.

        While the device has enough to do, the look may take some time if the last pause was cut
        short: nobody else had a use for the link.
        """
        unwanted = self._target.monotonic() < self._pause_ends
        spare = self._work_left() / _IN_NO_HURRY if unwanted else 0.0
        # In the end each buffer is to be given back as soon as it is free.
        longest = _SLOWEST_LOOK if self._left else _SLOW_LOOK
        finished = self._queue.poll(min(spare, longest) if spare >= _SLOW_LOOK else 0.0)
        if not self._under_way or self._under_way[0][0] >= finished:
            yield from self._pause(pause)
        while self._used and self._used[0][1] < finished:
            address, _ = self._used.popleft()
            if self._is_too_small(address):
                self._give_back(address)
            else:
                self._free.append(address)
        while self._under_way and self._under_way[0][0] < finished:
            _, did = self._under_way.popleft()
            self._since = self._target.monotonic()
            self._work = self._work - _typically(did) if self._under_way else 0.0
            if did is not None:
                yield did

    def _pause(self, seconds: float) -> Generator[Event, None, None]:
        """Let others have the link."""
        self._pause_ends = self._target.monotonic() + seconds
        yield Busy(seconds)

    def _buffer(self) -> Generator[Event, None, int]:
        """A buffer that no call uses: an old one, a new one, or one that has to be waited for."""
        if not self._free and self._used:
            yield from self._collect(0)
        while not self._free:
            if size := self._new_size():
                self._queue.borrow(Span.of(self._next_buffer, size + self._spare))
                self._free.append(self._next_buffer)
                self._sizes[self._next_buffer] = size
                self._next_buffer += size + self._spare
            else:
                yield from self._pause(_PAUSE)
                yield from self._collect(0)
        buffer = max(self._free, key=self._sizes.__getitem__)
        self._free.remove(buffer)
        if self._ends():
            self._cut(buffer)
        return buffer

    def _ends(self) -> bool:
        """Whether so little is left that RAM is to be given back, and no more to be borrowed."""
        return self._left < 2 * self._buffer_size and not self._spare

    def _cut(self, buffer: int) -> None:
        """Make small ones of a buffer, to be used next."""
        size, unit = self._sizes[buffer], self._last_unit
        if size > unit:
            self._queue.cut(buffer, unit)
            for start in range(buffer, buffer + size, unit):
                self._sizes[start] = min(unit, buffer + size - start)
                if start != buffer:
                    self._free.append(start)

    def _whole_buffer(self) -> int:
        """One of full size, to read into, while nothing is programmed."""
        for buffer in self._free:
            if self._sizes[buffer] == self._buffer_size:
                self._free.remove(buffer)
                return buffer
        self._give_back_free()
        self._queue.borrow(Span.of(self._next_buffer, self._buffer_size))
        self._sizes[self._next_buffer] = self._buffer_size
        self._next_buffer += self._buffer_size
        return self._next_buffer - self._buffer_size

    def _new_size(self) -> int:
        """How large one more buffer may be; 0 for none.

        What is there before has to cross the link as well, and the device shall not wait for that:
        so they begin small, and grow with what the link is ahead.
        """
        size = self._buffer_size
        if self._grows:
            time = max(0.0, self._work_left()) / (2 * self._queue.seconds_per_byte)
            size = min(size, int(time) // self._unit * self._unit)
            if len(self._used) < _FEW:
                size = max(size, min(self._unit, self._buffer_size))
            elif self._ends():
                return 0
        return size if self._next_buffer + size + self._spare <= self._buffers_end else 0

    def _is_too_small(self, address: int) -> bool:
        """Whether a buffer was for the beginning: there are enough of full size."""
        enough = list(self._sizes.values()).count(self._buffer_size) >= _FEW
        return enough and self._sizes[address] < self._buffer_size

    def _give_back(self, address: int) -> None:
        self._queue.give_back(address)
        del self._sizes[address]

    def _work_left(self) -> float:
        """Seconds for which the device will be busy, typically."""
        return self._work - (self._target.monotonic() - self._since)

    def _give_back_buffers(self) -> Generator[Event, None, None]:
        """Let the RAM of each buffer be as it was, while the device works on what was in others.

        The last one's comes while digests are computed, and what would keep the device waiting.
        """
        while self._used:
            self._give_back_free(self._work_left())
            yield from self._collect()

    def _give_back_free(self, time: float = math.inf) -> None:
        while self._free:
            time -= self._sizes[self._free[0]] * self._queue.seconds_per_byte
            if time < 0:
                return
            self._give_back(self._free.popleft())
        if not self._used:
            self._next_buffer = self._queue.free.start
            self._grows = False

    # --- Looking --------------------------------------------------------------------------

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
        yield from self._check_reach(max(s.start for s in wanted))
        told: dict[int, int | None] = {}
        known = self._loader.finds_out and self._queue.helpers and self._mapped
        if known and all(len(s) > 4 * SPREAD for s in wanted):
            first = next(_adjacent([s.sector for s in self._written(sectors)], 1 << 32), [])
            blank = set(first[: (yield from self._count_blank(first))])
            others = [s for s in sectors if s.sector not in blank]
            hopeless, fresh = yield from self._beginnings(others)
            blank |= yield from self._blank(fresh)
            told = dict.fromkeys([*hopeless, *(s.start for s in fresh)])
            for sector in blank:
                told[sector.start] = self.digest_of(bytes([self.region.erased]) * len(sector))
                yield Did("compared", sector)
        rest = [s for s in wanted if s.start not in told]
        told.update(zip((s.start for s in rest), (yield from self.digest(rest)), strict=True))
        return [told[s.start] for s in wanted]

    def _check_reach(self, farthest: int) -> Generator[Event, None, None]:
        """Raises: FlashError when a loader's addresses are too short, before it does harm."""
        offset = farthest - self.region.span.start
        if self._loader.finds_out or self.region.span not in QSPI_WINDOW or offset < THREE_BYTES:
            return
        if not self._mapped:
            buffer = self._whole_buffer()
            size = self.region.page_size
            yield from self._queue.call("Read", farthest, size, buffer, timeout=read_seconds(size))
            self._free.append(buffer)
        if falls_short(self._target, offset):
            raise FlashError(
                f"loader {self._loader.path.name} sends three address bytes, which do not reach "
                f"{farthest:#010x}",
                hint="what lies 16 MiB below would change instead; it takes a loader that sends "
                "four, or --extload builtin",
            )

    def _written(self, sectors: Sequence[SectorPlan]) -> list[SectorPlan]:
        """Those that shall begin with something: of the others a digest has to tell."""
        blank = bytes([self.region.erased]) * SPREAD
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
        """Which begin with something, and not with what they shall begin with: their starts.
        And which begin blank, and shall not."""
        if not sectors:
            return set(), []
        beginnings = {s.sector.start: s.beginning(SPREAD) for s in sectors}
        blank = zlib.crc32(bytes([self.region.erased]) * SPREAD)
        hopeless = set()
        fresh = []
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
                    fresh.append(sector)
                else:
                    hopeless.add(sector.start)
                    yield Did("compared", sector)
        return hopeless, fresh

    def digest(self, sectors: Sequence[Span]) -> Generator[Event, None, list[int]]:
        if not self._queue.helpers:
            digests = []
            for sector in sectors:
                digests.append(self.digest_of(self.read(sector)))
                yield Did("compared", sector)
            return digests
        return (yield from self._digest_by_helpers(sectors))

    def _digest_by_helpers(self, sectors: Sequence[Span]) -> Generator[Event, None, list[int]]:
        digests = []
        results = self._queue.results
        for together in _adjacent(sectors, _BLOCKS * self._block):
            blocks = [block for sector in together for block in self._blocks(sector)]
            if self._mapped:
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
                self._give_back_free()
                if self._changed is not None and self._loader.finds_out:
                    self._queue.put_image_away()
                yield busy
            done += count

    def _crc_through_read(
        self, blocks: Sequence[Span], results: int
    ) -> Generator[Event, None, None]:
        buffer = self._whole_buffer()
        for number, block in enumerate(blocks):
            seconds = read_seconds(len(block))
            where = results + 4 * number
            yield from self._queue.call("Read", block.start, len(block), buffer, timeout=seconds)
            yield from self._queue.call(
                "crc32_each", buffer, len(block), 1, where, timeout=seconds, checked=False
            )
        self._free.append(buffer)

    def read(self, span: Span) -> bytes:
        if self._mapped:
            return self._target.read_memory(span.start, len(span))
        buffer = self._whole_buffer()
        data = bytearray()
        for start in range(span.start, span.end, self._buffer_size):
            length = min(self._buffer_size, span.end - start)
            seconds = read_seconds(length)
            _finish(self._queue.call("Read", start, length, buffer, timeout=seconds))
            data += self._target.read_memory(buffer, length)
        self._free.append(buffer)
        return bytes(data)


def measured(target: Target, loader: LoaderFile) -> LoaderFile:
    """The same loader for no more than its NOR has, if that can be found out.

    The loader says what its author thought, and the NOR what it is.  It is asked after an Init that
    is for nothing else: what follows begins with another one.

    Raises: FlashError, when the loader's idea of sectors would cost sectors beside them.
    """
    if loader.region.span not in QSPI_WINDOW:
        return loader
    with ExternalFlash(target, loader, queued=False) as flash:
        die = flash.look_at_die()
    if die is None:
        return loader
    log.info("loader %s drives %s", loader.path.name, die)
    smallest = min(size for _, size in loader.region.groups)
    if smallest % die.smallest_erase:
        raise FlashError(
            f"loader {loader.path.name} has sectors of {smallest} bytes, and {die} erases no "
            f"less than {die.smallest_erase} at once",
            hint="it is for another NOR: what lies beside a sector would be erased as well",
        )
    room = QSPI_WINDOW.start + die.size - loader.region.span.start
    if room >= len(loader.region.span):
        return loader
    if room <= 0:
        raise FlashError(f"loader {loader.path.name} is for {loader.region.span}, behind {die}")
    log.warning(
        "loader %s says that its device has %d KiB, and %s disagrees: what is beyond is refused",
        loader.path.name,
        len(loader.region.span) // KIB,
        die,
    )
    return cut(loader, room)


def _finish(events: Generator[Event, None, T]) -> T:
    """Run a generator without letting anyone else have the link."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return cast(T, end.value)


def _erased_together(sectors: Sequence[SectorPlan]) -> Iterator[list[SectorPlan]]:
    """Adjacent sectors that one call erases: those of one block of 64 KiB.

    So a loader that declares small sectors can still use the NOR's largest erase unit.
    """
    together: list[SectorPlan] = []
    for sector in sectors:
        if together and (
            not (sector.erase and together[-1].erase)
            or sector.sector.start != together[-1].sector.end
            or sector.sector.start // 65536 != together[0].sector.start // 65536
        ):
            yield together
            together = []
        together.append(sector)
    if together:
        yield together


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
