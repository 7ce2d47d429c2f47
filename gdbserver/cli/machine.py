"""From the options that name a machine to the machine."""

from __future__ import annotations

from collections.abc import Sequence

from gdbserver.cli.options import MachineOptions, chosen_wiring, names_the_simulator
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer, Verify
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import load_loader
from gdbserver.target.target import Target


def load_loaders(options: MachineOptions) -> list[LoaderFile]:
    """The loaders that were chosen; nothing but their files is touched.

    Raises: UsageError, LoaderRejected.
    """
    names = options.loaders
    wired = options.qspi_pins or options.board
    if not names and (wired or names_the_simulator(options.probe)):
        names = ("builtin",)
    wiring = chosen_wiring(options.qspi_pins, options.board)
    return [load_loader(name, wiring) for name in names]


def open_machine(
    options: MachineOptions, loaders: Sequence[LoaderFile], *, verify: Verify = "digest"
) -> Machine:
    """Take the chip over.

    Raises: GdbServerError.
    """
    target = Target.open(options.probe, connect=options.connect, frequency=options.frequency)
    try:
        return Machine(target, Programmer(target, loaders, verify=verify))
    except BaseException:
        target.close()
        raise
