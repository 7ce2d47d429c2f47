"""What is loaded, what was there before, and the least time that it could take.

The limit of a load is what the slowest device needs for erasing and programming (each erase as
large as it can be, PSIZE x64), or what the link needs for the bytes, if that is longer.  DS12110,
"Flash memory characteristics"; W25Q256JV, "AC Electrical Characteristics".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    BANK1,
    BANK2,
    FLASH_WORD,
    KIB,
    MIB,
    PROGRAM_SECONDS,
    SECTOR,
    SECTOR_ERASE_SECONDS,
)
from gdbserver.sim.link import LINKS, LinkModel

NOR = Span.of(0x90000000, 32 * MIB)
BLOCK, PAGE = 64 * KIB, 256
X64 = 3
ERASE, PROGRAM = SECTOR_ERASE_SECONDS[X64][0], PROGRAM_SECONDS[X64][0]
NOR_ERASE, NOR_PROGRAM = 0.15, 0.7e-3
CLOCKS_PER_WORD = 46  # request, acknowledge, data, turnarounds
ST_LINK_COMMAND = 6 * KIB
SWD_HZ = 10_000_000
"""What is asked of every probe, ours and the peer's; a probe takes what it can."""

DEVICES = {"bank 1": BANK1, "bank 2": BANK2, "NOR": NOR}

Image = dict[int, bytes]
"""By address; each as long as a sector, or several."""

USUAL = ("stlink-v3", "cmsis-dap-v2")
SLOW = ("stlink-v2", "cmsis-dap-v1")
IMPATIENT = tuple(f"{link},waits=4" for link in USUAL)


@dataclass(frozen=True)
class Case:
    """One load."""

    name: str
    before: Image
    """What is in flash when the load begins; the rest is blank."""
    image: Image
    target: float
    """How many times the limit it shall take at most."""
    allowance: float = 0.0
    """Seconds that come on top of the limit, for comparing what is there."""
    links: tuple[str, ...] = USUAL
    alone: bool = False
    """Without the peer, which takes minutes for it, and is seen beside ours in other cases."""

    @property
    def size(self) -> int:
        return sum(len(data) for data in self.image.values())


def cases(*, quick: bool) -> Iterator[Case]:
    """All that is measured; or, `quick`, the same with smaller images.

    There what a load begins and ends with weighs more: the targets are what is met today.
    """
    bank = 128 * KIB if quick else 512 * KIB
    nor = MIB if quick else 4 * MIB
    internal = {BANK1.start: noise(bank, 1), BANK2.start: noise(bank, 2)}
    external = {NOR.start: noise(nor, 3)}
    mixed = internal | external
    old = {address: noise(len(data), 9) for address, data in mixed.items()}
    old_internal = {address: old[address] for address in internal}
    old_external = {address: old[address] for address in external}

    yield Case("first load, all three devices", old, mixed, 1.04 if quick else 1.05)
    yield Case("internal flash only", old_internal, internal, 1.09 if quick else 1.05)
    yield Case("QSPI only", old_external, external, 1.04 if quick else 1.03)
    yield Case("QSPI only, blank before", {}, external, 1.06 if quick else 1.03)

    if not quick:
        yield Case("slow link: all three devices", old, mixed, 1.10, links=SLOW, alone=True)
        yield Case("slow link: internal flash", old_internal, internal, 1.10, links=SLOW)
        yield Case("slow link: QSPI, blank before", {}, external, 1.10, links=SLOW)

    yield Case("impatient probe: all three devices", old, mixed, 1.05, links=IMPATIENT, alone=True)
    name, target = "impatient probe: internal flash beside a little NOR", 1.26 if quick else 1.10
    little, old_little = ({NOR.start: i[NOR.start][: 2 * BLOCK]} for i in (external, old))
    before, image = old_internal | old_little, internal | little
    links = IMPATIENT if quick else (*IMPATIENT, "stlink-v2,waits=4")
    yield Case(name, before, image, target, links=links)

    compare = 0.15 * sum(len(data) for data in mixed.values()) / MIB
    yield Case("reload, unchanged", mixed, mixed, 1.0, compare)
    edited = {address: _edited(data) for address, data in mixed.items()}
    name = "reload, one function changed in each"
    yield Case(name, mixed, edited, 1.1 if quick else 1.0, compare + 0.2)


def noise(length: int, seed: int) -> bytes:
    """Bytes that nothing compresses."""
    return Random(seed).randbytes(length)


def _edited(data: bytes) -> bytes:
    """The same with another function of 300 bytes somewhere in the middle."""
    at = len(data) // 2 + 5000
    return data[:at] + noise(300, 7) + data[at + 300 :]


# --- The least -----------------------------------------------------------------------------------


def limit(case: Case, link: str) -> float:
    """Seconds that the devices, or the wires, need at least."""
    lanes = []
    moved = 0
    for address, data in case.image.items():
        old = case.before.get(address, b"\xff" * len(data))
        external = address in NOR
        size = BLOCK if external else SECTOR
        changed = [n for n in range(0, len(data), size) if old[n : n + size] != data[n : n + size]]
        dirty = [n for n in changed if old[n : n + size].strip(b"\xff")]
        written = sum(len(data[n : n + size]) for n in changed)
        moved += written
        if external:
            lanes.append(len(dirty) * NOR_ERASE + written / PAGE * NOR_PROGRAM)
        else:
            lanes.append(len(dirty) * ERASE + written / FLASH_WORD * PROGRAM)
    return max(*lanes, 0.0, link_seconds(link, moved, reading=False)) + case.allowance


def link_seconds(link: str, length: int, *, reading: bool) -> float:
    """Seconds that the link needs at least for so many bytes of memory in one direction.

    Words cross the wires of SWD one by one; packets of CMSIS-DAP leave one per interval, with a
    head of 5 bytes on the way out and of 4 on the way in.  An ST-LINK takes one command at a time,
    of 6 KiB: its bytes cross USB, then the wires, and then it is asked what became of it.
    """
    model: LinkModel = LINKS[link.partition(",")[0]]
    clock = max((hz for hz in model.clocks if hz <= SWD_HZ), default=model.clocks[0])
    wires = length / 4 * (CLOCKS_PER_WORD + model.idle_clocks) / clock
    if model.protocol == "ST-LINK":
        turn = 2 * model.latency_out + model.latency_in
        return wires + length * model.byte / 1e12 + length / ST_LINK_COMMAND * turn / 1e9
    head = 4 if reading else 5
    packets = length / ((model.packet_size - head) // 4 * 4)
    return max(wires, packets * model.interval / 1e9, length * model.byte / 1e12)


# --- As a file -----------------------------------------------------------------------------------


def write_elf(path: Path, image: Image) -> None:
    """An ELF file that GDB's `load` takes: a segment and a section for each part of the image."""
    header, program, section = 52, 32, 40
    names = b"\0.data\0.names\0"
    parts = sorted(image.items())
    at = header + program * len(parts)
    segments, sections = b"", bytes(section)
    for address, data in parts:
        segments += struct.pack("<8I", 1, at, address, address, len(data), len(data), 7, 4)
        sections += struct.pack("<10I", 1, 1, 3, address, at, len(data), 0, 0, 4, 0)
        at += len(data)
    sections += struct.pack("<10I", 7, 3, 0, 0, at, len(names), 0, 0, 1, 0)
    start = struct.pack(
        "<16sHHIIIIIHHHHHH",
        b"\x7fELF\x01\x01\x01",
        *(2, 40, 1, parts[0][0], header, at + len(names), 0x05000000),
        *(header, program, len(parts), section, len(parts) + 2, len(parts) + 1),
    )
    with path.open("wb") as file:
        file.write(start + segments)
        for _, data in parts:
            file.write(data)
        file.write(names + sections)
