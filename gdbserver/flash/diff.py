"""Decide what is left to do, when flash already holds part of what is wanted.

A plan says what each of its sectors holds in the end, completely.  So one digest per sector,
computed where the data is (by the flash controller's CRC unit, or by resident code), tells
whether the sector can be left alone.  These functions are pure: the digests come from a
driver, the decision is made here.

1. A sector that already holds what it shall hold is dropped.
2. A sector that is blank is not erased.
3. A page that shall be blank is not programmed: erasing made it so.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from gdbserver.flash.plan import RegionPlan, Run, SectorPlan

Digest = Callable[[bytes], int]
"""The host's half of a digest: the same number as the target computes for the same bytes."""


def diff(plan: RegionPlan, found: Sequence[int | None], digest: Digest) -> RegionPlan:
    """What is left of a plan, given what the target found in each of its sectors, in order.

    None stands for a digest that is neither the wanted one nor that of a blank sector.
    """
    blank: dict[int, int] = {}
    left = []
    for sector, here in zip(plan.sectors, found, strict=True):
        size = len(sector.sector)
        if size not in blank:
            blank[size] = digest(bytes([sector.erased]) * size)
        if here != (digest(sector.contents()) if sector.runs else blank[size]):
            left.append(replace(sector, erase=here != blank[size]))
    return without_blank_pages(replace(plan, sectors=tuple(left)))


def without_blank_pages(plan: RegionPlan) -> RegionPlan:
    """The same result with less programming: an erased page is blank already."""
    size = plan.region.page_size
    return replace(
        plan,
        sectors=tuple(
            replace(sector, runs=tuple(_occupied(sector, size))) for sector in plan.sectors
        ),
    )


def _occupied(sector: SectorPlan, page_size: int) -> Iterator[Run]:
    blank = bytes([sector.erased]) * page_size
    for run in sector.runs:
        data = run.data
        if blank not in data:  # the common case, and a search in C
            yield run
            continue
        start = None
        for offset in range(0, len(data) + page_size, page_size):
            page = data[offset : offset + page_size]
            if page and page != blank[: len(page)]:
                start = offset if start is None else start
            elif start is not None:
                yield run.part(start, offset)
                start = None


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_FIXED_POINT = 0xA87F58E3


def crc_unit(data: bytes) -> int:
    """What the flash controller's CRC unit makes of `data`, a multiple of four bytes long.

    AN5507, "Cyclic redundancy check in STM32H7 Series flash memory interface": for each
    little-endian word, ``state ^= word``, 32 shifts by the polynomial 0x04C11DB7, and
    ``state ^= 0x55555555``.  Bit by bit that takes a minute per megabyte in Python, so it is
    turned into zlib's CRC-32, which has the same polynomial but begins with the lowest bit:

    - each word is fed with its bits reversed, and the result is reversed back;
    - the constant goes away by counting from the state that the step for a zero word does
      not change.  It exists and is unique, because x^32 + 1 has an inverse modulo the
      polynomial; `_FIXED_POINT` is that state.
    """
    words = array("I", data.translate(_REVERSED))
    words.byteswap()
    state = zlib.crc32(words, _reverse(_FIXED_POINT) ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return _reverse(state) ^ _FIXED_POINT


def _reverse(word: int) -> int:
    return int.from_bytes(word.to_bytes(4, "little").translate(_REVERSED), "big")
