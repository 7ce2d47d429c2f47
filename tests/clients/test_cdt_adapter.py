"""Eclipse CDT's debug adapter, which starts the server itself, as in Theia and VS Code.

Installed from npm by `scripts/clients`, and driven as an IDE drives it.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import support
from dap import PATIENCE, Adapter, RequestFailed

SOURCE = str(support.FIRMWARE / "demo.c")
WATCHED_SERVER = str(Path(__file__).parent / "watched_server.py")
ADAPTER = "adapter/node_modules/cdt-gdb-adapter/dist/debugTargetAdapter.js"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Where the server tells how it has left the board."""
    return tmp_path / "report.json"


@contextmanager
def adapter(mark: str = "adapter") -> Iterator[Adapter]:
    node, script = support.client_on_path("node"), support.client(ADAPTER)
    with Adapter([node, str(script)], environment={"MARK": mark}) as started:
        started.request("initialize", adapterID="gdbtarget", pathFormat="path")
        yield started


def launch(
    ide: Adapter, elf: Path, report: Path, *, kind: str = "extended-remote", **more: Any
) -> None:
    """Up to where the user sees the first stop."""
    server = ["--probe", "sim", "--port", "0"]
    launching = ide.begin(
        "launch",
        program=str(elf),
        gdb="gdb-multiarch",
        target={
            "type": kind,
            "server": sys.executable,
            "serverParameters": [WATCHED_SERVER, str(report), *server],
            "portDetectionTimeout": 60_000,
        },
        imageAndSymbols={"imageFileName": str(elf)},
        preConnectCommands=[f"set substitute-path . {support.TESTS.parent}"],  # as it is built
        customResetCommands=["monitor reset halt", "maintenance flush register-cache"],
        **more,
    )
    ide.event("initialized")
    ide.answer(launching)


def break_at(ide: Adapter, *markers: str) -> list[int]:
    """Breakpoints in the lines with these texts, and no others: the lines."""
    text = Path(SOURCE).read_text().splitlines()
    lines = [next(n for n, line in enumerate(text, 1) if marker in line) for marker in markers]
    said = ide.request(
        "setBreakpoints",
        source={"path": SOURCE},
        breakpoints=[{"line": line} for line in lines],
    )
    assert all(breakpoint["verified"] for breakpoint in said["breakpoints"]), said
    return lines


def stopped(ide: Adapter, reason: str) -> list[dict[str, Any]]:
    """The frames, once the program has stopped for this reason."""
    event = ide.event("stopped")
    assert event["reason"] == reason, event
    frames: list[dict[str, Any]] = ide.request("stackTrace", threadId=1)["stackFrames"]
    return frames


def variables(ide: Adapter, frame: dict[str, Any], scope: str) -> dict[str, str]:
    scopes = ide.request("scopes", frameId=frame["id"])["scopes"]
    reference = next(s["variablesReference"] for s in scopes if s["name"] == scope)
    found = ide.request("variables", variablesReference=reference)["variables"]
    return {variable["name"]: variable["value"] for variable in found}


def evaluate(ide: Adapter, frame: dict[str, Any], expression: str) -> str:
    said: str = ide.request(
        "evaluate", expression=expression, frameId=frame["id"], context="watch"
    )["result"]
    return said


def memory(ide: Adapter, where: str, count: int) -> bytes:
    return base64.b64decode(ide.request("readMemory", memoryReference=where, count=count)["data"])


def assert_left_in_order(report: Path) -> None:
    """No process is left, and the server has released the core."""
    patience = time.monotonic() + PATIENCE
    while left := support.processes_with(str(report)):
        assert time.monotonic() < patience, left
    assert json.loads(report.read_text()) == {"halted": False, "armed": 0}


def test_a_session_from_launch_to_disconnect(demo_elf: Path, report: Path) -> None:
    with adapter(str(report)) as ide:
        launch(ide, demo_elf, report)
        ide.request("setFunctionBreakpoints", breakpoints=[{"name": "add"}])
        ide.request("configurationDone")

        frame, caller, *_ = stopped(ide, "function breakpoint")
        assert (frame["name"], caller["name"]) == ("add", "main")
        assert (frame["source"]["path"], caller["source"]["path"]) == (SOURCE, SOURCE)
        ide.request("setFunctionBreakpoints", breakpoints=[])
        found = variables(ide, frame, "Local")
        assert (found["a"], found["b"]) == ("1240", "0")
        registers = variables(ide, frame, "Registers")
        assert registers["r0"] == "0x4d8"
        assert {"sp", "pc", "xpsr", "d0"} <= set(registers)
        assert evaluate(ide, frame, "greeting[0]").startswith("104 'h'")

        assert memory(ide, "0x90000030", 8) == bytes([0, 0, 0, 0, 1, 0, 0, 0])
        new = base64.b64encode(bytes.fromhex("78563412")).decode()
        ide.request("writeMemory", memoryReference="0x24000100", data=new)
        assert memory(ide, "0x24000100", 4) == bytes.fromhex("78563412")

        ide.request("next", threadId=1)
        assert stopped(ide, "step")[0]["name"] == "main"
        break_at(ide, "uint32_t sum = sum_in_nor")
        ide.request("continue", threadId=1)
        stopped(ide, "breakpoint")
        ide.request("stepIn", threadId=1)
        frame = stopped(ide, "step")[0]
        assert frame["name"] == "sum_in_nor", "the debugger steps into the NOR"
        assert evaluate(ide, frame, "$pc").startswith("0x9000")
        ide.request("stepOut", threadId=1)
        assert stopped(ide, "step")[0]["name"] == "main"

        break_at(ide)
        info = ide.request("dataBreakpointInfo", name="counter")
        assert "write" in info["accessTypes"]
        watching = [{"dataId": info["dataId"], "accessType": "write"}]
        ide.request("setDataBreakpoints", breakpoints=watching)
        ide.request("continue", threadId=1)
        frame = stopped(ide, "generic")[0]  # so it calls a watchpoint
        assert frame["name"] == "main"
        assert evaluate(ide, frame, "counter") == "2"
        ide.request("setDataBreakpoints", breakpoints=[])

        ide.request("continue", threadId=1)
        ide.event("continued")
        ide.request("pause", threadId=1)
        frame = stopped(ide, "SIGINT")[0]
        assert int(evaluate(ide, frame, "counter")) >= 2

        ide.request("cdt-gdb-adapter/customReset")
        assert evaluate(ide, frame, "$pc").startswith("0x80000"), "at the first instruction"
        break_at(ide, "map_nor();")
        ide.request("continue", threadId=1)
        frame = stopped(ide, "breakpoint")[0]
        assert (frame["name"], evaluate(ide, frame, "counter")) == ("main", "0")

        ide.request("disconnect")
    assert_left_in_order(report)


def test_type_remote_is_left_without_a_goodbye_and_all_is_in_order(
    demo_elf: Path, report: Path
) -> None:
    """This type closes the socket, and sends SIGTERM at once."""
    with adapter(str(report)) as ide:
        launch(ide, demo_elf, report, kind="remote")
        break_at(ide, "counter++;")
        ide.request("configurationDone")
        frame = stopped(ide, "breakpoint")[0]
        assert evaluate(ide, frame, "total") == "1240"
        ide.request("disconnect")
    assert_left_in_order(report)


def test_a_second_gdb_of_the_adapter_reads_memory_while_the_program_runs(
    demo_elf: Path, report: Path
) -> None:
    with adapter(str(report)) as ide:
        launch(ide, demo_elf, report, auxiliaryGdb=True)
        ide.request("configurationDone")
        earlier = memory(ide, "&counter", 4)
        while memory(ide, "&counter", 4) == earlier:
            pass
        ide.request("pause", threadId=1)
        stopped(ide, "SIGINT")
        ide.request("disconnect")
    assert_left_in_order(report)


def test_a_server_that_cannot_start_says_why_in_the_ide(demo_elf: Path) -> None:
    with adapter() as ide:
        with pytest.raises(RequestFailed, match="there is no debug probe '0669FF'"):
            ide.request(
                "launch",
                program=str(demo_elf),
                gdb="gdb-multiarch",
                target={
                    "server": sys.executable,
                    "serverParameters": ["-m", "gdbserver", "--probe", "0669FF"],
                },
            )
        assert "hint: none is connected" in ide.output
