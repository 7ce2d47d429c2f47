"""Recognises a core that waits: it reads the same registers again and finds nothing new.

A flash erase takes a second, and a program that waits for its end reads a status register a
few million times.  Nothing that it can see changes before the next event of the clock, so
the core may as well be answered then.

A read counts only if no other access had an effect in between.  Reads that have effects
themselves, such as those of a data register that empties a FIFO, must not be taken for
waiting: devices name them in `data_ports`, and writes that a waiting program may make, such
as feeding a watchdog, in `idle_writes`.
"""

from __future__ import annotations

from enum import Enum, auto

REPEATS = 8
"""How often every register of the loop was read in vain before time is skipped.

A driver that is not waiting may well look at different bits of one status register four or
five times in a row, and must not lose time by it.
"""

MOST_REGISTERS = 8
"""A loop that reads more than this is doing something."""


class AccessKind(Enum):
    """What an access means for the question whether the core is waiting."""

    LOOK = auto()  # a read without effect
    FEED = auto()  # a write that a waiting program makes, too
    ACT = auto()  # anything else: it may change what is read next


class PollDetector:
    """Follows the core's accesses to devices."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._in_vain = 0

    def forget(self) -> None:
        """Something happened: whatever is read now is news."""
        self._seen.clear()
        self._in_vain = 0

    def sees(self, address: int, value: int, kind: AccessKind) -> bool:
        """Note an access; True when the core is waiting and time may be skipped."""
        if kind is not AccessKind.LOOK:
            if kind is AccessKind.ACT:
                self.forget()
            return False
        if self._seen.get(address) != value:
            self._seen[address] = value
            self._in_vain = 0
            if len(self._seen) > MOST_REGISTERS:
                self.forget()
            return False
        self._in_vain += 1
        if self._in_vain < REPEATS * len(self._seen):
            return False
        self._in_vain = 0
        return True
