from __future__ import annotations

from pathlib import Path

import pytest
import trio
from dialogue import play

SCRIPTS = sorted((Path(__file__).parents[1] / "conversations").glob("*.txt"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_server_keeps_to_the_script(script: Path) -> None:
    trio.run(play, script.name, script.read_text().splitlines())
