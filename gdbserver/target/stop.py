"""Why the core stopped, as GDB is told: read from the hardware, wherever that knows.

Two registers know.  DFSR has a bit per cause (Armv7-M ARM, DDI 0403E.e, "Debug Fault Status
Register"); DWT_FUNCTIONn.MATCHED says which watchpoint it was.  What is remembered is only
what *we* asked for, because DFSR.HALTED is set alike by a halt request and by a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SIGINT, SIGILL, SIGTRAP, SIGFPE, SIGKILL, SIGBUS, SIGSEGV, SIGLOST = 2, 4, 5, 8, 9, 10, 11, 29
"""Signals by GDB's own numbers, which are those of no particular system."""

StopKind = Literal[
    "hwbreak",  # an FPB comparator matched a Z1 breakpoint
    "swbreak",  # a Z0 breakpoint, patched or not, or a BKPT of the program's own
    "watch",  # written
    "rwatch",  # read
    "awatch",  # accessed
    "halted",  # because the client asked, or a debugger before us
    "step",
    "fault",  # vector catch
    "lockup",
    "misplaced",  # at a handler's start, for a breakpoint at what that has interrupted
    "reset",  # caught at the reset vector
    "exited",  # the program has said so, by semihosting
    "aborted",  # the same, with a reason that is no end of a program in good order
    "lost",  # no stop: the core is out of sight, for so long that nobody knows what it does
]


@dataclass(frozen=True, slots=True)
class StopReason:
    """One stop.

    `address` is where the watched data lies, and None for every other kind; `exit_status` is that
    of a program that has exited or aborted.
    """

    signal: int
    kind: StopKind
    detail: str
    address: int | None = None
    exit_status: int | None = None
