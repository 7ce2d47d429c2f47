"""What several tests need: programs for the target, built by the real cross compiler."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
FIRMWARE = TESTS / "firmware"

GCC = "arm-none-eabi-gcc"
FLAGS = (
    f"-ffile-prefix-map={TESTS.parent}=.",  # the same bytes wherever the tree lies
    *("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
    *("-std=c11", "-Og", "-g3", "-ffreestanding", "-Wall", "-Wextra", "-Werror"),
    *("-nostdlib", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
)


def compile_firmware(elf: Path, name: str, *sources: str) -> None:
    """``tests/firmware/<name>.c`` with startup code and `sources` -> `elf`."""
    files = [f"tests/firmware/{file}" for file in (f"{name}.c", "startup.c", *sources)]
    script = ("-T", "tests/firmware/board.ld")
    subprocess.run([GCC, *FLAGS, *script, *files, "-o", elf], cwd=TESTS.parent, check=True)


def build_firmware(name: str, *sources: str) -> Path:
    """The same, built once for the same sources: the file's name holds their digest."""
    digest = hashlib.sha256(repr(FLAGS).encode())
    for file in (f"{name}.c", "startup.c", *sources, "board.ld", "firmware.h"):
        digest.update((FIRMWARE / file).read_bytes())
    elf = TESTS / "build" / f"{name}-{digest.hexdigest()[:16]}.elf"
    if not elf.exists():
        elf.parent.mkdir(exist_ok=True)
        part = elf.with_suffix(f".{os.getpid()}")  # two test processes may build at once
        compile_firmware(part, name, *sources)
        part.replace(elf)
    return elf


def demo() -> Path:
    """Code and data in both flash banks and in the NOR."""
    return build_firmware("demo", "nor.c")


def hosted() -> Path:
    """What semihosting is asked for, by its command line."""
    return build_firmware("hosted")


def drills() -> Path:
    """Faults, watchpoints, recursion: internal flash only."""
    return build_firmware("drills")


def gdb_batch(target: str, elf: Path, *commands: str) -> str:
    """What a GDB for people says that connects to `target` and is given these commands."""
    # A server that it starts itself does so while it waits for the first answer.
    script = ["set remotetimeout 20", f"target extended-remote {target}", *commands]
    result = subprocess.run(
        ["gdb-multiarch", "-q", "-nx", "-batch", *(f"-ex={c}" for c in script), str(elf)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result.stdout + result.stderr


def examples(usual: int) -> int:
    """How many examples a state machine is to play: more of them in the profile `deep`."""
    return usual * settings.default.max_examples // 100


def client(path: str) -> Path:
    """A debugger or an adapter that `scripts/clients` has installed."""
    program = Path(sys.prefix) / "clients" / path
    if not program.exists():
        missing(str(program))
    return program


def client_on_path(name: str) -> str:
    """The same, for what it installs in the system."""
    return shutil.which(name) or missing(name)


def missing(program: str) -> NoReturn:
    """Without it a test is skipped when somebody runs it by hand; in CI it has to be there."""
    sentence = f"there is no {program}: scripts/clients installs it"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes that have `mark` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has just ended, or is not ours
    return found
