"""What the clients of one machine share: who is in control, and what went wrong last.

The first client controls the core.  Later ones read memory and registers, and never halt,
resume or write; what they may not do is refused with a sentence.  Whoever asks to control
while nobody does, does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from gdbserver.errors import GdbServerError, NotInControl, explain

# A client that reconnects at once can be heard before its old connection's end is.
_GRACE = 0.25
# GDB takes 2 s without an answer for a server that is gone.  Who comes while a device ends what its
# client no longer wants is let in before that, to be told so.
_PATIENCE = 1.0
# More failures than that nobody reads.
_MEMORY = 12


@dataclass
class Control:
    """Shared by all sessions; a client is known by its name, such as 127.0.0.1:50414."""

    holder: str | None = None
    clients: list[str] = field(default_factory=list)
    flash_job: str | None = None
    _departing: bool = False
    _freed: trio.Event = field(default_factory=trio.Event)
    _failures: dict[str, list[str]] = field(default_factory=dict)

    async def enter(self, client: str) -> None:
        """Admit a client; wait for the controller, if it is on its way out."""
        self.clients.append(client)
        deadline = trio.current_time() + _PATIENCE
        try:
            while self.holder is not None:
                with trio.move_on_after(_GRACE) as patience:
                    await self._freed.wait()
                late = self.flash_job is not None and trio.current_time() >= deadline
                if patience.cancelled_caught and (late or not self._departing):
                    break
        except trio.Cancelled:
            self.clients.remove(client)
            raise
        self.holder = self.holder or client

    def depart(self, client: str) -> None:
        """Note that a client has gone; it stays in control until all is as it should be."""
        self._departing |= self.holder == client

    def leave(self, client: str) -> None:
        self.clients.remove(client)
        if self.holder == client:
            self.holder = None
            self._departing = False
            self._freed.set()
            self._freed = trio.Event()

    def check(self, client: str) -> None:
        """Take control if it is free.

        Raises:
            NotInControl: somebody else has it.
        """
        self.holder = self.holder or client
        if self.holder != client:
            raise NotInControl(self.holder)

    @contextmanager
    def changing_flash(self, job: str) -> Iterator[None]:
        """While it lasts nobody reads flash: a device that is busy would stall the bus."""
        self.flash_job = job
        try:
            yield
        finally:
            self.flash_job = None

    def remember(self, action: str, error: GdbServerError) -> None:
        """Keep the last failure of each kind of action, in the words of `activity`."""
        self._failures.pop(action, None)
        self._failures[action] = list(explain(error))
        while len(self._failures) > _MEMORY:
            del self._failures[next(iter(self._failures))]

    def failures(self) -> Iterator[tuple[str, list[str]]]:
        """What failed and why, the newest first."""
        return reversed(self._failures.items())
