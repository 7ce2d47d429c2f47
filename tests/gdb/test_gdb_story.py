"""Debugging by a real GDB what `load` has put into internal flash and the NOR."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gdb_session import Session, debugging, symbol

FP_CTRL, FP_COMP0 = 0xE0002000, 0xE0002008


def loaded(here: Session) -> None:
    assert "Transfer rate" in here.gdb.do("load")


def value(here: Session, expression: str) -> str:
    return (here.gdb.do(f"output {expression}")).strip()


def armed(here: Session) -> set[int]:
    """Addresses of the breakpoints that are in the FPB, whoever put them there."""
    bus = here.machine.target
    comparators = [bus.read_word(FP_COMP0 + 4 * n) for n in range(8)]
    return {word & ~1 for word in comparators if word & 1}


@pytest.mark.parametrize("link", ["stlink-v3", "cmsis-dap-v2"])
def test_the_story_of_one_image_in_two_flashes(gdb_program: str, demo_elf: Path, link: str) -> None:
    with debugging(demo_elf, f"sim:{link}", gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break main")
        assert "Breakpoint 1, main () at" in gdb.do("continue")
        assert "map_nor();" in gdb.do("next")
        assert "start_ticks();" in gdb.do("next")
        assert value(here, "greeting") == '"hello from the QSPI NOR"'
        assert value(here, "squares[15]") == "225"
        gdb.do("tbreak sum_in_nor")
        said = gdb.do("continue")
        assert re.search(r"Temporary breakpoint 2, sum_in_nor \(.*count=.*16\)", said), said
        assert (value(here, "/x $pc")).startswith("0x9000")
        said = gdb.do("finish")
        assert "Value returned is $" in said, said
        assert "= 1240" in said, said
        gdb.do("tbreak twice_in_bank2")
        assert "twice_in_bank2 (value=0)" in gdb.do("continue")
        said = gdb.do("backtrace")
        assert re.search(r"#0 .*twice_in_bank2.*\n#1 .*main \(\)", said), said
        gdb.do("finish")
        said = gdb.do("step")
        assert re.search(r"add \(a=.*1240, b=0\)", said), said
        gdb.do("finish")
        gdb.do("next")
        gdb.do("next")
        assert value(here, "total") == "1240"
        assert value(here, "counter") == "0"


def test_breakpoints_in_both_flashes_remain_where_a_reload_has_programmed_anew(
    demo_elf: Path,
) -> None:
    with debugging(demo_elf) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("set breakpoint always-inserted on")
        gdb.do("break main")
        gdb.do("break sum_in_nor")
        both = armed(here)
        assert len(both) == 2
        gdb.do("monitor flash mass_erase all")
        loaded(here)
        assert armed(here) == both
        assert "Breakpoint 1, main () at" in gdb.do("continue")
        assert "Breakpoint 2, sum_in_nor" in gdb.do("continue")


def test_stepping_walks_through_the_nor_line_by_line(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break sum_in_nor")
        gdb.do("continue")
        pcs = []
        for _ in range(12):
            gdb.do("stepi")
            pcs.append(int(value(here, "/x $pc"), 16))
        assert all(0x90000000 <= pc < 0x90001000 for pc in pcs), [hex(pc) for pc in pcs]
        assert "count" in gdb.do("step")


def test_registers_can_be_read_and_written(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break add")
        gdb.do("continue")
        assert value(here, "/x (unsigned)$sp & 0xfffe0000") == "0x20000000"
        for name, new in (("r5", "0x1234"), ("d3", "2.5"), ("s14", "0.5"), ("basepri", "0x40")):
            gdb.do(f"set ${name} = {new}")
        gdb.do("flushregs")
        assert value(here, "/x $r5") == "0x1234"
        assert value(here, "$d3") == "2.5"
        assert value(here, "$s14") == "0.5"
        assert value(here, "/x $basepri") == "0x40"
        said = gdb.do("info registers")
        assert {"r0", "sp", "lr", "pc", "xpsr"} <= {
            line.split()[0] for line in said.splitlines() if line
        }


def test_watchpoints_tell_old_and_new_values(gdb_program: str, drills_elf: Path) -> None:
    with debugging(drills_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do("set var drill = WATCH")
        gdb.do("watch watched")
        said = gdb.do("continue")
        assert "Hardware watchpoint 2: watched" in said, said
        assert "Old value = 286331153\nNew value = 572662306" in said, said
        gdb.do("delete")
        gdb.do("rwatch watched")
        said = gdb.do("continue")
        assert "Hardware read watchpoint 3: watched\n\nValue = 572662306" in said, said
        gdb.do("delete")
        gdb.do("awatch watched")
        said = gdb.do("continue")
        assert "Hardware access (read/write) watchpoint 4: watched" in said, said


def test_a_watchpoint_stops_right_behind_each_access(gdb_program: str, drills_elf: Path) -> None:
    with debugging(drills_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do("set var drill = WATCH")
        gdb.do("awatch watched")
        for access in ("str", "ldr", "ldr", "str"):  # the first two without one in between
            gdb.do("continue")
            assert access in gdb.do("x/i $pc - 2")
        gdb.do("stepi")  # the user's own
        assert "bx" not in gdb.do("x/i $pc")


def test_a_breakpoint_on_a_bkpt_of_the_programs_own_is_one_stop(
    gdb_program: str, drills_elf: Path
) -> None:
    with debugging(drills_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do("set var drill = BREAK")
        gdb.do("break breakpoint")
        for passing in (["continue"], ["stepi", "continue"], ["delete 2", "continue"]):
            assert "Breakpoint 2, breakpoint" in gdb.do("continue")
            gdb.do("tbreak step_1")
            said = "".join(gdb.do(command) for command in passing)
            assert "SIGTRAP" not in said
            assert "step_1 ()" in said
            gdb.do("set var drill = BREAK")
        assert "SIGTRAP" in gdb.do("continue")


def test_a_ninth_breakpoint_is_refused_with_a_sentence(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        for offset in range(9):
            gdb.do(f"hbreak *(main + {2 * offset})")
        said = gdb.do("continue")
        assert re.search(r"Cannot insert hardware breakpoint|Could not insert hardware", said), said
        gdb.do("delete 9")
        assert "Breakpoint 1, main ()" in gdb.do("continue")


def test_ctrl_c_stops_a_running_program_and_it_goes_on(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.resume()
        here.let_run(0.2)
        assert gdb.interrupt().signal == "SIGINT"
        ticks = int(value(here, "ticks"))
        gdb.resume()
        here.let_run(0.2)
        gdb.interrupt()
        assert int(value(here, "ticks")) > ticks, "SysTick interrupts arrive"


def test_a_deleted_breakpoint_is_gone_from_the_hardware(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break add")
        assert "Breakpoint 1, add" in gdb.do("continue")
        gdb.do("delete")
        gdb.do("tbreak twice_in_bank2")
        assert "twice_in_bank2" in gdb.do("continue")
        gdb.resume()
        here.let_run(0.2)
        assert gdb.interrupt().signal == "SIGINT"
        assert not armed(here)


def test_after_detach_the_program_runs_and_another_gdb_finds_it_running(
    gdb_program: str, demo_elf: Path
) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break add")
        gdb.do("continue")
        said = gdb.do("detach")
        assert "detached" in said, said
        assert not here.board.core.halted
        gdb.do("disconnect")
        again = here.connect()
        assert not armed(here)
        assert "main" in again.do("backtrace")
        counter = int((again.do("output counter")).strip())
        again.do("break add")
        again.do("continue")  # perhaps to where it is about to count
        again.do("continue 2")
        assert int((again.do("output counter")).strip()) > counter


def test_kill_and_run_start_the_program_over(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break add")
        gdb.do("continue")
        gdb.do("continue 5")
        assert value(here, "counter") == "5"
        assert "killed" in gdb.do("kill")
        said = gdb.do("run")
        assert "Breakpoint 1, add" in said, said
        assert value(here, "counter") == "0"


def test_a_second_client_looks_and_does_not_touch(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        first = here.gdb
        loaded(here)
        first.do("break add")
        first.do("continue")
        where = value(here, "/x $pc")
        second = here.connect()
        assert (second.do("output squares[15]")).strip() == "225"
        assert (second.do("output/x $pc")).strip() == where
        assert "Continuing" not in second.do("load")
        said = second.do("set var counter = 77")
        assert value(here, "counter") == "0", said
        second.do("stepi")
        first.do("flushregs")
        assert value(here, "/x $pc") == where
        second.kill()
        assert "Breakpoint 1, add" in first.do("continue")


def test_monitor_reset_starts_at_the_reset_handler(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break add")
        gdb.do("continue")
        for command in ("reset", "reset halt", "reset init"):
            gdb.do(f"monitor {command}")
            gdb.do("flushregs")
            assert int(value(here, "/x $pc"), 16) == symbol(here.elf, "Reset_Handler") & ~1
        assert value(here, "squares[2]") == "4", "reset init makes the NOR readable"
        said = gdb.do("monitor help")
        assert {"reset", "halt", "why", "info"} <= set(re.findall(r"^\w+", said, re.M))
        assert "monitor" in gdb.do("monitor nonsense")


@pytest.mark.parametrize(
    ("drill", "sentence"),
    [
        ("BUS_FAULT", r"bus.*0x70000000"),
        ("UNDEFINED", r"undefined instruction"),
        ("DIVIDE", r"divi"),
    ],
)
def test_a_fault_is_explained(
    gdb_program: str, drills_elf: Path, drill: str, sentence: str
) -> None:
    with debugging(drills_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break Default_Handler")
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do(f"set var drill = {drill}")
        said = gdb.do("continue")
        said += gdb.do("monitor why")
        assert re.search(sentence, said, re.I), said


def test_a_breakpoint_instruction_stops_and_can_be_stepped_over(
    gdb_program: str, drills_elf: Path
) -> None:
    with debugging(drills_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do("set var drill = BREAK")
        said = gdb.do("continue")
        assert "SIGTRAP" in said, said
        assert "bkpt" in gdb.do("x/i $pc")
        gdb.do("set $pc = $pc + 2")
        gdb.do("tbreak step_1")
        assert "step_1" in gdb.do("continue")
        assert value(here, "counter >= 1000") == "1"


def test_a_gdb_that_vanishes_leaves_the_program_running_without_breakpoints(
    gdb_program: str,
    demo_elf: Path,
) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.do("break add")
        gdb.do("break main")
        gdb.do("continue")
        gdb.kill()
        again = here.connect()
        assert not armed(here)
        assert here.machine.target.is_halted()
        assert "squares" in again.do("info address squares")
