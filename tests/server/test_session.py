"""Sessions on the simulated board: several clients, and clients that vanish."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from dialogue import board_of, connected, lent, open_machine, symbols

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK1, BANK2, SECTOR
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer
from gdbserver.server.control import Control
from gdbserver.server.worker import Workers
from gdbserver.sim.clock import MILLISECOND
from gdbserver.target.target import Target

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def machine(drills_elf: Path) -> Machine:
    return open_machine(elf=drills_elf)


def with_workers(machine: Machine, story: Callable[[Workers], Awaitable[None]]) -> None:
    async def main() -> None:
        async with lent(machine) as workers:
            await story(workers)

    trio.run(main)


def said(packet: bytes | None) -> bytes:
    """Console output."""
    assert packet is not None
    assert packet[:1] == b"O"
    return bytes.fromhex(packet[1:].decode())


def test_a_second_client_reads_while_the_first_one_runs_the_core(
    machine: Machine, drills_elf: Path
) -> None:
    names = symbols(drills_elf)

    async def story(workers: Workers) -> None:
        control = Control()
        async with (
            connected(workers, control, "first:1") as first,
            connected(workers, control, "second:2") as second,
        ):
            assert await first.ask(b"?") is not None
            await first.send(b"c")
            counts = [await second.ask(b"m%x,4" % names["counter"]) for _ in range(20)]
            assert all(count is not None and len(count) == 8 for count in counts)
            assert not board_of(machine).core.halted
            await first.interrupt()
            assert (await first.hear() or b"")[:3] == b"T02"

    with_workers(machine, story)


def test_a_second_client_is_told_of_a_stop_that_it_does_not_cause(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        control = Control()
        async with (
            connected(workers, control, "first:1") as first,
            connected(workers, control, "second:2") as second,
        ):
            await first.ask(b"?")
            assert (await second.ask(b"?") or b"")[:5] == b"T0507"  # halted: with registers
            await first.send(b"c")
            while board_of(machine).core.halted:
                await trio.testing.wait_all_tasks_blocked()
            # While it runs, only pc is known, by samples, and that code is Thumb code.
            stop = await second.ask(b"?") or b""
            assert re.fullmatch(rb"T050f:[0-9a-f]{6}08;10:00000001;thread:1;", stop)
            registers = await second.ask(b"g") or b""
            assert re.fullmatch(rb"x{120}[0-9a-f]{6}0800000001x{48}", registers)
            assert await second.ask(b"p0") == b"xxxxxxxx"
            assert not board_of(machine).core.halted
            await first.interrupt()
            await first.hear()
            assert b"x" not in (await second.ask(b"g") or b"x")

    with_workers(machine, story)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"c", b"s", b"vCont;c", b"vCont;t", b"vCtrlC", b"G00", b"Pf=00000008", b"M20000000,1:00"),
        *(b"X20000000,1:a", b"Z1,8000000,2", b"z1,8000000,2", b"vFlashErase:8000000,20000"),
        *(b"vFlashWrite:8000000:a", b"vFlashDone", b"vKill;1", b"vRun;", b"vAttach;1"),
    ],
)
def test_a_second_client_may_only_read(machine: Machine, payload: bytes) -> None:
    async def story(workers: Workers) -> None:
        control = Control()
        async with (
            connected(workers, control, "first:1") as first,
            connected(workers, control, "second:2") as second,
        ):
            await first.ask(b"?")
            assert await second.ask(payload) == b"E01"
            await second.ask(b"qSupported:error-message+")
            assert await second.ask(payload) == (
                b"E.the client at first:1 controls the core; this one may only read"
            )
            assert await second.ask(b"D") == b"OK"
            assert board_of(machine).core.halted

    with_workers(machine, story)


def test_a_second_client_hears_from_monitor_why_it_may_not(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        control = Control()
        async with (
            connected(workers, control, "first:1") as first,
            connected(workers, control, "second:2") as second,
        ):
            await first.ask(b"?")
            said = await second.ask(b"qRcmd," + b"reset".hex().encode()) or b""
            assert bytes.fromhex(said[1:].decode()) == (
                b"the client at first:1 controls the core; this one may only read\n"
            )

    with_workers(machine, story)


def test_control_is_free_when_its_holder_has_left(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        control = Control()
        async with connected(workers, control, "second:2") as second:
            async with connected(workers, control, "first:1") as first:
                await first.ask(b"?")
                await second.ask(b"qC")
                assert await second.ask(b"s") == b"E01"
            assert not board_of(machine).core.halted
            assert (await second.ask(b"?") or b"")[:3] == b"T02"
            assert board_of(machine).core.halted

    with_workers(machine, story)


def test_a_client_that_vanishes_leaves_no_breakpoint_and_a_running_core(
    machine: Machine, drills_elf: Path
) -> None:
    names = symbols(drills_elf)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            assert await client.ask(b"Z1,%x,2" % names["step_1"]) == b"OK"
            assert await client.ask(b"Z2,%x,4" % names["counter"]) == b"OK"
        board = board_of(machine)
        assert not board.core.halted
        async with connected(workers) as client:
            assert (await client.ask(b"?") or b"")[:3] == b"T02"
            await client.send(b"c")
            await client.interrupt()
            assert (await client.hear() or b"")[:3] == b"T02"

    with_workers(machine, story)


def test_a_client_that_vanishes_while_the_core_runs_leaves_it_running(
    machine: Machine, drills_elf: Path
) -> None:
    names = symbols(drills_elf)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.ask(b"Z1,%x,2" % names["breakpoint"])
            await client.send(b"c")
            while board_of(machine).core.halted:
                await trio.lowlevel.checkpoint()
        assert not board_of(machine).core.halted

    with_workers(machine, story)


def test_code_that_is_written_while_the_core_runs_is_not_hidden_by_a_cache(
    machine: Machine,
) -> None:
    board = board_of(machine)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            assert await client.ask(b"QNonStop:1") == b"OK"
            await client.ask(b"?")
            ccr = bytes.fromhex((await client.ask(b"me000ed14,4") or b"").decode())
            both = bytes([*ccr[:2], ccr[2] | 3, ccr[3]]).hex().encode()  # IC, DC
            assert await client.ask(b"Me000ed14,4:" + both) == b"OK"
            assert await client.ask(b"vCont;c") == b"OK"
            assert await client.ask(b"M24000000,4:00bffee7") == b"OK"
            assert not board.core.halted
            assert board.scs.caches.stale == []

    with_workers(machine, story)


def test_a_session_can_leave_the_core_halted(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers, leave_halted=True) as client:
            await client.ask(b"?")
        assert board_of(machine).core.halted

    with_workers(machine, story)


def _fill(board: Any) -> None:
    """Both banks full of something that an erase must take away."""
    for bank in (BANK1, BANK2):
        for sector in range(1, 8):
            board.flash.load(bank.start + sector * SECTOR, bytes(SECTOR))


def test_nobody_reads_flash_during_a_download(machine: Machine) -> None:
    _fill(board_of(machine))

    async def story(workers: Workers) -> None:
        control = Control()
        async with (
            connected(workers, control, "first:1") as first,
            connected(workers, control, "second:2") as second,
        ):
            await first.ask(b"?")
            await second.ask(b"qSupported:error-message+")
            assert await first.ask(b"vFlashErase:8000000,200000") == b"OK"
            await first.send(b"vFlashDone")
            while (reply := await second.ask(b"m8000000,4")) != (
                b"E.flash cannot be read during a download"
            ):
                assert len(reply or b"") == 8
            assert len(await second.ask(b"m20000000,4") or b"") == 8
            assert await first.hear() == b"OK"
            assert await second.ask(b"m8000000,4") == b"ffffffff"

    with_workers(machine, story)


def test_a_download_that_fails_is_told_to_gdb_and_to_monitor_why(machine: Machine) -> None:
    board_of(machine).flash.fail_cell(BANK2.start + 0x10)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.ask(b"qSupported:error-message+")
            assert await client.ask(b"vFlashErase:8100000,20000") == b"OK"
            assert await client.ask(b"vFlashWrite:8100000:" + bytes(64)) == b"OK"
            reply = await client.ask(b"vFlashDone") or b""
            assert reply[:2] == b"E."
            said = await client.ask(b"qRcmd," + b"why".hex().encode()) or b""
            assert bytes.fromhex(said[1:].decode()).startswith(b"load: " + reply[2:])
            assert await client.hear() == b"OK"
            # What failed is forgotten; the next download is one of its own.
            assert await client.ask(b"vFlashErase:8000000,20000") == b"OK"
            assert await client.ask(b"vFlashDone") == b"OK"

    with_workers(machine, story)


def test_a_client_that_vanishes_during_a_download_leaves_order(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    board = board_of(machine)
    program = board.flash.contents(Span.of(BANK1.start, 0x400))
    _fill(board)
    halted = (
        "the last download was not finished, so flash holds no whole program: the core stays "
        "halted; load again"
    )

    async def story(workers: Workers) -> None:
        control = Control()
        async with connected(workers, control) as client:
            await client.ask(b"?")
            assert await client.ask(b"vFlashErase:8000000,200000") == b"OK"
            await client.send(b"vFlashDone")
            while not board.flash.erases:
                await trio.lowlevel.checkpoint()
        # A program of which half is gone would do anything.
        assert board.core.halted
        assert caplog.messages[-1] == halted
        # Whoever only looks leaves it like that.
        async with connected(workers, control) as client:
            assert (await client.ask(b"?") or b"")[:1] == b"T"
            assert await client.ask(b"D") == b"OK"
            assert board.core.halted
        assert caplog.messages.count(halted) == 2, "each client once, though this one hung up too"
        # The next one starts from nothing, and what it wants is done.
        async with connected(workers, control) as client:
            assert (await client.ask(b"?") or b"")[:1] == b"T"
            assert await client.ask(b"vFlashErase:8000000,20000") == b"OK"
            assert await client.ask(b"vFlashWrite:8000000:" + program) == b"OK"
            assert await client.ask(b"vFlashDone") == b"OK"
            assert board.flash.contents(Span.of(BANK1.start, len(program))) == program
            assert await client.ask(b"D") == b"OK"
            assert not board.core.halted

    with_workers(machine, story)
    assert "load: the client disconnected in the middle; what was done stays done" in [
        r.message for r in caplog.records
    ]
    erased = sum(board.flash.erases.values())
    assert erased < 17


def test_a_client_that_vanishes_before_its_download_begins_leaves_the_old_program_running(
    machine: Machine,
) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            assert await client.ask(b"vFlashErase:8000000,20000") == b"OK"
            assert await client.ask(b"vFlashWrite:8000000:" + bytes(64)) == b"OK"
        assert not board_of(machine).core.halted

    with_workers(machine, story)


def test_a_download_that_failed_in_the_middle_leaves_the_core_halted_to_the_end(
    machine: Machine,
) -> None:
    board = board_of(machine)
    board.flash.fail_cell(BANK2.start + 0x10)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            assert await client.ask(b"vFlashErase:8100000,20000") == b"OK"
            assert await client.ask(b"vFlashWrite:8100000:" + bytes(64)) == b"OK"
            assert (await client.ask(b"vFlashDone") or b"")[:1] == b"E"
            # One that is refused before anything happens does not make it better.
            assert (await client.ask(b"vFlashErase:20000000,20000") or b"")[:1] == b"E"
            assert await client.ask(b"D") == b"OK"
            assert board.core.halted

    with_workers(machine, story)
    assert machine.target.link.closed
    assert board.core.halted


def test_a_fault_after_detach_is_the_programs_own_affair(
    machine: Machine, drills_elf: Path
) -> None:
    names = symbols(drills_elf)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.ask(b"Z1,%x,2" % names["main"])
            await client.ask(b"c")
            await client.ask(b"M%x,1:04" % names["drill"])
            assert await client.ask(b"D") == b"OK"
            for _ in range(20):
                await client.ask(b"m%x,4" % names["counter"])
            assert not board_of(machine).core.halted
            # It is in its handler, and a debugger that comes back finds it there.
            reply = await client.ask(b"?") or b""
            handler = names["Default_Handler"].to_bytes(4, "little").hex().encode()
            assert reply[:3] == b"T02"
            assert b"0f:" + handler in reply

    with_workers(machine, story)


def test_detach_while_the_core_runs_is_heard(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.send(b"c")
            assert await client.ask(b"D") == b"OK"
            assert not board_of(machine).core.halted

    with_workers(machine, story)


def test_what_is_sent_while_the_core_runs_does_not_disturb_it(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.send(b"c")
            await client.send(b"m20000000,4")
            await client.interrupt()
            assert (await client.hear() or b"")[:3] == b"T02"
            assert len(await client.ask(b"m20000000,4") or b"") == 8

    with_workers(machine, story)


def test_a_packet_that_is_too_long_ends_the_session(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"qC")
            await client.stream.send_all(b"$" + b"0" * 0x20002)

    with_workers(machine, story)
    assert "packet longer than 131072 bytes" in caplog.text


@pytest.mark.parametrize(("greeting", "hears_any"), [(b"?", True), (b"QEnableErrorStrings", False)])
def test_a_long_command_is_accompanied_by_notifications_but_for_lldb(
    machine: Machine, greeting: bytes, hears_any: bool
) -> None:
    go_on = threading.Event()

    async def main() -> None:
        async with (
            lent(machine) as workers,
            connected(workers) as client,
            trio.open_nursery() as nursery,
        ):
            await client.ask(greeting)
            nursery.start_soon(workers.target.call, lambda _: go_on.wait())
            await client.send(b"qCRC:8000000,4")
            received = b""
            with trio.move_on_after(5):
                while b"$C" not in received:
                    received += await client.stream.receive_some()
            go_on.set()
            while b"$C" not in received:
                received += await client.stream.receive_some()
            assert (b"%Busy:" in received) == hears_any

    # This clock jumps to the next deadline whenever all that is left to wait for is a thread.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_unplugged_probe_is_an_answer(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.ask(b"qSupported:error-message+")
            board_of(machine).unplug()
            reply = await client.ask(b"m20000000,4") or b""
            assert reply[:2] == b"E."
            board_of(machine).replug()

    with_workers(machine, story)


def test_a_probe_unplugged_while_the_core_runs_ends_the_wait_and_not_the_server(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(workers: Workers) -> None:
        control = Control()
        async with connected(workers, control) as client:
            await client.ask(b"?")
            await client.send(b"c")
            while board_of(machine).core.halted:
                await trio.lowlevel.checkpoint()
            board_of(machine).unplug()
            assert b"the debug probe stopped working" in said(await client.hear())
            assert await client.hear() == b"X1d"  # SIGLOST
        async with connected(workers, control) as client:
            assert (await client.ask(b"?") or b"")[:1] == b"E"
            assert await client.ask(b"qC") == b"QC1"

    with_workers(machine, story)
    assert "the core could not be released: " in caplog.text


@pytest.mark.parametrize("command", [b"c", b"s"])
def test_who_resumes_a_core_that_cannot_be_reached_is_told_and_has_lost_it(
    machine: Machine, command: bytes
) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            board_of(machine).unplug()
            await client.send(command)
            while (reply := await client.hear() or b"")[:1] == b"O":
                assert b"the debug probe stopped working" in said(reply)
            assert reply == b"X1d"
            board_of(machine).replug()

    with_workers(machine, story)


def test_a_core_that_cannot_be_interrupted_is_lost_and_not_waited_for(machine: Machine) -> None:
    board = board_of(machine)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.send(b"c")
            while board.core.halted:
                await trio.lowlevel.checkpoint()
            board.hold_reset(True, who="button")
            await client.interrupt()
            assert b"the chip is held in reset; hint: NRST is low" in said(await client.hear())
            assert await client.hear() == b"X1d"
            board.hold_reset(False, who="button")
            assert (await client.ask(b"?") or b"")[:1] == b"T"

    with_workers(machine, story)


def test_an_interrupt_that_fails_in_non_stop_mode_ends_no_session(machine: Machine) -> None:
    board = board_of(machine)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            assert await client.ask(b"QNonStop:1") == b"OK"
            await client.ask(b"?")
            assert await client.ask(b"vCont;c") == b"OK"
            board.unplug()
            await client.interrupt()
            assert await client.hear() == b"%Stop:X1d"
            board.replug()
            assert await client.ask(b"qC") == b"QC1"

    with_workers(machine, story)


def test_a_step_that_fails_in_non_stop_mode_does_not_end_the_program(machine: Machine) -> None:
    """Somebody has a finger on the reset button."""
    board = board_of(machine)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            assert await client.ask(b"QNonStop:1") == b"OK"
            await client.ask(b"?")
            board.hold_reset(True, who="button")
            board.clock.advance_to(board.clock.now + 100 * MILLISECOND)  # the last look is old
            assert await client.ask(b"vCont;s:1") == b"OK"
            assert await client.ask(b"qC") == b"QC1"
            board.hold_reset(False, who="button")
            assert (await client.hear() or b"")[:9] == b"%Stop:T05"

    with_workers(machine, story)


def test_a_core_of_which_not_all_is_known_is_lost_when_it_cannot_be_resumed(
    machine: Machine,
) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            assert await client.ask(b"Pd=00010020") == b"OK"  # which stack that is, is forgotten
            board_of(machine).unplug()
            await client.send(b"vCont;r8000000,8000010")
            while (reply := await client.hear() or b"")[:1] == b"O":
                assert b"the debug probe stopped working" in said(reply)
            assert reply == b"X1d"
            board_of(machine).replug()
            assert (await client.ask(b"?") or b"")[:1] == b"T"

    with_workers(machine, story)


@pytest.mark.parametrize("command", [b"c", b"s"])
def test_who_fails_to_resume_a_core_that_stands_hears_that_it_stands(
    machine: Machine, command: bytes
) -> None:
    board = board_of(machine)

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.ask(b"M20000000,4:00000000")  # so the caches are to be looked at
            board.unplug()
            await client.send(command)
            assert b"the debug probe stopped working" in said(await client.hear())
            board.replug()
            assert (await client.hear() or b"")[:3] == b"T05"
            assert board.core.halted

    with_workers(machine, story)


def test_a_core_that_is_out_of_sight_for_a_moment_goes_on_running_for_its_client(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """A glitch on the wire, a plug that sits loosely, or somebody who presses reset."""
    caplog.set_level("DEBUG", "gdbserver.server.running")

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.send(b"c")
            board = board_of(machine)
            while board.core.halted:
                await trio.lowlevel.checkpoint()
            board.unplug()
            with trio.fail_after(10):
                while "the core cannot be seen" not in caplog.text:
                    await trio.lowlevel.checkpoint()
            board.replug()
            await client.interrupt()
            assert (await client.hear() or b"")[:3] == b"T02"

    with_workers(machine, story)


def test_who_comes_when_the_probe_is_back_finds_the_core(machine: Machine) -> None:
    async def story(workers: Workers) -> None:
        control = Control()
        board = board_of(machine)
        async with connected(workers, control) as client:
            assert (await client.ask(b"?") or b"")[:1] == b"T"
            board.unplug()
        async with connected(workers, control) as client:
            assert (await client.ask(b"?") or b"")[:1] == b"E"
        board.replug()
        async with connected(workers, control) as client:
            assert (await client.ask(b"?") or b"")[:1] == b"T"
            assert len(await client.ask(b"m20000000,4") or b"") == 8

    with_workers(machine, story)


class Careless(Target):
    """Its core cannot be let go, for a reason that nobody has foreseen."""

    def resume(self) -> None:
        raise ValueError("a bug")


def test_who_comes_after_a_session_that_a_bug_has_ended_is_served(drills_elf: Path) -> None:
    target = Careless.open("sim:ideal")
    machine = Machine(target, Programmer(target, []))

    async def story(workers: Workers) -> None:
        control = Control()
        for _ in range(2):
            with pytest.raises(ExceptionGroup):
                async with connected(workers, control) as client:
                    assert (await client.ask(b"?") or b"")[:1] == b"T"

    with_workers(machine, story)


@pytest.mark.parametrize("again", [b"c", b"s"])
def test_a_core_that_ran_on_when_it_could_not_be_seen_is_resumed_and_interrupted(
    machine: Machine, again: bytes
) -> None:
    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            await client.ask(b"?")
            await client.send(b"c")
            while board_of(machine).core.halted:
                await trio.lowlevel.checkpoint()
            board_of(machine).unplug()
            assert b"the debug probe stopped working" in said(await client.hear())
            assert await client.hear() == b"X1d"
            board_of(machine).replug()
            await client.send(again)
            if again == b"c":
                await client.interrupt()
            assert (await client.hear() or b"")[:3] == b"T02"
            assert board_of(machine).core.halted

    with_workers(machine, story)


def test_a_download_is_told_with_what_was_done_to_each_device(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gdbserver.server.downloading")

    async def story(workers: Workers) -> None:
        async with connected(workers) as client:
            for value in (b"\x55", b"\xaa"):  # the second has to erase, and to wait for that
                assert await client.ask(b"vFlashErase:8100000,20000") == b"OK"
                assert await client.ask(b"vFlashWrite:8100000:" + value * 64) == b"OK"
                assert await client.ask(b"vFlashDone") == b"OK"

    with_workers(machine, story)
    assert [message for message in caplog.messages if "compared" in message] == [
        "bank 2: compared 131072, programmed 64, verified 131072 bytes",
        "bank 2: compared 131072, erased 131072, programmed 64, verified 131072 bytes",
    ]


def test_connecting_and_leaving_is_told_in_a_line(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gdbserver.server")

    async def story(workers: Workers) -> None:
        async with connected(workers, name="127.0.0.1:4711") as client:
            await client.ask(b"qC")

    with_workers(machine, story)
    assert [r.message for r in caplog.records if r.name == "gdbserver.server.session"] == [
        "Debugger connected (127.0.0.1:4711)",
        "Debugger connection lost. (127.0.0.1:4711)",
    ]
