"""What a loader claims, and what the NOR is: found out before anything is erased."""

from __future__ import annotations

import pytest
from fixture_loaders import build
from loader_runs import NOR, Run, noise, run, run_files

from gdbserver.errors import FlashError, OutsideFlash
from gdbserver.flash.external import ExternalFlash, measured
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.nor_survey import find_die
from gdbserver.sim.nor_parts import PARTS

MIB = 1 << 20


def refused(here: Run, error: type[FlashError], address: int) -> FlashError:
    here.board.nor.memory[:16] = bytes(16)
    with pytest.raises(error) as failed:
        here.load((NOR, b"new"), (address, b"new"))
    assert not here.board.nor.erases
    return failed.value


def test_a_download_past_the_end_of_the_nor_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with run("W25Q256_F1", uid="sim:cmsis-dap-v2,nor=W25Q64JV") as here:
        error = refused(here, OutsideFlash, NOR + 9 * MIB)
        assert str(error) == (
            "0x90900000-0x9090ffff is past the end of W25Q256_F1 0x90000000-0x907fffff"
        )
        assert caplog.messages[-1] == (
            "loader W25Q256_F1.stldr says that its device has 32768 KiB, and the NOR (JEDEC id "
            "EF 40 17, 8192 KiB) disagrees: what is beyond is refused"
        )
        here.load((NOR + 8 * MIB - 100, noise(100)))
        assert here.contents(NOR + 8 * MIB - 100, 100) == noise(100)


def test_a_loader_for_what_is_behind_the_nor_is_refused() -> None:
    with run("W25Q256_UPPER", uid="sim:cmsis-dap-v2,nor=W25Q64JV") as here:
        with pytest.raises(FlashError) as failed:
            here.load((NOR + 16 * MIB, b"new"))
        assert str(failed.value) == (
            "loader W25Q256_UPPER.stldr is for 0x91000000-0x91ffffff, behind the NOR (JEDEC id "
            "EF 40 17, 8192 KiB)"
        )


def test_a_loader_with_sectors_smaller_than_the_nors_is_refused() -> None:
    path = build("W25Q256_F1", SECTOR=0x800, COUNT=0x4000)
    with run_files(path) as here:
        error = refused(here, FlashError, NOR + MIB)
        assert str(error) == (
            "loader W25Q256_F1.stldr has sectors of 2048 bytes, and the NOR (JEDEC id EF 40 19, "
            "32768 KiB) erases no less than 4096 at once"
        )


def test_a_loader_is_not_called_again_once_its_nor_was_asked() -> None:
    """Asking has brought the NOR out of QPI; UnInit would wait there for ever."""
    loader = LoaderFile.load(build("W25Q256_QPI"))
    with run_files(uid="sim:cmsis-dap-v2,nor=W25Q256JV-IM") as here:
        with ExternalFlash(here.target, loader, queued=False):
            pass  # unasked, it is still in QPI, and UnInit returns
        assert measured(here.target, loader) is loader


@pytest.mark.parametrize("part", PARTS)
def test_every_part_tells_what_it_is_after_a_foreign_init(part: str) -> None:
    with run("W25Q256_F8", uid=f"sim:cmsis-dap-v2,nor={part}") as here:
        here.programmer.prepare_external_reads()
        die = find_die(here.target)
        assert die is not None
        assert die.size == PARTS[part].size
        assert die.smallest_erase == 4096


def test_a_part_of_several_dies_is_left_to_its_loader() -> None:
    """A W25M512JV is of two W25Q256JV: whoever asks, one of them answers."""
    with run("W25Q256_F8") as here:
        here.programmer.prepare_external_reads()
        here.board.nor.jedec_id = bytes.fromhex("EF7119")
        assert find_die(here.target) is None


def test_a_loader_is_asked_about_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gdbserver.flash")
    with run("W25Q256_F1") as here:
        for seed in range(2):
            here.load((NOR, noise(100, seed)))
    told = [line for line in caplog.messages if " drives " in line]
    assert told == ["loader W25Q256_F1.stldr drives the NOR (JEDEC id EF 40 19, 32768 KiB)"]
