"""pyOCD's own tools on the simulated board: list, commander, gdbserver, flash algorithm."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyocd.core import exceptions
from pyocd.core.session import Session

from gdbserver.chip.stm32h743 import BANK1, BANK2, SECTOR
from gdbserver.sim.probe import SimProbe

GDB = shutil.which("gdb-multiarch")
WITHOUT_UNICORN = "import sys; sys.modules['unicorn'] = None\n"


def pyocd(*arguments: str, preamble: str = "") -> subprocess.CompletedProcess[str]:
    script = preamble + "import sys; from pyocd.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- list, commander ------------------------------------------------------------------------------


def test_pyocd_lists_the_board_and_its_target():
    listed = pyocd("list")
    assert listed.returncode == 0
    assert re.search(r"STM32H743 \+ W25Q256JV, simulated.* sim .*stm32h743xx", listed.stdout)


def test_commander_reads_registers_and_memory():
    told = pyocd(
        *("commander", "-u", "sim", "-t", "stm32h743xx", "--connect", "under-reset"),
        *("-c", "reg pc", "-c", "write32 0x24000000 0x600df00d", "-c", "read32 0x24000000 4"),
        *("-c", "read32 0x5c001000 4"),
    )
    assert told.returncode == 0
    assert "pc = 0x" in told.stdout
    assert "24000000:  600df00d" in told.stdout
    assert "5c001000:  20036450" in told.stdout


def test_commander_takes_the_target_from_the_board():
    told = pyocd("commander", "-u", "sim:cmsis-dap-v2,nor=W25Q128JV", "-c", "show target")
    assert told.returncode == 0
    assert "stm32h743xx" in told.stdout.lower()


def test_a_wrong_id_is_a_sentence_and_not_a_traceback():
    told = pyocd("commander", "-u", "sim:stlink-v9", "-c", "status")
    assert told.returncode != 0
    assert "no link is called 'stlink-v9'; there are cmsis-dap-v1" in told.stdout + told.stderr
    assert "Traceback" not in told.stderr


# --- Without Unicorn -----------------------------------------------------------------------------


def test_without_unicorn_pyocd_lists_other_probes_as_ever():
    listed = pyocd("list", preamble=WITHOUT_UNICORN)
    assert listed.returncode == 0
    assert "STM32H743" not in listed.stdout
    assert "Traceback" not in listed.stderr


def test_without_unicorn_the_board_says_what_to_install():
    told = pyocd("commander", "-u", "sim", "-c", "status", preamble=WITHOUT_UNICORN)
    assert told.returncode != 0
    assert "the simulated board needs Unicorn: pip install unicorn" in told.stdout + told.stderr
    assert "Traceback" not in told.stderr


# --- gdbserver ---------------------------------------------------------------------------------


@contextmanager
def pyocd_gdbserver(uid: str) -> Iterator[int]:
    """pyOCD's GDB server on some free port."""
    command = [sys.executable, "-m", "pyocd", "gdbserver", "-u", uid, "-t", "stm32h743xx"]
    options = ["-p", "0", "-T", "0", "-Oreset.hold_time=0.001", "-Oreset.post_delay=0.001"]
    with subprocess.Popen(
        [*command, *options, "--frequency", "24000000"], stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            said = ""
            for line in server.stderr:
                said += line
                if listening := re.search(r"GDB server listening on port (\d+)", line):
                    yield int(listening[1])
                    break
            else:
                pytest.fail(f"pyOCD's GDB server did not start:\n{said}")
        finally:
            server.terminate()
            server.communicate()


@pytest.mark.skipif(GDB is None, reason="needs gdb-multiarch")
@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_gdb_loads_a_program_and_stops_in_main(link: str, drills_elf: Path):
    assert GDB is not None
    with pyocd_gdbserver(f"sim:{link}") as port:
        script = (
            *("set confirm off", f"file {drills_elf}", f"target remote :{port}", "load"),
            *("compare-sections", "monitor reset halt", "break main", "continue", "detach"),
        )
        commands = [argument for line in script for argument in ("-ex", line)]
        gdb = subprocess.run(
            [GDB, "-q", "-nx", "-batch", *commands],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert "Start address" in gdb.stdout, gdb.stdout + gdb.stderr
    assert "MIS-MATCHED" not in gdb.stdout
    assert re.search(r"Breakpoint 1, main \(\) at .*drills\.c", gdb.stdout), gdb.stdout


# --- The flash algorithm ------------------------------------------------------------------------


@pytest.fixture
def session(probe: SimProbe) -> Iterator[Session]:
    options = {
        "target_override": "stm32h743xx",
        "connect_mode": "under-reset",
        "frequency": 24_000_000,
    }
    with Session(probe, options=options) as connected:
        yield connected


def erase_sector(session: Session, address: int) -> None:
    flash = session.target.memory_map.get_region_for_address(address).flash
    flash.init(flash.Operation.ERASE)
    flash.erase_sector(address)
    flash.cleanup()


def test_pyocds_own_algorithm_erases_the_next_sector_as_well(session: Session):
    """Its loop runs once more than it should: why this project erases by itself.

    pyOCD 0.46, target_STM32H743xx.py; the instructions there are what runs here.
    """
    board = session.probe.board
    for address in range(BANK1.start, BANK1.end, SECTOR):
        board.flash.load(address, b"keep me!")
    before = session.probe.monotonic()
    erase_sector(session, BANK1.start + SECTOR)
    assert sorted(board.flash.erases) == [BANK1.start + SECTOR, BANK1.start + 2 * SECTOR]
    assert session.probe.monotonic() - before == pytest.approx(2.0, rel=0.05)
    assert session.target.read_memory_block8(BANK1.start + 2 * SECTOR, 8) == [0xFF] * 8
    assert session.target.read_memory_block8(BANK1.start + 3 * SECTOR, 8) == list(b"keep me!")


def test_pyocds_own_algorithm_reaches_into_the_other_bank(session: Session):
    erase_sector(session, BANK1.end - SECTOR)
    erased = session.probe.board.flash.erases
    assert sorted(erased) == [BANK1.end - SECTOR, BANK2.start]


def test_pyocds_own_algorithm_programs_what_it_is_given(session: Session):
    flash = session.target.memory_map.get_region_for_address(BANK2.start).flash
    data = bytes(range(256)) * 4
    flash.init(flash.Operation.PROGRAM)
    flash.program_page(BANK2.start, data)
    flash.cleanup()
    board = session.probe.board
    assert bytes(board.flash.banks[1].cells.data[: len(data)]) == data
    assert board.flash.programs.total() == len(data) // 32


def test_programming_what_is_not_erased_is_found_when_it_is_read(session: Session):
    flash = session.target.memory_map.get_region_for_address(BANK2.start).flash
    flash.init(flash.Operation.PROGRAM)
    flash.program_page(BANK2.start, bytes(range(256)) * 4)
    flash.program_page(BANK2.start, bytes(range(1, 257 - 1)) * 4 + bytes(4))
    flash.cleanup()
    with pytest.raises(exceptions.TransferFaultError):
        session.target.read_memory_block32(BANK2.start, 8)
