"""Our QSPI loader with two NORs side by side: one twice as large, of which each holds its half."""

from __future__ import annotations

import dataclasses
import functools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loader_bench import (
    BUFFER,
    FOUND_ENTERED_4BYTE,
    FOUND_QE_SET,
    FOUND_QUAD_FAILED,
    NO_ANSWER,
    NOR,
    NOT_ALIKE,
    NOT_ERASED,
    NOT_PROGRAMMED,
    QE_REFUSED,
    READY,
    STACK,
    STUCK_BUSY,
    Bench,
)

from gdbserver.chip.stm32h743 import QUADSPI_BANKS
from gdbserver.sim.board import BoardOptions
from gdbserver.sim.clock import MILLISECOND
from gdbserver.sim.nor_frames import Frame
from gdbserver.sim.nor_parts import PARTS

SECTOR = 0x20000  # 64 KiB of each
MIB = 1 << 20

PINS = {
    "CLK": "PB2",
    "NCS": "PG6",
    "IO0": "PF8",
    "IO1": "PF9",
    "IO2": "PF7",
    "IO3": "PF6",
    "BK2_IO0": "PH2",
    "BK2_IO1": "PH3",
    "BK2_IO2": "PG9",
    "BK2_IO3": "PG14",
}
FIRST = ("CLK", "NCS", "IO0", "IO1", "IO2", "IO3")
SECOND = ("BK2_IO0", "BK2_IO1", "BK2_IO2", "BK2_IO3", "BK2_NCS")


def config(pins: dict[str, str] = PINS, **more: object) -> dict[str, object]:
    def entry(signal: str) -> dict[str, int]:
        pin = pins.get(signal)
        if pin is None:
            return {"port": 0xFF, "pin": 0, "function": 0}
        table = QUADSPI_BANKS[2 if signal.startswith("BK2_") else 1]
        function = table[signal.removeprefix("BK2_")].get(pin, 12)
        return {"port": ord(pin[1]) - ord("A"), "pin": int(pin[2:]), "function": function}

    return {
        "bank": 3,
        "clock_hz": 0,
        "pins": [entry(signal) for signal in FIRST],
        "second": [entry(signal) for signal in SECOND],
        "sector_size": SECTOR,
        **more,
    }


def two(part: str, **options: object) -> Bench:
    """Two equal NORs, and a loader that knows it."""
    board = BoardOptions(nor=part, qspi_pins=PINS, **options)  # type: ignore[arg-type]
    return Bench(board, config=config())


@functools.cache
def bench_for(part: str) -> Bench:
    """A bench after Init, shared by tests that leave no more behind than data in the NORs."""
    bench = two(part)
    assert bench.call("Init") == 1
    return bench


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def fill(bench: Bench, start: int, data: bytes) -> None:
    """Put bytes into both arrays, as if they had been programmed long ago."""
    for number, nor in enumerate(bench.board.nors):
        half = data[(start + number) % 2 :: 2]
        at = (start + 1 - number) // 2
        nor.memory[at : at + len(half)] = half


def contents(bench: Bench, start: int, length: int) -> bytes:
    return bench.board.nor_contents(start, length)


# --- Finding out --------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_two_of_any_part_are_one_twice_as_large(part: str) -> None:
    bench = two(part)
    data = pattern(4096)
    last = 2 * PARTS[part].size - len(data)
    fill(bench, 0, data)
    fill(bench, last, data)
    assert bench.call("Init") == 1
    found = bench.found
    jedec = int.from_bytes(PARTS[part].jedec_id[:3], "big")
    assert (found.status, found.jedec, found.second_jedec) == (READY, jedec, jedec)
    assert (found.size, found.page_size) == (2 * PARTS[part].size, 512)
    assert {0x2000, SECTOR} <= set(found.erase_sizes)
    assert (found.read_lines, found.program_lines) == (0x44, 0x14)
    assert bench.read(NOR, len(data)) == data
    assert bench.read(NOR + last, len(data)) == data


def test_init_takes_less_than_a_hundredth_of_a_second() -> None:
    bench = two("W25Q256JV")
    assert bench.call("Init") == 1
    assert bench.seconds < 0.01


@pytest.mark.parametrize("already", [(), (0,), (1,)])
@pytest.mark.parametrize("part", ["W25Q256JV-IM", "IS25LP256D"])
def test_quad_enable_is_set_in_both_whoever_has_it_already(
    part: str, already: tuple[int, ...]
) -> None:
    bench = two(part)
    for number in already:
        nor = bench.board.nors[number]
        nor.transfer(Frame(0x06))
        nor.transfer(
            Frame(0x31, write=b"\x02") if part.startswith("W") else Frame(0x01, write=b"\x40")
        )
    bench.board.run_until(bench.board.clock.now + 20 * MILLISECOND)
    assert bench.call("Init") == 1
    assert bench.found.flags & FOUND_QE_SET
    assert all(nor.vendor.quad_enabled for nor in bench.board.nors)
    assert bench.call("Init") == 1
    assert not bench.found.flags & FOUND_QE_SET


def test_each_keeps_its_own_protection_when_quad_enable_is_set() -> None:
    bench = two("W25Q256JV-IM")
    bench.board.nors[1].transfer(Frame(0x06))
    bench.board.nors[1].transfer(Frame(0x01, write=b"\x3c"))
    bench.board.run_until(bench.board.clock.now + 20 * MILLISECOND)
    assert bench.call("Init") == 1
    assert bench.found.status_registers & 0x3C003C == 0x3C0000
    fill(bench, 0, bytes(SECTOR))
    assert bench.call("SectorErase", NOR, NOR) == 0
    found = bench.found
    assert (found.status, found.address, found.culprits) == (NOT_ERASED, 1, 0b10)


def test_a_chip_select_for_each_works_as_well() -> None:
    pins = {**PINS, "BK2_NCS": "PC11"}
    bench = Bench(BoardOptions(qspi_pins=pins), config=config(pins))
    assert bench.call("Init") == 1
    assert bench.program(0, pattern(600)) == 1
    assert contents(bench, 0, 600) == pattern(600)


def test_the_stack_stays_below_what_st_tools_give() -> None:
    bench = two("W25Q256JV-IM")
    bench.write(STACK - 4096, b"\xa5" * 4096)
    for call in (("Init",), ("SectorErase", NOR, NOR), ("Write", NOR + 1, 300, BUFFER)):
        assert bench.call(*call) == 1
    used = 4096 - next(i for i, b in enumerate(bench.read(STACK - 4096, 4096)) if b != 0xA5)
    assert used < 512  # they give 1 KiB


# --- Erasing and writing ------------------------------------------------------------------


@pytest.mark.parametrize("part", ["W25Q64JV", "W25Q256JV", "MT25QL512ABB", "IS25LP256D"])
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_reads_back_and_nothing_else_changes(
    part: str, data: st.DataObject
) -> None:
    bench = bench_for(part)
    size = 2 * PARTS[part].size
    around = data.draw(st.sampled_from([0, SECTOR, size // 2, size - SECTOR]), "around")
    start = data.draw(st.integers(max(0, around - 900), min(size - 1, around + 900)), "start")
    length = data.draw(st.integers(0, min(1600, size - start)), "length")
    first, last = start // SECTOR, max(start, start + length - 1) // SECTOR
    image = pattern(length, seed=start)
    fill(bench, first * SECTOR, pattern((last - first + 1) * SECTOR, seed=2))
    outside = contents(bench, max(0, first * SECTOR - 256), min(256, first * SECTOR))

    assert bench.call("SectorErase", NOR + first * SECTOR, NOR + last * SECTOR) == 1
    assert bench.program(start, image) == 1

    expected = bytearray(b"\xff") * ((last - first + 1) * SECTOR)
    expected[start - first * SECTOR : start - first * SECTOR + length] = image
    assert contents(bench, first * SECTOR, len(expected)) == expected
    assert contents(bench, max(0, first * SECTOR - 256), len(outside)) == outside
    assert bench.read(NOR + start, length) == image
    for number, nor in enumerate(bench.board.nors):
        half = expected[number::2]
        assert nor.contents(first * SECTOR // 2, len(half)) == half


@pytest.mark.parametrize("offset", [0, 1, 509, 510, 511])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 15, 16, 17, 255, 511, 512, 513])
def test_odd_ends_leave_their_neighbours_alone(offset: int, length: int) -> None:
    """They go in pairs, and the other of the pair may have been written before."""
    bench = bench_for("W25Q64JV")
    before = bytearray(pattern(2048, seed=9))
    before[256 + offset : 256 + offset + length] = b"\xff" * length
    fill(bench, 0, bytes(before))
    image = pattern(length)
    assert bench.program(256 + offset, image) == 1
    before[256 + offset : 256 + offset + length] = image
    assert contents(bench, 0, 2048) == before


def test_an_erase_is_of_the_same_sectors_in_both() -> None:
    bench = two("W25Q64JV")
    assert bench.call("Init") == 1
    fill(bench, 0, bytes(4 * SECTOR))
    assert bench.call("SectorErase", NOR + SECTOR + 5, NOR + 2 * SECTOR) == 1
    left = [contents(bench, n * SECTOR, 2) == b"\0\0" for n in range(4)]
    assert left == [True, False, False, True]
    wanted = {(0x10000, 0x10000): 1, (0x20000, 0x10000): 1}
    assert [dict(nor.erases) for nor in bench.board.nors] == [wanted, wanted]


def test_mass_erase_erases_both() -> None:
    bench = two("W25Q64JV")
    fill(bench, 0, bytes(256))
    fill(bench, 16 * MIB - 256, bytes(256))
    assert bench.call("Init") == 1
    assert bench.call("MassErase") == 1
    assert contents(bench, 0, 256) == b"\xff" * 256
    assert contents(bench, 16 * MIB - 256, 256) == b"\xff" * 256


def test_two_program_twice_as_fast_as_one() -> None:
    bench = bench_for("W25Q256JV")
    fill(bench, 0, b"\xff" * SECTOR)
    assert bench.program(0, pattern(32 * 1024)) == 1
    assert bench.seconds < 64 * 0.7e-3 * 1.07


def test_the_slowest_parts_that_datasheets_allow_are_waited_for() -> None:
    bench = two("MT25QL512ABB", timing="maximum")
    fill(bench, 0, bytes(SECTOR))
    assert bench.call("Init") == 1
    assert bench.call("SectorErase", NOR, NOR) == 1
    assert bench.program(0, pattern(1024)) == 1
    assert bench.read(NOR, 1024) == pattern(1024)


# --- States that they may be found in -------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("part", "frames"),
    [
        ("W25Q256JV", [Frame(0xEC, 1, 0, 4, 4, alternate=0xA0, alternate_bytes=1,
                             alternate_lines=4, dummy=4, data_lines=4, read=4)]),
        ("W25Q256JV", [Frame(0xB7)]),
        ("IS25LP256D", [Frame(0xB9)]),
        ("MT25QL512ABB", [Frame(0x35)]),
        ("MT25QL512ABB", [Frame(0x06), Frame(0x81, write=b"\x4b")]),
    ],
    ids=["continuous read", "four-byte mode", "power-down", "QPI", "dummy cycles"],
)  # fmt: skip
def test_one_left_in_another_state_is_brought_back_to_the_other_s(
    part: str, frames: list[Frame], number: int
) -> None:
    bench = two(part)
    assert bench.call("Init") == 1
    for frame in frames:
        bench.board.nors[number].transfer(frame)
    bench.board.run_until(bench.board.clock.now + MILLISECOND)
    assert bench.call("Init") == 1
    assert not bench.found.flags & FOUND_QUAD_FAILED
    assert bench.call("SectorErase", NOR, NOR) == 1
    assert bench.program(100, pattern(300)) == 1
    assert bench.read(NOR + 100, 300) == pattern(300)


def test_an_erase_under_way_in_one_is_allowed_to_end() -> None:
    bench = two("W25Q256JV")
    assert bench.call("Init") == 1
    nor = bench.board.nors[1]
    nor.memory[:0x10000] = bytes(0x10000)
    nor.transfer(Frame(0x06))
    nor.transfer(Frame(0xDC, address=0, address_bytes=4))
    assert nor.busy
    assert bench.call("Init") == 1
    assert nor.contents(0, 0x10000) == b"\xff" * 0x10000


# --- What cannot work -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_is_missing_is_named_soon(number: int) -> None:
    bench = two("W25Q256JV")
    bench.board.nors[number].lift_off()
    assert bench.call("Init", seconds=0.1) == 0
    found = bench.found
    assert (found.status, found.culprits) == (NO_ANSWER, 1 << number)
    assert [found.jedec, found.second_jedec][number] == 0xFFFFFF
    assert [found.jedec, found.second_jedec][1 - number] == 0xEF4019


def test_both_missing_are_both_named() -> None:
    bench = two("W25Q256JV")
    for nor in bench.board.nors:
        nor.lift_off()
    assert bench.call("Init", seconds=0.1) == 0
    assert (bench.found.status, bench.found.culprits) == (NO_ANSWER, 0b11)


@pytest.mark.parametrize("signal", ["BK2_IO0", "BK2_IO1"])
def test_a_wrong_pin_of_bank_2_is_the_second_that_does_not_answer(signal: str) -> None:
    wrong = {**PINS, signal: "PK1"}
    bench = Bench(BoardOptions(qspi_pins=PINS), config=config(wrong))
    assert bench.call("Init", seconds=0.1) == 0
    assert (bench.found.status, bench.found.culprits) == (NO_ANSWER, 0b10)


def test_two_different_parts_are_told_with_both_ids() -> None:
    bench = two("W25Q256JV", nor2="IS25LP256D")
    assert bench.call("Init") == 0
    found = bench.found
    assert (found.status, found.jedec, found.second_jedec) == (NOT_ALIKE, 0xEF4019, 0x9D6019)


def test_two_that_describe_themselves_differently_are_not_driven() -> None:
    """W25Q256FV and JV have one id, and not the same instructions."""
    bench = two("W25Q256JV")
    nor = bench.board.nors[1]
    table = bytearray(nor.part.sfdp)
    table[4], table[9], table[11] = 0, 0, 9
    nor.part = dataclasses.replace(nor.part, sfdp=bytes(table))
    assert bench.call("Init") == 0
    assert bench.found.status == NOT_ALIKE


def test_two_without_four_byte_opcodes_are_put_into_four_byte_mode() -> None:
    bench = two("W25Q256JV")
    for nor in bench.board.nors:
        table = bytearray(nor.part.sfdp)
        table[4], table[9], table[11] = 0, 0, 9
        nor.part = dataclasses.replace(nor.part, sfdp=bytes(table))
    assert bench.call("Init") == 1
    assert bench.found.flags & FOUND_ENTERED_4BYTE
    assert bench.call("SectorErase", NOR + 40 * MIB, NOR + 40 * MIB) == 1
    assert bench.program(40 * MIB + 1, pattern(700)) == 1
    assert contents(bench, 40 * MIB + 1, 700) == pattern(700)


def test_two_small_ones_without_sfdp_are_driven_on_one_line() -> None:
    bench = two("W25Q64JV")
    for nor in bench.board.nors:
        nor.part = dataclasses.replace(nor.part, sfdp=b"\xff" * 256)
    assert bench.call("Init") == 1
    assert (bench.found.size, bench.found.read_lines) == (16 * MIB, 0x11)
    assert bench.call("SectorErase", NOR, NOR) == 1
    assert bench.program(7, pattern(700)) == 1
    assert bench.read(NOR + 7, 700) == pattern(700)


@pytest.mark.parametrize(("part", "number"), [("W25Q256JV", 1), ("MT25QL512ABB", 0)])
@pytest.mark.parametrize(
    "call", [("SectorErase", NOR, NOR), ("Write", NOR, 256, BUFFER)], ids=lambda call: call[0]
)
def test_one_that_stays_busy_is_named(part: str, call: tuple[str, int], number: int) -> None:
    bench = two(part)
    assert bench.call("Init") == 1
    bench.board.nors[number].stick_busy()
    assert bench.call(*call, seconds=1100) == 0
    assert (bench.found.status, bench.found.culprits) == (STUCK_BUSY, 1 << number)
    assert bench.call("Init", seconds=10) == 0
    assert (bench.found.status, bench.found.culprits) == (STUCK_BUSY, 1 << number)
    bench.board.nors[number].power_cycle()
    assert bench.call("Init") == 1


@pytest.mark.parametrize("number", [0, 1])
def test_a_failure_in_one_flag_status_register_is_reported(number: int) -> None:
    bench = two("MT25QL512ABB")
    assert bench.call("Init") == 1
    bench.board.nors[number].fail_cell(0x123)
    assert bench.program(0x200, bytes(512)) == 0
    found = bench.found
    assert (found.status, found.address, found.culprits) == (NOT_PROGRAMMED, 0x200, 1 << number)
    assert bench.program(0x400, bytes(512)) == 1, "the flags were cleared"


def test_quad_enable_that_one_refuses_is_reported() -> None:
    bench = two("W25Q256JV-IM")
    nor = bench.board.nors[1]
    nor.transfer(Frame(0x06))
    nor.transfer(Frame(0x31, write=b"\x01"))  # SRL: locked until the power goes
    bench.board.run_until(bench.board.clock.now + 20 * MILLISECOND)
    assert bench.call("Init") == 0
    assert (bench.found.status, bench.found.culprits) == (QE_REFUSED, 0b10)


def test_one_bank_of_a_board_with_two_nors_can_be_used_alone() -> None:
    single = {**config(), "bank": 1, "sector_size": SECTOR // 2}
    bench = Bench(BoardOptions(qspi_pins=PINS), config=single)
    assert bench.call("Init") == 1
    assert bench.found.size == 32 * MIB
    assert bench.program(0, pattern(300)) == 1
    assert bench.board.nors[0].contents(0, 300) == pattern(300)
    assert bench.board.nors[1].contents(0, 300) == b"\xff" * 300
