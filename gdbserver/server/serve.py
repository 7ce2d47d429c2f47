"""Listen; who is in control; signals.  What comes before there is an event loop is in `start`."""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio

from gdbserver.errors import GdbServerError
from gdbserver.flash.machine import Machine
from gdbserver.server.control import Control
from gdbserver.server.listening import Prompt, listening, piped, welcoming
from gdbserver.server.rtt import RttPorts
from gdbserver.server.semihosting import SemihostingHost
from gdbserver.server.session import Session
from gdbserver.server.start import ENDINGS, Endpoint, Options
from gdbserver.server.swo import SwoPorts
from gdbserver.server.worker import Workers, lending

log = logging.getLogger(__name__)


def run(
    machine: Machine,
    endpoint: Endpoint,
    options: Options,
    noted: Sequence[int],
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """`serve_clients`, and an event loop around it."""
    trio.run(serve_clients, machine, endpoint, options, noted, on_listening)


async def serve_clients(
    machine: Machine,
    endpoint: Endpoint,
    options: Options,
    noted: Sequence[int] = (),
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Serve until the last client has left, or for ever if persistent, or until a signal.

    `noted` are signals that came before.  `on_listening` is told the port when all others are
    open, too.

    Raises:
        CannotListen: one of the others is in use.
        ProbeError: the probe has no SWO.
    """

    async def work(workers: Workers) -> None:
        server = _Server(workers, options)
        async with server.channels():
            if on_listening is not None:
                on_listening(endpoint.port)
            if endpoint.pipe is not None:
                async with piped(endpoint.pipe) as stream:
                    await server.serve(stream, "standard input")
            else:
                await server.keep(welcoming(endpoint.sockets))

    # Ctrl-C in the terminal of a GDB that has started us is meant for GDB, which tells us.
    endings = [n for n in ENDINGS if endpoint.pipe is None or n != signal.SIGINT]
    await _until_signal(machine, work, endings, noted)


@asynccontextmanager
async def serving(workers: Workers, options: Options) -> AsyncIterator[int]:
    """Serve in the background of the block, for a program that has a server in it: the port.

    Signals are that program's business, and so is the machine.
    """
    server = _Server(workers, options)
    async with (
        listening(options.host, options.port, options.path) as listeners,
        server.channels(),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.keep, listeners)
        yield 0 if options.path else listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _until_signal(
    machine: Machine,
    work: Callable[[Workers], Awaitable[None]],
    endings: Sequence[signal.Signals],
    noted: Sequence[int],
) -> None:
    """Work with a machine, and close it, whatever ends the work."""
    failure: GdbServerError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope, endings, noted)
        try:
            async with lending(machine) as workers:
                await work(workers)
        except GdbServerError as error:
            failure = error  # a nursery would wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _cancel_on_signal(
    scope: trio.CancelScope, endings: Sequence[signal.Signals], noted: Sequence[int]
) -> None:
    """Cancel at one of `endings`; the others are heard, and nothing follows."""
    with trio.open_signal_receiver(*ENDINGS) as signals:
        for number in noted:
            signal.raise_signal(number)
        async for number in signals:
            if number in endings:
                log.info("%s: closing", signal.Signals(number).name)
                scope.cancel()


class _Server:
    """Welcomes connections, and closes when the last client has gone."""

    def __init__(self, workers: Workers, options: Options) -> None:
        self._workers = workers
        self._options = options
        self._control = Control()
        self._empty = trio.Event()
        self._numbers = itertools.count(1)
        self._session = partial(
            Session,
            workers=workers,
            control=self._control,
            leave_halted=options.leave_halted,
            erase_all=options.erase_all,
            init_external=options.init_external,
            observer=options.observer,
            semihosting=SemihostingHost(options.semihosting_dir),
            program=options.program,
        )

    async def keep(self, listeners: list[trio.SocketListener]) -> None:
        """Return when there is nobody left to serve; if persistent, never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._welcome, listeners)
            await self._empty.wait()
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def channels(self) -> AsyncIterator[None]:
        """What the program says by RTT and SWO, where it is wanted, at ports of its own."""
        options, target = self._options, self._workers.target
        host = "localhost" if options.path or options.stdio else options.host
        async with AsyncExitStack() as stack:
            if options.rtt_port is not None:
                port, program = options.rtt_port, options.program
                channels = RttPorts(target, self._control, host, port, program)
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
        async with Prompt.instead_of(stream) as prompt:
            await self.serve(prompt, name)

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
