"""A channel of bytes at a TCP port, for as many as like to listen.

It keeps the last of what was said, so a client that connects late reads that first; one that reads
too slowly misses what is older, and holds up nobody.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

log = logging.getLogger(__name__)

_KEPT: Final = 0x10000
"""Bytes of each channel, for clients that connect later."""
_PIECE: Final = 0x1000
"""Bytes that are sent at once, and that are typed ahead."""


class Channel:
    """One channel, both ways; `title` is what it is called on the server's terminal."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.typed = bytearray()
        """What was sent to it, and nobody has taken yet."""
        self._kept = bytearray()
        self._dropped = 0
        self._changed = trio.Event()

    def say(self, data: bytes) -> None:
        self._kept += data
        if (excess := len(self._kept) - _KEPT) > 0:
            del self._kept[:excess]
            self._dropped += excess
        self._wake()

    def accepted(self, count: int) -> None:
        """So much of what was typed has been taken."""
        del self.typed[:count]
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def listen(self, listeners: list[trio.SocketListener]) -> None:
        """Serve whoever connects, for ever."""
        log.info("%s is at port %d", self.title, listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self.serve, listeners)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection, until it is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream)
            try:
                async for data in stream:
                    self.typed += data
                    while len(self.typed) > _PIECE:
                        await self._changed.wait()
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.SocketStream) -> None:
        at = self._dropped
        try:
            while True:
                at = max(at, self._dropped)
                data = bytes(self._kept[at - self._dropped :][:_PIECE])
                if data:
                    await stream.send_all(data)
                    at += len(data)
                else:
                    await self._changed.wait()
        except trio.BrokenResourceError:
            pass  # `serve` will hear of it
