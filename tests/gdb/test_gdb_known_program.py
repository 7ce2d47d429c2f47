"""A real GDB without a file, and a server that was told of the program: ``--elf``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gdbserver.program.known import KnownProgram
from gdbserver.server.start import Options
from gdbserver.testing.gdb import Gdb
from gdbserver.testing.server import Server, open_machine


@pytest.fixture
def app(tmp_path: Path, drills_elf: Path) -> Path:
    return Path(shutil.copy(drills_elf, tmp_path / "app.elf"))


@contextmanager
def told(gdb_program: str, app: Path, elf: Path | None = None) -> Iterator[tuple[Gdb, str]]:
    """A GDB, with a file of its own or without, and what it said when it connected."""
    options = Options(program=KnownProgram(app))
    with (
        Server(lambda: open_machine(["--probe", "sim:cmsis-dap-v2"]), options) as server,
        Gdb(gdb_program, elf) as gdb,
    ):
        yield gdb, gdb.connect(server.address)


def test_a_gdb_without_a_file_loads_and_debugs_the_program(gdb_program: str, app: Path) -> None:
    with told(gdb_program, app) as (gdb, greeting):
        assert f"Reading symbols from target:{app}" in greeting
        gdb.load()
        gdb.break_at("main")
        assert gdb.run().function == "main"
        assert gdb.read("sizeof watched") == 4
        assert gdb.backtrace() == ["main"]


def test_a_program_that_was_built_again_is_what_the_next_load_brings(
    gdb_program: str, app: Path, demo_elf: Path
) -> None:
    with told(gdb_program, app) as (gdb, _):
        shutil.copy(demo_elf, app)
        os.utime(app, (app.stat().st_mtime + 10,) * 2)
        said = gdb.do("file") + gdb.do(f"file target:{app}") + gdb.do("load")
        assert "lma 0x90000000" in said
        assert "sum_in_nor" in gdb.do("info address sum_in_nor")


def test_a_file_of_its_own_counts(gdb_program: str, app: Path, demo_elf: Path) -> None:
    with told(gdb_program, app, demo_elf) as (gdb, greeting):
        assert "target:" not in greeting
        assert "warning" not in greeting
        assert "sum_in_nor" in gdb.do("info address sum_in_nor")


def test_only_the_program_can_be_fetched(gdb_program: str, app: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("for nobody")
    with told(gdb_program, app) as (gdb, _):
        copy = tmp_path / "copy"
        assert "No such file" in gdb.do(f"remote get {secret} {copy}")
        assert not copy.exists() or not copy.read_bytes()
        gdb.do(f"remote get {app} {copy}")
        assert copy.read_bytes() == app.read_bytes()
        assert re.search("denied|not supported", gdb.do(f"remote put {secret} {app}"))
        gdb.do(f"remote delete {app}")
        assert app.read_bytes() == copy.read_bytes()


def test_nothing_changes_for_a_server_that_was_not_told(gdb_program: str, drills_elf: Path) -> None:
    with (
        Server(lambda: open_machine(["--probe", "sim:cmsis-dap-v2"])) as server,
        Gdb(gdb_program, drills_elf) as gdb,
    ):
        greeting = gdb.connect(server.address)
        assert "warning" not in greeting
        assert "target:" not in greeting
