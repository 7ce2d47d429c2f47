"""One download over all devices: what is refused, and how the lanes share the link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import FLASH, FLASH_WPSN_CUR
from gdbserver.errors import ChipLocked, FlashError, OutsideFlash, VerifyError
from gdbserver.flash.programmer import Programmer
from gdbserver.loader.own import builtin
from gdbserver.sim.flash_interface import SharedRegisters
from gdbserver.sim.options import DEFAULT_PINS
from gdbserver.target.target import Target

NOR = 0x90000000
SECTOR = 0x20000


def test_all_three_devices_are_programmed_side_by_side(bench: Bench) -> None:
    writes = ((0x08000000, noise(9000)), (0x08100000, noise(9000, 1)), (NOR, noise(30_000, 2)))
    bench.board.flash.load(0x08000000, noise(SECTOR, 3))
    bench.board.flash.load(0x08100000, noise(SECTOR, 4))
    bench.carry_out(download((NOR, noise(65_536, 5))))
    started = bench.seconds()
    bench.carry_out(download(*writes))
    # A second for either bank's erase, and a third of one for the NOR: one after the other
    # would be 2.4 seconds.
    assert bench.seconds() - started < 1.4
    for address, data in writes:
        assert bench.contents(Span.of(address, len(data))) == data


def test_banks_take_turns_on_the_link(quick: Bench) -> None:
    for bank in (0x08000000, 0x08100000):
        quick.board.flash.load(bank, noise(2 * SECTOR))
    started = quick.seconds()
    image = noise(2 * SECTOR, 1)
    quick.carry_out(download((0x08000000, image), (0x08100000, image)))
    # One bank alone needs 2 x (1.0 + 0.41); the second is half a sector behind.
    assert quick.seconds() - started < 2.83 * 1.25


def test_steps_count_up_to_their_totals(quick: Bench) -> None:
    last = {}
    for step in quick.carry_out(download((0x08000000, noise(SECTOR + 32)), (NOR, noise(100)))):
        key = (step.region.name, step.action)
        assert step.done > last.get(key, (0, 0))[0]
        assert step.span in step.region.span
        last[key] = (step.done, step.total)
    assert last["bank 1", "programmed"] == (SECTOR + 32, SECTOR + 32)
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize(
    "write", [(0x08200000, b"x"), (0x92000000, b"x"), (0x091FFFFF, b"xx"), (0x081FFFFF, b"xx")]
)
def test_nothing_is_erased_when_part_of_the_download_is_outside(
    quick: Bench, write: tuple[int, bytes]
) -> None:
    quick.board.flash.load(0x08000000, noise(SECTOR))
    with pytest.raises(OutsideFlash):
        quick.carry_out(download((0x08000000, b"1234"), write))
    assert not quick.board.flash.erases
    assert quick.contents(Span.of(0x08000000, SECTOR)) == noise(SECTOR)


def test_without_a_loader_the_nor_is_refused_before_anything_is_erased(quick: Bench) -> None:
    bare = Programmer(quick.target, [])
    with pytest.raises(OutsideFlash) as refused:
        list(bare.carry_out(download((0x08000000, b"1234"), (NOR, b"1234"))))
    assert "--extload" in str(refused.value.hint)
    assert not quick.board.flash.programs


def test_a_protected_sector_is_refused_before_anything_is_erased(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    bank = bench.board.flash.banks[0]
    bank.set_raw(bank.WPSN_CUR, 0xFD)
    assert bench.target.read_word(FLASH + FLASH_WPSN_CUR) == 0xFD
    bench.target.chip = replace(bench.target.chip, protected_sectors=(Span.of(0x08020000, SECTOR),))
    with pytest.raises(FlashError, match="write-protected: 0x08020000-0x0803ffff of bank 1"):
        bench.carry_out(download((0x08000000, noise(SECTOR + 1))))
    bench.carry_out(download((0x08040000, b"elsewhere is fine")))


def test_an_area_protected_against_reading_is_refused_before_anything_is_erased(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    bank = bench.board.flash.banks[1]
    bank.set_raw(bank.PRAR_CUR, 0x0203_0201)  # 256-byte units: from 201h up to 203h
    with pytest.raises(FlashError) as refused:
        bench.carry_out(download((0x08000000, b"1234"), (0x08120000, b"1234")))
    assert str(refused.value) == (
        "protected against being read, and so against change: 0x08120100-0x081203ff of bank 2"
    )
    assert not bench.board.flash.programs
    bench.carry_out(download((0x08100000, b"elsewhere is fine")))


def test_a_bank_is_protected_whole_where_its_area_begins_and_ends_with_the_same_unit(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    bank = bench.board.flash.banks[0]
    bank.set_raw(bank.PRAR_CUR, 0)
    with pytest.raises(FlashError, match="0x08000000-0x080fffff of bank 1") as refused:
        bench.carry_out(download((0x080E0000, b"1234")))
    assert "PCROP" in str(refused.value.hint)


@pytest.mark.parametrize("secure", [False, True])
def test_a_secure_area_is_refused_where_the_chip_has_secure_access(
    bench_at: Callable[..., Bench], secure: bool
) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    bank = bench.board.flash.banks[0]
    bank.set_raw(bank.SCAR_CUR, 0x0203_0201)
    chip = bench.target.chip
    bench.target.chip = replace(chip, optsr=chip.optsr & ~(1 << 21) | secure << 21)
    image = download((0x08020000, b"1234"))
    if not secure:
        bench.carry_out(image)
        return
    with pytest.raises(FlashError, match="0x08020100-0x080203ff of bank 1") as refused:
        bench.carry_out(image)
    assert "a secure area" in str(refused.value.hint)
    assert not bench.board.flash.programs


def test_a_small_part_has_one_bank(bench_at: Callable[..., Bench]) -> None:
    regions = bench_at("sim:cmsis-dap-v2,flash_kib=128").programmer.regions()
    assert [str(region) for region in regions] == [
        "bank 1 0x08000000-0x0801ffff",
        "qspi 0x90000000-0x91ffffff",
    ]


def test_a_nor_whose_upper_lines_are_elsewhere_is_read_on_one_line_when_that_shows(
    bench_at: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """While it was blank, four lines seemed to read it: nothing pulls them low."""
    bench = bench_at("sim:cmsis-dap-v2", {**DEFAULT_PINS, "IO2": "PE2", "IO3": "PD13"})
    bench.programmer.describe_external()
    assert caplog.messages == []
    for start in (0x90000000, 0x90010000):
        bench.carry_out(download((start, noise(300))))
        assert bench.target.read_memory(start, 300) == noise(300)
    warning, consequence = caplog.messages
    assert "IO2 or IO3, which it needs, may not be on the pins that were named" in warning
    assert consequence == "the NOR stays mapped in the loader's way, which reads it"


def test_upper_lines_that_are_elsewhere_are_told_at_once_of_a_nor_with_contents(
    bench_at: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = bench_at("sim:cmsis-dap-v2", {**DEFAULT_PINS, "IO2": "PE2", "IO3": "PD13"})
    bench.board.nor.memory[:0x1000] = noise(0x1000)
    bench.programmer.describe_external()
    assert caplog.messages == [
        (
            "qspi 0x90000000-0x91ffffff is read on one line, because four lines read something "
            "else: are IO2 and IO3 on the pins that were named?"
        )
    ]
    assert bench.target.read_memory(0x90000000, 300) == noise(0x1000)[:300]


def test_two_loaders_for_one_range_are_refused(quick: Bench) -> None:
    with pytest.raises(FlashError, match="two loaders are for the same addresses"):
        Programmer(quick.target, [builtin(DEFAULT_PINS), builtin(DEFAULT_PINS)])


def test_a_running_core_is_halted_first(quick: Bench) -> None:
    target: Target = quick.target
    target.write_memory(0x20000000, b"\xfe\xe7")  # b .
    target.write_registers({"pc": 0x20000000, "xpsr": 0x01000000})
    target.resume()
    assert not target.is_halted()
    quick.carry_out(download((0x08000000, b"12345678")))
    assert target.is_halted()
    assert quick.contents(Span.of(0x08000000, 8)) == b"12345678"


@pytest.mark.parametrize(("nor", "mib"), [("W25Q64JV", 8), ("MT25QL512ABB", 64)])
def test_the_nor_is_as_large_as_it_says(bench_at: Callable[..., Bench], nor: str, mib: int) -> None:
    bench = bench_at(f"sim:cmsis-dap-v2,nor={nor}")
    assert f"{mib * 1024} KiB" in bench.programmer.describe_external()
    region = bench.programmer.regions()[-1]
    assert len(region.span) == mib << 20
    last = Span.of(region.span.end - 100, 100)
    image = noise(100)
    bench.carry_out(download((last.start, image)))
    assert bench.contents(last) == image


def test_a_download_past_the_end_of_a_small_nor_is_refused_before_anything_is_erased(
    bench_at: Callable[..., Bench],
) -> None:
    """Also when nobody has asked the NOR before, and the loader's file says 32 MiB."""
    bench = bench_at("sim:cmsis-dap-v2,nor=W25Q64JV")
    with pytest.raises(OutsideFlash, match="0x90800000-0x9080ffff is past the end of qspi"):
        bench.carry_out(download((0x08000000, b"internal"), (0x90800000, b"too far")))
    assert not bench.board.flash.erases
    assert not bench.board.nor.erases
    with pytest.raises(OutsideFlash, match="is past the end of qspi 0x90000000-0x907fffff"):
        bench.carry_out(download((0x90800000, b"too far")))


def test_full_verification_reads_back_what_digests_have_found_right(quick: Bench) -> None:
    programmer = Programmer(quick.target, [builtin(DEFAULT_PINS)], verify="full")
    steps = programmer.carry_out(download((0x08000000, noise(1000)), (0x90000000, noise(0x11000))))
    for step in steps:
        if step.action == "verified" and step.region.name == "qspi" and step.done == step.total:
            quick.board.nor.memory[0x1234] ^= 1
            break
    with pytest.raises(VerifyError, match="0x90001234"):
        list(steps)


def test_full_verification_moves_every_byte(quick: Bench) -> None:
    image = download((0x08000000, noise(0x20000)))
    quick.carry_out(image)
    moved = {}
    for verify in ("digest", "full"):
        counters = quick.target.link.probe.counters
        before = counters.bytes_in
        programmer = Programmer(quick.target, [builtin(DEFAULT_PINS)], verify=verify)
        list(programmer.carry_out(image))
        moved[verify] = counters.bytes_in - before
    assert moved["full"] - moved["digest"] > 0x20000


def test_early_silicon_reads_axi_sram_one_word_at_a_time_and_then_as_before(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2,revision=0x1003")
    port = bench.board.axi_sram_port
    bench.carry_out(download((0x08000000, noise(0x8000)), (0x90000000, noise(0x1000))))
    bench.carry_out(download((0x08000000, noise(0x8000, seed=2))))
    assert bench.contents(Span.of(0x08000000, 0x8000)) == noise(0x8000, seed=2)
    assert bench.contents(Span.of(0x90000000, 0x1000)) == noise(0x1000)
    assert port.misreads
    assert port.doubtful == []
    assert port.raw(port.FN_MOD) == 0


def test_early_silicon_without_that_register_is_programmed_all_the_same(
    bench_at: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = bench_at("sim:cmsis-dap-v2,revision=0x1003")
    bus = bench.board.bus
    devices = [entry for entry in bus.devices if entry[1] is not bench.board.axi_sram_port]
    bus.devices.clear()
    for span, device in devices:
        bus.attach(span.start, len(span), device)
    bench.carry_out(download((0x90000000, noise(0x1000))))
    assert bench.contents(Span.of(0x90000000, 0x1000)) == noise(0x1000)
    assert "AXI SRAM may be read wrongly (ES0392)" in caplog.text


def test_read_protection_that_comes_in_between_is_named(quick: Bench) -> None:
    flash = quick.board.flash
    flash.load(0x08000000, noise(100))
    steps = quick.programmer.carry_out(download((0x08000000, noise(SECTOR, 1))))
    next(steps)
    flash.shared.update(SharedRegisters.OPTSR_PRG, RDP=0x55)
    flash.change_options()
    with pytest.raises(ChipLocked, match=r"read-protected \(RDP level 1\)"):
        list(steps)
