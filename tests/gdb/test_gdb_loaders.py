"""`load` by a real GDB through external loaders from files, and what GDB is told when they fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fixture_loaders import build
from gdb_session import debugging, segments

from gdbserver.chip.memory import Span
from gdbserver.loader.file import LoaderFile
from gdbserver.sim.board import Board

NOR = 0x90000000


def loaders(*names: str) -> list[LoaderFile]:
    return [LoaderFile.load(build(name)) for name in names]


def in_flash(board: Board, address: int, length: int) -> bytes:
    if address >= NOR:
        return board.nor.contents(address - NOR, length)
    return bytes(board.flash.contents(Span.of(address, length)))


@pytest.mark.parametrize(
    "names",
    [("W25Q256_F8",), ("W25Q256_F2",), ("W25Q256",), ("W25Q256_LOWER", "W25Q256_UPPER")],
    ids=["a live tick", "movable data", "FLM", "two loaders"],
)
def test_a_mixed_image_is_loaded_and_runs(demo_elf: Path, names: tuple[str, ...]) -> None:
    def prepare(board: Board) -> None:
        board.flash.load(0x08000000, bytes(1024))
        board.nor.memory[:1024] = bytes(1024)

    with debugging(demo_elf, loaders=loaders(*names), prepare=prepare) as here:
        gdb = here.gdb
        said = gdb.do("load")
        assert "Transfer rate" in said, said
        for address, data in segments(here.elf):
            assert in_flash(here.board, address, len(data)) == data
        gdb.do("monitor reset halt")
        gdb.do("break main")
        said = gdb.do("continue")
        assert "Breakpoint 1, main ()" in said, said


def test_without_a_reset_the_loaded_program_runs_as_well(demo_elf: Path) -> None:
    """The loader's tick, vectors and clocks are gone when GDB says `continue`."""

    with debugging(demo_elf, loaders=loaders("W25Q256_F8_400_MHZ")) as here:
        here.gdb.do("load")
        here.gdb.do("break main")
        said = here.gdb.do("continue")
        assert "Breakpoint 1, main ()" in said, said


def test_a_loader_that_crashes_is_explained_by_monitor_why(demo_elf: Path) -> None:
    with debugging(demo_elf, loaders=loaders("W25Q256_F9_WRITE_UDF")) as here:
        said = here.gdb.do("load")
        assert "Transfer rate" not in said, said
        why = here.gdb.do("monitor why")
        assert "W25Q256_F9_WRITE_UDF.stldr crashed in Write(0x90000000," in why
        assert "undefined instruction at 0x24000004" in why
        assert "stacked: pc fault+0x0 (0x24000004), lr 0x2400001d" in why
        assert "QUADSPI: memory-mapped" in why


def test_a_loader_for_another_nor_is_told_with_both_ids(demo_elf: Path) -> None:
    with debugging(demo_elf, loaders=loaders("W25Q128_WRONG")) as here:
        here.gdb.do("load")
        why = here.gdb.do("monitor why")
        assert "Init() returned 0x0 (expected 1)" in why
        assert "JEDEC id is EF 40 19 (Winbond, 32 MiB)" in why
        assert "promises W25Q128 of 16 MiB" in why


def test_a_mistyped_address_is_refused_before_anything_is_erased(
    demo_elf: Path, tmp_path: Path
) -> None:
    elf = tmp_path / "typo.elf"
    command = ["arm-none-eabi-objcopy", "--change-section-address", ".nor=0x09000000"]
    subprocess.run([*command, demo_elf, elf], check=True, capture_output=True)

    def prepare(board: Board) -> None:
        board.flash.load(0x08000000, bytes(1024))

    with debugging(elf, loaders=loaders("W25Q256_F1"), prepare=prepare) as here:
        said = here.gdb.do("load")
        why = here.gdb.do("monitor why")
        assert "0x09000000-0x0901ffff is not in flash" in why
        assert "the QSPI window is at 0x90000000, not 0x09000000" in why
        assert "Transfer rate" not in said, said
        assert not here.board.flash.erases
        assert in_flash(here.board, 0x08000000, 1024) == bytes(1024)
