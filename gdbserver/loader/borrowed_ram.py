"""RAM for a while: it has a clock, is read as it is, and in the end holds what it held before.

RM0433, "RCC AHB2 clock enable register (RCC_AHB2ENR)"; ES0392, "Reading from AXI SRAM may lead to
data read corruption".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AHB2_SRAM,
    AXI_READ_ISS_OVERRIDE,
    AXI_SRAM_FN_MOD,
    AXI_SRAM_MISREAD_BY,
    RCC_AHB2ENR,
)
from gdbserver.errors import AccessStalled, MemoryFault, TargetError
from gdbserver.target.core import RESET_TIMEOUT
from gdbserver.target.target import Target

log = logging.getLogger(__name__)


class BorrowedRam:
    """RAM that is used for a while and then holds again what it held before.

    GDB writes the sections of a program that live in RAM before the flash ones, so that by
    the time a loader runs they are there already.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._before: dict[int, bytes] = {}
        self._seconds = self._bytes = 0.0

    def __enter__(self) -> Self:
        return self

    def borrow(self, span: Span) -> None:
        begun = self._target.monotonic()
        self._before[span.start] = self._target.read_memory(span.start, len(span))
        self._seconds += self._target.monotonic() - begun
        self._bytes += len(span)

    def borrow_known(self, start: int, contents: bytes) -> None:
        """Borrow RAM of which it is known what it holds."""
        self._before[start] = contents

    def forget(self, start: int) -> None:
        """What was borrowed from `start` on is there again already."""
        del self._before[start]

    @property
    def seconds_per_byte(self) -> float:
        """What the link took so far to read what was borrowed."""
        return self._seconds / self._bytes

    def cut(self, start: int, size: int) -> None:
        """Let what was borrowed from `start` on be given back in pieces of `size` bytes."""
        data = self._before.pop(start)
        for offset in range(0, len(data), size):
            self._before[start + offset] = data[offset : offset + size]

    def give_back(self, start: int) -> None:
        """Restore what was borrowed from `start` on."""
        self._target.write_memory(start, self._before[start])
        del self._before[start]

    def __exit__(self, *_: object) -> None:
        """Restore all that can be; a chip in reset, or a bus that is busy, has a while to pass."""
        deadline = self._target.deadline(RESET_TIMEOUT)
        failure: TargetError | None = None
        while self._before:
            start = next(iter(self._before))
            try:
                self.give_back(start)
            except (MemoryFault, AccessStalled) as error:
                if deadline.expired():
                    failure = failure or error
                    del self._before[start]
        if failure is not None:
            raise failure


@contextmanager
def clocked(target: Target, memory: Sequence[Span]) -> Iterator[None]:
    """With a clock for the SRAMs of the D2 domain that `memory` lies in: a reset stops them."""
    needed = sum(bit for ram, bit in AHB2_SRAM.items() if any(len(ram & span) for span in memory))
    enabled = target.read_word(RCC_AHB2ENR) if needed else 0
    if enabled & needed == needed:
        yield
        return
    target.write_word(RCC_AHB2ENR, enabled | needed)
    try:
        yield
    finally:
        target.write_word(RCC_AHB2ENR, target.read_word(RCC_AHB2ENR) & ~needed | enabled)


@contextmanager
def read_reliably(target: Target) -> Iterator[None]:
    """Keep early silicon from reading wrong data, or code, out of AXI SRAM.

    ES0392, "Reading from AXI SRAM may lead to data read corruption".  Programs that need it do the
    same when they start, but a chip that was reset has not come so far.
    """
    before = None
    if target.chip.revision in AXI_SRAM_MISREAD_BY:
        try:
            before = target.read_word(AXI_SRAM_FN_MOD)
            target.write_word(AXI_SRAM_FN_MOD, before | AXI_READ_ISS_OVERRIDE)
        except MemoryFault as fault:  # most of what this would prevent never happens
            log.warning("AXI SRAM may be read wrongly (ES0392): %s", fault)
    try:
        yield
    finally:
        if before is not None:
            target.write_word(AXI_SRAM_FN_MOD, before)
