"""SWO at its two ports."""

from __future__ import annotations

import re

import pytest
import support
import trio
import trio.testing
from dialogue import lent, open_machine

from gdbserver.flash.machine import Machine
from gdbserver.server.control import Control
from gdbserver.server.start import SwoOptions
from gdbserver.server.swo import SwoPorts
from gdbserver.target.swo import PortText
from gdbserver.target.target import Target

OPTIONS = SwoOptions(port=0, trace_hz=100_000_000, baud=2_000_000, text_port=0)


@pytest.fixture
def machine() -> Machine:
    return open_machine("sim:ideal", elf=support.build_firmware("talker"))


def port(messages: list[str], title: str) -> int:
    (found,) = (m for text in messages if (m := re.fullmatch(rf"{title} is at port (\d+)", text)))
    return int(found[1])


async def hear(stream: trio.SocketStream, length: int) -> bytes:
    heard = b""
    while len(heard) < length:
        heard += await stream.receive_some()
    return heard


def test_packets_are_at_one_port_and_text_is_at_the_other(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        caplog.set_level("INFO", "gdbserver")
        async with (
            lent(machine) as workers,
            SwoPorts(workers.target, Control(), "127.0.0.1", OPTIONS).open(),
        ):
            await trio.testing.wait_all_tasks_blocked()
            await workers.target.call(Target.resume)
            packets = await trio.open_tcp_stream("127.0.0.1", port(caplog.messages, "SWO"))
            text = await trio.open_tcp_stream(
                "127.0.0.1", port(caplog.messages, "SWO, text of port 0")
            )
            async with packets, text:
                heard = PortText(0).feed(await hear(packets, 100))
                assert heard.startswith(b"Hello, wire.\nHello, ")
                assert (await hear(text, 26))[:26] == b"Hello, wire.\n" * 2

    trio.run(story)
