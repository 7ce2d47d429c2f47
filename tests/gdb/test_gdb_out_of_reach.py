"""A real GDB and a chip that cannot be seen: without power, held in reset, or without its probe.

GDB takes no error for an answer to why the program has stopped: it waits on, for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from gdb_session import debugging
from test_gdb_story import loaded

from gdbserver.errors import GdbRefused
from gdbserver.sim.board import Board

Deed = Callable[[Board], None]
LOST: dict[str, tuple[Deed, Deed, str]] = {
    "power": (
        Board.power_off,
        Board.power_on,
        "the chip does not answer the debug probe; because: .*; hint: is the board powered",
    ),
    "NRST": (
        partial(Board.hold_reset, asserted=True, who="button"),
        partial(Board.hold_reset, asserted=False, who="button"),
        "the chip is held in reset; hint: NRST is low: the reset button",
    ),
    "probe": (
        Board.unplug,
        Board.replug,
        "the debug probe cannot be opened again; because: .*; hint: plug it in again",
    ),
}


@pytest.mark.parametrize("lost", LOST)
def test_who_connects_hears_why_it_cannot_be_and_can_when_it_is_mended(
    gdb_program: str, demo_elf: Path, lost: str
) -> None:
    lose, mend, why = LOST[lost]
    with debugging(demo_elf, gdb=gdb_program, connect=False, loaders=[]) as here:
        lose(here.board)
        gdb = here.start()
        for target in ("remote", "extended-remote"):
            with pytest.raises(GdbRefused, match=f"Could not read registers.*{why}"):
                gdb.ask(f"-target-select {target} {here.server.address}")
        mend(here.board)
        gdb.connect(here.server.address)
        assert gdb.read("$pc") != ""


def test_who_connects_in_non_stop_mode_hears_why_it_cannot_be(
    gdb_program: str, demo_elf: Path
) -> None:
    with debugging(demo_elf, gdb=gdb_program, connect=False, loaders=[]) as here:
        here.board.power_off()
        gdb = here.start()
        gdb.do("set non-stop on")
        with pytest.raises(GdbRefused, match=r"Could not read registers.*is the board powered"):
            gdb.ask(f"-target-select extended-remote {here.server.address}")
        here.board.power_on()
        gdb.connect(here.server.address)
        gdb.begin("info threads")
        gdb.wait_for("Thread 1")


@pytest.mark.parametrize(
    "command", ["run", "attach 1", "target extended-remote {address}", "monitor reset halt"]
)
def test_when_the_power_is_back_the_same_gdb_goes_on(demo_elf: Path, command: str) -> None:
    with debugging(demo_elf) as here:
        gdb = here.gdb
        loaded(here)
        gdb.break_at("main")
        assert gdb.run().function == "main"
        here.board.power_off()
        gdb.do("flushregs")
        assert "is it still powered and connected?" in gdb.do("info registers pc")
        here.board.power_on()
        said = gdb.do(command.format(address=here.server.address))
        assert "Can't kill process" not in said
        if command == "run":
            assert "Breakpoint 1, main" in said
        else:
            gdb.do("monitor reset halt")
            gdb.do("flushregs")
            assert gdb.run().function == "main"


def test_a_program_can_be_left_that_is_out_of_reach(demo_elf: Path) -> None:
    with debugging(demo_elf, loaders=[]) as here:
        here.board.power_off()
        assert "[Inferior 1 (Remote target) detached]" in here.gdb.do("detach")
        assert "the chip does not answer the debug probe" in here.gdb.do("monitor why")
        with pytest.raises(GdbRefused, match="is the board powered"):
            here.gdb.connect(here.server.address)
        here.board.power_on()
        here.gdb.connect(here.server.address)
        assert "[Inferior 1 (Remote target) killed]" in here.gdb.do("kill")


@pytest.mark.parametrize("lost", ["power", "probe"])
def test_a_program_that_runs_and_is_lost_is_no_longer_shown_as_running(
    gdb_program: str, demo_elf: Path, lost: str
) -> None:
    lose, mend, _ = LOST[lost]
    with debugging(demo_elf, gdb=gdb_program) as here:
        gdb = here.loaded()
        gdb.break_at("main", temporary=True)
        gdb.run()
        gdb.resume()
        here.let_run(0.01)
        lose(here.board)
        stop = gdb.wait_stop()
        assert (stop.reason, stop.values["signal-name"]) == ("exited-signalled", "SIGLOST")
        assert not gdb.running
        assert gdb.ask("-thread-info")["threads"] == []
        mend(here.board)
        gdb.break_at("main", temporary=True)
        assert ", main " in gdb.do("run")


@pytest.mark.parametrize("command", ["attach 1", "target extended-remote {address}", "load"])
def test_when_the_probe_is_back_the_same_gdb_goes_on(demo_elf: Path, command: str) -> None:
    with debugging(demo_elf) as here:
        gdb = here.loaded()
        gdb.break_at("sum_in_nor")
        gdb.run()
        gdb.delete_breakpoints()
        gdb.resume()
        here.let_run(0.01)
        here.board.unplug()
        gdb.wait_stop()
        here.board.replug()
        said = gdb.do(command.format(address=here.server.address))
        if command == "load":
            assert "load: GDB has killed" in gdb.do("monitor why")
            assert "Error" in said
            gdb.do("attach 1")
        assert "demo.c" in gdb.do("backtrace")
