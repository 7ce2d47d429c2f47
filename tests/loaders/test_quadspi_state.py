"""A program that uses the NOR, and is not reset after a download, goes on using it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from loader_runs import NOR, Run, noise, run

from gdbserver.chip.stm32h743 import GPIO_STRIDE, GPIOA, QUADSPI, RCC
from gdbserver.loader.nor_states import Nor

CR, DCR, CCR = QUADSPI, QUADSPI + 0x04, QUADSPI + 0x14
PORT_F = GPIOA + 5 * GPIO_STRIDE
MAPPED = 3 << 26
FAST_READ = MAPPED | 1 << 24 | 8 << 18 | 1 << 10 | 1 << 8  # one line, eight dummy cycles
THREE_BYTES, FOUR_BYTES = 2 << 12, 3 << 12
CONTENTS = noise(0x20000, 5)


@pytest.fixture
def here() -> Iterator[Run]:
    """With pins set up, and the NOR full: as a program would find it."""
    with run("W25Q256_F8") as here:
        here.programmer.prepare_external_reads()
        here.board.nor.memory[: len(CONTENTS)] = CONTENTS
        here.target.reset(halt=False)
        here.target.halt()
        here.programmer.prepare_external_reads()
        yield here


def as_the_program_has_it(here: Run, ccr: int) -> list[int]:
    """Memory-mapped in the program's own way; the registers, to be compared."""
    target = here.target
    target.write_word(CR, 0x01000003)  # abort, prescaler 1, enable
    target.write_word(DCR, 24 << 16 | 3 << 8)
    target.write_word(CCR, ccr)
    return registers(here)


def registers(here: Run) -> list[int]:
    target = here.target
    return [
        *(target.read_word(register) for register in (CR, DCR, CCR, RCC + 0xE0)),
        *target.read_words(PORT_F, 4),
        *target.read_words(PORT_F + 0x20, 2),
    ]


def test_a_program_that_reads_the_nor_does_so_after_a_download_elsewhere(here: Run) -> None:
    before = as_the_program_has_it(here, FAST_READ | FOUR_BYTES | 0x0C)
    here.target.write_word(PORT_F + 8, 0)  # slower pins than the loader's
    before = registers(here)
    here.load((NOR + 0x10000, noise(300)))
    assert registers(here) == before
    assert here.target.read_memory(NOR, 64) == CONTENTS[:64]
    assert here.target.read_memory(NOR + 0x10000, 300) == noise(300)


def test_the_four_byte_mode_that_a_program_relies_on_is_chosen_again(here: Run) -> None:
    Nor(here.target).leave_in_four_byte_mode()
    before = as_the_program_has_it(here, FAST_READ | FOUR_BYTES | 0x0B)
    assert here.target.read_memory(NOR, 64) == CONTENTS[:64]
    here.load((NOR + 0x10000, noise(300)))
    assert registers(here) == before
    assert here.target.read_memory(NOR, 64) == CONTENTS[:64]


def test_a_mode_that_cannot_be_had_again_is_told(
    here: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The program has set four dummy cycles in the NOR, which the loader's reset has undone."""
    as_the_program_has_it(here, (FAST_READ & ~(31 << 18)) | 4 << 18 | FOUR_BYTES | 0x0C)
    here.load((NOR + 0x10000, noise(300)))
    told = {line for line in caplog.messages if line.startswith("the NOR cannot be read")}
    assert told == {
        (
            "the NOR cannot be read in the way that was set up before the loader ran (QUADSPI_CCR "
            "0x0d10350c): if a program had chosen a mode of the NOR for it, the loader has ended "
            "that, and the program has to be reset"
        )
    }


def test_four_lines_that_give_wrong_data_may_be_wrong_pins(
    here: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no program, but a set-up with IO3 on a pin where the NOR is not."""
    data_on_four = MAPPED | 3 << 24 | 8 << 18 | 1 << 10 | 1 << 8 | FOUR_BYTES | 0x6C
    as_the_program_has_it(here, data_on_four)
    moder = here.target.read_word(PORT_F)
    here.target.write_word(PORT_F, moder | 3 << 2 * 6)  # PF6, where IO3 is, is an analog pin
    assert here.target.read_memory(NOR, 64) != CONTENTS[:64]
    here.load((NOR + 0x10000, noise(300)))
    assert any("IO2 or IO3, which it needs, may not be on the pins" in m for m in caplog.messages)


def test_a_transfer_that_a_program_was_in_is_lost_and_that_is_told(
    here: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gdbserver.loader")
    here.target.write_word(CR, 0x01000003)
    here.target.write_word(QUADSPI + 0x10, 99)
    here.target.write_word(CCR, 1 << 26 | 1 << 24 | 1 << 8 | 0x9F)  # reads more than the FIFO holds
    here.load((NOR + 0x10000, noise(300)))
    assert "the program was in the middle of a QUADSPI transfer, which is lost" in caplog.messages
    assert any(
        line.startswith("the program drove the NOR by commands of its own")
        for line in caplog.messages
    )


def test_where_nobody_used_the_quadspi_the_nor_stays_readable(here: Run) -> None:
    here.target.reset(halt=True)
    here.load((NOR + 0x10000, noise(300)))
    assert here.target.read_memory(NOR, 64) == CONTENTS[:64]


def test_the_last_byte_is_read_where_a_loaders_window_ends_with_it() -> None:
    with run("W25Q256_EXACT") as here:
        last = NOR + (32 << 20) - 100
        here.load((last, noise(100)))
        assert here.contents(last, 100) == noise(100)
        assert {step.action for step in here.load((last, noise(100)))} == {"compared"}
