"""What a lane expects of a flash device, whether the host drives it or a loader does.

A driver exists only inside the ``with`` block that opened it, so "is it initialised?" is never
a question.  Its operations are generators: they yield `Did` after each operation of the
device, and `Busy` whenever the device works on its own and another lane may have the link.
Closing a driver leaves the device idle, however far its generators came.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.errors import GdbServerError
from gdbserver.flash.plan import RegionPlan, SectorPlan
from gdbserver.target.busy import Busy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Did:
    """One operation is complete."""

    action: Literal["compared", "erased", "programmed", "verified"]
    span: Span


Event = Busy | Did


class FlashDriver(Protocol):
    """A flash device that is ready to be changed."""

    region: FlashRegion

    def digest_of(self, data: bytes) -> int:
        """The digest of a sector that holds these bytes."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def seconds(self, plan: RegionPlan) -> float:
        """How long the device itself will take over a plan, typically."""
        ...

    def compare(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int | None]]:
        """Digests of sectors before anything is changed, computed where the data is; None where one
        is neither blank nor as planned, which may be plain before all of it was looked at."""
        ...

    def verify(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, list[int]]:
        """Digests of sectors that were changed, to be compared with those of what was planned."""
        ...

    def change(self, sectors: Sequence[SectorPlan]) -> Generator[Event, None, None]:
        """Erase, where the plan says so, and program; complete when exhausted."""
        ...

    def erase_all(self) -> Generator[Event, None, None]:
        """Erase the whole device."""
        ...

    def refresh(self) -> None:
        """Make sure that what is read from now on is what the device holds now."""
        ...

    def read(self, span: Span) -> bytes:
        """What the device holds: read back, not computed."""
        ...


@contextmanager
def putting_back(error: BaseException | None, consequence: str) -> Iterator[None]:
    """For an ``__exit__``: where putting things back fails as well, after `error`, that is a
    warning that begins with `consequence`, and `error` goes on."""
    try:
        yield
    except GdbServerError as failure:
        if error is None:
            raise
        log.warning("%s: %s", consequence, failure)
