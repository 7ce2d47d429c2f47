"""What it costs to load, to look and to step: ours, beside pyOCD's gdbserver.

    scripts/bench                     everything, by a real GDB, over several kinds of probe
    scripts/bench --quick             ours only, smaller images, nothing that depends on the
                                      machine; fails when a target that is met today is missed
    scripts/bench --json FILE --markdown FILE --svg FILE --trace FILE

Times are the simulated board's own, with the typical column of the data sheets; so they are the
same on every machine.  CPU time is not, and is told as a ratio: what a server takes of the host
outside the simulated board, for a MiB, ours by pyOCD's.  Contents of all devices are compared
byte for byte after each case, where a load has no business as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from benchmark import host, pictures, tables
from benchmark.cases import USUAL, Case, cases
from benchmark.host import Host
from benchmark.loads import Event, Result, load, memory_images
from benchmark.meter import tell_the_board_apart
from benchmark.servers import OURS, PEER
from benchmark.trips import Trip, round_trips

T = TypeVar("T")

PARTS = ("loads", "memory", "trips", "host")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="What loading and debugging cost, beside pyOCD."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="ours only, smaller images, no host; fails when a target met today is missed",
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeatable")
    parser.add_argument("--case", default="", help="only loads whose name contains this")
    parser.add_argument("--link", action="append", help="only over this probe, as in sim:LINK")
    parser.add_argument("--alone", action="store_true", help="without pyOCD")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="lanes of the first load")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="the same for Perfetto")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    parts = _parts(asked)
    servers = (OURS,) if asked.quick or asked.alone else (OURS, PEER)
    tell_the_board_apart()
    loads: list[Result] = []
    trips: list[Trip] = []
    costs: list[Host] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "loads" in parts:
            chosen = [case for case in cases(quick=asked.quick) if asked.case in case.name]
            loads += _loads(chosen, asked, servers, work)
        if "memory" in parts:
            for link in asked.link or USUAL:
                for server in servers:
                    loads += _shown(memory_images(link, server, work))
        if "trips" in parts:
            for link in asked.link or USUAL:
                for server in servers:
                    trips += _shown(round_trips(link, server))
        if "host" in parts:
            costs += _shown(host.measures(work, alone=len(servers) == 1))
    told = "\n".join(
        text
        for rows, text in (
            (loads, tables.of_loads(loads)),
            (trips, tables.of_trips(trips)),
            (costs, tables.of_host(costs)),
        )
        if rows
    )
    print(told, end="")
    if asked.markdown:
        asked.markdown.write_text(told)
    if asked.json:
        record = {
            "loads": [asdict(one) | {"ratio": one.ratio, "met": one.met} for one in loads],
            "round trips": [asdict(one) | {"met": one.met} for one in trips],
            "host": [asdict(one) for one in costs],
        }
        asked.json.write_text(json.dumps(record, indent=2) + "\n")
    met = all(one.met for one in loads) and all(one.met for one in trips)
    return int(asked.quick and not met)


def _parts(asked: argparse.Namespace) -> Sequence[str]:
    if asked.part:
        return asked.part  # type: ignore[no-any-return]
    if asked.case:
        return ("loads",)
    return PARTS if not asked.quick else ("loads", "memory", "trips")


def _loads(
    chosen: Sequence[Case], asked: argparse.Namespace, servers: Sequence[str], work: Path
) -> Iterator[Result]:
    drawn = False
    for case in chosen:
        for link in links_for(case, chosen, asked.link):
            for server in servers[:1] if case.alone else servers:
                result, events = load(case, link, server, work)
                if events and not drawn:
                    _draw(result, events, asked)
                    drawn = True
                yield from _shown([result])


def links_for(case: Case, chosen: Sequence[Case], asked: Sequence[str] | None) -> Sequence[str]:
    """The case's own, or those of them that were asked for; one that no case has is for all."""
    if not asked:
        return case.links
    usual = {link for other in chosen for link in other.links}
    return [link for link in asked if link in case.links or link not in usual]


def _draw(result: Result, events: Sequence[Event], asked: argparse.Namespace) -> None:
    title = f"{result.case}, over {result.link}"
    if asked.svg:
        asked.svg.write_text(pictures.svg(title, events, result.limit, result.seconds))
    if asked.trace:
        asked.trace.write_text(pictures.trace(title, events))


def _shown(results: Iterable[T]) -> Iterator[T]:
    """Each is told as soon as it is known: some take minutes."""
    for result in results:
        print(result, file=sys.stderr, flush=True)
        yield result


if __name__ == "__main__":
    sys.exit(main())
