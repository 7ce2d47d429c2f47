"""The flash controller's CRC unit: believed where it agrees, and done without where it does not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import SECTOR
from gdbserver.errors import FlashError, VerifyError
from gdbserver.flash.diff import crc_unit
from gdbserver.flash.programmer import Step
from gdbserver.sim import flash_bank
from gdbserver.sim.flash_bank import FlashBank

START = 0x08000000
IMAGE = noise(SECTOR // 2)

Crc = Callable[[bytes, int], int]


def is_read_back(message: str) -> bool:
    return message.endswith("flash is read back instead, which takes longer")


def until_programmed(steps: Iterator[Step]) -> None:
    next(s for s in steps if s.action == "programmed" and s.done == s.total)


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch) -> Callable[[Crc], None]:
    """Have the unit of the board compute something else."""
    return lambda crc: monkeypatch.setattr(flash_bank, "crc", crc)


def test_without_a_crc_unit_flash_is_read_back_and_that_is_said_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A chip or a model of one that lacks it, or holds it in some state that we do not know."""
    monkeypatch.setattr(FlashBank, "_start_crc", lambda *_: None)
    for _ in range(2):
        bench.carry_out(download((START, IMAGE), (0x08100000, IMAGE)))
    assert bench.contents(Span.of(START, len(IMAGE))) == IMAGE
    assert "CRC unit does nothing" in caplog.text
    assert len([m for m in caplog.messages if is_read_back(m)]) == 1
    assert not bench.board.flash.erases


@pytest.mark.parametrize(
    "crc",
    [
        zlib.crc32,
        lambda data, _: int.from_bytes(data[-4:], "big"),
        lambda _, __: 0,
        lambda _, __: crc_unit(b"\xff" * SECTOR),
    ],
    ids=["the usual CRC-32", "the last word", "nought", "all sectors are blank"],
)
def test_a_crc_unit_that_computes_something_else_is_found_before_anything_is_erased(
    quick: Bench, compute: Callable[[Crc], None], caplog: pytest.LogCaptureFixture, crc: Crc
) -> None:
    quick.board.flash.load(START, IMAGE)
    compute(crc)
    changed = noise(SECTOR, seed=1)
    quick.carry_out(download((START, IMAGE), (0x08120000, changed)))
    assert not quick.board.flash.erases
    quick.carry_out(download((START, changed), (0x08120000, changed)))
    assert dict(quick.board.flash.erases) == {START: 1}
    for start in (START, 0x08120000):
        assert quick.contents(Span.of(start, SECTOR)) == changed
    (remark,) = [m for m in caplog.messages if is_read_back(m)]
    assert "for 0x08000000-0x0800007f, where AN5507 says 0x" in remark


def test_a_crc_unit_that_goes_wrong_later_does_not_fail_a_load(
    quick: Bench, compute: Callable[[Crc], None], caplog: pytest.LogCaptureFixture
) -> None:
    quick.carry_out(download((START, IMAGE)))
    compute(lambda *_: 0)
    changed = noise(2 * SECTOR, seed=1)
    quick.carry_out(download((START, changed)))
    assert quick.contents(Span.of(START, len(changed))) == changed
    (remark,) = [m for m in caplog.messages if is_read_back(m)]
    assert remark.startswith(
        "the flash controller's CRC unit computes 0x00000000 for 0x08000000-0x0801ffff, "
        "where AN5507 says 0x"
    )


@pytest.mark.parametrize("right", [True, False])
def test_contents_that_are_wrong_fail_at_the_first_wrong_byte_whatever_the_unit_computes(
    quick: Bench, compute: Callable[[Crc], None], right: bool
) -> None:
    quick.carry_out(download((START, IMAGE)))
    if not right:
        compute(zlib.crc32)
    steps = quick.programmer.carry_out(download((START, noise(SECTOR, seed=1))))
    until_programmed(steps)
    quick.board.flash.load(START + 0x1230, bytes(32))
    with pytest.raises(VerifyError, match=f"bank 1 .* at {START + 0x1230:#010x}"):
        list(steps)


def test_a_unit_that_agrees_is_not_tried_out(quick: Bench) -> None:
    """Over this probe every word that is read is counted."""
    quick.carry_out(download((START, IMAGE)))
    before = quick.target.link.probe.counters.bytes_in
    quick.carry_out(download((START, IMAGE)))
    assert quick.target.link.probe.counters.bytes_in - before < 128


def test_a_sector_that_a_reset_spoilt_is_no_reason_to_doubt_the_unit(
    quick: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    quick.board.flash.load(START, noise(SECTOR, seed=1))
    quick.board.flash.flip_bits(START, 0b11)
    quick.carry_out(download((START, IMAGE)))
    assert quick.contents(Span.of(START, len(IMAGE))) == IMAGE
    assert not any(is_read_back(m) for m in caplog.messages)


def test_an_area_that_the_unit_may_not_read_is_a_sentence(quick: Bench) -> None:
    """As of a program that makes a secure area for itself while it is being replaced."""
    bank = quick.board.flash.banks[0]
    quick.board.flash.load(START, noise(SECTOR))
    steps = quick.programmer.carry_out(download((START, IMAGE)))
    until_programmed(steps)
    bank.set_raw(bank.PRAR_CUR, 0)
    with pytest.raises(FlashError) as failed:
        list(steps)
    assert str(failed.value) == (
        "cannot compare 0x08000000-0x0801ffff: CRCRDERR: the CRC unit may not read a protected area"
    )
