"""Debugging by a real GDB what `load` has put into internal flash and the NOR."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio
from gdb_session import Session, debug, symbol

FP_CTRL, FP_COMP0 = 0xE0002000, 0xE0002008


async def loaded(here: Session) -> None:
    assert "Transfer rate" in await here.gdb.do("load")


async def value(here: Session, expression: str) -> str:
    return (await here.gdb.do(f"output {expression}")).strip()


def armed(here: Session) -> set[int]:
    """Addresses of the breakpoints that are in the FPB, whoever put them there."""
    bus = here.machine.target
    comparators = [bus.read_word(FP_COMP0 + 4 * n) for n in range(8)]
    return {word & ~1 for word in comparators if word & 1}


@pytest.mark.parametrize("link", ["stlink-v3", "cmsis-dap-v2"])
def test_the_story_of_one_image_in_two_flashes(demo_elf: Path, link: str) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break main")
        assert "Breakpoint 1, main () at" in await gdb.do("continue")
        assert "map_nor();" in await gdb.do("next")
        assert "start_ticks();" in await gdb.do("next")
        assert await value(here, "greeting") == '"hello from the QSPI NOR"'
        assert await value(here, "squares[15]") == "225"
        await gdb.do("tbreak sum_in_nor")
        said = await gdb.do("continue")
        assert re.search(r"Temporary breakpoint 2, sum_in_nor \(.*count=.*16\)", said), said
        assert (await value(here, "/x $pc")).startswith("0x9000")
        said = await gdb.do("finish")
        assert "Value returned is $" in said, said
        assert "= 1240" in said, said
        await gdb.do("tbreak twice_in_bank2")
        assert "twice_in_bank2 (value=0)" in await gdb.do("continue")
        said = await gdb.do("backtrace")
        assert re.search(r"#0 .*twice_in_bank2.*\n#1 .*main \(\)", said), said
        await gdb.do("finish")
        said = await gdb.do("step")
        assert re.search(r"add \(a=.*1240, b=0\)", said), said
        await gdb.do("finish")
        await gdb.do("next")
        await gdb.do("next")
        assert await value(here, "total") == "1240"
        assert await value(here, "counter") == "0"

    debug(body, demo_elf, f"sim:{link}")


def test_stepping_walks_through_the_nor_line_by_line(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break sum_in_nor")
        await gdb.do("continue")
        pcs = []
        for _ in range(12):
            await gdb.do("stepi")
            pcs.append(int(await value(here, "/x $pc"), 16))
        assert all(0x90000000 <= pc < 0x90001000 for pc in pcs), [hex(pc) for pc in pcs]
        assert "count" in await gdb.do("step")

    debug(body, demo_elf)


def test_registers_can_be_read_and_written(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break add")
        await gdb.do("continue")
        assert await value(here, "/x (unsigned)$sp & 0xfffe0000") == "0x20000000"
        for name, new in (("r5", "0x1234"), ("d3", "2.5"), ("s14", "0.5"), ("basepri", "0x40")):
            await gdb.do(f"set ${name} = {new}")
        await gdb.do("flushregs")
        assert await value(here, "/x $r5") == "0x1234"
        assert await value(here, "$d3") == "2.5"
        assert await value(here, "$s14") == "0.5"
        assert await value(here, "/x $basepri") == "0x40"
        said = await gdb.do("info registers")
        assert {"r0", "sp", "lr", "pc", "xpsr"} <= {
            line.split()[0] for line in said.splitlines() if line
        }

    debug(body, demo_elf)


def test_watchpoints_tell_old_and_new_values(drills_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("tbreak main")
        await gdb.do("continue")
        await gdb.do("set var drill = WATCH")
        await gdb.do("watch watched")
        said = await gdb.do("continue")
        assert "Hardware watchpoint 2: watched" in said, said
        assert "Old value = 286331153\nNew value = 572662306" in said, said
        await gdb.do("delete")
        await gdb.do("rwatch watched")
        said = await gdb.do("continue")
        assert "Hardware read watchpoint 3: watched\n\nValue = 572662306" in said, said
        await gdb.do("delete")
        await gdb.do("awatch watched")
        said = await gdb.do("continue")
        assert "Hardware access (read/write) watchpoint 4: watched" in said, said

    debug(body, drills_elf)


def test_a_ninth_breakpoint_is_refused_with_a_sentence(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        for offset in range(9):
            await gdb.do(f"hbreak *(main + {2 * offset})")
        said = await gdb.do("continue")
        assert re.search(r"Cannot insert hardware breakpoint|Could not insert hardware", said), said
        await gdb.do("delete 9")
        assert "Breakpoint 1, main ()" in await gdb.do("continue")

    debug(body, demo_elf)


def test_ctrl_c_stops_a_running_program_and_it_goes_on(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.begin("continue")
        await gdb.wait_for("Continuing.")
        await trio.sleep(0.2)
        gdb.interrupt()
        assert "Program received signal SIGINT" in await gdb.end()
        ticks = int(await value(here, "ticks"))
        await gdb.begin("continue")
        await gdb.wait_for("Continuing.")
        await trio.sleep(0.2)
        gdb.interrupt()
        await gdb.end()
        assert int(await value(here, "ticks")) > ticks, "SysTick interrupts arrive"

    debug(body, demo_elf)


def test_a_deleted_breakpoint_is_gone_from_the_hardware(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break add")
        assert "Breakpoint 1, add" in await gdb.do("continue")
        await gdb.do("delete")
        await gdb.do("tbreak twice_in_bank2")
        assert "twice_in_bank2" in await gdb.do("continue")
        await gdb.begin("continue")
        await gdb.wait_for("Continuing.")
        await trio.sleep(0.2)
        gdb.interrupt()
        assert "SIGINT" in await gdb.end()
        assert not armed(here)

    debug(body, demo_elf)


def test_after_detach_the_program_runs_and_another_gdb_finds_it_running(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break add")
        await gdb.do("continue")
        said = await gdb.do("detach")
        assert "detached" in said, said
        assert not here.board.core.halted
        await gdb.do("disconnect")
        again = await here.connect()
        assert not armed(here)
        assert "main" in await again.do("backtrace")
        counter = int((await again.do("output counter")).strip())
        await again.do("break add")
        await again.do("continue 3")
        assert int((await again.do("output counter")).strip()) > counter

    debug(body, demo_elf)


def test_kill_and_run_start_the_program_over(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break add")
        await gdb.do("continue")
        await gdb.do("continue 5")
        assert await value(here, "counter") == "5"
        assert "killed" in await gdb.do("kill")
        said = await gdb.do("run")
        assert "Breakpoint 1, add" in said, said
        assert await value(here, "counter") == "0"

    debug(body, demo_elf)


def test_a_second_client_looks_and_does_not_touch(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        first = here.gdb
        await loaded(here)
        await first.do("break add")
        await first.do("continue")
        where = await value(here, "/x $pc")
        second = await here.connect()
        assert (await second.do("output squares[15]")).strip() == "225"
        assert (await second.do("output/x $pc")).strip() == where
        assert "Continuing" not in await second.do("load")
        said = await second.do("set var counter = 77")
        assert await value(here, "counter") == "0", said
        await second.do("stepi")
        await first.do("flushregs")
        assert await value(here, "/x $pc") == where
        await second.die()
        assert "Breakpoint 1, add" in await first.do("continue")

    debug(body, demo_elf)


def test_monitor_reset_starts_at_the_reset_handler(demo_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break add")
        await gdb.do("continue")
        for command in ("reset", "reset halt", "reset init"):
            await gdb.do(f"monitor {command}")
            await gdb.do("flushregs")
            assert int(await value(here, "/x $pc"), 16) == symbol(here.elf, "Reset_Handler") & ~1
        assert await value(here, "squares[2]") == "4", "reset init makes the NOR readable"
        said = await gdb.do("monitor help")
        assert {"reset", "halt", "why", "info"} <= set(re.findall(r"^\w+", said, re.M))
        assert "monitor" in await gdb.do("monitor nonsense")

    debug(body, demo_elf)


@pytest.mark.parametrize(
    ("drill", "sentence"),
    [
        ("BUS_FAULT", r"bus.*0x70000000"),
        ("UNDEFINED", r"undefined instruction"),
        ("DIVIDE", r"divi"),
    ],
)
def test_a_fault_is_explained(drills_elf: Path, drill: str, sentence: str) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break Default_Handler")
        await gdb.do("tbreak main")
        await gdb.do("continue")
        await gdb.do(f"set var drill = {drill}")
        said = await gdb.do("continue")
        said += await gdb.do("monitor why")
        assert re.search(sentence, said, re.I), said

    debug(body, drills_elf)


def test_a_breakpoint_instruction_stops_and_can_be_stepped_over(drills_elf: Path) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("tbreak main")
        await gdb.do("continue")
        await gdb.do("set var drill = BREAK")
        said = await gdb.do("continue")
        assert "SIGTRAP" in said, said
        assert "bkpt" in await gdb.do("x/i $pc")
        await gdb.do("set $pc = $pc + 2")
        await gdb.do("tbreak step_1")
        assert "step_1" in await gdb.do("continue")
        assert await value(here, "counter >= 1000") == "1"

    debug(body, drills_elf)


def test_a_gdb_that_vanishes_leaves_the_program_running_without_breakpoints(
    demo_elf: Path,
) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        await loaded(here)
        await gdb.do("break add")
        await gdb.do("break main")
        await gdb.do("continue")
        await gdb.die()
        again = await here.connect()
        assert not armed(here)
        assert here.machine.target.is_halted()
        assert "squares" in await again.do("info address squares")

    debug(body, demo_elf)
