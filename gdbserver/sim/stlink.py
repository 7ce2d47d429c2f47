"""The firmware of an ST-LINK: memory commands from the host -> requests on the wire.

pyOCD's own ST-LINK driver talks to this as it talks to the USB device.  An ST-LINK is told
"write these 6144 bytes there" and does the access port's registers itself; what became of it
is asked for afterwards.

The command set is not published; it is known from pyOCD (``pyocd.probe.stlink``) and OpenOCD
(``stlink_usb.c``), which agree.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from pyocd.core import exceptions
from pyocd.probe.stlink.constants import SWD_FREQ_MAP, Commands, Status

from gdbserver.sim import access_port
from gdbserver.sim.debug_port import Ack, CtrlStat
from gdbserver.sim.link import Link

_DP_PORT = 0xFFFF
_COMMAND_SIZE = 16
_INCREMENT_WRAP = 0x400
_ADDRINC_SINGLE = 1 << access_port.CSW_ADDRINC_SHIFT
_CSW_HPROT_PRIVILEGED_DATA = 0x03000000

_MODE_MASS_STORAGE, _MODE_DEBUG = 1, 2

# Firmware that does all that pyOCD can use: V2J37S7 and V3J10.
_VERSION_V2 = 2 << 12 | 37 << 6 | 7
_VERSION_V3 = 3 << 12
_VERSION_V3_EXTENDED = bytes([3, 0, 10, 3, 1, 0, 0, 0])
_VOLTAGE = struct.pack("<II", 1000, 1375)  # 2 x 1375 x 1.2 V / 1000 = 3.3 V


class _Size(IntEnum):
    """CSW.Size."""

    BYTE = 0
    HALFWORD = 1
    WORD = 2


_READS = {
    Commands.JTAG_READMEM_8BIT: _Size.BYTE,
    Commands.JTAG_READMEM_16BIT: _Size.HALFWORD,
    Commands.JTAG_READMEM_32BIT: _Size.WORD,
}
_WRITES = {
    Commands.JTAG_WRITEMEM_8BIT: _Size.BYTE,
    Commands.JTAG_WRITEMEM_16BIT: _Size.HALFWORD,
    Commands.JTAG_WRITEMEM_32BIT: _Size.WORD,
}

_AP_STATUS = {
    Ack.WAIT: Status.SWD_AP_WAIT,
    Ack.FAULT: Status.SWD_AP_FAULT,
    Ack.NONE: Status.SWD_AP_ERROR,
}
_DP_STATUS = {
    Ack.WAIT: Status.SWD_DP_WAIT,
    Ack.FAULT: Status.SWD_DP_FAULT,
    Ack.NONE: Status.SWD_DP_ERROR,
}


class _Refused(Exception):
    """The chip did not answer OK; `status` is what the host is told."""

    def __init__(self, status: int) -> None:
        super().__init__(Status.get_error_message(status))
        self.status = status


class StlinkFirmware:
    """An ST-LINK, as pyOCD's `STLink` sees it: a stand-in for its `STLinkUSBInterface`."""

    def __init__(self, link: Link, serial_number: str) -> None:
        self.vendor_name = link.model.vendor
        self.product_name = link.model.product
        self.version_name = "V3" if link.model.packet_size > 64 else "V2"
        self.serial_number = serial_number
        self.max_packet_size = link.model.packet_size
        self.is_open = False
        self._link = link
        self._mode = _MODE_MASS_STORAGE
        self._select: int | None = None  # what DP SELECT holds, if known
        self._last = Status.JTAG_OK, 0  # how the last memory command went, and where
        self._next = 0  # where a memory write has got to

    def open(self) -> None:
        self._check_plugged()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def transfer(
        self,
        cmd: list[int],
        writeData: list[int] | None = None,  # noqa: N803  # the names that pyOCD passes
        readSize: int | None = None,  # noqa: N803
        timeout: int = 1000,
    ) -> bytearray | None:
        """One exchange: a command of 16 bytes, then data to or from the probe."""
        self._check_plugged()
        link = self._link
        command = bytes(cmd).ljust(_COMMAND_SIZE, b"\0")
        link.send(command)
        if writeData is not None:
            link.send_data(len(writeData))
        answer = self._carry_out(command, bytes(writeData or b""))
        size = readSize or 0
        answer = answer.ljust(size, b"\0")[:size]
        ready = link.answer(answer)
        if readSize is None:
            return None
        link.receive(ready)
        return bytearray(answer)

    def _check_plugged(self) -> None:
        if not self._link.plugged:
            raise exceptions.ProbeError(f"USB Error: ST-LINK {self.serial_number} is gone")

    # --- Commands ------------------------------------------------------------------------------

    def _carry_out(self, command: bytes, data: bytes) -> bytes:
        match command[0]:
            case Commands.GET_VERSION:
                version = _VERSION_V3 if self.version_name == "V3" else _VERSION_V2
                return struct.pack(">HHH", version, 0x8304, 0x4B37)
            case Commands.GET_VERSION_EXT:
                return _VERSION_V3_EXTENDED
            case Commands.GET_CURRENT_MODE:
                return bytes([self._mode, 0])
            case Commands.GET_TARGET_VOLTAGE:
                return _VOLTAGE
            case Commands.JTAG_COMMAND:
                return self._debug_command(command[1:], data)
        return b""

    def _debug_command(self, command: bytes, data: bytes) -> bytes:
        if (size := _READS.get(command[0])) is not None:
            return self._read_memory(size, command)
        if (size := _WRITES.get(command[0])) is not None:
            self._write_memory(size, command, data)
            return b""
        if command[0] == Commands.JTAG_GETLASTRWSTATUS2:
            return struct.pack("<HHI", self._last[0], 0, self._last[1])
        try:
            return struct.pack("<H", Status.JTAG_OK) + self._register_command(command)
        except _Refused as refused:
            return struct.pack("<H", refused.status)

    def _register_command(self, command: bytes) -> bytes:
        link = self._link
        match command[0]:
            case Commands.JTAG_ENTER2:
                self._enter_swd()
            case Commands.JTAG_EXIT:
                self._mode = _MODE_MASS_STORAGE
            case Commands.JTAG_READ_DAP_REG:
                port, register = struct.unpack_from("<HH", command, 1)
                return struct.pack("<HI", 0, self._read_register(port, register))
            case Commands.JTAG_WRITE_DAP_REG:
                self._write_register(*struct.unpack_from("<HHI", command, 1))
            case Commands.JTAG_DRIVE_NRST:
                self._drive_reset(command[1])
            case Commands.SWD_SET_FREQ:
                dividers = {divider: hertz for hertz, divider in SWD_FREQ_MAP.items()}
                link.set_clock(dividers[command[1]])
            case Commands.SET_COM_FREQ:
                kilohertz = struct.unpack_from("<I", command, 3)[0]
                return struct.pack("<HI", 0, link.set_clock(1000 * kilohertz) // 1000)
            case Commands.GET_COM_FREQ:
                clocks = [clock // 1000 for clock in reversed(link.model.clocks)]
                values = [link.clock // 1000, len(clocks), *clocks]
                return struct.pack(f"<H{len(values)}I", 0, *values)
            case (
                Commands.JTAG_INIT_AP
                | Commands.JTAG_CLOSE_AP_DBG
                | Commands.SWITCH_STLINK_FREQ
                | Commands.JTAG_GET_BOARD_IDENTIFIERS
            ):
                pass
            case _:
                raise _Refused(Status.JTAG_UNKNOWN_CMD)
        return b""

    def _enter_swd(self) -> None:
        """Switch the port to SWD, see that somebody is there, and ask for power."""
        link = self._link
        for bits, count in ((~0, 56), (0xE79E, 16), (~0, 56), (0, 8)):
            link.sequence(bits & (1 << count) - 1, count)
        self._select = None
        if link.transfer(False, True, 0x0)[0] is not Ack.OK:
            raise _Refused(Status.JTAG_GET_IDCODE_ERROR)
        link.transfer(False, False, 0x0, 0x1E)
        link.transfer(False, False, 0x8, 0)
        power = CtrlStat.CSYSPWRUPREQ | CtrlStat.CDBGPWRUPREQ
        link.transfer(False, False, 0x4, int(power))
        self._mode = _MODE_DEBUG

    def _drive_reset(self, how: int) -> None:
        if how == Commands.JTAG_DRIVE_NRST_PULSE:
            self._link.hold_reset(True)
            self._link.sleep(1_000_000)
            self._link.hold_reset(False)
        else:
            self._link.hold_reset(how == Commands.JTAG_DRIVE_NRST_LOW)

    # --- Registers ------------------------------------------------------------------------------

    def _request(self, ap: bool, read: bool, address: int, value: int = 0) -> int:
        ack, data = self._link.transfer(ap, read, address, value)
        self._check(ack, ap=ap)
        return data

    def _check(self, ack: Ack, *, ap: bool) -> None:
        if ack is not Ack.OK:
            self._select = None
            raise _Refused((_AP_STATUS if ap else _DP_STATUS)[ack])

    def _point_select(self, select: int) -> None:
        if select != self._select:
            self._request(False, False, 0x8, select)
            self._select = select

    def _select_ap(self, port: int, register: int) -> None:
        self._point_select(port << 24 | register & 0xF0)

    def _select_dp_bank(self, register: int) -> None:
        if register & 0xF == 0x4:
            self._point_select(register >> 4 & 0xF)

    def _read_register(self, port: int, register: int) -> int:
        if port == _DP_PORT:
            self._select_dp_bank(register)
            return self._request(False, True, register & 0xC)
        self._select_ap(port, register)
        self._request(True, True, register & 0xC)
        return self._request(False, True, 0xC)

    def _write_register(self, port: int, register: int, value: int) -> None:
        if port == _DP_PORT:
            self._select_dp_bank(register)
            self._request(False, False, register & 0xC, value)
            if register & 0xC == 0x8:
                self._select = value
            return
        self._select_ap(port, register)
        self._request(True, False, register & 0xC, value)
        self._request(False, True, 0xC)  # was it taken?

    # --- Memory ----------------------------------------------------------------------------------

    def _set_up(self, size: _Size, port: int, csw: int) -> None:
        self._select_ap(port, 0)
        attributes = csw & 0xFFFFFF00 or _CSW_HPROT_PRIVILEGED_DATA
        self._request(True, False, access_port.CSW, attributes | _ADDRINC_SINGLE | size)

    def _read_memory(self, size: _Size, command: bytes) -> bytes:
        address, length, port = struct.unpack_from("<IHB", command, 1)
        data = bytearray()
        try:
            self._set_up(size, port, int.from_bytes(command[8:11], "little") << 8)
            for start, count in _runs(address, length):
                self._request(True, False, access_port.TAR, start)
                self._read_run(size, start, count, data)
        except _Refused as refused:
            self._last = refused.status, address + len(data)
        else:
            self._last = Status.JTAG_OK, 0
        return bytes(data)

    def _read_run(self, size: _Size, start: int, length: int, data: bytearray) -> None:
        width = 1 << size
        count = length // width
        if size is _Size.WORD and (block := self._link.read_block(count)) is not None:
            data += block
            return
        self._request(True, True, access_port.DRW)
        for i in range(count):
            last = i == count - 1
            word = self._request(not last, True, 0xC)  # the next of DRW, or RDBUFF
            lane = start + i * width & 3
            data += word.to_bytes(4, "little")[lane : lane + width]

    def _write_memory(self, size: _Size, command: bytes, data: bytes) -> None:
        address, length, port = struct.unpack_from("<IHB", command, 1)
        self._next = address
        try:
            self._set_up(size, port, int.from_bytes(command[8:11], "little") << 8)
            for start, count in _runs(address, length):
                self._request(True, False, access_port.TAR, start)
                offset = start - address
                self._write_run(size, start, data[offset : offset + count])
            self._request(False, True, 0xC)  # were the last ones taken?
        except _Refused as refused:
            # What became of a write is known one request later.
            waiting = refused.status in (Status.SWD_AP_WAIT, Status.SWD_DP_WAIT)
            culprit = self._next if waiting else self._next - (1 << size)
            self._last = refused.status, max(address, culprit)
        else:
            self._last = Status.JTAG_OK, 0

    def _write_run(self, size: _Size, start: int, data: bytes) -> None:
        if size is _Size.WORD:
            done, ack = self._link.write_words(data)
            self._next = start + 4 * done
            self._check(ack, ap=True)
            return
        width = 1 << size
        for i in range(0, len(data), width):
            word = int.from_bytes(data[i : i + width], "little") << 8 * (start + i & 3)
            self._request(True, False, access_port.DRW, word)
            self._next = start + i + width


def _runs(address: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut a block where TAR does not count on by itself: (start, length) of each part."""
    end = address + length
    while address < end:
        stop = min(end, address // _INCREMENT_WRAP * _INCREMENT_WRAP + _INCREMENT_WRAP)
        yield address, stop - address
        address = stop
