"""Registers of debug and access ports, by number, between accesses to memory."""

from __future__ import annotations

import pytest

from gdbserver.errors import BadRequest
from gdbserver.target.target import Target


@pytest.fixture(params=["sim:stlink-v2", "sim:stlink-v3", "sim:cmsis-dap-v1", "sim:cmsis-dap-v2"])
def target(request: pytest.FixtureRequest) -> Target:
    return Target.open(request.param)


def test_selecting_a_port_and_a_bank_does_not_disturb_memory(target: Target) -> None:
    target.write_word(0x20000000, 0x11223344)
    target.raw.write_dp(2, 0x020000F0)
    assert target.raw.read_ap(3) & 0xFFFF == target.raw.read_ap_at(2, 0xFC) & 0xFFFF
    assert target.read_word(0x20000000) == 0x11223344
    target.raw.write_dp(2, 0)
    target.raw.write_ap(1, 0x20000000)
    assert target.read_words(0x20000004, 2) is not None
    assert target.read_word(0x20000000) == 0x11223344
    assert target.raw.read_dp(0) == 0x6BA02477
    target.close()


def test_reading_data_by_number_which_counts_tar_up_does_not_disturb_the_core(
    target: Target,
) -> None:
    assert target.is_halted()
    pc = target.read_registers(["pc"])["pc"]
    target.raw.write_dp(2, 0)
    for _ in range(5):
        target.raw.read_ap(3)  # DRW
    assert target.is_halted()
    target.write_registers({"r0": 0x11223344})
    assert target.read_registers(["r0", "pc"]) == {"r0": 0x11223344, "pc": pc}
    target.close()


@pytest.mark.parametrize("number", [-1, 4])
def test_there_are_four_registers(target: Target, number: int) -> None:
    with pytest.raises(BadRequest, match="they are 0 to 3"):
        target.raw.read_dp(number)
    with pytest.raises(BadRequest, match="has no register at 0x2"):
        target.raw.read_ap_at(0, 2)
    target.close()
