"""Faults of a real program, as the client is told of them."""

from __future__ import annotations

import pytest
from target_bench import Bench

from gdbserver.chip.cortex_m import CFSR, DFSR, Demcr
from gdbserver.target.access import Write
from gdbserver.target.stop import SIGBUS, SIGFPE, SIGILL
from gdbserver.target.target import Target


def crash(bench: Bench, drill: int, function: str) -> str:
    bench.run_to("step_1")
    bench.target.write_word(bench.names["drill"], drill)
    stop = bench.run()
    assert stop.kind == "fault"
    assert stop.detail == bench.target.describe_fault()
    assert stop.signal == {3: SIGBUS, 4: SIGILL, 5: SIGFPE}[drill]
    assert bench.target.read_registers(["xpsr"])["xpsr"] & 0x1FF == 3
    start = bench.names[function] & ~1
    at = int(
        stop.detail.partition(" at ")[2][:10] or stop.detail.partition("instruction at ")[2][:10],
        16,
    )
    assert at in range(start, start + 32)
    return stop.detail


def test_a_bus_fault_names_the_address_and_the_instruction(bench: Bench) -> None:
    detail = crash(bench, 3, "bus_fault")
    assert "accessed 0x70000000; escalated to a hard fault; called from 0x0800" in detail


def test_an_undefined_instruction_is_named(bench: Bench) -> None:
    assert "usage fault: undefined instruction at 0x0800" in crash(bench, 4, "undefined")


def test_a_division_by_zero_is_named(bench: Bench) -> None:
    assert "usage fault: division by zero at 0x0800" in crash(bench, 5, "divide")


def test_without_a_fault_there_is_nothing_to_describe(bench: Bench) -> None:
    assert bench.target.describe_fault() is None
    bench.target.resume()
    assert bench.target.describe_fault() is None


def test_a_fault_can_be_asked_for_at_a_stop_after_pc_was_written(quick: Bench) -> None:
    quick.run_to("step_1")
    quick.target.write_registers({"pc": quick.names["main"] & ~1})
    assert quick.target.describe_fault() is None


def test_a_fault_can_be_described_while_the_core_runs(quick: Bench) -> None:
    quick.target.catch_faults(Demcr(0))
    quick.run_to("step_1")
    quick.target.write_word(quick.names["drill"], 4)
    quick.target.resume()
    deadline = quick.target.deadline(0.01)
    while not quick.target.read_word(CFSR) and not deadline.expired():
        pass
    assert quick.target.poll_stop() is None, "its own handler runs"
    assert quick.target.describe_fault() == (
        "usage fault: undefined instruction somewhere; escalated to a hard fault"
    )


def test_a_lockup_is_a_stop(bench: Bench) -> None:
    bench.target.catch_faults(Demcr(0))
    bench.run_to("step_1")
    # A stack outside of memory: the fault cannot be taken, nor its escalation.
    bench.target.write_registers({"msp": 0x70000000, "pc": bench.names["undefined"] & ~1})
    stop = bench.run()
    assert stop.kind == "lockup"
    assert stop.detail.startswith("the core locked up")
    assert "; sp is 0x6fffff" in stop.detail
    assert bench.target.read_registers(["pc"])["pc"] == 0xFFFFFFFE
    assert bench.target.is_halted()


@pytest.mark.parametrize("drill", [3, 4])
def test_after_a_fault_the_program_can_be_started_again(quick: Bench, drill: int) -> None:
    quick.run_to("step_1")
    quick.target.write_word(quick.names["drill"], drill)
    assert quick.run().kind == "fault"
    quick.target.reset(halt=True)
    quick.run_to("main")


def test_a_blank_chip_is_not_a_locked_up_one() -> None:
    """Its reset vector is 0xFFFFFFFF, so the core stands where a locked-up one does."""
    target = Target.open("sim:ideal")
    try:
        target.reset(halt=True)
        target.run([Write(DFSR, [0x1F])])  # as if somebody else had been here before us
        stop = target.poll_stop()
        assert stop is not None
        assert (stop.kind, stop.detail) == ("halted", "halted at the reset vector of blank flash")
        assert target.describe_fault() is None
        target.resume()
        while (stop := target.poll_stop()) is None:
            pass
        assert stop.kind == "lockup"
    finally:
        target.close()
