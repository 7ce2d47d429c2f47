"""The NOR as a die: its instructions, by the frames that a controller would send."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gdbserver.chip.memory import Span
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND, Clock, Timing
from gdbserver.sim.nor import Nor
from gdbserver.sim.nor_frames import Frame
from gdbserver.sim.nor_parts import PARTS

MIB = 1 << 20
BUSY, WEL = 1, 2
TIMES = {4: 50, 32: 120, 64: 150}


class Bench:
    """A NOR, and a controller that sends it frames."""

    def __init__(self, part: str = "W25Q256JV", timing: Timing = "typical") -> None:
        self.clock = Clock()
        self.nor = Nor(part, self.clock, timing=timing)

    def command(self, opcode: int, write: bytes = b"", read: int = 0, **how: Any) -> bytes:
        return self.nor.transfer(Frame(opcode, write=write, read=read, **how))

    def at(self, opcode: int, address: int, **how: Any) -> bytes:
        """An instruction whose address length follows the mode."""
        how.setdefault("address_bytes", self.nor.address_bytes)
        return self.command(opcode, address=address, **how)

    def at4(self, opcode: int, address: int, write: bytes = b"", read: int = 0) -> bytes:
        return self.at(opcode, address, write=write, read=read, address_bytes=4)

    def status(self, opcode: int = 0x05) -> int:
        return self.command(opcode, read=1)[0]

    def ready(self) -> None:
        until = self.nor.busy_until
        assert until is not None
        self.clock.advance_to(until)

    def pass_time(self, nanoseconds: int) -> None:
        self.clock.advance_to(self.clock.now + nanoseconds)

    def enabled(self, opcode: int, write: bytes = b"", **how: Any) -> None:
        self.command(0x06)
        self.command(opcode, write, **how)

    def program(self, address: int, data: bytes) -> None:
        self.enabled(0x12, data, address=address, address_bytes=4)
        self.ready()

    def erase(self, address: int, opcode: int = 0x21) -> None:
        self.enabled(opcode, address=address, address_bytes=4)

    def write_status(self, opcode: int, *values: int) -> None:
        self.enabled(opcode, bytes(values))
        self.ready()

    def read4(self, address: int, length: int) -> bytes:
        return self.at4(0x13, address, read=length)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- Identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "jedec"),
    [
        ("W25Q256JV", "ef4019"),
        ("W25Q256JV-IM", "ef7019"),
        ("W25Q128JV", "ef4018"),
        ("W25Q128JV-IM", "ef7018"),
        ("W25Q64JV", "ef4017"),
        ("W25Q64JV-IM", "ef7017"),
        ("MT25QL512ABB", "20ba20"),
        ("IS25LP256D", "9d6019"),
    ],
)
def test_jedec_id_says_which_part_it_is(part: str, jedec: str) -> None:
    assert Bench(part).command(0x9F, read=3).hex() == jedec


def test_jedec_id_repeats_while_the_clock_runs(bench: Bench) -> None:
    assert bench.command(0x9F, read=5).hex() == "ef4019ef40"


def test_another_jedec_id_can_be_pretended(bench: Bench) -> None:
    bench.nor.jedec_id = b"\xc2\x20\x19"
    assert bench.command(0x9F, read=3) == b"\xc2\x20\x19"


@pytest.mark.parametrize("part", PARTS)
def test_sfdp_says_how_large_the_part_is(part: str) -> None:
    bench = Bench(part)

    def sfdp(address: int, length: int) -> bytes:
        return bench.command(0x5A, address=address, address_bytes=3, dummy=8, read=length)

    assert sfdp(0, 4) == b"SFDP"
    pointer, words = int.from_bytes(sfdp(12, 3), "little"), sfdp(11, 1)[0]
    assert words == 16
    density = int.from_bytes(sfdp(pointer + 4, 4), "little")
    assert (density + 1) // 8 == bench.nor.part.size


def test_a_jv_says_jesd216a_so_that_nobody_takes_it_for_an_fv(bench: Bench) -> None:
    header = bench.command(0x5A, address=0, address_bytes=3, dummy=8, read=16)
    assert header.hex(" ", 4) == "53464450 050100ff 00050110 800000ff"
    table = bench.command(0x5A, address=0x80, address_bytes=3, dummy=8, read=44)
    assert table.hex(" ", 4) == (
        "e520fbff ffffff0f 44eb086b 083b42bb feffffff ffff0000 ffff40eb 0c200f52 10d80000"
        " 3602a600 82ea14d3"
    )


def test_sfdp_has_three_address_bytes_in_four_byte_mode_too(bench: Bench) -> None:
    bench.command(0xB7)
    assert bench.command(0x5A, address=0, address_bytes=3, dummy=8, read=4) == b"SFDP"


def test_older_ids(bench: Bench) -> None:
    assert bench.command(0xAB, dummy=24, read=1) == b"\x18"
    assert bench.command(0x90, address=0, address_bytes=3, read=2) == b"\xef\x18"
    assert bench.command(0x90, address=1, address_bytes=3, read=2) == b"\x18\xef"
    quad = {"address_lines": 4, "data_lines": 4}
    assert bench.at(0x94, 0, dummy=6, read=2, **quad) == b"\xef\x18"
    unique = bench.command(0x4B, dummy=32, read=8)
    bench.command(0xB7)
    assert bench.command(0x4B, dummy=40, read=8) == unique != b"\xff" * 8


# --- Reads ------------------------------------------------------------------------------------

READS = [  # opcode, address bytes, lines of address and data, clocks between
    (0x03, 3, 1, 1, 0),
    (0x13, 4, 1, 1, 0),
    (0x0B, 3, 1, 1, 8),
    (0x0C, 4, 1, 1, 8),
    (0x3B, 3, 1, 2, 8),
    (0x3C, 4, 1, 2, 8),
    (0x6B, 3, 1, 4, 8),
    (0x6C, 4, 1, 4, 8),
    (0xBB, 3, 2, 2, 4),
    (0xBC, 4, 2, 2, 4),
    (0xEB, 3, 4, 4, 6),
    (0xEC, 4, 4, 4, 6),
]
DATA = bytes.fromhex("00 81 42 c3 a5 5a 3c e7 18 0f f0 77 12 34 56 78")


@pytest.mark.parametrize("how", READS)
def test_every_read_finds_the_data_and_no_other_number_of_dummies_does(
    bench: Bench, how: tuple[int, int, int, int, int]
) -> None:
    opcode, length, lines, data, waits = how
    bench.nor.memory[0x1230:0x1240] = DATA

    def read(dummy: int) -> bytes:
        return bench.command(
            opcode,
            address=0x1230,
            address_bytes=length,
            address_lines=lines,
            dummy=dummy,
            data_lines=data,
            read=16,
        )

    assert read(waits) == DATA
    for dummy in range(max(0, waits - 3), waits + 4):
        assert (read(dummy) == DATA) == (dummy == waits)


def test_a_missing_dummy_cycle_shifts_the_data_by_its_bits(bench: Bench) -> None:
    bench.nor.memory[0:4] = b"\x12\x34\x56\x78"
    how: dict[str, Any] = {"address_bytes": 4, "address_lines": 4, "data_lines": 4}
    assert bench.command(0xEC, dummy=5, read=4, **how) == b"\xf1\x23\x45\x67"
    assert bench.command(0xEC, dummy=7, read=4, **how) == b"\x23\x45\x67\x8f"


def test_data_on_other_lines_than_the_die_drives_is_what_those_lines_show(bench: Bench) -> None:
    bench.nor.memory[0:4] = b"\x12\x34\x56\x78"
    how: dict[str, Any] = {"address_bytes": 4, "dummy": 8, "read": 2}
    # IO1 alone, of data on four lines: bit 1 of each nibble.
    assert bench.command(0x6C, data_lines=1, **how) == b"\x66\xff"
    # Four lines, of data on IO1: the others are pulled up.
    assert bench.command(0x0C, data_lines=4, **how) == b"\xdd\xdf"


def test_a_three_byte_address_in_four_byte_mode_is_short_of_eight_bits(bench: Bench) -> None:
    bench.nor.memory[0x001234:0x001238] = b"WXYZ"
    bench.command(0xB7)
    assert bench.command(0x03, address=0x1234, address_bytes=3, read=4) != b"WXYZ"
    assert bench.command(0x03, address=0x1234, address_bytes=4, read=4) == b"WXYZ"


def test_a_read_rolls_over_at_the_end_of_the_array(bench: Bench) -> None:
    bench.nor.memory[-2:] = b"yz"
    bench.nor.memory[0:2] = b"ab"
    assert bench.read4(32 * MIB - 2, 4) == b"yzab"


def test_double_data_rate_means_nothing_to_this_part(bench: Bench) -> None:
    bench.nor.memory[0:8] = DATA[:8]
    how: dict[str, Any] = {"address_bytes": 4, "address_lines": 4, "data_lines": 4, "dummy": 6}
    assert bench.command(0xEC, read=8, ddr=True, **how) != DATA[:8]


def test_burst_wrap_turns_in_its_ring(bench: Bench) -> None:
    bench.nor.memory[0:16] = bytes(range(16))
    quad: dict[str, Any] = {"address_bytes": 3, "address_lines": 4, "data_lines": 4}
    bench.command(0x77, b"\x00", **quad)
    assert bench.command(0xEB, address=6, dummy=6, read=10, **quad).hex() == "06070001020304050607"
    assert bench.at4(0x13, 6, read=4) == b"\x06\x07\x08\x09"
    bench.command(0x77, b"\x10", **quad)
    assert bench.command(0xEB, address=6, dummy=6, read=4, **quad) == b"\x06\x07\x08\x09"


def test_continuous_read_needs_no_opcode_until_the_mode_bits_end_it(bench: Bench) -> None:
    bench.nor.memory[0x100:0x104] = b"abcd"
    quad: dict[str, Any] = {
        "address": 0x100,
        "address_bytes": 4,
        "address_lines": 4,
        "alternate_bytes": 1,
        "alternate_lines": 4,
        "dummy": 4,
        "data_lines": 4,
        "read": 4,
    }
    assert bench.command(0xEC, alternate=0x20, **quad) == b"abcd"
    assert bench.nor.transfer(Frame(alternate=0x20, **quad)) == b"abcd"
    assert bench.nor.transfer(Frame(alternate=0xFF, **quad)) == b"abcd"
    assert bench.command(0x9F, read=3) == bytes.fromhex("ef4019")


def test_ones_on_all_lines_end_continuous_read(bench: Bench) -> None:
    quad: dict[str, Any] = {"address_bytes": 4, "address_lines": 4, "data_lines": 4}
    bench.command(
        0xEC, alternate=0xA0, alternate_bytes=1, alternate_lines=4, dummy=4, read=1, **quad
    )
    bench.nor.transfer(Frame(data_lines=4, write=b"\xff" * 16))
    assert bench.command(0x9F, read=3) == bytes.fromhex("ef4019")


# --- Programs ---------------------------------------------------------------------------------


def test_a_page_program_takes_its_time_and_clears_the_latch(bench: Bench) -> None:
    bench.command(0x06)
    assert bench.status() == WEL
    bench.at4(0x12, 0x1000, b"hello")
    bench.clock.advance_to(700 * MICROSECOND - 1)
    assert bench.status() == WEL | BUSY
    bench.clock.advance_to(700 * MICROSECOND)
    assert bench.status() == 0
    assert bench.read4(0x1000, 6) == b"hello\xff"
    assert bench.nor.programs == {0x1000: 1}


def test_maximum_times_are_those_of_the_worst_part() -> None:
    bench = Bench(timing="maximum")
    bench.program(0, b"x")
    assert bench.clock.now == 3 * MILLISECOND


PROGRAMS = [
    ("W25Q256JV", 0x02, 3, 1, 1),
    ("W25Q256JV", 0x12, 4, 1, 1),
    ("W25Q256JV", 0x32, 3, 1, 4),
    ("W25Q256JV", 0x34, 4, 1, 4),
    ("MT25QL512ABB", 0x34, 4, 1, 4),
    ("MT25QL512ABB", 0x38, 3, 4, 4),
    ("MT25QL512ABB", 0x3E, 4, 4, 4),
    ("MT25QL512ABB", 0xA2, 3, 1, 2),
    ("MT25QL512ABB", 0xD2, 3, 2, 2),
]


@pytest.mark.parametrize(("part", "opcode", "length", "lines", "data"), PROGRAMS)
def test_every_program_programs(part: str, opcode: int, length: int, lines: int, data: int) -> None:
    bench = Bench(part)
    bench.enabled(
        opcode,
        DATA,
        address=0x4560,
        address_bytes=length,
        address_lines=lines,
        data_lines=data,
    )
    bench.ready()
    assert bench.nor.contents(0x4560, 16) == DATA


def test_this_part_has_no_program_with_a_quad_address(bench: Bench) -> None:
    for opcode in (0x38, 0x3E):
        bench.enabled(opcode, DATA, address=0, address_bytes=3, address_lines=4, data_lines=4)
        assert bench.status() == WEL


def test_programming_only_clears_bits(bench: Bench) -> None:
    bench.program(0, b"\xf0\x0f")
    bench.program(0, b"\x3c\x3c")
    assert bench.read4(0, 2) == b"\x30\x0c"


def test_a_program_wraps_inside_its_page(bench: Bench) -> None:
    bench.program(0x12FE, b"abcd")
    assert bench.nor.contents(0x12FE, 2) == b"ab"
    assert bench.nor.contents(0x1200, 2) == b"cd"
    assert bench.nor.contents(0x1300, 2) == b"\xff\xff"


def test_of_more_than_a_page_the_last_bytes_win(bench: Bench) -> None:
    data = bytes(index % 251 for index in range(300))
    bench.program(0x10, data)
    image = bytearray(256)
    for index, byte in enumerate(data):
        image[(0x10 + index) % 256] = byte
    assert bench.nor.contents(0, 256) == bytes(image)


def test_nothing_happens_without_write_enable(bench: Bench) -> None:
    bench.at4(0x12, 0, b"x")
    bench.at4(0x21, 0)
    bench.command(0xC7)
    assert bench.status() == 0
    assert not bench.nor.programs
    assert not bench.nor.erases


def test_write_disable_takes_the_latch_back(bench: Bench) -> None:
    bench.command(0x06)
    bench.command(0x04)
    assert bench.status() == 0


def test_chip_select_that_rises_off_a_byte_boundary_cancels_the_program(bench: Bench) -> None:
    # One line's worth of clocks too few for whole bytes on four lines, and the other way round.
    bench.enabled(0x12, b"\0", address=0, address_bytes=4, data_lines=4)
    assert bench.status() == WEL
    bench.enabled(0x12, b"\0", address=0, address_bytes=4, dummy=3)
    assert bench.status() == WEL


def test_an_instruction_with_clocks_too_many_is_not_executed(bench: Bench) -> None:
    bench.command(0x06, b"\0")
    assert bench.status() == 0
    bench.enabled(0x21, b"\0", address=0, address_bytes=4)
    assert bench.status() == WEL


def test_quad_data_sent_on_one_line_programs_other_data(bench: Bench) -> None:
    bench.enabled(0x34, b"\x00\x01", address=0, address_bytes=4, data_lines=1)
    bench.ready()
    assert bench.nor.contents(0, 2) != b"\x00\x01"


# --- Erases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "length", "size"),
    [
        (0x20, 3, 0x1000),
        (0x21, 4, 0x1000),
        (0x52, 3, 0x8000),
        (0xD8, 3, 0x10000),
        (0xDC, 4, 0x10000),
    ],
)
def test_erases_are_aligned_down_to_their_size(
    bench: Bench, opcode: int, length: int, size: int
) -> None:
    start = 0x5A0000
    bench.nor.memory[start - 1 : start + size + 1] = bytes(size + 2)
    bench.enabled(opcode, address=start + size - 1, address_bytes=length)
    assert bench.nor.busy_until == bench.clock.now + TIMES[size >> 10] * MILLISECOND
    bench.ready()
    assert bench.nor.contents(start - 1, size + 2) == b"\0" + b"\xff" * size + b"\0"
    assert bench.nor.erases == {(start, size): 1}


def test_a_32k_erase_has_no_four_byte_opcode(bench: Bench) -> None:
    bench.enabled(0x5C, address=0, address_bytes=4)
    assert bench.status() == WEL


@pytest.mark.parametrize("opcode", [0xC7, 0x60])
def test_chip_erase_clears_all_in_its_time(bench: Bench, opcode: int) -> None:
    bench.nor.memory[123] = bench.nor.memory[-1] = 0
    bench.enabled(opcode)
    assert bench.nor.busy_until == 80 * SECOND
    bench.ready()
    assert bench.nor.memory.count(0xFF) == 32 * MIB


def test_while_busy_only_status_reads_are_answered(bench: Bench) -> None:
    bench.erase(0)
    assert bench.status() == WEL | BUSY
    assert bench.command(0x9F, read=3) == b"\xff\xff\xff"
    assert bench.read4(0x100000, 1) == b"\xff"
    bench.enabled(0x12, b"\0", address=0x100000, address_bytes=4)
    bench.command(0xB9)
    bench.ready()
    assert bench.command(0x9F, read=3) == bytes.fromhex("ef4019")
    assert not bench.nor.programs


# --- Addresses --------------------------------------------------------------------------------


def test_four_byte_mode_survives_everything_but_a_reset_or_power_cycle(bench: Bench) -> None:
    bench.command(0xB7)
    assert bench.status(0x15) & 1
    bench.pass_time(SECOND)
    assert bench.nor.address_bytes == 4
    bench.command(0x66)
    bench.command(0x99)
    bench.pass_time(30 * MICROSECOND)
    assert bench.nor.address_bytes == 3
    bench.command(0xB7)
    bench.command(0xE9)
    assert bench.nor.address_bytes == 3
    bench.command(0xB7)
    bench.nor.power_cycle()
    assert bench.nor.address_bytes == 3


def test_adp_chooses_the_mode_after_power_up(bench: Bench) -> None:
    bench.write_status(0x11, 0x62)
    assert bench.nor.address_bytes == 3
    bench.nor.power_cycle()
    assert bench.nor.address_bytes == 4
    assert bench.status(0x15) == 0x63


def test_the_extended_address_register_completes_three_bytes(bench: Bench) -> None:
    bench.nor.memory[0x1000010] = 0x55
    bench.command(0xC5, b"\x01")
    assert bench.command(0xC8, read=1) == b"\0"
    bench.enabled(0xC5, b"\x01")
    assert bench.command(0xC8, read=1) == b"\x01"
    assert bench.at(0x03, 0x10, read=1) == b"\x55"
    assert bench.read4(0x10, 1) == b"\xff"
    assert bench.status() == 0


# --- Registers and protection -----------------------------------------------------------------


def test_status_writes_take_tw_and_only_the_writable_bits(bench: Bench) -> None:
    bench.enabled(0x01, b"\xff")
    assert bench.nor.busy_until == 10 * MILLISECOND
    bench.ready()
    assert bench.status() == 0x7C


def test_two_bytes_write_two_registers_and_one_leaves_the_second(bench: Bench) -> None:
    bench.write_status(0x01, 0x04, 0x40)
    assert (bench.status(), bench.status(0x35)) == (0x04, 0x42)
    bench.write_status(0x01, 0x00)
    assert bench.status(0x35) == 0x42


def test_a_volatile_write_is_at_once_and_forgotten_at_power_off(bench: Bench) -> None:
    bench.command(0x50)
    bench.command(0x01, b"\x1c")
    assert bench.status() == 0x1C
    bench.command(0x01, b"\x00")
    assert bench.status() == 0x1C
    bench.nor.power_cycle()
    assert bench.status() == 0


def test_qe_is_fixed_on_an_iq_part_and_not_on_an_im(bench: Bench) -> None:
    bench.write_status(0x31, 0x00)
    assert bench.status(0x35) == 0x02
    other = Bench("W25Q256JV-IM")
    assert other.status(0x35) == 0x00
    other.write_status(0x31, 0x02)
    assert other.status(0x35) == 0x02


def test_without_qe_quad_instructions_do_nothing() -> None:
    bench = Bench("W25Q256JV-IM")
    bench.nor.memory[0:4] = b"abcd"
    quad: dict[str, Any] = {"address_bytes": 4, "data_lines": 4}
    assert bench.command(0x6C, dummy=8, read=4, **quad) == b"\xff" * 4
    assert bench.command(0xEC, address_lines=4, dummy=6, read=4, **quad) == b"\xff" * 4
    bench.enabled(0x34, b"\0", **quad)
    assert bench.status() == WEL
    bench.write_status(0x31, 0x02)
    assert bench.command(0x6C, dummy=8, read=4, **quad) == b"abcd"


def test_without_qe_io3_is_hold_and_stops_the_clock_of_the_die() -> None:
    for part, expected in (("W25Q256JV", b"\0\0\0\0"), ("W25Q256JV-IM", b"\xff\xff\xff\xff")):
        bench = Bench(part)
        bench.enabled(0x12, bytes(16), address=0, address_bytes=4, data_lines=4)
        bench.pass_time(SECOND)
        assert bench.nor.contents(0, 4) == expected


def test_qpi_takes_everything_on_four_lines_with_its_own_dummies() -> None:
    bench = Bench("W25Q256JV-IM")
    bench.nor.memory[0:4] = b"abcd"
    quad: dict[str, Any] = {"instruction_lines": 4, "address_lines": 4, "data_lines": 4}
    bench.command(0x38)
    assert bench.command(0x9F, read=3) == bytes.fromhex("ef7019")  # QE is needed first
    bench.write_status(0x31, 0x02)
    bench.command(0x38)
    assert bench.command(0x9F, read=3) != bytes.fromhex("ef7019")
    assert bench.command(0x9F, read=3, **quad) == bytes.fromhex("ef7019")
    assert bench.command(0xEC, address_bytes=4, dummy=2, read=4, **quad) == b"abcd"
    bench.command(0xC0, b"\x20", **quad)
    assert bench.command(0xEC, address_bytes=4, dummy=6, read=4, **quad) == b"abcd"
    assert bench.command(0x13, address_bytes=4, read=4, **quad) == b"\xff" * 4
    bench.command(0xFF, **quad)
    assert bench.command(0x9F, read=3) == bytes.fromhex("ef7019")


def test_srl_locks_the_registers_until_the_power_goes(bench: Bench) -> None:
    bench.write_status(0x31, 0x01)
    bench.enabled(0x01, b"\x04")
    assert bench.status() == 0
    bench.nor.power_cycle()
    bench.write_status(0x01, 0x04)
    assert bench.status() == 0x04


@pytest.mark.parametrize(
    ("part", "sr1", "cmp", "kept"),
    [
        ("W25Q256JV", 0x00, False, Span(0, 0)),
        ("W25Q256JV", 0x04, False, Span(32 * MIB - 0x10000, 32 * MIB)),
        ("W25Q256JV", 0x44, False, Span(0, 0x10000)),
        ("W25Q256JV", 0x24, False, Span(16 * MIB, 32 * MIB)),
        ("W25Q256JV", 0x64, False, Span(0, 16 * MIB)),
        ("W25Q256JV", 0x28, False, Span(0, 32 * MIB)),
        ("W25Q256JV", 0x04, True, Span(0, 32 * MIB - 0x10000)),
        ("W25Q256JV", 0x00, True, Span(0, 32 * MIB)),
        ("W25Q256JV", 0x7C, True, Span(0, 0)),
        ("W25Q128JV", 0x04, False, Span(16 * MIB - 0x40000, 16 * MIB)),
        ("W25Q128JV", 0x38, False, Span(0, 8 * MIB)),
        ("W25Q128JV", 0x44, False, Span(16 * MIB - 0x1000, 16 * MIB)),
        ("W25Q128JV", 0x70, False, Span(0, 0x8000)),
        ("W25Q64JV", 0x04, False, Span(8 * MIB - 0x20000, 8 * MIB)),
        ("MT25QL512ABB", 0x04, False, Span(64 * MIB - 0x10000, 64 * MIB)),
        ("MT25QL512ABB", 0x68, False, Span(0, 32 * MIB)),
        ("IS25LP256D", 0x08, False, Span(32 * MIB - 0x20000, 32 * MIB)),
    ],
)
def test_block_protection_keeps_just_its_span(part: str, sr1: int, cmp: bool, kept: Span) -> None:
    bench = Bench(part)
    bench.write_status(0x01, sr1)
    if cmp:
        bench.write_status(0x31, 0x42)
    size = bench.nor.part.size
    edges = {0, 0x1000, 0x8000, 0x10000, size - 0x1000, size - 0x10000, 16 * MIB, 8 * MIB}
    edges |= {kept.start, kept.start - 0x1000, kept.end - 0x1000, kept.end}
    for address in edges:
        if 0 <= address < size:
            assert bench.nor.vendor.protected(Span.of(address, 0x1000)) == (address in kept)


def test_a_protected_erase_is_ignored_and_clears_the_latch(bench: Bench) -> None:
    bench.write_status(0x01, 0x04)
    bench.erase(32 * MIB - 1)
    assert bench.status() == 0x04
    bench.enabled(0xC7)
    assert bench.status() == 0x04
    bench.erase(0)
    assert bench.status() == 0x04 | WEL | BUSY


def test_individual_locks_start_locked_and_open_by_block(bench: Bench) -> None:
    bench.write_status(0x11, 0x64)
    bench.erase(0x20000)
    assert not bench.nor.busy
    bench.enabled(0x39, address=0x2ABCD, address_bytes=3)
    assert bench.at(0x3D, 0x20000, read=1) == b"\0"
    assert bench.at(0x3D, 0x30000, read=1) == b"\x01"
    bench.erase(0x20000, 0xDC)
    bench.ready()
    bench.enabled(0x39, address=0x1000, address_bytes=3)
    bench.erase(0x1000)
    bench.ready()
    bench.erase(0x1000, 0xDC)
    assert not bench.nor.busy
    bench.enabled(0x98)
    bench.erase(0, 0xDC)
    bench.ready()
    bench.enabled(0x7E)
    bench.erase(0x20000)
    assert not bench.nor.busy


def test_security_registers_program_erase_and_lock(bench: Bench) -> None:
    def read() -> bytes:
        return bench.at(0x48, 0x2010, dummy=8, read=4)

    bench.enabled(0x42, b"abcd", address=0x2010, address_bytes=3)
    bench.ready()
    assert read() == b"abcd"
    bench.enabled(0x44, address=0x2000, address_bytes=3)
    bench.ready()
    assert read() == b"\xff" * 4
    bench.write_status(0x31, 0x12)
    bench.enabled(0x42, b"abcd", address=0x2010, address_bytes=3)
    assert not bench.nor.busy
    bench.write_status(0x31, 0x02)
    assert bench.status(0x35) == 0x12


# --- Suspend, power, reset --------------------------------------------------------------------


def test_an_erase_suspends_for_reads_and_programs_elsewhere(bench: Bench) -> None:
    bench.nor.memory[0x5000] = 0x12
    bench.erase(0)
    bench.pass_time(20 * MILLISECOND)
    bench.command(0x75)
    assert bench.status() & BUSY
    bench.pass_time(20 * MICROSECOND)
    assert (bench.status(), bench.status(0x35)) == (0, 0x82)
    assert bench.read4(0x5000, 1) == b"\x12"
    bench.erase(0x9000)
    assert not bench.nor.busy
    bench.command(0x04)
    bench.program(0x6000, b"\x01")
    bench.command(0x7A)
    assert bench.nor.busy_until == bench.clock.now + 30 * MILLISECOND
    bench.ready()
    assert (bench.status(), bench.status(0x35)) == (0, 0x02)
    assert bench.nor.contents(0x6000, 1) == b"\x01"


def test_what_cannot_be_suspended_goes_on(bench: Bench) -> None:
    bench.enabled(0xC7)
    bench.command(0x75)
    bench.pass_time(MILLISECOND)
    assert bench.nor.busy_until == 80 * SECOND
    bench.command(0x7A)
    assert bench.nor.busy_until == 80 * SECOND


def test_in_power_down_only_release_is_heard(bench: Bench) -> None:
    bench.command(0xB9)
    bench.pass_time(3 * MICROSECOND)
    assert bench.command(0x9F, read=3) == b"\xff" * 3
    assert bench.status() == 0xFF
    bench.command(0xAB)
    assert bench.status() == 0xFF
    bench.pass_time(3 * MICROSECOND)
    assert bench.command(0x9F, read=3) == bytes.fromhex("ef4019")


def test_reset_needs_its_two_opcodes_in_a_row(bench: Bench) -> None:
    bench.command(0xB7)
    bench.command(0x99)
    bench.command(0x66)
    bench.status()
    bench.command(0x99)
    assert bench.nor.address_bytes == 4
    bench.command(0x66)
    bench.command(0x99)
    assert bench.nor.address_bytes == 3
    assert bench.status() == 0xFF
    assert bench.nor.changes_at == 30 * MICROSECOND
    bench.pass_time(30 * MICROSECOND)
    assert bench.status() == 0


def test_a_reset_leaves_an_erase_half_done(bench: Bench) -> None:
    bench.nor.memory[0:0x1000] = b"\x5a" * 0x1000
    bench.erase(0)
    bench.pass_time(25 * MILLISECOND)
    bench.command(0x66)
    bench.command(0x99)
    bench.pass_time(SECOND)
    assert bench.status() == 0
    assert bench.nor.contents(0, 0x1000) == bytes(0x1000)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0, b"\x5a" * 8),
        (125, b"\0\0" + b"\x5a" * 6),
        (750, b"\xff" * 4 + bytes(4)),
        (900, b"\xff" * 6 + bytes(2)),
    ],
)
def test_power_loss_leaves_what_was_done_by_then(bench: Bench, after: int, expected: bytes) -> None:
    bench.nor.memory[0:0x1000] = b"\x5a" * 0x1000
    bench.erase(0)
    bench.pass_time(50 * MICROSECOND * after)
    bench.nor.power_cycle()
    assert bench.nor.contents(0, 0x1000)[256::512] == expected
    assert bench.status() == 0


def test_power_loss_leaves_the_first_part_of_a_page(bench: Bench) -> None:
    bench.enabled(0x12, bytes(256), address=0, address_bytes=4)
    bench.pass_time(350 * MICROSECOND)
    bench.nor.power_cycle()
    assert bench.nor.contents(0, 256) == bytes(128) + b"\xff" * 128


# --- Faults -----------------------------------------------------------------------------------


def test_a_stuck_part_never_becomes_ready_until_power_goes(bench: Bench) -> None:
    bench.nor.stick_busy()
    assert bench.status() == 0
    bench.erase(0)
    assert bench.nor.busy_until is None
    bench.pass_time(1000 * SECOND)
    assert bench.status() & BUSY
    bench.nor.power_cycle()
    assert bench.status() == 0
    bench.erase(0)
    bench.ready()


def test_a_part_can_be_stuck_at_once(bench: Bench) -> None:
    bench.nor.stick_busy(now=True)
    assert bench.status() == BUSY
    assert bench.clock.next_event is None


def test_a_failed_cell_keeps_its_value(bench: Bench) -> None:
    bench.nor.fail_cell(0x10, 3)
    bench.nor.fail_cell(0x11)
    bench.program(0x10, b"\0\0\0")
    assert bench.nor.contents(0x10, 3) == b"\x08\xff\0"
    bench.nor.memory[0x11] = 0x42
    bench.erase(0)
    bench.ready()
    assert bench.nor.contents(0x10, 3) == b"\xff\x42\xff"


def test_an_unknown_part_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'W25Q512JV'.*W25Q256JV, .*IS25LP256D"):
        Nor("W25Q512JV", Clock())


# --- Micron -----------------------------------------------------------------------------------


@pytest.fixture
def micron() -> Bench:
    return Bench("MT25QL512ABB")


def test_micron_needs_write_enable_to_change_the_address_mode(micron: Bench) -> None:
    micron.command(0xB7)
    assert micron.nor.address_bytes == 3
    micron.enabled(0xB7)
    assert micron.nor.address_bytes == 4
    assert micron.command(0x70, read=1) == b"\x81"


def test_micron_flags_tell_of_protection_and_failure(micron: Bench) -> None:
    micron.write_status(0x01, 0x04)
    micron.erase(64 * MIB - 1)
    assert micron.command(0x70, read=1) == b"\xa2"
    assert micron.status() & WEL
    micron.command(0x50)
    assert micron.command(0x70, read=1) == b"\x80"
    micron.nor.fail_cell(0)
    micron.program(0, b"\0")
    assert micron.command(0x70, read=1) == b"\x90"


def test_micron_flags_show_busy_and_suspended(micron: Bench) -> None:
    micron.erase(0)
    assert micron.command(0x70, read=1) == b"\x00"
    micron.command(0x75)
    micron.pass_time(30 * MICROSECOND)
    assert micron.command(0x70, read=1) == b"\xc0"


def test_micron_dummy_cycles_are_configured(micron: Bench) -> None:
    micron.nor.memory[0:4] = b"abcd"
    quad: dict[str, Any] = {"address_bytes": 4, "address_lines": 4, "data_lines": 4, "read": 4}
    assert micron.command(0xEC, dummy=10, **quad) == b"abcd"
    micron.enabled(0x81, b"\x6b")
    assert micron.command(0x85, read=1) == b"\x6b"
    assert micron.command(0xEC, dummy=10, **quad) != b"abcd"
    assert micron.command(0xEC, dummy=6, **quad) == b"abcd"
    micron.enabled(0xB1, b"\xff\x4f")
    micron.ready()
    micron.nor.power_cycle()
    assert micron.command(0xEC, dummy=4, **quad) == b"abcd"


def test_micron_xip_is_enabled_and_confirmed(micron: Bench) -> None:
    micron.nor.memory[0:4] = b"abcd"
    quad: dict[str, Any] = {
        "address_bytes": 4,
        "address_lines": 4,
        "alternate_bytes": 1,
        "alternate_lines": 4,
        "dummy": 8,
        "data_lines": 4,
        "read": 4,
    }
    assert micron.command(0xEC, alternate=0x00, **quad) == b"abcd"
    assert micron.command(0x9F, read=1) == b"\x20"
    micron.enabled(0x81, b"\xf3")
    micron.command(0xEC, alternate=0x00, **quad)
    assert micron.nor.transfer(Frame(alternate=0x00, **quad)) == b"abcd"
    assert micron.nor.transfer(Frame(alternate=0xFF, **quad)) == b"abcd"
    assert micron.command(0x9F, read=1) == b"\x20"


@pytest.mark.parametrize(
    ("opcode", "lines", "data", "dummy"),
    [(0x0E, 1, 1, 6), (0x39, 1, 2, 6), (0xBE, 2, 2, 6), (0x3A, 1, 4, 6), (0xEE, 4, 4, 8)],
)
def test_micron_reads_on_both_edges(
    micron: Bench, opcode: int, lines: int, data: int, dummy: int
) -> None:
    micron.nor.memory[0:4] = b"abcd"
    how: dict[str, Any] = {"address_bytes": 4, "address_lines": lines, "data_lines": data}
    assert micron.command(opcode, dummy=dummy, read=4, ddr=True, **how) == b"abcd"
    assert micron.command(opcode, dummy=dummy + 1, read=4, ddr=True, **how) != b"abcd"
    assert micron.command(opcode, dummy=dummy, read=4, **how) != b"abcd"


def test_micron_quad_protocol_takes_everything_on_four_lines(micron: Bench) -> None:
    micron.command(0x35)
    quad: dict[str, Any] = {"instruction_lines": 4, "address_lines": 4, "data_lines": 4}
    assert micron.command(0x9F, read=3) == b"\xff" * 3
    assert micron.command(0xAF, read=3, **quad) == bytes.fromhex("20ba20")
    micron.command(0xF5, **quad)
    assert micron.command(0x9F, read=3) == bytes.fromhex("20ba20")


def test_micron_lock_bits_protect_a_sector_until_power_goes(micron: Bench) -> None:
    micron.enabled(0xE1, b"\x03", address=0x12345, address_bytes=4)
    micron.enabled(0xE1, b"\x00", address=0x12345, address_bytes=4)
    assert micron.at4(0xE0, 0x10000, read=1) == b"\x03"
    micron.erase(0x1F000)
    assert not micron.nor.busy
    micron.nor.power_cycle()
    micron.erase(0x1F000)
    assert micron.nor.busy


# --- ISSI -------------------------------------------------------------------------------------


@pytest.fixture
def issi() -> Bench:
    return Bench("IS25LP256D")


def test_issi_has_qe_in_the_status_register(issi: Bench) -> None:
    issi.nor.memory[0:4] = b"abcd"
    quad: dict[str, Any] = {"address_bytes": 4, "address_lines": 4, "data_lines": 4, "read": 4}
    assert issi.command(0xEC, dummy=6, **quad) == b"\xff" * 4
    issi.write_status(0x01, 0x40)
    assert issi.command(0xEC, dummy=6, **quad) == b"abcd"
    issi.command(0xC0, b"\x40")
    assert issi.command(0xEC, dummy=6, **quad) != b"abcd"
    assert issi.command(0xEC, dummy=8, **quad) == b"abcd"


def test_issi_leaves_four_byte_mode_by_29h(issi: Bench) -> None:
    issi.command(0xB7)
    issi.command(0xE9)
    assert issi.command(0x16, read=1) == b"\x80"
    issi.command(0x29)
    assert issi.command(0x16, read=1) == b"\x00"
    issi.command(0x17, b"\x81")
    assert issi.nor.address_bytes == 4
    issi.nor.power_cycle()
    assert issi.nor.address_bytes == 3


def test_issi_reports_errors_until_they_are_cleared(issi: Bench) -> None:
    issi.write_status(0x01, 0x04)
    issi.erase(32 * MIB - 1)
    assert issi.command(0x81, read=1) == b"\xfa"
    issi.command(0x82)
    assert issi.command(0x81, read=1) == b"\xf0"


def test_issi_function_register_bits_cannot_be_taken_back(issi: Bench) -> None:
    for value in (0x02, 0x00):
        issi.enabled(0x42, bytes([value]))
        issi.ready()
    assert issi.command(0x48, read=1) == b"\x02"
    issi.write_status(0x01, 0x04)
    issi.erase(0)
    assert not issi.nor.busy


# --- Any frame at all --------------------------------------------------------------------------

LINES = st.sampled_from([1, 2, 4])
FRAMES = st.builds(
    Frame,
    instruction=st.none()
    | st.sampled_from(sorted(PARTS["MT25QL512ABB"].commands))
    | st.integers(0, 255),
    instruction_lines=LINES,
    address=st.integers(0, 2**32 - 1),
    address_bytes=st.integers(0, 4),
    address_lines=LINES,
    alternate=st.integers(0, 2**32 - 1),
    alternate_bytes=st.integers(0, 4),
    alternate_lines=LINES,
    dummy=st.integers(0, 31),
    data_lines=LINES,
    write=st.binary(max_size=4),
    ddr=st.booleans(),
) | st.builds(
    Frame,
    instruction=st.integers(0, 255),
    address_bytes=st.integers(0, 4),
    dummy=st.integers(0, 31),
    data_lines=LINES,
    read=st.integers(0, 9),
    ddr=st.booleans(),
)


@pytest.mark.parametrize("part", ["W25Q64JV", "MT25QL512ABB", "IS25LP256D"])
@settings(max_examples=60, deadline=None)
@given(frames=st.lists(FRAMES, max_size=12), pause=st.integers(0, MILLISECOND))
def test_whatever_is_on_the_wires_the_die_gives_as_many_bytes_as_are_clocked(
    part: str, frames: list[Frame], pause: int
) -> None:
    bench = fuzzed(part)
    for frame in frames:
        assert len(bench.nor.transfer(frame)) == frame.read
        bench.pass_time(pause)


@cache
def fuzzed(part: str) -> Bench:
    """One die for all examples: its array is large, and any state is a fair one to start in."""
    return Bench(part)


# --- Against a simple reference ---------------------------------------------------------------

BLOCKS = (0, 0x10000, 16 * MIB - 0x1000, 16 * MIB, 32 * MIB - 0x10000, 32 * MIB - 0x1000)
ADDRESSES = st.builds(
    lambda base, offset: base + offset, st.sampled_from(BLOCKS), st.integers(0, 0xFFF)
)


class NorMachine(RuleBasedStateMachine):
    """Bits clear by programs and come back by erases; a latch, a mode and protection decide."""

    @initialize()
    def power_on(self) -> None:
        self.bench = Bench()
        self.memory: dict[int, int] = {}
        self.latch = False
        self.four_byte = False
        self.high = 0
        self.protected = Span(0, 0)

    def byte(self, address: int) -> int:
        return self.memory.get(address, 0xFF)

    def settle(self) -> None:
        if self.bench.nor.busy:
            self.bench.ready()

    @rule(on=st.booleans())
    def set_latch(self, on: bool) -> None:
        self.bench.command(0x06 if on else 0x04)
        self.latch = on

    @rule(on=st.booleans())
    def set_mode(self, on: bool) -> None:
        self.bench.command(0xB7 if on else 0xE9)
        self.four_byte = on

    @rule(high=st.integers(0, 1))
    def set_high_address(self, high: int) -> None:
        self.bench.command(0xC5, bytes([high]))
        if self.latch:
            self.high, self.latch = high, False

    @rule(bottom=st.booleans(), bp=st.sampled_from([0, 1, 9]))
    def protect(self, bottom: bool, bp: int) -> None:
        self.bench.command(0x04)
        self.bench.command(0x50)
        self.latch = False
        self.bench.command(0x01, bytes([bp << 2 | bottom << 6]))
        length = 0x10000 << bp - 1 if bp else 0
        self.protected = Span(0, length) if bottom else Span(32 * MIB - length, 32 * MIB)

    def reaches(self, address: int, native: bool) -> int:
        """Which address an instruction with this one on the wires acts on."""
        if native or self.four_byte:
            return address
        return address & 0xFFFFFF | self.high << 24

    @rule(address=ADDRESSES, data=st.binary(min_size=1, max_size=300), native=st.booleans())
    def program(self, address: int, data: bytes, native: bool) -> None:
        if native:
            self.bench.at4(0x12, address, data)
        else:
            self.bench.at(0x02, address, write=data)
        address = self.reaches(address, native)
        page = address & ~0xFF
        if not self.latch:
            assert not self.bench.nor.busy
            return
        self.latch = False
        if address in self.protected:
            assert not self.bench.nor.busy
            return
        assert self.bench.nor.busy
        last = {(address + index) % 256: byte for index, byte in enumerate(data)}
        for offset, byte in last.items():
            self.memory[page + offset] = self.byte(page + offset) & byte
        self.settle()

    @rule(address=ADDRESSES, native=st.booleans(), large=st.booleans())
    def erase(self, address: int, native: bool, large: bool) -> None:
        if native:
            self.bench.at4(0xDC if large else 0x21, address)
        else:
            self.bench.at(0xD8 if large else 0x20, address)
        size = 0x10000 if large else 0x1000
        start = self.reaches(address, native) & -size
        if not self.latch:
            assert not self.bench.nor.busy
            return
        self.latch = False
        if len(Span.of(start, size) & self.protected):
            assert not self.bench.nor.busy
            return
        assert self.bench.nor.busy
        for known in list(self.memory):
            if start <= known < start + size:
                del self.memory[known]
        self.settle()

    @rule(address=ADDRESSES, native=st.booleans())
    def read(self, address: int, native: bool) -> None:
        data = self.bench.read4(address, 32) if native else self.bench.at(0x03, address, read=32)
        start = self.reaches(address, native)
        assert data == bytes(self.byte((start + index) % (32 * MIB)) for index in range(32))

    @rule()
    def power_cycle(self) -> None:
        self.bench.nor.power_cycle()
        self.latch = self.four_byte = False
        self.high = 0
        self.protected = Span(0, 0)

    @precondition(lambda self: hasattr(self, "bench"))
    @invariant()
    def status_agrees(self) -> None:
        assert bool(self.bench.status() & WEL) == self.latch
        assert bool(self.bench.status(0x15) & 1) == self.four_byte


TestNorMachine = NorMachine.TestCase
TestNorMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
