"""Registers of the debug port and of access ports, by number: for IDEs that look for themselves.

The debug port's SELECT chooses the access port and the bank of its registers (ADIv5.2, IHI 0031E,
"SELECT, AP Select register").  It belongs to whoever is accessing memory at the moment; so what
is written to it here is noted, and used for the accesses that come this way, and no others.
"""

from __future__ import annotations

from typing import Final

from gdbserver.errors import BadRequest
from gdbserver.target.link import Link

_SELECT: Final = 0x8
_APSEL: Final = 0xFF000000
_APBANKSEL: Final = 0xF0


class RawRegisters:
    """The registers behind one probe.

    Raises (from every method): AccessRefused, AccessStalled, ProbeError; BadRequest for a number
    that no register has.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._select = 0

    def read_dp(self, number: int) -> int:
        return self._link.read_dp(_address(number))

    def write_dp(self, number: int, value: int) -> None:
        if _address(number) == _SELECT:
            self._select = value
        else:
            self._link.write_dp(_address(number), value)

    def read_ap(self, number: int) -> int:
        """Of the access port, and in the bank, that SELECT names."""
        return self._link.read_ap(self._selected(number))

    def write_ap(self, number: int, value: int) -> None:
        """The same; what was assumed about the access port is forgotten."""
        self._link.write_ap(self._selected(number), value)

    def read_ap_at(self, port: int, offset: int) -> int:
        """Whatever SELECT says."""
        if not 0 <= port <= 0xFF or offset not in range(0, 0x100, 4):
            raise BadRequest(f"access port {port:#x} has no register at {offset:#x}")
        return self._link.read_ap(port << 24 | offset)

    def _selected(self, number: int) -> int:
        return self._select & (_APSEL | _APBANKSEL) | _address(number)


def _address(number: int) -> int:
    if number not in range(4):
        raise BadRequest(f"there is no register {number:#x}: they are 0 to 3")
    return number * 4
