"""Data on its way through the QUADSPI's FIFO: how far it got follows from the time.

RM0433, "FIFO and data management".  Nothing happens for each byte: an object holds when the wires
take or bring one, and tells how many have passed by now.  The clock stands still while there is
nothing to send, or no room for what would come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIFO = 32
"""Bytes."""

PS = 1000
"""Picoseconds per nanosecond: a clock cycle is rarely whole nanoseconds."""


@dataclass(slots=True)
class Outgoing:
    """Data that software writes and the wires take; how far they got follows from the time."""

    address: int
    missing: int
    """Bytes that software has yet to write."""
    byte_ps: int
    empty_ps: int
    """When all that is here has passed; before there is anything, when the first byte begins."""
    together: int = 1
    """Bytes that cross the wires at the same time: a pair in dual-flash mode."""
    data: bytearray = field(default_factory=bytearray)

    def add(self, now_ps: int, data: bytes) -> None:
        here, together = len(self.data), self.together
        self.data += data
        self.missing -= len(data)
        units = len(self.data) // together - here // together
        # With an empty FIFO the clock stood still.
        self.empty_ps = max(self.empty_ps, now_ps) + units * together * self.byte_ps

    def waiting(self, now_ps: int) -> int:
        """Bytes in the FIFO."""
        here, together = len(self.data), self.together
        if self.empty_ps <= now_ps:
            return here % together
        units = -((now_ps - self.empty_ps) // (self.byte_ps * together))
        return min(here, here % together + units * together)

    def passes_ps(self, count: int, now_ps: int) -> int:
        """When `count` more bytes will have passed; a pair passes as one."""
        units = -(-count // self.together)
        left = self.waiting(now_ps) // self.together
        return self.empty_ps - (left - units) * self.together * self.byte_ps


@dataclass(slots=True)
class Incoming:
    """Data that the wires bring.  `next_ps` is when the next byte has passed."""

    total: int
    byte_ps: int
    next_ps: int
    data: bytes
    passed: int = 0
    """Bytes that crossed the wires."""
    taken: int = 0
    """Bytes that software fetched."""
    paused: bool = False
    """The clock stands still because the FIFO is full, or all has arrived."""
    together: int = 1
    """Bytes that cross the wires at the same time: a pair in dual-flash mode."""

    def whole(self, count: int) -> int:
        """How many bytes will have passed when `count` more have: a pair passes as one."""
        return count + count % self.together

    def passed_by(self, now_ps: int, most: int) -> int:
        """How many bytes more have passed by now; there is room for `most`."""
        count = min(most, (now_ps - self.next_ps) // self.byte_ps + 1)
        return count - count % self.together
