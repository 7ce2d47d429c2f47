"""What the steps of debugging cost on the link, by a real GDB, through either server.

Each command includes the stop that it ends with, up to the next prompt; so all that GDB asks on its
own account is counted too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from benchmark.meter import fill, reading
from benchmark.servers import SERVERS
from gdbserver.testing.gdb import Gdb

PROGRAM = Path(__file__).parents[2] / "tests/firmware/built/demo.elf"

TARGETS: Mapping[str, Mapping[str, int]] = {
    "cmsis-dap-v2": {
        "connect": 30,
        "stepi": 6,
        "next": 16,
        "finish": 20,
        "x/64xw": 4,
        "break, continue": 10,
    },
    "stlink-v3": {
        "connect": 60,
        "stepi": 70,
        "next": 200,
        "finish": 120,
        "x/64xw": 8,
        "break, continue": 60,
    },
}
"""Transactions, at most."""

# What is done: a name where it is measured, and the commands.
_SCRIPT: Sequence[tuple[str, Sequence[str]]] = (
    ("", ("tbreak main", "continue")),
    ("stepi", ("stepi",)),
    ("", ("next",)),
    ("next", ("next",)),  # over a call
    ("", ("tbreak sum_in_nor", "continue")),
    ("x/64xw", ("x/64xw 0x20000400",)),
    ("finish", ("finish",)),
    ("break, continue", ("break add", "continue")),
)


@dataclass
class Trip:
    """One command, over one link, through one server."""

    name: str
    link: str
    server: str
    transactions: int
    microseconds: int
    target: int | None

    def __str__(self) -> str:
        return f"{self.name}, {self.link}, {self.server}: {self.transactions} transactions"

    @property
    def met(self) -> bool:
        return self.target is None or self.transactions <= self.target


def round_trips(link: str, server: str) -> Iterator[Trip]:
    with SERVERS[server](link) as serving:
        with PROGRAM.open("rb") as file:
            segments = ELFFile(file).iter_segments("PT_LOAD")
            image = {s["p_paddr"]: s.data() for s in segments if s["p_filesz"]}
        fill(serving.probe.board, image)
        with Gdb(elf=PROGRAM) as gdb:

            def cost(name: str, *commands: str) -> Trip:
                before = reading(serving.probe)
                for command in commands:
                    gdb.do(command)
                spent = reading(serving.probe) - before
                target = TARGETS.get(link, {}).get(name)
                microseconds = round(spent.seconds * 1e6)
                return Trip(name, link, server, spent.transactions, microseconds, target)

            yield cost("connect", f"target extended-remote {serving.address}")
            gdb.do("monitor reset halt")
            gdb.do("flushregs")
            for name, commands in _SCRIPT:
                trip = cost(name, *commands)
                if name:
                    yield trip
