"""Core files, as a real GDB opens them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM, DTCM, RCC, SRAM1
from gdbserver.errors import BadRequest
from gdbserver.rsp.documents import target_description
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.core_dump import CoreDump
from gdbserver.target.scripts import ALWAYS, Script
from gdbserver.target.target import Target

BUS_FAULT, DIVIDE = 3, 5  # of enum drill


class Crashed:
    """A board that runs the drills, and their names."""

    def __init__(self, target: Target, elf: Path) -> None:
        self.target, self.elf = target, elf
        self.board: Any = target.link.probe.board
        with elf.open("rb") as stream:
            file = ELFFile(stream)
            for segment in file.iter_segments("PT_LOAD"):
                if segment["p_filesz"]:
                    self.board.flash.load(segment["p_paddr"], segment.data())
            table = file.get_section_by_name(".symtab")
            self.names = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
        target.reset(halt=True)

    def run_to_main(self) -> None:
        main = self.names["main"] & ~1
        self.target.set_breakpoint(BreakKind.HARDWARE, main, 2)
        self._run()
        self.target.clear_breakpoint(BreakKind.HARDWARE, main, 2)

    def crash(self, drill: int) -> None:
        self.target.write_word(self.names["drill"], drill)
        self._run()

    def _run(self) -> None:
        self.target.resume()
        deadline = self.target.deadline(1.0)
        while self.target.poll_stop() is None:
            assert not deadline.expired()


@pytest.fixture
def drills(drills_elf: Path) -> Iterator[Crashed]:
    target = Target.open("sim:ideal")
    try:
        yield Crashed(target, drills_elf)
    finally:
        target.close()


def save(target: Target, core: Path, also: Sequence[Span] = ()) -> None:
    dump = CoreDump(also)
    for _ in dump.read(target):
        pass
    dump.write(core, target_description)


def ask_gdb(elf: Path, core: Path, *commands: str) -> str:
    scripts = [part for command in commands for part in ("-ex", command)]
    gdb = ["gdb-multiarch", "-nx", "-batch", str(elf), "-c", str(core), *scripts]
    return subprocess.run(gdb, check=True, text=True, capture_output=True, timeout=60).stdout


def segments(core: Path) -> dict[Span, bytes]:
    with core.open("rb") as stream:
        return {
            Span.of(segment["p_vaddr"], segment["p_filesz"]): segment.data()
            for segment in ELFFile(stream).iter_segments("PT_LOAD")
        }


def test_gdb_finds_the_way_from_the_fault_back_to_main(drills: Crashed, tmp_path: Path) -> None:
    drills.run_to_main()
    drills.crash(BUS_FAULT)
    core = tmp_path / "board.core"
    save(drills.target, core)
    pc = drills.target.read_registers(["pc"])["pc"]
    said = ask_gdb(drills.elf, core, "bt", "p/x $pc", "p drill", "x/2xw 0xe000ed28")
    assert "terminated with signal SIGBUS" in said
    assert "bus_fault () at" in said
    assert "main () at" in said
    assert f"$1 = {pc:#x}" in said
    assert "$2 = BUS_FAULT" in said
    assert "0x00008200\t0x40000000" in said  # CFSR: BFARVALID, PRECISERR; HFSR: FORCED


@pytest.mark.parametrize("stops", [True, False])
def test_a_core_at_a_breakpoint_that_does_not_stop_it_is_one_that_runs(
    drills: Crashed, tmp_path: Path, stops: bool
) -> None:
    """In non-stop mode nobody has passed it yet, or told the client of it."""
    main = drills.names["main"] & ~1
    script = ALWAYS if stops else Script((bytes([0x22, 0, 0x27]),))  # a condition: 0
    drills.target.set_breakpoint(BreakKind.HARDWARE, main, 2, script)
    drills.target.resume()
    deadline = drills.target.deadline(1.0)
    while not drills.target.is_halted():
        assert not deadline.expired()
    core = tmp_path / "board.core"
    save(drills.target, core)
    assert (f"$1 = {main:#x}" in ask_gdb(drills.elf, core, "p/x $pc")) is stops
    assert drills.target.is_halted() is stops


def test_a_task_on_the_process_stack_is_a_thread_of_its_own(
    drills: Crashed, tmp_path: Path
) -> None:
    drills.run_to_main()
    drills.target.write_registers({"psp": DTCM.start + 0x8000, "control": 2})
    drills.crash(DIVIDE)
    core = tmp_path / "board.core"
    save(drills.target, core)
    said = ask_gdb(drills.elf, core, "info threads", "thread 2", "bt", "p/x $sp")
    assert "divide () at" in said.partition("Switching to thread 2")[2]
    assert "main () at" in said.partition("Switching to thread 2")[2]
    assert "$1 = 0x20007f" in said  # a little below the top of its stack


def test_every_byte_of_ram_is_what_the_board_has(drills: Crashed, tmp_path: Path) -> None:
    drills.target.write_memory(AXI_SRAM.start + 0x1000, bytes(range(256)) * 64)
    core = tmp_path / "board.core"
    save(drills.target, core)
    found = segments(core)
    assert found[AXI_SRAM] == drills.target.read_memory(AXI_SRAM.start, len(AXI_SRAM))
    assert found[AXI_SRAM][0x1000:0x5000] == bytes(range(256)) * 64
    assert any(SRAM1.start in span for span in found)
    assert found[Span.of(RCC, 0x160)] == drills.target.read_memory(RCC, 0x160)


def test_memory_that_is_asked_for_is_there_and_what_does_not_answer_is_left_out(
    drills: Crashed, tmp_path: Path
) -> None:
    vectors, nothing = Span.of(0x08000000, 64), Span.of(0x70000000, 0x1000)
    core = tmp_path / "board.core"
    save(drills.target, core, [vectors, nothing])
    found = segments(core)
    assert found[vectors] == drills.target.read_memory(vectors.start, 64)
    assert not any(len(span & nothing) for span in found)


def test_a_running_core_runs_on(drills: Crashed, tmp_path: Path) -> None:
    drills.target.resume()
    save(drills.target, tmp_path / "board.core")
    assert not drills.target.is_halted()


def test_a_halted_core_stays_where_it_was(drills: Crashed, tmp_path: Path) -> None:
    drills.run_to_main()
    before = drills.target.read_registers(["pc", "sp", "xpsr"])
    save(drills.target, tmp_path / "board.core")
    assert drills.target.is_halted()
    assert drills.target.read_registers(["pc", "sp", "xpsr"]) == before


def test_a_device_is_written_to_and_not_replaced(drills: Crashed, tmp_path: Path) -> None:
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with subprocess.Popen(["head", "-c", "4", place], stdout=subprocess.PIPE) as reader:
        with suppress(BadRequest):  # the reader leaves early
            save(drills.target, place)
        assert reader.communicate()[0] == b"\x7fELF"
    assert place.is_fifo()


def test_a_file_that_cannot_be_written_is_refused_by_name(drills: Crashed, tmp_path: Path) -> None:
    place = tmp_path / "nowhere" / "board.core"
    with pytest.raises(BadRequest, match=r"cannot write .*nowhere.board\.core: No such file"):
        save(drills.target, place)


def test_the_command_line_makes_one_without_a_reset(tmp_path: Path) -> None:
    core = tmp_path / "board.core"
    command = [sys.executable, "-m", "gdbserver", "coredump", "--probe", "sim", str(core)]
    done = subprocess.run(
        [*command, "--also", "0x1FF1E880+4"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].endswith(f"-c {core}")
    assert Span.of(0x1FF1E880, 4) in segments(core)
