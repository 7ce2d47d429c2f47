"""Our QSPI loader on the simulated board: every part, every state it may be found in.

The list follows what users of external loaders ran into: odd sizes, page, sector and 16 MiB
crossings, the device's last bytes, a second Init without a power cycle, a NOR left in another
mode by an application.
"""

from __future__ import annotations

import dataclasses
import functools
import random

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loader_bench import (
    BUFFER,
    BUILT,
    FOUND_ENTERED_4BYTE,
    FOUND_FLAG_STATUS,
    FOUND_QE_SET,
    FOUND_QUAD_FAILED,
    FOUND_SFDP,
    NO_ANSWER,
    NOR,
    NOT_ERASED,
    NOT_PROGRAMMED,
    OUT_OF_RANGE,
    READY,
    STACK,
    STUCK_BUSY,
    UNSUPPORTED,
    Bench,
)

from gdbserver.chip.cortex_m import Selector
from gdbserver.loader.file import STORAGE_INFO
from gdbserver.sim.board import BoardOptions
from gdbserver.sim.bus import Master
from gdbserver.sim.clock import MILLISECOND
from gdbserver.sim.nor_frames import Frame
from gdbserver.sim.nor_parts import PARTS
from gdbserver.sim.quadspi import QuadSpi

BLOCK = 0x10000
MIB = 1 << 20

QUAD_READ = dict.fromkeys(("W25Q64JV", "W25Q64JV-IM", "W25Q128JV", "W25Q128JV-IM"), 0xEB)
"""Of the small ones; others: ECh, with four address bytes."""


@functools.cache
def bench_for(part: str) -> Bench:
    """A bench after Init, shared by tests that leave no more behind than data in the NOR."""
    bench = Bench(BoardOptions(nor=part))
    assert bench.call("Init") == 1
    return bench


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def fill(bench: Bench, start: int, data: bytes) -> None:
    """Put bytes into the NOR's array, as if they had been programmed long ago."""
    bench.board.nor.memory[start : start + len(data)] = data


# --- Finding out --------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_init_finds_size_erase_sizes_and_quad_modes_of_every_part(part: str) -> None:
    bench = Bench(BoardOptions(nor=part))
    assert bench.call("Init") == 1
    found = bench.found
    assert found.status == READY
    assert found.jedec == int.from_bytes(PARTS[part].jedec_id[:3], "big")
    assert found.size == PARTS[part].size
    assert found.page_size == 256
    assert {0x1000, BLOCK} <= set(found.erase_sizes)
    assert (found.read_opcode, found.read_lines) == (QUAD_READ.get(part, 0xEC), 0x44)
    assert (found.program_opcode, found.program_lines) == (
        (0x32, 0x14) if part in QUAD_READ else (0x34, 0x14)
    )
    assert found.flags & FOUND_SFDP
    assert bool(found.flags & FOUND_FLAG_STATUS) == part.startswith("MT25Q")
    assert not bench.board.nor.four_byte, "the address mode is left as boot code expects it"


@pytest.mark.parametrize("part", PARTS)
def test_after_init_the_nor_can_be_read_as_memory_up_to_its_last_byte(part: str) -> None:
    bench = Bench(BoardOptions(nor=part))
    data = pattern(4096)
    last = PARTS[part].size - len(data)
    fill(bench, 0, data)
    fill(bench, last, data)
    assert bench.call("Init") == 1
    assert bench.read(NOR, len(data)) == data
    assert bench.read(NOR + last, len(data)) == data


def test_init_takes_less_than_a_hundredth_of_a_second() -> None:
    bench = Bench()
    assert bench.call("Init") == 1
    assert bench.seconds < 0.01


@pytest.mark.parametrize("part", ["W25Q256JV-IM", "IS25LP256D"])
def test_quad_enable_is_set_where_it_is_0_and_stays_set(part: str) -> None:
    bench = Bench(BoardOptions(nor=part))
    assert not bench.board.nor.vendor.quad_enabled
    assert bench.call("Init") == 1
    assert bench.found.flags & FOUND_QE_SET
    assert bench.board.nor.vendor.quad_enabled
    bench.board.nor.power_cycle()
    assert bench.board.nor.vendor.quad_enabled
    assert bench.call("Init") == 1
    assert not bench.found.flags & FOUND_QE_SET


@pytest.mark.parametrize("shift", range(4))
def test_the_clock_follows_what_hsi_is_divided_by(shift: int) -> None:
    bench = Bench()
    bench.board.bus.write(0x58024400, 4, 0x0000_0025 | shift << 3, Master.AP0)  # RCC_CR.HSIDIV
    assert bench.call("Init") == 1
    assert bench.found.clock_hz == 64_000_000 >> shift


def test_a_fast_core_clock_is_divided_down() -> None:
    bench = Bench()
    write = bench.board.bus.write
    write(0x58024428, 4, 4 << 4, Master.AP0)  # PLLCKSELR: HSI / 4 = 16 MHz
    write(0x58024430, 4, 1 << 16 | 1 << 9 | 24, Master.AP0)  # PLL1DIVR: x 25 / 2 = 200 MHz
    write(0x58024400, 4, 0x0100_0025, Master.AP0)  # CR: PLL1ON
    bench.board.run_until(bench.board.clock.now + MILLISECOND)
    write(0x58024410, 4, 3, Master.AP0)  # CFGR: PLL1 is the system clock
    assert bench.board.rcc.core_hz == 200_000_000
    fill(bench, 0, pattern(256))
    assert bench.call("Init") == 1
    prescaler = bench.board.quadspi[bench.board.quadspi.CR].PRESCALER
    assert 20_000_000 < bench.board.rcc.quadspi_hz / (prescaler + 1) < 66_000_000
    assert bench.call("SectorErase", NOR, NOR) == 1
    assert bench.program(0, pattern(300)) == 1
    assert bench.read(NOR, 300) == pattern(300)


def test_a_clock_given_in_the_config_is_not_exceeded() -> None:
    bench = Bench(config=config(PINS, clock_hz=10_000_000))
    assert bench.call("Init") == 1
    assert 9_000_000 < bench.found.clock_hz <= 10_000_000


def test_init_leaves_the_core_as_it_was() -> None:
    bench = Bench()
    assert bench.call("Init") == 1
    board = bench.board
    assert board.bus.read(0xE000E010, 4, Master.AP0) & 3 == 0, "SysTick"
    assert board.bus.read(0xE000ED08, 4, Master.AP0) == 0x08000000, "VTOR"
    assert board.core.read_register(Selector.SPECIAL) == 0, "PRIMASK, CONTROL"


def test_the_stack_stays_below_what_st_tools_give() -> None:
    bench = Bench()
    bench.write(STACK - 4096, b"\xa5" * 4096)
    for call in (("Init",), ("SectorErase", NOR, NOR), ("Write", NOR, 300, BUFFER)):
        assert bench.call(*call) == 1
    used = 4096 - next(i for i, b in enumerate(bench.read(STACK - 4096, 4096)) if b != 0xA5)
    assert used < 512  # they give 1 KiB


# --- Erasing and writing ------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_reads_back_and_nothing_else_changes(
    part: str, data: st.DataObject
) -> None:
    bench = bench_for(part)
    size = PARTS[part].size
    around = data.draw(st.sampled_from([0, BLOCK, size // 2, size - BLOCK]), "around")
    start = data.draw(st.integers(max(0, around - 700), min(size - 1, around + 700)), "start")
    length = data.draw(st.integers(0, min(1200, size - start)), "length")
    first, last = start // BLOCK, max(start, start + length - 1) // BLOCK
    image = pattern(length, seed=start)
    fill(bench, first * BLOCK, pattern((last - first + 1) * BLOCK, seed=2))
    outside = bench.board.nor.contents(max(0, first * BLOCK - 256), min(256, first * BLOCK))

    assert bench.call("SectorErase", NOR + first * BLOCK, NOR + last * BLOCK) == 1
    assert bench.program(start, image) == 1

    expected = bytearray(b"\xff") * ((last - first + 1) * BLOCK)
    expected[start - first * BLOCK :][:length] = image
    expected[start - first * BLOCK : start - first * BLOCK + length] = image
    assert bench.board.nor.contents(first * BLOCK, len(expected)) == expected
    assert bench.board.nor.contents(max(0, first * BLOCK - 256), len(outside)) == outside
    assert bench.read(NOR + start, length) == image


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1000])
def test_writes_of_any_length_cross_pages(length: int) -> None:
    bench = bench_for("W25Q256JV")
    fill(bench, 0, b"\xff" * 4096)
    image = pattern(length)
    assert bench.program(256 - 3, image) == 1
    assert bench.board.nor.contents(0, 4096) == b"\xff" * 253 + image + b"\xff" * (
        4096 - 253 - length
    )


@pytest.mark.parametrize("part", ["W25Q256JV", "MT25QL512ABB", "IS25LP256D"])
def test_a_write_crosses_the_16_mib_that_three_address_bytes_reach(part: str) -> None:
    bench = bench_for(part)
    image = pattern(600)
    start = 16 * MIB - 300
    first, last = NOR + 16 * MIB - BLOCK, NOR + 16 * MIB
    assert bench.call("SectorErase", first, last) == 1
    assert bench.program(start, image) == 1
    assert bench.board.nor.contents(start, len(image)) == image
    assert bench.board.nor.contents(0, 300) != image[300:]


def test_the_end_of_an_erase_is_the_last_sector_and_inclusive() -> None:
    bench = Bench()
    assert bench.call("Init") == 1
    fill(bench, 0, b"\0" * 4 * BLOCK)
    assert bench.call("SectorErase", NOR + BLOCK, NOR + 2 * BLOCK) == 1
    left = [bench.board.nor.contents(n * BLOCK, 1) == b"\0" for n in range(4)]
    assert left == [True, False, False, True]
    assert bench.board.nor.erases == {(BLOCK, BLOCK): 1, (2 * BLOCK, BLOCK): 1}


def test_addresses_inside_a_sector_mean_the_whole_sector() -> None:
    bench = Bench()
    assert bench.call("Init") == 1
    fill(bench, 0, b"\0" * 2 * BLOCK)
    assert bench.call("SectorErase", NOR + 5, NOR + BLOCK + 5) == 1
    assert bench.board.nor.contents(0, 2 * BLOCK) == b"\xff" * 2 * BLOCK


@pytest.mark.parametrize("part", ["W25Q64JV", "MT25QL512ABB"])
def test_mass_erase_erases_all(part: str) -> None:
    bench = Bench(BoardOptions(nor=part))
    fill(bench, 0, b"\0" * 256)
    fill(bench, PARTS[part].size - 256, b"\0" * 256)
    assert bench.call("Init") == 1
    assert bench.call("MassErase") == 1
    assert bench.board.nor.contents(0, 256) == b"\xff" * 256
    assert bench.board.nor.contents(PARTS[part].size - 256, 256) == b"\xff" * 256


def test_programming_keeps_up_with_the_page_program_time() -> None:
    bench = bench_for("W25Q256JV")
    fill(bench, 0, b"\xff" * BLOCK)
    assert bench.program(0, pattern(16 * 1024)) == 1
    assert bench.seconds < 64 * 0.7e-3 * 1.07


def test_read_checksum_and_verify_agree_with_the_array() -> None:
    bench = bench_for("W25Q256JV")
    image = pattern(1024)
    fill(bench, 0, image)
    assert bench.call("Read", NOR + 3, 500, BUFFER) == 1
    assert bench.read(BUFFER, 500) == image[3:503]
    assert bench.call("CheckSum", NOR + 1, 1001, 7) == 7 + sum(image[1:1002])
    bench.write(BUFFER, image)
    assert (bench.call("Verify", NOR, BUFFER, 256, 0), bench.high) == (0, sum(image))
    assert bench.call("Verify", NOR, BUFFER, 256, 2 << 16 | 1) == 0
    assert bench.high == sum(image[1:-2])
    bench.write(BUFFER + 700, bytes([image[700] ^ 1]) + image[701:704])
    assert bench.call("Verify", NOR, BUFFER, 256, 0) == NOR + 700


# --- States that a NOR may be found in -----------------------------------------------------


def continuous_read(bench: Bench) -> None:
    bench.board.nor.transfer(
        Frame(0xEC, 1, 0, 4, 4, alternate=0xA0, alternate_bytes=1, alternate_lines=4, dummy=4,
              data_lines=4, read=4)
    )  # fmt: skip


def four_byte_mode(bench: Bench) -> None:
    bench.board.nor.transfer(Frame(0x06))
    bench.board.nor.transfer(Frame(0xB7))


def power_down(bench: Bench) -> None:
    bench.board.nor.transfer(Frame(0xB9))


def quad_protocol(bench: Bench) -> None:
    bench.board.nor.transfer(Frame(0x35))
    assert bench.board.nor.protocol == 4


def upper_half_selected(bench: Bench) -> None:
    bench.board.nor.transfer(Frame(0x06))
    bench.board.nor.transfer(Frame(0xC5, write=b"\1"))


def mapped(bench: Bench) -> None:
    bench.read(NOR, 64)


def suspended_erase(bench: Bench) -> None:
    bench.board.nor.transfer(Frame(0x06))
    bench.board.nor.transfer(Frame(0x21, address=0x1FF0000, address_bytes=4))
    bench.board.run_until(bench.board.clock.now + MILLISECOND)
    bench.board.nor.transfer(Frame(0x75))
    bench.board.run_until(bench.board.clock.now + MILLISECOND)


@pytest.mark.parametrize(
    ("part", "leave"),
    [
        ("W25Q256JV", mapped),
        ("W25Q256JV", continuous_read),
        ("W25Q256JV", four_byte_mode),
        ("W25Q256JV", power_down),
        ("W25Q256JV", upper_half_selected),
        ("W25Q256JV", suspended_erase),
        ("IS25LP256D", continuous_read),
        ("IS25LP256D", four_byte_mode),
        ("IS25LP256D", power_down),
        ("IS25LP256D", quad_protocol),
        ("MT25QL512ABB", four_byte_mode),
        ("MT25QL512ABB", power_down),
        ("MT25QL512ABB", quad_protocol),
        ("MT25QL512ABB", upper_half_selected),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_nor_left_in_another_state_works_without_a_power_cycle(part: str, leave: object) -> None:
    bench = Bench(BoardOptions(nor=part))
    image = pattern(300)
    assert bench.call("Init") == 1
    leave(bench)  # type: ignore[operator]
    bench.board.run_until(bench.board.clock.now + MILLISECOND)
    assert bench.call("Init") == 1
    assert bench.found.status == READY
    assert bench.call("SectorErase", NOR, NOR) == 1
    assert bench.program(100, image) == 1
    assert bench.read(NOR + 100, 300) == image


def test_quad_protocol_and_power_down_together_are_left_too() -> None:
    bench = Bench(BoardOptions(nor="IS25LP256D"))
    assert bench.call("Init") == 1
    quad_protocol(bench)
    bench.board.nor.transfer(Frame(0xB9, 4))
    bench.board.run_until(bench.board.clock.now + MILLISECOND)
    assert bench.board.nor.powered_down
    assert bench.call("Init") == 1


def test_an_erase_under_way_is_allowed_to_end() -> None:
    bench = Bench()
    assert bench.call("Init") == 1
    fill(bench, 0, b"\0" * BLOCK)
    bench.board.nor.transfer(Frame(0x06))
    bench.board.nor.transfer(Frame(0xDC, address=0, address_bytes=4))
    assert bench.board.nor.busy
    assert bench.call("Init") == 1
    assert bench.board.nor.contents(0, BLOCK) == b"\xff" * BLOCK


# --- What cannot work -----------------------------------------------------------------------

PINS = [(1, 2, 9), (1, 6, 10), (5, 8, 10), (5, 9, 10), (5, 7, 9), (5, 6, 9)]


def config(pins: list[tuple[int, int, int]], bank: int = 1, clock_hz: int = 0) -> dict[str, object]:
    named = [{"port": port, "pin": pin, "function": function} for port, pin, function in pins]
    return {"bank": bank, "clock_hz": clock_hz, "pins": named}


def test_other_pins_work_when_the_board_and_the_config_agree() -> None:
    wires = {"CLK": "PF10", "NCS": "PG6", "IO0": "PD11", "IO1": "PD12", "IO2": "PE2", "IO3": "PD13"}
    pins = [(5, 10, 9), (6, 6, 10), (3, 11, 9), (3, 12, 9), (4, 2, 9), (3, 13, 9)]
    options = BoardOptions(qspi_pins=wires)
    bench = Bench(options, config=config(pins))
    assert bench.call("Init") == 1
    wrong = Bench(options)
    assert wrong.call("Init") == 0
    assert wrong.found.status == NO_ANSWER


@pytest.mark.parametrize("index", [4, 5])
def test_where_io2_or_io3_do_not_get_through_one_line_has_to_do(index: int) -> None:
    pins = list(PINS)
    pins[index] = (*PINS[index][:2], 12)
    bench = Bench(config=config(pins))
    bench.board.nor.memory[:4096] = bytes(range(256)) * 16
    assert bench.call("Init", seconds=1.0) == 1
    assert bench.found.read_lines == 0x11


@pytest.mark.parametrize("index", range(4))
def test_a_wrong_alternate_function_on_any_other_pin_fails_soon(index: int) -> None:
    pins = list(PINS)
    pins[index] = (*PINS[index][:2], 12)
    bench = Bench(config=config(pins))
    assert bench.call("Init", seconds=1.0) == 0
    assert bench.found.status == NO_ANSWER


def test_the_wrong_bank_fails() -> None:
    bench = Bench(config=config(PINS, bank=2))
    assert bench.call("Init", seconds=1.0) == 0


@pytest.mark.parametrize("part", ["W25Q256JV", "MT25QL512ABB", "IS25LP256D"])
@pytest.mark.parametrize(
    "call", [("SectorErase", NOR, NOR), ("Write", NOR, 256, BUFFER), ("MassErase",)],
    ids=lambda call: call[0],
)  # fmt: skip
def test_a_nor_that_stays_busy_ends_in_0_and_not_in_silence(
    part: str, call: tuple[str, int]
) -> None:
    bench = Bench(BoardOptions(nor=part))
    assert bench.call("Init") == 1
    bench.board.nor.stick_busy()
    assert bench.call(*call, seconds=1100) == 0
    assert bench.found.status == STUCK_BUSY
    assert bench.call("Init", seconds=10) == 0
    assert bench.found.status == STUCK_BUSY
    bench.board.nor.power_cycle()
    assert bench.call("Init") == 1


def test_protected_sectors_are_reported_as_not_erased() -> None:
    bench = Bench()
    bench.board.nor.transfer(Frame(0x06))
    bench.board.nor.transfer(Frame(0x01, write=bytes([0b0011100 << 0 | 0x3C])))
    bench.board.run_until(bench.board.clock.now + 20 * MILLISECOND)
    fill(bench, 0, b"\0" * BLOCK)
    assert bench.call("Init") == 1
    assert bench.found.status_registers & 0x3C == 0x3C
    assert bench.call("SectorErase", NOR, NOR) == 0
    assert (bench.found.status, bench.found.address) == (NOT_ERASED, 0)
    assert bench.read(NOR, 4) == b"\0" * 4, "still mapped"


def test_a_failure_in_the_flag_status_register_is_reported() -> None:
    bench = Bench(BoardOptions(nor="MT25QL512ABB"))
    assert bench.call("Init") == 1
    bench.board.nor.fail_cell(0x123)
    assert bench.program(0x100, b"\0" * 256) == 0
    assert (bench.found.status, bench.found.address) == (NOT_PROGRAMMED, 0x100)
    assert bench.program(0x200, b"\0" * 256) == 1, "the flags were cleared"


@pytest.mark.parametrize(
    "call",
    [
        ("Write", NOR + 32 * MIB - 1, 2, BUFFER),
        ("Write", NOR - 4, 4, BUFFER),
        ("SectorErase", NOR, NOR + 32 * MIB),
        ("SectorErase", NOR + BLOCK, NOR),
        ("Read", NOR + 32 * MIB, 1, BUFFER),
        ("Read", NOR, 0xFFFFFFFF, BUFFER),
    ],
)
def test_what_is_outside_the_nor_is_refused(call: tuple[str, int, int]) -> None:
    bench = bench_for("W25Q256JV")
    erases = dict(bench.board.nor.erases)
    assert bench.call(*call) == 0
    assert dict(bench.board.nor.erases) == erases
    assert bench.found.status in {OUT_OF_RANGE, READY}


@pytest.mark.parametrize("routine", ["Write", "SectorErase", "MassErase", "Read"])
def test_nothing_happens_before_init(routine: str) -> None:
    bench = Bench()
    assert bench.call(routine, NOR, 4, BUFFER) == 0
    assert not bench.board.nor.erases


@pytest.mark.parametrize("jedec", ["000000", "ffffff"])
def test_an_id_of_all_zeros_or_ones_is_no_answer(jedec: str) -> None:
    bench = Bench()
    bench.board.nor.jedec_id = bytes.fromhex(jedec)
    assert bench.call("Init") == 0
    assert bench.found.status == NO_ANSWER


def give_sfdp(bench: Bench, table: bytes) -> None:
    nor = bench.board.nor
    nor.part = dataclasses.replace(nor.part, sfdp=table)


def exercise(bench: Bench, start: int = 0) -> None:
    """Erase, write and read back, over a page boundary."""
    fill(bench, start & ~0xFFFF, b"\0" * BLOCK)
    assert bench.call("SectorErase", NOR + start, NOR + start) == 1
    assert bench.program(start + 100, pattern(500)) == 1
    assert bench.board.nor.contents(start + 100, 500) == pattern(500)
    assert bench.read(NOR + start + 100, 500) == pattern(500)


def test_a_part_without_four_byte_opcodes_is_put_into_four_byte_mode() -> None:
    """As W25Q256FV: the same JEDEC ID, and SFDP 1.0 with nine words."""
    bench = Bench()
    table = bytearray(bench.board.nor.part.sfdp)
    table[4], table[9], table[11] = 0, 0, 9
    give_sfdp(bench, bytes(table))
    assert bench.call("Init") == 1
    found = bench.found
    assert found.flags & FOUND_ENTERED_4BYTE
    assert (found.read_opcode, found.program_opcode) == (0xEB, 0x32)
    assert bench.board.nor.four_byte
    exercise(bench, 16 * MIB)
    assert bench.call("Init") == 1
    exercise(bench, 32 * MIB - BLOCK)


def test_a_small_part_without_sfdp_is_driven_on_one_line() -> None:
    bench = Bench(BoardOptions(nor="W25Q64JV"))
    give_sfdp(bench, b"\xff" * 256)
    assert bench.call("Init") == 1
    assert not bench.found.flags & FOUND_SFDP
    assert (bench.found.size, bench.found.read_lines) == (8 * MIB, 0x11)
    exercise(bench, 8 * MIB - BLOCK)


def test_a_large_part_without_sfdp_is_not_guessed_at() -> None:
    bench = Bench()
    give_sfdp(bench, b"\xff" * 256)
    assert bench.call("Init") == 0
    assert (bench.found.status, bench.found.jedec) == (UNSUPPORTED, 0xEF4019)


def test_a_board_with_only_two_data_lines_is_driven_on_one() -> None:
    bench = Bench()
    transfer = bench.board.nor.transfer

    def without_io3(frame: Frame) -> bytes:
        if frame.data_lines < 4:
            return transfer(frame)
        write = bytes(byte | 0x88 for byte in frame.write)
        return bytes(b | 0x88 for b in transfer(dataclasses.replace(frame, write=write)))

    bench.board.nor.transfer = without_io3  # type: ignore[method-assign]
    fill(bench, 0, pattern(BLOCK))
    assert bench.call("Init") == 1
    assert bench.found.flags & FOUND_QUAD_FAILED
    assert (bench.found.read_lines, bench.found.program_lines) == (0x11, 0x11)
    exercise(bench)


def test_the_other_id_of_the_same_part_is_accepted() -> None:
    bench = Bench()
    bench.board.nor.jedec_id = bytes.fromhex("ef7019")
    assert bench.call("Init") == 1


@pytest.mark.parametrize("part", PARTS)
def test_the_slowest_parts_that_datasheets_allow_are_waited_for(part: str) -> None:
    bench = Bench(BoardOptions(nor=part, timing="maximum"))
    fill(bench, 0, b"\0" * BLOCK)
    assert bench.call("Init") == 1
    assert bench.call("SectorErase", NOR, NOR) == 1
    assert bench.program(0, pattern(512)) == 1
    assert bench.read(NOR, 512) == pattern(512)


class Witness:
    """Before a device: counts what the core asks of it."""

    def __init__(self, device: QuadSpi) -> None:
        self._device = device
        self.data_ports = device.data_ports
        self.idle_writes = device.idle_writes
        self.accesses = 0

    def read(self, offset: int, size: int, master: Master) -> int:
        self.accesses += master is Master.CORE
        return self._device.read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self.accesses += master is Master.CORE
        self._device.write(offset, size, value, master)


def test_a_page_takes_few_accesses_to_the_quadspi() -> None:
    """64 are its data; what is left are three frames, and looks at SR while data passes."""
    bench = Bench()
    bus, witness = bench.board.bus, Witness(bench.board.quadspi)
    bus.devices = [
        (span, witness if device is bench.board.quadspi else device) for span, device in bus.devices
    ]
    assert bench.call("Init") == 1
    counts = []
    for pages in (1, 17):
        before = witness.accesses
        assert bench.program(256 * pages, pattern(256 * pages)) == 1
        counts.append(witness.accesses - before)
    assert 64 < (counts[1] - counts[0]) / 16 < 100


# --- The file -------------------------------------------------------------------------------


def test_the_file_is_what_st_tools_accept() -> None:
    with (BUILT / "qspi.stldr").open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_type"] == "ET_EXEC"
        symbols = {s.name: s for s in elf.get_section_by_name(".symtab").iter_symbols()}
        code, information = elf.iter_segments("PT_LOAD")
        storage = symbols["StorageInfo"]
        assert (storage["st_value"], storage["st_size"]) == (information["p_vaddr"], 200)
        parsed = STORAGE_INFO.parse(information.data())
    assert code["p_vaddr"] == 0x24000004
    assert code["p_filesz"] == code["p_memsz"], "nobody zeroes .bss"
    assert code["p_memsz"] < 8192
    for routine in ("Init", "Write", "SectorErase", "MassErase", "Read", "Verify", "CheckSum"):
        assert symbols[routine]["st_value"] & 1
    assert parsed.name.rstrip(b"\0") == b"qspi"
    assert (parsed.start, parsed.size, parsed.page_size) == (NOR, 32 * MIB, 256)
    groups = [(group.count, group.size) for group in parsed.sectors if group.count]
    assert groups == [(512, BLOCK)]
