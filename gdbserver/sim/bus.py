"""The board's address map: who answers at an address, for the core and for the debugger.

An access ends in one of three ways: it returns, the slave refuses it (`BusError`), or the
slave is busy and holds the bus (`BusStall`).  What that means is up to the master: the core
takes a BusFault or waits, an access port sets STICKYERR or answers WAIT.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Literal, Protocol, TypeGuard, runtime_checkable

from gdbserver.chip.memory import Span
from gdbserver.sim.polling import AccessKind

BLOCK_BITS = 8
"""Peripherals are aligned to 1 KiB, the two sets of registers of the flash to 256 bytes."""


class Master(Enum):
    """Who drives an access.  Some slaves answer one and refuse another."""

    CORE = "core"
    AP0 = "AP0"  # the debugger, through the core's AHBD port: sees all that the core sees
    AP1 = "AP1"  # the debugger, straight into the D3 domain
    AP2 = "AP2"  # the debugger, on the debug APB: trace components and DBGMCU
    DMA = "DMA"


class BusError(Exception):
    """The slave, or nobody, answered with an error response.

    A slave does not know where it is: the bus, or whoever asked it, fills in `address`.
    """

    def __init__(self, access: Literal["read", "write", "fetch"], address: int = -1) -> None:
        super().__init__(access, address)
        self.access = access
        self.address = address

    def complete(self, address: int) -> None:
        """The access was one to `address`, unless it is known better."""
        if self.address < 0:
            self.address = address

    def __str__(self) -> str:
        return f"bus error on {self.access} at {self.address:#010x}"


class BusStall(Exception):
    """The slave holds the bus; the same access goes through at `ready`, in nanoseconds.

    Nothing has happened yet: the access has had no effect when this is raised.  Of a block,
    the first `done` bytes went through, and the word behind them is the one that waits.
    """

    def __init__(self, ready: int, done: int = 0) -> None:
        super().__init__(f"bus stalled until {ready} ns")
        self.ready = ready
        self.done = done


class Device(Protocol):
    """Something on the bus.  Offsets count from where it is attached; sizes are 1, 2 or 4."""

    def read(self, offset: int, size: int, master: Master) -> int: ...
    def write(self, offset: int, size: int, value: int, master: Master) -> None: ...


@runtime_checkable
class BlockDevice(Protocol):
    """A device with a quick way to do many word accesses; the effect is theirs, one by one.

    Raises: `BusStall` with `done`; `BusError` whose `address` is the offset of its word.
    """

    def read_block(self, offset: int, length: int, master: Master) -> bytes: ...
    def write_block(self, offset: int, data: bytes, master: Master) -> None: ...


@runtime_checkable
class PolledDevice(Protocol):
    """A device that says which of its registers tell nothing about a program that waits."""

    data_ports: frozenset[int]
    """Offsets whose reads have an effect, so that reading them again is not idle polling."""
    idle_writes: frozenset[int]
    """Offsets that a program writes while it waits for something else."""


# A device may have a short way for what a driver does again and again.  The core takes it, for
# sizes up to 4, where nobody but the device can tell that the access was made: no event of the
# clock is made or moved, no interrupt line, nothing in the map.


@runtime_checkable
class QuickToRead(Protocol):
    def quick_read(self, offset: int, size: int) -> int | None:
        """What a read without effect gives; None where the core has to ask `read`."""


@runtime_checkable
class QuickToWrite(Protocol):
    def quick_write(self, offset: int, size: int, value: int) -> AccessKind | None:
        """Do what `write` does, and say what it means; or do nothing, and `write` is asked."""


@dataclass(frozen=True, slots=True)
class Direct:
    """A part of a device that is plain memory at this moment: execute and read it in place.

    SystemC's TLM-2.0 calls that a direct memory interface.

    `offset` and the length of `memory` are multiples of 4 KiB.  `memory` is shared, not
    copied.  Writes go straight in when `writable`, else to the device's `write`.
    """

    offset: int
    memory: bytearray | memoryview
    writable: bool


@runtime_checkable
class Mappable(Protocol):
    """A device that the core can execute from and read at full speed, at least at times."""

    def direct(self, offset: int) -> Direct | None:
        """The plain memory around `offset`, or None if each access must be asked for now.

        A device that stops being plain (a flash bank becomes busy, a mapped NOR is unmapped)
        calls `Bus.revoke`; one whose contents change by other means than a write through
        the bus calls `Bus.changed`.
        """


@cache
def _has_blocks(kind: type) -> bool:
    return issubclass(kind, BlockDevice)


def takes_blocks(device: Device) -> TypeGuard[BlockDevice]:
    """Whether it is a `BlockDevice`; to find that out anew each time takes longer than a block."""
    return _has_blocks(type(device))


class Ram:
    """Plain memory.  `data` is shared with whoever executes from it; never rebind it."""

    def __init__(self, length: int, fill: int = 0) -> None:
        self.data = bytearray([fill]) * length

    def read(self, offset: int, size: int, master: Master) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def direct(self, offset: int) -> Direct | None:
        return Direct(0, self.data, writable=True)


class Bus:
    """Routes accesses by address.

    Raises (from `read` and `write`):
        BusError: nobody is there, or the device refuses.
        BusStall: the device is busy.
    """

    def __init__(self) -> None:
        self.devices: list[tuple[Span, Device]] = []
        self._starts: list[int] = []
        self._found: dict[int, tuple[Span, Device]] = {}
        """By the number of a block that lies in one device: most accesses come again."""
        self.memory_changed = False
        """Since somebody cleared it: the contents of memory, or what is memory, not by the core."""
        self.devices_accessed = False
        """Since somebody cleared it: by another master than the core."""
        self.on_changed: list[Callable[[Span], None]] = []
        """Called when bytes of plain memory changed other than by the core's own stores."""
        self.on_revoked: list[Callable[[Span], None]] = []
        """Called when a part of the map stopped being what `Mappable.direct` said."""

    def attach(self, start: int, length: int, device: Device) -> None:
        self.devices.append((Span.of(start, length), device))
        self.devices.sort(key=lambda entry: entry[0])
        for (before, _), (after, _) in zip(self.devices, self.devices[1:], strict=False):
            if before.end > after.start:
                raise ValueError(f"{before} and {after} overlap")
        self._starts = [span.start for span, _ in self.devices]
        self._found.clear()

    def find(self, address: int) -> tuple[Span, Device] | None:
        found = self._found.get(address >> BLOCK_BITS)
        if found is not None:
            return found
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address not in self.devices[index][0]:
            return None
        found = self.devices[index]
        start = address >> BLOCK_BITS << BLOCK_BITS
        if found[0].start <= start and start + (1 << BLOCK_BITS) <= found[0].end:
            self._found[address >> BLOCK_BITS] = found
        return found

    def read(self, address: int, size: int, master: Master) -> int:
        found = self._found.get(address >> BLOCK_BITS) or self.find(address)
        if found is None:
            raise BusError("read", address)
        span, device = found
        if master is not Master.CORE and not isinstance(device, Ram):
            self.devices_accessed = True
        try:
            return device.read(address - span.start, size, master)
        except BusError as error:
            error.address = address
            raise

    def write(self, address: int, size: int, value: int, master: Master) -> None:
        found = self._found.get(address >> BLOCK_BITS) or self.find(address)
        if found is None:
            raise BusError("write", address)
        span, device = found
        if master is not Master.CORE:
            self.devices_accessed = True
        try:
            device.write(address - span.start, size, value, master)
        except BusError as error:
            error.address = address
            raise
        if master is not Master.CORE and isinstance(device, Ram):
            self.changed(Span.of(address, size))

    def read_block(self, address: int, length: int, master: Master) -> bytes:
        """What `length` / 4 word reads give; quick where the memory is plain."""
        found, end = self.find(address), address + length
        if found is not None and isinstance(found[1], Ram) and end <= found[0].end:
            offset = address - found[0].start
            return bytes(found[1].data[offset : offset + length])
        if found is not None and takes_blocks(found[1]) and end <= found[0].end:
            self.devices_accessed = True
            try:
                return found[1].read_block(address - found[0].start, length, master)
            except BusError as error:
                error.address += found[0].start
                raise
        words = bytearray()
        for i in range(0, length, 4):
            try:
                words += self.read(address + i, 4, master).to_bytes(4, "little")
            except BusStall as stall:
                stall.done = i
                raise
        return bytes(words)

    def write_block(self, address: int, data: bytes, master: Master) -> None:
        """What so many word writes do; quick where the memory is plain."""
        found, end = self.find(address), address + len(data)
        self.devices_accessed = True
        if found is not None and isinstance(found[1], Ram) and end <= found[0].end:
            offset = address - found[0].start
            found[1].data[offset : offset + len(data)] = data
            if master is not Master.CORE:
                self.changed(Span.of(address, len(data)))
            return
        if found is not None and takes_blocks(found[1]) and end <= found[0].end:
            try:
                found[1].write_block(address - found[0].start, data, master)
            except BusError as error:
                error.address += found[0].start
                raise
            return
        for i in range(0, len(data), 4):
            try:
                self.write(address + i, 4, int.from_bytes(data[i : i + 4], "little"), master)
            except BusStall as stall:
                stall.done = i
                raise

    def changed(self, span: Span) -> None:
        self.memory_changed = True
        for notify in self.on_changed:
            notify(span)

    def revoke(self, span: Span) -> None:
        self.memory_changed = True
        for notify in self.on_revoked:
            notify(span)
