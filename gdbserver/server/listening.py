"""What `ports` are to an event loop."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from gdbserver.server.ports import taken


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


def piped(descriptors: tuple[int, int]) -> trio.abc.Stream:
    """What a client says, and what it is told, as one stream."""
    assert sys.platform != "win32"  # there are no such descriptors
    said, told = descriptors
    return trio.StapledStream(trio.lowlevel.FdStream(told), trio.lowlevel.FdStream(said))
