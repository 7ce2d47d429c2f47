"""Where Thumb code can go next: as much of the instruction set as stepping over a line needs.

`exits` answers one question: of the instructions of a range, which ones must be watched, so
that everything between here and there may run at full speed?  Whatever is not known for certain
to go on within the range counts as an exit; so a mistake costs time, and no more.

Armv7-M ARM (DDI 0403E.e), "The Thumb Instruction Set Encoding".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gdbserver.chip.memory import Span


@dataclass(frozen=True, slots=True)
class Instruction:
    """What one instruction does to the flow."""

    size: int
    goes_on: bool = True
    """The next instruction may follow."""
    target: int | None = None
    """So may the one at this address."""
    leaves: bool = False
    """It may go anywhere, or stop the core: a call, a return, an exception, sleep."""
    conditional: int = 0
    """It is an IT, and so many instructions behind it depend on it."""


def decode(code: bytes, address: int) -> Instruction | None:
    """The instruction at the start of `code`, or None if `code` is too short for it."""
    if len(code) < 2:
        return None
    (first,) = struct.unpack_from("<H", code)
    if first >> 11 not in (0b11101, 0b11110, 0b11111):
        return _short(first, address)
    if len(code) < 4:
        return None
    return _long(first, struct.unpack_from("<H", code, 2)[0], address)


def _short(word: int, address: int) -> Instruction:
    if word & 0xF000 == 0xD000:  # B<c>, UDF, SVC
        if word >> 8 & 0xF >= 0xE:
            return Instruction(2, leaves=True)
        return Instruction(2, target=address + 4 + 2 * _signed(word, 8))
    if word & 0xF800 == 0xE000:  # B
        return Instruction(2, goes_on=False, target=address + 4 + 2 * _signed(word, 11))
    if word & 0xF500 == 0xB100:  # CBZ, CBNZ
        offset = (word >> 3 & 0x1F | word >> 4 & 0x20) << 1
        return Instruction(2, target=address + 4 + offset)
    if word & 0xFF00 == 0x4700:  # BX, BLX
        return Instruction(2, leaves=True)
    if word & 0xFE00 == 0xBC00 and word & 0x100:  # POP with pc
        return Instruction(2, leaves=True)
    if word & 0xFF00 == 0xBE00:  # BKPT
        return Instruction(2, leaves=True)
    if word & 0xFF00 == 0xBF00:
        if word & 0xF:  # IT: the position of the lowest 1 says how many
            return Instruction(2, conditional=4 - ((word & -word).bit_length() - 1))
        return Instruction(2, leaves=word >> 4 & 0xF in (2, 3))  # WFE, WFI
    # ADD, MOV with pc as their destination
    return Instruction(2, leaves=word & 0xFF87 in (0x4487, 0x4687))


def _long(first: int, second: int, address: int) -> Instruction:
    if first & 0xF800 == 0xF000 and second & 0x8000:
        return _branch(first, second, address)
    if first & 0xFE00 == 0xE800:  # load and store multiple, dual, exclusive; TBB, TBH
        if first & 0x0040:
            leaves = first & 0xFFF0 == 0xE8D0 and second & 0xFFE0 == 0xF000
        else:
            leaves = bool(first & 0x10) and bool(second & 0x8000)
        return Instruction(4, leaves=leaves)
    if first & 0xFF70 == 0xF850 and second & 0xF000 == 0xF000:  # LDR to pc
        return Instruction(4, leaves=True)
    return Instruction(4)


def _branch(first: int, second: int, address: int) -> Instruction:
    """Branches and miscellaneous control."""
    if second & 0x5000:  # BL, B.W; 0x4000 with bit 12 clear does not exist here
        if second & 0x4000:
            return Instruction(4, leaves=True)
        s, j1, j2 = first >> 10 & 1, second >> 13 & 1, second >> 11 & 1
        i1, i2 = 1 ^ j1 ^ s, 1 ^ j2 ^ s
        offset = s << 23 | i1 << 22 | i2 << 21 | (first & 0x3FF) << 11 | second & 0x7FF
        return Instruction(4, goes_on=False, target=address + 4 + 2 * _signed(offset, 24))
    if first & 0x0380 != 0x0380:  # B<c>.W
        s, j1, j2 = first >> 10 & 1, second >> 13 & 1, second >> 11 & 1
        offset = s << 19 | j2 << 18 | j1 << 17 | (first & 0x3F) << 11 | second & 0x7FF
        return Instruction(4, target=address + 4 + 2 * _signed(offset, 20))
    # MSR, MRS, barriers and hints go on; what else is here (UDF.W) does not, nor WFI.W, WFE.W
    hint = first == 0xF3AF and second & 0xFF00 == 0x8000
    to_register = first & 0xFFE0 == 0xF3E0 and second & 0xF00 != 0xF00
    goes_on = first & 0xFFE0 == 0xF380 or to_register or first == 0xF3BF
    return Instruction(4, leaves=second & 0xFF in (2, 3) if hint else not goes_on)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)


def exits(code: bytes, span: Span, start: int) -> tuple[set[int], bool]:
    """Where to stop code of `span` that runs from `start`; and whether it may go in circles.

    The result holds the instructions of the range that have to be executed one at a time, and
    the addresses outside where it comes out.  One at `start` itself has to be stepped over now.
    """
    found: set[int] = set()
    seen: set[int] = set()
    loops = False
    pending = [start]
    while pending:
        at = pending.pop()
        if at in seen:
            continue
        if at not in span:
            found.add(at)
            continue
        seen.add(at)
        step = decode(code[at - span.start :], at)
        if step is None or step.leaves or (step.conditional and not _flat(code, span, at, step)):
            found.add(at)
            continue
        if step.target is not None:
            loops |= step.target <= at
            pending.append(step.target)
        if step.goes_on:
            pending.append(at + step.size)
    return found, loops


def _flat(code: bytes, span: Span, at: int, it: Instruction) -> bool:
    """Whether an IT makes nothing depend on it that could go elsewhere."""
    at += it.size
    for _ in range(it.conditional):
        step = decode(code[at - span.start :], at) if at in span else None
        if step is None or step.leaves or step.target is not None:
            return False
        at += step.size
    return True
