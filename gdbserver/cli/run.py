"""Running a program to its end: ``stm32-gdbserver run``, for tests on the board and for CI.

The program goes into flash as by `flash`, is started from reset, and what it says through
semihosting and RTT is this process's standard output.  Its exit status is this process's, too.
What comes from elsewhere is meant not to be taken for it, and stays below 128, where
``git bisect run`` stops believing in a status: `CRASHED`, `TIMED_OUT` (as of ``timeout``), and
`NOT_RUN`, which to ``git bisect run`` means "this one cannot be tested".

Afterwards the core stays halted, whatever happened: nothing moves any more, and a crash can be
looked at.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from gdbserver.chip.cortex_m import Demcr
from gdbserver.cli.job import Job, files_argument, load_images, run_options
from gdbserver.errors import GdbServerError, NobodyListens, UsageError, explain
from gdbserver.flash.image import download
from gdbserver.program.backtrace import REGISTERS, describe, walk
from gdbserver.program.symbols import Symbols
from gdbserver.target.host_files import Console, Done, FileIo, Files, Folder, NoFiles, advance
from gdbserver.target.rtt import SYMBOL, Rtt
from gdbserver.target.semihosting import Exit, Semihosting, stands_at_call
from gdbserver.target.stop import StopReason
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

CRASHED: Final = 123
TIMED_OUT: Final = 124
NOT_RUN: Final = 125

_RTT_INTERVALS: Final = 0.002, 0.05
"""Seconds of the target between two looks at its channels: while it talks, and while not."""
_LOOK_INTERVAL: Final = 0.001
_PATIENCE_TO_TYPE: Final = 0.05


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The program had not ended in so many seconds."""

    seconds: float


Outcome = Exit | StopReason | TimedOut


@click.command()
@files_argument
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up on a program that has not ended after so long; without it, never.",
)
@click.option(
    "--semihosting-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Let the program open files in this folder; without it, it can open none.",
)
@click.option(
    "--arg",
    "arguments",
    metavar="TEXT",
    multiple=True,
    help="An argument for the program, by SYS_GET_CMDLINE; repeatable.",
)
@run_options
def run(
    job: Job,
    files: Sequence[str],
    *,
    timeout: float | None,
    semihosting_dir: Path | None,
    arguments: Sequence[str],
) -> None:
    """Program files, run them, print what they say, and exit as they do.

    A program says things by semihosting or RTT channel 0, and ends by SYS_EXIT or
    SYS_EXIT_EXTENDED. The core stays halted afterwards.

    Exit status: the program's own; 123 it crashed, 124 it did not end in time, 125 it could not
    be run, 2 a file or an option cannot be.
    """
    with _failing_as(NOT_RUN):
        images = load_images(files, job)
        paths = [image.path for image in images]
        wanted = download(images)
        access: Files = NoFiles("allow a folder with --semihosting-dir")
        if semihosting_dir is not None:
            access = Folder(semihosting_dir)
        command_line = shlex.join([paths[0].stem, *arguments])
        symbols = Symbols(paths)
        with job.machine(resume=False) as machine:
            with job.reporter:
                job.carry_out(machine.programmer.carry_out(wanted))
            program = _Program(
                machine.target,
                Semihosting(Console(_show, _typed), access, command_line=command_line),
                _channels(machine.target, symbols),
            )
            outcome = program.run(timeout)
            status = _report(outcome, machine.target, symbols)
    click.get_current_context().exit(status)


@contextmanager
def _failing_as(status: int) -> Iterator[None]:
    """Our own failures get a status that a program is not likely to have."""
    try:
        yield
    except UsageError:
        raise
    except GdbServerError as error:
        error.exit_status = status
        raise


def _channels(target: Target, symbols: Symbols) -> Rtt | None:
    """RTT, unless it is known that the program has none."""
    where = symbols.address_of(SYMBOL)
    return None if where is None and symbols.complete else Rtt(target, where)


# --- What a program says, and is told -------------------------------------------------------------


def _show(data: bytes, error: bool) -> None:
    stream = sys.stderr if error else sys.stdout
    try:
        stream.buffer.write(data)
        stream.buffer.flush()
    except BrokenPipeError as pipe:
        with contextlib.suppress(OSError):  # or Python would complain when it closes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise NobodyListens from pipe


def _typed(count: int) -> bytes | None:
    """What stands at standard input: nothing yet, or nothing any more, or up to `count` bytes."""
    try:
        descriptor = sys.stdin.fileno()
        if os.name == "posix" and not select.select([descriptor], [], [], _PATIENCE_TO_TYPE)[0]:
            return None
        return os.read(descriptor, count)
    except (OSError, ValueError):  # there is none, or it was closed
        return b""


# --- A program, from reset to its end -------------------------------------------------------------


class _Program:
    """What is in flash now."""

    def __init__(self, target: Target, semihosting: Semihosting, rtt: Rtt | None) -> None:
        self._target = target
        self._semihosting = semihosting
        self._rtt = rtt
        self._rtt_interval = _RTT_INTERVALS[0]
        self._next_rtt = 0.0
        self._resets = 0

    def run(self, timeout: float | None) -> Outcome:
        """From reset to the end, in whatever form."""
        target = self._target
        target.reset(halt=True)
        target.catch_faults(Demcr.VC_HARDERR)
        if self._rtt is not None:
            self._rtt.forget()
        self._resets = target.unasked_resets
        end = float("inf") if timeout is None else target.monotonic() + timeout
        target.resume()
        try:
            while (outcome := self._look(end)) is None:
                if timeout is not None and target.monotonic() >= end:
                    target.halt()
                    outcome = TimedOut(timeout)
                    break
            self._listen()
            return outcome
        finally:
            self._semihosting.close()
            target.halt()

    def _look(self, end: float) -> Outcome | None:
        """One look at the core: how it ended, or None when it goes on."""
        target = self._target
        stop = target.poll_stop()
        if target.unasked_resets != self._resets:
            self._resets = target.unasked_resets
            self._semihosting.close()
        if stop is None:
            self._listen_now_and_then()
            if not target.simulated:  # a simulated board stands still while nobody looks
                time.sleep(_LOOK_INTERVAL)
            return None
        if not stands_at_call(target):
            return stop
        return self._serve(end)

    def _serve(self, end: float) -> Outcome | None:
        """Serve a call, and let the program go on; unless that was its end."""
        work = self._semihosting.serve(self._target)
        while not isinstance(step := advance(work), Done):
            assert not isinstance(step, FileIo), "there is no GDB here"
            self._target.is_halted()  # the board's time goes by while nothing is typed
            if self._target.monotonic() >= end:
                return None
        if step.result is None:
            self._target.resume()
        return step.result

    def _listen_now_and_then(self) -> None:
        now = self._target.monotonic()
        if self._rtt is not None and now >= self._next_rtt:
            quick, slow = _RTT_INTERVALS
            heard = self._listen()
            self._rtt_interval = quick if heard else min(2 * self._rtt_interval, slow)
            self._next_rtt = now + self._rtt_interval

    def _listen(self) -> bool:
        """Show what has come through RTT; whether anything has."""
        if self._rtt is None:
            return False
        data = self._rtt.poll().get(0, b"")
        if data:
            _show(data, False)
        return bool(data)


# --- What became of it ----------------------------------------------------------------------------


def _report(outcome: Outcome, target: Target, symbols: Symbols) -> int:
    """Say what is to be said about the end of a program; its exit status."""
    match outcome:
        case Exit(status):
            if status:
                _tell(str(outcome))
            return status
        case TimedOut(seconds):
            _tell(f"the program has not ended after {seconds:.3g} s; it was stopped")
            status = TIMED_OUT
        case StopReason(kind="fault" | "lockup"):
            _tell(f"the program crashed: {outcome.detail}")
            status = CRASHED
        case StopReason():
            _tell(f"the program stopped: {outcome.detail}")
            status = CRASHED
    try:
        _tell_where(outcome, target, symbols)
    except GdbServerError as error:
        _tell("it cannot be told where: " + "; ".join(explain(error)))
    _tell("the core stays halted there; to look at it: stm32-gdbserver --connect attach")
    return status


def _tell_where(outcome: Outcome, target: Target, symbols: Symbols) -> None:
    if not isinstance(outcome, StopReason) and (fault := target.describe_fault()) is not None:
        _tell(f"  a fault has happened: {fault}")
    crashed = isinstance(outcome, StopReason) and outcome.kind in ("fault", "lockup")
    registers = target.read_registers(REGISTERS)
    frames = walk(registers, target.read_words, symbols, interrupted=crashed)
    for line in describe(frames, symbols):
        _tell(f"  {line}")


def _tell(line: str) -> None:
    click.echo(line, err=True)
