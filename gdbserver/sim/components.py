"""CoreSight identities: the ID registers and ROM tables by which a debugger finds its way.

Each component fills 4 KiB and says at its end who made it and what it is; a ROM table lists
where components are.  Arm Debug Interface v5.2 (IHI 0031), "Component and Peripheral ID
Registers", "ROM Tables"; which component is where: RM0433, "Debug infrastructure".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gdbserver.sim.bus import Bus, BusError, Master
from gdbserver.sim.registers import Peripheral

PAGE = 0x1000
DEVARCH, _DEVTYPE = 0xFBC, 0xFCC
_FIRST_ID = _PIDR4 = 0xFD0
_PIDR0, _CIDR0 = 0xFE0, 0xFF0

_ARM, _ST = (4, 0x3B), (0, 0x20)  # JEP106: continuation, identity
_ROM_TABLE, _CORESIGHT, GENERIC_IP = 0x1, 0x9, 0xE  # component classes
_JEDEC = 1 << 19


@dataclass(frozen=True, slots=True)
class Identity:
    """What a component's ID registers say."""

    part: int
    component_class: int
    designer: tuple[int, int] = _ARM
    devtype: int = 0
    devarch: int = 0

    def read(self, offset: int) -> int:
        """An ID register: each holds one byte of a longer number."""
        continuation, identity = self.designer
        if offset >= _CIDR0:
            return (0xB105000D | self.component_class << 12) >> 2 * (offset - _CIDR0) & 0xFF
        if offset >= _PIDR0:
            return (self.part | identity << 12 | _JEDEC) >> 2 * (offset - _PIDR0) & 0xFF
        return {_PIDR4: continuation, _DEVTYPE: self.devtype, DEVARCH: self.devarch}.get(offset, 0)


ETM = Identity(0x975, _CORESIGHT, devtype=0x13, devarch=0x47704A13)
CTI = Identity(0x906, _CORESIGHT, devtype=0x14)
FUNNEL = Identity(0x908, _CORESIGHT, devtype=0x12)
ETF = Identity(0x961, _CORESIGHT, devtype=0x32)
TPIU = Identity(0x912, _CORESIGHT, devtype=0x11)
SWO = Identity(0x914, _CORESIGHT, devtype=0x11)
CORE_ROM = Identity(0x4C7, _ROM_TABLE)
DEVICE_ROM = Identity(0x450, _ROM_TABLE, _ST)
TRACE_ROM = Identity(0x001, _ROM_TABLE, _ST)


class CoreSightComponent(Peripheral):
    """A peripheral that can be identified, as a debugger's discovery does."""

    size = PAGE
    identity: ClassVar[Identity]

    def read(self, offset: int, size: int, master: Master) -> int:
        if offset >= _FIRST_ID:
            return self.identity.read(offset & 0xFFC)
        return super().read(offset, size, master)


class Component:
    """A component that is there and can be identified, but does nothing.

    `words` are its first registers: the entries of a ROM table.  Without `clocked` it answers
    like one whose clock is off: not at all.
    """

    def __init__(
        self,
        identity: Identity,
        words: Sequence[int] = (),
        clocked: Callable[[], bool] = lambda: True,
    ) -> None:
        self._identity = identity
        self._words = words
        self._clocked = clocked

    def read(self, offset: int, size: int, master: Master) -> int:
        if not self._clocked():
            raise BusError("read")
        word = offset & ~3
        if word // 4 < len(self._words):
            value = self._words[word // 4]
        else:
            value = self._identity.read(word) if word >= DEVARCH else 0
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if not self._clocked():
            raise BusError("write")


def rom_table(at: int, components: Sequence[int]) -> list[int]:
    """The entries of a ROM table at `at` that lists these addresses: present, 32-bit."""
    return [(address - at) & 0xFFFFF000 | 3 for address in components]


# --- What is where ------------------------------------------------------------------------------

AP0_ROM = 0xE00FE000
_CORE_ROM = 0xE00FF000
_ETM, _CORE_CTI = 0xE0041000, 0xE0043000
_CORE_UNITS = (0xE000E000, 0xE0001000, 0xE0002000, 0xE0000000)  # SCS, DWT, FPB, ITM

AP2_ROM = 0xE00E0000
SWO_BASE, SWTF_BASE = 0xE00E3000, 0xE00E4000
_TRACE_ROM = 0xE00F0000
_TRACE_CTI, _CSTF, _ETF, _TPIU = 0xE00F1000, 0xE00F3000, 0xE00F4000, 0xE00F5000


def attach_core_components(bus: Bus) -> None:
    """What AP0's ROM tables list besides the units that the core itself uses."""
    tables = (
        (AP0_ROM, DEVICE_ROM, (_CORE_ROM, _ETM, _CORE_CTI)),
        (_CORE_ROM, CORE_ROM, _CORE_UNITS),
    )
    for at, identity, components in tables:
        bus.attach(at, PAGE, Component(identity, rom_table(at, components)))
    bus.attach(_ETM, PAGE, Component(ETM))
    bus.attach(_CORE_CTI, PAGE, Component(CTI))


def attach_trace_components(bus: Bus, clocked: Callable[[], bool]) -> None:
    """What AP2's ROM tables list.  All but the first table is dead until `clocked`."""
    bus.attach(
        AP2_ROM, PAGE, Component(DEVICE_ROM, rom_table(AP2_ROM, (SWO_BASE, SWTF_BASE, _TRACE_ROM)))
    )
    trace = rom_table(_TRACE_ROM, (_TRACE_CTI, _CSTF, _ETF, _TPIU))
    bus.attach(_TRACE_ROM, PAGE, Component(TRACE_ROM, trace, clocked))
    for at, identity in (
        (_TRACE_CTI, CTI),
        (_CSTF, FUNNEL),
        (_ETF, ETF),
        (_TPIU, TPIU),
    ):
        bus.attach(at, PAGE, Component(identity, clocked=clocked))
