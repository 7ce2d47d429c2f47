"""What is inside an external loader file: image, entry points, geometry; and whether it can work.

An external loader is an ELF file that ST's tools call ``.stldr``: linked to an absolute
address in RAM, with a descriptor `StorageInfo` for the host and routines for the target
(UM2237, "STM32CubeProgrammer software description", "Loader creation").  Files in the wild
take liberties, which are met here, so that the rest of the program sees one shape:

- Only the program headers say what goes where; section names differ from tool to tool.
- The descriptor is for the host.  It may have a segment of its own, at any address, even on
  top of the first segment's .bss; it is read from the file and never written to the target.
- `StorageInfo` may have any symbol size: the 200 bytes at its address are what counts.
- .bss is zeroed by nobody else, and may lie beyond the segment's memory size.
- Code built for a movable data area (RWPI) expects its base in r9.

The other kind is a CMSIS flash algorithm, ``.FLM``: position independent, with a descriptor
`FlashDevice` and other routines (Open-CMSIS-Pack, "Flash Programming Algorithms").  It is moved
to RAM here; `LoaderFile.kind` tells those who call its routines.

What makes it impossible to use a file is refused here, before the target is touched; what is
merely odd is a warning.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any, Literal

from construct import (
    Array,
    Bytes,
    Const,
    Container,
    Default,
    Int8ul,
    Int16ul,
    Int32ul,
    Padding,
    Struct,
)
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import FlashRegion, Span, merge
from gdbserver.errors import LoaderRejected

log = logging.getLogger(__name__)

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

FLASH_DEVICE = Struct(
    "version" / Int16ul,
    "name" / Bytes(128),
    "kind" / Int16ul,
    "start" / Int32ul,
    "size" / Int32ul,
    "page_size" / Int32ul,
    Padding(4),
    "erased" / Int8ul,
    Padding(3),
    "program_ms" / Int32ul,  # longest time for a page
    "erase_ms" / Int32ul,  # longest time for a sector
    "sectors" / Array(512, Struct("size" / Int32ul, "offset" / Int32ul)),
)
"""Keil's ``struct FlashDevice``: 4256 bytes.

Sectors of `size` begin at `offset` and go on up to the next offset; FFFFFFFFh ends the list.
"""

_SECTOR_GROUP = 8  # bytes, in either
_NO_SECTOR = {"StorageInfo": b"\0", "FlashDevice": b"\xff"}  # each byte of what ends the list

_PIN = Struct(
    "port" / Int8ul,  # 0 = GPIOA ... 10 = GPIOK; FFh: no such pin
    "pin" / Int8ul,  # 0 to 15
    "function" / Int8ul,  # alternate function number
    Padding(1),
)
NO_PIN = {"port": 0xFF, "pin": 0, "function": 0}

CONFIG = Struct(
    "magic" / Const(0x43505351, Int32ul),  # "QSPC"
    "bank" / Int32ul,  # 1 or 2: which QUADSPI flash bank (CR.FSEL); 3: both (CR.DFM)
    "clock_hz" / Int32ul,  # highest NOR clock on this board; 0: the loader's choice
    "pins" / Array(6, _PIN),  # CLK, NCS, IO0, IO1, IO2, IO3
    "base" / Default(Int32ul, chip.QSPI_WINDOW.start),  # where the QUADSPI maps the NOR
    "sector_size" / Default(Int32ul, 64 * chip.KIB),  # as StorageInfo has it
    "second" / Default(Array(5, _PIN), [NO_PIN] * 5),  # IO0 to IO3 of bank 2, and its NCS
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
    "second_jedec" / Int32ul,  # of two NORs side by side: that of bank 2; else 0
    "culprits" / Int32ul,  # of two NORs: which failed, bank 1's in bit 0, bank 2's in bit 1
)
"""Our own loader's ``found`` symbol: what Init has found out, for the host to read."""


def built(name: str) -> Path:
    """A loader that ships with this program: in the package, or in the source tree."""
    here = Path(__file__).parent
    for folder in (here / "built", here.parent.parent / "loaders" / "built"):
        if (folder / name).exists():
            return folder / name
    return here / "built" / name


RAMS = {
    "ITCM": chip.ITCM,
    "DTCM": chip.DTCM,
    "AXI SRAM": chip.AXI_SRAM,
    "SRAM1": chip.SRAM1,
    "SRAM2": chip.SRAM2,
    "SRAM3": chip.SRAM3,
    "SRAM4": chip.SRAM4,
}
"""Where a loader may live."""

EXTERNAL = {
    "QUADSPI": chip.QSPI_WINDOW,
    "FMC": chip.FMC_BANKS,
    "FMC SDRAM": chip.FMC_SDRAM,
}
"""Where the chip maps external memory."""

FLM_BASE = chip.AXI_SRAM.start
"""Where code that can be anywhere is put."""

_PF_EXECUTE = 1
_PF_ARM_RWPI = 0xB0000000  # what armlink sets for position independence of one kind or another
_EF_ARM_HARD_FLOAT = 0x400


@dataclass(frozen=True)
class Symbol:
    name: str
    address: int  # without the thumb bit
    size: int


@dataclass(frozen=True)
class Image:
    """What an ELF file puts into memory, and the names of what lies there."""

    path: Path
    chunks: tuple[tuple[int, bytes], ...]
    """(address, bytes), ascending: what the file holds, and zeros where memory is to be zeroed."""
    executable: tuple[Span, ...]
    symbols: Mapping[str, Symbol]
    entries: Mapping[str, int]
    """Addresses of functions, thumb bit and all."""
    hard_float: bool = False
    rwpi: bool = False
    static_base: int | None = None
    """Address of the movable data section, for r9, where the file has one."""

    @cached_property
    def memory(self) -> tuple[Span, ...]:
        """The addresses that the image occupies."""
        return tuple(merge([Span.of(address, len(data)) for address, data in self.chunks]))

    def at(self, offset: int) -> Image:
        """The same image `offset` further up; only for position-independent code."""
        return replace(
            self,
            chunks=tuple((address + offset, data) for address, data in self.chunks),
            executable=tuple(Span(s.start + offset, s.end + offset) for s in self.executable),
            symbols={
                name: replace(symbol, address=symbol.address + offset)
                for name, symbol in self.symbols.items()
            },
            entries={name: address + offset for name, address in self.entries.items()},
            static_base=None if self.static_base is None else self.static_base + offset,
        )

    def patched(self, name: str, data: bytes) -> Image:
        """The same image with other contents for a variable."""
        start = self.symbols[name].address
        chunks = []
        for address, contents in self.chunks:
            offset = start - address
            if offset >= 0 and offset + len(data) <= len(contents):
                after = contents[offset + len(data) :]
                chunks.append((address, contents[:offset] + data + after))
            else:
                chunks.append((address, contents))
        return replace(self, chunks=tuple(chunks))

    def place(self, address: int) -> str:
        """An address in words: "Write+0x34", or the bare address outside every function."""
        for symbol in self.symbols.values():
            if symbol.address <= address < symbol.address + symbol.size:
                return f"{symbol.name}+{address - symbol.address:#x}"
        return f"{address:#010x}"


@dataclass(frozen=True)
class LoaderFile:
    """An external loader that can work, as far as its file tells."""

    image: Image
    name: str
    """What the loader calls its device."""
    region: FlashRegion
    good: int
    """What its routines return when all went well."""
    warnings: tuple[str, ...] = ()
    kind: Literal["stldr", "flm"] = "stldr"
    program_seconds: float = 0.0
    """What an .FLM says a page takes at most; 0 for others."""
    erase_seconds: float = 0.0
    """The same for a sector."""

    @property
    def path(self) -> Path:
        return self.image.path

    @property
    def mapped(self) -> bool:
        """Whether the chip has an address space for the device, so that it may be read there."""
        return any(self.region.span in area for area in EXTERNAL.values())

    @property
    def finds_out(self) -> bool:
        """Whether it is our own, which learns the size and more from the NOR itself."""
        return "found" in self.image.symbols

    def patched(self, name: str, data: bytes) -> LoaderFile:
        """The same loader with other contents for a variable."""
        return replace(self, image=self.image.patched(name, data))

    @classmethod
    def load(cls, path: Path) -> LoaderFile:
        """Read and check a file.

        Raises:
            LoaderRejected: it cannot work; the message says which part of it.
        """
        with _opened(path) as elf:
            symbols = _symbol_table(elf)
            names = {symbol.name for symbol in symbols}
            is_flm = "FlashDevice" in names and "StorageInfo" not in names
            loader = (_flm if is_flm else _stldr)(path, elf, symbols)
        _check_memory(loader.image)
        for warning in loader.warnings:
            log.warning("%s: %s", path.name, warning)
        return loader


def _stldr(path: Path, elf: ELFFile, symbols: Sequence[Any]) -> LoaderFile:
    info, odd = _descriptor(path, elf, symbols, "StorageInfo", STORAGE_INFO)
    image = _image(path, elf, symbols, host_only=info.span)
    name = _text(info.fields.name)
    groups, more = _st_groups(info.fields)
    region = _region(path, name, info.fields, groups)
    _check_entries(image, ("Init", "Write", "SectorErase"))
    loader = LoaderFile(image, name, region, 1)
    if not loader.mapped and "Read" not in image.entries:
        raise LoaderRejected(
            path,
            f"puts its device at {region.span}, where nothing is mapped, and has no Read",
            hint="the QUADSPI is mapped at 0x90000000",
        )
    odd += more
    if name != path.stem:
        odd.append(f"it calls its device {name!r}; STM32CubeProgrammer wants the file's name")
    return replace(loader, warnings=tuple(odd))


def _flm(path: Path, elf: ELFFile, symbols: Sequence[Any]) -> LoaderFile:
    info, odd = _descriptor(path, elf, symbols, "FlashDevice", FLASH_DEVICE)
    image = _image(path, elf, symbols, host_only=info.span)
    region = _region(path, _text(info.fields.name), info.fields, _cmsis_groups(path, info.fields))
    _check_entries(image, ("Init", "UnInit", "EraseSector", "ProgramPage"))
    if image.memory[0].start != 0:
        raise LoaderRejected(
            path, f"begins at {image.memory[0].start:#010x}: a flash algorithm is linked at 0"
        )
    return LoaderFile(
        image.at(FLM_BASE),
        region.name,
        region,
        0,
        tuple(odd),
        "flm",
        info.fields.program_ms / 1000,
        info.fields.erase_ms / 1000,
    )


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "replace")


def load_image(path: Path) -> Image:
    """The code of ours that is no loader: the call queue."""
    with _opened(path) as elf:
        return _image(path, elf, _symbol_table(elf), host_only=Span(0, 0))


@contextmanager
def _opened(path: Path) -> Iterator[ELFFile]:
    """An ELF file of the right kind; or a sentence that says why not."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise LoaderRejected(path, f"cannot be read: {error.strerror}") from error
    with file:
        try:
            elf = ELFFile(file)
            kind = (elf.elfclass, elf.little_endian, elf["e_machine"], elf["e_type"])
        except ELFError as error:
            raise LoaderRejected(path, "is not an ELF file") from error
        if kind != (32, True, "EM_ARM", "ET_EXEC"):
            raise LoaderRejected(
                path,
                f"is {elf['e_type']} for {elf['e_machine']}, {elf.elfclass} bits; "
                "a loader is a linked (ET_EXEC), little-endian, 32-bit ELF file for Arm",
            )
        yield elf


@dataclass(frozen=True)
class _Info:
    span: Span
    fields: Any


def _symbol_table(elf: ELFFile) -> list[Any]:
    tables = [s for s in elf.iter_sections() if isinstance(s, SymbolTableSection)]
    return [symbol for table in tables for symbol in table.iter_symbols()]


def _descriptor(
    path: Path, elf: ELFFile, symbols: Sequence[Any], name: str, layout: Any
) -> tuple[_Info, list[str]]:
    """What the file says of its device, under the symbol `name`."""
    symbol = next((s for s in symbols if s.name == name), None)
    if symbol is None:
        raise LoaderRejected(
            path,
            "has no symbol StorageInfo (or FlashDevice), which describes the flash device",
            hint="is it stripped, or did the linker discard it (KEEP, --gc-sections)?",
        )
    address, length = symbol["st_value"], layout.sizeof()
    # Only what a descriptor has sectors for need be there: armlink may end it behind the last.
    least = length - layout.sectors.sizeof() + _SECTOR_GROUP
    holding = [
        segment
        for segment in elf.iter_segments("PT_LOAD")
        if Span.of(address, least) in Span.of(segment["p_vaddr"], segment["p_filesz"])
    ]
    if not holding:
        raise LoaderRejected(path, f"has no file contents for {name} at {address:#010x}")
    # A segment of its own may lie in a hole of the code's, which holds nothing there.
    segment = min(holding, key=lambda segment: int(segment["p_filesz"]))
    offset = address - segment["p_vaddr"]
    fields = layout.parse(segment.data()[offset : offset + length].ljust(length, _NO_SECTOR[name]))
    odd = []
    if symbol["st_size"] != length:
        odd.append(f"{name} has {symbol['st_size']} bytes instead of {length}")
    return _Info(Span.of(address, max(length, symbol["st_size"])), fields), odd


def _image(path: Path, elf: ELFFile, symbols: Sequence[Any], *, host_only: Span) -> Image:
    chunks: list[tuple[int, bytes]] = []
    zeros: list[Span] = []
    executable, rwpi = [], False
    for segment in elf.iter_segments("PT_LOAD"):
        span = Span.of(segment["p_vaddr"], segment["p_memsz"])
        if not len(span) or span in host_only:
            continue
        filled = Span.of(span.start, segment["p_filesz"])
        chunks.append((filled.start, segment.data()))
        zeros.append(Span(filled.end, span.end))
        if segment["p_flags"] & _PF_EXECUTE:
            executable.append(span)
            rwpi = rwpi or bool(segment["p_flags"] & _PF_ARM_RWPI)
    statics = []  # .data and .bss, both under the one name
    for section in elf.iter_sections():
        span = Span.of(section["sh_addr"], section["sh_size"])
        if section["sh_flags"] & 2 and section["sh_type"] == "SHT_NOBITS":
            zeros.append(span)  # it may lie beyond the memory of every segment
        if section.name == "PrgData" and len(span):
            statics.append(span.start)
    _check_overlaps(path, chunks)
    filled_spans = [Span.of(address, len(data)) for address, data in chunks]
    chunks += [(span.start, bytes(len(span))) for span in _without(merge(zeros), filled_spans)]
    named = [s for s in symbols if s.name and s["st_shndx"] != "SHN_UNDEF"]
    functions = [s for s in named if s["st_info"]["type"] == "STT_FUNC"]
    return Image(
        path,
        tuple(sorted(chunks)),
        tuple(executable),
        {
            s.name: Symbol(s.name, s["st_value"] & ~int(s in functions), s["st_size"])
            for s in named
            if s["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT")
        },
        {s.name: s["st_value"] for s in functions},
        bool(elf["e_flags"] & _EF_ARM_HARD_FLOAT),
        rwpi,
        min(statics, default=None),
    )


def _check_overlaps(path: Path, chunks: Sequence[tuple[int, bytes]]) -> None:
    spans = sorted(Span.of(address, len(data)) for address, data in chunks)
    for one, other in itertools.pairwise(spans):
        if len(one & other):
            raise LoaderRejected(path, f"has two segments for {one & other}: {one} and {other}")


def _without(spans: Sequence[Span], taken: Sequence[Span]) -> Iterator[Span]:
    """What of `spans` none of `taken` covers."""
    for span in spans:
        start = span.start
        for other in sorted(taken):
            if len(other & span):
                if start < other.start:
                    yield Span(start, other.start)
                start = max(start, other.end)
        if start < span.end:
            yield Span(start, span.end)


def _st_groups(fields: Container) -> tuple[list[tuple[int, int]], list[str]]:
    """The device's sectors as (count, size), and what is odd about them."""
    groups: list[tuple[int, int]] = []
    for sector in fields.sectors:
        if not sector.count or not sector.size:
            break
        groups.append((sector.count, sector.size))
    total = sum(count * size for count, size in groups)
    if total in (0, fields.size):
        return groups, []
    odd = (
        f"StorageInfo has {total:#x} bytes of sectors, but says it is {fields.size:#x} bytes "
        f"large: using the smaller"
    )
    return _cut(groups, fields.size), [odd]


def _cmsis_groups(path: Path, fields: Container) -> list[tuple[int, int]]:
    listed = list(itertools.takewhile(lambda sector: sector.size != 0xFFFFFFFF, fields.sectors))
    groups = []
    for sector, following in itertools.zip_longest(listed, listed[1:]):
        size, end = sector.size, following.offset if following else fields.size
        if not size or end <= sector.offset or (end - sector.offset) % size:
            raise LoaderRejected(
                path,
                f"FlashDevice has sectors of {size:#x} bytes from {sector.offset:#x} to {end:#x}",
            )
        groups.append(((end - sector.offset) // size, size))
    return groups


def _region(
    path: Path, name: str, fields: Container, groups: Sequence[tuple[int, int]]
) -> FlashRegion:
    """The flash device as the rest of the program sees it.

    Raises:
        LoaderRejected: there is none, or where external memory cannot be.
    """
    total = sum(count * size for count, size in groups)
    if not total:
        raise LoaderRejected(path, "describes a device without sectors")
    if fields.erased != 0xFF:
        raise LoaderRejected(path, f"says that erased bytes are {fields.erased:#04x}, not 0xff")
    span = Span.of(fields.start, total)
    if span.end > 1 << 32:
        raise LoaderRejected(path, f"puts {total:#x} bytes at {fields.start:#010x}")
    for bank in (chip.BANK1, chip.BANK2):
        if len(bank & span):
            raise LoaderRejected(
                path,
                f"is for {span}, which is internal flash",
                hint="internal flash needs no loader: leave this one out",
            )
    if span.start < chip.FMC_BANKS.start:
        places = ", ".join(f"{name} {area}" for name, area in EXTERNAL.items())
        typed = "is 0x90000000 meant?  " if span.start >> 24 == 0x09 else ""
        raise LoaderRejected(
            path,
            f"puts its device at {span}, where no external memory can be",
            hint=f"{typed}external memory is at {places}",
        )
    page = gcd(fields.page_size or 256, *(size for _, size in groups))
    return FlashRegion(name, span, tuple(groups), page)


def cut(loader: LoaderFile, size: int) -> LoaderFile:
    """The same loader for the first `size` bytes of its device."""
    groups = _cut(loader.region.groups, size)
    span = Span.of(loader.region.span.start, sum(count * each for count, each in groups))
    return replace(loader, region=replace(loader.region, span=span, groups=tuple(groups)))


def _cut(groups: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """As many whole sectors as fit into `limit` bytes."""
    fitting, total = [], 0
    for count, size in groups:
        fits = min(count, (limit - total) // size)
        if fits:
            fitting.append((fits, size))
            total += fits * size
    return fitting


def _check_entries(image: Image, names: Sequence[str]) -> None:
    for name in names:
        entry = image.entries.get(name)
        if entry is None:
            # Itanium C++ ABI, "Mangling": _Z, the length of the name, the name, the arguments.
            mangled = next((e for e in image.entries if e.startswith(f"_Z{len(name)}{name}")), None)
            raise LoaderRejected(
                image.path,
                f"has no function {name}",
                hint=f'it has {mangled}, which is C++: declare it extern "C"'
                if mangled
                else "was it discarded by the linker (KEEP, --gc-sections), or static?",
            )
        if not entry & 1:
            raise LoaderRejected(image.path, f"{name} at {entry:#010x} is not Thumb code")
        if not any(entry & ~1 in span for span in image.executable):
            raise LoaderRejected(image.path, f"{name} at {entry & ~1:#010x} is in no code segment")


def _check_memory(image: Image) -> None:
    for span in image.memory:
        if not any(span in ram for ram in RAMS.values()):
            raise LoaderRejected(
                image.path,
                f"wants {span}, which is not RAM of this chip",
                hint="RAM is at " + ", ".join(f"{name} {ram}" for name, ram in RAMS.items()),
            )
