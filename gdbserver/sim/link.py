"""What it costs to talk to the chip: USB exchanges and SWD bits, in virtual time.

A command leaves the host, crosses USB, is carried out by the probe's firmware one SWD request
at a time, and its answer crosses USB again.  `Link` keeps two times for that: the host's,
which is what `monotonic` shows, and the probe's, which runs ahead of it while commands are
queued.  The board's own clock follows the probe's time, request by request.

A host that waits asks the same question again and again.  Once it has got the same answers
three times, nothing is gained by simulating each question, so the next takes longer: see
`Polling`.

Where a number comes from is said beside it: *specified* (a USB or Arm document),
*measured* (others published it for such a probe), *estimated* (nobody did).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from gdbserver.sim import access_port
from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND
from gdbserver.sim.debug_port import Ack, DebugPort

# One SWD request, in clocks (specified): 8 request, 1 turnaround, 3 acknowledge; then 33 of
# data and 1 more turnaround, or after WAIT and FAULT only the turnaround.
_REQUEST_CLOCKS = 12
_DATA_CLOCKS = 34
_NO_DATA_CLOCKS = 1

# A firmware without a limit of its own gives up when the host's USB time-out would have struck.
_PATIENCE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class LinkModel:
    """A kind of probe.  Times in nanoseconds."""

    name: str
    vendor: str
    product: str
    protocol: str  # "CMSIS-DAP" or "ST-LINK": which of pyOCD's drivers speaks to it
    clocks: tuple[int, ...]  # SWD clocks in Hz, ascending: it takes the highest not above
    idle_clocks: int  # after each request
    latency_out: int
    latency_in: int
    interval: int  # between packets in one direction
    byte: int  # picoseconds that a byte takes on USB
    packet_size: int
    packets: int  # how many the firmware queues
    overhead: int  # host software, per exchange
    firmware: int  # probe software, per command


CMSIS_DAP_V1 = LinkModel(
    "cmsis-dap-v1",
    "Simulated",
    "CMSIS-DAP v1 probe",
    "CMSIS-DAP",
    clocks=(100_000, 500_000, 1_000_000, 2_000_000),  # measured: DAPLink bit-bangs 1.7-2.3 MHz
    idle_clocks=2,
    latency_out=MILLISECOND,  # specified: a HID interrupt endpoint moves a packet per frame
    latency_in=MILLISECOND,
    interval=MILLISECOND,
    byte=0,
    packet_size=64,
    packets=4,  # DAPLink's default
    overhead=20 * MICROSECOND,  # estimated
    firmware=20 * MICROSECOND,  # estimated
)

CMSIS_DAP_V2 = LinkModel(
    "cmsis-dap-v2",
    "Simulated",
    "CMSIS-DAP v2 probe",
    "CMSIS-DAP",
    clocks=(100_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 10_000_000),
    idle_clocks=2,
    latency_out=125 * MICROSECOND,  # specified: a high-speed microframe;
    latency_in=125 * MICROSECOND,  # 0.25-0.4 ms per round trip agrees with published rates
    interval=10 * MICROSECOND,  # specified: up to 13 bulk packets of 512 bytes per microframe
    byte=25_000,  # specified: 40 MB/s is what bulk leaves of 480 Mbit/s
    packet_size=512,
    packets=4,
    overhead=20 * MICROSECOND,  # estimated
    firmware=10 * MICROSECOND,  # estimated
)

STLINK_V2 = LinkModel(
    "stlink-v2",
    "STMicroelectronics",
    "ST-LINK/V2 (simulated)",
    "ST-LINK",
    clocks=(
        *(100_000, 125_000, 150_000, 240_000, 360_000, 400_000, 480_000, 650_000),
        *(950_000, 1_200_000, 1_800_000, 4_600_000),
    ),
    idle_clocks=2,
    latency_out=200 * MICROSECOND,  # estimated: full-speed bulk, part of a 1 ms frame
    latency_in=300 * MICROSECOND,  # estimated
    interval=60 * MICROSECOND,  # specified: up to 19 bulk packets of 64 bytes per frame
    byte=900_000,  # specified: 1.2 MB/s is the ceiling of full-speed bulk; firmware takes some
    packet_size=64,
    packets=1,
    overhead=20 * MICROSECOND,  # estimated
    firmware=20 * MICROSECOND,  # estimated
)

STLINK_V3 = LinkModel(
    "stlink-v3",
    "STMicroelectronics",
    "STLINK-V3 (simulated)",
    "ST-LINK",
    clocks=(1_000_000, 3_300_000, 8_000_000, 24_000_000),
    idle_clocks=2,
    latency_out=60 * MICROSECOND,  # estimated: high-speed bulk, half a microframe
    latency_in=60 * MICROSECOND,  # estimated
    interval=10 * MICROSECOND,
    byte=25_000,
    packet_size=512,
    packets=1,
    overhead=20 * MICROSECOND,  # estimated
    firmware=10 * MICROSECOND,  # estimated
)

# What is left when the link costs next to nothing: the chip's own times.  Not zero, because
# time passes only when the link takes some.
IDEAL = LinkModel(
    "ideal",
    "Simulated",
    "ideal probe",
    "CMSIS-DAP",
    clocks=(50_000_000,),
    idle_clocks=0,
    latency_out=MICROSECOND,
    latency_in=MICROSECOND,
    interval=0,
    byte=0,
    packet_size=4096,
    packets=8,
    overhead=0,
    firmware=0,
)

LINKS = {link.name: link for link in (CMSIS_DAP_V1, CMSIS_DAP_V2, STLINK_V2, STLINK_V3, IDEAL)}


@dataclass(slots=True)
class Counters:
    """What went over the link so far."""

    transactions: int = 0  # USB exchanges: a command and, where it has one, its answer
    swd_transfers: int = 0  # requests on the wire, those answered WAIT included
    waits: int = 0  # of these, answered WAIT
    bytes_out: int = 0
    bytes_in: int = 0


class Machine(Protocol):
    """What is at the other end of the cable."""

    debug_port: DebugPort

    @property
    def running(self) -> bool:
        """Whether the core executes, so that things may happen between two events."""

    def next_change(self) -> int | None:
        """When the next device has something to do, or to show."""

    def run_until(self, when: int) -> None: ...
    def hold_reset(self, asserted: bool) -> None: ...


class Polling:
    """Tells when the host does nothing but wait: it repeats itself, and so does the chip.

    Up to `LONGEST` exchanges that come round for the third time, with the same answers and
    without touching anything, are a poll.
    """

    LONGEST = 8

    def __init__(self) -> None:
        self._history: deque[tuple[bytes, bytes]] = deque(maxlen=self.LONGEST)
        self._runs = [0] * (self.LONGEST + 1)  # by period: exchanges equal to the one before
        self.since: int | None = None
        """When the waiting began, in the host's nanoseconds, or None while it does not wait."""
        self._asked = 0  # exchanges since time was skipped
        self._still = 0  # exchanges since the core was seen running

    def note(
        self, command: bytes, answer: bytes, now: int, *, harmless: bool, moving: bool = False
    ) -> None:
        """An exchange took place; `moving` if the core ran at its beginning or at its end."""
        self._asked += 1
        self._still = 0 if moving else self._still + 1
        exchange = (command, answer)
        if not harmless or len(command) > 64:
            self._begin(exchange)
            return
        for period in range(1, self.LONGEST + 1):
            same = len(self._history) >= period and self._history[-period] == exchange
            self._runs[period] = self._runs[period] + 1 if same else 0
        self._history.append(exchange)
        if not any(self._runs[period] >= 2 * period for period in range(1, self.LONGEST + 1)):
            self.since = None
        elif self.since is None:
            self.since = now

    def _begin(self, exchange: tuple[bytes, bytes]) -> None:
        """Whatever came before, this is the first of something."""
        self._history.clear()
        self._history.append(exchange)
        self._runs = [0] * (self.LONGEST + 1)
        self.since = None

    def turn(self, command: bytes) -> int | None:
        """How many exchanges make a turn, if `command` would begin one more of the same."""
        if self.since is None:
            return None
        for period in range(1, self.LONGEST + 1):
            again = self._runs[period] >= 2 * period and self._asked >= period
            if again and self._history[-period][0] == command:
                return period
        return None

    def patience(self, turn: int, now: int, *, running: bool) -> int:
        """How long the next question may take: a part of the time waited so far.

        It may be more when the core stood still during the whole last turn.  If it stopped in
        between, what it left is to be seen at once.  While the core runs, somebody may want to
        interrupt it, and executing takes the host's time as well.
        """
        waited = 0 if self.since is None else max(0, now - self.since)
        if running:
            return min(waited // 32, 10 * MILLISECOND)
        return min(waited // 4, SECOND) if self._still >= turn else 0

    def skipped(self) -> None:
        """Time was skipped: now each question of a turn is asked before it is again."""
        self._asked = 0


class Link:
    """The time and the traffic of one probe."""

    def __init__(self, model: LinkModel, machine: Machine, waits: int | None) -> None:
        self.model = model
        self.machine = machine
        self.waits = waits
        self.plugged = True
        self.counters = Counters()
        self.time = 0
        """The host's time, in nanoseconds."""
        self._probe = 0
        self._out_free = 0
        self._in_free = 0
        self._polling = Polling()
        self._command = b""
        self._harmless = True
        self._aimed = False
        self._moving = False
        self.set_clock(1_000_000)

    # --- USB -----------------------------------------------------------------------------------

    def send(self, command: bytes) -> None:
        """The host sends a command; afterwards the probe has it and may carry it out."""
        if (turn := self._polling.turn(command)) is not None:
            self._wait_for_change(turn)
        self._moving = self.machine.running
        self._command, self._harmless, self._aimed = command, True, False
        self.send_data(len(command))

    def send_data(self, length: int) -> None:
        """The host sends more bytes that belong to the command."""
        model = self.model
        self.counters.bytes_out += length
        start = max(self.time + model.overhead, self._out_free)
        self._out_free = start + model.interval * -(-length // model.packet_size)
        self.time = start + model.latency_out + length * model.byte // 1000
        self._probe = max(self._probe, self.time) + model.firmware

    def answer(self, data: bytes) -> int:
        """The probe has an answer; returns when the host can have it."""
        model = self.model
        length = len(data)
        self._polling.note(
            self._command,
            data,
            self.time,
            harmless=self._harmless,
            moving=self._moving or self.machine.running,
        )
        self.counters.transactions += 1
        self.counters.bytes_in += length
        start = max(self._probe, self._in_free)
        self._in_free = start + model.interval * -(-length // model.packet_size)
        return start + model.latency_in + length * model.byte // 1000

    def receive(self, ready: int) -> None:
        """The host waits for an answer."""
        self.time = max(self.time, ready)

    def _wait_for_change(self, turn: int) -> None:
        """Let one question stand for the many that would get the same answer.

        It takes a little longer each time, but not past the next event: what a device does is
        seen when it happens.  What a running core does is seen late, by at most 1/32 of the
        time that was waited for it.
        """
        patience = self._polling.patience(turn, self.time, running=self.machine.running)
        until = self.time + patience
        if (event := self.machine.next_change()) is not None:
            until = min(until, event)
        self.sleep(max(0, until - self.time))
        self._polling.skipped()

    def sleep(self, duration: int) -> None:
        """The host does nothing for a while; the board goes on."""
        self.time += duration
        self._probe = max(self._probe, self.time)
        self.machine.run_until(self._probe)

    # --- SWD -----------------------------------------------------------------------------------

    def set_clock(self, hertz: int) -> int:
        """Choose the SWD clock; returns what the probe really does."""
        fitting = [clock for clock in self.model.clocks if clock <= hertz]
        self.clock = max(fitting, default=self.model.clocks[0])
        self._request_time = _REQUEST_CLOCKS * SECOND // self.clock
        self._data_time = (_DATA_CLOCKS + self.model.idle_clocks) * SECOND // self.clock
        self._whole_time = self._request_time + self._data_time
        self._no_data_time = (_NO_DATA_CLOCKS + self.model.idle_clocks) * SECOND // self.clock
        return self.clock

    def sequence(self, bits: int, count: int) -> None:
        self._harmless = False
        self._probe += count * SECOND // self.clock
        self.machine.run_until(self._probe)
        self.machine.debug_port.sequence(bits, count)

    def hold_reset(self, asserted: bool) -> None:
        self._harmless = False
        self.machine.run_until(self._probe)
        self.machine.hold_reset(asserted)

    def transfer(self, ap: bool, read: bool, address: int, value: int = 0) -> tuple[Ack, int]:
        """One SWD request, repeated while it is answered WAIT and the firmware has patience."""
        port = self.machine.debug_port
        if ap:
            self._judge(read, port.select & 0xF0 | address)
        self._probe += self._request_time
        self.machine.run_until(self._probe)
        ack, data = port.transfer(ap=ap, read=read, address=address, value=value)
        self.counters.swd_transfers += 1
        if ack is Ack.WAIT:
            ack, data = self._insist(ap, read, address, value)
        self._probe += self._data_time if ack is Ack.OK else self._no_data_time
        return ack, data

    def _judge(self, read: bool, register: int) -> None:
        """Is this still a question?  Writing memory is not, nor reading on from where TAR is."""
        if read:
            self._harmless &= register != access_port.DRW or self._aimed
        elif register == access_port.TAR:
            self._aimed = True
        elif access_port.DRW <= register <= access_port.BD3:
            self._harmless = False

    def _insist(self, ap: bool, read: bool, address: int, value: int) -> tuple[Ack, int]:
        """Ask again and again.  Answers that can only be WAIT are counted, not computed."""
        port = self.machine.debug_port
        turn = self._request_time + self._no_data_time
        left = self.waits if self.waits is not None else _PATIENCE // turn
        self.counters.waits += 1
        while left > 0:
            tries = min(left, max(1, -(-(port.ready - self._probe) // turn)))
            left -= tries
            self._probe += tries * turn
            self.machine.run_until(self._probe)
            self.counters.swd_transfers += tries
            self.counters.waits += tries - 1
            ack, data = port.transfer(ap=ap, read=read, address=address, value=value)
            if ack is not Ack.WAIT:
                return ack, data
            self.counters.waits += 1
        return Ack.WAIT, 0

    def read_block(self, words: int) -> bytes | None:
        """So many reads of DRW, and one of RDBUFF, in one go.

        None, and nothing done, where they have to be made one by one.
        """
        self.machine.run_until(self._probe)
        data = self.machine.debug_port.read_block(words)
        if data is not None:
            self._judge(True, access_port.DRW)
            self._pass_requests(words + 1, (words + 1) * self._whole_time)
        return data

    def write_words(self, data: bytes) -> tuple[int, Ack]:
        """So many writes of DRW: how many were answered OK, and what the next was answered."""
        done = 0
        while done < len(data):
            taken = self._write_block(data[done:])
            if not taken:
                word = int.from_bytes(data[done : done + 4], "little")
                ack, _ = self.transfer(True, False, access_port.DRW, word)
                if ack is not Ack.OK:
                    return done // 4, ack
                taken = 1
            done += 4 * taken
        return done // 4, Ack.OK

    def _write_block(self, data: bytes) -> int:
        """The beginning of `data` in one go: how many words, 0 where that cannot be."""
        self.machine.run_until(self._probe)
        ap = self.machine.debug_port.ready_for_block
        words = ap.block_to_write(len(data) // 4) if ap is not None else 0
        if ap is None or not words:
            return 0
        # As in `transfer`, a word reaches the bus when its request is acknowledged.
        self._pass_requests(words, self._request_time + (words - 1) * self._whole_time)
        taken = ap.write_block(data[: 4 * words])
        self._judge(False, access_port.DRW)
        self._probe += self._data_time
        return taken

    def _pass_requests(self, count: int, time: int) -> None:
        """The core runs for as long as a block takes; it sees the block change at its end."""
        self._probe += time
        self.counters.swd_transfers += count
        self.machine.run_until(self._probe)
