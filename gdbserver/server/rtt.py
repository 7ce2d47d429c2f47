"""RTT channels at TCP ports: what a program prints there, whoever debugs it, or nobody.

One task polls the program's rings through the worker, like any other caller, and so between two
requests of a debugger and never in the middle of one.  How often depends on how much is said.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from gdbserver.errors import CannotListen, GdbServerError
from gdbserver.program.known import KnownProgram
from gdbserver.server.channel import Channel
from gdbserver.server.control import Control
from gdbserver.server.listening import listening
from gdbserver.server.worker import Worker
from gdbserver.target.rtt import SYMBOL, Rtt
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_QUICK: Final = 0.005
_SLOW: Final = 0.1
"""Seconds between two looks, while the program talks and while it does not."""
_SEARCHING: Final = 0.01
_PIECE: Final = 0x1000


class RttPorts:
    """All channels of whatever program runs; channel n is at the first port plus n."""

    def __init__(
        self,
        target: Worker[Target],
        control: Control,
        host: str,
        port: int,
        program: KnownProgram | None = None,
    ) -> None:
        self._target = target
        self._program = program
        self._control = control
        self._host = host
        self._port = port
        self._channels: dict[int, Channel] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Poll and serve in the background of the block; channel 0 is there from the start.

        Raises:
            CannotListen: its port is in use.
        """
        async with (
            listening(self._host, self._port, None) as listeners,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._new(0, "").listen, listeners)
            nursery.start_soon(self._poll, nursery)
            yield
            nursery.cancel_scope.cancel()

    def _new(self, number: int, name: str) -> Channel:
        title = f"RTT channel {number}" + (f" ({name})" if name else "")
        self._channels[number] = channel = Channel(title)
        return channel

    async def _poll(self, nursery: trio.Nursery) -> None:
        rtt = await self._target.call(Rtt)
        rtt.likely = await self._symbol()
        interval, new_program = _QUICK, False
        while True:
            await trio.sleep(interval)
            if self._control.flash_job is not None:
                new_program = True  # a loader may have RAM now, and the link has enough to do
                continue
            try:
                if new_program and await self._target.call(Target.is_halted):
                    await self._target.call(lambda _: rtt.forget())
                    rtt.likely = await self._symbol()
                new_program = False
                heard = await self._exchange(rtt, nursery)
            except GdbServerError as error:
                log.debug("RTT: %s", error)
                interval = _SLOW
                continue
            if heard:
                interval = _QUICK
            else:
                interval = min(2 * interval, _SLOW if rtt.found else _SEARCHING)

    async def _symbol(self) -> int | None:
        """Where the program that the server was told of has its block."""
        if self._program is None:
            return None
        return await trio.to_thread.run_sync(self._program.address_of, SYMBOL)

    async def _exchange(self, rtt: Rtt, nursery: trio.Nursery) -> bool:
        """Bring what there is to where it belongs; whether there was anything."""
        heard = await self._target.call(lambda _: rtt.poll())
        for number, name in rtt.channels.items():
            if number not in self._channels:
                nursery.start_soon(self._open_one, number, self._new(number, name))
        for number, data in heard.items():
            self._channels[number].say(data)
        written = 0
        for number, channel in self._channels.items():
            if channel.typed:
                typed = bytes(channel.typed[:_PIECE])
                count = await self._target.call(_write, rtt, number, typed)
                channel.accepted(count)
                written += count
        return bool(heard or written)

    async def _open_one(self, number: int, channel: Channel) -> None:
        port = self._port + number if self._port else 0
        try:
            async with listening(self._host, port, None) as listeners:
                await channel.listen(listeners)
        except CannotListen as error:
            log.warning("%s has no port: %s", channel.title, error)


def _write(_target: Target, rtt: Rtt, channel: int, data: bytes) -> int:
    return rtt.write(channel, data)
