"""Programming without GDB: commands as processes, and what they do to the board."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import bincopy
import click
import pytest
from click.testing import CliRunner, Result
from elftools.elf.elffile import ELFFile

from gdbserver.chip.memory import Span
from gdbserver.cli import progress
from gdbserver.cli.main import command
from gdbserver.errors import UsageError
from gdbserver.flash.programmer import Step
from gdbserver.sim.board import Board
from gdbserver.sim.probe import SimProbe
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

TOOL = [sys.executable, "-m", "gdbserver"]
SIM = ("--probe", "sim:ideal")


def run(*arguments: str | Path, status: int = 0) -> str:
    """Run the tool as a process: what it prints, errors included."""
    result = subprocess.run(
        [*TOOL, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in result.stdout
    assert result.returncode == status, result.stdout
    return result.stdout


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, probe: SimProbe) -> Board:
    """A board that outlives a command, for commands that run in this process."""

    def opened(uid: str | None, *, connect: Connect, frequency: int | None) -> Target:
        assert uid == SIM[1]
        return Target.behind(probe, connect=connect, frequency=frequency)

    monkeypatch.setattr(Target, "open", opened)
    board: Board = probe.board
    return board


def do(*arguments: str | Path, status: int = 0) -> Result:
    """Run a command in this process, on the board of `here`."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    found = getattr(result.exception, "exit_status", result.exit_code)
    assert found == status, (result.output, result.exception)
    return result


def in_flash(board: Board, address: int, length: int) -> bytes:
    if address >= 0x90000000:
        return board.nor.contents(address - 0x90000000, length)
    return bytes(board.flash.contents(Span.of(address, length)))


def parts(elf: Path) -> list[tuple[int, bytes]]:
    with elf.open("rb") as file:
        found = ELFFile(file).iter_segments("PT_LOAD")
        return [(s["p_paddr"], s.data()) for s in found if s["p_filesz"]]


def contents_of(elf: Path) -> bincopy.BinFile:
    file = bincopy.BinFile()
    for address, data in parts(elf):
        file.add_binary(data, address)
    return file


@pytest.fixture(params=["elf", "hex", "srec", "bin"])
def files(request: pytest.FixtureRequest, tmp_path: Path, demo_elf: Path) -> list[str]:
    """The same program in each form."""
    if request.param == "elf":
        return [str(demo_elf)]
    if request.param == "bin":
        names = []
        for address, data in parts(demo_elf):
            path = tmp_path / f"part-{address:08x}.bin"
            path.write_bytes(data)
            names.append(f"{path}@{address:#x}")
        return names
    path = tmp_path / f"app.{request.param}"
    contents = contents_of(demo_elf)
    path.write_text(contents.as_ihex() if request.param == "hex" else contents.as_srec())
    return [str(path)]


def test_a_program_in_any_form_comes_into_both_flashes(
    here: Board, files: list[str], demo_elf: Path
) -> None:
    do("flash", *SIM, *files)
    for address, data in parts(demo_elf):
        assert in_flash(here, address, len(data)) == data
    assert not here.core.halted
    assert "flash holds all" in do("verify", *SIM, *files).output
    before = dict(here.flash.programs)
    do("flash", *SIM, "--no-reset", *files)
    assert here.flash.programs == before


def test_in_a_log_each_device_has_a_line_for_each_thing_done(demo_elf: Path) -> None:
    lines = run("flash", "--probe", "sim", demo_elf).splitlines()
    assert "bank 1: programmed 544 bytes" in lines
    assert "qspi: verified 131072 bytes" in lines
    assert lines[-1].startswith("done: ")


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ("flash {elf}", ["bank 1", "bank 2", "qspi", "━"]),
        ("read 0x08000000 65536 -o {folder}/out.bin", ["out.bin", "━", "read", "65536 bytes of"]),
        ("verify {folder}/blank.bin@0x08000000", ["blank.bin", "━", "read", "flash holds all"]),
    ],
)
def test_on_a_terminal_each_device_or_file_has_a_bar(
    demo_elf: Path, tmp_path: Path, command: str, texts: list[str]
) -> None:
    (tmp_path / "blank.bin").write_bytes(b"\xff" * 40000)
    name, *rest = command.format(elf=demo_elf, folder=tmp_path).split()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*TOOL, name, *SIM, *rest],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    ) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += (more := os.read(ours, 4096))
            except OSError:  # how a terminal says that nobody is there any more
                break
            if not more:
                break
    os.close(ours)
    assert process.returncode == 0, said
    for text in (*texts, "\x1b["):
        assert text.encode() in said, said


def test_events_are_one_json_object_a_line(demo_elf: Path) -> None:
    events = [
        json.loads(line)
        for line in run("flash", *SIM, "--json", demo_elf).splitlines()
        if line.startswith("{")
    ]
    assert events[-1] == {"event": "done", "bytes": sum(len(d) for _, d in parts(demo_elf))}
    assert {e["region"] for e in events if e["event"] == "step"} == {"bank 1", "bank 2", "qspi"}


def test_a_failure_is_an_event_too(tmp_path: Path) -> None:
    said = run("flash", *SIM, "--json", tmp_path / "nothing.elf", status=2)
    event = json.loads(said.splitlines()[0])
    assert event["error"] == "nothing.elf cannot be read"
    assert event["because"] == [f"[Errno 2] No such file or directory: '{tmp_path}/nothing.elf'"]
    assert event["exit_status"] == 2


def test_a_dry_run_says_what_would_be_done_and_does_nothing(here: Board, demo_elf: Path) -> None:
    here.flash.load(0x08000000, bytes(64))
    lines = do("flash", *SIM, "--dry-run", demo_elf).output.splitlines()
    assert lines[:3] == [
        "bank 1 0x08000000-0x080fffff, by the flash controller: 1 of 1 sectors change",
        "  0x08000000-0x0801ffff  erase, program 544 bytes",
        "  about 1.0 s: 128 KiB to erase, 0.5 KiB to program",
    ]
    assert lines[-1] == (
        "all of it: about 1.0 s and what the link adds, "
        "because bank 1 takes longest and the others work meanwhile"
    )
    assert not here.flash.erases
    assert not here.flash.programs
    assert not here.nor.programs


def test_erase_all_erases_what_the_files_do_not_name_on_their_devices(
    here: Board, drills_elf: Path
) -> None:
    here.flash.load(0x080E0000, b"old")
    here.flash.load(0x08100000, b"old")
    do("flash", *SIM, "--erase-all", drills_elf)
    assert in_flash(here, 0x080E0000, 3) == b"\xff\xff\xff"
    touched = any(address >= 0x08100000 for address, _ in parts(drills_elf))
    assert in_flash(here, 0x08100000, 3) == b"old" or touched


@pytest.mark.parametrize(
    ("what", "erased"),
    [
        ("0x08020004", [0x08020000]),
        ("0x08020000+0x20001", [0x08020000, 0x08040000]),
        ("0x08020000-0x0803ffff", [0x08020000]),
        ("internal", [0x08020000, 0x08040000, 0x08100000]),
        ("all", [0x08020000, 0x08040000, 0x08100000, 0x90010000]),
        ("external", [0x90010000]),
    ],
)
def test_erase_erases_a_sector_a_range_or_a_device(
    here: Board, what: str, erased: list[int]
) -> None:
    everything = [0x08020000, 0x08040000, 0x08100000, 0x90010000]
    for address in everything:
        if address >= 0x90000000:
            here.nor.memory[0x10000:0x10003] = b"old"
        else:
            here.flash.load(address, b"old")
    do("erase", *SIM, what)
    assert [a for a in everything if in_flash(here, a, 3) != b"old"] == erased


def test_read_brings_any_memory_into_a_file(here: Board, tmp_path: Path) -> None:
    here.flash.load(0x080FFFF0, bytes(range(16)))
    here.flash.load(0x08100000, bytes(range(16, 32)))
    here.nor.memory[3:8] = b"hello"
    output = tmp_path / "out.bin"
    do("read", *SIM, "0x080ffff0", "32", "-o", output)
    assert output.read_bytes() == bytes(range(32))
    do("read", *SIM, "0x90000003", "5", "-o", output)
    assert output.read_bytes() == b"hello"
    do("read", *SIM, "0x5c001000", "4", "-o", output)
    assert int.from_bytes(output.read_bytes(), "little") & 0xFFF == 0x450


@pytest.mark.parametrize("how", [["--verify"], ["--verify", "digest"], ["--verify", "full"]])
def test_to_verify_can_be_asked_for_and_its_value_be_left_out(
    here: Board, tmp_path: Path, how: list[str]
) -> None:
    (tmp_path / "a.bin").write_bytes(b"firmware")
    said = do("flash", *SIM, *how, f"{tmp_path}/a.bin@0x08000000").output
    assert "done: 8 bytes are in flash and verified" in said
    assert here.flash.contents(Span.of(0x08000000, 8)) == b"firmware"


def test_verify_says_where_flash_holds_something_else(here: Board, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(64))
    here.flash.load(0x08000000, bytes(40) + b"\x01")
    result = do("verify", *SIM, f"{tmp_path}/a.bin@0x08000000", status=3)
    assert str(result.exception).startswith("flash does not hold a.bin: at 0x08000028 00 00")


def test_info_tells_option_bytes_and_contents(here: Board) -> None:
    here.flash.load(0x08020000, b"used")
    here.nor.memory[0x20000] = 0
    lines = do("info", *SIM).output.splitlines()
    assert "option bytes    read protection: level 0 (0xaa)" in lines
    assert "option bytes    boot address, BOOT0 low: 0x08000000" in lines
    assert "contents        bank 1, 1 of 8 sectors in use: 0x08020000-0x0803ffff" in lines
    assert "contents        qspi, 1 of 512 sectors in use: 0x90020000-0x9002ffff" in lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_brings_the_devices_to_rest(
    here: Board, demo_elf: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    here.flash.load(0x08000000, bytes(64))

    def step(_: object, step: Step) -> None:
        if step.action == "erased":
            signal.raise_signal(number)

    monkeypatch.setattr(progress.Reporter, "step", step)
    result = CliRunner().invoke(command, ["flash", *SIM, str(demo_elf)], standalone_mode=False)
    assert isinstance(result.exception, click.Abort)
    assert here.core.halted
    do("erase", *SIM, "0x08000000")  # the flash controller takes commands
    assert in_flash(here, 0x08000000, 64) == b"\xff" * 64


def test_an_interrupted_command_ends_without_a_traceback(demo_elf: Path) -> None:
    with subprocess.Popen(
        [*TOOL, "flash", "--probe", "sim", "--json", str(demo_elf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said


def test_reset_lets_the_program_run_or_holds_it(here: Board, drills_elf: Path) -> None:
    do("flash", *SIM, "--no-reset", drills_elf)
    assert here.core.halted
    do("reset", *SIM)
    assert not here.core.halted
    do("reset", *SIM, "--halt")
    assert here.core.halted


# --- Files that cannot be ------------------------------------------------------------------------


def bad_files(folder: Path, demo: Path) -> dict[str, tuple[str, str]]:
    """What is wrong -> the argument, and what is said of it."""
    contents = contents_of(demo)
    contents.execution_start_address = 0x08000000
    hex_lines, srec_lines = contents.as_ihex().splitlines(), contents.as_srec().splitlines()
    broken_line = hex_lines[3][:-1] + ("0" if hex_lines[3][-1] != "0" else "1")
    other = bytearray(demo.read_bytes())
    other[18:20] = (62).to_bytes(2, "little")  # e_machine: x86-64
    no_segments = bytearray(demo.read_bytes())
    no_segments[44:46] = bytes(2)  # e_phnum
    lost = bincopy.BinFile()
    lost.add_binary(b"lost", 0x20000000)
    texts = {
        "notes.txt": b"remember the milk",
        "empty.elf": b"",
        "x86.elf": bytes(other),
        "linked.elf": bytes(no_segments),
        "half.elf": demo.read_bytes()[: 0x1000 + 16],
        "header.elf": demo.read_bytes()[:20],
        "sum.hex": "\n".join([*hex_lines[:3], broken_line, *hex_lines[4:]]).encode(),
        "half.hex": "\n".join(hex_lines[:-1]).encode(),
        "half.srec": "\n".join(srec_lines[:-2]).encode(),
        "line.srec": "\n".join([*srec_lines[:5], srec_lines[5][:-7]]).encode(),
        "fewer.srec": "\n".join([*srec_lines[:3], *srec_lines[4:]]).encode(),
        "mixed.hex": b":00\xff\xfe",
        "ram.hex": lost.as_ihex().encode(),
        "data.bin": bytes(16),
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    return {
        "nothing.hex": ("nothing.hex", "nothing.hex cannot be read"),
        "a folder": (".", "cannot be read"),
        "notes": ("notes.txt", "notes.txt is no file that says where it goes"),
        "empty": ("empty.elf", "empty.elf is empty"),
        "x86": ("x86.elf", "x86.elf is for another processor: x64"),
        "no segments": ("linked.elf", "linked.elf has nothing to program in it"),
        "half an ELF": ("half.elf", "half.elf "),
        "an ELF header": ("header.elf", "header.elf is a broken ELF file"),
        "HEX checksum": ("sum.hex", "sum.hex is broken in line 4"),
        "HEX cut off": ("half.hex", "half.hex has been cut off: its end-of-file record"),
        "SREC cut off": ("half.srec", "half.srec has been cut off: its termination record"),
        "SREC cut in a line": ("line.srec", "line.srec is broken in line 6"),
        "SREC line lost": ("fewer.srec", "fewer.srec has "),
        "HEX with bytes": ("mixed.hex", "mixed.hex begins like a text file and has bytes in it"),
        "RAM": ("ram.hex", "ram.hex goes to 0x20000000-0x20000003, which is not in flash"),
        "an ELF with an address": (
            "half.elf@0x08000000",
            "half.elf says itself where it goes, and @0x08000000 says it, too",
        ),
        "HEX with an address": ("ram.hex@0x08000000", "ram.hex says itself where it goes"),
        "BIN without address": ("data.bin", "data.bin is no file that says where it goes"),
        "BIN, no address": ("data.bin@flash", "data.bin cannot go to 'flash': that is no address"),
        "BIN, too high": ("data.bin@0xfffffff8", "data.bin cannot go to 0xfffffff8"),
        "BIN, nowhere": ("data.bin@0x081ffff8", "data.bin goes to 0x081ffff8-0x08200007"),
    }


def test_a_file_that_cannot_be_is_refused_with_a_sentence_before_the_probe_is_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo_elf: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for what, (argument, says) in bad_files(tmp_path, demo_elf).items():
        for tool in ("flash", "verify"):
            # Were the probe touched, that one would be missed.
            result = do(tool, "--probe", "0669FF", argument, status=2)
            assert isinstance(result.exception, UsageError)
            assert says in str(result.exception), what
            assert result.exception.hint, what
            assert "\n" not in str(result.exception), what


def test_external_flash_without_a_loader_is_refused_with_the_option_to_give(
    tmp_path: Path,
) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(16))
    said = run("flash", f"{tmp_path}/data.bin@0x90000000", status=2)
    assert said.startswith(
        "error: data.bin goes to 0x90000000-0x9000000f, which is not in flash\n"
        "  hint: external flash needs its loader: give it with --extload; flash can be at "
    )


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        (0x00008000, "that is ITCM: has the linker got its script (-T)? flash can be at 0x08"),
        (0x20000000, "that is DTCM: is `AT> FLASH` missing in the linker script, or is this for"),
        (0x09000000, "the QSPI window is at 0x90000000, not 0x09000000; flash can be at 0x08"),
        (0x92000000, "external flash needs its loader: give it with --extload; flash can be at"),
        (0x08200000, "flash can be at 0x08000000-0x081fffff\n"),
    ],
)
def test_a_place_that_is_not_flash_is_told_for_what_it_is(
    tmp_path: Path, address: int, hint: str
) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(16))
    said = run("flash", "--probe", "0669FF", f"{tmp_path}/data.bin@{address:#x}", status=2)
    assert f"  hint: {hint}" in said


def test_headers_that_the_linker_put_before_the_code_are_no_part_of_the_program(
    here: Board, tmp_path: Path
) -> None:
    """An application behind a boot loader, in the same page of the linker's."""
    (tmp_path / "app.s").write_text(".word 0x20020000, 0x08000285")
    elf, boot = tmp_path / "app.elf", tmp_path / "boot.bin"
    subprocess.run(
        [
            *("arm-none-eabi-gcc", "-nostdlib", "-Wl,-Ttext=0x08000280,-e,0x08000284"),
            *("-Wl,-z,max-page-size=4096", tmp_path / "app.s", "-o", elf),
        ],
        check=True,
    )
    boot.write_bytes(b"boot" * 160)
    (segment,) = parts(elf)
    assert segment[0] == 0x08000000, "else this is a test of nothing"
    do("flash", *SIM, f"{boot}@0x08000000", elf)
    assert in_flash(here, 0x08000000, 0x280) == b"boot" * 160
    assert in_flash(here, 0x08000280, 4) == (0x20020000).to_bytes(4, "little")


def test_two_files_for_one_place_are_refused(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(bytes(16))
    said = run(
        *("flash", *SIM),
        *(f"{tmp_path}/a.bin@0x08000000", f"{tmp_path}/b.bin@0x08000008"),
        status=2,
    )
    assert "error: b.bin and a.bin both fill 0x08000008-0x0800000f" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("erase", "0x20000000"), "0x20000000-0x20000000 is not in flash"),
        (("erase", "everything"), "'everything' is no address"),
        (("erase", "0x08020000-0x08000000"), "ends before it begins"),
        (("read", "0x08000000", "0", "-o", "/dev/null"), "nothing to read in 0 bytes"),
        (("read", "0x08000000", "many", "-o", "/dev/null"), "'many' is no length"),
        (("read", "0x08000000", "4", "-o", "/nowhere/x"), "cannot write /nowhere/x"),
    ],
)
def test_what_cannot_be_erased_or_read(arguments: tuple[str, ...], says: str) -> None:
    assert says in run(arguments[0], *SIM, *arguments[1:], status=2)


def test_external_flash_that_is_not_there_cannot_be_erased() -> None:
    assert "there is no external flash" in run("erase", "external", status=2)
