"""One bank of the flash memory: its cells, its write buffer, its queue, its registers.

RM0433, "Embedded flash memory (FLASH)"; times from DS12110, "Flash memory characteristics".

A bank programs flash words of 32 bytes.  Writes collect in a buffer (WBNE); the one that
completes the flash word moves it to the queue (QW), where one operation is executed (BSY)
while another may wait.  A write that finds the queue full holds the bus, and so does a read
before the queue is empty.

Rule 1: what the manual calls an error sets its flag and drops the data; only key violations
and unreadable data are bus errors.
Rule 2: contents change when an operation ends, or is cut short by a reset.

Where the manual is silent:

- BSY rises `BSY_DELAY` after QW.  Software that waits for BSY = 0 can therefore be too early,
  which the manual warns of; it should wait for QW = 0.
- Operations are executed in the order in which they were asked for.
- A bank erase takes as long as a mass erase, which does both banks at once.
- The CRC unit goes on from the result that is there, and takes LATENCY + 1 cycles of the AXI
  clock for each flash word.
- Fetching is not told from reading, so code in a PCROP or secure area cannot run.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    FLASH_BANK2_OFFSET,
    FLASH_CCR,
    FLASH_CR,
    FLASH_CRCCR,
    FLASH_CRCEADD,
    FLASH_CRCSADD,
    FLASH_ECC_FA,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_PRAR_CUR,
    FLASH_PRAR_PRG,
    FLASH_SCAR_CUR,
    FLASH_SCAR_PRG,
    FLASH_SR,
    FLASH_WORD,
    FLASH_WPSN_CUR,
    FLASH_WPSN_PRG,
    MASS_ERASE_SECONDS,
    PROGRAM_SECONDS,
    SECTOR,
    SECTOR_ERASE_SECONDS,
    FlashCr,
    FlashSr,
)
from gdbserver.sim.bus import BusError, BusStall, Direct, Master
from gdbserver.sim.clock import SECOND, Clock, Event, Timing
from gdbserver.sim.flash_cells import FlashCells
from gdbserver.sim.flash_crc import crc
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    Unmodelled,
    on_read,
    on_write,
)

log = logging.getLogger(__name__)

BSY_DELAY = 100  # ns from QW to BSY; not published

_NO_AREA = 0x000000FF  # PRAR and SCAR: an area that ends before it starts
_NO_PROTECTION = 0xFF

# Plain numbers, because operators of IntFlag are slow, and these are used for every word that
# is programmed and for every poll.
_PG = int(FlashCr.PG)
_EOPIE = int(FlashCr.EOPIE)
_BSY, _WBNE, _QW, _CRC_BUSY = map(int, (FlashSr.BSY, FlashSr.WBNE, FlashSr.QW, FlashSr.CRC_BUSY))
_BLOCKING = int(FlashSr.INCERR | FlashSr.PGSERR)
_ECC_ERRORS = int(FlashSr.SNECCERR | FlashSr.DBECCERR)
FLAGS = 0x1FEF0000  # SR: what has an enable bit in CR at the same place, and is cleared by CCR
_QUEUE = 2  # operations of a bank: one executed, one waiting
_FULL = (1 << FLASH_WORD) - 1


class Controller(Protocol):
    """What a bank shares with the other, and asks the controller for."""

    timing: Timing
    erases: Counter[int]
    programs: Counter[int]
    crc_result: int
    rdp_level: int
    secure: bool

    @property
    def latency(self) -> int: ...
    @property
    def axi_hz(self) -> int: ...
    @property
    def crc_busy(self) -> bool: ...
    def base(self, bank: FlashBank) -> int: ...
    def revoke(self, bank: FlashBank) -> None: ...
    def changing(self, bank: FlashBank) -> None: ...
    def rdp_denied(self) -> bool: ...
    def update_irq(self) -> None: ...


class KeyLock:
    """LOCK or OPTLOCK: two keys in a row open it; anything else jams it until reset."""

    def __init__(self, first: int, second: int) -> None:
        self._keys = (first, second)
        self._given: int = 0
        self.reset()

    def reset(self) -> None:
        self.locked, self._given, self._jammed = True, 0, False

    def close(self) -> None:
        self.locked, self._given = True, 0

    @property
    def half_open(self) -> bool:
        return self._given == 1

    def give(self, key: int) -> None:
        """Raises: `BusError` for a key that is wrong, or that the lock does not expect."""
        if self._jammed or not self.locked or key != self._keys[self._given]:
            self.jam()
        self._given += 1
        if self._given == len(self._keys):
            self.locked, self._given = False, 0

    def jam(self) -> None:
        """Lock up until the next reset, with a bus error."""
        self.locked, self._given, self._jammed = True, 0, True
        raise BusError("write")


@dataclass(slots=True)
class Operation:
    """Something in the queue of a bank: to be done at its end, or cut short."""

    duration: int
    finish: Callable[[], None]
    interrupt: Callable[[], None]


def _area(name: str) -> BitStruct:
    """PRAR and SCAR: an area of a bank, in units of 256 bytes, both ends inclusive."""
    return BitStruct(
        name / Flag,
        Padding(3),
        "END" / BitsInteger(12),
        Padding(4),
        "START" / BitsInteger(12),
    )


_WPSN = BitStruct(Padding(24), "WRPSN" / BitsInteger(8))


class FlashBank(Peripheral):
    """One bank: its cells, its write buffer and queue, and the registers that are its own."""

    size = FLASH_BANK2_OFFSET

    KEYR = Register(FLASH_KEYR, BitStruct("KEYR" / BitsInteger(32)), writable=0)
    CR = Register(
        FLASH_CR,
        BitStruct(
            Padding(3),
            "CRCRDERRIE" / Flag,
            "CRCENDIE" / Flag,
            "DBECCERRIE" / Flag,
            "SNECCERRIE" / Flag,
            "RDSERRIE" / Flag,
            "RDPERRIE" / Flag,
            "OPERRIE" / Flag,
            "INCERRIE" / Flag,
            Padding(1),
            "STRBERRIE" / Flag,
            "PGSERRIE" / Flag,
            "WRPERRIE" / Flag,
            "EOPIE" / Flag,
            "CRC_EN" / Flag,
            Unmodelled("SPSS2"),
            Padding(3),
            "SNB" / BitsInteger(3),
            "START" / Flag,
            "FW" / Flag,
            "PSIZE" / BitsInteger(2),
            "BER" / Flag,
            "SER" / Flag,
            "PG" / Flag,
            "LOCK" / Flag,
        ),
        reset=0x00000031,
    )
    SR = Register(
        FLASH_SR,
        BitStruct(
            Padding(3),
            "CRCRDERR" / Flag,
            "CRCEND" / Flag,
            "DBECCERR" / Flag,
            "SNECCERR" / Flag,
            "RDSERR" / Flag,
            "RDPERR" / Flag,
            "OPERR" / Flag,
            "INCERR" / Flag,
            Padding(1),
            "STRBERR" / Flag,
            "PGSERR" / Flag,
            "WRPERR" / Flag,
            "EOP" / Flag,
            Padding(12),
            "CRC_BUSY" / Flag,
            "QW" / Flag,
            "WBNE" / Flag,
            "BSY" / Flag,
        ),
        writable=0,
    )
    CCR = Register(
        FLASH_CCR,
        BitStruct(
            Padding(3),
            "CLR_CRCRDERR" / Flag,
            "CLR_CRCEND" / Flag,
            "CLR_DBECCERR" / Flag,
            "CLR_SNECCERR" / Flag,
            "CLR_RDSERR" / Flag,
            "CLR_RDPERR" / Flag,
            "CLR_OPERR" / Flag,
            "CLR_INCERR" / Flag,
            Padding(1),
            "CLR_STRBERR" / Flag,
            "CLR_PGSERR" / Flag,
            "CLR_WRPERR" / Flag,
            "CLR_EOP" / Flag,
            Padding(16),
        ),
    )
    PRAR_CUR = Register(FLASH_PRAR_CUR, _area("DMEP"), reset=_NO_AREA, writable=0)
    PRAR_PRG = Register(FLASH_PRAR_PRG, _area("DMEP"), reset=_NO_AREA)
    SCAR_CUR = Register(FLASH_SCAR_CUR, _area("DMES"), reset=_NO_AREA, writable=0)
    SCAR_PRG = Register(FLASH_SCAR_PRG, _area("DMES"), reset=_NO_AREA)
    WPSN_CUR = Register(FLASH_WPSN_CUR, _WPSN, reset=_NO_PROTECTION, writable=0)
    WPSN_PRG = Register(FLASH_WPSN_PRG, _WPSN, reset=_NO_PROTECTION)
    CRCCR = Register(
        FLASH_CRCCR,
        BitStruct(
            Padding(9),
            "ALL_BANK" / Flag,
            "CRC_BURST" / BitsInteger(2),
            Padding(2),
            "CLEAN_CRC" / Flag,
            "START_CRC" / Flag,
            Padding(5),
            "CLEAN_SECT" / Flag,
            "ADD_SECT" / Flag,
            "CRC_BY_SECT" / Flag,
            Padding(5),
            "CRC_SECT" / BitsInteger(3),
        ),
        reset=0x001C0000,
    )
    CRCSADD = Register(
        FLASH_CRCSADD, BitStruct(Padding(12), "CRC_START_ADDR" / BitsInteger(18), Padding(2))
    )
    CRCEADD = Register(
        FLASH_CRCEADD, BitStruct(Padding(12), "CRC_END_ADDR" / BitsInteger(18), Padding(2))
    )
    ECC_FA = Register(
        FLASH_ECC_FA, BitStruct(Padding(17), "FAIL_ECC_ADDR" / BitsInteger(15)), writable=0
    )

    def __init__(self, number: int, size: int, clock: Clock, controller: Controller) -> None:
        self._controller = controller
        self.cells = FlashCells(size)
        self.lock = KeyLock(FLASH_KEY1, FLASH_KEY2)
        self.lent = False  # whether somebody was told that the cells are plain memory
        self.withheld = False  # whether somebody was told that they are not, for now
        self._clock = clock
        self._crc_end: Event | None = None
        self._queue: deque[Operation] = deque()
        self._ending: Event | None = None
        self._crc_sectors: set[int] = set()
        self._open = True  # no option byte protects anything in this bank
        self._clear_queue()
        super().__init__(f"FLASH bank {number}")

    def _clear_queue(self) -> None:
        self._queue.clear()
        self._begun = self._idle_at = 0
        self._drop_buffer()

    def _drop_buffer(self) -> None:
        self._buffer = bytearray(b"\xff" * FLASH_WORD)
        self._filled = 0  # a bit for each byte of the buffer
        self._filling = -1  # offset of the flash word that the buffer is for
        self._writer: Master | None = None

    def reset(self) -> None:
        """A system reset.  An operation in progress is cut short: OPERR tells of it."""
        interrupted = bool(self._queue)
        if interrupted:
            self._queue[0].interrupt()
        for event in (self._ending, self._crc_end):
            if event is not None:
                event.cancel()
        self._ending = self._crc_end = None
        self._clear_queue()
        self._crc_sectors.clear()
        options = {r: self.raw(r) for r in BANK_OPTIONS} if self._values else {}
        super().reset()
        for current, value in options.items():
            self.set_raw(current, value)
            self.set_raw(BANK_OPTIONS[current], value)
        self.lock.reset()
        if interrupted:
            self.flag(FlashSr.OPERR)

    # --- Status ---------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    @property
    def idle_at(self) -> int:
        """When the last operation in the queue will be done, if none follows."""
        return self._idle_at

    def flag(self, flags: int) -> None:
        self._values[FLASH_SR] |= int(flags)
        self._controller.update_irq()

    @property
    def interrupting(self) -> bool:
        """Whether a flag is set whose interrupt is enabled."""
        return bool(self._values[FLASH_SR] & self._values[FLASH_CR] & FLAGS)

    @on_read(SR)
    def _refresh_status(self) -> None:
        self._values[FLASH_SR] = self.status()

    def status(self) -> int:
        """SR, as it reads now."""
        status = self._values[FLASH_SR] & FLAGS
        if self._queue:
            status |= _QW
            if self._clock.now >= self._begun + BSY_DELAY:
                status |= _BSY
        if self._filled:
            status |= _WBNE
        if self._crc_end is not None:
            status |= _CRC_BUSY
        return status

    @on_write(CCR)
    def _clear_flags(self, ccr: Fields) -> None:
        self._values[FLASH_SR] &= ~(ccr.value & FLAGS)
        if not self._values[FLASH_SR] & _ECC_ERRORS:
            self.set_raw(self.ECC_FA, 0)
        self._controller.update_irq()

    # --- Control --------------------------------------------------------------------------

    @on_read(CR)
    def _refresh_lock(self) -> None:
        self.update(self.CR, LOCK=self.lock.locked)

    @on_write(CR)
    def _control(self, cr: Fields) -> None:
        if self.lock.locked:
            log.warning("%s: CR written while locked", self.name)
            return
        if cr.START and (cr.SER or cr.BER) and len(self._queue) >= _QUEUE:
            # The manual: registers cannot be accessed until the operation is acknowledged.
            raise BusStall(self._next_slot)
        old = self[self.CR]
        self.store(cr)
        self.update(self.CR, START=0, FW=0)
        if not cr.PG:
            self._drop_buffer()
        if old.CRC_EN and not cr.CRC_EN:
            self._stop_crc()
        if cr.FW and self._filled:
            self._commit()
        if cr.START:
            self._start_erase(cr)
        if cr.LOCK:
            self.lock.close()
        self._controller.update_irq()

    def _start_erase(self, cr: Fields) -> None:
        if cr.BER:
            self.erase_all()
        elif cr.SER:
            sector = Span.of(cr.SNB * SECTOR, SECTOR)
            if sector.end > len(self.cells.data) or self.guarded(sector):
                self.flag(FlashSr.WRPERR)
            else:
                self._erase(sector, SECTOR_ERASE_SECONDS)

    def erase_all(self) -> None:
        """Bank erase; refused as a whole when any part of the bank is protected."""
        whole = Span(0, len(self.cells.data))
        if self.guarded(whole):
            self.flag(FlashSr.WRPERR)
        else:
            self._erase(whole, MASS_ERASE_SECONDS)

    def _erase(self, span: Span, seconds: tuple[tuple[float, float], ...]) -> None:
        def finish() -> None:
            self.cells.erase(span)
            base = self._controller.base(self)
            for offset in range(span.start, span.end, SECTOR):
                self._controller.erases[base + offset] += 1

        self.enqueue(Operation(self._time(seconds), finish, lambda: self.cells.half_erase(span)))

    def _time(self, seconds: tuple[tuple[float, float], ...]) -> int:
        psize = self._values[FLASH_CR] >> 4 & 3
        return round(seconds[psize][self._controller.timing == "maximum"] * SECOND)

    # --- The queue ------------------------------------------------------------------------

    @property
    def _next_slot(self) -> int:
        """When the operation that is being executed will be done."""
        return self._begun + self._queue[0].duration

    def enqueue(self, operation: Operation) -> None:
        if self._queue:
            self._idle_at += operation.duration
            self._queue.append(operation)
            return
        self._queue.append(operation)
        self._controller.changing(self)
        if self.lent:
            self.take_back()
        self._begin()

    def _begin(self) -> None:
        self._begun = self._clock.now
        self._idle_at = self._begun + sum(operation.duration for operation in self._queue)
        self._ending = self._clock.after(self._queue[0].duration, self._end, silent=True)

    def _end(self) -> None:
        self._ending = None
        self._queue.popleft().finish()
        if self._queue:
            self._begin()
        elif self.withheld:
            self.take_back()
        if self._values[FLASH_CR] & _EOPIE:
            self.flag(FlashSr.EOP)

    # --- Programming ----------------------------------------------------------------------

    def write_array(self, offset: int, data: bytes, master: Master) -> None:
        """A write to the mapped flash, of bytes in one flash word."""
        if not self._may_write(offset):
            return
        word = offset - offset % FLASH_WORD
        if self._filled and (word != self._filling or master is not self._writer):
            self._drop_buffer()
            self.flag(FlashSr.INCERR)
            return
        position = offset - word
        filled = ((1 << len(data)) - 1) << position
        if self._filled | filled == _FULL and len(self._queue) >= _QUEUE:
            raise BusStall(self._next_slot)
        if self._filled & filled:
            self.flag(FlashSr.STRBERR)
        self._filling, self._writer = word, master
        self._buffer[position : position + len(data)] = data
        self._filled |= filled
        if self._filled == _FULL:
            self._commit()

    def fill(self, offset: int, size: int, value: int) -> bool:
        """A store of the core that goes on with a flash word and does not complete it.

        False, and nothing done, if it is another one: `write_array` knows them all.
        """
        position, filled = offset - self._filling, self._filled
        if not filled or not 0 <= position <= FLASH_WORD - size:
            return False
        added = (1 << size) - 1 << position
        if (
            filled & added
            or filled | added == _FULL
            or self._writer is not Master.CORE
            or self._values[FLASH_SR] & _BLOCKING
            or not self._values[FLASH_CR] & _PG
            or not self._open
            or self._controller.rdp_level == 1
        ):
            return False
        self._buffer[position : position + size] = value.to_bytes(size, "little")
        self._filled = filled | added
        return True

    def write_array_block(self, offset: int, data: bytes, master: Master) -> None:
        """What word writes of `data` do, one after the other, at one instant.

        Raises: `BusStall`, with `done`.
        """
        done = 0
        while done < len(data):
            here = offset + done
            length = self._at_once(here, len(data) - done, master)
            try:
                self.write_array(here, data[done : done + length], master)
            except BusStall as stall:
                stall.done = done
                raise
            done += length

    def _at_once(self, offset: int, length: int, master: Master) -> int:
        """How many bytes of so many the buffer takes as if they were one write: a word at least."""
        position = offset % FLASH_WORD
        if self._filled:
            follows = self._filled == (1 << position) - 1 and offset - position == self._filling
            if not follows or master is not self._writer:
                return 4
        room = FLASH_WORD - position
        if length >= room and len(self._queue) >= _QUEUE:
            return max(4, room - 4)  # the word that completes the flash word has to wait
        return min(length, room)

    def _may_write(self, offset: int) -> bool:
        if self._values[FLASH_SR] & _BLOCKING or not self._values[FLASH_CR] & _PG:
            self.flag(FlashSr.PGSERR)
            return False
        if offset >= len(self.cells.data) or (
            (not self._open or self._controller.rdp_level == 1) and self.guarded(Span.of(offset, 1))
        ):
            self.flag(FlashSr.WRPERR)
            return False
        return True

    def _commit(self) -> None:
        """Move the buffer to the queue; what was not written stays at ones."""
        word, data = self._filling, bytes(self._buffer)
        self._drop_buffer()
        self._program(word, data)

    def _program(self, offset: int, word: bytes) -> None:
        def finish() -> None:
            self._controller.programs[self._controller.base(self) + offset] += 1
            self.cells.program(offset, word)

        self.enqueue(
            Operation(
                self._time(PROGRAM_SECONDS),
                finish,
                lambda: self.cells.half_program(offset, word),
            )
        )

    # --- Protection -----------------------------------------------------------------------

    def guarded(self, span: Span) -> bool:
        """Whether something in `span` is protected against programming and erasing."""
        protected = ~self._values[FLASH_WPSN_CUR] & 0xFF
        if protected:
            first, last = span.start // SECTOR, (span.end - 1) // SECTOR
            if protected >> first & (1 << last - first + 1) - 1:
                return True
        if self._controller.rdp_denied():
            return True
        return any(len(area & span) for area in self._hidden_areas())

    def note_options(self) -> None:
        """Work out once what is asked at every access: whether any protection is on."""
        self._open = self._values[FLASH_WPSN_CUR] == _NO_PROTECTION and not self._hidden_areas()

    def _hidden_areas(self) -> list[Span]:
        return [area for area in (self.area(self.PRAR_CUR), self.secure_area) if len(area)]

    @property
    def secure_area(self) -> Span:
        return self.area(self.SCAR_CUR) if self._controller.secure else Span(0, 0)

    def area(self, register: Register) -> Span:
        """The area that PRAR or SCAR describes, as offsets; equal ends mean the whole bank."""
        value = self._values[register.offset]
        start, end = value & 0xFFF, value >> 16 & 0xFFF
        if start > end:
            return Span(0, 0)
        if start == end:
            return Span(0, len(self.cells.data))
        return Span(256 * start, 256 * (end + 1))

    # --- Reading --------------------------------------------------------------------------

    def read_array(self, offset: int, size: int) -> bytes:
        """A read of the mapped flash.

        Raises:
            BusStall: the bank is not idle.
            BusError: the data are protected, or their ECC is beyond repair.
        """
        if self._queue:
            raise BusStall(self._idle_at)
        end = offset + size
        if end > len(self.cells.data):
            raise BusError("read", offset)
        if self._controller.rdp_denied():
            self.flag(FlashSr.RDPERR)
            raise BusError("read", offset)
        if not self._open:
            self._refuse_hidden(Span(offset, end))
        data = self.cells.data[offset:end]
        if self.cells.suspect:
            first = offset - offset % FLASH_WORD
            for word in range(first, end, FLASH_WORD):
                if word in self.cells.suspect:
                    self._correct(data, word, offset)
        return bytes(data)

    def _refuse_hidden(self, span: Span) -> None:
        for area, error in (
            (self.area(self.PRAR_CUR), FlashSr.RDPERR),
            (self.secure_area, FlashSr.RDSERR),
        ):
            if len(hidden := area & span):
                self.flag(error)
                raise BusError("read", hidden.start)

    def _correct(self, data: bytearray, word: int, offset: int) -> None:
        """Put what ECC makes of the flash word at `word` into `data`, which is from `offset`."""
        if not self._values[FLASH_SR] & _ECC_ERRORS:
            self.set_raw(self.ECC_FA, word // FLASH_WORD)
        value = self.cells.check(word)
        if value is None:
            self.flag(FlashSr.DBECCERR)
            raise BusError("read", max(word, offset))
        self.flag(FlashSr.SNECCERR)
        whole = value.to_bytes(FLASH_WORD, "little")
        start, end = max(word, offset), min(word + FLASH_WORD, offset + len(data))
        data[start - offset : end - offset] = whole[start - word : end - word]

    def direct(self, offset: int) -> Direct | None:
        """As `Mappable` has it: not while busy, and not where a read could fail."""
        if offset >= len(self.cells.data):
            return None
        plain = not self._queue and not self._hidden_areas() and not self._controller.rdp_denied()
        run = self.cells.clean_run(offset) if plain else None
        if run is None:
            self.withheld = True
            return None
        self.lent = True
        if len(run) == len(self.cells.data):
            return Direct(0, self.cells.data, writable=False)
        return Direct(run.start, memoryview(self.cells.data)[run.start : run.end], writable=False)

    def take_back(self) -> None:
        """Tell everybody to ask `direct` again, if anybody has asked."""
        if self.lent or self.withheld:
            self.lent = self.withheld = False
            self._controller.revoke(self)

    # --- The CRC unit ---------------------------------------------------------------------

    @on_write(CRCCR)
    def _control_crc(self, crccr: Fields) -> None:
        if not self._values[FLASH_CR] & FlashCr.CRC_EN or self._crc_end is not None:
            log.warning("%s: CRCCR written while CRC_EN = 0 or CRC_BUSY = 1", self.name)
            return
        self.store(crccr)
        self.update(self.CRCCR, START_CRC=0, CLEAN_CRC=0, ADD_SECT=0, CLEAN_SECT=0)
        if crccr.CLEAN_SECT:
            self._crc_sectors.clear()
        if crccr.ADD_SECT:
            self._crc_sectors.add(crccr.CRC_SECT)
        if crccr.CLEAN_CRC:
            self._controller.crc_result = 0
        if crccr.START_CRC:
            self._start_crc(crccr)

    def _start_crc(self, crccr: Fields) -> None:
        if self._controller.crc_busy:
            log.warning("%s: the CRC unit works for the other bank", self.name)
            return
        spans = self._crc_spans(crccr)
        if self._controller.rdp_denied() or any(
            len(area & span) for area in self._hidden_areas() for span in spans
        ):
            self.flag(FlashSr.CRCRDERR)
            return
        words = sum(map(len, spans)) // FLASH_WORD
        cycles = words * (self._controller.latency + 1)
        delay = max(0, self._idle_at - self._clock.now) + cycles * SECOND // self._controller.axi_hz
        self._crc_end = self._clock.after(delay, lambda: self._end_crc(spans))

    def _crc_spans(self, crccr: Fields) -> list[Span]:
        size = len(self.cells.data)
        if crccr.ALL_BANK:
            return [Span(0, size)]
        if crccr.CRC_BY_SECT:
            return [Span.of(n * SECTOR, SECTOR) & Span(0, size) for n in sorted(self._crc_sectors)]
        burst = FLASH_WORD * 4 ** (crccr.CRC_BURST + 1)
        start = self.raw(self.CRCSADD) // burst * burst
        end = (self.raw(self.CRCEADD) // burst + 1) * burst
        return [Span(start, end) & Span(0, size)] if start < end else []

    def _end_crc(self, spans: list[Span]) -> None:
        self._crc_end = None
        state = self._controller.crc_result
        for span in spans:
            state = crc(bytes(self.cells.data[span.start : span.end]), state)
        self._controller.crc_result = state
        self.flag(FlashSr.CRCEND)

    def _stop_crc(self) -> None:
        if self._crc_end is not None:
            self._crc_end.cancel()
            self._crc_end = None
        self._controller.crc_result = 0

    @property
    def crc_busy(self) -> bool:
        return self._crc_end is not None


BANK_OPTIONS = {
    FlashBank.PRAR_CUR: FlashBank.PRAR_PRG,
    FlashBank.SCAR_CUR: FlashBank.SCAR_PRG,
    FlashBank.WPSN_CUR: FlashBank.WPSN_PRG,
}
"""Option registers of a bank: as they are, and as they shall become."""
