"""Semihosting for a debugged program: its calls are answered while the client waits for a stop.

What the program prints goes to the client's console, what is typed there comes back through GDB's
File-I/O, and files are those of a folder, or with ``monitor semihosting fileio``, of GDB's own
machine.  A call is no stop; only the program's end is one.  GDB manual, "File-I/O Remote Protocol
Extension", "The Ctrl-C Message".

Rule 1: a `SemihostingHost` is the program's, and outlives a client: a handle that was opened
under one is good under the next.  A `SemihostingService` is a client's.
Rule 2: a call that Ctrl-C interrupts has not happened: the program asks again when it goes on.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

from gdbserver.rsp import commands, replies
from gdbserver.rsp.packets import Disconnected, Interrupt, Packet
from gdbserver.server.client import Client
from gdbserver.server.running import Running
from gdbserver.server.worker import Worker
from gdbserver.target.host_files import (
    Answer,
    Done,
    FileIo,
    Files,
    Folder,
    GdbConsole,
    GdbFiles,
    NoFiles,
    Nothing,
    Request,
    Work,
    advance,
)
from gdbserver.target.semihosting import APPLICATION_EXIT, Exit, Semihosting, stands_at_call
from gdbserver.target.stop import SIGINT, SIGTRAP, StopKind, StopReason
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

Mode = Literal["on", "off", "fileio"]
_PRINTED: Final = 0x1000
"""Bytes of output in one packet."""
_MEANINGS: Final = {
    "on": "on; its files are {files}",
    "off": "off: a BKPT 0xAB stops the program",
    "fileio": "on; its files are those of GDB's machine",
}


class SemihostingHost:
    """A program's semihosting, whoever debugs it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.mode: Mode = "on"
        self.said = bytearray()
        """What the program has printed, and nobody has been told yet."""
        self._folder = folder
        self._resets = 0
        self._used = False
        console = GdbConsole(lambda data, error: self.said.extend(data))
        self._semihosting = Semihosting(console, self._files())

    def _files(self) -> Files:
        if self.mode == "fileio":
            return GdbFiles()
        if self._folder is not None:
            return Folder(self._folder)
        return NoFiles("start the server with --semihosting-dir, or: monitor semihosting fileio")

    def choose(self, mode: Mode) -> None:
        self.mode = mode
        self._semihosting.files = self._files()

    def describe(self) -> str:
        files = f"in {self._folder}" if self._folder else "out of its reach"
        return "semihosting is " + _MEANINGS[self.mode].format(files=files)

    def begin(self, target: Target) -> Work[Exit | None]:
        """Serve the call that the program stands at."""
        if not self._used:
            self._used = True
            log.info(
                "the program uses semihosting (BKPT 0xAB), and is served; to see it stop"
                " there instead: monitor semihosting off"
            )
        if target.resets != self._resets:
            self._resets = target.resets
            self._semihosting.close()
        return self._semihosting.serve(target)


def _go_on(_target: Target, work: Work[Exit | None], answer: Answer) -> Request | Done[Exit | None]:
    return advance(work, answer)


class _Interrupted(Exception):
    """The user does not want to wait for this call any longer."""


class SemihostingService:
    """Serves the calls of the program for one client.

    `answer` answers a packet that is no reply of ours: GDB reads and writes memory itself.
    """

    def __init__(
        self,
        host: SemihostingHost,
        target: Worker[Target],
        client: Client,
        running: Running,
        answer: Callable[[Packet], Awaitable[None]],
    ) -> None:
        self._host = host
        self._target = target
        self._client = client
        self._running = running
        self._answer = answer

    async def is_due(self) -> bool:
        """Whether the halted program stands at a call that has not been served."""
        return self._host.mode != "off" and await self._target.call(stands_at_call)

    async def judge(self, stop: StopReason) -> StopReason | None:
        """A call is no stop to the client, unless it is the program's end."""
        if stop.kind != "swbreak" or not await self.is_due():
            return stop
        work = await self._target.call(self._host.begin)
        try:
            ended = await self._carry_out(work)
        except _Interrupted:
            return StopReason(SIGINT, "halted", "interrupted in a semihosting call")
        finally:
            await self._target.call(lambda _: work.close())
        if ended is None:
            return None
        kind: StopKind = "exited" if ended.reason == APPLICATION_EXIT else "aborted"
        return StopReason(SIGTRAP, kind, str(ended), exit_status=ended.status)

    async def _carry_out(self, work: Work[Exit | None]) -> Exit | None:
        answer: Answer = None
        interrupted = False
        while True:
            step = await self._target.call(_go_on, work, answer)
            await self._print()
            if isinstance(step, Done):
                if interrupted and step.result is None:
                    await self._running.interrupt()
                return step.result
            answer, now = await self._ask(step)
            interrupted |= now

    async def _print(self) -> None:
        said, self._host.said = bytes(self._host.said), bytearray()
        for at in range(0, len(said), _PRINTED):
            await self._running.say(said[at : at + _PRINTED])

    async def _ask(self, request: Request) -> tuple[Answer, bool]:
        """What GDB says, and whether the user has interrupted it after that."""
        if isinstance(request, Nothing) or self._running.non_stop or self._client.error_strings:
            # LLDB has no File-I/O, and GDB none in non-stop mode.
            return OSError(errno.ENOSYS, "this debugger cannot be asked"), False
        reply = await self._file_io(request)
        # GDB 13 forgets to say that it was Ctrl-C, but nothing else interrupts it.
        if reply.result < 0 and reply.errno == errno.EINTR:
            raise _Interrupted
        if reply.result < 0:
            return OSError(reply.errno, f"GDB says that it failed ({reply.errno})"), False
        return reply.result, reply.interrupted

    async def _file_io(self, call: FileIo) -> commands.FileReply:
        await self._client.send(replies.file_call(call.call, call.parameters))
        while True:
            match event := await self._client.next_event():
                case Disconnected():
                    self._client.hear_again(event)
                    raise _Interrupted
                case Interrupt():
                    await self._running.interrupt()
                case Packet(payload):
                    match command := commands.parse(payload):
                        case commands.FileReply():
                            return command
                        case commands.Continue() | commands.Step():
                            log.warning("%s: ignored %.80r", self._client.name, payload)
                        case _:
                            await self._answer(event)
