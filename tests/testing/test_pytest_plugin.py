"""``pytest --stm32-probe sim``: what a firmware team writes, run by a pytest of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import support

import gdbserver.testing.server  # noqa: F401  # here, so that a run inside this one does not unload it

pytest_plugins = ["pytester"]

ON_TARGET = """
from pathlib import Path

ELF = Path({elf!r})

def test_counts(stm32_gdb):
    stm32_gdb.load(ELF)
    stm32_gdb.break_at("add")
    stop = stm32_gdb.run()
    assert (stop.reason, stop.function) == ("breakpoint-hit", "add")
    assert stm32_gdb.backtrace() == ["add", "main"]
    assert stm32_gdb.read("counter") == 0
    assert stm32_gdb.read("greeting") == '"hello from the QSPI NOR"'
    stm32_gdb.run()
    assert stm32_gdb.read("counter") == 1
    assert stm32_gdb.read("mean") == 77.5
    assert stm32_gdb.read_memory(0x90000000, 4) == stm32_gdb.read_memory(0x90000000, 8)[:4]

def test_finds_nothing_of_the_test_before_it(stm32_gdb, stm32_target):
    assert "No breakpoints" in stm32_gdb.do("info breakpoints")
    assert not any(stm32_target.read_word(0xE0002008 + 4 * n) & 1 for n in range(8))
    stm32_gdb.do(f"file {{ELF}}")
    stm32_gdb.delete_breakpoints()
    stm32_gdb.resume()
    stop = stm32_gdb.interrupt()
    assert stop.signal == "SIGINT"
    assert stm32_gdb.read("counter") > 1
    number = stm32_gdb.watch("counter")
    stop = stm32_gdb.run()
    assert (stop.reason, stop.breakpoint) == ("watchpoint-trigger", number)
    stm32_gdb.write("counter", 1000)
    assert stm32_gdb.read("counter") == 1000

def test_needs_no_gdb(stm32_target):
    stm32_target.flash(ELF)
    assert stm32_target.is_halted()
    assert stm32_target.read_registers("pc")["pc"] == stm32_target.read_word(0x08000004) & ~1
    stm32_target.write_word(0x24000000, 0x12345678)
    assert stm32_target.read_memory(0x24000000, 4) == bytes.fromhex("78563412")
    stm32_target.resume()
    assert not stm32_target.is_halted()
    stm32_target.halt()
    assert stm32_target.describe_fault() is None

def test_a_port_for_anything_else(stm32_server):
    import socket
    socket.create_connection((stm32_server.host, stm32_server.port), timeout=10).close()
"""


def test_tests_of_firmware_pass_on_the_simulated_board(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, demo_elf: Path
) -> None:
    pytester.makepyfile(test_firmware=ON_TARGET.format(elf=str(demo_elf)))
    result = run_marked(pytester, monkeypatch, "--stm32-probe", "sim", "-q", "-W", "error")
    result.assert_outcomes(passed=4)


def test_without_a_probe_they_are_skipped_and_nothing_is_imported(
    pytester: pytest.Pytester, demo_elf: Path
) -> None:
    pytester.makepyfile(
        test_firmware=ON_TARGET.format(elf=str(demo_elf)),
        test_host="""
            import sys

            def test_is_free():
                assert not {"trio", "pyocd", "unicorn", "click", "elftools"} & set(sys.modules)
        """,
    )
    result = pytester.runpytest_subprocess(
        "-rs", "-p", "no:hypothesispytest", "test_host.py", "test_firmware.py"
    )
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["*needs a target: give --stm32-probe UID, or --stm32-probe sim*"])


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (
            "--stm32-probe sim --stm32-gdb gdb-of-nobody",
            ["there is no GDB here: no gdb-of-nobody", "hint: apt install*"],
        ),
        ("--stm32-probe 0669FF", ["there is no debug probe '0669FF'", "hint: *"]),
        (
            "--stm32-probe sim --stm32-frequency fast",
            ["Invalid value for '--frequency': 'fast' is no frequency*"],
        ),
        (
            "--stm32-probe sim --stm32-extload no.stldr",
            ["no external loader no.stldr", "hint: *"],
        ),
        ("--stm32-probe sim:ideal,rdp=0x55", ["*RDP level 1*", "hint: set RDP back*"]),
    ],
)
def test_what_cannot_be_had_is_said_without_a_traceback(
    pytester: pytest.Pytester, arguments: str, sentences: list[str]
) -> None:
    pytester.makepyfile("def test_it(stm32_gdb): pass")
    result = pytester.runpytest_inprocess(*arguments.split())
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(sentences)
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_test_that_fails_in_the_middle_leaves_nothing_behind(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, demo_elf: Path
) -> None:
    pytester.makepyfile(
        f"""
        from gdbserver.target.target import Target

        def test_ends_badly(stm32_gdb):
            stm32_gdb.load({str(demo_elf)!r})
            stm32_gdb.break_at("twice_in_bank2")
            stm32_gdb.resume()
            raise RuntimeError("in the middle")

        def test_comes_next(stm32_server):
            words = [stm32_server.call(Target.read_word, 0xE0002008 + 4 * n) for n in range(8)]
            assert not any(word & 1 for word in words)
        """
    )
    result = run_marked(pytester, monkeypatch, "--stm32-probe", "sim")
    result.assert_outcomes(passed=1, failed=1)


def test_a_load_that_fails_says_why(pytester: pytest.Pytester, demo_elf: Path) -> None:
    pytester.makepyfile(
        f"""
        def test_loads(stm32_gdb):
            stm32_gdb.load({str(demo_elf)!r})
        """
    )
    result = pytester.runpytest_inprocess("--stm32-probe", "sim:ideal,nor=W25Q64JV,flash_kib=128")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*GDB refused 'load': Error erasing flash*", "*0x0810*is not in flash*"]
    )


def run_marked(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Run pytest in a process of its own, and see that no process is left of it."""
    mark = str(pytester.path)
    with monkeypatch.context() as patch:
        patch.setenv("MARK", mark)
        result = pytester.runpytest_subprocess(*arguments)
    assert not support.processes_with(mark)
    return result
