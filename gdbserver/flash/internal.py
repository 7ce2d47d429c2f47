"""Internal flash, driven by the host through the debug port: no foreign code runs on the core.

The two banks are two devices, each with its own lock, queue and error flags; a register set
belongs to an address range, not to a die's half, so swapped banks need no care here.

A bank is programmed by setting PG and writing words into the mapped flash.  Eight ascending
words make a flash word of 32 bytes, which is programmed once per erase, because it has one
ECC.  The controller executes one flash word, queues one, and fills the buffer for a third;
after that it holds the bus, and the access port answers WAIT.  That is the throttle: as long as the
probe is patient there is nothing to poll.  That is how it is done beside a loader, which has the
core for itself.  In a download for internal flash alone, our own `feeder` moves words from
buffers in SRAM; erasing, looking and verifying are the same.

Some probes give up.  What then matters is never to program a flash word twice, and never to
leave one half written:

1. `Target.stream` reports from the access port's TAR how many bytes were accepted.
2. Once the queue is empty (QW = 0), WBNE tells whether the buffer holds part of a flash word;
   it is completed with the words that are missing.
3. Where TAR and WBNE contradict each other, the buffer is dropped (a write to another flash
   word does that, and sets INCERR).  Flash itself is read to see what has arrived.
4. From then on this probe gets no more than what executing and queueing takes: two flash
   words at a time, with QW polled between.

RM0433, "Embedded flash memory (FLASH)"; times from DS12110, "Flash memory characteristics".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.chip.stm32h743 import (
    BANK2,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CCR,
    FLASH_CR,
    FLASH_CR_PSIZE_SHIFT,
    FLASH_CR_SNB_SHIFT,
    FLASH_CRCCR,
    FLASH_CRCCR_BURST_SHIFT,
    FLASH_CRCDATA,
    FLASH_CRCSADD,
    FLASH_ERRORS,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_PROGRAM_ERRORS,
    FLASH_SR,
    FLASH_WORD,
    MASS_ERASE_SECONDS,
    PROGRAM_SECONDS,
    SECTOR_ERASE_SECONDS,
    FlashCr,
    FlashCrccr,
    FlashSr,
)
from gdbserver.errors import FlashError, MemoryFault, ProbeError, StreamStalled, TargetError
from gdbserver.flash.diff import crc_unit
from gdbserver.flash.driver import Did, Event
from gdbserver.flash.feeder import BUFFER, Feeder, Lane
from gdbserver.flash.plan import RegionPlan, Run, SectorPlan
from gdbserver.loader.call_queue import Busy
from gdbserver.target.link import TAR_WRAP, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_CHUNK = 16 * 1024  # streamed in one go: long enough to hide the pause between two, 50 ms
_TWO_WORDS = 2 * FLASH_WORD  # what a bank takes without holding the bus
_CRC_BURST = 3  # 256 flash words, 8 KiB: the coarsest, and still a part of a sector
_ONGOING = FlashSr.BSY | FlashSr.WBNE | FlashSr.QW
_WORTH_FEEDING = 16 * 1024  # bytes: less is programmed while the feeder would be set up,
_WORTH_FILLING = 64 * 1024  # or, with nothing to be erased, while its buffers would be filled
_FED = 2.0  # seconds for a buffer: seven times the worst case of x8
_TURN = 1e-6  # seconds: the other bank, if it can use the link, has its turn
_LOOK = 0.004  # seconds between two looks at what the feeder does
_NOTHING: Iterator[Event] = iter(())
_BLOCKING = FlashSr.PGSERR | FlashSr.INCERR

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


@dataclass
class Pace:
    """How the probe takes WAIT: learned once, and then true for both banks."""

    patient: bool = True


class InternalBank:
    """One bank, unlocked for as long as its ``with`` block lasts.

    `parallelism` is PSIZE: 3 (x64) needs a supply of at least 1.8 V, which is the least that
    the datasheet allows at all; 2 (x32) takes a third longer.
    """

    def __init__(
        self,
        target: Target,
        region: FlashRegion,
        *,
        parallelism: int = 3,
        pace: Pace | None = None,
        feeder: Feeder | None = None,
    ) -> None:
        self.region = region
        self._target = target
        self._psize = parallelism << FLASH_CR_PSIZE_SHIFT
        self._program_seconds = PROGRAM_SECONDS[parallelism]
        self._erase_seconds = SECTOR_ERASE_SECONDS[parallelism]
        self._mass_erase_seconds = MASS_ERASE_SECONDS[parallelism]
        self._pace = pace or Pace()
        self._feeder = feeder
        self._lane: Lane | None = None
        self._registers = FLASH + (FLASH_BANK2_OFFSET if region.span.start in BANK2 else 0)

    # --- Opening and closing --------------------------------------------------------------

    def __enter__(self) -> Self:
        """Wait until the bank is idle, clear old errors, unlock."""
        status = self._wait_idle(self._mass_erase_seconds[1])
        if status & FlashSr.WBNE:
            raise FlashError(
                f"{self.region.name} holds a flash word that the program half wrote",
                hint="reset the chip first (monitor reset halt)",
            )
        self._clear(FLASH_ERRORS | FlashSr.EOP | FlashSr.CRCEND)
        # Keys for an open lock are a bus error, and close it until the next reset.
        if self._read(FLASH_CR) & FlashCr.LOCK:
            try:
                self._write(FLASH_KEYR, FLASH_KEY1)
                self._write(FLASH_KEYR, FLASH_KEY2)
            except MemoryFault as fault:
                raise FlashError(
                    f"{self.region.name} does not unlock",
                    hint="the program jammed the lock with a wrong key: reset the chip",
                ) from fault
        self._control(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for what is under way, lock.  With the probe gone, there is nothing to be done."""
        try:
            if self._lane is not None:
                self._lane.switch_off()
            self._wait_idle(self._mass_erase_seconds[1])
            self._clear(FLASH_ERRORS | FlashSr.EOP | FlashSr.CRCEND)
            self._control(FlashCr.LOCK)
        except (ProbeError, TargetError, FlashError) as failure:
            if error is None:
                raise
            log.warning("%s was not locked again: %s", self.region.name, failure)

    def seconds(self, plan: RegionPlan) -> float:
        erases = sum(sector.erase for sector in plan.sectors)
        words = plan.program_bytes // FLASH_WORD
        return erases * self._erase_seconds[0] + words * self._program_seconds[0]

    # --- Erasing and programming ----------------------------------------------------------

    def change(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, None]:
        fed = self._feeder is not None and self._worth_feeding(sectors)
        for sector in sectors:
            last = sector is sectors[-1]
            yield from self._feed(sector, last=last) if fed else self._change(sector)
            if not sector.erase and not self._reads_back(sector):
                log.info("%s was not quite blank: erasing it", sector.sector)
                yield from self._change(replace(sector, erase=True))

    def _worth_feeding(self, sectors: Sequence[SectorPlan]) -> bool:
        """Setting up the feeder and its buffers takes time, which an erase hides."""
        size = sum(len(run.data) for sector in sectors for run in sector.runs)
        hidden = any(sector.erase for sector in sectors)
        return size >= (_WORTH_FEEDING if hidden or not self._pace.patient else _WORTH_FILLING)

    def _change(self, sector: SectorPlan) -> Generator[Event, None, None]:
        if sector.erase:
            yield from self._erase(sector.sector)
        else:
            yield Busy(0)  # an erase elsewhere had better begin first
        for run in sector.runs:
            yield from self._program(run)

    def _feed(self, sector: SectorPlan, *, last: bool) -> Generator[Event, None, None]:
        """Erase and program a sector by way of the feeder, whose buffers fill during the erase."""
        pieces = deque(
            run.part(start, start + BUFFER)
            for run in sector.runs
            for start in range(0, len(run.data), BUFFER)
        )
        if sector.erase:
            yield from self._erase(sector.sector, self._stage(pieces))
        else:
            yield Busy(0)  # an erase elsewhere had better begin first
        lane = self._opened_lane()
        assert self._feeder is not None
        self._control(FlashCr.PG)
        lane.switch_on()
        deadline = self._target.deadline(_FED)
        while pieces or not lane.is_empty():
            lane.wants = bool(pieces)
            if self._feeder.may_stage(lane):
                yield from self._stage(pieces)
            finished, trouble = lane.collect()
            if finished or lane.is_empty():
                deadline = self._target.deadline(_FED)
            for span in finished:
                yield Did("programmed", span)
            if trouble:
                self._check("program", sector.sector)
                raise FlashError(f"what is for {sector.sector} did not arrive whole in SRAM")
            if deadline.expired():
                raise self._stuck(self._program_seconds[1])
            if last and not pieces and self._feeder.may_stage(lane):
                lane.give_back()
            yield Busy(0 if finished else _LOOK)
        lane.wants = False
        lane.switch_off()
        yield from self._when_idle(self._program_seconds[1], 0)
        self._check("program", sector.sector)
        self._control(0)
        while last and lane.give_back():
            yield Busy(_TURN)

    def _stage(self, pieces: deque[Run]) -> Generator[Event, None, None]:
        """Fill the feeder's buffers, as long as there are any."""
        lane = self._opened_lane()
        assert self._feeder is not None
        while pieces and lane.has_room():
            if self._feeder.may_stage(lane):
                piece = pieces.popleft()
                lane.stage(piece.span, piece.data)
                yield Busy(_TURN)
            else:
                yield Busy(_LOOK)

    def _opened_lane(self) -> Lane:
        if self._lane is None:
            assert self._feeder is not None
            status = self._registers + FLASH_SR
            self._lane = self._feeder.lane(status, self._program_seconds[0])
        return self._lane

    def _reads_back(self, sector: SectorPlan) -> bool:
        """Whether a sector that was not erased first holds what was programmed into it.

        A flash word that somebody programmed with ones looks blank, and cannot be programmed
        again: its ECC would be wrong, which reading finds and the CRC unit does not.
        """
        try:
            return all(self.read(run.span) == run.data for run in sector.runs)
        except FlashError as error:
            log.debug("%s", error)
            return False

    def _erase(
        self, sector: Span, meanwhile: Iterator[Event] = _NOTHING
    ) -> Generator[Event, None, None]:
        number = (sector.start - self.region.span.start) // len(sector)
        what = FlashCr.SER | number << FLASH_CR_SNB_SHIFT
        yield from self._run_erase(what, sector, self._erase_seconds, meanwhile)

    def erase_all(self) -> Generator[Event, None, None]:
        yield from self._run_erase(FlashCr.BER, self.region.span, self._mass_erase_seconds)

    def _run_erase(
        self,
        what: int,
        span: Span,
        seconds: tuple[float, float],
        meanwhile: Iterator[Event] = _NOTHING,
    ) -> Generator[Event, None, None]:
        typical, maximum = seconds
        self._control(what)
        self._control(what | FlashCr.START)
        begun = self._target.monotonic()
        yield Busy(0)  # another erase may begin
        # A new part is often quicker than typical, a worn one slower.
        soon = begun + 0.8 * typical
        for event in meanwhile:
            yield event
            if self._target.monotonic() > soon:
                break
        yield Busy(max(0.0, soon - self._target.monotonic()))
        yield from self._when_idle(maximum, typical / 500, meanwhile)
        self._check("erase", span)
        self._control(0)
        yield Did("erased", span)

    def _program(self, run: Run) -> Generator[Event, None, None]:
        self._control(FlashCr.PG)
        done = 0
        while done < len(run.data):
            size = _CHUNK if self._pace.patient else _TWO_WORDS
            part = run.part(done, done + size)
            try:
                self._target.stream(part.span.start, part.data)
            except StreamStalled as stalled:
                log.info("%s; going on at the pace of the flash", stalled)
                self._pace.patient = False
                done += self._recover(part, stalled.written)
                continue
            done += len(part.data)
            yield Busy(0 if self._pace.patient else 2 * self._program_seconds[0])
            if not self._pace.patient:
                yield from self._when_idle(self._program_seconds[1], 0)
        yield from self._when_idle(self._program_seconds[1], 0)
        self._check("program", run.span)
        self._control(0)
        yield Did("programmed", run.span)

    def _recover(self, part: Run, written: int) -> int:
        """Bring the bank back to a flash word boundary; return how much of `part` is in flash.

        Nothing yields in here: while a flash word is half written nobody may interfere.
        """
        begun = written % FLASH_WORD
        status = self._wait_idle(self._program_seconds[1])
        agreed = bool(begun) == bool(status & FlashSr.WBNE)
        if begun and agreed:
            rest = part.part(written, written - begun + FLASH_WORD)
            self._target.stream(rest.span.start, rest.data)
            written += len(rest.data)
            status = self._wait_idle(self._program_seconds[1])
            agreed = not status & (FlashSr.WBNE | _BLOCKING)
        # TAR may have come round, so what it says is looked up in flash: from a KiB before.
        first = max(0, (written - TAR_WRAP) // FLASH_WORD * FLASH_WORD)
        if not agreed:
            log.info("TAR and WBNE disagree at %#010x", part.span.start + written)
            if status & FlashSr.WBNE:
                self._drop_buffer(part, max(0, written - begun - FLASH_WORD))
        return self._first_missing(part, first)

    def _drop_buffer(self, part: Run, near: int) -> None:
        """Have the controller forget a half-filled buffer: write to another flash word.

        The buffer can only be that of a flash word near `near`, so one at the far side of the
        sector is another; the write itself is dropped too.
        """
        sector = self.region.sector_at(part.span.start)
        here = part.span.start + near
        middle = (sector.start + sector.end) // 2
        other = sector.start if here >= middle else sector.end - FLASH_WORD
        self._target.write_word(other, 0xFFFFFFFF)
        status = self._read(FLASH_SR)
        self._clear(FLASH_PROGRAM_ERRORS)
        if status & FlashSr.WBNE or not status & FlashSr.INCERR:
            raise FlashError(
                f"a flash word near {here:#010x} in {self.region.name} stays half written"
            )

    def _first_missing(self, part: Run, first: int) -> int:
        """Where to go on: at the first flash word from offset `first` that is still blank."""
        blank = bytes([self.region.erased]) * FLASH_WORD
        for offset in range(first, len(part.data), FLASH_WORD):
            word = part.part(offset, offset + FLASH_WORD)
            found = self._target.read_memory(word.span.start, len(word.data))
            if found == blank:
                return offset
            if found != word.data:
                raise FlashError(f"flash word {word.span} was programmed with something else")
        return len(part.data)

    # --- Looking --------------------------------------------------------------------------

    @staticmethod
    def digest_of(data: bytes) -> int:
        return crc_unit(data)

    def compare(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int | None]]:
        return list((yield from self.digest([s.sector for s in sectors])))

    def digest(self, sectors: Sequence[Span]) -> Generator[Event, None, list[int]]:
        """CRCs by the controller's own unit: half a millisecond of flash time per sector.

        Not interrupted by the other bank's lane, because both share the result register.
        """
        digests = []
        for sector in sectors:
            digests.append(self._crc(sector))
            yield Did("compared", sector)
        return digests

    def _crc(self, span: Span) -> int:
        offset = span.start - self.region.span.start
        burst = _CRC_BURST << FLASH_CRCCR_BURST_SHIFT
        start = FlashCrccr.CLEAN_CRC | FlashCrccr.START_CRC
        self._target.run(
            [
                Write(self._registers + FLASH_CR, [self._psize | FlashCr.CRC_EN]),
                Write(self._registers + FLASH_CRCSADD, [offset, offset + len(span) - 4]),
                Write(self._registers + FLASH_CRCCR, [burst | start]),
            ]
        )
        deadline = self._target.deadline(1.0)
        while not (status := self._read(FLASH_SR)) & (FlashSr.CRCEND | FlashSr.CRCRDERR):
            if deadline.expired():
                raise FlashError(f"the CRC unit does not finish with {span}")
        if status & FlashSr.CRCRDERR:
            raise FlashError(f"cannot compare {span}: {_decode(status)}")
        digest = self._read(FLASH_CRCDATA)
        self._clear(FlashSr.CRCEND)
        self._control(0)
        return digest

    def refresh(self) -> None:
        self._target.forget_caches()

    def read(self, span: Span) -> bytes:
        """Raises: FlashError where ECC cannot repair a flash word."""
        try:
            data = self._target.read_memory(span.start, len(span))
        except MemoryFault as fault:
            self._clear(FLASH_ERRORS)
            raise FlashError(
                f"{self.region.name} cannot be read at {fault.span.start:#010x}", hint=fault.hint
            ) from fault
        self._check("read", span)
        return data

    # --- Registers ------------------------------------------------------------------------

    def _read(self, register: int) -> int:
        return self._target.read_word(self._registers + register)

    def _write(self, register: int, value: int) -> None:
        self._target.write_word(self._registers + register, value)

    def _control(self, what: int) -> None:
        self._write(FLASH_CR, self._psize | what)

    def _clear(self, flags: int) -> None:
        self._write(FLASH_CCR, flags)

    def _check(self, action: str, span: Span) -> None:
        """Raises: FlashError when the controller has flagged an error since the last look."""
        status = self._read(FLASH_SR)
        if not status & (FLASH_ERRORS):
            return
        self._clear(FLASH_ERRORS)
        error = FlashError(f"cannot {action} {span} in {self.region.name}: {_decode(status)}")
        if status & FlashSr.WRPERR:
            error.hint = "the option bytes protect it: sector protection (WPSN), PCROP or RDP"
        elif status & (FlashSr.DBECCERR | FlashSr.SNECCERR):
            error.hint = "a flash word was programmed twice, or power failed meanwhile: erase it"
        raise error

    def _wait_idle(self, longest: float) -> int:
        """Poll until nothing is executed or queued; return SR.  For when nobody may interfere."""
        deadline = self._target.deadline(2 * longest + 1)
        # QW covers BSY; BSY alone rises too late.
        while (status := self._read(FLASH_SR)) & (FlashSr.QW | FlashSr.BSY):
            if deadline.expired():
                raise self._stuck(longest)
        return status

    def _when_idle(
        self, longest: float, interval: float, meanwhile: Iterator[Event] = _NOTHING
    ) -> Generator[Event, None, None]:
        """The same, with something else to do between two looks, or giving the link away."""
        deadline = self._target.deadline(2 * longest + 1)
        while self._read(FLASH_SR) & _ONGOING:
            if deadline.expired():
                raise self._stuck(longest)
            yield next(meanwhile, Busy(interval))

    def _stuck(self, longest: float) -> FlashError:
        return FlashError(
            f"{self.region.name} is still busy after {2 * longest + 1:.1f} s; "
            f"the longest that the datasheet allows is {longest:g} s",
            hint="is the supply voltage high enough for flash operations?",
        )


def _decode(status: int) -> str:
    """The error flags of SR in words."""
    meanings = [text for flag, text in _MEANING.items() if status & flag]
    return "; ".join(meanings) or f"no error flag is set (FLASH_SR = {status:#010x})"
