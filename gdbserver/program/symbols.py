"""Names and places in a program: the symbol table, the line table, the frame table of its ELF.

All of it is optional.  A stripped file has no names, one that was built without -g no lines; what
is there is used, and what is broken counts as not there.  DWARF is only read when somebody asks
for a line or a frame: of a large program that takes a second.  "DWARF Debugging Information
Format", version 5: "Line Number Information", "Call Frame Information"; "ELF for the Arm
Architecture" (AAELF32): "Mapping symbols".
"""

from __future__ import annotations

import io
import logging
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

log = logging.getLogger(__name__)

T = TypeVar("T")

_BROKEN: Final = (
    *(ELFError, DWARFError, ArithmeticError, AssertionError, AttributeError),
    *(LookupError, OSError, TypeError, ValueError),
)
"""What the parser raises for a table that is not what it says."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a source file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Rules:
    """How to come from a function to its caller at one address, by DWARF register numbers.

    The caller's stack pointer is the value of `base` plus `offset`; `saved` has where the
    registers lie that were stored, from there.
    """

    base: int
    offset: int
    saved: dict[int, int]
    ends: bool
    """Nobody called it: the return address is undefined."""


class Symbols:
    """What some files know together: a boot loader and its application, for instance.

    Addresses have no Thumb bit.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = []
        self.complete = True
        """Whether every file has names, so that one which is not found is in none of them."""
        for path in paths:
            try:
                self._files.append(_File(ELFFile(io.BytesIO(path.read_bytes()))))
            except _BROKEN as error:
                log.debug("%s has no symbols: %s", path, error)
                self.complete = False
        self.complete &= all(file.names for file in self._files)

    def address_of(self, name: str) -> int | None:
        return _first(file.names.get(name) for file in self._files)

    def function_at(self, address: int) -> tuple[str, int] | None:
        """The function that holds `address`, and how far into it that is."""
        return _first(file.function_at(address) for file in self._files)

    def place_of(self, address: int) -> Place | None:
        """The source line that the instruction at `address` was made from."""
        return _first(file.place_of(address) for file in self._files)

    def rules_at(self, address: int) -> Rules | None:
        """How to unwind from `address`, where a frame table knows."""
        return _first(file.rules_at(address) for file in self._files)


def _first(found: Iterable[T | None]) -> T | None:
    return next((one for one in found if one is not None), None)


class _File:
    """One ELF file."""

    def __init__(self, elf: ELFFile) -> None:
        self._elf = elf

    # --- Names ------------------------------------------------------------------------------------

    def function_at(self, address: int) -> tuple[str, int] | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, size, name = self._functions[index]
        # Functions in assembly often have no size: they go on to the next.
        return (name, address - start) if address - start < (size or 1 << 16) else None

    @cached_property
    def _symbols(self) -> list[Any]:
        try:
            return [
                symbol
                for section in self._elf.iter_sections()
                if isinstance(section, SymbolTableSection)
                for symbol in section.iter_symbols()
                if symbol["st_shndx"] != "SHN_UNDEF"
            ]
        except _BROKEN as error:
            log.debug("the symbol table is broken: %s", error)
            return []

    @cached_property
    def names(self) -> dict[str, int]:
        return {s.name: s["st_value"] for s in self._symbols if s.name}

    @cached_property
    def _functions(self) -> list[tuple[int, int, str]]:
        found: dict[int, tuple[int, int, str]] = {}
        for symbol in self._symbols:
            if symbol["st_info"]["type"] == "STT_FUNC":
                start = symbol["st_value"] & ~1
                # Of several names the one that others may use is the better known.
                if start not in found or symbol["st_info"]["bind"] == "STB_GLOBAL":
                    found[start] = start, symbol["st_size"], symbol.name
        return sorted(found.values())

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _, _ in self._functions]

    # --- Lines ------------------------------------------------------------------------------------

    def place_of(self, address: int) -> Place | None:
        try:
            for unit in self._units_at(address):
                if (place := _place_in(self._dwarf, unit, address)) is not None:
                    return place
        except _BROKEN as error:
            log.debug("the line table is broken: %s", error)
        return None

    @cached_property
    def _dwarf(self) -> Any:
        return self._elf.get_dwarf_info()

    def _units_at(self, address: int) -> Iterator[Any]:
        """The compilation unit that has `address`; or all of them, where no index says which."""
        if not self._elf.has_dwarf_info():
            return
        ranges = self._dwarf.get_aranges()
        offset = None if ranges is None else ranges.cu_offset_at_addr(address)
        if offset is not None:
            yield self._dwarf.get_CU_at(offset)
        else:
            yield from self._dwarf.iter_CUs()

    # --- Frames -----------------------------------------------------------------------------------

    def rules_at(self, address: int) -> Rules | None:
        try:
            index = bisect_right(self._frame_starts, address) - 1
            if index < 0:
                return None
            start, end, frame = self._frames[index]
            return _rules(frame, address) if start <= address < end else None
        except _BROKEN as error:
            log.debug("the frame table is broken at %#010x: %s", address, error)
            return None

    @cached_property
    def _frames(self) -> list[tuple[int, int, Any]]:
        if not self._elf.has_dwarf_info() or not self._dwarf.has_CFI():
            return []
        frames = [entry for entry in self._dwarf.CFI_entries() if isinstance(entry, FDE)]
        spans = [
            (f["initial_location"] & ~1, (f["initial_location"] & ~1) + f["address_range"], f)
            for f in frames
        ]
        return sorted(spans, key=lambda span: span[0])

    @cached_property
    def _frame_starts(self) -> list[int]:
        return [start for start, _, _ in self._frames]


def _place_in(dwarf: Any, unit: Any, address: int) -> Place | None:
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return None
    before = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if before is not None and before.address <= address < state.address:
            return _place(program, before)
        before = None if state.end_sequence else state
    return None


def _place(program: Any, state: Any) -> Place:
    # Since version 5 files are counted from 0, and the first folder is the compiler's own.
    modern = program.header.version >= 5
    file = program["file_entry"][state.file - (0 if modern else 1)]
    name = file.name.decode(errors="replace")
    folders = program["include_directory"]
    index = file.dir_index - (0 if modern else 1)
    folder = folders[index].decode(errors="replace") if 0 <= index < len(folders) else ""
    # Below the folder that the compiler ran in, names are as its command line had them.
    if modern and index > 0 and folders:
        folder = folder.removeprefix(folders[0].decode(errors="replace") + "/")
    if not folder or (modern and index == 0) or name.startswith("/"):
        return Place(name, state.line)
    return Place(f"{folder}/{name}", state.line)


_SP, _LR, _PC = 13, 14, 15


def _rules(frame: Any, address: int) -> Rules | None:
    row = None
    for line in frame.get_decoded().table:
        if line["pc"] & ~1 > address:
            break
        row = line
    if row is None or row["cfa"].expr is not None:
        return None
    saved, ends = {}, False
    for register, rule in row.items():
        if not isinstance(register, int):
            continue
        if rule.type == "OFFSET":
            saved[register] = rule.arg
        elif rule.type == "UNDEFINED" and register == _LR:
            ends = True
    return Rules(row["cfa"].reg, row["cfa"].offset, saved, ends)
