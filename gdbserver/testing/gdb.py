"""One GDB, driven by a program: commands in, what it says and what happens out.

It speaks GDB/MI, as IDEs do, so nothing is guessed from prompts; commands of people go through it
as well (`Gdb.do`).  Everything here waits, and no longer than `patience` seconds of the host.

    with Gdb("gdb-multiarch", elf) as gdb:
        gdb.connect("localhost:61234")
        gdb.load()
        gdb.break_at("main")
        stop = gdb.run()
        assert (stop.reason, stop.function) == ("breakpoint-hit", "main")
"""

from __future__ import annotations

import itertools
import queue
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gdbserver.errors import GdbRefused, GdbSilent, UsageError
from gdbserver.testing import mi

PROGRAMS = ("arm-none-eabi-gdb", "gdb-multiarch")

_SETTINGS = ("mi-async on", "pagination off", "confirm off", "width 0", "style enabled off")


def find_gdb(program: str | None = None) -> str:
    """The GDB of that name, or the first of those that are usual.

    Raises: UsageError.
    """
    for name in [program] if program else PROGRAMS:
        if found := shutil.which(name):
            return found
    raise UsageError(
        f"there is no GDB here: no {program or ' and no '.join(PROGRAMS)}",
        hint="apt install gdb-multiarch, or say where another one is",
    )


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and where the program has stopped."""

    reason: str
    """In the words of GDB/MI: breakpoint-hit, watchpoint-trigger, end-stepping-range,
    function-finished, signal-received; empty when GDB gives none."""
    function: str
    file: str
    line: int
    address: int
    signal: str
    """SIGINT after an interrupt, SIGSEGV and the like for a fault; empty otherwise."""
    breakpoint: int
    """The number of the breakpoint or watchpoint; 0 when it is none."""
    values: dict[str, Any]
    """All that GDB says about it."""


class Gdb:
    """A GDB process.  Leaving its ``with`` block ends it, and the server tidies up behind it.

    Raises (from everything that asks GDB): GdbSilent when it does not answer, or has died.
    """

    def __init__(
        self, program: str | None = None, elf: Path | str | None = None, *, patience: float = 120
    ) -> None:
        command = [find_gdb(program), "--quiet", "--nx", "--interpreter=mi3"]
        self.process = subprocess.Popen(
            [*command, str(elf)] if elf else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C in pytest's terminal is not meant for GDB
        )
        self.patience = patience
        self.running = False
        """Whether the program runs, as far as GDB knows."""
        self._tokens = itertools.count(1)
        self._resumed = 0
        self._refusal = ""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=[self.process.stdout], daemon=True)
        self._reader.start()
        self._said = ""
        self._begun = 0
        self._stops: list[Stop] = []
        for setting in _SETTINGS:
            self.ask(f"-gdb-set {setting}")

    # --- Commands of people -----------------------------------------------------------------------

    def do(self, command: str) -> str:
        """Carry out a command, to the stop if it lets the program run: what GDB printed meanwhile.

        That includes errors: they are text here, and nothing is raised.
        """
        self.begin(command)
        return self.end()

    def begin(self, command: str) -> None:
        """Start a command, and do not wait."""
        self._said, self._stops = "", []
        self._begun = self._send(f"-interpreter-exec console {mi.quote(command)}")

    def end(self) -> str:
        """Wait until what was begun has ended, in a stop if it let the program run."""
        if self._begun:
            self._answer(self._begun)
        while self.running:
            self._hear(f"the program has not stopped; so far GDB said:\n{self._said}")
        return self._said

    def wait_for(self, text: str) -> str:
        """Wait until GDB has printed `text`; all that it has printed since the command began."""
        while text not in self._said:
            record = self._hear(f"GDB has not said {text!r}, but:\n{self._said}")
            if isinstance(record, mi.Result) and record.token == self._begun:
                self._begun = 0
        return self._said

    # --- Commands of programs ---------------------------------------------------------------------

    def ask(self, command: str) -> dict[str, Any]:
        """Carry out a command of GDB/MI; the values of its answer.

        Raises: GdbRefused.
        """
        return self._carry_out(command, command)

    def connect(self, where: str) -> str:
        """``target extended-remote``: what GDB says to it.

        Raises: GdbRefused.
        """
        return self._must(f"target extended-remote {where}")

    def load(self, elf: Path | str | None = None) -> str:
        """Program an ELF file, its own by default, and stand at its first instruction.

        Raises: GdbRefused, with the server's reason.
        """
        if elf is not None:
            self.ask(f"-file-exec-and-symbols {mi.quote(str(elf))}")
        try:
            return self._must("load")
        except GdbRefused as error:
            error.add_note(self.do("monitor why"))
            raise

    def break_at(self, place: str, *, temporary: bool = False, condition: str = "") -> int:
        """A breakpoint at a function, FILE:LINE or *ADDRESS: its number.

        Raises: GdbRefused.
        """
        options = ("-t " if temporary else "") + (f"-c {mi.quote(condition)} " if condition else "")
        return int(self.ask(f"-break-insert {options}{mi.quote(place)}")["bkpt"]["number"])

    def watch(self, expression: str, *, access: bool = False) -> int:
        """A watchpoint on what an expression stands for, on writes or on any access: its number.

        Raises: GdbRefused.
        """
        answer = self.ask(f"-break-watch {'-a ' if access else ''}{mi.quote(expression)}")
        (watchpoint,) = answer.values()
        return int(watchpoint["number"])

    def delete_breakpoints(self) -> None:
        """All of them, watchpoints too."""
        self.ask("-break-delete")

    def resume(self) -> None:
        """Let the program run, and do not wait.

        Raises: GdbRefused.
        """
        self.ask("-exec-continue")

    def wait_stop(self, timeout: float | None = None) -> Stop:
        """Wait until the program stands; why and where it does.

        Raises: GdbRefused when it cannot run; GdbSilent when it runs on, and goes on to.
        """
        until = time.monotonic() + (self.patience if timeout is None else timeout)
        while self.running:
            self._hear("the program has not stopped", until=until)
        if not self._stops:
            raise GdbRefused("continue", self._refusal or "the program has not been resumed")
        return self._stops[-1]

    def run(self, timeout: float | None = None) -> Stop:
        """Let the program run to its next stop.

        Raises: GdbRefused; GdbSilent when it runs on.
        """
        self.resume()
        return self.wait_stop(timeout)

    def interrupt(self) -> Stop:
        """Stop the running program, if it has not stopped by itself."""
        while self.running and not self._lines.empty():
            self._hear("")
        if self.running:
            self._answer(self._send("-exec-interrupt"))
        return self.wait_stop()

    def read(self, expression: str) -> int | float | str:
        """The value of an expression: a number where it is one, else as GDB prints it.

        Raises: GdbRefused.
        """
        text: str = self.ask(f"-data-evaluate-expression {mi.quote(expression)}")["value"]
        first = text.split(" ", 1)[0]  # behind an address or a character there is more
        for kind in (lambda word: int(word, 0), float):
            try:
                return kind(first)
            except ValueError:
                continue
        return text

    def write(self, expression: str, value: float | str) -> None:
        """Assign.

        Raises: GdbRefused.
        """
        self.ask(f"-gdb-set var {expression} = {value}")

    def read_memory(self, address: int, length: int) -> bytes:
        """Raises: GdbRefused."""
        answer = self.ask(f"-data-read-memory-bytes {address:#x} {length}")
        return b"".join(bytes.fromhex(block["contents"]) for block in answer["memory"])

    def backtrace(self) -> list[str]:
        """The functions that are active, the innermost first.

        Raises: GdbRefused.
        """
        frames = self.ask("-stack-list-frames")["stack"]
        return [frame.get("func", frame["addr"]) for frame in frames]

    # --- From start to end ------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End the process at once, whatever it does; the system closes its connection."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what it has not read any more
                stream.close()

    # --- The conversation -------------------------------------------------------------------------

    def _must(self, command: str) -> str:
        """`do`, for commands whose errors are to be raised."""
        self._carry_out(f"-interpreter-exec console {mi.quote(command)}", command)
        return self._said

    def _carry_out(self, command: str, name: str) -> dict[str, Any]:
        __tracebackhide__ = True  # pytest: show the line of the test instead
        self._said, self._stops = "", []
        result = self._answer(self._send(command))
        if result.kind == "error":
            raise GdbRefused(name, str(result.values.get("msg", "")))
        return result.values

    def _send(self, command: str) -> int:
        token = next(self._tokens)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{token}{command}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise GdbSilent("GDB has ended") from None
        return token

    def _answer(self, token: int) -> mi.Result:
        self._begun = 0
        while True:
            record = self._hear(f"GDB has not answered; so far it said:\n{self._said}")
            if isinstance(record, mi.Result) and record.token == token:
                if record.kind == "running":
                    self.running, self._resumed, self._refusal = True, token, ""
                return record

    def _hear(self, complaint: str, until: float | None = None) -> mi.Record | None:
        """The next thing that GDB says, noted.

        Raises: GdbSilent, with `complaint`.
        """
        patience = self.patience if until is None else max(0, until - time.monotonic())
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise GdbSilent(complaint) from None
        if line is None:
            self._lines.put(None)
            raise GdbSilent(f"GDB has ended; it said:\n{self._said}")
        record = mi.parse(line)
        match record:
            case mi.Text(text=text):
                self._said += text
            case mi.Result(self._resumed, "error"):
                # "Running" was said too early: a breakpoint cannot be set, say.
                self.running, self._refusal = False, self._said.strip()
            case mi.Event("running"):
                self.running = True
            case mi.Event("stopped", values):
                self.running = False
                self._stops.append(_stop(values))
            case None if line.strip() != "(gdb)":
                self._said += line  # by GDB's terminal, not by its interpreter
        return record

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)


def _stop(values: dict[str, Any]) -> Stop:
    frame = values.get("frame", {})
    watched = [values[key] for key in ("wpt", "hw-awpt", "hw-rwpt") if key in values]
    number = watched[0]["number"] if watched else values.get("bkptno", 0)
    return Stop(
        reason=values.get("reason", ""),
        function=frame.get("func", ""),
        file=frame.get("file", ""),
        line=int(frame.get("line", 0)),
        address=int(frame.get("addr", "0"), 16),
        signal=values.get("signal-name", ""),
        breakpoint=int(number),
        values=values,
    )
