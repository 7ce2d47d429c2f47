"""What is said to a loader of each kind, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_loaders import build

from gdbserver.chip.memory import Span
from gdbserver.loader.dialect import Dialect, Request, dialect, erase_seconds
from gdbserver.loader.file import LoaderFile

NOR = 0x90000000
SECTORS = [Span.of(NOR, 0x10000), Span.of(NOR + 0x10000, 0x10000)]


def speak(path: Path) -> Dialect:
    return dialect(LoaderFile.load(path))


def said(requests: list[Request] | None) -> list[str]:
    assert requests is not None
    return [f"{r.routine}({', '.join(f'{a:#x}' for a in r.arguments)})" for r in requests]


def test_sts_loaders_hear_init_once_and_the_start_of_the_last_sector() -> None:
    st = speak(build("W25Q256_F1"))
    assert said(st.start()) == ["Init()"]
    assert said(st.erase(SECTORS)) == ["SectorErase(0x90000000, 0x90010000)"]
    assert said(st.program(Span.of(NOR, 0x200), 0x24010000)) == [
        "Write(0x90000000, 0x200, 0x24010000)"
    ]
    assert said(st.erase_all()) == ["MassErase()"]
    assert (st.look(), st.finish()) == ([], [])
    assert speak(build("W25Q256_F2")).erase_all() is None


def test_flash_algorithms_hear_what_is_coming_and_page_by_page() -> None:
    cmsis = speak(build("W25Q256"))
    assert said(cmsis.start()) == ["Init(0x90000000, 0x3d09000, 0x3)"]
    assert said(cmsis.erase(SECTORS)) == [
        *("UnInit(0x3)", "Init(0x90000000, 0x3d09000, 0x1)"),
        *("EraseSector(0x90000000)", "EraseSector(0x90010000)"),
    ]
    assert said(cmsis.erase(SECTORS[:1])) == ["EraseSector(0x90000000)"]
    assert said(cmsis.program(Span.of(NOR, 0x200), 0x24010000)) == [
        *("UnInit(0x1)", "Init(0x90000000, 0x3d09000, 0x2)"),
        *("ProgramPage(0x90000000, 0x100, 0x24010000)",),
        *("ProgramPage(0x90000100, 0x100, 0x24010100)",),
    ]
    assert said(cmsis.look()) == ["UnInit(0x2)", "Init(0x90000000, 0x3d09000, 0x3)"]
    assert said(cmsis.look()) == []
    assert said(cmsis.finish()) == ["UnInit(0x3)"]
    assert said(cmsis.finish()) == []


@pytest.mark.parametrize(
    ("size", "longest"), [(4096, 0.4), (32768, 3.2), (0x10000, 6.4), (0x40000, 25.6), (2048, 0.4)]
)
def test_a_sector_has_the_time_that_the_slowest_of_its_units_takes(
    size: int, longest: float
) -> None:
    assert erase_seconds(size) == pytest.approx(longest)


def test_each_routine_has_what_the_data_sheet_allows_and_a_second() -> None:
    st = speak(build("W25Q256_F1"))
    assert [r.timeout for r in st.erase(SECTORS)] == pytest.approx([2 * 6.4 + 1])
    assert [r.timeout for r in st.program(Span.of(NOR, 0x2000), 0)] == pytest.approx([1.096])
    assert [r.timeout for r in st.erase_all() or []] == [401]


def test_what_a_flash_algorithm_says_of_its_times_counts_where_it_is_longer() -> None:
    """3 s for a sector, which is less than there may be; 100 ms for a page, which is more."""
    cmsis = speak(build("W25Q256"))
    assert cmsis.erase(SECTORS[:1])[-1].timeout == pytest.approx(7.4)
    assert cmsis.program(Span.of(NOR, 0x100), 0)[-1].timeout == pytest.approx(1.1)
