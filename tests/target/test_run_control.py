"""Running, stopping and stepping a real program."""

from __future__ import annotations

from functools import partial

import pytest
from target_bench import Bench

from gdbserver.chip.cortex_m import DHCSR, ICSR, Dhcsr, ExceptionNumber, Icsr
from gdbserver.errors import TargetError
from gdbserver.sim.clock import MILLISECOND
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.scripts import Script

FALSE = bytes([0x22, 0, 0x27])  # const8 0, end: GDB manual, "Bytecode Descriptions"
DRILLS = {"BREAK": 6, "WAIT": 8}


def start(bench: Bench, drill: str) -> None:
    """Go to main, and have it do `drill`."""
    bench.run_to("step_1")
    bench.target.write_word(bench.names["drill"], DRILLS[drill])


def test_after_reset_the_core_waits_before_its_first_instruction(bench: Bench) -> None:
    stop = bench.target.poll_stop()
    assert stop is not None
    assert stop.kind == "reset"
    assert bench.pc == bench.names["Reset_Handler"] & ~1
    assert bench.target.read_registers(["sp"])["sp"] == bench.names["_stack_top"]


def test_a_hardware_breakpoint_stops_where_it_is(bench: Bench) -> None:
    stop = bench.run_to("main")
    assert (stop.kind, stop.signal) == ("hwbreak", 5)


def test_the_program_runs_between_two_breakpoints(bench: Bench) -> None:
    bench.run_to("step_1")
    before = bench.target.read_word(bench.names["counter"])
    bench.run_to("step_3")
    assert bench.target.read_word(bench.names["counter"]) == before + 3


def test_halt_stops_a_running_core(bench: Bench) -> None:
    bench.target.resume()
    assert bench.target.poll_stop() is None
    assert not bench.target.is_halted()
    bench.target.halt()
    stop = bench.target.poll_stop()
    assert stop is not None
    assert (stop.kind, stop.signal) == ("halted", 2)


def test_a_core_is_halted_although_the_button_that_resets_it_bounces(bench: Bench) -> None:
    """What was asked for in the first reset is forgotten in the second."""
    board = bench.board
    bench.target.resume()
    bench.target.poll_stop()
    board.hold_reset(True, who="button")
    for milliseconds, low in ((20, False), (20.01, True), (30, False)):
        delay = int(milliseconds * MILLISECOND)
        board.clock.after(delay, partial(board.hold_reset, low, who="button"))
    bench.target.halt()
    assert board.core.halted
    assert bench.target.unasked_resets == 1


def test_a_breakpoint_that_wins_the_race_against_halt_is_reported(bench: Bench) -> None:
    where = bench.names["step_1"] & ~1
    bench.target.set_breakpoint(BreakKind.HARDWARE, where, 2)
    bench.run()
    bench.target.resume()
    deadline = bench.target.deadline(0.01)
    while not bench.target.is_halted():
        assert not deadline.expired()
    bench.target.halt()
    stop = bench.target.poll_stop()
    assert stop is not None
    assert stop.kind == "hwbreak"


def test_a_halt_is_not_lost_where_a_breakpoint_with_a_false_condition_came_first(
    bench: Bench,
) -> None:
    """A program that hits one all the time stands there nearly always when Ctrl-C comes."""
    where = bench.names["step_1"] & ~1
    bench.target.set_breakpoint(BreakKind.HARDWARE, where, 2, Script((FALSE,)))
    bench.target.resume()
    deadline = bench.target.deadline(0.01)
    while not bench.target.is_halted():
        assert not deadline.expired()
    bench.target.halt()
    stop = bench.target.poll_stop()
    assert stop is not None
    assert (stop.kind, stop.signal) == ("halted", 2)
    assert bench.target.poll_stop() == stop
    assert bench.pc == where


def test_a_condition_that_is_set_at_a_stop_is_for_the_next_one(bench: Bench) -> None:
    """GDB's non-stop mode sends it at once, and nobody has told the core to run."""
    where = bench.names["step_1"] & ~1
    bench.target.set_breakpoint(BreakKind.HARDWARE, where, 2)
    stop = bench.run()
    before = bench.target.read_word(bench.names["counter"])
    bench.target.set_breakpoint(BreakKind.HARDWARE, where, 2, Script((FALSE,)))
    assert bench.target.poll_stop() == stop
    assert bench.target.read_word(bench.names["counter"]) == before
    bench.target.resume()
    assert bench.target.poll_stop() is None


def test_registers_of_a_running_core_are_refused(bench: Bench) -> None:
    bench.run_to("main")
    bench.target.resume()
    with pytest.raises(TargetError, match="the core is running"):
        bench.target.read_registers(["pc"])


def test_a_step_is_one_instruction(bench: Bench) -> None:
    before = bench.pc
    bench.target.step()
    stop = bench.target.poll_stop()
    assert stop is not None
    assert (stop.kind, stop.signal) == ("step", 5)
    assert bench.pc - before in (2, 4)


def test_watchpoints_may_go_before_anybody_asks_why_the_core_stopped(bench: Bench) -> None:
    bench.target.set_breakpoint(BreakKind.WRITE_WATCH, bench.names["watched"], 4)
    bench.target.step()
    bench.target.clear_all_breakpoints()  # the client has vanished
    stop = bench.target.poll_stop()
    assert stop is not None
    assert stop.kind == "step"


def test_steps_lead_into_a_function(bench: Bench) -> None:
    bench.run_to("main")
    visited = set()
    for _ in range(60):
        bench.target.step()
        visited.add(bench.pc)
    assert bench.names["step_1"] & ~1 in visited


def test_a_step_executes_the_instruction_under_a_breakpoint(bench: Bench) -> None:
    where = bench.names["step_1"] & ~1
    bench.target.set_breakpoint(BreakKind.HARDWARE, where, 2)
    bench.run()
    bench.target.step()
    assert bench.pc != where
    assert bench.run().kind == "hwbreak", "it is still there"
    assert bench.pc == where


def test_interrupts_do_not_come_between_steps(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.write_word(ICSR, Icsr.PENDSTSET)
    for _ in range(5):
        bench.target.step()
        assert bench.pc != bench.names["SysTick_Handler"] & ~1


def test_interrupts_come_where_they_are_wanted(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.write_word(ICSR, Icsr.PENDSTSET)
    bench.target.step(mask_interrupts=False)
    handler = bench.names["SysTick_Handler"] & ~1
    assert bench.pc in (handler, handler + 2, handler + 4)


def test_interrupts_are_not_masked_any_more_once_the_core_runs(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.step()
    bench.target.resume()
    assert not bench.target.read_word(DHCSR) & Dhcsr.C_MASKINTS


def test_a_bkpt_of_the_programs_own_stops_it_and_is_passed(bench: Bench) -> None:
    start(bench, "BREAK")
    stop = bench.run()
    assert (stop.kind, stop.signal) == ("swbreak", 5)
    where = bench.pc
    assert bench.target.read_memory(where, 2) == b"\x01\xbe"
    before = bench.target.read_word(bench.names["counter"])
    bench.run_to("step_1")
    assert bench.target.read_word(bench.names["counter"]) == before + 1000


def test_a_step_passes_a_bkpt(bench: Bench) -> None:
    start(bench, "BREAK")
    bench.run()
    where = bench.pc
    bench.target.step()
    stop = bench.target.poll_stop()
    assert stop is not None
    assert stop.kind == "step"
    assert bench.pc == where + 2


def test_a_pc_that_the_user_moved_away_from_a_bkpt_is_kept(bench: Bench) -> None:
    start(bench, "BREAK")
    bench.run()
    bench.target.write_registers({"pc": bench.names["step_2"] & ~1})
    bench.target.step()
    assert bench.pc in range(bench.names["step_2"], bench.names["step_2"] + 8)


def test_a_core_that_sleeps_is_running(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.write_word(0xE000E010, 0)  # SysTick off: nothing will wake it
    bench.target.write_word(bench.names["drill"], DRILLS["WAIT"])
    bench.target.resume()
    for _ in range(20):
        assert bench.target.poll_stop() is None
    assert bench.board.core.asleep
    bench.target.halt()
    assert bench.target.read_memory(bench.pc - 2, 2) == b"\x30\xbf", "it stands behind the WFI"


def test_a_step_into_wfi_comes_back(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.write_word(0xE000E010, 0)
    bench.target.write_word(bench.names["drill"], DRILLS["WAIT"])
    for _ in range(60):
        wfi = bench.target.read_memory(bench.pc, 2) == b"\x30\xbf"
        before = bench.pc
        bench.target.step()
        stop = bench.target.poll_stop()
        assert stop is not None
        assert stop.kind == "step"
        if wfi:
            assert bench.pc == before + 2
            return
    pytest.fail("no WFI was met")


def test_reset_and_run(bench: Bench) -> None:
    bench.run_to("step_2")
    bench.target.reset(halt=False)
    assert bench.target.poll_stop() is None
    bench.target.halt()
    assert bench.target.read_word(bench.names["counter"]) > 0


def test_breakpoints_survive_a_reset(bench: Bench) -> None:
    where = bench.names["main"] & ~1
    bench.target.set_breakpoint(BreakKind.HARDWARE, where, 2)
    bench.run()
    bench.target.reset(halt=True)
    assert bench.run().kind == "hwbreak"


def test_a_reset_by_somebody_else_is_no_stop_and_breakpoints_hold(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.set_breakpoint(BreakKind.HARDWARE, bench.names["main"] & ~1, 2)
    bench.target.resume()
    assert bench.target.poll_stop() is None
    bench.board.hold_reset(True)
    bench.board.hold_reset(False)
    assert bench.wait().kind == "hwbreak"
    assert bench.pc == bench.names["main"] & ~1


def test_nrst_that_is_held_low_for_a_while_is_one_reset(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.set_breakpoint(BreakKind.HARDWARE, bench.names["main"] & ~1, 2)
    bench.target.resume()
    assert bench.target.poll_stop() is None
    bench.board.hold_reset(True, who="button")
    assert [bench.target.poll_stop() for _ in range(5)] == [None] * 5
    bench.board.hold_reset(False, who="button")
    assert bench.wait().kind == "hwbreak"
    assert bench.target.unasked_resets == 1


def test_registers_can_be_written(bench: Bench) -> None:
    values = {f"r{n}": 0x1000 + n for n in range(13)}
    values |= {"d7": 0x0123456789ABCDEF, "fpscr": 0x03000000, "primask": 1, "psp": 0x20000800}
    bench.target.write_registers(values)
    assert bench.target.read_registers(values) == values
    bench.target.is_halted()
    bench.target.write_word(0xE000EDFC, 0x01000400)  # a debug register: all is read afresh
    assert bench.target.read_registers(values) == values


def test_sp_is_whichever_stack_is_in_use(bench: Bench) -> None:
    bench.target.write_registers({"msp": 0x20001000, "psp": 0x20000800})
    assert bench.target.read_registers(["sp"]) == {"sp": 0x20001000}
    bench.target.write_registers({"control": 2})
    assert bench.target.read_registers(["sp"]) == {"sp": 0x20000800}
    bench.target.write_registers({"sp": 0x20000700})
    assert bench.target.read_registers(["psp"]) == {"psp": 0x20000700}


def test_writing_no_register_is_nothing(bench: Bench) -> None:
    bench.run_to("step_1")
    before = bench.cost()
    bench.target.write_registers({})
    assert bench.cost() == before


def test_a_step_changes_what_registers_read(bench: Bench) -> None:
    bench.target.write_registers({"pc": bench.names["step_1"] & ~1})
    seen = {bench.pc}
    for _ in range(3):
        bench.target.step()
        seen.add(bench.pc)
    assert len(seen) == 4


@pytest.mark.parametrize("kind", [BreakKind.HARDWARE, BreakKind.SOFTWARE])
def test_a_breakpoint_hit_as_an_interrupt_comes_in_is_told_of_where_it_is(
    bench: Bench, kind: BreakKind
) -> None:
    bench.run_to("main")
    where = bench.names["step_2"] & ~1
    bench.target.set_breakpoint(kind, where, 2)
    bench.board.core.coincidence = ExceptionNumber.SYS_TICK
    stop = bench.run()
    assert (stop.kind, bench.pc) == ("hwbreak" if kind is BreakKind.HARDWARE else "swbreak", where)
    assert bench.board.core.coincidence is None
    assert bench.target.read_registers(["xpsr"])["xpsr"] & 0x1FF == 0


def test_a_misplaced_breakpoint_does_not_keep_a_core_from_halting(quick: Bench) -> None:
    quick.run_to("main")
    quick.target.set_breakpoint(BreakKind.HARDWARE, quick.names["step_2"] & ~1, 2)
    quick.board.core.coincidence = ExceptionNumber.SYS_TICK
    quick.target.resume()
    quick.board.run_until(quick.board.clock.now + MILLISECOND)
    quick.target.halt()
    stop = quick.target.poll_stop()
    assert stop is not None
    assert (stop.kind, quick.pc) == ("halted", quick.names["SysTick_Handler"] & ~1)


def test_a_core_is_seen_again_when_somebody_else_has_used_the_access_port(bench: Bench) -> None:
    def meddle() -> None:
        port = bench.board.debug_port
        port.select = 0xF0
        port.aps[0].tar = bench.names["counter"] & ~0xF

    bench.run_to("step_1")
    meddle()
    assert bench.target.is_halted()
    pc = bench.pc
    bench.target.resume()
    meddle()
    assert not bench.target.is_halted()
    bench.target.halt()
    assert bench.pc != pc
