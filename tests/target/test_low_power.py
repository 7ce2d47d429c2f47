"""Programs that sleep, and take the debugger's clock with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from target_bench import Bench, load

from gdbserver.chip.stm32h743 import DBGMCU, DBGMCU_CR_OFFSET
from gdbserver.errors import AccessStalled
from gdbserver.sim.bus import Master
from gdbserver.sim.probe import SimProbe
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

WAIT = 8  # of enum drill
SYST_CSR, SCR, SLEEPDEEP = 0xE000E010, 0xE000ED10, 1 << 2
DBGMCU_CR = DBGMCU + DBGMCU_CR_OFFSET


def fall_asleep(bench: Bench, *, deeply: bool = False) -> None:
    """Run into a WFI that nothing ends."""
    bench.target.write_word(SYST_CSR, 0)
    bench.target.write_word(SCR, SLEEPDEEP if deeply else 0)
    bench.target.write_word(bench.names["drill"], WAIT)
    bench.target.resume()
    for _ in range(100):
        assert bench.target.poll_stop() is None
    assert bench.board.core.asleep


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def probe(request: pytest.FixtureRequest) -> SimProbe:
    """One that gives up waiting as real ones do."""
    return SimProbe(f"sim:{request.param},waits=80")


@pytest.fixture
def awake(probe: SimProbe, drills_elf: Path) -> Iterator[Bench]:
    names = load(probe.board, drills_elf)
    target = Target.behind(probe, connect=Connect.UNDER_RESET)
    target.reset(halt=True)
    bench = Bench(target, probe.board, names)
    bench.run_to("step_1")
    yield bench
    target.close()


@pytest.mark.parametrize("deeply", [False, True], ids=["sleep", "stop"])
@pytest.mark.parametrize("connect", [Connect.ATTACH, Connect.HALT])
def test_a_sleeping_program_is_taken_over_without_a_reset(
    awake: Bench, probe: SimProbe, connect: Connect, *, deeply: bool
) -> None:
    fall_asleep(awake, deeply=deeply)
    awake.target.close()
    assert awake.board.core.asleep
    assert not awake.board.bus.read(DBGMCU_CR, 4, Master.CORE) & 7, "we left it as we found it"
    target = Target.behind(probe, connect=connect)
    assert target.is_halted() is (connect is Connect.HALT)
    assert target.read_word(awake.names["drill"]) == WAIT
    target.halt()
    pc = target.read_registers(["pc"])["pc"]
    assert target.read_memory(pc - 2, 2) == b"\x30\xbf", "it stands behind the WFI"
    target.close()


@pytest.mark.parametrize("deeply", [False, True], ids=["sleep", "stop"])
def test_a_program_that_takes_the_clock_away_gets_it_back_and_is_told_of(
    awake: Bench, caplog: pytest.LogCaptureFixture, *, deeply: bool
) -> None:
    awake.target.write_word(DBGMCU_CR, 0)
    with caplog.at_level(logging.WARNING, "gdbserver.target"):
        fall_asleep(awake, deeply=deeply)
        awake.target.halt()
    assert awake.target.poll_stop() is not None
    assert sum("switched off debugging in low power" in m for m in caplog.messages) == 1


def test_where_nothing_keeps_the_clock_the_way_out_is_named(awake: Bench, probe: SimProbe) -> None:
    fall_asleep(awake)
    awake.target.close()
    awake.board.debug_port.aps[2].enabled = False
    with pytest.raises(AccessStalled) as caught:
        Target.behind(probe, connect=Connect.ATTACH)
    assert "connect under reset" in caught.value.hint
    Target.behind(probe, connect=Connect.UNDER_RESET).close()


def test_under_reset_a_sleeper_is_no_obstacle(awake: Bench, probe: SimProbe) -> None:
    fall_asleep(awake, deeply=True)
    awake.target.close()
    target = Target.behind(probe, connect=Connect.UNDER_RESET)
    assert target.is_halted()
    target.close()
