"""From a command line to the words that a client can come: port, machine, and then the loop.

The port is taken before the probe is touched: if another server has it, that one may be in the
middle of debugging the same board.

So far all of it blocks, and no event loop is needed.  That, and what a conversation takes (the
grammar of packets, `monitor`, semihosting, threads), is imported when all has been said that a
start has to say.  A client that waits to be told that it can come has to start itself then, and
takes longer; until it is welcome, the system keeps its connection.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gdbserver.flash.machine import Machine
from gdbserver.imports import uncollected
from gdbserver.server.observer import Observer
from gdbserver.server.ports import standard_descriptors, taken

if TYPE_CHECKING:
    from gdbserver.program.known import KnownProgram

# A terminal that is closed says SIGHUP, where there are terminals that do.
ENDINGS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""Signals that ask a server to end."""


@dataclass(frozen=True, slots=True)
class SwoOptions:
    """Where SWO is served, and how fast it is."""

    port: int
    """Of the packets.  0 picks one."""
    trace_hz: int
    """What output R of PLL1 gives."""
    baud: int
    text_port: int | None = None
    """Of the text, if it is wanted.  0 picks one."""


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

    @property
    def has_channels(self) -> bool:
        """Whether the program's output has ports of its own: they, too, are there first."""
        return self.rtt_port is not None or self.swo is not None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where clients come in: sockets, or a pipe."""

    sockets: list[socket.socket] = field(default_factory=list)
    pipe: tuple[int, int] | None = None
    """In place of sockets: descriptors of what the one client says, and of what it is told."""
    port: int = 0
    """0 where there are no ports."""


def serve(
    open_machine: Callable[[], Machine],
    options: Options,
    on_listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until the last client has left, or for ever if persistent, or until a signal.

    The machine is closed on the way out, whatever the way.  `on_listening` is told the port as
    soon as a client is welcome: 0 picks one, and is what it is told where there are no ports.

    Raises:
        CannotListen: the port is in use, or the address is not ours.
        GdbServerError: the machine could not be opened.
    """
    with open_endpoint(options) as endpoint, endings_noted() as noted, ExitStack() as stack:
        with uncollected():  # of what is made here, the probe's driver and so on, all stays
            machine = open_machine()
            stack.callback(machine.close)
            if not options.has_channels:
                on_listening(endpoint.port)
            from gdbserver.server.serve import run  # noqa: PLC0415  # see above
        run(machine, endpoint, options, noted, on_listening if options.has_channels else None)


@contextmanager
def open_endpoint(options: Options) -> Iterator[Endpoint]:
    """Where clients can come to, as long as the block lasts.

    Raises:
        CannotListen: the port is in use, or the address is not ours.
    """
    if options.stdio:
        yield Endpoint(pipe=standard_descriptors())
        return
    with taken(options.host, options.port, options.path) as sockets:
        yield Endpoint(sockets, port=0 if options.path else sockets[0].getsockname()[1])


@contextmanager
def endings_noted() -> Iterator[list[int]]:
    """The `ENDINGS` that came, until somebody else listens: opening a machine is not broken off."""
    noted: list[int] = []
    before = {n: signal.signal(n, lambda number, _: noted.append(number)) for n in ENDINGS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
