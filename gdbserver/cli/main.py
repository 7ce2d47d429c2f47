"""The command line: ``stm32-gdbserver`` serves GDB, or does what its subcommand says.

Exit status: 0 after a session, or a signal that asked the server to end; 1 when something
failed; 2 when the command line asks for what cannot be.  A failure is told in three parts, as
`errors` makes them: what failed and where, why, and what to do.

Here is what can be said without a chip: words, and help.  Whatever takes pyOCD or trio is
imported when it is asked for.
"""

from __future__ import annotations

import logging
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from gdbserver.cli.options import Frequency, MachineOptions, machine_options, verify_option
from gdbserver.errors import GdbServerError, UsageError, explain
from gdbserver.imports import imports_kept

log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as shells have it
DEFAULT_PORT = 61234  # ST-LINK_gdbserver's, which launch configurations already name


_COMMANDS = {
    "coredump": (
        "core_dump",
        "Write registers, all RAM and harmless peripherals into FILE, an ELF core for GDB.",
    ),
    "erase": (
        "flash",
        "Erase the sectors that hold an ADDRESS, START+LENGTH or START-LAST; or a device.",
    ),
    "flash": ("flash", "Program files: ELF, Intel HEX, S-records, or bytes at an ADDRESS."),
    "info": (
        "flash",
        "Describe probe, chip, option bytes and flash devices, and which sectors are in use.",
    ),
    "loader": ("loader", "Check, describe, test and export external loaders."),
    "read": (
        "flash",
        "Read LENGTH bytes at ADDRESS, of flash or of any other memory, into a file.",
    ),
    "reset": ("flash", "Reset the chip, and let its program run."),
    "run": ("run", "Program files, run them, print what they say, and exit as they do."),
    "verify": ("flash", "Compare flash with files, byte by byte, and change nothing."),
}
"""Where each subcommand is, and the first sentence of its help."""


class _Commands(click.Group):
    """Subcommands that are loaded when somebody asks for them, and not to be listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        with imports_kept():
            found: click.Command = getattr(import_module(f"gdbserver.cli.{module}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@machine_options
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
    context: click.Context, machine: MachineOptions, /, *, verbose: bool, **serving: Any
) -> None:
    """Serve GDB on an STM32H743 with programs in internal flash and QSPI NOR.

    In GDB:  target extended-remote localhost:61234,  load,  continue
    """
    _set_up_logging(verbose)
    if context.invoked_subcommand is not None:
        _check_nothing_to_serve(context)
        return
    with imports_kept():
        from gdbserver.cli.serving import serve_gdb  # noqa: PLC0415  # it imports pyOCD
    serve_gdb(machine, **serving)  # a parameter for each option above


def _check_nothing_to_serve(context: click.Context) -> None:
    """Options before a subcommand would be lost on it; --verbose is for all.

    Raises: UsageError for one that is there.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name != "verbose":
            option, subcommand = parameter.opts[0], context.invoked_subcommand
            raise UsageError(
                f"{option} stands before {subcommand}, where the server's options go",
                hint=f"put it behind: stm32-gdbserver {subcommand} {option} ...",
            )


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


def leave(status: int | None) -> NoReturn:
    """End the process with `status`, also when a signal asks for that while it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


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
    leave(status)
