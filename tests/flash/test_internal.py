"""Internal flash, driven through the debug port, against the simulated flash controller."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip.cortex_m import CCR, Ccr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CR,
    FLASH_CR_PSIZE_SHIFT,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_SR,
    FLASH_WORD,
    PROGRAM_SECONDS,
    FlashCr,
    FlashSr,
)
from gdbserver.errors import FlashError, MemoryFault, ProbeError
from gdbserver.flash.internal import InternalBank, Pace
from gdbserver.flash.plan import plan

SECTOR = 0x20000
BANKS = (FLASH, FLASH + FLASH_BANK2_OFFSET)


def controls(bench: Bench) -> list[int]:
    return [bench.target.read_word(registers + FLASH_CR) for registers in BANKS]


def test_an_image_over_both_banks_arrives_whole(bench: Bench) -> None:
    image = noise(3 * SECTOR // 2), noise(1000, seed=1)
    bench.carry_out(download((0x08000000, image[0]), (0x08120010, image[1])))
    assert bench.contents(Span.of(0x08000000, len(image[0]))) == image[0]
    assert bench.contents(Span.of(0x08120010, len(image[1]))) == image[1]
    assert set(bench.board.flash.programs.values()) == {1}


def test_only_the_named_sectors_are_erased(bench: Bench) -> None:
    """A flash algorithm in wide use erases the sector behind each one that it is asked for."""
    flash = bench.board.flash
    before = noise(16 * SECTOR)
    flash.load(0x08000000, before[: 8 * SECTOR])
    flash.load(0x08100000, before[8 * SECTOR :])
    changed = (0x08020000, 0x080E0000, 0x081E0000)
    bench.carry_out(download(*((address, noise(64, seed=address)) for address in changed)))
    assert dict(flash.erases) == dict.fromkeys(changed, 1)
    for start in range(0, 16 * SECTOR, SECTOR):
        held = bench.contents(Span.of(0x08000000 + start, SECTOR))
        if 0x08000000 + start in changed:
            assert held == noise(64, seed=0x08000000 + start).ljust(SECTOR, b"\xff")
        else:
            assert held == before[start : start + SECTOR]


def test_both_banks_are_locked_afterwards_with_nothing_set(bench: Bench) -> None:
    bench.carry_out(download((0x08000000, b"12345678"), (0x08100000, b"12345678")))
    assert controls(bench) == [0x31, 0x31]
    assert [bench.target.read_word(registers + FLASH_SR) for registers in BANKS] == [0, 0]


def test_a_bank_that_the_program_left_unlocked_is_not_unlocked_again(quick: Bench) -> None:
    """Keys for an open lock are a bus error, and jam it."""
    for key in (FLASH_KEY1, FLASH_KEY2):
        quick.target.write_word(FLASH + FLASH_KEYR, key)
    quick.carry_out(download((0x08000000, b"12345678")))
    assert quick.contents(Span.of(0x08000000, 8)) == b"12345678"
    assert controls(quick)[0] & FlashCr.LOCK


def test_a_flash_word_that_the_program_half_wrote_says_that_a_reset_is_needed(quick: Bench) -> None:
    for key in (FLASH_KEY1, FLASH_KEY2):
        quick.target.write_word(FLASH + FLASH_KEYR, key)
    quick.target.write_word(FLASH + FLASH_CR, FlashCr.PG | 3 << FLASH_CR_PSIZE_SHIFT)
    quick.target.write_word(0x08000000, 0)
    with pytest.raises(FlashError, match="bank 1 holds a flash word that the program half") as left:
        quick.carry_out(download((0x08000000, b"12345678")))
    assert left.value.hint == "reset the chip first (monitor reset halt)"
    assert not quick.board.flash.erases


def test_old_errors_do_not_stop_a_download(quick: Bench) -> None:
    quick.target.write_word(0x08000000, 0)  # PG = 0: a programming sequence error
    assert quick.target.read_word(FLASH + FLASH_SR) & FlashSr.PGSERR
    quick.carry_out(download((0x08000000, b"12345678")))
    assert quick.contents(Span.of(0x08000000, 8)) == b"12345678"


def test_a_jammed_lock_says_that_a_reset_is_needed(quick: Bench) -> None:
    with pytest.raises(MemoryFault):
        quick.target.write_word(FLASH + FLASH_KEYR, 0x12345678)
    with pytest.raises(FlashError, match="bank 1 does not unlock") as refused:
        quick.carry_out(download((0x08000000, b"12345678")))
    assert "reset the chip" in str(refused.value.hint)


def test_what_is_there_already_is_not_touched(bench: Bench) -> None:
    image = download((0x08000000, noise(SECTOR + 100)), (0x08100000, noise(100)))
    bench.carry_out(image)
    erases, programs = dict(bench.board.flash.erases), dict(bench.board.flash.programs)
    started = bench.seconds()
    assert {step.action for step in bench.carry_out(image)} == {"compared"}
    assert bench.seconds() - started < 0.15 * 3 / 8
    assert (dict(bench.board.flash.erases), dict(bench.board.flash.programs)) == (erases, programs)


def test_after_a_small_change_only_its_sector_is_done_again(quick: Bench) -> None:
    image = bytearray(noise(2 * SECTOR))
    quick.carry_out(download((0x08000000, bytes(image))))
    quick.board.flash.erases.clear()
    image[SECTOR + 5] ^= 1
    quick.carry_out(download((0x08000000, bytes(image))))
    assert dict(quick.board.flash.erases) == {0x08000000 + SECTOR: 1}
    assert quick.contents(Span.of(0x08000000, 2 * SECTOR)) == image


@pytest.mark.parametrize("size", [64, 2 * SECTOR])
def test_a_sector_that_only_looks_blank_is_erased_after_all(quick: Bench, size: int) -> None:
    """Somebody's word of ones, cut short by a reset: its ECC is not that of a blank one.

    A little is read back through the link, and much by the core.
    """
    flash = quick.board.flash
    offset = (size - 1) // SECTOR * SECTOR  # the beginning of the last sector
    flash.banks[0].cells.half_program(offset, b"\xff" * FLASH_WORD)
    quick.carry_out(download((0x08000000, noise(size))))
    assert quick.target.read_memory(0x08000000, size) == noise(size)
    assert not quick.target.read_word(FLASH + FLASH_SR) & (FlashSr.SNECCERR | FlashSr.DBECCERR)
    assert dict(flash.erases) == {0x08000000 + offset: 1}


def test_into_blank_sectors_words_cross_the_link_once(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    images = {address: noise(2 * SECTOR, seed=address) for address in (0x08000000, 0x08100000)}
    counters = bench.target.link.probe.counters
    began, returned = bench.seconds(), counters.bytes_in
    bench.carry_out(download(*images.items()))
    assert counters.bytes_in - returned < 2 * SECTOR
    assert bench.seconds() - began < 1.3 * 2 * SECTOR / FLASH_WORD * PROGRAM_SECONDS[3][0]


def test_erasing_alone_leaves_a_blank_sector(quick: Bench) -> None:
    quick.board.flash.load(0x08040000, noise(SECTOR))
    blank = download((0x08040000, b""))
    blank.erase(Span.of(0x08040000, SECTOR))
    quick.carry_out(blank)
    assert quick.contents(Span.of(0x08040000, SECTOR)) == b"\xff" * SECTOR
    assert not quick.board.flash.programs


@pytest.mark.parametrize("waits", [1, 4, 16, 50])
@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_an_impatient_probe_programs_each_flash_word_exactly_once(
    bench_at: Callable[..., Bench], link: str, waits: int
) -> None:
    bench = bench_at(f"sim:{link},waits={waits}")
    image = noise(8000)
    bench.carry_out(download((0x08000000, image), (0x08100000, image)))
    assert bench.contents(Span.of(0x08000000, 8000)) == image
    assert bench.contents(Span.of(0x08100000, 8000)) == image
    assert set(bench.board.flash.programs.values()) == {1}
    assert len(bench.board.flash.programs) == 2 * 250


def test_over_a_slow_link_hardly_a_packet_is_not_full_of_the_image(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v1")
    size = SECTOR // 2
    images = {address: noise(size, seed=address) for address in (0x08000000, 0x08100000)}
    for address, image in images.items():
        bench.board.flash.load(address, image[::-1])
    before = bench.cost()
    bench.carry_out(download(*images.items()))
    assert all(bench.contents(Span.of(a, size)) == image for a, image in images.items())
    assert set(bench.board.flash.programs.values()) == {1}
    assert bench.cost() - before < 1.08 * 2 * size / 56


def test_a_bank_that_is_slower_than_was_thought_is_erased_again_and_programmed_slowly(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2,waits=1")
    image = noise(0x8000)
    (region_plan,) = plan(download((0x08000000, image)), bench.programmer.regions())
    slow = Pace(seconds_per_byte=1.0)
    with InternalBank(bench.target, region_plan.region, pace=slow) as bank:
        list(bank.change(region_plan.sectors))
    assert not slow.patient
    assert bench.target.read_memory(0x08000000, len(image)) == image
    assert bench.board.flash.erases[0x08000000] == 2


def test_maximum_times_do_not_time_out(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at("sim:cmsis-dap-v2,timing=maximum")
    bench.board.flash.load(0x08000000, noise(SECTOR))
    bench.carry_out(download((0x08000000, noise(4000, seed=5))))
    assert bench.contents(Span.of(0x08000000, 4000)) == noise(4000, seed=5)


def test_abandoning_a_download_leaves_the_bank_idle_and_locked(bench: Bench) -> None:
    flash = bench.board.flash
    before = noise(3 * SECTOR)
    flash.load(0x08000000, before)
    steps = bench.programmer.carry_out(download((0x08020000, noise(SECTOR, seed=1))))
    for step in steps:
        if step.action == "waiting" and step.done == SECTOR and flash.programs:
            break
    steps.close()
    assert controls(bench) == [0x31, 0x31]
    assert not flash.banks[0].busy
    assert set(flash.programs.values()) == {1}
    assert bench.contents(Span.of(0x08000000, SECTOR)) == before[:SECTOR]
    assert bench.contents(Span.of(0x08040000, SECTOR)) == before[2 * SECTOR :]


def test_a_dead_cell_is_found_and_named(quick: Bench) -> None:
    quick.board.flash.fail_cell(0x08000123)
    with pytest.raises(FlashError, match="bank 1 cannot be read at 0x08000120") as failed:
        quick.carry_out(download((0x08000000, bytes(0x400))))
    assert "ECC cannot correct" in str(failed.value.hint)
    assert controls(quick) == [0x31, 0x31]


@pytest.mark.parametrize(
    ("flag", "what", "hint"),
    [
        (FlashSr.WRPERR, "WRPERR: it is write-protected", "the option bytes protect it"),
        (FlashSr.OPERR, "OPERR: an operation was cut short", "is the supply steady"),
        (FlashSr.INCERR, "INCERR: a flash word was left", "monitor reset halt, then load again"),
    ],
)
def test_an_error_flag_of_the_controller_is_a_sentence(
    quick: Bench, flag: FlashSr, what: str, hint: str
) -> None:
    flash = quick.board.flash
    flash.load(0x08000000, noise(64))
    steps = quick.programmer.carry_out(download((0x08000000, noise(100))))
    for step in steps:
        if step.action == "waiting":
            flash.raise_error(1, flag)
            break
    sentence = f"cannot erase 0x08000000-0x0801ffff in bank 1: {what}"
    with pytest.raises(FlashError, match=sentence) as failed:
        list(steps)
    assert hint in str(failed.value.hint)


def test_pulling_the_probe_out_is_reported_and_not_made_worse(quick: Bench) -> None:
    steps = quick.programmer.carry_out(download((0x08000000, noise(SECTOR))))
    next(steps)
    quick.board.unplug()
    with pytest.raises(ProbeError):
        list(steps)
    quick.board.replug()


def test_mass_erase_blanks_both_banks_at_once(quick: Bench) -> None:
    for address in (0x08000000, 0x081E0000):
        quick.board.flash.load(address, noise(1000))
    started = quick.seconds()
    actions = {step.action for step in quick.programmer.mass_erase("internal")}
    assert actions == {"erased", "waiting"}
    for bank in (0x08000000, 0x08100000):
        assert quick.contents(Span.of(bank, 8 * SECTOR)) == b"\xff" * 8 * SECTOR
    assert quick.seconds() - started < 5.5


def use_data_cache(bench: Bench) -> list[int]:
    """As a program does; the result is where it has been misread since."""
    bench.target.halt()
    bench.target.write_word(CCR, bench.target.read_word(CCR) | Ccr.DC)
    misread: list[int] = bench.board.scs.caches.misread
    return misread


def test_what_a_data_cache_still_holds_of_a_sector_is_not_taken_for_its_contents(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2,waits=1")
    bench.board.flash.load(0x08000000, noise(SECTOR))
    misread = use_data_cache(bench)
    image = noise(4096, seed=1)
    bench.carry_out(download((0x08000000, image)))
    assert bench.target.read_memory(0x08000000, len(image)) == image
    assert misread == []


def test_after_a_failure_no_data_cache_shows_what_was_erased(quick: Bench) -> None:
    quick.board.flash.load(0x08000000, noise(SECTOR))
    quick.board.flash.fail_cell(0x08000040)
    misread = use_data_cache(quick)
    with pytest.raises(FlashError):
        quick.carry_out(download((0x08000000, bytes(4096))))
    quick.target.read_memory(0x08000000, 32)
    assert misread == []
