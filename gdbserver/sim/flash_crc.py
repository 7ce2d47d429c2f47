"""The CRC unit of the flash controller: its arithmetic, at the speed of zlib.

For each little-endian 32-bit word the unit computes ``state ^= word``, then 32 steps to the
left with the polynomial 0x04C11DB7, then ``state ^= 0x55555555`` (AN5507, "Cyclic redundancy
check computation in STM32H7 Series flash memory interface").

Word by word in Python that takes a second per mebibyte, and zlib computes another CRC: it
shifts right and knows no constant.  Both differences can be moved into the data:

- Shifting right over bit-reversed words is shifting left over words.  The bits of a word,
  reversed, are its bytes in reverse order with the bits of each byte reversed.
- Write ``state = t ^ C`` with C = 0x55555555.  Then ``t' = shift(t ^ word ^ C)``: a CRC without
  a constant over the data with C in each word.  C is four equal bytes, so flipping
  and reversing are one table of 256 bytes.
"""

from __future__ import annotations

import sys
import zlib
from array import array

_CONSTANT = 0x55555555


def _reversed(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


_BYTES = bytes(_reversed(byte ^ _CONSTANT & 0xFF, 8) for byte in range(256))


def crc(data: bytes, state: int = 0) -> int:
    """The state after `data`, whole words, has been added to `state`."""
    words = array("I", data)
    if sys.byteorder == "little":
        words.byteswap()
    right = zlib.crc32(
        words.tobytes().translate(_BYTES),
        # zlib complements the state on entry and on return.
        _reversed(state ^ _CONSTANT, 32) ^ 0xFFFFFFFF,
    )
    return _reversed(right ^ 0xFFFFFFFF, 32) ^ _CONSTANT
