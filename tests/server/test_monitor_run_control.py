"""What `monitor` commands choose about stops and steps; and that Ctrl-C ends a long one."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from dialogue import Client, connected, lent, open_machine

from gdbserver.chip.cortex_m import DEMCR, VC_ALL_FAULTS, Demcr
from gdbserver.chip.stm32h743 import BANK1, BANK2, SECTOR
from gdbserver.loader.own import builtin
from gdbserver.server import monitor as commands
from gdbserver.server.control import Control
from gdbserver.server.worker import Workers
from gdbserver.sim.board import DEFAULT_PINS
from gdbserver.target.target import Target


def in_session(elf: Path, story: Callable[[Workers, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with lent(open_machine(elf=elf)) as workers, connected(workers, Control()) as client:
            await client.ask(b"?")
            await story(workers, client)

    trio.run(main)


async def monitor(client: Client, line: str) -> tuple[str, bytes]:
    """What it printed, and its reply."""
    await client.send(b"qRcmd," + line.encode().hex().encode())
    return await heard(client)


async def heard(client: Client) -> tuple[str, bytes]:
    said = ""
    while (reply := await client.hear() or b"").startswith(b"O") and reply != b"OK":
        said += bytes.fromhex(reply[1:].decode()).decode()
    return said, reply


async def caught(workers: Workers) -> int:
    return await workers.target.call(Target.read_word, DEMCR) & VC_ALL_FAULTS


def test_what_is_caught_can_be_chosen_outlives_a_reset_and_ends_with_the_client(
    drills_elf: Path,
) -> None:
    async def story(workers: Workers, client: Client) -> None:
        said, _ = await monitor(client, "catch")
        assert said == "caught before their handler runs: hard\n"
        said, _ = await monitor(client, "catch bus nocp")
        assert said == "caught before their handler runs: bus, nocp\n"
        await monitor(client, "reset halt")
        await client.ask(b"?")
        assert await caught(workers) == Demcr.VC_BUSERR | Demcr.VC_NOCPERR
        await monitor(client, "catch none")
        assert await caught(workers) == 0
        said, reply = await monitor(client, "catch everything")
        assert "knows hard, mem, bus" in said
        assert reply.startswith(b"E")
        await monitor(client, "catch all")
        await client.ask(b"D")
        assert await caught(workers) == 0
        await client.ask(b"?")
        assert await caught(workers) == Demcr.VC_HARDERR

    in_session(drills_elf, story)


def test_a_fault_is_told_again_as_often_as_asked(drills_elf: Path) -> None:
    async def story(workers: Workers, client: Client) -> None:
        assert "no fault" in (await monitor(client, "fault"))[0]
        await workers.target.call(Target.write_registers, {"pc": 0x70000000})
        await client.send(b"c")
        first, stop = await heard(client)
        assert stop.startswith(b"T")
        assert "fault" in first
        for _ in range(2):
            assert (await monitor(client, "fault"))[0] == first

    in_session(drills_elf, story)


def test_interrupts_come_in_while_stepping_if_asked_to(drills_elf: Path) -> None:
    async def story(workers: Workers, client: Client) -> None:
        await workers.target.call(Target.write_word, 0xE000ED04, 1 << 26)  # ICSR.PENDSTSET
        await client.ask(b"s")
        assert (await workers.target.call(Target.read_registers, ["xpsr"]))["xpsr"] & 0x1FF == 0
        await monitor(client, "step interrupts on")
        await client.ask(b"s")
        assert (await workers.target.call(Target.read_registers, ["xpsr"]))["xpsr"] & 0x1FF == 15
        assert (await monitor(client, "step interrupts maybe"))[1].startswith(b"E")

    in_session(drills_elf, story)


def test_ctrl_c_ends_a_mass_erase_between_two_steps_and_says_so(drills_elf: Path) -> None:
    async def story(workers: Workers, client: Client) -> None:
        await client.send_and_interrupt(b"qRcmd," + b"flash mass_erase internal".hex().encode())
        said, reply = await heard(client)
        assert re.search(
            r"interrupted; erased: (none|bank [12]); in part, or not: bank [12](, bank 2)?\n", said
        )
        assert "mass erase complete" not in said
        assert reply.startswith(b"E")
        assert (await monitor(client, "fault"))[1] == b"OK", "and the session goes on"

    in_session(drills_elf, story)


def test_a_sector_with_flash_words_that_cannot_be_read_is_repaired(drills_elf: Path) -> None:
    start = BANK2.start
    contents = bytes(range(1, 256)) * 300

    async def story(workers: Workers, client: Client) -> None:
        flash: Any = await workers.target.call(lambda target: target.link.probe.board.flash)
        flash.load(start, contents)
        flash.flip_bits(start + 0x1000, 3)
        flash.flip_bits(start + 0x1024, 3)
        said, reply = await monitor(client, f"flash repair {start + 0x1004:#x}")
        assert reply == b"OK", said
        assert said == (
            "lost, and blank now: 0x08101000-0x0810103f\n"
            "all else in 0x08100000-0x0811ffff is as it was\n"
        )
        expected = bytearray(contents.ljust(SECTOR, b"\xff"))
        expected[0x1000:0x1040] = b"\xff" * 64
        assert await workers.target.call(Target.read_memory, start, SECTOR) == expected
        said, _ = await monitor(client, f"flash repair {start:#x}")
        assert "nothing was changed" in said
        said, reply = await monitor(client, "flash repair 0x20000000")
        assert "0x20000000-0x20000000 is not in flash" in said
        assert reply.startswith(b"E")

    in_session(drills_elf, story)


def test_ctrl_c_ends_a_mass_erase_of_the_nor_and_internal_flash_is_as_it_was(
    drills_elf: Path,
) -> None:
    async def main() -> None:
        machine = open_machine(elf=drills_elf, loaders=[builtin(DEFAULT_PINS)])
        async with lent(machine) as workers, connected(workers) as client:
            board: Any = await workers.target.call(lambda target: target.link.probe.board)
            before = board.flash.contents(BANK1)
            await client.ask(b"?")
            await client.send_and_interrupt(b"qRcmd," + b"flash mass_erase external".hex().encode())
            said, reply = await heard(client)
            assert said.endswith("interrupted; erased: none; in part, or not: qspi\n")
            assert reply.startswith(b"E")
            assert board.flash.contents(BANK1) == before
            assert (await monitor(client, "flash mass_erase external"))[1] == b"OK"

    trio.run(main)


def test_ctrl_c_ends_a_repair_before_it_erases_or_when_all_is_put_back(drills_elf: Path) -> None:
    start = BANK2.start
    contents = bytes(range(1, 256)) * 300

    async def story(workers: Workers, client: Client) -> None:
        flash: Any = await workers.target.call(lambda target: target.link.probe.board.flash)
        flash.load(start, contents)
        flash.flip_bits(start + 0x1000, 3)
        await client.send_and_interrupt(
            b"qRcmd," + f"flash repair {start:#x}".encode().hex().encode()
        )
        said, reply = await heard(client)
        assert reply.startswith(b"E")
        assert said.startswith("interrupted; ") == ("nothing was changed" in said)
        if "nothing was changed" in said:
            assert (await monitor(client, f"flash repair {start:#x}"))[1] == b"OK"
        else:
            assert "but the sector was erased by then, so its repair was finished" in said
        expected = bytearray(contents.ljust(SECTOR, b"\xff"))
        expected[0x1000:0x1020] = b"\xff" * 32
        assert await workers.target.call(Target.read_memory, start, SECTOR) == expected

    in_session(drills_elf, story)


def test_sleep_takes_its_time_and_no_more_than_a_minute_and_ends_with_an_interrupt(
    drills_elf: Path,
) -> None:
    async def main() -> None:
        async with lent(open_machine(elf=drills_elf)) as workers, connected(workers) as client:
            begun = trio.current_time()
            assert await monitor(client, "sleep 1230") == ("", b"OK")
            assert trio.current_time() - begun >= 1.23
            said, reply = await monitor(client, "sleep 60001")
            assert said == "monitor sleep takes 60000 ms at most, not 60001\n"
            assert reply.startswith(b"E")
            await client.send_and_interrupt(b"qRcmd," + b"sleep 60000".hex().encode())
            said, reply = await heard(client)
            assert re.fullmatch(r"interrupted; slept for \d+ of 60000 ms\n", said)
            assert reply.startswith(b"E")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_script_for_another_server_is_not_ended_by_what_need_not_be_said_here(
    drills_elf: Path,
) -> None:
    async def story(workers: Workers, client: Client) -> None:
        for name in commands.OTHER_SERVERS:
            said, reply = await monitor(client, f"{name} = 1")
            if commands.OTHER_SERVERS[name] is commands.COMMANDS["reset"]:
                said, reply = await monitor(client, name)
                assert said == "reset; the core is halted at its first instruction\n"
            assert said.endswith("\n"), name
            assert reply == b"OK", name
        assert await monitor(client, "reset 2") == await monitor(client, "reset")

    in_session(drills_elf, story)


@pytest.mark.parametrize("name", ["semihosting", "arm semihosting"])
def test_semihosting_is_switched_in_the_words_of_each_server(drills_elf: Path, name: str) -> None:
    async def story(workers: Workers, client: Client) -> None:
        said, _ = await monitor(client, f"{name} disable")
        assert said == "semihosting is off: a BKPT 0xAB stops the program\n"
        said, _ = await monitor(client, f"{name} enable")
        assert said.startswith("semihosting is on; ")

    in_session(drills_elf, story)


def test_why_is_answered_also_when_the_core_cannot_be_asked(drills_elf: Path) -> None:
    async def story(workers: Workers, client: Client) -> None:
        await client.send(b"c")
        board = await workers.target.call(lambda target: target.link.probe.board)
        while board.core.halted:
            await trio.lowlevel.checkpoint()
        board.unplug()
        assert (await client.hear() or b"")[:1] == b"O"
        assert await client.hear() == b"X1d"
        said, reply = await monitor(client, "why")
        board.replug()
        assert reply == b"OK"
        assert said.startswith("continue: the debug probe stopped working\n")
        assert "core: the debug probe stopped working\n" in said

    in_session(drills_elf, story)
