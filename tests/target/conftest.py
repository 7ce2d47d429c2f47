"""A target whose board runs `tests/firmware/drills.c`, on each kind of link."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from target_bench import Bench, make_bench


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def bench(request: pytest.FixtureRequest, drills_elf: Path) -> Iterator[Bench]:
    """Halted at the reset vector of the drills; on the two kinds of probe there are."""
    yield from make_bench(f"sim:{request.param}", drills_elf)


@pytest.fixture
def quick(drills_elf: Path) -> Iterator[Bench]:
    """The same on a link that costs nothing, for what does not depend on the link."""
    yield from make_bench("sim:ideal", drills_elf)
