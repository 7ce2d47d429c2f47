"""A sector with flash words that cannot be read: erase it, and put back all that can be.

A reset in the middle of programming, or a word programmed twice, leaves a flash word whose ECC
does not fit.  Reading it is a bus fault from then on, and only erasing its sector ends that.
RM0433, "Error code correction (ECC)": one code per flash word of 256 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import BANK1, BANK2, FLASH_WORD, SECTOR
from gdbserver.errors import FlashError, MemoryFault, OutsideFlash
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.target.target import Target


def sector_at(programmer: Programmer, address: int) -> Span:
    """The sector at `address`.

    Raises:
        OutsideFlash: it is not in internal flash.
    """
    if address not in BANK1 and address not in BANK2:
        raise OutsideFlash(Span.of(address, 1), programmer.regions())
    return Span.of(address & -SECTOR, SECTOR)


def survey(target: Target, sector: Span) -> tuple[dict[int, bytes], list[Span]]:
    """What can be read of a sector, by address, and the flash words that cannot."""
    readable: dict[int, bytes] = {}
    lost: list[Span] = []
    at = sector.start
    while at < sector.end:
        try:
            readable[at] = target.read_memory(at, sector.end - at)
            break
        except MemoryFault as fault:
            if fault.readable:
                readable[at] = fault.readable
            bad = Span.of((at + len(fault.readable)) & -FLASH_WORD, FLASH_WORD)
            lost.append(bad)
            at = bad.end
    return readable, merge(lost)


def put_back(programmer: Programmer, sector: Span, readable: dict[int, bytes]) -> Iterator[Step]:
    """Erase the sector, then program what was readable of it.

    One after the other: a comparison would not see a word whose bits are right and ECC is not.
    """
    blank = Download()
    blank.erase(sector)
    yield from programmer.carry_out(blank)
    rest = Download()
    rest.erase(sector)  # it is blank, and not erased again
    for address, data in readable.items():
        rest.write(address, data)
    yield from programmer.carry_out(rest)


def check(target: Target, sector: Span) -> None:
    """Raises: FlashError, if there still is something that cannot be read."""
    _, lost = survey(target, sector)
    if lost:
        raise FlashError(
            f"{lost[0]} still cannot be read",
            hint="erase its whole bank: monitor flash mass_erase",
        )
