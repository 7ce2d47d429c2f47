"""GDB's registers and the core's selectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.chip.cortex_m import Selector
from gdbserver.target import registers
from gdbserver.target.registers import CORE_COUNT, EXPEDITED, REGISTERS, VFP

NAMES = [register.name for register in REGISTERS]
WIDTHS = {r.name: r.bits for r in REGISTERS} | dict.fromkeys(
    ("primask", "basepri", "faultmask", "control"), 8
)


def test_numbers_count_up_without_holes() -> None:
    assert [register.number for register in REGISTERS] == list(range(len(REGISTERS)))


def test_the_registers_that_gdb_knows_by_number_are_where_it_expects_them() -> None:
    assert [NAMES.index(name) for name in ("r0", "sp", "lr", "pc", "xpsr")] == [0, 13, 14, 15, 16]


def test_the_fpu_comes_last() -> None:
    assert all(register.feature != VFP for register in REGISTERS[:CORE_COUNT])
    assert all(register.feature == VFP for register in REGISTERS[CORE_COUNT:])


def test_what_is_expedited_exists() -> None:
    assert set(EXPEDITED) <= set(NAMES)


def test_the_special_registers_share_a_selector() -> None:
    assert registers.selectors(["control", "primask", "r0"]) == [Selector.SPECIAL, 0]


def test_a_name_that_no_register_has_is_refused() -> None:
    with pytest.raises(KeyError):
        registers.selectors(["r16"])


def test_double_registers_are_two_singles_the_lower_first() -> None:
    raw = {Selector.S0 + 6: 0x11111111, Selector.S0 + 7: 0x22222222}
    assert registers.decode(["d3", "s7"], raw) == {"d3": 0x2222222211111111, "s7": 0x22222222}


def test_special_registers_are_bytes_of_one_word() -> None:
    raw = {Selector.SPECIAL: 0x04030201}
    values = {"control": 4, "faultmask": 3, "basepri": 2, "primask": 1}
    assert registers.decode(values, raw) == values


def test_writing_one_special_register_leaves_the_others() -> None:
    raw = {Selector.SPECIAL: 0x04030201}
    assert registers.partial(["basepri"]) == [Selector.SPECIAL]
    assert registers.encode({"basepri": 0x80}, raw) == {Selector.SPECIAL: 0x04038001}


def test_the_saved_state_has_every_register_once() -> None:
    saved = [*registers.CORE_SELECTORS, *registers.FPU_SELECTORS]
    assert len(saved) == len(set(saved))
    assert set(saved) | {Selector.SP} >= set(registers.selectors(NAMES))


@pytest.mark.parametrize("written", [Selector.SP, Selector.MSP, Selector.XPSR, Selector.SPECIAL])
def test_writing_a_stack_pointer_or_the_mode_changes_what_sp_is(written: Selector) -> None:
    assert registers.aliases([written]) >= {Selector.SP, Selector.MSP, Selector.PSP}


def test_writing_r0_changes_nothing_else() -> None:
    assert registers.aliases([0]) == {0}


@given(
    st.fixed_dictionaries({r.name: st.integers(0, (1 << WIDTHS[r.name]) - 1) for r in REGISTERS})
)
def test_what_is_encoded_decodes_to_the_same(values: dict[str, int]) -> None:
    assert registers.decode(values, registers.encode(values, {})) == values
