"""How what is to be done is said to a loader: which of its routines, in which order.

The two kinds of loader differ in all but the idea.

ST's ``.stldr``
    One `Init`, then anything.  `SectorErase(first, last)`: `last` is the *start* of the last
    sector, which is erased too.  `Write` takes any size by its specification; but loaders in
    the wild lose bytes at odd ends and page crossings, so it only ever gets whole pages.
    `Verify` returns different things from file to file, and is not used.  1 is success.

CMSIS ``.FLM``
    `Init(address, clock, function)` before and `UnInit(function)` after each kind of work: 1
    erasing, 2 programming, 3 looking.  `EraseSector` erases one sector, `ProgramPage` programs
    no more than a page.  There is no routine that reads: the device is looked at where it is
    mapped; by us, if Init does not map it (`readout`).  `Verify` and `BlankCheck` are optional, and
    digests make them unnecessary.  0 is success.

A dialect only says what to call; it never calls.  Time-outs come from what is asked for: the
longest that the NOR's data sheet allows it, a second for the loader's own code, and no more.  With
which of its units a loader erases a sector nobody knows, so it is the slowest of them that counts.
An .FLM says itself how long a page and a sector may take, and gets that if it is longer.

UM2237, "Loader creation"; Open-CMSIS-Pack, "Flash Programming Algorithms"; W25Q256JV, "AC
Electrical Characteristics".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import MIB
from gdbserver.loader.file import LoaderFile

_PAGE_SECONDS = 3e-3  # 256 bytes
_ERASE_SECONDS = {4096: 0.4, 32768: 1.6, 65536: 2.0}  # by the unit that is erased
_CHIP_SECONDS = 400.0 / (32 * MIB)  # a byte
INIT_SECONDS = 10.0
_MARGIN = 1.0
_HSI_HZ = 64_000_000  # what the core runs at after a reset; few algorithms want to know


@dataclass(frozen=True, slots=True)
class Request:
    """One routine to be called."""

    routine: str
    arguments: tuple[int, ...]
    timeout: float


class Dialect(Protocol):
    """What routines to call for what shall be done.  An empty list: nothing, it is so already."""

    def start(self) -> list[Request]:
        """Before anything else; afterwards the device may be read."""
        ...

    def erase(self, sectors: Sequence[Span]) -> list[Request]:
        """Adjacent sectors."""
        ...

    def program(self, span: Span, buffer: int) -> list[Request]:
        """Whole pages, whose contents are at `buffer`."""
        ...

    def erase_all(self) -> list[Request] | None:
        """The whole device at once; None where the loader cannot."""
        ...

    def look(self) -> list[Request]:
        """Before the device is read, after it was changed."""
        ...

    def finish(self) -> list[Request]:
        """When all is done."""
        ...


def dialect(loader: LoaderFile) -> Dialect:
    return Cmsis(loader) if loader.kind == "flm" else St(loader)


class St:
    """What ST's tools say."""

    def __init__(self, loader: LoaderFile) -> None:
        self._loader = loader

    def start(self) -> list[Request]:
        return [Request("Init", (), INIT_SECONDS)]

    def erase(self, sectors: Sequence[Span]) -> list[Request]:
        seconds = sum(erase_seconds(len(sector)) for sector in sectors) + _MARGIN
        return [Request("SectorErase", (sectors[0].start, sectors[-1].start), seconds)]

    def program(self, span: Span, buffer: int) -> list[Request]:
        seconds = program_seconds(len(span))
        return [Request("Write", (span.start, len(span), buffer), seconds)]

    def erase_all(self) -> list[Request] | None:
        if "MassErase" not in self._loader.image.entries:
            return None
        return [Request("MassErase", (), _chip_seconds(self._loader))]

    def look(self) -> list[Request]:
        return []

    def finish(self) -> list[Request]:
        return []


_ERASE, _PROGRAM, _LOOK = 1, 2, 3


class Cmsis:
    """What tools say that know flash algorithms.  It remembers what Init was told last."""

    def __init__(self, loader: LoaderFile) -> None:
        self._loader = loader
        self._function = 0

    def _switch(self, function: int) -> Iterator[Request]:
        if self._function == function:
            return
        if self._function:
            yield Request("UnInit", (self._function,), INIT_SECONDS)
        if function:
            start = self._loader.region.span.start
            yield Request("Init", (start, _HSI_HZ, function), INIT_SECONDS)
        self._function = function

    def start(self) -> list[Request]:
        return list(self._switch(_LOOK))

    def erase(self, sectors: Sequence[Span]) -> list[Request]:
        slowest = self._loader.erase_seconds
        return [
            *self._switch(_ERASE),
            *(
                Request("EraseSector", (s.start,), max(slowest, erase_seconds(len(s))) + _MARGIN)
                for s in sectors
            ),
        ]

    def program(self, span: Span, buffer: int) -> list[Request]:
        page = self._loader.region.page_size
        seconds = max(self._loader.program_seconds + _MARGIN, program_seconds(page))
        return [
            *self._switch(_PROGRAM),
            *(
                Request("ProgramPage", (start, page, buffer + start - span.start), seconds)
                for start in range(span.start, span.end, page)
            ),
        ]

    def erase_all(self) -> list[Request] | None:
        if "EraseChip" not in self._loader.image.entries:
            return None
        return [*self._switch(_ERASE), Request("EraseChip", (), _chip_seconds(self._loader))]

    def look(self) -> list[Request]:
        return list(self._switch(_LOOK))

    def finish(self) -> list[Request]:
        return list(self._switch(0))


def erase_seconds(size: int) -> float:
    """The longest that a NOR may take to erase a sector of so many bytes."""
    units = [unit for unit in _ERASE_SECONDS if unit <= size] or [min(_ERASE_SECONDS)]
    return max(-(-size // unit) * _ERASE_SECONDS[unit] for unit in units)


def program_seconds(size: int) -> float:
    """The longest that a routine may take which programs so many bytes."""
    return _PAGE_SECONDS * -(-size // 256) + _MARGIN


def read_seconds(size: int) -> float:
    """A slow bus, a slow core: 50 KiB/s, and a second to spare."""
    return size / 50_000 + 1


def _chip_seconds(loader: LoaderFile) -> float:
    return _CHIP_SECONDS * len(loader.region.span) + _MARGIN
