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
from pathlib import Path

import click

from gdbserver.chip import stm32h743
from gdbserver.chip.memory import FlashRegion, Span, merge
from gdbserver.cli.options import chosen_wiring, load_loader, names_the_simulator
from gdbserver.cli.stlink_options import OPTIONS, Arguments, ParseError, parse
from gdbserver.errors import (
    CannotListen,
    FlashError,
    GdbServerError,
    ProbeError,
    UsageError,
    explain,
)
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.loader.board_file import shipped
from gdbserver.loader.file import LoaderFile
from gdbserver.server.observer import Observer
from gdbserver.server.serve import Machine, SwoOptions, serve
from gdbserver.target.probes import connected_probes
from gdbserver.target.target import Connect, Target

DEFAULT_PORT = 61234
BUILTIN = "builtin"
_AS_OF = "7.11.0"  # the version whose options and lines these are
_ERRORS, _EVERYTHING = 1, 31  # log levels

WAITING = "Waiting for debugger connection..."


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Do what a command line asks; the exit status."""
    try:
        arguments = parse(words)
        if (lines := _lists(arguments)) is not None:
            for line in lines:
                click.echo(line)
            return 0
        _set_up_logging(arguments)
        _serve(arguments)
    except ParseError as error:
        click.echo(f"{error}\n", err=True)
        click.echo("For complete USAGE and HELP type:\n   ST-LINK_gdbserver --help", err=True)
        return error.exit_status
    except GdbServerError as error:
        for line in _complaint(error, parse(words)):
            click.echo(line, err=True)
        return 1
    return 0


# --- Serving ----------------------------------------------------------------------------------


def _serve(arguments: Arguments) -> None:
    for line in [*_banner(), "", *_settings(arguments), ""]:
        click.echo(line)
    for option, why in arguments.ignored():
        if "verbose" in arguments or option.long == "shared":
            click.echo(f"Note: {option} is accepted and changes nothing: {why}")
    probe = arguments.text("serial-number")
    loaders = _loaders(arguments, probe)
    if "attach" in arguments:
        connect = Connect.ATTACH
    else:
        connect = Connect.UNDER_RESET if "initialize-reset" in arguments else Connect.HALT
    kilohertz = arguments.number("frequency", -1)
    init = "external-init" in arguments or "extload_init" in arguments

    def open_machine() -> Machine:
        frequency = kilohertz * 1000 if kilohertz > 0 else None
        target = Target.open(probe, connect=connect, frequency=frequency)
        try:
            if connect is Connect.HALT:
                target.reset(halt=True)
            programmer = Programmer(target, loaders)
            for line in _device(target):
                click.echo(line)
            if connect is not Connect.ATTACH:
                for line in _external(programmer, init=init):
                    click.echo(line)
        except BaseException:
            target.close()
            raise
        return Machine(target, programmer)

    def on_listening(port: int) -> None:
        click.echo(f"GDB server listening on port {port} (core 0)")
        click.echo(WAITING)

    persistent = "persistent" in arguments
    serve(
        open_machine,
        host="localhost",
        port=arguments.number("port-number", DEFAULT_PORT),
        persistent=persistent,
        erase_all="erase-all" in arguments,
        init_external=init,
        observer=Console(persistent=persistent),
        swo=_swo(arguments),
        on_listening=on_listening,
    )
    click.echo("Shutting down...")


def _swo(arguments: Arguments) -> SwoOptions | None:
    """IDEs name a port always, and a clock where SWO is wanted."""
    clock = arguments.number("cpu-clock", 0)
    if clock <= 0:
        return None
    port = arguments.number("swo-port", DEFAULT_PORT + 1)
    return SwoOptions(port, clock, clock // max(1, arguments.number("swo-clock-div", 128)))


def _loaders(arguments: Arguments, probe: str | None) -> list[LoaderFile]:
    names = [*arguments.all("extload"), *arguments.all("extload_init")]
    if not names and names_the_simulator(probe):
        names = [BUILTIN]
    programmer = arguments.text("stm32cubeprogrammer-path")
    folders = [Path(programmer) / "ExternalLoader"] if programmer else []
    return [_loader(name, folders) for name in dict.fromkeys(names)]


def _loader(name: str, folders: Sequence[Path]) -> LoaderFile:
    """A loader by its path, or by its name in one of `folders`; or ours, for a board of ours."""
    own, _, board = name.partition(":")
    if own == BUILTIN:
        return load_loader(own, chosen_wiring(None, board or None))
    path = next((f / name for f in [Path(), *folders] if (f / name).is_file()), Path(name))
    return load_loader(str(path), chosen_wiring(None, None))


def _external(programmer: Programmer, *, init: bool) -> Iterator[str]:
    """What there is besides internal flash.  A NOR that does not answer stops nobody yet."""
    if not programmer.has_loaders:
        return
    try:
        yield f"External    : {programmer.describe_external()}"
        if init:
            programmer.prepare_external_reads()
    except FlashError as error:
        yield "Failed to initialize external memory!"
        yield from _story(error)


# --- What stands on the console -----------------------------------------------------------------


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


def _device(target: Target) -> Iterator[str]:
    """The device report of ST's tools."""
    chip = target.chip
    kib = chip.flash_kib
    size = f"{kib // 1024} MBytes" if kib >= 1024 else f"{kib} KBytes"
    yield f"ST-LINK SN  : {target.probe_uid}"
    yield f"Device ID   : {chip.device_id:#05x}"
    yield f"Revision ID : Rev {chip.revision}"
    yield "Device name : STM32H7xx"
    yield f"Flash size  : {size}"
    yield "Device type : MCU"
    yield "Device CPU  : Cortex-M7"


class Console(Observer):
    """The milestones of a session, as ST's tools name them."""

    def __init__(self, *, persistent: bool) -> None:
        self._persistent = persistent
        self._download = Download()
        self._regions: Sequence[FlashRegion] = ()
        self._told: set[str] = set()

    def connected(self, client: str) -> None:
        click.echo("Debugger connected")

    def disconnected(self, client: str) -> None:
        click.echo("Debugger connection lost.")
        if self._persistent:
            click.echo(WAITING)

    def download_begins(self, download: Download, regions: Sequence[FlashRegion]) -> None:
        self._download, self._regions, self._told = download, regions, set()
        size = sum(len(span) for span, _ in download.writes)
        spans = merge([span for span, _ in download.writes])
        for line in (
            "",
            "Memory Programming ...",
            "Opening and parsing file: what GDB has sent",
            f"  Size          : {size / 1024:.2f} KB",
            *(f"  Address       : {span.start:#010x}" for span in spans),
            "",
        ):
            click.echo(line)

    def download_step(self, step: Step) -> None:
        if step.action == "erased":
            kind = "internal" if _is_internal(step.region) else "external"
            if self._first(kind):
                click.echo(f"Erasing {kind} memory sectors {self._sectors(kind)}")
        elif step.action == "programmed" and self._first("Download"):
            click.echo("Download in Progress:")

    def download_ends(self, failure: GdbServerError | None) -> None:
        if failure is None:
            done = "File download complete" if self._told else "Flash holds all of it already"
            for line in (done, "Download verified successfully"):
                click.echo(line)
            return
        number = self._failed_segment(failure)
        click.echo(f"Error: failed to download Segment[{number}]")
        click.echo("Error: failed to download the File")
        for line in _story(failure):
            click.echo(line)

    def _first(self, milestone: str) -> bool:
        if milestone in self._told:
            return False
        self._told.add(milestone)
        return True

    def _sectors(self, kind: str) -> str:
        """The first and the last one that the download names; those that are right already stay."""
        numbers = []
        first = 0
        for region in self._regions:
            if _is_internal(region) != (kind == "internal"):
                continue
            sectors = {sector for span in self._download.erases for sector in region.sectors(span)}
            for number, sector in enumerate(region.sectors(region.span)):
                if sector in sectors:
                    numbers.append(first + number)
            first += sum(count for count, _ in region.groups)
        return f"[{numbers[0]} {numbers[-1]}]"

    def _failed_segment(self, failure: GdbServerError) -> int:
        """The stretch of the download with the first address in the message, or the first one."""
        spans = merge([span for span, _ in self._download.writes])
        for address in re.findall(r"0x[0-9a-f]{8}", str(failure)):
            for number, span in enumerate(spans):
                if int(address, 16) in span:
                    return number
        return 0


def _is_internal(region: FlashRegion) -> bool:
    return bool(len(region.span & Span(stm32h743.BANK1.start, stm32h743.BANK2.end)))


def _story(error: GdbServerError) -> Iterator[str]:
    """Our cause and hint, below what ST's tools say."""
    for number, line in enumerate(explain(error)):
        yield f"  {'cause: ' if number == 0 else ''}{line}"


def _complaint(error: GdbServerError, arguments: Arguments) -> Iterator[str]:
    """Why the server did not start: ST's words, which scripts look for, and then ours."""
    if isinstance(error, CannotListen):
        port = arguments.number("port-number", DEFAULT_PORT)
        yield f"Failure starting GDB server: TCP port {port} not available."
    elif isinstance(error, UsageError):
        yield f"Error: {error}"
    else:
        serial = arguments.text("serial-number")
        yield "Error in initializing ST-LINK device."
        if isinstance(error, ProbeError) and "there is no debug probe" in str(error):
            yield f"Reason: ST-LINK: {serial} not found."
        elif isinstance(error, ProbeError):
            yield "Reason: Failed to connect to device. Please check power and cabling to target."
        else:
            yield "Reason: Unknown. Please check power and cabling to target."
    yield from _story(error)


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
        error = UsageError(f"no memory map for device {device}")
        error.hint = f"this server is for device {stm32h743.DEVICE_ID:#05x}"
        raise error
    everything = stm32h743.memory_map((stm32h743.bank(1), stm32h743.bank(2)))
    rows = [(region.span, region.kind.value, region.name) for region in everything.regions]
    rows += [(flash.span, "flash", flash.name) for flash in everything.flash]
    for span, kind, name in sorted(rows):
        yield f"{span}  {kind:5}  {name}"
