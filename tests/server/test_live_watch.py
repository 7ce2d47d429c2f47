"""A second client that watches variables all the time, as live-watch panes do."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from dialogue import board_of, connected, lent, open_machine, symbols

from gdbserver.chip.stm32h743 import DTCM
from gdbserver.rsp.packets import frame
from gdbserver.server.control import Control

VARIABLES, HERTZ = 10, 10


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_ten_variables_ten_times_a_second_take_little_of_the_links_time(
    link: str, drills_elf: Path
) -> None:
    machine = open_machine(f"sim:{link}", elf=drills_elf)
    machine.target.resume()  # what runs cannot be remembered: each look goes to the chip
    before = machine.target.monotonic()
    for number in range(VARIABLES):
        machine.target.read_memory(DTCM.start + 64 * number, 4)
    spent = machine.target.monotonic() - before
    machine.target.close()
    assert 0 < spent * HERTZ < 0.06, "of each second"


def test_watching_neither_halts_the_core_nor_stops_the_debugger(drills_elf: Path) -> None:
    machine = open_machine(elf=drills_elf)
    names = symbols(drills_elf)

    async def story() -> None:
        control, watched = Control(), trio.Event()
        async with (
            lent(machine) as workers,
            connected(workers, control, "debugger") as debugger,
            connected(workers, control, "watcher") as watcher,
        ):
            counts = []

            async def watch() -> None:
                for _ in range(5 * VARIABLES):
                    reply = await watcher.ask(b"m%x,4" % names["counter"])
                    assert reply is not None
                    counts.append(int.from_bytes(bytes.fromhex(reply.decode()), "little"))
                watched.set()

            assert await debugger.ask(b"?")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                while not watched.is_set():
                    await debugger.send(b"c")
                    await debugger.interrupt()
                    assert (await debugger.hear() or b"").startswith(b"T02")
                    assert (await debugger.ask(b"s") or b"").startswith(b"T05")
            assert counts == sorted(counts)
            assert counts[0] < counts[-1]
            assert board_of(machine).core.halted, "as the debugger left it"

    trio.run(story)


def test_a_stop_is_told_to_a_client_that_never_stops_asking(drills_elf: Path) -> None:
    machine = open_machine(elf=drills_elf)
    names = symbols(drills_elf)

    async def story() -> None:
        async with lent(machine) as workers, connected(workers) as client:
            await client.ask(b"QNonStop:1")
            assert (await client.ask(b"?") or b"").startswith(b"T")
            assert await client.ask(b"Z1,%x,2" % names["main"]) == b"OK"
            assert await client.ask(b"vStopped") == b"OK"
            questions = [b"vCont;c"] + [b"m%x,4" % names["counter"]] * 300
            await client.stream.send_all(b"".join(map(frame, questions)))
            heard = [await client.hear() or b"" for _ in questions]
            assert any(reply.startswith(b"%Stop:T05") for reply in heard)

    trio.run(story)


@pytest.mark.parametrize("halt", [b"vCont;t:1", b"qRcmd," + b"reset halt".hex().encode()])
def test_a_core_that_was_made_to_halt_is_told_of_before_the_next_answer(
    drills_elf: Path, halt: bytes
) -> None:
    """GDB connects to a running program like that, and is asked to go on in the same breath."""
    machine = open_machine(elf=drills_elf)

    async def story() -> None:
        async with lent(machine) as workers, connected(workers) as client:
            await client.ask(b"QNonStop:1")
            await client.ask(b"?")
            await client.ask(b"vStopped")
            await client.stream.send_all(b"".join(map(frame, [b"vCont;c", halt, b"qAttached"])))
            heard = [await client.hear() or b""]
            while heard[-1] != b"1":
                heard.append(await client.hear() or b"")
            assert heard[-2].startswith(b"%Stop:T0")

    trio.run(story)


def test_a_step_is_told_before_what_the_client_asks_for_next(drills_elf: Path) -> None:
    """GDB 13 does not start the next run of a program that it kills in the middle of a step."""
    machine = open_machine(elf=drills_elf)

    async def story() -> None:
        async with lent(machine) as workers, connected(workers) as client:
            await client.ask(b"QNonStop:1")
            assert (await client.ask(b"?") or b"").startswith(b"T")
            for then in (b"vStopped", b"vKill;1"):
                await client.stream.send_all(frame(b"vCont;s:1") + frame(then))
                assert await client.hear() == b"OK"
                assert (await client.hear() or b"").startswith(b"%Stop:T05")
                assert await client.hear() == b"OK"

    trio.run(story)
