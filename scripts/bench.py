"""How long loads take, beside what the chips themselves need.

    scripts/bench                     every case, over both kinds of probe
    scripts/bench --quick             smaller images; fails when a load is slower than today
    scripts/bench --pyocd             pyOCD's flash loader beside ours, for internal flash
    scripts/bench --json FILE --markdown FILE

Times are the simulated board's own, with the typical column of the data sheets; so they are the
same on every machine.  Only the column "host" is not.  Contents of all devices are compared byte
for byte after each case, where a load has no business as well.

The limit of a load is what the slowest device needs for erasing and programming (each erase as
large as it can be, PSIZE x64), or the time of the data on the wires, if that is longer: 46
clocks a word, and what the probe idles between two.  DS12110, "Flash memory characteristics";
W25Q256JV, "AC Electrical Characteristics".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from pyocd.core.session import Session
from pyocd.flash.loader import FlashLoader

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    BANK1,
    BANK2,
    FLASH_WORD,
    KIB,
    MIB,
    PROGRAM_SECONDS,
    SECTOR,
    SECTOR_ERASE_SECONDS,
)
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer
from gdbserver.loader.own import builtin
from gdbserver.sim.options import DEFAULT_PINS
from gdbserver.target.probes import find_probe
from gdbserver.target.target import Target

LINKS = ("stlink-v3", "cmsis-dap-v2")
NOR = Span.of(0x90000000, 32 * MIB)
BLOCK, PAGE = 64 * KIB, 256
X64 = 3
ERASE, PROGRAM = SECTOR_ERASE_SECONDS[X64][0], PROGRAM_SECONDS[X64][0]
NOR_ERASE, NOR_PROGRAM = 0.15, 0.7e-3
CLOCKS_PER_WORD = 46

DEVICES = {"bank 1": BANK1, "bank 2": BANK2, "NOR": NOR}

Image = dict[int, bytes]  # by address; as long as a sector, or several


@dataclass(frozen=True)
class Case:
    name: str
    before: Image
    """What is in flash when the load begins; the rest is blank."""
    image: Image
    target: float
    """How many times the limit it shall take at most."""
    today: float
    """How many times the limit it takes at most, today, with the smaller images of --quick."""
    allowance: float = 0.0
    """Seconds that come on top of the limit, for comparing what is there."""


@dataclass
class Result:
    case: str
    link: str
    tool: str
    seconds: float
    limit: float
    ratio: float
    target: float
    met: bool
    slower: bool
    """It takes longer than today, or content is wrong: somebody broke something."""
    transactions: int
    bytes: int
    erases: int
    host_seconds: float
    wrong_bytes: int


# --- Cases ------------------------------------------------------------------------------------


def noise(length: int, seed: int) -> bytes:
    return Random(seed).randbytes(length)


def cases(*, quick: bool) -> Iterator[Case]:
    bank = 128 * KIB if quick else 512 * KIB
    nor = MIB if quick else 4 * MIB
    internal = {BANK1.start: noise(bank, 1), BANK2.start: noise(bank, 2)}
    external = {NOR.start: noise(nor, 3)}
    mixed = internal | external
    old = {address: noise(len(data), 9) for address, data in mixed.items()}
    old_internal = {address: old[address] for address in internal}
    old_external = {address: old[address] for address in external}

    yield Case("first load, all three devices", old, mixed, 1.05, 1.08)
    yield Case("internal flash only", old_internal, internal, 1.05, 1.39)
    yield Case("QSPI only", old_external, external, 1.03, 1.08)
    yield Case("QSPI only, blank before", {}, external, 1.03, 1.13)
    compare = 0.15 * sum(len(data) for data in mixed.values()) / MIB
    yield Case("reload, unchanged", mixed, mixed, 1.0, 1.16, compare)
    edited = {address: _edited(data) for address, data in mixed.items()}
    yield Case("reload, one function changed in each", mixed, edited, 1.0, 1.1, compare + 0.2)


def _edited(data: bytes) -> bytes:
    """The same with another function of 300 bytes somewhere in the middle."""
    at = len(data) // 2 + 5000
    return data[:at] + noise(300, 7) + data[at + 300 :]


def limit(case: Case, word_seconds: float) -> float:
    """Seconds that the devices, or the wires, need at least."""
    lanes = []
    words = 0
    for address, data in case.image.items():
        old = case.before.get(address, b"\xff" * len(data))
        external = address in NOR
        size = BLOCK if external else SECTOR
        changed = [n for n in range(0, len(data), size) if old[n : n + size] != data[n : n + size]]
        dirty = [n for n in changed if old[n : n + size].strip(b"\xff")]
        written = sum(len(data[n : n + size]) for n in changed)
        words += written // 4
        if external:
            lanes.append(len(dirty) * NOR_ERASE + written / PAGE * NOR_PROGRAM)
        else:
            lanes.append(len(dirty) * ERASE + written / FLASH_WORD * PROGRAM)
    return max(*lanes, 0.0, words * word_seconds) + case.allowance


# --- One run ----------------------------------------------------------------------------------


def fill(board: Any, image: Image) -> None:
    for address, data in image.items():
        if address in NOR:
            board.nor.memory[address - NOR.start : address - NOR.start + len(data)] = data
        else:
            board.flash.load(address, data)


def wrong_bytes(board: Any, image: Image) -> int:
    """How many bytes of the three devices are not what they should be after a load."""
    wrong = 0
    for device in DEVICES.values():
        expected = bytearray(b"\xff") * len(device)
        for address, data in image.items():
            if address in device:
                offset = address - device.start
                expected[offset : offset + len(data)] = data
        nor = device is NOR
        found = board.nor.contents(0, len(NOR)) if nor else board.flash.contents(device)
        if found != expected:
            wrong += sum(a != b for a, b in zip(found, expected, strict=True))
    return wrong


def ours(case: Case, link: str) -> Result:
    target = Target.open(f"sim:{link}")
    try:
        board = target.link.probe.board
        fill(board, case.before)
        programmer = Programmer(target, [builtin(DEFAULT_PINS)])
        programmer.describe_external()  # as the server does when it starts
        download = Download()
        for address, data in case.image.items():
            download.erase(Span.of(address, len(data)))
            download.write(address, data)
        with measured(case, link, "stm32-gdbserver", target.link.probe) as results:
            for _ in programmer.carry_out(download):
                pass
    finally:
        target.close()
    return results[0]


def pyocds(case: Case, link: str) -> Result:
    """pyOCD's flash loader, which is what its gdbserver hands a load to, on such a board."""
    probe = find_probe(f"sim:{link}")
    options = {
        "target_override": "stm32h743xx",
        "connect_mode": "under-reset",
        "frequency": 10_000_000,
        "reset.hold_time": 0.001,
        "reset.post_delay": 0.001,
        "hide_programming_progress": True,
    }
    with Session(probe, options=options) as session:
        fill(probe.board, case.before)
        loader = FlashLoader(session)
        for address, data in case.image.items():
            loader.add_data(address, data)
        with measured(case, link, "pyOCD", probe) as results:
            loader.commit()
    return results[0]


@contextmanager
def measured(case: Case, link: str, tool: str, probe: Any) -> Iterator[list[Result]]:
    """Measure what happens inside; its result is in the list afterwards."""
    board, counters = probe.board, probe.counters
    model = probe.link.model
    word_seconds = (CLOCKS_PER_WORD + model.idle_clocks) / probe.link.clock
    transactions = counters.transactions
    moved = counters.bytes_out + counters.bytes_in
    host, began = time.process_time(), probe.monotonic()
    results: list[Result] = []
    yield results
    seconds = probe.monotonic() - began
    least = limit(case, word_seconds)
    wrong = wrong_bytes(board, case.image)
    ratio = seconds / least
    results.append(
        Result(
            case=case.name,
            link=link,
            tool=tool,
            seconds=round(seconds, 4),
            limit=round(least, 4),
            ratio=round(ratio, 4),
            target=case.target,
            met=ratio <= case.target and not wrong,
            slower=ratio > case.today or bool(wrong),
            transactions=counters.transactions - transactions,
            bytes=counters.bytes_out + counters.bytes_in - moved,
            erases=board.flash.erases.total() + board.nor.erases.total(),
            host_seconds=round(time.process_time() - host, 1),
            wrong_bytes=wrong,
        )
    )


# --- Telling ----------------------------------------------------------------------------------

COLUMNS: Sequence[tuple[str, Callable[[Result], str]]] = (
    ("case", lambda r: r.case),
    ("probe", lambda r: r.link),
    ("tool", lambda r: r.tool),
    ("time", lambda r: f"{r.seconds:.2f} s"),
    ("limit", lambda r: f"{r.limit:.2f} s"),
    ("ratio", lambda r: f"{r.ratio:.3f}"),
    ("target", lambda r: f"{r.target:.2f} {'met' if r.met else 'MISSED'}"),
    ("transactions", lambda r: f"{r.transactions}"),
    ("KiB moved", lambda r: f"{r.bytes // KIB}"),
    ("erases", lambda r: f"{r.erases}"),
    ("host", lambda r: f"{r.host_seconds:.1f} s"),
    ("wrong bytes", lambda r: f"{r.wrong_bytes}"),
)


def markdown(results: Sequence[Result]) -> str:
    rows = [[name for name, _ in COLUMNS]]
    rows += [[tell(result) for _, tell in COLUMNS] for result in results]
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    rows.insert(1, ["-" * width for width in widths])
    lines = (
        " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(f"| {line} |\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="How long loads take.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smaller images; fails when a load is slower than today",
    )
    parser.add_argument("--pyocd", action="store_true", help="pyOCD's flash loader as well")
    parser.add_argument("--link", action="append", help=f"a probe (default: {', '.join(LINKS)})")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    results: list[Result] = []
    for case in cases(quick=arguments.quick):
        if arguments.case not in case.name:
            continue
        for link in arguments.link or LINKS:
            results.append(ours(case, link))
            if arguments.pyocd and NOR.start not in case.image:
                results.append(pyocds(case, link))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table = markdown(results)
    print(table, end="")
    if arguments.markdown:
        arguments.markdown.write_text(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
    own = [result for result in results if result.tool != "pyOCD"]
    return int(arguments.quick and any(result.slower for result in own))


if __name__ == "__main__":
    sys.exit(main())
