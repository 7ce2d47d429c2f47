"""The MDMA: a bus master that moves blocks of memory by itself, for the core or for the debugger.

RM0433, "MDMA controller (MDMA)".  Sixteen channels share one engine.  It moves one *buffer* of up
to 128 bytes at a time: reads it into its FIFO, writes it, and looks again whose turn it is: the
channel with the highest priority level that has a request, and of several the lowest number.
A slave that holds the bus (flash whose queue is full) holds the engine, with all channels.

Rule 1: what is configured wrongly, or refused on the bus, sets TEIF and CESR, and disables the
channel.  What a slave drops without an error response, as the flash controller does, is not seen.
A request by software is acknowledged to nobody: nothing is written to CMAR.
Rule 2: of an enabled channel only EN, SWRQ and the interrupt enables can be written.  It goes on
while the core is halted: DBGMCU has no bit to freeze it.

Where the manual is silent:

- A beat takes one cycle of the AXI clock, and each buffer sixteen more.
- A buffer that was begun is written to its end, whatever becomes of the clock or of EN.

Not modelled: hardware triggers, swapping of bytes, and padding: between beats of different sizes
bytes are packed, as with PKE.  Nor the second FIFO, into which the next buffer is read while this
one is written: silicon decides earlier whose turn it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import DTCM, ITCM, PPB
from gdbserver.sim.bus import Bus, BusError, BusStall, Master
from gdbserver.sim.clock import SECOND, Clock, Event
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

CHANNELS = 16
_FIRST, _STRIDE = 0x40, 0x40
_OVERHEAD = 16  # cycles for a buffer
_INCREMENT, _DECREMENT = 2, 3
_ONE_BUFFER, _ONE_BLOCK, _REPEATED, _EVERYTHING = range(4)
_NODE = 10  # words of a linked list's node: CTCR to CMDR


class MdmaChannel(Peripheral):
    """One channel: its registers, and where it is in what it was asked to move."""

    size = _STRIDE

    CISR = Register(
        0x00,
        BitStruct(
            Padding(15),
            "CRQA" / Flag,
            Padding(11),
            "TCIF" / Flag,
            "BTIF" / Flag,
            "BRTIF" / Flag,
            "CTCIF" / Flag,
            "TEIF" / Flag,
        ),
        writable=0,
    )
    CIFCR = Register(
        0x04,
        BitStruct(
            Padding(27),
            "CLTCIF" / Flag,
            "CBTIF" / Flag,
            "CBRTIF" / Flag,
            "CCTCIF" / Flag,
            "CTEIF" / Flag,
        ),
    )
    CESR = Register(
        0x08,
        BitStruct(
            Padding(20),
            "BSE" / Flag,
            "ASE" / Flag,
            "TEMD" / Flag,
            "TELD" / Flag,
            "TED" / Flag,
            "TEA" / BitsInteger(7),
        ),
        writable=0,
    )
    CCR = Register(
        0x0C,
        BitStruct(
            Padding(15),
            "SWRQ" / Flag,
            Padding(1),
            Unmodelled("WEX"),
            Unmodelled("HEX"),
            Unmodelled("BEX"),
            Padding(4),
            "PL" / BitsInteger(2),
            "TCIE" / Flag,
            "BTIE" / Flag,
            "BRTIE" / Flag,
            "CTCIE" / Flag,
            "TEIE" / Flag,
            "EN" / Flag,
        ),
    )
    CTCR = Register(
        0x10,
        BitStruct(
            Unmodelled("BWM"),
            "SWRM" / Flag,
            "TRGM" / BitsInteger(2),
            Unmodelled("PAM", 2),
            "PKE" / Flag,
            "TLEN" / BitsInteger(7),
            "DBURST" / BitsInteger(3),
            "SBURST" / BitsInteger(3),
            "DINCOS" / BitsInteger(2),
            "SINCOS" / BitsInteger(2),
            "DSIZE" / BitsInteger(2),
            "SSIZE" / BitsInteger(2),
            "DINC" / BitsInteger(2),
            "SINC" / BitsInteger(2),
        ),
    )
    CBNDTR = Register(
        0x14,
        BitStruct(
            "BRC" / BitsInteger(12),
            "BRDUM" / Flag,
            "BRSUM" / Flag,
            Padding(1),
            "BNDT" / BitsInteger(17),
        ),
    )
    CSAR = Word(0x18)
    CDAR = Word(0x1C)
    CBRUR = Register(0x20, BitStruct("DUV" / BitsInteger(16), "SUV" / BitsInteger(16)))
    CLAR = Register(0x24, BitStruct("LAR" / BitsInteger(29), Padding(3)))
    CTBR = Register(
        0x28,
        BitStruct(Padding(14), "DBUS" / Flag, "SBUS" / Flag, Padding(10), Unmodelled("TSEL", 6)),
    )
    CMAR = Word(0x30)
    CMDR = Word(0x34)

    def __init__(self, number: int, changed: Callable[[], None]) -> None:
        self.number = number
        self._changed = changed
        super().__init__(f"MDMA channel {number}")

    def reset(self) -> None:
        super().reset()
        self.requested = self.moving = self.stopping = False
        self._block = 0  # bytes of a block, which BNDT counts down

    @property
    def waits(self) -> bool:
        """Whether it would move a buffer now."""
        return self.requested and not self.stopping and bool(self[self.CBNDTR].BNDT)

    @property
    def interrupting(self) -> bool:
        """Whether a flag is set whose interrupt is enabled."""
        return bool(self.raw(self.CISR) & self.raw(self.CCR) >> 1 & 0x1F)

    # --- Registers ----------------------------------------------------------------------------

    @on_read(CISR)
    def _refresh(self) -> None:
        self.update(self.CISR, CRQA=self.requested)

    @on_write(CIFCR)
    def _clear(self, clear: Fields) -> None:
        self.set_raw(self.CISR, self.raw(self.CISR) & ~(clear.value & 0x1F))
        if clear.CTEIF:
            self.set_raw(self.CESR, 0)
        self._changed()

    @on_write(CCR)
    def _control(self, cr: Fields) -> None:
        was = self[self.CCR]
        if was.EN:
            kept = was.value & ~0x3F | cr.value & 0x3F  # priority and order of bytes are protected
            self.set_raw(self.CCR, kept | 1)
        else:
            self.store(cr)
        self.update(self.CCR, SWRQ=0)
        if was.EN and not cr.EN:
            self.stopping = True
            if not self.moving:
                self.end()
        elif cr.EN and not was.EN:
            self._block = self[self.CBNDTR].BNDT
            self._check()
        if cr.SWRQ and self[self.CCR].EN and self[self.CTCR].SWRM:
            self.requested = True
        self._changed()

    @on_write(CTCR, CBNDTR, CSAR, CDAR, CBRUR, CLAR, CTBR, CMAR, CMDR)
    def _set(self, written: Fields) -> None:
        if self[self.CCR].EN:
            log.warning("%s.%s: written while it is enabled", self.name, written.register.name)
        else:
            self.store(written)

    # --- What is to be moved --------------------------------------------------------------------

    def _check(self) -> None:
        """What the manual forbids, found when the channel, or a block, begins."""
        tcr, block = self[self.CTCR], self[self.CBNDTR].BNDT
        source, destination = 1 << tcr.SSIZE, 1 << tcr.DSIZE
        buses = self[self.CTBR]
        wrong = {
            "BSE": block > 65536 or block % source or block % destination,
            "ASE": self.raw(self.CSAR) % source
            or self.raw(self.CDAR) % destination
            or tcr.SINCOS < tcr.SSIZE
            or tcr.DINCOS < tcr.DSIZE
            or source << tcr.SBURST > tcr.TLEN + 1
            or destination << tcr.DBURST > tcr.TLEN + 1
            or (tcr.TLEN + 1) % source
            or (tcr.TLEN + 1) % destination
            or tcr.SINC == 1
            or tcr.DINC == 1
            or (self[self.CBRUR].SUV and not tcr.SINC)
            or (self[self.CBRUR].DUV and not tcr.DINC)
            or (buses.SBUS and _is_too_wide(tcr.SSIZE, tcr.SINC, tcr.SINCOS, tcr.SBURST))
            or (buses.DBUS and _is_too_wide(tcr.DSIZE, tcr.DINC, tcr.DINCOS, tcr.DBURST)),
        }
        if found := {name: 1 for name, is_wrong in wrong.items() if is_wrong}:
            self.fail(**found)

    def fail(self, **why: int) -> None:
        """Tell of an error, and stop."""
        self.update(self.CISR, TEIF=1)
        self.update(self.CESR, **why)
        self._disable()

    def end(self) -> None:
        """All is moved, or somebody has disabled the channel."""
        self.update(self.CISR, CTCIF=1)
        self._disable()

    def _disable(self) -> None:
        self.requested = self.stopping = False
        self.update(self.CCR, EN=0)

    @property
    def buffer(self) -> int:
        """Bytes of the next buffer."""
        return int(min(self[self.CTCR].TLEN + 1, self[self.CBNDTR].BNDT))

    def source(self) -> list[tuple[int, int]]:
        """Where the next buffer is read: addresses and lengths."""
        tcr = self[self.CTCR]
        return _places(self.raw(self.CSAR), self.buffer, tcr.SINC, tcr.SSIZE, tcr.SINCOS)

    def destination(self) -> list[tuple[int, int]]:
        tcr = self[self.CTCR]
        return _places(self.raw(self.CDAR), self.buffer, tcr.DINC, tcr.DSIZE, tcr.DINCOS)

    def moved(self) -> bool:
        """Note that a buffer is where it should be; whether it was the last of its block."""
        tcr, length = self[self.CTCR], self.buffer
        for register, mode, size, step in (
            (self.CSAR, tcr.SINC, tcr.SSIZE, tcr.SINCOS),
            (self.CDAR, tcr.DINC, tcr.DSIZE, tcr.DINCOS),
        ):
            distance = _direction(mode) * (length >> size << step)
            self.set_raw(register, self.raw(register) + distance)
        left = self[self.CBNDTR].BNDT - length
        self.update(self.CBNDTR, BNDT=left)
        self.update(self.CISR, TCIF=1)
        return not left

    def block_ended(self) -> bool:
        """Prepare the next block of a repeated one; False if this was the last."""
        self.update(self.CISR, BTIF=1)
        length = self[self.CBNDTR]
        if not length.BRC:
            self.update(self.CISR, BRTIF=1)
            return False
        update = self[self.CBRUR]
        for register, value, down in (
            (self.CSAR, update.SUV, length.BRSUM),
            (self.CDAR, update.DUV, length.BRDUM),
        ):
            self.set_raw(register, self.raw(register) + (-value if down else value))
        self.update(self.CBNDTR, BRC=length.BRC - 1, BNDT=self._block)
        return True

    def load(self, node: Iterable[int]) -> None:
        """Begin what a node of a linked list describes."""
        for offset, value in zip(range(0x10, 0x38, 4), node, strict=True):
            if (register := self.registers.get(offset)) is not None:
                self.store(Fields(register, value))
        self._block = self[self.CBNDTR].BNDT
        self._check()


def _is_too_wide(size: int, mode: int, step: int, burst: int) -> bool:
    """For the port to the TCMs: words at most, and bursts only where addresses count up by them."""
    return size > 2 or bool(burst and (mode != _INCREMENT or step != size))


def _direction(mode: int) -> int:
    return {_INCREMENT: 1, _DECREMENT: -1}.get(mode, 0)


def _places(start: int, length: int, mode: int, size: int, step: int) -> list[tuple[int, int]]:
    """Where so many bytes lie: in one piece, or beat by beat."""
    if mode == _INCREMENT and size == step:
        return [(start, length)]
    distance = _direction(mode) << step
    return [(start + n * distance, 1 << size) for n in range(length >> size)]


class Mdma(Peripheral):
    """The controller.  `axi_hz` is its clock, `clocked` whether RCC lets it through."""

    size = 0x1000

    GISR0 = Register(0x00, BitStruct(Padding(16), "GIF" / BitsInteger(16)), writable=0)

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        *,
        axi_hz: Callable[[], int],
        clocked: Callable[[], bool],
        on_irq: Callable[[bool], None],
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._axi_hz = axi_hz
        self._clocked = clocked
        self._on_irq = on_irq
        self._irq = False
        self.channels = [MdmaChannel(number, self._changed) for number in range(CHANNELS)]
        self._active: MdmaChannel | None = None
        self._left: list[tuple[int, bytes]] = []
        """What of the buffer is still to be written, and where."""
        self._next: Event | None = None
        super().__init__("MDMA")

    def reset(self) -> None:
        super().reset()
        if self._next is not None:
            self._next.cancel()
        self._next = self._active = None
        self._left.clear()
        for channel in self.channels:
            channel.reset()
        self._update_irq()

    def gates_changed(self) -> None:
        """With a clock again, go on."""
        self._changed()

    @on_read(GISR0)
    def _collect(self) -> None:
        flags = sum(channel.interrupting << channel.number for channel in self.channels)
        self.set_raw(self.GISR0, flags)

    def read(self, offset: int, size: int, master: Master) -> int:
        channel, inside = divmod(offset - _FIRST, _STRIDE)
        if 0 <= channel < CHANNELS:
            return self.channels[channel].read(inside, size, master)
        return super().read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        channel, inside = divmod(offset - _FIRST, _STRIDE)
        if 0 <= channel < CHANNELS:
            self.channels[channel].write(inside, size, value, master)
        else:
            super().write(offset, size, value, master)

    def _update_irq(self) -> None:
        level = any(channel.interrupting for channel in self.channels)
        if level != self._irq:
            self._irq = level
            self._on_irq(level)

    # --- The engine -----------------------------------------------------------------------------

    def _changed(self) -> None:
        self._update_irq()
        if self._active is None and self._next is None:
            self._choose()

    def _after(self, delay: int, action: Callable[[], None]) -> None:
        def act() -> None:
            self._next = None
            action()

        self._next = self._clock.after(delay, act, silent=True)

    def _choose(self) -> None:
        """The arbiter: which channel moves the next buffer."""
        waiting = [channel for channel in self.channels if channel.waits]
        if not waiting or not self._clocked():
            return
        channel = min(waiting, key=lambda c: (-c[c.CCR].PL, c.number))
        self._active, channel.moving = channel, True
        data = bytearray()
        at = 0
        try:
            for at, length in channel.source():
                data += self._read(at, length, tcm=bool(channel[channel.CTBR].SBUS))
        except BusStall as stall:
            channel.moving, self._active = False, None
            self._after(stall.ready - self._clock.now, self._choose)
            return
        except BusError as error:
            error.complete(at)
            self._failed(TED=0, TEA=error.address & 0x7F)
            return
        start = 0
        for at, length in channel.destination():
            self._left.append((at, bytes(data[start : start + length])))
            start += length
        tcr = channel[channel.CTCR]
        cycles = _OVERHEAD + (len(data) >> tcr.SSIZE) + (len(data) >> tcr.DSIZE)
        self._after(cycles * SECOND // self._axi_hz(), self._write_on)

    def _write_on(self) -> None:
        """Write what the FIFO holds, as far as the slave takes it."""
        channel = self._active
        assert channel is not None
        tcm = bool(channel[channel.CTBR].DBUS)
        while self._left:
            at, data = self._left[0]
            try:
                self._write(at, data, tcm=tcm)
            except BusStall as stall:
                self._left[0] = at + stall.done, data[stall.done :]
                self._after(max(1, stall.ready - self._clock.now), self._write_on)
                return
            except BusError as error:
                error.complete(at)
                self._failed(TED=1, TEA=error.address & 0x7F)
                return
            self._left.pop(0)
        self._finish(channel)

    def _finish(self, channel: MdmaChannel) -> None:
        """A buffer was moved: what follows from that."""
        mode = channel[channel.CTCR].TRGM
        served = mode == _ONE_BUFFER
        if channel.moved():
            if channel.block_ended():
                served = mode <= _ONE_BLOCK
            elif link := channel.raw(channel.CLAR):
                served = mode <= _REPEATED
                self._link(channel, link)
            else:
                served = True
                channel.end()
        if served:
            channel.requested = False
        self._rest(channel)

    def _link(self, channel: MdmaChannel, address: int) -> None:
        """Take over the next node of a linked list."""
        try:
            node = [
                int.from_bytes(self._read(address + 4 * n, 4, tcm=False), "little")
                for n in range(_NODE)
            ]
        except BusError as error:
            channel.fail(TELD=1, TEA=error.address & 0x7F)
        else:
            channel.load(node)

    def _failed(self, **why: int) -> None:
        channel = self._active
        assert channel is not None
        self._left.clear()
        channel.fail(**why)
        self._rest(channel)

    def _rest(self, channel: MdmaChannel) -> None:
        """Nothing is under way: a channel that was told to stop has stopped; which is next?"""
        channel.moving = False
        self._active = None
        if channel.stopping:
            channel.end()
        self._changed()

    # --- The buses --------------------------------------------------------------------------------

    @staticmethod
    def _reaches(span: Span, *, tcm: bool) -> bool:
        """Each of the two ports has its memories; the core's own registers are behind neither."""
        return tcm == (span in ITCM or span in DTCM) and not len(span & PPB)

    def _read(self, address: int, length: int, *, tcm: bool) -> bytes:
        if not self._reaches(Span.of(address, length), tcm=tcm):
            raise BusError("read", address)
        if length % 4 or address % 4:
            return b"".join(
                self._bus.read(address + n, 1, Master.DMA).to_bytes(1, "little")
                for n in range(length)
            )
        return self._bus.read_block(address, length, Master.DMA)

    def _write(self, address: int, data: bytes, *, tcm: bool) -> None:
        if not self._reaches(Span.of(address, len(data)), tcm=tcm):
            raise BusError("write", address)
        if len(data) % 4 or address % 4:
            for n, byte in enumerate(data):
                self._bus.write(address + n, 1, byte, Master.DMA)
        else:
            self._bus.write_block(address, data, Master.DMA)
