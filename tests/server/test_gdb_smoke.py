"""One real GDB, once around: that it and the server understand each other at all."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from dialogue import Client, open_machine

from gdbserver.server.serve import serve_clients
from gdbserver.server.start import Options, open_endpoint

pytestmark = pytest.mark.timeout(120)


async def run_gdb(port: int, elf: Path, *commands: str) -> str:
    """What GDB prints when it is given `commands`, connected to `port`."""
    script = ["set pagination off", f"target extended-remote localhost:{port}", *commands]
    done = await trio.run_process(
        ["gdb-multiarch", "--batch", "--nx", *(f"--eval-command={line}" for line in script), elf],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode()


def serve_while(elf: Path, story: Callable[[int], Awaitable[str]]) -> str:
    """What `story` says, which is told the port of a server on the board."""
    said: list[str] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def tell(port: int) -> None:
                said.append(await story(port))

            options = Options(port=0)
            with open_endpoint(options) as endpoint:
                nursery.start_soon(tell, endpoint.port)
                await serve_clients(open_machine(elf=elf), endpoint, options)

    trio.run(main)
    return said[0]


def test_gdb_goes_once_around(drills_elf: Path) -> None:
    script = (
        "break main",
        "continue",
        "print/x $msp",
        "print $d0 == $s1",
        "set var drill = WATCH",
        "watch watched",
        "continue",
        "delete",
        "next",
        "print counter = 7",
        "compare-sections",
        "find &watched, +4, (int)watched",
        "info threads",
        "x/1xw 0xe000ed00",
        "print/x *(unsigned*)0x70000000",
        "monitor why",
        "monitor reset halt",
        "kill",
        "tbreak step_1",
        "run",
        "info registers pc",
        "detach",
    )
    said = serve_while(drills_elf, lambda port: run_gdb(port, drills_elf, *script))
    for wanted in (
        "Breakpoint 1, main () at",
        "Old value = 286331153\nNew value = 572662306",
        "Section .data, range ",
        '1    Thread 1 "Cortex-M7" (halted) touch () at',
        "0x20000000 <watched>\n1 pattern found.",
        "0xe000ed00:\t0x411fc271",
        "Cannot access memory at address 0x70000000",
        "reading memory: cannot read memory at 0x70000000",
        "reset; the core is halted at its first instruction",
        "[Inferior 1 (Remote target) killed]",
        "Temporary breakpoint 3, step_1 () at",
        "[Inferior 1 (Remote target) detached]",
    ):
        assert wanted in said, said
    assert "warning" not in said
    assert "MIS-MATCHED" not in said


def test_a_second_gdb_looks_on_while_the_core_runs_for_the_first(drills_elf: Path) -> None:
    async def story(port: int) -> str:
        first = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await first.ask(b"?")
        await first.send(b"c")
        said = await run_gdb(port, drills_elf, "print counter", "print counter", "continue")
        await first.interrupt()
        assert (await first.hear() or b"")[:3] == b"T02"
        await first.stream.aclose()
        return said

    said = serve_while(drills_elf, story)
    earlier, later = (int(n) for n in re.findall(r"\$\d = (\d+)", said))
    assert earlier < later
    assert "Remote failure reply" in said or "E01" in said
