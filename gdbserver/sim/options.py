"""What a simulated board can be told, and how that is written behind ``sim:``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import get_args

from gdbserver.chip.stm32h743 import QUADSPI_BANKS, REVISIONS
from gdbserver.sim.clock import Timing
from gdbserver.sim.link import LINKS, STLINK_V3, LinkModel
from gdbserver.sim.nor_parts import PARTS

DEFAULT_PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}
_SECOND_PINS = ("BK2_IO0", "BK2_IO1", "BK2_IO2", "BK2_IO3", "BK2_NCS")

# Always in dual-flash mode, either bank's chip select can serve both NORs.
CHIP_SELECTS = {pin: table["NCS"][pin] for table in QUADSPI_BANKS.values() for pin in table["NCS"]}

FLASH_SIZES = (128, 1024, 2048)  # STM32H750, H743xG, H743xI


@dataclass(frozen=True, slots=True)
class BoardOptions:
    """What is on the board, and what it is plugged into."""

    nor: str = "W25Q256JV"
    nor2: str = ""
    """The second of two side by side, where `qspi_pins` say that there is one; "": the same."""
    timing: Timing = "typical"
    """Of flash and NOR."""
    revision: int = 0x2003
    """REV_ID of DBGMCU_IDCODE."""
    flash_kib: int = 2048
    rdp: int = 0xAA
    """Readout protection byte: 0xAA level 0, 0xCC level 2, anything else level 1."""
    qspi_pins: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_PINS))
    """Which pins the NOR is soldered to.  With BK2_IO0 to BK2_IO3 there is a second one, for
    dual-flash mode; with BK2_NCS it has a chip select of its own, else it shares the first's."""
    link: str = STLINK_V3.name
    waits: int | None = None
    """How many WAITs in a row the probe's firmware takes before it reports an error."""

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise ValueError(f"no link is called {self.link!r}; there are {', '.join(LINKS)}")
        for part in filter(None, (self.nor, self.nor2)):
            if part not in PARTS:
                raise ValueError(f"no NOR is called {part!r}; there are {', '.join(PARTS)}")
        if self.nor2 and not self.dual:
            raise ValueError("a second NOR needs qspi_pins of its own: BK2_IO0 to BK2_IO3")
        if self.revision not in REVISIONS:
            raise ValueError(f"revision is one of {', '.join(map(hex, REVISIONS))}")
        if self.flash_kib not in FLASH_SIZES:
            raise ValueError(f"flash_kib is one of {', '.join(map(str, FLASH_SIZES))}")
        if self.timing not in get_args(Timing):
            raise ValueError(f"timing is typical or maximum, not {self.timing!r}")
        for bank, wires in self.qspi_wires.items():
            for signal, pin in wires.items():
                choice = QUADSPI_BANKS[bank][signal]
                if signal == "NCS" and self.dual:
                    choice = CHIP_SELECTS
                if pin not in choice:
                    raise ValueError(f"{signal} can be on {', '.join(choice)}, not on {pin}")

    @property
    def dual(self) -> bool:
        """Two NORs side by side, for dual-flash mode."""
        return "BK2_IO0" in self.qspi_pins

    @property
    def qspi_wires(self) -> dict[int, dict[str, str]]:
        """The pins of each NOR, by the bank of the QUADSPI that it is on."""
        pins = self.qspi_pins
        if not self.dual:
            bank2 = QUADSPI_BANKS[2]
            return {2 if all(pins[s] in bank2[s] for s in DEFAULT_PINS) else 1: dict(pins)}
        first = {signal: pins[signal] for signal in DEFAULT_PINS}
        second = {signal: pins.get("BK2_" + signal, pins[signal]) for signal in DEFAULT_PINS}
        return {1: first, 2: second}

    @property
    def link_model(self) -> LinkModel:
        return LINKS[self.link]


def parse_options(text: str) -> BoardOptions:
    """Read what follows ``sim:`` in a probe's id, such as ``stlink-v2,nor=W25Q128JV,waits=8``.

    The link comes first, or is left out.  Pins are given in the order CLK, NCS, IO0 to IO3:
    ``qspi_pins=PB2/PB6/PF8/PF9/PF7/PF6``; a second NOR's IO0 to IO3 follow, and its NCS where it
    has one of its own.

    Raises:
        ValueError: there is no such link, option or value.
    """
    items = [item for item in text.split(",") if item]
    values: dict[str, object] = {}
    if items and "=" not in items[0]:
        values["link"] = items.pop(0)
    known = [option.name for option in fields(BoardOptions) if option.name != "link"]
    for item in items:
        name, _, value = item.partition("=")
        if name not in known:
            raise ValueError(f"no option is called {name!r}; there are {', '.join(known)}")
        values[name] = _parse_value(name, value)
    return BoardOptions(**values)  # type: ignore[arg-type]  # checked by __post_init__


def _parse_value(name: str, text: str) -> object:
    if name in ("nor", "nor2", "timing"):
        return text
    if name == "qspi_pins":
        pins = text.split("/")
        signals = (*DEFAULT_PINS, *_SECOND_PINS)
        if len(pins) not in (6, 10, 11):
            raise ValueError(
                "qspi_pins are six, in the order CLK/NCS/IO0/IO1/IO2/IO3, or for two NORs ten or "
                "eleven: then come IO0 to IO3 of the second, and its NCS"
            )
        return dict(zip(signals, pins, strict=False))
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{name} is a number, not {text!r}") from None
