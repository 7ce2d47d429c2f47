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

What makes it impossible to use a file is refused here, before the target is touched; what is
merely odd is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any

from construct import Array, Bytes, Const, Container, Int8ul, Int16ul, Int32ul, Padding, Struct
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

    @property
    def path(self) -> Path:
        return self.image.path

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
            info, odd = _storage_info(path, elf)
            image = _image(path, elf, host_only=info.span)
        name = info.fields.name.partition(b"\0")[0].decode("utf-8", "replace")
        region, more = _geometry(path, name, info.fields)
        _check_entries(image)
        _check_memory(image)
        odd += more
        if name != path.stem:
            odd.append(f"it calls its device {name!r}; STM32CubeProgrammer wants the file's name")
        for warning in odd:
            log.warning("%s: %s", path.name, warning)
        return cls(image, name, region, 1, tuple(odd))


def load_image(path: Path) -> Image:
    """The code of ours that is no loader: the call queue."""
    with _opened(path) as elf:
        return _image(path, elf, host_only=Span(0, 0))


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
            raise LoaderRejected(path, f"is not an ELF file: {error}") from error
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


def _storage_info(path: Path, elf: ELFFile) -> tuple[_Info, list[str]]:
    symbol = next((s for s in _symbol_table(elf) if s.name == "StorageInfo"), None)
    if symbol is None:
        raise LoaderRejected(
            path,
            "has no symbol StorageInfo, which describes the flash device",
            hint="is it stripped, or did the linker discard it (KEEP, --gc-sections)?",
        )
    address, length = symbol["st_value"], STORAGE_INFO.sizeof()
    for segment in elf.iter_segments("PT_LOAD"):
        offset = address - segment["p_vaddr"]
        if offset >= 0 and offset + length <= segment["p_filesz"]:
            fields = STORAGE_INFO.parse(segment.data()[offset : offset + length])
            break
    else:
        raise LoaderRejected(path, f"has no file contents for StorageInfo at {address:#010x}")
    odd = []
    if symbol["st_size"] != length:
        odd.append(f"StorageInfo has {symbol['st_size']} bytes instead of {length}")
    return _Info(Span.of(address, max(length, symbol["st_size"])), fields), odd


def _image(path: Path, elf: ELFFile, *, host_only: Span) -> Image:
    chunks: list[tuple[int, bytes]] = []
    executable, rwpi = [], False
    for segment in elf.iter_segments("PT_LOAD"):
        span = Span.of(segment["p_vaddr"], segment["p_memsz"])
        if not len(span) or span in host_only:
            continue
        filled = Span.of(span.start, segment["p_filesz"])
        chunks.append((filled.start, segment.data()))
        if filled.end < span.end:
            chunks.append((filled.end, bytes(span.end - filled.end)))
        if segment["p_flags"] & _PF_EXECUTE:
            executable.append(span)
            rwpi = rwpi or bool(segment["p_flags"] & _PF_ARM_RWPI)
    covered = merge([Span.of(address, len(data)) for address, data in chunks])
    static_base = None
    for section in elf.iter_sections():
        span = Span.of(section["sh_addr"], section["sh_size"])
        allocated = section["sh_flags"] & 2 and section["sh_type"] == "SHT_NOBITS"
        if allocated and len(span) and not any(span in other for other in covered):
            chunks.append((span.start, bytes(len(span))))
        if section.name == "PrgData":
            static_base = span.start
    named = [s for s in _symbol_table(elf) if s.name and s["st_shndx"] != "SHN_UNDEF"]
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
        static_base,
    )


def _geometry(path: Path, name: str, fields: Container) -> tuple[FlashRegion, list[str]]:
    groups: list[tuple[int, int]] = []
    for sector in fields.sectors:
        if not sector.count or not sector.size:
            break
        groups.append((sector.count, sector.size))
    total = sum(count * size for count, size in groups)
    if not total:
        raise LoaderRejected(path, "StorageInfo lists no sectors")
    if fields.erased != 0xFF:
        raise LoaderRejected(path, f"StorageInfo says that erased bytes are {fields.erased:#04x}")
    odd = []
    if total != fields.size:
        odd.append(
            f"StorageInfo has {total:#x} bytes of sectors, but says it is {fields.size:#x} bytes "
            f"large: using the smaller"
        )
        groups, total = _cut(groups, fields.size)
    span = Span.of(fields.start, total)
    if not total or span.end > 1 << 32:
        raise LoaderRejected(path, f"StorageInfo puts {total:#x} bytes at {fields.start:#010x}")
    for bank in (chip.BANK1, chip.BANK2):
        if len(bank & span):
            raise LoaderRejected(path, f"covers {span}, which is internal flash")
    page = gcd(fields.page_size or 256, *(size for _, size in groups))
    return FlashRegion(name, span, tuple(groups), page), odd


def _cut(groups: Sequence[tuple[int, int]], limit: int) -> tuple[list[tuple[int, int]], int]:
    """As many whole sectors as fit into `limit` bytes, and how many bytes that is."""
    fitting, total = [], 0
    for count, size in groups:
        fits = min(count, (limit - total) // size)
        if fits:
            fitting.append((fits, size))
            total += fits * size
    return fitting, total


def _check_entries(image: Image) -> None:
    for name in ("Init", "Write", "SectorErase"):
        entry = image.entries.get(name)
        if entry is None:
            raise LoaderRejected(
                image.path,
                f"has no function {name}",
                hint="was it discarded by the linker (KEEP, --gc-sections), or static?",
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
