"""Breakpoints, watchpoints, stepping and trace, as a debugger's registers have them."""

from __future__ import annotations

import pytest
from bare_machine import DCRDR, DCRSR, DEMCR, DFSR, DHCSR, KEY, RESULT, Machine
from firmware_helper import CODE
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.cortex_m import Demcr, Dfsr, Dhcsr
from gdbserver.sim.bus import Master
from gdbserver.sim.clock import MICROSECOND, MILLISECOND

FP_CTRL, FP_COMP = 0xE0002000, 0xE0002008
DWT_CTRL, DWT_CYCCNT, DWT_PCSR = 0xE0001000, 0xE0001004, 0xE000101C
DWT_COMP, DWT_MASK, DWT_FUNCTION = 0xE0001020, 0xE0001024, 0xE0001028
SYST_CSR, SYST_RVR, SYST_CVR = 0xE000E010, 0xE000E014, 0xE000E018

HALT = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
RUN = KEY | Dhcsr.C_DEBUGEN
STEP = RUN | Dhcsr.C_STEP
MASKED = Dhcsr.C_MASKINTS

words = st.integers(0, 0xFFFFFFFF)


def halted(code: str, **options: object) -> Machine:
    """A machine that is halted at the first instruction of `code`."""
    machine = Machine(code, **options)
    machine[DEMCR] = Demcr.VC_CORERESET
    machine.core.reset()
    machine[DFSR] = 0x1F
    return machine


# --- DHCSR and friends ----------------------------------------------------------------------


def test_dhcsr_ignores_a_write_without_its_key() -> None:
    machine = Machine("b .")
    machine[DHCSR] = Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert not machine[DHCSR] & Dhcsr.S_HALT
    machine[DHCSR] = HALT
    assert machine[DHCSR] & Dhcsr.S_HALT
    assert machine[DFSR] == Dfsr.HALTED


def test_a_program_cannot_switch_halting_debug_on_or_off() -> None:
    machine = Machine("b .")
    machine.bus.write(DHCSR, 4, KEY, Master.CORE)
    assert machine[DHCSR] & Dhcsr.C_DEBUGEN
    machine[DHCSR] = KEY
    machine.bus.write(DHCSR, 4, HALT, Master.CORE)
    assert not machine[DHCSR] & (Dhcsr.C_DEBUGEN | Dhcsr.S_HALT)


def test_a_program_can_halt_itself_under_a_debugger() -> None:
    machine = Machine("ldr r0, =0xE000EDF0\nldr r1, =0xA05F0003\nstr r1, [r0]\nmovs r4, #1\nb .")
    machine.run()
    assert machine.core.halted
    assert machine.pc == CODE + 6
    assert machine.register(4) == 0


def test_sticky_status_bits_clear_when_the_debugger_reads_them() -> None:
    machine = Machine("b .")
    machine.run(MICROSECOND)
    first, second = machine[DHCSR], machine[DHCSR]
    assert first & Dhcsr.S_RESET_ST
    assert first & Dhcsr.S_RETIRE_ST
    assert not second & (Dhcsr.S_RESET_ST | Dhcsr.S_RETIRE_ST)
    machine.run(MICROSECOND)
    machine.bus.read(DHCSR, 4, Master.CORE)
    assert machine[DHCSR] & Dhcsr.S_RETIRE_ST, "a program's read clears nothing"


def test_a_reset_is_caught_before_the_first_instruction() -> None:
    machine = Machine("movs r4, #1\nb .")
    machine[DEMCR] = Demcr.VC_CORERESET
    machine.core.reset()
    assert machine[DHCSR] & Dhcsr.S_HALT
    assert machine[DFSR] == Dfsr.VCATCH
    assert machine.pc == CODE
    assert machine.register(13) == 0x20010000
    assert machine.register(14) == 0xFFFFFFFF
    assert machine.register(16) == 1 << 24


def test_the_debug_registers_survive_a_system_reset() -> None:
    machine = Machine("b .")
    machine[DEMCR] = Demcr.VC_HARDERR | Demcr.TRCENA
    machine.core.reset()
    assert machine[DEMCR] == Demcr.VC_HARDERR | Demcr.TRCENA
    assert machine[DHCSR] & Dhcsr.C_DEBUGEN
    machine.scs.power_on_reset()
    assert machine[DEMCR] == 0
    assert not machine[DHCSR] & Dhcsr.C_DEBUGEN


@settings(max_examples=15)
@given(values=st.lists(words, min_size=13, max_size=13), single=words, special=words)
def test_what_is_written_to_core_registers_is_read_back(
    values: list[int], single: int, special: int
) -> None:
    machine = halted("b .")
    for number, value in enumerate(values):
        machine.set_register(number, value)
    machine.set_register(70, single)
    machine.set_register(20, special)
    assert [machine.register(n) for n in range(13)] == values
    assert machine.register(70) == single
    assert machine.register(20) == special & 0x0701F001 | 0
    machine.set_register(20, 0)
    assert machine.register(20) == 0


def test_the_stack_pointer_in_use_follows_control() -> None:
    machine = halted("b .")
    machine.set_register(17, 0x20001000)
    machine.set_register(18, 0x20002000)
    assert machine.register(13) == 0x20001000
    machine.set_register(20, 2 << 24)
    assert machine.register(13) == 0x20002000
    machine.set_register(13, 0x20003000)
    assert machine.register(18) == 0x20003000
    assert machine.register(17) == 0x20001000


def test_registers_cannot_be_read_while_the_core_runs() -> None:
    machine = Machine("movs r0, #7\nb .").run()
    machine[DCRDR] = 0x1234
    machine[DCRSR] = 0
    assert machine[DCRDR] == 0x1234


# --- stepping ----------------------------------------------------------------------------------


def test_a_step_executes_one_instruction_inside_an_it_block_too() -> None:
    machine = halted(
        """
        movs r0, #0
        itttt eq
        addeq r0, #1
        addeq.w r1, r1, #1
        addeq r2, #1
        addeq r3, #1
        itee ne
        addne r4, #1
        addeq r5, #1
        addeq r6, #1
        b .
        """
    )
    addresses = [machine.step() - CODE for _ in range(10)]
    assert addresses == [2, 4, 6, 10, 12, 14, 16, 18, 20, 22]
    assert [machine.register(n) for n in range(7)] == [1, 1, 1, 1, 0, 1, 1]


def test_an_it_block_that_was_stepped_into_goes_on_as_it_should() -> None:
    machine = halted("movs r0, #0\nittt eq\naddeq r0, #1\naddeq r1, #1\naddeq r2, #1\nbkpt #0")
    for _ in range(3):
        machine.step()
    machine.resume()
    machine.run_to_halt()
    assert [machine.register(n) for n in range(3)] == [1, 1, 1]


def test_a_step_over_svc_ends_in_the_handler() -> None:
    machine = halted("svc #0\nb .\nsvc: nop\nbx lr")
    machine.step()
    assert machine.ipsr == 11
    assert machine.pc == CODE + 4
    assert [machine.step() - CODE for _ in range(2)] == [6, 2]


def test_a_step_over_wfi_does_not_sleep() -> None:
    machine = halted("wfi\nmovs r0, #1\nb .")
    assert machine.step() == CODE + 2
    assert machine.step() == CODE + 4


def test_a_step_takes_a_pending_interrupt_unless_they_are_masked() -> None:
    code = "nop\nnop\nb .\nirq0: nop\nbx lr"
    machine = halted(code, irqs={0: "irq0"})
    machine[0xE000E100] = 1
    machine[0xE000E200] = 1
    machine[DHCSR] = HALT | MASKED
    machine[DHCSR] = STEP | MASKED
    assert machine.pc == CODE + 2
    machine[DHCSR] = HALT
    machine[DHCSR] = STEP
    assert machine.pc == CODE + 6
    assert machine.ipsr == 16


def test_maskints_does_not_change_together_with_leaving_debug_state() -> None:
    machine = halted("b .")
    machine[DHCSR] = STEP | MASKED
    assert not machine[DHCSR] & MASKED


def test_a_step_over_a_peripheral_access_makes_it_once() -> None:
    machine = halted("ldr r0, =0x40000000\nstr r1, [r0], #4\nldr r1, [r0]\nb .")
    for _ in range(3):
        machine.step()
    assert [access[:2] for access in machine.slave.accesses] == [("write", 0), ("read", 4)]
    assert machine.pc == CODE + 10


# --- breakpoints -----------------------------------------------------------------------------


def set_breakpoint(machine: Machine, address: int, comparator: int = 0) -> None:
    machine[FP_CTRL] = 3
    machine[FP_COMP + 4 * comparator] = address | 1


def test_the_fpb_shows_eight_comparators_of_revision_two() -> None:
    machine = Machine("b .")
    assert machine[FP_CTRL] == 0x10000080
    machine[FP_CTRL] = 1
    assert machine[FP_CTRL] == 0x10000080, "no key, no change"
    machine[FP_CTRL] = 3
    assert machine[FP_CTRL] == 0x10000081


def test_a_breakpoint_halts_before_its_instruction() -> None:
    machine = halted("movs r0, #1\nmovs r0, #2\nmovs r0, #3\nb .")
    set_breakpoint(machine, CODE + 4, comparator=7)
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == CODE + 4
    assert machine.register(0) == 2
    assert machine[DFSR] == Dfsr.BKPT


def test_a_breakpoint_set_while_the_core_runs_is_hit() -> None:
    machine = Machine("1: adds r0, #1\nadds r1, #1\nb 1b").run()
    set_breakpoint(machine, CODE + 2)
    machine.run_to_halt()
    assert machine.pc == CODE + 2
    assert machine.register(0) == machine.register(1) + 1


def test_a_breakpoint_inside_an_it_block_is_hit_whatever_the_condition() -> None:
    machine = halted("movs r0, #0\nitt ne\naddne r1, #1\naddne r2, #1\nb .")
    set_breakpoint(machine, CODE + 6)
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == CODE + 6


def test_a_removed_breakpoint_lets_the_core_go_on() -> None:
    machine = halted("1: adds r0, #1\nadds r1, #1\nb 1b")
    set_breakpoint(machine, CODE + 2)
    machine.resume()
    machine.run_to_halt()
    machine[FP_COMP] = 0
    machine.resume()
    machine.run()
    assert not machine.core.halted


def test_a_resume_at_a_breakpoint_that_is_still_set_goes_nowhere() -> None:
    machine = halted("nop\nb .")
    set_breakpoint(machine, CODE)
    machine.resume()
    machine.run()
    assert machine.pc == CODE
    assert machine[DFSR] & Dfsr.BKPT


def test_a_breakpoint_in_ram_is_hit() -> None:
    machine = halted("ldr r0, =0x20000101\nbx r0")
    machine[0x20000100] = 0xBF00BF00
    set_breakpoint(machine, 0x20000102)
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == 0x20000102


def test_bkpt_halts_at_itself_and_goes_on_when_skipped() -> None:
    machine = Machine("movs r0, #1\nbkpt #0xAB\nmovs r0, #2\nbkpt #1").run_to_halt()
    assert machine.pc == CODE + 2
    assert machine[DFSR] == Dfsr.BKPT
    machine.set_register(15, CODE + 4)
    machine.resume()
    machine.run_to_halt()
    assert machine.register(0) == 2


# --- watchpoints --------------------------------------------------------------------------------

ACCESSES = """
    ldr r0, =0x20000100
    movs r1, #5
    str r1, [r0]
    ldr r2, [r0, #4]
    strb r1, [r0, #9]
    bkpt #0
    """


def watch(machine: Machine, address: int, function: int, *, mask: int = 0, number: int = 0) -> None:
    machine[DEMCR] = machine[DEMCR] | Demcr.TRCENA
    machine[DWT_COMP + 16 * number] = address
    machine[DWT_MASK + 16 * number] = mask
    machine[DWT_FUNCTION + 16 * number] = function


@pytest.mark.parametrize(
    ("address", "mask", "function", "stop"),
    [
        (0x20000100, 2, 6, 6),
        (0x20000104, 2, 5, 8),
        (0x20000104, 2, 7, 8),
        (0x20000108, 2, 6, 10),
        (0x20000109, 0, 6, 10),
        (0x20000100, 4, 5, 8),
        (0x20000103, 0, 6, 6),
    ],
)
def test_a_watchpoint_halts_behind_the_access(
    address: int, mask: int, function: int, stop: int
) -> None:
    machine = halted(ACCESSES)
    watch(machine, address, function, mask=mask, number=2)
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == CODE + stop
    assert machine[DFSR] == Dfsr.DWTTRAP
    assert machine[DWT_FUNCTION + 32] == 1 << 24 | function
    assert machine[DWT_FUNCTION + 32] == function, "MATCHED clears when read"


@pytest.mark.parametrize(
    ("address", "function"), [(0x20000104, 6), (0x20000108, 6), (0x20000100, 5)]
)
def test_a_watchpoint_lets_other_accesses_pass(address: int, function: int) -> None:
    machine = halted(ACCESSES)
    watch(machine, address, function)
    machine.resume()
    machine.run_to_halt()
    assert machine[DFSR] == Dfsr.BKPT


def test_a_watchpoint_on_a_peripheral_halts_behind_its_only_access() -> None:
    machine = halted("ldr r0, =0x40000000\nstr r0, [r0]\nldr r1, [r0, #4]\nb .")
    watch(machine, 0x40000000, 7, mask=3)
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == CODE + 6
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == CODE + 8
    assert len(machine.slave.accesses) == 2


@pytest.mark.parametrize(("function", "stop"), [(5, 4), (6, 6)])
def test_a_watchpoint_that_is_set_while_the_core_runs_halts_it(function: int, stop: int) -> None:
    machine = halted("ldr r0, =0x20000100\n1: ldr r1, [r0]\nstr r1, [r0]\nb 1b")
    machine.resume()
    machine.run()
    watch(machine, 0x20000100, function, mask=2)
    machine.run_to_halt()
    assert machine.pc == CODE + stop


def test_an_instruction_address_can_be_watched_too() -> None:
    machine = halted("nop\nnop\nb .")
    watch(machine, CODE + 2, 4)
    machine.resume()
    machine.run_to_halt()
    assert machine.pc == CODE + 2
    assert machine[DFSR] == Dfsr.DWTTRAP


def test_watchpoints_need_trace_to_be_enabled() -> None:
    machine = halted(ACCESSES)
    machine[DWT_COMP] = 0x20000100
    machine[DWT_FUNCTION] = 6
    assert machine[DWT_CTRL] == 0
    machine[DEMCR] = Demcr.TRCENA
    assert machine[DWT_CTRL] == 0x40000000
    assert machine[DWT_FUNCTION] == 0


def test_the_cycle_counter_counts_while_the_core_runs() -> None:
    machine = halted("1: b 1b")
    machine[DEMCR] = Demcr.TRCENA
    machine[DWT_CYCCNT] = 100
    machine[DWT_CTRL] = machine[DWT_CTRL] | 1
    machine.run()
    assert machine[DWT_CYCCNT] == 100, "the core is halted"
    machine.resume()
    machine.run()
    machine[DHCSR] = HALT
    assert machine[DWT_CYCCNT] == pytest.approx(64_100, abs=200)


def test_the_program_counter_can_be_sampled() -> None:
    machine = Machine("b .").run()
    machine[DEMCR] = Demcr.TRCENA
    assert machine[DWT_PCSR] == CODE
    machine[DHCSR] = HALT
    assert machine[DWT_PCSR] == 0xFFFFFFFF


# --- system control -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "part"),
    [(0xE000E000, 0x00C), (0xE0001000, 0x002), (0xE0002000, 0x00E), (0xE0000000, 0x001)],
)
def test_each_unit_tells_who_it_is(base: int, part: int) -> None:
    machine = Machine("b .")
    cidr = sum(machine[base + 0xFF0 + 4 * i] << 8 * i for i in range(4))
    pidr = sum(machine[base + 0xFE0 + 4 * i] << 8 * i for i in range(4))
    assert cidr == 0xB105E00D
    assert pidr & 0xFFF == part
    assert pidr >> 12 & 0x7F == 0x3B, "Arm"
    assert machine[base + 0xFD0] == 4


@pytest.mark.parametrize(
    ("address", "value"),
    [
        (0xE000E004, 4),
        (0xE000ED00, 0x411FC271),
        (0xE000ED08, 0x08000000),
        (0xE000ED0C, 0xFA050000),
        (0xE000ED14, 0x00040200),
        (0xE000ED78, 0x09000003),
        (0xE000ED90, 0x00001000),
        (0xE000EF34, 0xC0000000),
        (0xE000EF40, 0x10110221),
    ],
)
def test_a_register_reads_after_reset_as_on_silicon(address: int, value: int) -> None:
    assert Machine("b .")[address] == value


def test_interrupt_registers_act_on_the_bits_that_exist() -> None:
    machine = Machine("b .")
    machine[0xE000E110] = 0xFFFFFFFF
    assert machine[0xE000E110] == 0x003FFFFF, "150 interrupts"
    machine[0xE000E190] = 0x1
    assert machine[0xE000E110] == 0x003FFFFE
    machine[0xE000E400] = 0xFFFFFFFF
    assert machine[0xE000E400] == 0xF0F0F0F0, "four priority bits"
    machine.bus.write(0xE000E401, 1, 0x20, Master.CORE)
    assert machine[0xE000E400] == 0xF0F020F0


def test_a_byte_written_to_cfsr_clears_only_its_own_flags() -> None:
    machine = Machine("b .")
    machine.scs.set_raw(machine.scs.CFSR, 0x02008200)
    machine.bus.write(0xE000ED29, 1, 0x82, Master.CORE)
    assert machine[0xE000ED28] == 0x02000000


def test_aircr_wants_its_key() -> None:
    machine = Machine("b .")
    resets: list[int] = []
    machine.scs.on_system_reset = lambda: resets.append(1)
    machine[0xE000ED0C] = 4
    assert not resets
    machine[0xE000ED0C] = 0x05FA0304
    assert resets
    assert machine[0xE000ED0C] == 0xFA050300


def test_the_mpu_remembers_its_regions() -> None:
    machine = Machine("b .")
    machine[0xE000ED9C] = 0x24000000 | 0x10 | 3
    machine[0xE000EDA0] = 0x03020025
    machine[0xE000ED98] = 2
    assert machine[0xE000EDA0] == 0
    machine[0xE000ED98] = 3
    assert machine[0xE000ED9C] == 0x24000003
    assert machine[0xE000EDA0] == 0x03020025


def test_systick_counts_down_and_tells_that_it_wrapped() -> None:
    machine = Machine("b .")
    machine[SYST_RVR] = 639
    machine[SYST_CSR] = 5
    machine.run(5 * MICROSECOND)
    assert machine[SYST_CVR] == pytest.approx(320, abs=70)
    assert not machine[SYST_CSR] & 1 << 16
    machine.run(10 * MICROSECOND)
    assert machine[SYST_CSR] & 1 << 16
    assert not machine[SYST_CSR] & 1 << 16, "reading clears it"
    machine[SYST_CVR] = 0x123
    assert machine[SYST_CVR] == 0


def test_systick_stands_still_while_the_core_is_halted() -> None:
    machine = halted("b .")
    machine[SYST_RVR] = 63_999
    machine[SYST_CSR] = 7
    machine.resume()
    machine.run(100 * MICROSECOND)
    machine[DHCSR] = HALT
    before = machine[SYST_CVR]
    machine.run(10 * MILLISECOND)
    assert machine[SYST_CVR] == before


def test_what_the_itm_does_not_send_along_is_logged_when_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine("b .")
    machine[DEMCR] = Demcr.TRCENA
    machine[0xE0000E80] = 0x00010001  # TRACEBUSID 1, ITMENA
    assert not caplog.records
    machine[0xE0000E80] = 0x00010003  # TSENA
    assert "ITM.TCR: bits 0x00000002 are not modelled" in caplog.text
    assert machine[0xE0000E80] == 0x00010003


def test_the_itm_opens_its_lock_for_the_right_key() -> None:
    machine = Machine("b .")
    machine[DEMCR] = Demcr.TRCENA
    core = Master.CORE
    machine.bus.write(0xE0000E00, 4, 1, core)
    assert machine[0xE0000E00] == 0
    machine.bus.write(0xE0000FB0, 4, 0xC5ACCE55, core)
    machine.bus.write(0xE0000E00, 4, 1, core)
    assert machine[0xE0000E00] == 1
    assert machine[0xE0000000] == 1, "a stimulus port always has room"


def test_debug_state_does_not_disturb_the_program() -> None:
    """Halting at any moment and going on gives the same result as not halting."""
    code = """
        ldr r0, =0xE000E010
        ldr r1, =1999
        str r1, [r0, #4]
        movs r1, #7
        str r1, [r0]
        ldr r6, =2000
        1: adds r4, #3
        eor r5, r5, r4
        subs r6, #1
        bne 1b
        ldr r0, =0x20000000
        str r5, [r0]
        bkpt #0
        systick: ldr r0, =0x20000004
        ldr r1, [r0]
        adds r1, #1
        str r1, [r0]
        bx lr
        """
    undisturbed = Machine(code).run_to_halt()[RESULT]
    machine = Machine(code)
    while machine[DFSR] & Dfsr.BKPT == 0:
        machine.run(7 * MICROSECOND)
        machine[DHCSR] = HALT
        machine.step()
        machine.resume()
        machine.run(1)
    assert machine[RESULT] == undisturbed


def test_a_debugger_leads_the_core_out_of_lock_up() -> None:
    machine = Machine("udf #0\nhard_fault: udf #1\nmovs r4, #1\nbkpt #0").run()
    assert machine.core.locked_up
    machine[DHCSR] = HALT
    machine.set_register(15, CODE + 4)
    machine.resume()
    machine.run_to_halt()
    assert machine.register(4) == 1
    assert not machine[DHCSR] & Dhcsr.S_LOCKUP
