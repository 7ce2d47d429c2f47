"""A memory access port: the debugger's way onto one of the chip's buses.

The debugger writes an address to TAR and moves data through DRW; CSW says how wide, and how
TAR goes on from there.  A write is posted: the port takes the word, and the wire is free again
while the bus still works on it.  So a slave that stalls is felt by the *next* access to the
port, which is answered WAIT, and a slave that refuses is felt by the next access as FAULT.

Arm Debug Interface v5.2 (IHI 0031), "The Memory Access Port (MEM-AP)"; CoreSight SoC-400 TRM
(DDI 0480), "AHB access port", "APB access port".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import FLASH_WORD
from gdbserver.sim.bus import (
    Bus,
    BusError,
    BusStall,
    Device,
    Mappable,
    Master,
    Ram,
    takes_blocks,
)
from gdbserver.sim.clock import Clock, Event

log = logging.getLogger(__name__)

# Register addresses: SELECT.APBANKSEL and A[3:2] together.
CSW, TAR, DRW = 0x00, 0x04, 0x0C
BD0, BD3 = 0x10, 0x1C
CFG, BASE, IDR = 0xF4, 0xF8, 0xFC

CSW_SIZE = 0x7
CSW_ADDRINC_SHIFT = 4
CSW_DEVICE_EN = 1 << 6
CSW_TR_IN_PROG = 1 << 7
_SINGLE, _PACKED = 1, 2

_CSW_CACHEABLE = 1 << 27  # HPROT[3]

_INCREMENT_WRAP = 0x400  # only TAR[9:0] counts up
NO_ROM_TABLE = 0x00000002  # BASE: ADIv5 format, entry not present


class ApBusy(Exception):
    """The port has a transfer in flight; it is done at `ready`, in nanoseconds, or later."""

    def __init__(self, ready: int) -> None:
        super().__init__(ready)
        self.ready = ready


@dataclass(frozen=True, slots=True)
class ApKind:
    """What tells an AHB-AP from an APB-AP: identity, and which bits of CSW exist."""

    idr: int
    csw_reset: int
    csw_writable: int
    sizes: tuple[int, ...]
    packed: bool


# CSW: HPROT[27:24] (privileged data), HNONSEC 30, AddrInc[5:4], Size[2:0].
AHB_AP = ApKind(0x84770001, 0x43000002, 0x4F000037, (0, 1, 2), packed=True)
# CSW: DbgSwEnable 31.  Words only.
APB_AP = ApKind(0x54770002, 0x80000002, 0x80000030, (2,), packed=False)


@dataclass(slots=True)
class _Access:
    """One transfer on the bus: the part of a DRW or BDn access that a slave sees at once."""

    write: bool
    address: int
    size: int
    increment: bool
    data: int  # in byte lanes, as in DRW


class MemAp:
    """One access port and the transfer that it has in flight.

    `reaches` is asked before each transfer: not all of the chip is there while it is in reset.
    It raises BusStall where the answer has to wait.
    """

    def __init__(
        self,
        kind: ApKind,
        clock: Clock,
        bus: Bus,
        master: Master,
        *,
        base: int = NO_ROM_TABLE,
        reaches: Callable[[int], bool] = lambda address: True,
        enabled: bool = True,
    ) -> None:
        self.kind = kind
        self.bus = bus
        self.base = base
        self.enabled = enabled
        self.on_fault: Callable[[], None] = lambda: None
        """Called when the bus refused a transfer that the debugger still waits for."""
        self.on_access: Callable[[int, int, bool, bool], None] | None = None
        """Called with an address and a length, whether it is a write, and whether cacheable."""
        self._clock = clock
        self._master = master
        self._reaches = reaches
        self._csw = kind.csw_reset
        self.tar = 0
        self._queue: list[_Access] = []
        self._on_done: Callable[[int], None] | None = None
        self._data = 0
        self._aborted = False
        self._ready = 0
        self._retry: Event | None = None

    # --- Registers -----------------------------------------------------------------------------

    def read(self, register: int, on_done: Callable[[int], None]) -> None:
        """Start reading a register; `on_done` gets the value, at once or after a stall.

        Raises:
            ApBusy: a transfer is in flight.
        """
        self._check_idle(register)
        if register == DRW or BD0 <= register <= BD3:
            self._start(self._accesses(register, None), on_done)
        else:
            on_done(self._register(register))

    def write(self, register: int, value: int) -> None:
        """Write a register; a write to memory may go on after this returns.

        Raises:
            ApBusy: a transfer is in flight.
        """
        self._check_idle(register)
        if register == CSW:
            self._write_csw(value)
        elif register == TAR:
            self.tar = value
        elif register == DRW or BD0 <= register <= BD3:
            self._start(self._accesses(register, value), None)
        # CFG, BASE and IDR are read-only; the rest is reserved.

    def abort(self) -> None:
        """Stop waiting for the transfer in flight; on the bus it runs to its end all the same."""
        self._aborted = bool(self._queue)
        self._on_done = None

    @property
    def ready(self) -> int | None:
        """When the transfer in flight may be done, or None if there is none to wait for."""
        return self._ready if self._queue and not self._aborted else None

    def _check_idle(self, register: int) -> None:
        moves_data = register == DRW or BD0 <= register <= BD3
        if self._queue and (not self._aborted or moves_data):
            raise ApBusy(self._ready)

    def _register(self, register: int) -> int:
        if register == CSW:
            enabled = CSW_DEVICE_EN if self.enabled else 0
            return self._csw | enabled | (CSW_TR_IN_PROG if self._queue else 0)
        return {TAR: self.tar, CFG: 0, BASE: self.base, IDR: self.kind.idr}.get(register, 0)

    def _write_csw(self, value: int) -> None:
        csw = self.kind.csw_reset & ~self.kind.csw_writable | value & self.kind.csw_writable
        if value & CSW_SIZE not in self.kind.sizes:
            csw = csw & ~CSW_SIZE | 2
        if not self.kind.packed and csw >> CSW_ADDRINC_SHIFT & 3 == _PACKED:
            csw &= ~(3 << CSW_ADDRINC_SHIFT)
        self._csw = csw

    # --- Transfers ---------------------------------------------------------------------------

    def _accesses(self, register: int, value: int | None) -> list[_Access]:
        write, data = value is not None, value or 0
        if register != DRW:
            address = self.tar & ~0xF | register & 0xC
            return [_Access(write, address, 4, increment=False, data=data)]
        size = 1 << (self._csw & CSW_SIZE)
        mode = self._csw >> CSW_ADDRINC_SHIFT & 3
        start = self.tar & ~(size - 1)
        if mode == _PACKED and size < 4:
            # As many transfers as fit into DRW, from TAR up to the end of its word.
            count = (4 - (start & 3)) // size
            return [_Access(write, start + i * size, size, True, data) for i in range(count)]
        return [_Access(write, start, size, mode != 0, data)]

    def _start(self, accesses: list[_Access], on_done: Callable[[int], None] | None) -> None:
        self._queue, self._on_done, self._data, self._aborted = accesses, on_done, 0, False
        self._advance()

    def _advance(self) -> None:
        """Do what can be done now; come back at the slave's own time for the rest."""
        self._retry = None
        while self._queue:
            try:
                self._transfer(self._queue[0])
            except BusStall as stall:
                self._ready = max(stall.ready, self._clock.now + 1)
                delay = self._ready - self._clock.now
                self._retry = self._clock.after(delay, self._advance, silent=True)
                return
            except BusError as error:
                log.debug("%s", error)
                self._queue.clear()
                if not self._aborted:
                    self.on_fault()
                return
            access = self._queue.pop(0)
            if access.increment:
                self._increment(access.address, access.size)
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(self._data)

    def _transfer(self, access: _Access) -> None:
        if not self.enabled or not self._reaches(access.address):
            raise BusError("write" if access.write else "read", access.address)
        self._tell(access.address, access.size, access.write)
        lane = 8 * (access.address & 3)
        mask = (1 << 8 * access.size) - 1
        if access.write:
            value = access.data >> lane & mask
            self.bus.write(access.address, access.size, value, self._master)
        else:
            self._data |= self.bus.read(access.address, access.size, self._master) << lane

    def _tell(self, address: int, length: int, write: bool) -> None:
        if self.on_access is not None:
            self.on_access(address, length, write, bool(self._csw & _CSW_CACHEABLE))

    def _increment(self, address: int, size: int) -> None:
        self.tar = address & ~(_INCREMENT_WRAP - 1) | address + size & _INCREMENT_WRAP - 1

    # --- Blocks of words -----------------------------------------------------------------------

    def _block(self, words: int) -> tuple[Span, Device] | None:
        """Where so many accesses to DRW would go, if all go to one device and TAR counts on."""
        if self._queue or not self.enabled or self._csw & 0x37 != 2 | _SINGLE << CSW_ADDRINC_SHIFT:
            return None
        span = Span.of(self.tar, 4 * words)
        if self.tar & 3 or span.start // _INCREMENT_WRAP != (span.end - 1) // _INCREMENT_WRAP:
            return None
        found = self.bus.find(self.tar)
        try:
            reached = self._reaches(self.tar)
        except BusStall:
            return None
        return found if found is not None and span in found[0] and reached else None

    def read_block(self, words: int) -> bytes | None:
        """Read so many words through DRW at once; None, and nothing done, if that is not plain.

        A device that can tell what many reads give is asked; one that is memory at this
        moment is looked at.
        """
        found = self._block(words)
        if found is None:
            return None
        data: bytes | None = None
        span, device = found
        if isinstance(device, Ram) or takes_blocks(device):
            try:
                data = self.bus.read_block(self.tar, 4 * words, self._master)
            except (BusError, BusStall):
                return None  # word by word it shows which one
        elif isinstance(device, Mappable):
            data = _look(device, self.tar - span.start, 4 * words)
        if data is not None:
            self._tell(self.tar, len(data), False)
            self._increment(self.tar, len(data))
        return data

    def block_to_write(self, words: int) -> int:
        """Of so many words for DRW, how many can be written in one go; 0 for one by one.

        RAM takes them all.  A device that can take blocks gets one flash word at a time, so
        that the moment at which it stalls is right.
        """
        found = self._block(words)
        if found is not None and isinstance(found[1], Ram):
            return words
        words = min(words, (FLASH_WORD - self.tar % FLASH_WORD) // 4)
        found = self._block(words)
        return words if found is not None and takes_blocks(found[1]) else 0

    def write_block(self, data: bytes) -> int:
        """Write what `block_to_write` agreed to; how many words were taken from the wire.

        They are fewer when one was refused, or hangs on the bus: that is the last.
        """
        start, done = self.tar, len(data)
        self._tell(start, done, True)
        try:
            self.bus.write_block(start, data, self._master)
        except BusStall as stall:
            done = stall.done
            self.tar = start + done
            word = int.from_bytes(data[done : done + 4], "little")
            self._start([_Access(True, self.tar, 4, True, word)], None)
            return done // 4 + 1
        except BusError as error:
            self.tar = error.address
            self.on_fault()
            return (error.address - start) // 4 + 1
        self._increment(start + done - 4, 4)
        return done // 4


def _look(device: Mappable, offset: int, length: int) -> bytes | None:
    direct = device.direct(offset)
    if direct is None or offset + length > direct.offset + len(direct.memory):
        return None
    start = offset - direct.offset
    return bytes(direct.memory[start : start + length])
