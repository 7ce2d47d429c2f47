"""The embedded flash memory interface: two banks, their registers, their queues, their ECC.

RM0433, "Embedded flash memory (FLASH)"; times from DS12110, "Flash memory characteristics".

A bank programs flash words of 32 bytes.  Writes collect in a buffer (WBNE); the one that
completes the flash word moves it to the bank's queue (QW), where one operation is executed
(BSY) while another may wait.  A write that finds the queue full holds the bus, and so does
a read of a bank that is not idle; the other bank can be read meanwhile.

Rule 1: what the manual calls an error sets its flag and drops the data; only key violations
and unreadable data are bus errors.
Rule 2: contents change when an operation ends, or is cut short by a reset.

Where the manual is silent:

- BSY rises `BSY_DELAY` after QW.  Software that waits for BSY = 0 can therefore be too early,
  which the manual warns of; it should wait for QW = 0.
- Operations of one bank are executed in the order in which they were asked for.
- A bank erase takes as long as a mass erase, which does both banks at once.
- The CRC unit takes LATENCY + 1 cycles of the AXI clock for each flash word.
- A change of option bytes takes `OPTION_CHANGE`, and keeps both banks busy.
- Fetching is not told from reading, so code in a PCROP or secure area cannot run.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    BANK1,
    BANK2,
    FLASH_BANK2_OFFSET,
    FLASH_CR,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_OPTKEY1,
    FLASH_OPTKEY2,
    FLASH_OPTKEYR,
    FLASH_SIZE,
    FLASH_WORD,
    KIB,
    MASS_ERASE_SECONDS,
    PROGRAM_SECONDS,
    SECTOR,
    SECTOR_ERASE_SECONDS,
    SYSTEM_FLASH_1,
    UID,
    FlashCr,
    FlashSr,
)
from gdbserver.sim.bus import Bus, BusError, BusStall, Direct, Master
from gdbserver.sim.clock import MILLISECOND, SECOND, Clock, Event
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
)

log = logging.getLogger(__name__)

BSY_DELAY = 100  # ns from QW to BSY; not published
OPTION_CHANGE = 20 * MILLISECOND  # not published

# What parts come with: the option bytes of an STM32H743 as delivered.
OPTSR_DELIVERED = 0x1BC6AAF0
BOOT_DELIVERED = 0x1FF00800
_NO_AREA = 0x000000FF  # PRAR and SCAR: an area that ends before it starts
_NO_PROTECTION = 0xFF

# Plain numbers, because operators of IntFlag are slow and these are used for every word.
_PG = int(FlashCr.PG)
_EOPIE = int(FlashCr.EOPIE)
_BLOCKING = int(FlashSr.INCERR | FlashSr.PGSERR)
_FLAGS = 0x1FEF0000  # SR: what has an enable bit in CR at the same place, and is cleared by CCR
_QUEUE = 2  # operations of a bank: one executed, one waiting
_FULL = (1 << FLASH_WORD) - 1


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
        0x10,
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
        0x14,
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
    PRAR_CUR = Register(0x28, _area("DMEP"), reset=_NO_AREA, writable=0)
    PRAR_PRG = Register(0x2C, _area("DMEP"), reset=_NO_AREA)
    SCAR_CUR = Register(0x30, _area("DMES"), reset=_NO_AREA, writable=0)
    SCAR_PRG = Register(0x34, _area("DMES"), reset=_NO_AREA)
    WPSN_CUR = Register(0x38, _WPSN, reset=_NO_PROTECTION, writable=0)
    WPSN_PRG = Register(0x3C, _WPSN, reset=_NO_PROTECTION)
    CRCCR = Register(
        0x50,
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
    CRCSADD = Register(0x54, BitStruct(Padding(12), "CRC_START_ADDR" / BitsInteger(18), Padding(2)))
    CRCEADD = Register(0x58, BitStruct(Padding(12), "CRC_END_ADDR" / BitsInteger(18), Padding(2)))
    ECC_FA = Register(0x60, BitStruct(Padding(17), "FAIL_ECC_ADDR" / BitsInteger(15)), writable=0)

    def __init__(self, number: int, size: int, interface: FlashInterface) -> None:
        self.interface = interface
        self.cells = FlashCells(size)
        self.lock = KeyLock(FLASH_KEY1, FLASH_KEY2)
        self.lent = False  # whether the cells are mapped somewhere
        self._clock = interface.clock
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
        options = {r: self.raw(r) for r in _BANK_OPTIONS} if self._values else {}
        super().reset()
        for current, value in options.items():
            self.set_raw(current, value)
            self.set_raw(_BANK_OPTIONS[current], value)
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
        self._values[0x10] |= flags
        self.interface.update_irq()

    @property
    def interrupting(self) -> bool:
        return bool(self._values[0x10] & self._values[FLASH_CR] & _FLAGS)

    @SR.reads
    def _refresh_status(self) -> None:
        self.update(
            self.SR,
            BSY=self.busy and self._clock.now >= self._begun + BSY_DELAY,
            WBNE=self._filled != 0,
            QW=self.busy,
            CRC_BUSY=self._crc_end is not None,
        )

    @CCR.writes
    def _clear_flags(self, ccr: Fields) -> None:
        self._values[0x10] &= ~(ccr.value & _FLAGS)
        if not self._values[0x10] & (FlashSr.SNECCERR | FlashSr.DBECCERR):
            self.set_raw(self.ECC_FA, 0)
        self.interface.update_irq()

    # --- Control --------------------------------------------------------------------------

    @CR.reads
    def _refresh_lock(self) -> None:
        self.update(self.CR, LOCK=self.lock.locked)

    @CR.writes
    def _control(self, cr: Fields) -> None:
        if self.lock.locked:
            log.warning("%s: CR written while locked", self.name)
            return
        if cr.START and (cr.SER or cr.BER) and len(self._queue) >= _QUEUE:
            # The manual: registers cannot be accessed until the operation is acknowledged.
            raise BusStall(self._next_slot)
        self.store(self.CR, cr)
        self.update(self.CR, START=0, FW=0)
        if not cr.PG:
            self._drop_buffer()
        if not cr.CRC_EN:
            self.interface.shared.set_raw(SharedRegisters.CRCDATA, 0)
        if cr.FW and self._filled:
            self._commit()
        if cr.START:
            self._start_erase(cr)
        if cr.LOCK:
            self.lock.close()
        self.interface.update_irq()

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
            base = self.interface.base(self)
            for offset in range(span.start, span.end, SECTOR):
                self.interface.erases[base + offset] += 1

        self.enqueue(Operation(self._time(seconds), finish, lambda: self.cells.half_erase(span)))

    def _time(self, seconds: tuple[tuple[float, float], ...]) -> int:
        psize = self._values[FLASH_CR] >> 4 & 3
        return round(seconds[psize][self.interface.timing == "maximum"] * SECOND)

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
        if self.lent:
            self.lent = False
            self.interface.revoke(self)
        self._begin()

    def _begin(self) -> None:
        self._begun = self._clock.now
        self._idle_at = self._begun + sum(operation.duration for operation in self._queue)
        self._ending = self._clock.after(self._queue[0].duration, self._end)

    def _end(self) -> None:
        self._ending = None
        self._queue.popleft().finish()
        if self._queue:
            self._begin()
        if self._values[FLASH_CR] & _EOPIE:
            self.flag(FlashSr.EOP)

    # --- Programming ----------------------------------------------------------------------

    def write_array(self, offset: int, data: bytes, master: Master) -> None:
        """A write of 1, 2 or 4 bytes to the mapped flash."""
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

    def write_array_block(self, offset: int, data: bytes, master: Master) -> None:
        """What word writes of `data` do, one after the other, at one instant.

        Raises: `BusStall`, with `done`.
        """
        done = 0
        while done < len(data):
            here = offset + done
            if (
                here % FLASH_WORD == 0
                and len(data) - done >= FLASH_WORD
                and not self._filled
                and len(self._queue) < _QUEUE
                and self._may_write(here)
            ):
                self._program(here, data[done : done + FLASH_WORD])
                done += FLASH_WORD
                continue
            try:
                self.write_array(here, data[done : done + 4], master)
            except BusStall as stall:
                stall.done = done
                raise
            done += 4

    def _may_write(self, offset: int) -> bool:
        if self._values[0x10] & _BLOCKING or not self._values[FLASH_CR] & _PG:
            self.flag(FlashSr.PGSERR)
            return False
        if offset >= len(self.cells.data) or (
            (not self._open or self.interface.rdp_level == 1) and self.guarded(Span.of(offset, 1))
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
            self.interface.programs[self.interface.base(self) + offset] += 1
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
        protected = ~self._values[0x38] & 0xFF
        if protected:
            first, last = span.start // SECTOR, (span.end - 1) // SECTOR
            if protected >> first & (1 << last - first + 1) - 1:
                return True
        if self.interface.rdp_denied():
            return True
        return any(len(area & span) for area in self._hidden_areas())

    def note_options(self) -> None:
        """Work out once what is asked at every access: whether any protection is on."""
        self._open = self._values[0x38] == _NO_PROTECTION and not self._hidden_areas()

    def _hidden_areas(self) -> list[Span]:
        return [area for area in (self.area(self.PRAR_CUR), self.secure_area) if len(area)]

    @property
    def secure_area(self) -> Span:
        return self.area(self.SCAR_CUR) if self.interface.secure else Span(0, 0)

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
        if self.interface.rdp_denied():
            self.flag(FlashSr.RDPERR)
            raise BusError("read", offset)
        areas = () if self._open else self._reading_errors()
        for area, error in areas:
            if len(hidden := area & Span(offset, end)):
                self.flag(error)
                raise BusError("read", hidden.start)
        data = self.cells.data[offset:end]
        if self.cells.suspect:
            first = offset - offset % FLASH_WORD
            for word in range(first, end, FLASH_WORD):
                if word in self.cells.suspect:
                    self._correct(data, word, offset)
        return bytes(data)

    def _reading_errors(self) -> tuple[tuple[Span, FlashSr], ...]:
        return (
            (self.area(self.PRAR_CUR), FlashSr.RDPERR),
            (self.secure_area, FlashSr.RDSERR),
        )

    def _correct(self, data: bytearray, word: int, offset: int) -> None:
        """Put what ECC makes of the flash word at `word` into `data`, which is from `offset`."""
        if not self._values[0x10] & (FlashSr.SNECCERR | FlashSr.DBECCERR):
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
        if self._queue or offset >= len(self.cells.data):
            return None
        if self._hidden_areas() or self.interface.rdp_denied():
            return None
        self.lent = True
        if not self.cells.suspect:
            return Direct(0, self.cells.data, writable=False)
        run = self.cells.clean_run(offset)
        if run is None:
            return None
        return Direct(run.start, memoryview(self.cells.data)[run.start : run.end], writable=False)

    # --- The CRC unit ---------------------------------------------------------------------

    @CRCCR.writes
    def _control_crc(self, crccr: Fields) -> None:
        if not self._values[FLASH_CR] & FlashCr.CRC_EN or self._crc_end is not None:
            log.warning("%s: CRCCR written while CRC_EN = 0 or CRC_BUSY = 1", self.name)
            return
        self.store(self.CRCCR, crccr)
        self.update(self.CRCCR, START_CRC=0, CLEAN_CRC=0, ADD_SECT=0, CLEAN_SECT=0)
        if crccr.CLEAN_SECT:
            self._crc_sectors.clear()
        if crccr.ADD_SECT:
            self._crc_sectors.add(crccr.CRC_SECT)
        if crccr.CLEAN_CRC:
            self.interface.shared.set_raw(SharedRegisters.CRCDATA, 0)
        if crccr.START_CRC:
            self._start_crc(crccr)

    def _start_crc(self, crccr: Fields) -> None:
        if self.interface.crc_busy:
            log.warning("%s: the CRC unit works for the other bank", self.name)
            return
        spans = self._crc_spans(crccr)
        if self.interface.rdp_denied() or any(
            len(area & span) for area in self._hidden_areas() for span in spans
        ):
            self.flag(FlashSr.CRCRDERR)
            return
        words = sum(map(len, spans)) // FLASH_WORD
        cycles = words * (self.interface.latency + 1)
        delay = max(0, self._idle_at - self._clock.now) + cycles * SECOND // self.interface.axi_hz()
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
        shared = self.interface.shared
        state = shared.raw(SharedRegisters.CRCDATA)
        for span in spans:
            state = crc(bytes(self.cells.data[span.start : span.end]), state)
        shared.set_raw(SharedRegisters.CRCDATA, state)
        self.flag(FlashSr.CRCEND)

    @property
    def crc_busy(self) -> bool:
        return self._crc_end is not None


_BANK_OPTIONS = {
    FlashBank.PRAR_CUR: FlashBank.PRAR_PRG,
    FlashBank.SCAR_CUR: FlashBank.SCAR_PRG,
    FlashBank.WPSN_CUR: FlashBank.WPSN_PRG,
}
"""Option registers of a bank: as they are, and as they shall become."""


_OPTSR = BitStruct(
    "SWAP_BANK_OPT" / Flag,
    "OPTCHANGEERR" / Flag,
    Unmodelled("IO_HSLV"),
    Padding(7),
    "SECURITY" / Flag,
    Unmodelled("ST_RAM_SIZE", 2),
    Unmodelled("IWDG_FZ_SDBY"),
    Unmodelled("IWDG_FZ_STOP"),
    Padding(1),
    "RDP" / BitsInteger(8),
    Unmodelled("NRST_STBY_D1"),
    Unmodelled("NRST_STOP_D1"),
    Padding(1),
    "IWDG1_SW" / Flag,
    Unmodelled("BOR_LEV", 2),
    Padding(1),
    "OPT_BUSY" / Flag,
)
_BOOT = BitStruct("BOOT_ADD1" / BitsInteger(16), "BOOT_ADD0" / BitsInteger(16))


class SharedRegisters(Peripheral):
    """The registers that show up at the offsets of both banks."""

    size = FLASH_BANK2_OFFSET

    ACR = Register(
        0x00,
        BitStruct(Padding(26), Unmodelled("WRHIGHFREQ", 2), "LATENCY" / BitsInteger(4)),
        reset=0x00000037,
    )
    OPTKEYR = Register(FLASH_OPTKEYR, BitStruct("OPTKEYR" / BitsInteger(32)), writable=0)
    OPTCR = Register(
        0x18,
        BitStruct(
            "SWAP_BANK" / Flag,
            "OPTCHANGEERRIE" / Flag,
            Padding(25),
            "MER" / Flag,
            Padding(2),
            "OPTSTART" / Flag,
            "OPTLOCK" / Flag,
        ),
        reset=0x00000001,
        writable=0x7FFFFFFF,
    )
    OPTSR_CUR = Register(0x1C, _OPTSR, reset=OPTSR_DELIVERED, writable=0)
    OPTSR_PRG = Register(0x20, _OPTSR, reset=OPTSR_DELIVERED, writable=~0x40000001)
    OPTCCR = Register(
        0x24, BitStruct(Padding(1), "CLR_OPTCHANGEERR" / Flag, Padding(30)), writable=0
    )
    BOOT_CUR = Register(0x40, _BOOT, reset=BOOT_DELIVERED, writable=0)
    BOOT_PRG = Register(0x44, _BOOT, reset=BOOT_DELIVERED)
    CRCDATA = Register(0x5C, BitStruct("CRC_DATA" / BitsInteger(32)), writable=0)

    def __init__(self, interface: FlashInterface) -> None:
        self.interface = interface
        self.lock = KeyLock(FLASH_OPTKEY1, FLASH_OPTKEY2)
        super().__init__("FLASH")

    def reset(self) -> None:
        options = {r: self.raw(r) for r in _SHARED_OPTIONS} if self._values else {}
        super().reset()
        for current, value in options.items():
            self.set_raw(current, value & ~0x40000001 if current is self.OPTSR_CUR else value)
            self.set_raw(_SHARED_OPTIONS[current], self.raw(current))
        self.update(self.OPTCR, SWAP_BANK=self[self.OPTSR_CUR].SWAP_BANK_OPT)
        self.lock.reset()

    @OPTCR.reads
    def _refresh_lock(self) -> None:
        self.update(self.OPTCR, OPTLOCK=self.lock.locked)

    @OPTCR.writes
    def _control(self, optcr: Fields) -> None:
        if self.lock.locked:
            log.warning("FLASH: OPTCR written while locked")
            return
        if optcr.OPTSTART or optcr.MER:
            self.interface.wait_until_idle()
        self.store(self.OPTCR, optcr)
        self.update(self.OPTCR, OPTSTART=0, MER=0)
        if optcr.MER:
            self.interface.mass_erase()
        if optcr.OPTSTART:
            self.interface.change_options()
        if optcr.OPTLOCK:
            self.lock.close()
        self.interface.update_irq()

    @OPTSR_CUR.reads
    def _refresh(self) -> None:
        self.update(self.OPTSR_CUR, OPT_BUSY=self.interface.changing_options)

    @OPTCCR.writes
    def _clear(self, optccr: Fields) -> None:
        if optccr.CLR_OPTCHANGEERR:
            self.update(self.OPTSR_CUR, OPTCHANGEERR=0)
            self.interface.update_irq()


_SHARED_OPTIONS = {
    SharedRegisters.OPTSR_CUR: SharedRegisters.OPTSR_PRG,
    SharedRegisters.BOOT_CUR: SharedRegisters.BOOT_PRG,
}
_PRG_OFFSETS = {r.offset for r in (*_BANK_OPTIONS.values(), *_SHARED_OPTIONS.values())}


class RegisterFile:
    """The controller's registers on the bus: two sets, one for each bank as it is mapped."""

    size = 2 * FLASH_BANK2_OFFSET

    def __init__(self, interface: FlashInterface) -> None:
        self._interface = interface

    def read(self, offset: int, size: int, master: Master) -> int:
        number, offset = divmod(offset, FLASH_BANK2_OFFSET)
        if number > 1:
            return 0
        if offset & ~3 in SharedRegisters.registers:
            return self._interface.shared.read(offset, size, master)
        return self._interface.mapped[number].read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        number, offset = divmod(offset, FLASH_BANK2_OFFSET)
        if number > 1:
            return
        bank, shared = self._interface.mapped[number], self._interface.shared
        register = offset & ~3
        if register == FLASH_KEYR:
            bank.lock.give(value) if size == 4 else bank.lock.jam()
        elif bank.lock.half_open:
            bank.lock.jam()
        elif register == FLASH_OPTKEYR:
            shared.lock.give(value) if size == 4 else shared.lock.jam()
        elif register in _PRG_OFFSETS and shared.lock.locked:
            log.warning("FLASH: option register %#04x written while OPTCR is locked", register)
        elif register in SharedRegisters.registers:
            shared.write(offset, size, value, master)
        else:
            bank.write(offset, size, value, master)


class FlashArray:
    """What is mapped at the address of bank 1 or 2: the other bank, when they are swapped."""

    def __init__(self, interface: FlashInterface, number: int) -> None:
        self._interface = interface
        self._number = number

    def read(self, offset: int, size: int, master: Master) -> int:
        return int.from_bytes(self.read_block(offset, size, master), "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self._interface.touched_by(master)
        bank = self._interface.mapped[self._number - 1]
        bank.write_array(offset, value.to_bytes(size, "little"), master)

    def read_block(self, offset: int, length: int, master: Master) -> bytes:
        self._interface.touched_by(master)
        return self._interface.mapped[self._number - 1].read_array(offset, length)

    def write_block(self, offset: int, data: bytes, master: Master) -> None:
        self._interface.touched_by(master)
        self._interface.mapped[self._number - 1].write_array_block(offset, data, master)

    def direct(self, offset: int) -> Direct | None:
        return self._interface.mapped[self._number - 1].direct(offset)


class SystemFlash:
    """ST's boot loader, which is not there, and what ST wrote beside it.  Reads only."""

    def __init__(self, data: dict[int, bytes], length: int = len(SYSTEM_FLASH_1)) -> None:
        self.data = bytearray(b"\xff") * length
        for offset, value in data.items():
            self.data[offset : offset + len(value)] = value

    def read(self, offset: int, size: int, master: Master) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        log.warning("write to system flash at offset %#07x is ignored", offset)

    def direct(self, offset: int) -> Direct | None:
        return Direct(0, self.data, writable=False)


class FlashInterface:
    """The embedded flash memory and its controller.

    `on_irq` is called with the level of interrupt line 4.  `axi_hz` is the clock that the
    CRC unit runs on; `debugger` says whether one is connected, which readout protection
    level 1 minds.
    """

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        *,
        timing: Literal["typical", "maximum"] = "typical",
        flash_kib: int = 2048,
        rdp: int = 0xAA,
        uid: bytes = bytes.fromhex("2f003500 0d513330 33353530"),
        axi_hz: Callable[[], int] = lambda: 64_000_000,
        debugger: Callable[[], bool] = lambda: False,
    ) -> None:
        self.clock = clock
        self.timing = timing
        self.axi_hz = axi_hz
        self.debugger = debugger
        self.on_irq: Callable[[bool], None] = lambda level: None
        self.erases: Counter[int] = Counter()
        """How often the sector that starts at an address was erased."""
        self.programs: Counter[int] = Counter()
        """How often the flash word at an address was programmed."""
        self.rdp_level, self.secure = 0, False
        self._bus = bus
        self._irq = False
        self._intruded = False
        self.changing_options = False
        self.refuse_option_change = False
        bank_size = max(flash_kib // 2, 0) * KIB if flash_kib > 128 else flash_kib * KIB
        sizes = (bank_size, bank_size if flash_kib > 128 else 0)
        self.shared = SharedRegisters(self)
        self.banks = (FlashBank(1, sizes[0], self), FlashBank(2, sizes[1], self))
        self.mapped = self.banks
        """The banks as they are mapped now: swapped, or as they are numbered."""
        self.registers = RegisterFile(self)
        self._arrays = (FlashArray(self, 1), FlashArray(self, 2))
        self.system = SystemFlash(
            {
                UID - SYSTEM_FLASH_1.start: uid,
                FLASH_SIZE - SYSTEM_FLASH_1.start: flash_kib.to_bytes(2, "little"),
            }
        )
        self.system_2 = SystemFlash({})
        self.shared.update(SharedRegisters.OPTSR_CUR, RDP=rdp)
        self.shared.update(SharedRegisters.OPTSR_PRG, RDP=rdp)
        self._note_options()

    def array(self, number: int) -> FlashArray:
        """The bus device for the addresses of bank 1 or 2."""
        return self._arrays[number - 1]

    def base(self, bank: FlashBank) -> int:
        """The address where `bank` is mapped now."""
        return (BANK1, BANK2)[self.mapped.index(bank)].start

    def reset(self) -> None:
        """A system reset: operations are cut short, locks close, banks swap if asked to."""
        self.changing_options = False
        for bank in self.banks:
            if bank.lent:
                bank.lent = False
                self.revoke(bank)
            bank.reset()
        self.shared.reset()
        swapped = self.shared[SharedRegisters.OPTCR].SWAP_BANK
        self.mapped = (self.banks[1], self.banks[0]) if swapped else self.banks
        self.update_irq()

    def power_loss(self) -> None:
        """Power goes and returns: a reset that also ends what a debugger saw at RDP level 1."""
        self._intruded = False
        self.reset()

    # --- What the banks ask for -------------------------------------------------------------

    @property
    def latency(self) -> int:
        return self.shared[SharedRegisters.ACR].LATENCY

    @property
    def crc_busy(self) -> bool:
        return any(bank.crc_busy for bank in self.banks)

    def _note_options(self) -> None:
        optsr = self.shared[SharedRegisters.OPTSR_CUR]
        self.rdp_level = {0xAA: 0, 0xCC: 2}.get(optsr.RDP, 1)
        self.secure = bool(optsr.SECURITY)
        for bank in self.banks:
            bank.note_options()

    def rdp_denied(self) -> bool:
        """Whether readout protection hides the flash: level 1, and a debugger was seen."""
        if self.rdp_level != 1:
            return False
        self._intruded |= self.debugger()
        return self._intruded

    def touched_by(self, master: Master) -> None:
        """An access at RDP level 1 from a debugger hides the flash until power goes."""
        if master in (Master.AP0, Master.AP1) and self.rdp_level == 1:
            self._intruded = True

    def revoke(self, bank: FlashBank) -> None:
        self._bus.revoke(Span.of(self.base(bank), len(bank.cells.data)))

    def update_irq(self) -> None:
        optsr, optcr = self.shared[SharedRegisters.OPTSR_CUR], self.shared[SharedRegisters.OPTCR]
        level = any(bank.interrupting for bank in self.banks) or bool(
            optsr.OPTCHANGEERR and optcr.OPTCHANGEERRIE
        )
        if level != self._irq:
            self._irq = level
            self.on_irq(level)

    # --- Mass erase, option bytes -------------------------------------------------------------

    def wait_until_idle(self) -> None:
        """Raises: `BusStall` while a bank has something to do."""
        ready = max((bank.idle_at for bank in self.banks if bank.busy), default=0)
        if ready:
            raise BusStall(ready)

    def mass_erase(self) -> None:
        """OPTCR.MER: both banks at once, if both are unlocked and none is protected."""
        if any(bank.lock.locked for bank in self.banks):
            log.warning("FLASH: mass erase asked for while a bank is locked")
            return
        for bank in self.banks:
            bank.erase_all()

    def change_options(self) -> None:
        """OPTCR.OPTSTART: make the option bytes what the PRG registers say."""
        old = self.rdp_level
        new = self.shared[SharedRegisters.OPTSR_PRG].RDP
        if old == 2 or self.refuse_option_change:
            self.shared.update(SharedRegisters.OPTSR_CUR, OPTCHANGEERR=1)
            self.update_irq()
            return
        regression = old == 1 and new == 0xAA
        duration = OPTION_CHANGE
        if regression:
            psize = 3 if self.timing == "typical" else 0
            duration += round(MASS_ERASE_SECONDS[psize][self.timing == "maximum"] * SECOND)
        self.changing_options = True

        def finish() -> None:
            if regression:
                for bank in self.banks:
                    bank.cells.erase(Span(0, len(bank.cells.data)))
            self._load_options()

        def nothing() -> None:
            pass

        first, second = self.banks
        first.enqueue(Operation(duration, finish, nothing))
        second.enqueue(Operation(duration, nothing, nothing))

    def _load_options(self) -> None:
        self.changing_options = False
        for bank in self.banks:
            for current, programmed in _BANK_OPTIONS.items():
                bank.set_raw(current, bank.raw(programmed))
        for current, programmed in _SHARED_OPTIONS.items():
            self.shared.set_raw(current, self.shared.raw(programmed))
        self._note_options()

    # --- Inspection and faults ------------------------------------------------------------------

    def _bank_at(self, address: int) -> tuple[FlashBank, int]:
        for bank, span in zip(self.mapped, (BANK1, BANK2), strict=True):
            if address in span:
                return bank, address - span.start
        raise ValueError(f"{address:#010x} is not in flash")

    def contents(self, span: Span) -> bytes:
        """What the cells hold, ECC aside; a span in one bank."""
        bank, offset = self._bank_at(span.start)
        return bytes(bank.cells.data[offset : offset + len(span)])

    def load(self, address: int, data: bytes) -> None:
        """Put `data` there as if it had always been: no time, no counting, good ECC."""
        bank, offset = self._bank_at(address)
        bank.cells.load(offset, data)
        self._bus.changed(Span.of(address, len(data)))

    def fail_cell(self, address: int, mask: int = 0xFF) -> None:
        """From now on the bits under `mask` of the byte at `address` cannot be programmed.

        One such bit is corrected by ECC when it is read; two and more are not.
        """
        bank, offset = self._bank_at(address)
        bank.cells.stick(offset, mask)

    def flip_bits(self, address: int, mask: int) -> None:
        """Change bits of the byte at `address` without its ECC, as wear and radiation do."""
        bank, offset = self._bank_at(address)
        if bank.lent:
            bank.lent = False
            self.revoke(bank)
        bank.cells.flip(offset, mask)

    def raise_error(self, bank: int, error: FlashSr) -> None:
        """Set error flags of the bank that is mapped as number `bank`."""
        self.mapped[bank - 1].flag(error & _FLAGS)
