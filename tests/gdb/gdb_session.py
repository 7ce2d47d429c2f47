"""A real GDB, a server in a thread of this process, and the board behind it at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import builtin
from gdbserver.sim.board import DEFAULT_PINS, Board
from gdbserver.target.target import Target
from gdbserver.testing.gdb import Gdb
from gdbserver.testing.server import Server

PATIENCE = 120  # host seconds for a whole session


@dataclass
class Session:
    """What a test works with."""

    server: Server
    machine: Machine
    elf: Path
    program: str
    stack: ExitStack
    greeting: str = ""
    gdbs: list[Gdb] = field(default_factory=list)

    @property
    def gdb(self) -> Gdb:
        return self.gdbs[0]

    @property
    def board(self) -> Board:
        probe: Any = self.machine.target.link.probe
        board: Board = probe.board
        return board

    def start(self) -> Gdb:
        """One more GDB, which has the program's symbols."""
        gdb = self.stack.enter_context(Gdb(self.program, self.elf, patience=PATIENCE))
        self.gdbs.append(gdb)
        return gdb

    def connect(self) -> Gdb:
        """One more GDB, connected."""
        gdb = self.start()
        self.greeting = gdb.connect(self.server.address)
        return gdb

    def loaded(self) -> Gdb:
        """The first GDB, once it has loaded the program."""
        self.gdb.load()
        return self.gdb

    def let_run(self, seconds: float) -> None:
        """Wait until so much time has passed on the board, for which something must run there."""
        clock = self.board.clock
        until = clock.now + round(seconds * 1e9)
        self.wait_until(lambda: clock.now >= until)

    def wait_until(self, seen: Callable[[], bool]) -> None:
        """Wait for something that a session brings about on the board."""
        patience = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < patience
            time.sleep(0.001)  # the server is a thread of ours, and needs the interpreter


@contextmanager
def debugging(
    elf: Path,
    uid: str = "sim:stlink-v3",
    *,
    gdb: str = "gdb-multiarch",
    connect: bool = True,
    loaders: Sequence[LoaderFile] | None = None,
    prepare: Callable[[Board], None] = lambda board: None,
) -> Iterator[Session]:
    """A persistent server on a fresh board, and a GDB that is connected to it, or none yet."""
    sources = [builtin(DEFAULT_PINS)] if loaders is None else loaders
    machines: list[Machine] = []

    def open_machine() -> Machine:
        target = Target.open(uid)
        machines.append(Machine(target, Programmer(target, sources)))
        return machines[0]

    with Server(open_machine) as server, ExitStack() as stack:
        here = Session(server, machines[0], elf, gdb, stack)
        prepare(here.board)
        if connect:
            here.connect()
        yield here


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
