"""The board: an STM32H743 and its NOR, wired together, with ways to look inside and to break it.

What a reset reaches, RM0433, "Reset and clock control", "Power-on and system reset":

- A *system reset* (pin, SYSRESETREQ, watchdogs) restarts the core and every peripheral.
  Memories keep their contents.  The debug port, DBGMCU, and the core's debug units (halting
  debug, vector catch, breakpoints, watchpoints) do not notice it, which is what makes
  connecting under reset work.  The NOR is another chip and does not notice it either.
- *Power-on* restarts all of that too.  RAM then holds noise: the same noise each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random

from gdbserver.chip.cortex_m import DWT_BASE, FPB_BASE, ITM_BASE, SCS_BASE
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    AXI_SRAM_FN_MOD,
    BACKUP_SRAM,
    BANK1,
    BANK2,
    CRC,
    D2_SRAM_ALIAS,
    DBGMCU,
    DBGMCU_APB_D,
    DTCM,
    EXTI,
    FLASH,
    FLASH_IRQ,
    GPIO_STRIDE,
    GPIOA,
    ITCM,
    IWDG1,
    MDMA,
    MDMA_IRQ,
    PPB,
    PWR,
    QSPI_WINDOW,
    QUADSPI,
    QUADSPI_BANKS,
    RCC,
    SRAM1,
    SRAM2,
    SRAM3,
    SRAM4,
    SWO,
    SWTF,
    SYSCFG,
    SYSTEM_FLASH_1,
    SYSTEM_FLASH_2,
    WWDG1,
    DbgmcuCr,
)
from gdbserver.sim import components
from gdbserver.sim.access_port import AHB_AP, APB_AP, MemAp
from gdbserver.sim.bus import Bus, BusStall, Device, Direct, Master, Ram
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, Clock
from gdbserver.sim.cpu import Core
from gdbserver.sim.debug_port import DebugPort
from gdbserver.sim.debug_units import Dwt, Fpb, Itm
from gdbserver.sim.flash_interface import FlashInterface, SharedRegisters
from gdbserver.sim.gpio import Gpio
from gdbserver.sim.link import Link
from gdbserver.sim.mdma import Mdma
from gdbserver.sim.nor import Nor
from gdbserver.sim.nor_parts import PARTS
from gdbserver.sim.options import CHIP_SELECTS, DEFAULT_PINS, BoardOptions
from gdbserver.sim.pwr import Pwr
from gdbserver.sim.quadspi import QuadSpi
from gdbserver.sim.rcc import ClockGated, Rcc, ResetCause
from gdbserver.sim.registers import Peripheral
from gdbserver.sim.system import AxiSramPort, CrcUnit, Dbgmcu, Exti, Syscfg
from gdbserver.sim.system_control import SystemControl
from gdbserver.sim.trace import Funnel, SerialWireOutput
from gdbserver.sim.watchdog import Iwdg, Wwdg

log = logging.getLogger(__name__)

__all__ = ["DEFAULT_PINS", "RESET_PULSE", "Board", "BoardOptions"]

_WWDG_IRQ = 0

RESET_PULSE = 20 * MICROSECOND  # DS12110, "NRST pin characteristics": an internal reset's pulse

# An access that waits for a sleeping core, in nanoseconds: it is tried again after whatever
# happens next, which may wake the core.
_SHORTEST_NAP, _LONGEST_NAP = 1_000, 100_000

_DEBUG_CLOCKS = int(DbgmcuCr.TRACECLKEN | DbgmcuCr.D1DBGCKEN | DbgmcuCr.D3DBGCKEN)

# What hangs off the D3 domain's bus matrix: as far as AP1 gets.
_D3 = (SRAM4, BACKUP_SRAM, Span(0x58000000, 0x5C000000))

# Where peripherals are.  RM0433, "Memory map and register boundary addresses".
_UPPER_LINES = {"IO2": 0x44, "IO3": 0x88}  # the bits of a byte that cross them

_PERIPHERAL_BUSES = {
    "APB1": Span(0x40000000, 0x4000D800),
    "APB2": Span(0x40010000, 0x40017800),
    "AHB1": Span(0x40020000, 0x400C0000),
    "AHB2": Span(0x48020000, 0x48022800),
    "APB3": Span(0x50000000, 0x50004000),
    "AHB3": Span(0x51000000, 0x52009000),
    "APB4": Span(0x58000000, 0x58007000),
    "AHB4": Span(0x58020000, 0x58027000),
}


class GatedRam:
    """A memory that is dead while its clock is off, and may be seen at two addresses."""

    def __init__(self, ram: Ram, rcc: Rcc, name: str, bus: Bus, starts: Sequence[int]) -> None:
        self._ram = ram
        self._rcc = rcc
        self._name = name
        self._bus = bus
        self._starts = starts
        self._clocked = rcc.clocked(name)
        rcc.on_gates_changed.append(self._gates_changed)

    def read(self, offset: int, size: int, master: Master) -> int:
        return self._ram.read(offset, size, master) if self._clocked else 0

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if not self._clocked:
            log.warning("%s: written while its clock is off", self._name)
            return
        self._ram.write(offset, size, value, master)
        if master is not Master.CORE:
            for start in self._starts:
                self._bus.changed(Span.of(start + offset, size))

    def read_block(self, offset: int, length: int, master: Master) -> bytes:
        return bytes(self._ram.data[offset : offset + length]) if self._clocked else bytes(length)

    def write_block(self, offset: int, data: bytes, master: Master) -> None:
        for i in range(0, len(data), 4):
            self.write(offset + i, 4, int.from_bytes(data[i : i + 4], "little"), master)

    def direct(self, offset: int) -> Direct | None:
        return self._ram.direct(offset) if self._clocked else None

    def _gates_changed(self) -> None:
        clocked = self._rcc.clocked(self._name)
        if clocked != self._clocked:
            self._clocked = clocked
            for start in self._starts:
                self._bus.revoke(Span.of(start, len(self._ram.data)))


class PinMux:
    """A GPIO port that tells when one of its pins is used for something else."""

    _FUNCTIONS = (Gpio.MODER.offset, Gpio.AFRL.offset, Gpio.AFRH.offset)

    def __init__(self, port: Gpio, on_change: Callable[[], None]) -> None:
        self._port = port
        self._on_change = on_change

    def read(self, offset: int, size: int, master: Master) -> int:
        return self._port.read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self._port.write(offset, size, value, master)
        if offset & ~3 in self._FUNCTIONS:
            self._on_change()


class NotModelled:
    """Peripherals that the chip has and this board has not: they read as zero."""

    def __init__(self, bus_name: str, start: int) -> None:
        self._bus_name = bus_name
        self._start = start
        self._told: set[int] = set()

    def read(self, offset: int, size: int, master: Master) -> int:
        self._tell(offset)
        return 0

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self._tell(offset)

    def _tell(self, offset: int) -> None:
        address = self._start + offset
        if address >> 10 not in self._told:
            self._told.add(address >> 10)
            log.warning("%s: no peripheral is modelled at %#010x", self._bus_name, address)


class Board:
    """Everything behind the probe's cable.

    Time: `run_until` is the only thing that lets it pass.  The probe calls it with the time
    on its link, and the core executes for just that long.
    """

    def __init__(self, options: BoardOptions | None = None) -> None:
        self.options = options or BoardOptions()
        self.clock = Clock()
        self.bus = Bus()
        """What the core sees, and AP0."""
        self.apb_d = Bus()
        """What AP2 sees."""
        self._rams: list[Ram] = []
        self._links: list[Link] = []
        self._pulling_nrst: set[str] = set()

        self.pwr = Pwr(self.clock)
        self.rcc = Rcc(self.clock, backup_access=lambda: self.pwr.backup_access)
        self.scs = SystemControl()
        self.core = Core(self.clock, self.bus, self.scs, lambda: self.rcc.core_hz)
        self.fpb = Fpb(self.core)
        self.dwt = Dwt(self.core)
        self.swtf = Funnel("SWTF", self._trace_clocked)
        self.swo = SerialWireOutput(
            self.clock,
            self.swtf,
            trace_hz=lambda: self.rcc.pll_hz(1, "R"),
            clocked=self._trace_clocked,
            wired=lambda: self.gpio["B"].alternate(3) == 0,
        )
        self.itm = Itm(self.scs, self.swo)
        self.flash = FlashInterface(
            self.clock,
            self.bus,
            timing=self.options.timing,
            flash_kib=self.options.flash_kib,
            rdp=self.options.rdp,
            axi_hz=lambda: self.rcc.hclk3_hz,
            debugger=lambda: self.scs.debug_enabled,
        )
        self._nor_wires = self.options.qspi_wires
        self._nor_array, self.nors = self._solder_nors()
        self.nor = self.nors[0]
        self.quadspi = QuadSpi(
            self.clock,
            self.bus,
            dict(zip(self._nor_wires, self.nors, strict=True)),
            self._nor_array,
            kernel_hz=lambda: self.rcc.quadspi_hz,
            lost_bits=self._lost_nor_bits,
            clocked=lambda: self.rcc.clocked("QSPI"),
        )
        self.mdma = Mdma(
            self.clock,
            self.bus,
            axi_hz=lambda: self.rcc.hclk3_hz,
            clocked=lambda: self.rcc.clocked("MDMA"),
            on_irq=lambda level: self.scs.set_irq(MDMA_IRQ, level),
        )
        self.gpio = {port: Gpio(port) for port in "ABCDEFGHIJK"}
        self.syscfg = Syscfg()
        self.exti = Exti()
        self.crc = CrcUnit()
        self.dbgmcu = Dbgmcu(self.options.revision)
        self.axi_sram_port = AxiSramPort(self.options.revision)
        if self.axi_sram_port.misreads:
            self.core.watch_reads(AXI_SRAM, self.axi_sram_port.read_by_core)
        self.iwdg = Iwdg(
            self.clock,
            lsi_hz=lambda: self.rcc.lsi_hz,
            frozen=lambda: self.core.halted and self.dbgmcu.freezes_iwdg,
        )
        self.wwdg = Wwdg(
            self.clock,
            pclk_hz=lambda: self.rcc.pclk3_hz,
            frozen=lambda: self.core.halted and self.dbgmcu.freezes_wwdg,
        )
        self._peripherals: dict[str, Peripheral] = {
            "QSPI": self.quadspi,
            "MDMA": self.mdma,
            "SYSCFG": self.syscfg,
            "CRC": self.crc,
            "WWDG1": self.wwdg,
            **{f"GPIO{name}": port for name, port in self.gpio.items()},
        }
        """By the names of their bits in RCC."""
        self.debug_port = DebugPort(self.clock, self._access_ports())
        self.debug_port.aps[0].on_access = self._debugger_accesses

        self._attach_memories()
        self._attach_peripherals()
        self._attach_debug()
        self._connect()
        self._fill_rams()
        self._end_reset()

    # --- Wiring --------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Interrupts, resets, clock gates: the lines from one unit to another."""
        self.scs.on_system_reset = lambda: self.reset(ResetCause.SOFTWARE)
        self.flash.on_irq = lambda level: self.scs.set_irq(FLASH_IRQ, level)
        self.flash.on_changing = self.scs.caches.flash_changes
        self.quadspi.set_irq = self.scs.set_irq
        self.iwdg.on_timeout = lambda: self.reset(ResetCause.IWDG1)
        self.rcc.lsi_forced = lambda: self.iwdg.running
        self.wwdg.on_timeout = lambda: self.reset(ResetCause.WWDG1)
        self.wwdg.on_irq = lambda level: self.scs.set_irq(_WWDG_IRQ, level)
        self.rcc.on_peripheral_reset = self._reset_peripheral
        self.rcc.on_gates_changed.append(self.quadspi.gates_changed)
        self.rcc.on_gates_changed.append(self.mdma.gates_changed)

    def _solder_nors(self) -> tuple[bytearray, tuple[Nor, ...]]:
        """The NORs, and the array behind them as the QUADSPI's window shows it.

        Of two side by side each holds every other byte.
        """
        options = self.options
        names = [options.nor, options.nor2 or options.nor][: len(self._nor_wires)]
        array = bytearray(b"\xff") * (len(names) * max(PARTS[name].size for name in names))
        nors = []
        for number, name in enumerate(names):
            memory: bytearray | memoryview = array
            if len(names) > 1:
                memory = memoryview(array)[number :: len(names)][: PARTS[name].size]
            nors.append(Nor(name, self.clock, timing=options.timing, memory=memory))
        return array, tuple(nors)

    def nor_contents(self, start: int, length: int) -> bytes:
        """What the NORs hold, as an ideal reader of the QUADSPI's window would see it."""
        return bytes(self._nor_array[start : start + length])

    def _attach_memories(self) -> None:
        attach = self.bus.attach
        for span in (ITCM, DTCM, AXI_SRAM, SRAM4):
            attach(span.start, len(span), self._ram(span))
        alias = D2_SRAM_ALIAS.start
        for name, span in (("SRAM1", SRAM1), ("SRAM2", SRAM2), ("SRAM3", SRAM3)):
            starts = (span.start, alias)
            gated = GatedRam(self._ram(span), self.rcc, name, self.bus, starts)
            for start in starts:
                attach(start, len(span), gated)
            alias += len(span)
        backup = GatedRam(
            self._ram(BACKUP_SRAM), self.rcc, "BKPRAM", self.bus, (BACKUP_SRAM.start,)
        )
        attach(BACKUP_SRAM.start, len(BACKUP_SRAM), backup)
        attach(BANK1.start, len(BANK1), self.flash.array(1))
        attach(BANK2.start, len(BANK2), self.flash.array(2))
        attach(SYSTEM_FLASH_1.start, len(SYSTEM_FLASH_1), self.flash.system)
        attach(SYSTEM_FLASH_2.start, len(SYSTEM_FLASH_2), self.flash.system_2)
        attach(QSPI_WINDOW.start, len(QSPI_WINDOW), self.quadspi.window)

    def _ram(self, span: Span) -> Ram:
        ram = Ram(len(span))
        self._rams.append(ram)
        return ram

    def _attach_peripherals(self) -> None:
        attach = self.bus.attach
        attach(FLASH, self.flash.registers.size, self.flash.registers)
        attach(QUADSPI, self.quadspi.size, self.quadspi)
        attach(RCC, self.rcc.size, self.rcc)
        attach(PWR, self.pwr.size, self.pwr)
        attach(EXTI, self.exti.size, self.exti)
        attach(AXI_SRAM_FN_MOD, self.axi_sram_port.size, self.axi_sram_port)
        attach(IWDG1, self.iwdg.size, self.iwdg)
        self._attach_gated(WWDG1, "WWDG1", self.wwdg, self.wwdg.size)
        self._attach_gated(SYSCFG, "SYSCFG", self.syscfg, self.syscfg.size)
        self._attach_gated(CRC, "CRC", self.crc, self.crc.size)
        self._attach_gated(MDMA, "MDMA", self.mdma, self.mdma.size)
        for index, (name, port) in enumerate(self.gpio.items()):
            device = PinMux(port, self.quadspi.pins_changed)
            self._attach_gated(GPIOA + index * GPIO_STRIDE, f"GPIO{name}", device, port.size)
        attach(DBGMCU, self.dbgmcu.size, self.dbgmcu)
        self.apb_d.attach(DBGMCU_APB_D, self.dbgmcu.size, self.dbgmcu)
        attach(SWO, self.swo.size, self.swo)
        attach(SWTF, self.swtf.size, self.swtf)
        for name, span in _PERIPHERAL_BUSES.items():
            self._fill_gaps(name, span)

    def _attach_gated(self, start: int, name: str, device: Device, size: int) -> None:
        gated = ClockGated(device, self.rcc, name, self.bus, Span.of(start, size))
        self.bus.attach(start, size, gated)

    def _lost_nor_bits(self, bank: int, dual: bool) -> int | None:
        """What pins without the function that they need for a bank's NOR keep from it.

        Both chip selects fall in dual-flash mode; else only the bank's own.  IO2 and IO3 are WP#
        and HOLD# as well, and the board pulls them up: on one line or two the NOR needs neither.
        """
        table = QUADSPI_BANKS[bank]
        lost = 0
        for signal, pin in self._nor_wires.get(bank, {}).items():
            choice = CHIP_SELECTS if signal == "NCS" and dual else table[signal]
            if self.gpio[pin[1]].alternate(int(pin[2:])) == choice.get(pin):
                continue
            if signal not in _UPPER_LINES:
                return None
            lost |= _UPPER_LINES[signal]
        return lost

    def _fill_gaps(self, name: str, span: Span) -> None:
        """Let what is not modelled read as zero, as a peripheral without a clock does."""
        start = span.start
        taken = sorted(device_span for device_span, _ in self.bus.devices if device_span in span)
        for device_span in [*taken, Span(span.end, span.end)]:
            if device_span.start > start:
                self.bus.attach(start, device_span.start - start, NotModelled(name, start))
            start = device_span.end

    def _attach_debug(self) -> None:
        units: dict[int, Device] = {
            ITM_BASE: self.itm,
            DWT_BASE: self.dwt,
            FPB_BASE: self.fpb,
            SCS_BASE: self.scs,
        }
        for start, unit in units.items():
            self.bus.attach(start, components.PAGE, unit)
        components.attach_core_components(self.bus)
        components.attach_trace_components(self.apb_d, self._trace_clocked)
        self.apb_d.attach(components.SWO_BASE, components.PAGE, self.swo)
        self.apb_d.attach(components.SWTF_BASE, components.PAGE, self.swtf)

    def _trace_clocked(self) -> bool:
        cr = self.dbgmcu.raw(self.dbgmcu.CR)
        return cr & _DEBUG_CLOCKS == _DEBUG_CLOCKS

    def _access_ports(self) -> dict[int, MemAp]:
        enabled = self.options.rdp != 0xCC
        return {
            0: MemAp(
                AHB_AP,
                self.clock,
                self.bus,
                Master.AP0,
                base=components.AP0_ROM | 3,
                reaches=self._ap0_reaches,
                enabled=enabled,
            ),
            1: MemAp(
                AHB_AP,
                self.clock,
                self.bus,
                Master.AP1,
                reaches=self._ap1_reaches,
                enabled=enabled,
            ),
            2: MemAp(APB_AP, self.clock, self.apb_d, Master.AP2, base=components.AP2_ROM | 3),
        }

    def _debugger_accesses(self, start: int, length: int, write: bool, cacheable: bool) -> None:
        caches = self.scs.caches
        if caches.ccr:
            caches.debugger_access(Span.of(start, length), write=write, looks_up=cacheable)

    def _ap0_reaches(self, address: int) -> bool:
        """While the chip is in reset, the core's debug units answer and nothing behind them.

        The way leads through the core, and its clock stands still while it sleeps, unless
        DBGMCU keeps it going: then an access waits until the core wakes.

        Raises:
            BusStall: the core sleeps without a clock.
        """
        core = self.core
        if (
            core.asleep
            and not core.in_reset
            and not self.dbgmcu.keeps_clock(deeply=self.scs.sleeps_deeply)
        ):
            now, due = self.clock.now, self.clock.next_event
            nap = _LONGEST_NAP if due is None else max(due - now, 0) + _SHORTEST_NAP
            raise BusStall(now + min(nap, _LONGEST_NAP))
        return not core.in_reset or address in PPB

    def _ap1_reaches(self, address: int) -> bool:
        return not self.core.in_reset and any(address in span for span in _D3)

    # --- Time ----------------------------------------------------------------------------------

    def run_until(self, when: int) -> None:
        """Let the core run, or time pass, until `when`: never less, perhaps a little more."""
        if when > self.clock.now and not (self.core.halted and self.clock.passes_quietly(when)):
            self.core.run_until(when)

    def next_change(self) -> int | None:
        return self.clock.next_change()

    @property
    def running(self) -> bool:
        """Whether the core executes instructions."""
        core = self.core
        return not (core.halted or core.asleep or core.locked_up or core.in_reset)

    # --- Resets ---------------------------------------------------------------------------------

    def reset(self, cause: ResetCause) -> None:
        """A system reset from inside the chip; its pulse on NRST lasts `RESET_PULSE`."""
        if self.core.in_reset:
            return
        self._begin_reset(cause)
        self.clock.after(RESET_PULSE, self._pulse_over)

    def hold_reset(self, asserted: bool, who: str = "probe") -> None:
        """Somebody pulls NRST low, or lets go; it is high when nobody pulls."""
        was_low = bool(self._pulling_nrst)
        (self._pulling_nrst.add if asserted else self._pulling_nrst.discard)(who)
        if not was_low and self._pulling_nrst:
            self._begin_reset(ResetCause.PIN)
        elif was_low and not self._pulling_nrst:
            self._end_reset()

    def _pulse_over(self) -> None:
        if not self._pulling_nrst and self.core.in_reset:
            self._end_reset()

    def _begin_reset(self, cause: ResetCause) -> None:
        log.info("reset: %s", cause.name)
        self.core.in_reset = True
        self.rcc.reset(cause)
        power_on = cause is ResetCause.POWER_ON
        self.pwr.reset(power_on=power_on)
        if power_on:
            self.flash.power_loss()
        else:
            self.flash.reset()
        self._reset_peripherals()

    def _reset_peripherals(self) -> None:
        for peripheral in (*self._peripherals.values(), self.exti, self.iwdg, self.axi_sram_port):
            peripheral.reset()
        self.quadspi.pins_changed()

    def _reset_peripheral(self, name: str) -> None:
        """RCC's reset bit of one peripheral."""
        if name in self._peripherals:
            self._peripherals[name].reset()
            self.quadspi.pins_changed()

    def _end_reset(self) -> None:
        options = self.flash.shared
        self.core.boot_address = options[SharedRegisters.BOOT_CUR].BOOT_ADD0 << 16
        if not options[SharedRegisters.OPTSR_CUR].IWDG1_SW:
            self.iwdg.start()  # the option byte says: hardware watchdog
        self.core.in_reset = False
        self.core.reset()

    def power_cycle(self) -> None:
        """Take the power away from chip and NOR, and give it back."""
        self.power_off()
        self.power_on()

    def power_off(self) -> None:
        """Take the power away from chip and NOR; the probe has its own."""
        self._begin_reset(ResetCause.POWER_ON)
        self.debug_port.power_off()

    def power_on(self) -> None:
        """Give it back."""
        for nor in self.nors:
            nor.power_cycle()
        self.scs.power_on_reset()
        for unit in (self.fpb, self.dwt, self.itm, self.swo, self.swtf, self.dbgmcu):
            unit.reset()
        self.debug_port.power_on()
        self._fill_rams()
        if not self._pulling_nrst:
            self._end_reset()

    def _fill_rams(self) -> None:
        for seed, ram in enumerate(self._rams):
            ram.data[:] = Random(seed).randbytes(len(ram.data))
        for span, device in self.bus.devices:
            if isinstance(device, (Ram, GatedRam)):
                self.bus.changed(span)

    # --- Faults -----------------------------------------------------------------------------------

    def attach(self, link: Link) -> None:
        """A probe is plugged in."""
        self._links.append(link)

    def unplug(self) -> None:
        """Somebody pulls the probe's USB cable.  The chip does not notice."""
        for link in self._links:
            link.plugged = False

    def replug(self) -> None:
        for link in self._links:
            link.plugged = True

    def wait_storm(self, duration: int = 100 * MILLISECOND) -> None:
        """For so many nanoseconds every access through an access port is answered WAIT."""
        self.debug_port.stormy_until = self.clock.now + duration

    def slow_registers(self, duration: int) -> None:
        """From now on DHCSR.S_REGRDY comes so many nanoseconds after DCRSR was written."""
        self.scs.defer = lambda action: self.clock.after(duration, action)
