"""RTT: rings in the program's memory that the debugger reads and writes while the core runs.

The program has a control block: sixteen bytes that say so, how many channels go up (to us) and
down, and a descriptor for each.  A ring has one writer, who moves `write`, and one reader, who
moves `read`; they are equal when it is empty.  Layout: SEGGER, "J-Link / J-Trace User Guide"
(UM08001), "RTT", "SEGGER RTT Control Block"; the program's side is in SEGGER_RTT.h.

Nothing here trusts the program.  A block counts only with its whole identifier, which a program
writes last; a ring, only if it lies in RAM as a whole with both offsets inside.  All is looked at
anew each time, in one read, because a reset can take it away at any moment.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM, BACKUP_SRAM, DTCM, SRAM1, SRAM2, SRAM3, SRAM4
from gdbserver.errors import MemoryFault
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

IDENTIFIER: Final = b"SEGGER RTT".ljust(16, b"\0")
SYMBOL: Final = "_SEGGER_RTT"
RAM: Final = (DTCM, AXI_SRAM, SRAM1, SRAM2, SRAM3, SRAM4, BACKUP_SRAM)
"""Where a block is looked for, the likeliest place first."""

MAX_CHANNELS: Final = 16
"""Each way.  SEGGER's own default is 3; more than this is taken for garbage."""
_HEADER: Final = struct.Struct("<16s2I")
_DESCRIPTOR: Final = struct.Struct("<6I")
_WRITE_OFFSET, _READ_OFFSET = 12, 16
_NAME_LENGTH: Final = 32
SCAN_PIECE: Final = 0x2000
"""Bytes that are searched at one look: some milliseconds of the link."""
_HEAD: Final = 0x400
"""Bytes at the beginning of each RAM, where linkers put variables, and so most blocks are."""
_HEADS_EVERY: Final = 4
"""Looks: a program writes its block at its own time, often when RAM has been searched once."""


@dataclass(frozen=True, slots=True)
class Ring:
    """One channel, one way, as it was at one moment."""

    descriptor: int
    """Where its descriptor is."""
    name: int
    """Where its name is."""
    start: int
    size: int
    write: int
    read: int

    def is_sound(self, ram: Sequence[Span] = RAM) -> bool:
        """Whether it can be a ring at all; an unused channel has no size."""
        return (
            self.size > 1
            and any(Span.of(self.start, self.size) in span for span in ram)
            and self.write < self.size
            and self.read < self.size
        )

    def filled(self) -> list[Span]:
        """Where the bytes are that wait for their reader, in order."""
        if self.write >= self.read:
            return self._spans(self.read, self.write)
        return self._spans(self.read, self.size) + self._spans(0, self.write)

    def free(self) -> list[Span]:
        """Where its writer may write, in order; one byte always stays free."""
        last = (self.read - 1) % self.size
        if self.write <= last:
            return self._spans(self.write, last)
        return self._spans(self.write, self.size) + self._spans(0, last)

    def _spans(self, start: int, end: int) -> list[Span]:
        return [Span(self.start + start, self.start + end)] if end > start else []


@dataclass(frozen=True, slots=True)
class ControlBlock:
    """What a program's block says."""

    address: int
    up: tuple[Ring, ...]
    down: tuple[Ring, ...]

    @property
    def length(self) -> int:
        return _HEADER.size + _DESCRIPTOR.size * (len(self.up) + len(self.down))


def block_length(header: bytes) -> int | None:
    """How long the block with this header is, or None when it is no header."""
    if len(header) < _HEADER.size:
        return None
    identifier, up, down = _HEADER.unpack_from(header)
    if identifier != IDENTIFIER or up + down == 0 or max(up, down) > MAX_CHANNELS:
        return None
    return _HEADER.size + _DESCRIPTOR.size * int(up + down)


def parse(address: int, data: bytes) -> ControlBlock | None:
    """The block in `data`, or None when there is none, or one without a ring to it yet."""
    length = block_length(data)
    if length is None or len(data) < length:
        return None
    _, up, _ = _HEADER.unpack_from(data)
    rings = []
    for at in range(_HEADER.size, length, _DESCRIPTOR.size):
        name, start, size, write, read, _flags = _DESCRIPTOR.unpack_from(data, at)
        rings.append(Ring(address + at, name, start, size, write, read))
    if not any(ring.is_sound() for ring in rings):
        return None
    return ControlBlock(address, tuple(rings[:up]), tuple(rings[up:]))


class Rtt:
    """The channels of whatever program runs, found again whenever they get lost.

    `symbol` is where the block is known to be; without it, RAM is searched, a piece a look, and
    before each of them the place where the block is `likely` to be.
    """

    def __init__(self, target: Target, symbol: int | None = None) -> None:
        self.likely: int | None = None
        self._target = target
        self._symbol = symbol
        self._block: ControlBlock | None = None
        self._names: Mapping[int, str] = {}
        self._looks = 0
        self._searched = 0
        self._clocked: Sequence[Span] = ()

    @property
    def channels(self) -> Mapping[int, str]:
        """The names of the channels of the block that was found last."""
        return self._names

    @property
    def found(self) -> bool:
        return self._block is not None

    def poll(self) -> dict[int, bytes]:
        """Look once: what the program has written since the last time, by channel."""
        block = self._look()
        if block is None:
            return {}
        return {
            number: data
            for number, ring in enumerate(block.up)
            if ring.is_sound() and (data := self._take(ring))
        }

    def write(self, channel: int, data: bytes) -> int:
        """Write to a channel, as much as it has room for; how much that was."""
        block = self._look()
        if block is None or channel >= len(block.down):
            return 0
        ring = block.down[channel]
        if not ring.is_sound():
            return 0
        written = 0
        for span in ring.free():
            part = data[written : written + len(span)]
            if part:
                self._target.write_memory(span.start, part)
                written += len(part)
        if written:
            moved = (ring.write + written) % ring.size
            self._target.write_words(ring.descriptor + _WRITE_OFFSET, [moved])
        return written

    def forget(self) -> None:
        """The program is about to start anew: take down the block of the one before it.

        Memory outlives a reset; what is found afterwards shall be of the program that runs.
        """
        where = self._block.address if self._block is not None else self._symbol
        self._lose()
        try:
            if where is not None and self._target.read_memory(where, 16) == IDENTIFIER:
                self._target.write_memory(where, bytes(16))
        except MemoryFault as fault:
            log.debug("RTT: %s", fault)

    def _lose(self) -> None:
        self._block, self._looks, self._searched = None, 0, 0

    def _take(self, ring: Ring) -> bytes:
        data = b"".join(self._target.read_memory(s.start, len(s)) for s in ring.filled())
        if data:
            self._target.write_words(ring.descriptor + _READ_OFFSET, [ring.write])
        return data

    # --- Finding it -------------------------------------------------------------------------------

    def _look(self) -> ControlBlock | None:
        """The block as it is now."""
        try:
            if self._block is not None:
                here, length = self._block.address, self._block.length
                now = parse(here, self._target.read_memory(here, length))
                if now is not None and now.length == length:
                    self._block = now
                    return now
                log.info("RTT: the control block at %#010x is gone", here)
                self._lose()
            where = self._symbol if self._symbol is not None else self._search()
            self._block = None if where is None else self._block_at(where)
        except MemoryFault as fault:
            log.debug("RTT: %s", fault)
            self._lose()
        if self._block is not None:
            self._names = self._read_names(self._block)
            channels = ", ".join(f"{n} {name!r}" for n, name in self._names.items())
            log.info("RTT: control block at %#010x, channels %s", self._block.address, channels)
        return self._block

    def _block_at(self, where: int) -> ControlBlock | None:
        length = block_length(self._target.read_memory(where, _HEADER.size))
        return None if length is None else parse(where, self._target.read_memory(where, length))

    def _search(self) -> int | None:
        """Search one more piece of RAM; now and then, the beginning of each."""
        if self.likely is not None:
            with suppress(MemoryFault):  # it is a guess
                if self._block_at(self.likely) is not None:
                    return self.likely
        self._looks += 1
        if self._looks % _HEADS_EVERY == 1:
            self._clocked = [ram for ram in RAM if self._answers(ram)]
            heads = (self._search_in(Span.of(ram.start, _HEAD)) for ram in self._clocked)
            return next((found for found in heads if found is not None), None)
        pieces = [piece for ram in self._clocked for piece in _pieces(ram)]
        if not pieces:
            return None
        self._searched += 1
        return self._search_in(pieces[(self._searched - 1) % len(pieces)])

    def _answers(self, ram: Span) -> bool:
        """Whether a memory has a clock."""
        try:
            self._target.read_memory(ram.start, 4)
        except MemoryFault:
            return False
        return True

    def _search_in(self, here: Span) -> int | None:
        try:
            # An identifier may begin in this piece and end in the next.
            end = min(here.end + len(IDENTIFIER) - 4, next(r for r in RAM if here in r).end)
            data = self._target.read_memory(here.start, end - here.start)
        except MemoryFault as fault:
            data = fault.readable
        at = data.find(IDENTIFIER)
        while at >= 0:
            if at % 4 == 0 and self._block_at(here.start + at) is not None:
                return here.start + at
            at = data.find(IDENTIFIER, at + 1)
        return None

    def _read_names(self, block: ControlBlock) -> dict[int, str]:
        rings: dict[int, Ring] = {}
        for way in (block.down, block.up):  # the name is that of the way up, where there is one
            rings |= {number: ring for number, ring in enumerate(way) if ring.is_sound()}
        return {number: self._name(ring) for number, ring in sorted(rings.items())}

    def _name(self, ring: Ring) -> str:
        try:
            text = self._target.read_memory(ring.name, _NAME_LENGTH)
        except MemoryFault as fault:
            text = fault.readable
        name = text.partition(b"\0")[0].decode(errors="replace")
        return name if name.isprintable() else ""


def _pieces(span: Span) -> Iterator[Span]:
    for start in range(span.start, span.end, SCAN_PIECE):
        yield Span(start, min(start + SCAN_PIECE, span.end))
