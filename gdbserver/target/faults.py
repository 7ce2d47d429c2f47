"""What went wrong on the core, in one sentence: CFSR, HFSR, the fault addresses, the frame.

Armv7-M ARM (DDI 0403E.e), "Fault behavior" and "Configurable Fault Status Register".  `describe`
is a pure function over values; who reads them is `gdbserver.target.core`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from gdbserver.chip.cortex_m import LOCKUP_PC, Cfsr, Demcr, ExceptionNumber, Hfsr
from gdbserver.target.stop import SIGBUS, SIGFPE, SIGILL, SIGSEGV

FRAME_WORDS: Final = 8
"""r0-r3, r12, lr, pc, xpsr: what exception entry stacks first, with or without FPU state."""

_RESERVED_XPSR: Final = 0x00F00000
_MEM_MANAGE: Final = Cfsr(0xFF)
_BUS: Final = Cfsr(0xFF00)
_BLANK: Final = 0xFFFFF000
"""Where sp is, or little below, when it was 0xFFFFFFFC: what reset finds in blank flash."""
_FAULT_HANDLERS: Final = range(ExceptionNumber.NMI, ExceptionNumber.USAGE_FAULT + 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """What the core stacked when it took the exception: where the program was."""

    pc: int
    lr: int
    xpsr: int

    @classmethod
    def of(cls, words: list[int]) -> Self | None:
        """The frame in these `FRAME_WORDS` words, or None if they cannot be one."""
        lr, pc, xpsr = words[5:FRAME_WORDS]
        # A stacked pc is even, and xPSR[23:20] reads as zero: else this is not a frame.
        if xpsr & _RESERVED_XPSR or pc & 1:
            return None
        return cls(pc, lr, xpsr)


def frame_stack(xpsr: int, lr: int) -> str | None:
    """The stack pointer that the frame lies at, "msp" or "psp", if we stand in a fault handler.

    `lr` says so as long as the handler has not called anything: at a vector catch, always.
    """
    if xpsr & 0x1FF not in _FAULT_HANDLERS or lr & 0xFFFFFFE0 != 0xFFFFFFE0:
        return None
    return "psp" if lr & 4 else "msp"


@dataclass(frozen=True, slots=True)
class FaultStatus:
    """The registers that tell of a fault.  The address registers count only where valid."""

    cfsr: int = 0
    hfsr: int = 0
    mmfar: int = 0
    bfar: int = 0
    frame: Frame | None = None
    sp: int | None = None
    """Where a stack that could not be used was thought to be."""
    locked_up: bool = False


def describe(status: FaultStatus) -> str | None:
    """One sentence, or None when the registers tell of no fault."""
    causes = list(_causes(status))
    if not causes and not status.locked_up:
        return None
    sentence = "; ".join(causes) or "no status says why"
    if status.hfsr & Hfsr.FORCED:
        sentence += "; escalated to a hard fault"
    if status.sp is not None:
        sentence += f"; sp is {status.sp:#010x}"
        if status.sp >= _BLANK:
            sentence += ", from the blank flash at the last reset: monitor reset halt sets it"
    if status.locked_up:
        sentence = f"the core locked up, faulting in a fault handler: {sentence}"
    if status.frame and status.frame.lr & 0xFFFFFFE0 != 0xFFFFFFE0:
        sentence += f"; called from {status.frame.lr & ~1:#010x}"
    return sentence


def signal(status: FaultStatus) -> int:
    """The signal that a Unix program would get for this."""
    cfsr = Cfsr(status.cfsr)
    if cfsr & Cfsr.DIVBYZERO:
        return SIGFPE
    if cfsr & (_BUS & ~Cfsr.BFARVALID | Cfsr.UNALIGNED):
        return SIGBUS
    if cfsr & (Cfsr.UNDEFINSTR | Cfsr.INVSTATE | Cfsr.INVPC | Cfsr.NOCP):
        return SIGILL
    return SIGSEGV


_CATCHES: Final = (
    (ExceptionNumber.HARD_FAULT, 0, Demcr.VC_HARDERR),
    (ExceptionNumber.MEM_MANAGE, 0, Demcr.VC_MMERR),
    (ExceptionNumber.BUS_FAULT, 0, Demcr.VC_BUSERR),
    (ExceptionNumber.USAGE_FAULT, Cfsr.NOCP, Demcr.VC_NOCPERR),
    (ExceptionNumber.USAGE_FAULT, Cfsr.UNALIGNED | Cfsr.DIVBYZERO, Demcr.VC_CHKERR),
    (
        ExceptionNumber.USAGE_FAULT,
        Cfsr.UNDEFINSTR | Cfsr.INVSTATE | Cfsr.INVPC,
        Demcr.VC_STATERR,
    ),
)
STACKING: Final = (
    Cfsr.MUNSTKERR | Cfsr.MSTKERR | Cfsr.MLSPERR | Cfsr.UNSTKERR | Cfsr.STKERR | Cfsr.LSPERR
)


def catches(xpsr: int, cfsr: int) -> Demcr:
    """The bits of DEMCR of which any has the core stop at this fault.

    Armv7-M ARM, "Vector catch support".
    """
    found = Demcr.VC_INTERR if cfsr & STACKING else Demcr(0)
    for number, causes, catch in _CATCHES:
        if xpsr & 0x1FF == number and (not causes or cfsr & causes):
            found |= catch
    return found


def _causes(status: FaultStatus) -> list[str]:
    cfsr, hfsr = status.cfsr, status.hfsr
    at = f"at {status.frame.pc:#010x}" if status.frame else "somewhere"
    mpu = f"{status.mmfar:#010x}" if cfsr & Cfsr.MMARVALID else "an address that was not kept"
    bus = f"{status.bfar:#010x}" if cfsr & Cfsr.BFARVALID else "an address that was not kept"
    sentences = (
        (Cfsr.IACCVIOL, f"memory management fault: code {at} must not be executed"),
        (Cfsr.DACCVIOL, f"memory management fault: the instruction {at} must not access {mpu}"),
        (Cfsr.MUNSTKERR, "memory management fault: the MPU forbids the stack on exception return"),
        (Cfsr.MSTKERR, "memory management fault: the MPU forbids the stack on exception entry"),
        (Cfsr.MLSPERR, "memory management fault: the MPU forbids where FPU registers are saved"),
        (Cfsr.IBUSERR, f"bus fault: no instruction could be fetched {at}"),
        (Cfsr.PRECISERR, f"bus fault: the instruction {at} accessed {bus}"),
        (Cfsr.IMPRECISERR, f"bus fault: a buffered write failed, some time before code {at}"),
        (Cfsr.UNSTKERR, "bus fault: the stack could not be read on exception return"),
        (Cfsr.STKERR, "bus fault: the stack could not be written on exception entry"),
        (Cfsr.LSPERR, "bus fault: the FPU registers could not be saved on the stack"),
        (Cfsr.UNDEFINSTR, f"usage fault: undefined instruction {at}"),
        (Cfsr.INVSTATE, f"usage fault: a jump to an even address, or a bad EPSR, {at}"),
        (Cfsr.INVPC, f"usage fault: invalid return from an exception {at}"),
        (Cfsr.NOCP, f"usage fault: the FPU is off for the floating-point instruction {at}"),
        (Cfsr.UNALIGNED, f"usage fault: unaligned access by the instruction {at}"),
        (Cfsr.DIVBYZERO, f"usage fault: division by zero {at}"),
    )
    causes = [sentence for bit, sentence in sentences if cfsr & bit]
    if hfsr & Hfsr.VECTTBL:
        causes.append("hard fault: a vector could not be read; does VTOR point to a vector table?")
    if hfsr & Hfsr.DEBUGEVT:
        causes.append(f"hard fault: a breakpoint instruction {at} with debugging disabled")
    return causes


def is_lockup(pc: int, xpsr: int, status: FaultStatus) -> bool:
    """A locked-up core stands at 0xFFFFFFFE, and stays there when it is halted.

    So does one that was stopped at the reset vector of blank flash, 0xFFFFFFFF; but that one
    is in no exception, and nothing has failed yet.
    """
    failed = bool(xpsr & 0x1FF or status.cfsr or status.hfsr)
    return pc & ~1 == LOCKUP_PC & ~1 and failed
