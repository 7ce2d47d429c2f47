"""Virtual time: integer nanoseconds that pass only when something on the board takes time.

Nothing here looks at the host's clock, so the same inputs give the same nanoseconds on
every machine.  Devices say when they will be done (`after`), and whoever lets time pass
(the probe's link, the running core, a stalled bus) calls `advance_to`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000

NEVER = 1 << 63

Timing = Literal["typical", "maximum"]
"""Which column of the data sheets says how long something takes."""


@dataclass(eq=False, slots=True)
class Event:
    """Something that happens at `when`; events of one instant happen in the order of asking."""

    when: int
    action: Callable[[], None]
    silent: bool = False
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The board's one clock.  `now` never goes backwards.

    Code that moves it often may set `now` itself, as long as that stays before `quiet_until`.
    """

    def __init__(self) -> None:
        self.now = 0
        self.quiet_until = NEVER
        """Nothing happens before then, and it is not later than what `look_ahead` was told."""
        self._ahead = NEVER
        self._events: list[tuple[int, int, Event]] = []
        """With what to sort them by in front: tuples are compared without a call."""
        self._count = 0
        self.noticeable = 0
        """Events so far that were not silent."""
        self.before_waiting: list[Callable[[], None]] = []
        """Called by `next_change`: devices make the events that matter only to code that waits."""

    def after(self, delay: int, action: Callable[[], None], *, silent: bool = False) -> Event:
        """Call `action` once, `delay` nanoseconds from now.

        A silent one changes registers and nothing else: only code that reads them notices.
        """
        when = self.now + max(0, delay)
        event = Event(when, action, silent)
        heapq.heappush(self._events, (when, self._count, event))
        self._count += 1
        self.quiet_until = min(self.quiet_until, when)
        return event

    @property
    def next_event(self) -> int | None:
        """When the next event is due, or None if nothing is."""
        self._note_quiet()
        return self._events[0][0] if self._events else None

    def look_ahead(self, when: int) -> int:
        """How far, up to `when`, nothing happens; `quiet_until` is never later from now on."""
        self._ahead = when
        self._note_quiet()
        return self.quiet_until

    def _note_quiet(self) -> None:
        events = self._events
        while events and events[0][2].cancelled:
            heapq.heappop(events)
        due = events[0][0] if events else NEVER
        self.quiet_until = due if due < self._ahead else self._ahead

    def next_change(self) -> int | None:
        """When something that can be read may change next, for code that waits for that.

        A level that rises by itself has events only then: they would cost more than it does.
        """
        for make_events in self.before_waiting:
            make_events()
        return self.next_event

    def passes_quietly(self, when: int) -> bool:
        """Let time pass until `when`, if nothing happens by then; whether it has passed."""
        if self._events and self._events[0][0] <= when:
            return False
        self.now = max(self.now, when)
        return True

    def advance_to(self, when: int) -> None:
        """Let time pass until `when`, and let everything happen that is due by then."""
        if when >= self.quiet_until:
            events = self._events
            while events and (events[0][0] <= when or events[0][2].cancelled):
                due, _, event = heapq.heappop(events)
                if not event.cancelled:
                    self.now = max(self.now, due)
                    if not event.silent:
                        self.noticeable += 1
                    event.action()
            self._note_quiet()
        self.now = max(self.now, when)
