"""What `ports` are to an event loop."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import trio

from gdbserver.server.ports import taken

_AT_ONCE = 0x10000  # bytes: GDB's packets have up to twice as many


@asynccontextmanager
async def listening(
    host: str, port: int, path: Path | None
) -> AsyncIterator[list[trio.SocketListener]]:
    """Listeners on a TCP port, or on a Unix socket at `path`, as long as the block lasts.

    Raises:
        CannotListen: it is in use, or not ours.
    """
    with ExitStack() as stack:
        # In a thread, because it may take some time to look up a name.
        sockets = await trio.to_thread.run_sync(stack.enter_context, taken(host, port, path))
        yield welcoming(sockets)


def welcoming(sockets: Iterable[socket.socket]) -> list[trio.SocketListener]:
    """Listeners on sockets that connections wait at."""
    return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]


class Prompt(trio.abc.Stream):
    """A connection, for a client that asks something new as soon as it has its answer.

    `trio.SocketStream` goes through the scheduler after all that it sends, and tries to receive
    before it waits, when nothing can be there yet.  Here what the kernel takes at once is sent
    without that, and only `receive_some` is a checkpoint each time: it makes a short exchange a
    fifth quicker.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)

    @classmethod
    def instead_of(cls, stream: trio.SocketStream) -> Self:
        """Take its socket away."""
        return cls(socket.socket(fileno=stream.socket.detach()))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        while (sent := self._send(data)) < len(data):
            data = data[sent:]
            await trio.lowlevel.wait_writable(self._socket)

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes or _AT_ONCE)
            except BlockingIOError:
                continue  # "readable" is not a promise
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()


def piped(descriptors: tuple[int, int]) -> trio.abc.Stream:
    """What a client says, and what it is told, as one stream."""
    assert sys.platform != "win32"  # there are no such descriptors
    said, told = descriptors
    return trio.StapledStream(trio.lowlevel.FdStream(told), trio.lowlevel.FdStream(said))
