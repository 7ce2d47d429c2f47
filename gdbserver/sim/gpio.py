"""A GPIO port: what its sixteen pins are used for.  RM0433, "General-purpose I/Os (GPIO)"."""

from __future__ import annotations

from collections.abc import Callable

from gdbserver.sim.bus import Master
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    on_read,
    on_write,
)

PINS = 16
INPUT, OUTPUT, ALTERNATE, ANALOG = range(4)
PULL_UP = 1

# The debug pins PA13-15 and PB3-4 are in their alternate functions after reset; others analog.
_RESET_VALUES = {
    "A": {0x00: 0xABFFFFFF, 0x08: 0x0C000000, 0x0C: 0x64000000},
    "B": {0x00: 0xFFFFFEBF, 0x08: 0x000000C0, 0x0C: 0x00000100},
}


def _per_pin(name: str, width: int, pins: range = range(PINS)) -> BitStruct:
    used = width * len(pins)
    fields = [f"{name}{pin}" / BitsInteger(width) for pin in reversed(pins)]
    return BitStruct(*([Padding(32 - used)] if used < 32 else []), *fields)


class Gpio(Peripheral):
    """Port "A" to "K".

    `drive` says what the world outside puts on a pin: a level, or None for nothing.
    """

    MODER = Register(0x00, _per_pin("MODER", 2), reset=0xFFFFFFFF)
    OTYPER = Register(0x04, _per_pin("OT", 1))
    OSPEEDR = Register(0x08, _per_pin("OSPEEDR", 2))
    PUPDR = Register(0x0C, _per_pin("PUPDR", 2))
    IDR = Register(0x10, _per_pin("IDR", 1), writable=0)
    ODR = Register(0x14, _per_pin("ODR", 1))
    BSRR = Register(
        0x18,
        BitStruct("BR" / BitsInteger(16), "BS" / BitsInteger(16)),
        writable=0,
    )
    LCKR = Register(0x1C, BitStruct(Padding(15), "LCKK" / Flag, "LCK" / BitsInteger(16)))
    AFRL = Register(0x20, _per_pin("AFR", 4, range(8)))
    AFRH = Register(0x24, _per_pin("AFR", 4, range(8, 16)))

    def __init__(self, port: str) -> None:
        self.port = port
        self.drive: Callable[[int], bool | None] = lambda pin: None
        self._locking: list[int] = []
        super().__init__(f"GPIO{port}")

    def reset(self) -> None:
        super().reset()
        self._values |= _RESET_VALUES.get(self.port, {})
        self._locking = []

    def mode(self, pin: int) -> int:
        """INPUT, OUTPUT, ALTERNATE or ANALOG."""
        return self.raw(self.MODER) >> 2 * pin & 3

    def alternate(self, pin: int) -> int | None:
        """Which alternate function `pin` has, or None when it has another mode."""
        if self.mode(pin) != ALTERNATE:
            return None
        return self.raw(self.AFRL if pin < 8 else self.AFRH) >> 4 * (pin % 8) & 0xF

    def level(self, pin: int) -> bool:
        """What IDR shows of `pin`."""
        mode = self.mode(pin)
        if mode == ANALOG:
            return False
        if mode == OUTPUT:
            high = bool(self.raw(self.ODR) >> pin & 1)
            open_drain = self.raw(self.OTYPER) >> pin & 1
            if not (high and open_drain):
                return high
        driven = self.drive(pin)
        if driven is not None:
            return driven
        return self.raw(self.PUPDR) >> 2 * pin & 3 == PULL_UP

    @on_read(IDR)
    def _sample(self) -> None:
        self.set_raw(self.IDR, sum(self.level(pin) << pin for pin in range(PINS)))

    @on_write(BSRR)
    def _set_and_clear(self, bsrr: Fields) -> None:
        self.set_raw(self.ODR, self.raw(self.ODR) & ~bsrr.BR | bsrr.BS)

    @on_write(LCKR)
    def _lock(self, lckr: Fields) -> None:
        """LCKK is written 1, 0, 1 with the same pins; then these pins cannot change any more."""
        if self[self.LCKR].LCKK:
            return
        sequence = [1 << 16 | lckr.LCK, lckr.LCK, 1 << 16 | lckr.LCK]
        self._locking = [*self._locking, lckr.value][-3:]
        self.set_raw(self.LCKR, lckr.value if self._locking == sequence else lckr.LCK)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        word = offset & ~3
        before = self._values.get(word, 0)
        super().write(offset, size, value, master)
        lckr = self[self.LCKR]
        if word in _LOCKABLE and lckr.LCKK:
            width, first = _LOCKABLE[word]
            locked = sum(
                ((1 << width) - 1) << width * (pin - first)
                for pin in range(first, min(PINS, first + 32 // width))
                if lckr.LCK >> pin & 1
            )
            self._values[word] = self._values[word] & ~locked | before & locked


_LOCKABLE = {0x00: (2, 0), 0x04: (1, 0), 0x08: (2, 0), 0x0C: (2, 0), 0x20: (4, 0), 0x24: (4, 8)}
"""What LCKR freezes: offset -> bits per pin, first pin."""
