"""Instructions of a serial NOR: how each looks on the wires, and what becomes of it in the die.

An instruction's `action` is the name of a method of the part's `Vendor` or, for what all parts
share, of `Nor`; a die looks all of them up when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from gdbserver.chip.memory import Span

BY_MODE = -1  # address bytes: three or four, as the address mode says


class Data(Enum):
    """Where data goes after the instruction, seen from the die."""

    NONE = "none"
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Command:
    """One opcode: how it looks on the wires, and what it does."""

    opcode: int
    name: str
    action: str
    address: int = 0
    """Address bytes, or `BY_MODE`."""
    lines: tuple[int, int] = (1, 1)
    """Of address (with mode bits), and of data."""
    mode: bool = False
    """Eight mode bits follow the address."""
    dummy: int = 0
    """Clock cycles, after mode bits."""
    data: Data = Data.NONE
    size: int = 0
    """Bytes that are erased."""
    needs_write_enable: bool = False
    when_busy: bool = False
    """Accepted while an operation runs."""
    when_down: bool = False
    """Accepted in deep power-down."""
    wraps: bool = False
    """Obeys the burst wrap setting."""
    qpi: bool = True
    """Exists, too, when everything travels on four lines."""
    ddr: bool = False
    """Address and data on both edges of the clock."""


@dataclass(slots=True)
class Request:
    """A frame, understood: an instruction of this die with its operands."""

    command: Command
    address: int = 0
    mode: int = 0xFF
    """The first eight bits after the address; undriven lines give ones."""
    write: bytes = b""
    read: int = 0
    exact: bool = True
    """Chip select rose where the instruction ends, on a byte boundary."""
    complete: bool = True
    """Opcode, address and dummy cycles were all clocked in."""


@dataclass(slots=True)
class Operation:
    """Something that keeps the die busy, and what it leaves behind."""

    kind: Literal["program", "erase", "chip erase", "registers", "security"]
    span: Span
    duration: int
    finish: Callable[[], None] = lambda: None
    image: bytes = b""
    done: int = 0
    """Nanoseconds of work done before the last suspension."""
    started: int = 0
