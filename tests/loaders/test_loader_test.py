"""`loader test`: our own loader passes it on every NOR, and loaders that are wrong do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import support
from click.testing import CliRunner, Result
from fixture_loaders import build

from gdbserver.cli.loader import loader
from gdbserver.errors import UsageError
from gdbserver.loader.checklist import LoaderTest
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import builtin
from gdbserver.sim.nor_parts import PARTS
from gdbserver.target.target import Target

PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}
Try = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def target() -> Iterator[Callable[[str], Target]]:
    with ExitStack() as stack:

        def connect(uid: str) -> Target:
            target = Target.open(uid)
            stack.callback(target.close)
            return target

        yield connect


@pytest.fixture
def try_out(target: Callable[[str], Target]) -> Try:
    """(outcome, detail) of each check by its name."""

    def run(
        file: LoaderFile,
        uid: str = "sim:cmsis-dap-v2",
        *,
        thorough: bool = False,
        only: str = "",
    ) -> dict[str, tuple[str, str]]:
        test = LoaderTest(target(uid), file, thorough=thorough, only=only)
        results = [test.meet(), *test.run()]
        return {result.name: (result.outcome, result.detail) for result in results}

    return run


def outcomes(results: dict[str, tuple[str, str]]) -> set[str]:
    return {outcome for outcome, _ in results.values()}


def test_our_loader_passes_on_two_nors_side_by_side(try_out: Try) -> None:
    lines = {"BK2_IO0": "PH2", "BK2_IO1": "PH3", "BK2_IO2": "PG9", "BK2_IO3": "PG14"}
    pins = {**PINS, **lines}
    uid = "sim:cmsis-dap-v2,nor=W25Q64JV,qspi_pins=" + "/".join(pins.values())
    results = try_out(builtin(pins), uid)
    assert outcomes(results) == {"ok", "skipped"}
    assert results["Init"] == ("ok", "JEDEC id EF4017 of each of two, 16 MiB")
    assert results["NOR left in continuous read"] == ("ok", "and initialised from there")


@pytest.mark.parametrize("part", PARTS)
def test_our_own_loader_passes_on_every_nor(try_out: Try, part: str) -> None:
    results = try_out(builtin(PINS), f"sim:cmsis-dap-v2,nor={part}")
    assert outcomes(results) <= {"ok", "skipped"}
    skipped = {name for name, (outcome, _) in results.items() if outcome == "skipped"}
    has_qpi = part.endswith("-IM") or part in ("MT25QL512ABB", "IS25LP256D")
    assert ("NOR left in QPI" not in skipped) == has_qpi
    assert ("across 16 MiB" not in skipped) == (PARTS[part].size > 16 << 20)
    assert len(skipped) <= 3


def test_our_own_loader_works_on_the_second_bank(target: Callable[[str], Target]) -> None:
    pins = {"CLK": "PF10", "NCS": "PC11", "IO0": "PE7", "IO1": "PE8", "IO2": "PE9", "IO3": "PE10"}
    uid = "sim:cmsis-dap-v2,qspi_pins=" + "/".join(pins.values())
    assert LoaderTest(target(uid), builtin(pins)).meet().outcome == "ok"
    assert LoaderTest(target(uid), builtin(PINS)).meet().outcome == "failed"


def test_an_exported_loader_works_on_the_board_that_it_is_for(
    target: Callable[[str], Target], tmp_path: Path
) -> None:
    pins = {"CLK": "PB2", "NCS": "PB6", "IO0": "PD11", "IO1": "PD12", "IO2": "PE2", "IO3": "PD13"}
    file = tmp_path / "W25Q64_WeAct.stldr"
    command = ["export", "--board", "weact-ministm32h743", str(file)]
    assert CliRunner().invoke(loader, command).output == (
        f"{file}: W25Q64_WeAct 0x90000000-0x907fffff, bank 1 of the QUADSPI\n"
    )
    board = "sim:cmsis-dap-v2,nor=W25Q64JV,qspi_pins=" + "/".join(pins.values())
    result = LoaderTest(target(board), LoaderFile.load(file)).meet()
    assert (result.outcome, result.detail) == ("ok", "JEDEC id EF4017, 8 MiB")


def test_a_thorough_test_erases_everything(try_out: Try) -> None:
    results = try_out(
        builtin(PINS), "sim:cmsis-dap-v2,nor=W25Q64JV", thorough=True, only="mass erase"
    )
    assert results["mass erase"] == ("ok", "0x90000000-0x907fffff")


@pytest.mark.parametrize("name", ["W25Q256_F10", "W25Q256"])
def test_loaders_of_every_kind_pass(try_out: Try, name: str) -> None:
    assert "failed" not in outcomes(try_out(LoaderFile.load(build(name))))


def test_what_a_loader_leaves_running_is_a_remark(try_out: Try) -> None:
    results = try_out(LoaderFile.load(build("W25Q256_F8")), only="program with all on")
    assert results["Init"][0] == "remark"
    assert "SysTick is running with its interrupt enabled" in results["Init"][1]
    assert "failed" not in outcomes(results)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("WRITES_SHIFTED", "across a page"),
        ("ERASES_NOTHING", "again, without a power cycle"),
    ],
)
def test_a_loader_that_is_wrong_fails_where_it_is_wrong(
    try_out: Try, fault: str, check: str
) -> None:
    results = try_out(LoaderFile.load(build(f"W25Q256_F9_{fault}")), only=check)
    assert list(results) == [
        *("Init", "sectors beside the tested ones are read", check),
        "other sectors are as they were",
    ]
    assert results["Init"][0] == "ok"
    assert results[check][0] == "failed"
    assert results["other sectors are as they were"][0] == "ok"


def test_nothing_is_tried_with_a_loader_whose_init_fails(try_out: Try) -> None:
    results = try_out(LoaderFile.load(build("W25Q256_F9_INIT_FAILS")))
    (init, *others) = results.values()
    assert init[0] == "failed"
    assert set(others) == {("skipped", "Init fails")}


def test_only_the_sectors_that_are_named_change(target: Callable[[str], Target]) -> None:
    connected = target("sim:cmsis-dap-v2")
    nor = connected.link.probe.board.nor
    nor.memory[:] = bytes(range(256)) * (len(nor.memory) // 256)
    before = bytes(nor.memory)
    test = LoaderTest(connected, builtin(PINS))
    test.meet()
    list(test.run())
    for sector in test.touched():
        offset = sector.start - 0x90000000
        nor.memory[offset : offset + len(sector)] = before[offset : offset + len(sector)]
    assert bytes(nor.memory) == before


def test_what_was_there_can_be_put_back(target: Callable[[str], Target]) -> None:
    connected = target("sim:cmsis-dap-v2,nor=W25Q64JV")
    nor = connected.link.probe.board.nor
    nor.memory[:] = bytes(range(256)) * (len(nor.memory) // 256)
    before = bytes(nor.memory)
    test = LoaderTest(connected, builtin(PINS))
    test.meet()
    contents = test.contents()
    list(test.run())
    assert bytes(nor.memory) != before
    assert test.put_back(contents).outcome == "ok"
    assert bytes(nor.memory) == before


# --- On the command line -----------------------------------------------------------------------


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(loader, ["test", *map(str, arguments)])


def test_the_table_is_that_of_the_page_on_loaders() -> None:
    """But for the seconds, which change with whatever changes the conversation."""
    page = (support.TESTS.parent / "loaders/README.md").read_text()
    _, _, rest = page.partition("$ stm32-gdbserver loader test builtin --probe sim\n")
    shown, _, _ = rest.partition("```")
    result = invoke("builtin", "--probe", "sim")
    without_seconds = [re.sub(r"\d+\.\d{3} s", "… s", text) for text in (shown, result.output)]
    assert without_seconds[0] == without_seconds[1]
    assert result.output.endswith("qspi.stldr: 20 passed, 1 skipped\n")
    assert result.exit_code == 0


def test_a_failure_is_explained_once_and_gives_exit_status_1() -> None:
    result = invoke(build("W25Q256_F9_WRITE_UDF"), "--probe", "sim", "--keep", "--only", "across")
    assert result.exit_code == 1
    assert result.output.count("hint: ") == 1
    assert "4 failed" in result.output.splitlines()[-1]


def test_an_init_that_fails_is_explained_by_what_the_nor_says() -> None:
    result = invoke(build("W25Q256_F9_INIT_FAILS"), "--probe", "sim")
    assert result.exit_code == 1
    assert "its JEDEC id is EF 40 19 (Winbond, 32 MiB), as the loader's name" in result.output
    assert result.output.splitlines()[-1].startswith("W25Q256_F9_INIT_FAILS.stldr: 1 failed, ")


def test_the_same_as_json() -> None:
    result = invoke("builtin", "--json", "--probe", "sim", "--only", "NOR left in")
    checks = json.loads(result.stdout)
    assert checks[0]["name"] == "Init"
    assert {check["outcome"] for check in checks} == {"ok", "skipped"}


def test_a_real_board_is_not_erased_without_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated board stands in for a real one, as far as the question goes."""
    monkeypatch.setattr("gdbserver.target.target.is_simulated", lambda uid: False)
    result = invoke("builtin", "--probe", "sim")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith("the test erases 0x90000000-0x9000ffff, ")


def test_a_check_that_there_is_not_is_refused_with_a_list() -> None:
    result = invoke("builtin", "--probe", "sim", "--only", "sleep")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "no check is called 'sleep', or anything with that in it"
    assert "; across a page; " in str(result.exception.hint)
