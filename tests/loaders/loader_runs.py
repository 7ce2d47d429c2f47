"""Downloads through loaders from files, onto a fresh simulated board."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fixture_loaders import build

from gdbserver.chip.memory import Span
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.loader.file import LoaderFile
from gdbserver.sim.board import Board
from gdbserver.target.target import Target

NOR = 0x90000000
BANK1, BANK2 = 0x08000000, 0x08100000
BLOCK = 0x10000


@dataclass
class Run:
    """A target with loaders for its NOR, and the board behind it."""

    target: Target
    board: Board
    programmer: Programmer

    def load(self, *writes: tuple[int, bytes]) -> list[Step]:
        """Erase and write, as GDB asks for it."""
        steps = self.programmer.carry_out(download(*writes))
        return [step for step in steps if step.action != "waiting"]

    def contents(self, address: int, length: int) -> bytes:
        """What a device really holds, whatever the target says."""
        if address >= NOR:
            return self.board.nor_contents(address - NOR, length)
        return bytes(self.board.flash.contents(Span.of(address, length)))


@contextmanager
def run(*names: str, uid: str = "sim:cmsis-dap-v2") -> Iterator[Run]:
    """With these fixtures as loaders."""
    with run_files(*(build(name) for name in names), uid=uid) as here:
        yield here


@contextmanager
def run_files(*paths: Path, uid: str = "sim:cmsis-dap-v2") -> Iterator[Run]:
    target = Target.open(uid)
    try:
        loaders = [LoaderFile.load(path) for path in paths]
        yield Run(target, target.link.probe.board, Programmer(target, loaders))
    finally:
        target.close()


def noise(length: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(length)


def download(*writes: tuple[int, bytes]) -> Download:
    """Writes, and before them the erases that GDB would ask for."""
    whole = Download()
    for address, data in writes:
        size = 0x20000 if address < NOR else BLOCK
        start, end = address // size * size, -(-(address + len(data)) // size) * size
        whole.erase(Span(start, end))
    for address, data in writes:
        whole.write(address, data)
    return whole
