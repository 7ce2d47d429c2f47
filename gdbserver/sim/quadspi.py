"""The QUADSPI controller: registers in, frames on six wires out, and a window onto the NOR.

RM0433, "Quad-SPI interface (QUADSPI)".  In indirect mode software moves every byte through
a FIFO of 32; in automatic-polling mode the controller reads a status register until it
matches; in memory-mapped mode the NOR is memory at 0x90000000.

In dual-flash mode two dice, one on each bank, get the same instruction and half the address.
Each of them has its own data lines: bytes at even addresses are the first die's, those at odd
ones the second's, and they travel in pairs.  An odd address or length cannot be asked for: the
bits stick.

Rule 1: a frame reaches the NOR once, whole: a write when chip select rises, a read when its
command begins.  What passes in between is time, computed from the clocks of each phase.
Rule 2: nothing happens by being looked at.  BUSY, TCF, FTF, SMF, TOF and FLEVEL change at events
on the clock, so whoever waits for one can go straight there.  A NOR that stays busy has none.
While bytes pass, their events are made when somebody waits, or an interrupt is enabled.

Bit 4 of FTHRES, which the manual draws, stays 0 whatever is written: "QSPI FIFO Threshold
register does not accept values greater than 15" (STM32CubeH7, issue 217, of an STM32H750); the
same of this controller in older chips ("STM32F7xx Family Undocumented QSPI Hardware Bug", ST
Community, which ST confirms).  So a driver that asks for a threshold of 32 bytes gets 16, and may
take single bytes, though a read that filled the FIFO goes on only when four are free ("FIFO and
data management").
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from gdbserver.chip.stm32h743 import QUADSPI_IRQ
from gdbserver.sim import quadspi_frames
from gdbserver.sim.bus import Bus, BusStall, Master
from gdbserver.sim.clock import Clock, Event
from gdbserver.sim.nor import Nor
from gdbserver.sim.nor_frames import Frame
from gdbserver.sim.polling import AccessKind
from gdbserver.sim.quadspi_fifo import FIFO, PS, Incoming, Outgoing
from gdbserver.sim.quadspi_frames import Mode, Phases, framed
from gdbserver.sim.quadspi_window import Window
from gdbserver.sim.quadspi_wires import LostBits, Wires
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    Unmodelled,
    Word,
    on_read,
    on_write,
)

log = logging.getLogger(__name__)

RESUME_FREE = 4  # a read that filled the FIFO goes on once so many bytes are free
_CR, _DCR, _SR, _FCR, _CCR, _AR, _ABR, _DR = 0x00, 0x04, 0x08, 0x0C, 0x14, 0x18, 0x1C, 0x20
_PSMKR, _PSMAR, _PIR = 0x24, 0x28, 0x2C
_EN, _DFM, _FSEL, _INTERRUPTS = 1 << 0, 1 << 6, 1 << 7, 0x1F << 16  # in CR
_APMS, _PMM = 1 << 22, 1 << 23
_TCF, _FTF, _SMF, _BUSY = 1 << 1, 1 << 2, 1 << 3, 1 << 5  # in SR
_BANKS = {0: (1,), _FSEL: (2,), _DFM: (1, 2), _DFM | _FSEL: (1, 2)}  # in use, by these bits
_LATCHED = 0b11011  # TOF, SMF, TCF and TEF, which FCR clears
_CLEAR_SMF = 1 << 3  # in FCR
_LONGEST = 1 << 28  # bytes of one command: more than any NOR holds


# Members of an enumeration by their names take longer than all else that is done with them.
_ACT, _WRITE = AccessKind.ACT, AccessKind.WRITE
_INDIRECT_WRITE, _INDIRECT_READ = int(Mode.INDIRECT_WRITE), int(Mode.INDIRECT_READ)
_AUTO_POLLING, _MEMORY_MAPPED = int(Mode.AUTO_POLLING), int(Mode.MEMORY_MAPPED)


class QuadSpi(Peripheral):
    """RM0433, "QUADSPI registers"."""

    data_ports = frozenset(range(_DR, _DR + 4))
    """Whose reads are no idle polling: they take bytes out of the FIFO."""

    CR = Register(
        0x00,
        BitStruct(
            "PRESCALER" / BitsInteger(8),
            "PMM" / Flag,
            "APMS" / Flag,
            Padding(1),
            "TOIE" / Flag,
            "SMIE" / Flag,
            "FTIE" / Flag,
            "TCIE" / Flag,
            "TEIE" / Flag,
            Padding(4),
            "FTHRES" / BitsInteger(4),  # the manual draws five
            "FSEL" / Flag,
            "DFM" / Flag,
            Padding(1),
            "SSHIFT" / Flag,  # when to sample: these wires have no delay
            "TCEN" / Flag,
            Unmodelled("DMAEN"),
            "ABORT" / Flag,
            "EN" / Flag,
        ),
    )
    DCR = Register(
        0x04,
        BitStruct(
            Padding(11),
            "FSIZE" / BitsInteger(5),
            Padding(5),
            "CSHT" / BitsInteger(3),
            Padding(7),
            "CKMODE" / Flag,  # idle level of CLK: the NOR takes both
        ),
    )
    SR = Register(
        0x08,
        BitStruct(
            Padding(18),
            "FLEVEL" / BitsInteger(6),
            Padding(2),
            "BUSY" / Flag,
            "TOF" / Flag,
            "SMF" / Flag,
            "FTF" / Flag,
            "TCF" / Flag,
            "TEF" / Flag,
        ),
        writable=0,
    )
    FCR = Register(
        0x0C,
        BitStruct(
            Padding(27),
            "CTOF" / Flag,
            "CSMF" / Flag,
            Padding(1),
            "CTCF" / Flag,
            "CTEF" / Flag,
        ),
    )
    DLR = Word(0x10)
    CCR = quadspi_frames.CCR
    AR = Word(0x18)
    ABR = Word(0x1C)
    DR = Word(_DR)
    PSMKR = Word(0x24)
    PSMAR = Word(0x28)
    PIR = Register(0x2C, BitStruct(Padding(16), "INTERVAL" / BitsInteger(16)))
    LPTR = Register(0x30, BitStruct(Padding(16), "TIMEOUT" / BitsInteger(16)))

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        nors: Mapping[int, Nor],
        array: bytearray | memoryview,
        *,
        kernel_hz: Callable[[], int],
        lost_bits: LostBits = lambda bank, dual: 0,
        clocked: Callable[[], bool] = lambda: True,
    ) -> None:
        """Dice by their bank, and in `array` what the window shows of them.

        `lost_bits`: of the lines to them.
        """
        self.clock = clock
        self.nors = nors
        self.window = Window(self, bus, array)
        self.set_irq: Callable[[int, bool], None] = lambda number, level: None
        self._kernel_hz = kernel_hz
        self._wires = Wires(nors, lost_bits)
        self._clocked = clocked
        self._has_clock = clocked()
        self._event: Event | None = None
        self._mark: Event | None = None
        self._out: Outgoing | None = None
        self._in: Incoming | None = None
        super().__init__("QUADSPI")
        for nor in nors.values():
            nor.on_change.append(self._nor_changed)
        clock.before_waiting.append(self._announce)

    def reset(self) -> None:
        """RCC reset, or that of the chip.  The NOR sees chip select rise, and nothing else."""
        self._abort()
        super().reset()
        self._poll_start_ps = 0
        self._instruction_sent = False
        self._irq = False
        self.set_irq(QUADSPI_IRQ, False)

    # --- Registers ----------------------------------------------------------------------------

    def read(self, offset: int, size: int, master: Master) -> int:
        if not self._has_clock:
            return 0
        if offset & ~3 == _DR:
            return self._pop(size)
        return super().read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if not self._has_clock:
            log.info("QUADSPI: write of %#x to offset %#05x without a clock", value, offset)
            return
        if offset & ~3 == _DR:
            self._push(size, value)
        else:
            super().write(offset, size, value, master)

    @on_write(CR)
    def _control(self, cr: Fields) -> None:
        old = self[self.CR]
        if self._busy:
            # Only EN, ABORT, the threshold and the interrupt enables change while busy.
            keep = 0xFFFFFFFF & ~0x001F0F03
            cr = Fields(self.CR, old.value & keep | cr.value & ~keep)
        self.store(cr)
        self.update(self.CR, ABORT=0)
        if cr.ABORT:
            self._abort()
            self.update(self.SR, TCF=1)
        elif old.EN and not cr.EN:
            self._abort()
        if (old.value ^ cr.value) & 0xC1:  # EN, FSEL, DFM
            self.window.revoke()
        if cr.DFM:
            self.set_raw(self.DLR, self.raw(self.DLR) | 1)
            self.set_raw(self.AR, self.raw(self.AR) & ~1)
        self._schedule_again()
        self._update_irq()

    @on_write(PSMKR, PSMAR, PIR, LPTR)
    def _when_idle(self, written: Fields) -> bool:
        """Most of the configuration can be written only while BUSY is 0; whether it was."""
        if self._busy:
            log.info("QUADSPI: write to %s ignored: BUSY", written.register.name)
            return False
        self.store(written)
        return True

    @on_write(DLR)
    def _data_length(self, dlr: Fields) -> None:
        """Bit 0 is stuck at 1 in dual-flash mode: no access has an odd number of bytes."""
        self._when_idle(Fields(self.DLR, dlr.value | self.dual))

    @on_write(DCR, ABR)
    def _what_is_mapped(self, written: Fields) -> None:
        if self._when_idle(written):
            self.window.revoke()

    @on_read(SR)
    def _refresh_status(self) -> None:
        self._values[_SR] = self._status()

    def _status(self) -> int:
        """SR: flags that stay until they are cleared, BUSY, and what the FIFO is like now."""
        values, out, incoming = self._values, self._out, self._in
        needed = (values[_CR] >> 8 & 0xF) + 1
        if incoming is not None:
            self._settle()
            level = incoming.passed - incoming.taken
            reached = level >= needed or (level > 0 and incoming.passed == incoming.total)
            if values[_CCR] >> 26 & 0b11 == _AUTO_POLLING:
                level = 0  # the FIFO takes no part in it
        else:
            level = out.waiting(self.clock.now * PS) if out is not None else 0
            writes = values[_CR] & _EN and values[_CCR] >> 26 & 0b11 == _INDIRECT_WRITE
            reached = bool(writes) and FIFO - level >= needed
        status = values[_SR] & _LATCHED | level << 8
        if reached:
            status |= _FTF
        return status | _BUSY if self._busy else status

    @on_write(FCR)
    def _clear_flags(self, fcr: Fields) -> None:
        """Each set bit clears the flag at the same place in SR; FCR stores nothing."""
        self._values[_SR] &= ~(fcr.value & _LATCHED)
        if fcr.value & _CLEAR_SMF and self._polling and self._event is None:
            self._next_poll(soon=True)
        self._update_irq()

    @on_write(CCR)
    def _communication(self, ccr: Fields) -> None:
        """Starts the command if it needs neither address nor data to write."""
        if not self._when_idle(ccr):
            return
        self.window.revoke()
        self._drop_fifo()
        self._instruction_sent = False
        phases = self.phases
        if phases.mode == _MEMORY_MAPPED or phases.address_bytes:
            return
        if phases.mode == _INDIRECT_WRITE and phases.has_data:
            return
        if phases.instruction is not None or phases.has_data:
            self._start()

    @on_write(AR)
    def _address(self, ar: Fields) -> None:
        """Starts a command with an address, unless data to write must come first."""
        phases = self.phases
        if self.dual:  # bit 0 is stuck at 0
            ar = Fields(self.AR, ar.value & ~1)
        if phases.mode == _MEMORY_MAPPED or not self._when_idle(ar):
            return
        if not phases.address_bytes:
            return
        self._drop_fifo()
        if ar.value >= self.flash_size:
            self._transfer_error()
        elif not (phases.mode == _INDIRECT_WRITE and phases.has_data):
            self._start()

    def _transfer_error(self) -> None:
        self.update(self.SR, TEF=1)
        self._update_irq()

    # --- Commands -----------------------------------------------------------------------------

    @property
    def dual(self) -> bool:
        return bool(self._values[_CR] & _DFM)

    @property
    def phases(self) -> Phases:
        return Phases.of(self._values[_CCR])

    @property
    def flash_size(self) -> int:
        """Bytes of flash, as DCR says: of both dice together in dual-flash mode."""
        return 2 << (self._values[_DCR] >> 16 & 0x1F)

    def _length(self) -> int:
        """Bytes of the data phase; all ones in DLR mean up to the end of the flash."""
        length = self.raw(self.DLR)
        if length == 0xFFFFFFFF:
            return self.flash_size - (self._values[_AR] if self.phases.address_bytes else 0)
        return length + 1

    def frame(self, address: int, *, write: bytes = b"", read: int = 0) -> Frame:
        """A frame as the software sees it: of whole addresses, with the bytes of both dice."""
        values, sent = self._values, self._instruction_sent
        return framed(values[_CCR], sent, (address, values[_ABR]), write, read)

    def _clock_ps(self) -> int:
        """One cycle of CLK; 0 if the kernel clock stands still."""
        hz = self._kernel_hz()
        return ((self._values[_CR] >> 24) + 1) * 1_000_000_000_000 // hz if hz > 0 else 0

    def _tail_clocks(self) -> int:
        """Cycles from the last bit to when chip select may fall again."""
        return 1 + (self._values[_DCR] >> 8 & 0b111) + 1

    def _data_ps(self, phases: Phases, clock_ps: int) -> int:
        """How long a byte of data takes; two dice take two at a time."""
        return 8 * clock_ps // phases.data_lines // phases.edges // (1 + self.dual)

    def _banks(self) -> tuple[int, ...]:
        """Those whose die, or dice, the next frame goes to."""
        return _BANKS[self._values[_CR] & (_DFM | _FSEL)]

    def transfer(self, frame: Frame) -> bytes:
        self._instruction_sent = True
        return self._wires.transfer(self._banks(), frame)

    def understood(self, frame: Frame) -> bool:
        return self._wires.understand(self._banks(), frame)

    def _start(self) -> None:
        values, phases = self._values, self.phases
        if not values[_CR] & _EN:
            log.info("QUADSPI: command %#04x while disabled", values[_CCR] & 0xFF)
            return
        length = self._length() if phases.has_data else 0
        address = values[_AR] if phases.address_bytes else 0
        if phases.address_bytes and phases.has_data and address + length > self.flash_size:
            self._transfer_error()
            return
        self._busy = True
        clock_ps = self._clock_ps()
        if not clock_ps:
            log.warning("QUADSPI: command %#04x without a kernel clock", values[_CCR] & 0xFF)
            return
        now_ps = self.clock.now * PS
        if phases.mode == _AUTO_POLLING:
            self._polling = True
            self._poll_start_ps = now_ps
            self._next_poll()
            return
        if length > _LONGEST:
            log.warning("QUADSPI: only the first %#x of %#x bytes are modelled", _LONGEST, length)
            length = _LONGEST
        data_ps = now_ps + phases.lead_clocks(self._instruction_sent) * clock_ps
        byte_ps = self._data_ps(phases, clock_ps)
        if not phases.has_data:
            end_ps = data_ps + self._tail_clocks() * clock_ps
            self._at(end_ps, partial(self._end_without_data, self.frame(address)))
            return
        together = 1 + self.dual
        if phases.mode == _INDIRECT_READ:
            data = self.transfer(self.frame(address, read=length))
            self._in = Incoming(length, byte_ps, data_ps + byte_ps, data, together=together)
            self._schedule_again()
        else:
            self._out = Outgoing(address, length, byte_ps, data_ps, together)

    def _end_without_data(self, frame: Frame) -> None:
        self._event = None
        self.transfer(frame)
        self._complete()

    def _complete(self) -> None:
        self._busy = False
        self._values[_SR] |= _TCF
        self._update_irq()

    # --- What a driver does for each word and each command ------------------------------------

    def quick_read(self, offset: int, size: int) -> int | None:
        """SR, which is read more often than all the rest."""
        return self._status() if offset == _SR and size == 4 and self._has_clock else None

    def quick_write(self, offset: int, size: int, value: int) -> AccessKind | None:
        """A word for the FIFO that starts and ends nothing, or settings for the next command."""
        out = self._out
        if offset == _DR and out is not None:
            now_ps, empty_ps, byte_ps = self.clock.now * PS, out.empty_ps, out.byte_ps
            if (
                size >= out.missing
                or size % out.together
                or empty_ps - now_ps > (FIFO - size - out.together) * byte_ps  # it may be full
                or self._event is not None
                or self._values[_CR] & _INTERRUPTS
                or self._irq
            ):
                return None
            # `add`, in place
            out.data += value.to_bytes(size, "little")
            out.missing -= size
            out.empty_ps = (empty_ps if empty_ps > now_ps else now_ps) + size * byte_ps
            return _ACT
        if size != 4 or not self._has_clock:
            return None
        if offset == _FCR and not (self._polling or self._irq):
            self._values[_SR] &= ~(value & _LATCHED)
            return _WRITE
        if offset in _SETTINGS and not (self._busy or self.window.lent or self.dual):
            self._values[offset] = value & _SETTINGS[offset]
            return _WRITE
        return None

    # --- The FIFO -----------------------------------------------------------------------------

    def _push(self, size: int, value: int) -> None:
        """A write to DR; the first one of an indirect write starts the command."""
        if self._out is None:
            phases = self.phases
            if self._busy or phases.mode != _INDIRECT_WRITE or not phases.has_data:
                log.info("QUADSPI: write to DR ignored")
                return
            self._start()
            if self._out is None:
                return
        out = self._out
        if not out.missing:
            log.info("QUADSPI: write to DR beyond DLR ignored")
            return
        now_ps = self.clock.now * PS
        excess = out.waiting(now_ps) + size - FIFO
        if excess > 0:
            raise BusStall(-(-out.passes_ps(excess, now_ps) // PS))
        out.add(now_ps, value.to_bytes(size, "little")[: out.missing])
        if not out.missing:
            self._at(out.empty_ps + self._tail_clocks() * self._clock_ps(), self._end_of_write)
        elif self._event is not None:
            self._schedule_again()
        if self._irq or self._values[_CR] & _INTERRUPTS:
            self._update_irq()

    def _end_of_write(self) -> None:
        self._event = None
        out, self._out = self._out, None
        assert out is not None
        self._send(out, len(out.data))
        self._complete()

    def _send(self, out: Outgoing, length: int) -> None:
        self.transfer(self.frame(out.address, write=bytes(out.data[:length])))

    def _pop(self, size: int) -> int:
        """A read of DR: takes just as many bytes as it is wide; of a status, none."""
        incoming = self._in
        if incoming is None:
            return 0
        if self.phases.mode == _AUTO_POLLING:
            incoming.taken = incoming.total  # FTF falls
            self._update_irq()
            return int.from_bytes(incoming.data[:size], "little")
        self._settle()
        level = incoming.passed - incoming.taken
        if level < size and incoming.passed < incoming.total and self._busy:
            ready = incoming.next_ps + (incoming.whole(size - level) - 1) * incoming.byte_ps
            raise BusStall(-(-ready // PS))
        data = incoming.data[incoming.taken : incoming.taken + min(size, level)]
        incoming.taken += len(data)
        if incoming.taken == incoming.total:
            self._in = None
            self._busy = False
            self._cancel()
        elif incoming.paused and FIFO - (incoming.passed - incoming.taken) >= RESUME_FREE:
            incoming.paused = False
            incoming.next_ps = max(incoming.next_ps, self.clock.now * PS + incoming.byte_ps)
            self._schedule_again()
        self._update_irq()
        return int.from_bytes(data, "little")

    def _settle(self) -> None:
        """Let the bytes arrive that had time to since somebody looked."""
        incoming, now_ps = self._in, self.clock.now * PS
        if incoming is None or incoming.paused or now_ps < incoming.next_ps:
            return
        free = FIFO - (incoming.passed - incoming.taken)
        passed = incoming.passed_by(now_ps, min(free, incoming.total - incoming.passed))
        incoming.passed += passed
        incoming.next_ps += passed * incoming.byte_ps
        if incoming.passed == incoming.total:
            incoming.paused = True
            self._values[_SR] |= _TCF
        elif FIFO - (incoming.passed - incoming.taken) < incoming.together:
            incoming.paused = True

    def _drop_fifo(self) -> None:
        self._out = self._in = None

    # --- Time ---------------------------------------------------------------------------------

    def _at(self, when_ps: int, action: Callable[[], None]) -> None:
        self._cancel()
        delay = -(-when_ps // PS) - self.clock.now
        self._event = self.clock.after(delay, action)

    def _cancel(self) -> None:
        if self._event is not None:
            self._event.cancel()
            self._event = None

    def _schedule_again(self) -> None:
        """The threshold changed, or data moved: the next change of a flag is another."""
        if self._polling:
            return
        if self._in is not None or (self._out is not None and self._out.missing):
            self._cancel()
            if self._values[_CR] & _INTERRUPTS:
                self._schedule()

    def _announce(self) -> None:
        """Somebody waits, perhaps for a flag or a level that changes while data passes."""
        if self._in is None and self._out is None:
            return
        self._settle()
        if self._event is None:
            self._schedule()
        self._mark_next_byte()

    def _schedule(self) -> None:
        """An event for the next flag that will change in SR while data passes."""
        needed = (self._values[_CR] >> 8 & 0xF) + 1
        incoming, out, now_ps = self._in, self._out, self.clock.now * PS
        if incoming is not None:
            if incoming.paused or incoming.passed == incoming.total:
                return
            level = incoming.passed - incoming.taken
            room = min(FIFO - level, incoming.total - incoming.passed)
            room -= room % incoming.together
            wanted = min(incoming.whole(needed - level), room) if level < needed else room
            self._at(incoming.next_ps + (wanted - 1) * incoming.byte_ps, self._progress)
        elif out is not None:
            waiting = out.waiting(now_ps)
            wanted = needed - (FIFO - waiting)
            if 0 < wanted <= waiting - waiting % out.together:
                self._at(out.passes_ps(wanted, now_ps), self._progress)

    def _mark_next_byte(self) -> None:
        """FLEVEL changes by itself: give the clock an event to go to."""
        incoming, out, now_ps = self._in, self._out, self.clock.now * PS
        if self._mark is not None:
            return
        if out is not None:
            if out.waiting(now_ps) < out.together:
                return
            when_ps = out.passes_ps(1, now_ps)
        elif incoming is not None and not incoming.paused:
            when_ps = incoming.next_ps + (incoming.together - 1) * incoming.byte_ps
        else:
            return
        self._mark = self.clock.after(-(-when_ps // PS) - self.clock.now, self._forget_mark)

    def _forget_mark(self) -> None:
        self._mark = None

    def _progress(self) -> None:
        self._event = None
        self._settle()
        self._schedule_again()
        self._update_irq()

    def _update_irq(self) -> None:
        enabled = (self._values[_CR] & _INTERRUPTS) >> 16
        if not enabled and not self._irq:
            return
        flags = self._status() & (_LATCHED | _FTF)
        level = bool(flags & enabled)
        if level != self._irq:
            self._irq = level
            self.set_irq(QUADSPI_IRQ, level)

    def _abort(self) -> None:
        """Chip select rises at once: the NOR sees as much of a write as has passed."""
        self._settle()
        self._cancel()
        out, self._out, self._in = self._out, None, None
        self._polling = False
        self._busy = False
        self.window.close()
        if out is not None and (passed := len(out.data) - out.waiting(self.clock.now * PS)):
            self._send(out, passed)

    # --- Automatic polling --------------------------------------------------------------------

    def _next_poll(self, *, soon: bool = False) -> None:
        """Schedule the next poll that can read something new, on the grid of polls.

        Polls in between read what the last one read, so they are left out.
        """
        length = min(self._length(), 4)
        clock_ps, phases = self._clock_ps(), self.phases
        if not clock_ps:
            return
        around = phases.lead_clocks(self._instruction_sent) + self._tail_clocks()
        command_ps = around * clock_ps + length * self._data_ps(phases, clock_ps)
        period_ps = command_ps + self._values[_PIR] * clock_ps
        first_ps = self._poll_start_ps + command_ps
        now_ps = self.clock.now * PS
        if now_ps < first_ps:
            self._at(first_ps, self._poll)
            return
        changes = [nor.changes_at for nor in self.nors.values() if nor.changes_at is not None]
        if not soon and not changes:
            return
        change = self.clock.now if soon else min(changes)
        polls = max((change * PS - first_ps + period_ps - 1) // period_ps, 0)
        polls = max(polls, (now_ps - first_ps) // period_ps + 1)
        self._at(first_ps + polls * period_ps, self._poll)

    def _poll(self) -> None:
        self._event = None
        length = min(self._length(), 4)
        values = self._values
        data = self.transfer(self.frame(values[_AR], read=length))
        self._in = Incoming(length, 1, 0, data, passed=length, paused=True)
        mask = values[_PSMKR]
        same = ~(int.from_bytes(data, "little") ^ values[_PSMAR]) & mask
        if same if values[_CR] & _PMM else same == mask:
            values[_SR] |= _SMF
            if values[_CR] & _APMS:
                self._polling = False
                self._busy = False
            self._update_irq()
        else:
            self._next_poll()

    def _nor_changed(self) -> None:
        self.window.revoke()
        if self._polling and self._event is None and not self._values[_SR] & _SMF:
            self._next_poll(soon=True)

    # --- Memory-mapped ------------------------------------------------------------------------

    def maps(self, offset: int, size: int) -> bool:
        """Whether the window shows flash there, as far as this side is concerned."""
        return bool(
            self._has_clock
            and self._values[_CR] & _EN
            and self._values[_CCR] >> 26 & 0b11 == _MEMORY_MAPPED
            and offset + size <= self.flash_size
        )

    def begin_mapped_access(self) -> None:
        """BUSY from the first access on; with TCEN, until nobody asked for a while."""
        self._busy = True
        if self[self.CR].TCEN and (clock_ps := self._clock_ps()):
            idle_ps = self.raw(self.LPTR) * clock_ps
            self._at(self.clock.now * PS + idle_ps, self._time_out)

    def _time_out(self) -> None:
        self._event = None
        self._busy = False
        self.window.revoke()
        self.update(self.SR, TOF=1)
        self._update_irq()

    def pins_changed(self) -> None:
        """The board says so when a pin is multiplexed differently."""
        self._wires.rewired()
        self.window.revoke()

    def gates_changed(self) -> None:
        """The same for a clock that was switched on or off."""
        self._has_clock = self._clocked()


_SETTINGS = {
    register.offset: register.writable
    for register in (
        QuadSpi.DLR,
        QuadSpi.ABR,
        QuadSpi.PSMKR,
        QuadSpi.PSMAR,
        QuadSpi.PIR,
        QuadSpi.LPTR,
    )
}
"""Registers that do nothing before a command needs them, and what of them can be written."""
