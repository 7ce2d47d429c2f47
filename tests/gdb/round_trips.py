"""What the client's commands cost on the link: GDB is told to do them, one after the other.

The scenario is the same for every server; it only needs a port, and somebody who counts what has
gone over the probe so far.  GDB runs as a person uses it, so all that it asks on its own account
is counted too: each command includes the stop that it ends with, up to the next prompt.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

DONE = "=== done ==="

SCENARIO: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    # What it is called, what is done before, the command itself, and what GDB must have said.
    ("connect", "", (), ""),
    ("stepi", "tbreak step_1|continue|finish", ("stepi",), ""),
    ("next", "tbreak step_1|continue|finish", ("next",), "step_3();"),
    ("finish", "tbreak step_1|continue", ("finish",), "Run till exit"),
    ("x/64xw", "", ("x/64xw 0x24000000",), "0x240000f0"),
    ("break, continue", "", ("tbreak step_2", "continue"), "Temporary breakpoint"),
)
"""On `tests/firmware/drills.c`; its `next` steps over a function call."""


class Prompt:
    """A gdb that takes commands as from a terminal."""

    def __init__(self, program: str, elf: Path) -> None:
        self._process = subprocess.Popen(
            [program, "--quiet", "--nx", str(elf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for setting in ("pagination off", "confirm off", "width 0", "style enabled off", "prompt"):
            self.do(f"set {setting}")

    def do(self, command: str) -> str:
        """What GDB printed until it was done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho {DONE}\\n\n")
        self._process.stdin.flush()
        said = ""
        while not said.endswith(f"{DONE}\n"):
            line = self._process.stdout.readline()
            if not line:
                raise EOFError(f"GDB ended; it said: {said}")
            said += line
        return said.removesuffix(f"{DONE}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def measure(
    where: str,
    elf: Path,
    count: Callable[[], int],
    *,
    gdb: str = "gdb-multiarch",
    load: Sequence[str] = ("load",),
) -> dict[str, int]:
    """What `count` grew by during each command of `SCENARIO`.

    `load` brings the program into flash, and leaves the core at its beginning.

    Raises:
        AssertionError: GDB did something else than the scenario means.
    """
    with Prompt(gdb, elf) as prompt:
        prompt.do(f"target extended-remote {where}")
        for command in load:
            prompt.do(command)
        prompt.do("disconnect")
        costs = {}
        for name, before, commands, expected in SCENARIO:
            for command in filter(None, before.split("|")):
                prompt.do(command)
            then, said = count(), ""
            for command in commands or (f"target extended-remote {where}",):
                said += prompt.do(command)
            costs[name] = count() - then
            if expected not in said:
                raise AssertionError(f"{name}: {expected!r} was expected, GDB said: {said}")
            if name == "connect":  # wherever the program was by now: back to its beginning
                prompt.do("monitor reset halt")
                prompt.do("flushregs")
        return costs
