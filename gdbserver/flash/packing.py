"""Data for a link that is slower than flash: packed by the host, unpacked where it arrives.

"Deflate" (RFC 1951), which the host has at hand; the other half is `unpack` in
``loaders/queue``.  Of code for this chip it leaves about 53 %, in a `PIECE` of 8 KiB.

A piece is unpacked where it lies: it comes to the end of a buffer that is `MARGIN` longer than
what becomes of it, and is read from there as its contents grow from the start.  `pack` makes
sure that they never reach what is still to be read; where they would, or where packing gains
nothing, the piece goes as it is.
"""

from __future__ import annotations

import zlib
from typing import Final

PIECE: Final = 8 * 1024
"""Bytes that are packed together."""

MARGIN: Final = 512
"""Bytes of a buffer beyond the longest piece."""

_WORTH = 0.95
_STEP = 64


def pack(data: bytes) -> bytes | None:
    """`data` in fewer bytes, a multiple of four; None when it had better go as it is."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    packed += bytes(-len(packed) % 4)
    if len(packed) > _WORTH * len(data) or not _fits_in_place(packed, len(data)):
        return None
    return packed


def _fits_in_place(packed: bytes, length: int) -> bool:
    ahead = length + MARGIN - len(packed)  # where reading begins
    unpacker, written = zlib.decompressobj(-15), 0
    for start in range(0, len(packed), _STEP):
        written += len(unpacker.decompress(packed[start : start + _STEP]))
        # Of these bytes the first may still be at hand only as bits.
        if written > ahead + start:
            return False
    return True
