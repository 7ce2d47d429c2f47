"""``stm32-gdbserver loader …``: for people who write, choose, or mistrust external loaders.

Exit status of each: 0 when the loader is good, 1 when it is not, 2 when the command line asks for
what cannot be.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from gdbserver.chip.stm32h743 import MIB
from gdbserver.cli_options import chosen_wiring, wiring_options
from gdbserver.flash import board_file, loader_check
from gdbserver.flash.own_loader import export as export_loader

_FILES = click.Path(dir_okay=False, path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")


@click.group()
def loader() -> None:
    """Check, describe, test and export external loaders."""
    # What is odd about a file is in the reports.
    logging.getLogger("gdbserver.flash.loader_file").setLevel(logging.ERROR)


@loader.command()
@click.argument("files", metavar="FILE...", type=_FILES, nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Count remarks as failure, too.")
@_as_json
@click.pass_context
def check(context: click.Context, files: Sequence[Path], *, strict: bool, as_json: bool) -> None:
    """Say whether loaders can work, from their files alone.

    A file is refused for what cannot work: no entry points, no RAM where it is linked, no
    sectors. Remarks are for what is odd, and for what its code does to the rest of the chip:
    it starts SysTick, moves the vector table, lets interrupts in. stm32-gdbserver copes with all
    of that; other tools may not.

    Exit status: 0 when every file can work, 1 when one cannot.
    """
    reports = [loader_check.check(file) for file in files]
    if as_json:
        click.echo(json.dumps([report.document() for report in reports], indent=2))
    else:
        for report in reports:
            for line in report.lines():
                click.echo(line)
    if not all(report.clean if strict else report.ok for report in reports):
        context.exit(1)


@loader.command()
@click.argument("files", metavar="FILE...", type=_FILES, nargs=-1, required=True)
@_as_json
def info(files: Sequence[Path], *, as_json: bool) -> None:
    """Describe loaders: flash geometry, RAM, routines, symbols."""
    found = [loader_check.info(file) for file in files]
    if as_json:
        click.echo(json.dumps([one.document() for one in found], indent=2))
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        for line in one.lines():
            click.echo(line)


@loader.command()
@wiring_options
@click.option(
    "--size",
    metavar="MIB",
    type=int,
    help="Size of the NOR, in MiB; 32 when neither this nor the board says it.",
)
@click.argument("file", metavar="NAME.stldr", type=_FILES)
def export(
    file: Path, *, qspi_pins: dict[str, str] | None, board: str | None, size: int | None
) -> None:
    """Write the built-in loader as a file for STM32CubeProgrammer.

    The name of the file is also the name of the device, as STM32CubeProgrammer wants it.
    """
    wiring = chosen_wiring(qspi_pins, board)
    if size is not None:
        wiring = replace(wiring, size=board_file.checked_size(size * MIB))
    written = export_loader(wiring, file)
    click.echo(f"{file}: {written.region}, bank {wiring.bank} of the QUADSPI")


@loader.command()
def boards() -> None:
    """List the boards whose wiring is known, and where it is taken from."""
    for name in board_file.shipped():
        wiring = board_file.load_board(name)
        click.echo(f"{name:20} {wiring.nor:10} {wiring.name}")
        click.echo(f"{'':31} {wiring.source}")
