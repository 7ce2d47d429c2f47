"""A chip-select cycle on the wires of a serial NOR, clock by clock where that matters.

A frame is what a controller drives.  A die that expects another one hears the same levels and makes
something else of them; what it answers is sampled when the controller thinks that it comes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One chip-select cycle as the controller drives it.

    A phase with no lines is absent.  `write` and `read` exclude each other.
    """

    instruction: int | None = None
    instruction_lines: int = 1
    address: int = 0
    address_bytes: int = 0
    address_lines: int = 1
    alternate: int = 0
    """Sent between address and dummy cycles; most parts call it mode bits."""
    alternate_bytes: int = 0
    alternate_lines: int = 1
    dummy: int = 0
    """Clock cycles."""
    data_lines: int = 1
    write: bytes = b""
    read: int = 0
    """Bytes to read."""
    ddr: bool = False
    """Address, alternate bytes and data on both edges of the clock.  An instruction for both
    edges that comes in another shape than its own is not unrolled, but ignored."""

    def driven(self) -> list[int]:
        """IO3..IO0 at each rising edge, undriven lines high, up to where a read begins.

        On one or two lines the controller holds IO2 low and IO3 high.
        """
        levels: list[int] = []
        if self.instruction is not None:
            levels += _unroll(bytes([self.instruction]), self.instruction_lines, ddr=False)
        for value, length, lines in (
            (self.address, self.address_bytes, self.address_lines),
            (self.alternate, self.alternate_bytes, self.alternate_lines),
        ):
            if length:
                data = (value & ((1 << 8 * length) - 1)).to_bytes(length, "big")
                levels += _unroll(data, lines, ddr=self.ddr)
        levels += [self._idle] * self.dummy
        if self.write:
            levels += _unroll(self.write, self.data_lines, ddr=self.ddr)
        return levels

    def released(self) -> list[int]:
        """The same while the controller reads, if the die does not drive."""
        return [self._idle] * (8 * self.read // self.data_lines // (2 if self.ddr else 1))

    @property
    def _idle(self) -> int:
        return 0xF if self.data_lines == 4 else 0xB


def _unroll(data: bytes, lines: int, *, ddr: bool) -> list[int]:
    """Bytes as levels of IO3..IO0, a clock each; most significant bits first."""
    mask = (1 << lines) - 1
    idle = {1: 0b1010, 2: 0b1000, 4: 0}[lines]
    levels = [
        idle | byte >> shift & mask for byte in data for shift in range(8 - lines, -1, -lines)
    ]
    return levels[::2] if ddr else levels  # a die that does not know DDR sees rising edges only


class Clocks:
    """What a die hears, from the first clock on."""

    def __init__(self, levels: list[int]) -> None:
        self._levels = levels
        self.position = 0

    @property
    def left(self) -> int:
        """Clocks that are still to come; negative behind the end."""
        return len(self._levels) - self.position

    def take(self, bits: int, lines: int) -> int:
        """The next `bits`, to a die that listens to so many lines."""
        value, start = 0, self.position
        self.position += bits // lines
        for level in self._levels[start : self.position]:
            value = value << lines | level & ((1 << lines) - 1)
        return value

    def skip(self, clocks: int) -> None:
        self.position += clocks


def sample(frame: Frame, answer: bytes, lines: int, late: int) -> bytes:
    """What the controller reads while the die drives `answer` on `lines` lines.

    The controller's first sample falls `late` clocks after the die's first bit; before that
    bit, and on lines that the die does not drive, it sees pull-ups.
    """
    clocks = 8 * len(answer) // lines
    mask = (1 << lines) - 1
    wanted = (1 << frame.data_lines) - 1
    edges = 2 if frame.ddr else 1
    bits, have, data = 0, 0, bytearray()
    clock = late
    while len(data) < frame.read:
        level = 0xF
        if 0 <= clock < clocks:
            at = clock * lines
            driven = answer[at >> 3] >> 8 - lines - (at & 7) & mask
            level = 0b1101 | driven << 1 if lines == 1 else 0xF & ~mask | driven
        seen = level >> 1 & 1 if frame.data_lines == 1 else level & wanted
        for _ in range(edges):
            bits, have = bits << frame.data_lines | seen, have + frame.data_lines
            if have == 8:
                data.append(bits)
                bits = have = 0
        clock += 1
    return bytes(data[: frame.read])
