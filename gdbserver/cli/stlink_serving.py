"""Serving GDB as ``ST-LINK_gdbserver``: its options, and its milestones on the console."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from gdbserver.chip.memory import FlashRegion, merge
from gdbserver.chip.stm32h743 import INTERNAL_FLASH
from gdbserver.cli.options import chosen_wiring, names_the_simulator
from gdbserver.cli.stlink import BUILTIN, DEFAULT_PORT, cause_and_hint
from gdbserver.cli.stlink_options import Arguments
from gdbserver.errors import FlashError, GdbServerError
from gdbserver.flash.machine import Machine
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import load_loader
from gdbserver.server.observer import Observer
from gdbserver.server.start import Options, SwoOptions, serve
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target

WAITING = "Waiting for debugger connection..."


def serve_gdb(arguments: Arguments) -> None:
    """Open the machine, tell what it is, and serve it.

    Raises: GdbServerError.
    """
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
        Options(
            host="localhost",
            port=arguments.number("port-number", DEFAULT_PORT),
            persistent=persistent,
            erase_all="erase-all" in arguments,
            init_external=init,
            observer=Console(persistent=persistent),
            swo=_swo(arguments),
        ),
        on_listening,
    )


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
        yield from cause_and_hint(error)


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
            kind = "internal" if step.region.span in INTERNAL_FLASH else "external"
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
        for line in cause_and_hint(failure):
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
            if (region.span in INTERNAL_FLASH) != (kind == "internal"):
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
