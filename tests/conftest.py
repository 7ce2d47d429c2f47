"""Programs for the target, as fixtures: built once per session, and only when a test asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import support


@pytest.fixture(scope="session")
def demo_elf() -> Path:
    return support.demo()


@pytest.fixture(scope="session")
def drills_elf() -> Path:
    return support.drills()
