"""Fixtures that several packages share.

Programs for the target are built once per session, and only when a test asks; a simulated
board is fresh for each test.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from hypothesis import settings

from gdbserver.sim.board import Board
from gdbserver.sim.probe import SimProbe

# How long an example takes says something about the machine, not about the code; and the same
# examples each time, so that a red run can be run again.
settings.register_profile("house", deadline=None, derandomize=True)
# `pytest --hypothesis-profile deep`: other examples each time, and many more of them.
settings.register_profile("deep", deadline=None, max_examples=3000, print_blob=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that runs in this process sets up logging; the next test must not notice."""
    loggers = [logging.getLogger(name) for name in ("", "gdbserver", "gdbserver.sim", "pyocd")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def demo_elf() -> Path:
    return support.demo()


@pytest.fixture(scope="session")
def drills_elf() -> Path:
    return support.drills()


@pytest.fixture
def probe() -> SimProbe:
    """A probe that costs next to nothing, with a fresh board on its end."""
    return SimProbe("sim:ideal")


@pytest.fixture
def board(probe: SimProbe) -> Board:
    """The board that `probe` is plugged into."""
    return probe.board
