"""Names, lines and frames of real programs, and of files that are none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.program.symbols import Symbols


@pytest.fixture(scope="module")
def elf() -> Path:
    return support.build_firmware("hosted")


def addresses(elf: Path, name: str) -> range:
    """The instructions of a function, by another tool's account."""
    table = subprocess.run(
        ["arm-none-eabi-nm", "-S", elf], capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in table.splitlines() if line.endswith(f" {name}")]
    start, size = (int(word, 16) for word in line.split()[:2])
    return range(start & ~1, (start & ~1) + size, 2)


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("name", ["main", "fault", "print_number"])
def test_every_instruction_has_the_line_that_binutils_says(
    tmp_path: Path, version: int, name: str
) -> None:
    elf = tmp_path / "hosted.elf"
    flags = [*support.FLAGS, f"-gdwarf-{version}"]
    files = [f"tests/firmware/{file}" for file in ("hosted.c", "startup.c")]
    build = [support.GCC, *flags, "-T", "tests/firmware/board.ld", *files, "-o", elf]
    subprocess.run(build, cwd=support.TESTS.parent, check=True)
    where = addresses(elf, name)
    said = subprocess.run(
        ["arm-none-eabi-addr2line", "-e", elf, *map(hex, where)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    symbols = Symbols([elf])
    for address, line in zip(where, said, strict=False):
        place = symbols.place_of(address)
        assert place is not None
        assert f"./{place}" == line.split()[0], hex(address)
        assert symbols.function_at(address) == (name, address - where.start)


def test_outside_of_every_function_there_is_nothing(elf: Path) -> None:
    symbols = Symbols([elf])
    for address in (0, 0x20000000, 0x07FFFFFE, 0xFFFFFFFE):
        assert symbols.function_at(address) is None
        assert symbols.place_of(address) is None
        assert symbols.rules_at(address) is None


def test_a_file_without_names_is_not_complete(elf: Path, tmp_path: Path) -> None:
    stripped, text = tmp_path / "stripped.elf", tmp_path / "text.hex"
    subprocess.run(["arm-none-eabi-strip", "-s", elf, "-o", stripped], check=True)
    text.write_text(":00000001FF\n")
    assert Symbols([elf]).complete
    for other in (stripped, text, tmp_path / "nowhere.elf"):
        symbols = Symbols([other, elf])
        assert not symbols.complete
        assert symbols.address_of("main") is not None  # the other file's names are there


@settings(max_examples=40)
@given(st.data())
def test_a_broken_file_knows_less_and_raises_nothing(elf: Path, data: st.DataObject) -> None:
    content = bytearray(elf.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=60)):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    broken = elf.with_suffix(".broken")
    try:
        broken.write_bytes(content[:cut])
        symbols = Symbols([broken])
        for address in (0x08000040, 0x08000764, 0x0800089E):
            symbols.function_at(address)
            symbols.place_of(address)
            symbols.rules_at(address)
    finally:
        broken.unlink()


def test_names_come_from_whichever_file_has_them(elf: Path, tmp_path: Path) -> None:
    other = tmp_path / "rtt.elf"
    shutil.copy(support.build_firmware("rtt"), other)
    symbols = Symbols([elf, other])
    assert symbols.address_of("_SEGGER_RTT") == 0x20000000
    assert symbols.address_of("hang") is not None
