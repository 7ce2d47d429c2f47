"""How a range is cut into what comparators can watch."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gdbserver.chip.memory import Span
from gdbserver.target.breakpoints import blocks

spans = st.builds(Span.of, st.integers(0, 0xFFFF0000), st.integers(0, 0x10000))


@given(spans)
def test_blocks_cover_the_range_and_nothing_else(span: Span) -> None:
    cut = blocks(span)
    assert sum(len(block.span) for block in cut) == len(span)
    assert not cut or (cut[0].span.start, cut[-1].span.end) == (span.start, span.end)
    assert all(a.span.end == b.span.start for a, b in itertools.pairwise(cut))


@given(spans)
def test_each_block_is_naturally_aligned(span: Span) -> None:
    assert all(block.address % len(block.span) == 0 for block in blocks(span))


@given(spans)
def test_no_two_neighbours_would_fit_into_one_comparator(span: Span) -> None:
    for a, b in itertools.pairwise(blocks(span)):
        joined = len(a.span) + len(b.span)
        assert len(a.span) != len(b.span) or a.address % joined or a.mask == 15


def test_a_word_takes_one_comparator() -> None:
    assert [block.mask for block in blocks(Span.of(0x20000004, 4))] == [2]


def test_an_unaligned_word_takes_three() -> None:
    assert [(b.address, b.mask) for b in blocks(Span.of(0x20000001, 4))] == [
        (0x20000001, 0),
        (0x20000002, 1),
        (0x20000004, 0),
    ]
