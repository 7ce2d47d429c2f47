"""Option bytes in words.  RM0433, "FLASH option status register", "FLASH boot register"."""

from __future__ import annotations

from collections.abc import Iterator

from gdbserver.chip.stm32h743 import FLASH, FLASH_BOOT_CUR
from gdbserver.target.target import Target

_BROWN_OUT = ("off", "level 1", "level 2", "level 3")
_SWITCHES = (
    (4, "independent watchdog", "started by hardware", "started by software"),
    (6, "a reset on entering Stop", "yes", "no"),
    (7, "a reset on entering Standby", "yes", "no"),
    (17, "independent watchdog in Stop", "frozen", "counts"),
    (18, "independent watchdog in Standby", "frozen", "counts"),
    (21, "secure access mode", "off", "on"),
    (29, "high-speed I/O below 2.5 V", "off", "on"),
    (31, "banks", "as they are", "swapped"),
)


def describe_option_bytes(target: Target) -> Iterator[tuple[str, str]]:
    """What each of them is about, and what it says."""
    optsr = target.chip.optsr
    yield "read protection", f"level {target.chip.rdp_level} ({optsr >> 8 & 0xFF:#04x})"
    yield "brown-out reset", _BROWN_OUT[optsr >> 2 & 3]
    for bit, name, clear, is_set in _SWITCHES:
        yield name, is_set if optsr >> bit & 1 else clear
    boot = target.read_word(FLASH + FLASH_BOOT_CUR)
    yield "boot address, BOOT0 low", f"{(boot & 0xFFFF) << 16:#010x}"
    yield "boot address, BOOT0 high", f"{boot & 0xFFFF0000:#010x}"
