"""Semihosting: a program asks its debugger for a console, files, the time, and to be ended.

The request is an instruction, BKPT 0xAB, with the operation's number in r0 and its parameter in
r1: a value, or the address of a block of words.  The answer goes to r0, and the program goes on
behind the BKPT.  "Semihosting for AArch32 and AArch64", "The semihosting interface",
"Semihosting operations", "Feature bits".

A call is served by a generator, because not everything is done here: it yields a `FileIo` for
GDB to carry out, or `Nothing` when the console has nothing to read yet, and is sent the answer.
Who drives it may also give up in the middle: the program then stands where it stood, and asks
again when it goes on.

Rule 1: everything that comes from the program is wrong until shown otherwise.  An address, a
length, a handle or a mode that cannot be is an error to the program, never an exception here.
Rule 2: one call does a bounded amount of work, whatever lengths it names.
Rule 3: nothing is ever run for a program: SYS_SYSTEM fails.
"""

from __future__ import annotations

import errno
import logging
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gdbserver.errors import MemoryFault
from gdbserver.target.host_files import (
    MODES,
    Bytes,
    Console,
    ConsoleFile,
    Files,
    HostFile,
    Work,
)
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

BKPT_NUMBER: Final = 0xAB
APPLICATION_EXIT: Final = 0x20026
"""ADP_Stopped_ApplicationExit: the program ended as it meant to."""

MAX_HANDLES: Final = 64
MAX_NAME: Final = 4096
MAX_TEXT: Final = 0x10000  # of SYS_WRITE0, which names no length
MAX_TRANSFER: Final = 0x100000  # of one read or write; a short answer is a legal one
_TEXT_PIECE: Final = 256

FEATURES: Final = b"SHFB" + bytes([0b11])
"""Of ``:semihosting-features``: SH_EXT_EXIT_EXTENDED, SH_EXT_STDOUT_STDERR."""

TICK_FREQUENCY: Final = 1_000_000
_FAILED: Final = -1


class Op(IntEnum):
    """By the numbers in r0."""

    OPEN = 0x01
    CLOSE = 0x02
    WRITEC = 0x03
    WRITE0 = 0x04
    WRITE = 0x05
    READ = 0x06
    READC = 0x07
    ISERROR = 0x08
    ISTTY = 0x09
    SEEK = 0x0A
    FLEN = 0x0C
    TMPNAM = 0x0D
    REMOVE = 0x0E
    RENAME = 0x0F
    CLOCK = 0x10
    TIME = 0x11
    SYSTEM = 0x12
    ERRNO = 0x13
    GET_CMDLINE = 0x15
    HEAPINFO = 0x16
    EXIT = 0x18
    EXIT_EXTENDED = 0x20
    ELAPSED = 0x30
    TICKFREQ = 0x31


@dataclass(frozen=True, slots=True)
class Exit:
    """The program has ended.  `status` is as a Unix program would have it."""

    status: int
    reason: int
    """APPLICATION_EXIT, or why else it stopped."""

    def __str__(self) -> str:
        if self.reason == APPLICATION_EXIT:
            return f"the program exited with status {self.status}"
        return f"the program stopped itself: {_REASONS.get(self.reason, f'{self.reason:#x}')}"


class Semihosting:
    """What a program has open, from its start to its end."""

    def __init__(self, console: Console, files: Files, *, command_line: str = "") -> None:
        self.files = files
        self._console = console
        self._command_line = command_line.encode(errors="surrogateescape")
        self._handles: dict[int, HostFile] = {}
        self._errno = 0
        self._start: float | None = None

    def close(self) -> None:
        """The program starts anew, or is gone: what it has left open is closed."""
        handles, self._handles = self._handles, {}
        for file in handles.values():
            file.drop()
        self._errno, self._start = 0, None

    def serve(self, target: Target) -> Work[Exit | None]:
        """Serve the call that the core stands at; the result is how the program ended, if so.

        The core stays halted.  After an `Exit` it still stands at the call.
        """
        registers = target.read_registers(("r0", "r1", "pc"))
        number, parameter = registers["r0"], registers["r1"]
        if self._start is None:
            self._start = target.monotonic()
        try:
            operation = Op(number)
        except ValueError:
            log.warning("semihosting: there is no operation %#x", number)
            result: int | Exit = _FAILED
        else:
            result = yield from self._carry_out(target, operation, parameter)
        if isinstance(result, Exit):
            return result
        target.write_registers({"r0": result & 0xFFFFFFFF, "pc": registers["pc"] + 2})
        return None

    def _carry_out(self, target: Target, operation: Op, parameter: int) -> Work[int | Exit]:
        try:
            answer = _OPERATIONS[operation](self, target, parameter)
            return answer if isinstance(answer, int | Exit) else (yield from answer)
        except (MemoryFault, OSError) as error:
            self._note(operation, error)
            return _FAILED

    def _note(self, operation: Op, error: MemoryFault | OSError) -> None:
        """What went wrong: for SYS_ERRNO, and for whoever looks at the terminal."""
        if isinstance(error, MemoryFault):
            self._errno, what = errno.EFAULT, str(error)
        else:
            self._errno, what = error.errno or errno.EIO, error.strerror or str(error)
        log.info("semihosting: %s: %s", operation.name, what)

    # --- What the program passes ------------------------------------------------------------------

    def _file(self, handle: int) -> HostFile:
        if handle not in self._handles:
            raise OSError(errno.EBADF, f"no file has the handle {handle:#x}")
        return self._handles[handle]

    # --- Files ------------------------------------------------------------------------------------

    def _open(self, target: Target, block: int) -> Work[int]:
        address, mode, length = _words(target, block, 3)
        name = _name(target, address, length)
        if mode >= len(MODES):
            raise OSError(errno.EINVAL, f"there is no mode {mode}")
        if len(self._handles) >= MAX_HANDLES:
            raise OSError(errno.EMFILE, "the program has too many files open")
        file: HostFile
        if name == b":tt":
            file = ConsoleFile(self._console, mode // 4)
        elif name == b":semihosting-features":
            if mode > 1:
                raise OSError(errno.EACCES, "the features can only be read")
            file = Bytes(FEATURES)
        else:
            file = yield from self.files.open(name, address, mode)
        handle = next(n for n in range(1, MAX_HANDLES + 1) if n not in self._handles)
        self._handles[handle] = file
        return handle

    def _close(self, target: Target, block: int) -> Work[int]:
        (handle,) = _words(target, block, 1)
        file = self._file(handle)
        del self._handles[handle]
        yield from file.close()
        return 0

    def _write(self, target: Target, block: int) -> Work[int]:
        """What comes back is how much was *not* written."""
        handle, address, length = _words(target, block, 3)
        try:
            written = yield from self._file(handle).write(
                target, address, min(length, MAX_TRANSFER)
            )
        except (MemoryFault, OSError) as error:
            self._note(Op.WRITE, error)
            written = 0
        return length - written

    def _read(self, target: Target, block: int) -> Work[int]:
        """What comes back is how much was *not* read: all of it at the end of the file."""
        handle, address, length = _words(target, block, 3)
        taken = yield from self._file(handle).read(target, address, min(length, MAX_TRANSFER))
        return length - taken

    def _is_tty(self, target: Target, block: int) -> int:
        (handle,) = _words(target, block, 1)
        return int(self._file(handle).interactive)

    def _seek(self, target: Target, block: int) -> Work[int]:
        handle, position = _words(target, block, 2)
        yield from self._file(handle).seek(position)
        return 0

    def _length(self, target: Target, block: int) -> Work[int]:
        (handle,) = _words(target, block, 1)
        return (yield from self._file(handle).length())

    def _temporary_name(self, target: Target, block: int) -> int:
        address, number, length = _words(target, block, 3)
        name = b"semihosting-%d.tmp\0" % (number & 0xFF)
        if length < len(name):
            raise OSError(errno.ENAMETOOLONG, f"a temporary name does not fit {length} bytes")
        target.write_memory(address, name)
        return 0

    def _remove(self, target: Target, block: int) -> Work[int]:
        address, length = _words(target, block, 2)
        yield from self.files.remove(_name(target, address, length), address)
        return 0

    def _rename(self, target: Target, block: int) -> Work[int]:
        old, old_length, new, new_length = _words(target, block, 4)
        names = _name(target, old, old_length), _name(target, new, new_length)
        yield from self.files.rename(names[0], old, names[1], new)
        return 0

    def _is_error(self, target: Target, block: int) -> int:
        (status,) = _words(target, block, 1)
        return status >> 31

    def _last_error(self, _target: Target, _parameter: int) -> int:
        return self._errno

    # --- The console ------------------------------------------------------------------------------

    def _write_character(self, target: Target, address: int) -> int:
        self._console.write(target.read_memory(address, 1))
        return 0

    def _write_text(self, target: Target, address: int) -> int:
        self._console.write(_text(target, address))
        return 0

    def _read_character(self, target: Target, _parameter: int) -> Work[int]:
        # Below the stack pointer nothing is kept, and nothing comes to lie while the core stands.
        below = target.read_registers(("sp",))["sp"] - 4
        character = yield from self._console.read_character(target, below)
        return character[0] if character else _FAILED

    # --- Time and surroundings --------------------------------------------------------------------

    def _elapsed_seconds(self, target: Target) -> float:
        assert self._start is not None, "set by the first call"
        return target.monotonic() - self._start

    def _clock(self, target: Target, _parameter: int) -> int:
        """In hundredths of a second."""
        return int(100 * self._elapsed_seconds(target)) & 0x7FFFFFFF

    def _elapsed(self, target: Target, block: int) -> int:
        ticks = int(TICK_FREQUENCY * self._elapsed_seconds(target))
        target.write_memory(block, struct.pack("<Q", ticks))
        return 0

    def _tick_frequency(self, _target: Target, _parameter: int) -> int:
        return TICK_FREQUENCY

    def _time(self, _target: Target, _parameter: int) -> int:
        return int(time.time())

    def _system(self, target: Target, block: int) -> int:
        address, length = _words(target, block, 2)
        log.warning("semihosting: not run: %r", _name(target, address, length))
        raise OSError(errno.EPERM, "no command is ever run for a program")

    def _get_command_line(self, target: Target, block: int) -> int:
        address, length = _words(target, block, 2)
        line = self._command_line + b"\0"
        if length < len(line):
            raise OSError(errno.E2BIG, f"the command line does not fit {length} bytes")
        target.write_memory(address, line)
        target.write_memory(block + 4, struct.pack("<I", len(line) - 1))
        return 0

    def _heap_info(self, target: Target, parameter: int) -> int:
        """Zeros: where heap and stack are, the program's own linker script knows."""
        (block,) = _words(target, parameter, 1)
        target.write_memory(block, bytes(16))
        return 0

    # --- The end ----------------------------------------------------------------------------------

    def _exit(self, _target: Target, reason: int) -> Exit:
        return Exit(0 if reason == APPLICATION_EXIT else 1, reason)

    def _exit_extended(self, target: Target, block: int) -> Exit:
        try:
            reason, status = _words(target, block, 2)
        except MemoryFault as fault:
            log.warning("semihosting: EXIT_EXTENDED: %s", fault)
            return Exit(1, 0)
        if reason != APPLICATION_EXIT:
            return Exit(1, reason)
        # A Unix status has 8 bits, and what is not 0 shall not look like it.
        return Exit(status & 0xFF or int(status != 0), reason)


_Operation = Callable[[Semihosting, Target, int], "int | Exit | Work[int]"]
"""Answers at once, or after somebody else has done something."""

_OPERATIONS: Final[Mapping[Op, _Operation]] = {
    Op.OPEN: Semihosting._open,
    Op.CLOSE: Semihosting._close,
    Op.WRITEC: Semihosting._write_character,
    Op.WRITE0: Semihosting._write_text,
    Op.WRITE: Semihosting._write,
    Op.READ: Semihosting._read,
    Op.READC: Semihosting._read_character,
    Op.ISERROR: Semihosting._is_error,
    Op.ISTTY: Semihosting._is_tty,
    Op.SEEK: Semihosting._seek,
    Op.FLEN: Semihosting._length,
    Op.TMPNAM: Semihosting._temporary_name,
    Op.REMOVE: Semihosting._remove,
    Op.RENAME: Semihosting._rename,
    Op.CLOCK: Semihosting._clock,
    Op.TIME: Semihosting._time,
    Op.SYSTEM: Semihosting._system,
    Op.ERRNO: Semihosting._last_error,
    Op.GET_CMDLINE: Semihosting._get_command_line,
    Op.HEAPINFO: Semihosting._heap_info,
    Op.EXIT: Semihosting._exit,
    Op.EXIT_EXTENDED: Semihosting._exit_extended,
    Op.ELAPSED: Semihosting._elapsed,
    Op.TICKFREQ: Semihosting._tick_frequency,
}

# "SYS_EXIT (0x18)", "Entry (32-bit)": the reasons that are not an exit.
_REASONS: Final[Mapping[int, str]] = {
    0x20000: "a branch through zero",
    0x20001: "an undefined instruction",
    0x20002: "a software interrupt",
    0x20003: "a prefetch abort",
    0x20004: "a data abort",
    0x20005: "an address exception",
    0x20006: "an IRQ",
    0x20007: "a FIQ",
    0x20020: "a breakpoint",
    0x20021: "a watchpoint",
    0x20022: "a step that is complete",
    0x20023: "a run-time error",
    0x20024: "an internal error",
    0x20025: "an interruption by the user",
    0x20028: "a stack overflow",
    0x20029: "a division by zero",
    0x2002A: "something of its operating system's",
}


def stands_at_call(target: Target) -> bool:
    """Whether the halted core stands at a call that nobody has served."""
    return target.own_bkpt() == BKPT_NUMBER


def _words(target: Target, block: int, count: int) -> list[int]:
    """The fields of a parameter block; it need not be aligned."""
    return list(struct.unpack(f"<{count}I", target.read_memory(block, 4 * count)))


def _name(target: Target, address: int, length: int) -> bytes:
    if length > MAX_NAME:
        raise OSError(errno.ENAMETOOLONG, f"a name of {length} bytes")
    return target.read_memory(address, length)


def _text(target: Target, address: int) -> bytes:
    """Up to a NUL, or to where it cannot be read any more."""
    text = b""
    while len(text) < MAX_TEXT:
        # Pieces end where an aligned one would, so that none reaches over the end of a memory.
        here = address + len(text)
        try:
            piece = target.read_memory(here, _TEXT_PIECE - here % _TEXT_PIECE)
        except MemoryFault as fault:
            text, found, _ = (text + fault.readable).partition(b"\0")
            if not found and not text:
                raise
            return text
        piece, found, _ = piece.partition(b"\0")
        text += piece
        if found:
            return text
    log.warning("semihosting: WRITE0: the text at %#010x does not end", address)
    return text
