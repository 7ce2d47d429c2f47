"""Framing: any bytes, cut anywhere, and what goes out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.errors import ProtocolError
from gdbserver.rsp.packets import (
    MAX_PACKET,
    Connection,
    Disconnected,
    Event,
    Interrupt,
    Packet,
    frame,
)

payloads = st.binary(max_size=100)
# Mostly well-formed, because random bytes hardly ever make a packet.
streams = st.lists(
    st.one_of(payloads.map(frame), st.sampled_from([b"\x03", b"+", b"-"]), st.binary(max_size=8))
).map(b"".join)


def hear(*chunks: bytes, acks: bool = True) -> list[Event | type[ProtocolError]]:
    """What a connection makes of these chunks, arriving one by one."""
    connection = Connection()
    if not acks:
        connection.stop_acks()
    heard: list[Event | type[ProtocolError]] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        try:
            while (event := connection.next_event()) is not None:
                heard.append(event)
        except ProtocolError:
            return [*heard, ProtocolError]
    return heard


@given(payloads)
def test_a_framed_payload_comes_back_whole(payload: bytes) -> None:
    assert hear(frame(payload)) == [Packet(payload)]


@given(streams.filter(bool), st.booleans())
def test_how_the_stream_is_cut_makes_no_difference(stream: bytes, acks: bool) -> None:
    byte_by_byte = [stream[i : i + 1] for i in range(len(stream))]
    assert hear(*byte_by_byte, acks=acks) == hear(stream, acks=acks)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_a_packet_that_is_too_long_is_refused_however_it_is_cut(cuts: list[int]) -> None:
    stream = b"$" + b"0" * (MAX_PACKET + 1) + b"#00"
    chunks = []
    for cut in cuts * (len(stream) // sum(cuts) + 1):
        chunks.append(stream[:cut])
        stream = stream[cut:]
    assert hear(*filter(None, chunks)) == [ProtocolError]


def test_the_longest_packet_that_is_promised_is_taken() -> None:
    payload = b"0" * MAX_PACKET
    assert hear(frame(payload)) == [Packet(payload)]


def test_an_interrupt_byte_inside_a_packet_is_data() -> None:
    assert hear(frame(b"X0,1:\x03") + b"\x03") == [Packet(b"X0,1:\x03"), Interrupt()]


def test_a_dollar_inside_a_packet_starts_over() -> None:
    assert hear(b"$qSuppo" + frame(b"g")) == [Packet(b"g")]


def test_a_damaged_packet_is_asked_for_again() -> None:
    connection = Connection()
    connection.receive_data(b"$g#00" + frame(b"g"))
    assert connection.next_event() == Packet(b"g")
    assert connection.data_to_send() == b"-+"


def test_a_refused_reply_is_sent_again() -> None:
    connection = Connection()
    connection.send(b"OK")
    connection.data_to_send()
    connection.receive_data(b"-")
    assert connection.next_event() is None
    assert connection.data_to_send() == b"$OK#9a"


def test_without_acks_neither_side_acknowledges_nor_sums() -> None:
    connection = Connection()
    connection.stop_acks()
    connection.receive_data(b"$g#00-")
    assert connection.next_event() == Packet(b"g")
    assert connection.next_event() is None
    assert connection.data_to_send() == b""


def test_an_ack_and_a_reply_leave_together() -> None:
    connection = Connection()
    connection.receive_data(frame(b"?"))
    connection.next_event()
    connection.send(b"S05")
    assert connection.data_to_send() == b"+$S05#b8"


def test_a_notification_is_not_what_is_sent_again() -> None:
    connection = Connection()
    connection.send(b"OK")
    connection.notify(b"busy:1")
    assert connection.data_to_send() == b"$OK#9a%busy:1#2e"
    connection.receive_data(b"-")
    connection.next_event()
    assert connection.data_to_send() == b"$OK#9a"


def test_the_end_of_the_stream_is_heard_after_what_came_before_it() -> None:
    connection = Connection()
    connection.receive_data(frame(b"D") + b"$half")
    connection.receive_data(b"")
    assert connection.next_event() == Packet(b"D")
    assert connection.next_event() == Disconnected()
