"""What the commands share that work on a chip without GDB: the chip, and how they report.

A `Job` is checked before the probe is touched.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import click

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK1, BANK2, QSPI_WINDOW
from gdbserver.cli.machine import load_loaders, open_machine
from gdbserver.cli.options import MachineOptions, machine_options, reset_machine_options
from gdbserver.cli.progress import Reporter, reporter
from gdbserver.flash.image import Image, check_places, load_image
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Step, Verify


class Job:
    """One command's work: `machine` opens the chip, `reporter` shows what is done to it."""

    def __init__(self, options: MachineOptions, reporter: Reporter) -> None:
        self._options = options
        self.loaders = load_loaders(options)
        self.reporter = reporter

    def possible_flash(self) -> list[Span]:
        """Where flash can be.  How large a chip and a NOR are, they say themselves, later."""
        external = [
            QSPI_WINDOW if loader.finds_out else loader.region.span for loader in self.loaders
        ]
        return [BANK1, BANK2, *external]

    @contextmanager
    def machine(self, *, resume: bool = True, verify: Verify = "digest") -> Iterator[Machine]:
        """The chip; afterwards its core runs, or stays halted.

        `Machine.close` knows when it is not to run after all.
        """
        with _ending_like_ctrl_c():
            machine = open_machine(self._options, self.loaders, verify=verify)
            try:
                yield machine
            finally:
                machine.close(resume=resume)

    def carry_out(self, steps: Generator[Step, None, None]) -> None:
        """Closing the steps brings the devices to rest, whatever ends the loop."""
        with closing(steps):
            for step in steps:
                self.reporter.step(step)


@contextmanager
def _ending_like_ctrl_c() -> Iterator[None]:
    """A CI that loses patience sends SIGTERM; the chip shall be left in order then, too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of most commands here; they get them as a `Job`."""

    @functools.wraps(command)
    def with_job(machine: MachineOptions, *, as_json: bool, **others: Any) -> Any:
        with reporter(as_json=as_json) as shown:
            return command(Job(machine, shown), **others)

    as_json = click.option("--json", "as_json", is_flag=True, help="JSON events, one a line.")
    return machine_options(as_json(with_job))


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those of a command whose standard output is a program's; it gets a `Job` too."""

    @functools.wraps(command)
    def with_job(machine: MachineOptions, **others: Any) -> Any:
        return command(Job(machine, reporter(to_stderr=True)), **others)

    return reset_machine_options(with_job)


files_argument = click.argument("files", metavar="FILE[@ADDRESS]...", nargs=-1, required=True)


def load_images(files: Sequence[str], job: Job) -> list[Image]:
    """Raises: UsageError for a file that cannot be programmed."""
    images = [load_image(name) for name in files]
    check_places(images, job.possible_flash())
    return images
