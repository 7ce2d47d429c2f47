"""The GDBs that the stories are told to."""

from __future__ import annotations

import pytest
import support


@pytest.fixture(params=["gdb-multiarch", "gdb-18"])
def gdb_program(request: pytest.FixtureRequest) -> str:
    """Debian's GDB, and a recent one."""
    if request.param == "gdb-multiarch":
        return "gdb-multiarch"
    return str(support.client("debuggers/bin/gdb"))
