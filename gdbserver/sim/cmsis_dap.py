"""The firmware of a CMSIS-DAP probe: packets from the host -> requests on the wire.

pyOCD's own CMSIS-DAP driver talks to this as it talks to a USB device, so what is packed into
a packet, when it is flushed, and what an error in the middle of a queue does, is not
imitated: it is what happens with a real probe.

Arm CMSIS-DAP, "Commands": DAP_Info to DAP_TransferBlock.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from enum import IntEnum

from pyocd.probe.pydapaccess import DAPAccess
from pyocd.probe.pydapaccess.interface.interface import Interface

from gdbserver.sim.debug_port import Ack
from gdbserver.sim.link import CMSIS_DAP_V1, Link

_OK, _INVALID_COMMAND = 0x00, 0xFF
_PORT_SWD = 1
_CAPABILITY_SWD = 0x01
_PIN_NRESET = 1 << 7
_PINS_HIGH = 0x83  # SWCLK, SWDIO and nRESET as the host reads them while idle


class Command(IntEnum):
    INFO = 0x00
    LED = 0x01
    CONNECT = 0x02
    DISCONNECT = 0x03
    TRANSFER_CONFIGURE = 0x04
    TRANSFER = 0x05
    TRANSFER_BLOCK = 0x06
    WRITE_ABORT = 0x08
    DELAY = 0x09
    RESET_TARGET = 0x0A
    SWJ_PINS = 0x10
    SWJ_CLOCK = 0x11
    SWJ_SEQUENCE = 0x12
    SWD_CONFIGURE = 0x13


# Transfer request byte: A[3:2] in bits 3:2.
_AP, _READ = 1 << 0, 1 << 1
_ANY_AP_READ = _AP | _READ
_WRITE_DRW, _READ_DRW = _AP | 0xC, _AP | _READ | 0xC


class CmsisDapFirmware(Interface):  # type: ignore[misc]  # pyOCD is untyped
    """A CMSIS-DAP device, as pyOCD's `DAPAccess` sees it from the host's side of USB."""

    def __init__(self, link: Link, serial_number: str) -> None:
        super().__init__()
        self.vendor_name = link.model.vendor
        self.product_name = link.model.product
        self.serial_number = serial_number
        self._link = link
        self._answers: deque[tuple[int, bytes]] = deque()
        self._nreset = True

    @property
    def is_bulk(self) -> bool:
        return self._link.model is not CMSIS_DAP_V1

    def open(self) -> None:
        self._check_plugged()

    def close(self) -> None:
        self._answers.clear()

    def write(self, data: bytes | list[int]) -> None:
        """Send a packet.  It is carried out at once, at the probe's time."""
        self._check_plugged()
        packet = bytes(data)
        self._link.send(packet)
        answer = self._carry_out(packet)
        self._answers.append((self._link.answer(answer), answer))

    def read(self) -> bytes:
        """Receive the oldest answer; the host waits until USB has carried it."""
        self._check_plugged()
        ready, answer = self._answers.popleft()
        self._link.receive(ready)
        return answer

    def _check_plugged(self) -> None:
        if not self._link.plugged:
            raise DAPAccess.DeviceError(f"probe {self.serial_number} is not connected any more")

    # --- Commands ------------------------------------------------------------------------------

    def _carry_out(self, packet: bytes) -> bytes:
        command, body = packet[0], packet[1:]
        match command:
            case Command.INFO:
                info = self._info(body[0])
                return bytes([command, len(info)]) + info
            case Command.CONNECT:
                return bytes([command, _PORT_SWD])
            case Command.TRANSFER:
                return self._transfer(body)
            case Command.TRANSFER_BLOCK:
                return self._transfer_block(body)
            case Command.WRITE_ABORT:
                self._link.transfer(False, False, 0, struct.unpack_from("<I", body, 1)[0])
            case Command.DELAY:
                self._link.sleep(struct.unpack_from("<H", body)[0] * 1000)
            case Command.SWJ_PINS:
                return bytes([command, self._pins(body[0], body[1])])
            case Command.SWJ_CLOCK:
                self._link.set_clock(struct.unpack_from("<I", body)[0])
            case Command.SWJ_SEQUENCE:
                self._link.sequence(int.from_bytes(body[1:], "little"), body[0] or 256)
            case Command.RESET_TARGET:
                return bytes([command, _OK, 0])  # no device-specific sequence
            case (
                Command.LED
                | Command.DISCONNECT
                | Command.TRANSFER_CONFIGURE
                | Command.SWD_CONFIGURE
            ):
                pass  # how many WAITs are tolerated is the board's option, not the host's
            case _:
                return bytes([_INVALID_COMMAND])
        return bytes([command, _OK])

    def _info(self, item: int) -> bytes:
        model = self._link.model
        match DAPAccess.ID(item):
            case DAPAccess.ID.CMSIS_DAP_PROTOCOL_VERSION:
                return b"2.0.0\0" if self.is_bulk else b"1.2.0\0"
            case DAPAccess.ID.CAPABILITIES:
                return bytes([_CAPABILITY_SWD])
            case DAPAccess.ID.MAX_PACKET_COUNT:
                return bytes([model.packets])
            case DAPAccess.ID.MAX_PACKET_SIZE:
                return struct.pack("<H", model.packet_size)
            case _:
                return b""

    def _pins(self, output: int, selected: int) -> int:
        if selected & _PIN_NRESET:
            self._nreset = bool(output & _PIN_NRESET)
            self._link.hold_reset(not self._nreset)
        return _PINS_HIGH if self._nreset else _PINS_HIGH & ~_PIN_NRESET

    # --- Transfers ----------------------------------------------------------------------------

    def _transfer(self, body: bytes) -> bytes:
        """Any requests in any order.  A posted read is fetched by the next, or by RDBUFF."""
        link = self._link
        runs = deque(_runs(body))
        data = bytearray()
        done, ack = 0, Ack.OK
        posted = written = False
        while runs and ack is Ack.OK:
            request, count, words = runs.popleft()
            ap, read, address = bool(request & _AP), bool(request & _READ), request & 0xC
            if posted:
                # The next read of an access port brings the result of this one.
                posted = ap and read
                ack, value = link.transfer(posted, True, address if posted else 0xC)
                if ack is Ack.OK:
                    data += value.to_bytes(4, "little")
                    done += posted
                if count > posted:
                    runs.appendleft((request, count - posted, words))
                continue
            written = not read
            if request == _WRITE_DRW:
                taken, ack = link.write_words(words)
                done += taken
                continue
            following = runs[0][0] if runs else 0
            alone = following & _ANY_AP_READ != _ANY_AP_READ  # RDBUFF brings the last result
            if request == _READ_DRW and count > 1 and alone and (block := link.read_block(count)):
                data += block
                done += count
                continue
            if count > 1:
                runs.appendleft((request, count - 1, words[4:]))
            ack, value = link.transfer(ap, read, address, int.from_bytes(words[:4], "little"))
            if ack is Ack.OK:
                done += 1
                posted = ap and read
                if read and not ap:
                    data += value.to_bytes(4, "little")
        if ack is Ack.OK and (posted or written):
            ack, value = link.transfer(False, True, 0xC)
            if ack is Ack.OK and posted:
                data += value.to_bytes(4, "little")
        return bytes([Command.TRANSFER, done, ack]) + data

    def _transfer_block(self, body: bytes) -> bytes:
        """One request, many times."""
        count, request = struct.unpack_from("<HB", body, 1)
        ap, read, address = bool(request & _AP), bool(request & _READ), request & 0xC
        if read:
            done, ack, data = self._read_many(ap, address, count)
        else:
            done, ack, data = self._write_many(ap, address, body[4 : 4 + 4 * count])
        return struct.pack("<BHB", Command.TRANSFER_BLOCK, done, ack) + data

    def _read_many(self, ap: bool, address: int, count: int) -> tuple[int, Ack, bytes]:
        link = self._link
        if ap and address == 0xC and (block := link.read_block(count)) is not None:
            return count, Ack.OK, block
        data = bytearray()
        ack = Ack.OK
        if ap:
            ack, _ = link.transfer(True, True, address)  # its data comes with the next
        for i in range(count):
            if ack is not Ack.OK:
                return i, ack, bytes(data)
            last = ap and i == count - 1
            ack, value = link.transfer(ap and not last, True, 0xC if last else address)
            if ack is Ack.OK:
                data += value.to_bytes(4, "little")
        return len(data) // 4, ack, bytes(data)

    def _write_many(self, ap: bool, address: int, words: bytes) -> tuple[int, Ack, bytes]:
        link = self._link
        if ap and address == 0xC:
            done, ack = link.write_words(words)
        else:
            done, ack = 0, Ack.OK
            for (word,) in struct.iter_unpack("<I", words):
                ack, _ = link.transfer(ap, False, address, word)
                if ack is not Ack.OK:
                    break
                done += 1
        if ack is not Ack.OK:
            return done, ack, b""
        ack, _ = link.transfer(False, True, 0xC)  # were the last ones taken?
        return done, ack, b""


def _runs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The requests of a DAP_Transfer: one, how many follow each other, and what they write."""
    position, left = 2, body[1]
    while left:
        request = body[position]
        length = 1 if request & _READ else 5
        alike = body[position : position + left * length : length]
        count = len(alike) - len(alike.lstrip(body[position : position + 1]))
        end = position + count * length
        words = bytearray(body[position:end])
        del words[::length]
        yield request, count, bytes(words)
        position, left = end, left - count
