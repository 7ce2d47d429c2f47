"""A machine that is nothing but a core with flash, RAM and one peripheral, for tests."""

from __future__ import annotations

from collections.abc import Callable

from firmware_helper import firmware

from gdbserver.chip.cortex_m import Cfsr, Dhcsr, Hfsr
from gdbserver.sim.bus import Bus, BusStall, Direct, Master, Ram
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND, Clock
from gdbserver.sim.cpu import Core
from gdbserver.sim.debug_units import Dwt, Fpb, Itm
from gdbserver.sim.system_control import SystemControl

DHCSR, DCRSR, DCRDR, DEMCR = 0xE000EDF0, 0xE000EDF4, 0xE000EDF8, 0xE000EDFC
DFSR, CFSR, HFSR, MMFAR, BFAR = 0xE000ED30, 0xE000ED28, 0xE000ED2C, 0xE000ED34, 0xE000ED38
KEY = 0xA05F0000
RESULT = 0x20000000
HZ = 64_000_000


class Slave:
    """A peripheral of which each test decides what an access does."""

    data_ports: frozenset[int] = frozenset()
    idle_writes: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.accesses: list[tuple[str, int, int]] = []
        self.on_read: Callable[[int], int] = lambda offset: 0
        self.on_write: Callable[[int, int], object] = lambda offset, value: None

    def read(self, offset: int, size: int, master: Master) -> int:
        value = self.on_read(offset)
        self.accesses.append(("read", offset, value))
        return value

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self.on_write(offset, value)
        self.accesses.append(("write", offset, value))


class Rom:
    """Flash to execute from: plain, unless `busy_until` a time; stores are recorded."""

    def __init__(self, clock: Clock, image: bytes) -> None:
        self.data = bytearray(image.ljust(0x10000, b"\xff"))
        self.busy_until = 0
        self.stores: list[tuple[int, int, int]] = []
        self._clock = clock

    def read(self, offset: int, size: int, master: Master) -> int:
        if self._clock.now < self.busy_until:
            raise BusStall(self.busy_until)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self.stores.append((offset, size, value))

    def direct(self, offset: int) -> Direct | None:
        if self._clock.now < self.busy_until:
            return None
        return Direct(0, self.data, writable=False)


class Machine:
    """A core with flash, RAM, one peripheral and its debug units; its own debugger, too."""

    def __init__(self, code: str, **options: object) -> None:
        self.clock = Clock()
        self.bus = Bus()
        self.scs = SystemControl()
        self.hz = HZ
        self.core = Core(self.clock, self.bus, self.scs, lambda: self.hz)
        self.rom = Rom(self.clock, firmware(code, **options))  # type: ignore[arg-type]
        self.ram = Ram(0x20000)
        self.slave = Slave()
        self.bus.attach(0x08000000, len(self.rom.data), self.rom)
        self.bus.attach(0x20000000, len(self.ram.data), self.ram)
        self.bus.attach(0x40000000, 0x400, self.slave)
        self.bus.attach(0xE0000000, 0x1000, Itm(self.scs))
        self.bus.attach(0xE0001000, 0x1000, Dwt(self.core))
        self.bus.attach(0xE0002000, 0x1000, Fpb(self.core))
        self.bus.attach(0xE000E000, 0x1000, self.scs)
        self[DHCSR] = KEY | Dhcsr.C_DEBUGEN
        self.core.reset()

    def __getitem__(self, address: int) -> int:
        return self.bus.read(address, 4, Master.AP0)

    def __setitem__(self, address: int, value: int) -> None:
        self.bus.write(address, 4, value, Master.AP0)

    def run(self, duration: int = MILLISECOND) -> Machine:
        """Let `duration` pass."""
        self.core.run_until(self.clock.now + duration)
        return self

    def run_to_halt(self, limit: int = SECOND) -> Machine:
        end = self.clock.now + limit
        while not self.core.halted:
            assert self.clock.now < end, f"still running at {self.core.pc:#010x}"
            self.run(100 * MICROSECOND)
        return self

    def register(self, selector: int) -> int:
        self[DCRSR] = selector
        return self[DCRDR]

    def set_register(self, selector: int, value: int) -> None:
        self[DCRDR] = value
        self[DCRSR] = 1 << 16 | selector

    def registers(self) -> list[int]:
        return [self.register(n) for n in (*range(19), 20, 33, *range(64, 96))]

    @property
    def pc(self) -> int:
        return self.register(15)

    @property
    def ipsr(self) -> int:
        return self.register(16) & 0x1FF

    @property
    def cfsr(self) -> Cfsr:
        return Cfsr(self[CFSR])

    @property
    def hfsr(self) -> Hfsr:
        return Hfsr(self[HFSR])

    def step(self) -> int:
        self[DHCSR] = KEY | Dhcsr.C_DEBUGEN | Dhcsr.C_STEP
        self.run(10 * MICROSECOND)
        assert self.core.halted
        return self.pc

    def resume(self) -> None:
        self[DHCSR] = KEY | Dhcsr.C_DEBUGEN

    def result(self, index: int = 0) -> int:
        return self[RESULT + 4 * index]
