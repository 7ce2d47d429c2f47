"""What the commands share that work on a chip without GDB: which one, what goes into it.

A `Bench` is what the options chose, checked before the probe is touched.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import click

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK1, BANK2, QSPI_WINDOW
from gdbserver.cli.options import (
    chosen_wiring,
    names_the_simulator,
    probe_options,
    which_probe,
    wiring_options,
)
from gdbserver.cli.progress import Reporter, reporter
from gdbserver.flash.image import Image, check_places, load_image
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer, Step, Verify
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import load_loader
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

F = TypeVar("F", bound=Callable[..., Any])


class Bench:
    """What was chosen, checked before the probe is touched; `machine` opens it."""

    def __init__(
        self,
        *,
        probe: str | None,
        connect: str,
        frequency: int | None,
        loaders: Sequence[str],
        qspi_pins: dict[str, str] | None,
        board: str | None,
        shown: Reporter,
    ) -> None:
        self._probe, self._connect, self._frequency = probe, Connect(connect), frequency
        if not loaders and (names_the_simulator(probe) or qspi_pins or board):
            loaders = ["builtin"]
        wiring = chosen_wiring(qspi_pins, board)
        self.loaders: list[LoaderFile] = [load_loader(name, wiring) for name in loaders]
        self.reporter = shown

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
            target = Target.open(self._probe, connect=self._connect, frequency=self._frequency)
            leave = target.close
            try:
                machine = Machine(target, Programmer(target, self.loaders, verify=verify))
                leave = machine.close
                yield machine
            finally:
                leave(resume=resume)

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


_CHOICES = ("probe", "connect", "frequency", "loaders", "qspi_pins", "board")


def bench_options(command: F) -> F:
    """Options of most commands here; they get them as a `Bench`."""

    @functools.wraps(command)
    def with_bench(**options: Any) -> Any:
        with reporter(as_json=options.pop("as_json")) as shown:
            bench = Bench(**{name: options.pop(name) for name in _CHOICES}, shown=shown)
            return command(bench, **options)

    as_json = click.option("--json", "as_json", is_flag=True, help="JSON events, one a line.")
    return probe_options(_flash_options(as_json(with_bench)))  # type: ignore[return-value]


def run_options(command: F) -> F:
    """Those of a command whose standard output is a program's; it gets a `Bench` too."""

    @functools.wraps(command)
    def with_bench(**options: Any) -> Any:
        chosen = {name: options.pop(name) for name in _CHOICES if name != "connect"}
        shown = reporter(as_json=False, to_stderr=True)
        bench = Bench(**chosen, connect=Connect.UNDER_RESET.value, shown=shown)
        return command(bench, **options)

    return which_probe(_flash_options(with_bench))  # type: ignore[return-value]


def _flash_options(command: F) -> F:
    loaders = click.option(
        "--extload",
        "loaders",
        metavar="FILE|builtin",
        multiple=True,
        help="External loader for flash on the QSPI; repeatable.",
    )
    return loaders(wiring_options(command))


files_argument = click.argument("files", metavar="FILE[@ADDRESS]...", nargs=-1, required=True)


def load_images(files: Sequence[str], bench: Bench) -> list[Image]:
    images = [load_image(name) for name in files]
    check_places(images, bench.possible_flash())
    return images
