"""The serial-wire debug port: requests on the wire -> answers, and the ports behind it.

One request is one `DebugPort.transfer`, answered OK, WAIT, FAULT or not at all.  Reads of
access ports are posted: a read returns what the read *before* it fetched, and RDBUFF returns
the last.  An error is sticky: from then on everything is answered FAULT, until the debugger
has looked at CTRL/STAT and cleared the flag through ABORT.

Arm Debug Interface v5.2 (IHI 0031), "The Serial Wire Debug Port (SW-DP)", "DP architecture
version 2 (DPv2) address map", "Sticky flags and DP error responses".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum, IntEnum, IntFlag

from gdbserver.chip.stm32h743 import DPIDR
from gdbserver.sim.access_port import ApBusy, MemAp
from gdbserver.sim.clock import Clock

log = logging.getLogger(__name__)

TARGETID = 0x04500041  # device 0x450 by ST; not documented, so read it as plausible only
DLPIDR = 0x00000001  # instance 0, SWD protocol version 2


class Ack(IntEnum):
    """The three acknowledge bits, as they travel."""

    OK = 0b001
    WAIT = 0b010
    FAULT = 0b100
    NONE = 0b111  # nobody drives the line, and the pull-up reads as ones


class CtrlStat(IntFlag):
    """CTRL/STAT: what went wrong since the last ABORT, and who has power."""

    ORUNDETECT = 1 << 0
    STICKYORUN = 1 << 1
    STICKYCMP = 1 << 4
    STICKYERR = 1 << 5
    READOK = 1 << 6
    WDATAERR = 1 << 7
    CDBGRSTREQ = 1 << 26
    CDBGPWRUPREQ = 1 << 28
    CDBGPWRUPACK = 1 << 29
    CSYSPWRUPREQ = 1 << 30
    CSYSPWRUPACK = 1 << 31


_STICKY = int(CtrlStat.STICKYORUN | CtrlStat.STICKYCMP | CtrlStat.STICKYERR | CtrlStat.WDATAERR)
_POWER = int(CtrlStat.CDBGPWRUPREQ | CtrlStat.CSYSPWRUPREQ)
# The rest is MASKLANE, TRNCNT and TRNMODE: stored, because debuggers write them; pushed
# transfers themselves are not modelled.
_CTRL_WRITABLE = 0x54FFFF0D
_TRNMODE = 0x0000000C


class Abort(IntFlag):
    """ABORT: write-only."""

    DAPABORT = 1 << 0
    STKCMPCLR = 1 << 1
    STKERRCLR = 1 << 2
    WDERRCLR = 1 << 3
    ORUNERRCLR = 1 << 4


class _Wire(Enum):
    """What the port takes the two wires for."""

    JTAG = "JTAG"  # as powered up
    RESET = "SWD, after a line reset: only DPIDR may be read"
    SWD = "SWD"


_SELECT_SWD = 0xE79E  # sent least significant bit first, after at least 50 ones
_SELECT_JTAG = 0xE73C


class DebugPort:
    """SW-DP of an STM32H743, with its access ports by APSEL."""

    def __init__(self, clock: Clock, aps: Mapping[int, MemAp]) -> None:
        self.aps = aps
        self.stormy_until = 0
        """Until then, in nanoseconds, every access to an access port is answered WAIT."""
        self.garble_next_write = False
        """Fault injection: the next word that is written arrives with a parity error."""
        self._clock = clock
        for ap in aps.values():
            ap.on_fault = self._fault
        self.power_on()

    def power_on(self) -> None:
        self.powered = True
        self._wire = _Wire.JTAG
        self._ones = 0  # how many ones in a row the line has carried
        self._code: list[int] | None = None  # bits since a run of 50 ones ended
        self._ctrl = 0
        self.select = 0
        self._result = 0  # of the last posted read
        self._active: MemAp | None = None  # the port that was accessed last

    def power_off(self) -> None:
        """From now on nobody drives an answer."""
        self.power_on()
        self.powered = False

    # --- The line itself -----------------------------------------------------------------------

    def sequence(self, bits: int, count: int) -> None:
        """Bits on SWDIO that are no request: line resets, and switching from JTAG to SWD."""
        if not self.powered:
            return
        for i in range(count):
            self._bit(bits >> i & 1)

    def _bit(self, bit: int) -> None:
        if self._code is not None:
            self._code.append(bit)
            if len(self._code) == 16:
                code = sum(b << i for i, b in enumerate(self._code))
                if code == _SELECT_SWD:
                    self._wire = _Wire.RESET
                elif code == _SELECT_JTAG:
                    self._wire = _Wire.JTAG
                self._code = None
        self._ones = self._ones + 1 if bit else 0
        if self._ones >= 50:
            self._code = []
            if self._wire is _Wire.SWD:
                self._wire = _Wire.RESET

    # --- Requests ---------------------------------------------------------------------------

    def transfer(self, *, ap: bool, read: bool, address: int, value: int = 0) -> tuple[Ack, int]:
        """One request: to the debug port or (`ap`) the selected access port, A[3:2] = `address`.

        The number is what a read returns when it is answered OK.
        """
        if self._wire is _Wire.JTAG or (self._wire is _Wire.RESET and (ap or not read or address)):
            return Ack.NONE, 0
        self._wire = _Wire.SWD
        self._code = None
        try:
            if ap:
                return self._access_ap(read, address, value)
            return (Ack.OK, self._read(address)) if read else self._write(address, value)
        except ApBusy:
            answer = Ack.WAIT
        except _Fault:
            answer = Ack.FAULT
        if self._ctrl & CtrlStat.ORUNDETECT:
            # The debugger sends its data whatever the answer is, so this one was lost.
            self._set(CtrlStat.STICKYORUN)
        return answer, 0

    @property
    def ready(self) -> int:
        """When a request that is answered WAIT now has a chance of something else."""
        in_flight = self._active.ready if self._active is not None else None
        return max(in_flight or 0, self.stormy_until, self._clock.now + 1)

    @property
    def ready_for_block(self) -> MemAp | None:
        """The access port, if requests to its DRW would be answered OK just now."""
        if self._wire is not _Wire.SWD or self.select & 0xF0 or self._ctrl & _STICKY:
            return None
        if self._ctrl & _POWER != _POWER or self._clock.now < self.stormy_until:
            return None
        return self.aps.get(self.select >> 24)

    def read_block(self, words: int) -> bytes | None:
        """So many reads of DRW, and one of RDBUFF; None, and nothing done, if that is not plain."""
        ap = self.ready_for_block
        data = ap.read_block(words) if ap is not None else None
        if data is not None:
            self._active = ap
            self._done(int.from_bytes(data[-4:], "little"))
            self._set(CtrlStat.READOK)
        return data

    def _read(self, address: int) -> int:
        bank = self.select & 0xF
        if address == 0x0:
            return DPIDR
        if address == 0x4 and bank == 0:
            return self._ctrl_stat()
        self._check_sticky()
        self._check_idle()
        if address == 0x4:
            return {2: TARGETID, 3: DLPIDR, 4: 1}.get(bank, 0)  # EVENTSTAT: no event
        self._set(CtrlStat.READOK)
        return self._result  # RESEND and RDBUFF

    def _write(self, address: int, value: int) -> tuple[Ack, int]:
        if address == 0x0:
            self._abort(Abort(value & 0x1F))
            return Ack.OK, 0
        self._check_sticky()
        self._check_idle()
        if address == 0x4 and self.select & 0xF == 0:
            if value & _TRNMODE:
                log.warning("DP CTRL/STAT.TRNMODE: pushed transfers are not modelled")
            self._ctrl = self._ctrl & ~_CTRL_WRITABLE | value & _CTRL_WRITABLE
        elif address == 0x8:
            self.select = value
        elif address == 0xC:
            # TARGETSEL is a line reset's first request, and nobody drives an answer to it.
            return Ack.NONE, 0
        return Ack.OK, 0

    def _ctrl_stat(self) -> int:
        """Power comes at once, so each request is acknowledged as soon as one looks."""
        return self._ctrl | (self._ctrl & _POWER) << 1

    def _access_ap(self, read: bool, address: int, value: int) -> tuple[Ack, int]:
        self._check_sticky()
        if self.garble_next_write and not read:
            self.garble_next_write = False
            self._set(CtrlStat.WDATAERR)
            return Ack.OK, 0  # the data come after the acknowledge, and are dropped
        if self._ctrl & _POWER != _POWER:
            self._fault()
            raise _Fault
        self._check_idle()
        if self._clock.now < self.stormy_until:
            raise ApBusy(self.stormy_until)
        ap = self._active = self.aps.get(self.select >> 24)
        register = self.select & 0xF0 | address
        previous = self._result
        if read:
            self._set(CtrlStat.READOK)
            if ap is None:
                self._result = 0  # IDR 0: no port here
            else:
                ap.read(register, self._done)
        elif ap is not None:
            ap.write(register, value)
        return Ack.OK, previous

    def _done(self, value: int) -> None:
        self._result = value

    def _set(self, flag: CtrlStat) -> None:
        self._ctrl |= int(flag)

    def _fault(self) -> None:
        self._ctrl &= ~int(CtrlStat.READOK)
        self._set(CtrlStat.STICKYERR)

    def _check_idle(self) -> None:
        if self._active is not None and (ready := self._active.ready) is not None:
            raise ApBusy(ready)

    def _check_sticky(self) -> None:
        if self._ctrl & _STICKY:
            self._ctrl &= ~int(CtrlStat.READOK)
            raise _Fault

    def _abort(self, abort: Abort) -> None:
        if abort & Abort.DAPABORT and self._active is not None:
            self._active.abort()
        for bit, flag in (
            (Abort.STKCMPCLR, CtrlStat.STICKYCMP),
            (Abort.STKERRCLR, CtrlStat.STICKYERR),
            (Abort.WDERRCLR, CtrlStat.WDATAERR),
            (Abort.ORUNERRCLR, CtrlStat.STICKYORUN),
        ):
            if abort & bit:
                self._ctrl &= ~int(flag)


class _Fault(Exception):
    """Answer FAULT."""
