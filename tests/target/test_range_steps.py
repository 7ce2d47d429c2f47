"""Out of a range of addresses: at full speed where that is possible, never further than asked."""

from __future__ import annotations

import struct

import pytest
from target_bench import Bench

from gdbserver.chip.cortex_m import DEMCR, DHCSR, ICSR, VC_ALL_FAULTS, Demcr, Dhcsr, Icsr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM
from gdbserver.errors import TargetError
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.scripts import Script
from gdbserver.target.stop import StopReason

CODE = AXI_SRAM.start + 0x1000
NOP, BX_LR, BKPT, WFI, SVC, SELF = 0xBF00, 0x4770, 0xBE00, 0xBF30, 0xDF00, 0xE7FE
ADD_R0 = 0x3001
FPB = 0xE0002008
FALSE = bytes([0x22, 0, 0x27])  # const8 0, end: GDB manual, "Bytecode Descriptions"


def at_code(bench: Bench, *words: int, **registers: int) -> Span:
    """The core stands before these halfwords, with `registers`; what they fill."""
    span = Span.of(CODE, 2 * len(words))
    bench.target.write_memory(CODE, struct.pack(f"<{len(words)}H", *words))
    bench.target.write_memory(span.end, struct.pack("<4H", SELF, SELF, SELF, SELF))
    bench.target.write_registers({"pc": CODE, "xpsr": 1 << 24, **registers})
    return span


def step_range(bench: Bench, span: Span) -> StopReason:
    bench.target.step_range(span)
    return bench.wait()


def comparators(bench: Bench) -> int:
    return sum(word & 1 for word in bench.target.read_words(FPB, 8))


def test_straight_code_takes_a_few_exchanges_however_long(bench: Bench) -> None:
    span = at_code(bench, *[ADD_R0] * 200, r0=0)
    before = bench.cost()
    assert step_range(bench, span).kind == "step"
    assert bench.pc == span.end
    assert bench.target.read_registers(["r0"])["r0"] == 200
    assert bench.cost() - before < (80 if "stlink" in bench.target.probe_uid else 12)


def test_a_loop_runs_at_full_speed(quick: Bench) -> None:
    # subs r0, #1; bne .-2
    span = at_code(quick, 0x3801, 0xD1FD, r0=5000)
    before = quick.cost()
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end
    assert quick.target.read_registers(["r0"])["r0"] == 0
    assert quick.cost() - before < 50


def test_a_call_is_left_at_the_first_instruction_of_the_function(quick: Bench) -> None:
    # bl to 8 behind
    span = at_code(quick, NOP, 0xF000, 0xF802, NOP, NOP, NOP)
    assert step_range(quick, Span(span.start, span.start + 8)).kind == "step"
    assert quick.pc == CODE + 10
    assert quick.target.read_registers(["lr"])["lr"] == CODE + 6 | 1


@pytest.mark.parametrize("used", range(9))
def test_it_works_with_however_many_comparators_are_free(quick: Bench, used: int) -> None:
    for n in range(used):
        quick.target.set_breakpoint(BreakKind.HARDWARE, 0x08010000 + 2 * n, 2)
    # cmp r0, #0; beq +4; nop; b .-6 at first; then out
    span = at_code(quick, NOP, NOP, 0x2800, 0xD001, NOP, NOP, NOP, r0=0)
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end
    assert comparators(quick) == used


def test_a_breakpoint_in_the_range_is_a_stop(quick: Bench) -> None:
    span = at_code(quick, *[NOP] * 10)
    quick.target.set_breakpoint(BreakKind.HARDWARE, CODE + 8, 2)
    assert step_range(quick, span).kind == "hwbreak"
    assert quick.pc == CODE + 8
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end


def test_a_breakpoint_behind_the_range_is_said_to_be_one(quick: Bench) -> None:
    span = at_code(quick, *[NOP] * 10)
    quick.target.set_breakpoint(BreakKind.SOFTWARE, span.end, 2)
    assert step_range(quick, span).kind in ("swbreak", "step")
    assert quick.pc == span.end


@pytest.mark.parametrize("kind", [BreakKind.HARDWARE, BreakKind.SOFTWARE])
@pytest.mark.parametrize("offset", [2, 10, 38, 40])
def test_a_breakpoint_with_a_false_condition_changes_nothing_about_where_it_ends(
    quick: Bench, kind: BreakKind, offset: int
) -> None:
    """In the range, and on the line behind it."""
    span = at_code(quick, *[ADD_R0] * 20, r0=0)
    quick.target.set_breakpoint(kind, CODE + offset, 2, Script((FALSE,)))
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end
    assert quick.target.read_registers(["r0"])["r0"] == 20


def test_interrupts_wait_until_straight_code_is_left(quick: Bench) -> None:
    span = at_code(quick, *[NOP] * 10)
    handler = quick.names["SysTick_Handler"] & ~1
    ticks = quick.target.read_word(quick.names["ticks"])
    quick.target.write_word(ICSR, Icsr.PENDSTSET)
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end != handler
    assert quick.target.read_word(quick.names["ticks"]) == ticks


def test_a_loop_that_waits_for_an_interrupt_gets_it(quick: Bench) -> None:
    ticks = quick.names["ticks"]
    quick.target.write_words(0xE000E014, [63999])
    quick.target.write_word(0xE000E010, 7)  # SysTick, with its interrupt
    # ldr r0, [r1]; cmp r0, r2; beq .-4
    now = quick.target.read_word(ticks)
    span = at_code(quick, 0x6808, 0x4290, 0xD0FC, r1=ticks, r2=now)
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end


@pytest.mark.parametrize("handled", [False, True])
def test_a_fault_ends_it_in_front_of_the_handler(quick: Bench, handled: bool) -> None:
    if handled:
        quick.target.write_word(0xE000ED24, 1 << 17)  # SHCSR.BUSFAULTENA
    span = at_code(quick, NOP, 0x6808, *[NOP] * 6, r1=0x70000000)
    stop = step_range(quick, span)
    assert "0x70000000" in stop.detail
    assert (stop.kind, stop.signal) == (("step", 5) if handled else ("fault", 10))
    assert quick.pc == quick.names["Default_Handler"] & ~1
    caught = quick.target.read_word(DEMCR) & VC_ALL_FAULTS
    assert caught == Demcr.VC_HARDERR, "what was caught for a while is not any more"


@pytest.mark.parametrize("words", [(WFI,), (NOP, WFI, NOP), (0xF3AF, 0x8003), (0xBF20,)])
def test_sleep_does_not_hang(quick: Bench, words: tuple[int, ...]) -> None:
    quick.target.write_word(0xE000E010, 0)  # nothing will wake it
    span = at_code(quick, *words)
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end


def test_a_bkpt_of_the_programs_own_is_a_stop_and_is_passed(quick: Bench) -> None:
    span = at_code(quick, NOP, NOP, BKPT, NOP)
    assert step_range(quick, span).kind == "swbreak"
    assert quick.pc == CODE + 4
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end


def test_an_svc_is_stepped_into(quick: Bench) -> None:
    span = at_code(quick, NOP, SVC, NOP)
    assert step_range(quick, span).kind == "step"
    assert quick.pc == quick.names["Default_Handler"] & ~1
    assert quick.target.read_registers(["xpsr"])["xpsr"] & 0x1FF == 11


def test_an_exception_return_comes_back_to_where_it_was(quick: Bench) -> None:
    span = at_code(quick, NOP, SVC, NOP)
    step_range(quick, span)
    quick.target.write_memory(CODE + 0x100, struct.pack("<2H", NOP, BX_LR))
    quick.target.write_registers({"pc": CODE + 0x100})
    assert step_range(quick, Span.of(CODE + 0x100, 4)).kind == "step"
    assert quick.pc == CODE + 4, "behind the SVC"


@pytest.mark.parametrize(("r0", "expected"), [(0, 7), (1, 9)])
def test_it_blocks_are_left_as_they_decide(quick: Bench, r0: int, expected: int) -> None:
    # cmp r0, #0; ite eq; moveq r1, #7; movne r1, #9; nop
    span = at_code(quick, 0x2800, 0xBF0C, 0x2107, 0x2109, NOP, r0=r0, r1=0)
    quick.target.step()
    quick.target.step()  # between IT and what depends on it
    assert step_range(quick, span).kind == "step"
    assert quick.pc == span.end
    assert quick.target.read_registers(["r1"])["r1"] == expected


def test_a_line_that_never_ends_can_be_interrupted(quick: Bench) -> None:
    span = at_code(quick, NOP, 0xE7FD)
    quick.target.step_range(span)
    for _ in range(20):
        assert quick.target.poll_stop() is None
    quick.target.halt()
    stop = quick.target.poll_stop()
    assert stop is not None
    assert (stop.kind, stop.signal) == ("halted", 2)
    assert quick.pc in span
    assert comparators(quick) == 0
    quick.target.resume()
    assert not quick.target.read_word(DHCSR) & Dhcsr.C_MASKINTS


def test_a_watchpoint_in_the_range_is_a_stop(quick: Bench) -> None:
    quick.target.set_breakpoint(BreakKind.WRITE_WATCH, 0x24008000, 4)
    span = at_code(quick, NOP, 0x6008, NOP, NOP, NOP, NOP, r1=0x24008000)  # str r0, [r1]
    stop = step_range(quick, span)
    assert (stop.kind, stop.address) == ("watch", 0x24008000)


def test_a_running_core_cannot_be_stepped(quick: Bench) -> None:
    quick.target.resume()
    with pytest.raises(TargetError, match="running"):
        quick.target.step_range(Span.of(CODE, 4))
