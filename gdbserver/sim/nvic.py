"""Which exception is next: pending, enabled and active exceptions with their priorities.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "Exception model" and "Nested Vectored
Interrupt Controller".  Exceptions are numbered as in IPSR: external interrupt n is 16 + n.
Sets of exceptions are ints, bit by exception number, because "is there anything to do?" is
asked after every slice of instructions.
"""

from __future__ import annotations

from gdbserver.chip.cortex_m import ExceptionNumber

INTERRUPTS = 150
"""RM0433, "Nested vectored interrupt controller": 150 maskable interrupt channels."""

PRIORITY_BITS = 4
EXTERNAL = 16
LAST = EXTERNAL + INTERRUPTS - 1
MASKED_BY_DEBUGGER = ((2 << LAST) - 1) & ~0xFFFF | (
    1 << ExceptionNumber.PEND_SV | 1 << ExceptionNumber.SYS_TICK
)
"""What DHCSR.C_MASKINTS holds back: interrupts, PendSV and SysTick."""

THREAD_PRIORITY = 256
"""Lower than any exception's: what thread mode runs at when nothing is masked."""

_FIXED = {ExceptionNumber.RESET: -3, ExceptionNumber.NMI: -2, ExceptionNumber.HARD_FAULT: -1}
_ALWAYS_ENABLED = sum(
    1 << number
    for number in (
        ExceptionNumber.NMI,
        ExceptionNumber.HARD_FAULT,
        ExceptionNumber.SV_CALL,
        ExceptionNumber.DEBUG_MONITOR,
        ExceptionNumber.PEND_SV,
        ExceptionNumber.SYS_TICK,
    )
)


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found


class Nvic:
    """State of all exceptions.  It decides; taking an exception is the core's business."""

    def __init__(self) -> None:
        self.lines = 0
        self.reset()

    def reset(self) -> None:
        self.pending = self.lines
        self.active = 0
        self.enabled = _ALWAYS_ENABLED
        self.priorities = [0] * (LAST + 1)
        self.prigroup = 0
        self.changed = True
        """Set by whatever may make an exception deliverable; the core clears it when it looks."""
        self.newly_pending = False
        """An exception became pending, enabled or not: the event of SCR.SEVONPEND."""

    def set_line(self, number: int, level: bool) -> None:
        """The interrupt line of exception `number` rose or fell."""
        bit = 1 << number
        if not level:
            self.lines &= ~bit
        elif not self.lines & bit:
            self.lines |= bit
            self.pend(number)

    def pend(self, number: int) -> None:
        self.newly_pending |= not self.pending >> number & 1
        self.pending |= 1 << number
        self.changed = True

    def unpend(self, number: int) -> None:
        """Forget a pending exception, unless its line is still high."""
        self.pending &= ~(1 << number) | self.lines

    def enable(self, mask: int) -> None:
        self.enabled |= mask
        self.changed = True

    def disable(self, mask: int) -> None:
        self.enabled &= ~mask | _ALWAYS_ENABLED

    def set_priority(self, number: int, priority: int) -> None:
        """Store a priority byte; only the upper `PRIORITY_BITS` exist."""
        if number <= LAST:
            self.priorities[number] = priority & 0xFF & ~(0xFF >> PRIORITY_BITS)
            self.changed = True

    def priority(self, number: int) -> int:
        return _FIXED[ExceptionNumber(number)] if number <= 3 else self.priorities[number]

    def group_priority(self, priority: int) -> int:
        """The part of a priority that decides about preemption, by AIRCR.PRIGROUP."""
        if priority < 0:
            return priority
        return priority & ~((2 << self.prigroup) - 1) & 0xFF

    def execution_priority(self, primask: int, basepri: int, faultmask: int) -> int:
        """ExecutionPriority() of the manual's pseudocode."""
        current = THREAD_PRIORITY
        for number in bits(self.active):
            current = min(current, self.group_priority(self.priority(number)))
        if basepri:
            current = min(current, self.group_priority(basepri))
        if primask:
            current = min(current, 0)
        if faultmask:
            current = min(current, -1)
        return current

    @property
    def waiting(self) -> int:
        """Exceptions that are pending and enabled."""
        return self.pending & self.enabled

    def deliverable(self, execution_priority: int, masked: int = 0) -> int | None:
        """The exception that preempts at this execution priority, or None.

        `masked` are exceptions that the debugger holds back.  Among equals the lowest number
        comes first.
        """
        best = min(bits(self.waiting & ~masked), key=self.priority, default=None)
        if best is None or self.group_priority(self.priority(best)) >= execution_priority:
            return None
        return best

    def enter(self, number: int) -> None:
        self.pending &= ~(1 << number)
        self.active |= 1 << number

    def leave(self, number: int) -> None:
        """An exception returned; a line that is still high makes it pending again."""
        self.active &= ~(1 << number)
        self.pending |= self.lines & (1 << number)
        self.changed = True
