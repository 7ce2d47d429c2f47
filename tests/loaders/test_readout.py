"""What a loader's mapping of its NOR is made to reach, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
from fixture_loaders import build
from loader_runs import NOR, Run, noise, run

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.chip.stm32h743 import (
    QUADSPI_CCR,
    QUADSPI_CR,
    QUADSPI_DCR,
    QUADSPI_DCR_FSIZE_SHIFT,
    QUADSPI_SR,
    QuadspiCcr,
    QuadspiCr,
    QuadspiSr,
)
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.readout import Readout
from gdbserver.target.access import Write
from gdbserver.target.busy import finish

MIB = 1 << 20


@pytest.fixture
def here() -> Iterator[Run]:
    """A NOR of 32 MiB that is memory-mapped, in a window that ends with it."""
    with run("W25Q256_EXACT") as machine:
        machine.board.nor.memory[-100:] = noise(100)
        machine.programmer.prepare_external_reads()
        yield machine


def map_again(here: Run, *, size: int, sent_once: bool = False) -> None:
    """As a loader might have mapped it: in a window of `size` bytes."""
    ccr = here.target.read_word(QUADSPI_CCR)
    here.target.run(
        [
            Write(QUADSPI_CR, [here.target.read_word(QUADSPI_CR) | QuadspiCr.ABORT]),
            Write(QUADSPI_DCR, [size.bit_length() - 2 << QUADSPI_DCR_FSIZE_SHIFT]),
            Write(QUADSPI_CCR, [ccr | QuadspiCcr.SIOO if sent_once else ccr]),
        ]
    )


def readout(here: Run, region: FlashRegion | None = None) -> Readout:
    loader = LoaderFile.load(build("W25Q256_EXACT"))
    queue = CallQueue(here.target, loader.image, good=loader.good)
    loader = replace(loader, region=region or loader.region)
    return Readout(here.target, loader, queue, lambda: nullcontext(Span.of(0x24000000, 1024)))


def window(here: Run) -> int:
    fsize = here.target.read_word(QUADSPI_DCR) >> QUADSPI_DCR_FSIZE_SHIFT & 0x1F
    return 2 << fsize


def test_a_window_that_ends_with_the_nor_is_made_larger_and_no_flag_is_left(here: Run) -> None:
    """An abort sets TCF, which a loader would take for the end of its own next transfer."""
    map_again(here, size=32 * MIB)
    finish(readout(here).open())
    assert window(here) == 64 * MIB
    assert not here.target.read_word(QUADSPI_SR) & QuadspiSr.TCF
    assert here.target.read_memory(NOR + 32 * MIB - 100, 100) == noise(100)


def test_a_nor_that_was_sent_its_instruction_once_is_not_sent_it_again(here: Run) -> None:
    """CCR written anew begins with an instruction, which such a NOR takes for an address."""
    map_again(here, size=32 * MIB, sent_once=True)
    finish(readout(here).open())
    assert window(here) == 32 * MIB


def test_the_window_is_not_made_larger_than_there_are_addresses(here: Run) -> None:
    map_again(here, size=256 * MIB)
    sectors = ((256 * MIB // 0x10000, 0x10000),)
    finish(readout(here, FlashRegion("qspi", Span.of(NOR, 256 * MIB), sectors, 256)).open())
    assert window(here) == 256 * MIB


def test_with_a_device_that_is_elsewhere_the_quadspi_is_let_alone(here: Run) -> None:
    map_again(here, size=32 * MIB)
    before = here.target.link.probe.counters.transactions
    elsewhere = FlashRegion("fmc", Span.of(0x60000000, 32 * MIB), ((512, 0x10000),), 256)
    finish(readout(here, elsewhere).open())
    assert here.target.link.probe.counters.transactions == before
