"""Ways to a server besides a port: the pipe of a GDB that starts it, and Unix sockets."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import gdb_batch

TOOL = f"{sys.executable} -m gdbserver"


def test_a_gdb_that_starts_the_server_itself_loads_and_runs(demo_elf: Path) -> None:
    said = gdb_batch(
        f"| {TOOL} --probe sim --stdio",
        demo_elf,
        *("load", "compare-sections", "tbreak main", "continue", "monitor info", "detach"),
    )
    assert "Temporary breakpoint 1, main ()" in said, said
    assert said.count("matched") >= 4, said
    assert "MIS-MATCHED" not in said
    assert "control: standard input" in said
    assert "external flash  qspi" in said  # what the server prints, on the other stream


def test_what_the_server_prints_never_gets_into_the_pipe() -> None:
    result = subprocess.run(
        [*TOOL.split(), "--probe", "sim", "--stdio", "-v"],
        input=b"+$qC#b4",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == b"+$QC1#c5"
    assert b"external flash" in result.stderr


def test_ctrl_c_in_the_terminal_is_for_gdb_and_sigterm_for_the_server() -> None:
    with subprocess.Popen(
        [*TOOL.split(), "--probe", "sim", "--stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"$qC#b4")
            process.stdin.flush()
            assert process.stdout.read(8) == b"+$QC1#c5"
            process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "gdb.sock"


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """A server at a Unix socket, as soon as it listens there."""
    process = subprocess.Popen(
        [*TOOL.split(), "--probe", "sim", "--listen", f"unix:{place}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any(line == f"Listening on unix:{place}\n" for line in process.stdout)
    return process


def test_several_gdbs_at_a_unix_socket(place: Path, demo_elf: Path) -> None:
    with start(place, "--persistent") as server:
        try:
            for _ in range(2):
                said = gdb_batch(str(place), demo_elf, "load", "detach")
                assert "Transfer rate" in said, said
            # It has been running since, in whichever flash.
            assert re.search(
                r"\$1 = 0x[89]", gdb_batch(str(place), demo_elf, "print/x $pc", "detach")
            )
        finally:
            server.terminate()
    assert not place.exists()


def test_the_socket_of_a_server_that_was_killed_does_not_matter(
    place: Path, demo_elf: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    with start(place) as server:
        assert "$1 = " in gdb_batch(str(place), demo_elf, "print/x $pc", "detach")
        assert server.wait(30) == 0


def test_the_socket_of_a_server_that_lives_is_in_use(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(place))
        taken.listen()
        result = subprocess.run(
            [*TOOL.split(), "--probe", "sim", "--listen", f"unix:{place}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert f"error: cannot listen on unix:{place}: Address already in use" in result.stderr
    assert place.exists()


def test_several_servers_side_by_side_do_not_disturb_each_other(
    tmp_path: Path, demo_elf: Path
) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    with start(places[0]) as one, start(places[1]) as two:
        for place in places:
            assert "Transfer rate" in gdb_batch(str(place), demo_elf, "load", "detach")
        assert (one.wait(30), two.wait(30)) == (0, 0)
