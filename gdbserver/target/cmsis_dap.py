"""pyOCD's driver for CMSIS-DAP probes, made quick for the one probe that a session has.

pyOCD takes every word apart into bytes, and puts it together again, one by one in Python, and
words a line for a log that nobody keeps about each.  That is more than half of what it costs the
host to write a KiB, and where the host is a small computer that runs tests, it is slower than
its probe.  So `quicken` turns a probe that has been opened into one of ours: its class, and that
of the object that packs accesses, become subclasses of pyOCD's own which code a packet as a whole.

Rule 1: the same packets, byte for byte, in the same order, with as many of them under way, and
the same results and exceptions.  ``tests/target/test_quick_packets.py`` asks both.
Rule 2: pyOCD's classes stay as they are; another probe in this process notices nothing.
Rule 3: a driver that is not exactly the one that rule 1 was tried on is left alone.

One thing is new: a probe can be told to wait (`QuickProbe.wait`), for which pyOCD has no use.

CMSIS-DAP, "DAP_Transfer", "DAP_TransferBlock", "DAP_Delay".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyocd
from pyocd.probe.cmsis_dap_probe import CMSISDAPProbe
from pyocd.probe.pydapaccess import DAPAccess
from pyocd.probe.pydapaccess.dap_access_cmsis_dap import (
    AP_ACC,
    DP_ACC,
    READ,
    WRITE,
    DAPAccessCMSISDAP,
    _Command,
    _Transfer,
)

_TRIED_ON: Final = ("0.45.", "0.46.")
"""Versions of pyOCD, of which all have the same queue."""

_TRANSFER, _TRANSFER_BLOCK, _DELAY, _NOT_IMPLEMENTED = 0x05, 0x06, 0x09, 0xFF
_ACK_OK = 0x01
_MOST_REQUESTS = 255  # of a DAP_Transfer, which has a byte for their number
_REGISTER = 0xC
_WORD_MASK = 0xFFFF_FFFF
_LONGEST_WAIT = 0xFFFF  # microseconds


def quicken(probe: Any) -> QuickProbe | None:
    """Make an opened probe quick, where it is pyOCD's own driver that speaks to it.

    A probe that stands in front of such a driver, a simulated one, may show it as `driver`.
    """
    driver = getattr(probe, "driver", probe)
    if (
        type(driver) is CMSISDAPProbe
        and type(driver._link) is DAPAccessCMSISDAP
        and pyocd.__version__.startswith(_TRIED_ON)
    ):
        driver._link.flush()
        driver._link.__class__ = _QuickQueue
        driver._link._init_deferred_buffers()
        driver.__class__ = QuickProbe
    return driver if isinstance(driver, QuickProbe) else None


class QuickProbe(CMSISDAPProbe):  # type: ignore[misc]  # pyOCD is untyped
    """A CMSIS-DAP probe; words to be written may come as a memoryview as well."""

    can_wait = True

    def wait(self, seconds: float) -> None:
        """Have the probe wait before it does what it is told next.

        Clears `can_wait` where the probe does not know how; that is plain with its next answer.
        """
        self._access(self._link.wait, min(round(seconds * 1e6), _LONGEST_WAIT), self)

    def read_dp(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        return self._read_one(READ | DP_ACC | addr & _REGISTER, now)

    def read_ap(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        return self._read_one(READ | AP_ACC | addr & _REGISTER, now)

    def read_ap_multiple(
        self, addr: int, count: int = 1, now: bool = True
    ) -> Sequence[int] | Callable[[], Sequence[int]]:
        found = self._read(READ | AP_ACC | addr & _REGISTER, count)
        return found() if now else found

    def write_dp(self, addr: int, data: int) -> None:
        self._access(self._link.line_up, WRITE | DP_ACC | addr & _REGISTER, 1, _packed_one(data))

    def write_ap(self, addr: int, data: int) -> None:
        self._access(self._link.line_up, WRITE | AP_ACC | addr & _REGISTER, 1, _packed_one(data))

    def write_ap_multiple(self, addr: int, values: Sequence[int]) -> None:
        request = WRITE | AP_ACC | addr & _REGISTER
        self._access(self._link.line_up, request, len(values), _packed(values))

    def _read_one(self, request: int, now: bool) -> int | Callable[[], int]:
        found = self._read(request, 1)
        return found()[0] if now else lambda: found()[0]

    def _read(self, request: int, count: int) -> Callable[[], Sequence[int]]:
        transfer = self._access(self._link.line_up, request, count)
        return lambda: self._access(transfer.get_result)

    def _access(self, access: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return access(*arguments)
        except DAPAccess.Error as error:
            raise self._convert_exception(error) from error


def _packed(values: Sequence[int]) -> bytes:
    """Words as they travel: 32 bits of whatever is given, as pyOCD has it."""
    if isinstance(values, memoryview):
        return values.tobytes()
    try:
        return struct.pack(f"<{len(values)}I", *values)
    except struct.error:
        return b"".join(map(_packed_one, values))


def _packed_one(value: int) -> bytes:
    return (value & _WORD_MASK).to_bytes(4, "little")


class _QuickQueue(DAPAccessCMSISDAP):  # type: ignore[misc]  # pyOCD is untyped
    """What waits to be sent, and what was sent and waits for its answer."""

    _crnt_cmd: Any  # a `_Packet`

    def line_up(self, request: int, count: int, words: bytes = b"") -> _Words | None:
        """So many of one request; what is read comes in time."""
        with self._lock:
            transfer = None
            if request & READ:
                transfer = _Words(self, 0, count, request, None)
                self._transfer_list.append(transfer)
            start = 0
            while start < count:
                packet = self._crnt_cmd
                size = packet.room_for(count - start, request)
                if size:
                    packet.take(size, request, words[4 * start : 4 * (start + size)])
                    start += size
                if not size or packet.is_full():
                    self._send_packet()
            if not self._deferred_transfer:
                self.flush()
            return transfer

    def wait(self, microseconds: int, probe: QuickProbe) -> None:
        with self._lock:
            self._send_packet()
            self._send(_Wait(microseconds, probe))

    def _write(
        self, dap_index: int, count: int, request: int, words: Sequence[int] | None
    ) -> _Words | None:
        """For what pyOCD itself lines up."""
        return self.line_up(request, count, _packed(words) if words else b"")

    def _init_deferred_buffers(self) -> None:
        super()._init_deferred_buffers()
        self._crnt_cmd = _Packet(self._packet_size)

    def _send_packet(self) -> None:
        with self._lock:
            if self._crnt_cmd.get_empty():
                return
            self._send(self._crnt_cmd)
            self._crnt_cmd = _Packet(self._packet_size)

    def _send(self, packet: _Packet | _Wait) -> None:
        if len(self._commands_to_read) >= self._interface.get_packet_count():
            self._read_packet()
        data = packet.encode_data()
        try:  # pyOCD's drivers for HID put something before or behind it
            self._interface.write(data if self._interface.is_bulk else list(data))
        except Exception as error:
            self._abort_all_transfers(error)
            raise
        self._commands_to_read.append(packet)

    def _read_packet(self) -> None:
        with self._lock:
            packet = self._commands_to_read.popleft()
            try:
                words = packet.decode_data(self._interface.read())
            except Exception as error:
                self._abort_all_transfers(error)
                raise
            # A read may be spread over packets, and a packet have the answers to many.
            found = self._command_response_buf
            found += words
            done = 0
            while done < len(found):
                end = done + self._transfer_list[0].get_data_size()
                if end > len(found):
                    break
                self._transfer_list.popleft().add_response(found[done:end])
                done = end
            del found[:done]


class _Words(_Transfer):  # type: ignore[misc]  # pyOCD is untyped
    """What one access will have read."""

    def add_response(self, data: bytes) -> None:
        self._result = struct.unpack(f"<{self.transfer_count}I", data)


class _Packet(_Command):  # type: ignore[misc]  # pyOCD is untyped
    """A DAP_TransferBlock while all that it holds is the same request, else a DAP_Transfer."""

    _size: int
    _read_count: int
    _write_count: int
    _block_allowed: bool
    _block_request: int | None
    _data: list[tuple[int, int, bytes]]
    _data_encoded: bool

    def room_for(self, count: int, request: int) -> int:
        """How many of `count` requests this packet, and the answer to it, can hold besides."""
        reads, writes = self._read_count, self._write_count
        if self._block_allowed and self._block_request in (None, request):
            free = (
                (self._size - 4) // 4 - reads if request & READ else (self._size - 5) // 4 - writes
            )
            return min(count, free)
        room = self._room_for_reads() if request & READ else self._room_for_writes()
        return max(0, min(count, room, _MOST_REQUESTS - reads - writes))

    def _room_for_reads(self) -> int:
        """Of a DAP_Transfer: a byte there, and a word back."""
        out = self._size - 3 - self._read_count - 5 * self._write_count
        return min(out, (self._size - 3) // 4 - self._read_count)

    def _room_for_writes(self) -> int:
        return (self._size - 3 - self._read_count - 5 * self._write_count) // 5

    def take(self, count: int, request: int, words: bytes) -> None:
        if self._block_request is None:
            self._block_request = request
        elif request != self._block_request:
            self._block_allowed = False
        if request & READ:
            self._read_count += count
        else:
            self._write_count += count
        self._data.append((count, request, words))

    def is_full(self) -> bool:
        if self._block_allowed:
            reads, writes = (self._size - 4) // 4, (self._size - 5) // 4
            return self._read_count == reads or self._write_count == writes
        return self._room_for_reads() == 0 or self._room_for_writes() == 0

    def encode_data(self) -> bytes | bytearray:
        self._data_encoded = True
        count = self._read_count + self._write_count
        if self._block_allowed:
            head = struct.pack("<BBHB", _TRANSFER_BLOCK, 0, count, self._block_request)
            return head + b"".join([words for _, _, words in self._data])
        packet = bytearray((_TRANSFER, 0, count))
        for count, request, words in self._data:
            if count == 1:
                packet.append(request)
                packet += words
            elif request & READ:
                packet += bytes((request,)) * count
            else:
                many = bytearray((request,)) * (5 * count)
                for lane in range(4):
                    many[lane + 1 :: 5] = words[lane::4]
                packet += many
        return packet

    def decode_data(self, data: Sequence[int]) -> bytes:
        """The words that were read.

        Raises: what pyOCD makes of an answer that is not as it should be.
        """
        answer = bytes(data)
        count = self._read_count + self._write_count
        if self._block_allowed:
            head = struct.pack("<BHB", _TRANSFER_BLOCK, count, _ACK_OK)
        else:
            head = bytes((_TRANSFER, count, _ACK_OK))
        if answer.startswith(head):
            return answer[len(head) : len(head) + 4 * self._read_count]
        return bytes(super().decode_data(answer))


class _Wait:
    """A DAP_Delay in the queue."""

    def __init__(self, microseconds: int, probe: QuickProbe) -> None:
        self._microseconds = microseconds
        self._probe = probe

    def encode_data(self) -> bytes:
        return struct.pack("<BH", _DELAY, self._microseconds)

    def decode_data(self, data: Sequence[int]) -> bytes:
        if data[0] not in (_DELAY, _NOT_IMPLEMENTED):
            raise DAPAccess.TransferError(f"the answer to a DAP_Delay is for {data[0]:#04x}")
        self._probe.can_wait &= bytes(data[:2]) == bytes((_DELAY, 0))
        return b""
