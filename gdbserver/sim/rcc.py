"""Reset and clock control (RCC), as far as clocks and clock gates go."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from gdbserver.sim.clock import Clock
from gdbserver.sim.registers import Peripheral


class ResetCause(Enum):
    """What reset the chip: RCC_RSR tells the program afterwards."""

    POWER_ON = "power-on"
    PIN = "reset pin"
    SOFTWARE = "software"
    IWDG1 = "independent watchdog"
    WWDG1 = "window watchdog"


class Rcc(Peripheral):
    def __init__(self, clock: Clock, *, hse_hz: int = 25_000_000) -> None:
        self.clock = clock
        self.hse_hz = hse_hz
        self.lsi_hz = 32_000
        self.on_gates_changed: list[Callable[[], None]] = []
        self.on_peripheral_reset: Callable[[str], None] = lambda name: None
        super().__init__("RCC")

    def reset(self, cause: ResetCause = ResetCause.POWER_ON) -> None:
        super().reset()

    @property
    def core_hz(self) -> int:
        return 64_000_000

    @property
    def hclk3_hz(self) -> int:
        return 64_000_000

    @property
    def quadspi_hz(self) -> int:
        return 64_000_000

    def clocked(self, name: str) -> bool:
        return True


class Pwr(Peripheral):
    def __init__(self, clock: Clock) -> None:
        super().__init__("PWR")
