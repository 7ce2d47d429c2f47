"""Somebody else's loader for two NORs side by side: used, and explained when it fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loader_runs import NOR, Run, noise, run

from gdbserver.errors import LoaderRefused
from gdbserver.loader.nor_states import Nor
from gdbserver.loader.nor_survey import find_die, survey
from gdbserver.sim.nor_parts import PARTS

UID = "sim:cmsis-dap-v2,nor=MT25QL512ABB,qspi_pins=PB2/PB6/PF8/PF9/PF7/PF6/PH2/PH3/PG9/PG14"
PINS = (
    "CLK=PB2, NCS=PB6, IO0=PF8, IO1=PF9, IO2=PF7, IO3=PF6, "
    "BK2_IO0=PH2, BK2_IO1=PH3, BK2_IO2=PG9, BK2_IO3=PG14"
)
MIB = 1 << 20


def failing_init(here: Run) -> LoaderRefused:
    with pytest.raises(LoaderRefused) as failed:
        here.load((NOR, b"1234"))
    return failed.value


def test_it_programs_both_halves() -> None:
    with run("MT25TL01G", uid=UID) as here:
        image = noise(5001)
        here.load((NOR + 3, image))
        assert here.contents(NOR + 3, 5001) == image
        both = b"\xff" * 3 + image
        for number, nor in enumerate(here.board.nors):
            half = both[number::2]
            assert nor.contents(0, len(half)) == half


def test_what_it_is_for_is_measured_on_both_together() -> None:
    with run("MT25TL01G", uid=UID) as here:
        here.programmer.prepare_external_reads()
        die = find_die(here.target)
        assert die is not None
        assert (die.size, die.smallest_erase) == (128 * MIB, 8192)
        assert str(die) == "the two NORs side by side (JEDEC id 20 BA 20, 131072 KiB)"


def test_smaller_ones_than_it_is_for_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with run("MT25TL01G", uid=UID.replace("MT25QL512ABB", "W25Q256JV")) as here:
        here.load((NOR, noise(100)))
    assert caplog.messages[-1] == (
        "loader MT25TL01G.stldr says that its device has 131072 KiB, and the two NORs side by "
        "side (JEDEC id EF 40 19, 65536 KiB) disagrees: what is beyond is refused"
    )


def test_an_init_that_fails_is_explained_by_what_both_say() -> None:
    with run("MT25TL01G_FAILS", uid=UID) as here:
        error = failing_init(here)
    assert error.why == (
        f"both NORs at {PINS} answer: the JEDEC id of each is 20 BA 20 (Micron, 64 MiB), as the "
        "loader's name promises"
    )
    assert str(error.hint).startswith("it may insist on another id; ")
    assert error.details[0].startswith("QUADSPI: dual-flash mode, ")


@pytest.mark.parametrize(
    ("number", "ids"), [(0, "FF FF FF (nobody drives IO1) on bank 1, and as 20 BA 20 on bank 2"),
                        (1, "20 BA 20 on bank 1, and as FF FF FF (nobody drives IO1) on bank 2")],
)  # fmt: skip
def test_one_that_is_missing_is_named(number: int, ids: str) -> None:
    with run("MT25TL01G_FAILS", uid=UID) as here:
        here.board.nors[number].lift_off()
        error = failing_init(here)
    assert error.why == (
        f"of two NORs side by side (dual-flash mode) the one on bank {number + 1} does not answer "
        f"at {PINS}: the JEDEC ids read as {ids}"
    )
    assert str(error.hint).startswith("compare these pins with the schematic")


def test_two_that_are_missing_are_told_from_one() -> None:
    with run("MT25TL01G_FAILS", uid=UID) as here:
        for nor in here.board.nors:
            nor.lift_off()
        error = failing_init(here)
    assert error.why == (
        f"neither of two NORs answers at {PINS}: the JEDEC ids read as FF FF FF (nobody drives "
        "IO1) on bank 1, and as FF FF FF (nobody drives IO1) on bank 2"
    )


def test_two_different_ones_are_told_with_both_ids() -> None:
    with run("MT25TL01G_FAILS", uid=UID + ",nor2=IS25LP256D") as here:
        error = failing_init(here)
    assert error.why == (
        f"the two NORs at {PINS} are not alike: their JEDEC ids are 20 BA 20 on bank 1 and "
        "9D 60 19 on bank 2"
    )


def test_parts_of_another_size_than_the_name_promises_are_told() -> None:
    with run("MT25TL01G_FAILS", uid=UID.replace("MT25QL512ABB", "W25Q64JV")) as here:
        error = failing_init(here)
    assert error.why == (
        f"both NORs at {PINS} answer: the JEDEC id of each is EF 40 17 (Winbond, 8 MiB), and the "
        "loader's name promises MT25TL01G of 128 MiB"
    )
    assert str(error.hint).startswith("the loader is for another NOR; ")


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_sleeps_is_woken_by_the_survey(number: int) -> None:
    with run("MT25TL01G", uid=UID) as here:
        here.programmer.prepare_external_reads()
        here.board.nors[number].powered_down = True
        assert survey(here.target).ids == (0x20BA20, 0x20BA20)


def test_two_are_left_in_a_state_together() -> None:
    """What `loader test` does before each Init of its last checks."""
    with run("MT25TL01G", uid=UID) as here:
        here.programmer.prepare_external_reads()
        nor = Nor(here.target)
        assert nor.answers
        nor.leave_in_four_byte_mode()
        assert [die.four_byte for die in here.board.nors] == [True, True]
        nor.leave_in_qpi()
        assert [die.protocol for die in here.board.nors] == [4, 4]
        nor.soothe()
        assert [die.protocol for die in here.board.nors] == [1, 1]


def test_parts_without_a_table_are_measured_by_their_id() -> None:
    with run("MT25TL01G", uid=UID.replace("MT25QL512ABB", "W25Q64JV")) as here:
        for nor in here.board.nors:
            nor.part = replace(PARTS["W25Q64JV"], sfdp=b"\xff" * 256)
        here.programmer.prepare_external_reads()
        die = find_die(here.target)
        assert die is not None
        assert die.size == 16 * MIB
