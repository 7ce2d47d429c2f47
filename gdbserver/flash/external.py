"""External flash, driven by a loader: routines that run on the core and know the device.

The host keeps the loader's call queue filled: it writes the next pages into one of several
buffers in SRAM, and posts the call that programs them, while the core is still busy with those
before.  So the device never waits for the link, and the link is free for other lanes while
the device works.

What is said to which kind of loader is `dialect`'s business; how its device is read, `readout`'s;
how many buffers there are, and how large, `buffer_pool`'s; what it holds, without reading it,
`digests`'s.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Self

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import KIB, QSPI_WINDOW
from gdbserver.errors import (
    FlashError,
    LoaderRefused,
    LoaderRejected,
    LoaderTimeout,
    ProbeError,
)
from gdbserver.flash.buffer_pool import BufferPool
from gdbserver.flash.digests import Digests
from gdbserver.flash.driver import Did, Event, putting_back
from gdbserver.flash.packing import MARGIN, pack
from gdbserver.flash.plan import RegionPlan, SectorPlan
from gdbserver.loader.call_queue import CallQueue
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
from gdbserver.loader.readout import Readout
from gdbserver.target.busy import Busy, finish
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_PAUSE = 0.005  # seconds between two looks, while others may have the link
_SLOW_LOOK, _SLOWEST_LOOK = 0.01, 0.03  # seconds, at least and at most
_IN_NO_HURRY = 3  # where the queue has work for so many times as long
_SAMPLE = 64  # bytes that a program shall find where they were programmed

# W25Q256JV, "AC Electrical Characteristics".
_TYPICAL_ERASE = 0.15 / 65536  # seconds per byte
_TYPICAL_PROGRAM = 0.7e-3 / 256


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
        self._make_queue(queued=queued)
        self._under_way: deque[tuple[int, Did | None]] = deque()
        self._work = 0.0
        """Seconds that these take the device, typically, from `_since` on."""
        self._since = 0.0
        """When the first of those under way had its turn, at the latest."""
        self._changed: int | None = None  # where something has been programmed
        self._has_begun = False  # an Init has done its work
        self._modes_kept = True  # of the NOR: those that the loader has chosen
        self._pause_ends = 0.0  # of the last pause that was asked for

    def _make_queue(self, *, queued: bool) -> None:
        """With what depends on it: buffers in the RAM that it leaves, and calls that read."""
        loader = self._loader
        self._queue = CallQueue(
            self._target,
            loader.image,
            good=loader.good,
            queued=queued,
            quick=loader.finds_out,
        )
        self._buffers = BufferPool(self._queue, self.region.page_size)
        if not self._buffers.full_size:
            raise LoaderRejected(loader.path, "leaves no RAM for a buffer")
        self._readout = Readout(
            self._target, loader, self._queue, self._buffers.whole, for_good=self._for_good
        )
        self._digests = Digests(
            self._target,
            loader,
            self._queue,
            self._readout,
            self._buffers,
            meanwhile=self._make_way,
        )

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
            log.info("%s: once more, because the NOR answers now", error)
            self._make_queue(queued=self._queue.helpers)
            self._begin()
        return self

    def _begin(self) -> None:
        self._queue.__enter__()
        try:
            finish(self._say(self._dialect.start()))
            self._has_begun = True
            finish(self._readout.open())
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
                explain_refusal(self._target, self._loader, error, again=self._has_begun)
            elif isinstance(error, LoaderTimeout):
                explain_timeout(self._target, self._loader, error, again=self._has_begun)
            if error is None:
                sample = self._sample()
                if not self._for_good:  # else it would not stay mapped
                    self._readout.close()
                    if self._modes_kept:  # else an UnInit may wait for ever for a NOR in QPI
                        finish(self._say(self._dialect.finish()))
                self._queue.check_stack()
                if self._tells:
                    log.info("%s used %d bytes of stack", self._loader.path.name, self.stack_used())
        finally:
            self._queue.__exit__(type(error) if error else None, error, None)
            if not isinstance(error, ProbeError):
                self._put_quadspi_back(sample, error)

    def _put_quadspi_back(self, sample: Sample | None, error: BaseException | None) -> None:
        with putting_back(error, "the QUADSPI is as the loader left it"):
            if self._quadspi is not None:
                self._quadspi.put_back(self._target, sample)
            elif not self._for_good and not self._loader.finds_out:
                switch_off_unless_mapped(self._target)

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
        self._readout.close()
        self._dialect = dialect(self._loader)
        finish(self._say(self._dialect.start()))
        finish(self._readout.open())

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
        yield from self._readout.make_way()
        if self._queue.bring_image_back():
            yield from self._say(self._dialect.start())
        length = sum(len(run.span) for sector in sectors for run in sector.runs)
        self._buffers.begin(length, _TYPICAL_PROGRAM)
        for sectors_together in _erased_together(sectors):
            spans = [s.sector for s in sectors_together]
            if sectors_together[0].erase:
                did = Did("erased", Span(spans[0].start, spans[-1].end))
                yield from self._post(self._dialect.erase(spans), did)
            for sector in sectors_together:
                for run in sector.runs:
                    start = 0
                    while start < len(run.span):
                        buffer = yield from self._take_buffer(len(run.span) - start)
                        part = run.part(start, start + len(buffer))
                        start += len(part.data)
                        carrying = yield from self._contents(buffer, part.data)
                        self._changed = part.span.start
                        did = Did("programmed", part.span)
                        requests = self._dialect.program(part.span, buffer.start)
                        number = yield from self._post(requests, did, carrying)
                        self._buffers.lend(buffer, number)
                        yield Busy(0)
        yield from self._post(self._dialect.look())
        if self._queue.helpers:
            self._queue.prepare_digests()
        yield from self._give_back_buffers()
        while self._under_way:
            yield from self._collect()
        yield from self._readout.open()
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
        yield from self._readout.make_way()
        yield from self._post([*requests, *self._dialect.look()], Did("erased", self.region.span))
        while self._under_way:
            yield from self._collect(self._queue.patience)
        yield from self._readout.open()

    def _contents(
        self, buffer: Span, data: bytes
    ) -> Generator[Event, None, tuple[int, bytes] | None]:
        """What is to be written where, so that a call finds `data` in a buffer; None if all is
        under way.  Over a slow link it goes packed, and is unpacked first."""
        packed = pack(data) if self._buffers.packs else None
        if packed is None:
            return buffer.start, data
        yield from self._room_in_queue()
        source = buffer.end + MARGIN - len(packed)
        number = self._queue.post(
            "unpack",
            *(source, len(packed), buffer.start, len(data)),
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
        longest = _SLOWEST_LOOK if self._buffers.left else _SLOW_LOOK
        finished = self._queue.poll(min(spare, longest) if spare >= _SLOW_LOOK else 0.0)
        if not self._under_way or self._under_way[0][0] >= finished:
            yield from self._pause(pause)
        self._buffers.collect(finished)
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

    def _take_buffer(self, wanted: int) -> Generator[Event, None, Span]:
        """A buffer for up to `wanted` bytes, when there is one that no call reads."""
        if self._buffers.has_lent and not self._buffers.has_free:
            yield from self._collect(0)
        while (buffer := self._buffers.take(wanted, self._work_left())) is None:
            yield from self._pause(_PAUSE)
            yield from self._collect(0)
        return buffer

    def _give_back_buffers(self) -> Generator[Event, None, None]:
        """Let the RAM of each buffer be as it was, while the device works on what was in others.

        The last one's comes while digests are computed, and what would keep the device waiting.
        """
        while self._buffers.has_lent:
            self._buffers.give_back(self._work_left())
            yield from self._collect()

    def _work_left(self) -> float:
        """Seconds for which the device will be busy, typically."""
        return self._work - (self._target.monotonic() - self._since)

    # --- Looking --------------------------------------------------------------------------

    def digest_of(self, data: bytes) -> int:
        return self._digests.digest_of(data)

    def compare(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int | None]]:
        yield from self._check_reach(max(s.sector.start for s in sectors))
        return (yield from self._digests.compare(sectors))

    def verify(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int]]:
        return (yield from self._digests.digest([s.sector for s in sectors]))

    def _make_way(self) -> None:
        """Give back, while digests are computed, what is no longer needed."""
        self._buffers.give_back()
        if self._changed is not None and self._loader.finds_out:
            self._queue.put_image_away()

    def _check_reach(self, farthest: int) -> Generator[Event, None, None]:
        """Raises: FlashError when a loader's addresses are too short, before it does harm."""
        if (yield from self._readout.falls_short(farthest)):
            raise FlashError(
                f"loader {self._loader.path.name} sends three address bytes, which do not reach "
                f"{farthest:#010x}",
                hint="what lies 16 MiB below would change instead; it takes a loader that sends "
                "four, or --extload builtin",
            )

    def read(self, span: Span) -> bytes:
        return finish(self._readout.read(span))


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
