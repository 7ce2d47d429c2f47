"""What several tests need: programs for the target, built by the real cross compiler."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

TESTS = Path(__file__).parent
FIRMWARE = TESTS / "firmware"

GCC = "arm-none-eabi-gcc"
FLAGS = (
    *("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
    *("-std=c11", "-Og", "-g3", "-ffreestanding", "-Wall", "-Wextra", "-Werror"),
    *("-nostdlib", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
)


def build_firmware(name: str, *sources: str) -> Path:
    """``tests/firmware/<name>.c`` with startup code and `sources`, as an ELF file.

    Built once for the same sources: the file's name holds their digest.
    """
    files = [FIRMWARE / file for file in (f"{name}.c", "startup.c", *sources)]
    script = FIRMWARE / "board.ld"
    digest = hashlib.sha256(repr(FLAGS).encode())
    for file in (*files, script, FIRMWARE / "firmware.h"):
        digest.update(file.read_bytes())
    elf = TESTS / "build" / f"{name}-{digest.hexdigest()[:16]}.elf"
    if not elf.exists():
        elf.parent.mkdir(exist_ok=True)
        part = elf.with_suffix(f".{os.getpid()}")  # two test processes may build at once
        subprocess.run([GCC, *FLAGS, "-T", script, *files, "-o", part], check=True)
        part.replace(elf)
    return elf


def demo() -> Path:
    """Code and data in both flash banks and in the NOR."""
    return build_firmware("demo", "nor.c")


def drills() -> Path:
    """Faults, watchpoints, recursion: internal flash only."""
    return build_firmware("drills")
