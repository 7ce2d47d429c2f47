"""Spans and flash geometry, as properties."""

from __future__ import annotations

import contextlib
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.chip import stm32h743
from gdbserver.chip.memory import FlashRegion, MemoryMap, Span, merge

spans = st.builds(Span.of, st.integers(0, 300), st.integers(0, 60))
groups = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([4, 8, 16])), min_size=1, max_size=3
).map(tuple)


@st.composite
def flash_regions(draw: st.DrawFn) -> FlashRegion:
    cut = draw(groups)
    start = draw(st.integers(0, 40)) * 16
    length = sum(count * size for count, size in cut)
    return FlashRegion("flash", Span.of(start, length), cut, page_size=4)


def addresses(span: Span) -> set[int]:
    return set(range(span.start, span.end))


@given(spans, spans)
def test_an_overlap_is_the_addresses_in_both(a: Span, b: Span) -> None:
    assert addresses(a & b) == addresses(a) & addresses(b)
    assert bool(a) == bool(addresses(a))


@given(st.lists(spans))
def test_merging_keeps_the_addresses_and_leaves_gaps_between(pieces: list[Span]) -> None:
    merged = merge(pieces)
    assert set().union(*map(addresses, merged)) == set().union(*map(addresses, pieces))
    assert all(a.end < b.start for a, b in itertools.pairwise(merged))


@given(flash_regions(), spans)
def test_sectors_are_those_that_share_an_address(region: FlashRegion, span: Span) -> None:
    every = list(region.sectors(region.span))
    assert [s for s in every if len(s & span)] == list(region.sectors(span))
    assert merge(every) == [region.span]


@given(flash_regions(), spans)
def test_pages_are_those_that_share_an_address(region: FlashRegion, span: Span) -> None:
    every = list(region.pages(region.span))
    assert [p for p in every if len(p & span)] == list(region.pages(span))
    assert merge(every) == [region.span]


def test_a_span_is_printed_as_datasheets_do() -> None:
    assert str(stm32h743.BANK2) == "0x08100000-0x081fffff"


def test_a_backward_span_is_refused() -> None:
    with pytest.raises(ValueError, match="no span goes from 0x2 to 0x1"):
        Span(2, 1)


def test_sectors_must_add_up() -> None:
    with pytest.raises(ValueError, match="add up to 0x10, not 0x20"):
        FlashRegion("flash", Span.of(0, 32), ((1, 16),), 4)


def test_an_address_outside_has_no_sector() -> None:
    with pytest.raises(ValueError, match="is not in bank 1"):
        stm32h743.bank(1).sector_at(0x08100000)


def test_overlapping_regions_make_no_map() -> None:
    with pytest.raises(ValueError, match="overlap"):
        MemoryMap((), (stm32h743.bank(1), stm32h743.bank(1)))


def test_the_map_of_the_chip_shows_what_debuggers_forget() -> None:
    """AXI SRAM, peripherals and the private peripheral bus, and the rest of the QSPI window."""
    nor = FlashRegion("NOR", Span.of(0x90000000, 0x2000000), ((512, 0x10000),), 256)
    chip = stm32h743.memory_map((stm32h743.bank(1), stm32h743.bank(2), nor))
    for address in [0x24000000, 0x52002000, 0xE000ED00, 0x00000000, 0x38800000, 0x92000000]:
        assert chip.region_at(address) is not None
    assert chip.flash_at(0x91FFFFFF) is nor
    assert chip.region_at(0x91FFFFFF) is None
    assert chip.region_at(0xFFFFFFFF) is None


@given(st.integers(0, 0xFFFFFFFE), st.data())
def test_a_range_is_the_same_in_both_spellings(start: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, (1 << 32) - start))
    span = Span.of(start, min(length, 0xFFFFFFFF))
    assert Span.parse(f"{start:#x}+{len(span)}") == span
    assert Span.parse(f"{start}-{span.end - 1:#x}") == span


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no address"),
        ("here", "'here' is no address"),
        ("0x100000000", "'0x100000000' is no address"),
        ("8+", "'' is no length"),
        ("8+-1", "'-1' is no length"),
        ("8-4", "8-4 ends before it begins"),
        ("0xffffffff+2", "0xffffffff+2 ends where there are no addresses"),
    ],
)
def test_what_is_no_range_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Span.parse(text)


@given(st.text(alphabet="0123456789abcdefx+- ", max_size=24))
def test_every_text_is_a_range_of_addresses_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert Span.parse(text).end <= 1 << 32
