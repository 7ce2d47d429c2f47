"""What is known already is answered without a thread and without the link; nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from gdbserver.chip.cortex_m import CPUID
from gdbserver.chip.stm32h743 import DTCM
from gdbserver.server.worker import TargetWorker, WorkerThread
from gdbserver.target.link import NeedsLink
from gdbserver.target.target import Target

WORDS = DTCM.start, 64


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target.open("sim:ideal")
    try:
        yield target
    finally:
        target.close()


def view(target: Target) -> str:
    """Look at memory, and say which thread did so."""
    target.view_memory(*WORDS)
    return threading.current_thread().name


def test_what_is_known_is_told_without_a_thread_and_a_transaction(target: Target) -> None:
    async def main() -> list[str]:
        worker = TargetWorker(target, WorkerThread())
        seldom = await worker.ask(view)
        before = target.link.probe.counters.transactions
        often = {await worker.ask(view) for _ in range(5)}
        assert target.link.probe.counters.transactions == before
        return [seldom, *often]

    assert trio.run(main) == ["machine", "MainThread"]


def test_a_write_makes_the_next_look_go_to_the_chip(target: Target) -> None:
    async def main() -> bytes:
        worker = TargetWorker(target, WorkerThread())
        await worker.ask(Target.view_memory, *WORDS)
        await worker.call(Target.write_memory, DTCM.start, b"new!")
        assert await worker.ask(view) == "machine"
        return await worker.ask(Target.view_memory, DTCM.start, 4)

    assert trio.run(main) == b"new!"


@pytest.mark.timeout(20)
def test_a_look_waits_while_somebody_is_at_work(target: Target) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def work(_: Target) -> None:
        at_work.set()
        go_on.wait()

    async def main() -> list[str]:
        worker = TargetWorker(target, WorkerThread())
        await worker.ask(view)
        told: list[str] = []

        async def look() -> None:
            told.append(await worker.ask(view))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, work)
            await trio.to_thread.run_sync(at_work.wait)
            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            assert told == []
            go_on.set()
        return told

    assert trio.run(main) == ["machine"]


@pytest.mark.parametrize(
    "reach",
    [
        lambda target: target.read_word(CPUID),
        lambda target: target.write_word(DTCM.start, 1),
        lambda target: target.resume(),
        lambda target: target.link.read_dp(0),
        lambda target: target.stream(DTCM.start, bytes(4)),
    ],
    ids=["read", "write", "resume", "debug port", "stream"],
)
def test_nothing_goes_over_a_link_that_refuses(
    target: Target, reach: Callable[[Target], object]
) -> None:
    before = target.link.probe.counters.transactions
    with pytest.raises(NeedsLink), target.link.unreached:
        reach(target)
    assert target.link.probe.counters.transactions == before
    reach(target)
