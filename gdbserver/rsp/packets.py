"""RSP framing: bytes on the wire <-> packets.  No I/O happens here.

A packet is ``$payload#xx``; xx is the sum of the payload bytes as they travel, modulo 256.
Outside packets a lone 0x03 is an interrupt and ``+``/``-`` acknowledge what we sent.  A
notification is the same with ``%`` in front and is never acknowledged.  GDB manual, "Remote
Protocol": Overview, Interrupts, Packet Acknowledgment, Notification Packets.

Rule 1: nothing above this module sees an escape, a checksum or an ack.
Rule 2: whatever bytes arrive, `Connection.next_event` returns an event, returns None for
"feed me more", or raises `ProtocolError`.  Anything else is a bug.
Rule 3: a byte is looked at a bounded number of times, however the stream is cut: GDB sends
packets of 128 KiB, and a socket delivers them in many pieces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gdbserver.errors import ProtocolError

# What we promise in qSupported, and the bound on our buffer.  GDB's throughput is flat from
# 64 KiB up; other servers stop at 16 KiB.
MAX_PACKET = 0x20000

_INTERRUPT, _ACK, _NACK, _START = b"\x03+-$"

_ESCAPED = re.compile(rb"\}(.)", re.DOTALL)
_SPECIAL = re.compile(rb"[#$}*]")
# Whole replacement strings, looked up rather than computed: most of a flash image is escapes'
# neighbours, and this loop is what limits how fast we can listen.
_TO_PLAIN = {bytes([n]): bytes([n ^ 0x20]) for n in range(256)}
_TO_ESCAPE = {bytes([n]): bytes([0x7D, n ^ 0x20]) for n in range(256)}


@dataclass(frozen=True, slots=True)
class Packet:
    """A command, or what claims to be one: unescaped, checked."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ctrl-C: a 0x03 byte between packets."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The client will send nothing more."""


Event = Packet | Interrupt | Disconnected


def frame(payload: bytes, start: bytes = b"$") -> bytes:
    """Wrap a payload for the wire: escaped, summed."""
    body = _SPECIAL.sub(lambda match: _TO_ESCAPE[match[0]], payload)
    return b"%c%b#%02x" % (start, body, sum(body) & 0xFF)


def _unescape(body: bytes) -> bytes:
    if b"}" not in body:
        return body
    parts = _ESCAPED.split(body)  # every other one is what an escape stands before
    parts[1::2] = map(_TO_PLAIN.__getitem__, parts[1::2])
    return b"".join(parts)


class Connection:
    """One end of an RSP conversation, as a pure state machine."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._searched = 0  # no '#' before this index of `_received`
        self._end_of_file = False
        self._to_send = bytearray()
        self._last_frame = b""
        self._acks = True

    def receive_data(self, data: bytes | bytearray) -> None:
        """Store bytes from the client; ``b""`` means end of file, as in `recv`."""
        self._received += data
        self._end_of_file |= not data

    def data_to_send(self) -> bytes:
        """Take the bytes that are due to the client: acks, replies, resends."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def send(self, payload: bytes) -> None:
        self._last_frame = frame(payload)
        self._to_send += self._last_frame

    def notify(self, payload: bytes) -> None:
        """Say something that is no answer; GDB restarts its time-out on any of these."""
        self._to_send += frame(payload, b"%")

    def stop_acks(self) -> None:
        """Enter no-ack mode; call it once the OK to QStartNoAckMode is sent."""
        self._acks = False

    def next_event(self) -> Event | None:
        """Parse one event out of what has been received, or None for "not yet".

        Raises:
            ProtocolError: a packet is longer than what qSupported promised to take.
        """
        while self._received:
            if self._received[0] == _START:
                end = self._received.find(b"#", self._searched)
                self._searched = len(self._received) if end < 0 else end
                if self._searched - 1 > MAX_PACKET:
                    raise ProtocolError(f"packet longer than {MAX_PACKET} bytes")
                if end < 0 or end + 3 > len(self._received):
                    break
                packet = self._accept(self._take(end + 3))
                if packet is not None:
                    return packet
                continue
            byte = self._take(1)[0]
            if byte == _INTERRUPT:
                return Interrupt()
            if byte == _NACK and self._acks:
                self._to_send += self._last_frame
            # Acks, and whatever noise precedes a packet, mean nothing.
        return Disconnected() if self._end_of_file else None

    def _take(self, count: int) -> bytes:
        data = bytes(self._received[:count])
        del self._received[:count]
        self._searched = 0
        return data

    def _accept(self, framed: bytes) -> Packet | None:
        # An unescaped $ inside a packet means that the client started over.
        body, checksum = framed[framed.rfind(b"$") + 1 : -3], framed[-2:]
        if not self._acks:  # "the checksum may be ignored": some clients send any two digits
            return Packet(_unescape(body))
        intact = b"%02x" % (sum(body) & 0xFF) == checksum.lower()
        self._to_send += b"+" if intact else b"-"
        return Packet(_unescape(body)) if intact else None
