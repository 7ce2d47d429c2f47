"""A program that uses semihosting, a console that is two buffers, and who serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from target_bench import Bench

from gdbserver.target.host_files import (
    Answer,
    Console,
    Done,
    FileIo,
    Files,
    NoFiles,
    Nothing,
    advance,
)
from gdbserver.target.semihosting import Exit, Semihosting, stands_at_call
from gdbserver.target.stop import StopReason


@dataclass
class Hosted:
    """Runs a program to its end, and keeps what it says."""

    bench: Bench
    files: Files = field(default_factory=lambda: NoFiles("no folder was given"))
    command_line: str = ""
    typed: list[bytes | None] = field(default_factory=list)
    """What each look at the console finds: None is nothing yet, and after the last is the end."""
    gdb: Callable[[FileIo], Answer] | None = None

    def __post_init__(self) -> None:
        self.out = b""
        self.error = b""
        self.calls = 0
        self.waited = 0
        console = Console(self.write, self.read)
        self.semihosting = Semihosting(
            console, self.files, command_line=f"hosted {self.command_line}"
        )

    def write(self, data: bytes, error: bool) -> None:
        if error:
            self.error += data
        else:
            self.out += data

    def read(self, count: int) -> bytes | None:
        if not self.typed:
            return b""
        data = self.typed.pop(0)
        return data if data is None else data[:count]

    def run(self) -> Exit | StopReason:
        """Until the program exits, or stops at something else than a call."""
        while True:
            stop = self.bench.run()
            if not stands_at_call(self.bench.target):
                return stop
            if (ended := self.serve()) is not None:
                return ended

    def serve(self) -> Exit | None:
        """One call, of a program that stands at it."""
        self.calls += 1
        work = self.semihosting.serve(self.bench.target)
        answer: Answer = None
        while True:
            match advance(work, answer):
                case Done(result):
                    return result
                case Nothing():
                    self.waited += 1
                    answer = None
                case FileIo() as call:
                    assert self.gdb is not None, call
                    answer = self.gdb(call)

    def values(self) -> dict[str, int]:
        """What it has printed as name=value."""
        lines = (line.partition("=") for line in self.out.decode().splitlines())
        return {name: int(value) for name, equals, value in lines if equals}
