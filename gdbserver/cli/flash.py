"""Programming without GDB: ``stm32-gdbserver flash`` and its siblings.

Files go through the same plan, comparison and lanes as GDB's `load`.

Exit status of each: 0 when done; 1 when something failed (the probe, the chip, flash); 2 when the
command line, or a file, cannot be; 3 when `verify` finds that flash holds something else; 130 when
Ctrl-C or SIGTERM ended it.  With 2 nothing was touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import get_args

import click

from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import INTERNAL_FLASH
from gdbserver.cli.job import Job, files_argument, job_options, load_images
from gdbserver.cli.options import address_range, number, verify_option
from gdbserver.errors import ContentsDiffer, UsageError
from gdbserver.flash.image import Image, download
from gdbserver.flash.machine import describe_chip
from gdbserver.flash.option_bytes import describe_option_bytes
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Verify


class _Flash(click.Command):
    """A plain --verify says what is done anyway; its value may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        complete = []
        for word, next_word in pairwise([*args, ""]):
            complete.append(word)
            if word == "--verify" and next_word not in get_args(Verify):
                complete.append("digest")
        return super().parse_args(ctx, complete)


@click.command(cls=_Flash)
@files_argument
@verify_option
@click.option(
    "--reset/--no-reset",
    default=True,
    help="Afterwards let the program run from its start; without it the core stays halted.",
)
@click.option(
    "--erase-all", is_flag=True, help="Erase the whole of each device that is programmed."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@job_options
def flash(
    job: Job,
    files: Sequence[str],
    *,
    verify: Verify,
    reset: bool,
    erase_all: bool,
    dry_run: bool,
) -> None:
    """Program files: ELF, Intel HEX, S-records, or bytes at an ADDRESS.

    Every sector that a file touches holds the file afterwards, and nothing else; what is right
    already is left alone, and every byte is verified.

    Exit status: 0 done, 1 something failed, 2 a file or an option cannot be.
    """
    images = load_images(files, job)
    wanted = download(images)
    with job.machine(resume=reset or dry_run, verify=verify) as machine:
        if erase_all:
            wanted.erase_devices(machine.programmer.regions())
        if dry_run:
            job.reporter.plan(machine.programmer.preview(wanted))
            return
        job.carry_out(machine.programmer.carry_out(wanted))
        if reset:
            machine.target.reset(halt=False)
    size = sum(len(span) for span, _ in wanted.writes)
    job.reporter.say(f"done: {size} bytes are in flash and verified", event="done", bytes=size)


@click.command()
@files_argument
@job_options
def verify(job: Job, files: Sequence[str]) -> None:
    """Compare flash with files, byte by byte, and change nothing.

    Every byte comes back to this computer: `flash` has trusted digests that the chip computes,
    and a second opinion should not.

    The program is restarted; with --connect halt it is stopped for a moment, and goes on.

    Exit status: 0 when all is there, 3 when it is not, 1 when something failed, 2 when a file
    or an option cannot be.
    """
    images = load_images(files, job)
    download(images)
    with job.machine() as machine:
        for image in images:
            _compare(job, machine.programmer, image)
    size = sum(len(data) for image in images for _, data in image.parts)
    job.reporter.say(f"flash holds all {size} bytes", event="done", bytes=size)


def _compare(job: Job, programmer: Programmer, image: Image) -> None:
    done, total = 0, sum(len(data) for _, data in image.parts)
    for address, data in image.parts:
        at = 0
        for found in programmer.read(Span.of(address, len(data))):
            wanted = data[at : at + len(found)]
            if found != wanted:
                pairs = enumerate(zip(wanted, found, strict=True))
                wrong = next(n for n, (a, b) in pairs if a != b)
                here = slice(wrong, wrong + 16)
                raise ContentsDiffer(image.path, address + at + wrong, wanted[here], found[here])
            at += len(found)
            done += len(found)
            job.reporter.reading(image.path.name, done, total)


@click.command()
@click.argument("what", metavar="WHAT...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Show what would be erased, and change nothing.")
@job_options
def erase(job: Job, what: Sequence[str], *, dry_run: bool) -> None:
    """Erase the sectors that hold an ADDRESS, START+LENGTH or START-LAST; or a device.

    WHAT may also be `internal`, `external` or `all`. The core stays halted.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    devices = {"internal", "external", "all"} & set(what)
    spans = [address_range(text) for text in what if text not in devices]
    possible = merge(job.possible_flash())
    for span in spans:
        if not any(span in place for place in possible):
            raise UsageError(
                f"{span} is not in flash",
                hint="flash can be at " + ", ".join(str(place) for place in possible),
            )
    if "external" in devices and not job.loaders:
        raise UsageError("there is no external flash", hint="give its loader with --extload")
    with job.machine(resume=dry_run) as machine:
        wanted = Download()
        for region in machine.programmer.regions():
            if devices & {"all", "internal" if region.span in INTERNAL_FLASH else "external"}:
                wanted.erase(region.span)
        for span in spans:
            wanted.erase(span)
        if dry_run:
            job.reporter.plan(machine.programmer.preview(wanted))
            return
        job.carry_out(machine.programmer.carry_out(wanted))
    job.reporter.say("done: erased", event="done")


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
@job_options
def read(job: Job, address: str, length: str, output: Path) -> None:
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
    with job.machine() as machine:
        data = bytearray()
        for piece in machine.programmer.read(span):
            data += piece
            job.reporter.reading(output.name, len(data), len(span))
    try:
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {output}") from error
    job.reporter.say(f"{output}: {len(span)} bytes of {span}", event="done", bytes=len(span))


@click.command()
@job_options
def info(job: Job) -> None:
    """Describe probe, chip, option bytes and flash devices, and which sectors are in use.

    The program is restarted; with --connect halt it is stopped for a moment, and goes on.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    with job.machine() as machine:
        for line in describe_chip(machine.target):
            name, _, text = line.partition("  ")
            job.reporter.say(line, event="info", name=name, value=text.strip())
        if machine.programmer.has_loaders:
            found = machine.programmer.describe_external()
            job.reporter.say(
                f"external flash  {found}", event="info", name="external flash", value=found
            )
        for name, value in describe_option_bytes(machine.target):
            job.reporter.say(f"option bytes    {name}: {value}", event="option", **{name: value})
        everything = Download()
        for region in machine.programmer.regions():
            everything.erase(region.span)
        for change in machine.programmer.preview(everything):
            used = merge([sector.sector for sector in change.left.sectors])
            region = change.wanted.region
            text = ", ".join(str(span) for span in used) or "nothing"
            job.reporter.say(
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
@job_options
def reset(job: Job, *, halt: bool) -> None:
    """Reset the chip, and let its program run.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    with job.machine(resume=not halt) as machine:
        machine.target.reset(halt=halt)
    job.reporter.say("reset", event="done")
