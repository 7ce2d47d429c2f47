"""The one file that a client may read here: the program that the server was told of.

GDB manual, "Host I/O Packets": with it a GDB that was given no file has the symbols at once, on
whatever machine it runs.  All else on this machine is out of reach: other names do not exist, and
nothing is opened for writing.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import assert_never

import trio

from gdbserver.program.known import KnownProgram
from gdbserver.rsp import commands, replies
from gdbserver.rsp.packets import MAX_PACKET

_FIRST = 3  # a descriptor; these look like those of any program
_READ_ONLY = 0
_MOST = 16
_LONGEST_READ = (MAX_PACKET - 32) // 2  # escapes may double it


class Files:
    """What one client has open."""

    def __init__(self, program: KnownProgram | None) -> None:
        self._program = program
        self._open: dict[int, bytes] = {}

    async def answer(self, command: commands.FileCommand) -> bytes:
        """Nothing, as to a packet that is not known, where the server was told of no program."""
        if self._program is None:
            return replies.NOTHING
        try:
            return await self._carry_out(self._program, command)
        except OSError as error:
            return replies.file_error(error.errno or errno.EIO)

    async def _carry_out(self, program: KnownProgram, command: commands.FileCommand) -> bytes:
        match command:
            case commands.ChooseFileSystem():
                return replies.file_result(0)  # there is one, whichever process is meant
            case commands.OpenFile(name, flags):
                if name != os.fsencode(program.path):
                    raise OSError(errno.ENOENT, "it is not the program")
                if flags != _READ_ONLY:
                    raise OSError(errno.EACCES, "it may only be read")
                contents = await trio.to_thread.run_sync(program.contents)
                return replies.file_result(self._hold(contents))
            case commands.ReadFile(descriptor, count, offset):
                contents = self._contents(descriptor)
                part = contents[offset : offset + min(count, _LONGEST_READ)]
                return replies.file_result(len(part), part)
            case commands.FileStatus(descriptor):
                # How it was built since is news to a GDB that asks whether to read it again.
                built, _ = program.stamp() or (0, 0)
                return _status(len(self._contents(descriptor)), built // 1_000_000_000)
            case commands.CloseFile(descriptor):
                self._contents(descriptor)
                del self._open[descriptor]
                return replies.file_result(0)
            case _:
                assert_never(command)

    def _hold(self, contents: bytes) -> int:
        if len(self._open) >= _MOST:
            raise OSError(errno.ENFILE, "too many are open")
        descriptor = next(n for n in range(_FIRST, _FIRST + _MOST) if n not in self._open)
        self._open[descriptor] = contents
        return descriptor

    def _contents(self, descriptor: int) -> bytes:
        if descriptor not in self._open:
            raise OSError(errno.EBADF, "it is not open")
        return self._open[descriptor]


def _status(size: int, modified: int) -> bytes:
    status = replies.file_status(stat.S_IFREG | 0o444, size, modified)
    return replies.file_result(len(status), status)
