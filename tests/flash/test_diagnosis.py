"""What wrong contents look like, and which reset it was."""

from __future__ import annotations

import pytest
from flash_bench import noise
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.loader.diagnosis import pattern, reset_cause

DATA = noise(64)


def test_blank_and_zero_contents_have_their_sentences() -> None:
    assert str(pattern(DATA, b"\xff" * 64)).startswith("it is still erased")
    assert str(pattern(DATA, bytes(64))).startswith("it is all zeros")


@given(st.integers(1, 8), st.binary(min_size=8, max_size=8))
def test_a_shift_is_seen_in_either_direction(distance: int, filling: bytes) -> None:
    up = filling[:distance] + DATA[:-distance]
    assert str(pattern(DATA, up)).startswith(f"the right bytes, {distance} too far up")
    down = DATA[distance:] + filling[:distance]
    assert str(pattern(DATA, down)).startswith(f"the right bytes, {distance} too far down")


@pytest.mark.parametrize(("width", "words"), [(2, "pair of bytes"), (4, "word of four bytes")])
def test_reversed_bytes_are_seen(width: int, words: str) -> None:
    found = b"".join(DATA[at : at + width][::-1] for at in range(0, 64, width))
    assert str(pattern(DATA, found)).startswith(f"the right bytes, each {words} reversed")


def test_bits_that_only_fell_or_only_stayed_tell_what_was_left_out() -> None:
    old = noise(64, 1)
    not_erased = bytes(a & b for a, b in zip(DATA, old, strict=True))
    assert str(pattern(DATA, not_erased)).startswith(
        "bits are 0 that shall be 1: it was not erased"
    )
    half = DATA[:20] + b"\xff" * 44
    assert str(pattern(DATA[10:], half[10:])).startswith("bits are 1 that shall be 0")


@pytest.mark.parametrize(
    ("bits", "lines"), [(0x44, "IO2:"), (0x88, "IO3:"), (0xCC, "IO2 and IO3:")]
)
def test_lines_that_do_not_get_through_are_named(bits: int, lines: str) -> None:
    found = bytes(byte | bits for byte in DATA)
    assert lines in str(pattern(DATA, found))


def test_noise_looks_like_nothing() -> None:
    assert pattern(DATA, noise(64, 2)) is None


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (0, 0x04420000, "the independent watchdog (IWDG1)"),
        (0x00420000, 0x10420000, "the window watchdog (WWDG1)"),
        (0x00420000, 0x01420000, "software (SYSRESETREQ)"),
        (0x01020000, 0x01420000, "the reset pin (NRST)"),
        (0x00E90000, 0x00E90000, "the reset pin (NRST)"),
        (0x01420000, 0x01420000, "software (SYSRESETREQ) or the reset pin (NRST)"),
        (0, 0, "an unknown cause"),
    ],
)
def test_the_cause_of_a_reset_is_read_from_its_flags(before: int, after: int, cause: str) -> None:
    assert reset_cause(before, after) == cause
