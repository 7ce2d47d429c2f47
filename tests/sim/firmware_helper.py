"""Small Cortex-M7 programs for tests, assembled from a string when a test wants them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[1] / "build"
FLASH = 0x08000000
CODE = 0x08000400

# The fault and system handlers that programs mostly define; others get the default.
_VECTORS = {
    2: "nmi",
    3: "hard_fault",
    4: "mem_manage",
    5: "bus_fault",
    6: "usage_fault",
    11: "svc",
    12: "monitor",
    14: "pendsv",
    15: "systick",
}


def assemble(source: str) -> bytes:
    """Thumb-2 source -> the bytes of its text section."""
    text = f".syntax unified\n.thumb\n.cpu cortex-m7\n.fpu fpv5-d16\n{source}\n"
    path = CACHE / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.bin"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        work = path.with_suffix(f".{os.getpid()}")
        tools = "arm-none-eabi-"
        subprocess.run([f"{tools}as", "-o", f"{work}.o", "-"], input=text.encode(), check=True)
        subprocess.run(
            [f"{tools}ld", f"-Ttext={FLASH:#x}", "-e", "0", "-o", f"{work}.elf", f"{work}.o"],
            check=True,
        )
        subprocess.run(
            [f"{tools}objcopy", "-O", "binary", "-j", ".text", f"{work}.elf", f"{work}.bin"],
            check=True,
        )
        Path(f"{work}.bin").rename(path)
        for suffix in (".o", ".elf"):
            Path(f"{work}{suffix}").unlink()
    return path.read_bytes()


def firmware(code: str, *, stack: int = 0x20010000, irqs: dict[int, str] | None = None) -> bytes:
    """A flash image: vector table, then `code`, which starts at `CODE` with the label `main`.

    A handler is in the table if `code` has a label of its name (see `_VECTORS`); the others
    point to a ``bkpt #0xEE``.
    """
    handlers = {**_VECTORS, **{16 + irq: label for irq, label in (irqs or {}).items()}}
    defined = {n: label for n, label in handlers.items() if re.search(rf"^\s*{label}:", code, re.M)}
    words = [f".word {stack:#x}", ".word main + 1"]
    words += [f".word {defined.get(n, 'unexpected')} + 1" for n in range(2, 166)]
    table = "\n".join(words)
    return assemble(
        f"{table}\n.org {CODE - FLASH:#x}\nmain:\n{code}\n.balign 4\nunexpected: bkpt #0xEE\n.ltorg"
    )
