"""What all commands work with: a chip, and what changes its flash."""

from __future__ import annotations

from dataclasses import dataclass

from gdbserver.flash.programmer import Programmer
from gdbserver.target.target import Target


@dataclass(frozen=True, slots=True)
class Machine:
    """The chip being debugged, and what changes its flash."""

    target: Target
    programmer: Programmer

    def close(self, *, resume: bool = True) -> None:
        """`Target.close`; but a core whose program is half in flash stays halted."""
        self.target.close(resume=resume and not self.programmer.unfinished)


def describe_chip(target: Target) -> list[str]:
    """What is on the other end of the probe, a line each: also what the server prints first."""
    chip = target.chip
    names = "STM32H750" if chip.flash_kib == 128 else "STM32H743 (or H742, H753: one die)"
    protected = ", ".join(str(sector) for sector in chip.protected_sectors) or "none"
    return [
        f"probe           {target.probe_name} ({target.probe_uid})",
        f"chip            {names}, device {chip.device_id:#05x}, revision {chip.revision}",
        f"internal flash  {chip.flash_kib} KiB, banks {'' if chip.swap_bank else 'not '}swapped",
        f"protection      RDP level {chip.rdp_level}, write-protected sectors: {protected}",
    ]
