"""ST-LINK_gdbserver, as IDEs meet it: launch lines, console, and the commands they send."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import gdb_batch

from gdbserver.cli.stlink_options import OPTIONS, ParseError, parse
from gdbserver.errors import UsageError

SERVER = [sys.executable, "-c", "from gdbserver.cli.stlink import main; main()"]
CP = ("-cp", "/opt/st/cubeprogrammer/bin")

# What each of them starts (all ask for port 0, for tests run side by side).
CUBE_IDE = ("-p", "0", "-l", "1", "-d", "-s", *CP, "-m", "0", "-k", "-i", "sim")
CORTEX_DEBUG = (
    *("-p", "0", *CP, "--swd", "--swo-port", "0", "--cpu-clock", "64000000"),
    *("--swo-clock-div", "32", "--serial-number", "sim", "--halt", "-m", "0"),
)
ZEPHYR = (
    *("--stm32cubeprogrammer-path", CP[1], "--port-number", "0", "--apid", "0"),
    *("--halt", "--swd", "--serial-number", "sim", "--external-init", "--extload", "builtin"),
)

# Something that has to go.
DIRT = (
    "maintenance packet vFlashErase:08000000,00020000",
    "maintenance packet vFlashErase:90000000,00010000",
    "maintenance packet vFlashWrite:8000000:old",
    "maintenance packet vFlashWrite:90000000:old",
    "maintenance packet vFlashDone",
)


class Server:
    """A process that serves, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def read_until(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(pattern, line, re.IGNORECASE):
                return match
        raise AssertionError("it ended; it said:\n" + "\n".join(self.lines))

    def finish(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(60)


@contextmanager
def starting(*arguments: str, program: Sequence[str] = SERVER) -> Iterator[Server]:
    with subprocess.Popen(
        [*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Server(process)
        finally:
            process.terminate()


@contextmanager
def serving(*arguments: str, program: Sequence[str] = SERVER) -> Iterator[tuple[Server, int]]:
    with starting(*arguments, program=program) as server:
        port = int(server.read_until(r"GDB server listening on port (\d+) \(core 0\)")[1])
        server.read_until("(Waiting for debugger connection|Listening at).*")
        yield server, port


def gdb(port: int, elf: Path, *commands: str) -> str:
    return gdb_batch(f"localhost:{port}", elf, *commands)


def refuse(*arguments: str) -> str:
    result = subprocess.run(
        [*SERVER, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in result.stderr
    assert result.returncode == 1, result.stderr
    return result.stderr


def test_cortex_debug_starts_it_loads_both_flashes_and_is_told_of_each_step(
    demo_elf: Path,
) -> None:
    with serving(*CORTEX_DEBUG) as (server, port):
        socket.create_connection(("localhost", port), timeout=30).close()  # is it there yet?
        said = gdb(
            port,
            demo_elf,
            "monitor reset",
            *DIRT,
            *("load", "monitor reset", "monitor halt"),
            *("tbreak main", "continue", "detach"),
        )
        assert "Temporary breakpoint 1, main ()" in said, said
        assert server.finish() == 0
    text = "\n".join(server.lines)
    assert text.count("Debugger connected") == 1
    for line in (
        "Starting server with the following options:",
        "        Persistent Mode            : Disabled",
        "        Logging Level              : 1",
        "        Listen Port Number         : 0",
        "        SWD Debug                  : Enabled",
        "Device ID   : 0x450",
        "Revision ID : Rev V",
        "Flash size  : 2 MBytes",
        "Device CPU  : Cortex-M7",
    ):
        assert line in server.lines, text
    milestones = (
        "Debugger connected",
        "Memory Programming ...",
        "Opening and parsing file: ",
        "File download complete",
        "Debugger connection lost.",
        "Shutting down...",
    )
    at = 0
    for milestone in milestones:
        assert milestone in text[at:], text
        at = text.index(milestone, at)
    for milestone in (  # in the order in which the devices get to it
        "Erasing internal memory sectors [0 8]",
        "Erasing external memory sectors [0 1]",
        "Download in Progress:",
    ):
        assert milestone in server.lines


def test_cortex_debug_sends_all_its_launch_commands_at_once(demo_elf: Path) -> None:
    launch = [
        *("-gdb-set mi-async on", f'-file-exec-and-symbols "{demo_elf}"'),
        "-target-select extended-remote localhost:{port}",
        '-interpreter-exec console "monitor reset"',
        "-target-download",
        '-interpreter-exec console "monitor reset"',
        '-interpreter-exec console "monitor halt"',
        *('-break-insert -t --function "main"', "-exec-continue --all"),
    ]
    with (
        serving(*CORTEX_DEBUG, "-k") as (server, port),
        subprocess.Popen(
            ["gdb-multiarch", "-q", "-nx", "--interpreter=mi2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("".join(f"{line}\n" for line in launch).format(port=port))
        client.stdin.flush()
        said = []
        for line in client.stdout:
            said.append(line)
            assert not line.startswith("^error"), "".join(said)
            if line.startswith('*stopped,reason="breakpoint-hit"'):
                break
        assert 'func="main"' in said[-1], "".join(said)
        client.stdin.write("-target-detach\n-gdb-exit\n")
        client.stdin.flush()
        assert server.finish() == 0


def test_what_flash_holds_already_is_not_programmed_again(demo_elf: Path) -> None:
    with serving(*CUBE_IDE, "-e", "-v") as (server, port):
        gdb(port, demo_elf, "monitor reset", "load", "disconnect")
        gdb(port, demo_elf, "load", "detach")
        server.read_until("Flash holds all of it already")
        server.read_until("Waiting for debugger connection...")
        server.process.send_signal(signal.SIGTERM)
        assert server.finish() == 0
    assert "        InitWhile                  : Enabled" in server.lines
    assert (
        "Note: -m (--apid) is accepted and changes nothing: "
        "the core of this chip is behind access port 0"
    ) in server.lines


def test_a_download_that_fails_says_so_in_their_words_and_why_in_ours(demo_elf: Path) -> None:
    with serving("-p", "0", "-i", "sim:ideal,nor=W25Q64JV") as (server, port):
        said = gdb(
            port,
            demo_elf,
            "maintenance packet vFlashErase:08000000,00020000",
            "maintenance packet vFlashWrite:08100000:abcd",
            "maintenance packet vFlashDone",
        )
        assert 'received: "E' in said
        server.read_until("Error: failed to download Segment")
        server.read_until("Error: failed to download the File")
        assert server.read_until("cause: (.*)")[1] == (
            "0x08100000-0x08100003 is written, but its sector 0x08100000-0x0811ffff of bank 2 "
            "is not erased"
        )


def test_after_a_reset_with_external_init_the_nor_can_be_read(demo_elf: Path) -> None:
    with serving(*ZEPHYR) as (_, port):
        said = gdb(port, demo_elf, "load", "monitor reset", "compare-sections", "detach")
        assert "the external flash can be read" in said
        assert said.count("matched") >= 4, said
        assert "MIS-MATCHED" not in said


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        (["-el", "builtin"], 1),
        (["-ei", "builtin"], 2),
        (["-el", "builtin:sim", "--external-init"], 2),
    ],
)
def test_a_loader_whose_init_is_run_makes_the_nor_readable_after_a_reset_too(
    options: list[str], looks: int, drills_elf: Path
) -> None:
    with serving("-p", "0", "-i", "sim", *options) as (server, port):
        assert any(
            line.startswith("External    : ") and "JEDEC id EF4019" in line for line in server.lines
        ), server.lines
        look = "x/1xw 0x90000000"
        said = gdb(port, drills_elf, look, "monitor reset", look, "detach")
        assert said.count("0x90000000:\t0xffffffff") == looks, said


@pytest.mark.parametrize(("kilohertz", "hertz"), [("1000", 1_000_000), ("9000", 8_000_000)])
def test_the_swd_clock_is_given_in_khz(kilohertz: str, hertz: int, drills_elf: Path) -> None:
    told = [sys.executable, str(Path(__file__).parent / "swd_clock.py")]
    options = ("-p", "0", "-i", "sim:stlink-v3", "--frequency", kilohertz)
    with serving(*options, program=told) as (server, port):
        gdb(port, drills_elf, "detach")
        assert server.finish() == 0
    assert f"SWD clock: {hertz}" in server.lines


def test_cube_ide_finds_an_st_part_behind_the_port(demo_elf: Path) -> None:
    with serving(*CUBE_IDE) as (_, port):
        said = gdb(
            port,
            demo_elf,
            "monitor ReadDP 0x0",
            "monitor WriteDP 0x2 0xF0",
            "monitor ReadAP 0x2",
            "monitor ReadAPEx 0x0 0xF8",
            "monitor WriteDP 2 0",
            "monitor readap 0",
            "monitor WriteAP 1 0x20000000",
            "monitor WriteAP 3 0x12345678",
            "output/x *(int*)0x20000000",
            "monitor ReadAP 4",
            "monitor vendor",
            "detach",
        )
    answers = [line for line in said.splitlines() if line.startswith("O.K.")]
    assert answers[:4] == ["O.K.:0x6ba02477", "O.K.", "O.K.:0xe00fe003", "O.K.:0xe00fe003"]
    assert "0x12345678" in said
    assert "there is no register 0x4: they are 0 to 3" in said


def test_erase_all_erases_the_devices_that_are_programmed(drills_elf: Path) -> None:
    with serving("-p", "0", "-i", "sim:ideal", "--erase-all") as (server, port):
        gdb(port, drills_elf, "load", "detach")
        assert server.finish() == 0
        assert (
            "Erasing internal memory sectors [0 7]" not in server.lines
        )  # all blank: nothing to do
        assert "Download in Progress:" in server.lines


@pytest.mark.parametrize("word", ["--frobnicate", "-x", "elf", "-ex"])
def test_an_unknown_option_in_their_words(word: str) -> None:
    said = refuse("-p", "61234", word)
    assert f"PARSE ERROR: Argument: {word}\n" in said
    assert "Couldn't find match for argument" in said


def test_a_probe_that_is_not_there() -> None:
    assert refuse("-p", "0", "-i", "0669FF").splitlines() == [
        "Error in initializing ST-LINK device.",
        "Reason: ST-LINK: 0669FF not found.",
        "  cause: there is no debug probe '0669FF'",
        "  hint: none is connected; -i sim is a simulated board",
    ]


def test_an_external_loader_that_is_not_there() -> None:
    assert refuse("-p", "0", "-i", "sim", "-el", "W25Q256.stldr").splitlines() == [
        "Error: no external loader W25Q256.stldr",
        "  hint: give the path of a .stldr file, or `builtin` for our own loader",
    ]


def test_an_external_loader_is_looked_for_where_cube_programmer_has_its_own(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "ExternalLoader"
    folder.mkdir()
    export = [sys.executable, "-m", "gdbserver", "loader", "export", str(folder / "mine.stldr")]
    subprocess.run(export, check=True, capture_output=True)
    with serving("-p", "0", "-i", "sim", "-cp", str(tmp_path), "-el", "mine.stldr") as (server, _):
        assert "        External Loader            : mine.stldr" in server.lines
        assert any(line.startswith("External    : ") for line in server.lines)


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refuse("-p", str(port), "-i", "sim")
    assert f"Failure starting GDB server: TCP port {port} not available." in said
    assert "hint: another server, perhaps an IDE's, has this port" in said


def test_a_locked_chip_says_why() -> None:
    said = refuse("-p", "0", "-i", "sim:ideal,rdp=0x55")
    assert "Error in initializing ST-LINK device." in said
    assert "RDP level 1" in said
    assert "hint: set RDP back to level 0" in said


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--help", "--stm32cubeprogrammer-path <folder>"),
        ("--version", "ST-LINK GDB server. Version 7.11.0"),
        ("--licenses", "MIT"),
        ("-q", "No debug probe detected."),
        ("--ext-memory-loaders", "builtin"),
        ("--memory-map=0x450", "0x08000000-0x080fffff  flash  bank 1"),
    ],
)
def test_a_list_is_printed_and_that_is_all(flag: str, says: str) -> None:
    result = subprocess.run([*SERVER, flag], capture_output=True, text=True, timeout=60, check=True)
    assert says in result.stdout


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.long)
def test_every_option_is_known_by_each_of_its_names(option) -> None:  # type: ignore[no-untyped-def]
    value = [] if option.takes is None else ["1"]
    if option.long == "config-file":
        value = ["/dev/null"]
    flags = [f"--{option.long}", *([f"-{option.short}"] if option.short else [])]
    for flag in flags:
        assert option.long in parse([flag, *value])
        if value:
            with pytest.raises(ParseError, match="Missing a value for this argument!"):
                parse([flag])


def test_a_loader_option_may_be_given_twice_and_what_follows_two_dashes_is_nothing() -> None:
    arguments = parse(["-el", "a.stldr", "--extload", "b c.stldr", "-ei=x", "--"][:4])
    assert arguments.all("extload") == ["a.stldr", "b c.stldr"]
    assert parse(["-e", "--", "-g"]).given == {"persistent": []}


@pytest.mark.parametrize("value", ["gdb", "-1", "65536"])
def test_a_port_that_is_none(value: str) -> None:
    with pytest.raises(ParseError, match=r"-p \(--port-number\)\n *Couldn't read argument value"):
        parse(["-p", value])


def test_a_config_file_stands_in_front_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "config.txt"
    file.write_text('# mine\n-p 61235\n-d\n-cp "C:\\Program Files\\ST"\n\n-el one.stldr\n')
    arguments = parse(["-c", str(file), "-p", "61236", "-el", "two.stldr"])
    assert arguments.number("port-number", 0) == 61236
    assert arguments.all("extload") == ["one.stldr", "two.stldr"]
    assert arguments.text("stm32cubeprogrammer-path") == "C:\\Program Files\\ST"
    assert "swd" in arguments
    with pytest.raises(UsageError, match="cannot read the config file /nowhere"):
        parse(["-c", "/nowhere"])
    assert refuse("-c", "/nowhere").splitlines() == [
        "Error: cannot read the config file /nowhere",
        "  because: [Errno 2] No such file or directory: '/nowhere'",
        "  hint: -c takes a text file with an option a line",
    ]


def test_attach_leaves_the_program_running_until_somebody_asks(drills_elf: Path) -> None:
    with serving("-p", "0", "-i", "sim", "-g", "--swd", "-el", "builtin") as (server, port):
        assert "        Attach Mode                : Enabled" in server.lines
        assert not any(line.startswith("External    : ") for line in server.lines)
        assert "$1 = " in gdb(port, drills_elf, "print/x $pc", "detach")
        assert server.finish() == 0


def test_the_log_goes_to_a_file_as_well(tmp_path: Path, drills_elf: Path) -> None:
    log = tmp_path / "debug.log"
    with serving("-p", "0", "-i", "sim:ideal", "-f", str(log), "-l", "31") as (server, port):
        assert f"        LogFile Name               : {log}" in server.lines
        gdb(port, drills_elf, "detach")
        assert server.finish() == 0
    assert "qSupported" in log.read_text()


def test_a_nor_that_does_not_answer_is_told_and_internal_flash_works(
    tmp_path: Path, drills_elf: Path
) -> None:
    pins = "CLK=PF10,NCS=PB6,IO0=PF8,IO1=PF9,IO2=PF7,IO3=PF6"
    loader = tmp_path / "other.stldr"
    export = [sys.executable, "-m", "gdbserver", "loader", "export", "--qspi-pins", pins]
    subprocess.run([*export, str(loader)], check=True, capture_output=True)
    with serving("-p", "0", "-i", "sim:ideal", "-el", str(loader)) as (server, port):
        place = server.lines.index("Failed to initialize external memory!")
        assert "Init() returned 0x0 (expected 1)" in server.lines[place + 1]
        assert any(line.startswith("  hint: ") for line in server.lines[place:])
        assert "Transfer rate" in gdb(port, drills_elf, "load", "detach")


def test_a_board_that_nobody_knows() -> None:
    assert "nobody" in refuse("-p", "0", "-i", "sim", "-el", "builtin:nobody")
