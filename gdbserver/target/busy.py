"""A device that works on its own, and who waits for it: generators that lend out the link.

What takes long is a generator that yields `Busy` where it would have to wait.  Whoever runs it may
do something else meanwhile, with another device behind the same link.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing to do for this device, for about so many seconds; 0 when only being polite."""

    seconds: float


def finish(events: Generator[object, None, T]) -> T:
    """Run what lets others have the link, and let nobody have it."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return cast(T, end.value)
