"""Recognises a core that waits: it reads the same registers again and finds nothing new.

A flash erase takes a second, and a program that waits for its end reads a status register a
few million times.  Nothing that it can see changes before the next event of the clock, so
the core may as well be answered then.

A read counts only if no other access had an effect in between.  A write that was made before,
of the same value to the same register, has none that matters: waiting programs feed watchdogs,
and some switch on again what is on.  Accesses to a data register, which empty or fill a FIFO,
always have an effect: devices name such registers in `data_ports`, and writes that never
count, whatever their value, in `idle_writes`.

A driver waits in the same loops again and again.  One that found news as soon as time had been
skipped is remembered by its place, and is believed the next time after one turn: when the same
instruction, of the same call, looks again in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

REPEATS = 8
"""How often every register of the loop was read in vain before time is skipped.

A driver that is not waiting may well look at different bits of one status register four or
five times in a row, and must not lose time by it.
"""

MOST_REGISTERS = 8
"""A loop that reads more than this is doing something."""

MOST_WRITES = 16
"""The same of one that makes more different writes than this."""


class AccessKind(Enum):
    """What an access means for the question whether the core is waiting."""

    LOOK = auto()  # a read without effect
    FEED = auto()  # a write that a waiting program makes, too
    WRITE = auto()  # a write that may change what is read next, unless it is the same again
    ACT = auto()  # anything else: it always may


# An enumeration's members by name take longer than all the rest of an answer.
_LOOK, _WRITE, _ACT = AccessKind.LOOK, AccessKind.WRITE, AccessKind.ACT


class PollDetector:
    """Follows the core's accesses to devices.

    `place` tells which instruction, of which call, makes the access at hand: a driver has one
    function that waits, for this and that, and two calls of it in a row, both of which find what
    they want, are no loop.  It takes a while to find out, so it is asked only about looks in vain.
    """

    def __init__(self, place: Callable[[], int]) -> None:
        self._place = place
        self.remembers = False
        """Whether there is anything to forget."""
        self.loop: dict[int, int] = {}
        """What the registers show that were looked at in vain, by address: all of a loop's."""
        self._seen: dict[int, int] = {}
        self._written: set[tuple[int, int]] = set()
        self._in_vain = 0
        self._last: int | None = None
        """Where the last look was made, if it was in vain."""
        self._waited: int | None = None
        """Where time was skipped, if nothing was seen since."""
        self._waits: set[int] = set()
        """Places of loops that did wait."""

    def forget(self) -> None:
        """Something happened: whatever is read now is news."""
        self.remembers = False
        self._seen.clear()
        self._written.clear()
        self._in_vain = 0
        self._last = self._waited = None

    def forget_places(self) -> None:
        """Another program may be there now."""
        self.forget()
        self._waits.clear()

    def interrupted(self) -> None:
        """Time was skipped, and not far enough for anything to happen: it waits still."""
        self._in_vain = REPEATS * len(self._seen)

    def doubt(self) -> None:
        """Something may have happened that no register shows: let it turn, and look again."""
        self._in_vain = 0
        self._last = None

    def sees(self, address: int, value: int, kind: AccessKind) -> bool:
        """Note an access; True when the core is waiting and time may be skipped."""
        if kind is not _LOOK:
            if kind is _ACT:
                if self.remembers:  # else a FIFO is being filled
                    self.forget()
            elif kind is _WRITE and (address, value) not in self._written:
                self._note_write(address, value)
            return False
        seen = self._seen
        if seen.get(address) != value:
            if self._waited is not None and address in seen:
                self._waits.add(self._waited)
            seen[address] = value
            self.remembers = True
            self._in_vain = 0
            self._last = self._waited = None
            if len(seen) > MOST_REGISTERS:
                self.forget()
            return False
        if not self._in_vain:
            self.loop.clear()
        self.loop[address] = value
        self._in_vain += 1
        place = self._place()
        turned, self._last = place == self._last, place
        if self._in_vain < REPEATS * len(seen) and not (turned and place in self._waits):
            return False
        self._in_vain = 0
        self._waited = place
        return True

    def _note_write(self, address: int, value: int) -> None:
        if len(self._written) < MOST_WRITES:
            self._seen.clear()
            self._in_vain = 0
            self._last = self._waited = None
        else:
            self.forget()
        self._written.add((address, value))
        self.remembers = True
