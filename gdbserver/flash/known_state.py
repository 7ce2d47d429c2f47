"""Put the core into a known state before foreign code runs on it, and back afterwards.

A program that was halted anywhere may have left anything behind: SysTick running with a
handler in flash that is about to be erased, interrupts pending, an MPU, a data cache with
lines that nobody has written back.  Two loaders in a row do the same to each other; ST's own
tools fail in that way ("failed to download Segment[0]": the second stub enables interrupts,
and the tick of the first arrives through a vector table that is gone).  So nothing is
inherited: `known_state` takes away all that the Armv7-M architecture lets an earlier program
leave active, and gives it back at the end.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "System Control Space"; Cortex-M7 Technical
Reference Manual (DDI 0489), "Cache maintenance operations".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gdbserver.chip import cortex_m as cm
from gdbserver.chip import stm32h743 as chip
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_IRQ_WORDS = (chip.IRQ_COUNT + 31) // 32
_ALL = 0xFFFFFFFF
_SYSTEM = 8  # words from VTOR to SHCSR: AIRCR, SCR, CCR and SHPR1-3 between them
_FPU_FULL_ACCESS = 0xF << 20  # CPACR.CP10 and CP11
_LAZY_STACKING = 1 << 31 | 1 << 30  # FPCCR.ASPEN and LSPEN
_PRIGROUP = 0x700
_ACTIVE = 0xFFF & ~(1 << 8)  # SHCSR: active and pending bits of system exceptions
VECTORS = 16 + chip.IRQ_COUNT
"""Words in a vector table of this chip; VTOR wants it aligned to the next power of two."""


@contextmanager
def known_state(target: Target, vectors: int) -> Iterator[None]:
    """No interrupts, no MPU, no caches, an FPU, and the vector table at `vectors`.

    The core is halted on entry and must be on exit.  Core registers are not dealt with here.
    """
    saved = _Saved(target)
    _quieten(target)
    _caches_off(target, saved.ccr)
    target.write_word(cm.MPU_CTRL, 0)
    target.write_word(cm.CPACR, saved.cpacr | _FPU_FULL_ACCESS)
    target.write_word(cm.FPCCR, saved.fpccr & ~_LAZY_STACKING)
    target.write_word(cm.SHCSR, 0)  # every fault is a HardFault, unless vector-caught before
    target.write_word(cm.SCR, 0)
    target.write_word(cm.CFSR, _ALL)
    target.write_word(cm.HFSR, _ALL)
    target.write_word(cm.VTOR, vectors)
    try:
        yield
    finally:
        _quieten(target)
        if target.read_word(cm.CCR) & (cm.Ccr.DC | cm.Ccr.IC) & ~saved.ccr:
            _caches_off(target, target.read_word(cm.CCR))
        saved.restore()


class _Saved:
    """The registers of the System Control Space that a loader, or we, may change."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._systick = target.read_words(cm.SYST_CSR, 2)
        self._enabled = target.read_words(cm.NVIC_ISER, _IRQ_WORDS)
        self._vtor, self._aircr, self._scr, self.ccr, *self._priorities, self._shcsr = (
            target.read_words(cm.VTOR, _SYSTEM)
        )
        self.cpacr = target.read_word(cm.CPACR)
        self._mpu = target.read_word(cm.MPU_CTRL)
        self.fpccr = target.read_word(cm.FPCCR)

    def restore(self) -> None:
        write, write_words = self._target.write_word, self._target.write_words
        csr, reload = self._systick
        write(cm.VTOR, self._vtor)
        write(cm.AIRCR, cm.VECTKEY | self._aircr & _PRIGROUP)
        write(cm.SCR, self._scr)
        write(cm.CCR, self.ccr)
        write_words(cm.SHPR1, self._priorities)
        write(cm.SHCSR, self._shcsr & ~_ACTIVE)
        write(cm.CPACR, self.cpacr)
        write(cm.MPU_CTRL, self._mpu)
        write(cm.FPCCR, self.fpccr)
        write(cm.CFSR, _ALL)
        write(cm.HFSR, _ALL)
        write(cm.SYST_RVR, reload)
        write(cm.SYST_CSR, csr & 7)
        write_words(cm.NVIC_ISER, self._enabled)


def _quieten(target: Target) -> None:
    """Nothing that could interrupt: not enabled, not pending, not active."""
    target.write_word(cm.SYST_CSR, 0)
    target.write_word(cm.ICSR, cm.Icsr.PENDSTCLR | cm.Icsr.PENDSVCLR)
    target.write_words(cm.NVIC_ICER, [_ALL] * _IRQ_WORDS)
    target.write_words(cm.NVIC_ICPR, [_ALL] * _IRQ_WORDS)
    if target.read_word(cm.ICSR) & 0x1FF or target.read_word(cm.SHCSR) & _ACTIVE:
        # Halted inside a handler: as long as it counts as active, nothing of lower priority
        # would be served, and the loader's own SysTick least of all.
        aircr = target.read_word(cm.AIRCR) & _PRIGROUP
        target.write_word(cm.AIRCR, cm.VECTKEY | aircr | cm.Aircr.VECTCLRACTIVE)


def _caches_off(target: Target, ccr: int) -> None:
    """Write back and forget the data cache, and switch both caches off."""
    if ccr & cm.Ccr.DC:
        target.write_word(cm.CSSELR, 0)
        geometry = target.read_word(cm.CCSIDR)
        sets, ways = (geometry >> 13 & 0x7FFF) + 1, (geometry >> 3 & 0x3FF) + 1
        line_bits = (geometry & 7) + 4
        way_shift = 32 - (ways - 1).bit_length()
        target.write_word(cm.CCR, ccr & ~cm.Ccr.DC)
        for way in range(ways):
            for index in range(sets):
                target.write_word(cm.DCCISW, way << way_shift | index << line_bits)
    target.write_word(cm.CCR, ccr & ~(cm.Ccr.DC | cm.Ccr.IC))
    target.write_word(cm.ICIALLU, 0)
