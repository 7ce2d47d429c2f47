"""GDB/MI as IDEs use it: cortex-debug, STM32CubeIDE, CLion and Eclipse all talk to GDB this way."""

from __future__ import annotations

from pathlib import Path

import pytest
from gdb_session import debugging, symbol

from gdbserver.errors import GdbRefused, GdbSilent


def test_a_session_in_mi(demo_elf: Path, gdb_program: str) -> None:
    with debugging(demo_elf, gdb=gdb_program, connect=False) as here:
        gdb = here.start()
        ask = gdb.ask
        assert {"breakpoint-notifications", "data-read-memory-bytes"} <= set(
            ask("-list-features")["features"]
        )
        ask(f"-target-select extended-remote {here.server.address}")
        assert {"async"} <= set(ask("-list-target-features")["features"])
        assert int(ask("-target-download")["load-size"]) > 98_000
        bkpt = ask("-break-insert -t --function main")["bkpt"]
        assert (bkpt["type"], bkpt["disp"]) == ("breakpoint", "del")
        stop = gdb.run()
        assert (stop.reason, stop.function) == ("breakpoint-hit", "main")
        (thread,) = ask("-thread-info")["threads"]
        assert (thread["target-id"], thread["state"]) == ("Thread 1", "stopped")

        # Where is it, and what is there?
        ask("-break-insert -h sum_in_nor")
        stop = gdb.run()
        assert stop.values["bkptno"] == "2"
        frames = ask("-stack-list-frames")["stack"]
        assert [frame["func"] for frame in frames[:2]] == ["sum_in_nor", "main"]
        assert ask("-stack-info-depth")["depth"] >= "2"
        ask("-stack-select-frame 0")
        found = ask("-stack-list-variables --all-values")["variables"]
        assert {"values", "count", "sum"} <= {variable["name"] for variable in found}
        code = ask("-data-disassemble -s $pc -e $pc+8 -- 0")["asm_insns"]
        assert code[0]["func-name"] == "sum_in_nor"

        # Registers and memory.
        registers = ask("-data-list-register-names")["register-names"]
        number = registers.index("r4")
        before = ask(f"-data-list-register-values x {number}")["register-values"]
        ask(f'-data-evaluate-expression "$r4 = {int(before[0]["value"], 16) ^ 0x55}"')
        after = ask(f"-data-list-register-values x {number}")["register-values"]
        assert int(after[0]["value"], 16) == int(before[0]["value"], 16) ^ 0x55
        ask(f'-data-evaluate-expression "$r4 = {before[0]["value"]}"')
        assert gdb.read_memory(0x90000034, 8) == bytes([1, 0, 0, 0, 4, 0, 0, 0])
        ask("-data-write-memory-bytes 0x24000100 11223344")
        assert gdb.read_memory(0x24000100, 4) == bytes.fromhex("11223344")
        with pytest.raises(GdbRefused, match="Unable to read memory"):
            ask("-data-read-memory-bytes 0x70000000 4")

        # Variables as a watch window has them.
        assert ask("-var-create total * total")["value"] == "42"
        children = "-var-list-children --all-values values"
        ask("-var-create values @ squares")
        assert ask(children)["children"][3]["value"] == "9"
        ask("-break-delete 2")
        ask("-exec-finish")
        stop = gdb.wait_stop()
        assert (stop.reason, stop.values["return-value"]) == ("function-finished", "1240")
        for line in (52, 53):
            ask("-exec-next")
            stop = gdb.wait_stop()
            assert (stop.reason, stop.line) == ("end-stepping-range", line)
        changed = ask("-var-update --all-values *")["changelist"]
        assert [(one["name"], one["value"]) for one in changed] == [("total", "1240")]
        ask("-var-assign total 7")
        assert gdb.read("total") == 7
        ask("-var-delete total")
        ask("-exec-step-instruction")
        gdb.wait_stop()
        assert "15" in ask("-data-list-changed-registers")["changed-registers"], "the pc"
        ask("-exec-until 54")
        assert gdb.wait_stop().line == 54

        # Watching, running, interrupting.
        watch = ask("-break-watch counter")["wpt"]["number"]
        stop = gdb.run()
        assert stop.values["wpt"]["number"] == watch
        assert stop.values["value"] == {"old": "0", "new": "1"}
        ask(f"-break-delete {watch}")
        ask("-break-insert -c counter==3 add")
        ask("-exec-continue --all")
        assert gdb.wait_stop().reason == "breakpoint-hit"
        assert gdb.read("counter") == 3
        ask("-break-delete")
        gdb.resume()
        here.let_run(0.05)
        stop = gdb.interrupt()
        assert (stop.reason, stop.signal) == ("signal-received", "SIGINT")

        # From the start, and away.
        ask("-break-insert -t main")
        ask("-exec-run")
        assert gdb.wait_stop().function == "main"
        assert gdb.read("counter") == 0
        ask("-target-detach")
        assert not here.board.core.halted


def test_a_program_that_cannot_be_resumed_is_told_as_gdb_tells_it(demo_elf: Path) -> None:
    with debugging(demo_elf) as here:
        gdb = here.loaded()
        with pytest.raises(GdbRefused, match="the program has not been resumed"):
            gdb.interrupt()
        for offset in range(9):
            gdb.break_at(f"*(main + {2 * offset})")
        with pytest.raises(GdbRefused, match="Cannot insert hardware breakpoint 9"):
            gdb.run()
        gdb.delete_breakpoints()
        gdb.resume()
        with pytest.raises(GdbSilent, match="the program has not stopped"):
            gdb.wait_stop(timeout=0)
        assert gdb.interrupt().signal == "SIGINT"
        gdb.break_at("add")
        gdb.resume()
        stop = gdb.wait_stop()
        assert gdb.interrupt() == stop, "it has stopped by itself"
        gdb.process.kill()
        gdb.process.wait()
        with pytest.raises(GdbSilent, match="GDB has ended"):
            gdb.do("continue")


RESET_HALT, RESET, HALT = "monitor reset halt", "monitor reset", "monitor halt"

# What each sends from connecting to the first stop in main; the ELF file is loaded already.
# "load" stands for -target-download.
LAUNCHES = {
    "cortex-debug external": ("extended-remote", [RESET_HALT, "load", RESET_HALT]),
    "cortex-debug stlink": ("extended-remote", [RESET, "load", RESET, HALT]),
    "cortex-debug pyocd": (
        "extended-remote",
        ["set mem inaccessible-by-default off", RESET_HALT, "load", RESET_HALT],
    ),
    "cortex-debug stutil": ("extended-remote", [HALT, RESET, "load", RESET]),
    "STM32CubeIDE": (
        "remote",
        ["monitor WriteDP 0x2 0xF0", "monitor ReadAP 0x2", RESET, "load", RESET],
    ),
    "CLion": ("remote", ["set mem inaccessible-by-default off", "load", RESET]),
    "Eclipse GDB hardware debugging": ("remote", [RESET, HALT, "load", RESET_HALT]),
    "Eclipse OpenOCD and pyOCD plug-ins": (
        "remote",
        ["set mem inaccessible-by-default off", RESET_HALT, HALT, "load", RESET_HALT],
    ),
}


@pytest.mark.parametrize("client", LAUNCHES)
def test_the_launch_commands_of_an_ide_end_in_main(demo_elf: Path, client: str) -> None:
    kind, commands = LAUNCHES[client]
    with debugging(demo_elf, connect=False) as here:
        gdb = here.start()
        gdb.ask(f"-target-select {kind} {here.server.address}")
        for command in commands:
            if command == "load":
                gdb.ask("-target-download")
                assert gdb.read("$pc") == symbol(demo_elf, "Reset_Handler") & ~1
            else:
                gdb.ask(f'-interpreter-exec console "{command}"')
        gdb.ask('-break-insert -t --function "main"')
        gdb.ask("-exec-continue --all")
        stop = gdb.wait_stop()
        assert (stop.reason, stop.function) == ("breakpoint-hit", "main")
        assert gdb.read("counter") == 0


@pytest.mark.parametrize("commands", [[RESET_HALT], [RESET], [HALT, RESET]])
def test_the_reset_button_of_an_ide_starts_the_program_over(
    demo_elf: Path, commands: list[str]
) -> None:
    with debugging(demo_elf) as here:
        gdb = here.loaded()
        gdb.break_at("add", condition="counter == 2")
        gdb.run()
        for command in commands:
            gdb.ask(f'-interpreter-exec console "{command}"')
        gdb.delete_breakpoints()
        gdb.break_at("add")
        assert gdb.run().function == "add"
        assert gdb.read("counter") == 0
