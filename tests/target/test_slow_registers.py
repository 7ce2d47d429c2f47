"""A core whose clock is slow: DHCSR.S_REGRDY comes a while after DCRSR was written."""

from __future__ import annotations

import pytest
from target_bench import Bench

from gdbserver.errors import TargetError
from gdbserver.sim.clock import MICROSECOND
from gdbserver.target.registers import REGISTERS

NAMES = [register.name for register in REGISTERS]
DELAYS = (5, 60, 150, 400, 2000)
"""Microseconds: from less than any probe takes for an access, to more than for many."""


@pytest.fixture(params=DELAYS)
def slow(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    bench.run_to("step_2")
    bench.target.write_registers({f"d{n}": n << 32 | n for n in range(16)})
    bench.board.slow_registers(request.param * MICROSECOND)
    bench.target.step()
    return bench


def truth(bench: Bench) -> dict[str, int]:
    """What the core has, by its own account, in the registers that are read here."""
    core = bench.board.core
    return {f"r{n}": core.read_register(n) for n in range(13)} | {"pc": core.read_register(15)}


def test_registers_are_read_right(slow: Bench) -> None:
    read = slow.target.read_registers(NAMES)
    assert {name: read[name] for name in truth(slow)} == truth(slow)
    assert [read[f"d{n}"] for n in range(16)] == [n << 32 | n for n in range(16)]
    assert read["sp"] == read["msp"] == slow.board.core.read_register(17)


def test_one_register_is_read_right(slow: Bench) -> None:
    for name in ("msp", "psp", "r3", "control"):
        slow.target.step()
        expected = {"msp": 17, "psp": 18, "r3": 3, "control": 20}[name]
        value = slow.target.read_registers([name])[name]
        assert value == slow.board.core.read_register(expected) >> (24 if name == "control" else 0)


def test_registers_are_written(slow: Bench) -> None:
    values = {f"r{n}": 0x01010101 * n for n in range(13)} | {"msp": 0x20001000, "d5": 0x1234567890}
    slow.target.write_registers(values)
    assert slow.target.is_halted(), "one look later the last is written, too"
    core = slow.board.core
    assert [core.read_register(n) for n in range(13)] == [0x01010101 * n for n in range(13)]
    assert core.read_register(17) == 0x20001000
    assert (core.read_register(64 + 10), core.read_register(64 + 11)) == (0x34567890, 0x12)


def test_a_step_is_a_step(slow: Bench) -> None:
    before = slow.pc
    slow.target.step()
    stop = slow.target.poll_stop()
    assert stop is not None
    assert stop.kind == "step"
    assert slow.pc == slow.board.core.read_register(15) != before


def test_a_core_that_never_shows_them_is_told_of(bench: Bench) -> None:
    bench.run_to("step_2")
    bench.board.scs.defer = lambda action: None
    bench.target.step()
    with pytest.raises(TargetError, match=r"does not show its registers: DHCSR\.S_REGRDY stays 0"):
        bench.target.read_registers(["r8"])
