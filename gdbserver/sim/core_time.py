"""How the core's cycles become time on the board's clock, and how far it runs at a stretch.

Time is an estimate: `CYCLES_PER_INSTRUCTION` for each instruction, and `ACCESS_CYCLES` more
for each access that leaves the core's plain memory.  Unicorn does not say how far it got when
an access is made: accesses are taken to be as far apart as those of the slice before, and what
is left of a slice takes its time at the end, so that a slice which runs to its end takes just
what it should.  One that ends early with no access is taken to have got half way.

A slice is short after a start, or after an access that follows upon a long silence, and doubles
while nothing happens: the clock is off by no more than half of what the core did since.  While
accesses are frequent it is long enough for some of them.  (Counted in a load into the NOR, half
of the accesses are less than 25 instructions off.)  The same inputs give the same nanoseconds.

A driver makes hundreds of accesses for each page that it programs.  What one of them takes is
the same as long as a slice goes on at its pace.  So `access_quietly` lets just that pass, where
nothing happens meanwhile, and the rest is done for all of them later.
"""

from __future__ import annotations

from gdbserver.sim.clock import SECOND, Clock

CYCLES_PER_INSTRUCTION = 1
"""A round figure: a Cortex-M7 issues up to two a cycle, and waits for flash and branches."""

ACCESS_CYCLES = 8
"""An access to a peripheral: from the core over AXI and AHB to the slave and back."""

FIRST_SLICE = 64
LONGEST_SLICE = 8192
ACCESSES_A_SLICE = 64
LONGEST_BUSY_SLICE = 1024
"""Of a core that talks to a device: a slice costs the host more than an access, but the first of
them may make an event that is due before the slice ends."""


class CoreTime:
    """The core's cycles and slices, in instructions."""

    def __init__(self, clock: Clock) -> None:
        self.hz = 1  # until the first instruction
        self._room = 0
        """How many accesses more take a `_step`; 0 where the next is one for `access`."""
        self._step = 0
        """Nanoseconds, without what is left of one: that comes with the next `spend`."""
        self._clock = clock
        self._cycles = 0
        self._fraction = 0  # of a nanosecond, in parts of which there are `hz`
        self._left = 0  # instructions of the slice at hand that took no time yet
        self._accesses = 0  # that it has made so far
        self._opened = 0  # `_room`, as it was when `_step_cycles` were worked out
        self._step_instructions = self._step_cycles = self._step_fraction = 0
        self.forget_pace()

    def forget_pace(self) -> None:
        """Nothing is known of what comes next."""
        self.slice = FIRST_SLICE
        self._pace = FIRST_SLICE // 2  # from one access to the next, as the last slice had them

    @property
    def cycles(self) -> int:
        """Of the core's clock, spent running, since power-on."""
        return self._cycles + (self._opened - self._room) * self._step_cycles

    def follow(self, hz: int) -> None:
        """The core's clock is another one from now on."""
        self.close()
        self._fraction = self._fraction * hz // self.hz
        self.hz = hz

    def cycles_until(self, when: int) -> int:
        return (when - self._clock.now) * self.hz // SECOND

    def spend(self, cycles: int) -> None:
        """The core is busy for so many cycles of its clock."""
        if self._opened:
            self.close()
        self._cycles += cycles
        spent, self._fraction = divmod(cycles * SECOND + self._fraction, self.hz)
        clock = self._clock
        now = clock.now + spent
        if now < clock.quiet_until:
            clock.now = now
        else:
            clock.advance_to(now)

    def execute(self, instructions: int) -> None:
        self.spend(instructions * CYCLES_PER_INSTRUCTION)

    # --- A slice --------------------------------------------------------------------------------

    def begin(self, instructions: int, *, quietly: bool = True) -> None:
        """A slice of so many; without `quietly` its first access is one for `access`."""
        self.close()
        self._left = instructions
        self._accesses = 0
        if quietly:
            self._open()

    def access(self) -> None:
        """The core makes one, at its pace."""
        self.close()
        self._accesses += 1
        instructions = min(self._pace, self._left)
        self._left -= instructions
        self.spend(ACCESS_CYCLES + instructions * CYCLES_PER_INSTRUCTION)
        self._open()

    def access_quietly(self) -> bool:
        """The same where nothing happens meanwhile, in a moment; False, and nothing done, else."""
        clock = self._clock
        if self._room and (now := clock.now + self._step) < clock.quiet_until:
            clock.now = now
            self._room -= 1
            return True
        return False

    def access_again(self) -> None:
        """It makes one that took its time already."""
        self.close()
        self._accesses += 1
        self._open()

    @property
    def out_of_step(self) -> bool:
        """Whether the pace is that of a silence which is over, so that the slice should be."""
        return self._pace > FIRST_SLICE

    def finish_instruction(self) -> None:
        """Of the slice at hand there is no more than the rest of an instruction."""
        self.close()
        self._left = 0

    def end(self, instructions: int) -> bool:
        """The slice went to its end; whether it made no access at all."""
        self.close()
        self.execute(self._left)
        if not self._accesses:
            self._pace = instructions
            self.slice = min(2 * self.slice, LONGEST_SLICE)
            return True
        if instructions >= FIRST_SLICE:
            self._pace = instructions // (self._accesses + 1)
            length = min(ACCESSES_A_SLICE * self._pace, LONGEST_BUSY_SLICE)
            self.slice = max(FIRST_SLICE, length)
        return False

    def break_off(self, instructions: int) -> None:
        """The slice ended before its end."""
        self.close()
        self.execute(0 if self._accesses else max(1, instructions // 2))
        if self.out_of_step or not self._accesses:
            self.forget_pace()

    def _open(self) -> None:
        """Make room for quiet accesses, at the pace of the slice."""
        if self.out_of_step:
            return
        pace = self._pace if self._left else 0
        if pace > self._left:
            return
        self._step_instructions = pace
        self._step_cycles = ACCESS_CYCLES + pace * CYCLES_PER_INSTRUCTION
        self._step, self._step_fraction = divmod(self._step_cycles * SECOND, self.hz)
        self._room = self._opened = self._left // pace if pace else LONGEST_SLICE

    def close(self) -> None:
        """Account for quiet accesses; the next one is not."""
        made = self._opened - self._room
        self._opened = self._room = 0
        if made:
            self._accesses += made
            self._left -= made * self._step_instructions
            self._cycles += made * self._step_cycles
            self._fraction += made * self._step_fraction
