"""The program that ``--elf`` names: its file, for a client that has no copy, and its symbols.

A program is built again while its server goes on, so the file is read anew where it has changed.
A reader in pieces keeps the contents that it began with.
"""

from __future__ import annotations

import os
from pathlib import Path

from gdbserver.errors import BadImage
from gdbserver.program.symbols import Symbols

_IDENTITY = b"\x7fELF\x01\x01"  # 32 bits, little-endian


class KnownProgram:
    """An ELF file.

    Raises:
        BadImage: there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self._stamp: tuple[int, int] | None = None
        self._symbols = Symbols([])
        try:
            identity = self.contents()[: len(_IDENTITY)]
        except OSError as error:
            raise BadImage(path, "cannot be read", hint="is the path right?") from error
        if identity != _IDENTITY:
            raise BadImage(
                path, "is no ELF file for a 32-bit chip", hint="give what the linker made"
            )

    def contents(self) -> bytes:
        """The file as it is now.

        Raises: OSError.
        """
        return self.path.read_bytes()

    def address_of(self, name: str) -> int | None:
        """Where a symbol is, in the program as it was built last."""
        stamp = self.stamp()
        if stamp != self._stamp:
            self._stamp, self._symbols = stamp, Symbols([self.path])
        return self._symbols.address_of(name)

    def stamp(self) -> tuple[int, int] | None:
        """When it was built last, in nanoseconds since 1970, and its size; None: it is gone."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size
