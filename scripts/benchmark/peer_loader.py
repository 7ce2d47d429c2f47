"""Our own QSPI loader as a flash algorithm of pyOCD, made at run time.

So that the peer has the same chance with the NOR.  Its routines are called as those of a CMSIS
``.FLM`` are and return 0 for success, so before each of ours stand a few instructions that
translate.  It gets two buffers of 16 KiB, which is more than .FLM files usually have.

Open-CMSIS-Pack, "Flash Programming Algorithms"; pyOCD, "Flash algorithms".
"""

from __future__ import annotations

import struct
from typing import Any

from gdbserver.loader.own import builtin
from gdbserver.sim.options import DEFAULT_PINS

PAGE_SIZE = 0x4000
_STACK = (0x24007000, 0x24008000)
_BUFFERS = (0x24010000, 0x24018000)

_BKPT = struct.pack("<HH", 0xBE00, 0xE7FD)  # a routine returns to the first address
_RETURN_0 = struct.pack("<HH", 0x2000, 0x4770)  # movs r0, #0; bx lr


def _translated(routine: int) -> bytes:
    """Call it with the last address equal to the first, and turn 1 into 0.

    Only SectorErase has a last address; Init takes nothing, and Write's second argument is kept.
    """
    return struct.pack(
        "<8HI",
        0xB510,  # push {r4, lr}
        0x4C03,  # ldr  r4, =routine
        0x47A0,  # blx  r4
        0x2101,  # movs r1, #1
        0x1A08,  # subs r0, r1, r0
        0xBD10,  # pop  {r4, pc}
        0xBF00,
        0xBF00,
        routine,
    )


_SAME_LAST = struct.pack("<HH", 0x4601, 0xBF00)  # mov r1, r0; nop


def algorithm() -> dict[str, Any]:
    """What pyOCD's `Flash` takes."""
    image = builtin(DEFAULT_PINS).image
    start = image.chunks[0][0] & ~0xFFF
    code = bytearray(_BKPT)
    for address, data in image.chunks:
        code[address - start :] = bytes(address - start - len(code)) + data
    code += bytes(-len(code) % 16)
    entries = {}
    for name, routine, before in (
        ("pc_init", "Init", b""),
        ("pc_program_page", "Write", b""),
        ("pc_erase_sector", "SectorErase", _SAME_LAST),
        ("pc_eraseAll", "MassErase", b""),
    ):
        entries[name] = start + len(code) | 1
        code += before + _translated(image.entries[routine])
        code += bytes(-len(code) % 4)
    entries["pc_unInit"] = start + len(code) | 1
    code += _RETURN_0
    return {
        "load_address": start,
        "instructions": list(struct.unpack(f"<{len(code) // 4}I", code)),
        **entries,
        "static_base": start,
        "begin_stack": _STACK[1],
        "end_stack": _STACK[0],
        "page_size": PAGE_SIZE,
        "page_buffers": list(_BUFFERS),
        "min_program_length": 256,
        "analyzer_supported": False,
        "analyzer_address": 0,
    }
