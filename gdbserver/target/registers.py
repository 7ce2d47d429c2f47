"""The registers of a Cortex-M7 as GDB numbers them.

The numbers are ours, because we describe them in target.xml ourselves: 0, 1, 2, ... in the
order of `REGISTERS`, without holes.  What a program that never uses floating point needs
comes first.  So a ``g`` reply may end after `CORE_COUNT` registers, and GDB asks for the rest
one by one with ``p``, if ever: reading 33 more registers through an ST-LINK costs more than all
else at a stop.

GDB manual, "ARM Features": org.gnu.gdb.arm.m-profile, m-system and vfp.  The names s0-s31
are understood too, though GDB makes them out of d0-d15 itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

M_PROFILE = "org.gnu.gdb.arm.m-profile"
M_SYSTEM = "org.gnu.gdb.arm.m-system"
VFP = "org.gnu.gdb.arm.vfp"


@dataclass(frozen=True, slots=True)
class RegisterInfo:
    """One row of target.xml.  `number` is what ``p``, ``P`` and stop replies use."""

    name: str
    bits: int
    number: int
    group: str  # "general", "system" or "float"
    type: str  # a type that GDB predefines
    feature: str


def _registers() -> tuple[RegisterInfo, ...]:
    rows: list[tuple[str, int, str, str, str]] = [
        *((f"r{n}", 32, "general", "int", M_PROFILE) for n in range(13)),
        ("sp", 32, "general", "data_ptr", M_PROFILE),
        ("lr", 32, "general", "int", M_PROFILE),
        ("pc", 32, "general", "code_ptr", M_PROFILE),
        ("xpsr", 32, "general", "int", M_PROFILE),
        ("msp", 32, "system", "data_ptr", M_SYSTEM),
        ("psp", 32, "system", "data_ptr", M_SYSTEM),
        *(
            (n, 32, "system", "int", M_SYSTEM)
            for n in ("primask", "basepri", "faultmask", "control")
        ),
        *((f"d{n}", 64, "float", "ieee_double", VFP) for n in range(16)),
        ("fpscr", 32, "float", "int", VFP),
    ]
    return tuple(RegisterInfo(n, b, i, g, t, f) for i, (n, b, g, t, f) in enumerate(rows))


REGISTERS: Final = _registers()
"""In GDB's order: the layout of ``g``, and the rows of target.xml."""

CORE_COUNT: Final = sum(r.feature != VFP for r in REGISTERS)
"""How many registers from the start of `REGISTERS` need no FPU."""

EXPEDITED: Final = ("r7", "sp", "lr", "pc", "xpsr")
"""What a stop reply carries, so that GDB can find the frame without asking back."""
