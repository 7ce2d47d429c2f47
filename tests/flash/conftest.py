"""Benches: a target, the simulated board behind it, and a programmer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from flash_bench import Bench

from gdbserver.flash.programmer import Programmer
from gdbserver.loader.own import builtin
from gdbserver.target.target import Target

PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}


@pytest.fixture
def bench_at() -> Iterator[Callable[..., Bench]]:
    """Opens benches by the probe's id."""
    with ExitStack() as stack:

        def open_bench(uid: str, pins: dict[str, str] = PINS) -> Bench:
            target = Target.open(uid)
            stack.callback(target.close)
            return Bench(target, target.link.probe.board, Programmer(target, [builtin(pins)]))

        yield open_bench


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def bench(request: pytest.FixtureRequest, bench_at: Callable[..., Bench]) -> Bench:
    """A board with blank flash, behind each of the two kinds of probe that there are."""
    return bench_at(f"sim:{request.param}")


@pytest.fixture
def quick(bench_at: Callable[..., Bench]) -> Bench:
    """The same behind one probe only, for what does not depend on the link."""
    return bench_at("sim:cmsis-dap-v2")
