"""Who answers at an address, and what many word accesses at once do."""

from __future__ import annotations

import pytest

from gdbserver.chip.memory import Span
from gdbserver.sim.bus import Bus, BusError, BusStall, Master, Ram


class Slow:
    """Takes two words, then holds the bus; refuses what is behind its first kilobyte."""

    def __init__(self) -> None:
        self.words: list[int] = []

    def read(self, offset: int, size: int, master: Master) -> int:
        if offset >= 1024:
            raise BusError("read")
        if offset >= 8:
            raise BusStall(ready=500)
        return offset

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if offset >= 1024:
            raise BusError("write")
        if len(self.words) == 2:
            raise BusStall(ready=500)
        self.words.append(value)


class Blocks(Slow):
    """Does the same by blocks."""

    def read_block(self, offset: int, length: int, master: Master) -> bytes:
        if offset + length > 1024:
            raise BusError("read", 1024)
        return bytes(length)

    def write_block(self, offset: int, data: bytes, master: Master) -> None:
        if offset + len(data) > 1024:
            raise BusError("write", 1024)
        raise BusStall(ready=500, done=8)


@pytest.mark.parametrize("device", [Slow(), Blocks()], ids=["words", "blocks"])
def test_a_stalled_block_says_how_far_it_got(device: Slow) -> None:
    bus = Bus()
    bus.attach(0x1000, 0x1000, device)
    with pytest.raises(BusStall) as stalled:
        bus.write_block(0x1000, bytes(16), Master.AP0)
    assert (stalled.value.ready, stalled.value.done) == (500, 8)


def test_a_stalled_read_says_how_far_it_got() -> None:
    bus = Bus()
    bus.attach(0x1000, 0x1000, Slow())
    with pytest.raises(BusStall) as stalled:
        bus.read_block(0x1000, 16, Master.AP0)
    assert stalled.value.done == 8


def test_a_refused_block_names_the_address_of_its_first_bad_word() -> None:
    bus = Bus()
    bus.attach(0x1000, 0x1000, Blocks())
    with pytest.raises(BusError) as refused:
        bus.read_block(0x1300, 0x200, Master.AP0)
    assert refused.value.address == 0x1400
    with pytest.raises(BusError) as refused:
        bus.write_block(0x1300, bytes(0x200), Master.AP0)
    assert refused.value.address == 0x1400
    assert str(refused.value) == "bus error on write at 0x00001400"


def test_nobody_home_is_a_bus_error_at_the_address() -> None:
    bus = Bus()
    bus.attach(0x1000, 0x100, Ram(0x100))
    for address in (0xFFC, 0x1100):
        with pytest.raises(BusError) as refused:
            bus.read(address, 4, Master.CORE)
        assert refused.value.address == address


def test_a_block_that_leaves_ram_fails_at_its_end() -> None:
    bus = Bus()
    bus.attach(0x1000, 0x100, Ram(0x100))
    with pytest.raises(BusError) as refused:
        bus.write_block(0x10F0, bytes(32), Master.AP0)
    assert refused.value.address == 0x1100


def test_the_core_hears_of_ram_that_others_wrote() -> None:
    bus = Bus()
    bus.attach(0x1000, 0x100, Ram(0x100))
    changed: list[Span] = []
    bus.on_changed.append(changed.append)
    bus.write(0x1004, 2, 0xABCD, Master.CORE)
    assert changed == []
    bus.write(0x1004, 2, 0xABCD, Master.AP0)
    bus.write_block(0x1010, bytes(8), Master.AP0)
    assert changed == [Span.of(0x1004, 2), Span.of(0x1010, 8)]
    assert bus.read_block(0x1004, 4, Master.AP0) == b"\xcd\xab\0\0"


def test_devices_may_not_overlap() -> None:
    bus = Bus()
    bus.attach(0x1000, 0x100, Ram(0x100))
    with pytest.raises(ValueError, match="overlap"):
        bus.attach(0x10FC, 0x100, Ram(0x100))
