"""Fixtures that several packages share: a simulated board, and a probe on it."""

from __future__ import annotations

import pytest

from gdbserver.sim.board import Board
from gdbserver.sim.probe import SimProbe


@pytest.fixture
def probe() -> SimProbe:
    """A probe that costs next to nothing, with a fresh board on its end."""
    return SimProbe("sim:ideal")


@pytest.fixture
def board(probe: SimProbe) -> Board:
    """The board that `probe` is plugged into."""
    return probe.board
