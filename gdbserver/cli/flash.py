"""Programming without GDB: ``stm32-gdbserver flash`` and its siblings.

Files go through the same plan, comparison and lanes as GDB's `load`.

Exit status of each: 0 when done; 1 when something failed (the probe, the chip, flash); 2 when the
command line, or a file, cannot be; 3 when `verify` finds that flash holds something else; 130 when
Ctrl-C or SIGTERM ended it.  With 2 nothing was touched.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from gdbserver.chip.memory import FlashRegion, Span, merge
from gdbserver.chip.stm32h743 import BANK1, BANK2, QSPI_WINDOW
from gdbserver.cli.options import (
    address_range,
    chosen_wiring,
    load_loader,
    names_the_simulator,
    number,
    probe_options,
    wiring_options,
)
from gdbserver.cli.progress import Reporter, reporter
from gdbserver.errors import ContentsDiffer, UsageError
from gdbserver.flash.image import Image, check_places, download, load_image
from gdbserver.flash.option_bytes import describe_option_bytes
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.loader.file import LoaderFile
from gdbserver.server.monitor import describe_chip
from gdbserver.server.worker import Machine
from gdbserver.target.target import Connect, Target

F = TypeVar("F", bound=Callable[..., Any])


# --- What the commands share --------------------------------------------------------------------


class _Bench:
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
        self._unfinished = False

    def possible_flash(self) -> list[Span]:
        """Where flash can be.  How large a chip and a NOR are, they say themselves, later."""
        external = [
            QSPI_WINDOW if loader.finds_out else loader.region.span for loader in self.loaders
        ]
        return [BANK1, BANK2, *external]

    @contextmanager
    def machine(self, *, resume: bool = True) -> Iterator[Machine]:
        """The chip; afterwards its core runs, or stays halted.

        A core whose program was left unfinished in flash is not let go.
        """
        with _ending_like_ctrl_c():
            target = Target.open(self._probe, connect=self._connect, frequency=self._frequency)
            try:
                yield Machine(target, Programmer(target, self.loaders))
            finally:
                target.close(resume=resume and not self._unfinished)

    def carry_out(self, steps: Generator[Step, None, None]) -> None:
        """Closing the steps brings the devices to rest, whatever ends the loop."""
        with closing(steps):
            for step in steps:
                self._unfinished = True
                self.reporter.step(step)
        self._unfinished = False


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


def _options(command: F) -> F:
    """Options of every command here; it gets them as a `_Bench`."""

    @functools.wraps(command)
    def with_bench(**options: Any) -> Any:
        names = ("probe", "connect", "frequency", "loaders", "qspi_pins", "board")
        with reporter(as_json=options.pop("as_json")) as shown:
            bench = _Bench(**{name: options.pop(name) for name in names}, shown=shown)
            return command(bench, **options)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="JSON events, one a line."),
        wiring_options,
        click.option(
            "--extload",
            "loaders",
            metavar="FILE|builtin",
            multiple=True,
            help="External loader for flash on the QSPI; repeatable.",
        ),
        probe_options,
    ):
        with_bench = option(with_bench)
    return with_bench  # type: ignore[return-value]


_files = click.argument("files", metavar="FILE[@ADDRESS]...", nargs=-1, required=True)


def _images(files: Sequence[str], bench: _Bench) -> list[Image]:
    images = [load_image(name) for name in files]
    check_places(images, bench.possible_flash())
    return images


# --- Commands -----------------------------------------------------------------------------------


@click.command()
@_files
@click.option("--verify", is_flag=True, help="Accepted; every byte is verified anyway.")
@click.option(
    "--reset/--no-reset",
    default=True,
    help="Afterwards let the program run from its start; without it the core stays halted.",
)
@click.option(
    "--erase-all", is_flag=True, help="Erase the whole of each device that is programmed."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@_options
def flash(
    bench: _Bench,
    files: Sequence[str],
    *,
    verify: bool,
    reset: bool,
    erase_all: bool,
    dry_run: bool,
) -> None:
    """Program files: ELF, Intel HEX, S-records, or bytes at an ADDRESS.

    Every sector that a file touches holds the file afterwards, and nothing else; what is right
    already is left alone, and every byte is verified.

    Exit status: 0 done, 1 something failed, 2 a file or an option cannot be.
    """
    images = _images(files, bench)
    wanted = download(images)
    with bench.machine(resume=reset or dry_run) as machine:
        if erase_all:
            wanted.erase_devices(machine.programmer.regions())
        if dry_run:
            bench.reporter.plan(machine.programmer.preview(wanted))
            return
        bench.carry_out(machine.programmer.carry_out(wanted))
        if reset:
            machine.target.reset(halt=False)
    size = sum(len(span) for span, _ in wanted.writes)
    bench.reporter.say(f"done: {size} bytes are in flash and verified", event="done", bytes=size)


@click.command()
@_files
@_options
def verify(bench: _Bench, files: Sequence[str]) -> None:
    """Compare flash with files, byte by byte, and change nothing.

    The program is restarted; with --connect halt it is stopped for a moment, and goes on.

    Exit status: 0 when all is there, 3 when it is not, 1 when something failed, 2 when a file
    or an option cannot be.
    """
    images = _images(files, bench)
    download(images)
    with bench.machine() as machine:
        for image in images:
            for address, data in image.parts:
                _compare(machine.programmer, image, address, data)
    size = sum(len(data) for image in images for _, data in image.parts)
    bench.reporter.say(f"flash holds all {size} bytes", event="done", bytes=size)


def _compare(programmer: Programmer, image: Image, address: int, data: bytes) -> None:
    at = 0
    for found in programmer.read(Span.of(address, len(data))):
        wanted = data[at : at + len(found)]
        if found != wanted:
            wrong = next(n for n, (a, b) in enumerate(zip(wanted, found, strict=True)) if a != b)
            here = slice(wrong, wrong + 16)
            raise ContentsDiffer(image.path, address + at + wrong, wanted[here], found[here])
        at += len(found)


@click.command()
@click.argument("what", metavar="WHAT...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Show what would be erased, and change nothing.")
@_options
def erase(bench: _Bench, what: Sequence[str], *, dry_run: bool) -> None:
    """Erase the sectors that hold an ADDRESS, START+LENGTH or START-LAST; or a device.

    WHAT may also be `internal`, `external` or `all`. The core stays halted.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    devices = {"internal", "external", "all"} & set(what)
    spans = [address_range(text) for text in what if text not in devices]
    possible = merge(bench.possible_flash())
    for span in spans:
        if not any(span in place for place in possible):
            error = UsageError(f"{span} is not in flash")
            error.hint = "flash can be at " + ", ".join(str(place) for place in possible)
            raise error
    if "external" in devices and not bench.loaders:
        error = UsageError("there is no external flash")
        error.hint = "give its loader with --extload"
        raise error
    with bench.machine(resume=dry_run) as machine:
        wanted = Download()
        for region in machine.programmer.regions():
            if devices & {"all", "internal" if _is_internal(region) else "external"}:
                wanted.erase(region.span)
        for span in spans:
            wanted.erase(span)
        if dry_run:
            bench.reporter.plan(machine.programmer.preview(wanted))
            return
        bench.carry_out(machine.programmer.carry_out(wanted))
    bench.reporter.say("done: erased", event="done")


def _is_internal(region: FlashRegion) -> bool:
    return region.span.start in BANK1 or region.span.start in BANK2


@click.command()
@click.argument("address")
@click.argument("length")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the bytes go.",
)
@_options
def read(bench: _Bench, address: str, length: str, output: Path) -> None:
    """Read LENGTH bytes at ADDRESS, of flash or of any other memory, into a file.

    The program is restarted; with --connect halt it is stopped for a moment, and goes on.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    size = number(length, "length")
    if size == 0:
        raise UsageError("there is nothing to read in 0 bytes")
    span = Span.of(number(address, "address"), size)
    if not output.absolute().parent.is_dir():
        raise UsageError(f"cannot write {output}: there is no such folder")
    with bench.machine() as machine:
        data = b"".join(machine.programmer.read(span))
    try:
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {output}") from error
    bench.reporter.say(f"{output}: {len(span)} bytes of {span}", event="done", bytes=len(span))


@click.command()
@_options
def info(bench: _Bench) -> None:
    """Describe probe, chip, option bytes and flash devices, and which sectors are in use.

    The program is restarted; with --connect halt it is stopped for a moment, and goes on.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    with bench.machine() as machine:
        for line in describe_chip(machine.target):
            name, _, text = line.partition("  ")
            bench.reporter.say(line, event="info", name=name, value=text.strip())
        if machine.programmer.has_loaders:
            found = machine.programmer.describe_external()
            bench.reporter.say(
                f"external flash  {found}", event="info", name="external flash", value=found
            )
        for name, value in describe_option_bytes(machine.target):
            bench.reporter.say(f"option bytes    {name}: {value}", event="option", **{name: value})
        everything = Download()
        for region in machine.programmer.regions():
            everything.erase(region.span)
        for change in machine.programmer.preview(everything):
            used = merge([sector.sector for sector in change.left.sectors])
            region = change.wanted.region
            text = ", ".join(str(span) for span in used) or "nothing"
            bench.reporter.say(
                f"contents        {region.name}, {len(change.left.sectors)} of "
                f"{len(change.wanted.sectors)} sectors in use: {text}",
                event="contents",
                region=region.name,
                start=region.span.start,
                length=len(region.span),
                by=change.by,
                used=[[span.start, len(span)] for span in used],
            )


@click.command()
@click.option("--halt", is_flag=True, help="Stay at the first instruction.")
@_options
def reset(bench: _Bench, *, halt: bool) -> None:
    """Reset the chip, and let its program run.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    with bench.machine(resume=not halt) as machine:
        machine.target.reset(halt=halt)
    bench.reporter.say("reset", event="done")


COMMANDS = (flash, verify, erase, read, info, reset)
