"""Printing through ITM, SWO, pin and probe."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import support
from hypothesis import given
from hypothesis import strategies as st
from target_bench import Bench, make_bench

from gdbserver.chip.stm32h743 import GPIO_STRIDE, GPIOA, SWO
from gdbserver.target.swo import PortText, Swo

TRACE_HZ = 100_000_000


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def talker(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from make_bench(f"sim:{request.param}", support.build_firmware("talker"))


def listen(bench: Bench, swo: Swo, length: int) -> bytes:
    heard = b""
    deadline = bench.target.deadline(2.0)
    while len(heard) < length:
        assert not deadline.expired(), heard
        assert bench.target.poll_stop() is None
        heard += swo.read()
    return heard


def test_what_a_program_prints_arrives_while_it_runs(talker: Bench) -> None:
    swo = Swo(talker.target, TRACE_HZ, 2_000_000)
    swo.start()
    talker.target.resume()
    heard = listen(talker, swo, 400)
    assert PortText(0).feed(heard).startswith(b"Hello, wire.\nHello, wire.\n")
    assert set(PortText(1).feed(heard)) == {ord("!")}
    assert PortText(2).feed(heard)[:8] == b"\x78\x56\x34\x12" * 2
    swo.stop()


def test_a_program_that_prints_faster_than_the_wire_waits_and_loses_nothing(talker: Bench) -> None:
    swo = Swo(talker.target, TRACE_HZ, 500_000)
    swo.start()
    talker.target.resume()
    text = PortText(0).feed(listen(talker, swo, 2000))
    assert text == (b"Hello, wire.\n" * 1000)[: len(text)]
    swo.stop()


def test_a_wrong_trace_clock_is_noise(talker: Bench) -> None:
    swo = Swo(talker.target, 2 * TRACE_HZ, 2_000_000)
    swo.start()
    talker.target.resume()
    assert b"Hello" not in PortText(0).feed(listen(talker, swo, 200))
    swo.stop()


def test_without_a_debugger_at_the_itm_nothing_is_sent_and_nobody_waits(talker: Bench) -> None:
    swo = Swo(talker.target, TRACE_HZ, 2_000_000)
    swo.start()
    swo.stop()
    talker.target.resume()
    for _ in range(100):
        talker.target.poll_stop()
    assert talker.target.read_word(talker.names["printed"]) > 0


@pytest.mark.parametrize("power_cycle", [False, True], ids=["reset", "power cycle"])
def test_a_new_start_can_be_lived_through(talker: Bench, *, power_cycle: bool) -> None:
    swo = Swo(talker.target, TRACE_HZ, 2_000_000)
    swo.start()
    talker.target.resume()
    listen(talker, swo, 100)
    if power_cycle:
        talker.board.power_cycle()
    talker.target.reset(halt=True)
    swo.restore()
    swo.read()
    talker.target.resume()
    assert b"Hello, wire." in PortText(0).feed(listen(talker, swo, 100))
    swo.stop()


def test_what_is_printed_right_after_a_reset_is_heard(talker: Bench) -> None:
    swo = Swo(talker.target, TRACE_HZ, 2_000_000)
    swo.start()
    talker.target.reset(halt=True)
    talker.target.resume()
    heard = listen(talker, swo, 100)
    assert PortText(0).feed(heard).startswith(b"Hello, wire.\nHello, wire.\n")
    swo.stop()


def test_a_client_can_set_the_swo_up_itself_after_a_reset(talker: Bench) -> None:
    """As cortex-debug does, by GDB's `set` commands, where it is told where the SWO is."""
    swo = Swo(talker.target, TRACE_HZ, 2_000_000)
    swo.start()
    talker.target.reset(halt=True)
    talker.target.write_word(SWO + 0xF0, 2)
    talker.target.write_word(SWO + 0x10, TRACE_HZ // 2_000_000 - 1)
    talker.target.write_word(0xE0000E80, 0x1000D)
    talker.target.write_word(0xE0000E00, 1)
    talker.target.resume()
    heard = listen(talker, swo, 100)
    assert PortText(0).feed(heard).startswith(b"Hello, wire.\n")
    assert PortText(1).feed(heard) == b""
    swo.stop()


def test_the_trace_clock_goes_with_the_listener(talker: Bench) -> None:
    swo = Swo(talker.target, TRACE_HZ, 2_000_000)
    swo.start()
    assert talker.target.trace_is_clocked()
    swo.stop()
    assert not talker.target.trace_is_clocked()


def test_what_keeps_the_pin_silent_is_told(talker: Bench, caplog: pytest.LogCaptureFixture) -> None:
    moder = GPIOA + GPIO_STRIDE
    talker.target.write_word(0x58024400 + 0xE0, 1 << 1)  # RCC_AHB4ENR: GPIOB has a clock
    talker.target.write_word(moder, talker.target.read_word(moder) & ~(3 << 6))
    with caplog.at_level(logging.WARNING, "gdbserver.target.swo"):
        Swo(talker.target, TRACE_HZ, 2_000_000).start()
    assert any("output R of PLL1, which is off" in message for message in caplog.messages)
    assert any("uses PB3" in message for message in caplog.messages)


@given(st.lists(st.tuples(st.integers(0, 31), st.sampled_from([1, 2, 4]), st.binary()), max_size=9))
def test_text_is_the_same_however_the_stream_is_cut(packets: list[tuple[int, int, bytes]]) -> None:
    stream, said = bytearray(), bytearray()
    for port, size, noise in packets:
        data = noise.ljust(size, b"x")[:size]
        stream += bytes([port << 3 | {1: 1, 2: 2, 4: 3}[size]]) + data
        stream += b"\x70\xc0\x81\x01\x00\x00\x00\x00\x00\x80"  # overflow, time stamp, sync
        if port == 0:
            said += data
    whole, bytewise = PortText(0), PortText(0)
    assert whole.feed(bytes(stream)) == said
    assert b"".join(bytewise.feed(bytes([byte])) for byte in stream) == said
