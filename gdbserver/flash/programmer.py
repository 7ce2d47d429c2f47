"""Carry out a download: plan, diff, and one lane per device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.flash.plan import Download

if TYPE_CHECKING:
    from gdbserver.target.target import Target


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to flash; `done` of `total` bytes of this device's lane are behind us."""

    action: Literal["compared", "erased", "programmed", "verified"]
    region: FlashRegion
    span: Span
    done: int
    total: int


@dataclass(frozen=True)
class Builtin:
    """Our own loader, for a NOR at these pins: {"CLK": "PB2", "NCS": "PB6", "IO0": ...}."""

    pins: Mapping[str, str]


LoaderSource = Path | Builtin


def builtin(pins: Mapping[str, str]) -> Builtin:
    return Builtin(pins)


class Programmer:
    """Changes flash, internal and external, as downloads ask."""

    def __init__(self, target: Target, loaders: Sequence[LoaderSource]) -> None:
        self._target = target
        self._loaders = tuple(loaders)

    def regions(self) -> tuple[FlashRegion, ...]:
        """All flash that can be programmed, in address order."""
        raise NotImplementedError

    def carry_out(self, download: Download) -> Iterator[Step]:
        """Erase, program and verify; yield after each operation."""
        raise NotImplementedError

    def mass_erase(self, which: Literal["internal", "external", "all"]) -> Iterator[Step]:
        """Erase whole devices."""
        raise NotImplementedError

    def prepare_external_reads(self) -> None:
        """Leave the NOR memory-mapped, so that it can be read like memory."""
        raise NotImplementedError

    def describe_external(self) -> str:
        """One line about the external flash: JEDEC id and size."""
        raise NotImplementedError
