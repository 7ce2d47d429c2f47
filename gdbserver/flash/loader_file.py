"""What is inside an external loader file: segments, entry points, geometry."""

from __future__ import annotations

from pathlib import Path

from construct import Array, Bytes, Const, Int8ul, Int16ul, Int32ul, Padding, Struct

STORAGE_INFO = Struct(
    "name" / Bytes(100),  # zero-padded; not always ASCII
    "kind" / Int16ul,
    Padding(2),
    "start" / Int32ul,
    "size" / Int32ul,
    "page_size" / Int32ul,
    "erased" / Int8ul,
    Padding(3),
    "sectors" / Array(10, Struct("count" / Int32ul, "size" / Int32ul)),
)
"""ST's ``struct StorageInfo``, with the padding that AAPCS puts in: 200 bytes.

Groups of equal sectors, ascending; a group of count 0 ends the list.
"""

CONFIG = Struct(
    "magic" / Const(0x43505351, Int32ul),  # "QSPC"
    "bank" / Int32ul,  # 1 or 2: which QUADSPI flash bank (CR.FSEL)
    "clock_hz" / Int32ul,  # highest NOR clock on this board; 0: the loader's choice
    "pins"  # CLK, NCS, IO0, IO1, IO2, IO3
    / Array(
        6,
        Struct(
            "port" / Int8ul,  # 0 = GPIOA ... 10 = GPIOK
            "pin" / Int8ul,  # 0 to 15
            "function" / Int8ul,  # alternate function number
            Padding(1),
        ),
    ),
)
"""Our own loader's ``config`` symbol: how the NOR is wired.  Patched in before the upload."""

FOUND = Struct(
    "jedec" / Int32ul,  # 0x00EF4019 for ids EF 40 19; 0: nothing read yet
    "size" / Int32ul,  # bytes, from SFDP
    "page_size" / Int32ul,
    "erase_sizes" / Array(4, Int32ul),  # bytes, ascending; 0 for none
    "clock_hz" / Int32ul,  # the NOR clock that Init has set, at most
    "status" / Int32ul,  # enum status in loaders/qspi/loader.h: 1 ready, else what went wrong
    "address" / Int32ul,  # where in the NOR, from its start, the routine that failed was
    "address_bytes" / Int32ul,
    "read_opcode" / Int32ul,
    "read_lines" / Int32ul,  # address and data lines as two digits: 0x44, 0x14, 0x11
    "read_dummies" / Int32ul,
    "program_opcode" / Int32ul,
    "program_lines" / Int32ul,
    "status_registers" / Int32ul,  # SR1 in bits 7:0; block protection is bits 5:2 of most parts
    "flags" / Int32ul,  # FOUND_ in loaders/qspi/loader.h
)
"""Our own loader's ``found`` symbol: what Init has found out, for the host to read."""


def built(name: str) -> Path:
    """A loader that ships with this program: in the package, or in the source tree."""
    package = Path(__file__).parent.parent
    for folder in (package / "loaders", package.parent / "loaders" / "built"):
        if (folder / name).exists():
            return folder / name
    return package / "loaders" / name
