"""The cost of talking: what goes in one go must cost, and do, what it does one by one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdbserver.chip.memory import Span
from gdbserver.sim.access_port import AHB_AP, MemAp
from gdbserver.sim.bus import Bus, BusStall, Master, Ram
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, Clock
from gdbserver.sim.cmsis_dap import CmsisDapFirmware, Command
from gdbserver.sim.debug_port import Ack, DebugPort
from gdbserver.sim.link import CMSIS_DAP_V1, CMSIS_DAP_V2, IDEAL, Link, LinkModel

RAM = Span.of(0x20000000, 0x800)
AP_WRITE, AP_READ, DP_READ = 0x01, 0x03, 0x02
_WORK = 100 * MICROSECOND
CSW, TAR, DRW, RDBUFF = 0x0, 0x4, 0xC, 0xC


class WordByWord:
    """A memory like any other, of which nobody knows that it is one."""

    def __init__(self) -> None:
        self.ram = Ram(len(RAM))

    def read(self, offset: int, size: int, master: Master) -> int:
        return self.ram.read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self.ram.write(offset, size, value, master)


class FlashLike(WordByWord):
    """Takes flash words: the 32nd byte begins 100 us of work; two flash words may be queued."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.idle_at = 0

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if offset % 32 == 28:
            if self.idle_at - self.clock.now > _WORK:
                raise BusStall(self.idle_at - _WORK)
            self.idle_at = max(self.idle_at, self.clock.now) + _WORK
        super().write(offset, size, value, master)


class BlockwiseFlash(FlashLike):
    """The same, as a `BlockDevice`."""

    def read_block(self, offset: int, length: int, master: Master) -> bytes:
        return bytes(self.ram.data[offset : offset + length])

    def write_block(self, offset: int, data: bytes, master: Master) -> None:
        for i in range(0, len(data), 4):
            try:
                self.write(offset + i, 4, int.from_bytes(data[i : i + 4], "little"), master)
            except BusStall as stall:
                stall.done = i
                raise


class Rig:
    """A debug port and one memory, at the end of a link."""

    running = False

    def __init__(
        self, kind: str, model: LinkModel = CMSIS_DAP_V2, waits: int | None = None
    ) -> None:
        self.clock = Clock()
        bus = Bus()
        devices = {
            "RAM": Ram(len(RAM)),
            "word by word": WordByWord(),
            "flash": FlashLike(self.clock),
            "blockwise flash": BlockwiseFlash(self.clock),
        }
        device = devices[kind]
        self.ram = device if isinstance(device, Ram) else device.ram
        bus.attach(RAM.start, len(RAM), device)
        ap = MemAp(AHB_AP, self.clock, bus, Master.AP0)
        self.debug_port = DebugPort(self.clock, {0: ap})
        self.link = Link(model, self, waits)
        self.link.set_clock(10_000_000)
        for bits, count in (((1 << 51) - 1, 51), (0xE79E, 16), ((1 << 51) - 1, 51), (0, 8)):
            self.link.sequence(bits, count)
        self.link.transfer(False, True, 0x0)
        self.link.transfer(False, False, 0x4, 0x50000000)
        self.firmware = CmsisDapFirmware(self.link, "rig")

    def next_change(self) -> int | None:
        return self.clock.next_change()

    def run_until(self, when: int) -> None:
        self.clock.advance_to(when)

    def hold_reset(self, asserted: bool) -> None:
        raise NotImplementedError

    def send(self, packet: bytes) -> bytes:
        self.firmware.write(list(packet))
        return self.firmware.read()

    def transfer(self, requests: list[tuple[int, int]]) -> bytes:
        """One DAP_Transfer."""
        body = bytearray([Command.TRANSFER, 0, len(requests)])
        for request, word in requests:
            body.append(request)
            if not request & 2:
                body += struct.pack("<I", word)
        return self.send(bytes(body))

    def aim(self, address: int) -> None:
        self.transfer([(AP_WRITE | CSW, 0x12), (AP_WRITE | TAR, address)])

    @property
    def state(self) -> tuple[object, ...]:
        return self.link.time, self.link.counters, bytes(self.ram.data)


addresses = st.integers(0, len(RAM) // 4 + 2).map(lambda word: RAM.start + 4 * word)
requests = st.one_of(
    st.tuples(st.just(AP_WRITE | TAR), addresses),
    st.tuples(st.just(AP_WRITE | DRW), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just(AP_READ | DRW), st.just(0)),
    st.tuples(st.just(AP_READ | TAR), st.just(0)),
    st.tuples(st.just(DP_READ | RDBUFF), st.just(0)),
)
# Runs of equal requests, because that is what is carried out in one go.
packets = st.lists(
    st.tuples(requests, st.integers(1, 12)).map(lambda run: [run[0]] * run[1]), max_size=8
).map(lambda runs: [request for run in runs for request in run][:60])


@settings(max_examples=150, deadline=None)
@example(  # RDBUFF has what was read last, also where that was read in one go
    [
        (AP_READ | TAR, 0),
        (AP_WRITE | TAR, RAM.start),
        *[(AP_READ | DRW, 0)] * 2,
        (DP_READ | RDBUFF, 0),
    ]
)
@given(packets)
def test_a_packet_does_and_costs_the_same_however_it_is_carried_out(
    packet: list[tuple[int, int]],
):
    at_once, one_by_one = Rig("RAM"), Rig("word by word")
    for rig in (at_once, one_by_one):
        rig.aim(RAM.start)
    if packet:
        assert at_once.transfer(packet) == one_by_one.transfer(packet)
    assert at_once.state == one_by_one.state


@pytest.mark.parametrize("waits", [None, 3])
@pytest.mark.parametrize("start", [0, 4, 28])
def test_streaming_into_flash_does_and_costs_the_same_by_words_and_by_flash_words(
    start: int, waits: int | None
):
    rigs = [Rig(kind, waits=waits) for kind in ("flash", "blockwise flash")]
    answers = []
    for rig in rigs:
        rig.aim(RAM.start + start)
        header = struct.pack("<BBHB", Command.TRANSFER_BLOCK, 0, 120, AP_WRITE | DRW)
        answer = rig.send(header + struct.pack("<120I", *range(120)))
        rig.transfer([(DP_READ, 0)])
        rig.run_until(rig.clock.now + MILLISECOND)
        answers.append((answer, rig.state[1:]))
    assert answers[0] == answers[1]
    times = [rig.link.time for rig in rigs]
    assert times[0] == times[1]
    acknowledged = answers[0][0][3]
    assert acknowledged == (Ack.OK if waits is None else Ack.WAIT)


def test_packets_in_flight_hide_the_latency_of_usb():
    """Sent one after the other without waiting, packets cost the wire's time."""
    packet = struct.pack("<BBHB", Command.TRANSFER_BLOCK, 0, 14, AP_WRITE | DRW) + bytes(56)

    def time(in_flight: int) -> int:
        rig = Rig("RAM", CMSIS_DAP_V1)
        rig.aim(RAM.start)
        before, waiting = rig.link.time, 0
        for _ in range(20):
            if waiting == in_flight:
                rig.firmware.read()
                waiting -= 1
            rig.firmware.write(list(packet))
            waiting += 1
        for _ in range(waiting):
            rig.firmware.read()
        return rig.link.time - before

    assert 20 * 2.0 * MILLISECOND < time(1) < 20 * 2.5 * MILLISECOND, "there and back, and SWD"
    assert 20 * 1.0 * MILLISECOND < time(4) < 20 * 1.2 * MILLISECOND, "a packet in each frame"


def test_an_endless_wait_ends_for_a_patient_probe_too():
    rig = Rig("RAM", IDEAL)
    rig.debug_port.stormy_until = 10**15
    assert rig.link.transfer(True, True, 0x0)[0] is Ack.WAIT
    assert rig.clock.now < 10**12


def test_unknown_commands_are_refused_as_the_specification_says():
    assert Rig("RAM").send(bytes([0x7F])) == b"\xff"
