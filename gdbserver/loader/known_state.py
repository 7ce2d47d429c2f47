"""Put the core into a known state before foreign code runs on it, and back afterwards.

A program that was halted anywhere may have left anything behind: SysTick running with a
handler in flash that is about to be erased, interrupts pending, an MPU, a data cache with
lines that nobody has written back.  Two loaders in a row do the same to each other; ST's own
tools fail in that way ("failed to download Segment[0]": the second stub enables interrupts,
and the tick of the first arrives through a vector table that is gone).  So nothing is
inherited: `known_state` takes away all that the Armv7-M architecture lets an earlier program
leave active, and gives it back at the end; what is under way is `reentry`'s business.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "System Control Space"; Cortex-M7 Technical
Reference Manual (DDI 0489), "Cache maintenance operations".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gdbserver.chip import cortex_m as cm
from gdbserver.chip import stm32h743 as chip
from gdbserver.loader.reentry import Handlers, Stage
from gdbserver.target.access import Read, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_IRQ_WORDS = (chip.IRQ_COUNT + 31) // 32
_PRIORITY_WORDS = (chip.IRQ_COUNT + 3) // 4
_ALL = 0xFFFFFFFF
_SYSTEM = 11  # words: ICSR, VTOR, AIRCR, SCR, CCR, SHPR1-3, SHCSR, CFSR, HFSR
_FPU_FULL_ACCESS = 0xF << 20  # CPACR.CP10 and CP11
_FPU_FRAMES = 3  # words: FPCCR, FPCAR, FPDSCR
_LAZY_STACKING = 1 << 31 | 1 << 30 | 1 << 0  # FPCCR.ASPEN, LSPEN, and LSPACT: one is under way
_PRIGROUP = 0x700
_ACTIVE = 0xFFF & ~(1 << 8)  # SHCSR: system exceptions that are being handled
_PENDING = cm.Icsr.PENDSTSET | cm.Icsr.PENDSVSET
_ANY_PENDING = _PENDING | cm.Icsr.NMIPENDSET
_MPU_REGIONS = 16
_MPU_VALID = 1 << 4  # RBAR: the region's number comes along
VECTORS = 16 + chip.IRQ_COUNT
"""Words in a vector table of this chip; VTOR wants it aligned to the next power of two."""


@contextmanager
def known_state(target: Target, stage: Stage, *, own: bool = False) -> Iterator[None]:
    """No interrupts, no MPU, no caches, an FPU, and the vector table of `stage`.

    The core is halted on entry and must be on exit.  Core registers are not dealt with here, but
    on exit some of them change, where the program was halted in a handler.

    `own`: for code of ours, which uses no FPU and changes nothing of this.  On a chip that is as
    reset left it, it is the vector table alone that has to change.
    """
    saved = _Saved(target)
    if own and saved.is_quiet:
        with saved.other_vectors(stage):
            yield
        return
    _quieten(target)
    caches_off(target)
    target.run(
        [
            Write(cm.MPU_CTRL, [0]),
            Write(cm.CPACR, [saved.cpacr | _FPU_FULL_ACCESS]),
            Write(cm.FPCCR, [saved.fpu_frames[0] & ~_LAZY_STACKING]),
            Write(cm.SCR, [0]),
            Write(cm.SHCSR, [0]),  # every fault is a HardFault, unless vector-caught before
            Write(cm.CFSR, [_ALL, _ALL]),
            Write(cm.VTOR, [stage.vectors]),
        ]
    )
    try:
        yield
    finally:
        _quieten(target)
        caches_off(target)
        saved.restore(stage)


class _Saved:
    """The registers of the System Control Space that a loader, or we, may change."""

    def __init__(self, target: Target) -> None:
        self._target = target
        (
            self._systick,
            self._enabled,
            self._pending,
            active,
            self._interrupt_priorities,
            system,
            (self.cpacr,),
            (self._mpu,),
            self.fpu_frames,
        ) = target.run(
            [
                Read(cm.SYST_CSR, 2),
                Read(cm.NVIC_ISER, _IRQ_WORDS),
                Read(cm.NVIC_ISPR, _IRQ_WORDS),
                Read(cm.NVIC_IABR, _IRQ_WORDS),
                Read(cm.NVIC_IPR, _PRIORITY_WORDS),
                Read(cm.ICSR, _SYSTEM),
                Read(cm.CPACR),
                Read(cm.MPU_CTRL),
                Read(cm.FPCCR, _FPU_FRAMES),
            ]
        )
        self._icsr, self._vtor, self._aircr, self._scr, self._ccr, *rest = system
        *self._priorities, self._shcsr, cfsr, hfsr = rest
        self._flagged = bool(cfsr or hfsr)
        self._handlers = Handlers.seen(self._icsr, active)
        self._regions = _mpu_regions(target) if self._mpu & 1 else None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs, is enabled, pending or under way that code of ours would mind."""
        return not (
            self._systick[0] & 7
            or any(self._enabled)
            or self._icsr & _ANY_PENDING
            or self._shcsr
            or self._scr
            or self._ccr & (cm.Ccr.DC | cm.Ccr.IC)
            or self._mpu & 1
            or self._flagged
            or self._handlers
        )

    @contextmanager
    def other_vectors(self, stage: Stage) -> Iterator[None]:
        """With those of `stage`; everything is put back where there was an error."""
        self._target.write_word(cm.VTOR, stage.vectors)
        try:
            yield
        except BaseException:
            _quieten(self._target)
            caches_off(self._target)
            self.restore(stage)
            raise
        self._target.write_word(cm.VTOR, self._vtor)

    def restore(self, stage: Stage) -> None:
        """In a quiet core: interrupts that were pending are so again, and come when it runs."""
        target = self._target
        ((mpu,),) = target.run([Read(cm.MPU_CTRL), Write(cm.MPU_CTRL, [0])])
        if self._regions is not None or mpu & 1:
            _set_mpu_regions(target, self._regions or [(0, 0)] * _MPU_REGIONS)
        if self._handlers:
            self._handlers.enter(target, stage)
        csr, reload = self._systick
        target.run(
            [
                Write(cm.NVIC_ICER, [_ALL] * _IRQ_WORDS),
                Write(cm.VTOR, [self._vtor]),
                Write(cm.AIRCR, [cm.VECTKEY | self._aircr & _PRIGROUP]),
                Write(cm.SCR, [self._scr, self._ccr, *self._priorities, self._shcsr]),
                Write(cm.CPACR, [self.cpacr]),
                Write(cm.MPU_CTRL, [self._mpu]),
                Write(cm.FPCCR, self.fpu_frames),
                Write(cm.CFSR, [_ALL, _ALL]),
                Write(cm.SYST_RVR, [reload]),
                Write(cm.SYST_CSR, [csr & 7]),
                Write(cm.NVIC_IPR, self._interrupt_priorities),
                Write(cm.NVIC_ISPR, self._pending),
                Write(cm.ICSR, [self._icsr & _PENDING]),
                Write(cm.NVIC_ISER, self._enabled),
            ]
        )


def _mpu_regions(target: Target) -> list[tuple[int, int]]:
    """RBAR without the number, and RASR."""
    accesses: list[Read | Write] = []
    for number in range(_MPU_REGIONS):
        accesses += [Write(cm.MPU_RNR, [number]), Read(cm.MPU_RBAR, 2)]
    return [(base & ~0x1F, attributes) for base, attributes in target.run(accesses)]


def _set_mpu_regions(target: Target, regions: Sequence[tuple[int, int]]) -> None:
    target.run(
        [
            Write(cm.MPU_RBAR, [base | _MPU_VALID | number, attributes])
            for number, (base, attributes) in enumerate(regions)
        ]
    )


def _quieten(target: Target) -> None:
    """Nothing that could interrupt: not enabled, not pending, not active."""
    (icsr,), (shcsr,), (aircr,) = target.run(
        [
            Write(cm.SYST_CSR, [0]),
            Write(cm.ICSR, [cm.Icsr.PENDSTCLR | cm.Icsr.PENDSVCLR]),
            Write(cm.NVIC_ICER, [_ALL] * _IRQ_WORDS),
            Write(cm.NVIC_ICPR, [_ALL] * _IRQ_WORDS),
            Read(cm.ICSR),
            Read(cm.SHCSR),
            Read(cm.AIRCR),
        ]
    )
    if icsr & 0x1FF or shcsr & _ACTIVE:
        # Halted inside a handler: as long as it counts as active, nothing of lower priority
        # would be served, and the loader's own SysTick least of all.
        clear = cm.VECTKEY | aircr & _PRIGROUP | cm.Aircr.VECTCLRACTIVE
        target.write_word(cm.AIRCR, clear)


def caches_off(target: Target) -> None:
    """Write back and forget the data cache, and switch both caches off.

    The core is halted, or waits where it writes nothing.
    """
    ccr = target.read_word(cm.CCR)
    if ccr & (cm.Ccr.DC | cm.Ccr.IC):
        target.forget_caches()
        target.write_word(cm.CCR, ccr & ~(cm.Ccr.DC | cm.Ccr.IC))
