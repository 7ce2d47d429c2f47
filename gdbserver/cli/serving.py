"""Serving GDB, as the options of ``stm32-gdbserver`` say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from gdbserver.cli.options import chosen_wiring, names_the_simulator
from gdbserver.errors import UsageError
from gdbserver.flash.machine import Machine, describe_chip
from gdbserver.flash.programmer import Programmer, Verify
from gdbserver.loader.own import load_loader
from gdbserver.program.known import KnownProgram
from gdbserver.server.start import Options, SwoOptions, serve
from gdbserver.target.connect import Connect
from gdbserver.target.target import Target


def serve_gdb(
    *,
    probe: str | None,
    port: int,
    listen: str,
    stdio: bool,
    port_file: Path | None,
    loaders: Sequence[str],
    qspi_pins: dict[str, str] | None,
    board: str | None,
    connect: Connect,
    frequency: int | None,
    verify: Verify,
    elf: Path | None,
    semihosting_dir: Path | None,
    rtt_port: int | None,
    swo_port: int | None,
    swo_clock: int | None,
    swo_baud: int,
    persistent: bool,
) -> None:
    """Open the machine, tell what it is, and serve it.

    Raises: GdbServerError.
    """
    if not loaders and (names_the_simulator(probe) or qspi_pins or board):
        loaders = ["builtin"]
    wiring = chosen_wiring(qspi_pins, board)
    loaded = [load_loader(name, wiring) for name in loaders]

    program = None if elf is None else KnownProgram(elf)
    path = Path(listen.removeprefix("unix:")) if listen.startswith("unix:") else None

    def open_machine() -> Machine:
        target = Target.open(probe, connect=connect, frequency=frequency)
        try:
            programmer = Programmer(target, loaded, verify=verify)
            for line in _describe(target, programmer, connect):
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
        Options(
            host=listen,
            port=port,
            path=path,
            stdio=stdio,
            persistent=persistent,
            semihosting_dir=semihosting_dir,
            rtt_port=rtt_port,
            swo=_swo(swo_port, swo_clock, swo_baud),
            program=program,
        ),
        on_listening,
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
        if path.exists() and not path.is_file():  # a device is written to, not replaced
            path.write_text(text)
            return
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"cannot write the port's number to {path}") from error
