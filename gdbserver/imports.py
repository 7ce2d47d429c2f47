"""Importing what is needed, once it is known what that is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports_kept() -> Iterator[None]:
    """What is imported in this block is never looked at again by the garbage collector.

    pyOCD and we make some 300,000 objects, and nearly all of them stay.  Looking for garbage
    among them takes a sixth of the time to start; and afterwards, again and again.
    """
    with uncollected():
        yield
        gc.freeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Nobody looks for garbage in this block: what is made here stays for long, or goes at once."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
