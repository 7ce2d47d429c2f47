"""A real GDB on a pipe, a server in this event loop, and the board behind it at hand."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from elftools.elf.elffile import ELFFile

from gdbserver.flash.programmer import Programmer
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import builtin
from gdbserver.server.serve import Options, serve_clients
from gdbserver.server.worker import Machine
from gdbserver.sim.board import DEFAULT_PINS, Board
from gdbserver.target.target import Target

PATIENCE = 120  # host seconds for a whole session

_DONE = "=== done ==="


class Gdb:
    """One gdb-multiarch: commands in, what it prints out."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._said = b""

    async def do(self, command: str) -> str:
        """Run a command to its end; what GDB printed meanwhile, errors included."""
        await self.begin(command)
        return await self.end()

    async def begin(self, command: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{command}\necho {_DONE}\\n\n".encode())

    async def end(self) -> str:
        return (await self.wait_for(_DONE)).removesuffix(_DONE)

    async def wait_for(self, text: str) -> str:
        """Read up to and including `text`."""
        assert self.process.stdout is not None
        while text.encode() not in self._said:
            more = await self.process.stdout.receive_some()
            assert more, f"GDB ended; it said: {self._said.decode()}"
            self._said += more
        upto, _, self._said = self._said.partition(text.encode())
        return upto.decode() + text

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal delivers it."""
        self.process.send_signal(signal.SIGINT)

    async def die(self) -> None:
        """Killed in the middle of something: its socket is closed by the system."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        await self.process.wait()
        await self.process.stdin.aclose()
        await self.process.stdout.aclose()


@dataclass
class Session:
    """What a test works with."""

    machine: Machine
    port: int
    elf: Path
    gdbs: list[Gdb] = field(default_factory=list)

    @property
    def gdb(self) -> Gdb:
        return self.gdbs[0]

    @property
    def board(self) -> Board:
        probe: Any = self.machine.target.link.probe
        board: Board = probe.board
        return board

    async def connect(self) -> Gdb:
        """One more GDB, connected."""
        process = await trio.lowlevel.open_process(
            ["gdb-multiarch", "--quiet", "--nx", str(self.elf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        gdb = Gdb(process)
        self.gdbs.append(gdb)
        for setting in ("pagination off", "confirm off", "width 0", "style enabled off"):
            await gdb.do(f"set {setting}")
        await gdb.do("set prompt")
        self.greeting = await gdb.do(f"target extended-remote localhost:{self.port}")
        return gdb


@asynccontextmanager
async def session(
    elf: Path,
    uid: str = "sim:stlink-v3",
    *,
    loaders: Sequence[LoaderFile] | None = None,
    prepare: Callable[[Board], None] = lambda board: None,
) -> AsyncIterator[Session]:
    """A persistent server on a fresh board, and a GDB that is connected to it."""
    sources = [builtin(DEFAULT_PINS)] if loaders is None else loaders
    machines: list[Machine] = []

    def open_machine() -> Machine:
        target = Target.open(uid)
        machines.append(Machine(target, Programmer(target, sources)))
        return machines[0]

    send, receive = trio.open_memory_channel[int](1)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            options = Options(port=0, persistent=True)
            nursery.start_soon(serve_clients, open_machine, options, send.send_nowait)
            port = await receive.receive()
            here = Session(machines[0], port, elf)
            prepare(here.board)
            try:
                await here.connect()
                yield here
            finally:
                with trio.CancelScope(shield=True):
                    for gdb in here.gdbs:
                        await gdb.die()
                nursery.cancel_scope.cancel()


def debug(
    body: Callable[[Session], Awaitable[None]], elf: Path, uid: str = "sim:stlink-v3", **how: Any
) -> None:
    """Run `body` with a session, in an event loop."""

    async def main() -> None:
        async with session(elf, uid, **how) as here:
            await body(here)

    trio.run(main)


def segments(elf: Path) -> list[tuple[int, bytes]]:
    """What `load` is to bring into flash, by load address."""
    with elf.open("rb") as file:
        found = ELFFile(file).iter_segments("PT_LOAD")
        return [(s["p_paddr"], s.data()) for s in found if s["p_filesz"]]


def symbol(elf: Path, name: str) -> int:
    with elf.open("rb") as file:
        (found,) = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name(name)
        value: int = found["st_value"]
        return value
