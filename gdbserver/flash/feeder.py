"""Both banks of internal flash kept busy at once, from buffers in SRAM, by a routine of ours.

Words that are streamed into flash through the debug port have two limits.  A probe that waits
for one bank cannot feed the other.  And the link stands still while sectors are erased, which is
two thirds of the time.  So where the core has nothing else to do, that is, where no loader
runs on it, the host writes what comes next into buffers in AXI SRAM, during the erase as well,
and `feed` (``loaders/queue``) moves it into flash: two flash words at a time, whenever a bank
has nothing to do.  It never waits on the bus, so one bank does not hold up the other, and
no probe ever sees a WAIT.  It learns how long a bank takes and looks at its register only then.

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
            20            six words of the core's own
            64 jobs[8]    in turn, 32 bytes each: source, destination, its length while packed or
                          0, where to unpack it, length; the core clears the length

    A job exists as soon as its length is there, which is therefore written last.  One without a
    source is to read flash: the core reads every flash word, and goes on whatever that gives.  What
    the controller thinks of their ECC it flags, as it does when a debugger reads them.

What is in the buffers' place before is put back (`BorrowedRam`), as each comes free for good.  It
crosses the link twice, so no more of them are used than bring something: what the link lacks
while both banks program waits in buffers, which fill while both are erased.  A link that is much
slower than a bank gets its data packed (`packing`), and few buffers for both banks: one to fill,
one to be programmed, and one for a bank that is being erased.  Over such a link, RAM that holds
nothing but zeros is not read: the core finds it by its CRC, and unpacks the zeros again in the end.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import SECTOR
from gdbserver.errors import FlashError
from gdbserver.flash.packing import MARGIN, PIECE, pack
from gdbserver.loader.call_queue import OWN_STACK, CallQueue
from gdbserver.loader.file import Image, built
from gdbserver.target.link import Read, Write, words_of
from gdbserver.target.target import Target

_LANES: Final = (32, 352)
_HEADER, _LANE = 32, 320
_STOP = 0
_ON, _SEEN, _DONE = 4, 8, 12
_JOBS_AT, _JOBS, _JOB = 64, 8, 32
_BLOCK = 1024  # header and lanes, and what is lost to alignment

BUFFER: Final = 12 * 1024
"""Bytes of a job at most: 39 ms of programming, and two commands to an ST-LINK."""

_ROOM = PIECE + MARGIN  # of a job that may be packed

_FOR_EVER = 24 * 3600.0
_ACKNOWLEDGED = 0.1  # seconds; it takes a microsecond
_SHARED = 3  # buffers of both banks: one more, which fills while both are erased
_MANY = 6  # buffers of a bank: so many are worth a search for RAM that need not be read
_LEAST = 2  # buffers of a bank that programs: one from which, one to fill
_EARLY = 0.97  # of the usual time, and a look may be worth while: silicon differs
_SILENCE = 0.2  # seconds without progress until it is asked how the core is


class Feeder:
    """The routine and its lanes; it comes to life when the first lane is asked for."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stack = ExitStack()
        self._queue: CallQueue | None = None
        self._lanes: list[Lane] = []
        self._zeros: set[int] = set()
        """Buffers that held nothing but zeros."""

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
        count = _SHARED if packing else _count(program_seconds, link_seconds)
        if self._queue is None:
            self._queue = self._open(room, search=packing or count >= _MANY)
        number = len(self._lanes)
        if packing and self._lanes:
            buffers = self._lanes[0].buffers
        else:
            places = self._places(room)[number * _JOBS :][:_JOBS]
            places.sort(key=lambda place: place not in self._zeros)
            count = max(count, sum(place in self._zeros for place in places))
            buffers = Buffers(deque(places[:count]), room, packing, self._zeros)
        address = self._block + _LANES[number]
        self._target.write_words(address, [status, 0])
        lane = Lane(self._target, self._queue, address, buffers, program_seconds)
        self._lanes.append(lane)
        return lane

    def may_stage(self, lane: Lane) -> bool:
        """Whether a lane may have the link: a bank that programs goes before one that is erased.

        Of two that program, the one that began first does: then it will be erased while the other
        programs, and a link that is too slow for both at once has time for each.
        """
        others = [other for other in self._lanes if other is not lane and other.is_hungry()]
        return not any(not lane.on or other.began <= lane.began for other in others)

    def _open(self, room: int, *, search: bool) -> CallQueue:
        nothing = Image(built("queue.elf"), chunks=(), executable=(), symbols={}, entries={})
        queue = CallQueue(self._target, nothing, good=0, quick=True, stack=OWN_STACK)
        self._stack.enter_context(queue)
        self._block = queue.free.start
        if search:
            self._zeros.update(self._find_zeros(queue, room))
        block = Span.of(self._block, _HEADER + 2 * _LANE)
        queue.borrow(block)
        self._target.write_memory(block.start, bytes(len(block)))
        number = queue.post("feed", self._block, timeout=_FOR_EVER, checked=False)
        self._stack.push(lambda kind, error, traceback: self._stop(queue, number, failed=kind))
        return queue

    def _places(self, room: int) -> list[int]:
        """Where buffers may be, of both lanes."""
        start = self._block + _BLOCK
        return list(range(start, start + len(_LANES) * _JOBS * room, room))

    def _find_zeros(self, queue: CallQueue, room: int) -> list[int]:
        """Which of the places hold nothing but zeros: a look first, then CRCs by the core."""
        places = self._places(room)
        words = self._target.run([Read(place + room // 2) for place in places])
        likely = [place for place, (word,) in zip(places, words, strict=True) if not word]
        if not likely:
            return []
        first, last = likely[0], likely[-1]
        count = (last - first) // room + 1
        for _ in queue.call(
            "crc32_each", first, room, count, queue.results, timeout=1.0, checked=False
        ):
            pass
        blank = zlib.crc32(bytes(room))
        crcs = self._target.read_words(queue.results, count)
        return [first + n * room for n, crc in enumerate(crcs) if crc == blank]

    def _stop(self, queue: CallQueue, number: int, *, failed: object) -> None:
        self._target.write_word(self._block + _STOP, 1)
        deadline = self._target.deadline(_ACKNOWLEDGED)
        while queue.poll() <= number and not deadline.expired():
            pass
        if not failed and queue.poll() > number:
            self._restore_zeros(queue)

    def _restore_zeros(self, queue: CallQueue) -> None:
        """Have the core write them: what is packed fits where the lanes were."""
        used = [place for lane in self._lanes for place in lane.buffers.zeros_used]
        room = self._lanes[0].buffers.room if self._lanes else 0
        for span in merge([Span.of(place, room) for place in set(used)]):
            packed = pack(bytes(len(span)))
            assert packed is not None
            call = queue.post(
                "unpack",
                *(self._block, len(packed), span.start, len(span)),
                timeout=1.0,
                expected=len(span),
                carrying=(self._block, packed),
            )
            while queue.poll() <= call:
                pass
        for place in set(used):
            queue.given_back(place)


def _count(program_seconds: float, link_seconds: float) -> int:
    """How many buffers a bank needs: for what the link, shared by two, lacks in a sector."""
    lacking = max(0.0, 1 - program_seconds / (2 * link_seconds))
    return min(_JOBS, 2 + math.ceil(lacking * SECTOR / BUFFER))


@dataclass
class Buffers:
    """Where jobs wait: those of a bank, or of both when they are packed."""

    new: deque[int]
    """Not borrowed yet, by address."""
    room: int
    packing: bool
    zeros: set[int]
    """Those where nothing but zeros was."""

    def __post_init__(self) -> None:
        self.free: deque[int] = deque()
        self.zeros_used: set[int] = set()

    def borrow(self, queue: CallQueue) -> None:
        """One buffer more."""
        buffer = self.new.popleft()
        if buffer in self.zeros:
            self.zeros_used.add(buffer)
            queue.borrow_known(buffer, bytes(self.room))
        else:
            queue.borrow(Span.of(buffer, self.room))
        self.free.append(buffer)


class Lane:
    """What one bank gets to program, in order."""

    def __init__(
        self,
        target: Target,
        queue: CallQueue,
        address: int,
        buffers: Buffers,
        program_seconds: float,
    ) -> None:
        self._target = target
        self._queue = queue
        self._address = address
        self._program_seconds = program_seconds
        self.buffers = buffers
        self._waiting: deque[tuple[int, Span]] = deque()  # (buffer or 0, which part of flash)
        self._staged = self._done = 0
        self._next = 0.0
        """When the first of those that wait began, or was seen to."""
        self.on = False
        self.began = 0.0
        """When it was switched on."""
        self.wants = False
        """Whether there is more to be staged."""

    def is_hungry(self) -> bool:
        """Whether the bank programs, and could have more to program; at once, over a slow link."""
        return self.on and self.wants and (self.buffers.packing or self.has_room())

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

    def stage(self, span: Span, data: bytes) -> None:
        """Have `data` ready for whole flash words of flash, and programmed once the lane is on."""
        free, packing = self.buffers.free, self.buffers.packing
        if not free:
            self.buffers.borrow(self._queue)
        buffer = free.popleft()
        packed = pack(data) if packing else None
        source = buffer + self.buffers.room - len(packed) if packed else buffer
        contents = packed or data
        job = self._address + _JOBS_AT + self._staged % _JOBS * _JOB
        room = len(packed) if packed else 0, buffer
        record = [source, span.start, *room, len(data)]
        self._target.run([Write(source, words_of(contents)), Write(job, record)])
        self._staged += 1
        if not self._waiting:
            self._next = self._target.monotonic()
        self._waiting.append((buffer, span))

    def have_read(self, span: Span) -> None:
        """Have the core read whole flash words, once the lane is on and all before is done."""
        job = self._address + _JOBS_AT + self._staged % _JOBS * _JOB
        self._target.write_words(job, [0, span.start, 0, 0, len(span)])
        self._staged += 1
        self._waiting.append((0, span))

    def switch_on(self, *before: Write) -> None:
        """From now on the bank may be written to: it is erased, and `before` sets PG."""
        self.began = self._next = self._target.monotonic()
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
        done, trouble = self._target.read_words(self._address + _DONE, 2)
        finished = []
        while self._done != done and self._waiting:
            self._done += 1
            buffer, span = self._waiting.popleft()
            if buffer:
                self.buffers.free.append(buffer)
            finished.append(span)
        now = self._target.monotonic()
        if finished:
            self._next = now
        elif now > self._next + _SILENCE:
            self._queue.poll()
        return finished, bool(trouble)

    def until_due(self) -> float:
        """Seconds until the first of those that wait may be done."""
        length = len(self._waiting[0][1])
        due = self._next + _EARLY * length * self._program_seconds
        return due - self._target.monotonic()

    def is_empty(self) -> bool:
        """Whether all that was staged has been taken."""
        return not self._waiting

    def give_back(self) -> bool:
        """Let the RAM of a buffer that nobody needs any more be as it was, if there is one.

        Of those for both banks nobody knows, so they wait until all is over, as do those that held
        zeros.
        """
        read = [buffer for buffer in self.buffers.free if buffer not in self.buffers.zeros]
        if self.buffers.packing or not read:
            return False
        buffer = read[0]
        self.buffers.free.remove(buffer)
        self._queue.give_back(buffer)
        self.buffers.new.append(buffer)
        return True
