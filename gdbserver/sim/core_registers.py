"""The core's registers inside Unicorn, readable and writable whatever mode the guest is in.

Unicorn applies the guest's own rules to its host: from unprivileged thread mode MSP, PSP,
PRIMASK, BASEPRI and FAULTMASK read as zero and ignore writes, and CONTROL.SPSEL changes only
in thread mode.  A write of IPSR moves the guest between thread and handler mode, stack
pointer bank included, so the special registers are reached through a moment in handler mode.
"""

from __future__ import annotations

from typing import Any

from unicorn import arm_const as arm

from gdbserver.sim.unicorn_calls import RegisterAccess, RegisterPair

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
_MASKS = (arm.UC_ARM_REG_PRIMASK, arm.UC_ARM_REG_BASEPRI, arm.UC_ARM_REG_FAULTMASK)
# Writing one of these may change what the others read.
_BANKING = (
    arm.UC_ARM_REG_XPSR,
    arm.UC_ARM_REG_CONTROL,
    arm.UC_ARM_REG_SP,
    arm.UC_ARM_REG_MSP,
    arm.UC_ARM_REG_PSP,
)
_CALLER_SAVED = (*_GENERAL[:4], _GENERAL[12], _GENERAL[14])


class CoreRegisters:
    """All but the PC, which is the core's own: Unicorn is told where to start each time.

    Asking Unicorn takes longer than anything else that an exception does, so what was read
    is kept as long as the guest stands still.
    """

    def __init__(self, unicorn: Any) -> None:
        self._unicorn = RegisterAccess(unicorn)
        self._place = RegisterPair(unicorn, arm.UC_ARM_REG_PC, arm.UC_ARM_REG_LR)
        self._known: dict[int, int] = {}
        self._live = False

    def live(self, live: bool) -> None:
        """The guest runs, and changes registers behind our back; or it stands still again."""
        self._live = live
        self._known.clear()

    def _read(self, register: int) -> int:
        value = self._known.get(register)
        if value is None:
            value = self._unicorn.read(register)
            if not self._live:
                self._known[register] = value
        return value

    def _write(self, register: int, value: int) -> None:
        self._unicorn.write(register, value)
        if register in _BANKING:
            for related in _BANKING:
                self._known.pop(related, None)
        else:
            self._known.pop(register, None)

    def unicorn_pc(self) -> int:
        """Where Unicorn has stopped."""
        return self._unicorn.read(arm.UC_ARM_REG_PC)

    def unicorn_place(self) -> int:
        """Which instruction Unicorn is at, and where its function will return to, in one number."""
        pc, link = self._place.read()
        return pc << 32 | link

    def general(self, number: int) -> int:
        """r0 to r12, sp (of the current bank) as 13, lr as 14."""
        return self._read(_GENERAL[number])

    def set_general(self, number: int, value: int) -> None:
        self._write(_GENERAL[number], value & (0xFFFFFFFC if number == 13 else 0xFFFFFFFF))

    def caller_saved(self) -> list[int]:
        """r0-r3, r12 and lr: what an exception frame begins with."""
        return [self._read(register) for register in _CALLER_SAVED]

    def set_caller_saved(self, values: list[int]) -> None:
        for register, value in zip(_CALLER_SAVED, values, strict=True):
            self._write(register, value)

    @property
    def xpsr(self) -> int:
        return self._read(arm.UC_ARM_REG_XPSR)

    @xpsr.setter
    def xpsr(self, value: int) -> None:
        self._write(arm.UC_ARM_REG_XPSR, value)

    @property
    def ipsr(self) -> int:
        return self.xpsr & IPSR

    @property
    def control(self) -> int:
        return self._read(arm.UC_ARM_REG_CONTROL) & 7

    @control.setter
    def control(self, value: int) -> None:
        """Set nPRIV, SPSEL and FPCA.  SPSEL takes effect in thread mode."""
        if value == self.control:
            return
        xpsr = self.xpsr
        # Handler mode may drop nPRIV; then thread mode may set all three.
        self.xpsr = xpsr & ~IPSR | 3
        self._write(arm.UC_ARM_REG_CONTROL, 0)
        self.xpsr = xpsr & ~IPSR
        self._write(arm.UC_ARM_REG_CONTROL, value)
        if xpsr & IPSR:
            self.xpsr = xpsr

    def _special(self, *registers: int) -> list[int]:
        """Registers that Unicorn shows to privileged guests only."""
        if self.xpsr & IPSR or not self.control & CONTROL_NPRIV:
            return [self._read(register) for register in registers]
        xpsr = self.xpsr
        self.xpsr = xpsr | 3
        values = [self._read(register) for register in registers]
        self.xpsr = xpsr
        return values

    def _set_special(self, values: dict[int, int]) -> None:
        xpsr = self.xpsr
        hidden = not xpsr & IPSR and self.control & CONTROL_NPRIV
        if hidden:
            self.xpsr = xpsr | 3
        for register, value in values.items():
            self._write(register, value)
        if hidden:
            self.xpsr = xpsr

    @property
    def masks(self) -> tuple[int, int, int]:
        """PRIMASK, BASEPRI and FAULTMASK."""
        primask, basepri, faultmask = self._special(*_MASKS)
        return primask & 1, basepri & 0xFF, faultmask & 1

    @masks.setter
    def masks(self, values: tuple[int, int, int]) -> None:
        primask, basepri, faultmask = values
        wanted = (primask & 1, basepri & 0xF0, faultmask & 1)
        self._set_special(dict(zip(_MASKS, wanted, strict=True)))

    @property
    def msp(self) -> int:
        return self._special(arm.UC_ARM_REG_MSP)[0]

    @msp.setter
    def msp(self, value: int) -> None:
        self._set_special({arm.UC_ARM_REG_MSP: value & 0xFFFFFFFC})

    @property
    def psp(self) -> int:
        return self._special(arm.UC_ARM_REG_PSP)[0]

    @psp.setter
    def psp(self, value: int) -> None:
        self._set_special({arm.UC_ARM_REG_PSP: value & 0xFFFFFFFC})

    @property
    def fpscr(self) -> int:
        return self._read(arm.UC_ARM_REG_FPSCR)

    @fpscr.setter
    def fpscr(self, value: int) -> None:
        self._write(arm.UC_ARM_REG_FPSCR, value & 0xF7C0009F)

    def single(self, number: int) -> int:
        return self._read(_SINGLE[number])

    def set_single(self, number: int, value: int) -> None:
        self._write(_SINGLE[number], value)
