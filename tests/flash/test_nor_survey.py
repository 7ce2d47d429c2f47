"""Which NOR answers, at which pins, and which one a name promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flash_bench import Bench, download

from gdbserver.loader.nor_survey import (
    Survey,
    describe,
    describe_quadspi,
    jedec_size,
    promised,
    survey,
)

PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "part", "mebibytes"),
    [
        ("W25Q256_STM32H743", "W25Q256", 32),
        ("DevEBox_W25Q64JV", "W25Q64", 8),
        ("MX25L25645G_H750", "MX25L25645G", 32),
        ("MT25QL512ABB", "MT25QL512", 64),
        ("MT25TL01G_STM32H743I-EVAL", "MT25TL01G", 128),
        ("is25lp128f", "is25lp128", 16),
        ("S25FL512S", "S25FL512", 64),
    ],
)
def test_a_name_promises_a_part_and_its_size(name: str, part: str, mebibytes: int) -> None:
    found = promised(name)
    assert found is not None
    assert (found.name, found.size) == (part, mebibytes * MIB)


@pytest.mark.parametrize("name", ["STM32H743_QSPI", "loader", "W25Q", "N25Q9999"])
def test_other_names_promise_nothing(name: str) -> None:
    assert promised(name) is None


@pytest.mark.parametrize(
    ("jedec", "size"),
    [(0xEF4019, 32 * MIB), (0xEF7017, 8 * MIB), (0x20BA20, 64 * MIB), (0xEF4020, 64 * MIB)],
)
def test_the_id_tells_the_size(jedec: int, size: int) -> None:
    assert jedec_size(jedec) == size


def test_pins_that_a_loader_has_not_set_up_are_named() -> None:
    found = Survey({"CLK": "PB2", "IO0": "PF8"}, 0xFFFFFF)
    told, what_to_do = describe(found, "W25Q256")
    assert told == (
        "the loader has not connected the NOR: no pin is set up as NCS, IO1, IO2, IO3 "
        "(there are CLK=PB2, IO0=PF8)"
    )
    assert what_to_do.startswith("the loader is for another board")


def test_an_unknown_name_is_asked_about() -> None:
    told, what_to_do = describe(Survey(PINS, 0xC22019), "loader")
    assert told.endswith("C2 20 19 (Macronix, 32 MiB)")
    assert what_to_do == "is that the NOR that the loader is for?"


def test_a_transfer_that_does_not_end_is_a_matter_of_the_clock() -> None:
    told, what_to_do = describe(Survey(PINS, None), "loader")
    assert told.startswith("the QUADSPI did not finish reading the NOR's id at CLK=PB2")
    assert "QSPISEL" in what_to_do


@pytest.mark.parametrize("part", ["W25Q256JV", "W25Q64JV", "MT25QL512ABB", "IS25LP256D"])
def test_the_nor_is_asked_through_the_pins_that_a_loader_left(
    bench_at: Callable[..., Bench], part: str
) -> None:
    bench = bench_at(f"sim:cmsis-dap-v2,nor={part}")
    bench.programmer.prepare_external_reads()
    found = survey(bench.target)
    assert found.pins == PINS
    assert found.jedec == int.from_bytes(bench.board.nor.jedec_id[:3], "big")


def test_without_a_clock_the_quadspi_is_only_described(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    assert describe_quadspi(bench.target) == "QUADSPI: its clock is off (RCC_AHB3ENR.QSPIEN)"
    assert survey(bench.target).pins == {}


def test_a_survey_does_not_keep_the_next_download_from_working(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    bench.programmer.prepare_external_reads()
    survey(bench.target)
    bench.carry_out(download((0x90000000, b"1234")))
