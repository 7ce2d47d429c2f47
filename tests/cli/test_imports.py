"""What a start imports: a module that it does not need is paid for by everybody, every time."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import click
import pytest

from gdbserver.cli.main import command

COMMANDS = [sys.executable, "-X", "importtime", "-m", "gdbserver"]
STLINK = "from gdbserver.cli.stlink import main; main()"


def imported(*words: str) -> set[str]:
    """Every module that a process imports from its start to its end, or to its first client."""
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=told, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line == "Waiting for debugger connection...\n":
                process.terminate()
        status = process.wait(60)
        told.seek(0)
        lines = told.read().splitlines()
    assert status == 0, lines[-5:]
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


HEAVY = {"pyocd", "trio", "unicorn", "elftools", "construct", "capstone", "bincopy", "rich"}


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_who_wants_to_know_something_waits_for_no_driver(word: str) -> None:
    assert not packages(imported(*COMMANDS, word)) & HEAVY


@pytest.mark.parametrize("word", ["--help", "--version", "--ext-memory-loaders"])
def test_who_asks_the_other_command_line_neither(word: str) -> None:
    words = [sys.executable, "-X", "importtime", "-c", STLINK, word]
    assert not packages(imported(*words)) & HEAVY


def test_who_serves_nobody_does_without_an_event_loop() -> None:
    modules = imported(*COMMANDS, "info", "--probe", "sim")
    assert "trio" not in modules
    assert not {module for module in modules if module.startswith("gdbserver.server")}


def test_a_server_starts_without_what_its_siblings_and_some_clients_need() -> None:
    modules = imported(*COMMANDS, "--probe", "sim", "--port", "0")
    assert not packages(modules) & {"capstone", "bincopy", "rich", "pytest"}
    assert not modules & {
        "gdbserver.cli.job",
        "gdbserver.cli.stlink",
        "gdbserver.flash.image",
        "gdbserver.loader.check",
        "gdbserver.loader.checklist",
        "gdbserver.loader.hazards",
    }


def test_the_list_of_commands_says_what_each_of_them_says() -> None:
    assert isinstance(command, click.Group)
    context = click.Context(command, terminal_width=200)
    listed = " ".join(command.get_help(context).split())
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        assert f"{name} {found.get_short_help_str(200)}" in listed


def test_what_a_conversation_takes_is_not_waited_for_by_a_start() -> None:
    words = [sys.executable, "-X", "importtime", "-c", "import gdbserver.cli.serving"]
    modules = imported(*words)
    assert "trio" not in modules
    assert not modules & {
        "gdbserver.rsp.commands",
        "gdbserver.server.serve",
        "gdbserver.server.session",
        "gdbserver.server.monitor",
        "gdbserver.target.rtos",
        "gdbserver.target.semihosting",
    }
