"""The core's registers inside Unicorn, readable and writable whatever mode the guest is in.

Unicorn applies the guest's own rules to its host: from unprivileged thread mode MSP, PSP,
PRIMASK, BASEPRI and FAULTMASK read as zero and ignore writes, and CONTROL.SPSEL changes only
in thread mode.  A write of IPSR moves the guest between thread and handler mode, stack
pointer bank included, so the special registers are reached through a moment in handler mode.
"""

from __future__ import annotations

from typing import Any

from unicorn import arm_const as arm

CONTROL_NPRIV = 1 << 0
CONTROL_SPSEL = 1 << 1
CONTROL_FPCA = 1 << 2

IPSR = 0x1FF
XPSR_IT = 0x0600FC00
XPSR_T = 1 << 24

_GENERAL = [getattr(arm, f"UC_ARM_REG_R{n}") for n in range(13)] + [
    arm.UC_ARM_REG_SP,
    arm.UC_ARM_REG_LR,
]
_SINGLE = [getattr(arm, f"UC_ARM_REG_S{n}") for n in range(32)]
_CALLER_SAVED = (*_GENERAL[:4], _GENERAL[12], _GENERAL[14])


class CoreRegisters:
    """All but the PC, which is the core's own: Unicorn is told where to start each time."""

    def __init__(self, unicorn: Any) -> None:
        self._uc = unicorn

    def general(self, number: int) -> int:
        """r0 to r12, sp (of the current bank) as 13, lr as 14."""
        return int(self._uc.reg_read(_GENERAL[number]))

    def set_general(self, number: int, value: int) -> None:
        self._uc.reg_write(_GENERAL[number], value & (0xFFFFFFFC if number == 13 else 0xFFFFFFFF))

    def caller_saved(self) -> list[int]:
        """r0-r3, r12 and lr: what an exception frame begins with."""
        return [int(self._uc.reg_read(register)) for register in _CALLER_SAVED]

    def set_caller_saved(self, values: list[int]) -> None:
        for register, value in zip(_CALLER_SAVED, values, strict=True):
            self._uc.reg_write(register, value)

    @property
    def xpsr(self) -> int:
        return int(self._uc.reg_read(arm.UC_ARM_REG_XPSR))

    @xpsr.setter
    def xpsr(self, value: int) -> None:
        self._uc.reg_write(arm.UC_ARM_REG_XPSR, value)

    @property
    def ipsr(self) -> int:
        return self.xpsr & IPSR

    @property
    def control(self) -> int:
        return int(self._uc.reg_read(arm.UC_ARM_REG_CONTROL)) & 7

    @control.setter
    def control(self, value: int) -> None:
        """Set nPRIV, SPSEL and FPCA.  In handler mode SPSEL does not change: MSP is in use."""
        xpsr = self.xpsr
        self.xpsr = xpsr & ~IPSR | 3
        self._uc.reg_write(arm.UC_ARM_REG_CONTROL, value & CONTROL_FPCA)
        self.xpsr = xpsr & ~IPSR
        if not xpsr & IPSR:
            self._uc.reg_write(arm.UC_ARM_REG_CONTROL, value)
        else:
            # Entered by an exception: the manual clears SPSEL, Unicorn's copy of it too.
            self._uc.reg_write(arm.UC_ARM_REG_CONTROL, value & ~CONTROL_SPSEL)
            self.xpsr = xpsr

    def special(self, register: int) -> int:
        """MSP, PSP, PRIMASK, BASEPRI or FAULTMASK by Unicorn's number."""
        xpsr = self.xpsr
        if xpsr & IPSR or not self.control & CONTROL_NPRIV:
            return int(self._uc.reg_read(register))
        self.xpsr = xpsr | 3
        value = int(self._uc.reg_read(register))
        self.xpsr = xpsr
        return value

    def set_special(self, register: int, value: int) -> None:
        xpsr = self.xpsr
        if xpsr & IPSR or not self.control & CONTROL_NPRIV:
            self._uc.reg_write(register, value)
            return
        self.xpsr = xpsr | 3
        self._uc.reg_write(register, value)
        self.xpsr = xpsr

    @property
    def masks(self) -> tuple[int, int, int]:
        """PRIMASK, BASEPRI and FAULTMASK."""
        return (
            self.special(arm.UC_ARM_REG_PRIMASK) & 1,
            self.special(arm.UC_ARM_REG_BASEPRI) & 0xFF,
            self.special(arm.UC_ARM_REG_FAULTMASK) & 1,
        )

    @masks.setter
    def masks(self, values: tuple[int, int, int]) -> None:
        primask, basepri, faultmask = values
        self.set_special(arm.UC_ARM_REG_PRIMASK, primask & 1)
        self.set_special(arm.UC_ARM_REG_BASEPRI, basepri & 0xF0)
        self.set_special(arm.UC_ARM_REG_FAULTMASK, faultmask & 1)

    @property
    def msp(self) -> int:
        return self.special(arm.UC_ARM_REG_MSP)

    @msp.setter
    def msp(self, value: int) -> None:
        self.set_special(arm.UC_ARM_REG_MSP, value & 0xFFFFFFFC)

    @property
    def psp(self) -> int:
        return self.special(arm.UC_ARM_REG_PSP)

    @psp.setter
    def psp(self, value: int) -> None:
        self.set_special(arm.UC_ARM_REG_PSP, value & 0xFFFFFFFC)

    @property
    def fpscr(self) -> int:
        return int(self._uc.reg_read(arm.UC_ARM_REG_FPSCR))

    @fpscr.setter
    def fpscr(self, value: int) -> None:
        self._uc.reg_write(arm.UC_ARM_REG_FPSCR, value & 0xF7C0009F)

    def single(self, number: int) -> int:
        return int(self._uc.reg_read(_SINGLE[number]))

    def set_single(self, number: int, value: int) -> None:
        self._uc.reg_write(_SINGLE[number], value)
