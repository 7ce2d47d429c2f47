"""The notation for register maps."""

from __future__ import annotations

import pytest

from gdbserver.sim.bus import Master
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    Unmodelled,
    Word,
    on_read,
    on_write,
)


class Example(Peripheral):
    CR = Register(
        0x0,
        BitStruct("HIGH" / BitsInteger(8), Padding(16), Unmodelled("DUAL"), "LOW" / BitsInteger(7)),
        reset=0x81000005,
    )
    SR = Register(0x4, BitStruct(Padding(30), "TOF" / Flag, "BUSY" / Flag), writable=0)

    @on_read(SR)
    def _refresh(self) -> None:
        self.update(self.SR, BUSY=True)

    FCR = Register(0x8, BitStruct(Padding(30), "CTOF" / Flag, Padding(1)))

    @on_write(FCR)
    def _clear(self, fcr: Fields) -> None:
        if fcr.CTOF:
            self.update(self.SR, TOF=False)


def test_fields_are_cut_as_the_drawing_says() -> None:
    cr = Example()[Example.CR]
    assert (cr.HIGH, cr["LOW"]) == (0x81, 0x05)


def test_reserved_bits_read_as_zero_whatever_is_written() -> None:
    device = Example()
    device.write(0x0, 4, 0xFFFFFF7F, Master.CORE)
    assert device.read(0x0, 4, Master.CORE) == 0xFF00007F


def test_an_unmodelled_bit_is_kept_and_tells_on_who_uses_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Example("QUADSPI")
    device.write(0x0, 4, 0x81000085, Master.CORE)
    assert device.read(0x0, 4, Master.CORE) == 0x81000085
    assert "QUADSPI.CR: bits 0x00000080 are not modelled" in caplog.text


def test_a_read_only_register_ignores_writes_and_refreshes_on_read() -> None:
    device = Example()
    device.write(0x4, 4, 0xFFFFFFFE, Master.CORE)
    assert device.read(0x4, 4, Master.CORE) == 1


def test_a_write_hook_replaces_storing() -> None:
    device = Example()
    device.update(device.SR, TOF=True)
    device.write(0x8, 4, 0x2, Master.CORE)
    assert (device[device.SR].TOF, device.read(0x8, 4, Master.CORE)) == (0, 0)


def test_one_hook_serves_several_registers_and_is_told_which() -> None:
    class Locked(Peripheral):
        DLR, PIR = Word(0x0), Word(0x4, writable=0xFFFF)

        @on_write(DLR, PIR)
        def _note(self, written: Fields) -> None:
            names.append(written.register.name)
            self.store(written)

    names: list[str] = []
    device = Locked()
    device.write(0x0, 4, 0x12345678, Master.CORE)
    device.write(0x4, 4, 0x12345678, Master.CORE)
    assert names == ["DLR", "PIR"]
    assert (device.raw(device.DLR), device.raw(device.PIR)) == (0x12345678, 0x5678)


def test_bytes_and_halfwords_are_parts_of_the_word() -> None:
    device = Example()
    device.write(0x3, 1, 0x42, Master.CORE)
    assert device.read(0x2, 2, Master.CORE) == 0x4200
    assert device[device.CR].LOW == 0x05


def test_a_misspelt_field_is_an_error() -> None:
    device = Example()
    with pytest.raises(KeyError):
        device.update(device.CR, HIHG=1)
    with pytest.raises(AttributeError):
        _ = device[device.CR].HIHG


def test_a_register_is_32_bits_wide() -> None:
    with pytest.raises(TypeError, match="31 bits wide"):
        Register(0, BitStruct(Padding(31)))
