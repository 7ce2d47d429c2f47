from __future__ import annotations

import errno
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from dialogue import Client, open_machine

from gdbserver.errors import CannotListen, ProbeError, UsageError
from gdbserver.flash.machine import Machine
from gdbserver.server.serve import serve_clients
from gdbserver.server.start import Options, open_endpoint, serve

pytestmark = pytest.mark.timeout(60)


class Server:
    """A server in this event loop, with the machine that it opened."""

    def __init__(self, options: Options, elf: Path) -> None:
        self._options = options
        self._elf = elf
        self._port = 0
        self._listening = trio.Event()
        self.closed = trio.Event()

    async def run(self) -> None:
        with open_endpoint(self._options) as endpoint:
            self._port = endpoint.port
            self._listening.set()
            await serve_clients(open_machine(elf=self._elf), endpoint, self._options)
        self.closed.set()

    async def connect(self) -> Client:
        await self._listening.wait()
        return Client(await trio.open_tcp_stream("127.0.0.1", self._port))


@asynccontextmanager
async def serving(elf: Path, *, persistent: bool = False) -> AsyncIterator[Server]:
    server = Server(Options(port=0, persistent=persistent), elf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield server
        if persistent:
            nursery.cancel_scope.cancel()


def never_opened() -> Machine:
    raise AssertionError("the probe was touched")


def test_a_port_in_use_is_said_before_the_probe_is_touched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=f"^cannot listen on 127.0.0.1 port {port}: ") as e:
            serve(never_opened, Options(port=port))
    assert e.value.hint == (
        "another server, perhaps an IDE's, has this port: stop it or choose a --port"
    )


def test_an_address_that_is_not_ours_cannot_be_had() -> None:
    with pytest.raises(CannotListen, match=r"^cannot listen on 192\.0\.2\.1 port 0: "):
        serve(never_opened, Options(host="192.0.2.1", port=0))


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        (OSError(errno.EADDRNOTAVAIL, "no"), "an address of this machine: localhost, or 0.0.0.0"),
        (socket.gaierror(-2, "unknown"), "an address of this machine: localhost, or 0.0.0.0"),
        (OSError(errno.EACCES, "denied"), "ports below 1024 are for root: choose another --port"),
    ],
)
def test_where_one_may_listen_is_told(reason: OSError, hint: str) -> None:
    assert str(CannotListen("somewhere", 22, reason).hint).startswith(hint)


def test_a_name_that_nobody_has_cannot_be_had() -> None:
    error = CannotListen("no.such.host", 1, OSError(errno.ENOENT, "Name or service not known"))
    assert str(error) == "cannot listen on no.such.host port 1: Name or service not known"
    assert error.hint is None


def test_a_machine_that_cannot_be_opened_is_an_error_of_ours() -> None:
    def fail() -> Machine:
        raise ProbeError("no debug probe is connected")

    with pytest.raises(ProbeError, match=r"^no debug probe is connected$"):
        serve(fail, Options(port=0))


def test_the_server_ends_with_its_last_client(drills_elf: Path) -> None:
    async def main() -> None:
        async with serving(drills_elf) as server:
            first, second = await server.connect(), await server.connect()
            assert await first.ask(b"qC") == b"QC1"
            assert await second.ask(b"qC") == b"QC1"
            await first.stream.aclose()
            assert await second.ask(b"qC") == b"QC1"
            await second.stream.aclose()
            await server.closed.wait()

    trio.run(main)


def test_a_client_that_reconnects_at_once_gets_control_and_is_not_shut_out(
    drills_elf: Path,
) -> None:
    async def main() -> None:
        async with serving(drills_elf) as server:
            client = await server.connect()
            assert await client.ask(b"?") is not None
            for _ in range(5):
                following = await server.connect()
                await client.send(b"c")
                await following.send(b"?")
                await client.stream.aclose()
                assert (await following.hear() or b"")[:3] == b"T02"
                assert await following.ask(b"P0=00000000") == b"OK"
                client = following
            await client.stream.aclose()

    trio.run(main)


def test_who_connects_and_says_nothing_is_no_client(drills_elf: Path) -> None:
    async def main() -> None:
        async with serving(drills_elf) as server:
            await (await server.connect()).stream.aclose()
            client = await server.connect()
            assert await client.ask(b"m20000000,1") is not None
            await (await server.connect()).stream.aclose()
            assert await client.ask(b"qC") == b"QC1"
            await client.stream.aclose()
            await server.closed.wait()

    trio.run(main)


def test_a_persistent_server_serves_one_client_after_the_other(drills_elf: Path) -> None:
    async def main() -> None:
        async with serving(drills_elf, persistent=True) as server:
            for _ in range(3):
                client = await server.connect()
                assert await client.ask(b"?") is not None
                await client.stream.aclose()
            assert not server.closed.is_set()

    trio.run(main)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rtt_port", [None, 0], ids=["before the loop", "in the loop"])
def test_a_signal_closes_the_server_and_releases_the_core(
    drills_elf: Path, number: signal.Signals, rtt_port: int | None
) -> None:
    machines: list[Machine] = []

    def open_one() -> Machine:
        machines.append(open_machine(elf=drills_elf))
        return machines[0]

    def on_listening(_port: int) -> None:
        assert machines[0].target.is_halted()
        signal.raise_signal(number)

    serve(open_one, Options(port=0, persistent=True, rtt_port=rtt_port), on_listening)
    assert not board(machines[0]).core.halted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_machine_that_is_being_opened_is_opened_and_closed_again_at_a_signal(
    drills_elf: Path, number: signal.Signals
) -> None:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    machines: list[Machine] = []

    def open_one() -> Machine:
        signal.raise_signal(number)
        machines.append(open_machine(elf=drills_elf))
        return machines[0]

    serve(open_one, Options(port=0, persistent=True))
    assert machines[0].target.link.closed
    assert not board(machines[0]).core.halted
    assert {each: signal.getsignal(each) for each in handlers} == handlers


def test_words_that_cannot_be_said_leave_no_machine_open(drills_elf: Path) -> None:
    machines: list[Machine] = []

    def open_one() -> Machine:
        machines.append(open_machine(elf=drills_elf))
        return machines[0]

    def on_listening(_port: int) -> None:
        raise UsageError("cannot write the port's number to nowhere")

    with pytest.raises(UsageError):
        serve(open_one, Options(port=0), on_listening)
    assert machines[0].target.link.closed


def board(machine: Machine):  # type: ignore[no-untyped-def]
    return machine.target.link.probe.board


def test_the_port_is_told_once_a_client_is_welcome(drills_elf: Path) -> None:
    ports: list[int] = []

    def on_listening(port: int) -> None:
        ports.append(port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"$qC#b4")

    serve(lambda: open_machine(elf=drills_elf), Options(port=0), on_listening)
    assert len(ports) == 1
    assert ports[0] > 0
