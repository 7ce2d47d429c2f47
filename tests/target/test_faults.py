"""Fault registers -> a sentence that says what, where and who."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.chip.cortex_m import Cfsr, Hfsr
from gdbserver.target import faults
from gdbserver.target.faults import FaultStatus, Frame
from gdbserver.target.stop import SIGBUS, SIGFPE, SIGILL, SIGSEGV

HERE = Frame(pc=0x08000456, lr=0x08000401, xpsr=0x61000000)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            FaultStatus(Cfsr.PRECISERR | Cfsr.BFARVALID, Hfsr.FORCED, bfar=0x60000000, frame=HERE),
            (
                "bus fault: the instruction at 0x08000456 accessed 0x60000000;"
                " escalated to a hard fault; called from 0x08000400"
            ),
        ),
        (
            FaultStatus(Cfsr.IMPRECISERR, frame=HERE),
            (
                "bus fault: a buffered write failed, some time before code at 0x08000456;"
                " called from 0x08000400"
            ),
        ),
        (
            FaultStatus(Cfsr.DACCVIOL | Cfsr.MMARVALID, mmfar=0x00000004),
            "memory management fault: the instruction somewhere must not access 0x00000004",
        ),
        (
            FaultStatus(Cfsr.UNDEFINSTR, Hfsr.FORCED, frame=HERE),
            (
                "usage fault: undefined instruction at 0x08000456; escalated to a hard fault;"
                " called from 0x08000400"
            ),
        ),
        (
            FaultStatus(Cfsr.NOCP, frame=Frame(0x08000456, 0xFFFFFFF9, 0)),
            "usage fault: the FPU is off for the floating-point instruction at 0x08000456",
        ),
        (
            FaultStatus(hfsr=Hfsr.VECTTBL),
            "hard fault: a vector could not be read; does VTOR point to a vector table?",
        ),
        (
            FaultStatus(Cfsr.STKERR, sp=0x1FFFFFF8),
            "bus fault: the stack could not be written on exception entry; sp is 0x1ffffff8",
        ),
        (
            FaultStatus(Cfsr.STKERR, sp=0xFFFFFFD8),
            (
                "bus fault: the stack could not be written on exception entry; sp is 0xffffffd8,"
                " from the blank flash at the last reset: monitor reset halt sets it"
            ),
        ),
        (
            FaultStatus(Cfsr.STKERR, Hfsr.FORCED, locked_up=True),
            (
                "the core locked up, faulting in a fault handler: bus fault: the stack could not"
                " be written on exception entry; escalated to a hard fault"
            ),
        ),
        (
            FaultStatus(locked_up=True),
            "the core locked up, faulting in a fault handler: no status says why",
        ),
    ],
)
def test_a_fault_is_one_sentence(status: FaultStatus, sentence: str) -> None:
    assert faults.describe(status) == sentence


def test_registers_without_a_fault_say_nothing() -> None:
    assert faults.describe(FaultStatus(bfar=0x60000000, frame=HERE)) is None


def test_an_address_register_that_is_not_valid_is_not_quoted() -> None:
    sentence = faults.describe(FaultStatus(Cfsr.PRECISERR, bfar=0x12345678, frame=HERE))
    assert sentence is not None
    assert "0x12345678" not in sentence


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.booleans())
def test_any_registers_can_be_described(cfsr: int, hfsr: int, locked_up: bool) -> None:
    status = FaultStatus(cfsr, hfsr, 0, 0, HERE, locked_up)
    assert faults.describe(status) != ""
    assert faults.signal(status) in (SIGBUS, SIGFPE, SIGILL, SIGSEGV)


@pytest.mark.parametrize(
    ("cfsr", "signal"),
    [
        (Cfsr.DIVBYZERO, SIGFPE),
        (Cfsr.UNDEFINSTR, SIGILL),
        (Cfsr.INVSTATE, SIGILL),
        (Cfsr.PRECISERR | Cfsr.BFARVALID, SIGBUS),
        (Cfsr.UNALIGNED, SIGBUS),
        (Cfsr.DACCVIOL, SIGSEGV),
        (Cfsr(0), SIGSEGV),
    ],
)
def test_a_fault_is_the_signal_that_a_unix_program_would_get(cfsr: Cfsr, signal: int) -> None:
    assert faults.signal(FaultStatus(cfsr)) == signal


@pytest.mark.parametrize(
    ("xpsr", "lr", "stack"),
    [
        (3, 0xFFFFFFF9, "msp"),
        (3, 0xFFFFFFFD, "psp"),
        (5, 0xFFFFFFED, "psp"),  # with FPU state
        (6, 0xFFFFFFF1, "msp"),  # out of another handler
        (0, 0xFFFFFFF9, None),  # in thread mode lr means something else
        (3, 0x08000401, None),  # the handler has called somebody
        (15, 0xFFFFFFF9, None),  # SysTick is no fault
    ],
)
def test_the_frame_lies_where_lr_says(xpsr: int, lr: int, stack: str | None) -> None:
    assert faults.frame_stack(xpsr | 0x01000000, lr) == stack


def test_a_frame_is_read_from_the_stacked_words() -> None:
    words = [1, 2, 3, 4, 12, 0x08000401, 0x08000456, 0x61000000]
    assert Frame.of(words) == HERE


@pytest.mark.parametrize("words", [[0] * 6 + [0x08000457, 0x01000000], [0] * 7 + [0xFFFFFFFF]])
def test_words_that_are_no_frame_are_not_taken_for_one(words: list[int]) -> None:
    assert Frame.of(words) is None
