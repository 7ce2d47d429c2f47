"""``stm32-gdbserver`` as ever, which tells a file in what state it has left the simulated board.

python watched_server.py REPORT --probe sim --port 0
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from gdbserver.cli.main import main
from gdbserver.sim.board import Board
from gdbserver.sim.debug_units import Dwt


def report(path: Path) -> None:
    """What the boards of this process look like."""
    (board,) = [thing for thing in gc.get_objects() if isinstance(thing, Board)]
    armed = [board.fpb.raw(comparator) & 1 for comparator in board.fpb.COMPARATORS]
    armed += [board.dwt.raw(function) & 15 for _, _, function in Dwt.COMPARATORS]
    path.write_text(json.dumps({"halted": board.core.halted, "armed": sum(map(bool, armed))}))


if __name__ == "__main__":
    there = Path(sys.argv.pop(1))
    try:
        main()
    finally:
        report(there)
