"""Listen; who is in control; signals.

The port is taken before the probe is touched: if another server has it, that one may be in the
middle of debugging the same board.

What a conversation takes (the grammar of packets, `monitor`, semihosting, threads) is imported
when all has been said that a start has to say.  A client that waits to be told that it can come
has to start itself then, and takes longer.
"""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from gdbserver.errors import GdbServerError
from gdbserver.flash.machine import Machine
from gdbserver.program.known import KnownProgram
from gdbserver.server.control import Control
from gdbserver.server.listening import listening, standard_streams
from gdbserver.server.observer import Observer
from gdbserver.server.rtt import Channels
from gdbserver.server.swo import SwoOptions, SwoPorts
from gdbserver.server.worker import Bench, owning

if TYPE_CHECKING:
    from gdbserver.server.session import Session

__all__ = ["Options", "SwoOptions", "serve", "serve_clients", "serving"]

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
    path: Path | None = None
    """A Unix socket there, in place of host and port."""
    stdio: bool = False
    """Standard input and output, in place of all that."""
    semihosting_dir: Path | None = None
    """The folder in which a program may open files."""
    rtt_port: int | None = None
    """Where RTT channel 0 is; channel n is n further, and 0 picks a port for each."""
    swo: SwoOptions | None = None
    program: KnownProgram | None = None
    """What is on the chip, for clients that have no file of it."""


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
    path: Path | None = None,
    stdio: bool = False,
    semihosting_dir: Path | None = None,
    rtt_port: int | None = None,
    swo: SwoOptions | None = None,
    program: KnownProgram | None = None,
    on_listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until the last client has left, or for ever if `persistent`, or until a signal.

    `open_machine` runs in a thread.  The machine is closed on the way out, whatever the way.
    `on_listening` is told the port as soon as a client is welcome: 0 picks one, and is what it
    is told where there are no ports.  The rest is in `Options`.

    Raises:
        CannotListen: the port is in use, or the address is not ours.
        GdbServerError: the machine could not be opened.
    """
    options = Options(
        host,
        port,
        persistent,
        leave_halted,
        erase_all,
        init_external,
        observer or Observer(),
        path,
        stdio,
        semihosting_dir,
        rtt_port,
        swo,
        program,
    )
    trio.run(serve_clients, open_machine, options, on_listening)


async def serve_clients(
    open_machine: Callable[[], Machine], options: Options, on_listening: Callable[[int], None]
) -> None:
    """`serve`, inside an event loop."""
    if options.stdio:
        await _serve_one(open_machine, options, standard_streams(), on_listening)
        return
    async with listening(options.host, options.port, options.path) as listeners:
        await _serve_all(open_machine, options, listeners, on_listening)


async def _serve_one(
    open_machine: Callable[[], Machine],
    options: Options,
    stream: trio.abc.Stream,
    on_listening: Callable[[int], None],
) -> None:
    """Serve whoever is on the other end of `stream`, until it has left."""

    async def work(bench: Bench) -> None:
        on_listening(0)
        house = _House(bench, options)
        async with stream, house.channels():
            await house.serve(stream, "standard input")

    # Ctrl-C in the terminal of a GDB that has started us is meant for GDB, which tells us.
    await _until_signal(open_machine, work, endings=[n for n in _ENDINGS if n != signal.SIGINT])


async def _serve_all(
    open_machine: Callable[[], Machine],
    options: Options,
    listeners: list[trio.SocketListener],
    on_listening: Callable[[int], None],
) -> None:
    async def work(bench: Bench) -> None:
        house = _House(bench, options)
        async with house.channels():
            on_listening(0 if options.path else listeners[0].socket.getsockname()[1])
            await house.keep(listeners)

    await _until_signal(open_machine, work, endings=_ENDINGS)


@asynccontextmanager
async def serving(bench: Bench, options: Options) -> AsyncIterator[int]:
    """Serve in the background of the block, for a program that has a server in it: the port.

    Signals are that program's business, and so is the machine.
    """
    house = _House(bench, options)
    async with (
        listening(options.host, options.port, options.path) as listeners,
        house.channels(),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(house.keep, listeners)
        yield 0 if options.path else listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _until_signal(
    open_machine: Callable[[], Machine],
    work: Callable[[Bench], Awaitable[None]],
    endings: Sequence[signal.Signals],
) -> None:
    """Work with a machine, and close it, whatever ends the work."""
    failure: GdbServerError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope, endings)
        try:
            async with owning(open_machine) as bench:
                await work(bench)
        except GdbServerError as error:
            failure = error  # a nursery would wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# A terminal that is closed says SIGHUP, where there are terminals that do.
_ENDINGS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


async def _cancel_on_signal(scope: trio.CancelScope, endings: Sequence[signal.Signals]) -> None:
    """Cancel at one of `endings`; the others are heard, and nothing follows."""
    with trio.open_signal_receiver(*_ENDINGS) as signals:
        async for number in signals:
            if number in endings:
                log.info("%s: closing", signal.Signals(number).name)
                scope.cancel()


class _House:
    """Welcomes connections, and closes when the last client has gone."""

    def __init__(self, bench: Bench, options: Options) -> None:
        self._bench = bench
        self._options = options
        self._control = Control()
        self._empty = trio.Event()
        self._numbers = itertools.count(1)

    @cached_property
    def _session(self) -> Callable[..., Session]:
        """Makes one out of a stream and the client's name."""
        from gdbserver.server.hosting import Hosting  # noqa: PLC0415  # see the module's docstring
        from gdbserver.server.session import Session  # noqa: PLC0415

        return partial(
            Session,
            bench=self._bench,
            control=self._control,
            leave_halted=self._options.leave_halted,
            erase_all=self._options.erase_all,
            init_external=self._options.init_external,
            observer=self._options.observer,
            hosting=Hosting(self._options.semihosting_dir),
            program=self._options.program,
        )

    async def keep(self, listeners: list[trio.SocketListener]) -> None:
        """Return when there is nobody left to serve; if persistent, never."""
        _ = self._session  # imported before the first client is let in
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._welcome, listeners)
            await self._empty.wait()
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def channels(self) -> AsyncIterator[None]:
        """What the program says by RTT and SWO, where it is wanted, at ports of its own."""
        options, target = self._options, self._bench.target
        host = "localhost" if options.path or options.stdio else options.host
        async with AsyncExitStack() as stack:
            if options.rtt_port is not None:
                port, program = options.rtt_port, options.program
                channels = Channels(target, self._control, host, port, program)
                await stack.enter_async_context(channels.open())
            if options.swo is not None:
                ports = SwoPorts(target, self._control, host, options.swo)
                await stack.enter_async_context(ports.open())
            yield

    async def _welcome(self, stream: trio.SocketStream) -> None:
        """Serve one connection.  TCP_NODELAY is on in every `SocketStream`."""
        try:
            peer = stream.socket.getpeername()
        except OSError:
            return  # it has gone already
        if isinstance(peer, tuple):
            name = "{}:{}".format(*peer[:2])
        else:
            name = f"connection {next(self._numbers)}"  # they all have the same address
        await self.serve(stream, name)

    async def serve(self, stream: trio.abc.Stream, name: str) -> None:
        """Serve one client."""
        try:
            was_client = await self._session(stream, name=name).run()
        except Exception:
            # A bug.  It ends this session, whose clean-up has run, and not the other clients'.
            log.critical("%s: session ended by a bug in this program", name, exc_info=True)
            was_client = True
        if was_client and not self._options.persistent and not self._control.clients:
            self._empty.set()
