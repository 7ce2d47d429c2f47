"""Both banks of internal flash kept busy at once, from buffers in SRAM, by a routine of ours.

Words that are streamed into flash through the debug port have two limits.  A probe that waits
for one bank cannot feed the other.  And the link stands still while sectors are erased, which is
two thirds of the time.  So where the core has nothing else to do, that is, where no loader
runs on it, the host writes what comes next into buffers in AXI SRAM, during the erase as well,
and `feed` (``loaders/queue``) moves it into flash: two flash words at a time, whenever a bank
has nothing to do.  It never waits on the bus, so one bank does not hold up the other, and
no probe ever sees a WAIT.  It learns how long a bank takes and looks at its register only then.

The MDMA in its place (`mover`) was measured: for one bank it is 1 to 2 % quicker, for both 6 %
slower, since it waits for one before it turns to the other; and it cannot read blank sectors back.

The routine runs beside the call queue, as one call that lasts until the end, on a core in a
known state.  It looks at this, which the host has put into SRAM::

    feeder: 0 stop        written by the host; the routine returns
            32, 352       two lanes, one for each bank

    lane:   0 status      address of FLASH_SR of the bank
            4 on          written by the host: flash may be written
            8 seen        `on`, as the core has seen it: after 0 it touches flash no more
            12 done       written by the core: jobs finished, which means taken out of their buffers
            16 trouble    written by the core: FLASH_SR, when it has an error flag; it stops there;
                          or 1, where a job could not be unpacked
            20            two words of the core's own
            28 left       written by the core: what it has not taken yet of the job under way
            32            three words of the core's own
            64 jobs[8]    in turn, 32 bytes each: source, destination, its length while packed or
                          0, where to unpack it, length; the core clears the length

    A job exists as soon as its length is there, which is therefore written last.  One without a
    source is to read flash: the core reads every flash word, and goes on whatever that gives.  What
    the controller thinks of their ECC it flags, as it does when a debugger reads them.

What is in the buffers' place before is put back (`BorrowedRam`).  It crosses the link twice, so
there are few buffers.  A link that is too slow for both banks feeds one at full speed, while the
other is erased, and then that one: they get out of step because the one that is ahead has the
link for itself, as long as it can use it.  Buffers that nobody needs any more are given back
when nobody wants the link.

Over such a link, RAM that a single word fills is not read, and there are as many buffers as there
can be jobs: the core finds it by its CRC, and unpacks it again in the end.  A link that is much
slower than a bank gets its data packed (`packing`), and buffers for both banks together: one to
fill, one to be programmed, and one for a bank that is being erased.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from gdbserver.chip.memory import Span
from gdbserver.errors import FlashError
from gdbserver.flash.packing import MARGIN, PIECE, pack
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.file import Image, built
from gdbserver.target.access import Read, Write, bytes_of, words_of
from gdbserver.target.target import Target

_LANES: Final = (32, 352)
_HEADER, _LANE = 32, 320
_STOP = 0
_ON, _SEEN, _DONE = 4, 8, 12
_JOBS_AT, _JOBS, _JOB = 64, 8, 32
_BLOCK = 1024  # header and lanes, and what is lost to alignment

BUFFER: Final = 12 * 1024
"""Bytes of a job at most: 39 ms of programming."""

_PART = 6 * 1024  # bytes that cross a slow link in one go: a command to an ST-LINK

_ROOM = PIECE + MARGIN  # of a job that may be packed

_FOR_EVER = 24 * 3600.0
_ACKNOWLEDGED = 0.1  # seconds; it takes a microsecond
_WALK = 10.0  # seconds for going over all buffers; at 64 MHz it takes 0.1
_ENOUGH = 4  # buffers of a bank, over a link that fills one more slowly than it is programmed
_SHARED = 3  # buffers of both banks: one more, which fills while both are erased
_LEAST = 2  # buffers of a bank that programs: one from which, one to fill
_SILENCE = 0.2  # seconds without progress until it is asked how the core is
FED: Final = 2.0
"""Seconds for a job, and without progress at all: seven times the worst case of x8."""


class Feeder:
    """The routine and its lanes; it comes to life when the first lane is asked for."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stack = ExitStack()
        self._queue: CallQueue | None = None
        self._lanes: list[Lane] = []
        self._filled: bytes | None = None
        """What all buffers held, if that was one word over and over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def lane(
        self, status: int, program_seconds: float, link_seconds: float, *, packing: bool
    ) -> Lane:
        """The lane of the bank whose FLASH_SR is at `status`; there are two.

        What the bank and the link need for a byte, and whether that is packed.
        """
        room = _ROOM if packing else BUFFER
        slow = link_seconds > program_seconds
        if self._queue is None:
            most = _SHARED if packing else len(_LANES) * _JOBS
            self._queue = self._open(most * room, search=slow)
        number = len(self._lanes)
        if packing and self._lanes:
            buffers = self._lanes[0].buffers
        else:
            few = _SHARED if packing else _ENOUGH if slow else _LEAST
            count = _JOBS if self._filled and not packing else few
            start = self._area.start + number * count * room
            places = deque(range(start, start + count * room, room))
            new, free = (deque[int](), places) if self._filled else (places, deque[int]())
            buffers = Buffers(new, free, room, packing)
        address = self._block + _LANES[number]
        self._target.write_words(address, [status, 0])
        lane = Lane(self._target, self._queue, address, buffers, program_seconds, slow=slow)
        self._lanes.append(lane)
        return lane

    def may_stage(self, lane: Lane) -> bool:
        """Whether a lane may have the link: a bank that programs goes before one that is erased."""
        others = [other for other in self._lanes if other is not lane and other.is_hungry()]
        return not any(not lane.on or other.claim > lane.claim for other in others)

    def give_back(self) -> None:
        """Let the RAM of a buffer that nobody needs any more be as it was, if the link is free.

        Of those for both banks nobody knows, so they wait until all is over.
        """
        if self._filled or any(lane.is_hungry() for lane in self._lanes):
            return
        for lane in self._lanes:
            buffers = lane.buffers
            if buffers.free and not buffers.packing and not lane.needs_buffers():
                lane.give_back()
                return

    def _open(self, size: int, *, search: bool) -> CallQueue:
        nothing = Image(built("queue.elf"), chunks=(), executable=(), symbols={}, entries={})
        queue = CallQueue(self._target, nothing, good=0, quick=True)
        self._stack.enter_context(queue)
        self._block = queue.free.start
        self._area = Span.of(self._block + _BLOCK, size)
        if search:
            self._filled = self._search(queue)
        block = Span.of(self._block, _HEADER + 2 * _LANE)
        queue.ram.borrow(block)
        self._target.write_memory(block.start, bytes(len(block)))
        number = queue.post("feed", self._block, timeout=_FOR_EVER, checked=False)
        self._stack.push(lambda kind, error, traceback: self._stop(queue, number, failed=kind))
        return queue

    def _search(self, queue: CallQueue) -> bytes | None:
        """Borrow all buffers without reading them, if one word fills them; else None."""
        area = self._area
        (first,), (last,) = self._target.run([Read(area.start), Read(area.end - 4)])
        if first != last:
            return None
        contents = bytes_of([first]) * (len(area) // 4)
        call = queue.post("crc32", area.start, len(area), timeout=_WALK, checked=False)
        while queue.poll() <= call:
            pass
        if queue.result(call) != zlib.crc32(contents):
            return None
        queue.ram.borrow_known(area.start, contents)
        return contents

    def _stop(self, queue: CallQueue, number: int, *, failed: object) -> None:
        done = 0
        try:
            self._target.write_word(self._block + _STOP, 1)
            deadline = self._target.deadline(_ACKNOWLEDGED)
            while (done := queue.poll()) <= number and not deadline.expired():
                pass
        finally:
            if done <= number:
                queue.give_up()
        if self._filled and not failed and queue.poll() > number:
            self._fill(queue, self._filled)

    def _fill(self, queue: CallQueue, contents: bytes) -> None:
        """Have the core write what was there: what is packed fits where the lanes were."""
        area = self._area
        packed = pack(contents)
        assert packed is not None
        call = queue.post(
            "unpack",
            *(self._block, len(packed), area.start, len(area)),
            timeout=_WALK,
            expected=len(area),
            carrying=(self._block, packed),
        )
        while queue.poll() <= call:
            pass
        queue.ram.forget(area.start)


@dataclass
class Buffers:
    """Where jobs wait: those of a bank, or of both when they are packed."""

    new: deque[int]
    """Not borrowed yet, by address."""
    free: deque[int]
    """Borrowed, and empty."""
    room: int
    packing: bool


class Lane:
    """What one bank gets to program, in order."""

    def __init__(
        self,
        target: Target,
        queue: CallQueue,
        address: int,
        buffers: Buffers,
        program_seconds: float,
        *,
        slow: bool,
    ) -> None:
        self._target = target
        self._queue = queue
        self._address = address
        self._program_seconds = program_seconds
        self._slow = slow
        self._part = _PART if slow else buffers.room
        self.buffers = buffers
        self._waiting: deque[tuple[int, Span]] = deque()  # (buffer or 0, which part of flash)
        self._staged = self._done = 0
        self._note_progress(0.0)
        self._due = 0.0
        """When it may be done."""
        self.on = False
        self.began = 0.0
        """When it was switched on."""
        self.wants = False
        """Whether there is more to be staged for this sector."""
        self.to_come = 0
        """How many sectors come after this one."""

    @property
    def claim(self) -> tuple[int, float]:
        """Of two banks that program, the one with the higher goes first.

        Over a slow link that is the one with more sectors to come, or else the one that began
        first: then it will be erased while the other programs, and there is time for each.
        Over a quick one it is the one that has less to go on.
        """
        return (self.to_come, -self.began) if self._slow else (-len(self._waiting), 0.0)

    def is_hungry(self) -> bool:
        """Whether the bank programs, and could have more to program; always, over a slow link."""
        return self.on and self.wants and (self._slow or self.has_room())

    def needs_buffers(self) -> bool:
        """Whether there is anything still to be staged."""
        return self.wants or self.to_come > 0

    def has_room(self) -> bool:
        """Whether `stage` may be called.

        While a bank programs, the link has better things to do than to borrow more buffers.
        """
        if len(self._waiting) >= _JOBS:
            return False
        buffers = self.buffers
        if buffers.packing and not self.on:  # leave the other bank what it needs to go on
            return len(buffers.free) + len(buffers.new) > _LEAST
        growing = not self.on or len(self._waiting) < _LEAST
        return bool(buffers.free or (growing and buffers.new))

    def stage(self, span: Span, data: bytes) -> Iterator[None]:
        """Have `data` ready for whole flash words of flash, and programmed once the lane is on.

        It yields where somebody else may have the link in between.
        """
        buffers = self.buffers
        if buffers.free:
            buffer = buffers.free.popleft()
        else:
            buffer = buffers.new.popleft()
            for part in self._parts(buffer, buffers.room):
                self._queue.ram.borrow(part)
                yield
        packed = pack(data) if buffers.packing else None
        contents = packed or data
        source = buffer + buffers.room - len(packed) if packed else buffer
        *others, last = (
            Write(part.start, words_of(contents[part.start - source : part.end - source]))
            for part in self._parts(source, len(contents))
        )
        for write in others:
            self._target.run([write])
            yield
        room = len(packed) if packed else 0, buffer
        self._target.run([last, Write(self._job(), [source, span.start, *room, len(data)])])
        self._wait_for(buffer, span)

    def _job(self) -> int:
        """Where the next one is described."""
        return self._address + _JOBS_AT + self._staged % _JOBS * _JOB

    def _wait_for(self, buffer: int, span: Span) -> None:
        self._staged += 1
        if not self._waiting:
            now = self._target.monotonic()
            self._note_progress(now)
            self._due = now + len(span) * self._program_seconds
        self._waiting.append((buffer, span))

    def _note_progress(self, now: float) -> None:
        """The first of those that wait has begun, or was seen to."""
        self._since = now
        self._patience = self._target.deadline(FED)

    def have_read(self, span: Span) -> None:
        """Have the core read whole flash words, once the lane is on and all before is done."""
        self._target.write_words(self._job(), [0, span.start, 0, 0, len(span)])
        self._wait_for(0, span)

    def switch_on(self, *before: Write) -> None:
        """From now on the bank may be written to: it is erased, and `before` sets PG."""
        self.began = self._due = self._target.monotonic()
        self._note_progress(self.began)
        self._target.run([*before, Write(self._address + _ON, [1])])
        self.on = True

    def switch_off(self) -> None:
        """Return when the core has done with the bank's memory; jobs that wait stay where they are.

        Raises: FlashError when the core does not say so.
        """
        self._target.write_word(self._address + _ON, 0)
        self.on = False
        deadline = self._target.deadline(_ACKNOWLEDGED)
        while self._target.read_word(self._address + _SEEN):
            if deadline.expired():
                self._queue.poll()
                raise FlashError("the core has stopped while it programmed internal flash")

    def collect(self) -> tuple[list[Span], bool]:
        """Look once: what has been taken since the last look, and whether there is trouble.

        Raises: what `CallQueue.poll` raises when the core has stopped or the chip was reset.
        """
        done, trouble, *_, left = self._target.read_words(self._address + _DONE, 5)
        finished = []
        while self._done != done and self._waiting:
            self._done += 1
            buffer, span = self._waiting.popleft()
            if buffer:
                self.buffers.free.append(buffer)
            finished.append(span)
        now = self._target.monotonic()
        self._due = now + left * self._program_seconds
        if finished:
            self._note_progress(now)
        elif now > self._since + _SILENCE:
            self._queue.poll()
        return finished, bool(trouble)

    def until_due(self) -> float:
        """Seconds until the first of those that wait may be done."""
        return self._due - self._target.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for a look."""
        return bool(self._waiting) and self.until_due() <= 0

    def is_silent(self) -> bool:
        """Whether the first of those that wait takes longer than any may: ask once per look."""
        return bool(self._waiting) and self._patience.expired()

    def is_empty(self) -> bool:
        """Whether all that was staged has been taken."""
        return not self._waiting

    def give_back(self) -> None:
        """Let the RAM of a buffer that is free be as it was."""
        buffer = self.buffers.free.popleft()
        for part in self._parts(buffer, self.buffers.room):
            self._queue.ram.give_back(part.start)
        self.buffers.new.append(buffer)

    def _parts(self, start: int, length: int) -> Iterator[Span]:
        """What crosses the link in one go."""
        for at in range(start, start + length, self._part):
            yield Span(at, min(at + self._part, start + length))
