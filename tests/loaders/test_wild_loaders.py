"""Loaders as users have them, doing their work: erase, program, verify, on the simulated board."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from fixture_loaders import build
from loader_runs import BANK1, BANK2, BLOCK, NOR, download, noise, run, run_files

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.errors import (
    FlashError,
    LoaderBroken,
    LoaderFault,
    LoaderRefused,
    LoaderTimeout,
    OutsideFlash,
)
from gdbserver.loader.nor_states import Nor

MIB = 1 << 20

EVERY = (
    *("F1", "F2", "F3", "F4", "F5", "F6", "F6_DTCM", "20000004", "30000004", "F7", "F8", "F10"),
    *("HARD_FLOAT", "170_KB", "64_KB_BSS", "FULL", "UNRULY"),
)


@pytest.mark.parametrize(
    "name", [*(f"W25Q256_{name}" for name in EVERY), "W25Q256", "W25Q256_VERIFIES"]
)
def test_a_mixed_image_arrives_whole(name: str) -> None:
    with run(name) as here:
        here.board.flash.load(BANK1, noise(0x20000, 7))
        here.board.nor.memory[: 2 * BLOCK] = noise(2 * BLOCK, 8)
        ram = {0x24000000: noise(0x4000, 1), 0x20000000: noise(0x4000, 2)}
        for address, data in ram.items():
            here.target.write_memory(address, data)
        before = here.target.read_registers(["pc", "sp", "r9", "primask", "control"])
        vtor = here.target.read_word(cm.VTOR)
        writes = ((BANK1, noise(3000, 3)), (BANK2, noise(100, 4)), (NOR + 3, noise(70_001, 5)))
        here.load(*writes)
        for address, data in writes:
            assert here.contents(address, len(data)) == data
        # What GDB has put into RAM, and what it knows of the core, holds as before.
        for address, data in ram.items():
            assert here.target.read_memory(address, len(data)) == data
        assert here.target.read_registers(before) == before
        assert here.target.read_word(cm.SYST_CSR) & 1 == 0
        assert here.target.read_word(cm.VTOR) == vtor


@pytest.mark.parametrize("name", ["W25Q256_F1", "W25Q256", "W25Q256_VERIFIES"])
def test_the_whole_device_can_be_reached_and_erased(name: str) -> None:
    with run(name) as here:
        ends = ((NOR + 16 * MIB - 300, noise(600)), (NOR + 32 * MIB - 257, noise(257, 1)))
        here.load(*ends)
        for address, data in ends:
            assert here.contents(address, len(data)) == data
        actions = [step.action for step in here.programmer.mass_erase("external")]
        assert actions[-1] == "erased"
        for address, data in ends:
            assert here.contents(address, len(data)) == b"\xff" * len(data)


def test_without_a_routine_for_it_the_device_is_erased_sector_by_sector() -> None:
    path = build("W25Q256_F2", COUNT=4, SIZE=4 * BLOCK)
    with run_files(path) as here:
        here.board.nor.memory[: 5 * BLOCK] = noise(5 * BLOCK)
        list(here.programmer.mass_erase("external"))
        assert here.contents(NOR, 4 * BLOCK) == b"\xff" * 4 * BLOCK
        assert here.contents(NOR + 4 * BLOCK, BLOCK) == noise(5 * BLOCK)[-BLOCK:]


@pytest.mark.parametrize("leave", [Nor.leave_powered_down, Nor.leave_in_continuous_read])
@pytest.mark.parametrize("name", ["W25Q256_F9_DEAF", "W25Q256_F9_DEAF_WAITS"])
def test_a_nor_that_does_not_listen_is_woken_for_init(
    name: str, leave: Callable[[Nor], str | None]
) -> None:
    # A program left it so; the reset that a download begins with does not reach it.
    with run(name) as here:
        here.load((NOR, noise(300)))
        assert leave(Nor(here.target)) is None
        here.target.reset(halt=True)
        here.load((NOR, noise(300, 1)))
        assert here.contents(NOR, 300) == noise(300, 1)


@pytest.mark.parametrize("name", ["W25Q256_F9_DEAF", "W25Q256_F9_DEAF_WAITS"])
def test_where_no_nor_is_the_pins_are_named(name: str) -> None:
    pins = "PB2/PB10/PF8/PF9/PF7/PF6"
    with (
        run(name, uid=f"sim:cmsis-dap-v2,qspi_pins={pins}") as here,
        pytest.raises((LoaderRefused, LoaderTimeout)) as failed,
    ):
        here.load((NOR, noise(300)))
    assert failed.value.why.startswith("no NOR answers at CLK=PB2, NCS=PB6, IO0=PF8,")


def test_an_init_that_cannot_begin_where_the_one_before_has_left_the_nor_is_told_of() -> None:
    with (
        run("W25Q256_ONCE", uid="sim:cmsis-dap-v2,nor=W25Q256JV-IM") as here,
        pytest.raises(LoaderTimeout, match="has not returned") as failed,
    ):
        here.load((NOR, noise(300)))
    assert failed.value.why.startswith(
        "the NOR at CLK=PB2, NCS=PB6, IO0=PF8, IO1=PF9, IO2=PF7, IO3=PF6 answers"
    )
    assert failed.value.why.endswith("but only since it was woken")
    assert failed.value.hint == (
        "its own Init has left the NOR so, and cannot begin from there: "
        "it works once after power-on; use --extload builtin"
    )


def test_a_debugger_can_read_a_nor_that_its_loader_does_not_map() -> None:
    with run("W25Q256_VERIFIES") as here:
        here.board.nor.memory[: 2 * BLOCK] = noise(2 * BLOCK, 8)
        here.programmer.prepare_external_reads()
        assert (
            here.target.read_memory(NOR + BLOCK - 7, 100) == noise(2 * BLOCK, 8)[BLOCK - 7 :][:100]
        )
        here.load((NOR, noise(300)))
        assert here.contents(NOR, 300) == noise(300)


def test_a_read_that_goes_on_behind_what_was_asked_for_is_ended() -> None:
    with run("W25Q256_READS_ON") as here:
        here.board.nor.memory[: 2 * BLOCK] = noise(2 * BLOCK, 8)
        here.load((NOR + 3, noise(20_000)))
        assert here.contents(NOR + 3, 20_000) == noise(20_000)
        assert [step.action for step in here.load((NOR + 3, noise(20_000)))] == ["compared"]


def test_a_nor_that_only_init_maps_is_read_after_it_was_changed() -> None:
    with run("W25Q256_UNMAPS") as here:
        here.board.nor.memory[: 2 * BLOCK] = noise(2 * BLOCK, 8)
        here.load((NOR + 3, noise(20_000)))
        assert here.contents(NOR + 3, 20_000) == noise(20_000)
        assert [step.action for step in here.load((NOR + 3, noise(20_000)))] == ["compared"]


@pytest.mark.parametrize("name", ["W25Q256_READS_ONCE", "W25Q256_READS_ONCE_SILENTLY"])
def test_a_loader_that_can_do_nothing_after_a_read_is_initialised_again(name: str) -> None:
    with run(name) as here:
        here.board.nor.memory[: 2 * BLOCK] = noise(2 * BLOCK, 8)
        writes = (NOR + 3, noise(20_000)), (NOR + 3 * BLOCK, noise(300))
        here.load(*writes)
        assert all(here.contents(address, len(data)) == data for address, data in writes)
        assert {step.action for step in here.load(*writes)} == {"compared"}


def test_ram_is_as_before_where_a_slow_link_gets_packed_data_into_what_was_read_into() -> None:
    with run("W25Q256_F10", uid="sim:cmsis-dap-v1") as here:
        ram = Span.of(0x24000000, 0x8000)
        before = here.target.read_memory(ram.start, len(ram))
        digits = noise(14_000).hex().encode()  # halved by packing
        here.load((NOR, digits))
        assert here.contents(NOR, len(digits)) == digits
        assert here.target.read_memory(ram.start, len(ram)) == before


def test_addresses_that_do_not_reach_are_refused_before_the_first_erase() -> None:
    with run("W25Q256_SHORT") as here:
        here.board.nor.memory[:] = (before := noise(BLOCK) * (32 * MIB // BLOCK))
        with pytest.raises(FlashError, match="three address bytes, which do not reach 0x91000000"):
            here.load((NOR, noise(300, 1)), (NOR + 16 * MIB, noise(300, 2)))
        assert here.board.nor.memory == before
        here.load((NOR, noise(300, 1)))
        assert here.contents(NOR, 300) == noise(300, 1)


def test_what_a_loader_leaves_behind_is_not_taken_for_a_programs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "gdbserver")
    with run("W25Q256_F10") as here:
        for seed in range(2):
            here.load((NOR, noise(300, seed)))
    assert not [m for m in caplog.messages if m.startswith("the program")]


def test_the_stack_that_a_loader_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gdbserver.flash")
    with run("W25Q256_F1") as here:
        here.load((NOR, noise(1000)))
    (line,) = [m for m in caplog.messages if "bytes of stack" in m]
    assert line.startswith("W25Q256_F1.stldr used ")
    assert 100 < int(line.split()[2]) < 1024


def test_caches_that_an_init_switches_on_are_off_for_what_follows() -> None:
    with run("W25Q256_MEDDLES") as here:
        here.board.nor.memory[:1000] = bytes(1000)
        on = cm.Ccr.DC | cm.Ccr.IC
        for _ in here.programmer.carry_out(download((NOR, noise(1000)))):
            assert not here.target.read_word(cm.CCR) & on
        assert here.contents(NOR, 1000) == noise(1000)


def test_two_loaders_share_one_download() -> None:
    """Their image lies at the same place, and one of them leaves its tick running."""
    with run("W25Q256_UPPER", "W25Q256_LOWER") as here:
        writes = (
            (BANK1, noise(1000, 1)),
            (NOR + 5, noise(40_000, 2)),
            (NOR + 16 * MIB, noise(100_000, 3)),
            (BANK2, noise(1000, 4)),
        )
        here.load(*writes)
        for address, data in writes:
            assert here.contents(address, len(data)) == data
        steps = here.load(*writes)
        assert {step.action for step in steps} == {"compared"}


def test_one_write_may_cross_from_one_loaders_device_into_the_next() -> None:
    with run("W25Q256_LOWER", "W25Q256_UPPER") as here:
        image = noise(2 * BLOCK)
        here.load((NOR + 16 * MIB - BLOCK, image))
        assert here.contents(NOR + 16 * MIB - BLOCK, len(image)) == image


# --- Where things are decided before anything is erased ---------------------------------------


def refused(error: type[FlashError], *names: str, write: int) -> FlashError:
    with run(*names) as here:
        here.board.flash.load(BANK1, noise(0x20000))
        with pytest.raises(error) as failed:
            here.load((BANK1, b"new"), (write, b"new"))
        assert not here.board.flash.erases
        assert not here.board.nor.erases
        return failed.value


def test_a_range_without_a_loader_is_refused() -> None:
    error = refused(OutsideFlash, write=NOR)
    assert str(error) == "0x90000000-0x9000ffff is not in flash"
    assert str(error.hint).startswith("external flash needs its loader: give it with --extload; ")


def test_a_range_beyond_the_loaders_device_is_refused() -> None:
    error = refused(OutsideFlash, "W25Q256_F5", write=NOR + 0x100000)
    assert "0x90100000-0x9010ffff" in str(error)
    assert "W25Q256_F5 0x90000000-0x900fffff" in f"{error} {error.hint}"


def test_a_mistyped_window_is_recognised() -> None:
    error = refused(OutsideFlash, "W25Q256_F1", write=0x09000000)
    assert str(error) == "0x09000000-0x0901ffff is not in flash"
    assert str(error.hint).startswith("the QSPI window is at 0x90000000, not 0x09000000; ")


def test_two_loaders_for_one_range_are_refused() -> None:
    with pytest.raises(FlashError) as failed, run("W25Q256_F1", "W25Q256_UPPER"):
        pass
    assert str(failed.value) == (
        "two loaders are for the same addresses, 0x91000000-0x91ffffff: "
        "W25Q256_F1 0x90000000-0x91ffffff and W25Q256_UPPER 0x91000000-0x91ffffff"
    )


# --- What would go wrong without our care ------------------------------------------------------


def test_movable_data_is_found_through_r9_and_nowhere_else(tmp_path: Path) -> None:
    """Told that its code is not movable, the same loader gets r9 = 0, and says no."""
    elf = bytearray(build("W25Q256_F3").read_bytes())
    headers, count = struct.unpack_from("<I", elf, 28)[0], struct.unpack_from("<H", elf, 44)[0]
    for header in range(headers, headers + 32 * count, 32):
        (flags,) = struct.unpack_from("<I", elf, header + 24)
        struct.pack_into("<I", elf, header + 24, flags & 7)
    path = tmp_path / "W25Q256_F3.stldr"
    path.write_bytes(elf)
    with (
        run_files(path) as here,
        pytest.raises(LoaderRefused, match=r"Init\(\) returned 0x0 \(expected 1\)"),
    ):
        here.load((NOR, b"1234"))


def test_a_tick_is_counted_whose_handler_is_in_no_vector_table() -> None:
    with run("W25Q256_F8_NO_TABLE") as here:
        data = noise(5_000)
        here.load((NOR, data))
        assert here.contents(NOR, len(data)) == data


def test_a_tick_that_leads_to_the_default_handler_is_a_stray_interrupt() -> None:
    with run("W25Q256_F8_NO_HANDLER") as here, pytest.raises(LoaderFault) as failed:
        here.load((NOR, b"1234"))
    assert "SYS_TICK came, and the loader has no handler for it" in str(failed.value)


def test_a_device_that_is_neither_mapped_nor_read_is_told() -> None:
    with run("W25Q256_UNMAPPED") as here, pytest.raises(LoaderBroken) as failed:
        here.load((NOR, b"1234"))
    assert "has left nothing to read at 0x90000000: bus fault" in str(failed.value)
    assert failed.value.hint == "it neither maps the device in Init nor has a routine Read"
