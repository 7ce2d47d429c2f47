"""The two servers, each on a fresh board in this process, so that one can look behind the probe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyocd.core.memory_map import FlashRegion, RamRegion
from pyocd.core.session import Session
from pyocd.gdbserver.gdbserver import GDBServer

from benchmark.cases import BLOCK, NOR, SWD_HZ
from benchmark.peer_loader import PAGE_SIZE, algorithm
from gdbserver.chip.stm32h743 import AXI_SRAM
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.loader.own import builtin
from gdbserver.sim.options import DEFAULT_PINS
from gdbserver.target.probes import find_probe
from gdbserver.target.target import Target
from gdbserver.testing.server import Server

OURS, PEER = "stm32-gdbserver", "pyOCD"

OnStep = Callable[[Step, float], None]


@dataclass(frozen=True)
class Serving:
    """A server that waits for GDB, and the probe below it."""

    address: str
    probe: Any


class _Watched(Programmer):
    """Tells each step with the board's time."""

    def __init__(self, target: Target, on_step: OnStep) -> None:
        super().__init__(target, [builtin(DEFAULT_PINS)])
        self._probe: Any = target.link.probe
        self._on_step = on_step

    # A worker takes methods from the class; here a step can be seen at the moment when it happens.
    def _run(self, lanes: Sequence[Any]) -> Iterator[Step]:
        for step in super()._run(lanes):
            self._on_step(step, self._probe.monotonic())
            yield step


@contextmanager
def ours(link: str, on_step: OnStep = lambda step, seconds: None) -> Iterator[Serving]:
    machines: list[Machine] = []

    def open_machine() -> Machine:
        target = Target.open(f"sim:{link}", frequency=SWD_HZ)
        programmer = _Watched(target, on_step)
        programmer.describe_external()  # as the command does before it serves
        machines.append(Machine(target, programmer))
        return machines[0]

    with Server(open_machine) as server:
        yield Serving(server.address, machines[0].target.link.probe)


@contextmanager
def peer(link: str, on_step: OnStep = lambda step, seconds: None) -> Iterator[Serving]:
    """pyOCD's gdbserver with its own algorithm for internal flash, and with ours for the NOR."""
    for name in ("pyocd", "gdbserver.sim"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    probe = find_probe(f"sim:{link}")
    options = {
        "target_override": "stm32h743xx",
        "connect_mode": "under-reset",
        "frequency": SWD_HZ,
        "reset.hold_time": 0.001,
        "reset.post_delay": 0.001,
        "hide_programming_progress": True,
        "gdbserver_port": 0,
        "telnet_port": 0,
        "persist": True,
    }
    session = Session(probe, options=options)
    session.target.memory_map.add_region(
        FlashRegion(
            name="qspi",
            start=NOR.start,
            length=len(NOR),
            sector_size=BLOCK,
            page_size=PAGE_SIZE,
            algo=algorithm(),
        )
    )
    session.target.memory_map.add_region(  # which pyOCD's own map leaves out
        RamRegion(name="axi_sram", start=AXI_SRAM.start, length=len(AXI_SRAM))
    )
    with session:
        server = GDBServer(session, core=0)
        server.start()
        try:
            yield Serving(f"localhost:{server.port}", probe)
        finally:
            server.stop()


SERVERS: dict[str, Callable[..., Any]] = {OURS: ours, PEER: peer}
