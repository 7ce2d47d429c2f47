"""Reset and clock control (RCC): oscillators, PLLs, prescalers, clock gates, reset flags.

RM0433, "Reset and Clock Control (RCC)".

Frequencies are computed from the registers, so that whoever depends on one passes a property
of `Rcc` on; the core asks all the time, so they are kept until a register changes.

An oscillator or PLL is ready some time after it was switched on.  The system clock follows SW
once its source is ready, and what it runs on cannot be switched off.

A peripheral without a clock answers reads with zero and ignores writes: `ClockGated` is put
before it on the bus.  The manual warns of such accesses without saying what they give; zeros
are what is seen on silicon.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from fractions import Fraction
from functools import cached_property

from gdbserver.chip.memory import Span
from gdbserver.sim.bus import Bus, Device, Direct, Mappable, Master
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, Clock
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    Unmodelled,
    on_read,
    on_write,
)

HSI_HZ = 64_000_000
CSI_HZ = 4_000_000
HSI48_HZ = 48_000_000
LSI_HZ = 32_000
LSE_HZ = 32_768

# DS12110, "External clock source characteristics", "Internal clock source characteristics",
# "PLL characteristics": typical start-up times.
STARTUP = {
    "HSI": 4 * MICROSECOND,
    "CSI": 4 * MICROSECOND,
    "HSI48": 3 * MICROSECOND,
    "HSE": 2 * MILLISECOND,
    "LSI": 120 * MICROSECOND,
    "LSE": 2000 * MILLISECOND,
    "PLL": 50 * MICROSECOND,
}

# Which bit of a bus's ENR, LPENR and RSTR registers belongs to which peripheral.
_GATES = """
AHB3  | 0 MDMA  4 DMA2D  5 JPGDEC  12 FMC  14 QSPI  16 SDMMC1
AHB1  | 0 DMA1  1 DMA2  5 ADC12  15 ETH1MAC  16 ETH1TX  17 ETH1RX  25 USB1OTGHS
      | 26 USB1OTGHSULPI  27 USB2OTGHS  28 USB2OTGHSULPI
AHB2  | 0 DCMI  4 CRYP  5 HASH  6 RNG  9 SDMMC2  29 SRAM1  30 SRAM2  31 SRAM3
AHB4  | 0 GPIOA  1 GPIOB  2 GPIOC  3 GPIOD  4 GPIOE  5 GPIOF  6 GPIOG  7 GPIOH  8 GPIOI
      | 9 GPIOJ  10 GPIOK  19 CRC  21 BDMA  24 ADC3  25 HSEM  28 BKPRAM
APB3  | 3 LTDC  6 WWDG1
APB1L | 0 TIM2  1 TIM3  2 TIM4  3 TIM5  4 TIM6  5 TIM7  6 TIM12  7 TIM13  8 TIM14  9 LPTIM1
      | 14 SPI2  15 SPI3  16 SPDIFRX  17 USART2  18 USART3  19 UART4  20 UART5  21 I2C1
      | 22 I2C2  23 I2C3  27 CEC  29 DAC12  30 UART7  31 UART8
APB1H | 1 CRS  2 SWPMI  4 OPAMP  5 MDIOS  8 FDCAN
APB2  | 0 TIM1  1 TIM8  4 USART1  5 USART6  12 SPI1  13 SPI4  16 TIM15  17 TIM16  18 TIM17
      | 20 SPI5  22 SAI1  23 SAI2  24 SAI3  28 DFSDM1  29 HRTIM
APB4  | 1 SYSCFG  3 LPUART1  5 SPI6  7 I2C4  9 LPTIM2  10 LPTIM3  11 LPTIM4  12 LPTIM5
      | 14 COMP12  15 VREF  16 RTCAPB  21 SAI4
"""


def _read_gates() -> dict[str, dict[str, int]]:
    gates: dict[str, dict[str, int]] = {}
    bus = ""
    for line in _GATES.strip().splitlines():
        name, _, pairs = line.partition("|")
        bus = name.strip() or bus
        numbers_and_names = pairs.split()
        for bit, peripheral in zip(numbers_and_names[::2], numbers_and_names[1::2], strict=True):
            gates.setdefault(bus, {})[peripheral] = int(bit)
    return gates


GATES = _read_gates()
_NO_RESET_BIT = frozenset(
    {"SRAM1", "SRAM2", "SRAM3", "BKPRAM", "WWDG1", "VREF", "RTCAPB", "ETH1TX", "ETH1RX"}
)
_C1_COPIES = Span(0x130, 0x180)  # RCC_C1_RSR to RCC_C1_APB4LPENR
_C1_DISTANCE = 0x60


def _gates(bus: str, suffix: str, without: frozenset[str] = frozenset()) -> BitStruct:
    """The layout of an ENR, LPENR or RSTR: a flag for each peripheral, named with `suffix`."""
    names = {bit: name for name, bit in GATES[bus].items() if name not in without}
    bits = [names[b] + suffix if b in names else None for b in range(31, -1, -1)]
    return BitStruct(*(Padding(1) if bit is None else bit / Flag for bit in bits))


def _enable(offset: int, bus: str, reset: int = 0) -> Register:
    return Register(offset, _gates(bus, "EN"), reset=reset)


def _enable_asleep(offset: int, bus: str) -> Register:
    """Clocks in Sleep mode, which the model never stops: kept, without effect."""
    register = Register(offset, _gates(bus, "LPEN"))
    register.reset = register.defined
    return register


def _resets(offset: int, bus: str) -> Register:
    return Register(offset, _gates(bus, "RST", _NO_RESET_BIT))


def _pll_dividers(offset: int) -> Register:
    return Register(
        offset,
        BitStruct(
            Padding(1),
            "DIVR" / BitsInteger(7),
            Padding(1),
            "DIVQ" / BitsInteger(7),
            "DIVP" / BitsInteger(7),
            "DIVN" / BitsInteger(9),
        ),
        reset=0x01010280,
    )


def _pll_fraction(offset: int) -> Register:
    return Register(offset, BitStruct(Padding(16), "FRACN" / BitsInteger(13), Padding(3)))


def _interrupts(*, suffix: str) -> BitStruct:
    names = [
        "LSECSS" + suffix,
        *(f"PLL{n}RDY" + suffix for n in (3, 2, 1)),
        *(name + "RDY" + suffix for name in ("HSI48", "CSI", "HSE", "HSI", "LSE", "LSI")),
    ]
    return BitStruct(Padding(22), *map(Unmodelled, names))


class ResetCause(Enum):
    """What reset the chip; the value is what RSR says of it (RM0433, "RCC reset status")."""

    POWER_ON = 0x00FA0000
    PIN = 0x00420000
    SOFTWARE = 0x01420000
    IWDG1 = 0x04420000
    WWDG1 = 0x10420000


class Rcc(Peripheral):
    """The RCC of a board with a crystal of `hse_hz`, or without one: 0.

    `on_peripheral_reset` is called with a name of `GATES` when its reset bit is set;
    `on_gates_changed` after each change of an enable register.  `backup_access` is PWR_CR1.DBP.
    """

    CR = Register(
        0x00,
        BitStruct(
            Padding(2),
            "PLL3RDY" / Flag,
            "PLL3ON" / Flag,
            "PLL2RDY" / Flag,
            "PLL2ON" / Flag,
            "PLL1RDY" / Flag,
            "PLL1ON" / Flag,
            Padding(4),
            Unmodelled("HSECSSON"),
            "HSEBYP" / Flag,
            "HSERDY" / Flag,
            "HSEON" / Flag,
            "D2CKRDY" / Flag,
            "D1CKRDY" / Flag,
            "HSI48RDY" / Flag,
            "HSI48ON" / Flag,
            Padding(2),
            Unmodelled("CSIKERON"),
            "CSIRDY" / Flag,
            "CSION" / Flag,
            Padding(1),
            "HSIDIVF" / Flag,
            "HSIDIV" / BitsInteger(2),
            "HSIRDY" / Flag,
            Unmodelled("HSIKERON"),
            "HSION" / Flag,
        ),
        reset=0x0000C025,
        writable=~(0x2A02E124),  # the ready bits
    )
    HSICFGR = Register(
        0x04,
        BitStruct(
            Padding(1),
            Unmodelled("HSITRIM", 7),
            Padding(12),
            Unmodelled("HSICAL", 12),
        ),
        reset=0x40000000,
        writable=0x7F000000,
    )
    CRRCR = Register(0x08, BitStruct(Padding(22), Unmodelled("HSI48CAL", 10)), writable=0)
    CSICFGR = Register(
        0x0C,
        BitStruct(
            Padding(2),
            Unmodelled("CSITRIM", 6),
            Padding(14),
            Unmodelled("CSICAL", 10),
        ),
        reset=0x20000000,
        writable=0x3F000000,
    )
    CFGR = Register(
        0x10,
        BitStruct(
            Unmodelled("MCO2", 3),
            Unmodelled("MCO2PRE", 4),
            Unmodelled("MCO1", 3),
            Unmodelled("MCO1PRE", 4),
            Padding(2),
            Unmodelled("TIMPRE"),
            Unmodelled("HRTIMSEL"),
            Unmodelled("RTCPRE", 6),
            Unmodelled("STOPKERWUCK"),
            Unmodelled("STOPWUCK"),
            "SWS" / BitsInteger(3),
            "SW" / BitsInteger(3),
        ),
        writable=~0x38,
    )
    D1CFGR = Register(
        0x18,
        BitStruct(
            Padding(20),
            "D1CPRE" / BitsInteger(4),
            Padding(1),
            "D1PPRE" / BitsInteger(3),
            "HPRE" / BitsInteger(4),
        ),
    )
    D2CFGR = Register(
        0x1C,
        BitStruct(
            Padding(21),
            "D2PPRE2" / BitsInteger(3),
            Padding(1),
            "D2PPRE1" / BitsInteger(3),
            Padding(4),
        ),
    )
    D3CFGR = Register(0x20, BitStruct(Padding(25), "D3PPRE" / BitsInteger(3), Padding(4)))
    PLLCKSELR = Register(
        0x28,
        BitStruct(
            Padding(6),
            "DIVM3" / BitsInteger(6),
            Padding(2),
            "DIVM2" / BitsInteger(6),
            Padding(2),
            "DIVM1" / BitsInteger(6),
            Padding(2),
            "PLLSRC" / BitsInteger(2),
        ),
        reset=0x02020200,
    )
    PLLCFGR = Register(
        0x2C,
        BitStruct(
            Padding(7),
            "DIVR3EN" / Flag,
            "DIVQ3EN" / Flag,
            "DIVP3EN" / Flag,
            "DIVR2EN" / Flag,
            "DIVQ2EN" / Flag,
            "DIVP2EN" / Flag,
            "DIVR1EN" / Flag,
            "DIVQ1EN" / Flag,
            "DIVP1EN" / Flag,
            Padding(4),
            # The VCO's range is not checked: a wrong one gives the frequency all the same.
            "PLL3RGE" / BitsInteger(2),
            "PLL3VCOSEL" / Flag,
            "PLL3FRACEN" / Flag,
            "PLL2RGE" / BitsInteger(2),
            "PLL2VCOSEL" / Flag,
            "PLL2FRACEN" / Flag,
            "PLL1RGE" / BitsInteger(2),
            "PLL1VCOSEL" / Flag,
            "PLL1FRACEN" / Flag,
        ),
        reset=0x01FF0000,
    )
    PLL1DIVR, PLL1FRACR = _pll_dividers(0x30), _pll_fraction(0x34)
    PLL2DIVR, PLL2FRACR = _pll_dividers(0x38), _pll_fraction(0x3C)
    PLL3DIVR, PLL3FRACR = _pll_dividers(0x40), _pll_fraction(0x44)
    PLL_DIVIDERS = (PLL1DIVR, PLL2DIVR, PLL3DIVR)
    PLL_FRACTIONS = (PLL1FRACR, PLL2FRACR, PLL3FRACR)
    D1CCIPR = Register(
        0x4C,
        BitStruct(
            Padding(2),
            "CKPERSEL" / BitsInteger(2),
            Padding(11),
            Unmodelled("SDMMCSEL"),
            Padding(10),
            "QSPISEL" / BitsInteger(2),
            Padding(2),
            Unmodelled("FMCSEL", 2),
        ),
    )
    D2CCIP1R = Register(0x50, BitStruct(Unmodelled("D2CCIP1", 32)))
    D2CCIP2R = Register(0x54, BitStruct(Unmodelled("D2CCIP2", 32)))
    D3CCIPR = Register(0x58, BitStruct(Unmodelled("D3CCIP", 32)))
    CIER = Register(0x60, _interrupts(suffix="IE"))
    CIFR = Register(0x64, _interrupts(suffix="F"), writable=0)
    CICR = Register(0x68, _interrupts(suffix="C"), writable=0)
    BDCR = Register(
        0x70,
        BitStruct(
            Padding(15),
            "BDRST" / Flag,
            Unmodelled("RTCEN"),
            Padding(5),
            Unmodelled("RTCSEL", 2),
            Padding(1),
            Unmodelled("LSECSSD"),
            Unmodelled("LSECSSON"),
            Unmodelled("LSEDRV", 2),
            "LSEBYP" / Flag,
            "LSERDY" / Flag,
            "LSEON" / Flag,
        ),
        writable=0x0001833D,
    )
    CSR = Register(
        0x74,
        BitStruct(Padding(30), "LSIRDY" / Flag, "LSION" / Flag),
        writable=1,
    )
    AHB3RSTR = _resets(0x7C, "AHB3")
    AHB1RSTR = _resets(0x80, "AHB1")
    AHB2RSTR = _resets(0x84, "AHB2")
    AHB4RSTR = _resets(0x88, "AHB4")
    APB3RSTR = _resets(0x8C, "APB3")
    APB1LRSTR = _resets(0x90, "APB1L")
    APB1HRSTR = _resets(0x94, "APB1H")
    APB2RSTR = _resets(0x98, "APB2")
    APB4RSTR = _resets(0x9C, "APB4")
    RESETS = (
        *(AHB3RSTR, AHB1RSTR, AHB2RSTR, AHB4RSTR),
        *(APB3RSTR, APB1LRSTR, APB1HRSTR, APB2RSTR, APB4RSTR),
    )
    # WW1RSC widens WWDG1's reset from the CPU to the system; here it is always the system's.
    GCR = Register(0xA0, BitStruct(Padding(31), "WW1RSC" / Flag))
    D3AMR = Register(0xA8, BitStruct(Unmodelled("D3AM", 32)))
    RSR = Register(
        0xD0,
        BitStruct(
            Padding(1),
            "LPWRRST" / Flag,
            Padding(1),
            "WWDG1RST" / Flag,
            Padding(1),
            "IWDG1RST" / Flag,
            Padding(1),
            "SFTRST" / Flag,
            "PORRST" / Flag,
            "PINRST" / Flag,
            "BORRST" / Flag,
            "D2RST" / Flag,
            "D1RST" / Flag,
            Padding(1),
            "CPURST" / Flag,
            "RMVF" / Flag,
            Padding(16),
        ),
        writable=0,
    )
    AHB3ENR = _enable(0xD4, "AHB3")
    AHB1ENR = _enable(0xD8, "AHB1")
    AHB2ENR = _enable(0xDC, "AHB2")
    AHB4ENR = _enable(0xE0, "AHB4")
    APB3ENR = _enable(0xE4, "APB3")
    APB1LENR = _enable(0xE8, "APB1L")
    APB1HENR = _enable(0xEC, "APB1H")
    APB2ENR = _enable(0xF0, "APB2")
    APB4ENR = _enable(0xF4, "APB4", reset=0x00010000)
    ENABLES = (
        *(AHB3ENR, AHB1ENR, AHB2ENR, AHB4ENR),
        *(APB3ENR, APB1LENR, APB1HENR, APB2ENR, APB4ENR),
    )
    AHB3LPENR = _enable_asleep(0xFC, "AHB3")
    AHB1LPENR = _enable_asleep(0x100, "AHB1")
    AHB2LPENR = _enable_asleep(0x104, "AHB2")
    AHB4LPENR = _enable_asleep(0x108, "AHB4")
    APB3LPENR = _enable_asleep(0x10C, "APB3")
    APB1LLPENR = _enable_asleep(0x110, "APB1L")
    APB1HLPENR = _enable_asleep(0x114, "APB1H")
    APB2LPENR = _enable_asleep(0x118, "APB2")
    APB4LPENR = _enable_asleep(0x11C, "APB4")

    def __init__(
        self,
        clock: Clock,
        *,
        hse_hz: int = 25_000_000,
        backup_access: Callable[[], bool] = lambda: True,
    ) -> None:
        self.hse_hz = hse_hz
        self.lsi_hz = LSI_HZ
        self.lsi_forced: Callable[[], bool] = lambda: False
        """Whether something keeps LSI running whatever LSION says: the independent watchdog."""
        self.on_gates_changed: list[Callable[[], None]] = []
        self.on_peripheral_reset: Callable[[str], None] = lambda name: None
        self._clock = clock
        self._backup_access = backup_access
        self._generation = 0
        super().__init__("RCC")

    def reset(self, cause: ResetCause = ResetCause.POWER_ON) -> None:
        """A reset.  The backup domain, LSI and the flags of earlier resets survive some."""
        kept = [self.BDCR, self.CSR, self.RSR] if cause is not ResetCause.POWER_ON else []
        values = {register: self.raw(register) for register in kept}
        self._generation += 1  # what was starting up does not get ready any more
        super().reset()
        for register, value in values.items():
            self.set_raw(register, value)
        self.set_raw(self.RSR, self.raw(self.RSR) | cause.value)
        self._forget_frequencies()
        for notify in self.on_gates_changed:
            notify()

    def read(self, offset: int, size: int, master: Master) -> int:
        return super().read(self._uncopied(offset), size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        super().write(self._uncopied(offset), size, value, master)
        self._forget_frequencies()

    @staticmethod
    def _uncopied(offset: int) -> int:
        """The one CPU's own view of the enable registers is the registers themselves."""
        return offset - _C1_DISTANCE if offset in _C1_COPIES else offset

    # --- Oscillators ------------------------------------------------------------------------

    @on_write(CR)
    def _switch(self, cr: Fields) -> None:
        before = self[self.CR]
        self.store(cr)
        for name in self._in_use():
            self.update(self.CR, **{name + "ON": 1})
        now = self[self.CR]
        self.update(self.CR, HSIDIVF=1)
        for name in ("HSI", "CSI", "HSI48", "HSE", "PLL1", "PLL2", "PLL3"):
            on, was_on = now[name + "ON"], before[name + "ON"]
            if not on:
                self.update(self.CR, **{name + "RDY": 0})
            elif not was_on:
                self._start_up(self.CR, name)

    def _start_up(self, register: Register, name: str) -> None:
        """Raise the ready bit in a while, unless it is switched off again before."""
        generation = self._generation

        def ready() -> None:
            if generation == self._generation and self[register][name + "ON"]:
                if name == "HSE" and not self.hse_hz:
                    return
                if name.startswith("PLL") and not self._pll_input(int(name[3])):
                    return
                self.update(register, **{name + "RDY": 1})
                self._follow_switch()
                self._forget_frequencies()

        self._clock.after(STARTUP["PLL" if name.startswith("PLL") else name], ready)

    def _in_use(self) -> list[str]:
        """What the system clock comes from, which cannot be switched off."""
        source = ("HSI", "CSI", "HSE", "PLL1")[self[self.CFGR].SWS & 3]
        if source != "PLL1":
            return [source]
        return [source, *self._pll_source_name()]

    def _pll_source_name(self) -> list[str]:
        return [["HSI"], ["CSI"], ["HSE"], []][self[self.PLLCKSELR].PLLSRC]

    @on_write(CFGR)
    def _configure(self, cfgr: Fields) -> None:
        self.store(cfgr)
        self._follow_switch()

    def _follow_switch(self) -> None:
        """SWS becomes SW when that source is ready."""
        cr = self[self.CR]
        ready = (cr.HSIRDY, cr.CSIRDY, cr.HSERDY, self.pll_hz(1, "P") > 0)
        wanted = self[self.CFGR].SW
        if wanted < len(ready) and ready[wanted]:
            self.update(self.CFGR, SWS=wanted)

    @on_write(PLLCKSELR)
    def _select_pll_inputs(self, selection: Fields) -> None:
        """The source can change while all PLLs are off, a divider while its own PLL is."""
        cr, old = self[self.CR], self[self.PLLCKSELR]
        on = [cr.PLL1ON, cr.PLL2ON, cr.PLL3ON]
        self.update(
            self.PLLCKSELR,
            PLLSRC=old.PLLSRC if any(on) else selection.PLLSRC,
            DIVM1=old.DIVM1 if on[0] else selection.DIVM1,
            DIVM2=old.DIVM2 if on[1] else selection.DIVM2,
            DIVM3=old.DIVM3 if on[2] else selection.DIVM3,
        )

    @on_write(PLLCFGR)
    def _configure_plls(self, configuration: Fields) -> None:
        """The fraction can be switched on the fly; ranges and outputs while the PLL is off."""
        cr, old = self[self.CR], self.raw(self.PLLCFGR)
        self.store(configuration)
        for index, on in enumerate((cr.PLL1ON, cr.PLL2ON, cr.PLL3ON)):
            if on:
                fixed = 0b1110 << 4 * index | 0b111 << 16 + 3 * index
                self.set_raw(self.PLLCFGR, self.raw(self.PLLCFGR) & ~fixed | old & fixed)

    @on_write(*PLL_DIVIDERS)
    def _divide_pll(self, dividers: Fields) -> None:
        pll = 1 + self.PLL_DIVIDERS.index(dividers.register)
        if not self[self.CR][f"PLL{pll}ON"]:
            self.store(dividers)

    @on_write(CSR)
    def _switch_lsi(self, csr: Fields) -> None:
        was_on = self[self.CSR].LSION
        self.store(csr)
        if not csr.LSION:
            self.update(self.CSR, LSIRDY=0)
        elif not was_on:
            self._start_up(self.CSR, "LSI")

    @on_read(CSR)
    def _show_lsi(self) -> None:
        if self.lsi_forced():
            self.update(self.CSR, LSIRDY=1)
        elif not self[self.CSR].LSION:
            self.update(self.CSR, LSIRDY=0)

    @on_write(BDCR)
    def _control_backup(self, bdcr: Fields) -> None:
        if not self._backup_access():
            return
        was_on = self[self.BDCR].LSEON
        if bdcr.BDRST:
            self.set_raw(self.BDCR, 0x00010000)
            return
        self.store(bdcr)
        if not bdcr.LSEON:
            self.update(self.BDCR, LSERDY=0)
        elif not was_on:
            self._start_up(self.BDCR, "LSE")

    @on_write(RSR)
    def _forget_resets(self, rsr: Fields) -> None:
        if rsr.RMVF:
            self.set_raw(self.RSR, 0)

    # --- Frequencies --------------------------------------------------------------------------

    def _forget_frequencies(self) -> None:
        for name in ("core_hz", "hclk3_hz", "pclk3_hz", "quadspi_hz"):
            self.__dict__.pop(name, None)

    @property
    def hsi_hz(self) -> int:
        return HSI_HZ >> self[self.CR].HSIDIV

    def _pll_input(self, number: int) -> int:
        """Frequency into the PLL's divider M, or 0 when there is none."""
        cr = self[self.CR]
        selection = self[self.PLLCKSELR]
        sources = (
            self.hsi_hz * cr.HSIRDY,
            CSI_HZ * cr.CSIRDY,
            self.hse_hz * cr.HSERDY,
            0,
        )
        return sources[selection.PLLSRC] if selection[f"DIVM{number}"] else 0

    def pll_hz(self, number: int, output: str) -> int:
        """Output P, Q or R of PLL 1, 2 or 3; 0 when it is off."""
        configuration, cr = self[self.PLLCFGR], self[self.CR]
        if not cr[f"PLL{number}RDY"]:
            return 0
        if not configuration[f"DIV{output}{number}EN"]:
            return 0
        dividers = self[self.PLL_DIVIDERS[number - 1]]
        fraction = 0
        if configuration[f"PLL{number}FRACEN"]:
            fraction = self[self.PLL_FRACTIONS[number - 1]].FRACN
        reference = Fraction(self._pll_input(number), max(1, self[self.PLLCKSELR][f"DIVM{number}"]))
        vco = reference * (dividers.DIVN + 1 + Fraction(fraction, 8192))
        return int(vco / (dividers[f"DIV{output}"] + 1))

    @property
    def sysclk_hz(self) -> int:
        source = self[self.CFGR].SWS
        if source == 0:
            return self.hsi_hz
        return (0, CSI_HZ, self.hse_hz, self.pll_hz(1, "P"))[source]

    @cached_property
    def core_hz(self) -> int:
        """The CPU and its SysTick."""
        return self.sysclk_hz // _ahb_divider(self[self.D1CFGR].D1CPRE)

    @cached_property
    def hclk3_hz(self) -> int:
        """AXI, and the AHB and AXI peripherals of domain 1: flash, QUADSPI."""
        return self.core_hz // _ahb_divider(self[self.D1CFGR].HPRE)

    @cached_property
    def pclk3_hz(self) -> int:
        """APB3: WWDG1."""
        return self.hclk3_hz // _apb_divider(self[self.D1CFGR].D1PPRE)

    @property
    def per_hz(self) -> int:
        """per_ck, as D1CCIPR.CKPERSEL selects it."""
        cr = self[self.CR]
        choices = (self.hsi_hz * cr.HSIRDY, CSI_HZ * cr.CSIRDY, self.hse_hz * cr.HSERDY, 0)
        return choices[self[self.D1CCIPR].CKPERSEL]

    @cached_property
    def quadspi_hz(self) -> int:
        """The kernel clock of QUADSPI; 0 when its source is off."""
        selection = self[self.D1CCIPR].QSPISEL
        if selection == 0:
            return self.hclk3_hz
        return (0, self.pll_hz(1, "Q"), self.pll_hz(2, "R"), self.per_hz)[selection]

    # --- Gates --------------------------------------------------------------------------------

    def clocked(self, name: str) -> bool:
        """Whether the peripheral `name`, as in `GATES`, has its bus clock."""
        register, bit = _ENABLE_BITS[name]
        return bool(self._values[register.offset] >> bit & 1)

    @on_write(*ENABLES)
    def _switch_clocks(self, enables: Fields) -> None:
        """WWDG1EN can be set and not cleared."""
        once = self[self.APB3ENR].WWDG1EN
        self.store(enables)
        self.update(self.APB3ENR, WWDG1EN=once or self[self.APB3ENR].WWDG1EN)
        for notify in self.on_gates_changed:
            notify()

    @on_write(*RESETS)
    def _reset_peripherals(self, resets: Fields) -> None:
        before = self.raw(resets.register)
        self.store(resets)
        begun = self.raw(resets.register) & ~before
        for name, bit in GATES[resets.register.name.removesuffix("RSTR")].items():
            if begun >> bit & 1:
                self.on_peripheral_reset(name)


_ENABLE_BITS = {
    name: (register, bit)
    for register in Rcc.ENABLES
    for name, bit in GATES[register.name.removesuffix("ENR")].items()
}


def _ahb_divider(code: int) -> int:
    return 1 if code < 8 else (2, 4, 8, 16, 64, 128, 256, 512)[code - 8]


def _apb_divider(code: int) -> int:
    return 1 if code < 4 else 2 << (code - 4)


class ClockGated:
    """A device on the bus that is dead while its clock is off.

    `span` is where it is attached: what has mapped it is told.
    """

    def __init__(self, device: Device, rcc: Rcc, name: str, bus: Bus, span: Span) -> None:
        self.device = device
        self._clocked = rcc.clocked(name)
        self._rcc = rcc
        self._name = name
        self._bus = bus
        self._span = span
        rcc.on_gates_changed.append(self._gates_changed)

    def _gates_changed(self) -> None:
        clocked = self._rcc.clocked(self._name)
        if clocked != self._clocked:
            self._clocked = clocked
            self._bus.revoke(self._span)

    def read(self, offset: int, size: int, master: Master) -> int:
        return self.device.read(offset, size, master) if self._clocked else 0

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if self._clocked:
            self.device.write(offset, size, value, master)

    def direct(self, offset: int) -> Direct | None:
        if self._clocked and isinstance(self.device, Mappable):
            return self.device.direct(offset)
        return None
