"""The client at the other end of the stream: what it sends, and what it is sent.

Rule 1: `receive` is the one place that waits for the client, and cancelling it loses nothing.  One
task at a time does: the session's, or while a command takes long, one in `_look_after`.
Rule 2: what is sent leaves in one piece, whoever else is sending.
Rule 3: console output and keep-alives go out only where GDB and LLDB expect or ignore them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable
from typing import TypeVar

import trio

from gdbserver.errors import ClientLeft, Interrupted
from gdbserver.rsp import replies
from gdbserver.rsp.packets import Connection, Disconnected, Event, Interrupt
from gdbserver.server.control import Control

log = logging.getLogger(__name__)

T = TypeVar("T")

# GDB gives up on most packets after three silences of 2 s; any notification starts them anew.
_KEEP_ALIVE = 1.0
# Most commands are carried out before anybody could care whether the client is still there.
_SOON = 0.05


class Client:
    """One client, known by its name, and what it said that it understands."""

    def __init__(self, stream: trio.abc.Stream, name: str, control: Control) -> None:
        self.name = name
        self.features: frozenset[str] = frozenset()
        self.error_strings = False
        self.extended = False
        self.wants_threads = False
        self.gone = False
        self._stream = stream
        self._control = control
        self._connection = Connection()
        self._sending = trio.Lock()
        self._unheard: list[Event] = []
        self._waiting = False
        self._begun = trio.Event()
        self._attending = trio.Lock()
        self._attention = trio.CancelScope()

    @property
    def is_gdb(self) -> bool:
        """Whether it is GDB, with its habits: it always offers this, and nobody else does."""
        return "qRelocInsn+" in self.features

    # --- Hearing ---------------------------------------------------------------------------------

    async def next_event(self) -> Event:
        """Wait for what the client says next."""
        while (event := self.event()) is None:
            await self.flush()
            await self.receive()
        return event

    async def listen(self, patience: float) -> Event | None:
        """Wait for what the client says next, but not longer than `patience`."""
        if (event := self.event()) is None:
            with trio.move_on_after(patience):
                await self.receive()
            event = self.event()
        await self.flush()
        return event

    def event(self) -> Event | None:
        """What it has said already, or None."""
        return self._unheard.pop(0) if self._unheard else self._connection.next_event()

    def hear_again(self, event: Event) -> None:
        """Put back what somebody else is to deal with, once it is their turn."""
        self._unheard.append(event)

    async def receive(self) -> None:
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:
            data = b""  # a client that vanished has disconnected
        if not data:
            self._note_departure()
        self._connection.receive_data(data)

    async def while_waiting(self, answer: Awaitable[T]) -> T:
        """Carry out a command, of which it is not known how long it takes: see `attend`."""
        self._waiting = True
        self._begun.set()
        try:
            return await answer
        finally:
            self._waiting = False
            if self._attending.locked():
                self._attention.cancel()
                async with self._attending:
                    pass  # it hears nothing more

    async def heard_while(self, answer: Awaitable[T]) -> T:
        """The same for one that takes long, or that an interrupt may end: heard from the start."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after)
            result = await answer
            nursery.cancel_scope.cancel()
        return result

    async def attend(self) -> None:
        """As long as the client is there, look after it whenever a command takes long.

        One task does so for all commands: to start and end one for each takes as long as most
        commands do.  It looks now and then whether one is being carried out, and while there is
        none for longer, sleeps.
        """
        while True:
            await self._begun.wait()
            self._begun = trio.Event()
            await trio.sleep(_SOON)
            while self._waiting:
                with trio.CancelScope() as self._attention:
                    async with self._attending:
                        await self._look_after()
                await trio.sleep(_SOON)

    async def _look_after(self) -> None:
        """Say that we live, and notice if the client leaves."""
        for beat in itertools.count():
            with trio.move_on_after(_KEEP_ALIVE):
                while not self.gone:
                    await self.receive()
                return
            if self.error_strings:
                continue  # LLDB, which takes a notification for the reply that it waits for
            self._connection.notify(b"Busy:%x" % beat)
            # Cut off in the middle it would garble what follows.
            with trio.move_on_after(_KEEP_ALIVE, shield=True):
                await self.flush()

    def look(self) -> None:
        """End a job whose client is there no more.

        Raises: ClientLeft.
        """
        if self.gone:
            raise ClientLeft

    def look_for_interrupt(self) -> None:
        """End a job whose client is there no more, or does not want it any longer.

        Raises: ClientLeft, Interrupted.
        """
        self.look()
        while (event := self._connection.next_event()) is not None:
            if isinstance(event, Interrupt):
                raise Interrupted
            self.hear_again(event)
            if isinstance(event, Disconnected):
                return

    def _note_departure(self) -> None:
        job = self._control.flash_job
        if job is not None and not self.gone and self._control.holder == self.name:
            log.info("%s has left during %s: waiting until flash is idle", self.name, job)
        self.gone = True
        self._control.depart(self.name)

    # --- Telling ---------------------------------------------------------------------------------

    async def send(self, payload: bytes) -> None:
        self._connection.send(payload)
        await self.flush()

    async def notify(self, payload: bytes) -> None:
        """Say something that is no reply."""
        log.debug("%s <- %% %.200r", self.name, payload)
        self._connection.notify(payload)
        await self.flush()

    async def say(self, text: str | bytes) -> None:
        """Print on the client's console: only while the core runs or a qRcmd does."""
        await self.send(replies.console(text))

    async def stop_acks(self) -> None:
        self._connection.send(replies.OK)
        self._connection.stop_acks()
        await self.flush()

    async def flush(self) -> None:
        """Send what is due.  With nothing to wait for, a trip through the scheduler is saved."""
        while self._sending.locked():
            async with self._sending:
                pass  # what is on its way comes first
        data = self._connection.data_to_send()
        if not data:
            return
        self._sending.acquire_nowait()
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self._note_departure()
            self._connection.receive_data(b"")
        finally:
            self._sending.release()

    def error(self, code: int, text: str) -> bytes:
        """An error in the form that this client can show."""
        if self.error_strings:
            return replies.lldb_error(code, text)
        return replies.error(code, text if "error-message+" in self.features else None)
