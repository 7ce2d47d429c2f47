"""Small blocks around the core: DBGMCU, SYSCFG, EXTI, AXI interconnect, CRC calculation unit.

RM0433, "Debug infrastructure" (DBGMCU), "System configuration controller (SYSCFG)", "Extended
interrupt and event controller (EXTI)", "AXI interconnect matrix (AXIM)", "CRC calculation unit".
"""

from __future__ import annotations

import logging

from gdbserver.chip.stm32h743 import (
    APB3FZ1_WWDG1,
    APB4FZ1_IWDG1,
    AXI_SRAM_MISREAD_BY,
    DBGMCU_APB1LFZ1_OFFSET,
    DBGMCU_APB3FZ1_OFFSET,
    DBGMCU_APB4FZ1_OFFSET,
    DBGMCU_CR_OFFSET,
    DBGMCU_IDCODE_OFFSET,
    DEVICE_ID,
    REVISIONS,
)
from gdbserver.sim.bus import Master
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

log = logging.getLogger(__name__)


class Dbgmcu(Peripheral):
    """The chip's identity, and what stays alive for a debugger.

    It sits in the debug domain: a system reset leaves it alone, `reset` is for power-on.
    Through AP2 it can be reached while the reset pin is held.
    """

    IDCODE = Register(
        DBGMCU_IDCODE_OFFSET,
        BitStruct("REV_ID" / BitsInteger(16), Padding(4), "DEV_ID" / BitsInteger(12)),
        writable=0,
    )
    CR = Register(
        DBGMCU_CR_OFFSET,
        BitStruct(
            Padding(3),
            Unmodelled("TRGOEN"),
            Padding(5),
            "D3DBGCKEN" / Flag,
            "D1DBGCKEN" / Flag,
            "TRACECLKEN" / Flag,
            Padding(11),
            # The D3 domain never loses its clock here, with or without these.
            "DBGSTBY_D3" / Flag,
            "DBGSTOP_D3" / Flag,
            Padding(4),
            "DBGSTBY_D1" / Flag,
            "DBGSTOP_D1" / Flag,
            "DBGSLEEP_D1" / Flag,
        ),
    )
    APB3FZ1 = Register(DBGMCU_APB3FZ1_OFFSET, BitStruct(Padding(25), "WWDG1" / Flag, Padding(6)))
    APB1LFZ1 = Register(DBGMCU_APB1LFZ1_OFFSET, BitStruct(Unmodelled("APB1LFZ1", 32)))
    APB2FZ1 = Register(0x4C, BitStruct(Unmodelled("APB2FZ1", 32)))
    APB4FZ1 = Register(
        DBGMCU_APB4FZ1_OFFSET,
        BitStruct(
            Padding(13),
            "IWDG1" / Flag,
            Padding(1),
            Unmodelled("RTC"),
            Padding(3),
            Unmodelled("LPTIM5"),
            Unmodelled("LPTIM4"),
            Unmodelled("LPTIM3"),
            Unmodelled("LPTIM2"),
            Padding(1),
            Unmodelled("I2C4"),
            Padding(7),
        ),
    )

    def __init__(self, revision: int = 0x2003) -> None:
        self._revision = revision
        super().__init__("DBGMCU")

    def reset(self) -> None:
        super().reset()
        # Bits 15:12 are reserved and read 6 on silicon.
        self.set_raw(self.IDCODE, self._revision << 16 | 0x6000 | DEVICE_ID)

    def keeps_clock(self, *, deeply: bool) -> bool:
        """Whether the core can be debugged while it sleeps, or is in Stop mode."""
        cr = self[self.CR]
        return bool(cr.DBGSTOP_D1 if deeply else cr.DBGSLEEP_D1)

    @property
    def freezes_iwdg(self) -> bool:
        """Whether IWDG1 stands still while the core is halted."""
        return bool(self.raw(self.APB4FZ1) & APB4FZ1_IWDG1)

    @property
    def freezes_wwdg(self) -> bool:
        """Whether WWDG1 stands still while the core is halted."""
        return bool(self.raw(self.APB3FZ1) & APB3FZ1_WWDG1)


class AxiSramPort(Peripheral):
    """How the interconnect reads AXI SRAM: on early silicon one read at a time, or not reliably.

    The data are right here; but that the core has relied on them is told of in the log, and in
    `doubtful`.  ES0392, "Reading from AXI SRAM may lead to data read corruption".
    """

    size = 4

    FN_MOD = Register(
        0x0, BitStruct(Padding(30), Unmodelled("WRITE_ISS_OVERRIDE"), "READ_ISS_OVERRIDE" / Flag)
    )

    def __init__(self, revision: int) -> None:
        self.misreads = REVISIONS[revision] in AXI_SRAM_MISREAD_BY
        self.doubtful: list[int] = []
        """Lines of AXI SRAM that the core has read, each once."""
        super().__init__("AXI SRAM port")

    def read_by_core(self, address: int) -> None:
        line = address & -32
        if not self[self.FN_MOD].READ_ISS_OVERRIDE and line not in self.doubtful:
            self.doubtful.append(line)
            log.warning("%#010x: read, and the data may be wrong (READ_ISS_OVERRIDE = 0)", address)


def _exticr(offset: int, first: int) -> Register:
    """Which port is behind four of the external interrupt lines."""
    names = [f"EXTI{line}" for line in range(first + 3, first - 1, -1)]
    return Register(offset, BitStruct(Padding(16), *(Unmodelled(name, 4) for name in names)))


class Syscfg(Peripheral):
    """Pad and interrupt selection; of this only the ready bit of the compensation cell acts."""

    PMCR = Register(
        0x04,
        BitStruct(
            Padding(4),
            Unmodelled("PC3SO"),
            Unmodelled("PC2SO"),
            Unmodelled("PA1SO"),
            Unmodelled("PA0SO"),
            Unmodelled("EPIS", 3),
            Padding(11),
            Unmodelled("BOOSTVDDSEL"),
            Unmodelled("BOOSTE"),
            Unmodelled("PB_FMP", 4),
            Unmodelled("I2C_FMP", 4),
        ),
        reset=0x0F000000,
    )
    EXTICR1 = _exticr(0x08, 0)
    EXTICR2 = _exticr(0x0C, 4)
    EXTICR3 = _exticr(0x10, 8)
    EXTICR4 = _exticr(0x14, 12)
    CFGR = Register(0x18, BitStruct(Padding(16), Unmodelled("LOCKS", 16)))
    CCCSR = Register(
        0x20,
        BitStruct(
            Padding(15),
            Unmodelled("HSLV"),
            Padding(7),
            "READY" / Flag,
            Padding(6),
            Unmodelled("CS"),
            "EN" / Flag,
        ),
        writable=0x00010003,
    )
    CCVR = Register(
        0x24, BitStruct(Padding(24), Unmodelled("PCV", 4), Unmodelled("NCV", 4)), writable=0
    )
    CCCR = Register(0x28, BitStruct(Padding(24), Unmodelled("PCC", 4), Unmodelled("NCC", 4)))
    PWRCR = Register(0x2C, BitStruct(Padding(31), Unmodelled("ODEN")))
    PKGR = Register(0x124, BitStruct(Padding(28), "PKG" / BitsInteger(4)), writable=0)

    def __init__(self) -> None:
        super().__init__("SYSCFG")

    @on_write(CCCSR)
    def _compensate(self, cccsr: Fields) -> None:
        self.store(cccsr)
        self.update(self.CCCSR, READY=cccsr.EN)


class Exti(Peripheral):
    """External interrupts: registers without any line behind them, except software's.

    SWIER raises a pending bit; nothing on this board drives a pin that could.
    """

    RTSR1 = Register(0x00, BitStruct(Unmodelled("TR", 32)))
    FTSR1 = Register(0x04, BitStruct(Unmodelled("TR", 32)))
    SWIER1 = Register(0x08, BitStruct("SWIER" / BitsInteger(32)))
    D3PMR1 = Register(0x0C, BitStruct(Unmodelled("MR", 32)))
    CPUIMR1 = Register(0x80, BitStruct(Unmodelled("MR", 32)), reset=0xFFC00000)
    CPUEMR1 = Register(0x84, BitStruct(Unmodelled("MR", 32)))
    CPUPR1 = Register(0x88, BitStruct("PR" / BitsInteger(32)))
    CPUIMR2 = Register(0x90, BitStruct(Unmodelled("MR", 32)), reset=0xFFFFFFFF)
    CPUEMR2 = Register(0x94, BitStruct(Unmodelled("MR", 32)))
    CPUPR2 = Register(0x98, BitStruct(Unmodelled("PR", 32)), writable=0)
    CPUIMR3 = Register(0xA0, BitStruct(Unmodelled("MR", 32)), reset=0x01FFFFFF)
    CPUEMR3 = Register(0xA4, BitStruct(Unmodelled("MR", 32)))
    CPUPR3 = Register(0xA8, BitStruct(Unmodelled("PR", 32)), writable=0)

    def __init__(self) -> None:
        super().__init__("EXTI")

    @on_write(SWIER1)
    def _trigger(self, swier: Fields) -> None:
        self.set_raw(self.CPUPR1, self.raw(self.CPUPR1) | swier.value)

    @on_write(CPUPR1)
    def _acknowledge(self, pending: Fields) -> None:
        self.set_raw(self.CPUPR1, self.raw(self.CPUPR1) & ~pending.value)


def _reverse(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


class CrcUnit(Peripheral):
    """The CRC calculation unit, for programs; the flash controller has one of its own."""

    DR = Register(0x00, BitStruct("DR" / BitsInteger(32)), reset=0xFFFFFFFF)
    IDR = Register(0x04, BitStruct("IDR" / BitsInteger(32)))
    CR = Register(
        0x08,
        BitStruct(
            Padding(24),
            "REV_OUT" / Flag,
            "REV_IN" / BitsInteger(2),
            "POLYSIZE" / BitsInteger(2),
            Padding(2),
            "RESET" / Flag,
        ),
        writable=0x000000F8,
    )
    INIT = Register(0x10, BitStruct("CRC_INIT" / BitsInteger(32)), reset=0xFFFFFFFF)
    POL = Register(0x14, BitStruct("POL" / BitsInteger(32)), reset=0x04C11DB7)

    def __init__(self) -> None:
        self._state = 0xFFFFFFFF
        super().__init__("CRC")

    def reset(self) -> None:
        super().reset()
        self._state = 0xFFFFFFFF

    @property
    def _bits(self) -> int:
        return (32, 16, 8, 7)[self[self.CR].POLYSIZE]

    @on_write(CR)
    def _control(self, cr: Fields) -> None:
        self.store(cr)
        if cr.RESET:
            self._state = self.raw(self.INIT) & (1 << self._bits) - 1

    @on_write(INIT)
    def _set_initial(self, init: Fields) -> None:
        """The manual: a write of INIT is also taken over by DR."""
        self.store(init)
        self._state = init.value & (1 << self._bits) - 1

    @on_read(DR)
    def _result(self) -> None:
        state = self._state
        self.set_raw(self.DR, _reverse(state, self._bits) if self[self.CR].REV_OUT else state)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if offset & ~3 == self.DR.offset:
            self._add(value, 8 * size)
        else:
            super().write(offset, size, value, master)

    def _add(self, value: int, width: int) -> None:
        """Shift in `width` bits, most significant first."""
        cr = self[self.CR]
        if cr.REV_IN:
            unit = min(width, (8, 16, 32)[cr.REV_IN - 1])
            parts = [value >> at & (1 << unit) - 1 for at in range(0, width, unit)]
            value = sum(_reverse(part, unit) << at * unit for at, part in enumerate(parts))
        bits, polynomial = self._bits, self.raw(self.POL)
        state, top = self._state, 1 << self._bits - 1
        for bit in range(width - 1, -1, -1):
            feedback = bool(state & top) ^ (value >> bit & 1)
            state = state << 1 & (1 << bits) - 1
            if feedback:
                state ^= polynomial & (1 << bits) - 1
        self._state = state
