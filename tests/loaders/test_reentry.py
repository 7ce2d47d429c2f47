"""A program that was halted in a handler, or with interrupts pending, goes on after a download.

The program is ``loaders/busy``: SysTick and an interrupt, both enabled, both counted, with MPU,
caches and a vector table of its own; it lies in RAM where loaders are linked, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from loader_runs import NOR, Run, noise, run

from gdbserver.chip import cortex_m as cm
from gdbserver.loader.file import Image, built, load_image
from gdbserver.target.breakpoints import BreakKind

QUADSPI_IRQ = 92
IRQ_PRIORITY = cm.NVIC_IPR + QUADSPI_IRQ
FOREIGN = "W25Q256_F8"  # leaves SysTick running, and changes VTOR


class Program:
    """The busy program on a board, and what it has counted."""

    def __init__(self, here: Run) -> None:
        self.here = here
        self.image: Image = load_image(built("busy.elf"))
        target = here.target
        for address, data in self.image.chunks:
            target.write_memory(address, data)
        stack, entry = target.read_words(self.image.memory[0].start, 2)
        target.write_registers(
            {"msp": stack, "control": 0, "pc": entry & ~1, "xpsr": cm.XPSR_THUMB}
        )

    def run_to(self, function: str) -> None:
        target, address = self.here.target, self.image.entries[function] & ~1
        target.set_breakpoint(BreakKind.HARDWARE, address, 2)
        target.resume()
        while target.poll_stop() is None:
            pass
        target.clear_breakpoint(BreakKind.HARDWARE, address, 2)
        assert target.read_registers(["pc"])["pc"] == address

    def goes_on(self) -> None:
        """Turns, ticks and interrupts all count on, and no fault stops the core."""
        target = self.here.target
        counters = self.image.symbols["counters"].address
        before = target.read_words(counters, 3)
        target.resume()
        deadline = target.deadline(0.01)
        while not deadline.expired():
            assert target.poll_stop() is None, target.describe_fault()
        target.halt()
        after = target.read_words(counters, 3)
        assert all(late > early for early, late in zip(before, after, strict=True))


@pytest.fixture
def program() -> Iterator[Program]:
    with run(FOREIGN) as here:
        yield Program(here)


def exception(here: Run) -> int:
    return here.target.read_registers(["xpsr"])["xpsr"] & 0x1FF


@pytest.mark.parametrize(("handler", "number"), [("tick", 15), ("irq", 16 + QUADSPI_IRQ)])
def test_a_program_halted_in_a_handler_returns_from_it(
    program: Program, handler: str, number: int
) -> None:
    program.run_to(handler)
    here = program.here
    assert exception(here) == number
    before = here.target.read_registers(["sp", "lr", "pc", "xpsr", "basepri", "control", "psp"])
    here.load((NOR, noise(1000)))
    assert here.target.read_registers(before) == before
    program.goes_on()


def test_handlers_inside_handlers_return_one_after_the_other(program: Program) -> None:
    program.run_to("irq")
    here = program.here
    here.target.write_word(cm.NVIC_IPR + QUADSPI_IRQ, 0x80)  # now a tick may interrupt it
    here.target.write_word(cm.ICSR, cm.Icsr.PENDSTSET)
    program.run_to("tick")
    active = 1 << QUADSPI_IRQ % 32
    assert here.target.read_word(cm.NVIC_IABR + 8) == active
    here.load((NOR, noise(1000)))
    assert exception(here) == 15
    assert here.target.read_word(cm.NVIC_IABR + 8) == active
    assert here.target.read_word(cm.NVIC_IPR + QUADSPI_IRQ) & 0xFF == 0x80
    program.goes_on()


def test_an_interrupt_around_a_system_handler_of_a_program_with_priority_groups(
    program: Program,
) -> None:
    """PRIGROUP = 6: two priorities are enough for one inside the other, and stay two."""
    here = program.here
    program.run_to("tick")
    here.target.write_word(cm.AIRCR, cm.VECTKEY | 6 << 8)
    here.target.write_word(cm.SHPR3, 0x80 << 24)
    here.target.write_word(cm.NVIC_ISPR + 8, 1 << QUADSPI_IRQ % 32)
    program.run_to("irq")
    here.load((NOR, noise(1000)))
    assert here.target.read_word(cm.AIRCR) & 0x700 == 6 << 8
    assert here.target.read_word(cm.SHCSR) & 1 << 11
    program.goes_on()


def test_what_was_pending_is_pending_still(program: Program) -> None:
    """A context switch that a program has asked for, and an interrupt that came meanwhile."""
    program.run_to("tick")
    target = program.here.target
    target.write_registers({"primask": 1})
    target.write_word(cm.ICSR, cm.Icsr.PENDSVSET)
    target.write_words(cm.NVIC_ISPR, [1 << 5])
    program.here.load((NOR, noise(1000)))
    assert target.read_word(cm.ICSR) & cm.Icsr.PENDSVSET
    assert target.read_word(cm.NVIC_ISPR) & 1 << 5


def test_priorities_and_the_mpu_are_as_the_program_had_them() -> None:
    """As its HAL has it, the loader sets up an MPU and priorities of its own."""
    with run("W25Q256_MEDDLES") as here:
        program, target = Program(here), here.target
        program.run_to("irq")
        target.write_word(cm.NVIC_IPR + 40, 0x10305070)
        target.write_word(cm.MPU_RNR, 0)
        before = target.read_words(cm.MPU_RBAR, 2)
        here.load((NOR, noise(1000)))
        target.write_word(cm.MPU_RNR, 0)
        assert target.read_words(cm.MPU_RBAR, 2) == before
        assert target.read_word(cm.MPU_CTRL) == 5
        assert target.read_word(cm.NVIC_IPR + 40) == 0x10305070
        program.goes_on()


def test_regions_of_a_loaders_mpu_do_not_outlive_it() -> None:
    with run("W25Q256_MEDDLES") as here:
        here.load((NOR, noise(1000)))
        here.target.write_word(cm.MPU_RNR, 0)
        assert here.target.read_word(cm.MPU_RASR) == 0
        assert here.target.read_word(cm.MPU_CTRL) == 0


def test_a_hard_fault_handler_is_left_for_good_and_that_is_told(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gdbserver.loader")
    target = program.here.target
    program.run_to("irq")
    target.write_word(cm.VTOR, 0x24070000)
    target.write_memory(0x24070000 + 12, (0x24070100 | 1).to_bytes(4, "little"))
    target.write_memory(0x24070100, b"\xfe\xe7")
    target.write_memory(program.image.entries["irq"] & ~1, b"\x00\xde")  # UDF
    target.write_word(cm.DEMCR, cm.Demcr.TRCENA)
    target.resume()
    deadline = target.deadline(0.001)
    while not deadline.expired():
        target.is_halted()
    target.halt()
    assert exception(program.here) == 3
    program.here.load((NOR, noise(1000)))
    assert any("(exception 3) that it cannot return from" in line for line in caplog.messages)
