"""What GDB's commands cost on the link, from the command to the next prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from gdb_session import debugging

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from benchmark.servers import OURS
from benchmark.trips import TARGETS, round_trips

TODAY: Mapping[str, Mapping[str, int]] = {
    "cmsis-dap-v2": {
        "connect": 3,
        "stepi": 3,
        "next": 10,
        "finish": 7,
        "x/64xw": 2,
        "break, continue": 8,
    },
    "stlink-v3": {
        "connect": 6,
        "stepi": 29,
        "next": 64,
        "finish": 60,
        "x/64xw": 2,
        "break, continue": 57,
    },
}
"""Transactions, at most."""


@pytest.mark.parametrize(("link", "most"), [("cmsis-dap-v2", 28), ("stlink-v3", 69)])
def test_opening_and_the_first_connect_take_no_more_transactions_than(
    drills_elf: Path, link: str, most: int
) -> None:
    with debugging(drills_elf, f"sim:{link}", loaders=[]) as here:
        assert here.machine.target.link.probe.counters.transactions <= most


@pytest.mark.parametrize("link", TODAY)
def test_no_command_takes_more_transactions_than(link: str) -> None:
    trips = {trip.name: trip for trip in round_trips(link, OURS)}
    assert trips.keys() == TODAY[link].keys() == TARGETS[link].keys()
    assert [
        str(t) for t in trips.values() if not t.met or t.transactions > TODAY[link][t.name]
    ] == []
