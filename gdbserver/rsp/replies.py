"""What we answer -> payload.  GDB manual, "Stop Reply Packets" and "Standard Replies".

Text that a client shows to its user (`error`) avoids the four bytes that framing would have to
escape: GDB undoes escapes only where a packet's own description says that it is binary.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping

OK = b"OK"
NOTHING = b""  # "I do not know this packet"

_PLAIN = str.maketrans("#$}*", ".S)x")

# S: a stop by SIGTRAP, of which no more is said.
SOMEWHERE = b"S05"

# The stop reasons of the manual that carry an address.
WATCH_KEYS = frozenset({"watch", "rwatch", "awatch"})
# Those that a client must have asked for in qSupported.
BREAK_KEYS = frozenset({"swbreak", "hwbreak"})


def error(code: int, text: str | None = None) -> bytes:
    """Enn, or with a text ``E.text``, for a client that offered ``error-message+``."""
    if text is None:
        return b"E%02x" % (code & 0xFF)
    return b"E." + " ".join(text.translate(_PLAIN).split()).encode(errors="replace")


def lldb_error(code: int, text: str) -> bytes:
    """Enn;hex, for a client that sent QEnableErrorStrings."""
    return b"E%02x;%b" % (code & 0xFF, text.encode().hex().encode())


def console(text: str | bytes) -> bytes:
    """O: output for the user, legal while the core runs or a qRcmd does."""
    raw = text.encode(errors="replace") if isinstance(text, str) else text
    return b"O" + raw.hex().encode()


def data(contents: bytes) -> bytes:
    return contents.hex().encode()


def stopped(
    signal: int,
    registers: Iterable[tuple[int, bytes]],
    reason: str | None = None,
    address: int | None = None,
    thread: int = 1,
) -> bytes:
    """T: a signal, the registers that save the client its next question, and why.

    `reason` is one of `WATCH_KEYS`, with the data's `address`, or of `BREAK_KEYS`.
    """
    reply = b"T%02x" % signal
    for number, value in registers:
        reply += b"%02x:%b;" % (number, data(value))
    reply += b"thread:%x;" % thread
    if reason in WATCH_KEYS and address is not None:
        reply += b"%b:%x;" % (reason.encode(), address)
    elif reason in BREAK_KEYS:
        reply += b"%b:;" % reason.encode()
    return reply


def exited(status: int) -> bytes:
    """W: the program has ended by itself."""
    return b"W%02x" % (status & 0xFF)


def file_call(call: str, parameters: Iterable[int | tuple[int, int]]) -> bytes:
    """F: a call for GDB to carry out; a pair is an address in memory and a length."""
    words = [f"{p:x}" if isinstance(p, int) else "{:x}/{:x}".format(*p) for p in parameters]
    return ",".join([f"F{call}", *words]).encode()


def file_result(result: int, attachment: bytes | None = None) -> bytes:
    """vFile: what came of it, and the bytes that were asked for.  In a packet they are escaped."""
    return b"F%x" % result + (b"" if attachment is None else b";" + attachment)


def file_error(number: int) -> bytes:
    """vFile: it could not be done.  GDB manual, "Errno Values": those used here are Linux's."""
    return b"F-1,%x" % number


def file_status(mode: int, size: int, modified: int) -> bytes:
    """What is known of a file; `modified` in seconds.  GDB manual, "struct stat"; big-endian."""
    owner = device = (0, 0)
    times = (modified & 0xFFFFFFFF,) * 3
    return struct.pack(">7I3Q3I", *device, mode, 1, *owner, 0, size, 1, size, *times)


def killed(signal: int) -> bytes:
    """X: there is no program any more."""
    return b"X%02x" % signal


def notification(stop_reply: bytes) -> bytes:
    """%Stop, for a client in non-stop mode."""
    return b"Stop:" + stop_reply


def threads(numbers: Iterable[int]) -> bytes:
    """qfThreadInfo: all in one go, and `l` is what comes after."""
    return b"m" + b",".join(b"%x" % number for number in numbers)


def symbol(name: str) -> bytes:
    """qSymbol: the client is asked for the value of a symbol."""
    return b"qSymbol:" + name.encode().hex().encode()


def piece(document: bytes, offset: int, length: int) -> bytes:
    """qXfer: ``m`` and a piece, or ``l`` and the last."""
    part = document[offset : offset + length]
    return (b"m" if offset + length < len(document) else b"l") + part


def checksum(crc: int) -> bytes:
    return b"C%08x" % crc


def found(address: int | None) -> bytes:
    """qSearch:memory: where, or that it is nowhere."""
    return b"0" if address is None else b"1,%x" % address


def stopped_thread(stop_reply: bytes, name: str, threads: Iterable[int]) -> bytes:
    """What LLDB likes to hear with a stop: the thread's name, and which others there are."""
    listed = b",".join(b"%x" % number for number in threads)
    return (
        stop_reply
        + b"hexname:%b;" % data(name.encode())
        + (b"threads:%b;" % listed if listed else b"")
    )


def pairs(**values: object) -> bytes:
    """LLDB's ``key:value;`` answers."""
    return "".join(f"{key}:{value};" for key, value in values.items()).encode()


# What LLDB hears here decides how it goes on; tried with 14 and 23.  Beside an ELF file armv7em and
# armv7m, whatever follows, send it into an endless loop (mended in llvm-project #221899, September
# 2026); of thumbv7em it disassembles nothing, and of thumbv7 neither udiv nor msr; and told nothing
# it has no registers where it has no ELF.  This one is true, and leaves the rest to the ELF.
_MACHINE = {"triple": b"arm--".hex(), "endian": "little", "ptrsize": 4}


def host_info() -> bytes:
    """qHostInfo.  A watchpoint of DWT stops the core when the access is done.

    It takes no patience from here (default_packet_timeout): a late vFlashDone ends it all the same.
    """
    return pairs(**_MACHINE, watchpoint_exceptions_received="after")


def process_info() -> bytes:
    """qProcessInfo: numbered as qC does."""
    return pairs(pid=1, **_MACHINE)


def threads_info(rows: Iterable[Mapping[str, object]]) -> bytes:
    """jThreadsInfo."""
    return json.dumps(list(rows), separators=(",", ":")).encode()


_BIT_REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))


def crc32(contents: bytes, crc: int = 0xFFFFFFFF) -> int:
    """The CRC of qCRC: polynomial 0x04c11db7, most significant bit first, not inverted.

    It is zlib's with every byte's and the sum's bits the other way round, which lets a
    megabyte take milliseconds.
    """
    mirrored = zlib.crc32(contents.translate(_BIT_REVERSED), _mirror(crc) ^ 0xFFFFFFFF)
    return _mirror(mirrored ^ 0xFFFFFFFF)


def _mirror(word: int) -> int:
    return int.from_bytes(word.to_bytes(4, "little").translate(_BIT_REVERSED), "big")
