"""The program that the server was told of, built again and again."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from gdbserver.errors import BadImage
from gdbserver.program.known import KnownProgram


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (None, "app.elf cannot be read"),
        (b"", "app.elf is no ELF file for a 32-bit chip"),
        (b"\x7fELF\x02\x01\x01 of a PC", "app.elf is no ELF file for a 32-bit chip"),
        (b":10000000", "app.elf is no ELF file for a 32-bit chip"),
    ],
)
def test_what_is_no_program_is_refused(
    tmp_path: Path, contents: bytes | None, sentence: str
) -> None:
    path = tmp_path / "app.elf"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(BadImage, match=f"^{re.escape(sentence)}$"):
        KnownProgram(path)


def test_symbols_are_those_of_the_last_build(
    tmp_path: Path, drills_elf: Path, demo_elf: Path
) -> None:
    path = Path(shutil.copy(drills_elf, tmp_path / "app.elf"))
    program = KnownProgram(path)
    assert program.address_of("watched") is not None
    assert program.address_of("sum_in_nor") is None
    shutil.copy(demo_elf, path)
    os.utime(path, (path.stat().st_mtime + 10,) * 2)
    assert program.address_of("watched") is None
    assert program.address_of("sum_in_nor") == 0x90000001
    path.unlink()
    assert program.address_of("sum_in_nor") is None
    shutil.copy(drills_elf, path)
    assert program.address_of("watched") is not None


def test_its_path_is_good_in_any_folder(
    tmp_path: Path, drills_elf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(drills_elf, tmp_path / "app.elf")
    monkeypatch.chdir(tmp_path)
    program = KnownProgram(Path("app.elf"))
    monkeypatch.chdir("/")
    assert program.path == tmp_path / "app.elf"
    assert program.contents() == drills_elf.read_bytes()
