"""The core as a whole: sleep, memory, time, reset, instructions that Unicorn leaves to it."""

from __future__ import annotations

import logging

import pytest
from bare_machine import DHCSR, HZ, KEY, Machine
from firmware_helper import CODE
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.cortex_m import Cfsr, Dhcsr
from gdbserver.chip.memory import Span
from gdbserver.sim.bus import BusError, BusStall
from gdbserver.sim.clock import MICROSECOND, MILLISECOND


def test_a_delay_loop_on_the_tick_counter_takes_as_long_as_it_says() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000E010
        ldr r1, =63999
        str r1, [r0, #4]
        movs r1, #7
        str r1, [r0]
        ldr r2, =0x20000000
        1: ldr r3, [r2]
        cmp r3, #20
        blo 1b
        bkpt #0
        systick:
        ldr r0, =0x20000000
        ldr r1, [r0]
        adds r1, #1
        str r1, [r0]
        bx lr
        """
    )
    machine.run_to_halt()
    assert machine.clock.now == pytest.approx(20 * MILLISECOND, abs=150 * MICROSECOND)


def test_wfi_sleeps_until_an_interrupt_line_rises() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000E100
        movs r1, #1
        str r1, [r0]
        wfi
        movs r4, #1
        bkpt #0
        irq0:
        ldr r0, =0x40000000
        str r0, [r0]
        movs r5, #1
        bx lr
        """,
        irqs={0: "irq0"},
    )
    machine.slave.on_write = lambda offset, value: machine.scs.set_irq(0, False)
    machine.run()
    assert machine[DHCSR] & Dhcsr.S_SLEEP
    machine.scs.set_irq(0, True)
    machine.run_to_halt()
    assert (machine.register(4), machine.register(5)) == (1, 1)


def test_wfe_is_woken_by_an_event_that_came_before() -> None:
    machine = Machine("sev\nwfe\nmovs r4, #1\nwfe\nmovs r4, #2\nb .")
    machine.run()
    assert machine[DHCSR] & Dhcsr.S_SLEEP
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) == 1


def test_a_store_to_flash_goes_to_the_flash_interface_word_by_word() -> None:
    machine = Machine(
        """
        ldr r0, =0x08001000
        movs r1, #1
        movs r2, #2
        str r1, [r0]
        strd r1, r2, [r0, #4]
        strh r1, [r0, #12]
        strb r2, [r0, #15]
        bkpt #0
        """
    ).run_to_halt()
    assert machine.rom.stores == [
        (0x1000, 4, 1),
        (0x1004, 4, 1),
        (0x1008, 4, 2),
        (0x100C, 2, 1),
        (0x100F, 1, 2),
    ]
    assert machine.rom.data[0x1000:0x1010] == b"\xff" * 16, "what becomes of it is up to the flash"


def test_the_core_waits_for_a_slave_that_stalls() -> None:
    machine = Machine("ldr r0, =0x40000000\nldr r4, [r0]\nstr r4, [r0, #4]\nbkpt #0")
    ready = 5 * MILLISECOND

    def answer(offset: int) -> int:
        if machine.clock.now < ready:
            raise BusStall(ready)
        return 99

    machine.slave.on_read = answer
    machine.run_to_halt()
    assert machine.register(4) == 99
    assert machine.slave.accesses == [("read", 0, 99), ("write", 4, 99)]
    assert machine.clock.now >= ready


def test_code_in_a_busy_flash_bank_goes_on_when_the_bank_is_idle() -> None:
    machine = Machine("ldr r0, =0x40000000\nstr r0, [r0]\nmovs r4, #1\nbkpt #0")

    def become_busy(offset: int, value: int) -> None:
        machine.rom.busy_until = machine.clock.now + 2 * MILLISECOND
        machine.bus.revoke(machine.bus.devices[0][0])

    machine.slave.on_write = become_busy
    machine.run_to_halt()
    assert machine.register(4) == 1
    assert len(machine.slave.accesses) == 1
    assert machine.clock.now >= 2 * MILLISECOND


def test_new_code_written_by_the_debugger_is_what_runs() -> None:
    machine = Machine("ldr r0, =0x20000101\nmov r5, r0\n1: blx r5\nb 1b")
    machine[0x20000100] = 0x47702401  # movs r4, #1; bx lr
    machine.run()
    machine[0x20000100] = 0x47702402  # movs r4, #2; bx lr
    machine.run()
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) == 2


def test_a_step_to_code_that_nobody_has_executed_yet_is_one_step() -> None:
    machine = Machine("ldr r0, =0x20001001\nbkpt #0\nbx r0").run_to_halt()
    machine[0x20001000] = 0x22022101  # movs r1, #1; movs r2, #2
    machine.set_register(15, machine.pc + 2)
    assert [machine.step() for _ in range(3)] == [0x20001000, 0x20001002, 0x20001004]


def test_a_peripheral_access_is_made_once_whatever_it_pends() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000E100
        movs r1, #1
        str r1, [r0]
        ldr r0, =0x40000000
        movs r4, #0
        str r4, [r0], #4
        ldr r5, [r0], #4
        mov r6, r0
        bkpt #0
        irq0:
        adds r4, #1
        bx lr
        """,
        irqs={0: "irq0"},
    )

    def interrupt() -> int:
        machine.scs.set_irq(0, True)
        machine.scs.set_irq(0, False)
        return 7

    machine.slave.on_write = lambda offset, value: interrupt()
    machine.slave.on_read = lambda offset: interrupt()
    machine.run_to_halt()
    assert machine.slave.accesses == [("write", 0, 0), ("read", 4, 7)]
    assert machine.register(4) == 2
    assert machine.register(5) == 7
    assert machine.register(6) == 0x40000008


def test_two_runs_give_the_same_nanoseconds() -> None:
    def nanoseconds() -> list[int]:
        machine = Machine(
            """
            ldr r0, =0xE000E010
            ldr r1, =999
            str r1, [r0, #4]
            movs r1, #7
            str r1, [r0]
            ldr r0, =0x40000000
            1: ldr r1, [r0]
            adds r2, #1
            muls r2, r3, r2
            b 1b
            systick:
            adds r4, #1
            bx lr
            """
        )
        times = []
        machine.slave.on_read = lambda offset: times.append(machine.clock.now) or len(times)
        machine.run(MILLISECOND)
        return times

    assert nanoseconds() == nanoseconds()


def test_the_core_resets_itself() -> None:
    machine = Machine(
        """
        ldr r1, =0x20000000
        ldr r2, [r1]
        adds r2, #1
        str r2, [r1]
        cmp r2, #3
        beq 1f
        ldr r0, =0xE000ED0C
        ldr r1, =0x05FA0004
        str r1, [r0]
        b .
        1: bkpt #0
        """
    )
    machine.scs.on_system_reset = machine.core.reset
    machine.run_to_halt()
    assert machine.result() == 3
    assert machine[DHCSR] & Dhcsr.S_RESET_ST


def test_nobody_at_an_address_is_a_bus_error_for_the_debugger() -> None:
    with pytest.raises(BusError):
        Machine("b .")[0x60000000]


def test_the_speed_of_the_virtual_core_follows_its_clock(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    machine = Machine("1: adds r0, #1\nb 1b")
    machine.run(MILLISECOND)
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    slow = machine.register(0)
    assert slow == pytest.approx(32_000, rel=0.01)
    machine.hz = 4 * HZ
    machine.resume()
    machine.run(MILLISECOND)
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(0) - slow == pytest.approx(128_000, rel=0.01)
    assert not caplog.records


def test_an_instruction_with_two_accesses_that_pend_something_comes_to_an_end() -> None:
    machine = Machine(
        """
        cpsid i
        ldr r0, =0xE000E100
        movs r1, #3
        str r1, [r0]
        ldr r0, =0x40000000
        strd r1, r1, [r0]
        cpsie i
        bkpt #0
        irq0: adds r4, #1
        bx lr
        irq1: adds r5, #1
        bx lr
        """,
        irqs={0: "irq0", 1: "irq1"},
    )

    def interrupt(offset: int) -> None:
        machine.scs.set_irq(offset // 4, True)
        machine.scs.set_irq(offset // 4, False)

    machine.slave.on_write = lambda offset, value: interrupt(offset)
    machine.run_to_halt()
    assert (machine.register(4), machine.register(5)) == (1, 1)


def test_a_double_word_reaches_a_peripheral_as_two_words() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED88
        ldr r1, =0x00F00000
        str r1, [r0]
        dsb
        ldr r0, =0x40000000
        movs r1, #1
        movs r2, #2
        vmov d0, r1, r2
        vstr d0, [r0]
        vldr d1, [r0, #8]
        vmov r4, r5, d1
        bkpt #0
        """
    )
    machine.slave.on_read = lambda offset: offset
    machine.run_to_halt()
    assert machine.slave.accesses == [
        ("write", 0, 1),
        ("write", 4, 2),
        ("read", 8, 8),
        ("read", 12, 12),
    ]
    assert (machine.register(4), machine.register(5)) == (8, 12)


def test_memory_that_was_busy_at_first_is_read_in_place_later() -> None:
    machine = Machine(
        """
        ldr r0, =0x90000000
        1: ldr r1, [r0]
        adds r2, #1
        b 1b
        """
    )
    rom = type(machine.rom)(machine.clock, bytes(0x1000))
    rom.busy_until = 10 * MICROSECOND
    machine.bus.attach(0x90000000, 0x10000, rom)
    machine.run(100 * MICROSECOND)
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(2) > 1500, "an access each time would take ten cycles"


def test_an_interrupt_that_is_not_enabled_can_be_an_event() -> None:
    machine = Machine("ldr r0, =0xE000ED10\nmovs r1, #0x10\nstr r1, [r0]\nwfe\nbkpt #0")
    machine.run()
    assert machine.core.asleep
    machine.scs.set_irq(7, True)
    machine.run_to_halt()


def test_hints_in_code_that_the_program_copied_to_ram_are_seen() -> None:
    machine = Machine(
        """
        ldr r0, =0x20000100
        ldr r1, =0x4770BF30     @ wfi; bx lr
        str r1, [r0]
        adds r0, #1
        blx r0
        bkpt #0
        """
    )
    machine.run()
    assert machine.core.asleep


@pytest.mark.parametrize(("condition", "sleeps"), [("eq", True), ("ne", False)])
def test_a_conditional_wfi_sleeps_only_if_its_condition_holds(condition: str, sleeps: bool) -> None:
    machine = Machine(f"movs r0, #0\nitt {condition}\nwfi{condition}.w\nadd{condition} r4, #1\nb .")
    machine.run()
    assert machine.core.asleep is sleeps


def test_code_that_is_replaced_by_the_debugger_loses_its_traps() -> None:
    machine = Machine("ldr r0, =0x20000101\nbx r0")
    machine[0x20000100] = 0xE7FDBF30  # 1: wfi; b 1b
    machine.run()
    assert machine.core.asleep
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    machine[0x20000100] = 0xE7FD3401  # 1: adds r4, #1; b 1b
    machine.set_register(15, 0x20000100)
    machine.resume()
    machine.run()
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) > 1000


def test_the_fpu_can_be_switched_off_and_on_again() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED88
        ldr r1, =0x00F00000
        movs r4, #2
        1: str r1, [r0]
        dsb
        isb
        vmov.f32 s0, #1.0
        eor r1, r1, #0x00F00000
        subs r4, #1
        bne 1b
        b .
        .ltorg
        hard_fault:
        bkpt #1
        """
    ).run_to_halt()
    assert machine.cfsr == Cfsr.NOCP
    assert machine.register(4) == 1


@settings(max_examples=20)
@given(steps=st.lists(st.integers(1, 20_000), max_size=40))
def test_how_time_is_cut_makes_no_difference_to_the_program(steps: list[int]) -> None:
    code = """
        movs r0, #1
        ldr r1, =3000
        1: eor r0, r0, r0, lsl #13
        eor r0, r0, r0, lsr #17
        eor r0, r0, r0, lsl #5
        subs r1, #1
        bne 1b
        bkpt #0
        """
    machine = Machine(code)
    for step in steps:
        machine.run(step)
    machine.run_to_halt()
    reference = Machine(code).run_to_halt()
    assert machine.registers() == reference.registers()


@pytest.mark.parametrize("how", ["changed", "revoked"])
def test_a_program_that_was_replaced_in_flash_is_the_one_that_runs(how: str) -> None:
    machine = Machine("1: adds r4, #1\nb 1b").run()
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    offset = CODE - 0x08000000
    flash = machine.bus.devices[0][0]
    machine.rom.data[offset : offset + 2] = b"\x01\x35"  # adds r5, #1
    if how == "changed":
        machine.bus.changed(Span.of(CODE, 2))
    else:
        machine.bus.revoke(flash)
    before = machine.register(4)
    machine.resume()
    machine.run()
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) == before
    assert machine.register(5) > 1000


def test_the_first_touch_of_flash_may_be_a_store() -> None:
    machine = Machine("ldr r0, =0x90000000\nmovs r1, #5\nstr r1, [r0, #8]\nbkpt #0")
    rom = type(machine.rom)(machine.clock, bytes(0x1000))
    machine.bus.attach(0x90000000, 0x10000, rom)
    machine.run_to_halt()
    assert rom.stores == [(8, 4, 5)]
    assert rom.data[8] == 0
