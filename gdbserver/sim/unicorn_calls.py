"""What the core asks of Unicorn for each slice and each access, without the wrapper's detours.

Unicorn's Python wrapper finds out the type of a register each time that it is read, and has two
functions of its own around each call back.  That takes longer than what is done in between.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import unicorn as uc
from unicorn.unicorn_py3.unicorn import uclib

# The pointer to Unicorn comes as a plain number that nobody looks at; the last argument is the
# number that the callback was registered with.
_Read = ctypes.CFUNCTYPE(
    ctypes.c_uint64, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint, ctypes.c_size_t
)
_Write = ctypes.CFUNCTYPE(
    None, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_size_t
)


# Plain numbers for pointers, and the interpreter's lock kept: half of the time.
_read_batch = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int
)(("uc_reg_read_batch", uclib))


class RegisterAccess:
    """Core registers of 32 bits, by Unicorn's numbers."""

    def __init__(self, unicorn: Any) -> None:
        self._handle = unicorn._uch
        self._value = ctypes.c_uint64()  # the widest that Unicorn writes
        self._place = ctypes.addressof(self._value)

    def read(self, register: int) -> int:
        status = uclib.uc_reg_read(self._handle, register, self._place)
        if status:
            raise uc.UcError(status, register)
        return self._value.value

    def write(self, register: int, value: int) -> None:
        self._value.value = value
        status = uclib.uc_reg_write(self._handle, register, self._place)
        if status:
            raise uc.UcError(status, register)


class RegisterPair:
    """Two registers that are read together, again and again."""

    def __init__(self, unicorn: Any, first: int, second: int) -> None:
        self._numbers = (ctypes.c_int32 * 2)(first, second)
        self._values = (ctypes.c_uint64 * 2)()
        place = ctypes.addressof(self._values)
        self._places = (ctypes.c_void_p * 2)(place, place + 8)
        self._arguments = (
            unicorn._uch.value,
            ctypes.addressof(self._numbers),
            ctypes.addressof(self._places),
            2,
        )

    def read(self) -> tuple[int, int]:
        status = _read_batch(*self._arguments)
        if status:
            raise uc.UcError(status)
        values = self._values
        return values[0], values[1]


class AccessCallbacks:
    """Two functions that Unicorn calls for accesses to the pages that are mapped to them.

    They get the offset in the page, the size (for a write the value) and the page's address.
    What they raise would be lost in Unicorn, so they must not.
    """

    def __init__(
        self,
        unicorn: Any,
        on_read: Callable[[int, int, int, int], int],
        on_write: Callable[[int, int, int, int, int], object],
    ) -> None:
        self._handle = unicorn._uch
        self._read = _Read(on_read)
        self._write = _Write(on_write)

    def map(self, page: int, size: int) -> None:
        status = uclib.uc_mmio_map(self._handle, page, size, self._read, page, self._write, page)
        if status:
            raise uc.UcError(status)
