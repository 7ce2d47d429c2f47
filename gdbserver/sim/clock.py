"""Virtual time: integer nanoseconds that pass only when something on the board takes time.

Nothing here looks at the host's clock, so the same inputs give the same nanoseconds on
every machine.  Devices say when they will be done (`after`), and whoever lets time pass
(the probe's link, the running core, a stalled bus) calls `advance_to`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000


@dataclass(order=True, slots=True)
class Event:
    """Something that happens at `when`; events of one instant happen in the order of asking."""

    when: int
    order: int
    action: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The board's one clock.  `now` never goes backwards."""

    def __init__(self) -> None:
        self.now = 0
        self._events: list[Event] = []
        self._count = 0
        self.before_waiting: list[Callable[[], None]] = []
        """Called by `next_change`: devices make events for what nobody but a waiting one sees."""

    def after(self, delay: int, action: Callable[[], None]) -> Event:
        """Call `action` once, `delay` nanoseconds from now."""
        event = Event(self.now + max(0, delay), self._count, action)
        self._count += 1
        heapq.heappush(self._events, event)
        return event

    @property
    def next_event(self) -> int | None:
        """When the next event is due, or None if nothing is."""
        while self._events and self._events[0].cancelled:
            heapq.heappop(self._events)
        return self._events[0].when if self._events else None

    def next_change(self) -> int | None:
        """When what can be seen may be another, for somebody who waits for that.

        A level that rises by itself has no events otherwise: they would cost more than it does.
        """
        for make_events in self.before_waiting:
            make_events()
        return self.next_event

    def advance_to(self, when: int) -> None:
        """Let time pass until `when`, and let everything happen that is due by then."""
        # The core comes here for each of its accesses to a peripheral, so: no call too many.
        events = self._events
        while events and (events[0].when <= when or events[0].cancelled):
            event = heapq.heappop(events)
            if not event.cancelled:
                self.now = max(self.now, event.when)
                event.action()
        self.now = max(self.now, when)
