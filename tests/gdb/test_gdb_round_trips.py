"""What GDB's commands cost on the link, from the command to the next prompt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import round_trips
from gdb_session import debugging

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from benchmark.trips import TARGETS


@pytest.mark.parametrize(("link", "most"), [("cmsis-dap-v2", 28), ("stlink-v3", 69)])
def test_opening_and_the_first_connect_take_no_more_transactions_than(
    drills_elf: Path, link: str, most: int
) -> None:
    with (
        debugging(drills_elf, f"sim:{link}", connect=False, loaders=[]) as here,
        round_trips.Prompt("gdb-multiarch", drills_elf) as prompt,
    ):
        prompt.do(f"target extended-remote {here.server.address}")
        assert here.machine.target.link.probe.counters.transactions <= most


@pytest.mark.parametrize("link", TARGETS)
def test_no_command_takes_more_transactions_than(drills_elf: Path, link: str) -> None:
    with debugging(drills_elf, f"sim:{link}", connect=False, loaders=[]) as here:
        counters = here.machine.target.link.probe.counters
        costs = round_trips.measure(
            here.server.address, drills_elf, lambda: int(counters.transactions)
        )
    assert costs.keys() == TARGETS[link].keys()
    assert {name: cost for name, cost in costs.items() if cost > TARGETS[link][name]} == {}
