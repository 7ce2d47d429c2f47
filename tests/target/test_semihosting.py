"""Every operation of the semihosting specification, asked for by a program on the core."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
from hosted_bench import Hosted
from target_bench import Bench, make_bench

from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.host_files import Answer, FileIo, Folder, GdbConsole, GdbFiles
from gdbserver.target.semihosting import APPLICATION_EXIT, Exit, Semihosting, stands_at_call
from gdbserver.target.stop import StopReason

CLEAN = Exit(0, APPLICATION_EXIT)


@pytest.fixture
def program() -> Iterator[Bench]:
    """Halted at the reset vector of `tests/firmware/hosted.c`."""
    yield from make_bench("sim:ideal", support.build_firmware("hosted"))


Start = Callable[..., Hosted]


@pytest.fixture
def asked(program: Bench) -> Start:
    """The program, told by its command line what to do."""

    def start(what: str, **how: object) -> Hosted:
        return Hosted(program, command_line=what, **how)  # type: ignore[arg-type]

    return start


def test_text_goes_to_the_console_and_the_program_ends_by_itself(asked: Start) -> None:
    hosted = asked("hello")
    assert hosted.run() == CLEAN
    assert hosted.out == b"hello, world\n!\n"


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("old-exit", 0, "the program exited with status 0"),
        ("three", 3, "the program exited with status 3"),
        ("many", 1, "the program exited with status 1"),
        ("error", 1, "the program stopped itself: a run-time error"),
    ],
)
def test_how_a_program_ends_is_told_as_of_a_unix_program(
    asked: Start, what: str, status: int, words: str
) -> None:
    ended = asked(what).run()
    assert isinstance(ended, Exit)
    assert ended.status == status
    assert str(ended) == words


def test_a_program_that_has_ended_ends_again_when_it_is_resumed(asked: Start) -> None:
    hosted = asked("three")
    first = hosted.run()
    assert hosted.serve() == first


def test_files_are_those_of_the_folder(asked: Start, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    hosted = asked("files", files=Folder(inside))
    assert hosted.run() == CLEAN
    text = hosted.out.decode()
    assert hosted.values() == {
        "write": 0,
        "flen": 11,
        "istty": 0,
        "close": 0,
        "closed": -1,
        "errno": errno.EBADF,
        "seek": 0,
        "read": 0,
        "rest": 64 - 13,
        "end": 64,
        "rename": 0,
        "gone": -1,
        "tmpnam": 0,
        "remove": 0,
        "removed": -1,
        "outside": -1,
        "absolute": -1,
    }
    assert "line" in text
    assert "semihosting-7.tmp" in text
    assert (inside / "new.txt").read_bytes() == b"first line\nsecond line\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "new.txt"]


def test_without_a_folder_no_file_can_be_opened(asked: Start) -> None:
    hosted = asked("files")
    assert hosted.run() == CLEAN
    assert hosted.values()["outside"] == hosted.values()["gone"] == -1


def test_the_console_has_three_streams(asked: Start) -> None:
    hosted = asked("console", typed=[None, None, b"typed\n", b"x"])
    assert hosted.run() == CLEAN
    assert hosted.out.startswith(b"to stdout\n")
    assert hosted.error == b"to stderr\n"
    assert b"typed\n" in hosted.out
    assert hosted.values() == {"istty": 1, "left": 1, "readc": ord("x")}
    assert hosted.waited == 2


def test_at_the_end_of_what_is_typed_nothing_is_read(asked: Start) -> None:
    hosted = asked("console")
    assert hosted.run() == CLEAN
    assert hosted.values() == {"istty": 1, "left": 7, "readc": -1}


def test_the_features_say_that_exits_have_a_status_and_stderr_is_apart(asked: Start) -> None:
    hosted = asked("features")
    assert hosted.run() == CLEAN
    assert hosted.values() == {"flen": 5, "left": 3, "magic": 1, "writing": -1}


def test_surroundings_are_answered_and_nothing_is_run(
    asked: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    hosted = asked("surroundings")
    assert hosted.run() == CLEAN
    assert hosted.values() == {
        "heapinfo": 0,
        "heap": 0,
        "system": -1,
        "iserror": 1,
        "noerror": 0,
        "tickfreq": 1_000_000,
        "elapsed": 0,
        "ticked": 1,
        "clock": 1,
        "time": 1,
    }
    assert not list(tmp_path.iterdir())


def test_whatever_a_program_asks_for_is_an_error_to_it_and_not_to_us(
    asked: Start, tmp_path: Path
) -> None:
    hosted = asked("nonsense", files=Folder(tmp_path))
    assert hosted.run() == CLEAN
    values = hosted.values()
    assert values.pop("errno") == errno.EFAULT
    assert values.pop("open") == 62  # all but the two that are open already
    assert values == {"write": -1, "read": -1, "name": -1, "mode": -1, "operation": -1}
    assert not list(tmp_path.iterdir())


def test_a_command_line_that_does_not_fit_is_refused(asked: Start) -> None:
    ended = asked("x" * 64).run()
    assert ended == Exit(99, APPLICATION_EXIT)


def test_a_bkpt_of_another_number_is_a_stop(asked: Start) -> None:
    stop = asked("break").run()
    assert isinstance(stop, StopReason)
    assert stop.kind == "swbreak"


def test_a_users_breakpoint_on_the_call_stops_before_it_is_served(program: Bench) -> None:
    hosted = Hosted(program)
    program.run()
    call = program.pc
    assert stands_at_call(program.target)
    program.target.reset(halt=True)
    program.target.set_breakpoint(BreakKind.HARDWARE, call, 2)
    assert program.run().kind == "hwbreak"
    assert not stands_at_call(program.target)
    # Stepping over it goes as GDB does it: without the breakpoint.
    program.target.clear_breakpoint(BreakKind.HARDWARE, call, 2)
    program.target.step()
    assert program.pc == call
    assert stands_at_call(program.target)
    assert hosted.serve() is None
    assert program.pc == call + 2


def test_a_breakpoint_behind_a_call_is_hit(program: Bench) -> None:
    hosted = Hosted(program)
    program.run()
    assert hosted.serve() is None
    program.target.set_breakpoint(BreakKind.HARDWARE, program.pc, 2)
    assert program.run().kind == "hwbreak"


def test_gdb_is_asked_for_files_and_for_what_is_typed(program: Bench) -> None:
    asked: list[str] = []

    def gdb(call: FileIo) -> Answer:
        asked.append(call.call)
        match call.call, call.parameters:
            case "open", ((_, _), 0, _):
                return OSError(errno.ENOENT, "no such file")
            case "open", _:
                return 7
            case "lseek", (7, _, 2):
                return 11
            case "unlink" | "rename", _:
                return 0
            case "write" | "read", (7, _, length):
                return int(length)
            case "lseek" | "close", (7, *_):
                return 0
        raise AssertionError(call)

    hosted = Hosted(program, files=GdbFiles(), command_line="files", gdb=gdb)
    assert hosted.run() == CLEAN
    assert asked[:8] == ["open", "write", "lseek", "lseek", "lseek", "close", "open", "write"]
    values = hosted.values()
    assert values["flen"] == 11
    assert values["gone"] == -1

    program.target.reset(halt=True)

    def typist(call: FileIo) -> Answer:
        assert call.call == "read"
        descriptor, address, length = call.parameters
        assert descriptor == 0
        assert isinstance(address, int)
        assert isinstance(length, int)
        typed = b"typed\n"[:length]
        program.target.write_memory(address, typed)
        return len(typed)

    hosted = Hosted(program, gdb=typist)
    console = GdbConsole(hosted.write)
    hosted.semihosting = Semihosting(console, GdbFiles(), command_line="hosted console")
    assert hosted.run() == CLEAN
    assert b"typed\n" in hosted.out
    assert hosted.values() == {"istty": 1, "left": 1, "readc": ord("t")}
