"""A download over an application that has made the chip its own, and is running."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
import trio
from gdb_session import Session, debug
from test_gdb_load import assert_loaded


@pytest.fixture(scope="session")
def harsh_elf() -> Path:
    return support.build_firmware("harsh")


def test_a_download_over_watchdog_mpu_caches_and_interrupts(
    harsh_elf: Path, demo_elf: Path
) -> None:
    async def body(here: Session) -> None:
        gdb = here.gdb
        assert "Transfer rate" in await gdb.do("load")
        await gdb.begin("continue")
        await gdb.wait_for("Continuing.")
        await trio.sleep(0.5)
        gdb.interrupt()
        assert "SIGINT" in await gdb.end()
        assert int((await gdb.do("output counter")).strip()) > 0
        assert (await gdb.do("output/x $basepri")).strip() == "0xf0"
        assert (await gdb.do("output/x $sp == $psp")).strip() == "0x1"

        await gdb.do(f"file {demo_elf}")
        here.elf = demo_elf
        said = await gdb.do("load")
        assert "Transfer rate" in said, said
        assert_loaded(here)
        assert (await gdb.do("output/x $basepri")).strip() == "0xf0", "not touched by a download"

        await gdb.do("monitor reset halt")
        await gdb.do("flushregs")
        await gdb.do("break add")
        said = await gdb.do("continue")
        assert "Breakpoint 1, add" in said, said
        await gdb.do("delete")
        await gdb.begin("continue")
        await gdb.wait_for("Continuing.")
        await trio.sleep(0.3)
        gdb.interrupt()
        assert "SIGINT" in await gdb.end()
        assert int((await gdb.do("output ticks")).strip()) > 0

    debug(body, harsh_elf)
