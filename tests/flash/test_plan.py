"""What a download means, and what is left of it when flash already holds a part."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.errors import FlashError, OutsideFlash
from gdbserver.flash.diff import crc_unit, diff, without_blank_pages
from gdbserver.flash.plan import Download, RegionPlan, plan

# Small devices with everything in them that makes planning hard: sectors of two sizes, a
# neighbour that begins where another ends, and a hole.
BANK1 = FlashRegion("bank 1", Span.of(0x1000, 256), ((4, 64),), 16)
BANK2 = FlashRegion("bank 2", Span.of(0x1100, 256), ((2, 32), (3, 64)), 16)
NOR = FlashRegion("NOR", Span.of(0x9000, 320), ((5, 64),), 32)
REGIONS = (NOR, BANK1, BANK2)
SIZES = {"bank 1": 256, "bank 2": 256, "NOR": 320}


class IdealFlash:
    """Flash as the textbook has it: erasing sets bits, programming only clears them."""

    def __init__(self, region: FlashRegion, contents: bytes) -> None:
        self.region = region
        self.cells = bytearray(contents)
        self.erased: list[Span] = []
        self.programmed: list[Span] = []

    def read(self, span: Span) -> bytes:
        offset = span.start - self.region.span.start
        return bytes(self.cells[offset : offset + len(span)])

    def _set(self, span: Span, data: bytes) -> None:
        offset = span.start - self.region.span.start
        self.cells[offset : offset + len(span)] = data

    def erase(self, sector: Span) -> None:
        assert sector == self.region.sector_at(sector.start)
        assert sector not in self.erased, "a sector was erased twice"
        self.erased.append(sector)
        self._set(sector, b"\xff" * len(sector))

    def program(self, span: Span, data: bytes) -> None:
        for page in self.region.pages(span):
            assert page in span, "a page was programmed in part"
            assert page not in self.programmed, "a page was programmed twice"
            self.programmed.append(page)
        before = self.read(span)
        self._set(span, bytes(a & b for a, b in zip(before, data, strict=True)))

    def carry_out(self, planned: RegionPlan) -> None:
        for sector in planned.sectors:
            if sector.erase:
                self.erase(sector.sector)
            for run in sector.runs:
                self.program(run.span, run.data)


def spans_in(region: Span) -> st.SearchStrategy[Span]:
    address = st.integers(region.start, region.end - 1)
    return st.builds(lambda a, b: Span(min(a, b), max(a, b) + 1), address, address)


@st.composite
def downloads(draw: st.DrawFn) -> Download:
    """Erases and writes as a client may interleave them; writes stay inside what was erased."""
    download = Download()
    for area in (Span(BANK1.span.start, BANK2.span.end), NOR.span):
        for erase in draw(st.lists(spans_in(area), max_size=3)):
            download.erase(erase)
            for write in draw(st.lists(spans_in(erase), max_size=3)):
                fill = draw(st.one_of(st.just(0xFF), st.integers(0, 255)))
                data = bytes([fill]) * len(write)
                if draw(st.booleans()):
                    data = draw(st.binary(min_size=len(write), max_size=len(write)))
                download.write(write.start, data)
    if draw(st.booleans()):
        download.erases.reverse()
    return download


contents = st.fixed_dictionaries(
    {
        name: st.one_of(st.just(b"\xff" * size), st.binary(min_size=size, max_size=size))
        for name, size in SIZES.items()
    }
)


def wanted(download: Download, device: IdealFlash) -> bytes:
    """What the device shall hold, worked out byte by byte."""
    flash = dict(enumerate(device.cells, device.region.span.start))
    for erase in download.erases:
        for sector in device.region.sectors(erase):
            flash.update(dict.fromkeys(range(sector.start, sector.end), 0xFF))
    for span, data in download.writes:
        flash.update(
            (a, b) for a, b in zip(range(span.start, span.end), data, strict=True) if a in flash
        )
    return bytes(flash.values())


@given(downloads(), contents)
def test_flash_ends_up_erased_and_written_as_asked_and_untouched_elsewhere(
    download: Download, before: dict[str, bytes]
) -> None:
    devices = {region: IdealFlash(region, before[region.name]) for region in REGIONS}
    expected = {region: wanted(download, device) for region, device in devices.items()}
    for planned in plan(download, REGIONS):
        devices[planned.region].carry_out(planned)
    assert {region: bytes(device.cells) for region, device in devices.items()} == expected


@given(downloads(), contents)
def test_what_is_left_after_a_diff_gives_the_same_contents(
    download: Download, before: dict[str, bytes]
) -> None:
    for planned in plan(download, REGIONS):
        device = IdealFlash(planned.region, before[planned.region.name])
        expected = wanted(download, device)
        left = diff(planned, digests(device, planned), zlib.crc32)
        for sector in left.sectors:
            blank = device.read(sector.sector) == b"\xff" * len(sector.sector)
            assert sector.erase != blank
            assert device.read(sector.sector) != sector.contents()
        device.carry_out(left)
        assert bytes(device.cells) == expected
        assert not diff(planned, digests(device, planned), zlib.crc32).sectors


def digests(device: IdealFlash, planned: RegionPlan) -> Sequence[int]:
    return [zlib.crc32(device.read(sector.sector)) for sector in planned.sectors]


@given(downloads())
def test_a_page_that_stays_blank_is_not_programmed(download: Download) -> None:
    for planned in plan(download, REGIONS):
        lean = without_blank_pages(planned)
        for sector, before in zip(lean.sectors, planned.sectors, strict=True):
            assert sector.contents() == before.contents()
            for run in sector.runs:
                for start in range(0, len(run.data), planned.region.page_size):
                    assert run.data[start : start + planned.region.page_size].strip(b"\xff")


@given(downloads())
def test_the_order_of_erases_and_writes_makes_no_difference(download: Download) -> None:
    other = Download()
    other.writes = download.writes
    other.erases = [Span(a, a + 1) for span in download.erases for a in range(span.start, span.end)]
    assert plan(other, REGIONS) == plan(download, REGIONS)


def test_an_erase_request_is_rounded_out_to_the_sectors_it_touches() -> None:
    download = Download()
    download.erase(Span(0x1050, 0x1081))
    (planned,) = plan(download, REGIONS)
    assert [s.sector for s in planned.sectors] == [Span(0x1040, 0x1080), Span(0x1080, 0x10C0)]


def test_a_sector_named_again_after_it_was_written_keeps_what_was_written() -> None:
    download = Download()
    download.erase(Span(0x1000, 0x1040))
    download.write(0x1008, b"kept")
    download.erase(Span(0x1000, 0x1080))
    (planned,) = plan(download, REGIONS)
    assert planned.sectors[0].contents()[8:12] == b"kept"


def test_a_page_is_filled_up_with_the_erased_value() -> None:
    download = Download()
    download.erase(Span(0x1000, 0x1040))
    download.write(0x1011, b"\x00")
    (planned,) = plan(download, REGIONS)
    (run,) = planned.sectors[0].runs
    assert run.span == Span(0x1010, 0x1020)
    assert run.data == b"\xff\x00" + b"\xff" * 14


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (Span(0x2000, 0x2010), "0x00002000-0x0000200f is not in flash"),
        (Span(0x11F0, 0x1210), "0x00001200-0x0000120f is past the end of bank 2"),
        (Span(0x0FF0, 0x1010), "0x00000ff0-0x00000fff is not in flash"),
        (Span(0x9130, 0x9141), "0x00009140-0x00009140 is past the end of NOR"),
    ],
)
def test_addresses_outside_flash_are_refused_by_name(span: Span, message: str) -> None:
    for method in ("erase", "write"):
        download = Download()
        download.erase(Span(0x1000, 0x1200))
        if method == "erase":
            download.erase(span)
        else:
            download.write(span.start, bytes(len(span)))
        with pytest.raises(OutsideFlash, match=message) as refused:
            plan(download, REGIONS)
        assert "bank 1 0x00001000-0x000010ff" in str(refused.value.hint)


def test_a_range_without_a_loader_says_how_to_give_one() -> None:
    download = Download()
    download.erase(Span(0x90000000, 0x90010000))
    with pytest.raises(OutsideFlash) as refused:
        plan(download, [BANK1])
    assert str(refused.value) == "0x90000000-0x9000ffff is not in flash"
    assert str(refused.value.hint).startswith("external flash needs its loader: give it with --ext")


def test_a_mistyped_window_is_recognised() -> None:
    download = Download()
    download.erase(Span(0x09000000, 0x09010000))
    with pytest.raises(OutsideFlash) as refused:
        plan(download, REGIONS)
    assert "0x90000000, not 0x09000000" in str(refused.value.hint)


def test_a_write_without_an_erase_is_refused() -> None:
    download = Download()
    download.erase(Span(0x1000, 0x1040))
    download.write(0x103E, b"1234")
    with pytest.raises(FlashError, match="0x00001040-0x00001041 is written, but its sector") as no:
        plan(download, REGIONS)
    assert not isinstance(no.value, OutsideFlash)


def peak_memory(size: int) -> int:
    """What it takes to stage, plan and compare an image of so many bytes, in packets as GDB's."""
    large = FlashRegion("large", Span.of(0x90000000, 32 << 20), ((512, 0x10000),), 256)
    content = bytes(range(256)) * 201
    tracemalloc.start()
    download = Download()
    download.erase(Span.of(large.span.start, size))
    for offset in range(0, size, len(content)):
        download.write(large.span.start + offset, bytes(bytearray(content[: size - offset])))
    (planned,) = plan(download, [large])
    left = diff(planned, [0] * len(planned.sectors), zlib.crc32)
    parts = [
        run.part(start, start + 0x2000)
        for s in left.sectors
        for run in s.runs
        for start in range(0, len(run.span), 0x2000)
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert b"".join(part.data for part in parts[:3]) == content[: 3 * 0x2000]
    return peak


def test_an_image_is_kept_once() -> None:
    growth = peak_memory(6 << 20) - peak_memory(2 << 20)
    assert growth < 1.25 * (4 << 20)  # a list that grows has an eighth to spare


def crc_by_the_book(data: bytes) -> int:
    state = 0
    for start in range(0, len(data), 4):
        state ^= int.from_bytes(data[start : start + 4], "little")
        for _ in range(32):
            state = (state << 1) ^ (0x104C11DB7 if state >> 31 else 0)
        state ^= 0x55555555
    return state


@settings(max_examples=30)
@given(st.binary(max_size=64).map(lambda data: data[: len(data) & ~3]))
def test_the_quick_crc_is_the_one_of_the_book(data: bytes) -> None:
    assert crc_unit(data) == crc_by_the_book(data)


def test_the_crc_unit_gives_the_values_seen_on_silicon() -> None:
    assert crc_unit(bytes(128)) == 0x11E66C62
    assert crc_unit(b"\xff" * 128) == 0x9A93CD87
    assert crc_unit(b"\xff" * 512) == 0xB02CC19B
    assert crc_unit(b"\xff" * 2048) == 0x2E10D04A
