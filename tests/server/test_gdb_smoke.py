"""One real GDB, once around: that it and the server understand each other at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio
from dialogue import open_machine

from gdbserver.server.serve import Options, serve_clients

pytestmark = pytest.mark.timeout(120)


def ask_gdb(elf: Path, *commands: str) -> str:
    """What GDB prints when it is given `commands`, connected to a server on the board."""
    outputs: list[str] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def run_gdb(port: int) -> None:
                script = ["set pagination off", f"target extended-remote localhost:{port}"]
                arguments = [f"--eval-command={line}" for line in (*script, *commands)]
                done = await trio.run_process(
                    ["gdb-multiarch", "--batch", "--nx", *arguments, str(elf)],
                    capture_stdout=True,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                outputs.append(done.stdout.decode())

            await serve_clients(
                lambda: open_machine(elf=elf),
                Options(port=0),
                lambda port: nursery.start_soon(run_gdb, port),
            )

    trio.run(main)
    return outputs[0]


def test_gdb_goes_once_around(drills_elf: Path) -> None:
    said = ask_gdb(
        drills_elf,
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
    for wanted in (
        "Breakpoint 1, main () at",
        "Old value = 286331153\nNew value = 572662306",
        "Section .data, range ",
        '1    Thread 1 "Cortex-M7" (halted) touch () at',
        "0x20000000 <watched>\n1 pattern found.",
        "0xe000ed00:\t0x411fc271",
        "Cannot access memory at address 0x70000000",
        "ReadMemory: cannot read memory at 0x70000000",
        "reset; the core is halted at its first instruction",
        "[Inferior 1 (Remote target) killed]",
        "Temporary breakpoint 3, step_1 () at",
        "[Inferior 1 (Remote target) detached]",
    ):
        assert wanted in said, said
    assert "warning" not in said
    assert "MIS-MATCHED" not in said
