"""Who waits is recognised: by looking again and again, and finding nothing new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gdbserver.sim.polling import REPEATS, AccessKind, PollDetector

SR = 0x40000000
HERE, THERE = 0x08000100, 0x08000200


class Program:
    """What a core does, access by access, and where."""

    def __init__(self) -> None:
        self.place = HERE
        self.polls = PollDetector(lambda: self.place)

    def looks(self, value: int, *, at: int = HERE, address: int = SR) -> bool:
        self.place = at
        return self.polls.sees(address, value, AccessKind.LOOK)

    def waits(self, value: int, *, at: int = HERE) -> int:
        """Look until time is skipped; how often that was."""
        looks = 1
        while not self.looks(value, at=at):
            looks += 1
        return looks

    def acts(self) -> None:
        self.polls.sees(SR + 4, 0, AccessKind.ACT)


@pytest.fixture
def program() -> Iterator[Program]:
    return Program()


def test_a_register_that_stays_the_same_is_waited_for_at_the_last_of_many_looks(
    program: Program,
) -> None:
    assert program.waits(5) == REPEATS + 1


def test_who_was_interrupted_while_it_waited_waits_at_the_next_look(program: Program) -> None:
    program.waits(5)
    program.polls.interrupted()
    assert program.looks(5)
    assert not program.looks(5)  # something happened in between


def test_a_new_value_or_an_effect_ends_the_wait() -> None:
    for address, value, kind in ((SR, 6, AccessKind.LOOK), (0, 0, AccessKind.ACT)):
        program = Program()
        program.waits(5)
        program.polls.interrupted()
        assert not program.polls.sees(address, value, kind)
        assert not program.looks(5)


def test_who_is_in_doubt_looks_as_often_as_at_first(program: Program) -> None:
    program.waits(5)
    program.polls.doubt()
    assert program.waits(5) == REPEATS
    program.polls.doubt()
    program.looks(6)  # news, after all: it did wait
    program.acts()
    assert program.waits(5) == 3
    program.polls.doubt()
    assert program.waits(5) == 2


def test_a_loop_that_did_wait_is_believed_after_one_turn_the_next_time(program: Program) -> None:
    program.waits(5)
    program.looks(6)
    program.acts()
    assert program.waits(5) == 3
    program.acts()
    assert program.waits(7) == 3


def test_a_loop_that_looks_often_and_finds_no_news_is_not_believed(program: Program) -> None:
    program.waits(5)
    program.acts()
    assert program.waits(5) == REPEATS + 1


def test_only_the_loop_that_did_wait_is_believed(program: Program) -> None:
    program.waits(5)
    program.looks(6)
    program.acts()
    assert program.waits(5, at=THERE) == REPEATS + 1


def test_two_places_that_look_in_turns_are_no_loop_that_is_known(program: Program) -> None:
    program.waits(5)
    program.looks(6)
    program.acts()
    turns = [program.looks(5, at=at) for at in (HERE, THERE) * 4]
    assert not any(turns)


def test_another_program_is_not_known(program: Program) -> None:
    program.waits(5)
    program.looks(6)
    program.polls.forget_places()
    assert program.waits(5) == REPEATS + 1
