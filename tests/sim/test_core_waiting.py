"""Waiting loops: they are not turned, and what they wait for is found when it comes."""

from __future__ import annotations

import pytest
from bare_machine import DHCSR, KEY, Machine, Slave

from gdbserver.chip.cortex_m import Dhcsr
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND
from gdbserver.sim.polling import AccessKind


def test_polling_a_status_register_is_skipped_to_the_next_event() -> None:
    machine = Machine("ldr r0, =0x40000000\n1: ldr r1, [r0]\ncmp r1, #0\nbeq 1b\nbkpt #0")
    done: list[int] = []
    machine.clock.after(SECOND, lambda: done.append(1))
    machine.slave.on_read = lambda offset: len(done)
    machine.run(SECOND + MILLISECOND)
    assert machine.core.halted
    assert len(machine.slave.accesses) < 100


WAIT_FOR_FLAGS = """
    ldr r0, =0x40000000
    ldr r2, =0x20000000
    1: ldr r1, [r0]
    ldr r3, [r2]
    orrs r1, r3
    beq 1b
    bkpt #0
"""


def test_a_core_that_waits_is_hardly_executed_while_nothing_happens() -> None:
    machine = Machine(WAIT_FOR_FLAGS)
    machine[0x20000000] = 0
    machine.run()
    looks, begun = len(machine.slave.accesses), machine.clock.now
    for _ in range(100):
        machine.run(10 * MICROSECOND)
    assert len(machine.slave.accesses) - looks < 10
    assert machine.clock.now - begun == pytest.approx(MILLISECOND, abs=MICROSECOND)


@pytest.mark.parametrize("where", [0x20000000, 0x40000000])
def test_a_core_that_waits_sees_at_once_what_a_debugger_writes(where: int) -> None:
    machine = Machine(WAIT_FOR_FLAGS)
    written: list[int] = []
    machine.slave.on_write = lambda offset, value: written.append(value)
    machine.slave.on_read = lambda offset: len(written)
    machine[0x20000000] = 0
    machine.run().run()
    assert not machine.core.halted
    machine[where] = 1
    machine.run(2 * MICROSECOND)
    assert machine.core.halted


def test_a_core_that_waits_takes_an_interrupt_and_a_reset() -> None:
    code = "ldr r0, =0x40000000\n1: ldr r1, [r0]\nb 1b\nnmi:\nmovs r7, #7\nbkpt #0"
    machine = Machine(code).run()
    machine.scs.nvic.pend(2)
    machine.run(2 * MICROSECOND)
    assert machine.core.halted
    assert machine.register(7) == 7
    machine.core.reset()
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN
    machine.run()
    machine.core.reset()
    machine.run(2 * MICROSECOND)
    assert machine.slave.accesses[-1] == ("read", 0, 0)


@pytest.mark.parametrize("window", [50, 130, 1000, 12_345])
def test_who_lets_time_pass_in_bits_sees_the_core_do_the_same(window: int) -> None:
    """Each access reads a counter of them: none is lost, and what is read is in order."""
    code = """
        ldr r0, =0x40000000
        ldr r2, =0x20000000
        movs r4, #200
        1: ldr r1, [r0]
        stmia r2!, {r1}
        subs r4, #1
        bne 1b
        bkpt #0
    """
    machine = Machine(code)
    reads = machine.slave.accesses
    machine.slave.on_read = lambda offset: len(reads)
    end = machine.clock.now + SECOND
    while not machine.core.halted and machine.clock.now < end:
        machine.run(window)
    stored = [machine[0x20000000 + 4 * i] for i in range(200)]
    assert stored == sorted(set(stored))
    assert stored[-1] == len(reads) - 1


COUNT_DOWN = """
    ldr r0, =0xE000E010
    ldr r1, =63999
    str r1, [r0, #4]
    movs r1, #0
    str r1, [r0, #8]
    movs r1, #7
    str r1, [r0]
    ldr r{counter}, ={turns}
    {padding}
    1: subs r{counter}, #1
    bne 1b
    bkpt #0
    systick:
    ldr r2, =0x20000000
    ldr r3, [r2]
    adds r3, #1
    str r3, [r2]
    bx lr
"""


@pytest.mark.parametrize("padding", ["", "nop"])
def test_a_loop_that_counts_down_takes_two_cycles_a_turn_and_lets_interrupts_through(
    padding: str,
) -> None:
    code = COUNT_DOWN.format(counter=5, turns=16_000_000, padding=padding)
    machine = Machine(code)
    begun = machine.core.cycles
    machine.run_to_halt()
    assert machine.core.cycles - begun == pytest.approx(32_000_000, rel=1e-3)
    assert machine.result() == 500
    assert machine.register(5) == 0


def test_a_loop_that_counts_down_is_found_on_its_way_and_can_be_stepped_from_there() -> None:
    code = COUNT_DOWN.format(counter=4, turns=16_000_000, padding="")
    machine = Machine(code).run(100 * MILLISECOND + 500 * MICROSECOND)
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT | Dhcsr.C_MASKINTS
    left = machine.register(4)
    assert 16_000_000 - left == pytest.approx(3_200_000, rel=1e-2)
    for _ in range(4):
        machine.step()
    assert machine.register(4) == left - 2


def test_emptying_a_data_port_is_not_taken_for_waiting() -> None:
    machine = Machine(
        "ldr r0, =0x40000000\nmovs r2, #100\n1: ldr r1, [r0]\nsubs r2, #1\nbne 1b\nbkpt #0"
    )
    machine.slave.data_ports = frozenset({0})
    machine.run_to_halt()
    assert machine.clock.now < 150 * MICROSECOND


class Announcing(Slave):
    """A peripheral whose word can be looked at without reading it."""

    def __init__(self) -> None:
        super().__init__()
        self.word = 0
        self.on_read = lambda offset: self.word

    def quick_read(self, offset: int, size: int) -> int | None:
        return self.word if offset == 0 and size == 4 else None

    def quick_write(self, offset: int, size: int, value: int) -> AccessKind | None:
        return None

    def become(self, word: int) -> None:
        self.word = word


WAIT_FOR_A_WORD = """
    ldr r0, =0x41000000
    ldr r4, =0x20000100
    movs r5, #0
    str r5, [r4]
    1: adds r6, #1
    ldr r5, [r4]
    cmp r5, #0
    bne 2f
    ldr r1, [r0]
    cmp r1, #0
    beq 1b
    bkpt #0
    2: bkpt #1
"""


def waiting_machine(*, silent: bool) -> tuple[Machine, Announcing]:
    """It waits for a word that changes after 10 ms; something else happens each 50 us."""
    machine, device = Machine(WAIT_FOR_A_WORD), Announcing()
    machine.bus.attach(0x41000000, 0x400, device)
    for n in range(1, 400):
        machine.clock.after(n * 50 * MICROSECOND, lambda: None, silent=silent)
    machine.clock.after(10 * MILLISECOND, lambda: device.become(1), silent=True)
    return machine, device


@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("bit", [7_000, 130_000, 30 * MILLISECOND])
def test_a_core_that_waits_finds_what_it_waits_for_when_that_comes(bit: int, silent: bool) -> None:
    machine, _ = waiting_machine(silent=silent)
    while machine.clock.now < 10 * MILLISECOND:
        assert not machine.core.halted
        machine.run(min(bit, 10 * MILLISECOND - machine.clock.now))
    machine.run(MICROSECOND)
    assert machine.core.halted
    assert machine.rom.data[machine.pc - 0x08000000] == 0
    assert machine.register(6) < 5_000, "a look each 15 cycles would be 40,000 of them"


def test_what_happens_elsewhere_in_silence_costs_a_waiting_core_no_look() -> None:
    looks = []
    for silent in (True, False):
        machine, _ = waiting_machine(silent=silent)
        machine.run(9 * MILLISECOND)
        machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
        looks.append(machine.register(6))
    assert looks[0] < 30
    assert looks[1] > 180


def test_memory_that_a_debugger_writes_is_seen_by_a_core_that_waits_for_a_device() -> None:
    machine, _ = waiting_machine(silent=True)
    for _ in range(20):
        machine.run(20 * MICROSECOND)
    machine[0x20000100] = 1
    machine.run(2 * MICROSECOND)
    assert machine.core.halted
    assert machine.rom.data[machine.pc - 0x08000000] == 1


def test_a_device_that_a_debugger_changes_is_seen_by_a_core_that_waits_for_it() -> None:
    machine, device = waiting_machine(silent=True)
    device.on_write = lambda offset, value: device.become(value)
    for _ in range(20):
        machine.run(20 * MICROSECOND)
    machine[0x41000004] = 0  # something else about it
    machine.run(20 * MICROSECOND)
    assert not machine.core.halted
    machine[0x41000004] = 5
    machine.run(2 * MICROSECOND)
    assert machine.core.halted
    assert machine.register(1) == 5


def test_an_interrupt_that_comes_in_silence_is_taken_by_a_core_that_waits() -> None:
    machine = Machine(
        """
        ldr r2, =0xE000E100
        movs r1, #1
        str r1, [r2]
        ldr r0, =0x41000000
        1: ldr r1, [r0]
        cmp r1, #0
        beq 1b
        irq0: bkpt #7
        """,
        irqs={0: "irq0"},
    )
    machine.bus.attach(0x41000000, 0x400, Announcing())
    machine.clock.after(3 * MILLISECOND, lambda: machine.scs.nvic.set_line(16, True), silent=True)
    machine.run(3 * MILLISECOND + 2 * MICROSECOND)
    assert machine.core.halted
    assert machine.ipsr == 16


def test_feeding_a_watchdog_is_part_of_waiting() -> None:
    machine = Machine(
        """
        ldr r0, =0x40000000
        1: str r0, [r0, #8]
        ldr r1, [r0]
        cmp r1, #0
        beq 1b
        bkpt #0
        """
    )
    done: list[int] = []
    machine.clock.after(SECOND, lambda: done.append(1))
    machine.slave.on_read = lambda offset: len(done)
    machine.slave.idle_writes = frozenset({8})
    machine.run(SECOND + MILLISECOND)
    assert machine.core.halted
    assert len(machine.slave.accesses) < 100
