"""Internal flash by way of the MDMA: a loader has the core, and the probe gives up on WAIT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip.cortex_m import CCR, Ccr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CR,
    ITCM,
    MDMA,
    RCC,
    SECTOR,
    FlashSr,
)
from gdbserver.errors import FlashError, MdmaFailed, explain
from gdbserver.flash.mover import RING
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.loader.own import builtin
from gdbserver.sim.board import NotModelled
from gdbserver.sim.bus import BusError, Device, Master, Ram
from gdbserver.sim.mdma import Mdma

PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}
SIZE = 0x8000  # of each bank's part: 1024 flash words, 0.1 s
AHB3RSTR, AHB3ENR = RCC + 0x7C, RCC + 0xD4
IMAGE = {
    0x08000000: noise(SIZE, seed=1),
    0x08100000: noise(SIZE, seed=2),
    0x90000000: noise(0x2000, seed=3),
}
CHANNELS = [MDMA + 0x40 * n for n in range(1, 17)]
EN = 1


@pytest.fixture
def impatient(bench_at: Callable[..., Bench]) -> Bench:
    return dirty(bench_at("sim:cmsis-dap-v2,waits=4"))


def dirty(bench: Bench) -> Bench:
    for address in (0x08000000, 0x08100000):
        bench.board.flash.load(address, noise(SIZE, seed=9))
    return bench


def all_there(bench: Bench) -> bool:
    return all(bench.contents(Span.of(a, len(data))) == data for a, data in IMAGE.items())


def registers(bench: Bench) -> list[int]:
    """What a program would find of the MDMA."""
    assert bench.board.rcc.clocked("MDMA")
    return [word for here in CHANNELS for word in bench.target.read_words(here, 14)]


def moving(bench: Bench) -> bool:
    """Whether a channel is enabled at this moment."""
    return any(channel.raw(channel.CCR) & EN for channel in bench.board.mdma.channels)


def until_it_moves(bench: Bench) -> Iterator[Step]:
    """A download that has come to where the MDMA programs flash."""
    steps: Iterator[Step] = bench.programmer.carry_out(download(*IMAGE.items()))
    for _ in steps:
        if moving(bench):
            return steps
    raise AssertionError("the MDMA was not used")


@pytest.mark.parametrize(
    "link", ["cmsis-dap-v2", "cmsis-dap-v2,timing=maximum", "stlink-v3", "stlink-v2"]
)
def test_an_impatient_probe_is_hardly_slower_beside_a_loader(
    bench_at: Callable[..., Bench], link: str
) -> None:
    """What it costs is to learn that it is one, and to save and restore two buffers."""
    seconds = []
    for waits in ("", ",waits=4"):
        bench = dirty(bench_at(f"sim:{link}{waits}"))
        began = bench.seconds()
        bench.carry_out(download(*IMAGE.items()))
        seconds.append(bench.seconds() - began)
        assert all_there(bench)
        assert set(bench.board.flash.programs.values()) == {1}
    patient, impatient = seconds
    assert impatient < 1.1 * patient + (4 * RING) / 250e3


def test_a_probe_that_is_known_to_be_impatient_never_waits(impatient: Bench) -> None:
    impatient.carry_out(download(*IMAGE.items()))
    dirty(impatient)
    counters = impatient.target.link.probe.counters
    waits = counters.waits
    impatient.carry_out(download(*IMAGE.items()))
    assert all_there(impatient)
    assert counters.waits == waits


def test_one_bank_is_erased_while_the_other_is_programmed(impatient: Bench) -> None:
    image = {address: noise(SECTOR + SIZE, seed=address) for address in (0x08000000, 0x08100000)}
    image[0x90000000] = noise(0x1000)
    for address in (0x08000000, 0x08100000):
        impatient.board.flash.load(address, noise(2 * SECTOR, seed=9))
    began = impatient.seconds()
    impatient.carry_out(download(*image.items()))
    assert all(impatient.contents(Span.of(a, len(data))) == data for a, data in image.items())
    # The first bank alone: 1.0 + 0.41 + 1.0 + 0.1 s; the other's first sector comes on top.
    assert impatient.seconds() - began < 1.1 * (2.51 + 0.41)


def test_both_banks_are_programmed_at_the_same_time(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at("sim:cmsis-dap-v2,waits=4")
    image = {address: noise(SECTOR, seed=address) for address in (0x08000000, 0x08100000)}
    image[0x90000000] = noise(0x1000)
    for address in (0x08000000, 0x08100000):
        bench.board.flash.load(address, noise(SECTOR, seed=9))
    began = bench.seconds()
    bench.carry_out(download(*image.items()))
    assert all(bench.contents(Span.of(a, len(data))) == data for a, data in image.items())
    # One bank: 1.0 + 0.41 s; one after the other it would be another 0.41, before anything is lost.
    assert bench.seconds() - began < 1.82 - 0.1


def test_requests_that_nobody_needs_do_no_harm(impatient: Bench) -> None:
    for _ in impatient.programmer.carry_out(download(*IMAGE.items())):
        if impatient.board.rcc.clocked("MDMA"):
            for here in CHANNELS[12:15]:
                impatient.board.bus.write(here + 0x0E, 1, 1, Master.AP0)
    assert all_there(impatient)
    assert set(impatient.board.flash.programs.values()) == {1}


class NotForItself:
    """The MDMA, where it does not reach its own registers."""

    def __init__(self, mdma: Mdma) -> None:
        self.mdma = mdma

    def read(self, offset: int, size: int, master: Master) -> int:
        return self.mdma.read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if master is Master.DMA:
            raise BusError("write")
        self.mdma.write(offset, size, value, master)


def test_one_that_cannot_make_requests_takes_the_banks_in_turn(impatient: Bench) -> None:
    impatient.board.bus.find(MDMA)[1].device = NotForItself(impatient.board.mdma)
    impatient.target.write_word(AHB3ENR, impatient.target.read_word(AHB3ENR) | 1)
    impatient.carry_out(download(*IMAGE.items()))
    assert all_there(impatient)
    assert set(impatient.board.flash.programs.values()) == {1}
    assert set(impatient.board.flash.erases.values()) == {1}


def test_with_a_data_cache_that_is_on_there_is_no_list(impatient: Bench) -> None:
    target = impatient.target
    target.halt()
    target.write_word(CCR, target.read_word(CCR) | Ccr.DC)
    *_, bank1, bank2, _, beat = impatient.board.mdma.channels
    moved_to = set()
    for _ in impatient.programmer.carry_out(download(*IMAGE.items())):
        moved_to |= {here.raw(here.CDAR) & 0xFFF00000 for here in (bank1, bank2)}
        assert not beat.raw(beat.CDAR)
    assert {0x08000000, 0x08100000} <= moved_to
    assert all_there(impatient)
    assert set(impatient.board.flash.erases.values()) == {1}


def test_itcm_mdma_and_clocks_are_as_they_were(impatient: Bench) -> None:
    target = impatient.target
    target.halt()
    code = noise(len(ITCM), seed=4)
    target.write_memory(ITCM.start, code)
    target.write_word(AXI_SRAM.end - 4, 0x12345678)
    target.write_word(AHB3ENR, target.read_word(AHB3ENR) | 1)
    for here in CHANNELS:  # as drivers leave them between two transfers
        target.write_words(here + 0x10, [0x0E7C000A, 0x1000, 0x24000000, 0x24001000, 8, 0, 0x1F])
        target.write_words(here + 0x30, [AXI_SRAM.end - 4, 0x20])
        target.write_word(here + 0x0C, 0x3E)
    before = registers(impatient)
    impatient.carry_out(download(*IMAGE.items()))
    assert all_there(impatient)
    assert target.read_memory(ITCM.start, len(ITCM)) == code
    assert target.read_word(AXI_SRAM.end - 4) == 0x12345678
    assert registers(impatient) == before


def test_a_clock_that_was_off_is_off_again(impatient: Bench) -> None:
    steps = until_it_moves(impatient)
    assert impatient.board.rcc.clocked("MDMA")
    list(steps)
    assert not impatient.board.rcc.clocked("MDMA")
    assert impatient.board.rcc.clocked("QSPI")  # which the loader has left on


def test_a_program_that_uses_the_mdma_keeps_it(impatient: Bench) -> None:
    target = impatient.target
    target.halt()
    target.write_word(AHB3ENR, target.read_word(AHB3ENR) | 1)
    here = CHANNELS[2]  # waits for a peripheral
    target.write_words(here + 0x10, [0x0E7C000A, 0x1000, 0x24000000, 0x24001000, 0, 0, 0])
    target.write_word(here + 0x0C, EN)
    before = registers(impatient)
    impatient.carry_out(download(*IMAGE.items()))
    assert all_there(impatient)
    assert set(impatient.board.flash.programs.values()) == {1}
    assert registers(impatient) == before


def test_a_loader_in_itcm_keeps_that(impatient: Bench) -> None:
    loader = builtin(PINS)
    here = replace(loader.image, chunks=(*loader.image.chunks, (ITCM.end - 0x1000, bytes(0x1000))))
    impatient.programmer = Programmer(impatient.target, [replace(loader, image=here)])
    for _ in impatient.programmer.carry_out(download(*IMAGE.items())):
        assert not impatient.board.rcc.clocked("MDMA")
    assert all_there(impatient)


class Nothing:
    """Refuses every access, as an address where nobody is."""

    def read(self, offset: int, size: int, master: Master) -> int:
        raise BusError("read")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        raise BusError("write")


@pytest.mark.parametrize("nobody", [NotModelled("AHB3", MDMA), Nothing()])
def test_an_mdma_that_does_not_answer_is_not_used(impatient: Bench, nobody: Device) -> None:
    impatient.board.bus.find(MDMA)[1].device = nobody
    impatient.carry_out(download(*IMAGE.items()))
    assert all_there(impatient)
    assert set(impatient.board.flash.programs.values()) == {1}


def test_an_mdma_that_never_moves_anything_is_given_up(impatient: Bench) -> None:
    impatient.board.bus.find(MDMA)[1].device = Ram(0x1000)
    impatient.carry_out(download(*IMAGE.items()))
    assert all_there(impatient)
    assert sorted(impatient.board.flash.erases.values()) == [1, 2]


@pytest.mark.parametrize("how", ["reset", "clock"])
def test_an_mdma_that_is_taken_away_costs_another_erase(impatient: Bench, how: str) -> None:
    """ST's template for a loader resets every peripheral of the bus."""
    steps = until_it_moves(impatient)
    rcc = impatient.board.rcc
    if how == "reset":
        impatient.board.mdma.reset()
    else:
        rcc.set_raw(rcc.AHB3ENR, rcc.raw(rcc.AHB3ENR) & ~1)
        for notify in rcc.on_gates_changed:
            notify()
    list(steps)
    assert all_there(impatient)
    assert sorted(impatient.board.flash.erases.values()) == [2, 2]  # both were being programmed
    assert not moving(impatient)


def test_what_flash_refuses_is_told_as_ever(impatient: Bench) -> None:
    steps = until_it_moves(impatient)
    flash = impatient.board.flash
    busy = 1 if flash.banks[0].busy and flash.banks[0].raw(flash.banks[0].CR) & 2 else 2
    flash.raise_error(busy, FlashSr.WRPERR)
    with pytest.raises(FlashError, match=r"cannot program .*: WRPERR: it is write-protected"):
        list(steps)
    assert not moving(impatient)


def test_abandoning_a_download_stops_it_and_leaves_whole_flash_words(impatient: Bench) -> None:
    steps = until_it_moves(impatient)
    steps.close()  # type: ignore[attr-defined]
    flash = impatient.board.flash
    assert not moving(impatient)
    assert not any(bank.busy for bank in flash.banks)
    assert set(flash.programs.values()) == {1}
    controls = [FLASH + FLASH_CR, FLASH + FLASH_BANK2_OFFSET + FLASH_CR]
    assert [impatient.target.read_word(address) for address in controls] == [0x31, 0x31]


def test_one_that_does_not_stop_is_told() -> None:
    assert list(explain(MdmaFailed("does not stop"))) == [
        "the MDMA does not stop",
        "hint: reset the chip first (monitor reset halt)",
    ]
