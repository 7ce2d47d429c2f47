"""The simulated Cortex-M7: Unicorn executes instructions, everything around them is here.

Unicorn knows no exceptions, no sleep, no debug and no time.  The core runs it in slices of
a counted number of instructions and looks, between slices, at what silicon looks at after
each instruction: pending exceptions, halt requests, the clock.

Time is an estimate: `CYCLES_PER_INSTRUCTION` for each instruction, and `ACCESS_CYCLES` more
for each access that leaves the core's plain memory.  A slice is short after a start or such
an access, and doubles while nothing happens, so the clock that a peripheral sees is wrong by
at most half of what the core did since.  The same inputs give the same nanoseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import unicorn as uc
from unicorn import arm_const as arm

from gdbserver.chip.cortex_m import (
    LOCKUP_PC,
    XPSR_THUMB,
    Cfsr,
    Demcr,
    Dfsr,
    ExceptionNumber,
    Hfsr,
    Selector,
)
from gdbserver.sim.bus import Bus, BusError, BusStall, Master
from gdbserver.sim.clock import SECOND, Clock
from gdbserver.sim.core_memory import CoreMemory
from gdbserver.sim.core_registers import CoreRegisters

if TYPE_CHECKING:
    from gdbserver.sim.debug_units import SystemControl

log = logging.getLogger(__name__)

CYCLES_PER_INSTRUCTION = 1
"""A round figure: a Cortex-M7 issues up to two a cycle, and waits for flash and branches."""

ACCESS_CYCLES = 8
"""An access to a peripheral: from the core over AXI and AHB to the slave and back."""

FIRST_SLICE = 64
LONGEST_SLICE = 8192

NOWHERE = 0xDFFFFFFE  # where no program gets to: Unicorn wants an address to stop at


class Core:
    """One Cortex-M7, run by `run_until`, controlled by the debug unit."""

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        scs: SystemControl,
        frequency: Callable[[], int],
        boot_address: int = 0x08000000,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._scs = scs
        self._frequency = frequency
        self.boot_address = boot_address
        self.halted = False
        self.asleep = False
        self.locked_up = False
        self.in_reset = False
        self.cycles = 0
        """Core clock cycles spent running, since power-on."""
        self._pc = 0
        self._thumb = True
        self._stepping = False
        self._slice = FIRST_SLICE
        self._limit = 0
        self._cycle_fraction = 0
        self._then: Callable[[], None] | None = None
        self._half_charged = 0
        self._finishing = False
        self._breakpoints: frozenset[int] = frozenset()
        self._exits: frozenset[int] = frozenset()
        unicorn = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB)
        # Not UC_MODE_MCLASS: it silently makes the core a Cortex-M33.
        unicorn.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M7)
        unicorn.ctl_exits_enabled(True)
        unicorn.ctl_set_exits([NOWHERE])
        self._uc = unicorn
        self.registers = CoreRegisters(unicorn)
        self._memory = CoreMemory(unicorn, bus, self)
        unicorn.hook_add(uc.UC_HOOK_INTR, self._on_interrupt)
        unicorn.hook_add(uc.UC_HOOK_INSN_INVALID, self._on_invalid)
        unicorn.hook_add(uc.UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
        scs.attach(self)

    # --- time ------------------------------------------------------------------------

    def run_until(self, when: int) -> None:
        """Execute, or let time pass, until the clock shows `when` or a few cycles more."""
        while self._clock.now < when:
            if self.halted or self.in_reset or self.locked_up or self.asleep:
                self._idle(when)
            else:
                self._execute(when)

    def _idle(self, when: int) -> None:
        due = self._clock.next_event
        self._clock.advance_to(when if due is None else min(when, due))

    def _spend(self, cycles: int) -> None:
        self.cycles += cycles
        spent, self._cycle_fraction = divmod(
            cycles * SECOND + self._cycle_fraction, self._frequency()
        )
        self._clock.advance_to(self._clock.now + spent)

    def _execute(self, when: int) -> None:
        due = self._clock.next_event
        self._limit = when if due is None else max(self._clock.now, min(when, due))
        cycles = (self._limit - self._clock.now) * self._frequency() // SECOND
        count = max(1, min(self._slice, cycles // CYCLES_PER_INSTRUCTION))
        self._run_slice(1 if self._stepping else count)
        if self._stepping:
            self._stepping = False
            self.enter_debug(Dfsr.HALTED)

    def _run_slice(self, count: int) -> None:
        self._use_exits(self._breakpoints)
        self._then = None
        self._half_charged = 0
        try:
            self._memory.run(self._pc | 1, NOWHERE, count)
        except uc.UcError:
            if self._then is None:
                raise
        self._pc = int(self._uc.reg_read(arm.UC_ARM_REG_PC))
        self._memory.settle()
        then = self._take_reason()
        if then is None:
            self._slice = min(2 * self._slice, LONGEST_SLICE)
            self._spend((count - self._half_charged) * CYCLES_PER_INSTRUCTION)
            if self._pc in self._breakpoints:
                self.enter_debug(Dfsr.BKPT)
            return
        if not self._half_charged:
            self._spend(max(1, count // 2) * CYCLES_PER_INSTRUCTION)
        self._slice = FIRST_SLICE
        then()

    def _take_reason(self) -> Callable[[], None] | None:
        then, self._then = self._then, None
        return then

    def _use_exits(self, exits: frozenset[int]) -> None:
        if exits != self._exits:
            self._exits = exits
            self._uc.ctl_set_exits([NOWHERE, *sorted(exits)])
            self._uc.ctl_flush_tb()

    def _stop(self, then: Callable[[], None]) -> None:
        """Leave Unicorn as soon as it lets us, then do this."""
        self._then = then
        self._uc.emu_stop()

    # --- what Unicorn reports -------------------------------------------------------------

    def _on_interrupt(self, _uc: Any, number: int, _data: Any) -> None:
        if number == 7:
            self._stop(self._breakpoint_instruction)
        else:
            self._stop(partial(self._not_implemented, number))

    def _not_implemented(self, number: int) -> None:
        log.error("exception %d", number)
        self.locked_up = True

    def _on_invalid(self, _uc: Any, _data: Any) -> bool:
        self._stop(partial(self._not_implemented, 6))
        return False

    def _on_unmapped(
        self, _uc: Any, access: int, address: int, _size: int, _value: int, _data: Any
    ) -> bool:
        if self._memory.map_page(address):
            return True
        self._stop(partial(self._not_implemented, access))
        return False

    def _breakpoint_instruction(self) -> None:
        if self._scs.debug_enabled:
            self.enter_debug(Dfsr.BKPT)
        else:
            self.locked_up = True

    # --- AccessListener -----------------------------------------------------------------

    def before_access(self) -> None:
        if not self._half_charged:
            self._half_charged = 1
        self._slice = FIRST_SLICE
        self._spend(ACCESS_CYCLES)

    def after_access(self, address: int, value: int, *, write: bool) -> bool:
        return self.halted or self.in_reset or self._memory.stale

    def refused(self, error: BusError) -> None:
        self._stop(partial(self._not_implemented, 5))

    def stalled(self, stall: BusStall) -> None:
        self._stop(partial(self._clock.advance_to, stall.ready))

    def finish_instruction(self) -> None:
        self._stop(self._finish_instruction)

    def _finish_instruction(self) -> None:
        self._memory.run(self._pc | 1, NOWHERE, 1)
        self._pc = int(self._uc.reg_read(arm.UC_ARM_REG_PC))

    # --- debug ---------------------------------------------------------------------------

    def enter_debug(self, why: Dfsr) -> None:
        self.halted = True
        self._scs.halted(why)

    def request_halt(self) -> None:
        if not self.halted:
            self.enter_debug(Dfsr.HALTED)

    def resume(self) -> None:
        self.halted = False
        self._slice = FIRST_SLICE

    def step(self) -> None:
        self.resume()
        self._stepping = True
        self.run_until(self._clock.now + 1)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Where the core halts before executing; what FPB comparators match."""
        self._breakpoints = addresses

    def read_register(self, selector: int) -> int:
        """A core register by its DCRSR selector; unknown ones read as zero."""
        registers = self.registers
        match selector:
            case Selector.PC:
                return self._pc
            case Selector.XPSR:
                return registers.xpsr & ~XPSR_THUMB | (XPSR_THUMB if self._thumb else 0)
            case Selector.MSP:
                return registers.msp
            case Selector.PSP:
                return registers.psp
            case Selector.SPECIAL:
                primask, basepri, faultmask = registers.masks
                return registers.control << 24 | faultmask << 16 | basepri << 8 | primask
            case Selector.FPSCR:
                return registers.fpscr
            case _ if selector < Selector.PC:
                return registers.general(selector)
            case _ if Selector.S0 <= selector < Selector.S0 + 32:
                return registers.single(selector - Selector.S0)
        return 0

    def write_register(self, selector: int, value: int) -> None:
        """Set a core register by its DCRSR selector; unknown ones ignore it."""
        registers = self.registers
        match selector:
            case Selector.PC:
                self._pc = value & 0xFFFFFFFE
            case Selector.XPSR:
                self._thumb = bool(value & XPSR_THUMB)
                registers.xpsr = value
            case Selector.MSP:
                registers.msp = value
            case Selector.PSP:
                registers.psp = value
            case Selector.SPECIAL:
                registers.control = value >> 24 & 7
                registers.masks = (value, value >> 8, value >> 16)
            case Selector.FPSCR:
                registers.fpscr = value
            case _ if selector < Selector.PC:
                registers.set_general(selector, value)
            case _ if Selector.S0 <= selector < Selector.S0 + 32:
                registers.set_single(selector - Selector.S0, value)

    def reset(self) -> None:
        """Start over from the vector table, as at the rising edge of the reset line."""
        self._scs.reset_system()
        self.halted = self.asleep = self.locked_up = False
        self._stepping = False
        self._thumb = True
        registers = self.registers
        registers.xpsr = XPSR_THUMB
        registers.masks = (0, 0, 0)
        registers.control = 0
        registers.set_general(14, 0xFFFFFFFF)
        try:
            registers.msp = self._bus.read(self.boot_address, 4, Master.CORE)
            vector = self._bus.read(self.boot_address + 4, 4, Master.CORE)
        except BusError:
            self.locked_up = True
            self._pc = LOCKUP_PC
            return
        self._pc = vector & 0xFFFFFFFE
        self._thumb = bool(vector & 1)
        if self._scs.catches(Demcr.VC_CORERESET):
            self.enter_debug(Dfsr.VCATCH)


__all__ = ["ACCESS_CYCLES", "CYCLES_PER_INSTRUCTION", "Cfsr", "Core", "ExceptionNumber", "Hfsr"]
