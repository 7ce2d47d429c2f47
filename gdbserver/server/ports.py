"""Where clients come from: a TCP port, a Unix socket, or the pipe of a GDB that started us.

Nothing here needs an event loop, so all of it can be had before there is one.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gdbserver.errors import CannotListen, UsageError

_WAITING = 128
"""Connections that the system keeps until somebody welcomes them."""


@contextmanager
def taken(host: str, port: int, path: Path | None) -> Iterator[list[socket.socket]]:
    """A TCP port, or a Unix socket at `path`, as long as the block lasts: who connects waits.

    Raises:
        CannotListen: it is in use, or not ours.
    """
    sockets = _on_tcp(host, port) if path is None else [_on_unix(path)]
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()
        if path is not None:
            _remove(path)


def _on_tcp(host: str, port: int) -> list[socket.socket]:
    """One for each address that the host has; with port 0 the first only, as each has its own."""
    with ExitStack() as undo:
        sockets: list[socket.socket] = []
        unsupported: OSError | None = None
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                if sockets and port == 0:
                    break
                try:
                    listener = socket.socket(family, kind, protocol)
                except OSError as error:
                    if error.errno != errno.EAFNOSUPPORT:
                        raise
                    unsupported = error  # a name has addresses of either family, a system not
                    continue
                sockets.append(undo.enter_context(listener))
                if sys.platform != "win32":  # where it would let two servers have one port
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
                listener.listen(_WAITING)
            if unsupported is not None and not sockets:
                raise unsupported
        except OSError as error:
            raise CannotListen(host, port, error) from None
        undo.pop_all()
    return sockets


def _on_unix(path: Path) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("this system has no Unix sockets")
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        listener.listen(_WAITING)
    except OSError as error:
        listener.close()
        raise CannotListen(f"unix:{path}", None, error) from None
    return listener


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


def standard_descriptors() -> tuple[int, int]:
    """Descriptors of standard input and output, for nobody but a client.

    From now on descriptor 1 is standard error: what anybody prints, ourselves included, cannot
    get in between.

    Raises: UsageError, where descriptors cannot be waited for.
    """
    if sys.platform == "win32":
        raise UsageError("--stdio does not work on Windows")
    sys.stdout.flush()
    descriptors = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    return descriptors
