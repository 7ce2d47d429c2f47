"""Every error that a user can meet, in one catalogue.

A message has three parts, and each has its place: `str(error)` says *what* failed and
*where*, in the words of the GDB or chip manual; ``__cause__`` says *why*, where a lower
layer knows; `hint` says what the reader can do.  `code` is all that a GDB gets to see which
did not offer ``error-message+``.

Anything raised that is not a `GdbServerError` is a bug in this program, and is never caught
to keep going.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from gdbserver.chip.memory import FlashRegion, Kind, Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    DTCM,
    FMC_BANKS,
    FMC_SDRAM,
    ITCM,
    QSPI_WINDOW,
    SRAM4,
    memory_map,
)

_CHIP = memory_map(())


class GdbServerError(Exception):
    """Root of everything that is raised on purpose."""

    code: ClassVar[int] = errno.EIO
    exit_status: int = 1
    details: tuple[str, ...] = ()
    """What else was seen, for those who have to find the cause: a line each."""

    def __init__(self, sentence: str, *, hint: str | None = None) -> None:
        super().__init__(sentence)
        self.hint = hint


def explain(error: BaseException) -> Iterator[str]:
    """The whole story, a line each: what failed, what was seen, each cause, and what to do."""
    yield str(error)
    if isinstance(error, GdbServerError):
        yield from error.details
    cause = error.__cause__
    while cause is not None:
        yield f"because: {cause}"
        cause = cause.__cause__
    if isinstance(error, GdbServerError) and error.hint:
        yield f"hint: {error.hint}"


# --- The command line -------------------------------------------------------------------------


class UsageError(GdbServerError):
    """The command line asks for something that cannot be."""

    exit_status = 2


class BadImage(UsageError):
    """A file that cannot be programmed, whatever the target: refused before it is touched."""

    def __init__(self, path: Path, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path.name or path} {problem}", hint=hint)


class NobodyListens(GdbServerError):
    """What a program prints can go nowhere any more."""

    def __init__(self) -> None:
        super().__init__("standard output was closed while the program ran")


# --- The protocol -----------------------------------------------------------------------------


class ProtocolError(GdbServerError):
    """The client broke the framing rules; the connection cannot go on."""


class BadRequest(GdbServerError):
    """A client asks for something that there is not, or with values that cannot be."""

    code = errno.EINVAL


class NotInControl(GdbServerError):
    """A second client wants what only the first may do."""

    code = errno.EPERM

    def __init__(self, holder: str) -> None:
        super().__init__(f"the client at {holder} controls the core; this one may only read")
        self.hint = "disconnect the other client, then ask again"


class ThreadNotOnCore(GdbServerError):
    """One thread of an RTOS is to be stepped or changed while another one is on the core."""

    code = errno.EBUSY

    def __init__(self, thread: int, current: int) -> None:
        super().__init__(
            f"thread {thread} is not on the core, so it cannot be stepped or changed; "
            f"thread {current} is"
        )
        self.thread = thread
        self.hint = "set a breakpoint where the thread goes on (its frame 0), and continue"


class NoProgram(GdbServerError):
    """GDB is to load into a program that it has killed, left or lost."""

    code = errno.ESRCH

    def __init__(self) -> None:
        super().__init__(
            "GDB has killed, left or lost its program, and crashes at the end of a load"
        )
        self.hint = "attach 1, then load again"


class FlashBusy(GdbServerError):
    """Flash is being changed for one client while another one wants to read it."""

    code = errno.EBUSY

    def __init__(self, job: str) -> None:
        super().__init__(f"flash cannot be read during {job}")


class StillBusy(GdbServerError):
    """A device cannot be stopped in what its client, who has left or sent Ctrl-C, wanted of it."""

    code = errno.EBUSY

    def __init__(self) -> None:
        super().__init__(
            "flash is still at work on what its client no longer wants, and cannot be stopped in it"
        )
        self.hint = "try again in a while: to erase a whole NOR takes minutes"


class Interrupted(GdbServerError):
    """Ctrl-C came in the middle of a long job that its client waits for."""

    def __init__(self, how_far: str = "what was done stays done") -> None:
        super().__init__(f"interrupted; {how_far}")


class ClientLeft(GdbServerError):
    """The client for whom a long job was done is gone, so the job was ended."""

    def __init__(self) -> None:
        super().__init__("the client disconnected in the middle; what was done stays done")


class CannotListen(GdbServerError):
    """The address or port that clients shall connect to cannot be had."""

    def __init__(self, host: str, port: int | None, reason: OSError) -> None:
        where = host if port is None else f"{host} port {port}"
        super().__init__(f"cannot listen on {where}: {reason.strerror}")
        if reason.errno == errno.EADDRINUSE:
            self.hint = (
                "another server, perhaps an IDE's, has this port: stop it or choose a --port"
            )
        elif reason.errno == errno.EADDRNOTAVAIL or isinstance(reason, socket.gaierror):
            self.hint = "an address of this machine: localhost, or 0.0.0.0 for all that it has"
        elif reason.errno == errno.EACCES and port is not None:
            self.hint = "ports below 1024 are for root: choose another --port"


# --- The probe and the core -----------------------------------------------------------------------


class ProbeError(GdbServerError):
    """The debug adapter, or the wire to the chip, does not do what it should."""


class NoSuchProbe(ProbeError):
    """The one that was asked for is not among those that are connected."""


class TargetError(GdbServerError):
    """The chip answers, but not with what was asked for."""


class HeldInReset(TargetError):
    """NRST is low, and it is not we who pull it."""

    code = errno.EAGAIN

    def __init__(self) -> None:
        super().__init__(
            "the chip is held in reset",
            hint="NRST is low: the reset button, another probe, or a part on the board pulls it",
        )


class AccessRefused(TargetError):
    """An access ended in a bus error."""

    code = errno.EFAULT


class AccessStalled(TargetError):
    """A slave kept an access waiting for longer than the probe puts up with."""

    code = errno.ETIMEDOUT


class MdmaFailed(TargetError):
    """The MDMA did not do what the host had set it up for."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the MDMA {what}")
        self.hint = "reset the chip first (monitor reset halt)"


class MemoryFault(TargetError):
    """The bus refused an access: nothing is mapped there, or it has no clock.

    `readable` is what a read found before the word that was refused.
    """

    code = errno.EFAULT

    def __init__(self, access: Literal["read", "write"], span: Span, readable: bytes = b"") -> None:
        super().__init__(f"cannot {access} memory at {span}")
        self.hint = _why_refused(span.start)
        self.access = access
        self.span = span
        self.readable = readable

    def again(self, span: Span | None = None) -> MemoryFault:
        """The same failure, for one more who asks: of `span`, or of the same."""
        fault = MemoryFault(self.access, span or self.span, self.readable)
        fault.hint = self.hint
        fault.__cause__ = self.__cause__
        return fault


def _why_refused(address: int) -> str | None:
    region = _CHIP.region_at(address)
    if region is None:
        return "this chip has nothing there"
    if region.span in (FMC_BANKS, FMC_SDRAM):
        return "memory at the FMC answers once the program has set the FMC up"
    if address in QSPI_WINDOW:
        return "the NOR is mapped there by the program, or by: monitor reset init"
    if region.volatile:
        return "a reserved address, or a peripheral whose clock (RCC) or power is off"
    if region.span in (ITCM, DTCM, AXI_SRAM, SRAM4):
        return "this RAM always answers, but not while the chip is held in reset"
    if region.kind is Kind.RAM:
        return "this RAM answers once the program has switched its clock on (RCC)"
    return None


class StreamStalled(TargetError):
    """The probe gave up on a slave that kept it waiting; the link is usable again.

    `written` bytes are known to have been accepted, from the start of the data.
    """

    def __init__(self, span: Span, written: int) -> None:
        super().__init__(f"the probe gave up waiting at {span.start + written:#010x} in {span}")
        self.written = written


class ChipLocked(TargetError):
    """Read protection keeps the debugger out."""

    code = errno.EPERM

    def __init__(self, level: int) -> None:
        if level == 1:
            super().__init__("the chip is read-protected (RDP level 1): its flash is out of reach")
            self.hint = (
                "set RDP back to level 0 (0xAA) with ST's programmer; that erases the whole flash"
            )
        else:
            super().__init__("the chip does not let a debugger in (RDP level 2, or debug disabled)")
            self.hint = "RDP level 2 is for ever; a chip at level 0 or 1 answers under reset"


class BreakpointError(TargetError):
    """A breakpoint or watchpoint that the hardware cannot give."""

    code = errno.ENOSPC


class ExpressionError(GdbServerError):
    """A condition or command of a breakpoint that cannot be evaluated; `at` is the byte."""

    def __init__(self, why: str, at: int) -> None:
        super().__init__(f"the breakpoint's expression cannot be evaluated: {why} (byte {at})")
        self.hint = "in GDB: set breakpoint condition-evaluation host"


# --- Flash ---


class FlashError(GdbServerError):
    """Flash cannot be, or was not, programmed as asked."""


class OutsideFlash(FlashError):
    """A download touches addresses that no flash device has."""

    def __init__(
        self, span: Span, regions: Sequence[FlashRegion], *, past: FlashRegion | None = None
    ) -> None:
        where = f"is past the end of {past}" if past else "is not in flash"
        super().__init__(f"{span} {where}")
        self.hint = "flash is at " + (", ".join(str(region) for region in regions) or "no address")
        if past is None:
            self.hint = meant_instead(span, [region.span for region in regions]) + self.hint


def meant_instead(span: Span, flash: Sequence[Span]) -> str:
    """What to do about an address that is in none of `flash`; ends where a list of it begins."""
    region = _CHIP.region_at(span.start)
    if span.start in QSPI_WINDOW and not any(len(QSPI_WINDOW & place) for place in flash):
        return "external flash needs its loader: give it with --extload; "
    if span.start >> 24 == 0x09:
        return "the QSPI window is at 0x90000000, not 0x09000000; "
    if span.start in ITCM:
        return "that is ITCM: has the linker got its script (-T)? "
    if region is not None and region.kind is Kind.RAM and not region.volatile:
        return (
            f"that is {region.name}: is `AT> FLASH` missing in the linker script, or is this for "
            "GDB's load? "
        )
    return ""


class LoaderRejected(FlashError):
    """An external loader file that cannot work: refused before the target is touched."""

    exit_status = 2

    def __init__(self, path: Path, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"loader {path.name} {why}", hint=hint)


class RoutineFailed(FlashError):
    """A routine of a loader ran, and did not do its work."""

    def __init__(self, sentence: str, call: str) -> None:
        super().__init__(sentence)
        self.routine = call.partition("(")[0]
        self.why = ""
        """What was found out about it afterwards."""
        self.nor_answers = False
        """Whether the NOR does, brought out of any mode in which it would not."""

    def __str__(self) -> str:
        return "; ".join(filter(None, (super().__str__(), self.why)))


class LoaderRefused(RoutineFailed):
    """A routine of a loader returned something else than success."""

    def __init__(self, path: Path, call: str, result: int, good: int) -> None:
        super().__init__(f"loader {path.name}: {call} returned {result:#x} (expected {good})", call)


class LoaderFault(FlashError):
    """A routine of a loader crashed on the target."""

    def __init__(self, path: Path, call: str, where: str, fault: str) -> None:
        super().__init__(f"loader {path.name} crashed in {call} at {where}: {fault}")
        self.hint = "was the loader built for this chip and board?"


class LoaderWrong(FlashError):
    """A loader says that all went well, and the flash shows that it did not."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"loader {path.name}: {what}")


class ChipReset(FlashError):
    """The chip was reset while its flash was being changed."""

    def __init__(self, during: str, cause: str, *, who: str = "") -> None:
        super().__init__(f"{who}the chip was reset during {during}, by {cause}")
        if "watchdog" in cause:
            self.hint = (
                "the loader, or a program that ran before it, has started the watchdog, and "
                "only a reset stops it: try `monitor reset halt` before `load`"
            )
        else:
            self.hint = "load again; if it comes back: who pulls NRST, and is the supply steady?"


class LoaderReset(ChipReset):
    """The same, while a routine of a loader ran."""

    def __init__(self, path: Path, call: str, cause: str) -> None:
        super().__init__(call, cause, who=f"loader {path.name}: ")


class LoaderTimeout(RoutineFailed):
    """A routine of a loader does not return."""

    def __init__(self, path: Path, call: str, timeout: float, where: str, notes: str) -> None:
        super().__init__(
            f"loader {path.name}: {call} has not returned after {timeout:.1f} s; "
            f"it is at {where}; {notes}",
            call,
        )


class LoaderBroken(FlashError):
    """A loader that is in RAM, but not to be trusted."""

    def __init__(self, path: Path, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"loader {path.name} {why}", hint=hint)


class ContentsDiffer(FlashError):
    """`verify` was asked whether flash holds the contents of a file, and it does not."""

    exit_status = 3

    def __init__(self, path: Path, address: int, expected: bytes, found: bytes) -> None:
        super().__init__(
            f"flash does not hold {path.name}: at {address:#010x} "
            f"{expected.hex(' ')} was expected, and {found.hex(' ')} found"
        )
        self.hint = "program it with: stm32-gdbserver flash"


class VerifyError(FlashError):
    """Flash does not hold what was programmed.  `looks` is what the difference looks like."""

    def __init__(
        self,
        region: FlashRegion,
        address: int,
        expected: bytes,
        found: bytes,
        looks: str | None = None,
    ) -> None:
        super().__init__(
            f"{region.name} does not hold what was programmed: at {address:#010x} "
            f"{expected.hex(' ')} was expected, and {found.hex(' ')} found"
        )
        self.hint = looks


# --- A GDB that a program drives ------------------------------------------------------------------


class GdbRefused(GdbServerError):
    """GDB does not do what it was asked for."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(f"GDB refused {command!r}: {message}")


class GdbSilent(GdbServerError):
    """GDB has not said within the time given what was waited for."""
