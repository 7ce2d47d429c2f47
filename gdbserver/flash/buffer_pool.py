"""The RAM in which data waits to be programmed: borrowed piece by piece, while it pays.

What a buffer held before has to cross the link twice, when it is borrowed and when it is given
back, and in both of these times no data does.  So how many there are, and how large, follows the
device:

1. It shall have something to do at once: the first buffers are small, and they grow with what
   the link is ahead.
2. Then a few of full size are enough.  The small ones are given back, and more are added for as
   long as that costs the device nothing: for when other lanes keep the link.
3. In the end all shall be there again when the device is done.  So the last ones are cut to small
   pieces, of which only one has to wait for that.

A link that is slower than the device makes it wait in any case: there they have full size from
the beginning, and there are fewer.  Where data goes packed (`packing`) each of them has `MARGIN`
bytes more, behind its end, and is not cut.

`ExternalFlash` calls `begin` before each change; then, for each part of it, `take`, and `lend` when
the call is posted that reads the buffer; `collect` whenever calls have finished; `give_back`
when the link has nothing better to do.  `whole` is for reading, while nothing is programmed.  The
call queue gives back what is still borrowed when it is closed.

A buffer is a `Span` of RAM; sizes are bytes, times seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from gdbserver.chip.memory import Span
from gdbserver.flash.packing import MARGIN
from gdbserver.loader.call_queue import CallQueue

_FULL = 18 * 1024  # 72 pages of 256 bytes, 50 ms of programming; three commands to an ST-LINK
_SMALL = 1024  # the device gets something to do at once
_LAST = 4096  # the last ones: only one of them cannot be given back before the device is done
_FEW = 3  # buffers can keep the device busy, and fewer cannot
_MOST = 8  # 0.4 seconds, for as long as other lanes keep the link
_MOST_SLOW = 4  # the same over a link that is slower than the device, for as long as that erases
_WORTH_PACKING = 1.2  # times what the device takes for a byte is what the link takes


class BufferPool:
    """The buffers of one device, in what its loader leaves free."""

    def __init__(self, queue: CallQueue, page_size: int) -> None:
        """Every buffer is for whole pages."""
        self._queue = queue
        room = queue.free
        self.full_size = min(max(_FULL // page_size, 1), len(room) // page_size) * page_size
        """Bytes of a buffer, at most; 0 when there is no room for any."""
        self._small = -(-_SMALL // page_size) * page_size
        self._last = -(-_LAST // page_size) * page_size
        self._free: deque[Span] = deque()
        self._lent: deque[tuple[Span, int]] = deque()  # with the number of the call that reads it
        self._all: set[Span] = set()
        self._next = room.start
        self._end = min(room.end, room.start + _MOST * (self.full_size + MARGIN))
        self._grows = False
        self._margin = 0
        self.left = 0
        """Bytes of the change that have no buffer yet."""

    @property
    def packs(self) -> bool:
        """Whether data had better go packed."""
        return self._margin > 0

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    @property
    def has_lent(self) -> bool:
        """Whether a call that has not finished reads any of them."""
        return bool(self._lent)

    def begin(self, length: int, program_seconds: float) -> None:
        """So many bytes are to come, each of which the device takes so long to program."""
        self.left = length
        link_seconds = self._queue.ram.seconds_per_byte
        waits = link_seconds > program_seconds  # the device for the link, anyway
        self._grows = not waits
        room = self._queue.free
        if waits:
            most = room.start + _MOST_SLOW * (self.full_size + MARGIN)
            self._end = min(self._end, most)
        slow = link_seconds > _WORTH_PACKING * program_seconds
        roomy = len(room) >= _FULL + MARGIN
        margin = MARGIN if slow and roomy and self._queue.helpers else 0
        if margin != self._margin:
            self.give_back()
            self._margin = margin

    def take(self, wanted: int, time: float) -> Span | None:
        """A buffer for the next up to `wanted` bytes; None when one has to be waited for.

        The device has something to do for so much time.
        """
        if not self._free:
            size = self._new_size(time)
            if not size:
                return None
            self._free.append(self._borrow(size))
        buffer = max(self._free, key=len)
        self._free.remove(buffer)
        if self._ends():
            buffer = self._cut(buffer)
        self.left -= min(wanted, len(buffer))
        return buffer

    def lend(self, buffer: Span, number: int) -> None:
        """The call with this number reads it, and nobody needs it after that."""
        self._lent.append((buffer, number))

    def collect(self, finished: int) -> None:
        """So many calls have finished."""
        while self._lent and self._lent[0][1] < finished:
            buffer, _ = self._lent.popleft()
            if self._is_too_small(buffer):
                self._return(buffer)
            else:
                self._free.append(buffer)

    def give_back(self, time: float = math.inf) -> None:
        """Let the RAM of those that are free be as it was: as many as the link can in that time."""
        while self._free:
            time -= len(self._free[0]) * self._queue.ram.seconds_per_byte
            if time < 0:
                return
            self._return(self._free.popleft())
        if not self._lent:
            self._next = self._queue.free.start
            self._grows = False

    @contextmanager
    def whole(self) -> Iterator[Span]:
        """One of full size, to read into, while nothing is programmed."""
        buffer = next((b for b in self._free if len(b) == self.full_size), None)
        if buffer is None:
            self.give_back()
            buffer = self._borrow(self.full_size)
        else:
            self._free.remove(buffer)
        yield buffer
        self._free.append(buffer)

    def _borrow(self, size: int) -> Span:
        buffer = Span.of(self._next, size)
        self._next += size + self._margin
        self._queue.ram.borrow(Span(buffer.start, self._next))
        self._all.add(buffer)
        return buffer

    def _return(self, buffer: Span) -> None:
        self._queue.ram.give_back(buffer.start)
        self._all.remove(buffer)

    def _new_size(self, time: float) -> int:
        """How large one more buffer may be; 0 for none.

        What is there before has to cross the link as well, and the device shall not wait for that.
        """
        size = self.full_size
        if self._grows:
            affordable = max(0.0, time) / (2 * self._queue.ram.seconds_per_byte)
            size = min(size, int(affordable) // self._small * self._small)
            if len(self._lent) < _FEW:
                size = max(size, min(self._small, self.full_size))
            elif self._ends():
                return 0
        return size if self._next + size + self._margin <= self._end else 0

    def _is_too_small(self, buffer: Span) -> bool:
        """Whether it was for the beginning: there are enough of full size."""
        enough = sum(len(other) == self.full_size for other in self._all) >= _FEW
        return enough and len(buffer) < self.full_size

    def _ends(self) -> bool:
        """Whether so little is left that RAM is to be given back, and no more to be borrowed."""
        return self.left < 2 * self.full_size and not self.packs

    def _cut(self, buffer: Span) -> Span:
        """Make small ones of it, to be used next; the result is the first."""
        if len(buffer) <= self._last:
            return buffer
        self._queue.ram.cut(buffer.start, self._last)
        first, *others = (
            Span(start, min(start + self._last, buffer.end))
            for start in range(buffer.start, buffer.end, self._last)
        )
        self._free.extend(others)
        self._all.remove(buffer)
        self._all.update((first, *others))
        return first
