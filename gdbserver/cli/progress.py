"""How a job on flash is shown: bars on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gdbserver.errors import GdbServerError
from gdbserver.flash.programmer import Change, Step


class Reporter(AbstractContextManager["Reporter"]):
    """What a job tells, while its ``with`` block lasts: here a line for each thing that is done."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._to_stderr = to_stderr

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        pass

    def say(self, line: str, **facts: Any) -> None:
        """Something to know: as a sentence, and as facts."""
        click.echo(line, err=self._to_stderr)

    def plan(self, changes: list[Change]) -> None:
        """What a job would do."""
        for line in plan_lines(changes):
            self.say(line)

    def step(self, step: Step) -> None:
        """What it does: of each device and action, that it is complete."""
        if step.action != "waiting" and step.done == step.total:
            self.say(f"{step.region.name}: {step.action} {step.total} bytes")

    def reading(self, name: str, done: int, total: int) -> None:
        """How many bytes of what is called `name` have been read."""


def reporter(*, as_json: bool = False, to_stderr: bool = False) -> Reporter:
    """JSON events, or what suits the stream."""
    if as_json:
        return _Events()
    stream = sys.stderr if to_stderr else sys.stdout
    return (_Bars if stream.isatty() else Reporter)(to_stderr=to_stderr)


class _Bars(Reporter):
    """A bar for each device: where it is in what it does now."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        super().__init__(to_stderr=to_stderr)
        self._progress = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            TextColumn("{task.fields[action]}"),
            TimeElapsedColumn(),
            console=Console(stderr=to_stderr),
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        self._progress.stop()

    def say(self, line: str, **facts: Any) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: Step) -> None:
        if step.action != "waiting":
            self._move(step.region.name, step.action, step.done, step.total)

    def reading(self, name: str, done: int, total: int) -> None:
        self._move(name, "read", done, total)

    def _move(self, name: str, action: str, done: int, total: int) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, action="")
        self._progress.update(self._bars[name], action=action, completed=done, total=total)


class _Events(Reporter):
    """One JSON object a line; `event` says which kind."""

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        if isinstance(error, GdbServerError):
            causes, cause = [], error.__cause__
            while cause is not None:
                causes.append(str(cause))
                cause = cause.__cause__
            self._emit(
                "error",
                error=str(error),
                details=list(error.details),
                because=causes,
                hint=error.hint,
                exit_status=error.exit_status,
            )

    def say(self, line: str, **facts: Any) -> None:
        self._emit(facts.pop("event", "message"), **(facts or {"text": line}))

    def plan(self, changes: list[Change]) -> None:
        for change in changes:
            self._emit(
                "plan",
                region=change.wanted.region.name,
                by=change.by,
                sectors=[sector.sector.start for sector in change.wanted.sectors],
                change=[sector.sector.start for sector in change.left.sectors],
                erase=[sector.sector.start for sector in change.left.sectors if sector.erase],
                program_bytes=change.left.program_bytes,
                seconds=round(change.seconds, 3),
            )

    def step(self, step: Step) -> None:
        self._emit(
            "step",
            action=step.action,
            region=step.region.name,
            address=step.span.start,
            length=len(step.span),
            done=step.done,
            total=step.total,
        )

    def reading(self, name: str, done: int, total: int) -> None:
        self._emit("reading", what=name, done=done, total=total)

    def _emit(self, event: str, **facts: Any) -> None:
        click.echo(json.dumps({"event": event, **facts}))


def plan_lines(changes: list[Change]) -> list[str]:
    """A plan for people: which sectors, who programs them, how long it will take and why."""
    lines = []
    for change in changes:
        wanted, left = change.wanted, change.left
        lines.append(
            f"{wanted.region}, by {change.by}: "
            f"{len(left.sectors)} of {len(wanted.sectors)} sectors change"
        )
        for sector in left.sectors:
            size = sum(len(run.span) for run in sector.runs)
            erase = "erase, " if sector.erase else "blank already, "
            lines.append(f"  {sector.sector}  {erase}program {size} bytes")
        if left.sectors:
            lines.append(
                f"  about {change.seconds:.1f} s: {left.erase_bytes // 1024} KiB to erase, "
                f"{left.program_bytes / 1024:.1f} KiB to program"
            )
    longest = max(changes, key=lambda change: change.seconds)
    if longest.seconds:
        lines.append(
            f"all of it: about {longest.seconds:.1f} s and what the link adds, "
            f"because {longest.wanted.region.name} takes longest and the others work meanwhile"
        )
    else:
        lines.append("all of it: nothing to do, because flash holds it already")
    return lines
