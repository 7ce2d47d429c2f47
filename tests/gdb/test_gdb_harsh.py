"""A download over an application that has made the chip its own, and is running."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
from gdb_session import debugging
from test_gdb_load import assert_loaded


@pytest.fixture(scope="session")
def harsh_elf() -> Path:
    return support.build_firmware("harsh")


def test_a_download_over_watchdog_mpu_caches_and_interrupts(
    harsh_elf: Path, demo_elf: Path
) -> None:
    with debugging(harsh_elf) as here:
        gdb = here.gdb
        assert "Transfer rate" in gdb.do("load")
        gdb.resume()
        here.let_run(0.2)  # twice as long as the watchdog waits
        assert gdb.interrupt().signal == "SIGINT"
        assert int((gdb.do("output counter")).strip()) > 0
        assert (gdb.do("output/x $basepri")).strip() == "0xf0"
        assert (gdb.do("output/x $sp == $psp")).strip() == "0x1"

        gdb.do(f"file {demo_elf}")
        here.elf = demo_elf
        said = gdb.do("load")
        assert "Transfer rate" in said, said
        assert_loaded(here)
        assert (gdb.do("output/x $basepri")).strip() == "0xf0", "not touched by a download"

        gdb.do("monitor reset halt")
        gdb.do("flushregs")
        gdb.do("break add")
        said = gdb.do("continue")
        assert "Breakpoint 1, add" in said, said
        gdb.do("delete")
        gdb.resume()
        here.let_run(0.3)
        assert gdb.interrupt().signal == "SIGINT"
        assert int((gdb.do("output ticks")).strip()) > 0
        assert here.board.scs.caches.executed == []
