"""Instructions that Unicorn must not execute, found in code."""

from __future__ import annotations

import pytest
from firmware_helper import assemble
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.sim.traps import Trap, advance_it, condition_passed, find_traps, it_state


@pytest.mark.parametrize(
    ("source", "trap"),
    [
        ("wfi", Trap.WAIT_FOR_INTERRUPT),
        ("wfi.w", Trap.WAIT_FOR_INTERRUPT),
        ("wfe", Trap.WAIT_FOR_EVENT),
        ("wfe.w", Trap.WAIT_FOR_EVENT),
        ("sev", Trap.SEND_EVENT),
        ("sev.w", Trap.SEND_EVENT),
        ("cpsie i", Trap.UNMASK),
        ("cpsie f", Trap.UNMASK),
        ("msr primask, r3", Trap.UNMASK),
        ("msr basepri, r3", Trap.UNMASK),
        ("msr faultmask, r12", Trap.UNMASK),
        ("sdiv r1, r2, r3", Trap.DIVIDE),
        ("udiv r1, r2, r3", Trap.DIVIDE),
        ("vadd.f64 d0, d1, d2", Trap.FLOATING_POINT),
        ("vldr s0, [r1]", Trap.FLOATING_POINT),
        ("vmrs r0, fpscr", Trap.FLOATING_POINT),
        ("vseleq.f32 s0, s1, s2", Trap.FLOATING_POINT),
        ("nop", None),
        ("yield", None),
        ("it eq\nmoveq r0, r1", None),
        ("cpsid i", None),
        ("msr control, r0", None),
        ("mrs r0, primask", None),
        ("mul r1, r2, r3", None),
        ("smull r0, r1, r2, r3", None),
        ("ldrd r0, r1, [r2]", None),
    ],
)
def test_instructions_are_known_by_their_encoding(source: str, trap: Trap | None) -> None:
    code = assemble(f"nop\n{source}\nnop")
    assert dict(find_traps(code, 0x100)) == ({0x102: trap} if trap else {})


@given(st.binary(max_size=64))
def test_any_bytes_can_be_looked_through(code: bytes) -> None:
    assert all(0 <= address < len(code) for address, _ in find_traps(code, 0))


flags = st.integers(0, 15)


@given(flags=flags, condition=st.integers(0, 13))
def test_a_condition_and_its_opposite_never_agree(flags: int, condition: int) -> None:
    def passes(condition: int) -> bool:
        return condition_passed(flags << 28 | with_it(condition << 4 | 8))

    assert passes(condition) != passes(condition ^ 1)


def with_it(state: int) -> int:
    return (state & 3) << 25 | (state >> 2) << 10


@given(st.integers(0, 255))
def test_an_it_block_ends_after_at_most_four_instructions(state: int) -> None:
    xpsr = with_it(state)
    for _ in range(4):
        xpsr = advance_it(xpsr)
    assert it_state(xpsr) == 0
