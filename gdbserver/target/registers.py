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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gdbserver.chip.cortex_m import Selector

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

EXPEDITED: Final = ("r7", "sp", "lr", "pc", "xpsr", "msp", "psp")
"""What a stop reply carries, so that GDB can find the frame without asking back.

From GDB 13 on that takes both stack pointers; without them it asks for all registers, each time.
"""


# --- Where they are: DCRSR selectors -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """A register is made of fields of what DCRDR shows for a selector, lowest bits first."""

    selector: int
    shift: int = 0
    bits: int = 32


def _fields() -> dict[str, tuple[_Field, ...]]:
    fields: dict[str, tuple[_Field, ...]] = {f"r{n}": (_Field(n),) for n in range(13)}
    for name in ("sp", "lr", "pc", "xpsr", "msp", "psp", "fpscr"):
        fields[name] = (_Field(Selector[name.upper()]),)
    for byte, name in enumerate(("primask", "basepri", "faultmask", "control")):
        fields[name] = (_Field(Selector.SPECIAL, 8 * byte, 8),)
    for n in range(32):
        fields[f"s{n}"] = (_Field(Selector.S0 + n),)
    for n in range(16):
        fields[f"d{n}"] = (_Field(Selector.S0 + 2 * n), _Field(Selector.S0 + 2 * n + 1))
    return fields


_FIELDS: Final = _fields()

CORE_SELECTORS: Final = (
    *range(13),
    *(Selector.LR, Selector.PC, Selector.XPSR, Selector.SPECIAL, Selector.MSP, Selector.PSP),
)
"""Each state of the core but the FPU's, once; in the order in which they may be restored."""

CORE_SELECTORS_SEEN: Final = (Selector.SP, *CORE_SELECTORS)
"""What all of GDB's registers but the FPU's are made of: sp is one of the stack pointers."""

FPU_SELECTORS: Final = (Selector.FPSCR, *range(Selector.S0, Selector.S0 + 32))


def selectors(names: Iterable[str]) -> list[int]:
    """The selectors that these registers are made of, each once, in order.

    Raises:
        KeyError: no register has such a name.
    """
    return list(dict.fromkeys(field.selector for name in names for field in _FIELDS[name]))


def decode(names: Iterable[str], raw: Mapping[int, int]) -> dict[str, int]:
    """Registers by name, out of values by selector."""
    values = {}
    for name in names:
        value = width = 0
        for field in _FIELDS[name]:
            part = raw[field.selector] >> field.shift & (1 << field.bits) - 1
            value |= part << width
            width += field.bits
        values[name] = value
    return values


def encode(values: Mapping[str, int], raw: Mapping[int, int]) -> dict[int, int]:
    """What to write where, so that the registers have these values.

    `raw` holds what selectors have now that are written in part only; see `partial`.
    """
    changed: dict[int, int] = {}
    for name, value in values.items():
        rest = value
        for field in _FIELDS[name]:
            mask = (1 << field.bits) - 1 << field.shift
            before = changed.get(field.selector, raw.get(field.selector, 0))
            changed[field.selector] = before & ~mask | rest << field.shift & mask
            rest >>= field.bits
    return changed


def partial(names: Iterable[str]) -> list[int]:
    """The selectors of which these registers, all together, are only a part."""
    bits: dict[int, int] = {}
    for field in (field for name in names for field in _FIELDS[name]):
        bits[field.selector] = bits.get(field.selector, 0) + field.bits
    return [selector for selector, together in bits.items() if together < 32]


def aliases(written: Iterable[int]) -> set[int]:
    """Selectors whose value may be another once these have been written.

    sp is msp or psp, by mode (xPSR) and CONTROL.  Hardware also forces bits: of stack
    pointers, of pc, of CONTROL; so what was written is not what will be read.
    """
    changed = set(written)
    stacks = {Selector.SP, Selector.MSP, Selector.PSP}
    if changed & (stacks | {Selector.XPSR, Selector.SPECIAL}):
        changed |= stacks
    return changed


KEPT_AS_WRITTEN: Final = frozenset({*range(13), Selector.LR, *range(Selector.S0, Selector.S0 + 32)})
"""Selectors that hold whatever is written to them."""
