from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from gdbserver.errors import ClientLeft, StillBusy
from gdbserver.server.worker import Worker, WorkerThread


class Tape:
    """A part of a machine that notes what is done to it."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)

    def job(self, count: int) -> Iterator[int]:
        try:
            for number in range(1, count + 1):
                self.note(f"step {number}")
                yield number
        finally:
            self.note("closed")


def lend(tape: Tape) -> Worker[Tape]:
    return Worker(tape, WorkerThread())


async def nothing(step: int) -> None:
    pass


def test_a_call_returns_what_the_method_returns() -> None:
    tape = Tape()
    assert trio.run(lend(tape).call, Tape.note, "hello") == 1
    assert tape.notes == ["hello"]


async def abandon(worker: Worker[Tape], job: Callable[[Tape], Iterator[int]]) -> None:
    """Begin a job for a client that leaves at its first step."""

    async def leave(_: int) -> None:
        raise ClientLeft

    with pytest.raises(ClientLeft):
        await worker.run_steps(job, leave)


def test_who_comes_while_an_abandoned_job_cannot_be_stopped_is_told_so() -> None:
    tape = Tape()
    closing, go_on = threading.Event(), threading.Event()

    def job(tape: Tape) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closing.set()
            go_on.wait()

    async def main() -> None:
        worker = lend(tape)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(abandon, worker, job)
            await trio.to_thread.run_sync(closing.wait)
            begun = trio.current_time()
            with pytest.raises(StillBusy):
                await worker.call(Tape.note, "it may be over in a moment")
            assert trio.current_time() - begun <= 1
            with pytest.raises(StillBusy):
                await worker.call(Tape.note, "too late")
            go_on.set()
        await worker.call(Tape.note, "served again")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.1))
    assert tape.notes == ["served again"]


def test_who_comes_while_an_abandoned_job_is_stopped_in_a_moment_is_served() -> None:
    tape = Tape()
    closing, go_on = threading.Event(), threading.Event()

    def job(tape: Tape) -> Iterator[int]:
        try:
            yield 1
        finally:
            closing.set()
            go_on.wait()

    async def main() -> None:
        worker = lend(tape)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(abandon, worker, job)
            await trio.to_thread.run_sync(closing.wait)
            nursery.start_soon(worker.call, Tape.note, "served")
            await trio.testing.wait_all_tasks_blocked()
            assert not tape.notes
            go_on.set()

    trio.run(main)
    assert tape.notes == ["served"]


def test_a_call_that_has_started_finishes_though_it_is_cancelled() -> None:
    tape = Tape()
    started, go_on = threading.Event(), threading.Event()

    def slow(tape: Tape) -> None:
        started.set()
        go_on.wait()
        tape.note("finished")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lend(tape).call, slow)
            await trio.to_thread.run_sync(started.wait)
            nursery.cancel_scope.cancel()
            go_on.set()

    trio.run(main)
    assert tape.notes == ["finished"]


def test_calls_do_not_overlap() -> None:
    tape = Tape()
    inside = threading.Lock()

    def exclusive(tape: Tape, text: str) -> None:
        assert inside.acquire(blocking=False)
        tape.note(text)
        inside.release()

    async def main() -> None:
        worker = lend(tape)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(worker.call, exclusive, str(number))

    trio.run(main)
    assert len(tape.notes) == 20


def test_a_job_that_is_done_is_closed() -> None:
    tape = Tape()
    seen: list[int] = []

    async def on_step(step: int) -> None:
        seen.append(step)

    async def main() -> None:
        await lend(tape).run_steps(Tape.job, on_step, 3)

    trio.run(main)
    assert seen == [1, 2, 3]
    assert tape.notes[-1] == "closed"


def test_a_job_without_steps_is_a_job() -> None:
    async def main() -> None:
        await lend(Tape()).run_steps(Tape.job, nothing, 0)

    trio.run(main)


@pytest.mark.timeout(20)
def test_a_job_that_is_cancelled_is_closed() -> None:
    tape = Tape()

    async def main() -> None:
        with trio.CancelScope() as scope:

            async def cancel(step: int) -> None:
                scope.cancel()
                await trio.lowlevel.checkpoint()

            await lend(tape).run_steps(Tape.job, cancel, 1 << 60)

    trio.run(main)
    assert tape.notes[-1] == "closed"


def test_a_job_whose_watcher_objects_is_closed() -> None:
    tape = Tape()

    async def object_to(step: int) -> None:
        raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            await lend(tape).run_steps(Tape.job, object_to, 5)

    trio.run(main)
    assert tape.notes[-1] == "closed"


@pytest.mark.timeout(20)
def test_others_get_their_turn_during_a_job() -> None:
    tape = Tape()

    async def main() -> None:
        worker = lend(tape)
        async with trio.open_nursery() as nursery:

            async def cancel_after_a_call() -> None:
                await worker.call(Tape.note, "other")
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_after_a_call)
            await worker.run_steps(Tape.job, nothing, 1 << 60)

    trio.run(main)
    assert "other" in tape.notes


def test_others_get_their_turn_between_calls_that_take_no_time() -> None:
    tape = Tape()

    async def main() -> None:
        worker = lend(tape)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_note, tape)
            while "other" not in tape.notes and len(tape.notes) < 10_000:
                await worker.call(Tape.note, "quick")

    trio.run(main)
    assert len(tape.notes) < 10_000


async def take_note(tape: Tape) -> None:
    tape.note("other")
