"""RTT channels at their ports: with a debugger or without, and through resets and downloads."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import support

from gdbserver.errors import CannotListen
from gdbserver.flash.image import download, load_image
from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer
from gdbserver.server.start import Options
from gdbserver.target.target import Target
from gdbserver.testing.gdb import Gdb
from gdbserver.testing.server import Server

PATIENCE = 30
EVERYTHING = b"ready\n" + b"".join(b"line %d\n" % n for n in range(100))


@pytest.fixture
def talking() -> Path:
    return support.build_firmware("rtt")


def open_machine() -> Machine:
    target = Target.open("sim:ideal")
    return Machine(target, Programmer(target, []))


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    caplog.set_level("INFO", "gdbserver")
    with Server(open_machine, Options(rtt_port=0)) as server:
        port(caplog, "0")  # it may be said any moment, and between set-up and test nobody listens
        yield server


def port(caplog: pytest.LogCaptureFixture, channel: str) -> int:
    pattern = re.compile(rf"RTT channel {re.escape(channel)} is at port (\d+)")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for record in [*caplog.get_records("setup"), *caplog.records]:
            if match := pattern.match(record.getMessage()):
                return int(match[1])
        time.sleep(0)
    raise AssertionError(f"no channel {channel}")


@contextmanager
def at(number: int) -> Iterator[Ear]:
    with socket.create_connection(("127.0.0.1", number), timeout=PATIENCE) as connection:
        yield Ear(connection)


class Ear:
    """Somebody at a channel's port."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard = b""

    def hear(self, end: bytes) -> bytes:
        while end not in self.heard:
            more = self.connection.recv(4096)
            assert more, self.heard
            self.heard += more
        found, _, self.heard = self.heard.partition(end)
        return found + end


def test_a_program_is_heard_without_any_debugger(
    server: Server, talking: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with at(port(caplog, "0")) as early:
        server.program(download([load_image(str(talking))]))
        server.call(Target.reset, halt=False)
        assert early.hear(b"line 99\n") == EVERYTHING
        with at(port(caplog, "0")) as late, at(port(caplog, "1 (numbers)")) as numbers:
            assert late.hear(b"line 99\n") == EVERYTHING  # what was said before it came
            assert numbers.hear(b"h") == b"abcdefgh"
            early.connection.sendall(b"a text that is longer than its ring\n")
            assert late.hear(b"\n") == b"A TEXT THAT IS LONGER THAN ITS RING\n"
            assert early.hear(b"\n") == b"A TEXT THAT IS LONGER THAN ITS RING\n"
    assert not server.call(Target.is_halted)


def test_a_debugger_and_a_listener_do_not_disturb_each_other(
    server: Server, talking: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with at(port(caplog, "0")) as ear, Gdb("gdb-multiarch", talking) as gdb:
        gdb.connect(server.address)
        gdb.load()
        gdb.break_at("print_number", temporary=True, condition="value == 50")
        gdb.resume()
        assert gdb.wait_stop().function == "print_number"
        assert ear.hear(b"line 49\n") == EVERYTHING.partition(b"line 50")[0]
        gdb.resume()
        ear.hear(b"line 99\n")
        gdb.do("interrupt")
        gdb.wait_stop()
        gdb.do("monitor reset halt")
        gdb.resume()
        assert ear.hear(b"line 99\n") == EVERYTHING
        ear.connection.sendall(b".")
        assert ear.hear(b"bye\n") == b"bye\n"
        gdb.wait_stop()


def test_a_port_that_is_taken_is_said_before_anything_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = Options(rtt_port=taken.getsockname()[1])
        with pytest.raises(CannotListen), Server(open_machine, options):
            pass
