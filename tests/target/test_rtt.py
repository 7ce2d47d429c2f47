"""RTT: the block that is found, the rings that are believed, the bytes that come through."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
import support
from hypothesis import given
from hypothesis import strategies as st
from target_bench import LINKS, Bench, make_bench

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM, DTCM, SRAM4
from gdbserver.target.rtt import IDENTIFIER, MAX_CHANNELS, RAM, SCAN_PIECE, Ring, Rtt, parse

PATIENCE = 2000
START = AXI_SRAM.start

# --- Rings and blocks, as values ------------------------------------------------------------------


@st.composite
def rings(draw: st.DrawFn) -> Ring:
    size = draw(st.integers(2, 40))
    offset = st.integers(0, size - 1)
    return Ring(0, 0, START, size, draw(offset), draw(offset))


@given(rings())
def test_a_ring_is_filled_and_free_in_all_its_bytes_but_one(ring: Ring) -> None:
    filled, free = ring.filled(), ring.free()
    addresses = [a for span in filled + free for a in range(span.start, span.end)]
    assert len(addresses) == len(set(addresses)) == ring.size - 1
    assert all(a in Span.of(ring.start, ring.size) for a in addresses)
    assert all(len(span) for span in filled + free)


@given(st.binary(min_size=1, max_size=200), st.integers(2, 20), st.integers(0, 2**32))
def test_bytes_come_out_of_a_ring_as_they_went_in(data: bytes, size: int, seed: int) -> None:
    """A writer and a reader that take turns as they like; each goes by what `Ring` says."""
    memory = bytearray(size)
    write = read = 0
    sent, received = 0, b""
    turns = random.Random(seed)
    while len(received) < len(data):
        if turns.random() < 0.5:
            for span in Ring(0, 0, 0, size, write, read).free():
                part = data[sent : sent + len(span)]
                memory[span.start : span.start + len(part)] = part
                sent += len(part)
                write = (write + len(part)) % size
        else:
            for span in Ring(0, 0, 0, size, write, read).filled():
                received += memory[span.start : span.end]
            read = write
    assert received == data


WORDS = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1), st.just(START))


@given(
    st.one_of(st.just(IDENTIFIER), st.binary(min_size=16, max_size=16)),
    st.lists(WORDS, max_size=40),
)
def test_garbage_is_no_block_or_one_whose_sound_rings_are_in_ram(
    identifier: bytes, words: list[int]
) -> None:
    block = parse(START, identifier + struct.pack(f"<{len(words)}I", *words))
    if block is None:
        return
    assert identifier == IDENTIFIER
    assert max(len(block.up), len(block.down)) <= MAX_CHANNELS
    sound = [ring for ring in block.up + block.down if ring.is_sound()]
    assert sound
    for ring in sound:
        place = Span.of(ring.start, ring.size)
        assert all(span in place for span in ring.filled() + ring.free())


# --- A program ------------------------------------------------------------------------------------


@pytest.fixture
def talking() -> Iterator[Bench]:
    """Halted at the reset vector of `tests/firmware/rtt.c`."""
    yield from make_bench("sim:ideal", support.build_firmware("rtt"))


def collect(bench: Bench, rtt: Rtt, end: bytes) -> bytes:
    """What comes up on channel 0, up to `end`."""
    said = b""
    for _ in range(PATIENCE):
        said += rtt.poll().get(0, b"")
        if said.endswith(end):
            return said
        bench.target.poll_stop()  # which lets the board's time pass
    raise AssertionError(said)


EVERYTHING = b"ready\n" + b"".join(b"line %d\n" % n for n in range(100))


def test_what_a_running_program_writes_arrives_whole_and_in_order(talking: Bench) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.target.resume()
    assert collect(talking, rtt, b"line 99\n") == EVERYTHING
    assert rtt.channels == {0: "Terminal", 1: "numbers"}
    assert not talking.board.core.halted


@pytest.mark.parametrize("link", LINKS)
def test_a_block_is_found_in_ram_without_being_told_where(link: str) -> None:
    for bench in make_bench(f"sim:{link}", support.build_firmware("rtt")):
        bench.target.resume()
        rtt = Rtt(bench.target)
        assert collect(bench, rtt, b"line 99\n") == EVERYTHING


@pytest.mark.parametrize("looks", range(1, 5))
def test_a_block_that_is_written_while_ram_is_searched_is_found_soon(
    talking: Bench, looks: int
) -> None:
    """It is at the beginning of a RAM, where the search was long ago."""
    rtt = Rtt(talking.target)
    for _ in range(20 + looks):
        assert rtt.poll() == {}
    talking.target.resume()
    for _ in range(50):
        talking.target.poll_stop()
    for _ in range(4):
        rtt.poll()
    assert rtt.found


def test_a_block_anywhere_is_found_when_ram_was_searched_once(talking: Bench) -> None:
    old, new = talking.names["_SEGGER_RTT"], SRAM4.end - 96
    talking.target.resume()
    collect(talking, Rtt(talking.target), b"line 99\n")
    talking.target.halt()
    talking.target.write_memory(new, talking.target.read_memory(old, 96))
    talking.target.write_memory(old, bytes(4))
    rtt = Rtt(talking.target)
    pieces = sum(len(ram) for ram in RAM) // SCAN_PIECE + 1
    looks = next(n for n in range(PATIENCE) if rtt.poll() or rtt.found)
    assert looks <= pieces * 4 // 3


def test_looking_when_nothing_is_new_is_one_read(talking: Bench) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.target.resume()
    collect(talking, rtt, b"line 99\n")
    rtt.poll()
    before = talking.cost()
    assert rtt.poll() == {}
    once = talking.cost() - before
    before = talking.cost()
    talking.target.read_memory(talking.names["_SEGGER_RTT"], 96)
    assert once <= talking.cost() - before


def test_what_is_written_down_comes_back_up(talking: Bench) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.target.resume()
    collect(talking, rtt, b"line 99\n")
    text = b"a text that is longer than the ring\n"
    sent, heard = 0, b""
    for _ in range(PATIENCE):
        sent += rtt.write(0, text[sent:])
        heard += rtt.poll().get(0, b"")
        if heard == text.upper():
            break
        talking.target.poll_stop()
    assert heard == text.upper()
    assert rtt.write(1, b"there is no such channel") == 0


def test_channels_are_read_while_the_core_is_halted(talking: Bench) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.run_to("main")
    assert rtt.poll() == {}  # there is no block yet
    talking.target.resume()
    for _ in range(50):
        talking.target.poll_stop()
    talking.target.halt()
    said = rtt.poll()
    assert said[0].startswith(b"ready\nline 0\n")
    assert rtt.poll() == {}


def test_after_a_reset_the_new_programs_channels_are_read(talking: Bench) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.target.resume()
    collect(talking, rtt, b"line 99\n")
    talking.target.reset(halt=True)
    rtt.forget()
    assert rtt.poll() == {}
    assert not rtt.found
    talking.target.resume()
    assert collect(talking, rtt, b"line 99\n") == EVERYTHING


def test_a_block_that_is_overwritten_is_lost_and_found_again_elsewhere(talking: Bench) -> None:
    rtt = Rtt(talking.target)
    old, new = talking.names["_SEGGER_RTT"], AXI_SRAM.start + 0x7FFC  # across two pieces
    talking.target.resume()
    collect(talking, rtt, b"line 99\n")
    talking.target.halt()
    block = bytearray(talking.target.read_memory(old, 96))
    talking.target.write_memory(old, bytes(4))
    talking.target.write_memory(new, bytes(block))
    for _ in range(PATIENCE):
        rtt.poll()
        if rtt.found:
            break
    assert rtt.write(0, b"x") == 1
    assert talking.target.read_word(new + 24 + 2 * 24 + 12) != talking.target.read_word(
        old + 24 + 2 * 24 + 12
    )


@pytest.mark.parametrize("likely", [SRAM4.start + 0x1100, None, 0x00F00000])
def test_the_likely_place_is_looked_at_before_ram_is_searched(
    talking: Bench, likely: int | None
) -> None:
    rtt = Rtt(talking.target)
    old, new = talking.names["_SEGGER_RTT"], SRAM4.start + 0x1100
    talking.target.resume()
    collect(talking, rtt, b"line 99\n")
    talking.target.halt()
    talking.target.write_memory(new, bytes(talking.target.read_memory(old, 96)))
    talking.target.write_memory(old, bytes(4))
    again = Rtt(talking.target)
    again.likely = likely
    again.poll()
    assert again.found == (likely == new)
    for _ in range(PATIENCE):
        again.poll()
    assert again.found


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (16, 0x10000),  # as many channels as no program has
        (24 + 4, 0x08000000),  # a ring in flash
        (24 + 8, 0),  # unused
        (24 + 8, 0xFFFFFFFF),
        (24 + 4, DTCM.end - 8),  # a ring past the end of a memory
        (24 + 12, 64),  # an offset outside of the ring
        (24 + 16, 0xFFFFFFF0),
    ],
)
def test_a_block_with_nonsense_in_it_is_left_alone(talking: Bench, offset: int, value: int) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.target.resume()
    for _ in range(50):
        talking.target.poll_stop()
    talking.target.halt()
    where = talking.names["_SEGGER_RTT"] + offset
    right = talking.target.read_word(where)
    talking.target.write_word(where, value)
    before = talking.target.read_memory(talking.names["_SEGGER_RTT"], 96)
    assert 0 not in rtt.poll()
    assert talking.target.read_memory(talking.names["_SEGGER_RTT"], 96) == before
    talking.target.write_word(where, right)
    assert rtt.poll()[0].startswith(b"ready\n")


def test_a_name_out_of_reach_is_no_name(talking: Bench) -> None:
    rtt = Rtt(talking.target, talking.names["_SEGGER_RTT"])
    talking.target.resume()
    for _ in range(50):
        talking.target.poll_stop()
    talking.target.halt()
    talking.target.write_word(talking.names["_SEGGER_RTT"] + 24, 0x70000000)
    rtt.poll()
    assert rtt.channels == {0: "", 1: "numbers"}
