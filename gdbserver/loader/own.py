"""The loader that ships with this program, told how a board is wired.

It is one file, ``loaders/built/qspi.stldr``, for all boards: its variable `config` says which pins
carry the QUADSPI, and is patched before the upload, or into a copy of the file that other tools
can use.  Which NOR there is, it finds out by itself.

Two NORs side by side (dual-flash mode) are one device here, with sectors and pages twice as large.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.errors import UsageError
from gdbserver.loader.board_file import SECOND, SECOND_NCS, SIGNALS, Wiring, wired
from gdbserver.loader.file import CONFIG, NO_PIN, STORAGE_INFO, LoaderFile, built

_FILE = "qspi.stldr"
_SECTOR, _PAGE = 64 * chip.KIB, 256  # of each NOR
_QUAD_FAILED = 1 << 3  # of `found`'s flags: loaders/qspi/loader.h
_ASSUMED = 32 * chip.MIB  # the same, until somebody has asked the NOR


def load_loader(name: str, wiring: Wiring) -> LoaderFile:
    """A loader by its path, or `builtin` for our own on a board.

    Raises: UsageError, LoaderRejected.
    """
    if name == "builtin":
        return builtin_for(wiring)
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"no external loader {name}",
            hint="give the path of a .stldr file, or `builtin` for our own loader",
        )
    return LoaderFile.load(path)


def builtin(pins: Mapping[str, str]) -> LoaderFile:
    """Our loader for a NOR at these pins: {"CLK": "PB2", "NCS": "PB6", "IO0": ...}.

    Raises:
        UsageError: a signal is missing, or on a pin that cannot carry it.
    """
    return builtin_for(wired(pins))


def builtin_for(wiring: Wiring) -> LoaderFile:
    """Our loader for a board."""
    loader = LoaderFile.load(built(_FILE)).patched("config", _config(wiring))
    region = loader.region
    sector, page, size = _geometry(wiring)
    span = Span.of(region.span.start, size)
    return replace(loader, region=FlashRegion(region.name, span, ((size // sector, sector),), page))


def resized(loader: LoaderFile, size: int) -> LoaderFile:
    """The same loader for a NOR of another size."""
    region = loader.region
    ((_, sector),) = region.groups
    span = Span.of(region.span.start, size)
    groups = ((size // sector, sector),)
    return replace(loader, region=replace(region, span=span, groups=groups))


def four_lines_failed(found: Mapping[str, int]) -> bool:
    """Whether our loader reads on one line because four do not read the same."""
    return bool(found["flags"] & _QUAD_FAILED)


def identity(found: Mapping[str, int]) -> str:
    """Who answered our loader: "JEDEC id EF4019", or that of each of two."""
    if not found["second_jedec"]:
        return f"JEDEC id {found['jedec']:06X}"
    if found["jedec"] == found["second_jedec"]:
        return f"JEDEC id {found['jedec']:06X} of each of two"
    return f"JEDEC id {found['jedec']:06X} on bank 1, {found['second_jedec']:06X} on bank 2"


def export(wiring: Wiring, path: Path) -> LoaderFile:
    """Write our loader for a board as a file for STM32CubeProgrammer; return it, checked.

    Raises:
        UsageError: the name, or the place, cannot be.
    """
    name = path.stem.encode()
    if path.suffix != ".stldr" or not name.isascii() or len(name) > 99:
        raise UsageError(
            f"a loader cannot be called {path.name!r}",
            hint="STM32CubeProgrammer looks for NAME.stldr, and for the same name inside it",
        )
    sector, page, size = _geometry(wiring)
    data = bytearray(built(_FILE).read_bytes())
    elf = ELFFile(BytesIO(bytes(data)))
    info = _file_span(elf, "StorageInfo")
    fields = STORAGE_INFO.parse(data[info.start : info.end])
    fields.name = name.ljust(100, b"\0")
    fields.size = size
    fields.page_size = page
    fields.sectors[0] = {"count": size // sector, "size": sector}
    data[info.start : info.end] = STORAGE_INFO.build(fields)
    config = _file_span(elf, "config")
    data[config.start : config.end] = _config(wiring)
    try:
        path.write_bytes(data)
    except OSError as failure:
        raise UsageError(f"cannot write {path}") from failure
    return LoaderFile.load(path)


def _geometry(wiring: Wiring) -> tuple[int, int, int]:
    """Bytes of a sector, of a page, and of the whole."""
    nors = 2 if wiring.dual else 1
    return nors * _SECTOR, nors * _PAGE, wiring.size or nors * _ASSUMED


def _config(wiring: Wiring) -> bytes:
    def entries(signals: Iterable[str]) -> list[dict[str, int]]:
        pins = [wiring.pins.get(signal) for signal in signals]
        return [
            NO_PIN
            if pin is None
            else {"port": pin.port, "pin": pin.number, "function": pin.function}
            for pin in pins
        ]

    config: bytes = CONFIG.build(
        {
            "bank": wiring.bank,
            "clock_hz": wiring.max_hz,
            "pins": entries(SIGNALS),
            "sector_size": _geometry(wiring)[0],
            "second": entries((*SECOND, SECOND_NCS)),
        }
    )
    return config


def _file_span(elf: ELFFile, name: str) -> Span:
    """Where in the file the contents of a variable are."""
    (symbol,) = elf.get_section_by_name(".symtab").get_symbol_by_name(name)
    (offset,) = elf.address_offsets(symbol["st_value"], symbol["st_size"])
    return Span.of(offset, symbol["st_size"])
