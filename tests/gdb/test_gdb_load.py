"""`load` by a real GDB: what is in both flashes afterwards, byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from gdb_session import Session, debugging, segments, symbol

from gdbserver.chip.memory import Span
from gdbserver.sim.board import Board

NOR = 0x90000000
SECTOR, BLOCK = 128 * 1024, 64 * 1024

OLD = b"\x5a" * 32


def in_flash(board: Board, address: int, length: int) -> bytes:
    if address >= NOR:
        return board.nor.contents(address - NOR, length)
    return bytes(board.flash.contents(Span.of(address, length)))


def assert_loaded(here: Session) -> None:
    for address, data in segments(here.elf):
        assert in_flash(here.board, address, len(data)) == data, f"at {address:#010x}"


@pytest.mark.parametrize(
    "link", ["stlink-v2", "stlink-v3", "cmsis-dap-v1", "cmsis-dap-v2", "ideal"]
)
def test_one_load_brings_an_image_into_both_banks_and_the_nor(demo_elf: Path, link: str) -> None:
    with debugging(demo_elf, f"sim:{link}") as here:
        said = here.gdb.do("load")
        assert "Transfer rate" in said, said
        assert_loaded(here)
        said = here.gdb.do("compare-sections")
        assert said.count("matched") >= 4
        assert "MIS-MATCHED" not in said


@pytest.mark.parametrize(
    "nor", ["W25Q64JV", "W25Q128JV", "W25Q256JV-IM", "MT25QL512ABB", "IS25LP256D"]
)
def test_a_load_works_with_every_nor(demo_elf: Path, nor: str) -> None:
    with debugging(demo_elf, f"sim:stlink-v3,nor={nor}") as here:
        said = here.gdb.do("load")
        assert "Transfer rate" in said, said
        assert_loaded(here)


def test_what_gdb_did_not_name_stays(demo_elf: Path) -> None:
    elsewhere = [0x08000000 + SECTOR, 0x081E0000, NOR + 2 * BLOCK, NOR + 0x1FFFFE0]

    def prepare(board: Board) -> None:
        for address in elsewhere:
            if address >= NOR:
                board.nor.memory[address - NOR : address - NOR + len(OLD)] = OLD
            else:
                board.flash.load(address, OLD)

    with debugging(demo_elf, prepare=prepare) as here:
        here.gdb.do("load")
        assert_loaded(here)
        for address in elsewhere:
            assert in_flash(here.board, address, len(OLD)) == OLD


def test_old_contents_are_erased_once_and_a_second_load_has_nothing_to_do(demo_elf: Path) -> None:
    def prepare(board: Board) -> None:
        board.flash.load(0x08000000, bytes(1024))
        board.flash.load(0x08100000, bytes(1024))
        board.nor.memory[: 2 * BLOCK] = bytes(2 * BLOCK)

    with debugging(demo_elf, prepare=prepare) as here:
        board = here.board
        here.gdb.do("load")
        assert_loaded(here)
        assert board.flash.erases == {0x08000000: 1, 0x08100000: 1}
        assert board.nor.erases == {(0, BLOCK): 1, (BLOCK, BLOCK): 1}
        programs = dict(board.nor.programs)
        assert set(programs.values()) == {1}
        here.gdb.do("load")
        assert board.flash.erases == {0x08000000: 1, 0x08100000: 1}
        assert board.nor.erases == {(0, BLOCK): 1, (BLOCK, BLOCK): 1}
        assert dict(board.nor.programs) == programs


def test_load_then_continue_at_once_runs_the_new_program(demo_elf: Path) -> None:
    with debugging(demo_elf) as here:
        gdb = here.gdb
        gdb.do("load")
        assert symbol(here.elf, "Reset_Handler") & ~1 == int(value(here, "$pc"), 16)
        gdb.do("break main")
        said = gdb.do("continue")
        assert "Breakpoint 1, main ()" in said, said


def test_a_load_without_a_loader_for_the_nor_is_refused_before_anything_is_erased(
    demo_elf: Path,
) -> None:
    with debugging(demo_elf, loaders=[]) as here:
        said = here.gdb.do("load")
        assert "Error erasing flash" in said, said
        assert not here.board.flash.erases
        why = here.gdb.do("monitor why")
        assert "0x90000000-0x9001ffff is not in flash" in why, why
        assert "external flash needs its loader: give it with --extload" in why, why


def test_flash_erase_without_a_loader_erases_what_there_is(demo_elf: Path) -> None:
    with debugging(demo_elf, loaders=[]) as here:
        here.board.flash.load(0x08000000, b"something")
        here.gdb.do("flash-erase")
        assert here.board.flash.contents(Span.of(0x08000000, 9)) == b"\xff" * 9
        assert "nothing has failed" in here.gdb.do("monitor why")


@pytest.mark.parametrize("pages", [0, 1, 100, 380])
def test_a_gdb_that_dies_during_a_download_leaves_a_server_that_goes_on(
    demo_elf: Path, pages: int
) -> None:
    with debugging(demo_elf) as here:
        here.gdb.begin("load")
        here.gdb.wait_for("Loading section .vectors")
        here.wait_until(lambda: len(here.board.nor.programs) >= pages)
        here.gdb.kill()
        gdb = here.connect()
        said = gdb.do("load")
        assert "Transfer rate" in said, said
        assert_loaded(here)
        gdb.do("break main")
        assert "Breakpoint 1, main ()" in gdb.do("continue")


def test_flash_erase_erases_every_flash_of_the_map_and_no_register(demo_elf: Path) -> None:
    with debugging(demo_elf) as here:
        gdb = here.gdb
        gdb.do("load")
        here.board.flash.load(0x081FFF00, bytes(256))
        here.board.nor.memory[-256:] = bytes(256)
        gdb.do("break add")
        assert "Breakpoint 1, add (" in gdb.do("continue")
        gdb.do("set $r7 = 0x12345678")
        gdb.do("set $d7 = 1.5")
        before = gdb.do("info all-registers")
        said = gdb.do("flash-erase")
        # Two banks, the NOR, and the rest of both areas, where there is nothing to erase.
        assert said.count("Erasing flash memory region") == 5, said
        for address in (0x08000000, 0x081FFF00, NOR, NOR + 0x1FFFF00):
            assert in_flash(here.board, address, 256) == b"\xff" * 256, hex(address)
        gdb.do("flushregs")
        assert gdb.do("info all-registers") == before


def test_a_nor_that_does_not_take_the_data_fails_the_load_with_the_address(demo_elf: Path) -> None:
    def prepare(board: Board) -> None:
        board.nor.memory[0x1234] = 0
        board.nor.fail_cell(0x1234)

    with debugging(demo_elf, prepare=prepare) as here:
        said = here.gdb.do("load")
        assert "Transfer rate" not in said, said
        assert "0x9000" in here.gdb.do("monitor why")


def value(here: Session, expression: str) -> str:
    return (here.gdb.do(f"output/x {expression}")).strip()


@pytest.mark.parametrize("ending", ["kill", "detach"])
def test_a_load_without_a_program_is_refused_before_gdb_crashes(
    gdb_program: str, demo_elf: Path, ending: str
) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        here.gdb.do(ending)
        assert "Error erasing flash" in here.gdb.do("load")
        assert "attach 1, then load again" in here.gdb.do("monitor why")
        here.gdb.do("attach 1")
        assert "Transfer rate" in here.gdb.do("load")
        assert_loaded(here)
