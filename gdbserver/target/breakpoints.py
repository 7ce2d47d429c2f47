"""Breakpoints and watchpoints, written through to the hardware at once."""

from __future__ import annotations

from enum import IntEnum


class BreakKind(IntEnum):
    """The kinds of ``Z`` and ``z`` packets, by their number."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE_WATCH = 2
    READ_WATCH = 3
    ACCESS_WATCH = 4
