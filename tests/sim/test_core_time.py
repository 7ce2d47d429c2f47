"""The core's cycles, and accesses that are accounted for later."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.sim.clock import Clock
from gdbserver.sim.core_time import CoreTime


class Passing:
    """A core's time; its accesses are `quiet` where they may be."""

    def __init__(self, hz: int, *, quiet: bool) -> None:
        self.clock = Clock()
        self.time = CoreTime(self.clock)
        self.time.follow(hz)
        self._quiet = quiet
        self.quietly = 0

    def slice(self, instructions: int, accesses: int, *, to_its_end: bool) -> None:
        time, clock = self.time, self.clock
        clock.look_ahead(clock.now + 1_000_000_000)
        time.begin(instructions)
        for _ in range(accesses):
            if self._quiet and time.access_quietly():
                self.quietly += 1
            else:
                time.access()
        if to_its_end:
            time.end(instructions)
        else:
            time.break_off(instructions)


SLICES = st.lists(
    st.tuples(st.integers(1, 2000), st.integers(0, 80), st.booleans()), min_size=1, max_size=12
)


@given(slices=SLICES, hz=st.sampled_from([4_000_000, 64_000_000, 480_000_000]))
@settings(max_examples=60)
def test_quiet_accesses_take_what_others_take(slices: list[tuple[int, int, bool]], hz: int) -> None:
    quiet, other = Passing(hz, quiet=True), Passing(hz, quiet=False)
    for instructions, accesses, to_its_end in slices:
        for passing in (quiet, other):
            passing.slice(instructions, accesses, to_its_end=to_its_end)
        assert quiet.time.cycles == other.time.cycles
        assert quiet.time.slice == other.time.slice
        assert quiet.clock.now == other.clock.now


def test_a_core_that_keeps_its_pace_makes_most_accesses_quietly() -> None:
    passing = Passing(200_000_000, quiet=True)
    for _ in range(10):
        passing.slice(704, 64, to_its_end=True)
    assert passing.quietly > 500


def test_after_a_silence_no_access_is_quiet() -> None:
    passing = Passing(200_000_000, quiet=True)
    passing.slice(8192, 0, to_its_end=True)
    assert passing.time.out_of_step
    passing.slice(64, 5, to_its_end=False)
    assert passing.quietly == 0


def test_time_that_was_passed_at_another_frequency_stays_as_it_is() -> None:
    passing = Passing(480_000_000, quiet=True)
    passing.time.spend(1)
    passing.time.follow(64_000_000)
    passing.time.spend(64)
    assert passing.clock.now == 1000 + 2
    assert passing.time.cycles == 65
