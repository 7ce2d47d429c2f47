"""What common operations cost on the link: upper bounds in transactions, by kind of probe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from target_bench import Bench

from gdbserver.errors import MemoryFault
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.registers import CORE_COUNT, EXPEDITED, REGISTERS
from gdbserver.target.target import Target

NAMES = [register.name for register in REGISTERS]
HARDWARE = BreakKind.HARDWARE

Operation = Callable[[Bench], object]


def cost(bench: Bench, operation: Operation) -> int:
    before = bench.cost()
    operation(bench)
    return bench.cost() - before


def step_and_explain(bench: Bench) -> None:
    bench.target.step()
    assert bench.target.poll_stop() is not None
    bench.target.read_registers(EXPEDITED)


def core_registers(bench: Bench) -> None:
    bench.target.read_registers(NAMES[:CORE_COUNT])


def all_registers(bench: Bench) -> None:
    bench.target.read_registers(NAMES)


def break_and_continue(bench: Bench) -> None:
    where = bench.names["step_1"] & ~1
    bench.target.set_breakpoint(HARDWARE, where, 2)
    bench.target.resume()
    bench.target.poll_stop()
    bench.target.read_registers(EXPEDITED)
    bench.target.clear_breakpoint(HARDWARE, where, 2)


# Where this comes from: a packet of a CMSIS-DAP probe holds a whole list of accesses.  On an
# ST-LINK, a memory command takes two exchanges, and a register of an access port one.
BOUNDS: list[tuple[str, Operation, int, int]] = [
    ("step and stop reason, expedited registers included", step_and_explain, 1, 21),
    ("the core's registers at a stop", core_registers, 0, 26),
    ("all registers at a stop", all_registers, 1, 92),
    ("a breakpoint, in and out", lambda b: [set_and_clear(b)], 2, 3),
    ("64 bytes of RAM", lambda b: b.target.read_memory(0x20000000, 64), 1, 2),
    ("3 odd bytes of RAM", lambda b: b.target.read_memory(0x20000001, 3), 1, 2),
    ("4 KiB of RAM", lambda b: b.target.read_memory(0x20000000, 4096), 9, 2),
    ("4 bytes into RAM", lambda b: b.target.write_memory(0x20001000, b"1234"), 1, 2),
    ("a break, a run, a stop", break_and_continue, 5, 26),
]


def set_and_clear(bench: Bench) -> None:
    bench.target.set_breakpoint(HARDWARE, 0x08000100, 2)
    bench.target.clear_breakpoint(HARDWARE, 0x08000100, 2)


@pytest.mark.parametrize(
    ("operation", "packets", "exchanges"),
    [row[1:] for row in BOUNDS],
    ids=[row[0] for row in BOUNDS],
)
def test_an_operation_costs_no_more_than(
    bench: Bench, operation: Operation, packets: int, exchanges: int
) -> None:
    bench.run_to("step_2")
    step_and_explain(bench)
    limit = exchanges if "stlink" in bench.target.probe_uid else packets
    assert cost(bench, operation) <= limit


def test_nothing_is_read_twice_at_one_stop(bench: Bench) -> None:
    bench.run_to("step_1")
    all_registers(bench)
    bench.target.poll_stop()
    assert cost(bench, all_registers) == 0
    assert cost(bench, lambda b: b.target.poll_stop()) == 0


def test_flash_that_nobody_has_mapped_is_asked_once(bench: Bench) -> None:
    def look(bench: Bench) -> None:
        with pytest.raises(MemoryFault, match="cannot read memory at 0x90000002-0x90000003"):
            bench.target.view_memory(0x90000002, 2)

    bench.run_to("step_1")
    assert cost(bench, look) <= (3 if "stlink" in bench.target.probe_uid else 1)
    assert cost(bench, look) == 0
    assert cost(bench, lambda b: b.target.view_memory(b.names["counter"], 4)) <= (
        2 if "stlink" in bench.target.probe_uid else 1
    ), "what was refused has left nothing behind that would have to be cleared first"


def test_polling_a_running_core_is_one_transaction(bench: Bench) -> None:
    bench.run_to("main")
    bench.target.resume()
    bench.target.poll_stop()
    assert cost(bench, lambda b: b.target.poll_stop()) == 1


def test_connecting_takes_a_moment(bench: Bench) -> None:
    target = Target.open(bench.target.probe_uid)
    assert target.link.probe.counters.transactions <= (
        45 if "stlink" in bench.target.probe_uid else 26
    )
    target.close()
