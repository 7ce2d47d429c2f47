"""How a chip is taken over.

Apart from the rest of this package, because a command line offers it before it needs pyOCD.
"""

from __future__ import annotations

from enum import Enum


class Connect(Enum):
    """What may happen to the running program when we connect."""

    UNDER_RESET = "under-reset"  # restarted through NRST, halted before its first instruction
    HALT = "halt"  # halted where it is
    ATTACH = "attach"  # not disturbed
