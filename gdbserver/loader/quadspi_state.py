"""The QUADSPI as a program had set it up: its registers, its pins, and the mode of its NOR.

A program that executes from the NOR, or reads from it, and is not reset after a download, needs the
set-up that it made, not a loader's.  A program that has not set up the QUADSPI is not concerned:
there the NOR stays as the loader leaves it, readable.

Registers can be put back.  The NOR's own mode can only be guessed at from how the program talked to
it (QPI: instructions on four lines; 4-byte mode: four address bytes after an instruction that
has three by itself); so it is compared afterwards whether the program's way of reading gives what
the loader's did.  Where it does not, the loader's way stays: who reads memory needs one that works.

RM0433, "Quad-SPI interface (QUADSPI)", "General-purpose I/Os (GPIO)"; ES0392, "QUADSPI internal
timing criticality".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import QuadspiCcr, QuadspiCr, QuadspiSr
from gdbserver.errors import MemoryFault
from gdbserver.loader.nor_states import Nor
from gdbserver.loader.nor_survey import reset_quadspi
from gdbserver.target.access import Access, Read, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_PORTS = 11  # A to K

_THREE_BYTE_READS = {0x03, 0x0B, 0x3B, 0x6B, 0xBB, 0xEB}

_ON_FOUR_LINES = (
    QuadspiCcr.INSTRUCTION_ON_FOUR,
    QuadspiCcr.ADDRESS_ON_FOUR,
    QuadspiCcr.ALTERNATE_ON_FOUR,
    QuadspiCcr.DATA_ON_FOUR,
)

_GPIO_MODES, _GPIO_ODR, _GPIO_FUNCTIONS = 0x00, 0x14, 0x20  # MODER to PUPDR; AFRL, AFRH
_GPIO_WORDS = 10  # with IDR, BSRR and LCKR among them


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known to be in the NOR."""

    span: Span
    contents: bytes


@dataclass(frozen=True)
class QuadspiState:
    """What there is to put back."""

    control: int
    device: int
    communication: int
    """CCR."""
    alternate: int
    polling: tuple[int, ...]
    busy: bool
    clocks: int
    """RCC_AHB4ENR."""
    ports: dict[int, tuple[int, ...]]
    """By number: MODER, OTYPER, OSPEEDR, PUPDR, ODR, AFRL, AFRH."""

    @classmethod
    def of(cls, target: Target) -> Self | None:
        """As it is now; None when nobody has set it up."""
        enabled, *_, clocks = target.read_words(chip.RCC_AHB3ENR, 4)  # up to AHB4ENR
        if not enabled & chip.AHB3_QSPI:
            return None
        # Not DR, which lies between these and those for polling.
        registers = target.read_words(chip.QUADSPI_CR, 8)
        control, device, status, _, _, communication, _, alternate = registers
        if not control & QuadspiCr.EN:
            return None
        used = [port for port in range(_PORTS) if clocks >> port & 1]
        polling, *words = target.run(
            [
                Read(chip.QUADSPI_PSMKR, 4),
                *(Read(chip.GPIOA + chip.GPIO_STRIDE * port, _GPIO_WORDS) for port in used),
            ]
        )
        ports = {}
        for port, (*modes, _, output, _, _, low, high) in zip(used, words, strict=True):
            ports[port] = (*modes, output, low, high)
        mapped = communication & QuadspiCcr.FMODE == QuadspiCcr.MEMORY_MAPPED
        return cls(
            control & ~int(QuadspiCr.ABORT),  # of a flag, ~ is the other flags: no prescaler
            device,
            communication,
            alternate,
            tuple(polling),
            # Memory-mapped it is busy as long as it keeps the NOR selected, which harms nobody.
            bool(status & QuadspiSr.BUSY) and not mapped,
            clocks,
            ports,
        )

    @property
    def mapped(self) -> bool:
        """Whether the program reads the NOR as memory."""
        return self.communication & QuadspiCcr.FMODE == QuadspiCcr.MEMORY_MAPPED

    def put_back(self, target: Target, sample: Sample | None = None) -> None:
        """Registers and pins, and the NOR's mode, as far as `sample` tells that it is another.

        The core is halted, and the QUADSPI's clocks are what they were.
        """
        loaders = self.of(target) if self.mapped else None
        if loaders == self:
            return  # it reads the NOR as the loader does, which has just read it all
        self.put_registers_back(target)
        if self.busy:
            log.warning("the program was in the middle of a QUADSPI transfer, which is lost")
        if not self.mapped:
            log.info(
                "the program drove the NOR by commands of its own; if it had chosen a mode of it "
                "(QPI, 4-byte addresses), it has to do so again"
            )
        if not self.mapped or sample is None or self._reads(target, sample):
            return
        nor = Nor(target)
        if self.communication & QuadspiCcr.IMODE == QuadspiCcr.INSTRUCTION_ON_FOUR:
            nor.leave_in_qpi()
        elif (
            self.communication & QuadspiCcr.ADSIZE == QuadspiCcr.FOUR_ADDRESS_BYTES
            and self.communication & 0xFF in _THREE_BYTE_READS
        ):
            nor.leave_in_four_byte_mode()
        self.put_registers_back(target)
        if self._reads(target, sample):
            return
        log.warning("%s", self._unreadable())
        if loaders is not None and loaders.mapped:
            loaders.put_registers_back(target)
            if loaders._reads(target, sample):
                log.warning("the NOR stays mapped in the loader's way, which reads it")
            else:
                self.put_registers_back(target)

    def _unreadable(self) -> str:
        """What is known of a way of reading that reads no more, and what it can come from."""
        sentence = (
            "the NOR cannot be read in the way that was set up before the loader ran (QUADSPI_CCR "
            f"{self.communication:#010x}): if a program had chosen a mode of the NOR for it, the "
            "loader has ended that, and the program has to be reset"
        )
        if any(self.communication & four == four for four in _ON_FOUR_LINES):
            sentence += (
                "; if it never worked, IO2 or IO3, which it needs, may not be on the pins that "
                "were named"
            )
        return sentence

    def _reads(self, target: Target, sample: Sample) -> bool:
        target.forget_caches()
        try:
            return target.read_memory(sample.span.start, len(sample.span)) == sample.contents
        except MemoryFault:
            return False

    def put_registers_back(self, target: Target) -> None:
        """All but the NOR's own mode."""
        # A loader that tidies up may have taken its clock away.
        enabled = target.read_word(chip.RCC_AHB3ENR)
        target.write_word(chip.RCC_AHB3ENR, enabled | chip.AHB3_QSPI)
        reset_quadspi(target)
        accesses: list[Access] = [
            # Its clock runs free for a moment, or the first frame may be misread.
            Write(chip.QUADSPI_CCR, [QuadspiCcr.FRCM]),
            Write(chip.QUADSPI_CCR, [QuadspiCcr.FRCM]),
            Write(chip.QUADSPI_CR, [QuadspiCr.ABORT]),
            Read(chip.QUADSPI_CR),
            Write(chip.QUADSPI_FCR, [chip.QUADSPI_CLEARED]),
            Write(chip.QUADSPI_DCR, [self.device]),
            Write(chip.QUADSPI_PSMKR, self.polling),
            Write(chip.QUADSPI_CR, [self.control]),
            Write(chip.QUADSPI_ABR, [self.alternate]),
        ]
        for port, (*modes, output, low, high) in self.ports.items():
            base = chip.GPIOA + chip.GPIO_STRIDE * port
            # Functions before modes: a pin must not have a wrong function even for an instant.
            accesses += [
                Write(base + _GPIO_FUNCTIONS, [low, high]),
                Write(base + _GPIO_ODR, [output]),
                Write(base + _GPIO_MODES + 4, modes[1:]),
                Write(base + _GPIO_MODES, modes[:1]),
            ]
        accesses.append(Write(chip.RCC_AHB4ENR, [self.clocks]))
        if self.mapped:
            accesses.append(Write(chip.QUADSPI_CCR, [self.communication]))
        target.run(accesses)


def switch_off_unless_mapped(target: Target) -> None:
    """What a loader leaves behind that works by commands is of no use to anybody.

    It would be taken for a program's.
    """
    state = QuadspiState.of(target)
    if state is not None and not state.mapped:
        reset_quadspi(target)
