"""The QUADSPI as a program had set it up: its registers, its pins, and the mode of its NOR.

A program that executes from the NOR, or reads from it, and is not reset after a download, needs the
set-up that it made, not a loader's.  A program that has not set up the QUADSPI is not concerned:
there the NOR stays as the loader leaves it, readable.

Registers can be put back.  The NOR's own mode can only be guessed at from how the program talked to
it (QPI: instructions on four lines; 4-byte mode: four address bytes after an instruction that
has three by itself); so it is compared afterwards whether the program's way of reading gives what
the loader's did.

RM0433, "Quad-SPI interface (QUADSPI)", "General-purpose I/Os (GPIO)"; ES0392, "QUADSPI internal
timing criticality".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import Span
from gdbserver.errors import MemoryFault
from gdbserver.loader.nor_states import Nor
from gdbserver.loader.nor_survey import reset_quadspi
from gdbserver.target.link import Access, Read, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_AHB3ENR, _QSPIEN = chip.RCC + 0xD4, 1 << 14
_AHB4ENR = chip.RCC + 0xE0  # behind AHB1ENR and AHB2ENR
_PORTS = 11  # A to K

_CR, _DCR, _SR, _FCR, _CCR, _ABR = (
    chip.QUADSPI + at for at in (0x00, 0x04, 0x08, 0x0C, 0x14, 0x1C)
)
_POLLING = chip.QUADSPI + 0x24  # PSMKR, PSMAR, PIR, LPTR
_EN, _ABORT = 1 << 0, 1 << 1
_BUSY = 1 << 5
_FREE_RUNNING = 1 << 29  # CCR.FRCM
_ALL_FLAGS = 0x1B
_MAPPED = 3 << 26  # CCR.FMODE
_INSTRUCTION_ON_FOUR_LINES = 3 << 8
_FOUR_ADDRESS_BYTES = 3 << 12
_THREE_BYTE_READS = {0x03, 0x0B, 0x3B, 0x6B, 0xBB, 0xEB}

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
        enabled, *_, clocks = target.read_words(_AHB3ENR, 4)
        if not enabled & _QSPIEN:
            return None
        # Not DR, which lies between: a read takes something out of the FIFO, or waits for it.
        registers = target.read_words(_CR, 8)
        control, device, status, _, _, communication, _, alternate = registers
        if not control & _EN:
            return None
        used = [port for port in range(_PORTS) if clocks >> port & 1]
        polling, *words = target.run(
            [
                Read(_POLLING, 4),
                *(Read(chip.GPIOA + chip.GPIO_STRIDE * port, _GPIO_WORDS) for port in used),
            ]
        )
        ports = {}
        for port, (*modes, _, output, _, _, low, high) in zip(used, words, strict=True):
            ports[port] = (*modes, output, low, high)
        mapped = communication & _MAPPED == _MAPPED
        return cls(
            control & ~_ABORT,
            device,
            communication,
            alternate,
            tuple(polling),
            # Memory-mapped it is busy as long as it keeps the NOR selected, which harms nobody.
            bool(status & _BUSY) and not mapped,
            clocks,
            ports,
        )

    @property
    def mapped(self) -> bool:
        """Whether the program reads the NOR as memory."""
        return self.communication & _MAPPED == _MAPPED

    def put_back(self, target: Target, sample: Sample | None = None) -> None:
        """Registers and pins, and the NOR's mode, as far as `sample` tells that it is another.

        The core is halted, and the QUADSPI's clocks are what they were.
        """
        if self.mapped and self.of(target) == self:
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
        if self.communication & _INSTRUCTION_ON_FOUR_LINES == _INSTRUCTION_ON_FOUR_LINES:
            nor.leave_in_qpi()
        elif (
            self.communication & _FOUR_ADDRESS_BYTES == _FOUR_ADDRESS_BYTES
            and self.communication & 0xFF in _THREE_BYTE_READS
        ):
            nor.leave_in_four_byte_mode()
        self.put_registers_back(target)
        if not self._reads(target, sample):
            log.warning(
                "the program cannot read the NOR until it initialises it again: it had chosen a "
                "mode of the NOR (QUADSPI_CCR %#010x) that the loader has ended; reset it",
                self.communication,
            )

    def _reads(self, target: Target, sample: Sample) -> bool:
        target.forget_caches()
        try:
            return target.read_memory(sample.span.start, len(sample.span)) == sample.contents
        except MemoryFault:
            return False

    def put_registers_back(self, target: Target) -> None:
        """All but the NOR's own mode."""
        # A loader that tidies up may have taken its clock away.
        target.write_word(_AHB3ENR, target.read_word(_AHB3ENR) | _QSPIEN)
        reset_quadspi(target)
        accesses: list[Access] = [
            # Its clock runs free for a moment, or the first frame may be misread.
            *(Write(_CCR, [_FREE_RUNNING]), Write(_CCR, [_FREE_RUNNING]), Write(_CR, [_ABORT])),
            *(Read(_CR), Write(_FCR, [_ALL_FLAGS])),
            *(Write(_DCR, [self.device]), Write(_POLLING, self.polling)),
            *(Write(_CR, [self.control]), Write(_ABR, [self.alternate])),
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
        accesses.append(Write(_AHB4ENR, [self.clocks]))
        if self.mapped:
            accesses.append(Write(_CCR, [self.communication]))
        target.run(accesses)


def switch_off_unless_mapped(target: Target) -> None:
    """What a loader leaves behind that works by commands is of no use to anybody.

    It would be taken for a program's.
    """
    state = QuadspiState.of(target)
    if state is not None and not state.mapped:
        reset_quadspi(target)
