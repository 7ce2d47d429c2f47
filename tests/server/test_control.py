from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from gdbserver.errors import BadRequest, NotInControl
from gdbserver.server import monitor
from gdbserver.server.control import Control


def in_time(story: Callable[[Control], Awaitable[None]]) -> None:
    """Waiting takes no time."""
    trio.run(story, Control(), clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_first_client_controls_and_the_second_is_told_who_does() -> None:
    async def story(control: Control) -> None:
        await control.enter("a:1")
        await control.enter("b:2")
        control.check("a:1")
        with pytest.raises(NotInControl, match=r"^the client at a:1 controls the core; this one"):
            control.check("b:2")

    in_time(story)


def test_control_that_is_free_goes_to_who_asks() -> None:
    async def story(control: Control) -> None:
        await control.enter("a:1")
        await control.enter("b:2")
        control.leave("a:1")
        assert control.holder is None
        control.check("b:2")
        assert control.holder == "b:2"

    in_time(story)


def test_a_reader_that_leaves_changes_nothing() -> None:
    async def story(control: Control) -> None:
        await control.enter("a:1")
        await control.enter("b:2")
        control.leave("b:2")
        assert control.holder == "a:1"
        assert control.clients == ["a:1"]

    in_time(story)


def test_a_client_that_comes_back_at_once_waits_for_its_old_connection_to_end() -> None:
    async def story(control: Control) -> None:
        await control.enter("a:1")
        control.depart("a:1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.enter, "a:2")
            await trio.sleep(10)
            assert control.holder == "a:1"
            control.leave("a:1")
        assert control.holder == "a:2"
        assert control.clients == ["a:2"]

    in_time(story)


def test_who_comes_while_a_device_cannot_be_stopped_is_let_in_before_gdb_gives_up() -> None:
    async def story(control: Control) -> None:
        await control.enter("a:1")
        with control.changing_flash("a mass erase"):
            control.depart("a:1")
            with trio.fail_after(1.5):
                await control.enter("a:2")
            with pytest.raises(NotInControl):
                control.check("a:2")
        control.leave("a:1")
        control.check("a:2")
        assert control.holder == "a:2"

    in_time(story)


def test_each_kind_of_failure_is_remembered_newest_first() -> None:
    control = Control()
    for action, text in [("FlashDone", "x"), ("SetPoint", "y"), ("FlashDone", "z")]:
        control.remember(action, BadRequest(text))
    assert list(control.failures()) == [("FlashDone", ["z"]), ("SetPoint", ["y"])]


@pytest.mark.parametrize(
    ("line", "name", "arguments"),
    [
        ("reset", "reset", ""),
        ("  reset   halt ", "reset halt", ""),
        ("reset hard", "reset", "hard"),
        ("flash mass_erase all", "flash mass_erase", "all"),
        ("writeDP 0x2 0xF0", "WriteDP", "0x2 0xF0"),
    ],
)
def test_the_longest_name_wins(line: str, name: str, arguments: str) -> None:
    assert monitor.find(line) == (monitor.COMMANDS[name], arguments)


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        ("", "; try: monitor help"),
        ("xyzzy", "; try: monitor help"),
        ("rest", ": did you mean reset?"),
        ("hlt now", ": did you mean halt?"),
        ("flash", ": did you mean flash mass_erase or flash repair?"),
    ],
)
def test_an_unknown_monitor_command_points_to_one_that_is_known(line: str, way_out: str) -> None:
    with pytest.raises(BadRequest) as error:
        monitor.find(line)
    assert str(error.value) == f"unknown monitor command{way_out}"
