"""The command line: ``stm32-gdbserver`` serves GDB, or does what its subcommand says.

Exit status: 0 after a session, or a signal that asked the server to end; 1 when something
failed; 2 when the command line asks for what cannot be.  A failure is told in three parts, as
`errors` makes them: what failed and where, why, and what to do.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
from click.core import ParameterSource

from gdbserver.cli.options import (
    Frequency,
    chosen_wiring,
    load_loader,
    names_the_simulator,
    probe_options,
    verify_option,
    wiring_options,
)
from gdbserver.errors import GdbServerError, UsageError, explain
from gdbserver.flash.programmer import Programmer, Verify
from gdbserver.program.known import KnownProgram
from gdbserver.server.monitor import describe_chip
from gdbserver.server.serve import Machine, SwoOptions, serve
from gdbserver.target.target import Connect, Target

log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as shells have it
DEFAULT_PORT = 61234  # ST-LINK_gdbserver's, which launch configurations already name


_MODULES = {
    **dict.fromkeys(("flash", "verify", "erase", "read", "info", "reset"), "flash"),
    "coredump": "core_dump",
    "loader": "loader",
    "run": "run",
}
"""Where each subcommand is."""


class _Commands(click.Group):
    """Subcommands that are loaded when somebody asks for them: a server starts the sooner."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"gdbserver.cli.{_MODULES[cmd_name]}")
        found: click.Command = getattr(module, cmd_name)
        return found


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@probe_options
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True)
@click.option(
    "--listen",
    metavar="ADDRESS|unix:PATH",
    default="localhost",
    show_default=True,
    help="Where: an address of this machine, or a Unix socket.",
)
@click.option(
    "--stdio",
    is_flag=True,
    help="Serve standard input and output: target extended-remote | stm32-gdbserver --stdio",
)
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
    "the default when its pins are given, and for the simulated board.",
)
@wiring_options
@verify_option
@click.option(
    "--elf",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The program on the chip: a GDB that was given no file gets it, and RTT and an RTOS are "
    "found by its symbols.",
)
@click.option(
    "--semihosting-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Let the program open files in this folder, by semihosting.",
)
@click.option(
    "--rtt-port",
    type=click.IntRange(0, 65520),
    metavar="PORT",
    help="Serve the program's RTT channel 0 at this port, and channel n at PORT + n; 0 picks.",
)
@click.option(
    "--swo-port",
    type=click.IntRange(0, 65534),
    metavar="PORT",
    help="Serve SWO there: trace packets at PORT, what is printed to ITM port 0 at PORT + 1.",
)
@click.option(
    "--swo-clock",
    type=Frequency(),
    help="The trace clock, for --swo-port: what the program has at output R of PLL1.",
)
@click.option(
    "--swo-baud", type=Frequency(), default=2_000_000, help="How fast SWO is.  [default: 2M]"
)
@click.option("--persistent", is_flag=True, help="Go on serving when the last client has left.")
@click.option("-v", "--verbose", is_flag=True, help="Log every packet.")
@click.version_option(package_name="stm32-gdbserver")
@click.pass_context
def command(
    context: click.Context,
    *,
    probe: str | None,
    port: int,
    listen: str,
    stdio: bool,
    port_file: Path | None,
    loaders: Sequence[str],
    qspi_pins: dict[str, str] | None,
    board: str | None,
    connect: str,
    frequency: int | None,
    verify: Verify,
    elf: Path | None,
    semihosting_dir: Path | None,
    rtt_port: int | None,
    swo_port: int | None,
    swo_clock: int | None,
    swo_baud: int,
    persistent: bool,
    verbose: bool,
) -> None:
    """Serve GDB on an STM32H743 with programs in internal flash and QSPI NOR.

    In GDB:  target extended-remote localhost:61234,  load,  continue
    """
    _set_up_logging(verbose)
    if context.invoked_subcommand is not None:
        _check_nothing_to_serve(context)
        return
    if not loaders and (names_the_simulator(probe) or qspi_pins or board):
        loaders = ["builtin"]
    wiring = chosen_wiring(qspi_pins, board)
    loaded = [load_loader(name, wiring) for name in loaders]

    program = None if elf is None else KnownProgram(elf)
    path = Path(listen.removeprefix("unix:")) if listen.startswith("unix:") else None

    def open_machine() -> Machine:
        target = Target.open(probe, connect=Connect(connect), frequency=frequency)
        try:
            programmer = Programmer(target, loaded, verify=verify)
            for line in _describe(target, programmer, Connect(connect)):
                click.echo(line)
            if program is not None:
                click.echo(f"program         {program.path}")
        except BaseException:
            target.close()
            raise
        return Machine(target, programmer)

    def on_listening(actual_port: int) -> None:
        if port_file is not None:
            _write_whole(port_file, f"{actual_port}\n")
        if stdio:
            return
        # Eclipse's adapter waits for the first of these lines, cortex-debug for the second.
        click.echo(f"Listening on {listen if path else f'port {actual_port}'}")
        click.echo("Waiting for debugger connection...")

    serve(
        open_machine,
        host=listen,
        port=port,
        path=path,
        stdio=stdio,
        persistent=persistent,
        semihosting_dir=semihosting_dir,
        rtt_port=rtt_port,
        swo=_swo(swo_port, swo_clock, swo_baud),
        program=program,
        on_listening=on_listening,
    )


def _swo(port: int | None, clock: int | None, baud: int) -> SwoOptions | None:
    """Raises: UsageError for a port without a clock."""
    if port is None:
        return None
    if clock is None:
        error = UsageError("--swo-port needs --swo-clock: the chip does not tell how fast it is")
        error.hint = "for example --swo-clock 100M, what the program has at output R of PLL1"
        raise error
    return SwoOptions(port, clock, baud, text_port=port and port + 1)


def _check_nothing_to_serve(context: click.Context) -> None:
    """Options before a subcommand would be lost on it; --verbose is for all.

    Raises: UsageError for one that is there.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name != "verbose":
            error = UsageError(
                f"{parameter.opts[0]} is for serving, and {context.invoked_subcommand} does not"
            )
            error.hint = "options of a subcommand go behind it"
            raise error


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
        status = command.main(prog_name="stm32-gdbserver", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C, in anything but a server
        click.echo("interrupted", err=True)
        sys.exit(_INTERRUPTED)
    except GdbServerError as error:
        what, *more = explain(error)
        click.echo(f"error: {what}", err=True)
        for line in more:
            click.echo(f"  {line}", err=True)
        sys.exit(error.exit_status)
    sys.exit(status)
