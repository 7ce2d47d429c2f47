"""A real GDB and the tasks of a program that keeps them as FreeRTOS does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import support
from gdb_session import Session, debugging
from test_gdb_story import loaded, value


@pytest.fixture(scope="module")
def tasks_elf() -> Path:
    return support.build_firmware("tasks")


def threads(here: Session) -> dict[str, tuple[int, str, str]]:
    """What `info threads` shows: name -> number, state, and the function that it is in."""
    said = here.gdb.do("info threads")
    row = r'(\d+)\s+Thread \d+ "([^"]*)" \((.*?)\)\s+(?:0x\w+ in )?(\w+) \('
    return {name: (int(n), state, place) for n, name, state, place in re.findall(row, said)}


def functions(here: Session) -> list[str]:
    return re.findall(r"^#\d+\s+(?:0x\w+ in )?(\w+) \(", here.gdb.do("backtrace"), re.MULTILINE)


def test_every_task_has_its_name_state_stack_and_registers(
    gdb_program: str, tasks_elf: Path
) -> None:
    with debugging(tasks_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        # Before the scheduler runs there is the core, whatever an earlier run has left in RAM.
        assert threads(here) == {"Cortex-M7": (1, "halted", "Reset_Handler")}
        gdb.break_at("main", temporary=True)
        gdb.run()
        assert list(threads(here)) == ["Cortex-M7"]
        gdb.break_at("blink")
        for _ in range(3):
            said = gdb.do("continue")
        assert 'Thread 1 "blinker" hit Breakpoint' in said
        assert threads(here) == {
            "blinker": (1, "Running; Priority 2", "blink"),
            "idle": (2, "Ready; Priority 0", "idle_task"),
            "maths": (3, "Ready; Priority 1", "yield"),
            "rester": (4, "Suspended; Priority 3", "yield"),
        }
        assert functions(here)[:2] == ["blink", "blink_task"]
        gdb.do("thread 4")
        assert functions(here)[:5] == ["yield", "masked_move", "suspend", "rest", "rest_task"]
        gdb.do("frame function rest")
        assert value(here, "for_how_long") == "7"
        # One has a floating-point frame on its stack, the others have not.
        gdb.do("thread 3")
        assert functions(here)[:4] == ["yield", "masked_move", "delay", "maths_task"]
        assert value(here, "/x $r8") == "0x88888888"
        assert value(here, "$s20") == "1.5"
        stack = int(value(here, "(unsigned)stacks[2]"))
        assert stack < int(value(here, "(unsigned)$sp")) <= stack + 1024
        gdb.do("thread 2")
        assert value(here, "$s20") == "<unavailable>"
        gdb.do("thread 1")
        assert functions(here)[0] == "blink"


def test_a_task_that_is_not_on_the_core_is_neither_stepped_nor_changed(tasks_elf: Path) -> None:
    with debugging(tasks_elf) as here:
        gdb = here.gdb
        loaded(here)
        gdb.break_at("blink")
        gdb.run()
        gdb.run()
        number, _, _ = threads(here)["rester"]
        gdb.do(f"thread {number}")
        before = value(here, "$r4")
        assert "Could not write register" in gdb.do("set $r4 = 1")
        assert value(here, "$r4") == before
        assert f"thread {number} is not on the core" in gdb.do("stepi")
        assert "is not on the core" in gdb.do("monitor why")
        # The server goes on, and so does the program.
        assert gdb.run().function == "blink"


def test_at_the_next_stop_the_thread_that_stops_is_the_selected_one(tasks_elf: Path) -> None:
    with debugging(tasks_elf) as here:
        gdb = here.gdb
        loaded(here)
        gdb.break_at("blink")
        for _ in range(3):
            gdb.run()
        number, _, _ = threads(here)["maths"]
        gdb.do(f"thread {number}")
        assert value(here, "/x $r8") == "0x88888888"
        # GDB takes the thread of a stop for the selected one, and says no more than `g`.
        assert gdb.run().function == "blink"
        assert value(here, "/x $r8") == "0x0"
        assert value(here, "times") == "1"


def test_after_a_reset_the_last_run_s_tasks_are_gone(tasks_elf: Path) -> None:
    with debugging(tasks_elf) as here:
        gdb = here.gdb
        loaded(here)
        gdb.break_at("blink", temporary=True)
        gdb.run()
        assert len(threads(here)) == 4
        gdb.do("monitor reset halt")
        gdb.do("maintenance flush register-cache")
        assert list(threads(here)) == ["Cortex-M7"]
        gdb.break_at("blink", temporary=True)
        assert gdb.run().function == "blink"
        assert len(threads(here)) == 4


def test_a_reset_in_any_task_leaves_gdb_with_a_thread_that_goes_on(tasks_elf: Path) -> None:
    with debugging(tasks_elf) as here:
        gdb = here.gdb
        loaded(here)
        for function in ("rest", "blink"):  # the first task to run is number 1
            gdb.break_at(function, temporary=True)
            assert gdb.run().function == function
        number, _, _ = threads(here)["blinker"]
        assert number > 1
        gdb.do("monitor reset halt")
        gdb.do("maintenance flush register-cache")
        assert threads(here) == {"Cortex-M7": (number, "halted", "Reset_Handler")}
        gdb.break_at("blink", temporary=True)
        assert gdb.run().function == "blink"
        assert len(threads(here)) == 4
        assert functions(here)[:2] == ["blink", "blink_task"]
