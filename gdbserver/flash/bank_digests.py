"""What a bank of internal flash holds, in digests: by the flash controller's CRC unit, or read.

The unit takes half a millisecond for a sector; reading it through the link takes a tenth of a
second to two.  Whether it computes what the host computes (`crc_unit`) is not taken on trust:

1. A digest that is what the host computed, for what is to be in a sector, shows that it does: 32
   bits do not agree by chance.  That of a blank sector does not count, because a unit that does
   nothing might answer that all are.
2. Where none has agreed yet, a few flash words are read as well, before anything is erased.
3. Where a digest is wrong after programming, the sector is read back, and that decides.

A unit that does nothing, or something else, is not asked again in this session: flash is read
back instead.  What cannot be known is that contents differ where digests agree: of a unit that
answers rightly once, and then without looking, or of two images with one CRC-32.
``--verify full`` reads every byte.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import FLASH_WORD
from gdbserver.errors import FlashError
from gdbserver.flash.bank_registers import BankRegisters
from gdbserver.flash.diff import crc_unit
from gdbserver.flash.driver import Did, Event
from gdbserver.flash.plan import SectorPlan

log = logging.getLogger(__name__)

_SAMPLE = 4 * FLASH_WORD  # the shortest burst of the unit


@dataclass
class CrcUnit:
    """What a session has learned of the CRC unit, which both banks share."""

    used: bool = True
    """Until it does nothing, or not what it should."""
    proven: bool = False
    """Whether it has computed something that the host knew."""


class BankDigests:
    """Of one unlocked bank; `read` raises FlashError where ECC cannot repair what is read."""

    def __init__(
        self, registers: BankRegisters, unit: CrcUnit, read: Callable[[Span], bytes]
    ) -> None:
        self._registers = registers
        self._unit = unit
        self._read = read

    def compare(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int]]:
        """Before anything is changed."""
        found = yield from self._digest(sectors)
        if sectors and self._unit.used and not self._unit.proven:
            known = {crc_unit(s.contents()) for s in sectors if s.runs}
            self._unit.proven = not known.isdisjoint(found)
            if not self._unit.proven and not self._agrees_with_a_sample(sectors[0].sector):
                found = yield from self._digest(sectors)
        return found

    def verify(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int]]:
        """After programming."""
        found = yield from self._digest(sectors)
        if self._unit.used:
            for sector, digest in zip(sectors, found, strict=True):
                expected = crc_unit(sector.contents())
                if digest == expected:
                    self._unit.proven = True
                elif self._reads_as_planned(sector):
                    self._do_without(_wrong(sector.sector, expected, digest))
                    return (yield from self._digest(sectors))
                else:
                    break
        return found

    def _digest(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int]]:
        """Not interrupted by the other bank's lane, because both share the result register."""
        digests = []
        for plan in sectors:
            digests.append(self._digest_of(plan.sector))
            yield Did("compared", plan.sector)
        if sectors and self._unit.used:
            self._registers.end_crcs()
        return digests

    def _digest_of(self, sector: Span) -> int:
        if self._unit.used:
            digest = self._registers.crc(sector)
            if digest is not None:
                return digest
            self._do_without("does nothing")
        return crc_unit(self._read(sector))

    def _agrees_with_a_sample(self, sector: Span) -> bool:
        """Whether the unit computes for a few flash words what the host makes of them."""
        sample = Span.of(sector.start, _SAMPLE)
        try:
            expected = crc_unit(self._read(sample))
        except FlashError as error:
            log.debug("no sample: %s", error)
            return True  # as far as is known; the sector will be verified
        digest = self._registers.crc(sample)
        self._registers.end_crcs()
        self._unit.proven = digest == expected
        if not self._unit.proven:
            self._do_without(_wrong(sample, expected, digest))
        return self._unit.proven

    def _reads_as_planned(self, sector: SectorPlan) -> bool:
        try:
            return self._read(sector.sector) == sector.contents()
        except FlashError as error:
            log.debug("%s", error)
            return False

    def _do_without(self, why: str) -> None:
        self._unit.used = False
        self._registers.end_crcs()
        log.warning(
            "the flash controller's CRC unit %s: flash is read back instead, which takes longer",
            why,
        )


def _wrong(span: Span, expected: int, found: int | None) -> str:
    answer = "nothing" if found is None else f"{found:#010x}"
    return f"computes {answer} for {span}, where AN5507 says {expected:#010x}"
