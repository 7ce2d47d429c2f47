from __future__ import annotations

import logging

import pytest
from bare_machine import BFAR, DEMCR, DFSR, DHCSR, HZ, KEY, Machine, Slave
from firmware_helper import CODE
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.cortex_m import Cfsr, Demcr, Dfsr, Dhcsr, Hfsr
from gdbserver.chip.memory import Span
from gdbserver.sim.bus import BusError, BusStall
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND
from gdbserver.sim.polling import AccessKind

# --- exceptions -----------------------------------------------------------------------


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


# --- faults -----------------------------------------------------------------------------

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


# --- memory and time --------------------------------------------------------------------


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


def test_a_step_to_code_that_nobody_has_executed_yet_is_one_step() -> None:
    machine = Machine("ldr r0, =0x20001001\nbkpt #0\nbx r0").run_to_halt()
    machine[0x20001000] = 0x22022101  # movs r1, #1; movs r2, #2
    machine.set_register(15, machine.pc + 2)
    assert [machine.step() for _ in range(3)] == [0x20001000, 0x20001002, 0x20001004]


def test_emptying_a_data_port_is_not_taken_for_waiting() -> None:
    machine = Machine(
        "ldr r0, =0x40000000\nmovs r2, #100\n1: ldr r1, [r0]\nsubs r2, #1\nbne 1b\nbkpt #0"
    )
    machine.slave.data_ports = frozenset({0})
    machine.run_to_halt()
    assert machine.clock.now < 150 * MICROSECOND


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


def test_a_debug_monitor_gets_the_breakpoints_where_nobody_debugs() -> None:
    machine = Machine(
        "ldr r0, =0xE000EDFC\nldr r1, =0x10000\nstr r1, [r0]\nbkpt #0\nb .\nmonitor: b ."
    )
    machine[DHCSR] = KEY
    machine.run()
    assert machine.core.registers.ipsr == 12
    assert machine[DFSR] == Dfsr.BKPT


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


def test_an_interrupt_that_is_not_enabled_can_be_an_event() -> None:
    machine = Machine("ldr r0, =0xE000ED10\nmovs r1, #0x10\nstr r1, [r0]\nwfe\nbkpt #0")
    machine.run()
    assert machine.core.asleep
    machine.scs.set_irq(7, True)
    machine.run_to_halt()


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
