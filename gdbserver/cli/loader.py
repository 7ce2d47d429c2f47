"""``stm32-gdbserver loader …``: for people who write, choose, or mistrust external loaders.

Exit status of each: 0 when the loader is good, 1 when it is not, 2 when the command line asks for
what cannot be.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import MIB
from gdbserver.cli.options import chosen_wiring, probe_options, wiring_options
from gdbserver.errors import UsageError
from gdbserver.loader import board_file
from gdbserver.loader import check as loader_check
from gdbserver.loader.checklist import LoaderTest, Outcome, Result
from gdbserver.loader.own import export as export_loader
from gdbserver.loader.own import load_loader
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

_FILES = click.Path(dir_okay=False, path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")


@click.group()
def loader() -> None:
    """Check, describe, test and export external loaders."""
    # What is odd about a file is in the reports.
    logging.getLogger("gdbserver.loader.file").setLevel(logging.ERROR)


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
@probe_options
@wiring_options
@click.option("--thorough", is_flag=True, help="Mass erase, too: takes minutes, and all contents.")
@click.option("--only", metavar="TEXT", default="", help="Checks with TEXT in their name.")
@click.option("--keep", is_flag=True, help="Put back, at the end, what the flash held before.")
@click.option("--yes", is_flag=True, help="Do not ask before something is erased.")
@_as_json
@click.argument("file", metavar="FILE|builtin")
@click.pass_context
def test(
    context: click.Context,
    file: str,
    *,
    probe: str | None,
    connect: str,
    frequency: int | None,
    qspi_pins: dict[str, str] | None,
    board: str | None,
    thorough: bool,
    only: str,
    keep: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Try a loader on the connected board, and print what works.

    Erases and programs a few sectors of the external flash: the first two, one in the middle, those
    around 16 MiB, the last. It names them and asks first, except on the simulated board. With
    --keep their contents are put back at the end, by the loader that is being tested.

    Exit status: 0 when nothing failed, 1 when something did.
    """
    chosen = load_loader(file, chosen_wiring(qspi_pins, board))
    target = Target.open(probe, connect=Connect(connect), frequency=frequency)
    try:
        target.halt()
        results: list[Result] = []
        tests = LoaderTest(target, chosen, thorough=thorough, only=only)
        for result in _test_results(tests, keep, yes):
            if not as_json:
                _print(result, first=all(r.outcome != "failed" for r in results))
            results.append(result)
    finally:
        target.close()
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    failed = [result for result in results if result.outcome == "failed"]
    if not as_json:
        click.echo(f"{chosen.path.name}: {_summary(results)}")
    if failed:
        context.exit(1)


def _print(result: Result, *, first: bool) -> None:
    """A line; below it, for the first failure only, what else is known: others look the same."""
    click.echo(f"{result.outcome:8}{result.seconds:9.3f} s  {result.name:40}{result.detail}")
    for line in result.more if first else ():
        click.echo(f"{'':21}{line}")


def _test_results(loader_test: LoaderTest, keep: bool, yes: bool) -> Iterator[Result]:
    yield loader_test.meet()
    if not loader_test.works:
        yield from loader_test.run()
        return
    if not (yes or loader_test.simulated):
        _ask(loader_test.touched(), keep)
    contents = loader_test.contents() if keep else {}
    try:
        yield from loader_test.run()
    except BaseException:
        if contents:
            loader_test.put_back(contents)
        raise
    if contents:
        yield loader_test.put_back(contents)


def _ask(touched: Sequence[Span], keep: bool) -> None:
    """Raises: UsageError, unless somebody says yes."""
    where = ", ".join(str(span) for span in touched)
    if sys.stdin.isatty():
        after = "; their contents are put back afterwards" if keep else ""
        if click.confirm(f"The test erases {where}{after}. Go on?", err=True):
            return
        raise UsageError("nothing was erased")
    raise UsageError(
        f"the test erases {where}",
        hint="say --yes if that may be, and --keep if the contents shall be put back",
    )


def _summary(results: Sequence[Result]) -> str:
    counts = Counter(result.outcome for result in results)
    words: dict[Outcome, str] = {
        "ok": "passed",
        "remark": "passed with a remark",
        "failed": "failed",
        "skipped": "skipped",
    }
    return ", ".join(f"{counts[key]} {word}" for key, word in words.items() if counts[key])


@loader.command()
@wiring_options
@click.option(
    "--size",
    metavar="MIB",
    type=int,
    help="Size of the NOR, of two side by side together, in MiB; 32 for each when neither this nor "
    "the board says it.",
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
    click.echo(f"{file}: {written.region}, {wiring.place}")


@loader.command()
def boards() -> None:
    """List the boards whose wiring is known, and where it is taken from."""
    for name in board_file.shipped():
        wiring = board_file.load_board(name)
        click.echo(f"{name:20} {wiring.nor:10} {wiring.name}")
        click.echo(f"{'':31} {wiring.source}")
