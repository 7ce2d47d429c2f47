"""Who waits is recognised: by looking again and again, and finding nothing new."""

from __future__ import annotations

from gdbserver.sim.polling import REPEATS, AccessKind, PollDetector


def test_a_register_that_stays_the_same_is_waited_for_at_the_last_of_many_looks() -> None:
    polls = PollDetector()
    looks = [polls.sees(0x40000000, 5, AccessKind.LOOK) for _ in range(REPEATS + 1)]
    assert looks == [False] * REPEATS + [True]


def test_who_was_interrupted_while_it_waited_waits_at_the_next_look() -> None:
    polls = PollDetector()
    while not polls.sees(0x40000000, 5, AccessKind.LOOK):
        pass
    polls.interrupted()
    assert polls.sees(0x40000000, 5, AccessKind.LOOK)
    assert not polls.sees(0x40000000, 5, AccessKind.LOOK)  # something happened in between


def test_a_new_value_or_an_effect_ends_the_wait() -> None:
    for address, value, kind in ((0x40000000, 6, AccessKind.LOOK), (0, 0, AccessKind.ACT)):
        polls = PollDetector()
        while not polls.sees(0x40000000, 5, AccessKind.LOOK):
            pass
        polls.interrupted()
        assert not polls.sees(address, value, kind)
        assert not polls.sees(0x40000000, 5, AccessKind.LOOK)
