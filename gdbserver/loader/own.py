"""The loader that ships with this program, told how a board is wired.

It is one file, ``loaders/built/qspi.stldr``, for all boards: its variable `config` says which pins
carry the QUADSPI, and is patched before the upload, or into a copy of the file that other tools
can use.  Which NOR there is, it finds out by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.errors import UsageError
from gdbserver.loader.board_file import Wiring, wired
from gdbserver.loader.file import CONFIG, STORAGE_INFO, LoaderFile, built

_FILE = "qspi.stldr"
_SECTOR = 64 * chip.KIB
_ASSUMED = 32 * chip.MIB  # until somebody has asked the NOR


def builtin(pins: Mapping[str, str]) -> LoaderFile:
    """Our loader for a NOR at these pins: {"CLK": "PB2", "NCS": "PB6", "IO0": ...}.

    Raises:
        UsageError: a signal is missing, or on a pin that cannot carry it.
    """
    return builtin_for(wired(pins))


def builtin_for(wiring: Wiring) -> LoaderFile:
    """Our loader for a board."""
    loader = LoaderFile.load(built(_FILE)).patched("config", _config(wiring))
    return resized(loader, wiring.size or _ASSUMED)


def resized(loader: LoaderFile, size: int) -> LoaderFile:
    """The same loader for a NOR of another size."""
    region = loader.region
    span = Span.of(region.span.start, size)
    groups = ((size // _SECTOR, _SECTOR),)
    return replace(loader, region=FlashRegion(region.name, span, groups, region.page_size))


def export(wiring: Wiring, path: Path) -> LoaderFile:
    """Write our loader for a board as a file for STM32CubeProgrammer; return it, checked.

    Raises:
        UsageError: the name, or the place, cannot be.
    """
    name = path.stem.encode()
    if path.suffix != ".stldr" or not name.isascii() or len(name) > 99:
        error = UsageError(f"a loader cannot be called {path.name!r}")
        error.hint = "STM32CubeProgrammer looks for NAME.stldr, and for the same name inside it"
        raise error
    size = wiring.size or _ASSUMED
    data = bytearray(built(_FILE).read_bytes())
    elf = ELFFile(BytesIO(bytes(data)))
    info = _file_span(elf, "StorageInfo")
    fields = STORAGE_INFO.parse(data[info.start : info.end])
    fields.name = name.ljust(100, b"\0")
    fields.size = size
    fields.sectors[0].count = size // _SECTOR
    data[info.start : info.end] = STORAGE_INFO.build(fields)
    config = _file_span(elf, "config")
    data[config.start : config.end] = _config(wiring)
    try:
        path.write_bytes(data)
    except OSError as failure:
        raise UsageError(f"cannot write {path}") from failure
    return LoaderFile.load(path)


def _config(wiring: Wiring) -> bytes:
    pins = [
        {"port": pin.port, "pin": pin.number, "function": pin.function}
        for pin in wiring.pins.values()
    ]
    config: bytes = CONFIG.build({"bank": wiring.bank, "clock_hz": wiring.max_hz, "pins": pins})
    return config


def _file_span(elf: ELFFile, name: str) -> Span:
    """Where in the file the contents of a variable are."""
    (symbol,) = elf.get_section_by_name(".symtab").get_symbol_by_name(name)
    (offset,) = elf.address_offsets(symbol["st_value"], symbol["st_size"])
    return Span.of(offset, symbol["st_size"])
