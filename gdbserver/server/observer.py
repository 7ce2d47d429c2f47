"""What the front end of a server may show while sessions go on."""

from __future__ import annotations

from collections.abc import Sequence

from gdbserver.chip.memory import FlashRegion
from gdbserver.errors import GdbServerError
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Step


class Observer:
    """Is told, in the event loop, what happens; this one keeps it to itself.

    A download that begins also ends, whatever becomes of it and of its client.
    """

    def connected(self, client: str) -> None:
        """Somebody who speaks the protocol is there."""

    def disconnected(self, client: str) -> None:
        """It has gone, and the core has been left in order."""

    def download_begins(self, download: Download, regions: Sequence[FlashRegion]) -> None:
        """All that the client wants in flash is here; nothing has been changed."""

    def download_step(self, step: Step) -> None:
        """One thing more is done."""

    def download_ends(self, failure: GdbServerError | None) -> None:
        """It has been carried out and verified, or not."""
