"""scripts/bench: its limits, its content check, and the files that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmark import pictures, tables
from benchmark.__main__ import links_for
from benchmark.cases import NOR, Case, cases, limit, link_seconds, write_elf
from benchmark.host import Host
from benchmark.loads import Event, Result
from benchmark.meter import fill, wrong_bytes
from benchmark.servers import OURS, PEER
from benchmark.trips import Trip
from elftools.elf.elffile import ELFFile

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import BANK1, BANK2, KIB, MIB, bank
from gdbserver.flash.programmer import Step
from gdbserver.sim.board import Board
from gdbserver.sim.options import BoardOptions

SVG = "{http://www.w3.org/2000/svg}"


def case_called(name: str) -> Case:
    return next(case for case in cases(quick=False) if case.name == name)


@pytest.mark.parametrize(
    ("name", "link", "seconds"),
    [
        # DS12110, "Flash memory characteristics": 1 s for a sector, 100 us for 32 bytes.
        ("internal flash only", "stlink-v3", 4 * 1.0 + 512 * 1024 / 32 * 100e-6),
        # W25Q256JV, "AC Electrical Characteristics": 150 ms for 64 KiB, 0.7 ms for 256 bytes.
        ("QSPI only", "stlink-v3", 64 * 0.150 + 16384 * 0.7e-3),
        ("QSPI only, blank before", "cmsis-dap-v2", 16384 * 0.7e-3),
        # All devices at once take as long as the slowest.
        ("first load, all three devices", "stlink-v3", 64 * 0.150 + 16384 * 0.7e-3),
        # A packet of 64 bytes each millisecond, with 56 of data, for 1 MiB.
        ("slow link: internal flash", "cmsis-dap-v1", 1024 * 1024 / 56 * 1e-3),
        # Nothing to do but compare: 0.15 s for each of 5 MiB.
        ("reload, unchanged", "stlink-v3", 0.75),
    ],
)
def test_the_limit_is_what_the_slowest_device_or_the_link_needs(
    name: str, link: str, seconds: float
) -> None:
    assert limit(case_called(name), link) == pytest.approx(seconds)


def test_a_link_that_cases_name_chooses_among_them_and_any_other_is_for_all() -> None:
    fast, slow = (Case(name, {}, {}, 1.0, links=(name,)) for name in ("stlink-v3", "stlink-v2"))
    both = [fast, slow]
    assert [list(links_for(case, both, None)) for case in both] == [["stlink-v3"], ["stlink-v2"]]
    assert [list(links_for(case, both, ["stlink-v3"])) for case in both] == [["stlink-v3"], []]
    assert [list(links_for(case, both, ["ideal"])) for case in both] == [["ideal"], ["ideal"]]


def test_sectors_that_are_equal_need_no_time() -> None:
    before = {BANK1.start: bytes(256 * KIB)}
    image = {BANK1.start: bytes(128 * KIB) + b"\1" * (128 * KIB)}
    case = Case("half", before, image, 1.0)
    assert limit(case, "cmsis-dap-v2") == pytest.approx(1.0 + 128 * KIB / 32 * 100e-6)


@pytest.mark.parametrize(
    ("link", "reading", "seconds"),
    [
        # 46 clocks for a word and 2 idle, at 8 MHz, once its bytes have crossed USB at 40 MB/s;
        # and every 6 KiB the way there twice, and back once
        ("stlink-v3", False, 131072 * (48 / 8e6 + 4 / 40e6 + 3 * 60e-6 / 1536)),
        ("cmsis-dap-v2", True, 131072 * 48 / 10e6),
        ("cmsis-dap-v1", True, 512 * 1024 / 60 * 1e-3),
    ],
)
def test_a_link_needs_time_for_wires_and_packets(link: str, reading: bool, seconds: float) -> None:
    assert link_seconds(link, 512 * KIB, reading=reading) == pytest.approx(seconds)


def test_an_image_is_an_elf_file_with_a_segment_for_each_part(tmp_path: Path) -> None:
    image = {NOR.start: b"abcd", BANK2.start: b"12345678"}
    write_elf(tmp_path / "image.elf", image)
    with (tmp_path / "image.elf").open("rb") as file:
        elf = ELFFile(file)
        parts = {s["p_paddr"]: s.data() for s in elf.iter_segments()}
        names = [s.name for s in elf.iter_sections()]
    assert parts == image
    assert names.count(".data") == 2


def test_each_wrong_byte_is_found_wherever_it_is() -> None:
    board = Board(BoardOptions())
    image = {BANK2.start: bytes(range(256)) * 4, NOR.start + MIB: b"nor!"}
    fill(board, image)
    assert wrong_bytes(board, image) == 0
    board.nor.memory[MIB + 1] ^= 0x10
    assert wrong_bytes(board, image) == 1
    board.nor.memory[31 * MIB] = 0  # where the load has no business
    assert wrong_bytes(board, image) == 2
    board.flash.load(BANK1.start + 32, bytes(32))
    assert wrong_bytes(board, image) == 34


ONE, OTHER = bank(1, MIB), bank(2, MIB)


def some_events() -> list[Event]:
    first, second = Span.of(BANK1.start, 128 * KIB), Span.of(BANK2.start, 128 * KIB)
    return [
        (Step("erased", ONE, first, 1, 2), 1.0),
        (Step("waiting", ONE, first, 1, 2), 1.25),
        (Step("programmed", ONE, first, 2, 2), 1.5),
        (Step("programmed", OTHER, second, 1, 1), 2.0),
    ]


def test_the_picture_is_svg_with_a_bar_for_each_stretch_and_the_limit() -> None:
    root = ElementTree.fromstring(pictures.svg("erase < program & verify", some_events(), 1.8, 2.0))
    assert root.tag == f"{SVG}svg"
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"erase < program & verify", ONE.name, OTHER.name, "limit 1.80 s"} <= set(texts)
    bars = [r for r in root.iter(f"{SVG}rect") if r.get("height") == "26"]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)  # one second, half a second
    assert widths[2] == pytest.approx(2 * widths[0], rel=0.01)


def test_the_trace_has_a_thread_for_each_lane_and_an_event_for_each_step() -> None:
    events = json.loads(pictures.trace("a load", some_events()))["traceEvents"]
    names = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert names.keys() == {ONE.name, OTHER.name}
    steps = [(e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert steps == [
        (names[ONE.name], "erased", 0.0, 1e6),
        (names[ONE.name], "programmed", 1e6, 0.5e6),
        (names[OTHER.name], "programmed", 0.0, 2e6),
    ]


def result(server: str, seconds: float, *, wrong: int = 0) -> Result:
    costs = {"transactions": 7, "bytes": 4096, "erases": 2, "cpu_per_mib": 1.0, "board_cpu": 1.0}
    return Result("a load", "stlink-v3", server, seconds, 2.0, 1.05, **costs, wrong_bytes=wrong)


def test_a_target_is_missed_by_being_late_or_by_wrong_contents() -> None:
    assert result(OURS, 2.1).met
    assert not result(OURS, 2.11).met
    assert not result(OURS, 2.0, wrong=1).met


def test_a_round_trip_without_a_target_misses_none() -> None:
    assert not Trip("stepi", "stlink-v3", OURS, 71, 0, target=70).met
    assert Trip("stepi", "ideal", OURS, 71, 0, target=None).met


def test_the_table_tells_what_was_missed_and_whose_contents_are_wrong() -> None:
    heading, _, row = tables.of_loads([result(OURS, 2.2), result(PEER, 9.0, wrong=3)]).splitlines()
    cells = dict(zip(heading.split("|"), row.split("|"), strict=True))
    told = {name.strip(): text.strip() for name, text in cells.items()}
    assert told["ours"] == "2.20 s"
    assert told["target"] == "1.05 MISSED"
    assert told["pyOCD"] == "9.00 s"
    assert told["contents"] == "pyOCD: 3 bytes WRONG"


def test_what_is_measured_without_the_peer_meets_nothing_and_misses_nothing() -> None:
    rates = [
        Host("g, packets a second", 9000.0, 3000.0, "at least 2.0", met=True),
        Host("g, packets a second", 9000.0, None, "at least 2.0", met=None),
    ]
    *_, beside, alone = tables.of_host(rates).splitlines()
    assert "| 9,000 | 3,000 | 3.00  | at least 2.0, met |" in beside
    assert "| 9,000 |       |       | at least 2.0      |" in alone
