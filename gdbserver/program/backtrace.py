"""Walking a stopped program's stack, through exceptions too, and telling it in lines.

From a function to its caller the ELF's frame table leads.  Where that says nothing, the link
register is believed once: right at a function's start, and in a function that calls nobody.
Between an exception's handler and what it interrupted lies what the core has stacked; a return
address that is no address says so and says where.  Armv7-M ARM (DDI 0403E.e), "Exception entry
behavior", "Exception return behavior".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gdbserver.chip.cortex_m import ExceptionNumber
from gdbserver.errors import MemoryFault
from gdbserver.program.symbols import Rules, Symbols

ReadWords = Callable[[int, int], list[int]]
"""`count` words from an address.  Raises MemoryFault."""

REGISTERS: Final = (*(f"r{n}" for n in range(13)), "sp", "lr", "pc", "xpsr", "msp", "psp")
MAX_FRAMES: Final = 64

_SP, _LR, _PC = 13, 14, 15
_EXC_RETURN: Final = 0xFFFFFF00
_BASIC_FRAME, _EXTENDED_FRAME = 0x20, 0x68
_FIRST_INTERRUPT: Final = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One function that is under way, or an exception that interrupted what follows."""

    pc: int
    called: bool = False
    """`pc` is where a call returns to: the call is before it."""
    exception: int | None = None
    guessed: bool = False
    """It is the link register's word only."""


def walk(
    registers: Mapping[str, int],
    read_words: ReadWords,
    symbols: Symbols,
    *,
    interrupted: bool = False,
) -> Iterator[Frame]:
    """From where the program is, outwards.

    `registers` has `REGISTERS`.  With `interrupted` it begins with what the current exception has
    interrupted: where a fault happened, for a core that stands at its handler.
    """
    values = {number: registers[name] for number, name in enumerate(REGISTERS[:16])}
    try:
        yield from _walk(values, registers, read_words, symbols, interrupted)
    except MemoryFault:
        return  # the stack leads nowhere from here


def _walk(
    values: dict[int, int],
    registers: Mapping[str, int],
    read_words: ReadWords,
    symbols: Symbols,
    interrupted: bool,
) -> Iterator[Frame]:
    exception = registers["xpsr"] & 0x1FF
    if interrupted and _is_exception_return(values[_LR]):
        values[_PC] = values[_LR]
        exception = _return_from_exception(values, registers["psp"], read_words)
    called = guessed = False
    for _ in range(MAX_FRAMES):
        if _is_exception_return(values[_PC]):
            yield Frame(values[_PC], exception=exception)
            exception = _return_from_exception(values, registers["psp"], read_words)
            called = guessed = False
            continue
        yield Frame(values[_PC], called, guessed=guessed)
        before = values[_PC], values[_SP]
        rules = symbols.rules_at(values[_PC] - 2 * called)
        if rules is not None and not rules.ends:
            _return_to_caller(values, rules, read_words)
        elif rules is None and not called:
            guessed = True
        else:
            return
        called = True
        values[_PC] = values[_LR]
        if _is_exception_return(values[_PC]):
            continue
        # At reset nobody has called: lr is all ones; and code that returns to has bit 0 set.
        if values[_LR] == 0xFFFFFFFF or not values[_LR] & 1:
            return
        values[_PC] &= ~1
        if (values[_PC], values[_SP]) == before:
            return


def _return_to_caller(values: dict[int, int], rules: Rules, read_words: ReadWords) -> None:
    base = values[rules.base] + rules.offset & 0xFFFFFFFF
    for register, offset in rules.saved.items():
        if register <= _PC:
            (values[register],) = read_words(base + offset & 0xFFFFFFFC, 1)
    values[_SP] = base


def _is_exception_return(value: int) -> bool:
    return value & _EXC_RETURN == _EXC_RETURN and value not in (0xFFFFFFFF, 0xFFFFFFFE)


def _return_from_exception(values: dict[int, int], psp: int, read_words: ReadWords) -> int:
    """Put back what exception entry has stacked; the exception that was under way before."""
    how = values[_PC]
    if how & 4:
        values[_SP] = psp
    stack = values[_SP] & ~3
    *scratch, r12, lr, pc, xpsr = read_words(stack, 8)
    values.update(enumerate(scratch))
    values.update({12: r12, _LR: lr, _PC: pc & ~1})
    size = _BASIC_FRAME if how & 0x10 else _EXTENDED_FRAME
    values[_SP] = stack + size + (4 if xpsr & 1 << 9 else 0)
    return xpsr & 0x1FF


def describe(frames: Iterator[Frame], symbols: Symbols) -> Iterator[str]:
    """A line for each frame, in GDB's manner."""
    for number, frame in enumerate(frames):
        if frame.exception is not None:
            yield f"#{number:<3}<{_exception(frame.exception)}>"
            continue
        line = f"#{number:<3}{frame.pc:#010x}"
        here = frame.pc - 2 * frame.called
        if (function := symbols.function_at(here)) is not None:
            name, offset = function
            place = symbols.place_of(here)
            line += f" in {name}"
            line += f" at {place}" if place else f"+{offset + 2 * frame.called:#x}"
        yield line + (" (by the link register)" if frame.guessed else "")


def _exception(number: int) -> str:
    if number >= _FIRST_INTERRUPT:
        return f"interrupt {number - _FIRST_INTERRUPT}"
    try:
        return f"exception {ExceptionNumber(number).name}"
    except ValueError:
        return f"exception {number}"
