"""How the NOR is wired on a board: a small TOML file, or the pins alone.

Such a file names its source, because a wrong pin costs its reader an evening::

    name = "WeAct Studio MiniSTM32H743"
    source = "MiniSTM32H7xx schematic V1.2"
    nor = "W25Q64JV"

    [qspi]
    size = "8 MiB"            # left out: what the NOR says
    max_clock = "50 MHz"      # left out: what our loader thinks right
    bank = 1                  # left out: what the pins say
    address = 0x90000000      # left out: this; the QUADSPI has no other
    pins = { CLK = "PB2", NCS = "PB6", IO0 = "PD11", IO1 = "PD12", IO2 = "PE2", IO3 = "PD13" }

Two NORs side by side (dual-flash mode; ``bank = "dual"``, and the size is that of both) have four
pins more, BK2_IO0 to BK2_IO3, and five where the second one's chip select is not wired to the
first's: BK2_NCS.

DS12110, "Pinouts, pin descriptions and alternate functions"; RM0433, "Quad-SPI interface".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gdbserver.chip import stm32h743 as chip
from gdbserver.errors import UsageError

SIGNALS = ("CLK", "NCS", "IO0", "IO1", "IO2", "IO3")
SECOND = ("BK2_IO0", "BK2_IO1", "BK2_IO2", "BK2_IO3")
SECOND_NCS = "BK2_NCS"
BOTH_BANKS = 3
SMALLEST, LARGEST = 64 * chip.KIB, len(chip.QSPI_WINDOW)

_FOLDER = Path(__file__).parent / "boards"
_UNITS = {"": 1, "KIB": chip.KIB, "MIB": chip.MIB, "HZ": 1, "KHZ": 1_000, "MHZ": 1_000_000}


@dataclass(frozen=True)
class Pin:
    """A pin, and the alternate function that makes it a QUADSPI signal."""

    port: int
    """0 is port A."""
    number: int
    function: int


@dataclass(frozen=True)
class Wiring:
    """One NOR on the QUADSPI, or two side by side, where they can be."""

    pins: Mapping[str, Pin]
    """By signal, in the order of `SIGNALS`; then those of `SECOND`, and `SECOND_NCS`."""
    bank: int
    """Which of the QUADSPI's two sets of data lines; or `BOTH_BANKS`."""
    size: int | None = None
    """Bytes, of two NORs together; None: what the NOR says."""
    max_hz: int = 0
    """The NOR is never clocked faster; 0: what the loader thinks right."""
    name: str = ""
    nor: str = ""
    source: str = ""

    @property
    def dual(self) -> bool:
        """Two NORs side by side, for the QUADSPI's dual-flash mode."""
        return self.bank == BOTH_BANKS

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.dual:
            return "both banks of the QUADSPI (dual-flash mode)"
        return f"bank {self.bank} of the QUADSPI"


def wired(pins: Mapping[str, str]) -> Wiring:
    """The wiring with a NOR, or two, at these pins: {"CLK": "PB2", "NCS": "PB6", "IO0": ...}.

    Raises:
        UsageError: a signal is missing, or on a pin that cannot carry it.
    """
    two = any(signal.startswith("BK2_") for signal in pins)
    if unknown := sorted(set(pins) - {*SIGNALS, *SECOND, SECOND_NCS}):
        raise UsageError(
            f"the QSPI has no signal {', '.join(unknown)}",
            hint=f"the signals of one NOR are {', '.join(SIGNALS)}; a second one beside it "
            f"(dual-flash mode) adds {', '.join(SECOND)}, and {SECOND_NCS} if it has a chip select "
            "of its own",
        )
    needed = (*SIGNALS, *SECOND) if two else SIGNALS
    if missing := [signal for signal in needed if signal not in pins]:
        raise UsageError(
            f"QSPI pins lack {', '.join(missing)}", hint=f"for example {_example(two=two)}"
        )
    return _two_wired(pins) if two else _one_wired(pins)


def _two_wired(pins: Mapping[str, str]) -> Wiring:
    """Each signal has its own choice of pins, but for chip selects: one can serve both NORs."""
    first, second = chip.QUADSPI_BANKS[1], chip.QUADSPI_BANKS[2]
    choice: dict[str, Mapping[str, int]] = {**first}
    choice |= {f"BK2_{signal}": table for signal, table in second.items()}
    hint = ""
    if SECOND_NCS not in pins:
        choice["NCS"] = {**first["NCS"], **second["NCS"]}
    elif pins[SECOND_NCS] == pins["NCS"]:
        hint = f"; leave {SECOND_NCS} out where one chip select serves both"
    wanted = [signal for signal in (*SIGNALS, *SECOND, SECOND_NCS) if signal in pins]
    for signal in wanted:
        if pins[signal] not in choice[signal]:
            raise _impossible(signal, pins[signal], choice[signal], hint)
    return Wiring({s: _pin(pins[s], choice[s][pins[s]]) for s in wanted}, BOTH_BANKS)


def _one_wired(pins: Mapping[str, str]) -> Wiring:
    banks = chip.QUADSPI_BANKS
    for bank, table in banks.items():
        if all(pins[signal] in table[signal] for signal in SIGNALS):
            return Wiring({s: _pin(pins[s], table[s][pins[s]]) for s in SIGNALS}, bank)
    for signal in SIGNALS:
        choice = list(dict.fromkeys(pin for table in banks.values() for pin in table[signal]))
        if pins[signal] not in choice:
            raise _impossible(signal, pins[signal], choice)
    sides = ", ".join(
        f"{signal}={pins[signal]} of bank {'1' if pins[signal] in banks[1][signal] else '2'}"
        for signal in SIGNALS[1:]
    )
    raise UsageError("the QSPI pins are mixed from both banks of the QUADSPI", hint=sides)


def _pin(name: str, function: int) -> Pin:
    return Pin(ord(name[1]) - ord("A"), int(name[2:]), function)


def _impossible(signal: str, pin: str, choice: Iterable[str], hint: str = "") -> UsageError:
    return UsageError(
        f"{signal} of the QUADSPI cannot be on {pin}",
        hint=f"it can be on {', '.join(choice)}{hint}",
    )


def _example(*, two: bool = False) -> str:
    first = "CLK=PB2,NCS=PB6,IO0=PF8,IO1=PF9,IO2=PF7,IO3=PF6"
    return f"{first},BK2_IO0=PH2,BK2_IO1=PH3,BK2_IO2=PG9,BK2_IO3=PG14" if two else first


def shipped() -> list[str]:
    """Names of the boards that come with this program."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_board(name: str) -> Wiring:
    """The wiring of a board that comes with this program, or of a file.

    Raises:
        UsageError: there is no such board or file, or it says what cannot be.
    """
    import tomllib  # noqa: PLC0415  # most starts name no board

    path = _FOLDER / f"{name}.toml" if name in shipped() else Path(name)
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"there is no board {name}: {error.strerror}",
            hint=f"give a TOML file, or one of {', '.join(shipped())}",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} is not a board file") from error
    try:
        return _wiring(document)
    except UsageError as error:
        raise UsageError(f"board {path.name}: {error}", hint=error.hint) from None


def _wiring(document: dict[str, Any]) -> Wiring:
    _check_keys("", document, {"name": str, "source": str, "nor": str, "qspi": dict})
    qspi = document.get("qspi", {})
    _check_keys(
        "qspi.",
        qspi,
        {
            "pins": dict,
            "size": (str, int),
            "max_clock": (str, int),
            "bank": (str, int),
            "address": int,
        },
    )
    if "pins" not in qspi:
        raise UsageError("it has no qspi.pins", hint=f"for example {_example()}")
    bank = {"1": 1, "2": 2, "dual": BOTH_BANKS}.get(str(qspi.get("bank", 1)))
    if bank is None:
        raise UsageError(f"qspi.bank is 1, 2 or 'dual', not {qspi['bank']!r}")
    if qspi.get("address", chip.QSPI_WINDOW.start) != chip.QSPI_WINDOW.start:
        raise UsageError(
            f"qspi.address is {qspi['address']:#010x}",
            hint=f"the QUADSPI maps its NOR at {chip.QSPI_WINDOW.start:#010x} and nowhere else",
        )
    wiring = wired({signal: str(pin).upper() for signal, pin in qspi["pins"].items()})
    if "bank" in qspi and bank != wiring.bank:
        raise UsageError(
            f"qspi.bank is {qspi['bank']}, and the pins are those of {wiring.place}",
            hint=f"two NORs side by side have {', '.join(SECOND)} as well, and one has not",
        )
    size = _number(qspi["size"], "qspi.size") if "size" in qspi else None
    return replace(
        wiring,
        size=None if size is None else checked_size(size),
        max_hz=_number(qspi.get("max_clock", 0), "qspi.max_clock"),
        **{key: document.get(key, "") for key in ("name", "nor", "source")},
    )


def checked_size(size: int) -> int:
    """A size that a NOR can have.

    Raises: UsageError.
    """
    if size & (size - 1) or not SMALLEST <= size <= LARGEST:
        raise UsageError(
            f"no NOR has {size} bytes",
            hint=f"it is a power of two, from {SMALLEST // chip.KIB} KiB "
            f"to {LARGEST // chip.MIB} MiB",
        )
    return size


def _check_keys(where: str, table: dict[str, Any], known: dict[str, Any]) -> None:
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"nobody knows {where}{key}", hint=f"there are {', '.join(known)}")
        if not isinstance(value, known[key]):
            raise UsageError(f"{where}{key} cannot be {value!r}")


def _number(value: str | int, where: str) -> int:
    """8 MiB, 50 MHz, or a plain number."""
    match = re.fullmatch(r"\s*(\d+)\s*(\w*)\s*", str(value))
    if match is None or match[2].upper() not in _UNITS:
        raise UsageError(f"{where} cannot be {value!r}; try '8 MiB' or '50 MHz'")
    return int(match[1]) * _UNITS[match[2].upper()]
