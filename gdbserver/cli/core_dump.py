"""``stm32-gdbserver coredump``: the state of a board in a file, to be looked at later."""

from __future__ import annotations

from pathlib import Path

import click

from gdbserver.cli.options import address_range, which_probe
from gdbserver.rsp.documents import target_description
from gdbserver.target.connect import Connect
from gdbserver.target.core_dump import CoreDump
from gdbserver.target.target import Target


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--also",
    metavar="START+LENGTH",
    multiple=True,
    help="More memory, or peripherals, also as START-LAST; repeatable.",
)
@which_probe
def coredump(file: Path, also: tuple[str, ...], probe: str | None, frequency: int | None) -> None:
    """Write registers, all RAM and harmless peripherals into FILE, an ELF core for GDB.

    The program is not reset: it is stopped for as long as it takes, and goes on if it ran.

    Exit status: 0 done, 1 something failed, 2 it cannot be.
    """
    spans = [address_range(text) for text in also]
    dump = CoreDump(spans)
    target = Target.open(probe, connect=Connect.ATTACH, frequency=frequency)
    running = not target.is_halted()
    try:
        size = sum(len(span) for span in dump.read(target))
        dump.write(file, target_description)
        fault = target.describe_fault()
    finally:
        target.close(resume=running)
    click.echo(f"{file}: {size} bytes of memory, and the registers")
    if fault is not None:
        click.echo(f"core: {fault}")
    click.echo(f"look at it with: arm-none-eabi-gdb PROGRAM.elf -c {file}")
