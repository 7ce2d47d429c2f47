"""The board as a whole: what a reset reaches, what needs a clock, and what time does."""

from __future__ import annotations

import struct

import pytest

from gdbserver.chip.cortex_m import (
    AIRCR,
    DBGKEY,
    DEMCR,
    DHCSR,
    DWT_BASE,
    FP_COMP,
    FP_CTRL,
    VECTKEY,
    VTOR,
    Aircr,
    Demcr,
    Dhcsr,
)
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    AXI_SRAM_FN_MOD,
    BACKUP_SRAM,
    BANK1,
    BANK2,
    D2_SRAM_ALIAS,
    DBGMCU,
    DBGMCU_APB_D,
    DTCM,
    FLASH,
    FLASH_ACR,
    FLASH_CR,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_SIZE,
    FLASH_SR,
    GPIO_STRIDE,
    GPIOA,
    ITCM,
    IWDG1,
    QSPI_WINDOW,
    QUADSPI,
    QUADSPI_BANKS,
    QUADSPI_PINS,
    RCC,
    SRAM1,
    SRAM3,
    SRAM4,
    FlashCr,
    FlashSr,
)
from gdbserver.sim.board import DEFAULT_PINS, RESET_PULSE, Board, BoardOptions
from gdbserver.sim.bus import BusError, Master
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND
from gdbserver.sim.debug_port import Ack
from gdbserver.sim.link import IDEAL, Link
from gdbserver.sim.rcc import ResetCause

AHB2ENR, AHB3ENR, AHB4ENR, APB4ENR = RCC + 0xDC, RCC + 0xD4, RCC + 0xE0, RCC + 0xF4
RSR = RCC + 0xD0
QSPIEN = 1 << 14
SPIN = bytes.fromhex("fee7")  # b .

# What RCC_RSR shows after each kind of reset.  RM0433, "Reset source identification".
CPURST, D1RST, D2RST, BORRST, PINRST, PORRST = (1 << bit for bit in (17, 19, 20, 21, 22, 23))
SFTRST, IWDG1RST = 1 << 24, 1 << 26


def boot(board: Board, code: bytes = SPIN, at: int = BANK1.start) -> None:
    """Put a program into flash, and start over from it."""
    board.flash.load(at, struct.pack("<II", 0x20020000, at + 0x101))
    board.flash.load(at + 0x100, code)
    board.hold_reset(True)
    board.hold_reset(False)


def pass_time(board: Board, nanoseconds: int) -> None:
    board.run_until(board.clock.now + nanoseconds)


def read(board: Board, address: int, size: int = 4) -> int:
    return board.bus.read(address, size, Master.AP0)


def write(board: Board, address: int, value: int, size: int = 4) -> None:
    board.bus.write(address, size, value, Master.AP0)


def halt(board: Board) -> None:
    write(board, DHCSR, DBGKEY | Dhcsr.C_DEBUGEN | Dhcsr.C_HALT)


@pytest.fixture
def running(board: Board) -> Board:
    boot(board)
    return board


# --- The map ----------------------------------------------------------------------------------


def test_every_memory_is_where_the_manual_has_it(board: Board):
    for gate in (AHB2ENR, AHB4ENR):
        write(board, gate, 0xFFFFFFFF)
    for span in (ITCM, DTCM, AXI_SRAM, SRAM1, SRAM3, SRAM4, BACKUP_SRAM):
        for address in (span.start, span.end - 4):
            write(board, address, address)
            assert read(board, address) == address
    for address in (ITCM.end, DTCM.end, AXI_SRAM.end, SRAM3.end, SRAM4.end, 0x60000000):
        with pytest.raises(BusError):
            read(board, address)


def test_the_d2_memories_are_seen_twice(board: Board):
    write(board, AHB2ENR, 7 << 29)
    write(board, SRAM3.start, 0x12345678)
    assert read(board, D2_SRAM_ALIAS.start + SRAM3.start - SRAM1.start) == 0x12345678


def test_a_d2_memory_without_its_clock_is_dead(board: Board):
    write(board, SRAM1.start, 0x12345678)
    assert read(board, SRAM1.start) == 0
    write(board, AHB2ENR, 1 << 29)
    assert read(board, SRAM1.start) != 0x12345678
    assert read(board, SRAM3.start) == 0


def test_the_chip_says_what_it_is():
    board = Board(BoardOptions(revision=0x1003, flash_kib=1024))
    assert read(board, DBGMCU) == 0x10036450
    assert read(board, FLASH_SIZE, 2) == 1024
    assert board.apb_d.read(DBGMCU_APB_D, 4, Master.AP2) == 0x10036450


def test_what_is_not_modelled_reads_as_zero_and_says_so_once(
    board: Board, caplog: pytest.LogCaptureFixture
):
    assert read(board, 0x40000400) == read(board, 0x40000404) == 0
    write(board, 0x40000400, 1)
    assert caplog.text.count("no peripheral is modelled") == 1


def test_ram_holds_the_same_noise_after_each_power_on(board: Board):
    noise = read(board, AXI_SRAM.start)
    assert noise not in (0, 0xFFFFFFFF)
    write(board, AXI_SRAM.start, 1)
    board.power_cycle()
    assert read(board, AXI_SRAM.start) == noise


# --- Access ports -----------------------------------------------------------------------------


def ap_read(board: Board, ap: int, address: int) -> tuple[Ack, int]:
    """Read one word through an access port, as a probe does it."""
    link = Link(IDEAL, board, None)
    for bits, count in (((1 << 51) - 1, 51), (0xE79E, 16), ((1 << 51) - 1, 51), (0, 8)):
        link.sequence(bits, count)
    link.transfer(False, True, 0x0)
    link.transfer(False, False, 0x0, 0x1E)
    link.transfer(False, False, 0x4, 0x50000000)
    link.transfer(False, False, 0x8, ap << 24)
    link.transfer(True, False, 0x0, 0x12)
    link.transfer(True, False, 0x4, address)
    link.transfer(True, True, 0xC)
    return link.transfer(False, True, 0xC)


def test_ap1_reaches_the_d3_domain_only(board: Board):
    write(board, SRAM4.start, 42)
    assert ap_read(board, 1, SRAM4.start) == (Ack.OK, 42)
    for address in (ITCM.start, DTCM.start, AXI_SRAM.start, BANK1.start, DHCSR):
        assert ap_read(board, 1, address)[0] is Ack.FAULT


def test_under_reset_ap0_reaches_the_debug_units_and_ap2_the_dbgmcu(board: Board):
    board.hold_reset(True)
    assert ap_read(board, 0, DBGMCU)[0] is Ack.FAULT
    assert ap_read(board, 0, AXI_SRAM.start)[0] is Ack.FAULT
    assert ap_read(board, 2, DBGMCU_APB_D) == (Ack.OK, 0x20036450)
    ack, dhcsr = ap_read(board, 0, DHCSR)
    assert ack is Ack.OK
    assert dhcsr & Dhcsr.S_RESET_ST
    board.hold_reset(False)
    assert ap_read(board, 0, DBGMCU) == (Ack.OK, 0x20036450)


def test_readout_protection_level_2_shuts_the_access_ports():
    board = Board(BoardOptions(rdp=0xCC))
    assert ap_read(board, 0, DHCSR)[0] is Ack.FAULT
    assert ap_read(board, 2, DBGMCU_APB_D) == (Ack.OK, 0x20036450)


def test_readout_protection_level_1_hides_the_flash_from_a_debugger():
    board = Board(BoardOptions(rdp=0x00))
    assert ap_read(board, 0, BANK1.start)[0] is Ack.FAULT
    assert ap_read(board, 0, AXI_SRAM.start)[0] is Ack.OK


# --- Resets ---------------------------------------------------------------------------------------


def test_a_pin_reset_restarts_peripherals_and_keeps_memories(running: Board):
    write(running, AXI_SRAM.start, 0x12345678)
    write(running, FLASH + FLASH_ACR, 0x24)
    write(running, APB4ENR, 0xFFFFFFFF)
    write(running, VTOR, 0x24000000)
    running.hold_reset(True)
    running.hold_reset(False)
    assert read(running, AXI_SRAM.start) == 0x12345678
    assert read(running, FLASH + FLASH_ACR) == 0x37
    assert read(running, APB4ENR) == 0x00010000
    assert read(running, VTOR) == BANK1.start, "where the option bytes let it boot"


def test_debug_logic_sleeps_through_a_system_reset_and_not_through_power_on(running: Board):
    halt(running)
    write(running, DEMCR, Demcr.TRCENA | Demcr.VC_HARDERR)
    write(running, FP_CTRL, 3)
    write(running, FP_COMP, 0x08000101)
    write(running, DWT_BASE + 0x20, 0x20000000)
    write(running, DBGMCU + 4, 0x00700007)
    watched = (DEMCR, FP_COMP, DWT_BASE + 0x20, DBGMCU + 4)
    before = [read(running, address) for address in watched]
    running.reset(ResetCause.SOFTWARE)
    pass_time(running, MILLISECOND)
    assert [read(running, address) for address in watched] == before
    assert read(running, DHCSR) & Dhcsr.C_DEBUGEN
    running.power_cycle()
    assert not read(running, DHCSR) & Dhcsr.C_DEBUGEN
    assert read(running, DBGMCU + 4) == 0
    assert read(running, FP_COMP) == 0
    assert not read(running, DEMCR) & Demcr.VC_HARDERR


def test_sysresetreq_resets_after_a_pulse(running: Board):
    write(running, APB4ENR, 0xFFFFFFFF)
    write(running, AIRCR, VECTKEY | Aircr.SYSRESETREQ)
    assert running.core.in_reset
    pass_time(running, RESET_PULSE + MICROSECOND)
    assert not running.core.in_reset
    assert read(running, APB4ENR) == 0x00010000
    assert read(running, DHCSR) & Dhcsr.S_RESET_ST


def test_the_cause_of_a_reset_can_be_read_afterwards(running: Board):
    def clear() -> None:
        write(running, RSR, 1 << 16)
        write(running, RSR, 0)

    assert read(running, RSR) & PORRST, "nobody cleared the flags since power-on"
    clear()
    running.hold_reset(True)
    running.hold_reset(False)
    assert read(running, RSR) & (PINRST | SFTRST | PORRST) == PINRST
    clear()
    write(running, AIRCR, VECTKEY | Aircr.SYSRESETREQ)
    pass_time(running, MILLISECOND)
    assert read(running, RSR) & (SFTRST | PORRST) == SFTRST


def test_a_watchdog_keeps_lsi_running_whatever_lsion_says(running: Board):
    csr, ready = RCC + 0x74, 1 << 1
    assert not read(running, csr) & ready
    write(running, IWDG1, 0xCCCC)
    assert read(running, csr) & ready
    write(running, csr, 0)
    assert read(running, csr) & ready


def test_the_watchdog_bites_a_running_program_and_spares_a_halted_one(running: Board):
    write(running, RSR, 1 << 16)
    write(running, IWDG1, 0xCCCC)  # 4096 steps of 4 / 32 kHz: 512 ms
    halt(running)
    write(running, DBGMCU + 0x54, 1 << 18)
    pass_time(running, SECOND)
    assert not read(running, RSR) & IWDG1RST
    write(running, DHCSR, DBGKEY | Dhcsr.C_DEBUGEN)
    pass_time(running, SECOND)
    assert read(running, RSR) & IWDG1RST


def test_vector_catch_holds_the_core_at_its_first_instruction(running: Board):
    write(running, DHCSR, DBGKEY | Dhcsr.C_DEBUGEN)
    write(running, DEMCR, Demcr.VC_CORERESET)
    running.hold_reset(True)
    running.hold_reset(False)
    pass_time(running, MILLISECOND)
    assert running.core.halted
    assert running.core.read_register(15) == BANK1.start + 0x100


def test_the_core_boots_from_where_the_option_bytes_say(board: Board):
    board.flash.shared.set_raw(board.flash.shared.BOOT_CUR, 0x1FF00000 | BANK2.start >> 16)
    boot(board, at=BANK2.start)
    pass_time(board, MILLISECOND)
    halt(board)
    assert board.core.read_register(15) == BANK2.start + 0x100


def test_the_nor_notices_a_power_cycle_and_no_reset(running: Board):
    running.nor.four_byte = True
    running.hold_reset(True)
    running.hold_reset(False)
    assert running.nor.address_bytes == 4
    running.power_cycle()
    assert running.nor.address_bytes == 3


@pytest.mark.parametrize("what", ["reset", "power"])
def test_an_erase_that_was_cut_short_is_told_by_operr(running: Board, what: str):
    write(running, FLASH + FLASH_KEYR, FLASH_KEY1)
    write(running, FLASH + FLASH_KEYR, FLASH_KEY2)
    write(running, FLASH + FLASH_CR, int(FlashCr.SER | FlashCr.START) | 3 << 4 | 7 << 8)
    pass_time(running, 100 * MILLISECOND)
    if what == "power":
        running.power_cycle()
    else:
        running.hold_reset(True)
        running.hold_reset(False)
    assert read(running, FLASH + FLASH_SR) & FlashSr.OPERR


def test_a_reset_in_the_middle_of_a_chip_erase_does_not_stop_the_nor(running: Board):
    """The NOR is another chip: it goes on, and is busy when the new program asks."""
    for signal, pin in DEFAULT_PINS.items():
        set_pin(running, pin, QUADSPI_PINS[signal][pin])
    command(running, 0x06)
    command(running, 0xC7)
    assert running.nor.busy
    running.hold_reset(True)
    running.hold_reset(False)
    assert running.nor.busy
    running.power_cycle()
    assert not running.nor.busy


# --- Clock gates and pins -----------------------------------------------------------------------


def test_a_peripheral_without_its_clock_ignores_writes(board: Board):
    write(board, QUADSPI, 1)
    write(board, AHB3ENR, read(board, AHB3ENR) | QSPIEN)
    assert read(board, QUADSPI) == 0
    write(board, QUADSPI, 1)
    assert read(board, QUADSPI) == 1


def set_pin(board: Board, pin: str, function: int) -> None:
    port = GPIOA + (ord(pin[1]) - ord("A")) * GPIO_STRIDE
    number = int(pin[2:])
    write(board, AHB4ENR, read(board, AHB4ENR) | 1 << ord(pin[1]) - ord("A"))
    write(board, port, read(board, port) & ~(3 << 2 * number) | 2 << 2 * number)
    afr = port + (0x20 if number < 8 else 0x24)
    shift = 4 * (number % 8)
    write(board, afr, read(board, afr) & ~(0xF << shift) | function << shift)


def enable_quadspi(board: Board, control: int = 0) -> None:
    write(board, AHB3ENR, read(board, AHB3ENR) | QSPIEN)
    write(board, QUADSPI + 0x00, 3 << 24 | control | 1)
    write(board, QUADSPI + 0x04, 24 << 16)
    write(board, QUADSPI + 0x0C, 0x1B)


def command(board: Board, instruction: int) -> None:
    """Send the NOR an instruction without address and data."""
    enable_quadspi(board)
    write(board, QUADSPI + 0x14, 1 << 8 | instruction)
    pass_time(board, 100 * MICROSECOND)


def jedec_id(board: Board, control: int = 0, length: int = 3) -> int:
    """Ask the NOR who it is, over one line."""
    enable_quadspi(board, control)
    write(board, QUADSPI + 0x10, length - 1)
    write(board, QUADSPI + 0x14, 1 << 26 | 1 << 24 | 1 << 8 | 0x9F)
    pass_time(board, 100 * MICROSECOND)
    return read(board, QUADSPI + 0x20) & (1 << 8 * length) - 1


def test_the_nor_answers_when_its_pins_have_the_right_functions(board: Board):
    assert jedec_id(board) == 0xFFFFFF
    for signal, pin in DEFAULT_PINS.items():
        set_pin(board, pin, QUADSPI_PINS[signal][pin])
    assert jedec_id(board) == 0x1940EF
    set_pin(board, DEFAULT_PINS["NCS"], 5)
    assert jedec_id(board) == 0xFFFFFF


def test_the_nor_can_be_soldered_elsewhere():
    pins = dict(DEFAULT_PINS, NCS="PG6", IO0="PC9")
    board = Board(BoardOptions(nor="W25Q128JV", qspi_pins=pins))
    for signal, pin in pins.items():
        set_pin(board, pin, QUADSPI_PINS[signal][pin])
    assert jedec_id(board) == 0x1840EF


TWO_NORS = {**DEFAULT_PINS, "BK2_IO0": "PH2", "BK2_IO1": "PH3", "BK2_IO2": "PG9", "BK2_IO3": "PG14"}
DFM, FSEL = 1 << 6, 1 << 7


def set_both_nors_pins(board: Board, pins: dict[str, str]) -> None:
    for signal, pin in pins.items():
        bank = QUADSPI_BANKS[2 if signal.startswith("BK2_") else 1]
        set_pin(board, pin, bank[signal.removeprefix("BK2_")][pin])


def test_two_nors_share_a_chip_select_in_dual_flash_mode():
    board = Board(BoardOptions(nor="W25Q64JV", nor2="W25Q128JV", qspi_pins=TWO_NORS))
    set_both_nors_pins(board, TWO_NORS)
    assert jedec_id(board, DFM, 4) == 0x4040EFEF
    assert jedec_id(board) == 0x1740EF
    assert jedec_id(board, FSEL) == 0xFFFFFF, "its own chip select would fall, and it has none"
    set_pin(board, "PG14", 5)
    assert jedec_id(board, DFM, 4) == 0x4040EFEF, "one line needs no IO3"
    set_pin(board, "PH3", 5)
    assert jedec_id(board, DFM, 4) == 0xFF40FFEF


def test_two_nors_with_a_chip_select_each_can_be_asked_one_by_one():
    pins = {**TWO_NORS, "BK2_NCS": "PC11"}
    board = Board(BoardOptions(nor="W25Q64JV", nor2="W25Q128JV", qspi_pins=pins))
    set_both_nors_pins(board, pins)
    assert jedec_id(board, DFM, 4) == 0x4040EFEF
    assert jedec_id(board) == 0x1740EF
    assert jedec_id(board, FSEL) == 0x1840EF


def test_two_nors_hold_every_other_byte_of_what_the_board_shows():
    board = Board(BoardOptions(nor="W25Q64JV", qspi_pins=TWO_NORS))
    for nor, data in zip(board.nors, (b"ace", b"bdf"), strict=True):
        nor.memory[0x100:0x103] = data
    assert board.nor_contents(0x200, 6) == b"abcdef"


def test_the_window_is_closed_until_the_controller_opens_it(board: Board):
    with pytest.raises(BusError):
        read(board, QSPI_WINDOW.start)


# --- Time -----------------------------------------------------------------------------------------


def test_time_never_stops_short_of_what_was_asked_for(running: Board):
    for nanoseconds in (1, 10, 1000, MILLISECOND):
        when = running.clock.now + nanoseconds
        running.run_until(when)
        assert when <= running.clock.now <= when + 10 * MICROSECOND


def test_the_core_executes_for_just_as_long(board: Board):
    count = bytes.fromhex("0130 fde7")  # adds r0, #1; b .-2
    boot(board, count)
    pass_time(board, MILLISECOND)
    halt(board)
    assert 10_000 < board.core.read_register(0) < 64_000, "at most one instruction per cycle"


def test_two_boards_do_the_same():
    def life() -> tuple[int, int]:
        board = Board()
        boot(board, bytes.fromhex("0130 fde7"))
        for _ in range(50):
            pass_time(board, 7 * MICROSECOND)
        halt(board)
        return board.clock.now, board.core.read_register(0)

    assert life() == life()


@pytest.mark.parametrize(
    ("revision", "override", "told"), [(0x1003, 0, 1), (0x1003, 1, 0), (0x2003, 0, 0)]
)
def test_early_silicon_may_misread_axi_sram_until_told_otherwise(
    revision: int, override: int, told: int
):
    board = Board(BoardOptions(revision=revision))
    boot(board, bytes.fromhex("4ff01051 0868 fee7"))  # mov.w r1, #0x24000000; ldr r0, [r1]; b .
    write(board, AXI_SRAM_FN_MOD, override)
    pass_time(board, MILLISECOND)
    assert len(board.axi_sram_port.doubtful) == told
