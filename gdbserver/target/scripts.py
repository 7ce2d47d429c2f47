"""Breakpoints that decide by themselves: conditions, and commands that print and go on.

GDB hands them over with the breakpoint, as agent expressions.  So a breakpoint whose condition
is false, and a `dprintf`, cost no word to the client: the core is stopped, looked at, and goes on.
GDB manual, "Z0 packet": the core stops if a condition is true, or there is none; and where there
are commands, they are carried out instead.

Rule 1: an expression that cannot be evaluated is a stop, and says why.
Rule 2: a software and a hardware breakpoint at one address are two, and each decides for itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from gdbserver.errors import GdbServerError, TargetError
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.expressions import Outcome, evaluate
from gdbserver.target.registers import REGISTERS
from gdbserver.target.stop import StopReason

log = logging.getLogger(__name__)

_NAMES: Final = {register.number: register.name for register in REGISTERS}


@dataclass(frozen=True, slots=True)
class Script:
    """What one breakpoint asks, and does."""

    conditions: tuple[bytes, ...] = ()
    commands: tuple[bytes, ...] = ()


ALWAYS: Final = Script()
"""Stop at each hit."""


class Halted(Protocol):
    """The core as an expression sees it."""

    def read_registers(self, names: list[str], /) -> dict[str, int]: ...
    def view(self, address: int, length: int) -> bytes: ...


class Scripts:
    """Those that are in force, by address and kind of breakpoint."""

    def __init__(self, core: Halted) -> None:
        self._core = core
        self._scripts: dict[int, dict[BreakKind, Script]] = {}
        self._output: list[str] = []

    def set(self, kind: BreakKind, address: int, script: Script) -> None:
        self._scripts.setdefault(address, {})[kind] = script

    def remove(self, kind: BreakKind, address: int) -> None:
        self._scripts.get(address, {}).pop(kind, None)

    def clear(self) -> None:
        self._scripts.clear()
        self._output.clear()

    @property
    def decide(self) -> bool:
        """Whether one of them may find that a stop is none."""
        return any(s != ALWAYS for scripts in self._scripts.values() for s in scripts.values())

    def take_output(self) -> str:
        output, self._output = self._output, []
        return "".join(output)

    def want(self, stop: StopReason) -> bool:
        """Whether this is a stop to the client; commands of a breakpoint have been carried out."""
        if not self._scripts or stop.kind not in ("hwbreak", "swbreak"):
            return True
        pc = self._core.read_registers(["pc"])["pc"]
        wanted = [self._wants(stop, script) for script in self._scripts.get(pc, {}).values()]
        return any(wanted) or not wanted

    def _wants(self, stop: StopReason, script: Script) -> bool:
        try:
            if script.conditions and not any(self._run(code).value for code in script.conditions):
                return False
            for command in script.commands:
                self._output.append(self._run(command).printed)
        except GdbServerError as error:
            log.warning("%s: %s", stop.detail, error)
            self._output.append(f"{stop.detail}: {error}\n")
            return True
        return not script.commands

    def _run(self, code: bytes) -> Outcome:
        return evaluate(code, self._register, self._core.view)

    def _register(self, number: int) -> int:
        if number not in _NAMES:
            raise TargetError(f"there is no register {number}")
        name = _NAMES[number]
        return self._core.read_registers([name])[name]
