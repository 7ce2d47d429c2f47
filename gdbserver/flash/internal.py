"""Internal flash, driven by the host through the debug port: no foreign code runs on the core.

The two banks are two devices, each with its own lock, queue and error flags (`bank_registers`).
What a bank holds is `bank_digests`'s business; decided here is the way that data takes into it.

A bank is programmed by setting PG and writing words into the mapped flash.  Eight ascending
words make a flash word of 32 bytes, which is programmed once per erase, because it has one
ECC.  The controller executes one flash word, queues one, and fills the buffer for a third;
after that it holds the bus, and the access port answers WAIT.  That is the throttle: as long as the
probe is patient there is nothing to poll.  That is how it is done beside a loader, which has the
core for itself.  In a download for internal flash alone, our own `feeder` moves words from
buffers in SRAM; erasing, looking and verifying are the same.  Over a link that is much slower than
a bank nobody ever waits, so words need not pass through SRAM, which would have to be put back:
they are streamed without a look in between, unless the feeder can unpack them.

Some probes give up.  What then matters is never to program a flash word twice, and never to
leave one half written:

1. `Target.stream` reports from the access port's TAR how many bytes were accepted.
2. Once the queue is empty (QW = 0), WBNE tells whether the buffer holds part of a flash word;
   it is completed with the words that are missing.
3. Where TAR and WBNE contradict each other, the buffer is dropped (a write to another flash
   word does that, and sets INCERR).  Flash itself is read to see what has arrived.
4. From then on the `mover` takes the wait where it can.  Else this probe gets no more than what
   executing and queueing takes: two flash words at a time.  They are done when the longest time
   that the data sheet allows has passed, which on most links the next trip takes anyway; else QW
   is polled.

RM0433, "Embedded flash memory (FLASH)"; times from DS12110, "Flash memory characteristics".
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    BANK2,
    FLASH_CR_SNB_SHIFT,
    FLASH_ERRORS,
    FLASH_PROGRAM_ERRORS,
    FLASH_WORD,
    MASS_ERASE_SECONDS,
    PROGRAM_SECONDS,
    SECTOR_ERASE_SECONDS,
    FlashCr,
    FlashSr,
)
from gdbserver.errors import (
    AccessStalled,
    FlashError,
    MdmaFailed,
    MemoryFault,
    StreamStalled,
)
from gdbserver.flash.bank_digests import BankDigests, CrcUnit
from gdbserver.flash.bank_registers import NOTHING_ELSE, BankRegisters, decode
from gdbserver.flash.diff import crc_unit
from gdbserver.flash.driver import Did, Event, putting_back
from gdbserver.flash.feeder import BUFFER, FED, Feeder, Lane
from gdbserver.flash.mover import Mover, MoverLane
from gdbserver.flash.packing import PIECE, pack
from gdbserver.flash.plan import RegionPlan, Run, SectorPlan
from gdbserver.target.busy import Busy
from gdbserver.target.port import TAR_WRAP
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_CHUNK = 16 * 1024  # streamed in one go: long enough to hide the pause between two, 50 ms
_LONG_CHUNK = 64 * 1024  # the same over a slow link, where other lanes can wait for a second
_TWO_WORDS = 2 * FLASH_WORD  # what a bank takes without holding the bus
_WORTH_FEEDING = 16 * 1024  # bytes: less is programmed while the feeder would be set up,
_WORTH_FILLING = 64 * 1024  # or, with nothing to be erased, while its buffers would be filled
_WORTH_MOVING = 1024  # bytes: less is there before the MDMA is told of it
_SAMPLE = 1024  # bytes read to see how fast the link is
_SLOW = 2.0  # times slower than a bank: it is done with one word long before the next
_PACKS = 0.9  # of its length: what is left of data that is worth packing
_TURN = 1e-6  # seconds: the other bank, if it can use the link, has its turn
_SOON = 0.001  # seconds between two looks at what is due
_LOOK = 0.004  # the same at whether another lane has done with the link
_ECC = FlashSr.SNECCERR | FlashSr.DBECCERR
_BLOCKING = FlashSr.PGSERR | FlashSr.INCERR


@dataclass
class Pace:
    """How the probe takes WAIT, and how fast it is: learned once, and then true for both banks."""

    patient: bool = True
    seconds_per_byte: float = 0.0
    """What the link takes; 0 until it was measured."""
    turn: FlashRegion | None = None
    """The bank that has a slow link, or the MDMA, for itself until it is erased again, or done."""


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
        unit: CrcUnit | None = None,
        feeder: Feeder | None = None,
        mover: Mover | None = None,
    ) -> None:
        self.region = region
        self._target = target
        self._registers = BankRegisters(target, region, parallelism)
        self._digests = BankDigests(self._registers, unit or CrcUnit(), self.read)
        self._typical_program, self._longest_program = PROGRAM_SECONDS[parallelism]
        self._seconds_per_byte = self._typical_program / FLASH_WORD
        self._erase_seconds = SECTOR_ERASE_SECONDS[parallelism]
        self._mass_erase_seconds = MASS_ERASE_SECONDS[parallelism]
        self._pace = pace or Pace()
        self._feeder = feeder
        self._mover = mover
        self._mover_lane = mover.lanes[region.span.start in BANK2] if mover else None
        self._to_come = 0
        """Sectors after the one that is being changed."""
        self._lane: Lane | None = None

    # --- Opening and closing --------------------------------------------------------------

    def __enter__(self) -> Self:
        self._registers.unlock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for what is under way, lock.  With the probe gone, there is nothing to be done."""
        try:
            with putting_back(error, f"{self.region.name} was not locked again"):
                if self._lane is not None:
                    self._lane.switch_off()
                if self._mover_lane is not None and self._mover_lane.active:
                    self._mover_lane.end()
                self._registers.lock()
        finally:
            self._give_way()

    def seconds(self, plan: RegionPlan) -> float:
        erases = sum(sector.erase for sector in plan.sectors)
        words = plan.program_bytes // FLASH_WORD
        return erases * self._erase_seconds[0] + words * self._typical_program

    # --- Erasing and programming ----------------------------------------------------------

    def change(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, None]:
        fed = self._feeder is not None and self._worth_feeding(sectors)
        for number, sector in enumerate(sectors, 1):
            self._to_come = len(sectors) - number
            yield from self._feed(sector, self._to_come) if fed else self._change(sector)
            if not sector.erase and not (yield from self._reads_back(sector)):
                log.info("%s was not quite blank: erasing it", sector.sector)
                yield from self._change(replace(sector, erase=True))
        self._give_way()

    def _worth_feeding(self, sectors: Sequence[SectorPlan]) -> bool:
        """Setting up the feeder and its buffers takes time, which an erase hides."""
        size = sum(len(run.span) for sector in sectors for run in sector.runs)
        if size < _WORTH_FEEDING:
            return False
        if not self._pace.patient:
            return True
        if self._is_link_slow():
            return _packs(sectors)
        return size >= _WORTH_FILLING or any(sector.erase for sector in sectors)

    def _is_link_slow(self) -> bool:
        return self._is_link_slower_than(_SLOW * self._seconds_per_byte)

    def _is_link_slower_than(self, seconds_per_byte: float) -> bool:
        pace = self._pace
        if not pace.seconds_per_byte:
            begun = self._target.monotonic()
            self._target.read_memory(AXI_SRAM.start, _SAMPLE)
            pace.seconds_per_byte = (self._target.monotonic() - begun) / _SAMPLE
        return pace.seconds_per_byte > seconds_per_byte

    def _change(self, sector: SectorPlan) -> Generator[Event, None, None]:
        size = sum(len(run.span) for run in sector.runs)
        filling = self._filling(sector)
        if sector.erase:
            yield from self._erase(sector.sector, filling)
        else:
            yield Busy(0)  # an erase elsewhere had better begin first
        yield from filling
        unchecked = size >= _WORTH_FEEDING and self._pace.patient and self._is_link_slow()
        for run in sector.runs:
            try:
                if self._may_move(run):
                    yield from self._move(run)
                else:
                    yield from self._stream_unchecked(run) if unchecked else self._program(run)
            except MdmaFailed as failed:
                log.info("%s; erasing %s again, and going on slowly", failed, sector.sector)
                assert self._mover is not None
                self._mover.give_up()
                yield from self._force_out()
                yield from self._change(replace(sector, erase=True))
                return
            except AccessStalled as stalled:
                log.info("%s; erasing %s again, and going on slowly", stalled, sector.sector)
                self._pace.patient = False
                yield from self._force_out()
                yield from self._change(replace(sector, erase=True))
                return

    def _feed(self, sector: SectorPlan, to_come: int) -> Generator[Event, None, None]:
        """Erase and program a sector by way of the feeder, whose buffers fill during the erase."""
        assert self._feeder is not None
        staging = self._stage(sector, to_come)
        if sector.erase:
            yield from self._erase(sector.sector, staging)
        else:
            yield Busy(0)  # an erase elsewhere had better begin first
        lane = self._opened_lane()
        lane.switch_on(self._registers.control_write(FlashCr.PG))
        for event in staging:
            if event is None:
                self._feeder.give_back()
            yield event or Busy(max(_SOON, lane.until_due()))
            if event is None or lane.is_due():
                yield from self._collect(lane, sector.sector)
        while not lane.is_empty():
            self._feeder.give_back()
            yield Busy(max(_SOON, lane.until_due()))
            yield from self._collect(lane, sector.sector)
        lane.switch_off()
        self._registers.check(
            "program", sector.sector, self._registers.wait_idle(self._longest_program)
        )

    def _stage(self, sector: SectorPlan, to_come: int) -> Iterator[Event | None]:
        """Fill the feeder's buffers with a sector; None when there is no room, and time to look."""
        assert self._feeder is not None
        size = PIECE if self._is_link_slow() else BUFFER
        lane = self._opened_lane()
        lane.wants, lane.to_come = True, to_come
        for run in sector.runs:
            for start in range(0, len(run.span), size):
                while not (room := lane.has_room()) or not self._feeder.may_stage(lane):
                    yield Busy(_LOOK) if room else None
                piece = run.part(start, start + size)
                for _ in lane.stage(piece.span, piece.data):
                    yield Busy(_TURN)
                yield Busy(_TURN)
        lane.wants = False

    def _collect(self, lane: Lane, sector: Span) -> Generator[Event, None, None]:
        """Look at what the feeder has programmed."""
        finished, trouble = lane.collect()
        for span in finished:
            yield Did("programmed", span)
        if trouble:
            self._registers.check("program", sector)
            raise FlashError(f"what is for {sector} did not arrive whole in SRAM")
        if lane.is_silent():
            raise self._registers.stuck(self._longest_program)

    def _opened_lane(self) -> Lane:
        if self._lane is None:
            assert self._feeder is not None
            self._lane = self._feeder.lane(
                self._registers.status_register,
                self._seconds_per_byte,
                self._pace.seconds_per_byte,
                packing=self._is_link_slow(),
            )
        return self._lane

    def _reads_back(self, sector: SectorPlan) -> Generator[Event, None, bool]:
        """Whether a sector that was not erased first can be read.

        A flash word that somebody programmed with ones looks blank, and cannot be programmed
        again: its ECC would be wrong, which reading finds and the CRC unit does not.
        """
        size = sum(len(run.span) for run in sector.runs)
        if self._feeder is not None and size >= _WORTH_FEEDING:
            return (yield from self._core_reads(sector.sector))
        try:
            return all(self.read(run.span) == run.data for run in sector.runs)
        except FlashError as error:
            log.debug("%s", error)
            return False

    def _core_reads(self, sector: Span) -> Generator[Event, None, bool]:
        """The same by way of the feeder: through the link it takes as long as writing it."""
        lane = self._opened_lane()
        lane.have_read(sector)
        lane.switch_on()
        deadline = self._target.deadline(FED)
        while not lane.is_empty():
            lane.collect()
            if deadline.expired():
                raise self._registers.stuck(self._longest_program)
            yield Busy(_TURN)
        lane.switch_off()
        status = self._registers.status() & _ECC
        if status:
            log.debug("%s: %s", sector, decode(status))
            self._registers.clear(status)
        return not status

    def _erase(
        self, sector: Span, meanwhile: Iterator[Event | None] = NOTHING_ELSE
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
        meanwhile: Iterator[Event | None] = NOTHING_ELSE,
    ) -> Generator[Event, None, None]:
        typical, maximum = seconds
        self._target.run(
            [
                self._registers.control_write(what),
                self._registers.control_write(what | FlashCr.START),
            ]
        )
        self._give_way()
        begun = self._target.monotonic()
        yield Busy(0)  # another erase may begin
        # A new part is often quicker than typical, a worn one slower.
        soon = begun + 0.8 * typical
        for event in meanwhile:
            if event is None or self._target.monotonic() > soon:
                break
            yield event
        yield Busy(max(0.0, soon - self._target.monotonic()))
        status = yield from self._registers.when_idle(maximum, _SOON, meanwhile)
        self._registers.check("erase", span, status)
        yield Did("erased", span)

    def _program(self, run: Run) -> Generator[Event, None, None]:
        self._registers.control(FlashCr.PG)
        done = 0
        free = 0.0  # when the bank has certainly nothing to do
        while done < len(run.data):
            patient = self._pace.patient
            part = run.part(done, done + (_CHUNK if patient else _TWO_WORDS))
            if not patient and (left := free - self._target.monotonic()) > 0:
                yield Busy(left)
                if self._target.monotonic() < free:
                    yield from self._registers.when_idle(self._longest_program, 0)
            try:
                self._target.stream(part.span.start, part.data, idle=not patient)
            except StreamStalled as stalled:
                log.info("%s; going on at the pace of the flash", stalled)
                self._pace.patient = False
                done += self._recover(part, stalled.written)
                if self._may_move(rest := run.part(done, len(run.data))):
                    yield from self._move(rest)
                    return
                continue
            done += len(part.data)
            free = self._target.monotonic() + 2 * self._longest_program
            if patient:
                yield Busy(0)
        yield from self._end(run)

    def _stream_unchecked(self, run: Run) -> Generator[Event, None, None]:
        """Program at the speed of a link that is too slow for the bank ever to have it wait.

        Raises: AccessStalled where it had, and the probe gave up: all of the run is spoilt.
        """
        # A sector of this bank, then one of the other: so the one is erased during the other.
        while self._pace.turn not in (None, self.region):
            yield Busy(_LOOK)
        self._pace.turn = self.region
        self._registers.control(FlashCr.PG)
        for start in range(0, len(run.span), _LONG_CHUNK):
            part = run.part(start, start + _LONG_CHUNK)
            self._target.rush(part.span.start, part.data)
            yield Busy(0)
        yield from self._end(run)

    def _end(self, run: Run) -> Generator[Event, None, None]:
        """See the last of a run into flash."""
        status = yield from self._registers.when_idle(self._longest_program, 0)
        self._registers.check("program", run.span, status)
        self._registers.control(0)
        yield Did("programmed", run.span)

    def _filling(self, sector: SectorPlan) -> Iterator[Event]:
        """Set up the MDMA and fill its ring, where it is of use: in an erase it takes no time."""
        if sector.runs and self._may_move(sector.runs[0]):
            lane = self._begun_lane(sector.runs[0])
            yield Busy(_TURN)
            while self._put(lane, sector.runs[0]):
                yield Busy(_TURN)

    def _may_move(self, run: Run) -> bool:
        if self._mover is None or self._pace.patient:
            return False
        worth = _WORTH_MOVING if self._mover.is_open else _WORTH_FEEDING
        slow = self._is_link_slower_than(self._seconds_per_byte)
        return len(run.data) >= worth and self._mover.open(slow=slow)

    def _begun_lane(self, run: Run) -> MoverLane:
        assert self._mover_lane is not None
        self._mover_lane.begin(run.span, self._seconds_per_byte)
        return self._mover_lane

    @staticmethod
    def _put(lane: MoverLane, run: Run) -> bool:
        """Put the next part of a run into the ring; False where there is no room, or no more."""
        start, end = lane.next()
        if start < end:
            lane.put(run.part(start, end).data)
        return start < end

    def _move(self, run: Run) -> Generator[Event, None, None]:
        """Program by way of the MDMA.

        Raises: MdmaFailed: how much of `run` is in flash is not known.
        """
        mover, lane = self._mover, self._mover_lane
        assert mover is not None
        assert lane is not None
        if lane.span != run.span:
            self._begun_lane(run)
        while not mover.alternates and self._pace.turn not in (None, self.region):
            yield Busy(_LOOK)
        if not mover.is_open:  # meanwhile the other bank has had trouble with it
            yield from self._program(run)
            return
        if not mover.alternates:
            self._pace.turn = self.region
        self._registers.control(FlashCr.PG)
        lane.active = True
        while not lane.is_done():
            if lane.until_due() <= 0:
                lane.look()
            if self._put(lane, run) or (not self._to_come and lane.give_back()):
                yield Busy(_TURN)
            else:
                yield Busy(max(_SOON, lane.until_due()))
                lane.look()
        lane.end()
        yield from self._end(run)

    def _give_way(self) -> None:
        if self._pace.turn == self.region:
            self._pace.turn = None

    def _force_out(self) -> Generator[Event, None, None]:
        """Leave nothing in the write buffer, whatever comes of it.

        RM0433, "FLASH control register for bank 1 (FLASH_CR1)": FW fills the buffer up with ones.
        """
        self._registers.wait_idle(self._longest_program)
        self._registers.control(FlashCr.PG | FlashCr.FW)
        yield from self._registers.when_idle(self._longest_program, 0)
        self._registers.clear(FLASH_ERRORS)

    def _recover(self, part: Run, written: int) -> int:
        """Bring the bank back to a flash word boundary; return how much of `part` is in flash.

        Nothing yields in here: while a flash word is half written nobody may interfere.
        """
        begun = written % FLASH_WORD
        status = self._registers.wait_idle(self._longest_program)
        agreed = bool(begun) == bool(status & FlashSr.WBNE)
        if begun and agreed:
            rest = part.part(written, written - begun + FLASH_WORD)
            self._target.stream(rest.span.start, rest.data)
            written += len(rest.data)
            status = self._registers.wait_idle(self._longest_program)
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
        status = self._registers.status()
        self._registers.clear(FLASH_PROGRAM_ERRORS)
        if status & FlashSr.WBNE or not status & FlashSr.INCERR:
            raise FlashError(
                f"a flash word near {here:#010x} in {self.region.name} stays half written"
            )

    def _first_missing(self, part: Run, first: int) -> int:
        """Where to go on: at the first flash word from offset `first` that is still blank."""
        self.refresh()
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
        return list((yield from self._digests.compare(sectors)))

    def verify(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int]]:
        return (yield from self._digests.verify(sectors))

    def refresh(self) -> None:
        self._target.forget_caches()

    def read(self, span: Span) -> bytes:
        """Raises: FlashError where ECC cannot repair a flash word."""
        self.refresh()  # a program's data cache may hold what was there before
        try:
            data = self._target.read_memory(span.start, len(span))
        except MemoryFault as fault:
            self._registers.clear(FLASH_ERRORS)
            raise FlashError(
                f"{self.region.name} cannot be read at {fault.span.start:#010x}", hint=fault.hint
            ) from fault
        self._registers.check("read", span)
        return data


def _packs(sectors: Sequence[SectorPlan]) -> bool:
    """Whether packing shortens the data, judged by the beginning of each run."""
    length = packed = 0
    for run in (run for sector in sectors for run in sector.runs):
        piece = run.part(0, PIECE).data
        length += len(piece)
        packed += len(pack(piece) or piece)
    return packed < _PACKS * length
