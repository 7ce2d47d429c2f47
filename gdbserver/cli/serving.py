"""Serving GDB, as the options of ``stm32-gdbserver`` say."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gdbserver.cli.machine import load_loaders, open_machine
from gdbserver.cli.options import MachineOptions
from gdbserver.errors import UsageError
from gdbserver.flash.machine import Machine, describe_chip
from gdbserver.flash.programmer import Verify
from gdbserver.program.known import KnownProgram
from gdbserver.server.start import Options, SwoOptions, serve
from gdbserver.target.connect import Connect


def serve_gdb(
    options: MachineOptions,
    *,
    port: int,
    listen: str,
    stdio: bool,
    port_file: Path | None,
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
    loaders = load_loaders(options)
    program = None if elf is None else KnownProgram(elf)
    path = Path(listen.removeprefix("unix:")) if listen.startswith("unix:") else None

    def open_and_describe() -> Machine:
        machine = open_machine(options, loaders, verify=verify)
        try:
            for line in _describe(machine, options.connect):
                click.echo(line)
            if program is not None:
                click.echo(f"program         {program.path}")
        except BaseException:
            machine.close()
            raise
        return machine

    def on_listening(actual_port: int) -> None:
        if port_file is not None:
            _write_whole(port_file, f"{actual_port}\n")
        if stdio:
            return
        # Eclipse's adapter waits for the first of these lines, cortex-debug for the second.
        click.echo(f"Listening on {listen if path else f'port {actual_port}'}")
        click.echo("Waiting for debugger connection...")

    serve(
        open_and_describe,
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
        raise UsageError(
            "--swo-port needs --swo-clock: the chip does not tell how fast it is",
            hint="for example --swo-clock 100M, what the program has at output R of PLL1",
        )
    return SwoOptions(port, clock, baud, text_port=port and port + 1)


def _describe(machine: Machine, connect: Connect) -> list[str]:
    """What was found.  Asking the NOR takes the core; a program that runs is left alone."""
    if not machine.programmer.has_loaders:
        external = "none: give --extload, or nothing at 0x90000000 can be programmed"
    elif connect is Connect.ATTACH:
        external = "not asked, because the program runs on"
    else:
        external = machine.programmer.describe_external()
    return [*describe_chip(machine.target), f"external flash  {external}"]


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
