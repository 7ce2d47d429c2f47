"""A target in front of a simulated board, and downloads to carry out there."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from gdbserver.chip.memory import Span
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.target.target import Target


@dataclass
class Bench:
    """A target, the board behind it, and something to program it with."""

    target: Target
    board: Any
    programmer: Programmer

    def carry_out(self, download: Download) -> list[Step]:
        return [s for s in self.programmer.carry_out(download) if s.action != "waiting"]

    def seconds(self) -> float:
        """What the board's clock says."""
        return float(self.board.clock.now) / 1e9

    def cost(self) -> int:
        """Transactions on the link so far."""
        return int(self.target.link.probe.counters.transactions)

    def contents(self, span: Span) -> bytes:
        """What a device really holds, whatever the target says."""
        if span.start >> 28 == 9:
            return bytes(self.board.nor_contents(span.start - 0x90000000, len(span)))
        return bytes(self.board.flash.contents(span))


def noise(length: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(length)


def download(*writes: tuple[int, bytes]) -> Download:
    """Writes, and before them the erases that GDB would ask for."""
    whole = Download()
    for address, data in writes:
        size = 0x20000 if address < 0x90000000 else 0x10000
        start, end = address // size * size, -(-(address + len(data)) // size) * size
        whole.erase(Span(start, end))
    for address, data in writes:
        whole.write(address, data)
    return whole
