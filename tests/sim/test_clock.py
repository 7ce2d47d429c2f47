"""Virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gdbserver.sim.clock import Clock


@given(st.lists(st.integers(0, 100)), st.integers(0, 120))
def test_events_happen_in_order_at_their_time(delays: list[int], until: int) -> None:
    clock = Clock()
    happened: list[tuple[int, int]] = []
    for delay in delays:
        clock.after(delay, lambda delay=delay: happened.append((clock.now, delay)))
    clock.advance_to(until)
    assert happened == [(d, d) for d in sorted(delays) if d <= until]
    assert clock.now == until


def test_an_event_may_cause_another_within_the_same_advance() -> None:
    clock = Clock()
    happened: list[int] = []
    clock.after(10, lambda: clock.after(5, lambda: happened.append(clock.now)))
    clock.advance_to(20)
    assert happened == [15]


def test_a_cancelled_event_does_not_happen_and_is_not_next() -> None:
    clock = Clock()
    clock.after(10, lambda: None).cancel()
    assert clock.next_event is None
    clock.after(20, lambda: None)
    assert clock.next_event == 20


def test_time_never_goes_back() -> None:
    clock = Clock()
    clock.advance_to(10)
    clock.advance_to(5)
    assert clock.now == 10


def test_it_is_quiet_up_to_the_next_event_and_no_further_than_somebody_looks() -> None:
    clock = Clock()
    clock.after(50, lambda: None)
    assert clock.look_ahead(30) == clock.quiet_until == 30
    clock.after(10, lambda: None)
    assert clock.quiet_until == 10
    clock.advance_to(20)
    assert clock.quiet_until == 30
    assert clock.look_ahead(80) == clock.quiet_until == 50
