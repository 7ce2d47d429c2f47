"""GDB as its own debug adapter, which Zed and Neovim start: ``gdb -i dap``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import support
from dap import Adapter
from test_readme import configuration

from gdbserver.sim.board import Board
from gdbserver.target.target import Target
from gdbserver.testing.server import Server, open_machine

SOURCE = str(support.FIRMWARE / "demo.c")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(lambda: open_machine(["--probe", "sim"])) as server:
        yield server


@contextmanager
def attached(server: Server, elf: Path) -> Iterator[Adapter]:
    """GDB, as the README says, at a core that is halted or running."""
    config = configuration("H743 + QSPI, GDB itself")
    assert config["target"] == "localhost:61234"
    config |= {"program": str(elf), "target": server.address}
    gdb = support.client("debuggers/bin/gdb")
    words = [str(gdb), "-q", "-i", "dap", "-iex", "set non-stop on"]
    words += ["-iex", f"set substitute-path . {support.TESTS.parent}"]  # as it is built
    with Adapter(words, {}) as ide:
        ide.request("initialize", adapterID="gdb", pathFormat="path", linesStartAt1=True)
        attaching = ide.begin("attach", **config)
        ide.event("initialized")
        ide.request("configurationDone")
        ide.answer(attaching)
        yield ide


def tell(ide: Adapter, command: str) -> str:
    said: str = ide.request("evaluate", expression=command, context="repl")["result"]
    return said


def break_at(ide: Adapter, marker: str) -> None:
    """A breakpoint in the line with this text, and no other."""
    lines = Path(SOURCE).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if marker in text)
    said = ide.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[{"line": line}])
    assert said["breakpoints"][0]["verified"], said


def stopped(ide: Adapter, reason: str) -> list[dict[str, Any]]:
    event = ide.event("stopped")
    assert event["reason"] == reason, event
    frames: list[dict[str, Any]] = ide.request("stackTrace", threadId=1)["stackFrames"]
    return frames


def test_a_session_from_attach_to_disconnect(server: Server, demo_elf: Path) -> None:
    with attached(server, demo_elf) as ide:
        stopped(ide, "attach")
        assert "Transfer rate" in tell(ide, "load")
        assert "first instruction" in tell(ide, "monitor reset halt")

        break_at(ide, "uint32_t sum = sum_in_nor")
        ide.request("continue", threadId=1)
        assert stopped(ide, "breakpoint")[0]["name"] == "main"
        ide.request("stepIn", threadId=1)
        frame, caller, *_ = stopped(ide, "step")
        assert (frame["name"], caller["name"]) == ("sum_in_nor", "main")
        said = ide.request("evaluate", expression="values[15]", frameId=frame["id"])
        assert said["result"] == "225"
        ide.request("stepOut", threadId=1)
        assert stopped(ide, "step")[0]["name"] == "main"

        ide.request("setBreakpoints", source={"path": SOURCE}, breakpoints=[])
        ide.request("continue", threadId=1)
        break_at(ide, "counter++;")  # while the program runs
        assert stopped(ide, "breakpoint")[0]["name"] == "main"
        ide.request("continue", threadId=1)
        ide.request("disconnect")
    assert not server.call(Target.is_halted)
    assert server.call(armed) == 0


def armed(target: Target) -> int:
    """How many breakpoints are in the hardware."""
    board: Board = target.link.probe.board
    return sum(board.fpb.raw(comparator) & 1 for comparator in board.fpb.COMPARATORS)


def test_a_program_that_runs_can_be_paused(server: Server, demo_elf: Path) -> None:
    with attached(server, demo_elf) as ide:
        stopped(ide, "attach")
        tell(ide, "load")
        ide.request("disconnect")
    with attached(server, demo_elf) as ide:
        while ide.request("threads")["threads"] == []:
            pass
        ide.request("pause", threadId=1)
        ide.event("stopped")
        assert int(ide.request("evaluate", expression="counter", context="watch")["result"]) > 0
        ide.request("disconnect")
