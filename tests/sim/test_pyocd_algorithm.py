"""Foreign code on the simulated core: the flash algorithm that pyOCD carries for this chip.

It was written for silicon by others, so it tells whether controller, core and watchdogs
together are good enough; and it has a fault that shows on silicon, and must show here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyocd.core.session import Session
from pyocd.flash.flash import Flash

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK1, BANK2, FLASH_WORD, SECTOR
from gdbserver.sim.clock import SECOND
from gdbserver.sim.flash_interface import FlashInterface
from gdbserver.sim.probe import SimProbe

PAGE = 1024


@pytest.fixture
def session() -> Iterator[Session]:
    options = {"target_override": "stm32h743xx", "connect_mode": "halt"}
    with Session(SimProbe("sim:ideal"), options=options) as session:
        yield session


@pytest.fixture
def flash(session: Session) -> FlashInterface:
    """The simulated flash, zero all over."""
    flash: FlashInterface = session.probe.board.flash
    for bank in (BANK1, BANK2):
        flash.load(bank.start, bytes(len(bank)))
    return flash


def algorithm(session: Session, address: int) -> Flash:
    return session.target.memory_map.get_region_for_address(address).flash


@pytest.mark.parametrize("sector", [BANK1.start + SECTOR, BANK1.end - SECTOR])
def test_it_erases_the_sector_behind_the_one_it_is_asked_to(
    session: Session, flash: FlashInterface, sector: int
) -> None:
    code = algorithm(session, sector)
    code.init(code.Operation.ERASE)
    before = session.probe.board.clock.now
    code.erase_sector(sector)
    code.uninit()
    assert flash.erases == {sector: 1, sector + SECTOR: 1}
    # pyOCD looks for the end at intervals, and the board skips the time between.
    assert 2 * SECOND <= session.probe.board.clock.now - before < 3 * SECOND


def test_it_programs_each_flash_word_once(session: Session, flash: FlashInterface) -> None:
    page = Span.of(BANK2.start + 5 * PAGE, PAGE)
    data = bytes(i * 7 & 0xFF for i in range(PAGE))
    flash.load(page.start, b"\xff" * PAGE)
    code = algorithm(session, page.start)
    code.init(code.Operation.PROGRAM)
    code.program_page(page.start, data)
    code.uninit()
    assert flash.contents(page) == data
    assert flash.programs == dict.fromkeys(range(page.start, page.end, FLASH_WORD), 1)
