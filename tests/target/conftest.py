"""A target whose board runs `tests/firmware/drills.c`, on each kind of link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.stop import StopReason
from gdbserver.target.target import Target

LINKS = ("cmsis-dap-v1", "cmsis-dap-v2", "stlink-v2", "stlink-v3", "ideal")


@dataclass
class Bench:
    """A target, the board behind it, and the names in the program that runs there."""

    target: Target
    board: Any
    names: dict[str, int]

    def run(self) -> StopReason:
        """Resume, and poll until the core stops."""
        self.target.resume()
        return self.wait()

    def wait(self) -> StopReason:
        deadline = self.target.deadline(1.0)
        while (stop := self.target.poll_stop()) is None:
            assert not deadline.expired(), "the core does not stop"
        return stop

    def run_to(self, name: str) -> StopReason:
        """Run up to a function, by a hardware breakpoint that is gone afterwards."""
        where = self.names[name] & ~1
        self.target.set_breakpoint(BreakKind.HARDWARE, where, 2)
        stop = self.run()
        self.target.clear_breakpoint(BreakKind.HARDWARE, where, 2)
        assert self.pc == where, stop
        return stop

    @property
    def pc(self) -> int:
        return self.target.read_registers(["pc"])["pc"]

    def cost(self) -> int:
        """Transactions on the link so far."""
        return int(self.target.link.probe.counters.transactions)


def load(board: Any, elf_file: Path) -> dict[str, int]:
    """Put a program into the board's flash, as a factory would; its names and addresses."""
    with elf_file.open("rb") as stream:
        elf = ELFFile(stream)
        for segment in elf.iter_segments("PT_LOAD"):
            if segment["p_filesz"]:
                board.flash.load(segment["p_paddr"], segment.data())
        table = elf.get_section_by_name(".symtab")
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


def make_bench(uid: str, elf_file: Path) -> Iterator[Bench]:
    target = Target.open(uid)
    board = target.link.probe.board
    names = load(board, elf_file)
    target.reset(halt=True)
    yield Bench(target, board, names)
    target.close()


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def bench(request: pytest.FixtureRequest, drills_elf: Path) -> Iterator[Bench]:
    """Halted at the reset vector of the drills; on the two kinds of probe there are."""
    yield from make_bench(f"sim:{request.param}", drills_elf)


@pytest.fixture
def quick(drills_elf: Path) -> Iterator[Bench]:
    """The same on a link that costs nothing, for what does not depend on the link."""
    yield from make_bench("sim:ideal", drills_elf)
