"""The configurations in the README, tried as they stand there, on the simulated board."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
from dap import Adapter
from fixture_loaders import build

from gdbserver.server.monitor import COMMANDS, OTHER_SERVERS
from gdbserver.testing.gdb import Gdb

ROOT = support.TESTS.parent
README = (ROOT / "README.md").read_text()
LOADERS = (ROOT / "loaders/README.md").read_text()
BIN = Path(sys.executable).parent
LOADER = "/home/me/W25Q256_STM32H743.stldr"
SIMULATED = {"stm32-gdbserver": ["--probe", "sim"], "ST-LINK_gdbserver": ["-i", "sim"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def configuration(name: str) -> dict[str, Any]:
    """The launch configuration of that name."""
    found = [json.loads(block) for block in blocks("json")]
    (wanted,) = [one for one in found if one["name"] == name]
    return dict(wanted)


def with_board(arguments: Sequence[str]) -> list[str]:
    """The arguments, with what is here in place of somebody's own loader."""
    return ["builtin" if word == LOADER else word for word in arguments]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@contextmanager
def running(program: str, *arguments: str, ready: str) -> Iterator[None]:
    """One of our programs, from the line that says that it is ready."""
    words = [BIN / program, *SIMULATED[program], *arguments]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = ""
            for line in process.stdout:
                said += line
                if re.search(ready, said):
                    break
            else:
                raise AssertionError(said)
            yield
        finally:
            process.terminate()


def play(
    elf: Path, gdb_path: str, where: str, *commands: str, kind: str = "extended-remote"
) -> None:
    """What an IDE sends, up to the entry point."""
    with Gdb(gdb_path, elf) as gdb:
        gdb.ask(f"-target-select {kind} {where}")
        for command in commands:
            if command == "load":
                gdb.ask("-target-download")
            else:
                gdb.ask(f'-interpreter-exec console "{command}"')
        gdb.break_at("main", temporary=True)
        assert gdb.run().function == "main"
        gdb.ask("-target-detach")


def transcripts(command: str, page: str = README) -> list[str]:
    """What the page shows behind a command, up to the next prompt."""
    return re.findall(
        rf"^(?:\$|\(gdb\)) {re.escape(command)}\n(.*?)(?=^```|^\$ )",
        page,
        re.DOTALL | re.MULTILINE,
    )


def said(*words: str) -> str:
    environment = os.environ | {"COLUMNS": "100"}
    command = [sys.executable, "-m", "gdbserver", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def anchors(page: str) -> set[str]:
    """What a heading's link is called, as the forges make it."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", ["README.md", "loaders/README.md", "scripts/benchmark/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", (ROOT / page).read_text()):
        path, _, anchor = link.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.read_text()), link


def test_the_options_are_those_of_the_help() -> None:
    (shown,) = re.findall(r"^```\n(Usage: .*?)^```", README, re.DOTALL | re.MULTILINE)
    assert shown == said("--help")


def test_the_monitor_commands_are_those_of_monitor_help() -> None:
    (shown,) = transcripts("monitor help")
    width = max(map(len, COMMANDS))
    listed = "".join(f"{name:{width}}  {c.help}\n" for name, c in COMMANDS.items())
    others = ", ".join(OTHER_SERVERS)
    assert shown == f"{listed}and for scripts written for other servers: {others}\n"


def test_our_loader_is_described_as_it_is() -> None:
    (shown,) = transcripts("stm32-gdbserver loader info loaders/built/qspi.stldr", LOADERS)
    described = said("loader", "info", str(ROOT / "loaders/built/qspi.stldr"))
    assert described.startswith(shown.removesuffix("  …\n"))


def test_a_loader_of_st_s_template_gets_the_remarks_that_are_shown(tmp_path: Path) -> None:
    command = "stm32-gdbserver loader check W25Q256_template.stldr"
    (shown,) = transcripts(command)
    assert transcripts(command, LOADERS) == [shown]
    loader = tmp_path / "W25Q256_template.stldr"
    shutil.copy(build("W25Q256_F8", NAME='"W25Q256"'), loader)
    assert said("loader", "check", str(loader)) == shown


def test_cortex_debug_starts_the_drop_in(demo_elf: Path) -> None:
    config = configuration("H743 + QSPI, cortex-debug")
    assert (config["servertype"], config["runToEntryPoint"]) == ("stlink", "main")
    port = free_port()
    arguments = ["-p", port, "-cp", "/opt/st", "--swd", "--halt", *with_board(config["serverArgs"])]
    ready = "(Waiting for debugger connection|Listening at).*"
    with running(Path(config["serverpath"]).name, *arguments, ready=ready):
        commands = ("monitor reset", "load", "monitor reset", "monitor halt")
        play(demo_elf, config["gdbPath"], f"localhost:{port}", *commands)


def test_cortex_debug_finds_a_server_that_runs(demo_elf: Path) -> None:
    config = configuration("H743 + QSPI, cortex-debug, external")
    assert (config["servertype"], config["runToEntryPoint"]) == ("external", "main")
    host, port = config["gdbTarget"].split(":")
    assert port == "61234", "the default"
    port = free_port()
    with running("stm32-gdbserver", "--persistent", "--port", port, ready="Waiting for"):
        commands = ("monitor reset halt", "load", "monitor reset halt")
        for _ in range(2):  # Restart
            play(demo_elf, config["gdbPath"], f"{host}:{port}", *commands)


def test_the_cdt_adapter_starts_the_server(demo_elf: Path) -> None:
    config = configuration("H743 + QSPI, CDT")
    target = config["target"]
    target["server"] = str(BIN / Path(target["server"]).name)
    target["serverParameters"] = ["--probe", "sim", *with_board(target["serverParameters"])]
    config["program"] = config["imageAndSymbols"]["imageFileName"] = str(demo_elf)
    node = support.client_on_path("node")
    script = support.client("adapter/node_modules/cdt-gdb-adapter/dist/debugTargetAdapter.js")
    with Adapter([node, str(script)], {}) as ide:
        ide.request("initialize", adapterID="gdbtarget", pathFormat="path")
        launching = ide.begin("launch", **config)
        ide.event("initialized")
        ide.answer(launching)
        ide.request("configurationDone")
        assert ide.event("stopped")["reason"] == "breakpoint"
        assert ide.request("stackTrace", threadId=1)["stackFrames"][0]["name"] == "main"
        ide.request("cdt-gdb-adapter/customReset")
        ide.request("disconnect")


@pytest.mark.parametrize(
    ("window", "kind", "commands"),
    [
        ("STM32CubeIDE", "remote", ["monitor reset", "load", "monitor reset"]),
        ("Eclipse, GDB Hardware Debugging", "remote", ["monitor reset halt", "load"]),
        ("CLion, Embedded GDB Server", "remote", ["load", "monitor reset"]),
    ],
)
def test_what_is_filled_into_the_fields(
    demo_elf: Path, window: str, kind: str, commands: list[str]
) -> None:
    (row,) = re.findall(rf"^\| {window} \|(.*)\|$", README, re.MULTILINE)
    assert "61234" in row
    typed = re.findall(r"`(monitor [^`]*)`", row)
    assert set(typed) <= set(commands)
    place = "tcp:localhost" if "`tcp:localhost:61234`" in row else "localhost"
    port = free_port()
    with running("stm32-gdbserver", "--persistent", "--port", port, ready="Waiting for"):
        play(demo_elf, "gdb-multiarch", f"{place}:{port}", *commands, kind=kind)


def test_west_starts_server_and_gdb_side_by_side(demo_elf: Path) -> None:
    """Its runner waits for nothing: GDB tries again until somebody listens."""
    (line,) = re.findall(r"^gdb-multiarch -ex .*$", README, re.MULTILINE)
    port = free_port()
    program, *arguments = shlex.split(line.replace("build/zephyr/zephyr.elf", str(demo_elf)))
    arguments = [word.replace("61234", port) for word in arguments]
    server = (
        *("--stm32cubeprogrammer-path", "/opt/st", "--port-number", port, "--apid", "0"),
        *("--halt", "--swd", "--initialize-reset", "--extload", "builtin"),
    )
    with running("ST-LINK_gdbserver", *server, ready="Starting server"):
        done = subprocess.run(
            [program, "--batch", *arguments, "-ex", "tbreak main", "-ex", "continue"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert "Temporary breakpoint 1, main ()" in done.stdout, done


def test_lldb_loads(demo_elf: Path) -> None:
    lines = re.findall(r"^\(lldb\) (.*)$", README, re.MULTILINE)
    lldb, port = support.client_on_path("lldb"), free_port()
    script = [
        line.replace("build/app.elf", str(demo_elf)).replace("61234", port)
        for line in [*lines, "breakpoint set --name main", "continue", "process detach"]
    ]
    with running("stm32-gdbserver", "--port", port, ready="Waiting for"):
        done = subprocess.run(
            [lldb, "--no-lldbinit", "--batch"] + [word for line in script for word in ("-o", line)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert "stop reason = breakpoint 1.1" in done.stdout, done
    assert "error: unknown" not in done.stderr


@pytest.fixture
def project(tmp_path: Path, demo_elf: Path) -> Path:
    """A firmware project, with the example of a test on the target."""
    (example,) = blocks("python")
    (tmp_path / "tests/on_target").mkdir(parents=True)
    (tmp_path / "tests/on_target/test_app.py").write_text(example)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/app.elf").write_bytes(demo_elf.read_bytes())
    (tmp_path / "build/tests.elf").write_bytes(support.hosted().read_bytes())
    return tmp_path


@pytest.mark.parametrize("service", [".github/workflows/target.yml", ".gitlab-ci.yml"])
def test_ci_programs_the_board_and_runs_the_tests_of_the_example(
    project: Path, service: str
) -> None:
    (block,) = [block for block in blocks("yaml") if block.startswith(f"# {service}\n")]
    file = yaml.safe_load(block)
    if service == ".gitlab-ci.yml":
        variables, lines = file["target"]["variables"], file["target"]["script"]
    else:
        steps = file["jobs"]["target"]["steps"]
        variables, lines = file["env"], [step["run"] for step in steps if "run" in step]
    ours = [line for line in lines if line.startswith(("stm32-gdbserver", "pytest"))]
    assert len(ours) == 3
    for line in ours:
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=project,
            env=os.environ | variables | {"PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done
    assert 'tests="2"' in (project / "report.xml").read_text()
