"""Semihosting under a real GDB: calls are no stops, the end is an exit, files are as chosen."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
import support
from gdb_session import Session, debugging

PATIENCE = 120
CALL = "bkpt 0xAB"


@pytest.fixture(scope="module")
def hosted() -> Path:
    return support.build_firmware("hosted")


def stands_before(here: Session, what: str) -> None:
    """At main, with a request that makes the program do `what`."""
    here.loaded()
    here.gdb.do("tbreak main")
    here.gdb.do("continue")
    here.gdb.do(f'set var request = "{what}"')


@pytest.mark.parametrize("link", ["stlink-v3", "cmsis-dap-v2"])
def test_a_program_prints_on_gdbs_console_exits_and_runs_again(
    gdb_program: str, hosted: Path, link: str
) -> None:
    with debugging(hosted, f"sim:{link}", gdb=gdb_program, loaders=[]) as here:
        here.loaded()
        for command in ("continue", "run"):
            said = here.gdb.do(command)
            assert "hello, world\n!\n[Inferior 1 (Remote target) exited normally]" in said
        assert "ask" in here.gdb.do("info registers pc")  # it can be looked at still
        assert "Transfer rate" in here.gdb.do("load")
        stands_before(here, "three")
        assert "exited with code 03]" in here.gdb.do("continue")
        stands_before(here, "error")
        said = here.gdb.do("continue")
        assert "the program stopped itself: a run-time error\n[Inferior 1" in said
        assert "exited with code 01]" in said


def test_a_target_that_is_only_remote_shows_the_exit_as_a_stop(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", connect=False, loaders=[]) as here:
        gdb = here.start()
        gdb.do(f"target remote {here.server.address}")
        gdb.do("load")
        said = gdb.do("continue")
        assert "the program exited with status 0" in said
        assert "SIGTRAP" in said
        assert "#1  " in gdb.do("backtrace")


def test_stepping_over_what_prints_is_one_step(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", loaders=[]) as here:
        stands_before(here, "hello")
        gdb = here.gdb
        hello = line_of('print("hello, world')
        gdb.do(f"tbreak hosted.c:{hello}")
        gdb.do("continue")
        said = gdb.do("next")
        assert "hello, world\n" in said
        assert f"{hello + 1}\t" in said
        gdb.do(f"tbreak hosted.c:{line_of(CALL)}")
        gdb.do("continue")
        before = [gdb.do(f"output {name}") for name in ("before", "after")]
        assert f"{line_of('after++;')}\t" in gdb.do("next")
        gdb.do("next")
        after = [gdb.do(f"output {name}") for name in ("before", "after")]
        assert before[0] == after[0] != before[1] != after[1]


def line_of(text: str) -> int:
    source = (support.FIRMWARE / "hosted.c").read_text().splitlines()
    return next(number for number, line in enumerate(source, 1) if text in line)


def test_one_instruction_over_the_call_is_one_instruction(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", loaders=[]) as here:
        stands_before(here, "hello")
        gdb = here.gdb
        gdb.do("set disassemble-next-line on")
        gdb.do(f"break hosted.c:{line_of(CALL)}")
        gdb.do("continue")
        while "bkpt" not in gdb.do("x/i $pc"):
            gdb.do("stepi")
        call = gdb.do("output/x $pc")
        gdb.do("delete")
        said = gdb.do("stepi")
        assert "SIG" not in said
        assert int(gdb.do("output/x $pc"), 16) == int(call, 16) + 2
        gdb.do(f"break *{call}")  # and a breakpoint of the user's on it is one
        assert "Breakpoint" in gdb.do("continue")
        assert gdb.do("output/x $pc") == call


def test_a_program_that_does_nothing_but_print_can_be_interrupted(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", loaders=[]) as here:
        stands_before(here, "chatter")
        for _ in range(5):  # the halt and the next call race each other
            here.gdb.begin("continue")
            here.gdb.wait_for("....")
            here.gdb.process.send_signal(signal.SIGINT)
            assert "received signal SIGINT" in here.gdb.end()


def test_semihosting_that_is_off_is_a_breakpoint_instruction(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", loaders=[]) as here:
        here.loaded()
        gdb = here.gdb
        assert "off: a BKPT 0xAB stops the program" in gdb.do("monitor semihosting off")
        said = gdb.do("continue")
        assert "SIGTRAP" in said
        assert "hello" not in said
        assert "out of its reach" in gdb.do("monitor semihosting on")
        assert "hello, world" in gdb.do("continue")  # the call that it stood at comes first
        assert "knows on, off, fileio" in gdb.do("monitor semihosting perhaps")


def test_with_fileio_files_are_those_where_gdb_runs(
    hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gdb").mkdir()
    monkeypatch.chdir(tmp_path / "gdb")
    with debugging(hosted, "sim:ideal", loaders=[]) as here:
        here.loaded()
        assert "GDB's machine" in here.gdb.do("monitor semihosting fileio")
        stands_before(here, "files")
        said = here.gdb.do("continue")
    values = dict(re.findall(r"(\w+)=(-?\d+)", said))
    assert values["write"] == values["seek"] == values["rename"] == values["remove"] == "0"
    assert values["flen"] == "11"
    assert values["gone"] == values["closed"] == "-1"
    assert "\nline\n" in said
    assert (tmp_path / "gdb" / "new.txt").read_bytes() == b"first line\nsecond line\n"


def terminal(here: Session, *commands: str) -> subprocess.Popen[str]:
    """A GDB whose standard input is the program's, as in a terminal."""
    lines = ["set confirm off", f"target extended-remote {here.server.address}", "load"]
    lines += ["tbreak main", "continue", 'set var request = "console"', *commands]
    return subprocess.Popen(
        ["gdb-multiarch", "--quiet", "--nx", "--batch", here.elf]
        + [word for line in lines for word in ("-ex", line)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_what_is_typed_at_gdb_reaches_the_program(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", connect=False, loaders=[]) as here:
        with terminal(here, "continue") as gdb:
            said, _ = gdb.communicate("typed!\nx", PATIENCE)
        assert "typed!\nreadc=120\n" in said


def test_ctrl_c_ends_waiting_for_input_and_the_program_asks_again(hosted: Path) -> None:
    with debugging(hosted, "sim:ideal", connect=False, loaders=[]) as here:
        with terminal(here, "continue", "info symbol $pc", "continue") as gdb:
            assert gdb.stdout is not None
            said = ""
            while "istty=1" not in said:  # from here on it reads
                said += gdb.stdout.readline()
            here.wait_until(lambda: here.board.core.halted)
            gdb.send_signal(signal.SIGINT)
            while "ask + " not in said:
                said += gdb.stdout.readline()
            more, _ = gdb.communicate("typed!\nx", PATIENCE)
        assert "received signal SIGINT" in said
        assert "readc=" in more
        assert "exited normally" in more
