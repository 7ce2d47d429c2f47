"""Options that several commands share, and the values that they take."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from gdbserver.chip.memory import Span, parse_number
from gdbserver.errors import UsageError
from gdbserver.loader.board_file import Wiring, load_board, shipped, wired
from gdbserver.target.connect import Connect

DEFAULT_PINS = "CLK=PB2,NCS=PB6,IO0=PF8,IO1=PF9,IO2=PF7,IO3=PF6"

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

# A probe's serial number may hold capitals and digits only; these names never look like one.
_SIMULATED = re.compile(r"sim(:.*)?")


def names_the_simulator(probe: str | None) -> bool:
    return probe is not None and _SIMULATED.fullmatch(probe) is not None


class Frequency(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
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


class Pins(click.ParamType):  # type: ignore[type-arg]
    """SIGNAL=PIN, separated by commas.  Which pins can be is not decided here."""

    name = "PINS"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pins = {}
        for part in str(value).upper().split(","):
            signal, equals, pin = part.partition("=")
            if not equals or not signal or not pin:
                self.fail(f"{part!r} is not SIGNAL=PIN; for example {DEFAULT_PINS}", param, ctx)
            if signal.strip() in pins:
                self.fail(f"{signal.strip()} is given twice", param, ctx)
            pins[signal.strip()] = pin.strip()
        return pins


def probe_options(command: F) -> F:
    """--probe, --connect and --frequency: which chip, and how it is taken over."""
    connect = click.option(
        "--connect",
        type=click.Choice([mode.value for mode in Connect]),
        default=Connect.UNDER_RESET.value,
        show_default=True,
        help="under-reset: reset and stop before the first instruction. halt: stop where it "
        "is. attach: let it run.",
    )
    return which_probe(connect(command))


def which_probe(command: F) -> F:
    """--probe and --frequency: which chip."""
    for option in (
        click.option("--frequency", type=Frequency(), help="SWD clock: 4M; the probe's default."),
        click.option(
            "--probe",
            metavar="UID",
            help="The debug probe, by pyOCD unique id, or a part of it; `sim` is the simulated "
            "board. Not needed when one probe is connected.",
        ),
    ):
        command = option(command)
    return command


def loader_option(command: F) -> F:
    """--extload."""
    return click.option(
        "--extload",
        "loaders",
        metavar="FILE|builtin",
        multiple=True,
        help="External loader for flash on the QSPI; repeatable. `builtin` is our own, which is "
        "the default when its pins are given, and for the simulated board.",
    )(command)


def verify_option(command: F) -> F:
    """--verify: how what was programmed is compared."""
    return click.option(
        "--verify",
        type=click.Choice(["digest", "full"]),
        default="digest",
        show_default=True,
        help="digest: by CRCs that the chip computes. full: every byte is read back as well.",
    )(command)


def wiring_options(command: F) -> F:
    """--qspi-pins and --board: how the NOR is connected."""
    for option in (
        click.option(
            "--board",
            metavar="NAME|FILE",
            help="The same for a known board, or from a TOML file: " + ", ".join(shipped()) + ".",
        ),
        click.option(
            "--qspi-pins",
            type=Pins(),
            help="Where the NOR is connected, for the built-in loader; with BK2_IO0 to BK2_IO3 "
            f"there are two, side by side.  [default: {DEFAULT_PINS}]",
        ),
    ):
        command = option(command)
    return command


def chosen_wiring(pins: dict[str, str] | None, board: str | None) -> Wiring:
    """What `wiring_options` say.

    Raises: UsageError.
    """
    if pins is not None and board is not None:
        raise UsageError("--board says where the pins are, and so does --qspi-pins: give one")
    if board is not None:
        return load_board(board)
    return wired(pins or Pins().convert(DEFAULT_PINS, None, None))


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """Which chip, how it is taken over, and what drives its external flash: as it was typed."""

    probe: str | None
    frequency: int | None
    connect: Connect
    loaders: tuple[str, ...]
    qspi_pins: dict[str, str] | None
    board: str | None


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a `MachineOptions`, which the command gets as one argument."""
    return probe_options(loader_option(wiring_options(_with_machine_options(command))))


def reset_machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same without --connect, for a command that starts from reset."""
    return which_probe(loader_option(wiring_options(_with_machine_options(command))))


def _with_machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def called_by_click(
        *arguments: Any,
        probe: str | None,
        frequency: int | None,
        connect: str = Connect.UNDER_RESET.value,
        loaders: tuple[str, ...],
        qspi_pins: dict[str, str] | None,
        board: str | None,
        **others: Any,
    ) -> Any:
        chosen = MachineOptions(probe, frequency, Connect(connect), loaders, qspi_pins, board)
        return command(*arguments, chosen, **others)

    return called_by_click


def number(text: str, what: str) -> int:
    """An unsigned 32-bit number, decimal or 0x.

    Raises: UsageError.
    """
    return _parsed(lambda: parse_number(text, what))


def address_range(text: str) -> Span:
    """START+LENGTH, START-LAST, or one address.

    Raises: UsageError.
    """
    return _parsed(lambda: Span.parse(text))


def _parsed(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as wrong:
        raise UsageError(str(wrong), hint="for example 0x08020000, or 131072") from None
