"""External loaders by what a command line calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gdbserver.cli_options import chosen_wiring
from gdbserver.errors import UsageError
from gdbserver.flash.board_file import Wiring
from gdbserver.flash.loader_file import LoaderFile
from gdbserver.flash.own_loader import builtin_for

BUILTIN = "builtin"


def load_loader(name: str, wiring: Wiring, folders: Sequence[Path] = ()) -> LoaderFile:
    """The loader that is called `name`: our own, or a file, perhaps in one of `folders`.

    Raises:
        UsageError: there is none.
        LoaderRejected: it cannot work.
    """
    own, _, board = name.partition(":")
    if own == BUILTIN:
        return builtin_for(chosen_wiring(None, board) if board else wiring)
    for path in [Path(name), *(folder / name for folder in folders)]:
        if path.is_file():
            return LoaderFile.load(path)
    error = UsageError(f"no external loader {name}")
    error.hint = "give the path of a .stldr file, or `builtin` for our own loader"
    raise error
