"""What a server that was told of the program knows by itself."""

from __future__ import annotations

import pytest
import support
import trio
from dialogue import connected, lent, open_machine, symbols

from gdbserver.program.known import KnownProgram


@pytest.mark.parametrize("asked", [False, True], ids=["never asked", "asked, and does not know"])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.timeout(60)
def test_an_rtos_is_seen_by_a_client_without_symbols(asked: bool, told: bool) -> None:
    elf = support.build_firmware("tasks")
    program = KnownProgram(elf) if told else None

    async def story() -> None:
        async with (
            lent(open_machine(elf=elf)) as workers,
            connected(workers, program=program) as client,
        ):
            await client.ask(b"qSupported:swbreak+;hwbreak+")
            if asked:
                reply = await client.ask(b"qSymbol::")
                while reply != b"OK":
                    reply = await client.ask(b"qSymbol::" + (reply or b"").partition(b":")[2])
            await client.ask(b"Z1,%x,2" % symbols(elf)["rest"])
            await client.ask(b"c")
            names = [b'name="rester"', b'name="blinker"', b'name="idle"', b'name="maths"']
            said = await client.ask(b"qXfer:threads:read::0,1000") or b""
            assert all((name in said) == told for name in names)

    trio.run(story)
