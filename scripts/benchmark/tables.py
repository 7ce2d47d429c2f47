"""Results as tables of Markdown: what is ours, beside what is the peer's."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.host import Host
from benchmark.loads import Result
from benchmark.servers import OURS, PEER
from benchmark.trips import Trip
from gdbserver.chip.stm32h743 import KIB

_NONE = ""
_HEADINGS = (
    *("case", "link", "limit", "ours", "ratio", "target", "pyOCD"),
    *("transactions", "erases", "KiB on the link", "CPU", "contents"),
)


def table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the heading."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "".join(
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        + " |\n"
        for row in lines
    )


def of_loads(results: Sequence[Result]) -> str:
    rows = [[*_HEADINGS]]
    for ours in (r for r in results if r.server == OURS):
        peer = next(
            (r for r in results if r.server == PEER and (r.case, r.link) == (ours.case, ours.link)),
            None,
        )
        rows.append(
            [
                ours.case,
                ours.link,
                _time(ours.limit),
                _time(ours.seconds),
                f"{ours.ratio:.3f}",
                f"{ours.target:.2f} {'met' if ours.met else 'MISSED'}",
                _time(peer.seconds) if peer else _NONE,
                _beside(ours.transactions, peer.transactions if peer else None),
                _beside(ours.erases, peer.erases if peer else None),
                _beside(ours.bytes // KIB, peer.bytes // KIB if peer else None),
                f"{ours.cpu_per_mib / peer.cpu_per_mib:.2f}" if peer and peer.right else _NONE,
                _contents(ours, peer),
            ]
        )
    return table(rows)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def _beside(ours: int, peer: int | None) -> str:
    return f"{ours}" if peer is None else f"{ours} / {peer}"


def _contents(ours: Result, peer: Result | None) -> str:
    said = [
        f"{who}: {result.failure or f'{result.wrong_bytes} bytes WRONG'}"
        for who, result in (("ours", ours), ("pyOCD", peer))
        if result is not None and not result.right
    ]
    return "; ".join(said) or "right"


def of_trips(trips: Sequence[Trip]) -> str:
    links = list(dict.fromkeys(trip.link for trip in trips))
    rows = [["transactions"]]
    for link in links:
        rows[0] += [f"{link}: ours", "at most", "pyOCD"]
    for name in dict.fromkeys(trip.name for trip in trips):
        row = [name]
        for link in links:
            for server in (OURS, PEER):
                trip = next(
                    (t for t in trips if (t.name, t.link, t.server) == (name, link, server)), None
                )
                cost = f"{trip.transactions} in {_time(trip.microseconds / 1e6)}" if trip else _NONE
                if server == OURS and trip is not None:
                    row += [cost, f"{trip.target or _NONE}{'' if trip.met else ' MISSED'}"]
                else:
                    row.append(cost)
        rows.append(row)
    return table(rows)


def of_host(measures: Sequence[Host]) -> str:
    rows = [["", "ours", "pyOCD", "ratio", "target"]]
    for measure in measures:
        ours, peer = measure.ours, measure.peer
        rows.append(
            [
                measure.name,
                f"{ours:,.{measure.digits}f}",
                f"{peer:,.{measure.digits}f}" if peer else _NONE,
                f"{ours / peer:.2f}" if peer else _NONE,
                measure.target + {True: ", met", False: ", MISSED", None: ""}[measure.met],
            ]
        )
    return table(rows)
