"""The core: running, stopping, and showing its registers.

Rule 1: everything known about a halted core is in one `_Halt`, and `let_go` drops it as a
whole.  Whatever could change the core goes through there first, so nothing stale is ever
answered, and nothing is read twice at one stop.

Rule 2: what DHCSR says goes through `_note_status`, because reading it clears S_RESET_ST: a
reset that happened unasked is noticed by whoever reads it first.

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
    DCRDR,
    DCRSR,
    DCRSR_WRITE,
    DEMCR,
    DFSR,
    DHCSR,
    LOCKUP_PC,
    VECTKEY,
    Aircr,
    Demcr,
    Dfsr,
    Dhcsr,
    Selector,
)
from gdbserver.errors import AccessRefused, AccessStalled, TargetError
from gdbserver.target import faults, registers
from gdbserver.target.breakpoints import BKPT, BreakKind, Breakpoints
from gdbserver.target.link import Access, Link, Port, Read, Write
from gdbserver.target.memory import Memory
from gdbserver.target.stop import SIGINT, SIGTRAP, StopKind, StopReason

log = logging.getLogger(__name__)

HALT_TIMEOUT: Final = 1.0
RESET_TIMEOUT: Final = 1.0
STEP_TIMEOUT: Final = 0.1
"""After so many seconds a step is taken to be asleep in WFI or WFE, and is halted there."""

_DEBUG: Final = DBGKEY | Dhcsr.C_DEBUGEN
_HALTED: Final = _DEBUG | Dhcsr.C_HALT
_ALL_DFSR: Final = 0x1F


@dataclass(slots=True)
class _Halt:
    """What is known about the core while it is halted."""

    registers: dict[int, int] = field(default_factory=dict)
    """By DCRSR selector."""
    status: faults.FaultStatus | None = None
    reason: StopReason | None = None
    bkpt: int | None = None
    """Where a BKPT of the program's own stopped the core: running on means stepping over it."""


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
        self._breakpoints = breakpoints
        self._put_back_chip = put_back
        self._demcr_before = 0
        self._catch = Demcr.VC_HARDERR
        self._halt: _Halt | None = None
        self._asked: Literal["halt", "step"] = "halt"
        self._masked = False  # DHCSR.C_MASKINTS is set
        self._reset_seen = False
        self.unasked_resets = 0
        """How often `poll_stop` has found that somebody else reset the chip."""

    # --- From start to finish ---------------------------------------------------------------------

    def start(self, *, in_reset: bool, halt: bool) -> None:
        """Take control: of a core whose NRST we hold, of a running one, or without halting it."""
        (status,), (demcr,) = self._port.run([Read(DHCSR), Read(DEMCR)])
        self._demcr_before = demcr & Demcr.TRCENA
        if in_reset:
            self._come_out_of_reset()
        elif halt:
            self.halt()
        else:
            # A core that a debugger has halted before us stays so.
            halted = status & (Dhcsr.C_HALT if status & Dhcsr.S_HALT else 0)
            self._port.write(DHCSR, _DEBUG | halted)
        self._port.write(DEMCR, self._demcr)
        self._reset_seen = False

    def _come_out_of_reset(self) -> None:
        """Let NRST go, and have the core stop before its first instruction."""
        self._prepare_reset()
        self._link.hold_reset(False)
        if not self._came_back():
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
            self.let_go()
        return bool(status & Dhcsr.S_HALT)

    def halt(self) -> None:
        """Stop the core, if it is not stopped already."""
        if self._halt is not None:
            return
        ((status,),) = self._port.run([Write(DHCSR, [_HALTED]), Read(DHCSR)])
        self._note_status(status)
        self._asked = "halt"
        self._wait_halted(status)

    def _wait_halted(self, status: int) -> None:
        deadline = self._link.deadline(HALT_TIMEOUT)
        while not status & Dhcsr.S_HALT:
            if deadline.expired():
                raise TargetError(
                    "the core does not halt",
                    hint="it may be waiting for a bus that never answers; try `monitor reset halt`",
                )
            status = self._look()
        self._halt = _Halt()

    def resume(self) -> None:
        """Let the core run; breakpoints at its pc stop it there and then."""
        if self._halt is None and not self.is_halted():
            return
        self._pass_bkpt()
        self._memory.sync_caches()
        accesses: list[Access] = [Write(DFSR, [_ALL_DFSR])]
        if self._masked:
            accesses.append(Write(DHCSR, [_HALTED]))  # C_MASKINTS changes only with C_HALT set
        accesses.append(Write(DHCSR, [_DEBUG]))
        self.let_go()
        self._masked = False
        self._port.run(accesses)

    def step(self, *, mask_interrupts: bool = True) -> None:
        """Execute one instruction, also where a breakpoint sits on it.

        A core that sleeps in it (WFI, WFE) is woken after `STEP_TIMEOUT`.
        """
        self._need_halt()
        if self._pass_bkpt():
            # That was the step: a BKPT does nothing else.
            self._port.write(DFSR, _ALL_DFSR)
            halt = self._need_halt()
            halt.bkpt, halt.reason = None, StopReason(SIGTRAP, "step", "stepped over a BKPT")
            return
        if self._breakpoints.any_code():
            pc = self.read_registers(["pc"])["pc"]
            with self._breakpoints.lifted(pc):
                self._single_step(mask_interrupts)
        else:
            self._single_step(mask_interrupts)

    def _single_step(self, mask_interrupts: bool) -> None:
        self._memory.sync_caches()
        control = _DEBUG | (Dhcsr.C_MASKINTS if mask_interrupts else 0)
        accesses: list[Access] = [Write(DFSR, [_ALL_DFSR])]
        if mask_interrupts != self._masked:
            accesses.append(Write(DHCSR, [control | Dhcsr.C_HALT]))
        accesses += [Write(DHCSR, [control | Dhcsr.C_STEP]), Read(DHCSR)]
        self.let_go()
        self._asked = "step"
        self._masked = mask_interrupts
        ((status,),) = self._port.run(accesses)
        self._note_status(status)
        deadline = self._link.deadline(STEP_TIMEOUT)
        while not status & Dhcsr.S_HALT and not deadline.expired():
            status = self._look()
        if not status & Dhcsr.S_HALT:
            self._port.write(DHCSR, control | Dhcsr.C_HALT)
            status = self._look()
        self._wait_halted(status)

    def reset(self, *, halt: bool) -> None:
        """Reset the chip, all but its debug units; with `halt`, stop before the first instruction.

        By software; and through NRST, where that has no effect.  Either way the core is caught
        at its reset vector, so what a reset may destroy is back before the program starts.
        """
        self.let_go()
        self._masked = False
        for pull in (self._request_reset, self._pulse_reset):
            self._prepare_reset()
            pull()
            if self._came_back():
                break
            log.info("no reset by %s", pull.__name__)
        else:
            raise TargetError("the chip does not reset", hint="power it off and on")
        self._put_back()
        if not halt:
            self._port.run([Write(DFSR, [_ALL_DFSR]), Write(DHCSR, [_DEBUG])])
        self._reset_seen = False

    def _prepare_reset(self) -> None:
        self._port.run(
            [
                Write(DHCSR, [_HALTED]),  # C_DEBUGEN may be gone, with the chip's power
                Write(DFSR, [_ALL_DFSR]),
                Write(DEMCR, [self._demcr | Demcr.VC_CORERESET]),
                Read(DHCSR),
            ]
        )
        self._reset_seen = False

    def _request_reset(self) -> None:
        with suppress(AccessRefused, AccessStalled):  # it may strike before it is acknowledged
            self._port.write(AIRCR, VECTKEY | Aircr.SYSRESETREQ)

    def _pulse_reset(self) -> None:
        self._link.hold_reset(True)
        self._link.hold_reset(False)

    def _came_back(self) -> bool:
        """Wait until the core has been reset, and stands before its first instruction.

        DFSR.VCATCH says so.  S_RESET_ST stays set for as long as reset lasts; the first look
        without it is the first that says something about what comes after.
        """
        deadline = self._link.deadline(RESET_TIMEOUT)
        over = False
        while not deadline.expired():
            try:
                (status,), (dfsr,) = self._port.run([Read(DHCSR), Read(DFSR)])
            except (AccessRefused, AccessStalled):
                continue  # still in reset
            self._note_status(status)
            over = self._reset_seen and not status & Dhcsr.S_RESET_ST
            if status & Dhcsr.S_HALT and (over or dfsr & Dfsr.VCATCH):
                return True
        if over:
            log.info("the core was not caught at its reset vector")
            self.halt()
        return over

    def _put_back(self) -> None:
        """What a reset may have destroyed: FPB, DWT, vector catch, and what others set up."""
        self._port.write(DEMCR, self._demcr)
        self._breakpoints.rewrite()
        self._put_back_chip()

    def catch_faults(self, catch: Demcr) -> None:
        """Choose the exceptions that stop the core before their handler runs."""
        self._catch = catch
        self._port.write(DEMCR, self._demcr)

    @property
    def _demcr(self) -> int:
        return Demcr.TRCENA | self._catch

    # --- What the core is doing ---------------------------------------------------------------

    def poll_stop(self) -> StopReason | None:
        """Look once: why the core is stopped, or None while it runs or sleeps."""
        if self._halt is None:
            status = self._look()
            if self._reset_seen:
                self._reset_seen = False
                self.unasked_resets += 1
                log.warning("the chip was reset")
                self._put_back()
            if not status & (Dhcsr.S_HALT | Dhcsr.S_LOCKUP):
                return None
            if not status & Dhcsr.S_HALT:
                self.halt()
            self._halt = _Halt()
        return self._explain(self._halt)

    def _look(self) -> int:
        (status,) = self._port.read(DHCSR)
        return self._note_status(status)

    def _note_status(self, status: int) -> int:
        self._reset_seen |= bool(status & Dhcsr.S_RESET_ST)
        return status

    def let_go(self) -> None:
        self._halt = None

    def _need_halt(self) -> _Halt:
        """What is known about the core.

        Raises:
            TargetError: it is running.
        """
        if self._halt is None:
            if not self._look() & Dhcsr.S_HALT:
                raise TargetError("the core is running", hint="interrupt it first")
            self._halt = _Halt()
        return self._halt

    def _explain(self, halt: _Halt) -> StopReason:
        """Find out why the core stopped, and what GDB asks next, in one go."""
        if halt.reason is not None:
            return halt.reason
        watches = self._breakpoints.watch_status()
        (cfsr, hfsr, dfsr, mmfar, bfar), *matched = self._fetch(
            halt, registers.selectors(registers.EXPEDITED), [Read(CFSR, 5), *watches]
        )
        halt.status = faults.FaultStatus(cfsr, hfsr, mmfar, bfar)
        pc = halt.registers[Selector.PC]
        watch = self._breakpoints.matched([status for (status,) in matched])
        where = f"at {pc:#010x}"
        if dfsr & Dfsr.VCATCH and halt.registers[Selector.XPSR] & 0x1FF == 0:
            halt.reason = StopReason(SIGTRAP, "reset", "caught at the reset vector")
        elif faults.is_lockup(pc, halt.registers[Selector.XPSR], halt.status):
            status = self._fault_status(halt)
            detail = faults.describe(status) or "the core locked up"
            halt.reason = StopReason(faults.signal(status), "lockup", detail)
        elif dfsr & Dfsr.VCATCH:
            status = self._fault_status(halt)
            detail = faults.describe(status) or f"an exception was caught {where}"
            halt.reason = StopReason(faults.signal(status), "fault", detail)
        elif dfsr & Dfsr.DWTTRAP and watch is not None:
            request, block = watch
            kind, verb = _WATCHED[request.kind]
            detail = f"{block.span} was {verb}, shortly before {pc:#010x}"
            halt.reason = StopReason(SIGTRAP, kind, detail, block.address)
        elif dfsr & Dfsr.BKPT:
            found = self._breakpoints.at(pc)
            if found is BreakKind.HARDWARE:
                halt.reason = StopReason(SIGTRAP, "hwbreak", f"breakpoint {where}")
            elif found is BreakKind.SOFTWARE:
                halt.reason = StopReason(SIGTRAP, "swbreak", f"breakpoint {where}")
            else:
                halt.bkpt = pc
                halt.reason = StopReason(SIGTRAP, "swbreak", f"BKPT instruction {where}")
        elif self._asked == "step":
            halt.reason = StopReason(SIGTRAP, "step", f"stepped to {pc:#010x}")
        else:
            blank = pc == LOCKUP_PC  # the vector 0xFFFFFFFF, without its Thumb bit
            detail = "halted at the reset vector of blank flash" if blank else f"halted {where}"
            halt.reason = StopReason(SIGINT, "halted", detail)
        return halt.reason

    def _pass_bkpt(self) -> bool:
        """Set pc behind the BKPT that stopped the core, if it still stands on one of its own."""
        if self.own_bkpt() is None:
            return False
        self.write_registers({"pc": self.read_registers(["pc"])["pc"] + 2})
        return True

    def own_bkpt(self) -> int | None:
        """The number in the program's own BKPT that stopped the core, if it still stands there."""
        halt = self._need_halt()
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
            cfsr, hfsr, _, mmfar, bfar = self._port.read(CFSR, 5)
            return faults.describe(faults.FaultStatus(cfsr, hfsr, mmfar, bfar))
        halt = self._need_halt()
        self._explain(halt)
        return faults.describe(self._fault_status(halt))

    def _fault_status(self, halt: _Halt) -> faults.FaultStatus:
        """The status of `halt` with what can be found out about where the program was."""
        assert halt.status is not None, "comes with the explanation"
        pc, xpsr = halt.registers[Selector.PC], halt.registers[Selector.XPSR]
        status = replace(halt.status, locked_up=faults.is_lockup(pc, xpsr, halt.status))
        stack = faults.frame_stack(xpsr, halt.registers[Selector.LR])
        if stack is None or not (status.cfsr or status.hfsr):
            return status
        pointer = self.read_registers([stack])[stack]
        with suppress(TargetError):  # a stack that cannot be read may be the very trouble
            words = self._memory.read_words(pointer & ~3, faults.FRAME_WORDS)
            return replace(status, frame=faults.Frame.of(words))
        return status

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
        self._store(halt, registers.encode(values, halt.registers))

    def _fetch(
        self, halt: _Halt, selectors: Iterable[int], before: Sequence[Access] = ()
    ) -> list[list[int]]:
        """Read what is not known yet of `selectors`; the result is that of `before`."""
        missing = [selector for selector in selectors if selector not in halt.registers]
        accesses = list(before)
        for selector in missing:
            accesses.append(Write(DCRSR, [selector]))
            if not self._port.patient:
                accesses.append(Read(DHCSR))
            accesses.append(Read(DCRDR))
        if not accesses:
            return []
        if missing:
            accesses.append(Read(DHCSR))
        found = self._port.run(accesses)
        reads_before = sum(isinstance(access, Read) for access in before)
        before_found, rest = found[:reads_before], [value for (value,) in found[reads_before:]]
        if not missing:
            return before_found
        *rest, last = rest
        values = rest if self._port.patient else rest[1::2]
        seen = [last] if self._port.patient else [*rest[::2], last]
        self._check_transfers(seen)
        halt.registers.update(zip(missing, values, strict=True))
        return before_found

    def _store(self, halt: _Halt, raw: Mapping[int, int]) -> None:
        accesses: list[Access] = []
        for selector, value in raw.items():
            accesses += [Write(DCRDR, [value]), Write(DCRSR, [DCRSR_WRITE | selector])]
            if not self._port.patient:
                accesses.append(Read(DHCSR))
        for selector in registers.aliases(raw):
            halt.registers.pop(selector, None)
        self._check_transfers([value for (value,) in self._port.run([*accesses, Read(DHCSR)])])
        halt.registers.update({s: raw[s] for s in raw if s in registers.KEPT_AS_WRITTEN})

    def _check_transfers(self, seen: Sequence[int]) -> None:
        """Whether the core was halted, and done with each transfer when it was used."""
        together = -1
        for status in seen:
            self._note_status(status)
            together &= status
        if not together & Dhcsr.S_HALT:
            self.let_go()
            raise TargetError("the core is running", hint="something else resumed or reset it")
        if not together & Dhcsr.S_REGRDY:
            self.let_go()
            raise TargetError(
                "the core is too slow to show its registers", hint="try a lower --frequency"
            )

    @contextmanager
    def saved(self) -> Iterator[None]:
        """For the time of a loader: put every core register, DEMCR and all breakpoints back.

        Inside, the core may do anything; no breakpoint of the client's is in the hardware.
        """
        everything = (*registers.CORE_SELECTORS, *registers.FPU_SELECTORS)
        halt = self._need_halt()
        self._explain(halt)  # now: the loader's own stops are what the hardware knows afterwards
        (demcr,), *_ = self._fetch(halt, everything, [Read(DEMCR)])
        saved = {selector: halt.registers[selector] for selector in everything}
        before, asked = halt, self._asked
        with self._breakpoints.suspended():
            try:
                yield
            finally:
                self.halt()
                self._store(self._need_halt(), saved)
                # What DFSR knows now are the stops of what ran here, not the client's.
                self._port.run([Write(DEMCR, [demcr]), Write(DFSR, [_ALL_DFSR])])
        # For the client, the core has not moved: it is stopped for the same reason.
        self._asked = asked
        self._halt = _Halt(dict(saved), before.status, before.reason, before.bkpt)


_WATCHED: Final[Mapping[BreakKind, tuple[StopKind, str]]] = {
    BreakKind.WRITE_WATCH: ("watch", "written"),
    BreakKind.READ_WATCH: ("rwatch", "read"),
    BreakKind.ACCESS_WATCH: ("awatch", "accessed"),
}
