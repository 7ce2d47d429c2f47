"""Exceptions and faults: what is entered when, what is stacked, what stops the core."""

from __future__ import annotations

import pytest
from bare_machine import BFAR, DEMCR, DFSR, DHCSR, KEY, Machine
from firmware_helper import CODE
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.cortex_m import Cfsr, Demcr, Dfsr, Dhcsr, Hfsr
from gdbserver.sim.clock import MICROSECOND, MILLISECOND


def test_systick_interrupts_arrive_at_their_period() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000E010
        ldr r1, =63999
        str r1, [r0, #4]
        movs r1, #0
        str r1, [r0, #8]
        movs r1, #7
        str r1, [r0]
        b .
        systick:
        ldr r0, =0x20000000
        ldr r1, [r0]
        adds r1, #1
        str r1, [r0]
        bx lr
        """
    )
    machine.run(100 * MILLISECOND + 100 * MICROSECOND)
    assert machine.result() == 100


def test_supervisor_calls_see_their_number_and_return() -> None:
    machine = Machine(
        """
        movs r0, #5
        svc #42
        mov r4, r0
        bkpt #0
        svc:
        ldr r1, [sp, #24]
        ldrb r1, [r1, #-2]
        str r1, [sp]
        bx lr
        """
    ).run_to_halt()
    assert machine.register(4) == 42
    assert machine.ipsr == 0


def test_pendsv_is_taken_right_behind_the_store_that_pends_it() -> None:
    machine = Machine(
        """
        movs r4, #0
        ldr r0, =0xE000ED04
        ldr r1, =0x10000000
        str r1, [r0]
        adds r4, #1
        adds r4, #1
        bkpt #0
        pendsv:
        ldr r2, =0x20000000
        str r4, [r2]
        ldr r3, [sp, #24]
        str r3, [r2, #4]
        bx lr
        """
    ).run_to_halt()
    assert machine.result(0) == 0
    assert machine.register(4) == 2


def test_a_pended_interrupt_waits_for_cpsie_and_not_longer() -> None:
    machine = Machine(
        """
        cpsid i
        ldr r0, =0xE000E100
        movs r1, #1
        str r1, [r0]
        str r1, [r0, #0x100]
        movs r4, #0
        1: adds r4, #1
        cmp r4, #200
        bne 1b
        cpsie i
        adds r4, #1
        bkpt #0
        irq0:
        ldr r2, =0x20000000
        str r4, [r2]
        bx lr
        """,
        irqs={0: "irq0"},
    ).run_to_halt()
    assert machine.result() == 200
    assert machine.register(4) == 201


def test_a_higher_priority_interrupt_preempts_and_an_equal_one_waits() -> None:
    code = """
        ldr r0, =0xE000E100
        movs r1, #3
        str r1, [r0]
        ldr r3, =0xE000E400
        movs r1, #0x80
        strb r1, [r3]
        movs r1, #{priority}
        strb r1, [r3, #1]
        ldr r6, =0x20000000
        movs r1, #1
        str r1, [r0, #0x100]
        bkpt #0
        irq0:
        movs r1, #2
        str r1, [r0, #0x100]
        movs r2, #1
        strb r2, [r6]
        adds r6, #1
        bx lr
        irq1:
        movs r2, #2
        strb r2, [r6]
        adds r6, #1
        bx lr
        """
    irqs = {0: "irq0", 1: "irq1"}
    preempts = Machine(code.replace("{priority}", "0x40"), irqs=irqs).run_to_halt()
    assert preempts.result() & 0xFFFF == 0x0102
    waits = Machine(code.replace("{priority}", "0x80"), irqs=irqs).run_to_halt()
    assert waits.result() & 0xFFFF == 0x0201


def test_basepri_holds_back_what_is_not_urgent_enough() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000E100
        movs r1, #1
        str r1, [r0]
        ldr r3, =0xE000E400
        movs r1, #0x80
        strb r1, [r3]
        movs r1, #0x80
        msr basepri, r1
        movs r1, #1
        str r1, [r0, #0x100]
        movs r4, #1
        movs r1, #0x90
        msr basepri, r1
        movs r4, #2
        bkpt #0
        irq0:
        mov r5, r4
        bx lr
        """,
        irqs={0: "irq0"},
    ).run_to_halt()
    assert machine.register(5) == 1


def test_a_line_that_stays_high_interrupts_again() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000E100
        movs r1, #1
        str r1, [r0]
        b .
        irq0:
        adds r4, #1
        cmp r4, #5
        bne 1f
        bkpt #0
        1: bx lr
        """,
        irqs={0: "irq0"},
    )
    machine.scs.set_irq(0, True)
    machine.run_to_halt()
    assert machine.register(4) == 5


words = st.integers(0, 0xFFFFFFFF)


@settings(max_examples=30)
@given(
    general=st.lists(words, min_size=13, max_size=13),
    flags=st.integers(0, 31),
    sp=st.integers(0x20008000, 0x2000FFFF),
    process_stack=st.booleans(),
    unprivileged=st.booleans(),
    floats=st.none() | st.lists(words, min_size=32, max_size=32),
)
def test_an_exception_leaves_every_register_as_it_was(
    *,
    general: list[int],
    flags: int,
    sp: int,
    process_stack: bool,
    unprivileged: bool,
    floats: list[int] | None,
) -> None:
    machine = Machine(
        """
        nop
        svc #0
        bkpt #0
        svc:
        ldr r0, =0x20000000
        mrs r1, control
        str r1, [r0]
        movs r0, #1
        movs r1, #2
        movs r2, #3
        movs r3, #4
        mov r12, r3
        cmp r0, r0
        bx lr
        """
    )
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    for number, value in enumerate(general):
        machine.set_register(number, value)
    machine.set_register(17, 0x20007F00)
    machine.set_register(18, 0x20006F00)
    control = unprivileged | process_stack << 1 | (floats is not None) << 2
    machine.set_register(20, control << 24)
    machine.set_register(13, sp)
    machine.set_register(16, flags << 27 | 1 << 24)
    for number, value in enumerate(floats or []):
        machine.set_register(64 + number, value)
    machine.step()
    before = machine.registers()
    machine.resume()
    machine.run_to_halt()
    after = machine.registers()
    before[15] += 2
    assert after == before
    assert machine.result() == unprivileged, "SPSEL and FPCA are clear in a handler"


def test_an_exception_frame_lies_as_the_manual_draws_it() -> None:
    machine = Machine("movs r0, #10\nsvc #0\nsvc:\nbkpt #0", stack=0x2000FFF4)
    machine.run_to_halt()
    frame = machine.register(13)
    assert frame == 0x2000FFF4 - 0x24, "padded to eight bytes"
    assert machine[frame] == 10
    assert machine[frame + 24] == CODE + 4
    assert machine[frame + 28] == 1 << 24 | 1 << 9
    assert machine.register(14) == 0xFFFFFFF9
    assert machine.ipsr == 11


def test_a_program_that_used_floating_point_gets_the_long_frame() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED88
        ldr r1, =0x00F00000
        str r1, [r0]
        dsb
        isb
        vmov.f32 s5, #1.0
        svc #0
        svc:
        bkpt #0
        """
    ).run_to_halt()
    assert machine.register(14) == 0xFFFFFFE9
    frame = machine.register(13)
    assert frame == 0x20010000 - 0x68
    assert machine[frame + 0x20 + 4 * 5] == 0x3F800000
    assert machine[0xE000EF38] == frame + 0x20


FAULT_HANDLERS = """
    .ltorg
    hard_fault: bkpt #1
    mem_manage: bkpt #2
    bus_fault: bkpt #3
    usage_fault: bkpt #4
"""


ENABLE_FAULTS = """
    ldr r0, =0xE000ED24
    ldr r1, =0x00070000
    str r1, [r0]
"""


@pytest.mark.parametrize(
    ("code", "exception", "cause"),
    [
        ("fault: udf #0", 6, Cfsr.UNDEFINSTR),
        ("ldr r0, =0x08000500\nbx r0", 6, Cfsr.INVSTATE),
        ("fault: vadd.f32 s0, s1, s2", 6, Cfsr.NOCP),
        ("fault: mcr p15, 0, r0, c7, c5, 0", 6, Cfsr.NOCP),
        ("ldr r0, =0x60000000\nfault: ldr r1, [r0]", 5, Cfsr.PRECISERR | Cfsr.BFARVALID),
        ("ldr r0, =0x60000000\nfault: str r1, [r0]", 5, Cfsr.PRECISERR | Cfsr.BFARVALID),
        ("ldr r0, =0x60000001\nbx r0", 5, Cfsr.IBUSERR),
        ("ldr r0, =0x40000001\nbx r0", 4, Cfsr.IACCVIOL),
        ("ldr r0, =0xF0000001\nbx r0", 4, Cfsr.IACCVIOL),
    ],
)
@pytest.mark.parametrize("enabled", [True, False])
def test_a_fault_sets_its_flag_and_gets_to_its_handler(
    code: str, exception: int, cause: Cfsr, enabled: bool
) -> None:
    source = (ENABLE_FAULTS if enabled else "") + code + "\nb .\n" + FAULT_HANDLERS
    machine = Machine(source).run_to_halt()
    assert machine.cfsr == cause
    assert machine.ipsr == (exception if enabled else 3)
    assert machine.hfsr == (Hfsr(0) if enabled else Hfsr.FORCED)
    if Cfsr.BFARVALID in cause:
        assert machine[BFAR] == 0x60000000


def test_the_frame_of_a_fault_shows_the_instruction_that_failed() -> None:
    machine = Machine("nop\nnop\nudf #0\nb .\n" + FAULT_HANDLERS).run_to_halt()
    assert machine[machine.register(13) + 24] == CODE + 4


def test_division_by_zero_traps_only_when_asked_to() -> None:
    code = """
        mvn r2, #6
        movs r3, #0
        sdiv r4, r2, r3
        movs r3, #2
        sdiv r5, r2, r3
        bkpt #0
        """
    machine = Machine(code + FAULT_HANDLERS).run_to_halt()
    assert machine.register(5) == 0xFFFFFFFD
    trapping = "ldr r0, =0xE000ED14\nldr r1, [r0]\norr r1, #0x10\nstr r1, [r0]\n" + code
    machine = Machine(trapping + FAULT_HANDLERS).run_to_halt()
    assert machine.cfsr == Cfsr.DIVBYZERO
    machine = Machine(trapping.replace("r3, #0", "r3, #3") + FAULT_HANDLERS).run_to_halt()
    assert (machine.register(4), machine.register(5)) == (0xFFFFFFFE, 0xFFFFFFFD)


def test_an_illegal_exception_return_is_invpc() -> None:
    machine = Machine(
        ENABLE_FAULTS + "svc #0\nsvc:\nldr r0, =0xFFFFFFF5\nbx r0\n" + FAULT_HANDLERS
    ).run_to_halt()
    assert machine.cfsr == Cfsr.INVPC
    assert machine.ipsr == 6
    assert machine.register(14) == 0xFFFFFFF5


def test_stacking_to_nowhere_is_stkerr_forced_to_hardfault() -> None:
    machine = Machine("ldr r0, =0x60000100\nmov sp, r0\nsvc #0\nb .\n" + FAULT_HANDLERS)
    machine.run_to_halt()
    assert machine.cfsr & Cfsr.STKERR
    assert machine.hfsr == Hfsr.FORCED
    assert machine.ipsr == 3


def test_unstacking_from_nowhere_is_unstkerr() -> None:
    machine = Machine(
        ENABLE_FAULTS + "svc #0\nsvc:\nldr r0, =0x60000100\nmov sp, r0\nbx lr\n" + FAULT_HANDLERS
    ).run_to_halt(10 * MILLISECOND)
    assert machine.cfsr & Cfsr.UNSTKERR


def test_a_vector_that_cannot_be_read_is_vecttbl() -> None:
    machine = Machine(
        "ldr r0, =0xE000ED08\nldr r1, =0x60000000\nstr r1, [r0]\nsvc #0\nb .\n" + FAULT_HANDLERS
    )
    machine.run()
    assert machine.hfsr & Hfsr.VECTTBL
    assert machine[DHCSR] & Dhcsr.S_LOCKUP, "the HardFault vector is unreadable, too"


def test_a_breakpoint_without_a_debugger_is_a_hardfault() -> None:
    machine = Machine("bkpt #0\nb .\nhard_fault: b .")
    machine[DHCSR] = KEY
    machine.core.reset()
    machine.run()
    assert machine.hfsr == Hfsr.DEBUGEVT
    assert machine.core.registers.ipsr == 3


def test_a_fault_in_the_hardfault_handler_locks_the_core_up() -> None:
    machine = Machine("udf #0\nhard_fault: udf #1")
    machine.run()
    assert machine[DHCSR] & Dhcsr.S_LOCKUP
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    status = Dhcsr(machine[DHCSR])
    assert Dhcsr.S_HALT in status
    assert Dhcsr.S_LOCKUP not in status
    assert machine.pc == 0xFFFFFFFE
    assert machine.ipsr == 3
    machine.step()
    assert machine.pc == 0xFFFFFFFE
    machine.resume()
    machine.run()
    assert machine[DHCSR] & Dhcsr.S_LOCKUP
    machine.core.reset()
    assert not machine[DHCSR] & Dhcsr.S_LOCKUP


def test_a_handler_may_ignore_bus_faults_to_probe_for_memory() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED14
        mov r1, #0x100
        str r1, [r0]
        cpsid f
        ldr r0, =0x60000000
        ldr r4, [r0]
        cpsie f
        bkpt #0
        """
    ).run_to_halt()
    assert machine.register(4) == 0
    assert machine.cfsr == Cfsr(0)


def test_unprivileged_code_cannot_touch_the_system_control_space() -> None:
    machine = Machine(
        "movs r0, #1\nmsr control, r0\nisb\nldr r0, =0xE000ED00\nldr r1, [r0]\nb .\n"
        + FAULT_HANDLERS
    ).run_to_halt()
    assert machine.cfsr == Cfsr.PRECISERR | Cfsr.BFARVALID
    assert machine[BFAR] == 0xE000ED00


@pytest.mark.parametrize(
    ("code", "catch"),
    [
        ("udf #0", Demcr.VC_STATERR),
        ("vadd.f32 s0, s1, s2", Demcr.VC_NOCPERR),
        ("ldr r0, =0x60000000\nldr r1, [r0]", Demcr.VC_BUSERR),
        ("ldr r0, =0x40000001\nbx r0", Demcr.VC_MMERR),
        ("ldr r0, =0x60000100\nmov sp, r0\nsvc #0", Demcr.VC_INTERR),
        ("udf #0", Demcr.VC_HARDERR),
    ],
)
def test_vector_catch_halts_at_the_handler(code: str, catch: Demcr) -> None:
    machine = Machine(code + "\nb .\nhard_fault: b .")
    machine[DEMCR] = catch
    machine.run_to_halt()
    assert machine[DFSR] == Dfsr.VCATCH
    assert machine.ipsr == 3


def test_a_debug_monitor_gets_the_breakpoints_where_nobody_debugs() -> None:
    machine = Machine(
        "ldr r0, =0xE000EDFC\nldr r1, =0x10000\nstr r1, [r0]\nbkpt #0\nb .\nmonitor: b ."
    )
    machine[DHCSR] = KEY
    machine.run()
    assert machine.core.registers.ipsr == 12
    assert machine[DFSR] == Dfsr.BKPT


def test_a_pended_debug_monitor_is_taken_once_and_switched_off_by_a_reset() -> None:
    """DDI 0403E, "Debug Exception and Monitor Control Register": MON_PEND, and bits that reset."""
    machine = Machine("b .\nmonitor: adds r4, #1\nbx lr")
    machine.run()
    machine[DEMCR] = Demcr.MON_EN | Demcr.MON_PEND | Demcr.VC_HARDERR
    machine.run()
    assert machine[DEMCR] == Demcr.MON_EN | Demcr.VC_HARDERR
    machine[DEMCR] = machine[DEMCR]
    machine.run()
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) == 1
    machine.core.reset()
    assert machine[DEMCR] == Demcr.VC_HARDERR


def test_an_interrupt_inside_an_it_block_returns_into_it() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED04
        ldr r1, =0x10000000
        movs r4, #0
        itttt eq
        streq r1, [r0]
        addeq r4, #1
        addeq r5, #1
        addeq r6, #1
        bkpt #0
        pendsv:
        ldr r2, =0x20000000
        str r4, [r2]
        movs r3, #1
        bx lr
        """
    ).run_to_halt()
    assert machine.result() == 0
    assert [machine.register(n) for n in (4, 5, 6)] == [1, 1, 1]


def test_a_fault_inside_an_it_block_stacks_where_it_was() -> None:
    machine = Machine(
        """
        movs r4, #0
        ldr r0, =0x60000000
        ittt eq
        addeq r5, #1
        ldreq r1, [r0]
        addeq r6, #1
        bkpt #0
        .ltorg
        hard_fault:
        ldr r0, [sp, #24]
        str r0, [sp]
        ldr r0, =0x20000100
        str r0, [sp]
        bx lr
        """
    )
    machine.run_to_halt()
    assert [machine.register(n) for n in (5, 6)] == [1, 1], "the load was tried again, and held"


def test_tasks_on_their_own_stacks_are_switched_by_pendsv() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED88
        ldr r1, =0x00F00000
        str r1, [r0]
        ldr r0, =0x20004000     @ a frame for task b, as a scheduler builds it
        ldr r1, =task_b
        str r1, [r0, #24]
        ldr r1, =0x01000000
        str r1, [r0, #28]
        subs r0, #36
        ldr r1, =0xFFFFFFFD
        str r1, [r0, #32]
        ldr r2, =0x20000040
        str r0, [r2]
        ldr r0, =0x20003000
        msr psp, r0
        movs r0, #2
        msr control, r0
        isb
        task_a:
        movs r4, #1
        vmov.f32 s16, #2.0
        vmov.f32 s1, #3.0
        bl yield
        cmp r4, #1
        bne 1f
        vmov r0, s16
        vmov r1, s1
        bkpt #0
        1: bkpt #1
        task_b:
        movs r4, #9
        vmov.f32 s16, #1.0
        vmov.f32 s1, #1.0
        bl yield
        bkpt #2
        yield:
        ldr r0, =0xE000ED04
        ldr r1, =0x10000000
        str r1, [r0]
        dsb
        isb
        bx lr
        pendsv:
        mrs r0, psp
        tst lr, #0x10
        it eq
        vstmdbeq r0!, {s16-s31}
        stmdb r0!, {r4-r11, lr}
        ldr r2, =0x20000040
        ldr r3, [r2]
        str r0, [r2]
        ldmia r3!, {r4-r11, lr}
        tst lr, #0x10
        it eq
        vldmiaeq r3!, {s16-s31}
        msr psp, r3
        bx lr
        """
    ).run_to_halt()
    assert machine.register(0) == 0x40000000
    assert machine.register(1) == 0x40400000
    assert machine.rom.data[machine.pc - 0x08000000] == 0, "task a came back to bkpt #0"


def test_a_supervisor_call_that_cannot_be_taken_is_a_hardfault() -> None:
    machine = Machine("cpsid i\nsvc #0\nb .\nsvc: bkpt #7\nhard_fault: bkpt #1").run_to_halt()
    assert machine.hfsr == Hfsr.FORCED
    assert machine.cfsr == Cfsr(0)
    assert machine.ipsr == 3


def test_prigroup_says_which_priority_bits_preempt() -> None:
    code = """
        ldr r0, =0xE000ED0C
        ldr r1, =0x05FA0{group}00
        str r1, [r0]
        ldr r0, =0xE000E100
        movs r1, #3
        str r1, [r0]
        ldr r3, =0xE000E400
        ldr r1, =0x7080
        strh r1, [r3]
        movs r1, #1
        str r1, [r0, #0x100]
        bkpt #0
        irq0:
        movs r1, #2
        str r1, [r0, #0x100]
        lsls r4, #4
        adds r4, #1
        bx lr
        irq1:
        lsls r4, #4
        adds r4, #2
        bx lr
        """
    irqs = {0: "irq0", 1: "irq1"}
    preempting = Machine(code.replace("{group}", "3"), irqs=irqs).run_to_halt()
    assert preempting.register(4) == 0x21
    grouped = Machine(code.replace("{group}", "7"), irqs=irqs).run_to_halt()
    assert grouped.register(4) == 0x12


def test_the_return_from_an_exception_is_an_event() -> None:
    """DDI 0403E, "Exception return behavior": ExceptionReturn() sets the event register."""
    machine = Machine(
        """
        svc #0
        movs r4, #1
        wfe
        movs r4, #2
        wfe
        movs r4, #3
        b .
        svc:
        wfe
        bx lr
        """
    )
    machine.run()
    assert machine[DHCSR] & Dhcsr.S_SLEEP
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) == 2, "the entry's event was taken by the handler"


def test_sleep_on_exit_goes_back_to_sleep_after_each_interrupt() -> None:
    machine = Machine(
        """
        ldr r0, =0xE000ED10
        movs r1, #2
        str r1, [r0]
        ldr r0, =0xE000E100
        movs r1, #1
        str r1, [r0]
        wfi
        bkpt #0
        irq0:
        adds r4, #1
        bx lr
        """,
        irqs={0: "irq0"},
    )
    for _ in range(3):
        machine.run()
        machine.scs.set_irq(0, True)
        machine.scs.set_irq(0, False)
    machine.run()
    assert machine[DHCSR] & Dhcsr.S_SLEEP
    machine[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT
    assert machine.register(4) == 3


def test_an_nmi_gets_through_lock_up() -> None:
    machine = Machine("udf #0\nhard_fault: udf #0\nnmi: bkpt #5")
    machine.run()
    assert machine.core.locked_up
    machine.scs.nvic.pend(2)
    machine.run_to_halt()
    assert machine.ipsr == 2
