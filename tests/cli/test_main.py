"""The command line, as a user meets it: a process, its output, its exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PINS = "CLK=PB2,NCS=PB6,IO0=PF8,IO1=PF9,IO2=PF7,IO3=PF6"
SERVER = [sys.executable, "-m", "gdbserver"]


def refuse(*arguments: str, status: int = 1) -> str:
    """Run the server where it cannot work; return what it says."""
    result = subprocess.run(
        [*SERVER, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in result.stderr
    assert result.returncode == status, result.stderr
    return result.stderr


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str], int]]:
    """A server that listens: the process, its lines up to then, and its port."""
    command = [*SERVER, "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line == "Waiting for debugger connection...\n":
                    break
            yield process, lines, int(lines[-2].removeprefix("Listening on port "))
        finally:
            process.terminate()


def ask(port: int, packet: bytes) -> bytes:
    """One command over a connection of its own."""
    with socket.create_connection(("localhost", port), timeout=30) as connection:
        connection.sendall(b"$%b#%02x" % (packet, sum(packet) & 0xFF))
        reply = b""
        while reply[-3:-2] != b"#":
            received = connection.recv(4096)
            assert received, f"closed after {reply!r}"
            reply += received
        return reply


def test_it_says_what_it_found_and_then_that_it_waits() -> None:
    with serving("--probe", "sim") as (process, lines, port):
        found = dict(line.split(None, 1) for line in lines[:2])
        assert found["probe"].endswith("(sim)")
        assert "0x450, revision V" in found["chip"]
        assert lines[2:5] == [
            "internal flash  2048 KiB, banks not swapped",
            "protection      RDP level 0, write-protected sectors: none",
            "external flash  qspi 0x90000000-0x91ffffff: JEDEC id EF4019, 32768 KiB, 64 MHz",
        ]
        assert lines[5:] == [f"Listening on port {port}", "Waiting for debugger connection..."]
        process.send_signal(signal.SIGTERM)  # the chip is blank: its core is left at 0xFFFFFFFE
        assert process.wait(30) == 0


def test_a_probe_of_the_port_is_not_a_client_and_the_last_client_ends_the_server() -> None:
    with serving("--probe", "sim") as (process, _, port):
        for _ in range(3):
            socket.create_connection(("localhost", port), timeout=30).close()
        assert b"PacketSize=" in ask(port, b"qSupported")
        assert process.wait(30) == 0


@pytest.mark.parametrize("program", ["main", "stlink"])
def test_a_signal_while_it_ends_does_not_change_the_exit_status(program: str) -> None:
    """IDEs and scripts end a server when they have left it, which may be about to end itself."""
    script = (
        "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM); "
        f"from gdbserver.cli.{program} import main; main()"
    )
    command = [sys.executable, "-c", script, "--version"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def test_a_persistent_server_stays(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    with serving("--probe", "sim", "--persistent", "--port-file", str(port_file)) as (_, _, port):
        assert port_file.read_text() == f"{port}\n"
        for _ in range(3):
            assert b"PacketSize=" in ask(port, b"qSupported")


def test_a_device_is_told_the_port_and_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with (
        subprocess.Popen(["cat", place], stdout=subprocess.PIPE, text=True) as reader,
        serving("--probe", "sim", "--port-file", str(place)) as (_, _, port),
    ):
        assert reader.communicate()[0] == f"{port}\n"
    assert place.is_fifo()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refuse("--probe", "sim", "--port", str(port))


def test_a_probe_that_is_not_there_is_named_with_a_way_out() -> None:
    assert refuse("--probe", "0669FF") == (
        "error: there is no debug probe '0669FF'\n"
        "  hint: none is connected; --probe sim is a simulated board\n"
    )


def test_no_probe_at_all() -> None:
    assert refuse() == (
        "error: no debug probe is connected\n  hint: --probe sim is a simulated board\n"
    )


def test_the_simulated_board_without_its_extra_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['unicorn'] = None; from gdbserver.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--probe", "sim", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (
        1,
        "error: the simulated board needs Unicorn\n  hint: pip install unicorn\n",
    )


def test_a_simulated_board_that_cannot_be_is_explained() -> None:
    said = refuse("--probe", "sim:stlink-v4")
    assert said.splitlines()[1] == (
        "  because: no such board as 'sim:stlink-v4': no link is called 'stlink-v4'; "
        "there are cmsis-dap-v1, cmsis-dap-v2, stlink-v2, stlink-v3, ideal"
    )


def test_a_nor_that_does_not_answer_is_told_with_its_pins() -> None:
    said = refuse(
        *("--probe", "sim", "--port", "0"),
        *("--qspi-pins", "CLK=PF10,NCS=PB6,IO0=PF8,IO1=PF9,IO2=PF7,IO3=PF6"),
    )
    assert "Init() returned 0x0 (expected 1)" in said
    assert "(expected 1); no NOR answers at CLK=PF10, NCS=PB6, IO0=PF8, IO1=PF9, IO2=PF7" in said
    assert "  hint: compare these pins with the schematic" in said
    assert "could not be left in order" not in said


@pytest.mark.parametrize(
    ("pins", "says"),
    [
        ("CLK=PB2", "QSPI pins lack NCS, IO0, IO1, IO2, IO3"),
        (PINS.replace("PB2", "PA0"), "CLK of the QUADSPI cannot be on PA0"),
        (PINS.replace("PB2", "PA0"), "hint: it can be on PB2, PF10"),
        (PINS + ",DQS=PC5", "the QSPI has no signal DQS"),
        (PINS.replace("PF8", "PH2"), "mixed from both banks"),
        ("CLOCK", "'CLOCK' is not SIGNAL=PIN"),
        (PINS + ",CLK=PF10", "CLK is given twice"),
    ],
)
def test_pins_that_cannot_be_are_explained(pins: str, says: str) -> None:
    assert says in refuse("--qspi-pins", pins, status=2)


def test_options_of_the_server_before_a_subcommand_are_refused() -> None:
    assert refuse("--port", "1", "loader", "info", "x.stldr", status=2) == (
        "error: --port stands before loader, where the server's options go\n"
        "  hint: put it behind: stm32-gdbserver loader --port ...\n"
    )


def test_pins_and_a_board_are_one_too_many() -> None:
    assert "give one" in refuse("--board", "sim", "--qspi-pins", PINS, status=2)


def test_a_board_that_nobody_knows() -> None:
    said = refuse("--board", "nucleo", status=2)
    assert said.startswith("error: there is no board nucleo")
    assert "weact-ministm32h743" in said


def test_a_board_means_our_own_loader() -> None:
    with serving("--probe", "sim", "--board", "sim") as (_, lines, _port):
        assert any("JEDEC id EF4019" in line for line in lines)


def test_a_frequency_that_is_none() -> None:
    assert "'fast' is no frequency" in refuse("--frequency", "fast", status=2)


def test_a_loader_that_is_not_there() -> None:
    assert "no external loader W25Q256.stldr" in refuse("--extload", "W25Q256.stldr", status=2)


def test_a_loader_that_is_no_elf_file_is_refused_by_name(tmp_path: Path) -> None:
    loader = tmp_path / "notes.stldr"
    loader.write_text("remember the milk")
    said = refuse("--extload", str(loader), status=2)
    assert said.startswith("error: loader notes.stldr is not an ELF file")


def test_a_port_file_that_cannot_be_written() -> None:
    said = refuse("--probe", "sim", "--port", "0", "--port-file", "/nowhere/port", status=2)
    assert "cannot write the port's number to /nowhere/port" in said


def test_a_locked_chip_is_refused_with_the_way_to_unlock_it() -> None:
    assert refuse("--probe", "sim:ideal,rdp=0x55") == (
        "error: the chip is read-protected (RDP level 1): its flash is out of reach\n"
        "  hint: set RDP back to level 0 (0xAA) with ST's programmer; that erases the whole flash\n"
    )


def test_swo_needs_the_clock_that_the_chip_does_not_tell() -> None:
    said = refuse("--probe", "sim", "--swo-port", "0", status=2)
    assert "--swo-port needs --swo-clock" in said
