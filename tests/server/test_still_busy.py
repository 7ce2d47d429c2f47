"""Who connects while flash is still at work on what a client wanted that has left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from dialogue import connected, lent, open_machine

from gdbserver.errors import ClientLeft
from gdbserver.flash.programmer import Programmer
from gdbserver.rsp import replies
from gdbserver.server.control import Control


@pytest.mark.timeout(60)
def test_gdb_is_told_at_once_and_served_when_flash_is_idle_again() -> None:
    closing, idle = threading.Event(), threading.Event()

    def mass_erase(_: Programmer) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closing.set()
            idle.wait()

    async def leave(_: int) -> None:
        raise ClientLeft

    async def main() -> None:
        control = Control()
        async with lent(open_machine("sim:ideal")) as workers:

            async def first() -> None:
                await control.enter("gone:1")
                control.depart("gone:1")
                with control.changing_flash("a mass erase"), pytest.raises(ClientLeft):
                    await workers.programmer.run_steps(mass_erase, leave)
                control.leave("gone:1")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(first)
                await trio.to_thread.run_sync(closing.wait)
                with trio.fail_after(2):  # GDB waits no longer for its first answer
                    async with connected(workers, control, "here:2") as gdb:
                        assert await gdb.ask(b"qSupported:error-message+;qRelocInsn+")
                        assert await gdb.ask(b"?") == replies.SOMEWHERE
                        told = await gdb.ask(b"g")
                assert told is not None
                assert b"still at work on what its client no longer wants" in told
                assert b"try again in a while" in told
                idle.set()
            async with connected(workers, control, "here:3") as gdb:
                assert await gdb.ask(b"qSupported:error-message+;qRelocInsn+")
                assert (await gdb.ask(b"?") or b"").startswith(b"T05")
                assert control.holder == "here:3"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.1))
