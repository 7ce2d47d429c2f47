"""The NOR as a die: every instruction by the frames that a controller would send."""

from __future__ import annotations

import pytest

from gdbserver.sim.clock import MICROSECOND, MILLISECOND, Clock
from gdbserver.sim.nor import Frame, Nor


class Bench:
    """A NOR and a controller that always sends the right frame."""

    def __init__(self, part: str = "W25Q256JV", timing: str = "typical") -> None:
        self.clock = Clock()
        self.nor = Nor(part, self.clock, timing=timing)  # type: ignore[arg-type]

    def command(self, opcode: int, write: bytes = b"", read: int = 0) -> bytes:
        return self.nor.transfer(Frame(opcode, write=write, read=read))

    def at(
        self, opcode: int, address: int, write: bytes = b"", read: int = 0, dummy: int = 0
    ) -> bytes:
        return self.nor.transfer(
            Frame(
                opcode,
                address=address,
                address_bytes=self.nor.address_bytes,
                dummy=dummy,
                write=write,
                read=read,
            )
        )

    def at4(self, opcode: int, address: int, write: bytes = b"", read: int = 0) -> bytes:
        return self.nor.transfer(
            Frame(opcode, address=address, address_bytes=4, write=write, read=read)
        )

    def status(self, opcode: int = 0x05) -> int:
        return self.command(opcode, read=1)[0]

    def wait(self) -> None:
        until = self.nor.busy_until
        assert until is not None
        self.clock.advance_to(until)

    def program(self, address: int, data: bytes) -> None:
        self.command(0x06)
        self.at4(0x12, address, data)
        self.wait()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_jedec_id_is_that_of_the_part(bench: Bench) -> None:
    assert bench.command(0x9F, read=4) == bytes.fromhex("ef4019ef")


def test_a_page_program_takes_its_time_and_clears_the_latch(bench: Bench) -> None:
    bench.command(0x06)
    assert bench.status() == 0x02
    bench.at4(0x12, 0x1000, b"hello")
    assert bench.status() == 0x03
    bench.clock.advance_to(700 * MICROSECOND - 1)
    assert bench.status() == 0x03
    bench.clock.advance_to(700 * MICROSECOND)
    assert bench.status() == 0
    assert bench.at4(0x13, 0x1000, read=6) == b"hello\xff"


def test_an_erase_is_aligned_down(bench: Bench) -> None:
    bench.program(0x1FFF, b"\0")
    bench.command(0x06)
    bench.at4(0x21, 0x1ABC)
    assert bench.nor.busy_until == bench.clock.now + 50 * MILLISECOND
    bench.wait()
    assert bench.nor.contents(0x1000, 0x1000) == b"\xff" * 0x1000
    assert bench.nor.erases == {(0x1000, 0x1000): 1}
    assert bench.nor.programs == {0x1F00: 1}
