"""What a server costs the host: packets per second, CPU time, time to start, memory.

Both servers run as the processes that users start, on a board with an ideal link, one after the
other.  These are the only numbers that depend on the machine; so what counts is the ratio.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.cases import NOR, noise, write_elf
from benchmark.servers import OURS, PEER
from gdbserver.chip.stm32h743 import DTCM, MIB
from gdbserver.rsp.packets import Connection, Packet, frame
from gdbserver.testing.gdb import Gdb

BOARD = "sim:ideal"
ROUNDS, SECONDS = 5, 0.5
"""For each kind of packet, each server in turn; the best counts."""
STARTS = 10  # of which the quickest counts: the first fills caches, and others use the machine, too
SIZES = (4 * MIB, 32 * MIB)
"""Of two images; memory for the larger beyond that for the smaller is what an image takes."""
PATIENCE = 600  # host seconds

COMMANDS = {
    OURS: [sys.executable, "-m", "gdbserver", "--probe", BOARD, "--port", "0", "--persistent"],
    PEER: [
        *(sys.executable, "-m", "pyocd", "gdbserver", "-u", BOARD, "-t", "stm32h743xx"),
        *("--port", "0", "--telnet-port", "0", "--persist", "-O", "hide_programming_progress=1"),
    ],
}
_READY = {OURS: "Waiting for debugger connection...", PEER: "GDB server listening on port "}
_PORT = {OURS: "Listening on port ", PEER: "GDB server listening on port "}

_RAM = DTCM.start
PACKETS: Sequence[tuple[str, bytes, float]] = (
    ("g", b"g", 2.0),
    ("m of 64 bytes", b"m%x,40" % _RAM, 2.0),
    ("m of 1 KiB", b"m%x,400" % _RAM, 2.0),
    ("X of 1 KiB", b"X%x,400:%b" % (_RAM, noise(0x400, 4)), 2.0),
    ("qAttached", b"qAttached", 0.8),
    ("T1", b"T1", 0.8),
)


@dataclass(frozen=True)
class Host:
    """One thing, ours and the peer's, if it was measured."""

    name: str
    ours: float
    peer: float | None
    target: str
    met: bool | None
    """None where that is a matter of the peer, which was left out."""
    digits: int = 0

    def __str__(self) -> str:
        beside = "" if self.peer is None else f", {PEER}: {self.peer:.2f}"
        return f"{self.name}: {self.ours:.2f}{beside}"


def measures(work: Path, *, alone: bool) -> Iterator[Host]:
    servers = [OURS] if alone else [OURS, PEER]
    starts = {server: float("inf") for server in servers}
    for _ in range(STARTS):
        for server in servers:
            starts[server] = min(starts[server], _start(server))
    ours, peer = starts[OURS], starts.get(PEER)
    met = None if peer is None else ours <= peer
    yield Host("seconds to be ready", ours, peer, "at most 1.0", met, 2)
    with ExitStack() as stack:
        clients = {server: stack.enter_context(_connected(server)) for server in servers}
        for name, payload, target in PACKETS:
            rates = dict.fromkeys(servers, 0.0)
            for _ in range(ROUNDS):
                for server, client in clients.items():
                    rates[server] = max(rates[server], client.rate(payload))
            ours, peer = rates[OURS], rates.get(PEER)
            met = None if peer is None else ours >= target * peer
            yield Host(f"{name}, packets a second", ours, peer, f"at least {target}", met)
    small, large = (peak_memory(size, work) for size in SIZES)
    slope = (large - small) / ((SIZES[1] - SIZES[0]) / MIB)
    yield Host("MiB of memory for a MiB of image", slope, None, "at most 2", slope <= 2, 2)


def _environment() -> dict[str, str]:
    """As users have it: what Python has compiled it keeps."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def running(server: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server in a process of its own: its port."""
    process = subprocess.Popen(
        COMMANDS[server],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(),
    )
    try:
        yield _wait_until_ready(server, process), process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _wait_until_ready(server: str, process: subprocess.Popen[str]) -> int:
    port = 0
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if _PORT[server] in line:
            port = int(line.partition(_PORT[server])[2].split()[0])
        if _READY[server] in line:
            return port
    raise RuntimeError(f"{server} did not start:\n{said}")


def _start(server: str) -> float:
    began = time.monotonic()
    with running(server):
        return time.monotonic() - began


@contextmanager
def _connected(server: str) -> Iterator[_Client]:
    with running(server) as (port, _), _Client(port) as client:
        client.shake_hands()
        yield client


class _Client:
    """Sends a packet and waits for its answer, as fast as it can."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = Connection()

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def shake_hands(self) -> None:
        self.ask(b"qSupported:swbreak+;hwbreak+")
        self.ask(b"QStartNoAckMode")
        self._socket.sendall(b"+")
        self._connection.stop_acks()
        self.ask(b"!")
        self.ask(b"?")

    def ask(self, payload: bytes) -> bytes:
        self._socket.sendall(frame(payload))
        while True:
            while (event := self._connection.next_event()) is None:
                self._connection.receive_data(self._socket.recv(0x10000))
                if acks := self._connection.data_to_send():
                    self._socket.sendall(acks)
            if isinstance(event, Packet):
                return event.payload
            raise RuntimeError(f"the server hung up after {payload[:40]!r}")

    def rate(self, payload: bytes) -> float:
        """Answers in a second."""
        packet = frame(payload)
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < SECONDS:
            for _ in range(20):
                self._socket.sendall(packet)
                while True:
                    data = self._socket.recv(0x10000)
                    if data[-3:-2] == b"#":
                        break
            count += 20
        return count / passed


# --- Memory --------------------------------------------------------------------------------------


def peak_memory(size: int, work: Path) -> float:
    """MiB that our server had at most, for a load of so many bytes into the NOR.

    All but the first MiB is blank: it has to be kept, planned and compared, and not programmed.
    """
    elf = work / f"{size}.elf"
    write_elf(elf, {NOR.start: noise(MIB, 6) + b"\xff" * (size - MIB)})
    with running(OURS) as (port, process), Gdb(elf=elf, patience=PATIENCE) as gdb:
        gdb.connect(f"localhost:{port}")
        gdb.load()
        status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / MIB
