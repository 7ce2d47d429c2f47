"""What can be told of an external loader from its file: for `loader check` and `loader info`.

`LoaderFile.load` decides whether a file can work at all.  This adds what a loader's author wants
to know: what its code does to the rest of the chip, how much RAM it takes, what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdbserver.chip.memory import Span, merge
from gdbserver.errors import LoaderRejected, explain
from gdbserver.loader.file import RAMS, LoaderFile
from gdbserver.loader.hazards import Hazard, hazards

ROUTINES = (
    *("Init", "Write", "SectorErase", "MassErase", "Read", "Verify", "CheckSum", "DeInit"),
    *("UnInit", "EraseSector", "EraseChip", "ProgramPage", "BlankCheck"),
)
"""What tools call in a loader: ST's names, then those that only CMSIS has."""

_E_FLAGS = slice(36, 40)  # of the ELF header
_ABIS = {0x400: "hard-float", 0x200: "soft-float"}


def routines(loader: LoaderFile) -> dict[str, int]:
    """The entry points that a loader has, with their addresses."""
    entries = loader.image.entries
    return {name: entries[name] for name in ROUTINES if name in entries}


@dataclass(frozen=True)
class Report:
    """Whether a file can work, and what is odd about it."""

    path: Path
    refused: tuple[str, ...]
    """Why it cannot work: sentence, causes, hint.  Empty when it can."""
    warnings: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.refused

    @property
    def clean(self) -> bool:
        return self.ok and not self.warnings and not self.hazards

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.refused:
            yield f"{self.path.name}: refused"
            for line in self.refused:
                yield f"  {line}"
            return
        remarks = [*self.warnings, *self._told_hazards()]
        told = f", {len(remarks)} remark{'s' if len(remarks) > 1 else ''}" if remarks else ""
        yield f"{self.path.name}: can work{told}"
        for remark in remarks:
            yield f"  {remark}"

    def _told_hazards(self) -> Iterator[str]:
        """What a routine does at many places is one remark: HAL's clock set-up has dozens."""
        places: dict[tuple[str, str], list[Hazard]] = {}
        for hazard in self.hazards:
            places.setdefault((hazard.routine, hazard.does), []).append(hazard)
        for first, *more in places.values():
            again = "once" if len(more) == 1 else f"{len(more)} times"
            yield f"{first}, and {again} more" if more else str(first)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "file": str(self.path),
            "ok": self.ok,
            "refused": list(self.refused),
            "warnings": list(self.warnings),
            "hazards": [
                {
                    "kind": hazard.kind,
                    "address": hazard.address,
                    "place": hazard.place,
                    "routine": hazard.routine,
                    "does": hazard.does,
                }
                for hazard in self.hazards
            ],
        }


def check(path: Path) -> Report:
    """Look at a file; never raises for what is wrong with it."""
    try:
        loader = LoaderFile.load(path)
    except LoaderRejected as error:
        return Report(path, tuple(explain(error)))
    return Report(path, (), loader.warnings, hazards(loader.image, routines(loader)))


@dataclass(frozen=True)
class Info:
    """What a loader is made of."""

    loader: LoaderFile
    e_flags: int

    @property
    def memory(self) -> list[tuple[str, Span]]:
        """The RAMs that the loader occupies, and what of each."""
        return [
            (name, span)
            for span in self.loader.image.memory
            for name, ram in RAMS.items()
            if span in ram
        ]

    def free(self, ram: str) -> Span:
        """The largest piece of a RAM that the loader leaves alone."""
        pieces, start = [], RAMS[ram].start
        end = Span(RAMS[ram].end, RAMS[ram].end)
        for span in [*merge([span for name, span in self.memory if name == ram]), end]:
            pieces.append(Span(start, span.start))
            start = span.end
        return max(pieces, key=len)

    def lines(self) -> Iterator[str]:
        loader = self.loader
        region, image = loader.region, loader.image
        abi = [name for bit, name in _ABIS.items() if self.e_flags & bit]
        yield f"file        {loader.path.name}"
        yield f"device      {loader.name}"
        yield f"flash       {region.span}, {_size(len(region.span))}"
        sectors = ", ".join(f"{count} of {_size(size)}" for count, size in region.groups)
        yield f"sectors     {sectors}"
        yield f"page        {region.page_size} bytes"
        for name, span in self.memory:
            free = self.free(name)
            yield f"RAM         {name} {span}, {len(span)} bytes; {_size(len(free))} free at {free}"
        yield f"e_flags     {self.e_flags:#010x}" + (f" ({', '.join(abi)})" if abi else "")
        if image.rwpi:
            base = image.static_base
            yield "r9          " + ("a scratch area" if base is None else f"{base:#010x}")
        yield "routines    " + ", ".join(routines(loader))
        yield "symbols"
        for symbol in sorted(image.symbols.values(), key=lambda symbol: symbol.address):
            kind = "function" if symbol.name in image.entries else "object"
            yield f"  {symbol.address:#010x} {symbol.size:6} {kind:8} {symbol.name}"

    def document(self) -> dict[str, Any]:
        loader = self.loader
        region, image = loader.region, loader.image
        return {
            "file": str(loader.path),
            "device": loader.name,
            "start": region.span.start,
            "size": len(region.span),
            "page_size": region.page_size,
            "sectors": [{"count": count, "size": size} for count, size in region.groups],
            "memory": [
                {
                    "ram": name,
                    "start": span.start,
                    "size": len(span),
                    "free": {"start": self.free(name).start, "size": len(self.free(name))},
                }
                for name, span in self.memory
            ],
            "e_flags": self.e_flags,
            "hard_float": image.hard_float,
            "rwpi": image.rwpi,
            "static_base": image.static_base,
            "routines": routines(loader),
            "symbols": [
                {"name": symbol.name, "address": symbol.address, "size": symbol.size}
                for symbol in sorted(image.symbols.values(), key=lambda symbol: symbol.address)
            ],
            "warnings": list(loader.warnings),
        }


def info(path: Path) -> Info:
    """Read a loader.

    Raises:
        LoaderRejected: it cannot work.
    """
    loader = LoaderFile.load(path)
    return Info(loader, int.from_bytes(path.read_bytes()[_E_FLAGS], "little"))


def _size(length: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if length >= unit and length % unit == 0:
            return f"{length // unit} {name}"
    return f"{length} bytes" if length < 1 << 10 else f"{length / 1024:.1f} KiB"
