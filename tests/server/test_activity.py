"""The words for what has failed."""

from __future__ import annotations

from typing import get_args

import pytest

from gdbserver.rsp import commands
from gdbserver.server import activity


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"vFlashDone", "load"),
        (b"?", "connecting"),
        (b"P0=00000000", "writing a register"),
        (b"p0;thread:1;", "reading a register"),
        (b"m20000000,4", "reading memory"),
        (b"Z1,8000000,2", "setting a breakpoint"),
        (b"z2,20000000,4", "removing a watchpoint"),
        (b"vCont;s:1;c", "step"),
        (b"vCont;c", "continue"),
        (b"qXfer:threads:read::0,1000", "listing threads"),
        (b"qRcmd," + b"reset hard".hex().encode(), "monitor reset"),
        (b"qRcmd,", "monitor"),
        (b"vRun;", "run"),
    ],
)
def test_a_packet_is_called_what_its_user_did(payload: bytes, words: str) -> None:
    assert activity.of(commands.parse(payload)) == words


def test_there_are_words_for_every_command() -> None:
    examples = {
        commands.OnThread: commands.OnThread(1, commands.ReadRegisters()),
        commands.Resume: commands.Resume(()),
        commands.SetPoint: commands.SetPoint(0, 0, 2),
        commands.ClearPoint: commands.ClearPoint(0, 0, 2),
        commands.Transfer: commands.Transfer("libraries", "", 0, 1),
        commands.Monitor: commands.Monitor("why"),
    }
    for kind in get_args(commands.Command):
        command = examples.get(kind) or object.__new__(kind)
        assert activity.of(command) == activity.of(command).strip() != ""
