"""The handlers that a program was halted in: left for a loader's sake, and entered again.

While an exception counts as active, nothing of lower priority is served; a loader's own SysTick
would wait for ever.  So activity is cleared before a loader runs (AIRCR.VECTCLRACTIVE).  But a
handler whose exception is not active cannot return: that is a UsageFault (INVPC).  Active
bits of interrupts are read-only, and so there is one way back, the one that the program came:
each interrupt is made pending, in an otherwise quiet chip, and the core takes it, from a loop of
ours into a BKPT of ours.  What the core has pushed doing so is forgotten with our stack, and its
registers are put back as they were.  The exception of the innermost handler comes last, so
that IPSR is right as well, whether or not a debugger may write it.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "Exception model", "System Handler Control
and State Register, SHCSR", "Application Interrupt and Reset Control Register, AIRCR".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from gdbserver.chip import cortex_m as cm
from gdbserver.target.access import Access, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_EXTERNAL = 16
_PENDING_IN_SHCSR = {
    cm.ExceptionNumber.USAGE_FAULT: 1 << 12,
    cm.ExceptionNumber.MEM_MANAGE: 1 << 13,
    cm.ExceptionNumber.BUS_FAULT: 1 << 14,
    cm.ExceptionNumber.SV_CALL: 1 << 15,
}
_PENDING_IN_ICSR = {
    cm.ExceptionNumber.NMI: cm.Icsr.NMIPENDSET,
    cm.ExceptionNumber.PEND_SV: cm.Icsr.PENDSVSET,
    cm.ExceptionNumber.SYS_TICK: cm.Icsr.PENDSTSET,
}
_FAULTS_ENABLED = 7 << 16  # SHCSR: those that can be made pending are taken, not escalated
_SHPR = cm.SHPR1 - 4  # the priority of system exception n is the byte n further on
_LOWEST, _LEVEL = 0xF0, 0x10  # four bits of priority
_TRAP_AND_LOOP = bytes.fromhex("00be fee7")  # BKPT; a branch to itself
_TAKEN = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the core may go through the motions: RAM of ours, whatever it holds by now."""

    vectors: int
    """A vector table."""
    code: int
    """Room for two instructions."""
    stack: int
    """The end of a stack."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """Exceptions that were active, by number: the innermost, and the interrupts around it."""

    innermost: int
    interrupts: tuple[int, ...]

    @classmethod
    def seen(cls, icsr: int, active: Sequence[int]) -> Handlers:
        """From ICSR, and the words of NVIC_IABR."""
        numbers = [
            _EXTERNAL + 32 * word + bit
            for word, bits in enumerate(active)
            for bit in range(32)
            if bits >> bit & 1
        ]
        innermost = icsr & 0x1FF
        return cls(innermost, tuple(n for n in numbers if n != innermost))

    def __bool__(self) -> bool:
        return bool(self.innermost or self.interrupts)

    def enter(self, target: Target, stage: Stage) -> None:
        """Make them active again, in a halted core in which nothing is, nor enabled, nor pending.

        Priorities, masks, stack pointers and VTOR are changed; active bits of other system
        exceptions can be written to SHCSR, and are no business of this.
        """
        numbers = [*self.interrupts, *([self.innermost] if self.innermost else [])]
        if not all(_can_be_pending(number) for number in numbers):
            # HardFault, which nothing but a fault makes active, and whose handlers do not return.
            log.info(
                "the program was halted in a handler (exception %d) that it cannot return from "
                "after a loader has run; before it goes on it has to be reset",
                self.innermost,
            )
            return
        target.write_memory(stage.code, _TRAP_AND_LOOP)
        for number in numbers:
            target.write_word(stage.vectors + 4 * number, stage.code | 1)
        target.run([Write(cm.VTOR, [stage.vectors]), Write(cm.AIRCR, [cm.VECTKEY])])
        unmasked = {"control": 0, "faultmask": 0, "basepri": 0, "primask": 0}
        target.write_registers(unmasked | {"msp": stage.stack, "xpsr": cm.XPSR_THUMB})
        for depth, number in enumerate(numbers):
            target.run(_made_pending(number, _LOWEST - _LEVEL * min(depth, 15)))
            target.write_registers({"pc": stage.code + 2})
            target.resume()
            deadline = target.deadline(_TAKEN)
            while not target.is_halted() and not deadline.expired():
                pass
            target.halt()
            found = target.read_registers(["xpsr"])["xpsr"] & 0x1FF
            if found != number:
                log.warning(
                    "exception %d, in whose handler the program was halted, is not active any "
                    "more, so it cannot return from it; reset it",
                    number,
                )
                return


def _can_be_pending(number: int) -> bool:
    return number >= _EXTERNAL or number in {*_PENDING_IN_SHCSR, *_PENDING_IN_ICSR}


def _made_pending(number: int, priority: int) -> list[Access]:
    """More urgent than what was entered before it."""
    if number >= _EXTERNAL:
        word, bit = divmod(number - _EXTERNAL, 32)
        return [
            Write(cm.NVIC_IPR + number - _EXTERNAL, [priority], 1),
            Write(cm.NVIC_ISER + 4 * word, [1 << bit]),
            Write(cm.NVIC_ISPR + 4 * word, [1 << bit]),
        ]
    exception = cm.ExceptionNumber(number)
    accesses: list[Access] = []
    if exception is not cm.ExceptionNumber.NMI:
        accesses.append(Write(_SHPR + number, [priority], 1))
    if exception in _PENDING_IN_ICSR:
        accesses.append(Write(cm.ICSR, [_PENDING_IN_ICSR[exception]]))
    else:
        accesses.append(Write(cm.SHCSR, [_FAULTS_ENABLED | _PENDING_IN_SHCSR[exception]]))
    return accesses
