"""The flash controller: what each register, flag and time of the manual does here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    BANK1,
    BANK2,
    FLASH,
    FLASH_ACR,
    FLASH_BANK2_OFFSET,
    FLASH_BOOT_CUR,
    FLASH_CCR,
    FLASH_CR,
    FLASH_CR_PSIZE_SHIFT,
    FLASH_CR_SNB_SHIFT,
    FLASH_CRCCR,
    FLASH_CRCCR_BURST_SHIFT,
    FLASH_CRCDATA,
    FLASH_CRCEADD,
    FLASH_CRCSADD,
    FLASH_ECC_FA,
    FLASH_ERRORS,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_OPTCCR,
    FLASH_OPTCR,
    FLASH_OPTKEY1,
    FLASH_OPTKEY2,
    FLASH_OPTKEYR,
    FLASH_OPTSR_CUR,
    FLASH_OPTSR_PRG,
    FLASH_PRAR_CUR,
    FLASH_PRAR_PRG,
    FLASH_SCAR_PRG,
    FLASH_SIZE,
    FLASH_SR,
    FLASH_WORD,
    FLASH_WPSN_CUR,
    FLASH_WPSN_PRG,
    KIB,
    MIB,
    OPTSR_RDP_SHIFT,
    OPTSR_SWAP_BANK,
    SECTOR,
    SYSTEM_FLASH_1,
    FlashCr,
    FlashCrccr,
    FlashOptcr,
    FlashSr,
)
from gdbserver.sim.bus import Bus, BusError, BusStall, Mappable, Master
from gdbserver.sim.clock import MICROSECOND, SECOND, Clock, Timing
from gdbserver.sim.flash_bank import BSY_DELAY
from gdbserver.sim.flash_crc import crc
from gdbserver.sim.flash_interface import OPTION_CHANGE, FlashInterface

PSIZE_X64 = 3 << FLASH_CR_PSIZE_SHIFT
PROGRAMMING = 100 * MICROSECOND
ERASING = SECOND
WORD_A, WORD_B = bytes(range(32)), bytes(range(100, 132))


T = TypeVar("T")


class Bench:
    """A flash controller on a bus, and what software does to it."""

    def __init__(self, *, timing: Timing = "typical", flash_kib: int = 2048, rdp: int = 0xAA):
        self.clock = Clock()
        self.bus = Bus()
        self.debugger = False
        self.irqs: list[bool] = []
        self.revoked: list[Span] = []
        self.bus.on_revoked.append(self.revoked.append)
        self.flash = FlashInterface(
            self.clock,
            self.bus,
            timing=timing,
            flash_kib=flash_kib,
            rdp=rdp,
            debugger=lambda: self.debugger,
        )
        self.flash.on_irq = self.irqs.append
        self.bus.attach(FLASH, 0x1000, self.flash.registers)
        self.bus.attach(BANK1.start, len(BANK1), self.flash.array(1))
        self.bus.attach(BANK2.start, len(BANK2), self.flash.array(2))
        self.bus.attach(SYSTEM_FLASH_1.start, len(SYSTEM_FLASH_1), self.flash.system)

    def get(self, register: int, bank: int = 1, *, size: int = 4) -> int:
        address = FLASH + FLASH_BANK2_OFFSET * (bank - 1) + register
        return self.bus.read(address, size, Master.CORE)

    def set(self, register: int, value: int, bank: int = 1, *, size: int = 4) -> None:
        address = FLASH + FLASH_BANK2_OFFSET * (bank - 1) + register
        self.bus.write(address, size, value, Master.CORE)

    def status(self, bank: int = 1) -> FlashSr:
        return FlashSr(self.get(FLASH_SR, bank))

    def unlock(self, bank: int = 1) -> None:
        self.set(FLASH_KEYR, FLASH_KEY1, bank)
        self.set(FLASH_KEYR, FLASH_KEY2, bank)

    def unlock_options(self) -> None:
        self.set(FLASH_OPTKEYR, FLASH_OPTKEY1)
        self.set(FLASH_OPTKEYR, FLASH_OPTKEY2)

    def control(self, bits: int, bank: int = 1, *, psize: int = 3) -> None:
        self.set(FLASH_CR, psize << FLASH_CR_PSIZE_SHIFT | bits, bank)

    def clear(self, bank: int = 1) -> None:
        self.set(FLASH_CCR, FLASH_ERRORS | FlashSr.EOP | FlashSr.CRCEND, bank)

    def store(self, address: int, data: bytes, *, size: int = 4) -> None:
        """Stores of `size` bytes; waits for the bus like a core."""
        for i in range(0, len(data), size):
            value = int.from_bytes(data[i : i + size], "little")
            self.wait_for(lambda a=address + i, v=value: self.bus.write(a, size, v, Master.CORE))

    def put(self, offset: int, data: bytes, master: Master, *, quickly: bool) -> None:
        """Words into bank 1 at one instant; `quickly`: in a block, or by the core's short way."""
        if quickly and master is not Master.CORE:
            self.bus.write_block(BANK1.start + offset, data, master)
            return
        for i in range(0, len(data), 4):
            value = int.from_bytes(data[i : i + 4], "little")
            if quickly and self.flash.array(1).quick_write(offset + i, 4, value):
                continue
            try:
                self.bus.write(BANK1.start + offset + i, 4, value, master)
            except BusStall as stall:
                stall.done = i
                raise

    def wait_for(self, access: Callable[[], T]) -> T:
        while True:
            try:
                return access()
            except BusStall as stall:
                self.clock.advance_to(stall.ready)

    def load(self, address: int, length: int = 4) -> bytes:
        return self.wait_for(lambda: self.bus.read_block(address, length, Master.CORE))

    def settle(self) -> None:
        """Let everything end that is under way."""
        while (due := self.clock.next_event) is not None:
            self.clock.advance_to(due)

    def program(self, address: int, data: bytes, bank: int = 1) -> None:
        self.unlock(bank) if self.get(FLASH_CR, bank) & FlashCr.LOCK else None
        self.control(FlashCr.PG, bank)
        self.store(address, data)
        self.settle()

    def erase(self, sector: int, bank: int = 1) -> None:
        self.unlock(bank) if self.get(FLASH_CR, bank) & FlashCr.LOCK else None
        self.control(FlashCr.SER | FlashCr.START | sector << FLASH_CR_SNB_SHIFT, bank)
        self.settle()

    def change_options(self, registers: dict[tuple[int, int], int]) -> None:
        """Write (register, bank) -> value to PRG registers and have them take effect."""
        if self.get(FLASH_OPTCR) & FlashOptcr.OPTLOCK:
            self.unlock_options()
        for (register, bank), value in registers.items():
            self.set(register, value, bank)
        self.set(FLASH_OPTCR, FlashOptcr.OPTSTART)
        self.settle()


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- Reset values, and where registers are -------------------------------------------------------


@pytest.mark.parametrize("bank", [1, 2])
def test_registers_reset_to_what_a_delivered_part_shows(bench: Bench, bank: int) -> None:
    assert bench.get(FLASH_ACR, bank) == 0x37
    assert bench.get(FLASH_CR, bank) == 0x31
    assert bench.get(FLASH_SR, bank) == 0
    assert bench.get(FLASH_OPTSR_CUR, bank) == 0x1BC6AAF0
    assert bench.get(FLASH_BOOT_CUR, bank) == 0x1FF00800
    assert bench.get(FLASH_PRAR_CUR, bank) == 0xFF
    assert bench.get(FLASH_WPSN_CUR, bank) == 0xFF
    assert bench.get(FLASH_CRCCR, bank) == 0x001C0000


def test_shared_registers_show_up_in_both_sets(bench: Bench) -> None:
    bench.set(FLASH_ACR, 0x24, bank=2)
    assert bench.get(FLASH_ACR, bank=1) == 0x24


def test_the_flash_size_and_the_unique_id_are_in_system_flash() -> None:
    bench = Bench(flash_kib=1024)
    assert bench.bus.read(FLASH_SIZE, 2, Master.AP0) == 1024
    assert bench.flash.system.read(0x1E800, 4, Master.CORE) != 0xFFFFFFFF


def test_system_flash_cannot_be_written(bench: Bench) -> None:
    bench.bus.write(FLASH_SIZE, 4, 0, Master.AP0)
    assert bench.bus.read(FLASH_SIZE, 2, Master.AP0) == 2048


# --- Locks ---------------------------------------------------------------------------------------


def test_two_keys_unlock_one_bank_and_leave_the_other_locked(bench: Bench) -> None:
    bench.unlock(2)
    assert bench.get(FLASH_CR, 1) & FlashCr.LOCK
    assert not bench.get(FLASH_CR, 2) & FlashCr.LOCK


def test_a_locked_control_register_ignores_writes(bench: Bench) -> None:
    bench.control(FlashCr.PG)
    assert bench.get(FLASH_CR) == 0x31


def test_a_lock_that_software_closed_opens_again(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.LOCK)
    assert bench.get(FLASH_CR) & FlashCr.LOCK
    bench.unlock()
    assert not bench.get(FLASH_CR) & FlashCr.LOCK


def wrong_second_key(bench: Bench) -> None:
    bench.set(FLASH_KEYR, FLASH_KEY1)
    bench.set(FLASH_KEYR, FLASH_KEY1)


def keys_in_the_wrong_order(bench: Bench) -> None:
    bench.set(FLASH_KEYR, FLASH_KEY2)


def a_key_for_an_open_lock(bench: Bench) -> None:
    bench.unlock()
    bench.set(FLASH_KEYR, FLASH_KEY1)


def half_a_key(bench: Bench) -> None:
    bench.set(FLASH_KEYR, FLASH_KEY1 & 0xFFFF, size=2)


def another_write_between_the_keys(bench: Bench) -> None:
    bench.set(FLASH_KEYR, FLASH_KEY1)
    bench.set(FLASH_CCR, 0)


@pytest.mark.parametrize(
    "violation",
    [
        wrong_second_key,
        keys_in_the_wrong_order,
        a_key_for_an_open_lock,
        half_a_key,
        another_write_between_the_keys,
    ],
)
def test_a_key_violation_is_a_bus_error_and_locks_until_reset(
    bench: Bench, violation: Callable[[Bench], None]
) -> None:
    with pytest.raises(BusError):
        violation(bench)
    assert bench.get(FLASH_CR) & FlashCr.LOCK
    with pytest.raises(BusError):
        bench.set(FLASH_KEYR, FLASH_KEY1)
    bench.flash.reset()
    bench.unlock()
    assert not bench.get(FLASH_CR) & FlashCr.LOCK


def test_a_write_to_the_other_bank_between_the_keys_is_allowed(bench: Bench) -> None:
    bench.set(FLASH_KEYR, FLASH_KEY1)
    bench.set(FLASH_CCR, 0, bank=2)
    bench.set(FLASH_KEYR, FLASH_KEY2)
    assert not bench.get(FLASH_CR) & FlashCr.LOCK


def test_option_keys_unlock_optcr_and_wrong_ones_jam_it(bench: Bench) -> None:
    bench.unlock_options()
    assert not bench.get(FLASH_OPTCR) & FlashOptcr.OPTLOCK
    with pytest.raises(BusError):
        bench.set(FLASH_OPTKEYR, FLASH_OPTKEY1)
    assert bench.get(FLASH_OPTCR, bank=2) & FlashOptcr.OPTLOCK
    with pytest.raises(BusError):
        bench.unlock_options()


# --- Programming: buffer, queue, time ------------------------------------------------------------


def test_eight_words_are_programmed_in_the_time_of_the_datasheet(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A[:28])
    assert bench.status() == FlashSr.WBNE
    bench.store(BANK1.start + 28, WORD_A[28:])
    assert bench.status() == FlashSr.QW
    bench.clock.advance_to(BSY_DELAY)
    assert bench.status() == FlashSr.QW | FlashSr.BSY
    bench.clock.advance_to(PROGRAMMING - 1)
    assert bench.status() & FlashSr.QW
    bench.clock.advance_to(PROGRAMMING)
    assert bench.status() == 0
    assert bench.load(BANK1.start, 32) == WORD_A
    assert bench.flash.programs == {BANK1.start: 1}


@pytest.mark.parametrize(
    ("timing", "psize", "microseconds"),
    [("typical", 0, 290), ("typical", 1, 180), ("typical", 2, 130), ("maximum", 3, 200)],
)
def test_parallelism_and_age_of_the_part_set_the_time(
    timing: Timing, psize: int, microseconds: int
) -> None:
    bench = Bench(timing=timing)
    bench.unlock()
    bench.control(FlashCr.PG, psize=psize)
    bench.store(BANK1.start, WORD_A)
    bench.settle()
    assert bench.clock.now == microseconds * MICROSECOND


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_flash_word_can_be_written_in_bytes_halfwords_or_words(bench: Bench, size: int) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A, size=size)
    assert bench.load(BANK1.start, 32) == WORD_A


def test_the_third_flash_word_holds_the_bus_until_the_first_is_done(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    for i in range(2):
        bench.store(BANK1.start + 32 * i, WORD_A)
    bench.store(BANK1.start + 64, WORD_A[:28])
    assert bench.clock.now == 0
    with pytest.raises(BusStall) as stalled:
        bench.bus.write(BANK1.start + 64 + 28, 4, 0x1F1E1D1C, Master.CORE)
    assert stalled.value.ready == PROGRAMMING
    bench.clock.advance_to(PROGRAMMING)
    bench.store(BANK1.start + 64 + 28, WORD_A[28:])
    bench.settle()
    assert bench.clock.now == 3 * PROGRAMMING
    assert bench.load(BANK1.start, 96) == 3 * WORD_A


def test_a_block_stalls_where_its_words_would(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    with pytest.raises(BusStall) as stalled:
        bench.bus.write_block(BANK1.start, 4 * WORD_A, Master.AP0)
    assert (stalled.value.ready, stalled.value.done) == (PROGRAMMING, 92)
    bench.clock.advance_to(PROGRAMMING)
    bench.bus.write_block(BANK1.start + 92, (4 * WORD_A)[92:120], Master.AP0)
    bench.settle()
    bench.bus.write_block(BANK1.start + 120, (4 * WORD_A)[120:], Master.AP0)
    assert bench.load(BANK1.start, 128) == 4 * WORD_A


STORES = st.lists(
    st.tuples(
        st.sampled_from([Master.CORE, Master.AP0]),
        st.one_of(st.integers(0, 24).map(lambda n: 4 * n), st.sampled_from([0, 32, 64])),
        st.integers(1, 16),
        st.sampled_from([0, 0, 0, 60 * MICROSECOND, 300 * MICROSECOND]),
    ),
    max_size=14,
)


@given(stores=STORES, programming=st.booleans())
@settings(max_examples=60)
def test_blocks_and_short_ways_do_what_one_word_after_the_other_does(
    stores: list[tuple[Master, int, int, int]], programming: bool
) -> None:
    """A debugger's blocks, and what the core stores, against words by themselves."""
    quick, slow = Bench(), Bench()
    for bench in (quick, slow):
        bench.unlock()
        bench.control(FlashCr.PG if programming else FlashCr(0))
    for number, (master, offset, words, pause) in enumerate(stores):
        data = bytes((17 * number + n) & 0xFF for n in range(4 * words))
        done = []
        for bench in (quick, slow):
            try:
                bench.put(offset, data, master, quickly=bench is quick)
            except BusStall as stall:
                done.append((stall.done, stall.ready))
            else:
                done.append((len(data), 0))
            bench.clock.advance_to(bench.clock.now + pause)
        assert done[0] == done[1]
        assert quick.status() == slow.status()
    for bench in (quick, slow):
        bench.clock.advance_to(bench.clock.now + SECOND)
    assert quick.flash.contents(Span.of(BANK1.start, 256)) == slow.flash.contents(
        Span.of(BANK1.start, 256)
    )
    assert quick.flash.programs == slow.flash.programs


def test_forced_writing_fills_the_flash_word_with_ones(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start + 4, b"\1\2\3\4")
    bench.control(FlashCr.PG | FlashCr.FW)
    assert bench.status() == FlashSr.QW
    assert not bench.get(FLASH_CR) & FlashCr.FW
    assert bench.load(BANK1.start, 12) == b"\xff\xff\xff\xff\1\2\3\4\xff\xff\xff\xff"


def test_forced_writing_without_anything_in_the_buffer_does_nothing(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG | FlashCr.FW)
    assert bench.status() == 0


def test_clearing_pg_loses_what_is_in_the_buffer(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A[:8])
    bench.control(0)
    assert bench.status() == 0


def test_programming_one_bank_leaves_the_other_readable(bench: Bench) -> None:
    bench.unlock(2)
    bench.control(FlashCr.PG, 2)
    bench.store(BANK2.start, WORD_A)
    assert bench.bus.read(BANK1.start, 4, Master.CORE) == 0xFFFFFFFF
    with pytest.raises(BusStall) as stalled:
        bench.bus.read(BANK2.start + 0x8000, 4, Master.CORE)
    assert stalled.value.ready == PROGRAMMING


def test_a_read_waits_for_the_whole_queue(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, 2 * WORD_A)
    bench.clock.advance_to(30 * MICROSECOND)
    with pytest.raises(BusStall) as stalled:
        bench.bus.read(BANK1.start, 4, Master.CORE)
    assert stalled.value.ready == 2 * PROGRAMMING


# --- Erasing -------------------------------------------------------------------------------------


def test_erasing_a_sector_takes_its_time_and_touches_nothing_else(bench: Bench) -> None:
    bench.flash.load(BANK1.start, bytes(3 * SECTOR))
    bench.unlock()
    bench.control(FlashCr.SER | FlashCr.START | 1 << FLASH_CR_SNB_SHIFT)
    assert not bench.get(FLASH_CR) & FlashCr.START
    assert bench.status() == FlashSr.QW
    bench.settle()
    assert bench.clock.now == ERASING
    assert bench.flash.contents(Span.of(BANK1.start, 3 * SECTOR)) == (
        bytes(SECTOR) + b"\xff" * SECTOR + bytes(SECTOR)
    )
    assert bench.flash.erases == {BANK1.start + SECTOR: 1}


def test_ber_wins_over_ser(bench: Bench) -> None:
    bench.flash.load(BANK1.start, bytes(MIB))
    bench.unlock()
    bench.control(FlashCr.BER | FlashCr.SER | FlashCr.START)
    bench.settle()
    assert bench.clock.now == 5 * SECOND
    assert bench.flash.contents(BANK1) == b"\xff" * MIB
    assert sum(bench.flash.erases.values()) == 8


def test_mass_erase_does_both_banks_at_once_when_all_locks_are_open(bench: Bench) -> None:
    bench.flash.load(BANK1.start, bytes(64))
    bench.flash.load(BANK2.start, bytes(64))
    bench.unlock(1)
    bench.unlock_options()
    bench.set(FLASH_OPTCR, FlashOptcr.MER)
    assert bench.status() == 0
    bench.unlock(2)
    bench.set(FLASH_OPTCR, FlashOptcr.MER)
    assert bench.status(1) & bench.status(2) & FlashSr.QW
    bench.settle()
    assert bench.clock.now == 5 * SECOND
    assert bench.load(BANK1.start, 64) == bench.load(BANK2.start, 64) == b"\xff" * 64


def test_a_third_erase_holds_the_register_access(bench: Bench) -> None:
    bench.unlock()
    for sector in range(2):
        bench.control(FlashCr.SER | FlashCr.START | sector << FLASH_CR_SNB_SHIFT)
    with pytest.raises(BusStall) as stalled:
        bench.control(FlashCr.SER | FlashCr.START | 2 << FLASH_CR_SNB_SHIFT)
    assert stalled.value.ready == ERASING


def test_programming_waits_behind_an_erase(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.SER | FlashCr.START | FlashCr.PG)
    bench.store(BANK1.start, WORD_A)
    assert bench.clock.now == 0
    bench.settle()
    assert bench.clock.now == ERASING + PROGRAMMING
    assert bench.load(BANK1.start, 32) == WORD_A


# --- Errors --------------------------------------------------------------------------------------


def test_a_write_without_pg_is_pgserr_and_blocks_until_cleared(bench: Bench) -> None:
    bench.store(BANK1.start, WORD_A[:4])
    assert bench.status() == FlashSr.PGSERR
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A)
    assert bench.status() == FlashSr.PGSERR
    bench.clear()
    bench.store(BANK1.start, WORD_A)
    assert bench.status() == FlashSr.QW
    assert bench.load(BANK1.start, 32) == WORD_A


def test_leaving_a_flash_word_before_it_is_complete_is_incerr(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A[:12])
    bench.store(BANK1.start + 32, WORD_A[:4])
    assert bench.status() == FlashSr.INCERR
    bench.store(BANK1.start + 32, WORD_A[:4])
    assert bench.status() == FlashSr.INCERR | FlashSr.PGSERR
    assert bench.load(BANK1.start, 64) == b"\xff" * 64


def test_another_master_in_the_same_flash_word_is_incerr(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.bus.write(BANK1.start, 4, 1, Master.CORE)
    bench.bus.write(BANK1.start + 4, 4, 1, Master.AP0)
    assert bench.status() == FlashSr.INCERR


def test_writing_a_byte_of_the_buffer_twice_is_strberr_and_goes_on(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, b"\0\0\0\0")
    bench.store(BANK1.start, WORD_A)
    assert bench.status() == FlashSr.STRBERR | FlashSr.QW
    assert bench.load(BANK1.start, 32) == WORD_A


def test_a_protected_sector_refuses_programming_and_erasing_without_blocking(bench: Bench) -> None:
    bench.change_options({(FLASH_WPSN_PRG, 1): 0xFD})
    bench.flash.load(BANK1.start + SECTOR, WORD_A)
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start + SECTOR, bytes(32))
    assert bench.status() == FlashSr.WRPERR
    bench.store(BANK1.start, WORD_A)
    assert bench.status() == FlashSr.WRPERR | FlashSr.QW
    bench.settle()
    bench.clear()
    for request in (FlashCr.SER | 1 << FLASH_CR_SNB_SHIFT, FlashCr.BER):
        bench.control(request | FlashCr.START)
        assert bench.status() == FlashSr.WRPERR
        bench.clear()
    assert bench.load(BANK1.start, 32) == bench.load(BANK1.start + SECTOR, 32) == WORD_A


def test_flash_that_the_part_does_not_have_cannot_be_touched() -> None:
    bench = Bench(flash_kib=128)
    assert bench.load(BANK1.start + 128 * KIB - 4) == b"\xff" * 4
    for address, bank in ((BANK1.start + 128 * KIB, 1), (BANK2.start, 2)):
        with pytest.raises(BusError) as error:
            bench.load(address)
        assert error.value.address == address
        bench.unlock(bank)
        bench.control(FlashCr.PG, bank)
        bench.store(address, WORD_A)
        assert bench.status(bank) == FlashSr.WRPERR
    bench.clear()
    bench.control(FlashCr.SER | FlashCr.START | 1 << FLASH_CR_SNB_SHIFT)
    assert bench.status() == FlashSr.WRPERR


def test_eop_is_raised_when_its_interrupt_is_enabled(bench: Bench) -> None:
    bench.program(BANK1.start, WORD_A)
    assert bench.status() == 0
    bench.control(FlashCr.PG | FlashCr.EOPIE)
    bench.store(BANK1.start + 32, WORD_A)
    bench.settle()
    assert bench.status() == FlashSr.EOP
    assert bench.irqs == [True]
    bench.clear()
    assert bench.irqs == [True, False]


@pytest.mark.parametrize(
    ("flag", "enable"),
    [
        (FlashSr.WRPERR, FlashCr.WRPERRIE),
        (FlashSr.PGSERR, FlashCr.PGSERRIE),
        (FlashSr.STRBERR, FlashCr.STRBERRIE),
        (FlashSr.INCERR, FlashCr.INCERRIE),
        (FlashSr.OPERR, FlashCr.OPERRIE),
        (FlashSr.RDPERR, FlashCr.RDPERRIE),
        (FlashSr.RDSERR, FlashCr.RDSERRIE),
        (FlashSr.SNECCERR, FlashCr.SNECCERRIE),
        (FlashSr.DBECCERR, FlashCr.DBECCERRIE),
        (FlashSr.CRCEND, FlashCr.CRCENDIE),
        (FlashSr.CRCRDERR, FlashCr.CRCRDERRIE),
    ],
)
@pytest.mark.parametrize("bank", [1, 2])
def test_each_flag_interrupts_when_enabled_and_clears_alone(
    bench: Bench, flag: FlashSr, enable: FlashCr, bank: int
) -> None:
    other = FlashSr.WRPERR if flag != FlashSr.WRPERR else FlashSr.PGSERR
    bench.flash.raise_error(bank, flag | other)
    assert bench.irqs == []
    bench.unlock(bank)
    bench.control(enable, bank)
    assert bench.irqs == [True]
    bench.set(FLASH_CCR, flag, bank)
    assert bench.status(bank) == other
    assert bench.irqs == [True, False]


# --- ECC -----------------------------------------------------------------------------------------


def test_programming_a_flash_word_twice_makes_it_unreadable(bench: Bench) -> None:
    bench.program(BANK1.start + 64, WORD_A)
    bench.program(BANK1.start + 64, WORD_B)
    assert bench.status() == 0
    with pytest.raises(BusError) as error:
        bench.load(BANK1.start + 68)
    assert error.value.address == BANK1.start + 68
    assert bench.status() == FlashSr.DBECCERR
    assert bench.get(FLASH_ECC_FA) == 2
    assert bench.load(BANK1.start + 32) == bench.load(BANK1.start + 96) == b"\xff" * 4
    merged = bytes(a & b for a, b in zip(WORD_A, WORD_B, strict=True))
    assert bench.flash.contents(Span.of(BANK1.start + 64, 32)) == merged
    bench.erase(0)
    bench.clear()
    assert bench.load(BANK1.start + 64, 32) == b"\xff" * 32
    assert bench.status() == 0


@pytest.mark.parametrize("second", [bytes(32), b"\xff" * 32, WORD_A], ids=["0", "1", "same"])
def test_zeros_ones_and_the_same_again_keep_a_flash_word_readable(
    bench: Bench, second: bytes
) -> None:
    bench.program(BANK1.start, WORD_A)
    bench.program(BANK1.start, second)
    expected = bytes(32) if second == bytes(32) else WORD_A
    assert bench.load(BANK1.start, 32) == expected
    assert bench.status() == 0


def test_zeros_heal_a_flash_word_that_was_programmed_twice(bench: Bench) -> None:
    for word in (WORD_A, WORD_B, bytes(32)):
        bench.program(BANK1.start, word)
    assert bench.load(BANK1.start, 32) == bytes(32)


def test_one_wrong_bit_is_corrected_and_reported(bench: Bench) -> None:
    bench.program(BANK1.start, WORD_A)
    bench.flash.flip_bits(BANK1.start + 5, 0x10)
    assert bench.load(BANK1.start, 32) == WORD_A
    assert bench.status() == FlashSr.SNECCERR
    assert bench.load(BANK1.start + 4) == WORD_A[4:8]
    bench.flash.flip_bits(BANK1.start + 5, 0x10)
    bench.clear()
    assert bench.load(BANK1.start, 32) == WORD_A
    assert bench.status() == 0


def test_the_first_failing_address_stays_until_its_flag_is_cleared(bench: Bench) -> None:
    for word in (3, 7):
        bench.flash.load(BANK1.start + 32 * word, WORD_A)
        bench.flash.flip_bits(BANK1.start + 32 * word, 1)
        bench.load(BANK1.start + 32 * word)
    assert bench.get(FLASH_ECC_FA) == 3
    bench.clear()
    assert bench.get(FLASH_ECC_FA) == 0
    bench.load(BANK1.start + 32 * 7)
    assert bench.get(FLASH_ECC_FA) == 7


def test_a_cell_that_cannot_be_programmed_is_corrected_and_a_byte_of_them_is_not(
    bench: Bench,
) -> None:
    bench.flash.fail_cell(BANK1.start, 0x01)
    bench.flash.fail_cell(BANK1.start + 32)
    bench.program(BANK1.start, 2 * bytes(32))
    assert bench.load(BANK1.start, 32) == bytes(32)
    assert bench.status() == FlashSr.SNECCERR
    with pytest.raises(BusError):
        bench.load(BANK1.start + 32)
    assert bench.flash.contents(Span.of(BANK1.start + 32, 2)) == b"\xff\x00"


# --- Resets in the middle ------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [FlashInterface.reset, FlashInterface.power_loss])
def test_a_reset_during_programming_leaves_an_unreadable_word_and_operr(
    bench: Bench, interrupt: Callable[[FlashInterface], None]
) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, 2 * WORD_A)
    interrupt(bench.flash)
    bench.settle()
    assert bench.status() == FlashSr.OPERR
    assert bench.get(FLASH_CR) & FlashCr.LOCK
    with pytest.raises(BusError):
        bench.load(BANK1.start)
    assert bench.load(BANK1.start + 32) == b"\xff" * 4
    assert bench.status(2) == 0


def test_a_reset_during_an_erase_leaves_a_sector_that_must_be_erased_again(bench: Bench) -> None:
    bench.flash.load(BANK1.start, bytes(SECTOR + 32))
    bench.unlock()
    bench.control(FlashCr.SER | FlashCr.START)
    bench.clock.advance_to(ERASING // 2)
    bench.flash.reset()
    contents = bench.flash.contents(Span.of(BANK1.start, SECTOR))
    assert contents not in (bytes(SECTOR), b"\xff" * SECTOR)
    for address in (BANK1.start, BANK1.start + SECTOR - 4):
        with pytest.raises(BusError):
            bench.load(address)
    assert bench.load(BANK1.start + SECTOR, 32) == bytes(32)
    bench.erase(0)
    assert bench.load(BANK1.start, 32) == b"\xff" * 32
    assert bench.flash.erases == {BANK1.start: 1}


@given(lost_at=st.integers(0, 2 * PROGRAMMING + ERASING + 1000))
@settings(max_examples=30, deadline=None)
def test_a_power_loss_hits_what_is_being_done_and_nothing_else(lost_at: int) -> None:
    """Two flash words are programmed, then the next sector is erased; power goes meanwhile."""
    bench = Bench()
    bench.flash.load(BANK1.start + SECTOR - 32, bytes(SECTOR + 64))
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A + WORD_B)
    if lost_at >= PROGRAMMING:
        bench.clock.advance_to(PROGRAMMING)
        bench.control(FlashCr.SER | FlashCr.START | 1 << FLASH_CR_SNB_SHIFT)
    bench.clock.advance_to(lost_at)
    bench.flash.power_loss()
    bench.settle()

    ends = [PROGRAMMING, 2 * PROGRAMMING, 2 * PROGRAMMING + ERASING]
    done = sum(end <= lost_at for end in ends)
    assert bool(bench.status() & FlashSr.OPERR) == (done < len(ends))
    places = [
        (BANK1.start, b"\xff" * 32, WORD_A),
        (BANK1.start + 32, b"\xff" * 32, WORD_B),
        (BANK1.start + SECTOR, bytes(32), b"\xff" * 32),
        (BANK1.start + 2 * SECTOR - 32, bytes(32), b"\xff" * 32),
    ]
    for (address, before, after), number in zip(places, (0, 1, 2, 2), strict=True):
        if number == done:
            with pytest.raises(BusError):
                bench.load(address)
        else:
            assert bench.load(address, 32) == (after if number < done else before)
    for address in (BANK1.start + SECTOR - 32, BANK1.start + 2 * SECTOR):
        assert bench.load(address, 32) == bytes(32)


def test_a_reset_of_an_idle_bank_reports_nothing(bench: Bench) -> None:
    bench.unlock()
    bench.control(FlashCr.PG)
    bench.store(BANK1.start, WORD_A[:8])
    bench.flash.reset()
    assert bench.status() == 0
    assert bench.load(BANK1.start) == b"\xff" * 4


# --- The CRC unit --------------------------------------------------------------------------------


def run_crc(bench: Bench, request: int, *, burst: int = 0, bank: int = 1) -> int:
    if bench.get(FLASH_CR, bank) & FlashCr.LOCK:
        bench.unlock(bank)
    bench.control(FlashCr.CRC_EN, bank)
    bench.set(
        FLASH_CRCCR,
        request | burst << FLASH_CRCCR_BURST_SHIFT | FlashCrccr.CLEAN_CRC | FlashCrccr.START_CRC,
        bank,
    )
    assert bench.status(bank) & FlashSr.CRC_BUSY
    bench.settle()
    assert bench.status(bank) & FlashSr.CRCEND
    return bench.get(FLASH_CRCDATA, bank)


def crc_of(bench: Bench, span: Span, *, burst: int = 0) -> int:
    bench.set(FLASH_CRCSADD, span.start)
    bench.set(FLASH_CRCEADD, span.end - 4)
    return run_crc(bench, 0, burst=burst)


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (bytes(128), 0x11E66C62),
        (b"\xff" * 128, 0x9A93CD87),
        (b"\xff" * 512, 0xB02CC19B),
        (b"\xff" * 2048, 0x2E10D04A),
    ],
)
def test_known_results(bench: Bench, data: bytes, result: int) -> None:
    bench.flash.load(BANK1.start + 0x2000, data)
    assert crc_of(bench, Span.of(0x2000, len(data))) == result


def shifted(data: bytes) -> int:
    """AN5507's algorithm, a bit at a time."""
    state = 0
    for i in range(0, len(data), 4):
        state ^= int.from_bytes(data[i : i + 4], "little")
        for _ in range(32):
            state = (state << 1 ^ (0x04C11DB7 if state >> 31 else 0)) & 0xFFFFFFFF
        state ^= 0x55555555
    return state


def test_the_quick_formula_is_the_algorithm() -> None:
    data = b"".join(zlib.crc32(bytes([i])).to_bytes(4, "big") for i in range(256))
    assert crc(data) == shifted(data)
    assert crc(data[512:], crc(data[:512])) == shifted(data)
    assert crc(b"") == 0


def test_a_range_is_widened_to_whole_bursts(bench: Bench) -> None:
    bench.flash.load(BANK1.start, bytes(range(256)) * 64)
    wide = crc_of(bench, Span(0x2000, 0x2200), burst=1)
    bench.clear()
    assert crc_of(bench, Span(0x2008, 0x2104), burst=1) == wide
    bench.clear()
    assert crc_of(bench, Span(0x2008, 0x2104)) != wide


def test_sectors_are_added_and_cleaned(bench: Bench) -> None:
    bench.flash.load(BANK1.start + 2 * SECTOR, WORD_A)
    bench.flash.load(BANK1.start + 5 * SECTOR, WORD_B)
    bench.unlock()
    bench.control(FlashCr.CRC_EN)
    for sector in (7, 5, 2):
        bench.set(FLASH_CRCCR, FlashCrccr.ADD_SECT | sector)
        if sector == 7:
            bench.set(FLASH_CRCCR, FlashCrccr.CLEAN_SECT)
    result = run_crc(bench, FlashCrccr.CRC_BY_SECT)
    contents = [bench.flash.contents(Span.of(BANK1.start + n * SECTOR, SECTOR)) for n in (2, 5)]
    assert result == crc(b"".join(contents))


def test_a_whole_bank_takes_its_cycles(bench: Bench) -> None:
    bench.flash.load(BANK2.start, WORD_A)
    result = run_crc(bench, FlashCrccr.ALL_BANK, bank=2)
    assert result == crc(bench.flash.contents(BANK2))
    words, cycles_per_word = MIB // FLASH_WORD, 8  # LATENCY is 7
    assert bench.clock.now == words * cycles_per_word * SECOND // 64_000_000


def test_disabling_the_crc_clears_the_result(bench: Bench) -> None:
    assert crc_of(bench, Span(0, 128)) == 0x9A93CD87
    bench.control(0)
    assert bench.get(FLASH_CRCDATA, 2) == 0


def test_the_crc_control_register_needs_crc_en(bench: Bench) -> None:
    bench.set(FLASH_CRCCR, FlashCrccr.ALL_BANK | FlashCrccr.START_CRC)
    assert bench.get(FLASH_CRCCR) == 0x001C0000
    assert bench.status() == 0


def test_the_crc_works_for_one_bank_at_a_time(bench: Bench) -> None:
    for bank in (1, 2):
        bench.unlock(bank)
        bench.control(FlashCr.CRC_EN, bank)
        bench.set(FLASH_CRCCR, FlashCrccr.ALL_BANK | FlashCrccr.START_CRC, bank)
    assert bench.status(1) & FlashSr.CRC_BUSY
    assert not bench.status(2) & FlashSr.CRC_BUSY


def test_the_crc_reads_past_bad_ecc_and_not_into_protected_areas(bench: Bench) -> None:
    bench.program(BANK1.start, WORD_A)
    bench.program(BANK1.start, WORD_B)
    assert crc_of(bench, Span(0, 128)) == crc(bench.flash.contents(Span.of(BANK1.start, 128)))
    assert not bench.status() & FlashSr.DBECCERR
    bench.clear()
    bench.change_options({(FLASH_PRAR_PRG, 1): 2 << 16 | 1})
    bench.set(FLASH_CRCCR, FlashCrccr.ALL_BANK | FlashCrccr.START_CRC)
    assert bench.status() == FlashSr.CRCRDERR


# --- Option bytes --------------------------------------------------------------------------------


def test_option_bytes_change_after_optstart_and_outlast_a_reset(bench: Bench) -> None:
    bench.unlock_options()
    bench.set(FLASH_WPSN_PRG, 0x7F, bank=2)
    bench.set(FLASH_OPTCR, FlashOptcr.OPTSTART)
    assert bench.get(FLASH_OPTSR_CUR) & 1
    assert bench.get(FLASH_WPSN_CUR, bank=2) == 0xFF
    bench.settle()
    assert bench.clock.now == OPTION_CHANGE
    assert not bench.get(FLASH_OPTSR_CUR) & 1
    assert bench.get(FLASH_WPSN_CUR, bank=2) == 0x7F
    bench.flash.power_loss()
    assert bench.get(FLASH_WPSN_CUR, bank=2) == bench.get(FLASH_WPSN_PRG, bank=2) == 0x7F


def test_option_registers_are_read_only_while_optcr_is_locked(bench: Bench) -> None:
    bench.set(FLASH_WPSN_PRG, 0)
    bench.set(FLASH_OPTSR_PRG, 0)
    bench.set(FLASH_OPTCR, FlashOptcr.OPTSTART)
    bench.settle()
    assert bench.get(FLASH_WPSN_PRG) == 0xFF
    assert bench.get(FLASH_OPTSR_PRG) == 0x1BC6AAF0


def test_what_was_not_started_is_forgotten_by_a_reset(bench: Bench) -> None:
    bench.unlock_options()
    bench.set(FLASH_WPSN_PRG, 0)
    bench.flash.reset()
    assert bench.get(FLASH_WPSN_PRG) == 0xFF


def test_a_refused_change_is_optchangeerr(bench: Bench) -> None:
    bench.flash.refuse_option_change = True
    bench.unlock_options()
    bench.set(FLASH_OPTCR, FlashOptcr.OPTSTART | 1 << 30)
    assert bench.get(FLASH_OPTSR_CUR) >> 30 & 1
    assert bench.irqs == [True]
    bench.set(FLASH_OPTCCR, 1 << 30)
    assert not bench.get(FLASH_OPTSR_CUR) >> 30 & 1
    assert bench.irqs == [True, False]


def test_swapped_banks_change_places_at_the_next_reset_with_their_registers(bench: Bench) -> None:
    bench.flash.load(BANK1.start, WORD_A)
    bench.flash.load(BANK2.start, WORD_B)
    bench.change_options({(FLASH_OPTSR_PRG, 1): 0x1BC6AAF0 | OPTSR_SWAP_BANK})
    assert bench.load(BANK1.start, 32) == WORD_A
    bench.flash.reset()
    assert bench.get(FLASH_OPTCR) & FlashOptcr.SWAP_BANK
    assert bench.load(BANK1.start, 32) == WORD_B
    bench.program(BANK1.start + 32, WORD_A)
    assert bench.flash.banks[1].cells.data[32:64] == WORD_A
    assert bench.flash.programs == {BANK1.start + 32: 1}


def test_a_pcrop_area_can_be_neither_read_nor_changed(bench: Bench) -> None:
    bench.change_options({(FLASH_PRAR_PRG, 1): 2 << 16 | 1})  # 0x100 to 0x2FF
    assert bench.load(BANK1.start + 0xFC) == bench.load(BANK1.start + 0x300) == b"\xff" * 4
    for address in (0x100, 0x2FC):
        with pytest.raises(BusError):
            bench.load(BANK1.start + address)
        assert bench.status() == FlashSr.RDPERR
        bench.clear()
    bench.program(BANK1.start + 0x200, WORD_A)
    assert bench.status() == FlashSr.WRPERR
    assert bench.flash.array(1).direct(0) is None


def test_a_secure_area_counts_only_with_security_on(bench: Bench) -> None:
    bench.change_options({(FLASH_SCAR_PRG, 1): 2 << 16 | 1})
    assert bench.load(BANK1.start + 0x100) == b"\xff" * 4
    bench.change_options({(FLASH_OPTSR_PRG, 1): 0x1BC6AAF0 | 1 << 21})
    with pytest.raises(BusError):
        bench.load(BANK1.start + 0x100)
    assert bench.status() == FlashSr.RDSERR


def test_readout_protection_hides_the_flash_once_a_debugger_shows_up() -> None:
    bench = Bench(rdp=0x55)
    assert bench.load(BANK1.start) == b"\xff" * 4
    with pytest.raises(BusError):
        bench.bus.read(BANK1.start, 4, Master.AP0)
    with pytest.raises(BusError):
        bench.load(BANK1.start)
    assert bench.status() & FlashSr.RDPERR
    bench.program(BANK1.start, WORD_A)
    assert bench.status() & FlashSr.WRPERR
    bench.flash.reset()
    with pytest.raises(BusError):
        bench.load(BANK1.start)
    bench.flash.power_loss()
    assert bench.load(BANK1.start) == b"\xff" * 4
    bench.debugger = True
    with pytest.raises(BusError):
        bench.load(BANK1.start)


def test_memory_that_a_debugger_hides_is_not_mapped_any_more() -> None:
    bench = Bench(rdp=0x55)
    assert bench.flash.array(2).direct(0) is not None
    with pytest.raises(BusError):
        bench.bus.read(BANK1.start, 4, Master.AP0)
    assert bench.revoked == [BANK2]
    assert bench.flash.array(2).direct(0) is None


def test_a_reset_while_readout_protection_goes_leaves_it_on_and_the_contents_lost() -> None:
    bench = Bench(rdp=0x55)
    bench.flash.load(BANK1.start, WORD_A)
    bench.unlock_options()
    bench.set(FLASH_OPTSR_PRG, 0x1BC6AAF0)
    bench.set(FLASH_OPTCR, FlashOptcr.OPTSTART)
    bench.clock.advance_to(SECOND)
    bench.flash.power_loss()
    bench.settle()
    assert bench.get(FLASH_OPTSR_CUR) >> OPTSR_RDP_SHIFT & 0xFF == 0x55
    with pytest.raises(BusError):
        bench.load(BANK1.start)


def test_leaving_readout_protection_erases_everything() -> None:
    bench = Bench(rdp=0x55)
    bench.flash.load(BANK1.start, WORD_A)
    bench.flash.load(BANK2.start, WORD_A)
    optsr = bench.get(FLASH_OPTSR_PRG) & ~(0xFF << OPTSR_RDP_SHIFT) | 0xAA << OPTSR_RDP_SHIFT
    bench.change_options({(FLASH_OPTSR_PRG, 1): optsr})
    assert bench.clock.now == OPTION_CHANGE + 5 * SECOND
    assert bench.bus.read(BANK1.start, 4, Master.AP0) == 0xFFFFFFFF
    assert bench.load(BANK2.start, 32) == b"\xff" * 32


def test_level_two_refuses_every_change_of_options() -> None:
    bench = Bench(rdp=0xCC)
    bench.change_options({(FLASH_WPSN_PRG, 1): 0})
    assert bench.get(FLASH_OPTSR_CUR) >> 30 & 1
    assert bench.get(FLASH_WPSN_CUR) == 0xFF


# --- Mapping -------------------------------------------------------------------------------------


def test_an_idle_bank_is_plain_memory_and_a_busy_one_is_not(bench: Bench) -> None:
    array = bench.flash.array(1)
    assert isinstance(array, Mappable)
    direct = array.direct(0)
    assert direct is not None
    assert not direct.writable
    assert len(direct.memory) == MIB
    bench.program(BANK1.start + 32, WORD_A)
    assert bench.revoked == [BANK1]
    assert direct.memory[32:64] == WORD_A
    bench.control(FlashCr.PG)
    bench.store(BANK1.start + 64, WORD_A)
    assert array.direct(0) is None
    bench.settle()
    assert bench.revoked == [BANK1, BANK1]
    assert array.direct(0) is not None


def test_a_bank_that_nobody_mapped_is_not_revoked(bench: Bench) -> None:
    bench.program(BANK1.start, 4 * WORD_A)
    assert bench.revoked == []


def test_a_block_with_an_unreadable_word_is_not_plain_memory(bench: Bench) -> None:
    bench.flash.load(BANK1.start, bytes(range(256)) * 64)
    bench.flash.flip_bits(BANK1.start + 0x1234, 3)
    array = bench.flash.array(1)
    before, at, after = (array.direct(offset) for offset in (0, 0x1000, 0x2000))
    assert before is not None
    assert (before.offset, len(before.memory)) == (0, 0x1000)
    assert at is None
    assert after is not None
    assert (after.offset, len(after.memory)) == (0x2000, MIB - 0x2000)
    assert after.memory[1] == 1


# --- Against a simple model ----------------------------------------------------------------------


class FlashModel(RuleBasedStateMachine):
    """A bank of two sectors' interest against dictionaries: what is where, and when it is done."""

    WORDS = 6  # per sector, so that words are hit twice

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.words: dict[int, bytes] = {}
        self.unreadable: set[int] = set()
        self.pending: list[int] = []  # when each operation in the queue will be done

    @initialize()
    def open(self) -> None:
        self.bench.unlock()

    def now(self) -> int:
        self.pending = [end for end in self.pending if end > self.bench.clock.now]
        return self.bench.clock.now

    def queue(self, duration: int) -> None:
        start = max([self.now(), *self.pending])
        self.pending.append(start + duration)

    @precondition(lambda self: len(self.pending) < 2)
    @rule(
        sector=st.integers(0, 1),
        number=st.integers(0, WORDS - 1),
        data=st.one_of(
            st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32])
        ),
        size=st.sampled_from([1, 2, 4]),
    )
    def program(self, sector: int, number: int, data: bytes, size: int) -> None:
        address = BANK1.start + sector * SECTOR + 32 * number
        self.bench.control(FlashCr.PG)
        self.bench.store(address, data, size=size)
        self.queue(PROGRAMMING)
        old = self.words.get(address, b"\xff" * 32)
        harmless = (bytes(32), b"\xff" * 32)
        if data == bytes(32):
            self.unreadable.discard(address)
        elif old not in (b"\xff" * 32, data) and data not in harmless and old != bytes(32):
            self.unreadable.add(address)
        self.words[address] = bytes(a & b for a, b in zip(old, data, strict=True))

    @precondition(lambda self: len(self.pending) < 2)
    @rule(sector=st.integers(0, 1))
    def erase(self, sector: int) -> None:
        self.bench.control(FlashCr.SER | FlashCr.START | sector << FLASH_CR_SNB_SHIFT)
        self.queue(ERASING)
        span = Span.of(BANK1.start + sector * SECTOR, SECTOR)
        self.words = {a: word for a, word in self.words.items() if a not in span}
        self.unreadable = {a for a in self.unreadable if a not in span}

    @rule(nanoseconds=st.integers(0, 3 * PROGRAMMING))
    def wait(self, nanoseconds: int) -> None:
        self.bench.clock.advance_to(self.bench.clock.now + nanoseconds)
        self.now()

    @rule()
    def wait_until_idle(self) -> None:
        self.bench.settle()
        self.now()

    @invariant()
    def queue_waits_as_long_as_it_should(self) -> None:
        self.now()
        assert bool(self.bench.status() & FlashSr.QW) == bool(self.pending)
        if self.pending:
            with pytest.raises(BusStall) as stalled:
                self.bench.bus.read(BANK1.start, 4, Master.CORE)
            assert stalled.value.ready == max(self.pending)

    @invariant()
    def contents_are_what_was_programmed(self) -> None:
        if self.pending:
            return
        assert not self.bench.status() & ~(FlashSr.DBECCERR)
        for sector in range(3):
            start = BANK1.start + sector * SECTOR
            expected = b"".join(
                self.words.get(start + 32 * i, b"\xff" * 32) for i in range(self.WORDS + 1)
            )
            assert self.bench.flash.contents(Span.of(start, len(expected))) == expected
        for address in self.words:
            if address in self.unreadable:
                with pytest.raises(BusError):
                    self.bench.load(address)
            else:
                assert self.bench.load(address, 32) == self.words[address]


TestFlashModel = FlashModel.TestCase
TestFlashModel.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


class WriteBufferModel(RuleBasedStateMachine):
    """Stores of all sizes in any order: what collects, what is dropped, and with which flag."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.bench.unlock()
        self.programming = False
        self.flags = FlashSr(0)
        self.filling = 0
        self.buffer: dict[int, int] = {}
        self.committed: list[tuple[int, bytes]] = []

    def commit(self) -> None:
        word = bytes(self.buffer.get(position, 0xFF) for position in range(FLASH_WORD))
        self.committed.append((self.filling, word))
        self.buffer.clear()

    def queued(self) -> int:
        """Each operation takes as long, so time tells how many are left; see `wait`."""
        return len(self.committed)

    @rule()
    def set_pg(self) -> None:
        self.bench.control(FlashCr.PG)
        self.programming = True

    @rule()
    def clear_pg(self) -> None:
        self.bench.control(0)
        self.programming = False
        self.buffer.clear()

    @rule()
    def clear_flags(self) -> None:
        self.bench.clear()
        self.flags = FlashSr(0)

    @rule()
    def wait(self) -> None:
        """Everything committed is in flash, word by word ANDed to what was there."""
        expected: dict[int, bytes] = {}
        for address, word in self.committed:
            old = expected.get(address, self.bench.flash.contents(Span.of(address, FLASH_WORD)))
            expected[address] = bytes(a & b for a, b in zip(old, word, strict=True))
        self.bench.settle()
        for address, word in expected.items():
            assert self.bench.flash.contents(Span.of(address, FLASH_WORD)) == word
        self.committed.clear()

    @precondition(lambda self: self.queued() < 2)
    @rule()
    def force(self) -> None:
        self.bench.control(FlashCr.FW | (FlashCr.PG if self.programming else 0))
        if not self.programming:
            self.buffer.clear()
        elif self.buffer:
            self.commit()

    @rule(
        word=st.sampled_from([0, 0, 0, 1]),
        position=st.integers(0, 31),
        size=st.sampled_from([1, 2, 4, 4]),
        value=st.integers(0, 0xFFFFFFFF),
    )
    def store(self, word: int, position: int, size: int, value: int) -> None:
        self.store_bytes(BANK1.start + FLASH_WORD * word, position - position % size, size, value)

    @rule(word=st.integers(0, 1), value=st.integers(0, 0xFFFFFFFF))
    def store_the_rest(self, word: int, value: int) -> None:
        """What makes a flash word complete, which chance alone seldom does."""
        for position in range(0, FLASH_WORD, 4):
            if self.buffer.keys().isdisjoint(range(position, position + 4)):
                self.store_bytes(BANK1.start + FLASH_WORD * word, position, 4, value)

    def store_bytes(self, word: int, position: int, size: int, value: int) -> None:
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        new = dict(enumerate(data, position))
        blocked = bool(self.flags & (FlashSr.PGSERR | FlashSr.INCERR)) or not self.programming
        fits = not self.buffer or self.filling == word
        if not blocked and fits and len(self.buffer | new) == FLASH_WORD and self.queued() >= 2:
            with pytest.raises(BusStall):
                self.bench.bus.write(
                    word + position, size, int.from_bytes(data, "little"), Master.CORE
                )
            return
        self.bench.bus.write(word + position, size, int.from_bytes(data, "little"), Master.CORE)
        if blocked:
            self.flags |= FlashSr.PGSERR
        elif not fits:
            self.flags |= FlashSr.INCERR
            self.buffer.clear()
        else:
            if self.buffer.keys() & new.keys():
                self.flags |= FlashSr.STRBERR
            self.filling = word
            self.buffer |= new
            if len(self.buffer) == FLASH_WORD:
                self.commit()

    @invariant()
    def status_is_as_expected(self) -> None:
        expected = self.flags
        if self.buffer:
            expected |= FlashSr.WBNE
        if self.committed:
            expected |= FlashSr.QW
        assert self.bench.status() & ~FlashSr.BSY == expected


TestWriteBufferModel = WriteBufferModel.TestCase
TestWriteBufferModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
