"""The MDMA: what moves when, who goes first, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from gdbserver.chip.cortex_m import NVIC_ISPR
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    BANK1,
    BANK2,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CR,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_SR,
    ITCM,
    MDMA,
    MDMA_IRQ,
    PROGRAM_SECONDS,
    RCC,
    FlashCr,
    FlashSr,
)
from gdbserver.sim.board import Board
from gdbserver.sim.bus import Bus, Master, Ram
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND, Clock
from gdbserver.sim.mdma import Mdma, MdmaChannel

SOURCE, DESTINATION = AXI_SRAM.start, AXI_SRAM.start + 0x10000
DATA = Random(1).randbytes(0x1000)

ISR, IFCR, ESR, CR, TCR, BNDTR, SAR, DAR, BRUR, LAR, TBR, MAR, MDR = (
    *range(0x00, 0x2C, 4),
    0x30,
    0x34,
)
TEIF, CTCIF, BRTIF, BTIF, TCIF, CRQA = (1 << bit for bit in (0, 1, 2, 3, 4, 16))
EN, SWRQ = 1 << 0, 1 << 16
BUFFER, BLOCK, REPEAT, ALL = (1 << 30 | mode << 28 for mode in range(4))  # with SWRM
WORDS = 3 << 15 | 3 << 12 | 2 << 10 | 2 << 8 | 2 << 6 | 2 << 4 | 2 << 2 | 2
THIRTY_TWO = 31 << 18
BLOCK_OF_WORDS = BLOCK | THIRTY_TWO | WORDS
BSE, ASE, TELD, TED = 1 << 11, 1 << 10, 1 << 8, 1 << 7


class Chip:
    """The MDMA with RAM on both of its ports."""

    def __init__(self) -> None:
        self.clock, self.bus = Clock(), Bus()
        self.ram, self.itcm = Ram(len(AXI_SRAM)), Ram(len(ITCM))
        self.bus.attach(AXI_SRAM.start, len(AXI_SRAM), self.ram)
        self.bus.attach(ITCM.start, len(ITCM), self.itcm)
        self.clocked = True
        self.irq: list[bool] = []
        self.mdma = Mdma(
            self.clock,
            self.bus,
            axi_hz=lambda: 64_000_000,
            clocked=lambda: self.clocked,
            on_irq=self.irq.append,
        )
        self.ram.data[: len(DATA)] = DATA

    def write(self, offset: int, value: int, channel: int = 0) -> None:
        self.mdma.write(0x40 + 0x40 * channel + offset, 4, value, Master.AP0)

    def read(self, offset: int, channel: int = 0) -> int:
        return self.mdma.read(0x40 + 0x40 * channel + offset, 4, Master.AP0)

    def set_up(
        self,
        length: int,
        *,
        how: int = BLOCK_OF_WORDS,
        source: int = SOURCE,
        destination: int = DESTINATION,
        channel: int = 0,
        control: int = EN,
    ) -> None:
        values = {TCR: how, BNDTR: length, SAR: source, DAR: destination, CR: control}
        for offset, value in values.items():
            self.write(offset, value, channel)

    def request(self, channel: int = 0) -> None:
        self.write(CR, self.read(CR, channel) | SWRQ, channel)

    def pass_time(self, duration: int = MILLISECOND) -> None:
        self.clock.advance_to(self.clock.now + duration)

    def moved(self) -> int:
        """How many bytes have arrived, from the first on."""
        there = self.ram.data[0x10000 : 0x10000 + len(DATA)]
        return next((n for n, (a, b) in enumerate(zip(there, DATA, strict=True)) if a != b), 4096)


@pytest.fixture
def chip() -> Chip:
    return Chip()


def test_a_software_request_moves_a_block_and_disables_the_channel(chip: Chip) -> None:
    chip.set_up(0x400)
    chip.pass_time()
    assert chip.moved() == 0
    chip.request()
    assert chip.read(ISR) == CRQA
    chip.pass_time()
    assert chip.moved() == 0x400
    assert chip.read(ISR) == CTCIF | BRTIF | BTIF | TCIF
    assert chip.read(CR) == 0
    assert (chip.read(BNDTR), chip.read(SAR)) == (0, SOURCE + 0x400)
    chip.write(IFCR, 0x1F)
    assert chip.read(ISR) == 0


def test_it_takes_time(chip: Chip) -> None:
    chip.set_up(0x400)
    chip.request()
    chip.pass_time(5 * MICROSECOND)
    assert 0 < chip.moved() < 0x400


def test_a_request_for_a_buffer_moves_a_buffer(chip: Chip) -> None:
    chip.set_up(0x400, how=BUFFER | THIRTY_TWO | WORDS)
    for n in range(3):
        chip.request()
        chip.pass_time()
        assert chip.moved() == 32 * (n + 1)
        assert chip.read(ISR) == TCIF


def test_software_cannot_request_where_hardware_should(chip: Chip) -> None:
    chip.set_up(0x400, how=BLOCK_OF_WORDS & ~(1 << 30))
    chip.request()
    chip.pass_time()
    assert chip.moved() == 0


@pytest.mark.parametrize(("mode", "after_one"), [(BLOCK, 0x40), (REPEAT, 0x80)])
def test_repeated_blocks_begin_where_the_update_says(chip: Chip, mode: int, after_one: int) -> None:
    chip.write(BRUR, 0x40)  # of the source: every other 64 bytes
    chip.set_up(1 << 20 | 0x40, how=mode | THIRTY_TWO | WORDS)
    chip.request()
    chip.pass_time()
    expected = DATA[:0x40] + DATA[0x80:0xC0]
    assert chip.ram.data[0x10000:0x10080].startswith(expected[:after_one])
    assert not any(chip.ram.data[0x10000 + after_one : 0x10100])
    if mode == BLOCK:
        assert chip.read(ISR) == BTIF | TCIF
        chip.request()
        chip.pass_time()
        assert chip.ram.data[0x10000:0x10080] == expected
    assert chip.read(ISR) & CTCIF


def node(source: int, destination: int, length: int, *, link: int = 0, how: int) -> Sequence[int]:
    return [how, length, source, destination, 0, link, 0, 0, 0, 0]


@pytest.mark.parametrize("mode", [BLOCK, ALL])
def test_a_linked_list_goes_on_with_its_next_node(chip: Chip, mode: int) -> None:
    how = mode | THIRTY_TWO | WORDS
    words = node(SOURCE + 0x100, DESTINATION + 0x100, 0x100, how=how)
    chip.ram.data[0x20000:0x20028] = b"".join(word.to_bytes(4, "little") for word in words)
    chip.write(LAR, AXI_SRAM.start + 0x20000)
    chip.set_up(0x100, how=how)
    chip.request()
    chip.pass_time()
    if mode == BLOCK:
        assert chip.moved() == 0x100
        chip.request()
        chip.pass_time()
    assert chip.moved() == 0x200
    assert chip.read(ISR) & CTCIF


def test_a_node_that_is_nowhere_is_an_error(chip: Chip) -> None:
    chip.write(LAR, 0x70000000)
    chip.set_up(0x100)
    chip.request()
    chip.pass_time()
    assert chip.read(ISR) & (TEIF | CTCIF) == TEIF
    assert chip.read(ESR) & TELD


@pytest.mark.parametrize("levels", [(0, 0), (0, 1), (1, 0)])
def test_the_highest_level_goes_first_and_then_the_lowest_number(
    chip: Chip, levels: tuple[int, int]
) -> None:
    for channel, level in enumerate(levels):
        here = DESTINATION + 0x1000 * channel
        chip.set_up(0x400, destination=here, channel=channel, control=EN | level << 6)
    first = 1 if levels == (0, 1) else 0
    chip.request(1 - first)
    chip.pass_time(100)  # it has begun, and has to wait after a buffer
    chip.request(first)
    while not chip.read(ISR, first) & CTCIF:
        chip.pass_time(100)
    assert chip.read(BNDTR, 1 - first) >= 0x400 - 2 * 32
    chip.pass_time()
    assert chip.read(ISR, 1 - first) & CTCIF


def test_an_enabled_channel_keeps_its_configuration(chip: Chip) -> None:
    chip.set_up(0x400)
    for offset in (TCR, BNDTR, SAR, DAR, BRUR, LAR, TBR, MAR, MDR):
        before = chip.read(offset)
        chip.write(offset, 0x00010008)
        assert chip.read(offset) == before
    chip.write(CR, EN | 3 << 6 | 1 << 2)
    assert chip.read(CR) == EN | 1 << 2  # interrupt enables are free


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"length": 0x402}, BSE),
        ({"length": 65540}, BSE),
        ({"source": SOURCE + 2}, ASE),
        ({"destination": DESTINATION + 1}, ASE),
        ({"how": BLOCK | THIRTY_TWO | WORDS & ~(2 << 8)}, ASE),  # SINCOS below SSIZE
        ({"how": BLOCK | 15 << 18 | WORDS}, ASE),  # a burst longer than a buffer
    ],
)
def test_what_cannot_be_is_refused_at_once(chip: Chip, change: dict[str, int], flag: int) -> None:
    chip.set_up(**{"length": 0x400} | change)
    assert chip.read(ISR) == TEIF
    assert chip.read(ESR) == flag
    assert chip.read(CR) == 0


@pytest.mark.parametrize(("where", "error"), [("source", 0x24), ("destination", TED | 0x24)])
def test_a_bus_error_tells_where_and_in_which_direction(chip: Chip, where: str, error: int) -> None:
    chip.set_up(0x400, **{where: 0x70000024})
    chip.request()
    chip.pass_time()
    assert chip.read(ISR) == TEIF
    assert chip.read(ESR) == error
    assert chip.read(CR) == 0
    chip.write(IFCR, TEIF)
    assert chip.read(ESR) == 0


def test_each_memory_has_its_port(chip: Chip) -> None:
    chip.itcm.data[:0x100] = DATA[:0x100]
    for bus, found in ((0, 0), (1 << 16, 0x100)):
        chip.write(TBR, bus)
        chip.set_up(0x100, source=ITCM.start)
        chip.request()
        chip.pass_time()
        assert chip.moved() == found
        chip.write(IFCR, 0x1F)
    chip.write(TBR, 1 << 16)  # AXI SRAM is not behind the port to the TCMs
    chip.set_up(0x100)
    chip.request()
    chip.pass_time()
    assert chip.read(ISR) == TEIF


def test_the_port_to_the_tcms_has_no_double_words(chip: Chip) -> None:
    doubles = 2 << 15 | 2 << 12 | 3 << 10 | 3 << 8 | 3 << 6 | 3 << 4 | 2 << 2 | 2
    for bus, flags in ((0, 0), (1 << 16, TEIF)):
        chip.write(TBR, bus)
        chip.set_up(0x100, how=BLOCK | THIRTY_TWO | doubles)
        assert chip.read(ISR) == flags
        chip.write(CR, 0)
        chip.write(IFCR, 0x1F)


def test_addresses_can_stand_still_and_count_down(chip: Chip) -> None:
    single = BLOCK | THIRTY_TWO | WORDS & ~(3 << 15 | 3 << 12 | 15)
    chip.set_up(0x40, how=single | 2 << 2)  # the source stands still
    chip.request()
    chip.pass_time()
    assert chip.ram.data[0x10000:0x10040] == DATA[:4] * 16
    chip.write(IFCR, 0x1F)
    chip.set_up(0x40, how=single | 3 << 2 | 2, destination=DESTINATION + 0x3C)
    chip.request()
    chip.pass_time()
    backwards = b"".join(DATA[n : n + 4] for n in range(0x3C, -1, -4))
    assert chip.ram.data[0x10000:0x10040] == backwards


def test_a_channel_that_is_disabled_ends_its_buffer_first(chip: Chip) -> None:
    chip.set_up(0x400)
    chip.request()
    chip.pass_time(100)
    chip.write(CR, 0)
    assert chip.read(CR) == EN
    chip.pass_time()
    assert (chip.read(CR), chip.moved()) == (0, 32)
    assert chip.read(ISR) & (CTCIF | CRQA) == CTCIF


def test_without_a_clock_nothing_moves_until_it_is_back(chip: Chip) -> None:
    chip.clocked = False
    chip.set_up(0x400)
    chip.request()
    chip.pass_time()
    assert chip.moved() == 0
    chip.clocked = True
    chip.mdma.gates_changed()
    chip.pass_time()
    assert chip.moved() == 0x400


def test_a_request_by_software_is_acknowledged_to_nobody(chip: Chip) -> None:
    """RM0433, "MDMA channel x control register (MDMA_CxCR)", SWRQ."""
    chip.write(MAR, AXI_SRAM.start + 0x30000)
    chip.write(MDR, 0x12345678)
    chip.set_up(0x100)
    chip.request()
    chip.pass_time()
    assert chip.moved() == 0x100
    assert not any(chip.ram.data[0x30000:0x30004])


def test_a_block_of_no_bytes_is_not_served_and_no_error(chip: Chip) -> None:
    """RM0433, "MDMA channel x block number of data register (MDMA_CxBNDTR)"."""
    chip.set_up(0)
    chip.request()
    chip.pass_time()
    assert chip.read(ISR) == CRQA
    assert chip.read(CR) == EN


def test_an_address_that_stands_still_cannot_be_updated(chip: Chip) -> None:
    chip.write(BRUR, 0x40 << 16)
    chip.set_up(1 << 20 | 0x40, how=BLOCK_OF_WORDS & ~(3 << 15 | 3 << 2))
    assert chip.read(ESR) == ASE


def test_a_channel_can_make_the_request_of_another(chip: Chip) -> None:
    """A byte that is written into the third of CCR: SWRQ, and nothing else."""
    chip.bus.attach(MDMA, chip.mdma.size, chip.mdma)
    chip.set_up(0x400, how=BUFFER | THIRTY_TWO | WORDS)
    chip.ram.data[0x20000] = 1
    one, request = AXI_SRAM.start + 0x20000, MDMA + 0x4E
    chip.set_up(5, how=ALL, source=one, destination=request, channel=1)
    chip.request(1)
    chip.pass_time()
    assert chip.moved() == 5 * 32
    assert chip.read(CR) == EN
    assert chip.read(ISR, 1) & CTCIF


def test_an_interrupt_is_for_what_was_enabled(chip: Chip) -> None:
    chip.set_up(0x100, control=EN | 1 << 2)
    chip.request()
    chip.pass_time()
    assert chip.irq == [True]
    assert chip.mdma.read(0, 4, Master.CORE) == 1
    chip.write(IFCR, CTCIF)
    assert chip.irq == [True, False]


def test_a_reset_forgets_what_was_under_way(chip: Chip) -> None:
    chip.set_up(0x400)
    chip.request()
    chip.pass_time(5 * MICROSECOND)
    there = chip.moved()
    chip.mdma.reset()
    chip.pass_time()
    assert chip.moved() == there
    assert all(channel.raw(MdmaChannel.CCR) == 0 for channel in chip.mdma.channels)


# --- Into flash --------------------------------------------------------------------------------


class Flashing:
    """The MDMA of a whole board, with both banks ready to be programmed."""

    def __init__(self, *, control: int = FlashCr.PG) -> None:
        self.board = Board()
        self.write(RCC + 0xD4, 1)
        for bank in range(2):
            registers = FLASH + bank * FLASH_BANK2_OFFSET
            for key in (FLASH_KEY1, FLASH_KEY2):
                self.write(registers + FLASH_KEYR, key)
            self.write(registers + FLASH_CR, 0x30 | control)
        self.board.bus.write_block(ITCM.start, DATA, Master.AP0)

    def write(self, address: int, value: int) -> None:
        self.board.bus.write(address, 4, value, Master.AP0)

    def begin(self, channel: int, flash: int, length: int) -> None:
        here = MDMA + 0x40 + 0x40 * channel
        values = {TCR: BLOCK_OF_WORDS, BNDTR: length, SAR: ITCM.start, DAR: flash, TBR: 1 << 16}
        for offset, value in values.items():
            self.write(here + offset, value)
        self.write(here + CR, EN | 1 << 2)
        self.write(here + CR, EN | 1 << 2 | SWRQ)

    def flags(self, channel: int) -> int:
        return self.board.bus.read(MDMA + 0x40 + 0x40 * channel, 4, Master.AP0)

    def status(self) -> int:
        return self.board.bus.read(FLASH + FLASH_SR, 4, Master.AP0)

    def pass_words(self, count: float) -> None:
        """Let so many flash words be programmed."""
        duration = round(count * PROGRAM_SECONDS[3][0] * SECOND)
        self.board.clock.advance_to(self.board.clock.now + duration)


def test_flash_that_is_busy_holds_it_and_nothing_is_lost() -> None:
    flashing = Flashing()
    flashing.begin(0, BANK1.start, 0x400)
    flashing.pass_words(10)
    assert not flashing.flags(0) & CTCIF
    flashing.pass_words(22.5)
    assert flashing.flags(0) & (CTCIF | TEIF) == CTCIF
    assert flashing.board.flash.contents(Span.of(BANK1.start, 0x400)) == DATA[:0x400]
    assert set(flashing.board.flash.programs.values()) == {1}
    pending = flashing.board.bus.read(NVIC_ISPR + 4 * (MDMA_IRQ // 32), 4, Master.AP0)
    assert pending & 1 << MDMA_IRQ % 32


def test_a_channel_that_waits_for_its_bank_holds_up_the_other_bank() -> None:
    """With a request for a block; so where both are programmed, one is for less."""
    flashing = Flashing()
    flashing.begin(0, BANK1.start, 0x400)
    flashing.begin(1, BANK2.start, 0x400)
    flashing.pass_words(25)
    programs = flashing.board.flash.programs
    assert sum(address in BANK1 for address in programs) >= 24
    assert sum(address in BANK2 for address in programs) <= 1
    flashing.pass_words(45)
    assert flashing.flags(1) & CTCIF


def test_what_flash_drops_is_no_error_on_the_bus() -> None:
    flashing = Flashing(control=0)
    flashing.begin(0, BANK1.start, 0x400)
    flashing.pass_words(1)
    assert flashing.flags(0) & (CTCIF | TEIF) == CTCIF
    assert flashing.status() & FlashSr.PGSERR
    assert not flashing.board.flash.programs


def test_a_reset_by_rcc_stops_it() -> None:
    flashing = Flashing()
    flashing.begin(0, BANK1.start, 0x400)
    flashing.pass_words(4.5)
    flashing.write(RCC + 0x7C, 1)
    flashing.pass_words(30)
    assert len(flashing.board.flash.programs) < 8
    assert flashing.flags(0) == 0
