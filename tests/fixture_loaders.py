"""Loaders as users have them, F1 to F10 and more, built from ``fixtures/`` by the cross compiler.

Each reproduces the layout and the habits of files that exist, and programs the simulated NOR for
real: behind its routines is our own loader's code.  `build` returns a file that is called as its
`StorageInfo` says, as STM32CubeProgrammer wants it; built once for the same sources.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from support import TESTS

FIXTURES = TESTS / "loaders" / "fixtures"
ENGINE = TESTS.parent / "loaders" / "qspi"

GCC = "arm-none-eabi-gcc"
TARGET = ("-mcpu=cortex-m7", "-mthumb")
CODE = (
    *("-std=c11", "-Os", "-ffreestanding", "-fno-common", "-fno-ident", "-ffunction-sections"),
    *("-fno-tree-loop-distribute-patterns", "-Wall", "-Wextra", "-Werror"),
)
LINK = ("-nostdlib", "-Wl,-n", "-Wl,--build-id=none", "-Wl,--no-check-sections", "-Wl,-e,Init")

# Our loader's own names, out of the way of a fixture's: `found` would give it away as ours.
_RENAMED = ("Init", "Write", "SectorErase", "MassErase", "Read", "Verify", "CheckSum")
_ENGINE_NAMES = [f"-D{name}=engine_{name}" for name in (*_RENAMED, "found", "config")]

SPI_FLASH, NOR_FLASH = 7, 3


@dataclass(frozen=True)
class Recipe:
    """How a fixture is made: sources, linker script, what the descriptor says."""

    source: str
    script: str = "plain.ld"
    macros: Mapping[str, object] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Symbols that the linker script uses."""
    info: Mapping[str, object] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    engine: bool = True
    flags: tuple[str, ...] = ("-mfloat-abi=soft",)
    suffix: str = ".stldr"


_INFO: Mapping[str, object] = {
    "TYPE": NOR_FLASH,
    "START": 0x90000000,
    "SIZE": 0x2000000,
    "PAGE": 256,
    "COUNT": 512,
    "SECTOR": 0x10000,
    "CLAIMED": 200,
}
_TWO = {"SIZE": 0x8000000, "PAGE": 512, "COUNT": 1024, "SECTOR": 0x20000}
_PLAIN = {"BASE": 0x24000004, "INFO_AT": 0}
_PIC = ("-mfloat-abi=soft", "-fpie", "-ffixed-r9", "-include", str(FIXTURES / "hidden.h"))
_RWPI = ("-mfloat-abi=soft", "-ffixed-r9")
_F9 = (
    *("INIT_FAILS", "INIT_ODD", "WRITE_UDF", "WRITE_BUS", "WRITE_IMPRECISE", "ERASE_SPINS"),
    *("STACK", "SLEEPS", "LOCKS_UP", "WATCHDOG", "STRAY", "SCRIBBLES", "WRITES_NOTHING"),
    *("WRITES_SHIFTED", "WRITES_SWAPPED", "WRITES_REVERSED", "ERASES_NOTHING", "MASKED"),
    *("WAITS", "PRINTS", "BREAKS", "DEAF", "DEAF_WAITS"),
)

RECIPES: Mapping[str, Recipe] = {
    # The descriptor is a PT_LOAD at 0 in front of the code.
    "W25Q256_F1": Recipe("plain.c", "descriptor_first.ld", {"READ": 1}, info={"TYPE": SPI_FLASH}),
    # RWPI with PrgData; the descriptor lies over .bss.
    "W25Q256_F2": Recipe(
        "rwpi.c", "keil.ld", {}, {"CODE_FLAGS": 0x30000007, "OVERLAY_BSS": 1}, flags=_RWPI
    ),
    # RWPI code without a data section; a descriptor whose symbol has no size.
    "W25Q256_F3": Recipe(
        "rwpi.c",
        "keil.ld",
        {"BARE": 1},
        {"CODE_FLAGS": 0x80000005, "OVERLAY_BSS": 0},
        {"CLAIMED": 0},
        flags=_RWPI,
    ),
    # A descriptor with room for 4096 groups of sectors.
    "W25Q256_F4": Recipe("plain.c", numbers=_PLAIN, info={"CLAIMED": 32888}),
    # Sixteen sectors, and a size sixteen times as large.
    "W25Q256_F5": Recipe("plain.c", numbers=_PLAIN, info={"COUNT": 16, "SIZE": 0x1000000}),
    # The descriptor at the start of DTCM, where nothing else is.
    "W25Q256_F6": Recipe("plain.c", numbers={**_PLAIN, "INFO_AT": 0x20000000}),
    # All of it at the start of DTCM, on the word that ST's tools put their breakpoint in.
    "W25Q256_F6_DTCM": Recipe("plain.c", numbers={**_PLAIN, "BASE": 0x20000000}),
    "W25Q256_20000004": Recipe("plain.c", numbers={**_PLAIN, "BASE": 0x20000004}),
    # In an SRAM that has no clock after a reset.
    "W25Q256_30000004": Recipe("plain.c", numbers={**_PLAIN, "BASE": 0x30000004}),
    # .bss beyond the segment's memory: sections know of it, program headers do not.
    "W25Q256_F7": Recipe("plain.c", "nobits.ld", {"BSS": 108}),
    # SysTick left running, the vector table in the image.
    "W25Q256_F8": Recipe("template.c", "template.ld", more=("template_vectors.S",)),
    # The same with the PLL at 400 MHz, as the template's SystemClock_Config sets it.
    "W25Q256_F8_400_MHZ": Recipe(
        "template.c", "template.ld", {"FAST": 1}, more=("template_vectors.S",)
    ),
    "W25Q256_F8_NO_TABLE": Recipe(
        "template.c", "template.ld", {"NO_TABLE": 1}, more=("template_vectors.S",)
    ),
    "W25Q256_F8_NO_HANDLER": Recipe(
        "template.c",
        "template.ld",
        {"NO_TABLE": 1, "NO_HANDLER": 1},
        more=("template_vectors.S",),
    ),
    "second_stub": Recipe(
        "second_stub.S", numbers=_PLAIN, info={"START": 0xA0000000}, engine=False
    ),
    **{
        f"W25Q256_F9_{fault}": Recipe("faulty.c", numbers=_PLAIN, macros={"FAULT": fault})
        for fault in _F9
    },
    "W25Q256_F9_STALE": Recipe("faulty.c", numbers=_PLAIN, macros={"FAULT": "STALE", "READ": 1}),
    # Says NOR_FLASH, maps nothing, exports Read; and one that does not.
    "W25Q256_F10": Recipe("reader.c", macros={"READ": 1}, numbers=_PLAIN),
    "W25Q256_READS_ON": Recipe("reader.c", macros={"READS_ON": 1}, numbers=_PLAIN),
    "W25Q256_UNMAPPED": Recipe("reader.c", numbers=_PLAIN),
    # Can do nothing after a Read but another Init; says so, or does not.
    "W25Q256_READS_ONCE": Recipe("reader.c", macros={"HAL": 0}, numbers=_PLAIN),
    "W25Q256_READS_ONCE_SILENTLY": Recipe("reader.c", macros={"HAL": 1}, numbers=_PLAIN),
    "W25Q256_UNMAPS": Recipe("reader.c", macros={"MAPS": 1}, numbers=_PLAIN),
    "W25Q256_HARD_FLOAT": Recipe(
        "plain.c",
        macros={"HARD_FLOAT": 1},
        numbers=_PLAIN,
        flags=("-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    ),
    "W25Q256_170_KB": Recipe("plain.c", macros={"BIG": 170 * 1024}, numbers=_PLAIN),
    "W25Q256_64_KB_BSS": Recipe("plain.c", macros={"BSS": 64 * 1024}, numbers=_PLAIN),
    # Has an MPU, caches and priorities as its HAL sets them up.
    "W25Q256_EXACT": Recipe("plain.c", macros={"EXACT": 1}, numbers=_PLAIN),
    "W25Q256_MEDDLES": Recipe("plain.c", macros={"MEDDLES": 1}, numbers=_PLAIN),
    # Changes to a stack of its own, and preserves no register.
    "W25Q256_UNRULY": Recipe("plain.c", macros={"UNRULY": 1}, numbers=_PLAIN),
    # The two halves of one NOR, for two loaders in one download.
    "W25Q256_LOWER": Recipe("plain.c", numbers=_PLAIN, info={"COUNT": 256, "SIZE": 0x1000000}),
    "W25Q256_UPPER": Recipe(
        "template.c",
        "template.ld",
        more=("template_vectors.S",),
        info={"START": 0x91000000, "COUNT": 256, "SIZE": 0x1000000},
    ),
    "W25Q128_WRONG": Recipe(
        "faulty.c",
        numbers=_PLAIN,
        macros={"FAULT": "INIT_FAILS"},
        info={"COUNT": 256, "SIZE": 0x1000000},
    ),
    # Two NORs side by side; and one that fails with the QUADSPI in dual-flash mode.
    "MT25TL01G": Recipe("dual.c", numbers=_PLAIN, info=_TWO),
    "MT25TL01G_FAILS": Recipe("dual.c", numbers=_PLAIN, macros={"FAILS": 1}, info=_TWO),
    "W25Q256_TYPO": Recipe("plain.c", numbers=_PLAIN, info={"START": 0x09000000}),
    "W25Q256_INTERNAL": Recipe("plain.c", numbers=_PLAIN, info={"START": 0x08000000}),
    "W25Q256_NOWHERE": Recipe("plain.c", numbers={**_PLAIN, "BASE": 0x24080004}),
    "W25Q256_FULL": Recipe("plain.c", macros={"BSS": 0x7C000}, numbers=_PLAIN),
    # CMSIS: position independent, 0 is success.
    "W25Q256": Recipe("flm.c", "flm.ld", flags=_PIC, suffix=".FLM"),
    # The same, and never maps the NOR; and with addresses that reach half of it.
    "W25Q256_VERIFIES": Recipe(
        "flm.c", "flm.ld", {"VERIFIES": 4, "READ": 0x13}, flags=_PIC, suffix=".FLM"
    ),
    "W25Q256_SHORT": Recipe(
        "flm.c", "flm.ld", {"VERIFIES": 3, "READ": 0x03}, flags=_PIC, suffix=".FLM"
    ),
    # Keeps the NOR in QPI.
    "W25Q256_QPI": Recipe("flm.c", "flm.ld", {"QPI": 1}, flags=_PIC, suffix=".FLM"),
    # Powers the NOR down, and does not wake it.
    "W25Q256_ONCE": Recipe("flm.c", "flm.ld", {"ONCE": 1}, flags=_PIC, suffix=".FLM"),
}


def build(name: str, **info: object) -> Path:
    """The fixture `name`, as a file of that name; `info` changes what its descriptor says."""
    recipe = RECIPES[name]
    macros = {**recipe.macros}
    described = {"NAME": f'"{name}"', **_INFO, **recipe.info, **info}
    command = [
        *(GCC, *TARGET, *recipe.flags, f"-Wl,-T,{FIXTURES / recipe.script}", *LINK),
        *(f"-Wl,--defsym={symbol}={value:#x}" for symbol, value in recipe.numbers.items()),
    ]
    sources = [recipe.source, *recipe.more]
    if recipe.suffix == ".stldr":
        sources.append("storage_info.S")
    digest = hashlib.sha256(repr((command, macros, described, CODE)).encode())
    for file in sorted([*FIXTURES.iterdir(), *ENGINE.iterdir()]):
        digest.update(file.read_bytes())
    folder = TESTS / "build" / f"loader-{digest.hexdigest()[:16]}"
    product = folder / f"{name}{recipe.suffix}"
    if not product.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as scratch:
            objects = [
                _compile(
                    FIXTURES / file, Path(scratch), recipe, described if file[-1] == "S" else macros
                )
                for file in sources
            ]
            if recipe.engine:
                for file in ("clock.c", "entry.c", "nor.c", "quadspi.c"):
                    objects.append(
                        _compile(ENGINE / file, Path(scratch), recipe, {}, *_ENGINE_NAMES)
                    )
            part = folder / f"part.{os.getpid()}"  # two test processes may build at once
            subprocess.run([*command, *objects, "-o", part], check=True)
        part.replace(product)
    return product


def _compile(
    file: Path, scratch: Path, recipe: Recipe, macros: Mapping[str, object], *more: str
) -> Path:
    target = scratch / f"{file.name}.o"
    code = CODE if file.suffix == ".c" else ()
    defined = [f"-D{macro}={value}" for macro, value in macros.items()]
    command = [GCC, *TARGET, *recipe.flags, *code, *defined, *more, "-c", file, "-o", target]
    subprocess.run(command, check=True)
    return target
