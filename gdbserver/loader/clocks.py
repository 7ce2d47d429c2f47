"""The clocks as they were before a loader ran.

ST's template for a loader calls SystemInit and sets the PLL to 400 MHz, and leaves it so.  A
program that is started without a reset then finds clocks, flash latency and core voltage that
it does not expect; so what has changed is put back, in the order that keeps each part inside
its limits: flash as slow as either state needs, then HSI, then oscillators, PLLs and dividers,
and the old source.  The device stays readable: its kernel clock becomes what it was, too.

RM0433, "Reset and clock control (RCC)", "System clock (sys_ck)"; "FLASH access control register
(FLASH_ACR)"; "Voltage scaling" in "Power control (PWR)".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from gdbserver.chip import stm32h743 as chip
from gdbserver.errors import GdbServerError, TargetError
from gdbserver.target.access import Read, Write
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_CR, _CFGR = chip.RCC_CR, chip.RCC_CFGR
_D3CR = chip.PWR + 0x18
_ACR = chip.FLASH + chip.FLASH_ACR
_DIVIDERS = chip.RCC_D1CFGR  # D1CFGR, D2CFGR, D3CFGR
_PLLS = chip.RCC_PLLCKSELR  # PLLCKSELR, PLLCFGR, and DIVR and FRACR of PLL1 to PLL3
_KERNELS = chip.RCC_D1CCIPR  # D1CCIPR, D2CCIP1R, D2CCIP2R, D3CCIPR
_RCC_OFFSETS = (0x00, 0x10, *range(0x18, 0x24, 4), *range(0x28, 0x48, 4), *range(0x4C, 0x5C, 4))

_HSION, _HSIRDY = 1 << 0, 1 << 2
_HSEON = 1 << 16
_PLL1_ON = 1 << 24
_PLL_ON = 1 << 24 | 1 << 26 | 1 << 28
_SWITCHES = _HSION | 1 << 1 | 3 << 3 | 1 << 7 | 1 << 12 | 7 << 16 | _PLL_ON
"""RCC_CR without its ready flags: HSI, its divider, CSI, HSI48, HSE, PLLs."""
_READY = {_HSION: _HSIRDY, 1 << 7: 1 << 8, 1 << 12: 1 << 13, _HSEON: 1 << 17} | {
    1 << bit: 1 << bit + 1 for bit in (24, 26, 28)
}
_SW, _SWS_SHIFT = 7, 3
_VOS, _VOSRDY = 3 << 14, 1 << 13
_LATENCY = 0x3F  # LATENCY and WRHIGHFREQ
_SLOWEST_FLASH = 0x37  # as after a reset: good for any clock
_TIMEOUT = 0.2  # a crystal takes some milliseconds


@dataclass(frozen=True)
class _Clocks:
    """What makes the clocks: registers without the flags that only tell."""

    switches: int
    """RCC_CR."""
    source: int
    """RCC_CFGR.SW."""
    outputs: int
    """The rest of RCC_CFGR."""
    dividers: tuple[int, ...]
    plls: tuple[int, ...]
    kernels: tuple[int, ...]
    latency: int
    """FLASH_ACR."""
    voltage: int
    """PWR_D3CR.VOS: 1 for scale 3, the lowest, up to 3 for scale 1."""

    @classmethod
    def of(cls, target: Target) -> Self:
        cr, cfgr, *rest = target.read_spread(_CR, _RCC_OFFSETS)
        (acr,), (d3cr,) = target.run([Read(_ACR), Read(_D3CR)])
        return cls(
            cr & _SWITCHES,
            cfgr & _SW,
            cfgr & ~(_SW | _SW << _SWS_SHIFT),
            tuple(rest[:3]),
            tuple(rest[3:11]),
            tuple(rest[11:]),
            acr & _LATENCY,
            d3cr & _VOS,
        )


@contextmanager
def same_clocks(target: Target) -> Iterator[None]:
    """Whatever happens to the clocks inside, they are afterwards as they were."""
    before = _Clocks.of(target)
    try:
        yield
    finally:
        try:
            after = _Clocks.of(target)
            if after != before:
                log.debug("the loader has changed the clocks; they are put back")
                _put_back(target, before, after)
        except GdbServerError as error:
            log.warning("the clocks are as the loader left them: %s", error)


@contextmanager
def quick_clocks(target: Target) -> Iterator[None]:
    """The core at 200 MHz instead of the 64 of a chip after reset, for code of ours.

    CRCs, and what a loader does between two pages, then take a third of the time.  200 MHz is what
    the lowest core voltage allows, so the voltage stays; buses get half of it and a quarter.
    The QUADSPI keeps its 64 MHz.  Clocks that a program has set up are left alone.
    """
    before = _Clocks.of(target)
    if before.source or before.switches & (3 << 3 | _PLL_ON) or before.latency < _SLOWEST_FLASH:
        yield
        return
    try:
        try:
            _use_pll(target, before)
        except TargetError as error:
            log.debug("the clocks stay as they are: %s", error)
            _put_back(target, before, _Clocks.of(target))
        yield
    finally:
        _leave_pll(target, before)


def _leave_pll(target: Target, before: _Clocks) -> None:
    """The way back from `_use_pll`; HSI runs all the time."""
    _switch_to(target, before.outputs, 0)
    target.run(
        [
            Write(_CR, [before.switches]),
            Write(_DIVIDERS, before.dividers),
            Write(_KERNELS, before.kernels[:1]),
        ]
    )
    _wait(target, _CR, _PLL1_ON << 1, 0, "the end of PLL1")
    target.write_words(_PLLS, before.plls[:3])


def _use_pll(target: Target, before: _Clocks) -> None:
    """HSI / 4 * 25 / 2.  RM0433, "PLL1 dividers configuration register", "PLL configuration"."""
    selection = before.plls[0] & ~0x3F3 | 4 << 4
    configuration = before.plls[1] & ~0xF | 3 << 2 | 1 << 16  # input 8-16 MHz, output P
    divider = before.plls[2] & ~0xFFFF | 24 | 1 << 9
    d1, d2, d3 = before.dividers
    dividers = (d1 & ~0xF7F | 4 << 4 | 8, d2 & ~0x770 | 4 << 8 | 4 << 4, d3 & ~0x70 | 4 << 4)
    target.write_words(_PLLS, [selection, configuration, divider])
    target.write_word(_CR, before.switches | _PLL1_ON)
    _wait_ready(target, _PLL1_ON)
    target.write_words(_DIVIDERS, dividers)
    target.write_word(_KERNELS, before.kernels[0] & ~(3 << 28 | 3 << 4) | 3 << 4)
    _switch_to(target, before.outputs, 3)


def _put_back(target: Target, before: _Clocks, after: _Clocks) -> None:
    target.write_word(_ACR, max(before.latency, after.latency))
    _set_voltage(target, after.voltage, max(before.voltage, after.voltage))
    target.write_word(_CR, after.switches | _HSION)
    _wait_ready(target, _HSION)
    _switch_to(target, after.outputs, 0)
    target.write_word(_CR, (after.switches | _HSION) & ~_PLL_ON)
    _wait(target, _CR, _PLL_ON << 1, 0, "the end of the PLLs")
    for switches in (before.switches & ~_PLL_ON | _HSION, before.switches | _HSION):
        target.write_word(_CR, switches)
        _wait_ready(target, switches)
        if not switches & _PLL_ON:
            target.write_words(_PLLS, before.plls)
    target.write_words(_DIVIDERS, before.dividers)
    _switch_to(target, before.outputs, before.source)
    target.write_words(_KERNELS, before.kernels)
    target.write_word(_CR, before.switches)
    _set_voltage(target, max(before.voltage, after.voltage), before.voltage)
    target.write_word(_ACR, before.latency)


def _switch_to(target: Target, outputs: int, source: int) -> None:
    target.write_word(_CFGR, outputs | source)
    _wait(target, _CFGR, _SW << _SWS_SHIFT, source << _SWS_SHIFT, f"system clock {source}")


def _set_voltage(target: Target, now: int, wanted: int) -> None:
    """The core's supply; until somebody has chosen one, it says nothing about being ready."""
    if now != wanted:
        target.write_word(_D3CR, wanted)
        _wait(target, _D3CR, _VOSRDY, _VOSRDY, "the core's voltage")


def _wait_ready(target: Target, switches: int) -> None:
    ready = sum(flag for switch, flag in _READY.items() if switches & switch)
    _wait(target, _CR, ready, ready, f"ready in RCC_CR ({ready:#x})")


def _wait(target: Target, register: int, mask: int, value: int, what: str) -> None:
    deadline = target.deadline(_TIMEOUT)
    while target.read_word(register) & mask != value:
        if deadline.expired():
            raise TargetError(f"{what} does not come")
