"""Who may import whom: this file is the table in the README's "How it works", as a test."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gdbserver"

# Each layer may import itself, the layers named here, and the ground.
LAYERS = {
    "chip": set(),
    "errors": set(),
    "imports": set(),
    "rsp": set(),
    "target": set(),
    "loader": {"target"},
    "flash": {"target", "loader"},
    "server": {"rsp", "target", "flash", "program"},
    "sim": set(),
    "program": set(),
    "cli": {"server", "rsp", "target", "loader", "flash", "program"},
    "testing": {"server", "target", "loader", "flash", "cli"},
    "__main__": {"cli"},
    "__init__": set(),
}
GROUND = {"errors", "chip", "imports"}

# Third-party package -> the only places that may import it.
HOMES = {
    "trio": {"server", "cli", "testing/server"},
    "click": {"cli", "testing/server"},
    "pytest": {"testing/plugin"},
    "pyocd": {"target", "sim"},
    "unicorn": {"sim"},
    "capstone": {"loader/hazards"},
    "elftools": {"loader/file", "loader/own", "flash/image", "program"},
    "bincopy": {"flash/image"},
    "rich": {"cli/progress"},
    "construct": {"chip", "sim", "loader/file", "loader/resident"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def place(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(module: Path) -> set[str]:
    """Dotted names of everything that the module imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(module)}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_a_module_imports_only_what_its_layer_may(module: Path) -> None:
    here = place(module)
    layer = here.split("/")[0]
    allowed = {layer} | LAYERS[layer] | GROUND
    for name in imports(module):
        top, *rest = name.split(".")
        if top == "gdbserver":
            assert rest[0] in allowed, f"{here} may not import {name}"
        elif top in HOMES:
            homes = HOMES[top]
            assert layer in homes or here in homes, f"{here} may not import {top}"
        else:
            assert top in sys.stdlib_module_names, f"{top} is nobody's dependency"


def test_the_sim_is_imported_by_nobody() -> None:
    """The simulated board sits behind pyOCD's probe plug-in, as a real one sits behind USB."""
    for module in MODULES:
        if place(module).split("/")[0] != "sim":
            assert not any(name.startswith("gdbserver.sim") for name in imports(module))
