"""What `thumb` says of an instruction, beside what a real disassembler does."""

from __future__ import annotations

import struct
from typing import Any

import capstone
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gdbserver.chip.memory import Span
from gdbserver.target.thumb import decode, exits

HERE = 0x08001000
STOPS = {"svc", "bkpt", "udf", "udf.w", "wfi", "wfe", "wfi.w", "wfe.w", "hlt", "svc.w"}
# What may write pc; a disassembler also shows encodings that are UNPREDICTABLE.
FLOW = {
    2: {"bx", "blx", "pop", "mov", "add"},
    4: {"bl", "tbb", "tbh", "pop", "ldm", "ldmdb", "ldr"},
}

disassembler = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
disassembler.detail = True


def disassembled(code: bytes) -> Any:
    return next(disassembler.disasm(code, HERE, 1), None)


@settings(max_examples=1500)
@given(
    st.one_of(
        st.tuples(st.integers(0, 0xFFFF), st.just(0xBF00)),
        st.tuples(st.integers(0xE800, 0xFFFF), st.integers(0, 0xFFFF)),
        st.tuples(st.integers(0xF000, 0xF7FF), st.integers(0x8000, 0xFFFF)),
    )
)
def test_a_disassembler_agrees(words: tuple[int, int]) -> None:
    code = struct.pack("<2H", *words)
    theirs = disassembled(code)
    assume(theirs is not None)
    ours = decode(code, HERE)
    assert ours is not None
    assert ours.size == theirs.size
    _, written = theirs.regs_access()
    elsewhere = capstone.arm.ARM_REG_PC in written or theirs.group(capstone.CS_GRP_JUMP)
    if ours.target is not None:
        assert theirs.group(capstone.CS_GRP_JUMP), theirs
        target = next(o.imm for o in theirs.operands if o.type == capstone.arm.ARM_OP_IMM)
        assert ours.target & 0xFFFFFFFF == target & 0xFFFFFFFF
        assert ours.goes_on == (theirs.mnemonic.removesuffix(".w") != "b")
    elif elsewhere and theirs.mnemonic.removesuffix(".w") in FLOW[theirs.size]:
        assert ours.leaves or bases_on_pc(theirs), f"{theirs.mnemonic} {theirs.op_str}"
    if theirs.mnemonic in STOPS:
        assert ours.leaves, theirs.mnemonic


def bases_on_pc(instruction: Any) -> bool:
    """A write back to pc as a base register, which is UNPREDICTABLE."""
    first = instruction.operands[0]
    return instruction.mnemonic.startswith("ldm") and first.reg == capstone.arm.ARM_REG_PC


def code(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}H", *words)


NOP, BL_NEXT, BX_LR, WFI, BKPT = 0xBF00, (0xF000, 0xF800), 0x4770, 0xBF30, 0xBE00


@pytest.mark.parametrize(
    ("words", "start", "found", "loops"),
    [
        ((NOP, NOP, NOP), 0, {6}, False),
        ((NOP, *BL_NEXT, NOP), 0, {2}, False),
        ((NOP, *BL_NEXT, NOP), 6, {8}, False),
        ((BX_LR, NOP), 0, {0}, False),
        ((NOP, WFI, BKPT), 0, {2}, False),
        ((0xD000, NOP, NOP), 0, {6}, False),  # beq to the last
        ((0xD0FE, NOP), 0, {4}, True),  # beq to itself
        ((NOP, 0xE7FD), 0, set(), True),  # b to the first: for ever
        ((0xD108, NOP), 0, {4, 0x14}, False),  # bne to behind the range
        ((0xBF08, NOP, NOP), 0, {6}, False),  # it eq; nopeq
        ((0xBF08, BX_LR, NOP), 0, {0}, False),  # it eq; bxeq lr: watch the IT
        ((0xBF04, NOP), 0, {0}, False),  # itt eq, of which the range has one half
        ((0xB108, NOP), 0, {4, 6}, False),  # cbz
    ],
)
def test_exits(words: tuple[int, ...], start: int, found: set[int], loops: bool) -> None:
    span = Span.of(HERE, 2 * len(words))
    expected = {HERE + offset for offset in found}
    assert exits(code(*words), span, HERE + start) == (expected, loops)


def test_code_that_is_cut_short_is_an_exit() -> None:
    assert exits(code(NOP, 0xF000), Span.of(HERE, 4), HERE) == ({HERE + 2}, False)
