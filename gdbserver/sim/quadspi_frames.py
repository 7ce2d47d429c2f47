"""A command of the QUADSPI: what its registers make of it on the wires, and how long that takes.

RM0433, "QUADSPI communication configuration register (QUADSPI_CCR)", "QUADSPI command sequence".
A command has five phases, each of which can be left out: instruction, address, alternate bytes,
dummy cycles, data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from gdbserver.sim.nor_frames import Frame
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Register,
    Unmodelled,
)

_LINES = (0, 1, 2, 4)  # what IMODE, ADMODE, ABMODE and DMODE mean

CCR = Register(
    0x14,
    BitStruct(
        "DDRM" / Flag,
        Unmodelled("DHHC"),
        "FRCM" / Flag,  # CLK runs with no chip selected, which the NOR does not notice
        "SIOO" / Flag,
        "FMODE" / BitsInteger(2),
        "DMODE" / BitsInteger(2),
        Padding(1),
        "DCYC" / BitsInteger(5),
        "ABSIZE" / BitsInteger(2),
        "ABMODE" / BitsInteger(2),
        "ADSIZE" / BitsInteger(2),
        "ADMODE" / BitsInteger(2),
        "IMODE" / BitsInteger(2),
        "INSTRUCTION" / BitsInteger(8),
    ),
)


class Mode(IntEnum):
    """CCR.FMODE."""

    INDIRECT_WRITE = 0
    INDIRECT_READ = 1
    AUTO_POLLING = 2
    MEMORY_MAPPED = 3


@dataclass(frozen=True, slots=True)
class Phases:
    """A value of CCR, taken apart; drivers write the same few again and again."""

    mode: int
    instruction: int | None
    instruction_lines: int
    once: bool
    """SIOO: the instruction is sent with the first command only."""
    address_bytes: int
    address_lines: int
    alternate_bytes: int
    alternate_lines: int
    dummy: int
    has_data: bool
    data_lines: int
    ddr: bool

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, value: int) -> Phases:
        ccr = Fields(CCR, value)
        return cls(
            mode=ccr.FMODE,
            instruction=ccr.INSTRUCTION if ccr.IMODE else None,
            instruction_lines=_LINES[ccr.IMODE] or 1,
            once=bool(ccr.SIOO),
            address_bytes=ccr.ADSIZE + 1 if ccr.ADMODE else 0,
            address_lines=_LINES[ccr.ADMODE] or 1,
            alternate_bytes=ccr.ABSIZE + 1 if ccr.ABMODE else 0,
            alternate_lines=_LINES[ccr.ABMODE] or 1,
            dummy=ccr.DCYC,
            has_data=bool(ccr.DMODE),
            data_lines=_LINES[ccr.DMODE] or 1,
            ddr=bool(ccr.DDRM),
        )

    @property
    def edges(self) -> int:
        return 2 if self.ddr else 1

    def first(self, sent: bool) -> int | None:
        """What the next command begins with, if with an instruction at all."""
        return None if self.once and sent else self.instruction

    def lead_clocks(self, sent: bool) -> int:
        """Cycles from chip select to the first data bit."""
        clocks = 1 + self.dummy
        if self.first(sent) is not None:
            clocks += 8 // self.instruction_lines
        clocks += 8 * self.address_bytes // self.address_lines // self.edges
        return clocks + 8 * self.alternate_bytes // self.alternate_lines // self.edges


@lru_cache(maxsize=256)
def framed(ccr: int, sent: bool, operands: tuple[int, int], write: bytes, read: int) -> Frame:
    """`sent`: the instruction was, with an earlier frame; `operands`: AR and ABR."""
    phases = Phases.of(ccr)
    return Frame(
        instruction=phases.first(sent),
        instruction_lines=phases.instruction_lines,
        address=operands[0],
        address_bytes=phases.address_bytes,
        address_lines=phases.address_lines,
        alternate=operands[1],
        alternate_bytes=phases.alternate_bytes,
        alternate_lines=phases.alternate_lines,
        dummy=phases.dummy,
        data_lines=phases.data_lines,
        write=write,
        read=read,
        ddr=phases.ddr,
    )
