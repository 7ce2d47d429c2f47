"""One bank's registers of the flash controller: locks, errors in words, waiting, its CRC unit.

A register set belongs to an address range, not to a die's half, so swapped banks need no care here.

RM0433, "FLASH registers", "FLASH error protections", "Cyclic redundancy check (CRC) module".
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.chip.stm32h743 import (
    BANK2,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CCR,
    FLASH_CR,
    FLASH_CR_PSIZE_SHIFT,
    FLASH_CRCCR,
    FLASH_CRCCR_BURST_SHIFT,
    FLASH_CRCDATA,
    FLASH_CRCSADD,
    FLASH_ERRORS,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_SR,
    FLASH_WORD,
    MASS_ERASE_SECONDS,
    FlashCr,
    FlashCrccr,
    FlashSr,
)
from gdbserver.errors import AccessRefused, FlashError
from gdbserver.flash.driver import Event
from gdbserver.target.access import Read, Write
from gdbserver.target.busy import Busy
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_CRC_BURSTS = tuple((code, FLASH_WORD * 4 ** (code + 1)) for code in (3, 2, 1, 0))
"""Of 256, 64, 16 and 4 flash words: the coarsest that a span has a whole number of is used."""

_ONGOING = FlashSr.BSY | FlashSr.WBNE | FlashSr.QW
NOTHING_ELSE: Iterator[None] = iter(())
"""To do while one waits."""

_MEANING = {
    FlashSr.WRPERR: "WRPERR: it is write-protected",
    FlashSr.PGSERR: "PGSERR: a write came when the controller expected none",
    FlashSr.STRBERR: "STRBERR: a byte was written twice",
    FlashSr.INCERR: "INCERR: a flash word was left before all its 32 bytes were written",
    FlashSr.OPERR: "OPERR: an operation was cut short by a reset or a power drop",
    FlashSr.RDPERR: "RDPERR: a read of a protected area (PCROP)",
    FlashSr.RDSERR: "RDSERR: a read of a secure area",
    FlashSr.SNECCERR: "SNECCERR: a bit was wrong, and corrected",
    FlashSr.DBECCERR: "DBECCERR: two bits of a flash word are wrong",
    FlashSr.CRCRDERR: "CRCRDERR: the CRC unit may not read a protected area",
}


class BankRegisters:
    """Of the bank that `region` is; `parallelism` is PSIZE."""

    def __init__(self, target: Target, region: FlashRegion, parallelism: int) -> None:
        self._target = target
        self._region = region
        self._base = FLASH + (FLASH_BANK2_OFFSET if region.span.start in BANK2 else 0)
        self._psize = parallelism << FLASH_CR_PSIZE_SHIFT
        self._longest = MASS_ERASE_SECONDS[parallelism][1]  # of all that may be under way

    @property
    def status_register(self) -> int:
        """The address of SR."""
        return self._base + FLASH_SR

    def unlock(self) -> None:
        """Wait until the bank is idle, clear old errors, unlock."""
        status = self.wait_idle(self._longest)
        if status & FlashSr.WBNE:
            raise FlashError(
                f"{self._region.name} holds a flash word that the program half wrote",
                hint="reset the chip first (monitor reset halt)",
            )
        # Keys for an open lock are a bus error, and close it until the next reset.
        locked = self._target.read_word(self._base + FLASH_CR) & FlashCr.LOCK
        keys = [FLASH_KEY1, FLASH_KEY2] if locked else []
        try:
            self._target.run(
                [
                    self._clearing(FLASH_ERRORS | FlashSr.EOP | FlashSr.CRCEND),
                    *(Write(self._base + FLASH_KEYR, [key]) for key in keys),
                    self.control_write(0),
                ]
            )
        except AccessRefused as refused:
            raise FlashError(
                f"{self._region.name} does not unlock",
                hint="the program jammed the lock with a wrong key: reset the chip",
            ) from refused

    def lock(self) -> None:
        """Wait for what is under way, lock."""
        self.wait_idle(self._longest)
        self._target.run(
            [
                self._clearing(FLASH_ERRORS | FlashSr.EOP | FlashSr.CRCEND),
                self.control_write(FlashCr.LOCK),
            ]
        )

    def status(self) -> int:
        return self._target.read_word(self.status_register)

    def control(self, what: int) -> None:
        self._target.write_word(self._base + FLASH_CR, self._psize | what)

    def control_write(self, what: int) -> Write:
        """The same, as part of a list of accesses."""
        return Write(self._base + FLASH_CR, [self._psize | what])

    def clear(self, flags: int) -> None:
        self._target.write_word(self._base + FLASH_CCR, flags)

    def _clearing(self, flags: int) -> Write:
        return Write(self._base + FLASH_CCR, [flags])

    def check(self, action: str, span: Span, status: int | None = None) -> None:
        """Raises: FlashError when the controller has flagged an error since the last look.

        `status`: what SR held after everything was done, where that is known.
        """
        if status is None:
            status = self.status()
        if not status & FLASH_ERRORS:
            return
        self.clear(FLASH_ERRORS)
        error = FlashError(f"cannot {action} {span} in {self._region.name}: {decode(status)}")
        if status & FlashSr.WRPERR:
            error.hint = "the option bytes protect it: sector protection (WPSN), PCROP or RDP"
        elif status & (FlashSr.DBECCERR | FlashSr.SNECCERR):
            error.hint = "a flash word was programmed twice, or power failed meanwhile: erase it"
        elif status & FlashSr.OPERR:
            error.hint = "load again; if it comes back: is the supply steady, or flash worn out?"
        elif status & (FlashSr.PGSERR | FlashSr.STRBERR | FlashSr.INCERR):
            error.hint = (
                "does somebody else write to this bank, such as a DMA channel of the program's? "
                "monitor reset halt, then load again"
            )
        raise error

    def wait_idle(self, longest: float) -> int:
        """Poll until nothing is executed or queued; return SR.  For when nobody may interfere."""
        deadline = self._target.deadline(2 * longest + 1)
        # QW covers BSY; BSY alone rises too late.
        while (status := self.status()) & (FlashSr.QW | FlashSr.BSY):
            if deadline.expired():
                raise self.stuck(longest)
        return status

    def when_idle(
        self, longest: float, interval: float, meanwhile: Iterator[Event | None] = NOTHING_ELSE
    ) -> Generator[Event, None, int]:
        """The same, with something else to do between two looks, or giving the link away."""
        deadline = self._target.deadline(2 * longest + 1)
        while (status := self.status()) & _ONGOING:
            if deadline.expired():
                raise self.stuck(longest)
            yield next(meanwhile, None) or Busy(interval)
        return status

    def stuck(self, longest: float) -> FlashError:
        return FlashError(
            f"{self._region.name} is still busy after {2 * longest + 1:.1f} s; "
            f"the longest that the datasheet allows is {longest:g} s",
            hint="is the supply voltage high enough for flash operations?",
        )

    def crc(self, span: Span) -> int | None:
        """The CRC unit's digest of whole bursts, or None where it does nothing.

        A sector takes half a millisecond of flash time.  Leaves the unit on, and its flag set: the
        next one clears them on the same trip.

        Raises: FlashError where it may not read, or somebody has locked the bank.
        """
        offset = span.start - self._region.span.start
        code = next(code for code, size in _CRC_BURSTS if len(span) % size == 0)
        burst = code << FLASH_CRCCR_BURST_SHIFT
        start = FlashCrccr.CLEAN_CRC | FlashCrccr.START_CRC
        try:
            self._target.run(
                [
                    self._clearing(FlashSr.CRCEND),
                    self.control_write(FlashCr.CRC_EN),
                    Write(self._base + FLASH_CRCSADD, [offset, offset + len(span) - 4]),
                    Write(self._base + FLASH_CRCCR, [burst | start]),
                ]
            )
        except AccessRefused as refused:
            log.debug("the CRC unit: %s", refused)
            self._check_unlocked()
            return None
        deadline = self._target.deadline(1.0)
        status = digest = 0
        while not status & (FlashSr.CRCEND | FlashSr.CRCRDERR):
            if deadline.expired():
                self._check_unlocked()
                return None
            (status,), (digest,) = self._target.run(
                [Read(self.status_register), Read(self._base + FLASH_CRCDATA)]
            )
        if status & FlashSr.CRCRDERR:
            raise FlashError(f"cannot compare {span}: {decode(status)}")
        return digest

    def _check_unlocked(self) -> None:
        """In a locked bank the CRC unit cannot be switched on, and a reset locks it."""
        if self._target.read_word(self._base + FLASH_CR) & FlashCr.LOCK:
            raise FlashError(
                f"{self._region.name} was locked while its contents were compared",
                hint="was the chip reset? load again",
            )

    def end_crcs(self) -> None:
        self._target.run([self._clearing(FlashSr.CRCEND), self.control_write(0)])


def decode(status: int) -> str:
    """The error flags of SR in words."""
    meanings = [text for flag, text in _MEANING.items() if status & flag]
    return "; ".join(meanings) or f"no error flag is set (FLASH_SR = {status:#010x})"
