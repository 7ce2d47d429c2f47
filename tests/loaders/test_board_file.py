"""Wiring: pins, board files, and our own loader told about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gdbserver.chip.stm32h743 import MIB
from gdbserver.errors import UsageError, explain
from gdbserver.loader.board_file import load_board, shipped, wired
from gdbserver.loader.file import CONFIG, LoaderFile
from gdbserver.loader.own import builtin, builtin_for, export, resized

PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}
BANK2 = {"CLK": "PF10", "NCS": "PC11", "IO0": "PE7", "IO1": "PE8", "IO2": "PE9", "IO3": "PE10"}

TWO = {**PINS, "BK2_IO0": "PH2", "BK2_IO1": "PH3", "BK2_IO2": "PG9", "BK2_IO3": "PG14"}
NO_PIN = (0xFF, 0, 0)

FILE = """
name = "A board of ours"
source = "its schematic"
[qspi]
{more}
pins = {{ CLK = "PB2", NCS = "PB6", IO0 = "PD11", IO1 = "PD12", IO2 = "PE2", IO3 = "PD13" }}
"""


def config(loader: LoaderFile) -> Any:
    start = loader.image.symbols["config"].address
    for address, data in loader.image.chunks:
        if address <= start < address + len(data):
            return CONFIG.parse(data[start - address :])
    raise AssertionError("config is in no chunk")


def test_pins_become_ports_numbers_and_alternate_functions() -> None:
    written = config(builtin(PINS))
    assert (written.bank, written.clock_hz, written.base) == (1, 0, 0x90000000)
    assert [(pin.port, pin.pin, pin.function) for pin in written.pins] == [
        *((1, 2, 9), (1, 6, 10), (5, 8, 10), (5, 9, 10), (5, 7, 9), (5, 6, 9))
    ]
    assert written.sector_size == 0x10000


def test_the_second_bank_is_known_by_its_pins() -> None:
    assert wired(BANK2).bank == 2
    assert config(builtin(BANK2)).bank == 2


def test_two_nors_side_by_side_are_known_by_their_pins() -> None:
    board = wired(TWO)
    assert (board.dual, board.place) == (True, "both banks of the QUADSPI (dual-flash mode)")
    written = config(builtin(TWO))
    assert (written.bank, written.sector_size) == (3, 0x20000)
    assert [(pin.port, pin.pin, pin.function) for pin in written.second] == [
        *((7, 2, 9), (7, 3, 9), (6, 9, 9), (6, 14, 9), NO_PIN)
    ]


def test_two_nors_are_one_device_with_sectors_and_pages_twice_as_large() -> None:
    region = builtin(TWO).region
    assert (region.groups, region.page_size) == (((512, 0x20000),), 512)
    assert resized(builtin(TWO), 128 * MIB).region.groups == ((1024, 0x20000),)


def test_one_nor_leaves_the_second_s_pins_alone() -> None:
    written = config(builtin(PINS))
    assert [(pin.port, pin.pin, pin.function) for pin in written.second] == [NO_PIN] * 5


@pytest.mark.parametrize(
    ("pins", "select", "second"),
    [
        ({"BK2_NCS": "PC11"}, (1, 6, 10), (2, 11, 9)),
        ({}, (1, 6, 10), NO_PIN),
        ({"NCS": "PC11"}, (2, 11, 9), NO_PIN),
    ],
)
def test_two_nors_share_either_chip_select_or_have_one_each(
    pins: dict[str, str], select: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    written = config(builtin({**TWO, **pins}))
    chosen = [written.pins[1], written.second[4]]
    assert [(pin.port, pin.pin, pin.function) for pin in chosen] == [select, second]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            {"BK2_IO3": "PF6"},
            ["BK2_IO3 of the QUADSPI cannot be on PF6", "hint: it can be on PE10, PG14"],
        ),
        (
            {"BK2_NCS": "PB6"},
            [
                "BK2_NCS of the QUADSPI cannot be on PB6",
                "hint: it can be on PC11; leave BK2_NCS out where one chip select serves both",
            ],
        ),
        (
            {"NCS": "PC11", "BK2_NCS": "PC11"},
            [
                "NCS of the QUADSPI cannot be on PC11",
                (
                    "hint: it can be on PB6, PB10, PG6; leave BK2_NCS out where one chip select "
                    "serves both"
                ),
            ],
        ),
        (
            {"BK2_CLK": "PF10"},
            [
                "the QSPI has no signal BK2_CLK",
                (
                    "hint: the signals of one NOR are CLK, NCS, IO0, IO1, IO2, IO3; a second one "
                    "beside it (dual-flash mode) adds BK2_IO0, BK2_IO1, BK2_IO2, BK2_IO3, and "
                    "BK2_NCS if it has a chip select of its own"
                ),
            ],
        ),
    ],
)
def test_pins_of_a_second_nor_that_cannot_be(change: dict[str, str], lines: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        builtin({**TWO, **change})
    assert list(explain(refused.value)) == lines


def test_a_second_nor_needs_all_four_of_its_lines() -> None:
    pins = {signal: pin for signal, pin in TWO.items() if signal != "BK2_IO2"}
    with pytest.raises(UsageError, match="QSPI pins lack BK2_IO2") as refused:
        builtin(pins)
    assert "BK2_IO0=PH2,BK2_IO1=PH3" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CLK": "PA0"}, "CLK of the QUADSPI cannot be on PA0"),
        ({"NCS": "PC11"}, "the QSPI pins are mixed from both banks of the QUADSPI"),
        ({"IO4": "PE7"}, "the QSPI has no signal IO4"),
    ],
)
def test_pins_that_cannot_be_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        builtin({**PINS, **change})


def test_a_missing_pin_is_named() -> None:
    with pytest.raises(UsageError, match="QSPI pins lack IO3"):
        builtin({signal: pin for signal, pin in PINS.items() if signal != "IO3"})


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_board_names_its_source_and_can_be_wired(name: str) -> None:
    board = load_board(name)
    assert board.name
    assert board.source
    assert board.nor
    assert builtin_for(board).region.span.start == 0x90000000


def test_a_board_file_says_size_and_clock(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(FILE.format(more='size = "8 MiB"\nmax_clock = "50 MHz"\nbank = 1'))
    loader = builtin_for(load_board(str(file)))
    assert loader.region.groups == ((128, 0x10000),)
    assert config(loader).clock_hz == 50_000_000


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('bank = "both"', "board ours.toml: qspi.bank is 1, 2 or 'dual', not 'both'"),
        ("bank = 2", "qspi.bank is 2, and the pins are those of bank 1 of the QUADSPI"),
        ('bank = "dual"', "qspi.bank is dual, and the pins are those of bank 1 of the QUADSPI"),
        (
            'bank = "dual"',
            (
                "hint: two NORs side by side have BK2_IO0, BK2_IO1, BK2_IO2, BK2_IO3 as well, and "
                "one has not"
            ),
        ),
        ("address = 0x70000000", "qspi.address is 0x70000000"),
        ("address = 0x70000000", "hint: the QUADSPI maps its NOR at 0x90000000 and nowhere else"),
        ('size = "9 MiB"', "no NOR has 9437184 bytes"),
        ('size = "eight"', "qspi.size cannot be 'eight'; try '8 MiB' or '50 MHz'"),
        ("speed = 1", "nobody knows qspi.speed"),
        ("size = true]", "ours.toml is not a board file"),
    ],
)
def test_a_board_file_that_says_what_cannot_be(tmp_path: Path, more: str, says: str) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(FILE.format(more=more))
    with pytest.raises(UsageError) as refused:
        load_board(str(file))
    assert any(says in line for line in explain(refused.value))


def test_a_board_that_is_not_known_is_answered_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="there is no board nucleo") as refused:
        load_board("nucleo")
    assert refused.value.hint is not None
    assert "weact-ministm32h743" in refused.value.hint


def test_an_exported_loader_is_one_for_st_s_tools(tmp_path: Path) -> None:
    """Name, size and pins are patched, and nothing else is different."""
    board = load_board("weact-ministm32h743")
    file = tmp_path / "W25Q64_WeAct.stldr"
    loader = export(board, file)
    assert (loader.name, loader.warnings) == ("W25Q64_WeAct", ())
    assert len(loader.region.span) == 8 * MIB
    assert loader.image.memory[0].start == 0x24000004
    assert config(loader) == config(builtin_for(board))
    assert loader.image.symbols == builtin_for(board).image.symbols


def test_an_exported_loader_for_two_nors_says_how_they_are_cut(tmp_path: Path) -> None:
    board = load_board("stm32h743i-eval")
    loader = export(board, tmp_path / "MT25TL01G_H743I-EVAL.stldr")
    assert loader.warnings == ()
    assert loader.region == replace(builtin_for(board).region, name="MT25TL01G_H743I-EVAL")
    assert (len(loader.region.span), loader.region.page_size) == (128 * MIB, 512)
    assert loader.region.groups == ((1024, 0x20000),)
    assert config(loader) == config(builtin_for(board))


@pytest.mark.parametrize("name", ["loader.elf", "W25Q256é.stldr", "x" * 100 + ".stldr"])
def test_names_that_st_s_tools_would_not_find_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a loader cannot be called"):
        export(load_board("sim"), tmp_path / name)
