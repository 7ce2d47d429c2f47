"""The machine being debugged: memory, run control, registers, breakpoints.

Everything here blocks, and nothing here is thread-safe: the server's worker runs one call
at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gdbserver.chip.memory import Span
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.stop import StopReason


class Connect(Enum):
    """What may happen to the running program when we connect."""

    UNDER_RESET = "under-reset"  # restarted through NRST, halted before its first instruction
    HALT = "halt"  # halted where it is
    ATTACH = "attach"  # not disturbed


@dataclass(frozen=True, slots=True)
class ChipInfo:
    """What the chip says about itself."""

    device_id: int
    """DBGMCU_IDCODE.DEV_ID."""
    revision: str
    """The letter of the die's revision, "V" for the current one, or the REV_ID in hex."""
    flash_kib: int
    rdp_level: int
    """Read protection: 0, 1 or 2."""
    swap_bank: bool
    protected_sectors: tuple[Span, ...]
    """Sectors of internal flash that WPSN protects, as addresses, ascending."""
    optsr: int
    """FLASH_OPTSR_CUR as it is."""


class Deadline(Protocol):
    """A time-out that is asked once per look at the target."""

    def expired(self) -> bool: ...


class Target:
    """The chip behind one probe.

    Raises (from every method): ProbeError when the probe or the wire is gone; TargetError
    when the chip answers otherwise than it must.
    """

    probe_name: str
    probe_uid: str
    chip: ChipInfo
    simulated: bool

    @classmethod
    def open(
        cls,
        uid: str | None,
        *,
        connect: Connect = Connect.UNDER_RESET,
        frequency: int | None = None,
    ) -> Target:
        raise NotImplementedError

    def close(self, *, resume: bool = True) -> None:
        """Leave nothing behind: breakpoints out, vector catch off, core released."""
        raise NotImplementedError

    # --- Memory ---------------------------------------------------------------------------

    def read_memory(self, address: int, length: int) -> bytes:
        """Raises: MemoryFault."""
        raise NotImplementedError

    def write_memory(self, address: int, data: bytes) -> None:
        """Raises: MemoryFault."""
        raise NotImplementedError

    def read_word(self, address: int) -> int:
        raise NotImplementedError

    def write_word(self, address: int, value: int) -> None:
        raise NotImplementedError

    def read_words(self, address: int, count: int) -> list[int]:
        raise NotImplementedError

    def write_words(self, address: int, values: Sequence[int]) -> None:
        raise NotImplementedError

    def stream(self, address: int, data: bytes) -> None:
        """Write words into a slave that throttles by WAIT.

        Raises:
            StreamStalled: the probe gave up waiting; `written` says how far it got.
        """
        raise NotImplementedError

    def forget_caches(self) -> None:
        """Flash changed behind the core's caches: drop what they hold, where they are on."""
        raise NotImplementedError

    # --- Run control ------------------------------------------------------------------------

    def is_halted(self) -> bool:
        raise NotImplementedError

    def halt(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def step(self, *, mask_interrupts: bool = True) -> None:
        """Execute one instruction, also when a breakpoint sits on it."""
        raise NotImplementedError

    def reset(self, *, halt: bool) -> None:
        raise NotImplementedError

    def poll_stop(self) -> StopReason | None:
        """Look once: why the core is stopped, or None while it runs or sleeps."""
        raise NotImplementedError

    def read_registers(self, names: Iterable[str]) -> dict[str, int]:
        raise NotImplementedError

    def write_registers(self, values: Mapping[str, int]) -> None:
        raise NotImplementedError

    def saved_core(self) -> AbstractContextManager[None]:
        """Put every core register, DEMCR and the breakpoints back on exit.

        For the time of a loader: breakpoints are out of the hardware inside the block.
        """
        raise NotImplementedError

    def describe_fault(self) -> str | None:
        """One sentence about the fault that the status registers tell of, or None."""
        raise NotImplementedError

    def deadline(self, seconds: float) -> Deadline:
        """A time-out in the target's time; ask `expired` once per poll."""
        raise NotImplementedError

    # --- Breakpoints --------------------------------------------------------------------------

    def set_breakpoint(self, kind: BreakKind, address: int, length: int) -> None:
        """Raises: BreakpointError when the hardware has none left, or cannot watch that."""
        raise NotImplementedError

    def clear_breakpoint(self, kind: BreakKind, address: int, length: int) -> None:
        raise NotImplementedError

    def clear_all_breakpoints(self) -> None:
        raise NotImplementedError
