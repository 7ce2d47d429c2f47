"""The way of a printed character out of the chip: ITM, funnel, serial wire output, pin, probe.

The ITM makes packets; the funnel SWTF lets them pass if its port for the core is open; the SWO
sends them as a UART does, in bits of (CODR + 1) cycles of the trace clock, which is output R of
PLL1; and they leave by PB3.  What a probe makes of them depends on the speed that it expects.

RM0433, "Debug infrastructure": "Serial wire output (SWO)", "Trace funnel (CSTF)", "Clock
domains"; Arm CoreSight SoC-400 TRM (DDI 0480), "ATB funnel registers"; CoreSight Components
TRM (DDI 0314), "Serial Wire Output"; DDI 0403E.e, "Instrumentation trace packets".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gdbserver.sim import components
from gdbserver.sim.bus import BusError, Master
from gdbserver.sim.clock import SECOND, Clock
from gdbserver.sim.components import CoreSightComponent
from gdbserver.sim.registers import Constant, Word

_BITS = 10  # a start bit, eight of data, a stop bit
_FIFO = 32
"""Bytes that wait for the wire before the ITM says that it is full.  An estimate."""
_NRZ = 2
_OUT_OF_TUNE = 0.04
"""How far apart the speeds may be; beyond it the last bit of a character is another one."""
_PROBE_BUFFER = 4096
"""Bytes that a probe keeps between two looks of its host.  An estimate."""


class _Traced(CoreSightComponent):
    """A component on the debugger's trace bus, dead until DBGMCU gives it a clock."""

    def __init__(self, name: str, clocked: Callable[[], bool]) -> None:
        self._clocked = clocked
        super().__init__(name)

    def read(self, offset: int, size: int, master: Master) -> int:
        if not self._clocked():
            raise BusError("read")
        if offset >= components.DEVARCH:
            return self.identity.read(offset & 0xFFC)
        return super().read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if not self._clocked():
            raise BusError("write")
        super().write(offset, size, value, master)


class Funnel(_Traced):
    """SWTF, which leads to the SWO: port 0 is the core's ITM."""

    identity = components.FUNNEL

    CTRL = Word(0x000, reset=0x300, writable=0xF03)
    LAR = Word(0xFB0)
    LSR = Constant(0xFB4, 0)  # no lock for a debugger

    @property
    def open(self) -> bool:
        return bool(self.raw(self.CTRL) & 1)


class SerialWireOutput(_Traced):
    """SWO: its registers, and the wire behind it."""

    identity = components.SWO

    CODR = Word(0x010, writable=0x1FFF)
    SPPR = Word(0x0F0, reset=1, writable=0x3)
    FFSR = Constant(0x300, 0x8)
    LAR = Word(0xFB0)
    LSR = Constant(0xFB4, 0)

    def __init__(
        self,
        clock: Clock,
        funnel: Funnel,
        *,
        trace_hz: Callable[[], int],
        clocked: Callable[[], bool],
        wired: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._funnel = funnel
        self._trace_hz = trace_hz
        self._wired = wired
        self._wire: deque[tuple[int, int, float]] = deque()
        self._free = 0
        super().__init__("SWO", clocked)

    @property
    def full(self) -> bool:
        """Whether what is sent now would be lost."""
        return len(self._wire) >= _FIFO and self._wire[-_FIFO][0] > self._clock.now

    def send(self, packet: bytes) -> None:
        """Put a packet on the wire, if all that it passes is set up for it."""
        hz = self._trace_hz()
        ready = self._clocked() and self._funnel.open and self.raw(self.SPPR) == _NRZ
        if not ready or not hz or self.full:
            return
        rate = hz / (self.raw(self.CODR) + 1)
        for byte in packet:
            self._free = max(self._free, self._clock.now) + round(_BITS * SECOND / rate)
            self._wire.append((self._free, byte, rate))
        while len(self._wire) > _PROBE_BUFFER:
            self._wire.popleft()

    def heard(self, rate: float) -> bytes:
        """What a UART at `rate` bits a second has received since the last look."""
        heard = bytearray()
        while self._wire and self._wire[0][0] <= self._clock.now:
            _, byte, sent_at = self._wire.popleft()
            if self._wired():
                in_tune = abs(sent_at - rate) <= _OUT_OF_TUNE * sent_at
                heard.append(byte if in_tune else byte * 0xA7 + 0x55 & 0xFF)
        return bytes(heard)

    def forget(self) -> None:
        """A receiver that is switched on now has missed what was sent before."""
        while self._wire and self._wire[0][0] <= self._clock.now:
            self._wire.popleft()
