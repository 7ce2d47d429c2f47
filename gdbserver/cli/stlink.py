"""``ST-LINK_gdbserver``, for what starts it: options, console lines, exit status.

IDEs know ST's server by its options and by a few lines on its console, and wait for some of
them.  What goes on behind is this program; so each of its complaints is followed by what failed,
why, and what to do.

Exit status: 0 after a session, a signal or a list; 1 when something failed or the command line
cannot be.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import click

from gdbserver.chip import stm32h743
from gdbserver.cli.main import leave
from gdbserver.cli.stlink_options import OPTIONS, Arguments, ParseError, parse
from gdbserver.errors import (
    CannotListen,
    GdbServerError,
    NoSuchProbe,
    ProbeError,
    UsageError,
    explain,
)
from gdbserver.imports import imports_kept
from gdbserver.loader.board_file import shipped

DEFAULT_PORT = 61234
BUILTIN = "builtin"
_AS_OF = "7.11.0"  # the version whose options and lines these are
_ERRORS, _EVERYTHING = 1, 31  # log levels


def main() -> None:
    """The console script."""
    leave(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Do what a command line asks; the exit status."""
    arguments = Arguments()
    try:
        arguments = parse(words)
        if (lines := _lists(arguments)) is not None:
            for line in lines:
                click.echo(line)
            return 0
        _set_up_logging(arguments)
        for line in [*_banner(), "", *_settings(arguments), ""]:
            click.echo(line)
        with imports_kept():
            from gdbserver.cli.stlink_serving import serve_gdb  # noqa: PLC0415  # it imports pyOCD
        serve_gdb(arguments)
        click.echo("Shutting down...")
    except ParseError as error:
        click.echo(f"{error}\n", err=True)
        click.echo("For complete USAGE and HELP type:\n   ST-LINK_gdbserver --help", err=True)
        return error.exit_status
    except GdbServerError as error:
        for line in _complaint(error, arguments):
            click.echo(line, err=True)
        return 1
    return 0


# --- What stands on the console ------------------------------------------------------------------


def _banner() -> list[str]:
    ours = version("stm32-gdbserver")
    return ["", f"ST-LINK GDB server. Version {_AS_OF}, as played by stm32-gdbserver {ours}"]


def _settings(arguments: Arguments) -> Iterator[str]:
    def line(name: str, value: object) -> str:
        return f"        {name:27}: {value}"

    def switch(long: str) -> str:
        return "Enabled" if long in arguments else "Disabled"

    yield "Starting server with the following options:"
    yield line("Persistent Mode", switch("persistent"))
    if "log-file" in arguments:
        yield line("LogFile Name", arguments.text("log-file"))
    yield line("Logging Level", arguments.number("log-level", _ERRORS))
    yield line("Listen Port Number", arguments.number("port-number", DEFAULT_PORT))
    yield line("Status Refresh Delay", f"{arguments.number('refresh-delay', 15)}s")
    yield line("Verbose Mode", switch("verbose"))
    yield line("SWD Debug", "Enabled")
    if "initialize-reset" in arguments:
        yield line("InitWhile", "Enabled")
    if "attach" in arguments:
        yield line("Attach Mode", "Enabled")
    for name in arguments.all("extload"):
        yield line("External Loader", name)


_THEIR_OPTIONS = {"--probe": "-i", "--port": "-p"}
"""Options that a hint of ours may name, as they are called here."""


def cause_and_hint(error: GdbServerError) -> Iterator[str]:
    """Our cause and hint, below what ST's tools say."""
    for number, line in enumerate(explain(error)):
        told = f"  {'cause: ' if number == 0 else ''}{line}"
        yield re.sub("--probe|--port", lambda option: _THEIR_OPTIONS[option[0]], told)


def _complaint(error: GdbServerError, arguments: Arguments) -> Iterator[str]:
    """Why the server did not start: ST's words, which scripts look for, and then ours."""
    ours = list(cause_and_hint(error))
    if isinstance(error, CannotListen):
        port = arguments.number("port-number", DEFAULT_PORT)
        yield f"Failure starting GDB server: TCP port {port} not available."
    elif isinstance(error, UsageError):
        yield f"Error: {error}"
        del ours[0]  # which says the same
    else:
        serial = arguments.text("serial-number")
        yield "Error in initializing ST-LINK device."
        if isinstance(error, NoSuchProbe):
            yield f"Reason: ST-LINK: {serial} not found."
        elif isinstance(error, ProbeError):
            yield "Reason: Failed to connect to device. Please check power and cabling to target."
        else:
            yield "Reason: Unknown. Please check power and cabling to target."
    yield from ours


def _set_up_logging(arguments: Arguments) -> None:
    level = arguments.number("log-level", _ERRORS)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if (file := arguments.text("log-file")) is not None:
        try:
            handlers.append(logging.FileHandler(file))
        except OSError as error:
            raise UsageError(f"cannot write the log file {file}") from error
    if level >= _EVERYTHING:
        threshold = logging.DEBUG
    elif level > _ERRORS or "verbose" in arguments:
        threshold = logging.INFO
    else:
        threshold = logging.ERROR if level else logging.CRITICAL
    logging.basicConfig(level=threshold, handlers=handlers, format="%(levelname)s: %(message)s")
    logging.getLogger("gdbserver.sim").setLevel(logging.ERROR)
    logging.getLogger("pyocd").setLevel(logging.CRITICAL)


# --- Lists, after which it exits ------------------------------------------------------------------


def _lists(arguments: Arguments) -> list[str] | None:
    if "help" in arguments:
        return [*_banner(), "", *_help()]
    if "version" in arguments:
        return _banner()
    if "licenses" in arguments:
        return [*_banner(), "", "MIT; see the file LICENSE of stm32-gdbserver"]
    if "debuggers" in arguments:
        from gdbserver.target.probes import connected_probes  # noqa: PLC0415  # it imports pyOCD

        probes = [f"{uid}  {name}" for uid, name in connected_probes()]
        return probes or ["No debug probe detected."]
    if "ext-memory-loaders" in arguments:
        return [BUILTIN, *(f"{BUILTIN}:{board}" for board in shipped())]
    if (device := arguments.text("memory-map")) is not None:
        return list(_memory_map(device))
    return None


def _help() -> Iterator[str]:
    yield "Usage: ST-LINK_gdbserver [OPTIONS]"
    yield ""
    for option in OPTIONS:
        short = f"-{option.short}," if option.short else ""
        takes = f" <{option.takes}>" if option.takes else ""
        note = f" (accepted: {option.ignored})" if option.ignored else ""
        yield f"  {short:4} --{option.long + takes:34} {option.help}{note}"


def _memory_map(device: str) -> Iterator[str]:
    try:
        known = int(device, 16) == stm32h743.DEVICE_ID
    except ValueError:
        known = False
    if not known:
        raise UsageError(
            f"no memory map for device {device}",
            hint=f"this server is for device {stm32h743.DEVICE_ID:#05x}",
        )
    everything = stm32h743.memory_map((stm32h743.bank(1), stm32h743.bank(2)))
    rows = [(region.span, region.kind.value, region.name) for region in everything.regions]
    rows += [(flash.span, "flash", flash.name) for flash in everything.flash]
    for span, kind, name in sorted(rows):
        yield f"{span}  {kind:5}  {name}"
