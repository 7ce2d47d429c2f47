"""The one bridge from async code to the blocking machine.

pyOCD blocks, and a probe takes one transaction at a time.  So one object owns the machine and
lends out the *methods* of its parts, never the parts: async code names what it wants,
``await workers.target.call(Target.read_memory, address, length)``, and cannot touch the target
from the event loop, nor twice at once, because it never has it.

One thing needs neither thread nor probe: to look at what is known already, while nobody is at work
(`TargetWorker.ask`).  It is most of what a client does at a stop, and the way to the thread and
back takes longer than the answer.

A call that has started always finishes.  Cancellation lands between calls, and so never in the
middle of a probe transaction or a flash operation.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import trio

from gdbserver.errors import StillBusy
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer
from gdbserver.target.link import NeedsLink
from gdbserver.target.target import Target

P = ParamSpec("P")
T = TypeVar("T")
PartT = TypeVar("PartT")

# A hop to the thread and back costs as much as a small step does, so take several at a time;
# and this long is nothing to a client that wants to interrupt or to look at memory.
_SLICE = 0.05
# A device that is stopped in its work comes to rest in less, but for a NOR that is erased whole.
_PATIENCE = 1.0
# Most calls are over before the event loop could go to sleep and be woken, so it waits this long
# for any; a probe that answers no more cannot hold it up for longer.
_GLANCE = 0.002


class _Job(Generic[T]):
    """Something to do, and then its result, for a task that waits for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T
        self._error: BaseException | None = None
        self._under_way = Lock()
        self._under_way.acquire()
        self._falling_asleep = Lock()
        self._wake: Callable[[], None] | None = None

    def do(self) -> None:
        """In the worker's thread."""
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        with self._falling_asleep:
            self._under_way.release()
            if self._wake is not None:
                self._wake()

    def is_over_soon(self) -> bool:
        return self._under_way.acquire(timeout=_GLANCE)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result

    async def over(self) -> None:
        """It is not cancelled: what was given is done."""
        with self._falling_asleep:
            if not self._under_way.locked():
                return
            task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
            self._wake = partial(token.run_sync_soon, trio.lowlevel.reschedule, task)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


class WorkerThread:
    """The one thread that touches the machine: what it is given it does, in that order.

    A thread that stays, and for which the event loop waits a moment before it turns to others,
    takes half as long as `trio.to_thread`; a client that asks for one word after the other
    notices.
    """

    def __init__(self) -> None:
        self.jobs_to_do = 0
        self._endings: list[float] = []
        """When jobs began to come to their ends that have not come to them yet, oldest first."""
        self._ended = trio.Event()
        """The next of them has come to its end."""
        self._breath = time.monotonic()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="machine", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[], T]) -> T:
        """Raises: StillBusy, where it would have to wait for what nobody wants any more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._endings:
            with trio.move_on_at(self._endings[0] + _PATIENCE) as patience:
                await self._ended.wait()
            if patience.cancelled_caught:
                raise StillBusy
        return await self._do(work)

    async def end(self, close: Callable[[], None]) -> None:
        """Close a job: others wait a moment for that, and then do without an answer."""
        begun = trio.current_time()
        self._endings.append(begun)
        try:
            with trio.CancelScope(shield=True):
                await self._do(close)
        finally:
            self._endings.remove(begun)
            self._ended.set()
            self._ended = trio.Event()

    async def _do(self, work: Callable[[], T]) -> T:
        job = _Job(work)
        self.jobs_to_do += 1
        self._jobs.put(job)
        try:
            if not job.is_over_soon():
                await job.over()
                self._breath = time.monotonic()
            elif time.monotonic() >= self._breath + _SLICE:  # there may be others
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._breath = time.monotonic()
            return job.result()
        finally:
            self.jobs_to_do -= 1

    def stop(self) -> None:
        """There will be no more to do."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.do()
            del job


class Worker(Generic[PartT]):
    """Lends out the methods of one part of the machine."""

    def __init__(self, part: PartT, thread: WorkerThread) -> None:
        self._part = part
        self._thread = thread

    async def call(
        self,
        method: Callable[Concatenate[PartT, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``method(part, *args)`` in a thread, after any call before it."""
        return await self._thread.do(partial(method, self._part, *args, **kwargs))

    async def run_steps(
        self,
        job: Callable[Concatenate[PartT, P], Iterator[T]],
        on_step: Callable[[T], Awaitable[None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Run a generator function a few yields at a time, in a thread.

        In between the event loop breathes, and other clients get their turn: this is where a
        long job can be cancelled, or ended by an exception out of `on_step`.  Either way the
        generator is closed, so its ``with`` and ``finally`` blocks run, in a thread as well.
        """
        steps = job(self._part, *args, **kwargs)
        try:
            while taken := await self.call(lambda _: list(_slice(steps))):
                for step in taken:
                    await on_step(step)
        finally:
            await self._thread.end(steps.close)  # type: ignore[attr-defined]


class TargetWorker(Worker[Target]):
    """Lends out the methods of the target."""

    async def ask(
        self,
        look: Callable[Concatenate[Target, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """`call` for what only looks: where that needs no word over the link, it is done here."""
        if not self._thread.jobs_to_do:
            with suppress(NeedsLink), self._part.link.unreached:
                return look(self._part, *args, **kwargs)
        return await self.call(look, *args, **kwargs)


def _slice(steps: Iterator[T]) -> Iterator[T]:
    end = time.monotonic() + _SLICE
    for step in steps:
        yield step
        if time.monotonic() >= end:
            return


@dataclass(frozen=True, slots=True)
class Workers:
    """The machine as async code sees it: a worker for each part, and one thread for both."""

    target: TargetWorker
    programmer: Worker[Programmer]


@asynccontextmanager
async def owning(open_machine: Callable[[], Machine]) -> AsyncIterator[Workers]:
    """Open the machine, in a thread, and lend it out."""
    async with lending(await trio.to_thread.run_sync(open_machine)) as workers:
        yield workers


@asynccontextmanager
async def lending(machine: Machine) -> AsyncIterator[Workers]:
    """Lend the machine out, and leave its core as it should be, whatever happens."""
    thread = WorkerThread()
    workers = Workers(TargetWorker(machine.target, thread), Worker(machine.programmer, thread))
    try:
        yield workers
    finally:
        with trio.CancelScope(shield=True):
            await thread.do(machine.close)
        thread.stop()
