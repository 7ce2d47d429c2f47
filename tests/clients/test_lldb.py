"""LLDB, Debian's and a recent one: a program in two flashes, from load to detach."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import support
from elftools.elf.elffile import ELFFile

from gdbserver.chip.memory import Span
from gdbserver.sim.board import Board
from gdbserver.target.target import Target
from gdbserver.testing.server import Server, open_machine

FP_COMP0, DWT_FUNCTION0 = 0xE0002008, 0xE0001028


@pytest.fixture(params=["lldb-14", "lldb-23"])
def lldb(request: pytest.FixtureRequest) -> str:
    if request.param == "lldb-14":
        return support.client_on_path("lldb")
    return str(support.client("debuggers/bin/lldb"))


@pytest.fixture
def server() -> Any:
    with Server(lambda: open_machine(["--probe", "sim:stlink-v3"])) as server:
        yield server


def tell(lldb: str, server: Server, elf: Path | None, *commands: str) -> str:
    """What LLDB prints when it is given these commands, connected."""
    script = [f"gdb-remote {server.address}", *commands]
    if elf is not None:
        script.insert(0, f"target create {elf}")
    done = subprocess.run(
        [lldb, "--no-lldbinit", "--no-use-colors", "--batch"]
        + [word for line in script for word in ("-o", line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


def test_a_session_from_load_to_detach(lldb: str, server: Server, demo_elf: Path) -> None:
    said = tell(
        lldb,
        server,
        demo_elf,
        f"target modules load --file {demo_elf} --load --set-pc-to-entry --slide 0",
        *("breakpoint set --name main", "continue"),
        *("breakpoint set --name sum_in_nor", "continue", "thread backtrace"),
        "memory read --size 4 --format x --count 4 0x90000030",
        *("finish", "register write r5 0x1234", "register read r5"),
        *("memory write 0x24000000 0x11 0x22", "memory read --count 2 0x24000000"),
        *("breakpoint delete --force", "watchpoint set variable counter", "continue"),
        *("watchpoint delete --force", "thread step-inst", "thread step-over"),
        *("expression -- counter", "register read pc", "process detach"),
    )
    for wanted in (
        r"stop reason = breakpoint 1\.1\n.* frame #0: 0x\w+ demo-\w+\.elf`main at demo\.c",
        r"stop reason = breakpoint 2\.1\n.*`sum_in_nor\(values=0x90000030, count=16\)",
        r"frame #1: 0x\w+ demo-\w+\.elf`main at demo\.c",
        "0x90000030: 0x00000000 0x00000001 0x00000004 0x00000009",
        r"Return value: \(uint32_t\) \$0 = 1240",
        "r5 = 0x00001234",
        "0x24000000: 11 22",
        "Watchpoint 1 hit:\nold value: 0\nnew value: 1",
        "stop reason = instruction step into",
        "stop reason = step over",
        r"\(volatile uint32_t\) \$1 = 1\n",
        "Process 1 detached",
    ):
        assert re.search(wanted, said), said
    assert "error: " not in said.replace("error: memory read failed for 0xfffffe00\n", ""), said
    board: Board = server.call(lambda target: target.link.probe.board)
    with demo_elf.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            where, data = segment["p_paddr"], segment.data()
            if where >= 0x90000000:
                assert board.nor.contents(where - 0x90000000, len(data)) == data
            else:
                assert board.flash.contents(Span.of(where, len(data))) == data
    assert not server.call(Target.is_halted)
    assert not any(server.call(Target.read_word, FP_COMP0 + 4 * n) & 1 for n in range(8))
    assert not any(server.call(Target.read_word, DWT_FUNCTION0 + 16 * n) & 15 for n in range(4))


def test_a_ninth_breakpoint_is_refused_with_a_sentence(
    lldb: str, server: Server, demo_elf: Path
) -> None:
    places = [f"breakpoint set --address {0x90000000 + 2 * n:#x}" for n in range(9)]
    why = "process plugin packet monitor why"
    said = tell(lldb, server, demo_elf, *places, why, "process detach")
    assert said.count("warning: failed to set breakpoint site") == 1, said
    assert "8 of 8 hardware breakpoints are in use" in said


def test_it_comes_back_after_it_has_killed(lldb: str, server: Server, demo_elf: Path) -> None:
    assert "exited" in tell(lldb, server, demo_elf, "process kill")
    assert "stop reason" in tell(lldb, server, demo_elf, "process detach")


def test_without_an_elf_there_are_registers_memory_and_breakpoints(
    lldb: str, server: Server
) -> None:
    loop = "0x01 0x20 0x4f 0xf0 0x01 0x02 0x72 0xb6 0xfa 0xe7"
    said = tell(
        lldb,
        server,
        None,
        f"memory write 0x24000000 {loop}",
        *("register write pc 0x24000000", "register write sp 0x24001000"),
        *("register write xpsr 0x01000000", "register write r2 0x77"),
        *("breakpoint set --address 0x24000006", "continue", "register read r0 r2 pc"),
        *("thread step-inst", "register read pc", "memory region 0x24000000"),
        *("disassemble -A armv7em --start-address 0x24000000 --count 3", "process detach"),
    )
    for wanted in (
        r"stop reason = breakpoint 1\.1\n.* frame #0: 0x24000006",
        r"r0 = 0x00000001\n +r2 = 0x00000001\n +pc = 0x24000006",
        r"stop reason = instruction step into\n.* frame #0: 0x24000008",
        r"pc = 0x24000008",
        r"\[0x0*24000000-0x0*24080000\) rwx AXI SRAM",
        r"0x24000002: mov.w  r2, #0x1\n +0x24000006: cpsid  i",
        "Process 1 detached",
    ):
        assert re.search(wanted, said), said


def test_every_task_of_an_rtos_is_a_thread(lldb: str, server: Server) -> None:
    elf = support.build_firmware("tasks")
    said = tell(
        lldb,
        server,
        elf,
        f"target modules load --file {elf} --load --set-pc-to-entry --slide 0",
        *("breakpoint set --name rest", "continue", "thread list"),
        *("thread select 3", "thread backtrace", "register read r8", "process detach"),
    )
    for wanted in (
        r"thread #1: .*`rest\(for_how_long=7\) at .*'rester', stop reason = breakpoint 1\.1",
        r"thread #2: .*`idle_task at .* name = 'idle'\n",
        r"thread #3: .* name = 'maths'\n",
        r"thread #4: .* name = 'blinker'\n",
        r"\* thread #3, name = 'maths'",
        "Process 1 detached",
    ):
        assert re.search(wanted, said), said
