"""Files that shall be in flash: ELF, Intel HEX, Motorola S-records, and bytes with an address.

What a file is, is seen from its contents, not from its name.  Everything that can be wrong with
one is found here, before a probe is touched.

* ELF: what the program headers load, at its load address (ELF, "Program Header": p_paddr),
  without the file's own headers, where a linker has put them before the code.
* Intel HEX and S-records: both have a checksum in every line, and end with a record of their
  own; where that is missing, the file has been cut off.
* anything else is bytes as they are, and needs ``FILE@ADDRESS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bincopy
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import Segment

from gdbserver.chip.memory import Span, merge
from gdbserver.errors import BadImage, meant_instead
from gdbserver.flash.plan import Download

_AGAIN = "build or copy it again"
_HINT = "it can be an ELF file, Intel HEX, S-records, or bytes with an address: FILE@ADDRESS"
_HEX_END = (1,)
_SREC_ENDS = ("7", "8", "9")
_SREC_COUNTS = ("5", "6")
_SREC_DATA = ("1", "2", "3")


@dataclass(frozen=True, slots=True)
class Image:
    """What a file brings, by address, ascending."""

    path: Path
    parts: tuple[tuple[int, bytes], ...]

    @property
    def spans(self) -> list[Span]:
        return merge([Span.of(address, len(data)) for address, data in self.parts])


def load_image(name: str) -> Image:
    """Read FILE, or FILE@ADDRESS.

    Raises:
        BadImage: it cannot be read, or holds nothing that could be programmed.
    """
    file, at, address = name.rpartition("@")
    if at and not Path(name).exists():
        return _bytes(Path(file), address)
    path = Path(name)
    data = _read(path)
    match _says_where(data):
        case "ELF":
            parts = _elf(path)
        case "HEX":
            parts = _hex(path, data)
        case "SREC":
            parts = _srec(path, data)
        case None:
            raise BadImage(path, "is no file that says where it goes", hint=_HINT)
    if not parts:
        raise BadImage(path, "has nothing to program in it", hint="has it been linked?")
    return Image(path, tuple(sorted(parts)))


def download(images: Sequence[Image]) -> Download:
    """What brings files into flash: every sector that one touches is erased.

    Raises:
        BadImage: two of them want the same addresses.
    """
    result = Download()
    for number, image in enumerate(images):
        for other in images[:number]:
            for span in image.spans:
                for taken in other.spans:
                    if len(span & taken):
                        raise BadImage(
                            image.path, f"and {other.path.name} both fill {span & taken}"
                        )
        for address, data in image.parts:
            result.erase(Span.of(address, len(data)))
            result.write(address, data)
    return result


def check_places(images: Sequence[Image], possible: Sequence[Span]) -> None:
    """Refuse what is outside of all flash that there can be.

    Raises: BadImage.
    """
    flash = merge(list(possible))
    for image in images:
        for span in image.spans:
            if not any(span in place for place in flash):
                places = ", ".join(str(place) for place in flash)
                hint = f"{meant_instead(span, flash)}flash can be at {places}"
                raise BadImage(image.path, f"goes to {span}, which is not in flash", hint=hint)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(path, "cannot be read", hint="is the path right?") from error
    if not data:
        raise BadImage(path, "is empty", hint="look at what the build, or a copy, has said")
    return data


def _says_where(data: bytes) -> Literal["ELF", "HEX", "SREC"] | None:
    """The format that it begins like, of those with addresses."""
    if data.startswith(b"\x7fELF"):
        return "ELF"
    if data.lstrip()[:1] == b":":
        return "HEX"
    if re.match(rb"\s*S[0-9]", data):
        return "SREC"
    return None


def _bytes(path: Path, address: str) -> Image:
    try:
        start = int(address, 0)
    except ValueError:
        hint = f"for example {path.name}@0x90000000"
        raise BadImage(path, f"cannot go to {address!r}: that is no address", hint=hint) from None
    data = _read(path)
    if _says_where(data) and data[:11].isascii() and path.suffix != ".bin":
        raise BadImage(
            path,
            f"says itself where it goes, and @{address} says it, too",
            hint=f"leave @{address} away; a file called .bin is taken as the bytes that it has",
        )
    if not 0 <= start <= (1 << 32) - len(data):
        raise BadImage(path, f"cannot go to {address}: addresses have 32 bits", hint=_HINT)
    return Image(path, ((start, data),))


def _elf(path: Path) -> list[tuple[int, bytes]]:
    parts = []
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != "EM_ARM":
                raise BadImage(
                    path,
                    f"is for another processor: {elf.get_machine_arch()}",
                    hint="this chip runs what arm-none-eabi-gcc -mcpu=cortex-m7 makes",
                )
            for segment in elf.iter_segments("PT_LOAD"):
                data = segment.data()
                if len(data) != segment["p_filesz"]:
                    raise BadImage(
                        path, "has been cut off: a segment ends behind the file", hint=_AGAIN
                    )
                headers = _headers_in(elf, segment)
                if data[headers:]:
                    parts.append((segment["p_paddr"] + headers, data[headers:]))
    except ELFError as error:
        raise BadImage(path, "is a broken ELF file", hint=_AGAIN) from error
    return parts


def _headers_in(elf: ELFFile, segment: Segment) -> int:
    """How many bytes at the start of a segment are the file's own headers.

    A linker lays them before code that does not begin at a page of its own, down to the page's
    start, where a boot loader may be.  GDB and objcopy go by sections, and leave them out.
    """
    if segment["p_offset"] >= elf["e_ehsize"] + elf["e_phnum"] * elf["e_phentsize"]:
        return 0
    sections = (s for s in elf.iter_sections() if segment.section_in_segment(s))
    starts = [s["sh_offset"] for s in sections if s["sh_type"] != "SHT_NOBITS" and s["sh_size"]]
    return int(min(starts, default=segment["p_offset"]) - segment["p_offset"])


def _hex(path: Path, data: bytes) -> list[tuple[int, bytes]]:
    lines = _lines(path, data)
    kinds = _check_lines(path, lines, bincopy.unpack_ihex)
    if kinds[-1] not in _HEX_END:
        raise BadImage(path, "has been cut off: its end-of-file record is missing", hint=_AGAIN)
    return _parts(path, lines, bincopy.BinFile.add_ihex)


def _srec(path: Path, data: bytes) -> list[tuple[int, bytes]]:
    lines = _lines(path, data)
    kinds = _check_lines(path, lines, bincopy.unpack_srec)
    if kinds[-1] not in (*_SREC_ENDS, *_SREC_COUNTS):  # some tools write no more than a count
        raise BadImage(
            path,
            "has been cut off: its termination record (S7, S8 or S9) is missing",
            hint=_AGAIN,
        )
    count = sum(kind in _SREC_DATA for kind in kinds)
    for kind, line in zip(kinds, lines, strict=True):
        if kind in _SREC_COUNTS and int(line[4:-2], 16) != count:
            raise BadImage(
                path, f"has {count} data records, and says {int(line[4:-2], 16)}", hint=_AGAIN
            )
    return _parts(path, lines, bincopy.BinFile.add_srec)


def _lines(path: Path, data: bytes) -> list[str]:
    try:
        return [line.strip() for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadImage(path, "begins like a text file and has bytes in it", hint=_HINT) from error


def _check_lines(path: Path, lines: Sequence[str], unpack: Callable[[str], Any]) -> list[Any]:
    """The type of each record."""
    kinds = []
    for number, line in enumerate(lines, 1):
        try:
            kinds.append(unpack(line)[0])
        except (bincopy.Error, ValueError) as error:
            raise BadImage(
                path, f"is broken in line {number}", hint="has it been changed, or cut off?"
            ) from error
    return kinds


def _parts(
    path: Path, lines: Sequence[str], add: Callable[[Any, str], None]
) -> list[tuple[int, bytes]]:
    contents = bincopy.BinFile()
    try:
        add(contents, "\n".join(lines))
    except (bincopy.Error, ValueError) as error:
        raise BadImage(
            path, "fills an address twice", hint="were two images joined that overlap?"
        ) from error
    return [(segment.address, bytes(segment.data)) for segment in contents.segments]
