"""A real GDB that is answered while the program runs, or that does other things meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from gdb_session import Session, debugging
from test_gdb_story import loaded

from gdbserver.errors import GdbRefused


def connect_non_stop(here: Session) -> None:
    """Again, in non-stop mode; the program has been running since the first time ended."""
    here.gdb.do("disconnect")
    here.gdb.do("set non-stop on")
    here.gdb.connect(here.server.address)


def says(here: Session, command: str, text: str) -> None:
    """While the program runs, GDB's commands are not waited for."""
    here.gdb.begin(command)
    here.gdb.wait_for(text)


def test_a_running_program_is_looked_at_and_stopped_where_it_is_told(
    gdb_program: str, demo_elf: Path
) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        connect_non_stop(here)
        says(here, "info threads", "(running)")
        here.let_run(0.05)
        before = gdb.read("counter")
        here.let_run(0.05)
        assert gdb.read("counter") != before
        gdb.write("mean", 0.5)
        says(here, "monitor info", "probe ")
        with pytest.raises(GdbRefused, match="running"):
            gdb.read("$r0")
        gdb.break_at("twice_in_bank2", temporary=True)
        stop = gdb.wait_stop()
        assert (stop.reason, stop.function) == ("breakpoint-hit", "twice_in_bank2")
        assert gdb.backtrace() == ["twice_in_bank2", "main"]
        gdb.ask("-exec-finish")
        assert gdb.wait_stop().reason == "function-finished"
        gdb.ask("-exec-next")
        assert gdb.wait_stop().reason == "end-stepping-range"
        gdb.resume()
        stop = gdb.interrupt()
        assert stop.reason == "signal-received"
        assert stop.signal == "0"  # in non-stop mode the program is stopped without a signal
        assert gdb.backtrace()[-1] == "main"


def test_what_stops_by_itself_is_told_at_once(gdb_program: str, drills_elf: Path) -> None:
    with debugging(drills_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        connect_non_stop(here)
        here.let_run(0.01)
        gdb.break_at("step_3", temporary=True)  # behind where the program forgets its drill
        gdb.wait_stop()
        gdb.watch("watched")
        gdb.write("drill", 2)
        stop = gdb.run()
        assert (stop.reason, stop.values["value"]) == (
            "watchpoint-trigger",
            {"old": "286331153", "new": "572662306"},
        )
        gdb.delete_breakpoints()
        gdb.break_at("step_3", temporary=True)
        gdb.run()
        gdb.write("drill", 3)
        stop = gdb.run()
        assert (stop.reason, stop.signal) == ("signal-received", "SIGBUS")
        gdb.write("drill", 0)


def test_a_probe_that_is_lost_stops_the_program_for_gdb(gdb_program: str, demo_elf: Path) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        connect_non_stop(here)
        here.let_run(0.01)
        here.board.unplug()
        stop = gdb.wait_stop()
        assert (stop.reason, stop.values["signal-name"]) == ("exited-signalled", "SIGLOST")
        says(here, "monitor why", "continue: the debug probe stopped working")
        here.board.replug()
        gdb.break_at("main", temporary=True)
        gdb.ask('-interpreter-exec console "run &"')
        assert gdb.wait_stop().function == "main"


def test_in_all_stop_mode_gdb_may_do_something_else_meanwhile(
    gdb_program: str, demo_elf: Path
) -> None:
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.gdb
        loaded(here)
        gdb.break_at("main", temporary=True)
        gdb.ask('-interpreter-exec console "continue &"')
        assert gdb.wait_stop().function == "main"
        gdb.ask('-interpreter-exec console "continue &"')
        here.let_run(0.02)
        says(here, "info breakpoints", "No breakpoints")
        gdb.ask('-interpreter-exec console "interrupt"')
        assert gdb.wait_stop().signal == "SIGINT"
        assert gdb.backtrace()[-1] == "main"
