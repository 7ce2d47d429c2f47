"""Waiting loops, which the core need not turn: time passes to when they can find something new.

A program waits by looking at registers again and again, which `PollDetector` recognises; by a
branch to itself, until an interrupt comes; or by counting down.  On the way every event of the
clock happens at its time, and each may be what the loop waits for.

A probe lets time pass in bits.  A core that waited at the end of one need not even look in the
next, as long as nothing has happened that it would see: a probe that writes to the flash comes by
for each of its words, while the core waits for the NOR.
"""

from __future__ import annotations

from collections.abc import Collection

from gdbserver.sim.bus import Bus
from gdbserver.sim.clock import MILLISECOND, NEVER, SECOND, Clock
from gdbserver.sim.core_memory import CoreMemory
from gdbserver.sim.core_registers import CoreRegisters
from gdbserver.sim.core_time import CYCLES_PER_INSTRUCTION, CoreTime
from gdbserver.sim.nvic import Nvic
from gdbserver.sim.polling import PollDetector
from gdbserver.sim.traps import it_state

LONGEST_SKIP = SECOND // 10
"""Of a core that looks in vain: it looks at CYCCNT now and then, which wraps after nine seconds."""

LONGEST_REST = MILLISECOND
"""Of a core that waits while time passes in bits: it counts its looks, perhaps."""

_BRANCH_TO_SELF = 0xE7FE
_COUNT_DOWN, _COUNTER = 0x3801, 0x0700  # SUBS Rn, #1
_TURN_AGAIN = 0xD1FD  # BNE to the instruction before
_ZERO = 1 << 30  # xPSR


class WaitingLoops:
    """Whether the core waits, and letting time pass for it."""

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        nvic: Nvic,
        *,
        time: CoreTime,
        memory: CoreMemory,
        registers: CoreRegisters,
        polls: PollDetector,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._nvic = nvic
        self._time = time
        self._memory = memory
        self._registers = registers
        self._polls = polls
        self.until = 0
        """Until then it finds nothing new, unless somebody interferes; 0 if it does not wait."""

    def over(self) -> None:
        """The core does something else now."""
        self.until = 0

    # --- Looks in vain --------------------------------------------------------------------------

    def skip_looks(self, until: int) -> None:
        """The core looks in vain: answer when something can have changed, or at `until`."""
        clock = self._clock
        limit = min(until, clock.now + LONGEST_SKIP)
        while (due := clock.next_change()) is not None and due <= limit:
            if self._pass_over(due):
                return
        if limit < until:
            self._polls.interrupted()
        else:
            self.until = clock.now + LONGEST_REST
            self._bus.memory_changed = False
        if limit > clock.now:
            self._pass_to(limit)

    def wait_on(self, when: int) -> None:
        """Let time pass to `when`, or to what the core would see, or may not miss."""
        clock, bus = self._clock, self._bus
        due = clock.next_event or NEVER
        target = min(when, self.until, due)
        if (
            target <= clock.now
            or self._nvic.waiting
            or bus.memory_changed
            or (bus.devices_accessed and self._finds_news())
        ):
            self.look_again()
        elif target < due:
            self._pass_to(target)
        elif self._pass_over(due):
            self.look_again()

    def look_again(self) -> None:
        """It waits no longer without looking."""
        self.until = 0
        self._polls.doubt()

    def _pass_over(self, due: int) -> bool:
        """Let an event happen; whether a core that waits may find out."""
        clock = self._clock
        before = clock.noticeable
        self._pass_to(due)
        return clock.noticeable != before or self._finds_news()

    def _finds_news(self) -> bool:
        """Whether a core that waits would see, if it looked, that something has happened."""
        bus = self._bus
        bus.devices_accessed = False
        return bool(
            bus.memory_changed or self._nvic.waiting or not self._memory.shows(self._polls.loop)
        )

    def _pass_to(self, when: int) -> None:
        """The core does nothing that matters until then; a few cycles less, but not none."""
        self._time.spend(max(1, self._time.cycles_until(when)))

    # --- Loops of one or two instructions --------------------------------------------------------

    def skip_loop(self, start: int, pc: int, limit: int, exits: Collection[int]) -> int:
        """After a slice from `start` to `pc` without any access: where the core goes on.

        A branch to itself turns until the next event.  Of SUBS and BNE all but the last turn is
        known without executing it, unless the core is to stop at one of `exits` between them.
        """
        time, registers = self._time, self._registers
        code = self._memory.fetch(pc, 4)
        first, second = int.from_bytes(code[:2], "little"), int.from_bytes(code[2:], "little")
        cycles = max(0, time.cycles_until(limit))
        if pc == start and first == _BRANCH_TO_SELF:
            time.spend(max(1, cycles))
        elif first == _TURN_AGAIN:
            if not registers.xpsr & _ZERO:
                time.execute(1)
                return pc - 2  # where the next slice, whose length is even, begins and may end
        elif (
            second == _TURN_AGAIN
            and first & ~_COUNTER == _COUNT_DOWN
            and pc + 2 not in exits
            and not it_state(registers.xpsr)
        ):
            number = (first & _COUNTER) >> 8
            left = registers.general(number)
            turns = min(left - 1, cycles // (2 * CYCLES_PER_INSTRUCTION))
            if turns > 0 and left < 1 << 31:
                registers.set_general(number, left - turns)
                time.execute(2 * turns)
                time.forget_pace()
        return pc
