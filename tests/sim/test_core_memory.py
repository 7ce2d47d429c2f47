"""Stores of the core to memory that is plain for reading only: flash, a mapped NOR."""

from __future__ import annotations

from bare_machine import Machine

from gdbserver.chip.cortex_m import Selector
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK2, FLASH
from gdbserver.sim.bus import Master
from gdbserver.sim.clock import MICROSECOND, MILLISECOND
from gdbserver.sim.flash_interface import FlashInterface
from gdbserver.sim.probe import SimProbe


def test_the_device_hears_of_each_store_and_its_memory_stays_as_it_is() -> None:
    machine = Machine(
        """
        ldr r0, =0x08008000
        ldr r1, =0x11223344
        movs r2, #0x55
        ldr r3, [r0]
        str r1, [r0]
        strh r1, [r0, #6]
        strb r1, [r0, #9]
        adds r3, r0, #16
        stmia r3!, {r1, r2}
        strd r1, r2, [r0, #32]
        ldr r4, [r0]
        bkpt #0
        """
    ).run_to_halt()
    assert machine.rom.stores == [
        (0x8000, 4, 0x11223344),
        (0x8006, 2, 0x3344),
        (0x8009, 1, 0x44),
        (0x8010, 4, 0x11223344),
        (0x8014, 4, 0x55),
        (0x8020, 4, 0x11223344),
        (0x8024, 4, 0x55),
    ]
    assert machine.rom.data[0x8000:0x8030] == b"\xff" * 0x30
    assert machine.register(4) == 0xFFFFFFFF


PROGRAM_BANK_2 = """
    ldr r0, =0x52002104
    ldr r1, =0x45670123
    str r1, [r0]
    ldr r1, =0xCDEF89AB
    str r1, [r0]
    movs r1, #0x32
    str r1, [r0, #8]
    ldr r2, =0x08100000
    ldr r7, [r2]
    ldr r5, =0x{pattern:08X}
    movs r3, #{words}
    1: str r5, [r2]
    adds r2, #4
    subs r3, #1
    bne 1b
    2: ldr r4, [r0, #12]
    tst r4, #4
    bne 2b
    bkpt #0
"""


def machine_with_bank_2(
    pattern: int, words: int, then: str = "bkpt #0"
) -> tuple[Machine, FlashInterface]:
    code = PROGRAM_BANK_2.format(pattern=pattern, words=words)
    machine = Machine(code.replace("bkpt #0", then))
    flash = FlashInterface(machine.clock, machine.bus)
    machine.bus.attach(FLASH, flash.registers.size, flash.registers)
    machine.bus.attach(BANK2.start, len(BANK2), flash.array(2))
    return machine, flash


def test_the_core_programs_flash_at_the_pace_of_the_flash() -> None:
    machine, flash = machine_with_bank_2(0xCAFE0123, 80)
    machine.run_to_halt(10 * MILLISECOND)
    assert flash.contents(Span.of(BANK2.start, 324)) == 80 * b"\x23\x01\xfe\xca" + b"\xff" * 4
    assert set(flash.programs.values()) == {1}
    assert 0 <= machine.clock.now - 1000 * MICROSECOND < 150 * MICROSECOND
    assert machine.register(7) == 0xFFFFFFFF


def test_what_the_core_stores_over_old_contents_is_anded() -> None:
    machine, flash = machine_with_bank_2(0x0F0F00FF, 8)
    flash.load(BANK2.start, 8 * b"\xaa\xaa\xaa\xaa")
    machine.run_to_halt()
    assert flash.contents(Span.of(BANK2.start, 32)) == 8 * b"\xaa\x00\x0a\x0a"
    assert flash.banks[1].cells.suspect == {0: None}


def test_what_the_core_has_programmed_it_can_read_and_execute() -> None:
    then = """
        ldr r6, [r2, #-4]
        ldr r1, =0x08100021
        movs r4, #0
        blx r1
        bkpt #0
    """
    adds_and_bx = 0x47701C64  # adds r4, #1; bx lr
    machine, _ = machine_with_bank_2(adds_and_bx, 16, then)
    machine.run_to_halt(10 * MILLISECOND)
    assert (machine.register(4), machine.register(6)) == (1, adds_and_bx)


def test_a_flash_word_that_the_core_leaves_unfinished_is_not_in_flash() -> None:
    machine, flash = machine_with_bank_2(0x12345678, 7)
    machine.run_to_halt()
    assert flash.contents(Span.of(BANK2.start, 32)) == b"\xff" * 32


def test_a_push_at_the_very_top_of_the_address_space_is_refused() -> None:
    """A program started by hand on a blank chip: sp is 0xFFFFFFFC, from a blank vector table."""
    probe = SimProbe("sim:ideal")
    core, ram = probe.board.core, 0x24000000
    probe.board.bus.write_block(ram, bytes.fromhex("10b500be"), Master.AP0)  # push {r4, lr}; bkpt
    core.write_register(Selector.MSP, 0xFFFFFFFC)
    core.write_register(Selector.PC, ram)
    core.resume()
    core.run_until(probe.board.clock.now + 1000)
    assert core.locked_up
