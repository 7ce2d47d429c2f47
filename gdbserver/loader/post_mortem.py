"""Where a loader crashed, or spins: the core stands there, and its registers and stack tell.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "Exception entry behavior", "Stack alignment on
exception entry", "Exception return behavior"; what else the chip knows is `diagnosis`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gdbserver.chip import cortex_m as cm
from gdbserver.errors import LoaderBroken, LoaderFault, LoaderTimeout, MemoryFault
from gdbserver.loader.diagnosis import inherited
from gdbserver.loader.file import Image
from gdbserver.loader.nor_survey import describe_quadspi
from gdbserver.loader.resident import HELPERS, Call, Layout
from gdbserver.target.target import Target

_FAULTS = range(cm.ExceptionNumber.HARD_FAULT, cm.ExceptionNumber.USAGE_FAULT + 1)
_EXC_RETURN = 0xFFFFFFE0
_BASIC_FRAME = 1 << 4  # EXC_RETURN: without FPU registers
_FRAME, _FRAME_WITH_FPU = 32, 104
_XPSR_RESERVED = 0x00F00000
_SEMIHOSTING = 0xAB
_SLEEPERS = (b"\x30\xbf", b"\x20\xbf")  # WFI, WFE


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the core pushes when it takes an exception."""

    r0: int
    r1: int
    r2: int
    r3: int
    r12: int
    lr: int
    pc: int
    xpsr: int

    @property
    def exception(self) -> int:
        """The exception that was interrupted; 0 for none."""
        return self.xpsr & 0x1FF


class PostMortem:
    """What can be said of a call of `image` that failed, beside what lies as `layout` says."""

    def __init__(self, target: Target, image: Image, layout: Layout) -> None:
        self._target = target
        self._image = image
        self._layout = layout

    def crash(self, call: Call, *, overflowed: bool) -> LoaderFault | LoaderBroken:
        """The core has halted where it should not: say where, and on what.

        `overflowed`: the foot of its stack is not as it was.
        """
        registers = self._target.read_registers(["sp", "pc", "lr", "xpsr", "primask"])
        pc, lr, exception = registers["pc"], registers["lr"], registers["xpsr"] & 0x1FF
        fault = self._target.describe_fault() or self._unflagged()
        if pc == self._layout.stray and exception not in _FAULTS:
            fault = f"{_exception(exception)} came, and the loader has no handler for it"
        if overflowed:
            fault = f"it needs more than {len(self._layout.stack)} bytes of stack: {fault}"
        if call.routine in HELPERS:
            return LoaderBroken(
                self._image.path,
                f"has left nothing to read at {call.arguments[0]:#010x}: {fault}",
                hint="it neither maps the device in Init nor has a routine Read",
            )
        live = tuple(inherited(self._target, primask=registers["primask"]))
        frames = list(self._frames(registers["sp"], lr))
        error = LoaderFault(self._image.path, str(call), self._where(pc, lr, frames), fault)
        if any(line.startswith("VTOR") for line in live):
            error.hint = (
                "an interrupt that an earlier program or loader left behind went through a "
                "vector table that is no more"
            )
        error.details = (
            *(f"stacked: {self._told(frame)}" for frame in frames),
            *live,
            describe_quadspi(self._target),
        )
        return error

    def timeout(self, call: Call) -> LoaderTimeout:
        """A call took too long, and the core was halted: say where it spins."""
        registers = self._target.read_registers(["sp", "pc", "lr", "xpsr", "primask"])
        csr = self._target.read_word(cm.SYST_CSR)
        pc, exception = registers["pc"], registers["xpsr"] & 0x1FF
        notes = [f"SysTick is {'running' if csr & 1 else 'stopped'}"]
        # A core that is halted while it sleeps stands behind the instruction that sent it there.
        asleep = self._target.read_memory(pc - 2, 2) in _SLEEPERS
        if asleep:
            notes.append("the core sleeps (WFI or WFE)")
        if registers["primask"]:
            notes.append("interrupts are masked (PRIMASK = 1)")
        if exception:
            notes.append(f"in {_exception(exception)}")
        frames = list(self._frames(registers["sp"], registers["lr"]))
        where = self._where(pc, registers["lr"], [] if pc in self._layout.block else frames)
        error = LoaderTimeout(self._image.path, str(call), call.timeout, where, "; ".join(notes))
        error.details = (
            *(f"stacked: {self._told(frame)}" for frame in frames),
            *inherited(self._target, primask=registers["primask"]),
            describe_quadspi(self._target),
        )
        if asleep:
            error.hint = "nothing wakes it: no interrupt is enabled that will come"
        elif not csr & 1 or registers["primask"]:
            error.hint = "if it waits for a tick to be counted (HAL_Delay), it waits for ever: " + (
                "SysTick does not run" if not csr & 1 else "PRIMASK keeps its interrupt out"
            )
        return error

    def _unflagged(self) -> str:
        """Why the core halted, where it was no fault."""
        number = self._target.own_bkpt()
        if number == _SEMIHOSTING:
            return "it asks for semihosting (BKPT 0xab), as printf does, and nobody is there"
        if number is not None:
            return f"a BKPT instruction of its own ({number:#04x})"
        return "the core halted, though no fault is flagged"

    def _where(self, pc: int, lr: int, frames: Sequence[_Frame]) -> str:
        """Where it happened: what was stacked first if the core stands in a handler."""
        if frames:
            innermost, *outer = frames
            if innermost.exception and outer:
                handler = f"{self._address(innermost.pc)} in {_exception(innermost.exception)}"
                return f"{handler}, which interrupted {self._place(outer[0].pc)}"
            pc, lr = innermost.pc, innermost.lr
        elif pc & ~1 == cm.LOCKUP_PC & ~1:
            return f"a place that was not kept, called from {self._place(lr)}"
        return f"{self._address(pc)}, called from {self._place(lr)}"

    def _frames(self, sp: int, lr: int) -> Iterator[_Frame]:
        """What exception entry has pushed, innermost first."""
        while lr & _EXC_RETURN == _EXC_RETURN:
            try:
                words = self._target.read_words(sp & ~3, 8)
            except MemoryFault:
                return  # the stack may be the very trouble
            frame = _Frame(*words)
            if frame.xpsr & _XPSR_RESERVED or frame.pc & 1:
                return
            yield frame
            if not frame.exception:
                return
            sp += _FRAME if lr & _BASIC_FRAME else _FRAME_WITH_FPU
            sp += 4 if frame.xpsr & 1 << 9 else 0
            lr = frame.lr

    def _told(self, frame: _Frame) -> str:
        where = self._address(frame.pc)
        if frame.exception:
            where += f" in {_exception(frame.exception)}"
        return (
            f"pc {where}, lr {frame.lr:#010x}, r0 {frame.r0:#010x} r1 {frame.r1:#010x} "
            f"r2 {frame.r2:#010x} r3 {frame.r3:#010x} r12 {frame.r12:#010x} xpsr {frame.xpsr:#010x}"
        )

    def _address(self, address: int) -> str:
        """Routine, offset and address; the address alone where there is no routine."""
        place, number = self._place(address), f"{address & ~1:#010x}"
        return place if place == number else f"{place} ({number})"

    def _place(self, address: int) -> str:
        if address & ~1 in self._layout.block:
            return "the call queue"
        return self._image.place(address & ~1)


def _exception(number: int) -> str:
    if number >= 16:
        return f"interrupt {number - 16}"
    try:
        return f"exception {cm.ExceptionNumber(number).name}"
    except ValueError:
        return f"exception {number}"
