"""What a simulated board can be told, and how that is written behind ``sim:``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from gdbserver.chip.stm32h743 import QUADSPI_BANKS, QUADSPI_PINS, REVISIONS
from gdbserver.sim.link import LINKS, STLINK_V3, LinkModel
from gdbserver.sim.nor_parts import PARTS

DEFAULT_PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}

FLASH_SIZES = (128, 1024, 2048)  # STM32H750, H743xG, H743xI

Timing = Literal["typical", "maximum"]


@dataclass(frozen=True, slots=True)
class BoardOptions:
    """What is on the board, and what it is plugged into."""

    nor: str = "W25Q256JV"
    timing: Timing = "typical"
    """Which column of the datasheets holds for flash and NOR."""
    revision: int = 0x2003
    """REV_ID of DBGMCU_IDCODE."""
    flash_kib: int = 2048
    rdp: int = 0xAA
    """Readout protection byte: 0xAA level 0, 0xCC level 2, anything else level 1."""
    qspi_pins: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_PINS))
    """Which pins the NOR is soldered to."""
    link: str = STLINK_V3.name
    waits: int | None = None
    """How many WAITs in a row the probe's firmware takes before it reports an error."""

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise ValueError(f"no link is called {self.link!r}; there are {', '.join(LINKS)}")
        if self.nor not in PARTS:
            raise ValueError(f"no NOR is called {self.nor!r}; there are {', '.join(PARTS)}")
        if self.revision not in REVISIONS:
            raise ValueError(f"revision is one of {', '.join(map(hex, REVISIONS))}")
        if self.flash_kib not in FLASH_SIZES:
            raise ValueError(f"flash_kib is one of {', '.join(map(str, FLASH_SIZES))}")
        if self.timing not in get_args(Timing):
            raise ValueError(f"timing is typical or maximum, not {self.timing!r}")
        for signal, pin in self.qspi_pins.items():
            if self.qspi_bank == 1 and pin not in QUADSPI_PINS[signal]:
                choice = ", ".join(QUADSPI_PINS[signal])
                raise ValueError(f"{signal} can be on {choice}, not on {pin}")

    @property
    def qspi_bank(self) -> int:
        """Which bank of the QUADSPI the NOR is on: 2 when all its pins are of that."""
        bank2 = QUADSPI_BANKS[2]
        return 2 if all(pin in bank2[signal] for signal, pin in self.qspi_pins.items()) else 1

    @property
    def link_model(self) -> LinkModel:
        return LINKS[self.link]


def parse_options(text: str) -> BoardOptions:
    """Read what follows ``sim:`` in a probe's id, such as ``stlink-v2,nor=W25Q128JV,waits=8``.

    Pins are given in the order CLK, NCS, IO0 to IO3: ``qspi_pins=PB2/PB6/PF8/PF9/PF7/PF6``.

    Raises:
        ValueError: there is no such link, option or value.
    """
    link, _, rest = text.partition(",")
    values: dict[str, object] = {"link": link} if link else {}
    known = [option.name for option in fields(BoardOptions) if option.name != "link"]
    for item in filter(None, rest.split(",")):
        name, _, value = item.partition("=")
        if name not in known:
            raise ValueError(f"no option is called {name!r}; there are {', '.join(known)}")
        values[name] = _parse_value(name, value)
    return BoardOptions(**values)  # type: ignore[arg-type]  # checked by __post_init__


def _parse_value(name: str, text: str) -> object:
    if name in ("nor", "timing"):
        return text
    if name == "qspi_pins":
        pins = text.split("/")
        if len(pins) != len(DEFAULT_PINS):
            raise ValueError("qspi_pins are six, in the order CLK/NCS/IO0/IO1/IO2/IO3")
        return dict(zip(DEFAULT_PINS, pins, strict=True))
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{name} is a number, not {text!r}") from None
