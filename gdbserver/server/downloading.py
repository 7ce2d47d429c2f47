"""A download: noted until the client says that it is complete, then carried out as a whole.

Nothing in flash changes before vFlashDone; GDB manual, "vFlashErase" and its neighbours.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gdbserver.chip import stm32h743
from gdbserver.chip.memory import FlashRegion, Kind, Span
from gdbserver.errors import ClientLeft, GdbServerError
from gdbserver.flash.plan import Download, plan
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.server.client import Client
from gdbserver.server.control import Control
from gdbserver.server.observer import Observer
from gdbserver.server.worker import Workers

log = logging.getLogger(__name__)


class Downloading:
    """What one client wants in flash."""

    def __init__(
        self,
        workers: Workers,
        client: Client,
        control: Control,
        observer: Observer,
        *,
        erase_all: bool,
    ) -> None:
        self._programmer = workers.programmer
        self._client = client
        self._control = control
        self._observer = observer
        self._erase_all = erase_all
        self._download = Download()

    def forget(self) -> None:
        """Give up what has been noted: GDB sends no vFlashDone after an error."""
        self._download = Download()

    async def erase(self, span: Span) -> None:
        """Note what shall be erased.

        Nobody erases a place twice in one download; so that is a new one, and the client gave
        up the old (Ctrl-C during `load`).
        """
        if any(len(span & erase) for erase in self._download.erases):
            log.info("a download that was not finished is dropped")
            self._download = Download()
        regions = await self._programmer.call(Programmer.regions)
        place = stm32h743.memory_map(regions).region_at(span.start)
        if place is not None and place.kind is Kind.FLASH and place.span == span:
            # "flash-erase" goes through the map, and comes to the flash that nobody can program.
            log.info("nothing to erase at %s: there is no loader for it", span)
            return
        attempt = Download()
        attempt.erase(span)
        plan(attempt, regions)  # refuses what no one has
        self._download.erase(span)

    def write(self, address: int, data: bytes) -> None:
        """Note what shall be written."""
        self._download.write(address, data)

    async def carry_out(self) -> None:
        """Do what has been noted, and forget it."""
        download, self._download = self._download, Download()
        done: Counter[tuple[str, str]] = Counter()

        async def on_step(step: Step) -> None:
            self._client.look()
            log.debug("%s %s", step.action, step.span)
            self._observer.download_step(step)
            if step.action != "waiting":
                done[step.region.name, step.action] += len(step.span)

        size = sum(len(span) for span, _ in download.writes)
        log.info("download: %d bytes", size)
        regions = await self._programmer.call(Programmer.regions)
        if self._erase_all:
            download.erase_devices(regions)
        with self._control.changing_flash("a download"), self._observed(download, regions):
            await self._programmer.run_steps(Programmer.carry_out, on_step, download)
        for region, parts in itertools.groupby(sorted(done.items()), lambda item: item[0][0]):
            log.info("%s: %s bytes", region, ", ".join(f"{a} {n}" for (_, a), n in parts))

    @contextmanager
    def _observed(self, download: Download, regions: Sequence[FlashRegion]) -> Iterator[None]:
        self._observer.download_begins(download, regions)
        try:
            yield
        except BaseException as error:
            ours = error if isinstance(error, GdbServerError) else ClientLeft()
            self._observer.download_ends(ours)
            raise
        self._observer.download_ends(None)
