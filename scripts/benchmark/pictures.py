"""The lanes of a load over the board's time: as a picture (SVG), and for a trace viewer.

A lane is one device's part of a load.  Its steps follow each other, so each has taken from the
end of the one before to its own.  The trace is Chrome's "Trace Event Format" in JSON, which
Perfetto (https://ui.perfetto.dev) and chrome://tracing open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmark.loads import Event

COLOURS = {
    "compared": "#9db4c0",
    "erased": "#e0a458",
    "programmed": "#5c8d5a",
    "verified": "#6b7fb8",
}
_OTHER = "#b0b0b0"
_LEFT, _WIDTH, _HEIGHT, _GAP, _TOP = 90, 860, 26, 10, 34


@dataclass(frozen=True)
class Bar:
    """A stretch of time that a lane spent with one thing."""

    lane: str
    action: str
    what: str
    start: float
    end: float


def bars(events: Sequence[Event]) -> list[Bar]:
    """One bar for each step."""
    ends: dict[str, float] = {}
    found = []
    for step, now in events:
        if step.action == "waiting":
            continue
        start = ends.get(step.region.name, 0.0)
        found.append(Bar(step.region.name, step.action, str(step.span), start, now))
        ends[step.region.name] = now
    return found


def _joined(found: Sequence[Bar]) -> list[Bar]:
    """Neighbours of one kind as one: a picture needs no more."""
    joined: list[Bar] = []
    last: dict[str, int] = {}
    for bar in found:
        at = last.get(bar.lane)
        if at is not None and joined[at].action == bar.action and joined[at].end == bar.start:
            before = joined[at]
            joined[at] = Bar(bar.lane, bar.action, before.what, before.start, bar.end)
        else:
            last[bar.lane] = len(joined)
            joined.append(bar)
    return joined


def svg(title: str, events: Sequence[Event], limit: float, total: float) -> str:
    """The lanes as bars, the limit as a line."""
    joined = _joined(bars(events))
    lanes = sorted({bar.lane for bar in joined})
    height = _TOP + len(lanes) * (_HEIGHT + _GAP) + 56
    span = max(total, limit) * 1.02
    scale = _WIDTH / span

    def x(seconds: float) -> str:
        return f"{_LEFT + seconds * scale:.1f}"

    bottom = _TOP + len(lanes) * (_HEIGHT + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}"',
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for row, lane in enumerate(lanes):
        y = _TOP + row * (_HEIGHT + _GAP)
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 17}" text-anchor="end">{escape(lane)}</text>')
        for bar in joined:
            if bar.lane == lane:
                width = max((bar.end - bar.start) * scale, 0.3)
                colour = COLOURS.get(bar.action, _OTHER)
                lines.append(
                    f'<rect x="{x(bar.start)}" y="{y}" width="{width:.1f}" height="{_HEIGHT}" '
                    f'fill="{colour}"/>'
                )
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 1000) if span / s <= 14)
    for number in range(int(span / step) + 1):
        at = x(number * step)
        lines.append(f'<path d="M{at} {bottom}v5" stroke="black"/>')
        lines.append(
            f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{number * step:g}</text>'
        )
    lines.append(
        f'<path d="M{x(limit)} {_TOP - 6}V{bottom}" stroke="black" stroke-dasharray="4 3"/>'
        f'<text x="{x(limit)}" y="{_TOP - 9}" text-anchor="end">limit {limit:.2f} s</text>'
    )
    for number, (action, colour) in enumerate(COLOURS.items()):
        left, y = _LEFT + 120 * number, bottom + 32
        lines.append(f'<rect x="{left}" y="{y}" width="14" height="14" fill="{colour}"/>')
        lines.append(f'<text x="{left + 20}" y="{y + 12}">{action}</text>')
    lines.append(f'<text x="{_LEFT + _WIDTH}" y="{bottom + 44}" text-anchor="end">seconds</text>')
    return "\n".join([*lines, "</svg>", ""])


def trace(title: str, events: Sequence[Event]) -> str:
    """Trace events: a thread for each lane, microseconds of the board's time."""
    found = bars(events)
    lanes = {lane: number for number, lane in enumerate(sorted({bar.lane for bar in found}), 1)}
    records: list[dict[str, object]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": title}}
    ]
    for lane, number in lanes.items():
        name = {"name": lane}
        records.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": name})
    for bar in found:
        records.append(
            {
                "ph": "X",
                "name": bar.action,
                "cat": "flash",
                "pid": 1,
                "tid": lanes[bar.lane],
                "ts": round(bar.start * 1e6, 3),
                "dur": round((bar.end - bar.start) * 1e6, 3),
                "args": {"span": bar.what},
            }
        )
    return json.dumps({"traceEvents": records, "displayTimeUnit": "ms"})
