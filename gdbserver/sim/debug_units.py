"""The private peripheral bus: system control space, breakpoints, watchpoints, trace.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "System address map" and "Debug";
Cortex-M7 Technical Reference Manual (DDI 0489), "Programmers model" and "Debug".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from gdbserver.chip import cortex_m
from gdbserver.chip.cortex_m import DBGKEY, DCRSR_WRITE, Demcr, Dfsr, Dhcsr
from gdbserver.sim.bus import Master
from gdbserver.sim.nvic import Nvic
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
)

if TYPE_CHECKING:
    from gdbserver.sim.cpu import Core


def WORD(name: str = "VALUE") -> BitStruct:
    """A register that is one number."""
    return BitStruct(name / BitsInteger(32))


def constant(offset: int, value: int) -> Register:
    return Register(offset, WORD(), reset=value, writable=0)


JEP106_ARM = 0x23B
"""Arm's designer code, continuation 4: what the identification registers spell."""


class CoreSightComponent(Peripheral):
    """A peripheral with the identification registers that a debugger's discovery reads.

    Arm CoreSight Architecture Specification, "Component and Peripheral Identification
    registers".
    """

    size = 0x1000
    part: ClassVar[int]
    component_class: ClassVar[int] = 0xE  # generic IP component

    def read(self, offset: int, size: int, master: Master) -> int:
        if offset >= 0xFD0:
            return self._identification(offset & 0xFFC)
        return super().read(offset, size, master)

    def _identification(self, offset: int) -> int:
        peripheral_id = 4 << 32 | 0xB << 20 | (JEP106_ARM & 0x7F) << 12 | 1 << 19 | self.part
        component_id = 0xB105000D | self.component_class << 12
        if offset >= 0xFF0:
            return component_id >> 2 * (offset - 0xFF0) & 0xFF
        if offset >= 0xFE0:
            return peripheral_id >> 2 * (offset - 0xFE0) & 0xFF
        return peripheral_id >> 32 + 2 * (offset - 0xFD0) & 0xFF


class SystemControl(CoreSightComponent):
    """The system control space at 0xE000E000."""

    part = 0x00C

    CPUID = constant(0xD00, cortex_m.CPUID_M7_R1P1)
    VTOR = Register(0xD08, BitStruct("TBLOFF" / BitsInteger(25), Padding(7)))
    AIRCR = Register(
        0xD0C,
        BitStruct(
            "VECTKEYSTAT" / BitsInteger(16),
            "ENDIANNESS" / Flag,
            Padding(4),
            "PRIGROUP" / BitsInteger(3),
            Padding(5),
            "SYSRESETREQ" / Flag,
            "VECTCLRACTIVE" / Flag,
            "VECTRESET" / Flag,
        ),
        reset=0xFA050000,
    )
    DFSR = Register(0xD30, WORD())
    CLIDR = constant(0xD78, 0x09000003)
    CTR = constant(0xD7C, 0x8303C003)
    ISAR3 = constant(0xD6C, 0x01111131)
    MPU_TYPE = constant(0xD90, 0x00001000)
    DHCSR = Register(0xDF0, WORD())
    DCRSR = Register(0xDF4, WORD())
    DCRDR = Register(0xDF8, WORD())
    DEMCR = Register(0xDFC, WORD(), writable=0x010F07F1)
    MVFR0 = constant(0xF40, 0x10110221)
    MVFR1 = constant(0xF44, 0x12000011)
    MVFR2 = constant(0xF48, 0x00000040)

    def __init__(self) -> None:
        self.nvic = Nvic()
        self.control = Dhcsr(0)
        self._sticky = Dhcsr(0)
        self.on_system_reset: Callable[[], None] = lambda: None
        super().__init__("SCS")

    def attach(self, core: Core) -> None:
        self._core = core

    def reset_system(self) -> None:
        """What a system reset resets: all but the debug registers."""
        debug = {r: self.raw(r) for r in (self.DFSR, self.DCRDR, self.DEMCR)}
        self.reset()
        for register, value in debug.items():
            self.set_raw(register, value)
        self.nvic.reset()
        self.control &= Dhcsr.C_DEBUGEN
        self._sticky |= Dhcsr.S_RESET_ST

    def power_on_reset(self) -> None:
        self.reset_system()
        self.reset()
        self.control = Dhcsr(0)

    def set_irq(self, number: int, level: bool) -> None:
        """The interrupt line of a peripheral rose or fell."""
        self.nvic.set_line(16 + number, level)

    @property
    def debug_enabled(self) -> bool:
        return Dhcsr.C_DEBUGEN in self.control

    def catches(self, event: Demcr) -> bool:
        """Whether the debugger wants the core to halt at this event."""
        return self.debug_enabled and bool(self.raw(self.DEMCR) & event)

    def halted(self, why: Dfsr) -> None:
        self.set_raw(self.DFSR, self.raw(self.DFSR) | why)
        self.control |= Dhcsr.C_HALT

    @DFSR.writes
    def _clear_dfsr(self, fields: Fields) -> None:
        self.set_raw(self.DFSR, self.raw(self.DFSR) & ~fields.value)

    @AIRCR.writes
    def _write_aircr(self, fields: Fields) -> None:
        if fields.VECTKEYSTAT == 0x05FA and fields.SYSRESETREQ:
            self.on_system_reset()

    @DHCSR.reads
    def _read_dhcsr(self) -> None:
        core = self._core
        status = self.control | Dhcsr.S_REGRDY | self._sticky
        if core.halted:
            status |= Dhcsr.S_HALT
        if core.asleep:
            status |= Dhcsr.S_SLEEP
        if core.locked_up:
            status |= Dhcsr.S_LOCKUP
        if core.in_reset:
            status |= Dhcsr.S_RESET_ST
        if not core.halted and not core.in_reset:
            status |= Dhcsr.S_RETIRE_ST
        self._sticky = Dhcsr(0)
        self.set_raw(self.DHCSR, status)

    @DHCSR.writes
    def _write_dhcsr(self, fields: Fields) -> None:
        if fields.value & 0xFFFF0000 != DBGKEY:
            return
        core = self._core
        new = Dhcsr(fields.value & 0x2F)
        if Dhcsr.C_DEBUGEN not in new:
            new = Dhcsr(0)
        self.control = new
        if not core.halted:
            if Dhcsr.C_HALT in new:
                core.request_halt()
        elif Dhcsr.C_HALT not in new:
            if Dhcsr.C_STEP in new:
                core.step()
            else:
                core.resume()

    @DCRSR.writes
    def _transfer(self, fields: Fields) -> None:
        if not self._core.halted:
            return
        selector = fields.value & 0x7F
        if fields.value & DCRSR_WRITE:
            self._core.write_register(selector, self.raw(self.DCRDR))
        else:
            self.set_raw(self.DCRDR, self._core.read_register(selector))


class Fpb(CoreSightComponent):
    """Flash Patch and Breakpoint unit, revision 2: eight breakpoints, anywhere."""

    part = 0x00E

    CTRL = Register(0x000, WORD(), reset=0x10000080)
    COMP0, COMP1, COMP2, COMP3, COMP4, COMP5, COMP6, COMP7 = (
        Register(0x008 + 4 * n, WORD()) for n in range(8)
    )
    COMPARATORS = (COMP0, COMP1, COMP2, COMP3, COMP4, COMP5, COMP6, COMP7)

    def __init__(self, core: Core) -> None:
        self._core = core
        super().__init__("FPB")

    def reset(self) -> None:
        super().reset()
        self._core.set_breakpoints(frozenset())

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        super().write(offset, size, value, master)
        enabled = self.raw(self.CTRL) & cortex_m.FP_CTRL_ENABLE
        comparators = [self.raw(register) for register in self.COMPARATORS] if enabled else []
        self._core.set_breakpoints(frozenset(c & ~1 for c in comparators if c & 1))

    @CTRL.writes
    def _write_ctrl(self, fields: Fields) -> None:
        if fields.value & cortex_m.FP_CTRL_KEY:
            self.set_raw(self.CTRL, self.CTRL.reset | fields.value & cortex_m.FP_CTRL_ENABLE)


class Dwt(CoreSightComponent):
    """Data Watchpoint and Trace unit: four comparators and the cycle counter."""

    part = 0x002

    CTRL = Register(0x000, WORD(), reset=0x40000000)
    CYCCNT = Register(0x004, WORD())

    def __init__(self, core: Core) -> None:
        self._core = core
        super().__init__("DWT")


class Itm(CoreSightComponent):
    """Instrumentation Trace Macrocell: accepts and drops what a program prints."""

    part = 0x001

    TER = Register(0xE00, WORD())
    TCR = Register(0xE80, WORD())
    LAR = Register(0xFB0, WORD())

    def __init__(self) -> None:
        super().__init__("ITM")
