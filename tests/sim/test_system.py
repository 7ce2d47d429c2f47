"""What surrounds the core: clocks, power, pins, watchdogs, identity, CRC."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import SRAM1
from gdbserver.sim.bus import Bus, Master, Ram
from gdbserver.sim.clock import MILLISECOND, SECOND, Clock
from gdbserver.sim.gpio import Gpio
from gdbserver.sim.pwr import SETTLING, Pwr
from gdbserver.sim.rcc import STARTUP, ClockGated, Rcc, ResetCause
from gdbserver.sim.registers import Peripheral, Register
from gdbserver.sim.system import CrcUnit, Dbgmcu, Exti, Syscfg
from gdbserver.sim.watchdog import SAMPLE, Iwdg, Wwdg

CORE = Master.CORE


def read(device: Peripheral, register: Register) -> int:
    return device.read(register.offset, 4, CORE)


def write(device: Peripheral, register: Register, value: int) -> None:
    device.write(register.offset, 4, value, CORE)


def set_bits(device: Peripheral, register: Register, bits: int) -> None:
    write(device, register, read(device, register) | bits)


def elapse(clock: Clock, duration: int) -> None:
    clock.advance_to(clock.now + duration)


# --- Clocks --------------------------------------------------------------------------------------

HSEON, PLL1ON, PLL2ON = 1 << 16, 1 << 24, 1 << 26
HSERDY, PLL1RDY = 1 << 17, 1 << 25


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rcc(clock: Clock) -> Rcc:
    return Rcc(clock)


def test_out_of_reset_everything_runs_on_hsi(rcc: Rcc) -> None:
    assert rcc.core_hz == rcc.hclk3_hz == rcc.quadspi_hz == rcc.pclk3_hz == 64_000_000
    assert rcc.lsi_hz == 32_000


def start_pll1(rcc: Rcc, clock: Clock, *, n: int = 160, p: int = 2, q: int = 4) -> None:
    """HSE / 5 * n: the usual way to 400 MHz with a crystal of 25 MHz."""
    set_bits(rcc, Rcc.CR, HSEON)
    elapse(clock, STARTUP["HSE"])
    write(rcc, Rcc.PLLCKSELR, 5 << 4 | 2)
    write(rcc, Rcc.PLL1DIVR, 1 << 24 | q - 1 << 16 | p - 1 << 9 | n - 1)
    set_bits(rcc, Rcc.CR, PLL1ON)
    elapse(clock, STARTUP["PLL"])


def test_an_oscillator_is_ready_after_its_start_up_time(rcc: Rcc, clock: Clock) -> None:
    set_bits(rcc, Rcc.CR, HSEON)
    elapse(clock, STARTUP["HSE"] - 1)
    assert not read(rcc, Rcc.CR) & HSERDY
    elapse(clock, 1)
    assert read(rcc, Rcc.CR) & HSERDY
    write(rcc, Rcc.CR, read(rcc, Rcc.CR) & ~HSEON)
    assert not read(rcc, Rcc.CR) & HSERDY


def test_a_board_without_a_crystal_never_has_hse(clock: Clock) -> None:
    rcc = Rcc(clock, hse_hz=0)
    set_bits(rcc, Rcc.CR, HSEON)
    elapse(clock, SECOND)
    assert not read(rcc, Rcc.CR) & HSERDY


def test_a_pll_without_an_input_does_not_lock(rcc: Rcc, clock: Clock) -> None:
    write(rcc, Rcc.PLLCKSELR, 5 << 4 | 2)
    set_bits(rcc, Rcc.CR, PLL1ON)
    elapse(clock, SECOND)
    assert not read(rcc, Rcc.CR) & PLL1RDY


def test_the_usual_400_megahertz(rcc: Rcc, clock: Clock) -> None:
    start_pll1(rcc, clock)
    write(rcc, Rcc.D1CFGR, 0x048)  # HPRE / 2, D1PPRE / 2
    write(rcc, Rcc.CFGR, 3)
    assert read(rcc, Rcc.CFGR) == 3 << 3 | 3
    assert (rcc.core_hz, rcc.hclk3_hz, rcc.pclk3_hz) == (400_000_000, 200_000_000, 100_000_000)


def test_the_switch_waits_for_its_source(rcc: Rcc, clock: Clock) -> None:
    write(rcc, Rcc.CFGR, 3)
    assert read(rcc, Rcc.CFGR) >> 3 & 7 == 0
    assert rcc.core_hz == 64_000_000
    start_pll1(rcc, clock)
    assert read(rcc, Rcc.CFGR) >> 3 & 7 == 3
    assert rcc.core_hz == 400_000_000


def test_the_source_of_the_system_clock_cannot_be_switched_off(rcc: Rcc, clock: Clock) -> None:
    start_pll1(rcc, clock)
    write(rcc, Rcc.CFGR, 3)
    write(rcc, Rcc.CR, 0)
    assert rcc.core_hz == 400_000_000
    assert read(rcc, Rcc.CR) & (HSERDY | PLL1RDY) == HSERDY | PLL1RDY
    assert not read(rcc, Rcc.CR) & 1


def test_a_running_pll_keeps_its_dividers_and_its_source(rcc: Rcc, clock: Clock) -> None:
    start_pll1(rcc, clock)
    write(rcc, Rcc.PLL1DIVR, 0)
    write(rcc, Rcc.PLLCKSELR, 1 << 12 | 1 << 4)
    write(rcc, Rcc.PLLCFGR, 0)
    assert rcc.pll_hz(1, "P") == 400_000_000
    assert read(rcc, Rcc.PLLCKSELR) == 1 << 12 | 5 << 4 | 2
    assert read(rcc, Rcc.PLLCFGR) == 0b111 << 16


def test_a_pll_without_its_output_does_not_clock_the_core(rcc: Rcc, clock: Clock) -> None:
    write(rcc, Rcc.PLLCFGR, 0)
    start_pll1(rcc, clock)
    write(rcc, Rcc.CFGR, 3)
    assert read(rcc, Rcc.CFGR) == 3
    assert rcc.core_hz == 64_000_000


def test_the_fraction_counts_when_it_is_enabled(rcc: Rcc, clock: Clock) -> None:
    write(rcc, Rcc.PLL1FRACR, 4096 << 3)
    start_pll1(rcc, clock)
    assert rcc.pll_hz(1, "Q") == 200_000_000
    set_bits(rcc, Rcc.PLLCFGR, 1)
    assert rcc.pll_hz(1, "Q") == 200_625_000


@pytest.mark.parametrize(("selection", "hertz"), [(0, 64_000_000), (1, 200_000_000), (2, 0)])
def test_the_clock_of_quadspi_is_selected(
    rcc: Rcc, clock: Clock, selection: int, hertz: int
) -> None:
    start_pll1(rcc, clock)
    write(rcc, Rcc.D1CCIPR, selection << 4)
    assert rcc.quadspi_hz == hertz


def test_quadspi_can_run_on_the_peripheral_clock(rcc: Rcc) -> None:
    write(rcc, Rcc.D1CCIPR, 3 << 4)
    assert rcc.quadspi_hz == 64_000_000
    write(rcc, Rcc.D1CCIPR, 3 << 4 | 1 << 28)
    assert rcc.quadspi_hz == 0


def test_prescalers_of_the_core(rcc: Rcc) -> None:
    for code, divider in ((0, 1), (7, 1), (8, 2), (11, 16), (12, 64), (15, 512)):
        write(rcc, Rcc.D1CFGR, code << 8)
        assert rcc.core_hz == 64_000_000 // divider


# --- Clock gates ---------------------------------------------------------------------------------


def test_each_peripheral_has_its_gate(rcc: Rcc) -> None:
    assert not rcc.clocked("QSPI")
    set_bits(rcc, Rcc.AHB3ENR, 1 << 14)
    set_bits(rcc, Rcc.AHB4ENR, 1 << 5)
    assert rcc.clocked("QSPI")
    assert rcc.clocked("GPIOF")
    assert not rcc.clocked("GPIOE")


def test_the_copies_for_cpu_1_are_the_same_registers(rcc: Rcc) -> None:
    rcc.write(0x134, 4, 1 << 14, CORE)
    assert read(rcc, Rcc.AHB3ENR) == rcc.read(0x134, 4, CORE) == 1 << 14
    assert rcc.read(0x130, 4, CORE) == read(rcc, Rcc.RSR)


def test_the_window_watchdog_keeps_its_clock(rcc: Rcc) -> None:
    set_bits(rcc, Rcc.APB3ENR, 1 << 6)
    write(rcc, Rcc.APB3ENR, 0)
    assert rcc.clocked("WWDG1")


def test_a_reset_bit_resets_its_peripheral_once(rcc: Rcc) -> None:
    reset: list[str] = []
    rcc.on_peripheral_reset = reset.append
    write(rcc, Rcc.AHB3RSTR, 1 << 14)
    write(rcc, Rcc.AHB3RSTR, 1 << 14)
    write(rcc, Rcc.AHB3RSTR, 0)
    assert reset == ["QSPI"]


def test_a_device_without_a_clock_reads_zero_and_forgets_writes(rcc: Rcc) -> None:
    bus, ram = Bus(), Ram(len(SRAM1), fill=0x5A)
    revoked: list[Span] = []
    bus.on_revoked.append(revoked.append)
    gated = ClockGated(ram, rcc, "SRAM1", bus, SRAM1)
    bus.attach(SRAM1.start, len(SRAM1), gated)
    bus.write(SRAM1.start, 4, 0, CORE)
    assert bus.read(SRAM1.start, 4, CORE) == 0
    assert gated.direct(0) is None
    set_bits(rcc, Rcc.AHB2ENR, 1 << 29)
    assert revoked == [SRAM1]
    assert bus.read(SRAM1.start, 4, CORE) == 0x5A5A5A5A
    assert gated.direct(0) is not None
    rcc.reset(ResetCause.PIN)
    assert revoked == [SRAM1, SRAM1]


# --- Resets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "bit"),
    [(ResetCause.SOFTWARE, 24), (ResetCause.IWDG1, 26), (ResetCause.WWDG1, 28)],
)
def test_the_cause_of_a_reset_can_be_read_until_it_is_forgotten(
    rcc: Rcc, cause: ResetCause, bit: int
) -> None:
    assert read(rcc, Rcc.RSR) >> 23 & 1
    write(rcc, Rcc.RSR, 1 << 16)
    assert read(rcc, Rcc.RSR) == 0
    rcc.reset(cause)
    assert read(rcc, Rcc.RSR) == 1 << bit | 1 << 22 | 1 << 17
    rcc.reset(ResetCause.PIN)
    assert read(rcc, Rcc.RSR) >> bit & 1
    rcc.reset(ResetCause.POWER_ON)
    assert not read(rcc, Rcc.RSR) >> bit & 1


def test_a_reset_brings_back_hsi_and_keeps_lsi(rcc: Rcc, clock: Clock) -> None:
    start_pll1(rcc, clock)
    write(rcc, Rcc.CFGR, 3)
    write(rcc, Rcc.CSR, 1)
    elapse(clock, STARTUP["LSI"])
    set_bits(rcc, Rcc.CR, PLL2ON)
    rcc.reset(ResetCause.PIN)
    elapse(clock, SECOND)
    assert rcc.core_hz == 64_000_000
    assert read(rcc, Rcc.CR) == 0xC025
    assert read(rcc, Rcc.CSR) == 3


def test_the_backup_domain_needs_access(clock: Clock) -> None:
    pwr = Pwr(clock)
    rcc = Rcc(clock, backup_access=lambda: pwr.backup_access)
    write(rcc, Rcc.BDCR, 1)
    assert read(rcc, Rcc.BDCR) == 0
    set_bits(pwr, Pwr.CR1, 1 << 8)
    write(rcc, Rcc.BDCR, 1)
    elapse(clock, STARTUP["LSE"])
    assert read(rcc, Rcc.BDCR) == 3
    write(rcc, Rcc.BDCR, 1 << 16)
    write(rcc, Rcc.BDCR, 0)
    assert read(rcc, Rcc.BDCR) == 0


# --- Power ---------------------------------------------------------------------------------------

LDO_ONLY, VOSRDY, ACTVOSRDY = 0x2, 1 << 13, 1 << 13


def test_the_supply_is_configured_once_and_then_ready(clock: Clock) -> None:
    pwr = Pwr(clock)
    assert read(pwr, Pwr.CR3) == 6
    write(pwr, Pwr.CR3, LDO_ONLY)
    assert not read(pwr, Pwr.CSR1) & ACTVOSRDY
    elapse(clock, SETTLING)
    assert read(pwr, Pwr.CSR1) & ACTVOSRDY
    write(pwr, Pwr.CR3, 0x5)
    assert read(pwr, Pwr.CR3) == LDO_ONLY
    pwr.reset(power_on=False)
    assert read(pwr, Pwr.CR3) == LDO_ONLY
    pwr.reset()
    assert read(pwr, Pwr.CR3) == 6


def test_voltage_scaling_is_ready_after_the_supply_and_after_each_change(clock: Clock) -> None:
    pwr = Pwr(clock)
    write(pwr, Pwr.D3CR, 3 << 14)
    elapse(clock, SECOND)
    assert not read(pwr, Pwr.D3CR) & VOSRDY
    write(pwr, Pwr.CR3, LDO_ONLY)
    elapse(clock, SETTLING)
    assert read(pwr, Pwr.D3CR) == 3 << 14 | VOSRDY
    write(pwr, Pwr.D3CR, 2 << 14)
    assert not read(pwr, Pwr.D3CR) & VOSRDY
    elapse(clock, SETTLING)
    assert read(pwr, Pwr.D3CR) & VOSRDY
    assert read(pwr, Pwr.CSR1) >> 14 & 3 == 2


# --- Pins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "moder"), [("A", 0xABFFFFFF), ("B", 0xFFFFFEBF), ("F", 0xFFFFFFFF)]
)
def test_ports_reset_to_analog_except_for_the_debug_pins(port: str, moder: int) -> None:
    assert read(Gpio(port), Gpio.MODER) == moder


def test_the_alternate_function_counts_in_alternate_mode_only() -> None:
    port = Gpio("F")
    write(port, Gpio.AFRL, 9 << 24)
    write(port, Gpio.AFRH, 10 << 4)
    assert port.alternate(6) is None
    write(port, Gpio.MODER, 2 << 12 | 2 << 18)
    assert port.alternate(6) == 9
    assert port.alternate(9) == 10
    assert port.alternate(0) is None


def test_outputs_are_set_and_cleared_and_set_wins() -> None:
    port = Gpio("C")
    write(port, Gpio.MODER, 0x55555555)
    write(port, Gpio.BSRR, 0x00000007)
    write(port, Gpio.BSRR, 0x00030001)
    assert read(port, Gpio.ODR) == read(port, Gpio.IDR) == 0x0005
    assert read(port, Gpio.BSRR) == 0


def test_inputs_show_pulls_and_what_drives_them() -> None:
    port = Gpio("C")
    port.drive = {2: True, 1: False}.get
    write(port, Gpio.MODER, 0xFFFFFF00)
    write(port, Gpio.PUPDR, 0b01_01)
    assert read(port, Gpio.IDR) == 0b0101
    write(port, Gpio.MODER, 0xFFFFFFFF)
    assert read(port, Gpio.IDR) == 0


def test_an_open_drain_output_only_pulls_down() -> None:
    port = Gpio("C")
    write(port, Gpio.MODER, 0x55555555)
    write(port, Gpio.OTYPER, 0x3)
    write(port, Gpio.ODR, 0x5)
    assert read(port, Gpio.IDR) == 0x4


def test_locked_pins_keep_their_configuration_until_reset() -> None:
    port = Gpio("C")
    for value in (0x10001, 0x00001, 0x10001):
        write(port, Gpio.LCKR, value)
    assert read(port, Gpio.LCKR) == 0x10001
    write(port, Gpio.MODER, 0)
    write(port, Gpio.AFRL, 0x77)
    assert read(port, Gpio.MODER) == 3
    assert read(port, Gpio.AFRL) == 0x70
    port.reset()
    write(port, Gpio.MODER, 0)
    assert read(port, Gpio.MODER) == 0


def test_an_incomplete_lock_sequence_locks_nothing() -> None:
    port = Gpio("C")
    for value in (0x10001, 0x00002, 0x10001):
        write(port, Gpio.LCKR, value)
    write(port, Gpio.MODER, 0)
    assert read(port, Gpio.MODER) == 0


# --- Watchdogs -----------------------------------------------------------------------------------


class Dog:
    """An IWDG on a clock, whether the core is halted, and when it bit."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.halted = False
        self.bites: list[int] = []
        self.iwdg = Iwdg(self.clock, lsi_hz=lambda: 32_000, frozen=lambda: self.halted)
        self.iwdg.on_timeout = lambda: self.bites.append(self.clock.now)

    def key(self, key: int) -> None:
        write(self.iwdg, Iwdg.KR, key)

    def set_up(self, *, prescaler: int = 0, reload: int = 0xFFF) -> None:
        """Start, set, and wait until the values have crossed over."""
        self.key(Iwdg.START)
        self.key(Iwdg.UNLOCK)
        write(self.iwdg, Iwdg.PR, prescaler)
        write(self.iwdg, Iwdg.RLR, reload)
        while read(self.iwdg, Iwdg.SR):
            elapse(self.clock, MILLISECOND // 10)
        self.key(Iwdg.RELOAD)


def test_the_watchdog_bites_when_nobody_reloads_it() -> None:
    dog = Dog()
    dog.key(Iwdg.START)
    elapse(dog.clock, SECOND)
    assert dog.bites == [4096 * 4 * SECOND // 32_000]


def test_a_watchdog_that_is_not_started_does_not_bite() -> None:
    dog = Dog()
    dog.key(Iwdg.RELOAD)
    elapse(dog.clock, 100 * SECOND)
    assert dog.bites == []


def test_reloading_keeps_the_watchdog_quiet() -> None:
    dog = Dog()
    dog.set_up(prescaler=1, reload=999)  # 250 ms
    for _ in range(10):
        elapse(dog.clock, 249 * MILLISECOND)
        dog.key(Iwdg.RELOAD)
    assert dog.bites == []
    before = dog.clock.now
    elapse(dog.clock, SECOND)
    assert dog.bites == [before + 250 * MILLISECOND]


def test_the_watchdog_stands_still_while_frozen() -> None:
    dog = Dog()
    dog.set_up(reload=799)  # 100 ms
    start = dog.clock.now
    elapse(dog.clock, 40 * MILLISECOND)
    dog.halted = True
    elapse(dog.clock, 10 * SECOND)
    assert dog.bites == []
    dog.halted = False
    elapse(dog.clock, SECOND)
    assert abs(dog.bites[0] - (start + 10 * SECOND + 100 * MILLISECOND)) <= 2 * SAMPLE


def test_the_watchdog_registers_need_their_key_and_take_a_while() -> None:
    dog = Dog()
    write(dog.iwdg, Iwdg.RLR, 5)
    assert read(dog.iwdg, Iwdg.RLR) == 0xFFF
    dog.key(Iwdg.UNLOCK)
    write(dog.iwdg, Iwdg.RLR, 5)
    assert read(dog.iwdg, Iwdg.SR) == 2
    write(dog.iwdg, Iwdg.RLR, 6)
    assert read(dog.iwdg, Iwdg.RLR) == 5
    elapse(dog.clock, MILLISECOND)
    assert read(dog.iwdg, Iwdg.SR) == 0
    dog.key(0)
    write(dog.iwdg, Iwdg.PR, 1)
    assert read(dog.iwdg, Iwdg.PR) == 0


def test_a_reload_outside_the_window_bites() -> None:
    dog = Dog()
    dog.set_up(reload=799)
    dog.key(Iwdg.UNLOCK)
    write(dog.iwdg, Iwdg.WINR, 400)
    elapse(dog.clock, 60 * MILLISECOND)
    dog.key(Iwdg.RELOAD)
    assert dog.bites == []
    elapse(dog.clock, 10 * MILLISECOND)
    dog.key(Iwdg.RELOAD)
    assert dog.bites == [dog.clock.now]


def test_a_reset_stops_the_watchdog() -> None:
    dog = Dog()
    dog.key(Iwdg.START)
    dog.iwdg.reset()
    elapse(dog.clock, 100 * SECOND)
    assert dog.bites == []


@pytest.fixture
def window_dog(clock: Clock) -> Wwdg:
    return Wwdg(clock, pclk_hz=lambda: 64_000_000)


TICK = 4096 * SECOND // 64_000_000


def test_the_window_watchdog_warns_at_0x40_and_bites_at_0x3f(
    window_dog: Wwdg, clock: Clock
) -> None:
    bites: list[int] = []
    irqs: list[bool] = []
    window_dog.on_timeout = lambda: bites.append(clock.now)
    window_dog.on_irq = irqs.append
    write(window_dog, Wwdg.CFR, 1 << 9 | 0x7F)
    write(window_dog, Wwdg.CR, 0x80 | 0x50)
    elapse(clock, 4 * TICK)
    assert read(window_dog, Wwdg.CR) == 0x80 | 0x4C
    elapse(clock, 12 * TICK)
    assert irqs == [False, True]
    assert bites == []
    elapse(clock, TICK)
    assert bites == [17 * TICK]
    write(window_dog, Wwdg.SR, 0)
    assert irqs == [False, True, False]


def test_the_window_watchdog_bites_above_its_window_and_when_told_to(
    window_dog: Wwdg, clock: Clock
) -> None:
    bites: list[int] = []
    window_dog.on_timeout = lambda: bites.append(clock.now)
    write(window_dog, Wwdg.CFR, 0x50)
    write(window_dog, Wwdg.CR, 0x80 | 0x60)
    elapse(clock, 16 * TICK)
    write(window_dog, Wwdg.CR, 0x80 | 0x60)
    assert bites == []
    write(window_dog, Wwdg.CR, 0x80 | 0x60)
    assert bites == [16 * TICK]
    window_dog.reset()
    write(window_dog, Wwdg.CR, 0x80 | 0x3F)
    assert len(bites) == 2


# --- Identity, interrupts, CRC -------------------------------------------------------------------


def test_dbgmcu_tells_device_and_revision() -> None:
    assert read(Dbgmcu(0x2003), Dbgmcu.IDCODE) == 0x20036450
    assert read(Dbgmcu(0x1003), Dbgmcu.IDCODE) == 0x10036450


def test_dbgmcu_freezes_what_it_is_told_to() -> None:
    dbgmcu = Dbgmcu()
    assert not dbgmcu.freezes_iwdg
    write(dbgmcu, Dbgmcu.APB4FZ1, 1 << 18)
    assert dbgmcu.freezes_iwdg
    assert not dbgmcu.freezes_wwdg
    write(dbgmcu, Dbgmcu.APB3FZ1, 1 << 6)
    assert dbgmcu.freezes_wwdg
    write(dbgmcu, Dbgmcu.IDCODE, 0)
    assert read(dbgmcu, Dbgmcu.IDCODE) == 0x20036450


def test_the_compensation_cell_gets_ready() -> None:
    syscfg = Syscfg()
    write(syscfg, Syscfg.CCCSR, 1)
    assert read(syscfg, Syscfg.CCCSR) == 0x101


def test_a_software_interrupt_is_pending_until_acknowledged() -> None:
    exti = Exti()
    write(exti, Exti.SWIER1, 0x30)
    assert read(exti, Exti.CPUPR1) == 0x30
    write(exti, Exti.CPUPR1, 0x10)
    assert read(exti, Exti.CPUPR1) == 0x20


def test_the_crc_unit_computes_the_usual_word() -> None:
    unit = CrcUnit()
    write(unit, CrcUnit.DR, 0x12345678)
    assert read(unit, CrcUnit.DR) == 0xDF8A8A2B
    set_bits(unit, CrcUnit.CR, 1)
    assert read(unit, CrcUnit.DR) == 0xFFFFFFFF


@given(data=st.binary(max_size=40))
def test_reversed_in_and_out_the_crc_unit_is_zlib(data: bytes) -> None:
    unit = CrcUnit()
    write(unit, CrcUnit.CR, 1 | 1 << 5 | 1 << 7)
    for byte in data:
        unit.write(0, 1, byte, CORE)
    assert read(unit, CrcUnit.DR) ^ 0xFFFFFFFF == zlib.crc32(data)


def test_the_crc_unit_takes_other_polynomials() -> None:
    unit = CrcUnit()
    write(unit, CrcUnit.POL, 0x1021)
    write(unit, CrcUnit.INIT, 0xFFFF)
    write(unit, CrcUnit.CR, 1 | 1 << 3)
    for byte in b"123456789":
        unit.write(0, 1, byte, CORE)
    assert read(unit, CrcUnit.DR) == 0x29B1  # CRC-16/CCITT-FALSE, its check value
