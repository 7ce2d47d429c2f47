"""Exception entry and return, faults and their escalation, as the core carries them out.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "Exception model": the pseudocode
functions PushStack, ExceptionTaken, ExceptionReturn, PopStack, and "Fault behavior".

The floating-point part of a frame is stored at once: silicon stores it lazily, and a program
that looks sees the same memory.  A return to a pending exception pops and pushes, where
silicon tail-chains, which takes a few cycles more and leaves the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gdbserver.chip.cortex_m import (
    Ccr,
    Cfsr,
    Demcr,
    Dfsr,
    ExceptionNumber,
    Hfsr,
)
from gdbserver.sim.bus import BusError
from gdbserver.sim.core_registers import (
    CONTROL_FPCA,
    CONTROL_NPRIV,
    CONTROL_SPSEL,
    IPSR,
    XPSR_IT,
    XPSR_T,
)

if TYPE_CHECKING:
    from gdbserver.sim.cpu import Core
    from gdbserver.sim.system_control import SystemControl

_NOTHING = Demcr(0)

ENTRY_CYCLES = 12
EXIT_CYCLES = 10

BASIC_FRAME = 0x20
EXTENDED_FRAME = 0x68
_FRAME_PADDED = 1 << 9  # of the stacked xPSR: the stack pointer was not 8-byte aligned

_RETURN_TO_HANDLER = 0x1
_RETURN_TO_THREAD_MSP = 0x9
_RETURN_TO_THREAD_PSP = 0xD
_BASIC = 1 << 4  # of EXC_RETURN: the frame has no floating-point part


@dataclass(frozen=True, slots=True)
class Fault:
    """A synchronous fault: what goes into CFSR and the fault address registers."""

    cause: Cfsr
    address: int | None = None

    @property
    def exception(self) -> ExceptionNumber:
        if self.cause < Cfsr.IBUSERR:
            return ExceptionNumber.MEM_MANAGE
        if self.cause < Cfsr.UNDEFINSTR:
            return ExceptionNumber.BUS_FAULT
        return ExceptionNumber.USAGE_FAULT

    @property
    def catch(self) -> Demcr:
        """The DEMCR bit that makes the core halt when this fault is taken."""
        match self.cause:
            case Cfsr.NOCP:
                return Demcr.VC_NOCPERR
            case Cfsr.UNALIGNED | Cfsr.DIVBYZERO:
                return Demcr.VC_CHKERR
            case Cfsr.STKERR | Cfsr.UNSTKERR | Cfsr.MSTKERR | Cfsr.MUNSTKERR:
                return Demcr.VC_INTERR
        return {
            ExceptionNumber.MEM_MANAGE: Demcr.VC_MMERR,
            ExceptionNumber.BUS_FAULT: Demcr.VC_BUSERR,
        }.get(self.exception, Demcr.VC_STATERR)


class ExceptionUnit:
    """Moves a core into and out of exceptions."""

    def __init__(self, core: Core, scs: SystemControl) -> None:
        self._core = core
        self._scs = scs
        self._nvic = scs.nvic

    # --- taking --------------------------------------------------------------------

    def execution_priority(self) -> int:
        return self._nvic.execution_priority(*self._core.registers.masks)

    def take_pending(self) -> bool:
        """Enter the pending exception that preempts now, if there is one."""
        nvic = self._nvic
        number = nvic.deliverable(self.execution_priority(), self._scs.masked_by_debugger)
        if number is None:
            return False
        self.enter(number, self._core.pc)
        return True

    def supervisor_call(self, return_address: int) -> None:
        self._take(ExceptionNumber.SV_CALL, return_address, _NOTHING)

    def debug_event(self) -> None:
        """BKPT where nobody debugs: DebugMonitor if it can be taken, else HardFault."""
        if not self.monitor(Dfsr.BKPT):
            self._hard_fault(Hfsr.DEBUGEVT, self._core.pc, _NOTHING)

    def monitor(self, why: Dfsr) -> bool:
        """Take DebugMonitor; False if it is not enabled, or what runs is more urgent."""
        number = ExceptionNumber.DEBUG_MONITOR
        if not (self._scs.monitor_enabled and self._preempts(number)):
            return False
        self._scs.note_debug_event(why)
        self.enter(number, self._core.pc)
        return True

    def fault(self, fault: Fault, return_address: int) -> None:
        """A synchronous fault at `return_address`: MemManage, BusFault, UsageFault or worse."""
        self._scs.note_fault(fault.cause, fault.address)
        self._take(fault.exception, return_address, fault.catch)

    def _preempts(self, number: int) -> bool:
        nvic = self._nvic
        return nvic.group_priority(nvic.priority(number)) < self.execution_priority()

    def _take(self, number: ExceptionNumber, return_address: int, catch: Demcr) -> None:
        if self._nvic.enabled >> number & 1 and self._preempts(number):
            self.enter(number, return_address, catch)
        else:
            self._hard_fault(Hfsr.FORCED, return_address, catch)

    def _hard_fault(self, why: Hfsr, return_address: int, catch: Demcr) -> None:
        priority = self.execution_priority()
        self._scs.note_hard_fault(why)
        if priority <= -1:
            self._core.lock_up()
        else:
            self.enter(ExceptionNumber.HARD_FAULT, return_address, catch | Demcr.VC_HARDERR)

    def enter(self, number: int, return_address: int, catch: Demcr = _NOTHING) -> None:
        """Stack a frame and go to the handler; halt there if the debugger catches it."""
        if number == ExceptionNumber.HARD_FAULT:
            catch |= Demcr.VC_HARDERR
        self._core.time.spend(ENTRY_CYCLES)
        exc_return, stacked = self._push(return_address)
        if not stacked:
            number, caught = self._failed_entry(number, Cfsr.STKERR)
            if number == 0:
                return
            catch |= caught
        self._vector_to(number, exc_return, catch)

    def _failed_entry(self, number: int, cause: Cfsr) -> tuple[int, Demcr]:
        """Which exception is entered when stacking for `number` failed; 0 for lock-up."""
        nvic, scs = self._nvic, self._scs
        scs.note_fault(cause, None)
        priority = nvic.priority(number)
        if priority <= -1:
            self._core.lock_up()
            return 0, _NOTHING
        bus_fault = ExceptionNumber.BUS_FAULT
        if nvic.enabled >> bus_fault & 1:
            nvic.pend(bus_fault)
            if nvic.group_priority(nvic.priority(bus_fault)) >= nvic.group_priority(priority):
                return number, Demcr.VC_INTERR
            nvic.pend(number)
            return bus_fault, Demcr.VC_INTERR
        scs.note_hard_fault(Hfsr.FORCED)
        nvic.pend(number)
        return ExceptionNumber.HARD_FAULT, Demcr.VC_INTERR | Demcr.VC_HARDERR

    def _vector_to(self, number: int, exc_return: int, catch: Demcr) -> None:
        """ExceptionTaken(): mode, stack, LR and PC for the handler."""
        core, scs, nvic = self._core, self._scs, self._nvic
        try:
            vector = core.load(scs.vector_table + 4 * number)
        except BusError:
            scs.note_hard_fault(Hfsr.VECTTBL)
            if nvic.priority(number) <= -1:
                core.lock_up()
                return
            nvic.pend(number)
            number, catch = ExceptionNumber.HARD_FAULT, Demcr.VC_INTERR | Demcr.VC_HARDERR
            try:
                vector = core.load(scs.vector_table + 4 * number)
            except BusError:
                core.lock_up()
                return
        registers = core.registers
        registers.control &= CONTROL_NPRIV
        registers.xpsr = registers.xpsr & ~(IPSR | XPSR_IT) | number
        registers.set_general(14, exc_return)
        nvic.enter(number)
        core.event_register = True
        core.go_to(vector & 0xFFFFFFFE, thumb=bool(vector & 1))
        if scs.catches(catch):
            core.enter_debug(Dfsr.VCATCH)

    def _push(self, return_address: int) -> tuple[int, bool]:
        """PushStack(): returns EXC_RETURN, and whether every word was stored."""
        core, scs, registers = self._core, self._scs, self._core.registers
        xpsr, control = core.xpsr, registers.control
        in_handler = bool(xpsr & IPSR)
        extended = bool(control & CONTROL_FPCA) and scs.fp_context_automatic
        size = EXTENDED_FRAME if extended else BASIC_FRAME
        pointer = registers.general(13)
        # STKALIGN is one on a Cortex-M7: frames are 8-byte aligned.
        padded = bool(pointer & 4)
        frame = (pointer - size) & ~7 & 0xFFFFFFFF
        words = [*registers.caller_saved(), return_address]
        words.append(xpsr & ~_FRAME_PADDED | (_FRAME_PADDED if padded else 0))
        if extended:
            words += [registers.single(n) for n in range(16)] + [registers.fpscr]
            scs.note_fp_frame(frame + BASIC_FRAME)
            registers.fpscr = scs.default_fpscr
        registers.set_general(13, frame)
        stored = True
        try:
            for index, word in enumerate(words):
                core.store(frame + 4 * index, word)
        except BusError:
            stored = False
        exc_return = 0xFFFFFFE0 if extended else 0xFFFFFFF0
        if in_handler:
            exc_return |= _RETURN_TO_HANDLER
        elif control & CONTROL_SPSEL:
            exc_return |= _RETURN_TO_THREAD_PSP
        else:
            exc_return |= _RETURN_TO_THREAD_MSP
        return exc_return, stored

    # --- returning -----------------------------------------------------------------

    def leave(self, exc_return: int) -> None:
        """ExceptionReturn(): a handler branched to an EXC_RETURN value."""
        core, nvic, registers = self._core, self._nvic, self._core.registers
        core.time.spend(EXIT_CYCLES)
        number = registers.ipsr
        nested = nvic.active.bit_count()
        was_active = bool(nvic.active >> number & 1)
        kind = exc_return & 0xF
        if kind == _RETURN_TO_HANDLER:
            legal = nested > 1
        elif kind in (_RETURN_TO_THREAD_MSP, _RETURN_TO_THREAD_PSP):
            legal = nested == 1 or Ccr.NONBASETHRDENA in self._scs.ccr
        else:
            legal = False
        nvic.leave(number)
        primask, basepri, faultmask = registers.masks
        if faultmask and number != ExceptionNumber.NMI:
            registers.masks = (primask, basepri, 0)
        if not (was_active and legal):
            self._invalid_return(exc_return)
            return
        self._pop(exc_return)

    def _invalid_return(self, exc_return: int) -> None:
        """INVPC: the UsageFault is entered on the frame that could not be popped."""
        scs, nvic = self._scs, self._nvic
        scs.note_fault(Cfsr.INVPC, None)
        number = ExceptionNumber.USAGE_FAULT
        catch = Demcr.VC_STATERR
        if not (nvic.enabled >> number & 1 and self._preempts(number)):
            number = ExceptionNumber.HARD_FAULT
            catch |= Demcr.VC_HARDERR
            scs.note_hard_fault(Hfsr.FORCED)
            if self.execution_priority() <= -1:
                self._core.lock_up()
                return
        self._vector_to(number, 0xF0000000 | exc_return & 0x0FFFFFFF, catch)

    def _pop(self, exc_return: int) -> None:
        """PopStack(): back to what was interrupted."""
        core, scs, registers = self._core, self._scs, self._core.registers
        to_handler = exc_return & 0xF == _RETURN_TO_HANDLER
        on_process_stack = exc_return & 0xF == _RETURN_TO_THREAD_PSP
        extended = not exc_return & _BASIC
        frame = registers.psp if on_process_stack else registers.msp
        count = (EXTENDED_FRAME - 4 if extended else BASIC_FRAME) // 4
        try:
            words = [core.load(frame + 4 * index) for index in range(count)]
        except BusError:
            self._failed_return(exc_return)
            return
        xpsr, target = words[7], words[6]
        if to_handler != bool(xpsr & IPSR):
            self._invalid_return(exc_return)
            return
        registers.set_caller_saved(words[:6])
        if extended:
            for number, value in enumerate(words[8:24]):
                registers.set_single(number, value)
            registers.fpscr = words[24]
        pointer = frame + (EXTENDED_FRAME if extended else BASIC_FRAME)
        if xpsr & _FRAME_PADDED:
            pointer |= 4
        if on_process_stack:
            registers.psp = pointer
        else:
            registers.msp = pointer
        control = registers.control & CONTROL_NPRIV
        if extended:
            control |= CONTROL_FPCA
        if on_process_stack:
            control |= CONTROL_SPSEL
        # T goes to Unicorn as one: `go_to` keeps the state that the frame asked for.
        registers.xpsr = xpsr & ~_FRAME_PADDED | XPSR_T
        registers.control = control
        core.event_register = True
        core.go_to(target & 0xFFFFFFFE, thumb=bool(xpsr & XPSR_T))
        if not to_handler and scs.sleeps_on_exit:
            core.wait_for_interrupt()

    def _failed_return(self, exc_return: int) -> None:
        """UNSTKERR: a BusFault, tail-chained on the frame that could not be read."""
        scs, nvic = self._scs, self._nvic
        scs.note_fault(Cfsr.UNSTKERR, None)
        number = ExceptionNumber.BUS_FAULT
        catch = Demcr.VC_INTERR
        if not (nvic.enabled >> number & 1 and self._preempts(number)):
            if self.execution_priority() <= -1:
                self._core.lock_up()
                return
            number = ExceptionNumber.HARD_FAULT
            catch |= Demcr.VC_HARDERR
            scs.note_hard_fault(Hfsr.FORCED)
        self._vector_to(number, exc_return, catch)
