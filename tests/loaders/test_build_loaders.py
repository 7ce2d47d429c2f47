"""scripts/build-loaders: the same bytes wherever the tree lies, and sentences when they differ."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCTS = ("loaders/built/qspi.stldr", "loaders/built/queue.elf", "tests/firmware/built/demo.elf")


def tree(at: Path) -> Path:
    """A copy of what the script works on."""
    shutil.copytree(ROOT / "loaders", at / "loaders")
    shutil.copytree(ROOT / "tests" / "firmware", at / "tests" / "firmware")
    (at / "scripts").mkdir()
    for file in ("scripts/build-loaders", "tests/support.py"):
        shutil.copy(ROOT / file, at / file)
    return at


def run(at: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, at / "scripts" / "build-loaders", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    at = tree(tmp_path / "here")
    assert run(at).returncode == 0
    return at


def test_the_place_of_the_tree_is_not_in_the_bytes(fresh: Path, tmp_path: Path) -> None:
    other = tree(tmp_path / "some" / "where" / "else")
    assert run(other).returncode == 0
    for name in PRODUCTS:
        here, there = fresh / name, other / name
        assert here.read_bytes() == there.read_bytes()
        assert str(tmp_path).encode() not in here.read_bytes()


def test_check_is_content_with_what_it_would_build(fresh: Path) -> None:
    done = run(fresh, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "are what the sources give" in done.stdout


def test_check_names_a_file_that_differs_and_changes_nothing(fresh: Path) -> None:
    file = fresh / "loaders" / "built" / "queue.elf"
    stale = file.read_bytes()[:-1]
    file.write_bytes(stale)
    done = run(fresh, "--check")
    assert done.returncode == 1
    assert "loaders/built/queue.elf differ from what the sources give" in done.stderr
    assert file.read_bytes() == stale


def test_a_missing_file_differs(fresh: Path) -> None:
    (fresh / "loaders" / "built" / "qspi.stldr").unlink()
    assert "loaders/built/qspi.stldr differ" in run(fresh, "--check").stderr


def test_check_with_another_compiler_says_that_it_cannot_compare(fresh: Path) -> None:
    (fresh / "loaders" / "built" / "COMPILER").write_text("arm-none-eabi-gcc 10.3.1\n")
    done = run(fresh, "--check")
    assert done.returncode == 0
    assert "were made by 'arm-none-eabi-gcc 10.3.1', and this is" in done.stdout
    assert "the bytes cannot be compared" in done.stdout


def test_a_source_that_does_not_compile_ends_in_a_sentence(fresh: Path) -> None:
    (fresh / "loaders" / "qspi" / "nor.c").write_text("nonsense")
    done = run(fresh)
    assert done.returncode == 1
    assert "build-loaders: arm-none-eabi-gcc failed in" in done.stderr
