"""`run`: a program's output is ours, its exit status is ours, and its crash is explained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import support
from click.testing import CliRunner, Result

from gdbserver.cli.main import command
from gdbserver.sim.board import Board
from gdbserver.sim.probe import SimProbe
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

TOOL = [sys.executable, "-m", "gdbserver", "run"]


@pytest.fixture(scope="session")
def hosted() -> Path:
    return support.build_firmware("hosted")


@pytest.fixture(scope="session")
def talking() -> Path:
    return support.build_firmware("rtt")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, probe: SimProbe) -> Board:
    """A board that outlives a command, for commands that run in this process."""

    def opened(uid: str | None, *, connect: Connect, frequency: int | None) -> Target:
        return Target.behind(probe, connect=connect, frequency=frequency)

    monkeypatch.setattr(Target, "open", opened)
    board: Board = probe.board
    return board


def run(elf: Path, *arguments: str | Path, status: int = 0) -> Result:
    """Run a program on the board of `here`."""
    line = ["run", "--probe", "sim:ideal", "--timeout", "1", elf, *arguments]
    result = CliRunner().invoke(command, [str(part) for part in line])
    found = getattr(result.exception, "exit_status", result.exit_code)
    assert found == status, (result.output, result.exception)
    return result


def lines(result: Result) -> list[str]:
    """What was said about the program's end: without what was said about flash."""
    return [line for line in result.stderr.splitlines() if not line.startswith("bank 1")]


@pytest.mark.usefixtures("here")
def test_standard_output_is_the_programs_alone(hosted: Path) -> None:
    result = run(hosted)
    assert result.stdout == "hello, world\n!\n"
    assert "bank 1: programmed" in result.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("old-exit", 0, []),
        ("three", 3, ["the program exited with status 3"]),
        ("many", 1, ["the program exited with status 1"]),
        ("error", 1, ["the program stopped itself: a run-time error"]),
    ],
)
def test_a_programs_exit_status_is_ours(
    hosted: Path, what: str, status: int, said: list[str]
) -> None:
    assert lines(run(hosted, "--arg", what, status=status)) == said


HALTED = "the core stays halted there; to look at it: stm32-gdbserver --connect attach"


def frames(result: Result) -> list[str]:
    return [line.split(" in ")[-1] for line in lines(result) if line.startswith("  #")]


def test_a_crash_is_explained_with_a_backtrace_of_where_it_happened(
    here: Board, hosted: Path
) -> None:
    result = run(hosted, "--arg", "fault", status=123)
    what, *where, last = lines(result)
    assert what.startswith("the program crashed: bus fault: the instruction at 0x0800")
    assert "accessed 0x70000000; escalated to a hard fault" in what
    assert last == HALTED
    store, call = line_of("REG(0x70000000)"), line_of("fault(depth - 1)")
    assert frames(result)[:3] == [
        f"fault at tests/firmware/hosted.c:{store}",
        *[f"fault at tests/firmware/hosted.c:{call}"] * 2,
    ]
    assert [line.split(" at ")[0] for line in frames(result)[3:]] == ["main", "start"]
    assert len(where) == 5
    assert here.core.halted


def line_of(text: str) -> int:
    source = (support.FIRMWARE / "hosted.c").read_text().splitlines()
    (found,) = [number for number, line in enumerate(source, 1) if text in line]
    return found


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("undefined", 123, "the program crashed: usage fault: undefined instruction at 0x0800"),
        ("lockup", 123, "the program crashed: the core locked up, faulting in a fault handler"),
        ("break", 123, "the program stopped: BKPT instruction at 0x0800"),
        ("hang", 124, "the program has not ended after 0.01 s; it was stopped"),
        ("reset", 124, "the program has not ended after 0.01 s; it was stopped"),
    ],
)
def test_a_program_that_does_not_end_is_ended(
    here: Board, hosted: Path, what: str, status: int, said: str
) -> None:
    result = run(hosted, "--arg", what, "--timeout", "0.01", status=status)
    found = [line for line in lines(result) if not line.startswith("warning")]
    assert found[0].startswith(said)
    assert found[-1] == HALTED
    assert any(frame.startswith("main at tests/firmware/hosted.c:") for frame in frames(result))
    assert here.core.halted


@pytest.mark.usefixtures("here")
def test_without_debug_information_functions_are_named(hosted: Path, tmp_path: Path) -> None:
    plain, stripped = tmp_path / "plain.elf", tmp_path / "stripped.elf"
    for flag, to in (("-g", plain), ("-s", stripped)):
        subprocess.run(["arm-none-eabi-strip", flag, hosted, "-o", to], check=True)
    result = run(plain, "--arg", "fault", status=123)
    assert [frame.split("+")[0] for frame in frames(result)] == ["fault", "fault"]
    assert lines(result)[2].endswith("(by the link register)")
    result = run(stripped, "--arg", "fault", status=123)
    assert all(frame.split()[1].startswith("0x0800") for frame in frames(result))


@pytest.mark.usefixtures("here")
def test_files_are_opened_in_the_folder_that_is_allowed_only(
    hosted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = run(hosted, "--arg", "files")
    assert "absolute=-1" in refused.stdout
    assert "out of reach: allow a folder with --semihosting-dir" in caplog.text
    run(hosted, "--arg", "files", "--semihosting-dir", tmp_path)
    assert (tmp_path / "new.txt").read_bytes() == b"first line\nsecond line\n"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", ["elf", "hex"])
def test_rtt_channel_0_is_standard_output_too(
    talking: Path, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hex file has no symbols, so RAM is searched."""
    program = talking
    if form == "hex":
        program = tmp_path / "rtt.hex"
        copy = ["arm-none-eabi-objcopy", "-O", "ihex", talking, program]
        subprocess.run(copy, check=True)
    result = run(program, "--timeout", "0.05", status=124)
    everything = ["ready", *(f"line {n}" for n in range(100))]
    assert result.stdout.splitlines() == everything
    assert "RTT: control block at 0x20000000, channels 0 'Terminal', 1 'numbers'" in caplog.text


@pytest.mark.usefixtures("here")
def test_what_an_earlier_program_left_in_ram_is_not_taken_for_this_ones(
    talking: Path, hosted: Path
) -> None:
    run(talking, "--timeout", "0.05", status=124)
    assert run(hosted).stdout == "hello, world\n!\n"
    assert run(talking, "--timeout", "0.05", status=124).stdout.startswith("ready\n")


def process(
    elf: Path, *arguments: str, stdin: bytes | None = None, status: int = 0
) -> tuple[bytes, str]:
    """The same as a process: its standard output, and its standard error."""
    result = subprocess.run(
        [*TOOL, "--probe", "sim:ideal", "--timeout", "5", str(elf), *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    error = result.stderr.decode()
    assert "Traceback" not in error
    assert result.returncode == status, error
    return result.stdout, error


def test_a_program_reads_standard_input_and_has_a_standard_error(hosted: Path) -> None:
    out, error = process(hosted, "--arg", "console", stdin=b"typed!\nx")
    assert out.startswith(b"to stdout\nistty=1\nleft=0\ntyped!\nreadc=120\n")
    assert "to stderr\n" in error


def test_ctrl_c_ends_a_run(talking: Path) -> None:
    with subprocess.Popen(
        [*TOOL, "--probe", "sim:ideal", str(talking)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as ran:
        assert ran.stdout is not None
        while ran.stdout.readline() != "line 99\n":
            assert ran.poll() is None
        ran.send_signal(signal.SIGINT)
        _, error = ran.communicate(timeout=120)
    assert ran.returncode == 130
    assert "interrupted" in error


def test_a_closed_standard_output_ends_the_program(hosted: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with subprocess.Popen(
        [*TOOL, "--probe", "sim:ideal", str(hosted)],
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    ) as ran:
        os.close(theirs)
        _, error = ran.communicate(timeout=120)
    assert ran.returncode == 125
    assert "error: standard output was closed while the program ran" in error
    assert "Traceback" not in error


@pytest.fixture(scope="session")
def newlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program on newlib's own semihosting library, which knows nothing of us."""
    elf = tmp_path_factory.mktemp("newlib") / "newlib.elf"
    flags = [flag for flag in support.FLAGS if flag not in ("-nostdlib", "-ffreestanding")]
    files = [f"tests/firmware/{file}" for file in ("newlib.c", "startup.c")]
    library = ("--specs=rdimon.specs", "-nostartfiles", "-std=gnu11", "-Wl,--defsym=end=_bss_end")
    script = ("-T", "tests/firmware/board.ld")
    build = [support.GCC, *flags, *library, *script, *files, "-o", elf]
    subprocess.run(build, cwd=support.TESTS.parent, check=True)
    return elf


def test_a_program_on_newlib_has_stdio_a_heap_files_and_an_exit_status(
    newlib: Path, tmp_path: Path
) -> None:
    allowed = ("--semihosting-dir", str(tmp_path))
    out, error = process(newlib, *allowed, stdin=b"World\n", status=42)
    assert out.decode().splitlines() == [
        "pi is about 3.142",
        "read: 2 lines",
        "size: 10009",
        "remove: 0",
        "tty: 1 1",
        "time: 1",
        "system: 0",
        "name? hello, World",
    ]
    assert "this is an error\n" in error
    assert [path.name for path in tmp_path.iterdir()] == ["made.txt"]
    out, _ = process(newlib, status=7)
    assert out.decode().splitlines()[-1] == "no file: Permission denied"


@pytest.mark.usefixtures("here")
def test_what_cannot_be_run_has_a_status_of_its_own(hosted: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.hex"
    broken.write_text(":00000001FE\n")
    assert run(broken, status=2).stdout == ""
    run(hosted, "--timeout", "0", status=2)
    run(hosted, "--semihosting-dir", tmp_path / "nowhere", status=2)


def test_flash_that_fails_is_not_the_programs_failure(here: Board, hosted: Path) -> None:
    here.flash.fail_cell(0x08000000)
    assert run(hosted, status=125).stdout == ""
