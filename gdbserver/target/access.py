"""What a `Port` is asked for: reads and writes, as values; and memory's bytes as words."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gdbserver.chip.cortex_m import DCRDR, DCRSR, DEMCR, DFSR, DWT_BASE, FPB_BASE
from gdbserver.chip.memory import Span


@dataclass(frozen=True, slots=True)
class Read:
    """`count` units of `size` bytes from `address` up; only words come in blocks.

    One that is `cacheable` looks into the D-cache, whatever the rest of its list does.
    """

    address: int
    count: int = 1
    size: int = 4
    cacheable: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """`values` of `size` bytes each, from `address` up."""

    address: int
    values: Sequence[int]
    size: int = 4


Access = Read | Write


_KEEP_MEMORY: Final = Span(DWT_BASE, FPB_BASE + 0x1000)
_KEEP_MEMORY_TOO: Final = frozenset({DFSR, DCRSR, DCRDR, DEMCR})


def keeps_memory(access: Access) -> bool:
    """Whether memory is afterwards as it was, and the core where it was.

    Comparators and core registers are not memory.  Of everything else that can be written it is
    not known what it does.
    """
    if isinstance(access, Read) or access.address in _KEEP_MEMORY_TOO:
        return True
    return access.address in _KEEP_MEMORY


def words_of(data: bytes | bytearray) -> Sequence[int]:
    """Memory, a multiple of four bytes long, as words; nothing is copied until one is asked for."""
    if sys.byteorder == "little":
        return memoryview(data).cast("I")
    return struct.unpack(f"<{len(data) // 4}I", data)


def bytes_of(words: Sequence[int]) -> bytes:
    """Words as they lie in memory."""
    if isinstance(words, memoryview) and sys.byteorder == "little":
        return bytes(words)
    return struct.pack(f"<{len(words)}I", *words)
