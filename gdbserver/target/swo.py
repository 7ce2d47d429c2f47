"""Serial wire output: what a program prints through the ITM, one pin and the probe.

The way is set up here, from the debugger's side: DBGMCU gives the trace components a clock, the
ITM's ports are opened, the funnel before the SWO is opened for the core, and the SWO is told to
send as a UART does.  The program only has to write to its port, and to leave PB3 alone.

Two things are the program's, and cannot be guessed: the trace clock, which is output R of PLL1
(no R, no SWO), and that it stays as it is.

RM0433, "Debug infrastructure": "Serial wire output (SWO)", "Clock domains"; DDI 0403E.e, "The
Instrumentation Trace Macrocell".
"""

from __future__ import annotations

import logging
from typing import Final

from pyocd.core.exceptions import Error as PyocdError
from pyocd.probe.debug_probe import DebugProbe

from gdbserver.chip.cortex_m import DEMCR, Demcr
from gdbserver.chip.stm32h743 import (
    GPIO_STRIDE,
    GPIOA,
    RCC_AHB4ENR,
    RCC_CR,
    RCC_PLLCFGR,
    SWO_APB_D,
    SWTF_APB_D,
)
from gdbserver.errors import ProbeError, TargetError
from gdbserver.target.access import Read, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_LAR, _UNLOCK = 0xFB0, 0xC5ACCE55
_ITM: Final = 0xE0000000
_ITM_TER, _ITM_TPR, _ITM_TCR = _ITM + 0xE00, _ITM + 0xE40, _ITM + 0xE80
_TCR_BUSID, _TCR_TXENA, _TCR_ITMENA = 1 << 16, 1 << 3, 1 << 0
_CODR, _CODR_MAX, _SPPR, _NRZ = 0x010, 0x1FFF, 0x0F0, 2
_FUNNEL_CTRL, _HOLD_TIME, _PORT_0 = 0x000, 3 << 8, 1

_PLL1RDY, _DIVR1EN, _GPIOBEN = 1 << 25, 1 << 18, 1 << 1  # in RCC_CR, PLLCFGR, AHB4ENR
_GPIOB_MODER = GPIOA + GPIO_STRIDE
_GPIOB_AFRL = _GPIOB_MODER + 0x20


class Swo:
    """The receiver.  It reads while the core runs and while it is halted.

    Raises (from every method): ProbeError when the probe fails.
    """

    def __init__(self, target: Target, trace_hz: int, baud: int) -> None:
        """`trace_hz` is what output R of PLL1 gives; `baud` is rounded to a divisor of it."""
        self._target = target
        self._probe = target.link.probe
        self._divisor = max(1, min(_CODR_MAX + 1, round(trace_hz / baud)))
        self.baud = trace_hz / self._divisor

    def start(self) -> None:
        """Set up everything between the ITM and the probe.

        Raises:
            ProbeError: the probe has no SWO.
            TargetError: the trace components do not answer.
        """
        if DebugProbe.Capability.SWO not in self._probe.capabilities:
            raise ProbeError(
                f"{self._target.probe_name} cannot receive SWO",
                hint="ST-LINK and many CMSIS-DAP probes can; RTT needs no pin at all",
            )
        self.set_up()
        try:
            self._probe.swo_start(self.baud)
        except PyocdError as error:
            raise ProbeError(f"the probe does not start SWO at {self.baud:.0f} baud") from error
        log.info("SWO: %.0f baud", self.baud)
        for trouble in self._troubles():
            log.warning("SWO: %s", trouble)

    def restore(self) -> None:
        """Set the chip up again, if a reset or a power cycle has taken some of it away."""
        (control,), (enabled,) = self._target.run([Read(_ITM_TCR), Read(_ITM_TER)])
        if not (self._target.trace_is_clocked() and control & _TCR_ITMENA and enabled):
            self.set_up()

    def set_up(self) -> None:
        """The chip's part."""
        target = self._target
        target.clock_trace(on=True)
        target.link.port(2).run(
            [
                Write(SWO_APB_D + _LAR, [_UNLOCK]),
                Write(SWO_APB_D + _CODR, [self._divisor - 1]),
                Write(SWO_APB_D + _SPPR, [_NRZ]),
                Write(SWTF_APB_D + _LAR, [_UNLOCK]),
                Write(SWTF_APB_D + _FUNNEL_CTRL, [_HOLD_TIME | _PORT_0]),
            ]
        )
        target.run(
            [
                Write(_ITM + _LAR, [_UNLOCK]),
                Write(_ITM_TCR, [_TCR_BUSID | _TCR_TXENA | _TCR_ITMENA]),
                Write(_ITM_TPR, [0]),
                Write(_ITM_TER, [0xFFFFFFFF]),
            ]
        )

    def stop(self) -> None:
        """The ports are closed again; a program that prints finds the ITM off."""
        try:
            self._probe.swo_stop()
            self._target.run([Write(_ITM_TER, [0]), Write(_ITM_TCR, [0])])
            self._target.clock_trace(on=False)
        except (PyocdError, TargetError) as error:
            log.debug("SWO could not be stopped: %s", error)

    def read(self) -> bytes:
        """Trace packets as they came, as many as there are."""
        try:
            return bytes(self._probe.swo_read())
        except PyocdError as error:
            raise ProbeError("the probe does not answer about SWO") from error

    def _troubles(self) -> list[str]:
        """What would keep the pin silent."""
        (cr,), (pll,), (clocks,), (moder,), (alternate,), (demcr,) = self._target.run(
            [
                Read(RCC_CR),
                Read(RCC_PLLCFGR),
                Read(RCC_AHB4ENR),
                Read(_GPIOB_MODER),
                Read(_GPIOB_AFRL),
                Read(DEMCR),
            ]
        )
        troubles = []
        if not cr & _PLL1RDY or not pll & _DIVR1EN:
            troubles.append(
                "its clock is output R of PLL1, which is off: nothing is sent until the program "
                "switches it on"
            )
        # A port without a clock is as reset leaves it, and shows zeros.
        if clocks & _GPIOBEN and (moder >> 6 & 3 != 2 or alternate >> 12 & 0xF):
            troubles.append("the program uses PB3, the pin of SWO, for something else")
        if not demcr & Demcr.TRCENA:
            troubles.append("DEMCR.TRCENA is off")
        return troubles


class PortText:
    """What is printed to one stimulus port, out of a stream of trace packets.

    A packet is a header and 1, 2 or 4 bytes; time stamps, synchronisation and overflow are passed
    over.  DDI 0403E.e, "Debug ITM and DWT Packet Protocol".
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._packets = b""

    def feed(self, data: bytes) -> bytes:
        """More of the stream; returns what it printed, a packet that is cut off later."""
        packets, at, text = self._packets + data, 0, bytearray()
        while at < len(packets):
            end = _end_of_packet(packets, at)
            if end > len(packets):
                break
            header = packets[at]
            if header & 3 and header & ~3 == self._port << 3:
                text += packets[at + 1 : end]
            at = end
        self._packets = packets[at:]
        return bytes(text)


_SYNC_END = 0x80


def _end_of_packet(packets: bytes, at: int) -> int:
    """Where the packet at `at` ends: past the end of `packets` if some of it is missing."""
    header = packets[at]
    if size := (0, 1, 2, 4)[header & 3]:
        return at + 1 + size
    end = at + 1
    if header != _SYNC_END:
        while packets[end - 1] & 0x80:  # one more byte follows
            end += 1
            if end > len(packets):
                break
    return end
