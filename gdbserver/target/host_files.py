"""What stands behind a program's file handles: the console, a folder of this machine, or GDB.

Bytes travel between memory and file without a copy in between: a file is told *where* they are,
because GDB, when it carries out a call, reads and writes the target's memory by itself.  GDB
manual, "File-I/O Remote Protocol Extension".

Rule 1: a `Folder` gives a program what lies in that folder and nothing else: no ``..``, no
absolute name, no symbolic link that leads out, no device or pipe.
Rule 2: a file reports what goes wrong as OSError; its number is what SYS_ERRNO answers.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, NoReturn, Protocol, TypeVar

from gdbserver.errors import MemoryFault

T = TypeVar("T")

MODES: Final = ("r", "rb", "r+", "r+b", "w", "wb", "w+", "w+b", "a", "ab", "a+", "a+b")
"""By number, as SYS_OPEN has them: those of C's fopen."""

_PIECE: Final = 0x4000


@dataclass(frozen=True, slots=True)
class FileIo:
    """A call for GDB to carry out: its name, and its parameters as they travel."""

    call: str
    parameters: tuple[int | tuple[int, int], ...]
    """Numbers, and (address, length) of what is in memory."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to read yet: ask again later, or give up."""


Request = FileIo | Nothing
Answer = int | OSError | None
"""What GDB says to a `FileIo`; nothing to `Nothing`, and to begin with."""
Work = Generator[Request, int, T]


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A work is finished, and this came out."""

    result: T


def advance(work: Work[T], answer: Answer = None) -> Request | Done[T]:
    """Go on with a work up to where somebody else must act, or to its end."""
    try:
        if isinstance(answer, OSError):
            return work.throw(answer)
        return next(work) if answer is None else work.send(answer)
    except StopIteration as end:
        return Done(end.value)


class Memory(Protocol):
    """The target's, as much of it as files need."""

    def read_memory(self, address: int, length: int) -> bytes: ...
    def write_memory(self, address: int, data: bytes) -> None: ...


class HostFile(Protocol):
    """One open file."""

    interactive: bool

    def write(self, memory: Memory, address: int, length: int) -> Work[int]:
        """Write what lies at `address`; how much of it was written."""
        ...

    def read(self, memory: Memory, address: int, length: int) -> Work[int]:
        """Read to `address`; how much came, which is nothing at the end of the file."""
        ...

    def seek(self, position: int) -> Work[None]: ...
    def length(self) -> Work[int]: ...
    def close(self) -> Work[None]: ...
    def drop(self) -> None:
        """Close without a word to anybody: the program is gone."""
        ...


class Files(Protocol):
    """Where a program's files are.  `address` is where the name is, with its NUL."""

    def open(self, name: bytes, address: int, mode: int) -> Work[HostFile]: ...
    def remove(self, name: bytes, address: int) -> Work[None]: ...
    def rename(self, old: bytes, old_address: int, new: bytes, new_address: int) -> Work[None]: ...


# --- The console ----------------------------------------------------------------------------------


class Console:
    """What the user sees and types.

    `write` gets bytes and whether they are of stderr.  `read` gives what has been typed, at most
    so many bytes: ``b""`` at the end, None for "nothing yet".
    """

    def __init__(
        self,
        write: Callable[[bytes, bool], None],
        read: Callable[[int], bytes | None] = lambda count: b"",
    ) -> None:
        self._write = write
        self._read = read

    def write(self, data: bytes, *, error: bool = False) -> None:
        self._write(data, error)

    def read(self, memory: Memory, address: int, length: int) -> Work[int]:
        memory.read_memory(address, length)  # before anything that was typed is lost
        while (data := self._read(length)) is None:
            yield Nothing()
        memory.write_memory(address, data)
        return len(data)

    def read_character(self, memory: Memory, spare: int) -> Work[bytes]:
        """One byte, or none at the end; the program does not use the one at `spare`."""
        while (data := self._read(1)) is None:
            yield Nothing()
        return data


class GdbConsole(Console):
    """GDB's: what is written goes there anyway; what is typed, GDB reads into memory."""

    def read(self, memory: Memory, address: int, length: int) -> Work[int]:
        return (yield FileIo("read", (0, address, length)))

    def read_character(self, memory: Memory, spare: int) -> Work[bytes]:
        before = memory.read_memory(spare, 1)
        count = yield FileIo("read", (0, spare, 1))
        data = memory.read_memory(spare, 1)[:count]
        memory.write_memory(spare, before)
        return data


@dataclass
class ConsoleFile:
    """``:tt``: `stream` is 0 for stdin, 1 for stdout, 2 for stderr."""

    console: Console
    stream: int
    interactive: bool = True

    def write(self, memory: Memory, address: int, length: int) -> Work[int]:
        if self.stream == 0:
            raise OSError(errno.EBADF, "it was opened to be read")
        yield from ()

        def show(data: bytes) -> int:
            self.console.write(data, error=self.stream == 2)
            return len(data)

        return _from_memory(memory, address, length, show)

    def read(self, memory: Memory, address: int, length: int) -> Work[int]:
        if self.stream != 0:
            raise OSError(errno.EBADF, "it was opened to be written")
        return (yield from self.console.read(memory, address, length)) if length else 0

    def seek(self, position: int) -> Work[None]:
        yield from ()
        raise OSError(errno.ESPIPE, "the console has no positions")

    def length(self) -> Work[int]:
        yield from ()
        return 0

    def close(self) -> Work[None]:
        yield from ()

    def drop(self) -> None:
        pass


# --- Files of this machine ------------------------------------------------------------------------


class Bytes:
    """An open file of this machine, or some bytes that can be read like one."""

    interactive = False

    def __init__(self, content: bytes | io.FileIO) -> None:
        self._file = io.BytesIO(content) if isinstance(content, bytes) else content

    def write(self, memory: Memory, address: int, length: int) -> Work[int]:
        yield from ()
        if not self._file.writable():
            raise OSError(errno.EBADF, "it was opened to be read")
        return _from_memory(memory, address, length, lambda data: self._file.write(data) or 0)

    def read(self, memory: Memory, address: int, length: int) -> Work[int]:
        yield from ()
        if not self._file.readable():
            raise OSError(errno.EBADF, "it was opened to be written")
        taken = 0
        while taken < length and (data := self._file.read(min(_PIECE, length - taken))):
            memory.write_memory(address + taken, data)
            taken += len(data)
        return taken

    def seek(self, position: int) -> Work[None]:
        yield from ()
        self._file.seek(position)

    def length(self) -> Work[int]:
        yield from ()
        here = self._file.tell()
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(here)
        return end

    def close(self) -> Work[None]:
        yield from ()
        self._file.close()

    def drop(self) -> None:
        self._file.close()


class NoFiles:
    """What a program gets that may not touch any; `hint` says what would let it."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def open(self, name: bytes, address: int, mode: int) -> Work[HostFile]:
        yield from ()
        self._refuse(name)

    def remove(self, name: bytes, address: int) -> Work[None]:
        yield from ()
        self._refuse(name)

    def rename(self, old: bytes, old_address: int, new: bytes, new_address: int) -> Work[None]:
        yield from ()
        self._refuse(old)

    def _refuse(self, name: bytes) -> NoReturn:
        raise OSError(errno.EACCES, f"{os.fsdecode(name)!r} is out of reach: {self._hint}")


class Folder:
    """A folder that a program may use as it likes, and nothing outside of it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def open(self, name: bytes, address: int, mode: int) -> Work[HostFile]:
        yield from ()
        path = self.place(name)
        if path.exists() and not path.is_file():
            raise OSError(errno.EACCES, f"{os.fsdecode(name)!r} is no ordinary file")
        opened = MODES[mode].replace("b", "")
        return Bytes(io.FileIO(path, opened))

    def remove(self, name: bytes, address: int) -> Work[None]:
        yield from ()
        self._entry(name).unlink()

    def rename(self, old: bytes, old_address: int, new: bytes, new_address: int) -> Work[None]:
        yield from ()
        os.replace(self._entry(old), self._entry(new))

    def place(self, name: bytes) -> Path:
        """Where a name leads, links and all.

        Raises: OSError, where that is not in the folder.
        """
        # `Path.resolve` raises RuntimeError for links that go in circles, before Python 3.13.
        return self._inside(name, Path(os.path.realpath(self._root / self._relative(name))))

    def _entry(self, name: bytes) -> Path:
        """The entry of a folder that a name stands for; what it links to does not matter."""
        path = self._root / self._relative(name)
        entry = Path(os.path.realpath(path.parent)) / path.name
        if entry.is_dir():
            raise OSError(errno.EISDIR, f"{os.fsdecode(name)!r} is a folder")
        return self._inside(name, entry)

    def _relative(self, name: bytes) -> Path:
        path = Path(os.fsdecode(name))
        unreal = b"\0" in name or name.startswith(b":")  # names with a colon stand for no file
        if unreal or path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
            raise OSError(errno.EACCES, f"{os.fsdecode(name)!r} is no name in {self._root}")
        return path

    def _inside(self, name: bytes, path: Path) -> Path:
        if not path.is_relative_to(self._root) or path == self._root:
            raise OSError(errno.EACCES, f"{os.fsdecode(name)!r} leads out of {self._root}")
        return path


def _from_memory(memory: Memory, address: int, length: int, write: Callable[[bytes], int]) -> int:
    """Write pieces of memory as long as both sides go along; how much was written."""
    written = 0
    while written < length:
        try:
            data = memory.read_memory(address + written, min(_PIECE, length - written))
        except MemoryFault as fault:
            if fault.readable:
                written += write(fault.readable)
            if not written:
                raise
            break
        accepted = write(data)
        written += accepted
        if accepted < len(data):
            break
    return written


# --- Files of the machine that GDB runs on --------------------------------------------------------

# GDB manual, "Open Flags", "mode_t Values", "Lseek Flags".
_O_WRONLY, _O_RDWR, _O_APPEND, _O_CREAT, _O_TRUNC = 0x1, 0x2, 0x8, 0x200, 0x400
_FLAGS: Final = {
    "r": 0,
    "r+": _O_RDWR,
    "w": _O_WRONLY | _O_CREAT | _O_TRUNC,
    "w+": _O_RDWR | _O_CREAT | _O_TRUNC,
    "a": _O_WRONLY | _O_CREAT | _O_APPEND,
    "a+": _O_RDWR | _O_CREAT | _O_APPEND,
}
_PERMISSIONS: Final = 0o644
_SEEK_SET, _SEEK_CUR, _SEEK_END = 0, 1, 2


class GdbFiles:
    """Files as GDB sees them: of its machine, its user, and its current folder."""

    def open(self, name: bytes, address: int, mode: int) -> Work[HostFile]:
        flags = _FLAGS[MODES[mode].replace("b", "")]
        return GdbFile((yield FileIo("open", (_named(name, address), flags, _PERMISSIONS))))

    def remove(self, name: bytes, address: int) -> Work[None]:
        yield FileIo("unlink", (_named(name, address),))

    def rename(self, old: bytes, old_address: int, new: bytes, new_address: int) -> Work[None]:
        yield FileIo("rename", (_named(old, old_address), _named(new, new_address)))


def _named(name: bytes, address: int) -> tuple[int, int]:
    return address, len(name) + 1


@dataclass
class GdbFile:
    """One that GDB has opened."""

    descriptor: int
    interactive: bool = False

    def write(self, memory: Memory, address: int, length: int) -> Work[int]:
        return (yield FileIo("write", (self.descriptor, address, length)))

    def read(self, memory: Memory, address: int, length: int) -> Work[int]:
        return (yield FileIo("read", (self.descriptor, address, length)))

    def seek(self, position: int) -> Work[None]:
        yield FileIo("lseek", (self.descriptor, position, _SEEK_SET))

    def length(self) -> Work[int]:
        here = yield FileIo("lseek", (self.descriptor, 0, _SEEK_CUR))
        end = yield FileIo("lseek", (self.descriptor, 0, _SEEK_END))
        yield FileIo("lseek", (self.descriptor, here, _SEEK_SET))
        return end

    def close(self) -> Work[None]:
        yield FileIo("close", (self.descriptor,))

    def drop(self) -> None:
        """GDB closes what is open when its program ends."""
