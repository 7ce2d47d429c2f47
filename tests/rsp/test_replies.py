"""Answers, byte by byte; the CRC as the GDB manual writes it."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.rsp import replies
from gdbserver.rsp.packets import Connection, Packet, frame


def crc_by_the_book(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """The GDB manual's CRC, a bit at a time."""
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
            crc &= 0xFFFFFFFF
    return crc


@given(st.binary(max_size=200))
def test_the_checksum_is_that_of_the_manual(data: bytes) -> None:
    assert replies.crc32(data) == crc_by_the_book(data)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_checksum_can_be_taken_in_pieces(first: bytes, second: bytes) -> None:
    assert replies.crc32(second, replies.crc32(first)) == replies.crc32(first + second)


@given(st.text())
def test_an_error_text_needs_no_escapes(text: str) -> None:
    reply = replies.error(1, text)
    connection = Connection()
    connection.receive_data(frame(reply))
    assert connection.next_event() == Packet(reply)
    assert frame(reply)[1:-3] == reply


def test_errors_have_a_form_for_each_kind_of_client() -> None:
    assert replies.error(5) == b"E05"
    assert replies.error(5, "no such register") == b"E.no such register"
    assert replies.lldb_error(5, "no") == b"E05;6e6f"


def test_a_stop_reply_names_signal_registers_thread_and_reason() -> None:
    registers = [(13, b"\x00\x80\x00\x20"), (15, b"\x00\x01\x00\x08")]
    assert replies.stopped(5, registers) == b"T050d:00800020;0f:00010008;thread:1;"
    assert replies.stopped(2, []) == b"T02thread:1;"
    assert replies.stopped(5, [], "rwatch", 0x20000000) == b"T05thread:1;rwatch:20000000;"
    assert replies.stopped(5, [], "hwbreak", None) == b"T05thread:1;hwbreak:;"
    assert replies.stopped(5, [], "step", None) == b"T05thread:1;"


@given(st.binary(max_size=50), st.integers(1, 20))
def test_a_document_read_in_pieces_is_the_document(document: bytes, size: int) -> None:
    parts, offset = [], 0
    while True:
        reply = replies.piece(document, offset, size)
        parts.append(reply[1:])
        offset += len(reply) - 1
        if reply[:1] == b"l":
            break
    assert b"".join(parts) == document


@pytest.mark.parametrize(("address", "reply"), [(None, b"0"), (0x2000, b"1,2000")])
def test_a_search_says_where(address: int | None, reply: bytes) -> None:
    assert replies.found(address) == reply


def test_console_output_is_hexadecimal() -> None:
    assert replies.console("ok\n") == b"O6f6b0a"


def test_a_call_for_gdb_has_its_parameters_in_the_manuals_form() -> None:
    assert replies.file_call("read", (3, 0x20000010, 255)) == b"Fread,3,20000010,ff"
    assert replies.file_call("open", ((0x1234, 6), 0, 0o644)) == b"Fopen,1234/6,0,1a4"
    assert replies.exited(3) == b"W03"
    assert replies.console(b"\xff\n") == b"Off0a"


def test_a_files_status_is_laid_out_as_the_manual_has_it() -> None:
    status = replies.file_status(0o100444, 0x12345, 1700000000)
    assert len(status) == 64
    fields = struct.unpack(">IIIIIIIQQQIII", status)
    assert (fields[2], fields[7], fields[11]) == (0o100444, 0x12345, 1700000000)


@given(st.integers(0, 0xFFFF), st.binary(max_size=40))
def test_what_is_read_of_a_file_arrives_as_it_is(count: int, data: bytes) -> None:
    connection = Connection()
    connection.receive_data(frame(replies.file_result(count, data)))
    assert connection.next_event() == Packet(b"F%x;" % count + data)


def test_json_arrives_as_json() -> None:
    rows = [{"tid": 1, "name": "a}#$*b", "registers": {"15": "00000008"}}]
    connection = Connection()
    connection.receive_data(frame(replies.threads_info(rows)))
    packet = connection.next_event()
    assert isinstance(packet, Packet)
    assert json.loads(packet.payload) == rows
