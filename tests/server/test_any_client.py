"""Whatever a client sends, it gets an answer, and nothing in the server breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from dialogue import connected, open_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdbserver.flash.machine import Machine
from gdbserver.server.worker import TargetWorker, Worker, Workers, WorkerThread

pytestmark = pytest.mark.timeout(120)

numbers = st.one_of(
    st.sampled_from([0, 1, 4, 0x0800_0000, 0x2000_0000, 0xE000_ED00, 0x7000_0000, 0xFFFF_FFFF]),
    st.integers(0, (1 << 33)),
).map(lambda n: f"{n:x}".encode())
small = st.integers(0, 0x4000).map(lambda n: f"{n:x}".encode())
words = st.binary(max_size=8)


def packets(template: bytes, *parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(lambda values: template % values)


payloads = st.one_of(
    packets(b"m%b,%b", numbers, small),
    packets(b"x%b,%b", numbers, small),
    packets(b"M%b,%b:%b", numbers, small, words.map(lambda w: w.hex().encode())),
    packets(b"X%b,%b:%b", numbers, small, words),
    packets(b"p%b", small),
    packets(b"P%b=%b", small, words.map(lambda w: w.hex().encode())),
    packets(b"Z%b,%b,%b", small, numbers, small),
    packets(b"z%b,%b,%b", small, numbers, small),
    packets(b"qCRC:%b,%b", numbers, small),
    packets(b"qSearch:memory:%b;%b;%b", numbers, small, words),
    packets(b"qXfer:memory-map:read:%b:%b,%b", words, numbers, numbers),
    packets(b"qXfer:features:read:target.xml:%b,%b", numbers, numbers),
    packets(b"qMemoryRegionInfo:%b", numbers),
    packets(b"vFlashErase:%b,%b", numbers, numbers),
    packets(b"vFlashWrite:%b:%b", numbers, words),
    packets(b"vCont;%b", words.filter(lambda word: b"c" not in word.lower())),
    packets(b"T%b", numbers),
    packets(b"H%b", words),
    st.sampled_from([b"g", b"?", b"qC", b"vCont?", b"G00000000", b"qfThreadInfo", b"vRun;", b"D"]),
    st.sampled_from(["help", "why", "info", "halt", "reset", "reset init"]).map(
        lambda line: b"qRcmd," + line.encode().hex().encode()
    ),
    st.binary(max_size=12).filter(lambda payload: payload[:1] not in b"cCsSkR"),
)


@pytest.fixture(scope="module")
def machine(drills_elf: Path) -> Machine:
    return open_machine(elf=drills_elf)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(payloads, min_size=1, max_size=15), st.booleans())
def test_every_packet_is_answered(
    machine: Machine, sent: list[bytes], error_messages: bool
) -> None:
    async def main() -> None:
        workers = Workers(TargetWorker(machine.target, thread), Worker(machine.programmer, thread))
        async with connected(workers) as client:
            if error_messages:
                await client.ask(b"qSupported:error-message+")
            for payload in sent:
                reply = await client.ask(payload)
                while payload[:6] == b"qRcmd," and (reply or b"")[:1] == b"O" and reply != b"OK":
                    reply = await client.hear()
                assert reply is not None, payload

    thread = WorkerThread()
    trio.run(main)
    thread.stop()
