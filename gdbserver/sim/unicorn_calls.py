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


class RegisterAccess:
    """Core registers of 32 bits, by Unicorn's numbers."""

    def __init__(self, unicorn: Any) -> None:
        self._handle = unicorn._uch
        self._value = ctypes.c_uint64()  # the widest that Unicorn writes
        self._place = ctypes.addressof(self._value)
        self._numbers = (ctypes.c_int32 * 2)()
        self._values = (ctypes.c_uint64 * 2)()
        start = ctypes.addressof(self._values)
        self._places = (ctypes.c_void_p * 2)(start, start + 8)

    def read(self, register: int) -> int:
        status = uclib.uc_reg_read(self._handle, register, self._place)
        if status:
            raise uc.UcError(status, register)
        return self._value.value

    def read_two(self, first: int, second: int) -> tuple[int, int]:
        self._numbers[0], self._numbers[1] = first, second
        status = uclib.uc_reg_read_batch(self._handle, self._numbers, self._places, 2)
        if status:
            raise uc.UcError(status)
        return self._values[0], self._values[1]

    def write(self, register: int, value: int) -> None:
        self._value.value = value
        status = uclib.uc_reg_write(self._handle, register, self._place)
        if status:
            raise uc.UcError(status, register)


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
