"""Dual-flash mode: two NORs side by side, byte by byte in turns."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quadspi_driver import (
    AR,
    CCR,
    CR,
    DCR,
    DFM,
    DLR,
    DR,
    FCR,
    INDIRECT_READ,
    MAPPED,
    POLL,
    PSMAR,
    PSMKR,
    SMF,
    SR,
    TCF,
    TEF,
    WINDOW,
    Driver,
    ccr,
)

from gdbserver.sim.bus import BusError, BusStall, Master
from gdbserver.sim.clock import MILLISECOND

PART = "W25Q64JV"
SIZE = 16 << 20  # of two
CYCLE = 1_000_000_000 / 64_000_000
EN, FSEL, OR_MATCH, STOP_AT_MATCH = 1 << 0, 1 << 7, 1 << 23, 1 << 22

ID = ccr(0x9F, INDIRECT_READ, data=True)
QUAD_READ = ccr(0xEB, INDIRECT_READ, address=3, lines=(4, 4), data=True, dummy=6)
QUAD_MAP = ccr(0xEB, MAPPED, address=3, lines=(4, 4), data=True, dummy=6)
QUAD_PROGRAM = ccr(0x32, address=3, lines=(1, 4), data=True)
ERASE_4K = ccr(0x20, address=3)
STATUS = ccr(0x05, POLL, data=True)


@pytest.fixture
def driver() -> Driver:
    return Driver(PART, second=PART)


@functools.cache
def shared_driver() -> Driver:
    """One whose NORs' contents are all that tests leave behind."""
    return Driver(PART, second=PART)


def poll(driver: Driver, *, mask: int, match: int = 0, control: int = 0) -> None:
    driver.write(CR, EN | DFM | STOP_AT_MATCH | control)
    driver.write(PSMKR, mask)
    driver.write(PSMAR, match)
    driver.write(DLR, 1)
    driver.write(CCR, STATUS)


def wait_ready(driver: Driver) -> None:
    poll(driver, mask=0x0101)
    driver.wait(SMF)
    driver.write(FCR, SMF)


def program(driver: Driver, address: int, data: bytes) -> None:
    """An even number of bytes at an even address, within a page of both."""
    driver.command(0x06)
    driver.send(QUAD_PROGRAM, data, address)
    wait_ready(driver)


# --- Registers -------------------------------------------------------------------------------


def test_lengths_are_even_and_so_are_addresses(driver: Driver) -> None:
    driver.write(DLR, 4)
    driver.write(AR, 0x1235)
    assert (driver.read(DLR), driver.read(AR)) == (5, 0x1234)


def test_bits_that_stick_do_so_from_the_moment_that_the_mode_is_chosen(driver: Driver) -> None:
    driver.write(CR, EN)
    driver.write(DLR, 4)
    driver.write(AR, 0x1235)
    assert (driver.read(DLR), driver.read(AR)) == (4, 0x1235)
    driver.write(CR, EN | DFM)
    assert (driver.read(DLR), driver.read(AR)) == (5, 0x1234)


def test_the_mode_cannot_be_left_while_busy(driver: Driver) -> None:
    driver.write(DLR, 63)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0)
    driver.write(CR, EN)
    assert driver.read(CR) & DFM


def test_the_size_is_that_of_both(driver: Driver) -> None:
    driver.write(DLR, 1)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, SIZE - 2)
    driver.wait(TCF)
    driver.read(DR, 2)
    driver.write(AR, SIZE)
    assert driver.read(SR) & TEF


# --- Who hears, and who answers --------------------------------------------------------------


@pytest.mark.parametrize("bank", [0, FSEL])
def test_both_are_asked_at_once_whatever_bank_is_selected(driver: Driver, bank: int) -> None:
    driver.write(CR, EN | DFM | bank)
    driver.nors[2].jedec_id = bytes.fromhex("20ba20")
    assert driver.fetch(ID, 6) == bytes.fromhex("ef20 40ba 1720")


@pytest.mark.parametrize(("bank", "number"), [(0, 1), (FSEL, 2)])
def test_without_the_mode_one_is_asked(driver: Driver, bank: int, number: int) -> None:
    driver.nors[number].jedec_id = bytes.fromhex("20ba20")
    driver.write(CR, EN | bank)
    assert driver.fetch(ID, 3) == bytes.fromhex("20ba20")


def test_of_one_that_is_not_there_every_other_byte_is_ones(driver: Driver) -> None:
    driver.nors[2].lift_off()
    assert driver.fetch(ID, 6) == bytes.fromhex("efff 40ff 17ff")


def test_an_instruction_reaches_both(driver: Driver) -> None:
    driver.command(0x06)
    assert [nor.write_enabled for nor in driver.nors.values()] == [True, True]


def test_each_gets_half_the_address(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(CCR, ERASE_4K)
    driver.write(AR, 0x6000)
    driver.wait(TCF)
    assert [dict(nor.erases) for nor in driver.nors.values()] == [{(0x3000, 0x1000): 1}] * 2


def test_a_register_of_each_gets_its_own_byte(driver: Driver) -> None:
    """Even bytes go to the first, odd ones to the second, on one line as on four."""
    driver.command(0x06)
    driver.send(ccr(0x01, data=True), bytes([0x04, 0x08]))
    wait_ready(driver)
    assert driver.fetch(ccr(0x05, INDIRECT_READ, data=True), 2) == bytes([0x04, 0x08])


# --- Data ------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    start=st.integers(0, SIZE // 2 - 200).map(lambda half: 2 * half),
    data=st.binary(min_size=1, max_size=128).map(lambda half: half + half[::-1]),
)
def test_what_is_programmed_in_turns_is_read_in_turns(start: int, data: bytes) -> None:
    """Through the registers, through the window, and in the array of each NOR: its half."""
    driver = shared_driver()
    data = data[: 512 - start % 512]
    driver.array[start : start + len(data)] = b"\xff" * len(data)
    program(driver, start, data)
    assert driver.nors[1].contents(start // 2, len(data) // 2) == data[::2]
    assert driver.nors[2].contents(start // 2, len(data) // 2) == data[1::2]
    assert driver.fetch(QUAD_READ, len(data), start) == data
    driver.map(QUAD_MAP)
    assert bytes(driver.read(WINDOW + start + i, 1) for i in range(len(data))) == data
    driver.abort()


def test_a_page_is_two_pages_and_wraps_within_them(driver: Driver) -> None:
    data = random.Random(1).randbytes(64)
    program(driver, 512 - 32, data)
    assert bytes(driver.array[512 - 32 : 512]) == data[:32]
    assert bytes(driver.array[:32]) == data[32:]
    assert bytes(driver.array[512:544]) == b"\xff" * 32


def test_a_sector_is_two_sectors(driver: Driver) -> None:
    driver.array[:0x4000] = bytes(0x4000)
    driver.command(0x06)
    driver.write(CCR, ERASE_4K)
    driver.write(AR, 0)
    driver.wait(TCF)
    driver.write(FCR, TCF)
    wait_ready(driver)
    assert driver.array[:0x4000] == b"\xff" * 0x2000 + bytes(0x2000)


def test_two_bytes_take_the_time_of_one(driver: Driver) -> None:
    driver.write(DLR, 15)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0)
    driver.wait(TCF)
    # Chip select, instruction, address on four lines, dummies; then a byte per cycle.
    assert driver.clock.now == -int(-(1 + 8 + 6 + 6 + 16) * CYCLE // 1)


def test_bytes_arrive_in_pairs(driver: Driver) -> None:
    """On one line the first byte is not there before the second."""
    driver.write(DLR, 1)
    driver.write(CCR, ID)
    levels = []
    while not driver.read(SR) & TCF:
        levels.append(driver.read(SR) >> 8 & 0x3F)
        when = driver.clock.next_change()
        assert when is not None
        driver.clock.advance_to(when)
    assert set(levels) == {0}
    assert driver.clock.now == -int(-(1 + 8 + 8) * CYCLE // 1)


def test_a_byte_waits_in_the_fifo_for_the_one_that_goes_with_it(driver: Driver) -> None:
    driver.write(DLR, 3)
    driver.command(0x06)
    driver.write(CCR, QUAD_PROGRAM)
    driver.write(AR, 0)
    driver.write(DR, 0x12, 1)
    driver.clock.advance_to(driver.clock.now + MILLISECOND)
    assert driver.read(SR) >> 8 & 0x3F == 1
    driver.write(DR, 0x34, 1)
    driver.clock.advance_to(driver.clock.now + MILLISECOND)
    assert driver.read(SR) >> 8 & 0x3F == 0
    driver.write(DR, 0x7856, 2)
    driver.wait(TCF)
    wait_ready(driver)
    assert bytes(driver.array[:4]) == bytes.fromhex("12345678")


@pytest.mark.parametrize("threshold", [1, 2, 3, 8, 31, 32])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_threshold_and_width_moves_all_bytes(driver: Driver, threshold: int, size: int) -> None:
    data = random.Random(threshold).randbytes(120)
    driver.write(CR, EN | DFM | (threshold - 1) << 8)
    driver.command(0x06)
    driver.write(DLR, len(data) - 1)
    driver.write(CCR, QUAD_PROGRAM)
    driver.write(AR, 0x200)
    for at in range(0, len(data), size):
        driver.write(DR, int.from_bytes(data[at : at + size], "little"), size)
    driver.wait(TCF)
    driver.write(FCR, TCF)
    wait_ready(driver)
    driver.write(DLR, len(data) - 1)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0x200)
    words = [driver.read(DR, size) for _ in range(0, len(data), size)]
    assert b"".join(word.to_bytes(size, "little") for word in words) == data


def test_an_aborted_write_has_reached_both_or_neither(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(DLR, 63)
    driver.write(CCR, QUAD_PROGRAM)
    driver.write(AR, 0)
    for byte in (1, 2, 3):
        driver.write(DR, byte, 1)
    driver.clock.advance_to(driver.clock.now + MILLISECOND)
    driver.abort()
    wait_ready(driver)
    assert bytes(driver.array[:4]) == b"\x01\x02\xff\xff"


# --- Automatic polling -----------------------------------------------------------------------


def test_both_have_to_be_ready_where_all_bits_count(driver: Driver) -> None:
    driver.nors[2].stick_busy(now=True)
    poll(driver, mask=0x0101)
    driver.clock.advance_to(driver.clock.now + 10 * MILLISECOND)
    assert not driver.read(SR) & SMF
    driver.nors[2].power_cycle()
    driver.wait(SMF)


def test_one_of_them_is_enough_where_any_bit_counts(driver: Driver) -> None:
    driver.nors[2].stick_busy(now=True)
    poll(driver, mask=0x0101, control=OR_MATCH)
    driver.wait(SMF)
    assert driver.read(DR) & 0xFFFF == 0x0100


def test_a_mask_for_one_overlooks_the_other(driver: Driver) -> None:
    driver.nors[2].stick_busy(now=True)
    poll(driver, mask=0x0001)
    driver.wait(SMF)


def test_polling_sees_the_slower_one_become_ready(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(CCR, ERASE_4K)
    driver.write(AR, 0)
    driver.wait(TCF)
    driver.write(FCR, TCF)
    driver.nors[1].power_cycle()  # it is done early, in its way
    until = driver.nors[2].busy_until
    assert until is not None
    wait_ready(driver)
    assert driver.clock.now >= until


# --- Memory-mapped ---------------------------------------------------------------------------


def test_the_window_is_both_arrays_in_turns_and_plain_memory(driver: Driver) -> None:
    driver.array[0:8] = b"abcdefgh"
    driver.map(QUAD_MAP)
    direct = driver.quadspi.window.direct(0)
    assert direct is not None
    assert len(direct.memory) == SIZE - 0x1000  # where the last byte is not
    assert bytes(direct.memory[:8]) == b"abcdefgh"


@pytest.mark.parametrize("address", range(4))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_odd_addresses_can_be_read_where_it_is_mapped(
    driver: Driver, address: int, size: int
) -> None:
    driver.array[0:8] = b"abcdefgh"
    driver.map(QUAD_MAP)
    data = driver.read(WINDOW + address, size)
    assert data.to_bytes(size, "little") == b"abcdefgh"[address : address + size]


def test_the_window_ends_where_both_end(driver: Driver) -> None:
    driver.map(QUAD_MAP)
    driver.read(WINDOW + SIZE - 4)
    with pytest.raises(BusError):
        driver.read(WINDOW + SIZE)


def test_one_that_misunderstands_shifts_its_own_bytes_only() -> None:
    """As users find it when one of two parts was set to other dummy cycles."""
    data = random.Random(2).randbytes(64)
    driver = Driver("MT25QL512ABB", second="MT25QL512ABB")
    driver.array[:64] = data
    driver.write(CR, EN | FSEL)
    driver.command(0x06)
    driver.send(ccr(0x81, data=True), b"\x4b")
    driver.write(CR, EN | DFM)
    quad = ccr(0xEC, MAPPED, address=4, lines=(4, 4), data=True, dummy=10)
    driver.map(quad)
    assert driver.quadspi.window.direct(0) is None
    found = driver.bus.read_block(WINDOW, 64, Master.AP0)
    assert found[::2] == data[::2]
    assert found[1::2] != data[1::2]


def test_without_the_mode_the_window_shows_one_of_them(driver: Driver) -> None:
    driver.array[0:8] = b"abcdefgh"
    driver.write(CR, EN)
    driver.write(DCR, 22 << 16)
    driver.map(QUAD_MAP)
    assert driver.quadspi.window.direct(0) is None
    assert driver.read(WINDOW) == int.from_bytes(b"aceg", "little")


def test_two_parts_of_different_size_show_what_both_have() -> None:
    driver = Driver("W25Q128JV", second="W25Q64JV")
    driver.map(QUAD_MAP)
    direct = driver.quadspi.window.direct(0)
    assert direct is not None
    assert len(direct.memory) == SIZE


# --- Anything at all -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_happens_to_both(seed: int) -> None:
    """Transfers of any length, broken off anywhere: neither does what the other does not."""
    driver = Driver(PART, second=PART)
    numbers = random.Random(seed)

    def access(address: int, size: int = 4, value: int | None = None) -> None:
        try:
            if value is None:
                driver.bus.read(address, size, Master.CORE)
            else:
                driver.bus.write(address, size, value, Master.CORE)
        except BusStall as stall:
            driver.stall(stall)

    def let_pass(events: int) -> None:
        for _ in range(events):
            if (when := driver.clock.next_change()) is not None:
                driver.clock.advance_to(when)

    for _ in range(100):
        access(CR, 4, numbers.randrange(32) << 8 | EN | DFM | 2)
        access(CCR, 4, ccr(0x06))
        let_pass(1)
        opcode = numbers.choice((0x02, 0x0B, 0x20, 0x32))
        mode = INDIRECT_READ if opcode == 0x0B else 0
        access(DLR, 4, numbers.randrange(64))
        access(CCR, 4, ccr(opcode, mode, address=3, data=opcode != 0x20))
        access(AR, 4, numbers.randrange(0x400))
        for _ in range(numbers.randrange(40)):
            value = None if mode else numbers.getrandbits(32)
            size = numbers.choice((1, 2, 4))
            access(DR, size, value if value is None else value & (1 << 8 * size) - 1)
            let_pass(numbers.randrange(2))
        driver.read(SR)
        let_pass(numbers.randrange(4))
    first, second = driver.nors.values()
    assert (first.programs, first.erases) == (second.programs, second.erases)
    assert len(first.programs) > 1
    assert first.erases
