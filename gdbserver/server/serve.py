"""Listen; who is in control; signals.

The port is taken before the probe is touched: if another server has it, that one may be in the
middle of debugging the same board.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from gdbserver.errors import CannotListen, GdbServerError
from gdbserver.server.control import Control
from gdbserver.server.observer import Observer
from gdbserver.server.session import Session
from gdbserver.server.worker import Bench, Machine, owning

__all__ = ["Machine", "Options", "serve", "serve_clients"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """Where to listen, and when to stop."""

    host: str = "127.0.0.1"
    port: int = 61234
    persistent: bool = False
    """Whether to go on when the last client has left."""
    leave_halted: bool = False
    """Whether the core stays halted when its client has left."""
    erase_all: bool = False
    """Whether a download erases the whole of each device that it goes to."""
    init_external: bool = False
    """Whether `monitor reset` makes the external flash readable, as `monitor reset init` does."""
    observer: Observer = field(default_factory=Observer)


def serve(
    open_machine: Callable[[], Machine],
    *,
    host: str = "127.0.0.1",
    port: int = 61234,
    persistent: bool = False,
    leave_halted: bool = False,
    erase_all: bool = False,
    init_external: bool = False,
    observer: Observer | None = None,
    on_listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until the last client has left, or for ever if `persistent`, or until a signal.

    `open_machine` runs in a thread.  The machine is closed on the way out, whatever the way.
    `on_listening` is told the port as soon as a client is welcome; 0 picks one.  With
    `leave_halted` the core stays halted when its client has left.  For the others see `Options`.

    Raises:
        CannotListen: the port is in use, or the address is not ours.
        GdbServerError: the machine could not be opened.
    """
    options = Options(
        host, port, persistent, leave_halted, erase_all, init_external, observer or Observer()
    )
    trio.run(serve_clients, open_machine, options, on_listening)


async def serve_clients(
    open_machine: Callable[[], Machine], options: Options, on_listening: Callable[[int], None]
) -> None:
    """`serve`, inside an event loop."""
    listeners = await _listen(options.host, options.port)
    failure: GdbServerError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
        try:
            async with owning(open_machine) as bench:
                house = _House(bench, options)
                on_listening(listeners[0].socket.getsockname()[1])
                await house.keep(listeners)
        except GdbServerError as error:
            failure = error  # a nursery would wrap it in a group
        finally:
            for listener in listeners:
                listener.socket.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
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


# A terminal that is closed says SIGHUP, where there are terminals that do.
_ENDINGS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(*_ENDINGS) as signals:
        async for number in signals:
            log.info("%s: closing", signal.Signals(number).name)
            scope.cancel()


class _House:
    """Welcomes connections, and closes when the last client has gone."""

    def __init__(self, bench: Bench, options: Options) -> None:
        self._bench = bench
        self._options = options
        self._control = Control()
        self._empty = trio.Event()

    async def keep(self, listeners: list[trio.SocketListener]) -> None:
        """Return when there is nobody left to serve; if persistent, never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._welcome, listeners)
            await self._empty.wait()
            nursery.cancel_scope.cancel()

    async def _welcome(self, stream: trio.SocketStream) -> None:
        """Serve one connection.  TCP_NODELAY is on in every `SocketStream`."""
        try:
            name = "{}:{}".format(*stream.socket.getpeername()[:2])
        except OSError:
            return  # it has gone already
        session = Session(
            stream,
            self._bench,
            self._control,
            name=name,
            leave_halted=self._options.leave_halted,
            erase_all=self._options.erase_all,
            init_external=self._options.init_external,
            observer=self._options.observer,
        )
        try:
            was_client = await session.run()
        except Exception:
            # A bug.  It ends this session, whose clean-up has run, and not the other clients'.
            log.critical("%s: session ended by a bug in this program", name, exc_info=True)
            was_client = True
        if was_client and not self._options.persistent and not self._control.clients:
            self._empty.set()
