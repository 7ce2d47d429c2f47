"""The command line: ``stm32-gdbserver`` serves GDB.

Exit status: 0 after a session, or a signal that asked the server to end; 1 when something
failed; 2 when the command line asks for what cannot be.  A failure is told in three parts, as
`errors` makes them: what failed and where, why, and what to do.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gdbserver.chip.stm32h743 import QUADSPI_PINS
from gdbserver.errors import GdbServerError, UsageError, explain
from gdbserver.flash.programmer import LoaderSource, Programmer, builtin
from gdbserver.server.monitor import describe_chip
from gdbserver.server.serve import Machine, serve
from gdbserver.target.target import Connect, Target

log = logging.getLogger(__name__)

DEFAULT_PORT = 61234  # ST-LINK_gdbserver's, which launch configurations already name
DEFAULT_PINS = "CLK=PB2,NCS=PB6,IO0=PF8,IO1=PF9,IO2=PF7,IO3=PF6"

# A probe's serial number may hold capitals and digits only; these names never look like one.
_SIMULATED = re.compile(r"sim(:.*)?")


class Frequency(click.ParamType[int]):
    """Hertz, with k or M behind the number where that is shorter."""

    name = "HZ"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", str(value))
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no frequency; try 4M or 4000000", param, ctx)
        return round(float(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]])


class Pins(click.ParamType[dict[str, str]]):
    """Which pin carries which QUADSPI signal."""

    name = "PINS"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pins: dict[str, str] = {}
        for part in str(value).upper().split(","):
            signal, _, pin = part.partition("=")
            if signal not in QUADSPI_PINS:
                self.fail(f"{part!r} names none of {', '.join(QUADSPI_PINS)}", param, ctx)
            choice = QUADSPI_PINS[signal]
            if pin not in choice:
                self.fail(f"{signal} cannot be on {pin or 'no pin'}, only on {', '.join(choice)}")
            pins[signal] = pin
        missing = [signal for signal in QUADSPI_PINS if signal not in pins]
        if missing:
            self.fail(f"{', '.join(missing)} missing; for example {DEFAULT_PINS}", param, ctx)
        return pins


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--probe",
    metavar="UID",
    help="The debug probe, by pyOCD unique id, or a part of it; `sim` is the simulated board. "
    "Not needed when one probe is connected.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True)
@click.option("--listen", metavar="ADDRESS", default="localhost", show_default=True)
@click.option(
    "--port-file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the port's number there once it is open; with --port 0, how scripts find it.",
)
@click.option(
    "--extload",
    "loaders",
    metavar="FILE|builtin",
    multiple=True,
    help="External loader for flash on the QSPI; repeatable. `builtin` is our own, which is "
    "the default for the simulated board.",
)
@click.option(
    "--qspi-pins",
    type=Pins(),
    default=DEFAULT_PINS,
    show_default=True,
    help="Where the NOR is connected; for the built-in loader.",
)
@click.option(
    "--connect",
    type=click.Choice([mode.value for mode in Connect]),
    default=Connect.UNDER_RESET.value,
    show_default=True,
    help="under-reset: reset and stop before the first instruction. halt: stop where it is. "
    "attach: let it run.",
)
@click.option("--frequency", type=Frequency(), help="SWD clock: 4M, 1800k; the probe's default.")
@click.option("--persistent", is_flag=True, help="Go on serving when the last client has left.")
@click.option("-v", "--verbose", is_flag=True, help="Log every packet.")
@click.version_option(package_name="stm32-gdbserver")
def command(
    *,
    probe: str | None,
    port: int,
    listen: str,
    port_file: Path | None,
    loaders: Sequence[str],
    qspi_pins: dict[str, str],
    connect: str,
    frequency: int | None,
    persistent: bool,
    verbose: bool,
) -> None:
    """Serve GDB on an STM32H743 with programs in internal flash and QSPI NOR.

    In GDB:  target extended-remote localhost:61234,  load,  continue
    """
    _set_up_logging(verbose)
    if not loaders and probe is not None and _SIMULATED.fullmatch(probe):
        loaders = ["builtin"]
    sources = [_loader(name, qspi_pins) for name in loaders]

    def open_machine() -> Machine:
        target = Target.open(probe, connect=Connect(connect), frequency=frequency)
        try:
            programmer = Programmer(target, sources)
            for line in _describe(target, programmer, Connect(connect)):
                click.echo(line)
        except BaseException:
            target.close()
            raise
        return Machine(target, programmer)

    def on_listening(actual_port: int) -> None:
        if port_file is not None:
            _write_whole(port_file, f"{actual_port}\n")
        # Eclipse's adapter waits for the first of these lines, cortex-debug for the second.
        click.echo(f"Listening on port {actual_port}")
        click.echo("Waiting for debugger connection...")

    serve(open_machine, host=listen, port=port, persistent=persistent, on_listening=on_listening)


def _loader(name: str, pins: dict[str, str]) -> LoaderSource:
    if name == "builtin":
        return builtin(pins)
    path = Path(name)
    if not path.is_file():
        error = UsageError(f"no external loader {name}")
        error.hint = "give the path of a .stldr file, or `builtin` for our own loader"
        raise error
    return path


def _describe(target: Target, programmer: Programmer, connect: Connect) -> list[str]:
    """What was found.  Asking the NOR takes the core; a program that runs is left alone."""
    if not programmer.has_loaders:
        external = "none: give --extload, or nothing at 0x90000000 can be programmed"
    elif connect is Connect.ATTACH:
        external = "not asked, because the program runs on"
    else:
        external = programmer.describe_external()
    return [*describe_chip(target), f"external flash  {external}"]


def _write_whole(path: Path, text: str) -> None:
    """So that a script which waits for the file never reads half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"cannot write the port's number to {path}") from error


def _set_up_logging(verbose: bool) -> None:
    """What users do, a line each, to standard error; with -v all that is said on the wire."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain() if not verbose else logging.Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger("gdbserver").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("gdbserver.sim").setLevel(logging.INFO if verbose else logging.ERROR)
    logging.getLogger("pyocd").setLevel(logging.INFO if verbose else logging.CRITICAL)


class _Plain(logging.Formatter):
    """Information as it is; anything worse says what it is."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def main() -> None:
    """The console script."""
    try:
        command.main(prog_name="stm32-gdbserver", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except GdbServerError as error:
        what, *more = explain(error)
        click.echo(f"error: {what}", err=True)
        for line in more:
            click.echo(f"  {line}", err=True)
        sys.exit(error.exit_status)
