"""SWO at TCP ports: the trace packets as they come, and as text what is printed to port 0.

The first port is what ST's server has at `--swo-port`, and what cortex-debug and other viewers
decode by themselves.  The text, at the next port, is for people with a terminal.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from gdbserver.errors import GdbServerError
from gdbserver.server.channel import Channel
from gdbserver.server.control import Control
from gdbserver.server.listening import listening
from gdbserver.server.start import SwoOptions
from gdbserver.server.worker import Worker
from gdbserver.target.swo import PortText, Swo
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_QUICK: Final = 0.01
_SLOW: Final = 0.1
"""Seconds between two looks, while there is something to hear and while there is not."""
_LOOKS_BETWEEN_CHECKS: Final = 50


class SwoPorts:
    """Receives, and hands on."""

    def __init__(
        self, target: Worker[Target], control: Control, host: str, options: SwoOptions
    ) -> None:
        self._target = target
        self._control = control
        self._host = host
        self._options = options

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Receive and serve in the background of the block.

        Raises:
            CannotListen: a port is in use.
            ProbeError: the probe has no SWO.
        """
        packets, text = Channel("SWO"), Channel("SWO, text of port 0")
        options = self._options
        async with (
            listening(self._host, options.port, None) as at_packets,
            self._listening_for_text() as at_text,
            trio.open_nursery() as nursery,
        ):
            swo = await self._target.call(Swo, options.trace_hz, options.baud)
            await self._target.call(lambda _: swo.start())
            nursery.start_soon(packets.listen, at_packets)
            if at_text:
                nursery.start_soon(text.listen, at_text)
            nursery.start_soon(self._poll, swo, packets, text)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await self._target.call(lambda _: swo.stop())

    @asynccontextmanager
    async def _listening_for_text(self) -> AsyncIterator[list[trio.SocketListener]]:
        if self._options.text_port is None:
            yield []
            return
        async with listening(self._host, self._options.text_port, None) as listeners:
            yield listeners

    async def _poll(self, swo: Swo, packets: Channel, text: Channel) -> None:
        decoder, interval, looks = PortText(), _QUICK, 0
        while True:
            await trio.sleep(interval)
            interval, looks = _SLOW, looks + 1
            if self._control.flash_job is not None:
                continue  # the link has enough to do
            try:
                if looks % _LOOKS_BETWEEN_CHECKS == 0:
                    await self._target.call(lambda _: swo.restore())
                data = await self._target.call(lambda _: swo.read())
            except GdbServerError as error:
                log.debug("SWO: %s", error)
                continue
            if data:
                interval = _QUICK
                packets.say(data)
                text.say(decoder.feed(data))
