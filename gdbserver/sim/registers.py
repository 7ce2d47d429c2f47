"""Peripherals as register maps: a layout that reads like the manual, plus what accesses do.

A `Register` is declared with a construct `BitStruct`, bits from 31 down, the order of the
manual's drawing.  Each bit is modelled (``"BUSY" / Flag``), known but not modelled
(``Unmodelled("DHHC")``: stored, and logged when used), or reserved (``Padding``: reads as
zero, writes ignored).  A wrong total width is a TypeError at import.  A method below says what
an access does beyond that::

    @on_write(DLR, PIR)
    def _when_idle(self, written: Fields) -> None:
        if not self._busy:
            self.store(written)

construct is the notation only: parsing a word with it takes about 40 us, and status
registers are polled.  So a layout is compiled once, at class creation, to masks and shifts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from construct import BitsInteger, BitStruct, Flag, Padding

from gdbserver.sim.bus import Master

log = logging.getLogger(__name__)

__all__ = [
    "BitStruct",
    "BitsInteger",
    "Constant",
    "Fields",
    "Flag",
    "Padding",
    "Peripheral",
    "Register",
    "Unmodelled",
    "Word",
    "on_read",
    "on_write",
]

ReadHook = Callable[[Any], object]
WriteHook = Callable[[Any, "Fields"], object]
R = TypeVar("R", bound=ReadHook)
W = TypeVar("W", bound=WriteHook)

_UNMODELLED = "?"


def Unmodelled(name: str, width: int = 1) -> Any:
    """A field that exists on silicon and does nothing here; using it is logged."""
    return (name + _UNMODELLED) / BitsInteger(width)


@dataclass(frozen=True, slots=True)
class _Field:
    shift: int
    mask: int


class Fields:
    """A value of a register, read by field name: ``cr.EN``, ``cr.PRESCALER``, ``cr["PLL1ON"]``."""

    __slots__ = ("register", "value")

    def __init__(self, register: Register, value: int) -> None:
        self.register = register
        self.value = value

    def __getattr__(self, name: str) -> int:
        field = self.register.fields.get(name)
        if field is None:
            raise AttributeError(name)
        return (self.value & field.mask) >> field.shift

    def __getitem__(self, name: str) -> int:
        return self.__getattr__(name)


class Register:
    """One 32-bit register: where it is, what its bits are, what an access does.

    Without hooks, a read gives the stored value and a write stores the writable bits.
    `writable` limits which bits a plain write (and `store`) can change.
    """

    def __init__(
        self, offset: int, layout: Any, *, reset: int = 0, writable: int = 0xFFFFFFFF
    ) -> None:
        widths = [(subcon.name, subcon.sizeof()) for subcon in layout.subcon.subcons]
        shift = sum(width for _, width in widths)
        if shift != 32:
            raise TypeError(f"register at {offset:#x} is {shift} bits wide, not 32")
        self.offset = offset
        self.reset = int(reset)  # flags are handy to declare with, and slow to compute with
        self.name = f"register {offset:#x}"
        self.fields: dict[str, _Field] = {}
        self.unmodelled = 0
        for name, width in widths:
            shift -= width
            if name is None:
                continue
            field = _Field(shift, (1 << width) - 1 << shift)
            self.fields[name.removesuffix(_UNMODELLED)] = field
            if name.endswith(_UNMODELLED):
                self.unmodelled |= field.mask
        self.defined = sum(field.mask for field in self.fields.values())
        self.writable = int(writable) & self.defined
        self.on_read: ReadHook | None = None
        self.on_write: WriteHook | None = None

    def __set_name__(self, owner: type[Peripheral], name: str) -> None:
        self.name = name


def Word(offset: int, *, reset: int = 0, writable: int = 0xFFFFFFFF) -> Register:
    """A register that is one number, or whose bits do not matter one by one."""
    return Register(offset, BitStruct("VALUE" / BitsInteger(32)), reset=reset, writable=writable)


def Constant(offset: int, value: int) -> Register:
    return Word(offset, reset=value, writable=0)


def on_read(*registers: Register) -> Callable[[R], R]:
    """Decorator: a method that brings these registers up to date before a bus read."""

    def hook(method: R) -> R:
        for register in registers:
            register.on_read = method
        return method

    return hook


def on_write(*registers: Register) -> Callable[[W], W]:
    """Decorator: a method that a bus write of these registers calls instead of storing."""

    def hook(method: W) -> W:
        for register in registers:
            register.on_write = method
        return method

    return hook


class Peripheral:
    """A block of registers on the bus.

    Registers are class attributes.  `size` is the length of the address range; offsets in it
    that no register has read as zero and ignore writes, as reserved words do on this chip.
    Accesses of 1 and 2 bytes act on their part of the word, which most peripherals allow;
    one that does not overrides `read` or `write`.
    """

    size = 0x400
    registers: Mapping[int, Register] = {}

    # As `PolledDevice` has them.
    data_ports: frozenset[int] = frozenset()
    idle_writes: frozenset[int] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [r for klass in cls.__mro__ for r in vars(klass).values() if isinstance(r, Register)]
        cls.registers = {register.offset: register for register in own}

    def __init__(self, name: str = "") -> None:
        self.name = name or type(self).__name__
        self._values: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """Every register back to its reset value.  Subclasses add their own state."""
        self._values = {offset: r.reset for offset, r in self.registers.items()}

    def __getitem__(self, register: Register) -> Fields:
        return Fields(register, self._values[register.offset])

    def raw(self, register: Register) -> int:
        return self._values[register.offset]

    def set_raw(self, register: Register, value: int) -> None:
        self._values[register.offset] = int(value) & 0xFFFFFFFF

    def update(self, register: Register, **fields: int) -> None:
        """Set fields by name; a misspelt one is a KeyError."""
        value = self._values[register.offset]
        for name, number in fields.items():
            field = register.fields[name]
            value = value & ~field.mask | (int(number) << field.shift) & field.mask
        self._values[register.offset] = value

    def store(self, written: Fields) -> None:
        """Keep the writable bits of what was written: what a write without a hook does."""
        register = written.register
        old = self._values[register.offset]
        self._values[register.offset] = old & ~register.writable | written.value & register.writable

    def read(self, offset: int, size: int, master: Master) -> int:
        register = self.registers.get(offset & ~3)
        if register is None:
            self.read_reserved(offset, size)
            return 0
        if register.on_read is not None:
            register.on_read(self)
        value = self._values[register.offset] >> (8 * (offset & 3))
        return value & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        register = self.registers.get(offset & ~3)
        if register is None:
            self.write_reserved(offset, size, value)
            return
        if size != 4:
            shift, mask = 8 * (offset & 3), (1 << (8 * size)) - 1
            old = self._values[register.offset]
            value = old & ~(mask << shift) | (value & mask) << shift
        changed = (value ^ self._values[register.offset]) & register.unmodelled
        if changed:
            log.warning("%s.%s: bits %#010x are not modelled", self.name, register.name, changed)
        written = Fields(register, value & 0xFFFFFFFF)
        if register.on_write is not None:
            register.on_write(self, written)
        else:
            self.store(written)

    def read_reserved(self, offset: int, size: int) -> None:
        log.info("%s: read of reserved offset %#05x", self.name, offset)

    def write_reserved(self, offset: int, size: int, value: int) -> None:
        log.info("%s: write of %#x to reserved offset %#05x", self.name, value, offset)
