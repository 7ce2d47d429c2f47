"""Where clients come from: a TCP port, a Unix socket, or the pipe of a GDB that started us."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from gdbserver.errors import CannotListen, UsageError


@asynccontextmanager
async def listening(
    host: str, port: int, path: Path | None
) -> AsyncIterator[list[trio.SocketListener]]:
    """Listeners on a TCP port, or on a Unix socket at `path`, as long as the block lasts.

    Raises:
        CannotListen: it is in use, or not ours.
    """
    listeners = await _on_tcp(host, port) if path is None else [await _on_unix(path)]
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()
        if path is not None:
            _remove(path)


async def _on_tcp(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        # trio wraps one error per address family when it is more than one.
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise CannotListen(host, port, reason) from None
    if port == 0:  # each address family got a port of its own
        for extra in listeners[1:]:
            extra.socket.close()
        del listeners[1:]
    return listeners


async def _on_unix(path: Path) -> trio.SocketListener:
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("this system has no Unix sockets")
    listener = trio.socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        await listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise CannotListen(f"unix:{path}", None, error) from None
    return trio.SocketListener(listener)


def _remove(path: Path) -> None:
    with suppress(OSError):  # somebody else may have tidied up
        path.unlink()


def _remove_stale(path: Path) -> None:
    """A server that was killed leaves its socket behind, and nobody answers there.

    Raises: OSError, when somebody does.
    """
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def standard_streams() -> trio.abc.Stream:
    """Standard input and output as one stream.

    The stream has descriptors of its own, and from now on descriptor 1 is standard error: what
    anybody prints, ourselves included, cannot get in between.

    Raises: UsageError, where descriptors cannot be waited for.
    """
    if sys.platform == "win32":
        raise UsageError("--stdio does not work on Windows")
    sys.stdout.flush()
    stream = trio.StapledStream(
        trio.lowlevel.FdStream(os.dup(1)), trio.lowlevel.FdStream(os.dup(0))
    )
    os.dup2(2, 1)
    return stream
