"""The QUADSPI's memory-mapped mode: 256 MiB of addresses, of which the NOR fills the beginning.

RM0433, "QUADSPI memory-mapped mode".  Where controller and NOR agree on how it is read, the window
is plain memory; where they do not, each access is a frame on the wires, and brings what it brings.
Neither takes time of its own: a debugger's link is slower than the wires of the NOR.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import QSPI_WINDOW
from gdbserver.sim.bus import Bus, BusError, BusStall, Direct, Master
from gdbserver.sim.clock import SECOND

if TYPE_CHECKING:
    from gdbserver.sim.quadspi import QuadSpi

log = logging.getLogger(__name__)

_PAGE = 0x1000  # what can be mapped separately
_FOR_EVER = 3600 * SECOND


class Window:
    """The device at 0x90000000; `array` is what an ideal reader would see of the NORs."""

    def __init__(self, controller: QuadSpi, bus: Bus, array: bytearray | memoryview) -> None:
        self._controller = controller
        self._bus = bus
        self._array = array
        self.lent = False
        """Whether somebody was told that it is plain memory."""
        self._last_byte_read = False

    def read(self, offset: int, size: int, master: Master) -> int:
        return int.from_bytes(self._read(offset, size), "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        raise BusError("write")

    def read_block(self, offset: int, length: int, master: Master) -> bytes:
        plain = self.direct(offset)
        if plain is not None and offset + length <= len(plain.memory):
            return bytes(plain.memory[offset : offset + length])
        words = bytearray()
        for at in range(offset, offset + length, 4):
            try:
                words += self._read(at, 4)
            except BusError as error:
                error.address = at
                raise
        return bytes(words)

    def write_block(self, offset: int, data: bytes, master: Master) -> None:
        raise BusError("write", offset)

    def _read(self, offset: int, size: int) -> bytes:
        """Of what DCR says the flash holds, the last byte reads 0, and stalls the bus after that.

        ES0392, "Memory-mapped read of last memory byte fails".

        Raises:
            BusError: not memory-mapped, or beyond that.
            BusStall: it has been read before.
        """
        controller = self._controller
        if not controller.maps(offset, size):
            raise BusError("read")
        if offset + size < controller.flash_size:
            return self._transfer(offset, size)
        if self._last_byte_read:
            log.warning("QUADSPI: the last byte is read again: the bus stalls")
            raise BusStall(controller.clock.now + _FOR_EVER)
        log.warning("QUADSPI: a mapped read of the last byte that FSIZE shows gives 0")
        data = self._transfer(offset, size)
        self._last_byte_read = True
        return data[:-1] + b"\0"

    def _transfer(self, offset: int, size: int) -> bytes:
        controller = self._controller
        controller.begin_mapped_access()
        if not controller.dual:
            return controller.transfer(controller.frame(offset, read=size))
        start = offset & ~1  # pairs travel, and the part that nobody asked for is dropped
        pairs = controller.transfer(controller.frame(start, read=offset + size - start + 1 & ~1))
        return pairs[offset - start : offset - start + size]

    def direct(self, offset: int) -> Direct | None:
        """The NOR's array, if the configuration of both sides makes the window show it."""
        controller, dice = self._controller, self._controller.nors.values()
        if not controller.maps(offset, 1) or controller.dual != (len(dice) == 2):
            return None  # one of two dice by itself is every other byte: no plain memory
        size = controller.flash_size
        length = min(size, *(len(dice) * die.part.size for die in dice))
        if length > len(dice) << 8 * controller.phases.address_bytes:
            return None
        # What `_read` has to say about the last byte, it says of the last page.
        plain = length - _PAGE if length == size else length
        if offset >= plain:
            return None
        if not self.lent:
            start = offset & ~1
            if not controller.understood(controller.frame(start, read=4)):
                return None
            # The access itself: its mode bits may put the NOR into continuous read.
            controller.transfer(controller.frame(start, read=4))
            if not controller.understood(controller.frame(start, read=4)):
                return None
        controller.begin_mapped_access()
        self.lent = True
        whole = plain == len(self._array)
        return Direct(0, self._array if whole else memoryview(self._array)[:plain], writable=False)

    def revoke(self) -> None:
        """Something has changed that decides what the window shows."""
        if self.lent:
            self.lent = False
            self._bus.revoke(Span.of(QSPI_WINDOW.start, len(self._array)))

    def close(self) -> None:
        """Memory-mapped mode is over, by an abort."""
        self._last_byte_read = False
        self.revoke()
