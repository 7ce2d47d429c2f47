"""The core: running, stepping, stopping, and showing its registers.

Rule 1: everything known about a halted core is in one `_Halt`, and `forget_halt` drops it as a
whole.  Whatever could change the core goes through there first, so nothing stale is ever
answered, and nothing is read twice at one stop.  Of memory that is true of a `Snapshot`.

Rule 2: what DHCSR says goes through `_note_status`, because reading it clears S_RESET_ST: a
reset that happened unasked is noticed by whoever reads it first.

Rule 3: a step is one exchange with the probe wherever the probe can do that: what lets the core go
and what will be asked about the stop ride in one list of accesses (`_exit_debug_state`).  What was
found counts only if the core had stopped by then.

Rule 4: to step out of a range of addresses, the core runs at full speed between places where its
code could go elsewhere (`thumb.exits`), with comparators that no breakpoint needs.  Interrupts
are masked meanwhile, unless the code goes in circles and may be waiting for one.  `poll_stop`
carries that on, so to the caller it is a run that ends by itself.

Rule 5: where an exception comes in at the very moment that a breakpoint is hit, this core may halt
for it at the first instruction of the handler (Cortex-M7 erratum 3092511).  The instruction under
the breakpoint has not been executed; so the handler runs, returns to it, and it is hit then.

Armv7-M ARM (DDI 0403E.e), "Debug register support in the SCS", "Debug stepping".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from gdbserver.chip.cortex_m import (
    AIRCR,
    CFSR,
    DBGKEY,
    DEMCR,
    DFSR,
    DHCSR,
    LOCKUP_PC,
    VC_ALL_FAULTS,
    VECTKEY,
    Aircr,
    Demcr,
    Dfsr,
    Dhcsr,
    Selector,
)
from gdbserver.chip.memory import Span
from gdbserver.errors import AccessRefused, AccessStalled, HeldInReset, MemoryFault, TargetError
from gdbserver.target import faults, registers, thumb
from gdbserver.target.access import Access, Read, Write
from gdbserver.target.breakpoints import BKPT, Block, BreakKind, Breakpoints, Watch
from gdbserver.target.link import Link
from gdbserver.target.memory import Memory
from gdbserver.target.port import Port
from gdbserver.target.snapshot import FRESH, Snapshot
from gdbserver.target.stop import SIGINT, SIGTRAP, StopKind, StopReason
from gdbserver.target.transfers import Known, Transfers, read_together

log = logging.getLogger(__name__)

HALT_TIMEOUT: Final = 1.0
RESET_TIMEOUT: Final = 1.0
RESET_NOTICED: Final = 0.05
"""After so many seconds a reset of which there is no sign has not happened."""
STEP_TIMEOUT: Final = 0.1
"""After so many seconds a step is taken to be asleep in WFI or WFE, and is halted there."""

_DEBUG: Final = DBGKEY | Dhcsr.C_DEBUGEN
_HALTED: Final = _DEBUG | Dhcsr.C_HALT
_NEVER_IN_DHCSR: Final = 0xFCF0FFD0
"""Bits that are reserved, and read as zero."""
_ALL_DFSR: Final = 0x1F
_XPSR_IT: Final = 0x0600FC00


@dataclass(frozen=True, slots=True)
class _DebugEvents:
    """What the hardware says about a stop; reading it has cleared some of it."""

    dfsr: int
    matched: tuple[Watch, Block] | None
    """The watchpoint that matched, of those that were there."""


@dataclass(slots=True)
class _Halt:
    """What is known about the core while it is halted."""

    looked: float
    """When DHCSR said so last."""
    registers: Known = field(default_factory=Known)
    events: _DebugEvents | None = None
    is_clear: bool = False
    """DFSR holds nothing any more, and a core that stands still adds nothing to it."""
    fault_registers: faults.FaultStatus | None = None
    reason: StopReason | None = None
    bkpt: int | None = None
    """Where a BKPT of the program's own stopped the core: running on means stepping over it."""
    wanted: bool = False
    """Somebody wants the core to stand, whatever else has stopped it."""
    moved: bool = False
    """pc was written before anybody asked for the reason: the core stands where it was put."""
    stepped: Span | None = None
    """The range that it was to step out of, and has not, if it does not count that it stands."""


class Core:
    """The Cortex-M7 behind a port.  `put_back` restores what a reset destroys elsewhere."""

    def __init__(
        self,
        link: Link,
        port: Port,
        memory: Memory,
        breakpoints: Breakpoints,
        put_back: Callable[[], None],
    ) -> None:
        self._link = link
        self._port = port
        self._memory = memory
        self._snapshot = Snapshot(link, memory)
        self._now = link.monotonic
        self._transfers = Transfers(port, link.deadline, self._note_status, self.forget_halt)
        self._breakpoints = breakpoints
        self._put_back_chip = put_back
        self._demcr_before = 0
        self._catch = Demcr.VC_HARDERR
        self._halt: _Halt | None = None
        self._asked: Literal["halt", "step"] = "halt"
        self._masked = False  # DHCSR.C_MASKINTS is set
        self._range: Span | None = None  # until pc is outside, a stop is none
        self._range_code = b""  # of that span
        self._catches_all = False  # DEMCR has every fault caught, for the time of a run to an exit
        self._matched_early: tuple[Watch, Block] | None = (
            None  # matched, before the core had stopped
        )
        self._stack = 0  # where the stack was at the last stop
        self._reset_seen = False
        self.mask_interrupts = True
        """Whether interrupts have to wait while the core is stepped."""
        self.resets = 0
        self.unasked_resets = 0
        """How often it was found that somebody else had reset the chip."""

    # --- From start to finish ---------------------------------------------------------------------

    def start(self, *, in_reset: bool, halt: bool) -> list[Write]:
        """Take control: of a core whose NRST we hold, of a running one, or without halting it.

        It is taken once the result is written.
        """
        finish = [Write(DEMCR, [self._demcr])]
        if in_reset:
            self._demcr_before = self._prepare_reset(clear=False) & Demcr.TRCENA
            self._come_out_of_reset()
        else:
            (status,), (demcr,) = self._port.run([Read(DHCSR), Read(DEMCR)])
            self._demcr_before = demcr & Demcr.TRCENA
            if halt:
                self.halt()
            else:
                finish = [self._enable_debug(status), *finish]
        self._reset_seen = False
        return finish

    def _enable_debug(self, status: int) -> Write:
        """Set C_DEBUGEN; a core that a debugger has halted, be it before us, stays so."""
        halted = status & (Dhcsr.C_HALT if status & Dhcsr.S_HALT else 0)
        return Write(DHCSR, [_DEBUG | halted])

    def _come_out_of_reset(self) -> None:
        """Let NRST go, and see the core stopped before its first instruction."""
        self._link.hold_reset(False)
        self._halt = self._wait_for_reset(cleared=False)
        if self._halt is None:
            log.info("NRST did not reset the core (is the pin connected?): resetting by software")
            self.reset(halt=True)

    def finish(self, *, resume: bool) -> None:
        """Give up control; without `resume` the core stays where it is."""
        if not resume:
            self._port.write(DEMCR, self._demcr_before)
            return
        if self._look() & Dhcsr.S_HALT:
            self._pass_bkpt()
            self._memory.sync_caches()
        self._port.run(
            [
                Write(DFSR, [_ALL_DFSR]),
                *([Write(DHCSR, [_HALTED])] if self._masked else []),
                Write(DEMCR, [self._demcr_before]),
                Write(DHCSR, [DBGKEY]),
            ]
        )

    # --- Run control ------------------------------------------------------------------------------

    def is_halted(self) -> bool:
        """Look now; a chip that somebody reset is not where we left it."""
        status = self._look()
        if not status & Dhcsr.S_HALT or self._reset_seen:
            self.forget_halt()
        elif self._halt is not None:
            self._halt.looked = self._now()
        return bool(status & Dhcsr.S_HALT)

    def seems_halted(self) -> bool:
        """As `is_halted`, but what was seen a moment ago will do."""
        halt = self._halt
        return (halt is not None and self._now() - halt.looked <= FRESH) or self.is_halted()

    def halt(self) -> None:
        """Stop the core, if it is not stopped already."""
        stepped, self._range = self._range, None
        if self._halt is not None:
            self._halt.wanted = True
            if stepped is not None:  # for the client, it was running
                self._explain(self._halt)
                self._halt.reason = self._halt_reason(self._halt)
            return
        status = self._request_halt()
        self._asked = "halt"
        self._wait_halted(status).wanted = True

    def wanted_halt(self) -> StopReason | None:
        """The halt that was asked for, if it was; from now on that is why the core stands."""
        if self._halt is None or not self._halt.wanted:
            return None
        self._halt.reason = self._halt_reason(self._halt)
        return self._halt.reason

    def _request_halt(self) -> int:
        mask = Dhcsr.C_MASKINTS if self._masked else 0
        ((status,),) = self._port.run([Write(DHCSR, [_HALTED | mask]), Read(DHCSR)])
        return self._note_status(status)

    def _wait_halted(self, status: int) -> _Halt:
        deadline = self._link.deadline(HALT_TIMEOUT)
        while not status & Dhcsr.S_HALT:
            if deadline.expired():
                if self._reset_seen:  # once it is over, the core would have halted
                    raise HeldInReset
                raise TargetError(
                    "the core does not halt",
                    hint="it may be waiting for a bus that never answers; try `monitor reset halt`",
                )
            # A reset that comes in between takes away what was asked for before it.
            status = self._request_halt() if self._reset_seen else self._look()
        return self._found_halted()

    def _found_halted(self) -> _Halt:
        self._see_to_reset()
        self._halt = halt = _Halt(self._now())
        return halt

    def resume(self) -> None:
        """Let the core run; breakpoints at its pc stop it there and then."""
        self._range = None
        if self._halt is None and not self.is_halted():
            return
        self._pass_bkpt()
        self._exit_debug_state(self._give_back(), mask_interrupts=False, look=False)

    def _exit_debug_state(
        self,
        before: Sequence[Access],
        after: Sequence[Access] = (),
        *,
        step: bool = False,
        mask_interrupts: bool,
        look: bool,
    ) -> bool:
        """Let the core go, by one step or for good; with `look`, see whether it stopped at once.

        `before` and `after` ride in the same list of accesses.
        """
        self._memory.sync_caches()
        control = _DEBUG | (Dhcsr.C_MASKINTS if mask_interrupts else 0)
        accesses: list[Access] = [*before]
        if self._halt is None or not self._halt.is_clear:
            accesses.append(Write(DFSR, [_ALL_DFSR]))
        if mask_interrupts != self._masked:
            accesses.append(Write(DHCSR, [control | Dhcsr.C_HALT]))  # it changes only with C_HALT
        accesses.append(Write(DHCSR, [control | (Dhcsr.C_STEP if step else 0)]))
        self.forget_halt()
        self._masked = mask_interrupts
        if look:
            return self._look_closely(accesses, after)
        self._port.run([*accesses, *after])
        return False

    def _look_closely(self, before: Sequence[Access], after: Sequence[Access] = ()) -> bool:
        """Whether the core stands now; if it does, with all that will be asked about the stop."""
        in_one = not self._port.has_memory_commands  # else nothing is gained by asking now
        stop = self._event_reads() if in_one else []
        ahead = self._snapshot.ahead(self._stack) if in_one else []
        transfers = read_together(registers.CORE_SELECTORS_SEEN) if in_one else []
        reads = [Read(DHCSR), *stop, *ahead, *transfers]
        try:
            (status,), *rest = self._port.run([*before, *reads, *after])
        except (AccessRefused, AccessStalled) as error:
            log.debug("what was to ride along could not: %s", error)
            self._port.run([*after, Read(DHCSR)])
            return False
        self._note_status(status)
        events, words, values = (
            rest[: len(stop)],
            rest[len(stop) : len(stop) + len(ahead)],
            rest[len(stop) + len(ahead) :],
        )
        if not status & Dhcsr.S_HALT or self._reset_seen:
            if stop:
                self._matched_early = self._matched_early or self._matched(events[1:])
            return False
        halt = _Halt(self._now())
        if transfers:
            self._transfers.take(halt.registers, registers.CORE_SELECTORS_SEEN, values)
            halt.events = self._as_events(events)
        self._snapshot.keep(ahead, words)
        self._halt = halt
        return True

    # --- Stepping ------------------------------------------------------------------------------

    def step(self, *, mask_interrupts: bool | None = None) -> None:
        """Execute one instruction, also where a breakpoint sits on it.

        A core that sleeps in it (WFI, WFE) is woken after `STEP_TIMEOUT`.
        """
        self._range = None
        self._need_halt()
        self._step(self.mask_interrupts if mask_interrupts is None else mask_interrupts)

    def _step(self, mask_interrupts: bool) -> None:
        if self._pass_bkpt():
            # That was the step: a BKPT does nothing else.
            self._port.write(DFSR, _ALL_DFSR)
            halt = self._need_halt()
            halt.bkpt, halt.reason = None, StopReason(SIGTRAP, "step", "stepped over a BKPT")
            return
        pc = self.read_registers(["pc"])["pc"]
        if (lift := self._breakpoints.lift(pc)) is not None:
            self._single_step(mask_interrupts, *lift)
        else:
            with self._breakpoints.lifted(pc):
                self._single_step(mask_interrupts)

    def _single_step(
        self, mask_interrupts: bool, out: Sequence[Access] = (), back: Sequence[Access] = ()
    ) -> None:
        self._asked = "step"
        before = [*self._give_back(), *out]
        if self._exit_debug_state(
            before, back, step=True, mask_interrupts=mask_interrupts, look=True
        ):
            return
        deadline = self._link.deadline(STEP_TIMEOUT)
        status = self._look()
        while not status & Dhcsr.S_HALT and not deadline.expired():
            status = self._look()
        if not status & Dhcsr.S_HALT:
            mask = Dhcsr.C_MASKINTS if mask_interrupts else 0
            self._port.write(DHCSR, _HALTED | mask)
            status = self._look()
        self._wait_halted(status)

    def step_range(self, span: Span) -> None:
        """Execute until pc is outside `span`; `poll_stop` tells when that is.

        Calls are not followed: the first instruction of a function is outside.
        """
        self._need_halt()
        self._range = span
        try:
            self._range_code = self.view(span.start, len(span))
        except MemoryFault:
            self._range_code = b""  # then one instruction at a time it is
        self._go_on_stepping(span)

    def _go_on_stepping(self, span: Span) -> None:
        """One instruction, or all up to the next that could lead elsewhere."""
        if not self._run_to_exit(span):
            self._step(self.mask_interrupts)

    def _run_to_exit(self, span: Span) -> bool:
        registers = self.read_registers(["pc", "xpsr"])
        pc = registers["pc"]
        if registers["xpsr"] & _XPSR_IT or pc not in span or self._breakpoints.at(pc) is not None:
            return False
        found, loops = thumb.exits(self._range_code, span, pc)
        first = thumb.decode(self._range_code[pc - span.start :], pc)
        if pc in found or (first is not None and found == {pc + first.size}):
            return False
        back = self._give_back()
        borrowed = self._breakpoints.borrow(found)
        if borrowed is None:
            if back:
                self._port.run(back)
            return False
        catch = Write(DEMCR, [self._demcr | VC_ALL_FAULTS])
        self._asked = "step"
        mask = self.mask_interrupts and not loops
        self._exit_debug_state([*back, *borrowed, catch], mask_interrupts=mask, look=True)
        self._catches_all = True
        return True

    def _give_back(self) -> list[Write]:
        """What `_run_to_exit` has borrowed, if anything."""
        back = self._breakpoints.give_back()
        if self._catches_all:
            self._catches_all = False
            back.append(Write(DEMCR, [self._demcr]))
        return back

    def pass_breakpoint(self) -> bool:
        """Execute the instruction at a breakpoint, and go on as before.

        False: the core is to stand there for another reason, which `poll_stop` tells.
        """
        halt = self._need_halt()
        pc, stepped = self.read_registers(["pc"])["pc"], halt.stepped
        if stepped is not None and pc not in stepped:
            halt.reason = StopReason(SIGTRAP, "step", f"stepped to {pc:#010x}")
            return False
        self._step(mask_interrupts=True)
        halt = self._need_halt()
        if self._read_events(halt).dfsr & ~Dfsr.HALTED and self._explain(halt).kind != "step":
            return False
        self._range = stepped
        if stepped is None:
            self._exit_debug_state(
                [], mask_interrupts=False, look=not self._port.has_memory_commands
            )
        return True

    def reset(self, *, halt: bool) -> None:
        """Reset the chip, all but its debug units; with `halt`, stop before the first instruction.

        By software; and through NRST, where that has no effect.  Either way the core is caught
        at its reset vector, so what a reset may destroy is back before the program starts.
        """
        self.resets += 1
        self.forget_halt()
        self._masked = False
        self._range = None
        for pull in (self._request_reset, self._pulse_reset):
            self._prepare_reset()
            pull()
            if (at_reset := self._wait_for_reset()) is not None:
                break
            log.info("no reset by %s", pull.__name__)
        else:
            with suppress(AccessRefused, AccessStalled):
                if self._look() & Dhcsr.S_RESET_ST:
                    raise HeldInReset
            raise TargetError("the chip does not reset", hint="power it off and on")
        self._put_back()
        if not halt:
            self._port.run([Write(DFSR, [_ALL_DFSR]), Write(DHCSR, [_DEBUG])])
        else:
            self._halt = at_reset
        self._reset_seen = False

    def _at_reset(self) -> _Halt:
        """Caught before the first instruction: CONTROL and masks are 0, and nobody has called.

        Armv7-M ARM, "Reset behavior".
        """
        known = Known({Selector.SPECIAL: 0, Selector.LR: 0xFFFFFFFF})
        return _Halt(self._now(), known, _DebugEvents(Dfsr.VCATCH, None))

    def _prepare_reset(self, *, clear: bool = True) -> int:
        """Have the core caught at its reset vector; what DEMCR was."""
        (demcr,), _ = self._port.run(
            [
                Read(DEMCR),
                Write(DHCSR, [_HALTED]),  # C_DEBUGEN may be gone, with the chip's power
                Write(DEMCR, [self._demcr | Demcr.VC_CORERESET]),
                Read(DHCSR),
                # Last: a core that is halted adds nothing to it.
                *([Write(DFSR, [_ALL_DFSR])] if clear else []),
            ]
        )
        self._reset_seen = False
        return demcr

    def _request_reset(self) -> None:
        with suppress(AccessRefused, AccessStalled):  # it may strike before it is acknowledged
            self._port.write(AIRCR, VECTKEY | Aircr.SYSRESETREQ)
        self._link.forget()

    def _pulse_reset(self) -> None:
        self._link.hold_reset(True)
        self._link.hold_reset(False)

    def _wait_for_reset(self, *, cleared: bool = True) -> _Halt | None:
        """What is known of the core once it has been reset, and stands; None if it was not reset.

        S_RESET_ST stays set for as long as reset lasts; the first look without it is the first
        that says something about what comes after.  Where the answer that had it was lost,
        DFSR.VCATCH says the same, if DFSR was `cleared` before.
        """
        deadline = self._link.deadline(RESET_TIMEOUT)
        sign = self._link.deadline(RESET_NOTICED)
        over = False
        while not deadline.expired():
            try:
                (first,), (status,) = self._port.run([Read(DHCSR), Read(DHCSR)])
                self._note_status(first | status)
                over = self._reset_seen and not status & Dhcsr.S_RESET_ST
                halted = status & Dhcsr.S_HALT
                if halted and (over or (cleared and self._port.read(DFSR)[0] & Dfsr.VCATCH)):
                    return self._at_reset()
            except (AccessRefused, AccessStalled):
                continue  # still in reset
            if not self._reset_seen and sign.expired():
                break
        if not over:
            return None
        log.info("the core was not caught at its reset vector")
        self._reset_seen = False
        self.halt()
        return self._halt

    def start_over(self) -> None:
        """Forget what was known of a chip that was out of reach, and set it up anew."""
        self.forget_halt()
        self._masked = False
        self._port.run([self._enable_debug(self._look())])  # without it, breakpoints are faults
        self._put_back()

    def _see_to_reset(self) -> None:
        """If somebody else has reset the chip: put back what that destroyed."""
        if self._reset_seen:
            self._reset_seen = False
            self.unasked_resets += 1
            self.resets += 1
            log.warning("the chip was reset")
            self._put_back()

    def _put_back(self) -> None:
        """What a reset may have destroyed: FPB, DWT, vector catch, and what others set up."""
        self._catches_all = False
        self._port.write(DEMCR, self._demcr)
        self._breakpoints.rewrite()
        self._put_back_chip()

    def catch_faults(self, catch: Demcr) -> None:
        """Choose the exceptions that stop the core before their handler runs."""
        if self._halt is not None and catch == self._catch and not self._catches_all:
            return  # and nobody can have written DEMCR since
        self._catch = catch
        self._catches_all = False
        self._port.write(DEMCR, self._demcr)

    @property
    def _demcr(self) -> int:
        return Demcr.TRCENA | self._catch

    # --- What the core is doing ---------------------------------------------------------------

    def poll_stop(self, *, briefly: bool = False) -> StopReason | None:
        """Look once: why the core is stopped; None while it runs, sleeps, or steps out of a range.

        With `briefly`, it may turn out that nobody wants to know more.
        """
        halt = self._halt
        if halt is None:
            status = self._look()
            if status & Dhcsr.S_RESET_ST and (status := self._look()) & Dhcsr.S_RESET_ST:
                return None  # somebody holds it there
            self._see_to_reset()
            if not status & (Dhcsr.S_HALT | Dhcsr.S_LOCKUP):
                return None
            if not status & Dhcsr.S_HALT:
                self.halt()
            halt = self._found_halted()
        stop = self._explain(halt, briefly=briefly or self._range is not None)
        if stop.kind == "misplaced" and halt.wanted:
            stop = halt.reason = self._halt_reason(halt)
        if stop.kind == "misplaced":
            log.debug("%s: letting its handler run first", stop.detail)
            self._exit_debug_state([], mask_interrupts=self._masked, look=False)
            return None
        if self._range is not None:
            if stop.kind == "step" and self.read_registers(["pc"])["pc"] in self._range:
                self._go_on_stepping(self._range)
                return None
            halt.stepped, self._range = self._range, None
        if back := self._give_back():
            self._port.run(back)
        return stop

    def _look(self) -> int:
        (status,) = self._port.read(DHCSR)
        if status & _NEVER_IN_DHCSR or not status & Dhcsr.C_DEBUGEN:
            log.debug("DHCSR reads %#010x: has somebody else used the access port?", status)
            if not status & _NEVER_IN_DHCSR:  # or has the chip been without power?
                self._note_status(status)
            self._link.forget()
            (status,) = self._port.read(DHCSR)
        return self._note_status(status)

    def _note_status(self, status: int) -> int:
        self._reset_seen |= bool(status & Dhcsr.S_RESET_ST)
        return status

    def forget_halt(self) -> None:
        if self._halt is not None:
            self._stack = self._halt.registers.get(Selector.SP, self._stack)
        self._halt = None
        self._matched_early = None

    def _need_halt(self) -> _Halt:
        """What is known about the core.

        Raises:
            TargetError: it is running.
        """
        if not self.seems_halted():
            raise TargetError("the core is running", hint="interrupt it first")
        return self._halt or self._found_halted()

    def _event_reads(self) -> list[Read]:
        """Reads of what the hardware knows about a stop: `_as_events` takes what they find."""
        return [Read(DFSR), *self._breakpoints.watch_status()]

    def _as_events(self, values: Sequence[Sequence[int]]) -> _DebugEvents:
        (dfsr,), *watches = values
        return _DebugEvents(dfsr, self._matched_early or self._matched(watches))

    def _matched(self, watches: Sequence[Sequence[int]]) -> tuple[Watch, Block] | None:
        return self._breakpoints.matched([status for (status,) in watches])

    def _read_events(self, halt: _Halt, selectors: Iterable[int] = ()) -> _DebugEvents:
        """Read what the hardware knows about a stop, and these registers with it."""
        if halt.events is None:
            stop = self._event_reads()
            halt.events = self._as_events(
                self._fetch(halt, selectors, [*stop, Write(DFSR, [_ALL_DFSR])])
            )
            halt.is_clear = True
        else:
            self._fetch(halt, selectors)
        return halt.events

    def _explain(self, halt: _Halt, *, briefly: bool = False) -> StopReason:
        """Find out why the core stopped, and unless `briefly`, what GDB asks next, in one go."""
        if halt.reason is None:
            needed = registers.selectors(("pc", "xpsr"))
            expected: Sequence[int] = registers.CORE_SELECTORS_SEEN
            if self._port.has_memory_commands:  # then each costs two exchanges
                expected = needed if briefly else registers.selectors(registers.EXPEDITED)
            events = self._read_events(halt, expected)
            self._fetch(halt, needed)
            halt.reason = self._reason(halt, events)
        return halt.reason

    def _reason(self, halt: _Halt, events: _DebugEvents) -> StopReason:
        dfsr, pc, xpsr = events.dfsr, halt.registers[Selector.PC], halt.registers[Selector.XPSR]
        where = f"at {pc:#010x}"
        if dfsr & Dfsr.VCATCH and xpsr & 0x1FF == 0:
            return StopReason(SIGTRAP, "reset", "caught at the reset vector")
        if self._is_lockup(halt):
            status = self._fault_status(halt)
            detail = faults.describe(status) or "the core locked up"
            return StopReason(faults.signal(status), "lockup", detail)
        if dfsr & Dfsr.VCATCH:
            status = self._fault_status(halt)
            detail = faults.describe(status) or f"an exception was caught {where}"
            if not faults.catches(xpsr, status.cfsr) & self._catch and self._catches_all:
                return StopReason(SIGTRAP, "step", f"stepped into a fault handler: {detail}")
            return StopReason(faults.signal(status), "fault", detail)
        if dfsr & Dfsr.DWTTRAP and events.matched is not None:
            request, block = events.matched
            kind, verb = _WATCHED[request.kind]
            detail = f"{block.span} was {verb}, shortly before {pc:#010x}"
            return StopReason(SIGTRAP, kind, detail, block.address)
        if dfsr & Dfsr.BKPT:
            at = self._breakpoints.at(pc)
            if at is BreakKind.HARDWARE:
                return StopReason(SIGTRAP, "hwbreak", f"breakpoint {where}")
            if at is BreakKind.SOFTWARE:
                return StopReason(SIGTRAP, "swbreak", f"breakpoint {where}")
            if not self._breakpoints.borrowed(pc):
                if xpsr & 0x1FF and not self._is_bkpt(pc):
                    return StopReason(SIGTRAP, "misplaced", f"a breakpoint, but {where}")
                halt.bkpt = pc
                return StopReason(SIGTRAP, "swbreak", f"BKPT instruction {where}")
        if self._asked == "step":
            return StopReason(SIGTRAP, "step", f"stepped to {pc:#010x}")
        return self._halt_reason(halt)

    def _is_bkpt(self, pc: int) -> bool:
        try:
            return int.from_bytes(self._memory.read(pc, 2), "little") & 0xFF00 == BKPT
        except MemoryFault:
            return False

    def _halt_reason(self, halt: _Halt) -> StopReason:
        pc = halt.registers[Selector.PC]
        blank = pc == LOCKUP_PC  # the vector 0xFFFFFFFF, without its Thumb bit
        where = "the reset vector of blank flash" if blank else f"{pc:#010x}"
        return StopReason(SIGINT, "halted", f"halted at {where}")

    def _pass_bkpt(self) -> bool:
        """Set pc behind the BKPT that stopped the core, if it still stands on one of its own."""
        if self.own_bkpt() is None:
            return False
        self.write_registers({"pc": self.read_registers(["pc"])["pc"] + 2})
        return True

    def own_bkpt(self) -> int | None:
        """The number in the program's own BKPT that stopped the core, if it still stands there."""
        halt = self._need_halt()
        if halt.moved:
            return None
        self._explain(halt)
        if halt.bkpt is None:
            return None
        pc = self.read_registers(["pc"])["pc"]
        if pc != halt.bkpt:
            return None
        here = int.from_bytes(self._breakpoints.overlay(pc, self._memory.read(pc, 2)), "little")
        return here & 0xFF if here & 0xFF00 == BKPT else None

    def describe_fault(self) -> str | None:
        """One sentence about the fault that the status registers tell of, or None."""
        if self._halt is None and not self.is_halted():
            return faults.describe(self._read_fault_registers())
        halt = self._need_halt()
        self._explain(halt)
        return faults.describe(self._fault_status(halt))

    def _read_fault_registers(self) -> faults.FaultStatus:
        cfsr, hfsr, _, mmfar, bfar = self._port.read(CFSR, 5)
        return faults.FaultStatus(cfsr, hfsr, mmfar, bfar)

    def _fault_registers(self, halt: _Halt) -> faults.FaultStatus:
        if halt.fault_registers is None:
            halt.fault_registers = self._read_fault_registers()
        return halt.fault_registers

    def _is_lockup(self, halt: _Halt) -> bool:
        pc, xpsr = halt.registers[Selector.PC], halt.registers[Selector.XPSR]
        return pc == LOCKUP_PC and faults.is_lockup(pc, xpsr, self._fault_registers(halt))

    def _fault_status(self, halt: _Halt) -> faults.FaultStatus:
        """The status of `halt` with what can be found out about where the program was."""
        self._fetch(halt, (Selector.PC, Selector.LR, Selector.XPSR))
        status = replace(self._fault_registers(halt), locked_up=self._is_lockup(halt))
        if status.cfsr & faults.STACKING:
            status = replace(status, sp=self.read_registers(["sp"])["sp"])
        stack = faults.frame_stack(halt.registers[Selector.XPSR], halt.registers[Selector.LR])
        if stack is None or not (status.cfsr or status.hfsr):
            return status
        pointer = self.read_registers([stack])[stack]
        with suppress(TargetError):  # a stack that cannot be read may be the very trouble
            words = self._memory.read_words(pointer & ~3, faults.FRAME_WORDS)
            return replace(status, frame=faults.Frame.of(words))
        return status

    # --- Memory, at a stop ------------------------------------------------------------------------

    def view(self, address: int, length: int) -> bytes:
        """Memory with what is under software breakpoints, read as seldom as it may be.

        Raises:
            MemoryFault: with what is `readable` before the word that was refused.
        """
        try:
            if self._halt is not None and self.seems_halted():
                data = self._snapshot.read(address, length)
            else:
                data = self._memory.read(address, length)
        except MemoryFault as refused:
            fault = refused.again()
            fault.readable = self._breakpoints.overlay(address, fault.readable)
            raise fault from refused.__cause__
        return self._breakpoints.overlay(address, data)

    # --- Registers -----------------------------------------------------------------------------

    def read_registers(self, names: Iterable[str]) -> dict[str, int]:
        """By the names of `registers.REGISTERS`, and s0-s31.  The core must be halted."""
        names = list(names)
        halt = self._need_halt()
        self._fetch(halt, registers.selectors(names))
        return registers.decode(names, halt.registers)

    def write_registers(self, values: Mapping[str, int]) -> None:
        """The core must be halted."""
        halt = self._need_halt()
        self._fetch(halt, registers.partial(values))
        self._transfers.write(halt.registers, registers.encode(values, halt.registers))
        halt.moved |= halt.reason is None and "pc" in values

    def _fetch(
        self, halt: _Halt, selectors: Iterable[int], besides: Sequence[Access] = ()
    ) -> list[Sequence[int]]:
        """Have these known; the result is that of `besides`, which ride along."""
        return self._transfers.read(halt.registers, tuple(selectors), besides)

    @contextmanager
    def saved(self, *, with_fpu: bool = True) -> Iterator[None]:
        """For the time of a loader: put every core register, DEMCR and all breakpoints back.

        Inside, the core may do anything; no breakpoint of the client's is in the hardware.
        `with_fpu=False`: what runs there does not use the FPU.
        """
        everything: tuple[int, ...] = registers.CORE_SELECTORS
        if with_fpu:
            everything += registers.FPU_SELECTORS
        halt = self._need_halt()
        # Now: what the hardware knows afterwards are the loader's own stops and faults.
        self._explain(halt)
        self._fault_registers(halt)
        (demcr,), *_ = self._fetch(halt, everything, [Read(DEMCR)])
        saved = {selector: halt.registers[selector] for selector in everything}
        before, asked = halt, self._asked
        with self._breakpoints.suspended():
            try:
                yield
            finally:
                self.halt()
                try:
                    self._transfers.write(self._need_halt().registers, saved)
                except TargetError as error:  # it was reset after it had been halted
                    log.debug("%s", error)
                    self.halt()
                    self._transfers.write(self._need_halt().registers, saved)
                # What DFSR knows now are the stops of what ran here, not the client's.
                self._port.run([Write(DEMCR, [demcr]), Write(DFSR, [_ALL_DFSR])])
        # For the client, the core has not moved: it is stopped for the same reason.
        self._asked = asked
        self._halt = replace(before, looked=self._now(), registers=Known(saved), is_clear=False)


_WATCHED: Final[Mapping[BreakKind, tuple[StopKind, str]]] = {
    BreakKind.WRITE_WATCH: ("watch", "written"),
    BreakKind.READ_WATCH: ("rwatch", "read"),
    BreakKind.ACCESS_WATCH: ("awatch", "accessed"),
}
