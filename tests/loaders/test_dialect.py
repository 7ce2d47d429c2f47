"""What is said to a loader of each kind, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_loaders import build

from gdbserver.chip.memory import Span
from gdbserver.loader.dialect import Dialect, Request, dialect
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


@pytest.mark.parametrize(("sectors", "least"), [(SECTORS[:1], 2.0), (SECTORS, 4.0)])
def test_a_routine_has_the_time_that_the_slowest_nor_takes(
    sectors: list[Span], least: float
) -> None:
    (request,) = speak(build("W25Q256_F1")).erase(sectors)
    assert least < request.timeout < 10 * least
