"""The system control space: NVIC, SysTick, SCB, MPU, caches, FPU control and core debug.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "The System Control Space" and "Debug
register support in the SCS"; Cortex-M7 Technical Reference Manual (DDI 0489), "System
control" for what Arm leaves to the implementation.

The MPU's registers are complete, and its regions are not enforced: enabling it is logged.
The caches hold no data; what maintenance they get is noted in `caches`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from gdbserver.chip import cortex_m
from gdbserver.chip.cortex_m import (
    DBGKEY,
    DCRSR_WRITE,
    Ccr,
    Cfsr,
    Demcr,
    Dfsr,
    Dhcsr,
    ExceptionNumber,
    Hfsr,
    Icsr,
)
from gdbserver.sim.bus import Master
from gdbserver.sim.caches import Caches
from gdbserver.sim.components import GENERIC_IP, CoreSightComponent, Identity
from gdbserver.sim.nvic import EXTERNAL, INTERRUPTS, MASKED_BY_DEBUGGER, Nvic, bits
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Constant,
    Fields,
    Flag,
    Padding,
    Register,
    Unmodelled,
    Word,
    on_read,
    on_write,
)
from gdbserver.sim.systick import SysTick

if TYPE_CHECKING:
    from gdbserver.sim.cpu import Core

log = logging.getLogger(__name__)

MPU_REGIONS = 16

# Asked for each slice of instructions, or each access.
_DIV_0_TRP, _TRCENA = int(Ccr.DIV_0_TRP), int(Demcr.TRCENA)


class SystemControl(CoreSightComponent):
    """The device at 0xE000E000, and what the core asks about its own configuration."""

    identity = Identity(0x00C, GENERIC_IP)

    ICTR = Constant(0x004, (INTERRUPTS - 1) // 32)
    ACTLR = Register(0x008, BitStruct(Unmodelled("ACTLR", 32)))
    SYST_CSR = Word(0x010)
    SYST_RVR = Word(0x014, writable=0xFFFFFF)
    SYST_CVR = Word(0x018)
    SYST_CALIB = Constant(0x01C, 0x400003E8)

    CPUID = Constant(0xD00, cortex_m.CPUID_M7_R1P1)
    ICSR = Word(0xD04)
    VTOR = Register(0xD08, BitStruct("TBLOFF" / BitsInteger(25), Padding(7)))
    AIRCR = Register(
        0xD0C,
        BitStruct(
            "VECTKEY" / BitsInteger(16),
            "ENDIANNESS" / Flag,
            Padding(4),
            "PRIGROUP" / BitsInteger(3),
            Padding(5),
            "SYSRESETREQ" / Flag,
            "VECTCLRACTIVE" / Flag,
            Unmodelled("VECTRESET"),
        ),
        reset=0xFA050000,
    )
    SCR = Register(
        0xD10,
        BitStruct(
            Padding(27),
            "SEVONPEND" / Flag,
            Padding(1),
            "SLEEPDEEP" / Flag,
            "SLEEPONEXIT" / Flag,
            Padding(1),
        ),
    )
    CCR = Register(
        0xD14,
        BitStruct(
            Padding(13),
            "BP" / Flag,
            "IC" / Flag,
            "DC" / Flag,
            Padding(6),
            "STKALIGN" / Flag,
            "BFHFNMIGN" / Flag,
            Padding(3),
            "DIV_0_TRP" / Flag,
            Unmodelled("UNALIGN_TRP"),
            Padding(1),
            "USERSETMPEND" / Flag,
            "NONBASETHRDENA" / Flag,
        ),
        reset=Ccr.BP | Ccr.STKALIGN,
        writable=0xFFFFFFFF & ~(Ccr.BP | Ccr.STKALIGN),
    )
    SHPR1 = Word(0xD18, writable=0x00F0F0F0)  # UsageFault, BusFault, MemManage
    SHPR2 = Word(0xD1C, writable=0xF0000000)  # SVCall
    SHPR3 = Word(0xD20, writable=0xF0F000F0)  # SysTick, PendSV, DebugMonitor
    SHCSR = Word(0xD24)
    CFSR = Word(0xD28)
    HFSR = Word(0xD2C)
    DFSR = Word(0xD30)
    MMFAR = Word(0xD34)
    BFAR = Word(0xD38)
    AFSR = Word(0xD3C)
    # DDI 0489, "System control register summary": what this implementation can do.
    ID_PFR0 = Constant(0xD40, 0x00000030)
    ID_PFR1 = Constant(0xD44, 0x00000200)
    ID_DFR0 = Constant(0xD48, 0x00100000)
    ID_AFR0 = Constant(0xD4C, 0x00000000)
    ID_MMFR0 = Constant(0xD50, 0x00100030)
    ID_MMFR1 = Constant(0xD54, 0x00000000)
    ID_MMFR2 = Constant(0xD58, 0x01000000)
    ID_MMFR3 = Constant(0xD5C, 0x00000000)
    ID_ISAR0 = Constant(0xD60, 0x01101110)
    ID_ISAR1 = Constant(0xD64, 0x02112000)
    ID_ISAR2 = Constant(0xD68, 0x20232231)
    ID_ISAR3 = Constant(0xD6C, 0x01111131)
    ID_ISAR4 = Constant(0xD70, 0x01310132)
    CLIDR = Constant(0xD78, 0x09000003)  # separate level-1 instruction and data caches
    CTR = Constant(0xD7C, 0x8303C003)
    CCSIDR = Constant(0xD80, 0xF00FE019)
    CSSELR = Word(0xD84, writable=0xF)
    CPACR = Word(0xD88, writable=0x00F00000)
    MPU_TYPE = Constant(0xD90, MPU_REGIONS << 8)
    MPU_CTRL = Word(0xD94, writable=0x7)
    MPU_RNR = Word(0xD98, writable=0xF)
    MPU_RBAR = Word(0xD9C)
    MPU_RASR = Word(0xDA0)
    DHCSR = Word(0xDF0)
    DCRSR = Word(0xDF4)
    DCRDR = Word(0xDF8)
    DEMCR = Register(
        0xDFC,
        BitStruct(
            Padding(7),
            "TRCENA" / Flag,
            Padding(4),
            "MON_REQ" / Flag,  # software's own: how its monitor was woken up
            Unmodelled("MON_STEP"),
            "MON_PEND" / Flag,
            "MON_EN" / Flag,
            Padding(5),
            "VC_HARDERR" / Flag,
            "VC_INTERR" / Flag,
            "VC_BUSERR" / Flag,
            "VC_STATERR" / Flag,
            "VC_CHKERR" / Flag,
            "VC_NOCPERR" / Flag,
            "VC_MMERR" / Flag,
            Padding(3),
            "VC_CORERESET" / Flag,
        ),
    )
    STIR = Word(0xF00)
    FPCCR = Word(0xF34, reset=0xC0000000, writable=0xC0000000)
    FPCAR = Word(0xF38, writable=0xFFFFFFF8)
    FPDSCR = Word(0xF3C, writable=0x07C00000)
    MVFR0 = Constant(0xF40, 0x10110221)
    MVFR1 = Constant(0xF44, 0x12000011)
    MVFR2 = Constant(0xF48, 0x00000040)
    ICIALLU = Word(0xF50)
    ICIMVAU = Word(0xF58)
    DCIMVAC = Word(0xF5C)
    DCISW = Word(0xF60)
    DCCMVAU = Word(0xF64)
    DCCMVAC = Word(0xF68)
    DCCSW = Word(0xF6C)
    DCCIMVAC = Word(0xF70)
    DCCISW = Word(0xF74)
    BPIALL = Constant(0xF78, 0)
    ITCMCR = Register(0xF90, BitStruct(Unmodelled("ITCMCR", 32)), reset=0x39)  # 64 KiB, enabled
    DTCMCR = Register(0xF94, BitStruct(Unmodelled("DTCMCR", 32)), reset=0x41)  # 128 KiB, enabled
    AHBPCR = Register(0xF98, BitStruct(Unmodelled("AHBPCR", 32)))
    CACR = Register(0xF9C, BitStruct(Unmodelled("CACR", 32)))
    AHBSCR = Register(0xFA0, BitStruct(Unmodelled("AHBSCR", 32)), reset=0x799)

    _DEBUG_REGISTERS = (DFSR, DCRDR, DEMCR)
    _WRITE_ONE_TO_CLEAR = frozenset({0xD28, 0xD2C, 0xD30})
    _SYSTEM_HANDLERS: ClassVar[dict[int, int]] = {
        # SHCSR bit -> exception whose active state it shows
        0: ExceptionNumber.MEM_MANAGE,
        1: ExceptionNumber.BUS_FAULT,
        3: ExceptionNumber.USAGE_FAULT,
        7: ExceptionNumber.SV_CALL,
        8: ExceptionNumber.DEBUG_MONITOR,
        10: ExceptionNumber.PEND_SV,
        11: ExceptionNumber.SYS_TICK,
    }
    _PENDED: ClassVar[dict[int, int]] = {
        12: ExceptionNumber.USAGE_FAULT,
        13: ExceptionNumber.MEM_MANAGE,
        14: ExceptionNumber.BUS_FAULT,
        15: ExceptionNumber.SV_CALL,
    }
    _FAULT_ENABLES: ClassVar[dict[int, int]] = {
        16: ExceptionNumber.MEM_MANAGE,
        17: ExceptionNumber.BUS_FAULT,
        18: ExceptionNumber.USAGE_FAULT,
    }

    def __init__(self) -> None:
        self.nvic = Nvic()
        self.caches = Caches()
        self.debug_enabled: bool
        self.control = Dhcsr(0)
        self.on_system_reset: Callable[[], None] = lambda: None
        self.defer: Callable[[Callable[[], None]], object] = lambda action: action()
        """Does what it is given: a transfer between DCRDR and a core register, at once or later."""
        self._transferring = False
        self._was_reset = False
        self._cycles_seen = 0
        self._master = Master.CORE
        self._regions = [(0, 0)] * MPU_REGIONS
        self._core: Core
        self.systick: SysTick
        super().__init__("SCS")

    def attach(self, core: Core, systick: SysTick) -> None:
        """Make this the system control space of `core`."""
        self._core = core
        self.systick = systick

    # --- resets ------------------------------------------------------------------------

    def reset_system(self) -> None:
        """A system reset: all but the debug registers, of DEMCR what is for halting debug."""
        kept = {register: self.raw(register) for register in self._DEBUG_REGISTERS}
        self.reset()
        for register, value in kept.items():
            self.set_raw(register, value)
        self.update(self.DEMCR, MON_EN=0, MON_PEND=0, MON_STEP=0, MON_REQ=0)
        self.nvic.reset()
        self.caches.reset()
        self.systick.reset()
        self._regions = [(0, 0)] * MPU_REGIONS
        self.set_raw(self.VTOR, self._core.boot_address)
        self.control &= Dhcsr.C_DEBUGEN
        self._was_reset = True

    def power_on_reset(self) -> None:
        """The debug registers as well."""
        self.reset_system()
        for register in self._DEBUG_REGISTERS:
            self.set_raw(register, register.reset)
        self.control = Dhcsr(0)

    # --- what the core asks, and tells -------------------------------------------------

    def set_irq(self, number: int, level: bool) -> None:
        """The interrupt line of a peripheral rose or fell."""
        self.nvic.set_line(EXTERNAL + number, level)

    @property
    def vector_table(self) -> int:
        return self.raw(self.VTOR)

    @property
    def ccr(self) -> Ccr:
        return Ccr(self.raw(self.CCR))

    @property
    def sleeps_on_exit(self) -> bool:
        return bool(self[self.SCR].SLEEPONEXIT)

    @property
    def sleeps_deeply(self) -> bool:
        """Whether WFI and WFE ask for a Stop or Standby mode, rather than Sleep."""
        return bool(self[self.SCR].SLEEPDEEP)

    @property
    def pending_is_an_event(self) -> bool:
        return bool(self[self.SCR].SEVONPEND)

    @property
    def traps_division(self) -> bool:
        return bool(self.raw(self.CCR) & _DIV_0_TRP)

    @property
    def ignores_bus_faults(self) -> bool:
        """In HardFault, NMI and with FAULTMASK set: for programs that probe for memory."""
        return Ccr.BFHFNMIGN in self.ccr

    @property
    def floating_point_enabled(self) -> bool:
        """Whether CPACR lets CP10 and CP11 work; "privileged only" counts as enabled."""
        return bool(self.raw(self.CPACR) & 0x00500000)

    @property
    def fp_context_automatic(self) -> bool:
        return bool(self.raw(self.FPCCR) & 1 << 31)

    @property
    def default_fpscr(self) -> int:
        return self.raw(self.FPDSCR)

    @property
    def control(self) -> Dhcsr:
        """The bits of DHCSR that a debugger sets."""
        return self._control

    @control.setter
    def control(self, value: Dhcsr) -> None:
        self._control = value
        self.debug_enabled = Dhcsr.C_DEBUGEN in value

    @property
    def monitor_enabled(self) -> bool:
        return bool(self.raw(self.DEMCR) & Demcr.MON_EN)

    @property
    def trace_enabled(self) -> bool:
        return bool(self.raw(self.DEMCR) & _TRCENA)

    @property
    def masked_by_debugger(self) -> int:
        """The exceptions that DHCSR.C_MASKINTS holds back."""
        masking = Dhcsr.C_DEBUGEN | Dhcsr.C_MASKINTS
        return MASKED_BY_DEBUGGER if self.control & masking == masking else 0

    def catches(self, event: Demcr) -> bool:
        """Whether the debugger wants the core to halt at this event."""
        return self.debug_enabled and bool(self.raw(self.DEMCR) & event)

    def note_debug_event(self, why: Dfsr) -> None:
        self.set_raw(self.DFSR, self.raw(self.DFSR) | why)

    def halted(self, why: Dfsr) -> None:
        """The core entered debug state."""
        self.note_debug_event(why)
        self.control |= Dhcsr.C_HALT

    def note_fault(self, cause: Cfsr, address: int | None) -> None:
        """Set CFSR bits, and the fault address register that goes with them."""
        if address is not None:
            if cause < Cfsr.IBUSERR:
                self.set_raw(self.MMFAR, address)
                cause |= Cfsr.MMARVALID
            else:
                self.set_raw(self.BFAR, address)
                cause |= Cfsr.BFARVALID
        self.set_raw(self.CFSR, self.raw(self.CFSR) | cause)

    def note_hard_fault(self, why: Hfsr) -> None:
        self.set_raw(self.HFSR, self.raw(self.HFSR) | why)

    def note_fp_frame(self, address: int) -> None:
        self.set_raw(self.FPCAR, address)

    # --- accesses ------------------------------------------------------------------------

    def read(self, offset: int, size: int, master: Master) -> int:
        self._master = master
        if 0x100 <= offset < 0x500:
            word = self._read_nvic(offset & ~3)
            return word >> 8 * (offset & 3) & (1 << 8 * size) - 1
        return super().read(_without_alias(offset), size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self._master = master
        if 0x400 <= offset < 0x500:
            self._write_priorities(offset, size, value)
            return
        word = offset & ~3
        if size != 4 and (word < 0xD00 or word in self._WRITE_ONE_TO_CLEAR):
            # Bytes that were not written must neither clear nor set anything.
            offset, size, value = word, 4, value << 8 * (offset & 3)
        if 0x100 <= offset < 0x400:
            self._write_nvic(offset, value)
        else:
            super().write(_without_alias(offset), size, value, master)

    def _read_nvic(self, offset: int) -> int:
        nvic = self.nvic
        if offset >= 0x400:
            first = EXTERNAL + offset - 0x400
            return int.from_bytes(bytes(nvic.priorities[first : first + 4]), "little")
        shift = EXTERNAL + 8 * (offset & 0x7F)
        group = offset & 0x380
        words = {
            0x100: nvic.enabled,
            0x180: nvic.enabled,
            0x200: nvic.pending,
            0x280: nvic.pending,
            0x300: nvic.active,
        }
        return words.get(group, 0) >> shift & 0xFFFFFFFF

    def _write_nvic(self, offset: int, value: int) -> None:
        nvic = self.nvic
        existing = (1 << EXTERNAL + INTERRUPTS) - 1
        mask = value << EXTERNAL + 8 * (offset & 0x7F) & existing
        match offset & 0x380:
            case 0x100:
                nvic.enable(mask)
            case 0x180:
                nvic.disable(mask)
            case 0x200:
                for number in bits(mask):
                    nvic.pend(number)
            case 0x280:
                for number in bits(mask):
                    nvic.unpend(number)

    def _write_priorities(self, offset: int, size: int, value: int) -> None:
        for index, priority in enumerate(value.to_bytes(size, "little")):
            self.nvic.set_priority(EXTERNAL + offset - 0x400 + index, priority)

    # --- SysTick -------------------------------------------------------------------------

    @on_read(SYST_CSR)
    def _read_csr(self) -> None:
        self.set_raw(self.SYST_CSR, self.systick.read_control())

    @on_write(SYST_CSR)
    def _write_csr(self, fields: Fields) -> None:
        self.systick.write_control(fields.value)

    @on_write(SYST_RVR)
    def _write_rvr(self, fields: Fields) -> None:
        self.store(fields)
        self.systick.reload = self.raw(self.SYST_RVR)

    @on_read(SYST_CVR)
    def _read_cvr(self) -> None:
        self.set_raw(self.SYST_CVR, self.systick.value)

    @on_write(SYST_CVR)
    def _write_cvr(self, fields: Fields) -> None:
        self.systick.clear()

    # --- system control block --------------------------------------------------------------

    @on_read(ICSR)
    def _read_icsr(self) -> None:
        nvic = self.nvic
        value = self._core.registers.ipsr
        waiting = bits(nvic.waiting)
        if waiting:
            value |= min(waiting, key=nvic.priority) << 12
        if nvic.active.bit_count() <= 1:
            value |= 1 << 11  # RETTOBASE
        if nvic.pending >> EXTERNAL:
            value |= 1 << 22  # ISRPENDING
        for bit, number in (
            (Icsr.PENDSTSET, ExceptionNumber.SYS_TICK),
            (Icsr.PENDSVSET, ExceptionNumber.PEND_SV),
            (Icsr.NMIPENDSET, ExceptionNumber.NMI),
        ):
            if nvic.pending >> number & 1:
                value |= bit
        self.set_raw(self.ICSR, value)

    @on_write(ICSR)
    def _write_icsr(self, fields: Fields) -> None:
        nvic = self.nvic
        written = Icsr(fields.value & (0x9E << 24))
        if Icsr.PENDSTCLR in written:
            nvic.unpend(ExceptionNumber.SYS_TICK)
        if Icsr.PENDSVCLR in written:
            nvic.unpend(ExceptionNumber.PEND_SV)
        if Icsr.PENDSTSET in written:
            nvic.pend(ExceptionNumber.SYS_TICK)
        if Icsr.PENDSVSET in written:
            nvic.pend(ExceptionNumber.PEND_SV)
        if Icsr.NMIPENDSET in written:
            nvic.pend(ExceptionNumber.NMI)

    @on_write(AIRCR)
    def _write_aircr(self, fields: Fields) -> None:
        if fields.VECTKEY != cortex_m.VECTKEY >> 16:
            return
        self.update(self.AIRCR, PRIGROUP=fields.PRIGROUP)
        self.nvic.prigroup = fields.PRIGROUP
        self.nvic.changed = True
        if fields.VECTCLRACTIVE and self._core.halted:
            self.nvic.active = 0
            self._core.registers.xpsr &= ~0x1FF
        if fields.SYSRESETREQ:
            self._core.soon(self.on_system_reset)

    @on_write(SHPR1, SHPR2, SHPR3)
    def _set_system_priorities(self, written: Fields) -> None:
        register = written.register
        self.store(written)
        first = 4 + register.offset - self.SHPR1.offset
        for index, priority in enumerate(self.raw(register).to_bytes(4, "little")):
            self.nvic.set_priority(first + index, priority)

    @on_read(SHCSR)
    def _read_shcsr(self) -> None:
        nvic = self.nvic
        value = 0
        for mask, table in (
            (nvic.active, self._SYSTEM_HANDLERS),
            (nvic.pending, self._PENDED),
            (nvic.enabled, self._FAULT_ENABLES),
        ):
            value |= sum(1 << bit for bit, number in table.items() if mask >> number & 1)
        self.set_raw(self.SHCSR, value)

    @on_write(SHCSR)
    def _write_shcsr(self, fields: Fields) -> None:
        nvic = self.nvic
        for bit, number in self._FAULT_ENABLES.items():
            (nvic.enable if fields.value >> bit & 1 else nvic.disable)(1 << number)
        for bit, number in self._PENDED.items():
            (nvic.pend if fields.value >> bit & 1 else nvic.unpend)(number)
        for bit, number in self._SYSTEM_HANDLERS.items():
            nvic.active = nvic.active & ~(1 << number) | (fields.value >> bit & 1) << number
        self._read_shcsr()

    @on_write(CFSR, HFSR, DFSR)
    def _clear_written(self, written: Fields) -> None:
        self.set_raw(written.register, self.raw(written.register) & ~written.value)

    @on_read(CCSIDR)
    def _read_ccsidr(self) -> None:
        # 16 KiB each: the data cache has four ways, the instruction cache two.
        self.set_raw(self.CCSIDR, 0xF01FE009 if self.raw(self.CSSELR) & 1 else 0xF00FE019)

    @on_write(STIR)
    def _trigger(self, fields: Fields) -> None:
        number = fields.value & 0x1FF
        if number < INTERRUPTS:
            self.nvic.pend(EXTERNAL + number)
        self.set_raw(self.STIR, 0)

    # --- caches ----------------------------------------------------------------------------

    @on_write(CCR)
    def _write_ccr(self, fields: Fields) -> None:
        self.store(fields)
        self.caches.ccr = self.ccr

    @on_write(ICIALLU)
    def _write_iciallu(self, fields: Fields) -> None:
        self.caches.invalidate_instructions()

    @on_write(ICIMVAU)
    def _write_icimvau(self, fields: Fields) -> None:
        self.caches.invalidate_instructions(fields.value)

    @on_write(DCCMVAU, DCCMVAC)
    def _clean_address(self, fields: Fields) -> None:
        self.caches.clean(fields.value)

    @on_write(DCIMVAC)
    def _invalidate_address(self, fields: Fields) -> None:
        self.caches.invalidate_data(fields.value)

    @on_write(DCCIMVAC)
    def _clean_and_invalidate_address(self, fields: Fields) -> None:
        self.caches.clean(fields.value)
        self.caches.invalidate_data(fields.value)

    @on_write(DCCSW)
    def _clean_set_and_way(self, fields: Fields) -> None:
        self.caches.clean_set_and_way(fields.value)

    @on_write(DCISW)
    def _invalidate_set_and_way(self, fields: Fields) -> None:
        self.caches.invalidate_set_and_way(fields.value)

    @on_write(DCCISW)
    def _clean_and_invalidate_set_and_way(self, fields: Fields) -> None:
        self.caches.clean_set_and_way(fields.value)
        self.caches.invalidate_set_and_way(fields.value)

    # --- MPU -------------------------------------------------------------------------------

    @on_write(MPU_CTRL)
    def _write_mpu_ctrl(self, fields: Fields) -> None:
        if fields.value & 1 and not self.raw(self.MPU_CTRL) & 1:
            log.warning("the MPU is enabled; its regions are not enforced here")
        self.store(fields)

    @on_read(MPU_RBAR, MPU_RASR)
    def _show_region(self) -> None:
        number = self.raw(self.MPU_RNR)
        address, attributes = self._regions[number]
        self.set_raw(self.MPU_RBAR, address | number)
        self.set_raw(self.MPU_RASR, attributes)

    @on_write(MPU_RBAR)
    def _set_region_address(self, rbar: Fields) -> None:
        if rbar.value & 0x10:  # VALID: the region number comes along
            self.set_raw(self.MPU_RNR, rbar.value & 0xF)
        number = self.raw(self.MPU_RNR)
        self._regions[number] = (rbar.value & ~0x1F, self._regions[number][1])

    @on_write(MPU_RASR)
    def _set_region_attributes(self, rasr: Fields) -> None:
        number = self.raw(self.MPU_RNR)
        self._regions[number] = (self._regions[number][0], rasr.value & 0x173FFF3F)

    # --- debug ------------------------------------------------------------------------------

    @on_read(DHCSR)
    def _read_dhcsr(self) -> None:
        core = self._core
        status = self.control
        if not self._transferring:
            status |= Dhcsr.S_REGRDY
        if core.halted and not core.in_reset:
            status |= Dhcsr.S_HALT
        elif core.locked_up:
            status |= Dhcsr.S_LOCKUP
        elif core.asleep:
            status |= Dhcsr.S_SLEEP
        if self._was_reset or core.in_reset:
            status |= Dhcsr.S_RESET_ST
        if core.cycles != self._cycles_seen:
            status |= Dhcsr.S_RETIRE_ST
        if self._master is not Master.CORE:
            self._was_reset = False
            self._cycles_seen = core.cycles
        self.set_raw(self.DHCSR, status)

    @on_write(DHCSR)
    def _write_dhcsr(self, fields: Fields) -> None:
        if fields.value & 0xFFFF0000 != DBGKEY:
            return
        core, old = self._core, self.control
        new = Dhcsr(fields.value & 0x2F)
        if self._master is Master.CORE:
            # A program can neither open nor close the debugger's door.
            new = new & ~Dhcsr.C_DEBUGEN | old & Dhcsr.C_DEBUGEN
        if Dhcsr.C_DEBUGEN not in new:
            new = Dhcsr(0)
        elif (new ^ old) & Dhcsr.C_MASKINTS and Dhcsr.C_DEBUGEN in old:
            allowed = core.halted and Dhcsr.C_HALT in old and Dhcsr.C_HALT in new
            if not allowed:
                log.warning("DHCSR.C_MASKINTS changes only while halted, before C_HALT goes")
                new ^= Dhcsr.C_MASKINTS
        self.control = new
        if not core.halted:
            if Dhcsr.C_HALT in new:
                core.request_halt()
        elif Dhcsr.C_HALT not in new:
            if Dhcsr.C_STEP in new:
                core.step()
            else:
                core.resume()

    @on_write(DCRSR)
    def _begin_transfer(self, fields: Fields) -> None:
        if not self._core.halted:
            return
        if self._transferring:
            log.warning("DCRSR is written while DHCSR.S_REGRDY is 0: that transfer is lost")
            return
        self._transferring = True
        self.defer(partial(self._transfer, fields.value))

    def _transfer(self, request: int) -> None:
        self._transferring = False
        if not self._core.halted:
            return
        selector = request & 0x7F
        if request & DCRSR_WRITE:
            self._core.write_register(selector, self.raw(self.DCRDR))
        else:
            self.set_raw(self.DCRDR, self._core.read_register(selector))

    @on_read(DEMCR)
    def _show_pending_monitor(self) -> None:
        pending = self.nvic.pending >> ExceptionNumber.DEBUG_MONITOR & 1
        self.update(self.DEMCR, MON_PEND=pending)

    @on_write(DEMCR)
    def _control_exceptions(self, demcr: Fields) -> None:
        self.store(demcr)
        if demcr.MON_PEND:
            self.nvic.pend(ExceptionNumber.DEBUG_MONITOR)
        else:
            self.nvic.unpend(ExceptionNumber.DEBUG_MONITOR)


def _without_alias(offset: int) -> int:
    """MPU_RBAR_A1 to MPU_RASR_A3 are MPU_RBAR and MPU_RASR again, for one STM of four regions."""
    rbar = SystemControl.MPU_RBAR.offset
    return rbar + (offset - rbar) % 8 if rbar <= offset < rbar + 32 else offset
