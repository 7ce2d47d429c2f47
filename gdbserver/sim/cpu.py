"""The simulated Cortex-M7: Unicorn executes instructions, everything around them is here.

Unicorn knows no exceptions, no sleep, no debug and no time.  The core runs it in slices of
a counted number of instructions and looks, between slices, at what silicon looks at after
each instruction: pending exceptions, halt requests, the clock.

How long that takes is the business of `CoreTime`.

Not as on silicon, and known: an unaligned access to a peripheral is carried out in aligned
parts, CCR.UNALIGN_TRP has no effect, and the MPU's regions are not enforced.  A store that is
refused by the bus faults precisely (PRECISERR), although silicon may report some of them
late as IMPRECISERR.  LDM, LDRD and their like do not fault at an unaligned address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import unicorn as uc
from unicorn import arm_const as arm

from gdbserver.chip.cortex_m import (
    LOCKUP_PC,
    PPB,
    XPSR_THUMB,
    Ccr,
    Cfsr,
    Demcr,
    Dfsr,
    ExceptionNumber,
    Hfsr,
    Selector,
)
from gdbserver.chip.memory import Span
from gdbserver.sim.bus import Bus, BusError, BusStall, Master
from gdbserver.sim.clock import Clock
from gdbserver.sim.core_memory import CoreMemory
from gdbserver.sim.core_registers import CONTROL_NPRIV, IPSR, XPSR_T, CoreRegisters
from gdbserver.sim.core_time import CYCLES_PER_INSTRUCTION, CoreTime
from gdbserver.sim.core_waiting import WaitingLoops
from gdbserver.sim.exceptions import ExceptionUnit, Fault
from gdbserver.sim.polling import PollDetector
from gdbserver.sim.systick import SysTick
from gdbserver.sim.traps import (
    Trap,
    TrapMap,
    advance_it,
    condition_passed,
    is_coprocessor,
    is_it,
    it_state,
    length_of,
)

if TYPE_CHECKING:
    from gdbserver.sim.system_control import SystemControl

log = logging.getLogger(__name__)

_PPB = PPB.start
_NO_PLACES: frozenset[int] = frozenset()
_NOWHERE = 0xDFFFFFFE  # in a region that never executes: Unicorn wants an address to stop at

# How Unicorn numbers what the guest runs into.
_SVC, _PREFETCH_ABORT, _BKPT, _EXCEPTION_EXIT, _NO_COPROCESSOR = 2, 3, 7, 8, 17

_EXECUTE_NEVER = (Span(0x40000000, 0x60000000), Span(0xA0000000, 0x100000000))
"""DDI 0403E, "The system address map": peripherals, external devices, system."""


def _nothing_more() -> None:
    """What to do behind a stop that is an end in itself."""


@dataclass(frozen=True, slots=True)
class Watchpoint:
    """A span of addresses whose loads, stores or both halt the core; `matched` is told of them."""

    span: Span
    loads: bool
    stores: bool
    matched: Callable[[], None]


def _cortex_m7() -> uc.Uc:
    unicorn = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB)
    # Not UC_MODE_MCLASS: it silently makes the core a Cortex-M33.
    unicorn.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M7)
    unicorn.ctl_exits_enabled(True)
    unicorn.ctl_set_exits([_NOWHERE])
    return unicorn


class Core:
    """One Cortex-M7, run by `run_until`, controlled by its debug unit."""

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
        self.scs = scs
        self._nvic = scs.nvic
        self._frequency = frequency
        self.time = CoreTime(clock)
        self.boot_address = boot_address
        self.halted = False
        self.asleep = False
        self.locked_up = False
        self.in_reset = False
        self.event_register = False
        self.pc = 0
        self._thumb = True
        self._stepping = False
        self._stalled = False
        self._halt_after_reset = False
        self._waits_for_event = False
        self._paid: int | None = None
        """Of an access that took its time already, and is to be made again."""
        self._until = 0
        self._limit = 0
        """The same, or the next event if that comes first."""
        self._then: Callable[[], None] | None = None
        self._soon: list[Callable[[], None]] = []
        self.coincidence: ExceptionNumber | None = None
        """An exception that comes in at the same moment as the next breakpoint is hit."""
        self._breakpoints: frozenset[int] = frozenset()
        self._instruction_watches: dict[int, Callable[[], None]] = {}
        self._halting_places: frozenset[int] = frozenset()
        """Both of these."""
        self._watch_hooks: list[Any] = []
        self._watch_hit = False
        self._stale: list[Span] = []
        self._stale_data: list[Span] = []
        self._stale_hooks: list[Any] = []
        self._finishing = False
        self._exits: frozenset[int] = frozenset()
        self._exits_key: tuple[object, ...] = ()
        self._uc = unicorn = _cortex_m7()
        self.registers = CoreRegisters(unicorn)
        self._polls = PollDetector(self.registers.unicorn_place)
        self._memory = CoreMemory(
            unicorn, bus, self, clock=clock, time=self.time, polls=self._polls
        )
        self._waiting = WaitingLoops(
            clock,
            bus,
            self._nvic,
            time=self.time,
            memory=self._memory,
            registers=self.registers,
            polls=self._polls,
        )
        self._traps = TrapMap(self._memory.fetch)
        unicorn.hook_add(uc.UC_HOOK_INTR, self._on_interrupt)
        unicorn.hook_add(uc.UC_HOOK_INSN_INVALID, self._on_invalid)
        unicorn.hook_add(uc.UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
        unicorn.hook_add(uc.UC_HOOK_EDGE_GENERATED, self._on_translated)
        bus.on_changed.append(self._traps.changed)
        bus.on_revoked.append(self._traps.changed)
        bus.on_changed.append(scs.caches.changed)
        systick = SysTick(clock, self._tick)
        scs.attach(self, systick)
        self._systick = systick
        self._exceptions = ExceptionUnit(self, scs)
        self.registers.xpsr = XPSR_T

    # --- time ------------------------------------------------------------------------

    def run_until(self, when: int) -> None:
        """Execute, or let time pass, until the clock shows `when` or a few cycles more."""
        clock = self._clock
        while clock.now < when:
            if self.halted or self.in_reset:
                self._idle(when)
            elif self.locked_up:
                self._wait_in_lock_up(when)
            elif self.asleep:
                self._sleep(when)
            elif self._waiting.until:
                if self._stepping:
                    self._waiting.look_again()
                else:
                    self._waiting.wait_on(when)
            else:
                self._execute(when)

    @property
    def cycles(self) -> int:
        """Core clock cycles spent running, since power-on."""
        return self.time.cycles

    def _follow_frequency(self) -> None:
        """See whether the core's clock is another one by now; SysTick has to know."""
        hz = self._frequency()
        if hz != self.time.hz:
            self._systick.rebase(hz)
            self.time.follow(hz)

    def _idle(self, when: int) -> None:
        """Let time pass to `when`, or to the next event: it may change everything."""
        due = self._clock.next_event
        self._clock.advance_to(when if due is None else min(when, due))

    def _tick(self) -> None:
        self._nvic.pend(ExceptionNumber.SYS_TICK)

    def soon(self, action: Callable[[], None]) -> None:
        """Call `action` as soon as the core is between two instructions: mostly at once."""
        if self._memory.running:
            self._soon.append(action)
        else:
            action()

    # --- sleep and lock-up -------------------------------------------------------------

    def wait_for_interrupt(self) -> None:
        self.asleep = True
        self._waits_for_event = False

    def _wait_for_event(self) -> None:
        if self.event_register:
            self.event_register = False
            return
        self.asleep = True
        self._waits_for_event = True
        self._nvic.newly_pending = False

    def _sleep(self, when: int) -> None:
        if self._wakes():
            self.asleep = False
        else:
            self._idle(when)

    def _wakes(self) -> bool:
        """WFI ends for an exception that would preempt if PRIMASK were clear."""
        if self._stepping:
            return True
        if self._waits_for_event:
            event = self.event_register
            event |= self.scs.pending_is_an_event and self._nvic.newly_pending
            if event:
                self.event_register = False
                return True
        if not self._nvic.waiting:
            return False
        _, basepri, faultmask = self.registers.masks
        priority = self._nvic.execution_priority(0, basepri, faultmask)
        return self._nvic.deliverable(priority, self.scs.masked_by_debugger) is not None

    def lock_up(self) -> None:
        """A fault where no fault can be taken: the core stops until halted or reset."""
        log.info("the core locked up at %#010x", self.pc)
        if self._exceptions.execution_priority() > -1:
            # The way into HardFault failed: the core is in it nevertheless.
            self._nvic.enter(ExceptionNumber.HARD_FAULT)
            self.registers.xpsr = self.registers.xpsr & ~IPSR | ExceptionNumber.HARD_FAULT
        self.locked_up = True
        self.pc = LOCKUP_PC

    def _wait_in_lock_up(self, when: int) -> None:
        if self._stepping:
            self._stepping = False
            self.enter_debug(Dfsr.HALTED)
        elif self._nvic.waiting and self._exceptions.take_pending():
            self.locked_up = False  # only an NMI preempts here
        else:
            self._idle(when)

    # --- execution -------------------------------------------------------------------------

    def _execute(self, when: int) -> None:
        nvic = self._nvic
        nvic.changed = False
        self._follow_frequency()
        if nvic.waiting and self._exceptions.take_pending():
            self.time.forget_pace()
            if self._stepping:
                self._end_step()
            return
        start = self.pc
        if not self._thumb:
            self._exceptions.fault(Fault(Cfsr.INVSTATE), self.pc)
        elif self.pc in self._current_breakpoints():
            self._hit_breakpoint()
            return
        else:
            self._run(when)
        # A branch to code that was not mapped yet has been executed; what it leads to is not.
        if self._stepping and not (self._stalled and self.pc == start):
            self._end_step()

    def _end_step(self) -> None:
        self._stepping = False
        if not self.halted:
            self.enter_debug(Dfsr.HALTED)

    def _run(self, when: int) -> None:
        """Run one slice, no longer than to `when` and to the next event."""
        clock = self._clock
        self._until = when
        self._limit = max(clock.now, clock.look_ahead(when))
        self._stalled = False
        self._traps.scan(self.pc)
        if self._handle_trap():
            return
        self._use_exits()
        caches = self.scs.caches
        if self._stale is not caches.stale or self._stale_data is not caches.stale_data:
            self._watch_stale_lines()
        if self._stepping:
            self._run_slice(1, self._execute_one)
            return
        time = self.time
        count = min(time.slice, time.cycles_until(self._limit) // CYCLES_PER_INSTRUCTION)
        self._run_slice(max(1, count), self._enter_unicorn)

    def _run_slice(self, count: int, run: Callable[[int], None]) -> None:
        time = self.time
        time.begin(count, quietly=self._paid is None)
        start = self.pc
        try:
            run(count)
        except uc.UcError:
            if self._then is None:
                raise
        self.pc = self.registers.unicorn_pc()
        then, self._then = self._then, None
        if then is not None or self.pc in self._exits:
            time.break_off(count)
        elif time.end(count) and count > 1:
            self.pc = self._waiting.skip_loop(start, self.pc, self._limit, self._exits)
        if then is not None:
            then()
        self._memory.settle()
        if self._soon:
            actions, self._soon = self._soon, []
            for action in actions:
                action()

    def _enter_unicorn(self, count: int) -> None:
        registers = self.registers
        registers.live(True)
        try:
            self._memory.run(self.pc | 1, _NOWHERE, count)
        finally:
            registers.live(False)

    def _execute_one(self, _count: int = 1) -> None:
        """Execute the instruction at `pc`, and no more.

        Unicorn counts an IT block as one instruction, so inside of one the next address ends
        the run as well.
        """
        first = int.from_bytes(self._memory.fetch(self.pc, 2), "little")
        if is_it(first) or it_state(self.registers.xpsr):
            self._set_exits(frozenset({self.pc + length_of(first)}))
            self._exits_key = ()
        elif self.pc in self._exits:
            self._set_exits(self._exits - {self.pc})
            self._exits_key = ()
        self._enter_unicorn(1)

    def _stop(self, then: Callable[[], None]) -> None:
        """Leave Unicorn, with the instruction at hand undone, and then do this."""
        if self._then is None:
            self._then = then
        self.time.close()
        self._uc.emu_stop()

    def go_to(self, address: int, *, thumb: bool) -> None:
        """Continue at `address`; without `thumb` the next instruction is an INVSTATE fault."""
        self.pc = address
        self._thumb = thumb

    @property
    def xpsr(self) -> int:
        return self.registers.xpsr & ~XPSR_THUMB | (XPSR_THUMB if self._thumb else 0)

    def load(self, address: int) -> int:
        """A word read by the core's exception hardware, which waits for a busy slave."""
        while True:
            try:
                return self._bus.read(address & 0xFFFFFFFF, 4, Master.CORE)
            except BusStall as stall:
                self._wait(stall)

    def store(self, address: int, value: int) -> None:
        while True:
            try:
                self._bus.write(address & 0xFFFFFFFF, 4, value, Master.CORE)
            except BusStall as stall:
                self._wait(stall)
            else:
                return

    def _wait(self, stall: BusStall) -> None:
        self._clock.advance_to(max(stall.ready, self._clock.now + 1))

    # --- instructions that Unicorn does not execute as silicon does ----------------------------

    def _on_translated(self, _uc: Any, block: Any, _previous: Any, _data: Any) -> None:
        """Unicorn tells about each block that it translates but the first of a run."""
        if self._traps.add(self._memory.fetch(block.pc, block.size), block.pc):
            self._stop(_nothing_more)

    def _use_exits(self) -> None:
        """Have Unicorn stop at breakpoints and at the traps that matter now."""
        key = self._stopping_conditions()
        if key == self._exits_key:
            return
        self._exits_key = key
        self._set_exits(self._current_breakpoints() | self._traps.where(self._matters))

    def _watch_stale_lines(self) -> None:
        """Have `Caches` told of what is executed there, and read."""
        caches = self.scs.caches
        self._stale, self._stale_data = caches.stale, caches.stale_data
        for hook in self._stale_hooks:
            self._uc.hook_del(hook)
        self._stale_hooks = [
            self._uc.hook_add(uc.UC_HOOK_CODE, self._on_stale_code, None, span.start, span.end - 1)
            for span in self._stale
        ] + [
            self._uc.hook_add(
                uc.UC_HOOK_MEM_READ, self._on_stale_data, None, span.start, span.end - 1
            )
            for span in self._stale_data
        ]
        self._uc.ctl_flush_tb()

    def _on_stale_code(self, _uc: Any, address: int, _size: int, _data: Any) -> None:
        self.scs.caches.execute(address)

    def _on_stale_data(self, _uc: Any, _kind: int, address: int, *_: Any) -> None:
        if self.scs.caches.ccr & Ccr.DC:
            self.scs.caches.read(address)

    def watch_reads(self, span: Span, note: Callable[[int], None]) -> None:
        """Have `note` told where in `span` the core reads data and code, from now on."""

        def on_read(_uc: Any, _kind: int, address: int, *_: Any) -> None:
            note(address)

        def on_block(_uc: Any, address: int, *_: Any) -> None:
            note(address)

        self._uc.hook_add(uc.UC_HOOK_MEM_READ, on_read, None, span.start, span.end - 1)
        self._uc.hook_add(uc.UC_HOOK_BLOCK, on_block, None, span.start, span.end - 1)

    def _stopping_conditions(self) -> tuple[object, ...]:
        """All that decides where Unicorn has to stop."""
        scs = self.scs
        return (
            self._current_breakpoints(),
            self._traps.version,
            scs.floating_point_enabled,
            scs.traps_division,
            self._nvic.waiting != 0,
        )

    def _set_exits(self, exits: frozenset[int]) -> None:
        if exits != self._exits:
            self._exits = exits
            self._uc.ctl_set_exits([_NOWHERE, *sorted(exits)])
            self._uc.ctl_flush_tb()

    def _matters(self, trap: Trap) -> bool:
        match trap:
            case Trap.FLOATING_POINT:
                return not self.scs.floating_point_enabled
            case Trap.DIVIDE:
                return self.scs.traps_division
            case Trap.UNMASK:
                return self._nvic.waiting != 0
        return True

    def _handle_trap(self) -> bool:
        """Do what the instruction at `pc` does, if it is one that Unicorn must not execute."""
        trap = self._traps.get(self.pc)
        if trap is None or not self._matters(trap):
            return False
        if not self._traps.is_there(trap, self.pc):
            return False
        if trap is Trap.UNMASK:
            self._run_slice(1, self._execute_one)
            return True
        code = self._memory.fetch(self.pc, 4)
        xpsr = self.registers.xpsr
        executes = condition_passed(xpsr)
        if executes and trap is Trap.FLOATING_POINT:
            self._exceptions.fault(Fault(Cfsr.NOCP), self.pc)
            return True
        if executes and trap is Trap.DIVIDE and not self._divide(code):
            self._exceptions.fault(Fault(Cfsr.DIVBYZERO), self.pc)
            return True
        self.time.execute(1)
        self.pc += length_of(code[0] | code[1] << 8)
        if it_state(xpsr):
            self.registers.xpsr = advance_it(xpsr)
        if not executes:
            return True
        match trap:
            case Trap.WAIT_FOR_INTERRUPT if not self._stepping:
                self.wait_for_interrupt()
            case Trap.WAIT_FOR_EVENT if not self._stepping:
                self._wait_for_event()
            case Trap.SEND_EVENT:
                self.event_register = True
        return True

    def _divide(self, code: bytes) -> bool:
        """SDIV or UDIV; False if the divisor is zero."""
        registers = self.registers
        dividend = registers.general(code[0] & 0xF)
        divisor = registers.general(code[2] & 0xF)
        if divisor == 0:
            return False
        if code[0] & 0x20:
            quotient = dividend // divisor
        else:
            signed_dividend = dividend - (dividend >> 31 << 32)
            signed_divisor = divisor - (divisor >> 31 << 32)
            quotient = abs(signed_dividend) // abs(signed_divisor)
            if (signed_dividend < 0) != (signed_divisor < 0):
                quotient = -quotient
        registers.set_general(code[3] & 0xF, quotient)
        return True

    # --- what Unicorn reports -------------------------------------------------------------

    def _on_interrupt(self, _uc: Any, number: int, _data: Any) -> None:
        if number == _BKPT:
            self._stop(self._breakpoint_instruction)
        elif number == _SVC:
            self._stop(lambda: self._exceptions.supervisor_call(self.pc))
        elif number in (_PREFETCH_ABORT, _EXCEPTION_EXIT):
            # A handler's return is either: it depends on what Unicorn knew of its mode when
            # it translated the branch.
            self._stop(self._cannot_fetch)
        elif number == _NO_COPROCESSOR:
            self._stop(lambda: self._exceptions.fault(Fault(Cfsr.NOCP), self.pc))
        else:
            raise RuntimeError(f"Unicorn reports exception {number} at {self.pc:#010x}")

    def _on_invalid(self, _uc: Any, _data: Any) -> bool:
        self._stop(self._undefined_instruction)
        return False

    def _on_unmapped(
        self, _uc: Any, access: int, address: int, _size: int, _value: int, _data: Any
    ) -> bool:
        if access == uc.UC_MEM_FETCH_UNMAPPED:
            # Code that is mapped only now would be translated once and for all: Unicorn
            # remembers no address for it, and does not hear that it changed.
            self._stop(partial(self._cannot_fetch, address))
            return False
        store = access == uc.UC_MEM_WRITE_UNMAPPED
        return self._memory.map_page(address, fetch=False, store=store)

    def _breakpoint_instruction(self) -> None:
        if self.scs.debug_enabled:
            self.enter_debug(Dfsr.BKPT)
        else:
            self._exceptions.debug_event()

    def _undefined_instruction(self) -> None:
        if not self.registers.xpsr & XPSR_T:
            self.registers.xpsr |= XPSR_T
            self._thumb = False
            cause = Cfsr.INVSTATE
        elif is_coprocessor(int.from_bytes(self._memory.fetch(self.pc, 2), "little")):
            cause = Cfsr.NOCP
        else:
            cause = Cfsr.UNDEFINSTR
        self._exceptions.fault(Fault(cause), self.pc)

    def _cannot_fetch(self, failed: int | None = None) -> None:
        """A branch to where nothing can be executed: also how a handler returns."""
        xpsr = self.registers.xpsr
        even = not xpsr & XPSR_T
        self.registers.xpsr = xpsr | XPSR_T
        if xpsr & IPSR and self.pc >= 0xF0000000:
            self._exceptions.leave(self.pc | (not even))
            return
        address = self.pc if failed is None else failed
        self._thumb = not even
        if any(address in span for span in _EXECUTE_NEVER):
            self._exceptions.fault(Fault(Cfsr.IACCVIOL), self.pc)
            return
        try:
            self._bus.read(address & ~3, 4, Master.CORE)
        except BusStall as stall:
            self._memory.forget_page(address)
            self._wait_and_retry(stall)
            return
        except BusError:
            pass
        else:
            if self._memory.map_page(address, fetch=True):
                self._stalled = True
                return
            log.warning("%#010x can be read, but not executed from, just now", address)
        self._exceptions.fault(Fault(Cfsr.IBUSERR), self.pc)

    # --- accesses that leave plain memory: AccessListener -----------------------------------

    def before_access(self, address: int) -> bool:
        paid, self._paid = self._paid, None
        if address == paid:
            self.time.access_again()
        else:
            self.time.access()
        if address < _PPB:
            return True
        registers = self.registers
        return not registers.control & CONTROL_NPRIV or bool(registers.ipsr)

    def after_access(self, address: int, *, waits: bool) -> bool:
        if self._finishing:
            return False  # one stop for an instruction is enough
        if waits:
            self._waiting.skip_looks(self._until)
        return (
            self._clock.now >= self._until
            or self.time.out_of_step
            or self._other_reason_to_stop(address)
        )

    def _other_reason_to_stop(self, address: int) -> bool:
        """Than time: the access had an effect that is seen behind its instruction."""
        nvic = self._nvic
        return bool(
            (nvic.changed and nvic.waiting)
            or self._soon
            or self._watch_hit
            or self._memory.deferred
            or self.halted
            or self.in_reset
            or (address >= _PPB and self._stopping_conditions() != self._exits_key)
        )

    def looks_again(self, address: int) -> bool:
        if self._clock.now < self._until or self._stepping or self._other_reason_to_stop(address):
            return False
        self._paid = address
        self._stop(_nothing_more)
        return True

    def refused(self, error: BusError) -> bool:
        """Whether the access goes on as if nothing was wrong: CCR.BFHFNMIGN."""
        if self.scs.ignores_bus_faults and self._exceptions.execution_priority() < 0:
            return True
        fault = Fault(Cfsr.PRECISERR, error.address)
        self._stop(lambda: self._exceptions.fault(fault, self.pc))
        return False

    def stalled(self, stall: BusStall) -> None:
        self._stop(partial(self._wait_and_retry, stall))

    def _wait_and_retry(self, stall: BusStall) -> None:
        """Let time pass, but not beyond what was asked for; then the access is tried again."""
        self._stalled = True
        self._clock.advance_to(max(self._clock.now + 1, min(stall.ready, self._limit)))

    def finish_instruction(self) -> None:
        self._stop(self._finish_instruction)

    def _finish_instruction(self) -> None:
        """The access behind us is done: execute the rest of its instruction."""
        self._finishing = True
        self.time.finish_instruction()
        try:
            self._execute_one()
        except uc.UcError:
            if self._then is None:
                raise
        finally:
            self._finishing = False
            self._memory.forget_access()
        self.pc = self.registers.unicorn_pc()
        then, self._then = self._then, None
        if then is not None:
            then()
        if self._watch_hit:
            self._watch_hit = False
            if self.scs.debug_enabled:
                self.enter_debug(Dfsr.DWTTRAP)
            else:
                self._exceptions.monitor(Dfsr.DWTTRAP)

    # --- debug ---------------------------------------------------------------------------

    def enter_debug(self, why: Dfsr) -> None:
        """Halt here and tell why."""
        self.halted = True
        self.asleep = False
        self._systick.freeze(True)
        self.scs.halted(why)

    def request_halt(self) -> None:
        if self.in_reset:
            self._halt_after_reset = True
        elif not self.halted:
            self._stepping = False
            self.enter_debug(Dfsr.HALTED)

    def resume(self) -> None:
        self.halted = False
        self.locked_up = self.pc == LOCKUP_PC and self._exceptions.execution_priority() < 0
        self._systick.freeze(False)
        self.time.forget_pace()
        self._waiting.over()
        self._paid = None
        self._polls.forget()

    def step(self) -> None:
        """Execute one instruction, or take one exception, and halt again."""
        self.resume()
        self._stepping = True
        self.run_until(self._clock.now + 1)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Where the core halts before executing: what the FPB's comparators match."""
        self._breakpoints = addresses
        self._halting_places = addresses | self._instruction_watches.keys()

    def set_instruction_watches(self, watches: dict[int, Callable[[], None]]) -> None:
        """The same for the DWT: what to tell it when the core gets to an address."""
        self._instruction_watches = watches
        self._halting_places = self._breakpoints | watches.keys()

    def _current_breakpoints(self) -> frozenset[int]:
        if self.scs.debug_enabled or self.scs.monitor_enabled:
            return self._halting_places
        return _NO_PLACES

    def _hit_breakpoint(self) -> None:
        why = Dfsr.BKPT
        if self.pc not in self._breakpoints:
            self._instruction_watches[self.pc]()
            why = Dfsr.DWTTRAP
        self._stepping = False
        if self.scs.debug_enabled:
            if self.coincidence is not None and why is Dfsr.BKPT:
                # Cortex-M7 erratum 3092511: the exception is entered, and the core halts there.
                self._nvic.pend(self.coincidence)
                self.coincidence = None
                self._exceptions.take_pending()
            self.enter_debug(why)
        elif not self._exceptions.monitor(why):
            self._run_slice(1, self._execute_one)

    def set_watchpoints(self, watchpoints: list[Watchpoint]) -> None:
        """Whose accesses halt the core, behind the instruction that makes them."""
        for hook in self._watch_hooks:
            self._uc.hook_del(hook)
        self._watch_hooks = [
            self._uc.hook_add(kind, self._on_watched, watchpoint, max(0, first), last)
            for watchpoint in watchpoints
            for kind, wanted in (
                (uc.UC_HOOK_MEM_READ, watchpoint.loads),
                (uc.UC_HOOK_MEM_WRITE, watchpoint.stores),
            )
            if wanted
            # An access that begins up to seven bytes before may reach into the span.
            for first, last in ((watchpoint.span.start - 7, watchpoint.span.end - 1),)
        ]
        # What was translated when there was nothing to watch does not ask.
        self._uc.ctl_flush_tb()

    def _on_watched(
        self, _uc: Any, _access: int, address: int, size: int, _value: int, watch: Watchpoint
    ) -> None:
        if self._finishing or address + size <= watch.span.start:
            return
        if not (self.scs.debug_enabled or self.scs.monitor_enabled):
            return
        watch.matched()
        self._watch_hit = True
        if self._memory.is_plain(address):
            self.finish_instruction()

    def read_register(self, selector: int) -> int:
        """A core register by its DCRSR selector; unknown ones read as zero."""
        registers = self.registers
        match selector:
            case Selector.PC:
                return self.pc
            case Selector.XPSR:
                return self.xpsr
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
                self.pc = value & 0xFFFFFFFE
            case Selector.XPSR:
                self._thumb = bool(value & XPSR_T)
                registers.xpsr = value | XPSR_T
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

    # --- reset -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Start over from the vector table, as when the reset line rises."""
        self.soon(self._reset)

    def _reset(self) -> None:
        scs, registers = self.scs, self.registers
        scs.reset_system()
        self._follow_frequency()
        self.halted = self.asleep = self.locked_up = self._stepping = False
        self._systick.freeze(False)
        self.event_register = False
        self.time.forget_pace()
        self._waiting.over()
        self._paid = None
        self._polls.forget_places()
        registers.xpsr = XPSR_T
        registers.control = 0
        registers.masks = (0, 0, 0)
        registers.fpscr = 0
        registers.set_general(14, 0xFFFFFFFF)
        try:
            registers.set_general(13, self.load(self.boot_address))
            vector = self.load(self.boot_address + 4)
        except BusError:
            scs.note_hard_fault(Hfsr.VECTTBL)
            self.lock_up()
        else:
            self.go_to(vector & 0xFFFFFFFE, thumb=bool(vector & 1))
        if scs.catches(Demcr.VC_CORERESET):
            self.enter_debug(Dfsr.VCATCH)
        elif self._halt_after_reset and scs.debug_enabled:
            self.enter_debug(Dfsr.HALTED)
        self._halt_after_reset = False
