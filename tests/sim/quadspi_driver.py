"""What firmware does with the QUADSPI: register accesses, stalls included."""

from __future__ import annotations

from gdbserver.chip.memory import Span
from gdbserver.sim.bus import Bus, BusStall, Master
from gdbserver.sim.clock import Clock
from gdbserver.sim.nor import Nor
from gdbserver.sim.nor_parts import PARTS
from gdbserver.sim.quadspi import QuadSpi

BASE = 0x52005000
CR, DCR, SR, FCR, DLR, CCR, AR, ABR, DR = (BASE + 4 * i for i in range(9))
PSMKR, PSMAR, PIR, LPTR = (BASE + 0x24 + 4 * i for i in range(4))
WINDOW = 0x90000000

TEF, TCF, FTF, SMF, TOF, BUSY = (1 << i for i in range(6))
INDIRECT_WRITE, INDIRECT_READ, POLL, MAPPED = (i << 26 for i in range(4))
DFM = 1 << 6
LINES = {0: 0, 1: 1, 2: 2, 4: 3}


def ccr(
    opcode: int,
    mode: int = INDIRECT_WRITE,
    *,
    address: int = 0,
    lines: tuple[int, int] = (1, 1),
    data: bool = False,
    dummy: int = 0,
    alternate: bool = False,
    sioo: bool = False,
) -> int:
    value = mode | opcode | 1 << 8 | dummy << 18 | sioo << 28
    if address:
        value |= LINES[lines[0]] << 10 | address - 1 << 12
    if alternate:
        value |= LINES[lines[0]] << 14
    if data:
        value |= LINES[lines[1]] << 24
    return value


class Driver:
    """The controller with a NOR on its first bank, or with two in dual-flash mode."""

    def __init__(
        self, part: str = "W25Q256JV", prescaler: int = 0, second: str | None = None
    ) -> None:
        self.hz = 64_000_000
        self.clock = Clock()
        self.bus = Bus()
        parts = [part] if second is None else [part, second]
        size = len(parts) * max(PARTS[name].size for name in parts)
        self.array = bytearray(b"\xff") * size
        self.nors = {
            bank: Nor(name, self.clock, memory=self._half(bank, name) if second else self.array)
            for bank, name in enumerate(parts, start=1)
        }
        self.nor = self.nors[1]
        self._lines = 4
        self._clocked = True
        self.irqs: list[tuple[int, bool]] = []
        self.quadspi = QuadSpi(
            self.clock,
            self.bus,
            self.nors,
            self.array,
            kernel_hz=lambda: self.hz,
            lost_bits=lambda bank, dual: {4: 0, 2: 0xCC}.get(self._lines),
            clocked=lambda: self._clocked,
        )
        self.quadspi.set_irq = lambda number, level: self.irqs.append((number, level))
        self.revoked: list[Span] = []
        self.bus.on_revoked.append(self.revoked.append)
        self.bus.attach(BASE, 0x400, self.quadspi)
        self.bus.attach(WINDOW, 0x10000000, self.quadspi.window)
        self.dual = DFM if second else 0
        self.write(CR, prescaler << 24 | self.dual | 1)
        self.write(DCR, size.bit_length() - 2 << 16)

    def wire(self, lines: int) -> None:
        """Give the pins of so many data lines their function, or none a function at all."""
        self._lines = lines
        self.quadspi.pins_changed()

    def gate(self, clocked: bool) -> None:
        """Switch the controller's bus clock on or off."""
        self._clocked = clocked
        self.quadspi.gates_changed()

    def _half(self, bank: int, name: str) -> memoryview:
        return memoryview(self.array)[bank - 1 :: 2][: PARTS[name].size]

    def read(self, address: int, size: int = 4) -> int:
        while True:
            try:
                return self.bus.read(address, size, Master.CORE)
            except BusStall as stall:
                self.stall(stall)

    def write(self, address: int, value: int, size: int = 4) -> None:
        while True:
            try:
                return self.bus.write(address, size, value, Master.CORE)
            except BusStall as stall:
                self.stall(stall)

    def stall(self, stall: BusStall) -> None:
        assert stall.ready > self.clock.now
        self.clock.advance_to(stall.ready)

    def wait(self, flag: int) -> None:
        while not self.read(SR) & flag:
            when = self.clock.next_change()
            assert when is not None, "nothing will ever set this flag"
            self.clock.advance_to(when)

    def command(self, opcode: int) -> None:
        self.write(CCR, ccr(opcode))
        self.wait(TCF)
        self.write(FCR, TCF)

    def fetch(self, value: int, length: int, address: int | None = None) -> bytes:
        self.write(DLR, length - 1)
        self.write(CCR, value)
        if address is not None:
            self.write(AR, address)
        data = bytes(self.read(DR, 1) for _ in range(length))
        self.wait(TCF)
        self.write(FCR, TCF)
        return data

    def send(self, value: int, data: bytes, address: int | None = None) -> None:
        self.write(DLR, len(data) - 1)
        self.write(CCR, value)
        if address is not None:
            self.write(AR, address)
        for byte in data:
            self.write(DR, byte, 1)
        self.wait(TCF)
        self.write(FCR, TCF)

    def wait_ready(self) -> None:
        self.write(PSMKR, 1)
        self.write(PSMAR, 0)
        self.write(PIR, 0x10)
        self.write(DLR, 0)
        self.write(CR, self.dual | 1 | 1 << 22)
        self.write(CCR, ccr(0x05, POLL, data=True))
        self.wait(SMF)
        self.write(FCR, SMF)

    def map(self, value: int | None = None) -> None:
        if value is None:
            value = ccr(0xEC, MAPPED, address=4, lines=(4, 4), data=True, dummy=6)
        self.write(CCR, value)

    def abort(self) -> None:
        self.write(CR, self.dual | 1 | 2)
        self.wait(TCF)
        self.write(FCR, TCF)
