"""ST-LINK_gdbserver as ever, which tells in the end how fast its simulated probe has been."""

from __future__ import annotations

import gc
import sys

from gdbserver.cli.stlink import run
from gdbserver.sim.link import Link

if __name__ == "__main__":
    status = run(sys.argv[1:])
    for link in [thing for thing in gc.get_objects() if isinstance(thing, Link)]:
        print(f"SWD clock: {link.clock}")
    sys.exit(status)
