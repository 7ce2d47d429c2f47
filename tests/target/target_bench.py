"""A target whose board runs `tests/firmware/drills.c`, as the tests of this layer use it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
