"""The board: an STM32H743 and its NOR, wired together, with ways to look inside and to break it."""

from __future__ import annotations

from dataclasses import dataclass

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    DTCM,
    ITCM,
    PPB,
    SRAM1,
    SRAM2,
    SRAM3,
    SRAM4,
)
from gdbserver.sim import components
from gdbserver.sim.access_port import AHB_AP, APB_AP, MemAp
from gdbserver.sim.bus import Bus, Master, Ram
from gdbserver.sim.clock import Clock
from gdbserver.sim.debug_port import DebugPort
from gdbserver.sim.link import LINKS, STLINK_V3, Link, LinkModel

# What the D3 domain holds: where AP1 gets to.
_D3 = (SRAM4, Span(0x38800000, 0x38801000), Span(0x58000000, 0x5C000000))


@dataclass(frozen=True, slots=True)
class BoardOptions:
    """What is on the board, and what it is plugged into."""

    nor: str = "W25Q256JV"
    timing: str = "typical"
    revision: int = 0x2003
    flash_kib: int = 2048
    rdp: int = 0xAA
    link: str = STLINK_V3.name
    waits: int | None = None

    @property
    def link_model(self) -> LinkModel:
        return LINKS[self.link]


def parse_options(text: str) -> BoardOptions:
    """``cmsis-dap-v2,nor=W25Q128JV`` -> options.

    Raises:
        ValueError: there is no such link, option or value.
    """
    link, *_rest = text.split(",") if text else [STLINK_V3.name]
    if link not in LINKS:
        raise ValueError(f"no link is called {link!r}; there are {', '.join(LINKS)}")
    return BoardOptions(link=link)


class Board:
    def __init__(self, options: BoardOptions | None = None) -> None:
        self.options = options or BoardOptions()
        self.clock = Clock()
        self.bus = Bus()
        self.apb_d = Bus()
        self._in_reset = False
        self._links: list[Link] = []
        for span in (ITCM, DTCM, AXI_SRAM, SRAM1, SRAM2, SRAM3, SRAM4):
            self.bus.attach(span.start, len(span), Ram(len(span)))
        components.attach_core_components(self.bus)
        components.attach_trace_components(self.apb_d, lambda: True)
        self.debug_port = DebugPort(self.clock, self._access_ports())

    def _access_ports(self) -> dict[int, MemAp]:
        return {
            0: MemAp(
                AHB_AP,
                self.clock,
                self.bus,
                Master.AP0,
                base=components.AP0_ROM | 3,
                reaches=self._ap0_reaches,
            ),
            1: MemAp(AHB_AP, self.clock, self.bus, Master.AP1, reaches=self._ap1_reaches),
            2: MemAp(APB_AP, self.clock, self.apb_d, Master.AP2, base=components.AP2_ROM | 3),
        }

    def _ap0_reaches(self, address: int) -> bool:
        """While NRST is held, the core's own debug units answer and nothing behind them."""
        return not self._in_reset or address in PPB

    def _ap1_reaches(self, address: int) -> bool:
        return not self._in_reset and any(address in span for span in _D3)

    def attach(self, link: Link) -> None:
        self._links.append(link)

    def run_until(self, when: int) -> None:
        self.clock.advance_to(when)

    def hold_reset(self, asserted: bool) -> None:
        self._in_reset = asserted

    def unplug(self) -> None:
        for link in self._links:
            link.plugged = False

    def replug(self) -> None:
        for link in self._links:
            link.plugged = True
