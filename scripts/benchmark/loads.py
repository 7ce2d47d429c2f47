"""Loads and memory images by a real GDB, through either server, and what is there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cases import Case, limit, link_seconds, noise, write_elf
from benchmark.meter import Cost, fill, reading, wrong_bytes
from benchmark.servers import SERVERS
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM, MIB
from gdbserver.flash.programmer import Step
from gdbserver.testing.gdb import Gdb

PATIENCE = 1800  # host seconds

MEMORY = AXI_SRAM
WITHIN = 1 / 0.9
"""`dump` and `restore` shall reach 90 % of what the link can do."""


@dataclass
class Result:
    """One case, over one link, by one server."""

    case: str
    link: str
    server: str
    seconds: float
    limit: float
    target: float
    transactions: int
    bytes: int
    erases: int
    cpu_per_mib: float
    """Host seconds for a MiB of image, without those of the simulated board."""
    board_cpu: float
    wrong_bytes: int
    failure: str = ""
    """What GDB said, where the server reported an error."""

    def __str__(self) -> str:
        wrong = "" if self.right else f", {self.failure or f'{self.wrong_bytes} bytes wrong'}"
        return (
            f"{self.case}, {self.link}, {self.server}: {self.seconds:.3f} s, {self.ratio:.3f} of "
            f"the limit, {self.transactions} transactions{wrong}"
        )

    @property
    def ratio(self) -> float:
        return self.seconds / self.limit

    @property
    def right(self) -> bool:
        return not self.wrong_bytes and not self.failure

    @property
    def met(self) -> bool:
        return self.ratio <= self.target and self.right


Event = tuple[Step, float]


def load(case: Case, link: str, server: str, work: Path) -> tuple[Result, list[Event]]:
    """Load a case's image; what it cost, and what was done when, in seconds since it began."""
    elf = work / "image.elf"
    write_elf(elf, case.image)
    events: list[Event] = []
    with SERVERS[server](link, lambda step, now: events.append((step, now))) as serving:
        fill(serving.probe.board, case.before)
        with Gdb(elf=elf, patience=PATIENCE) as gdb:
            gdb.connect(serving.address)
            before = reading(serving.probe)
            said = gdb.do("load")
            cost = reading(serving.probe) - before
        wrong = wrong_bytes(serving.probe.board, case.image)
    failure = "" if "Transfer rate" in said else said.strip().splitlines()[-1]
    least = limit(case, link)
    result = _result(case.name, link, server, cost, least=least, target=case.target, size=case.size)
    result.wrong_bytes, result.failure = wrong, failure
    return result, [(step, now - before.seconds) for step, now in events]


def memory_images(link: str, server: str, work: Path) -> Iterator[Result]:
    """`restore` and `dump binary memory` of all of AXI SRAM, each on a board of its own."""
    data = noise(len(MEMORY), 5)
    there, here = work / "restored.bin", work / "dumped.bin"
    there.write_bytes(data)
    for name, command, inward in (
        ("restore 512 KiB", f"restore {there} binary {MEMORY.start:#x}", False),
        ("dump 512 KiB", f"dump binary memory {here} {MEMORY.start:#x} {MEMORY.end:#x}", True),
    ):
        here.write_bytes(b"")
        with SERVERS[server](link) as serving, Gdb(patience=PATIENCE) as gdb:
            memory = _ram(serving.probe.board, MEMORY)
            if inward:
                memory[:] = data
            gdb.connect(serving.address)
            before = reading(serving.probe)
            said = gdb.do(command)
            cost = reading(serving.probe) - before
            found = here.read_bytes() if inward else bytes(memory)
        least = link_seconds(link, len(MEMORY), reading=inward)
        result = _result(name, link, server, cost, least=least, target=WITHIN, size=len(MEMORY))
        if len(found) != len(data):
            result.failure = said.strip().splitlines()[-1]
        result.wrong_bytes = sum(a != b for a, b in zip(found, data, strict=False))
        yield result


def _ram(board: Any, span: Span) -> bytearray:
    contents: bytearray = board.bus.find(span.start)[1].data
    return contents


def _result(
    name: str, link: str, server: str, cost: Cost, *, least: float, target: float, size: int
) -> Result:
    return Result(
        case=name,
        link=link,
        server=server,
        seconds=round(cost.seconds, 6),
        limit=round(least, 6),
        target=target,
        transactions=cost.transactions,
        bytes=cost.bytes,
        erases=cost.erases,
        cpu_per_mib=round(cost.cpu / (size / MIB), 3),
        board_cpu=round(cost.board_cpu, 1),
        wrong_bytes=0,
    )
