"""QUADSPI by register accesses, as a driver makes them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quadspi_driver import (
    ABR,
    AR,
    BASE,
    BUSY,
    CCR,
    CR,
    DCR,
    DLR,
    DR,
    FCR,
    FTF,
    INDIRECT_READ,
    LPTR,
    MAPPED,
    PIR,
    POLL,
    PSMAR,
    PSMKR,
    SMF,
    SR,
    TCF,
    TEF,
    TOF,
    WINDOW,
    Driver,
    ccr,
)

from gdbserver.chip.memory import Span
from gdbserver.sim.bus import BusError, BusStall, Master
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND
from gdbserver.sim.polling import AccessKind


@pytest.fixture
def driver() -> Driver:
    return Driver()


ID = ccr(0x9F, INDIRECT_READ, data=True)
READ = ccr(0x13, INDIRECT_READ, address=4, data=True)
QUAD_READ = ccr(0xEC, INDIRECT_READ, address=4, lines=(4, 4), data=True, dummy=6)
QUAD_MAP = ccr(0xEC, MAPPED, address=4, lines=(4, 4), data=True, dummy=6)
QUAD_PROGRAM = ccr(0x34, address=4, lines=(1, 4), data=True)
PROGRAM = ccr(0x12, address=4, data=True)
ERASE = ccr(0x21, address=4)
CYCLE = 1_000_000_000 / 64_000_000


def flags(driver: Driver) -> int:
    return driver.read(SR) & 0x3F


def level(driver: Driver) -> int:
    return driver.read(SR) >> 8 & 0x3F


def after(driver: Driver, cycles: float) -> int:
    """The first whole nanosecond at which so many cycles of CLK have passed since 0."""
    return -int(-cycles * CYCLE // 1)


# --- The short way ----------------------------------------------------------------------------


WRITES = st.lists(
    st.one_of(
        st.tuples(st.just(DR), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF)),
        st.tuples(
            st.sampled_from([FCR, DLR, ABR, PSMKR, PSMAR, PIR, LPTR]),
            st.just(4),
            st.integers(0, 0xFFFFFFFF),
        ),
    ),
    max_size=60,
)


@given(writes=WRITES, pauses=st.lists(st.integers(0, 900), min_size=60, max_size=60))
@settings(max_examples=40)
@pytest.mark.parametrize(("second", "busy"), [(None, True), (None, False), ("W25Q256JV", True)])
def test_the_short_way_of_a_write_does_what_the_long_way_does(
    writes: list[tuple[int, int, int]], pauses: list[int], second: str | None, busy: bool
) -> None:
    quick, slow = Driver(second=second), Driver(second=second)
    short = 0
    for driver in (quick, slow):
        driver.command(0x06)
        if busy:
            driver.write(DLR, 255)
            driver.write(CCR, QUAD_PROGRAM)
            driver.write(AR, 0)
            driver.write(DR, 0)
    for (register, size, number), pause in zip(writes, pauses, strict=False):
        value = number & (1 << 8 * size) - 1
        if quick.quadspi.quick_write(register - BASE, size, value) is None:
            quick.write(register, value, size)
        else:
            short += 1
        slow.write(register, value, size)
        for driver in (quick, slow):
            driver.clock.advance_to(driver.clock.now + pause)
        assert quick.quadspi.quick_read(SR - BASE, 4) == slow.read(SR)
        assert quick.clock.now == slow.clock.now
        assert quick.clock.next_change() == slow.clock.next_change()
    assert [quick.read(r) for r in (DLR, ABR, PSMKR, PSMAR, PIR, LPTR)] == [
        slow.read(r) for r in (DLR, ABR, PSMKR, PSMAR, PIR, LPTR)
    ]
    for driver in (quick, slow):
        driver.clock.advance_to(driver.clock.now + MILLISECOND)
    assert quick.read(SR) == slow.read(SR)
    assert quick.array[:256] == slow.array[:256]


def test_words_for_the_fifo_take_the_short_way_until_the_last(driver: Driver) -> None:
    driver.write(DLR, 31)
    driver.write(CCR, PROGRAM)
    driver.write(AR, 0)
    answers = []
    for _ in range(8):
        answers.append(driver.quadspi.quick_write(DR - BASE, 4, 0))
        if answers[-1] is None:
            driver.write(DR, 0)
        driver.clock.advance_to(driver.clock.now + MICROSECOND)
    assert answers == [None, *6 * [AccessKind.ACT], None]


# --- Indirect mode ----------------------------------------------------------------------------


def test_the_jedec_id_arrives_in_the_fifo(driver: Driver) -> None:
    assert driver.fetch(ID, 3) == bytes.fromhex("ef4019")
    assert not driver.read(SR) & BUSY


def test_a_command_takes_its_clocks() -> None:
    for prescaler in (0, 1, 9):
        driver = Driver(prescaler=prescaler)
        driver.write(CCR, ccr(0x06))
        assert flags(driver) == BUSY | FTF
        driver.wait(TCF)
        assert not driver.read(SR) & BUSY
        # Chip select one cycle before, eight of opcode, one after, one high.
        assert driver.clock.now == after(driver, 11 * (prescaler + 1))
        assert driver.nor.write_enabled


def test_a_status_that_is_read_by_software_costs_its_cycles_too(driver: Driver) -> None:
    driver.write(DLR, 0)
    driver.write(CCR, ccr(0x05, INDIRECT_READ, data=True))
    assert driver.read(DR, 1) == 0
    assert driver.clock.now == after(driver, 1 + 8 + 8)


def test_a_page_goes_in_and_is_polled_for(driver: Driver) -> None:
    data = bytes(range(256))
    driver.command(0x06)
    driver.send(QUAD_PROGRAM, data, 0x1234500)
    assert driver.nor.busy
    start = driver.clock.now
    driver.wait_ready()
    assert not driver.nor.busy
    assert 700 * MICROSECOND <= driver.clock.now - start < 702 * MICROSECOND
    assert driver.nor.contents(0x1234500, 256) == data


@pytest.mark.parametrize("size", [1, 2, 4])
def test_dr_takes_as_many_bytes_as_the_access_is_wide(driver: Driver, size: int) -> None:
    data = random.Random(size).randbytes(64)
    driver.command(0x06)
    driver.write(DLR, 63)
    driver.write(CCR, PROGRAM)
    driver.write(AR, 0x100)
    for at in range(0, 64, size):
        driver.write(DR, int.from_bytes(data[at : at + size], "little"), size)
    driver.wait(TCF)
    driver.wait_ready()
    driver.write(FCR, TCF)
    driver.write(DLR, 63)
    driver.write(CCR, READ)
    driver.write(AR, 0x100)
    back = b"".join(driver.read(DR, size).to_bytes(size, "little") for _ in range(0, 64, size))
    assert back == data


def test_a_store_into_a_full_fifo_waits_for_the_wires(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(DLR, 99)
    driver.write(CCR, PROGRAM)
    driver.write(AR, 0)
    for _ in range(8):
        driver.bus.write(DR, 4, 0x11223344, Master.CORE)
    assert level(driver) == 32
    start = driver.clock.now
    with pytest.raises(BusStall) as stall:
        driver.bus.write(DR, 4, 0x55667788, Master.CORE)
    # Chip select, opcode, address, and four bytes on one line.
    assert stall.value.ready - start == after(driver, 1 + 8 + 32 + 4 * 8)
    driver.clock.advance_to(stall.value.ready - 1)
    with pytest.raises(BusStall):
        driver.bus.write(DR, 4, 0x55667788, Master.CORE)
    driver.clock.advance_to(stall.value.ready)
    driver.bus.write(DR, 4, 0x55667788, Master.CORE)
    assert level(driver) == 32


def test_a_load_from_an_empty_fifo_waits_for_the_wires(driver: Driver) -> None:
    driver.nor.memory[0:4] = b"abcd"
    driver.write(DLR, 3)
    driver.write(CCR, READ)
    driver.write(AR, 0)
    with pytest.raises(BusStall) as stall:
        driver.bus.read(DR, 4, Master.CORE)
    assert stall.value.ready == after(driver, 1 + 8 + 32 + 32)
    assert driver.read(DR) == int.from_bytes(b"abcd", "little")


def test_a_read_stands_still_while_the_fifo_is_full(driver: Driver) -> None:
    driver.nor.memory[0:256] = bytes(range(256))
    driver.write(CR, 1 | 15 << 8)
    driver.write(DLR, 255)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0)
    driver.wait(FTF)
    assert level(driver) == 16
    driver.clock.advance_to(SECOND)
    assert level(driver) == 32
    assert flags(driver) == FTF | BUSY
    assert driver.clock.next_event is None
    assert driver.read(DR, 1) == 0
    driver.clock.advance_to(2 * SECOND)
    assert level(driver) == 31  # goes on when four are free
    assert [driver.read(DR, 1) for _ in range(3)] == [1, 2, 3]
    driver.clock.advance_to(3 * SECOND)
    assert level(driver) == 32
    assert bytes(driver.read(DR, 1) for _ in range(252)) == bytes(range(4, 256))
    assert flags(driver) == TCF


@pytest.mark.parametrize("writing", [False, True])
def test_whoever_waits_for_the_level_finds_an_event_for_each_byte(writing: bool) -> None:
    driver = Driver(prescaler=63)
    driver.write(DLR, 19)
    driver.write(CCR, PROGRAM if writing else READ)
    driver.write(AR, 0)
    if writing:
        for _ in range(4):
            driver.write(DR, 0)
    levels = [level(driver)]
    while level(driver) != (0 if writing else 20):
        when = driver.clock.next_change()
        assert when is not None
        driver.clock.advance_to(when)
        levels.append(level(driver))
    assert sorted(set(levels), reverse=writing) == list(dict.fromkeys(levels))
    assert len(set(levels)) == (17 if writing else 21)


def test_busy_stays_until_the_fifo_is_read_out(driver: Driver) -> None:
    driver.write(DLR, 2)
    driver.write(CCR, ID)
    driver.wait(TCF)
    assert flags(driver) == BUSY | TCF | FTF
    driver.write(DLR, 7)
    assert driver.read(DLR) == 2
    assert driver.read(DR) == 0x1940EF
    assert flags(driver) == TCF


def test_the_threshold_flag_follows_the_fifo(driver: Driver) -> None:
    driver.write(CR, 1 | 7 << 8)
    driver.write(DLR, 11)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0)
    driver.wait(FTF)
    assert level(driver) == 8
    for _ in range(8):
        driver.read(DR, 1)
    driver.wait(TCF)
    assert driver.read(SR) & FTF  # less than the threshold, but the last
    assert level(driver) == 4


def test_bit_4_of_the_threshold_cannot_be_set(driver: Driver) -> None:
    driver.nor.memory[0:256] = bytes(range(256))
    driver.write(CR, 1 | 0x16 << 8)
    assert driver.read(CR) == 1 | 0x06 << 8
    driver.write(CR, 1 | 31 << 8)  # "32 bytes", as drivers say; it is 16
    driver.write(DLR, 255)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0)
    driver.clock.advance_to(SECOND)
    assert level(driver) == 32
    found = bytearray()
    while len(found) < 256:
        driver.wait(FTF | TCF)
        found.append(driver.read(DR, 1))
    assert found == bytes(range(256))


def test_a_write_needs_its_data_to_start(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(DLR, 1)
    driver.write(CCR, PROGRAM)
    driver.write(AR, 0)
    assert flags(driver) == FTF
    driver.clock.advance_to(SECOND)
    driver.write(DR, 0x12, 1)
    assert driver.read(SR) & BUSY
    driver.clock.advance_to(2 * SECOND)
    assert not driver.nor.busy
    driver.write(DR, 0x34, 1)
    driver.wait(TCF)
    assert driver.nor.busy


def test_a_command_with_an_address_starts_with_the_address(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(CCR, ERASE)
    assert not driver.read(SR) & BUSY
    driver.write(AR, 0x1000)
    assert driver.read(SR) & BUSY
    driver.wait(TCF)
    assert driver.nor.erases == {(0x1000, 0x1000): 1}


def test_the_configuration_is_locked_while_busy(driver: Driver) -> None:
    driver.write(CCR, ccr(0x06))
    for register in (DCR, DLR, CCR, AR, ABR, PSMKR, PSMAR, PIR, LPTR):
        before = driver.read(register)
        driver.write(register, 0x55)
        assert driver.read(register) == before
    driver.write(CR, 0xFF << 24 | 1 << 22 | 5 << 8 | 1)
    assert driver.read(CR) == 5 << 8 | 1


def test_nothing_starts_while_disabled(driver: Driver) -> None:
    driver.write(CR, 0)
    driver.write(CCR, ccr(0x06))
    assert flags(driver) == 0


def test_all_ones_in_dlr_read_to_the_end_of_the_flash(driver: Driver) -> None:
    driver.nor.memory[-3:] = b"xyz"
    driver.write(DLR, 0xFFFFFFFF)
    driver.write(CCR, READ)
    driver.write(AR, (32 << 20) - 3)
    assert bytes(driver.read(DR, 1) for _ in range(3)) == b"xyz"
    assert flags(driver) == TCF


def test_an_address_beyond_the_flash_is_a_transfer_error(driver: Driver) -> None:
    driver.write(DLR, 0)
    driver.write(CCR, READ)
    driver.write(AR, 32 << 20)
    assert flags(driver) == TEF
    driver.write(FCR, TEF)
    assert flags(driver) == 0
    driver.write(DLR, 1)
    driver.write(AR, (32 << 20) - 1)
    assert flags(driver) == TEF


def test_abort_flushes_and_sets_tcf(driver: Driver) -> None:
    driver.write(DLR, 255)
    driver.write(CCR, QUAD_READ)
    driver.write(AR, 0)
    driver.clock.advance_to(SECOND)
    driver.write(CR, 3)
    assert driver.read(CR) == 1
    assert (flags(driver), level(driver)) == (TCF, 0)
    assert driver.clock.next_event is None


def test_an_aborted_write_reaches_the_nor_as_far_as_it_got(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(DLR, 255)
    driver.write(CCR, PROGRAM)
    driver.write(AR, 0)
    driver.write(DR, 0)
    driver.clock.advance_to(driver.clock.now + after(driver, 1 + 8 + 32 + 16))
    driver.write(CR, 3)
    assert driver.nor.busy
    driver.clock.advance_to(SECOND)
    assert driver.nor.contents(0, 4) == b"\0\0\xff\xff"


def test_a_reset_of_the_controller_leaves_the_nor_alone(driver: Driver) -> None:
    driver.command(0x06)
    driver.command(0xB7)
    driver.quadspi.reset()
    assert driver.read(CR) == driver.read(CCR) == 0
    assert driver.nor.write_enabled
    assert driver.nor.address_bytes == 4


def test_a_reset_in_the_middle_of_a_page_programs_what_had_passed(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(DLR, 255)
    driver.write(CCR, PROGRAM)
    driver.write(AR, 0)
    driver.write(DR, 0)
    driver.clock.advance_to(driver.clock.now + after(driver, 1 + 8 + 32 + 24))
    driver.quadspi.reset()
    driver.clock.advance_to(SECOND)
    assert driver.nor.contents(0, 4) == b"\0\0\0\xff"


def test_without_its_clock_the_controller_does_not_answer(driver: Driver) -> None:
    driver.gate(False)
    assert driver.read(CR) == 0
    driver.write(CR, 0)
    driver.gate(True)
    assert driver.read(CR) == 1


def test_without_a_kernel_clock_nothing_ends(driver: Driver) -> None:
    driver.hz = 0
    driver.write(CCR, ccr(0x06))
    assert driver.read(SR) & BUSY
    assert driver.clock.next_event is None


def test_without_pins_the_nor_neither_answers_nor_hears(driver: Driver) -> None:
    driver.wire(0)
    assert driver.fetch(ID, 3) == b"\xff\xff\xff"
    driver.command(0x06)
    assert not driver.nor.write_enabled
    driver.wire(4)
    assert driver.fetch(ID, 3) == bytes.fromhex("ef4019")


def test_two_lines_are_enough_for_what_needs_no_more(driver: Driver) -> None:
    driver.array[:4] = b"abcd"
    driver.wire(2)
    assert driver.fetch(ID, 3) == bytes.fromhex("ef4019")
    two_lines = ccr(0x3B, INDIRECT_READ, address=3, lines=(1, 2), data=True, dummy=8)
    assert driver.fetch(two_lines, 4, 0) == b"abcd"
    data_on_four = ccr(0x6C, INDIRECT_READ, address=4, lines=(1, 4), data=True, dummy=8)
    assert driver.fetch(data_on_four, 4, 0) == bytes(byte | 0xCC for byte in b"abcd")
    program = ccr(0x34, address=4, lines=(1, 4), data=True)
    driver.command(0x06)
    driver.send(program, b"0123", 0x100)
    driver.clock.advance_to(driver.clock.now + 1_000_000_000)
    assert driver.array[0x100:0x104] == bytes(byte | 0xCC for byte in b"0123")


def test_the_second_flash_is_not_on_this_board(driver: Driver) -> None:
    driver.write(CR, 1 << 7 | 1)
    assert driver.fetch(ID, 3) == b"\xff\xff\xff"


def test_double_data_rate_halves_the_data_phase(driver: Driver) -> None:
    driver.write(DLR, 15)
    driver.write(CCR, QUAD_READ | 1 << 31)
    driver.write(AR, 0)
    driver.wait(TCF)
    assert driver.clock.now == after(driver, 1 + 8 + 4 + 6 + 16)


@pytest.mark.parametrize(
    "wrong",
    [
        ccr(0xEC, INDIRECT_READ, address=4, lines=(4, 4), data=True, dummy=4),
        ccr(0xEC, INDIRECT_READ, address=4, lines=(1, 4), data=True, dummy=6),
        ccr(0xEC, INDIRECT_READ, address=4, lines=(4, 1), data=True, dummy=6),
        ccr(0xEC, INDIRECT_READ, address=3, lines=(4, 4), data=True, dummy=6),
        ccr(0xEB, INDIRECT_READ, address=4, lines=(4, 4), data=True, dummy=6),
        ccr(0x13, INDIRECT_READ, address=4, data=True, dummy=8),
    ],
)
def test_a_command_of_the_wrong_shape_reads_other_data(driver: Driver, wrong: int) -> None:
    data = random.Random(1).randbytes(32)
    driver.nor.memory[0x10:0x30] = data
    assert driver.fetch(QUAD_READ, 32, 0x10) == data
    assert driver.fetch(wrong, 32, 0x10) != data


def test_alternate_bytes_are_the_mode_bits(driver: Driver) -> None:
    driver.nor.memory[0:4] = b"abcd"
    value = ccr(0xEC, INDIRECT_READ, address=4, lines=(4, 4), data=True, dummy=4, alternate=True)
    driver.write(ABR, 0xA0)
    assert driver.fetch(value | 1 << 28, 4, 0) == b"abcd"  # SIOO: the opcode goes once
    driver.write(DLR, 3)
    driver.write(AR, 1)
    assert driver.read(DR) & 0xFFFFFF == int.from_bytes(b"bcd", "little")
    assert driver.fetch(ID, 3) != bytes.fromhex("ef4019")


# --- Interrupts -------------------------------------------------------------------------------


def test_transfer_complete_interrupts_until_cleared(driver: Driver) -> None:
    driver.write(CR, 1 | 1 << 17)
    driver.write(CCR, ccr(0x06))
    assert driver.irqs == []
    when = driver.clock.next_change()
    assert when is not None
    driver.clock.advance_to(when)
    assert driver.irqs == [(92, True)]
    driver.write(FCR, TCF)
    assert driver.irqs == [(92, True), (92, False)]


def test_the_fifo_interrupts_at_its_threshold(driver: Driver) -> None:
    driver.write(DLR, 63)
    driver.write(CCR, QUAD_READ)
    driver.write(CR, 1 | 15 << 8 | 1 << 18)
    driver.irqs.clear()
    driver.write(AR, 0)
    driver.clock.advance_to(SECOND)
    assert driver.irqs == [(92, True)]
    for _ in range(5):
        driver.read(DR)
    assert driver.irqs == [(92, True), (92, False)]


# --- Automatic polling ------------------------------------------------------------------------


def poll(
    driver: Driver, mask: int, match: int, *, stop: bool = True, any_bit: bool = False
) -> None:
    driver.write(PSMKR, mask)
    driver.write(PSMAR, match)
    driver.write(PIR, 100)
    driver.write(DLR, 0)
    driver.write(CR, 1 | stop << 22 | any_bit << 23)
    driver.write(CCR, ccr(0x05, POLL, data=True))


def start_erase(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(CCR, ERASE)
    driver.write(AR, 0)
    driver.wait(TCF)
    driver.write(FCR, TCF)


def test_polling_matches_on_its_grid_after_the_nor_is_ready(driver: Driver) -> None:
    start_erase(driver)
    ready, start = driver.nor.busy_until, driver.clock.now
    assert ready is not None
    poll(driver, BUSY >> 5, 0)
    events = 0
    while not driver.read(SR) & SMF:
        when = driver.clock.next_change()
        assert when is not None
        driver.clock.advance_to(when)
        events += 1
    assert events <= 4  # not one per poll
    polls = (driver.clock.now - start) / CYCLE / (19 + 100)
    assert abs(polls - round(polls) - 19 / 119) < 0.01
    assert ready <= driver.clock.now <= ready + 119 * CYCLE + 1
    assert not driver.read(SR) & BUSY
    assert driver.read(DR, 1) == 0


def test_polling_a_stuck_nor_never_matches_and_costs_no_events(driver: Driver) -> None:
    driver.nor.stick_busy()
    start_erase(driver)
    poll(driver, 1, 0)
    driver.clock.advance_to(driver.clock.now + MILLISECOND)
    assert driver.clock.next_event is None
    assert flags(driver) & (BUSY | SMF) == BUSY
    driver.abort()
    assert not driver.read(SR) & BUSY


def test_polling_notices_a_power_cycle(driver: Driver) -> None:
    driver.nor.stick_busy()
    start_erase(driver)
    poll(driver, 1, 0)
    driver.clock.advance_to(SECOND)
    driver.nor.power_cycle()
    driver.wait(SMF)
    assert driver.clock.now < SECOND + 3 * MICROSECOND


def test_the_status_that_was_polled_stays_in_the_data_register(driver: Driver) -> None:
    driver.command(0x06)
    driver.write(PSMKR, 2)
    driver.write(PSMAR, 2)
    driver.write(DLR, 0)
    driver.write(CR, 1 | 1 << 22)
    driver.write(CCR, ccr(0x05, POLL, data=True))
    driver.wait(SMF)
    assert flags(driver) == SMF | FTF
    assert level(driver) == 0
    assert [driver.read(DR, 1), driver.read(DR), driver.read(DR)] == [2, 2, 2]
    assert flags(driver) == SMF


def test_polling_waits_for_all_bits_or_for_any(driver: Driver) -> None:
    start_erase(driver)
    poll(driver, 0b111, 0b110, any_bit=True)
    driver.wait(SMF)
    assert driver.nor.busy
    driver.write(FCR, SMF)
    poll(driver, 0b11, 0b11)
    driver.wait(SMF)
    assert driver.nor.busy


def test_polling_without_stop_goes_on_after_a_match(driver: Driver) -> None:
    poll(driver, 1, 0, stop=False)
    driver.wait(SMF)
    assert driver.read(SR) & BUSY
    driver.abort()
    assert not driver.read(SR) & BUSY


# --- Memory-mapped ----------------------------------------------------------------------------


def test_the_window_shows_the_array(driver: Driver) -> None:
    driver.nor.memory[0x100:0x108] = b"abcdefgh"
    driver.write(CCR, QUAD_MAP)
    assert not driver.read(SR) & BUSY
    assert driver.read(WINDOW + 0x104) == int.from_bytes(b"efgh", "little")
    assert driver.read(SR) & BUSY
    assert driver.bus.read_block(WINDOW + 0x100, 8, Master.AP0) == b"abcdefgh"


def test_the_window_refuses_what_it_cannot_show(driver: Driver) -> None:
    with pytest.raises(BusError):
        driver.bus.read(WINDOW, 4, Master.CORE)
    driver.write(DCR, 19 << 16)
    driver.write(CCR, QUAD_MAP)
    driver.bus.read(WINDOW + 0xFFFF8, 4, Master.CORE)
    with pytest.raises(BusError) as error:
        driver.bus.read(WINDOW + 0x100000, 4, Master.CORE)
    assert error.value.address == WINDOW + 0x100000
    with pytest.raises(BusError):
        driver.bus.write(WINDOW, 4, 0, Master.CORE)
    with pytest.raises(BusError) as error:
        driver.bus.read_block(WINDOW + 0xFFFF8, 16, Master.AP0)
    assert error.value.address == WINDOW + 0x100000
    with pytest.raises(BusError) as error:
        driver.bus.write_block(WINDOW, bytes(8), Master.AP0)
    assert error.value.address == WINDOW
    driver.write(CR, 0)
    with pytest.raises(BusError):
        driver.bus.read(WINDOW, 4, Master.CORE)


def test_a_mapped_controller_ignores_everything_until_abort(driver: Driver) -> None:
    driver.write(CCR, QUAD_MAP)
    driver.read(WINDOW)
    driver.write(CCR, ccr(0x06))
    assert driver.read(CCR) == QUAD_MAP
    driver.abort()
    driver.command(0x06)
    assert driver.nor.write_enabled


def test_plain_contents_are_executed_in_place_until_revoked(driver: Driver) -> None:
    driver.write(DCR, 25 << 16)
    driver.write(CCR, QUAD_MAP)
    direct = driver.quadspi.window.direct(0x1000)
    assert direct is not None
    assert direct.memory is driver.nor.memory
    assert not direct.writable
    assert driver.read(SR) & BUSY
    assert driver.revoked == []
    driver.abort()
    assert driver.revoked == [Span.of(WINDOW, 32 << 20)]
    driver.write(CCR, ID)
    assert driver.quadspi.window.direct(0) is None


def test_a_smaller_fsize_shows_less_of_the_array(driver: Driver) -> None:
    driver.write(DCR, 19 << 16)
    driver.write(CCR, QUAD_MAP)
    direct = driver.quadspi.window.direct(0)
    assert direct is not None
    assert len(direct.memory) == (1 << 20) - 0x1000  # where the last byte is not
    assert driver.quadspi.window.direct(1 << 20) is None


@pytest.mark.parametrize(
    "wrong",
    [
        ccr(0xEC, MAPPED, address=4, lines=(4, 4), data=True, dummy=4),
        ccr(0xEB, MAPPED, address=3, lines=(4, 4), data=True, dummy=6),
        ccr(0x9F, MAPPED, data=True),
    ],
)
def test_a_configuration_that_does_not_give_plain_data_is_asked_each_time(
    driver: Driver, wrong: int
) -> None:
    driver.nor.memory[0x1000100:0x1000108] = b"abcdefgh"
    driver.write(CCR, wrong)
    assert driver.quadspi.window.direct(0) is None
    assert driver.read(WINDOW + 0x1000100) != int.from_bytes(b"abcd", "little")


def test_three_address_bytes_map_the_first_16_mib(driver: Driver) -> None:
    driver.write(DCR, 23 << 16)
    driver.write(CCR, ccr(0xEB, MAPPED, address=3, lines=(4, 4), data=True, dummy=6))
    direct = driver.quadspi.window.direct(0)
    assert direct is not None
    assert len(direct.memory) == (16 << 20) - 0x1000  # where the last byte is not


def test_a_nor_that_becomes_unreadable_takes_the_window_with_it(driver: Driver) -> None:
    driver.nor.memory[0:4] = b"abcd"
    driver.write(CCR, QUAD_MAP)
    assert driver.quadspi.window.direct(0) is not None
    driver.nor.stick_busy(now=True)
    assert driver.revoked
    assert driver.quadspi.window.direct(0) is None
    assert driver.read(WINDOW) == 0xFFFFFFFF
    driver.nor.power_cycle()
    assert driver.read(WINDOW) == int.from_bytes(b"abcd", "little")


def test_pins_that_change_take_the_window_away(driver: Driver) -> None:
    driver.write(CCR, QUAD_MAP)
    assert driver.quadspi.window.direct(0) is not None
    driver.wire(0)
    assert driver.revoked
    assert driver.quadspi.window.direct(0) is None
    assert driver.read(WINDOW) == 0xFFFFFFFF


def test_a_busy_nor_is_mapped_when_it_is_done(driver: Driver) -> None:
    start_erase(driver)
    driver.write(CCR, QUAD_MAP)
    assert driver.quadspi.window.direct(0) is None
    driver.clock.advance_to(SECOND)
    assert driver.quadspi.window.direct(0) is not None


def test_mapped_continuous_read_is_what_both_sides_agreed_on(driver: Driver) -> None:
    driver.nor.memory[0:4] = b"abcd"
    value = ccr(0xEC, MAPPED, address=4, lines=(4, 4), data=True, dummy=4, alternate=True)
    driver.write(ABR, 0xA0)
    driver.write(CCR, value | 1 << 28)
    assert driver.quadspi.window.direct(0) is not None
    assert driver.read(WINDOW) == int.from_bytes(b"abcd", "little")
    driver.abort()
    assert driver.fetch(ID, 3) != bytes.fromhex("ef4019")


def test_mode_bits_without_sioo_confuse_the_second_read(driver: Driver) -> None:
    driver.nor.memory[0:4] = b"abcd"
    driver.write(ABR, 0xA0)
    driver.write(
        CCR, ccr(0xEC, MAPPED, address=4, lines=(4, 4), data=True, dummy=4, alternate=True)
    )
    assert driver.read(WINDOW) == int.from_bytes(b"abcd", "little")
    assert driver.read(WINDOW) != int.from_bytes(b"abcd", "little")


def test_the_timeout_counter_ends_busy(driver: Driver) -> None:
    driver.write(LPTR, 1000)
    driver.write(CR, 1 | 1 << 3)
    driver.write(CCR, QUAD_MAP)
    driver.read(WINDOW)
    assert flags(driver) == BUSY
    driver.clock.advance_to(after(driver, 1000) - 1)
    assert flags(driver) == BUSY
    driver.clock.advance_to(after(driver, 1000))
    assert flags(driver) == TOF
    driver.read(WINDOW)
    assert flags(driver) == BUSY | TOF


# --- Anything at all -------------------------------------------------------------------------


def test_times_never_go_backwards_under_any_mix_of_accesses(driver: Driver) -> None:
    random_numbers = random.Random(7)
    times = [driver.clock.now]
    for _ in range(300):
        address = BASE + 4 * random_numbers.randrange(13)
        if random_numbers.random() < 0.5:
            value = random_numbers.getrandbits(32)
            if address == CCR:
                value &= 0x17FFFFFF
            try:
                driver.bus.write(address, 4, value | (address == CR), Master.CORE)
            except BusStall as stall:
                driver.stall(stall)
        else:
            try:
                driver.bus.read(address, 4, Master.CORE)
            except BusStall as stall:
                driver.stall(stall)
        times.append(driver.clock.now)
    assert all(before <= now for before, now in pairwise(times))


def test_a_mapped_read_of_the_last_byte_gives_0_and_then_stalls_until_an_abort(
    driver: Driver,
) -> None:
    driver.nor.memory[-4:] = b"last"
    for _ in range(2):
        driver.write(CCR, QUAD_MAP)
        end = WINDOW + (32 << 20)
        assert driver.quadspi.window.direct(end - 0x1001 - WINDOW) is not None
        assert driver.quadspi.window.direct(end - 1 - WINDOW) is None
        assert driver.bus.read(end - 4, 2, Master.CORE).to_bytes(2, "little") == b"la"
        assert driver.bus.read(end - 4, 4, Master.CORE).to_bytes(4, "little") == b"las\0"
        with pytest.raises(BusStall):
            driver.bus.read(end - 1, 1, Master.CORE)
        driver.abort()
    driver.write(DCR, 25 << 16)
    driver.write(CCR, QUAD_MAP)
    assert driver.bus.read(end - 4, 4, Master.CORE).to_bytes(4, "little") == b"last"
