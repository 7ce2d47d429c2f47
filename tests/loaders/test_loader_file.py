"""Loader files as they are found in the wild, written here byte by byte: no two tools agree."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gdbserver.chip.memory import Span
from gdbserver.errors import LoaderRejected
from gdbserver.loader.file import STORAGE_INFO, LoaderFile, built, load_image

BASE = 0x24000004
CODE = b"\x70\x47" * 32  # bx lr
FUNC, OBJECT = 2, 1
WRITE, ALLOC, EXECUTE = 1, 2, 4


@dataclass(frozen=True)
class Segment:
    address: int
    data: bytes
    memory: int = 0
    flags: int = 7


@dataclass(frozen=True)
class Section:
    """An allocated section of zeros that no segment need cover."""

    name: str
    address: int
    size: int


def elf(
    segments: Sequence[Segment],
    symbols: Mapping[str, tuple[int, int, int]],
    *,
    sections: Sequence[Section] = (),
    kind: int = 2,
    machine: int = 40,
    flags: int = 0x05000200,
) -> bytes:
    """A linked ELF file: `symbols` are (address, size, type)."""
    strings, names = b"\0", {}
    for name in (*symbols, ".symtab", ".strtab", *(s.name for s in sections)):
        names[name] = len(strings)
        strings += name.encode() + b"\0"
    body = bytearray(52 + 32 * len(segments))
    headers = b""
    for segment in segments:
        headers += struct.pack(
            "<8I",
            1,
            len(body),
            segment.address,
            segment.address,
            len(segment.data),
            max(segment.memory, len(segment.data)),
            segment.flags,
            4,
        )
        body += segment.data
    body[52 : 52 + len(headers)] = headers
    symtab = bytes(16) + b"".join(
        struct.pack("<IIIBBH", names[name], address, size, 0x10 | type_, 0, 0xFFF1)
        for name, (address, size, type_) in symbols.items()
    )
    symtab_at = len(body)
    body += symtab
    strtab_at = len(body)
    body += strings
    rows = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (names[".symtab"], 2, 0, 0, symtab_at, len(symtab), 2, 1, 4, 16),
        (names[".strtab"], 3, 0, 0, strtab_at, len(strings), 0, 0, 1, 0),
        *((names[s.name], 8, WRITE | ALLOC, s.address, 0, s.size, 0, 0, 4, 0) for s in sections),
    ]
    header = struct.pack(
        "<16sHHIIIIIHHHHHH",
        b"\x7fELF\x01\x01\x01",
        kind,
        machine,
        1,
        0,
        52,
        len(body),
        flags,
        52,
        32,
        len(segments),
        40,
        len(rows),
        2,
    )
    body[:52] = header
    return bytes(body) + b"".join(struct.pack("<10I", *row) for row in rows)


def info(
    *,
    start: int = 0x90000000,
    size: int = 0x100000,
    page: int = 256,
    sectors: Sequence[tuple[int, int]] = ((16, 0x10000),),
    erased: int = 0xFF,
) -> bytes:
    groups = [{"count": c, "size": s} for c, s in [*sectors, *[(0, 0)] * 10][:10]]
    return STORAGE_INFO.build(
        {
            "name": b"loader".ljust(100, b"\0"),
            "kind": 3,
            "start": start,
            "size": size,
            "page_size": page,
            "erased": erased,
            "sectors": groups,
        }
    )


def routines(base: int = BASE) -> dict[str, tuple[int, int, int]]:
    return {
        "Init": (base | 1, 8, FUNC),
        "Write": (base + 8 | 1, 8, FUNC),
        "SectorErase": (base + 16 | 1, 8, FUNC),
    }


def plain(symbol_size: int = 200, **changes: object) -> bytes:
    """A loader as GCC makes it: code, and behind it the descriptor in a segment of its own."""
    end = BASE + len(CODE)
    return elf(
        [Segment(BASE, CODE), Segment(end, info(**changes))],  # type: ignore[arg-type]
        {**routines(), "StorageInfo": (end, symbol_size, OBJECT)},
    )


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    def load(contents: bytes, name: str = "loader.stldr") -> LoaderFile:
        path = tmp_path / name
        path.write_bytes(contents)
        return LoaderFile.load(path)

    return load


def test_a_plain_loader_is_understood(load) -> None:
    loader = load(plain())
    assert loader.name == "loader"
    assert loader.region.span == Span.of(0x90000000, 0x100000)
    assert loader.region.groups == ((16, 0x10000),)
    assert loader.image.entries["Write"] == BASE + 8 | 1
    assert loader.warnings == ()


def test_the_descriptor_is_not_written_to_the_target(load) -> None:
    assert load(plain()).image.memory == (Span.of(BASE, len(CODE)),)


@pytest.mark.parametrize("size", [0, 136, 32888])
def test_the_descriptor_may_claim_any_size(load, size: int) -> None:
    loader = load(plain(symbol_size=size))
    assert len(loader.region.span) == 0x100000
    assert loader.warnings == (f"StorageInfo has {size} bytes instead of 200",)


@pytest.mark.parametrize("address", [0, 0x20000000])
def test_the_descriptor_may_have_a_segment_that_is_nowhere(load, address: int) -> None:
    loader = load(
        elf(
            [Segment(address, info()), Segment(BASE, CODE, len(CODE) + 0x58)],
            {**routines(), "StorageInfo": (address, 200, OBJECT)},
        )
    )
    assert loader.image.memory == (Span.of(BASE, len(CODE) + 0x58),)


def test_a_descriptor_on_top_of_bss_leaves_zeros_there(load) -> None:
    end = BASE + len(CODE)
    loader = load(
        elf(
            [Segment(BASE, CODE, len(CODE) + 0x1000, 0x30000007), Segment(end, info())],
            {**routines(), "StorageInfo": (end, 200, OBJECT)},
        )
    )
    assert loader.image.chunks == ((BASE, CODE), (end, bytes(0x1000)))
    assert loader.image.rwpi


def test_bss_beyond_the_segments_memory_is_found_by_its_section(load) -> None:
    end = BASE + len(CODE)
    loader = load(
        elf(
            [Segment(0, info()), Segment(BASE, CODE)],
            {**routines(), "StorageInfo": (0, 200, OBJECT)},
            sections=[Section(".bss", end, 0x6C)],
        )
    )
    assert loader.image.memory == (Span.of(BASE, len(CODE) + 0x6C),)


def test_the_movable_data_section_is_what_r9_points_at(load) -> None:
    end = BASE + len(CODE)
    contents = elf(
        [Segment(BASE, CODE, len(CODE) + 32, 0x30000007), Segment(0, info())],
        {**routines(), "StorageInfo": (0, 200, OBJECT)},
        sections=[Section("PrgData", end, 32)],
    )
    assert load(contents).image.static_base == end


def test_geometry_that_contradicts_itself_is_cut_to_the_smaller_and_reported(load) -> None:
    loader = load(plain(size=0x1000000))
    assert len(loader.region.span) == 0x100000
    assert "0x100000 bytes of sectors, but says it is 0x1000000 bytes" in loader.warnings[0]
    loader = load(plain(size=0x38000))
    assert loader.region.groups == ((3, 0x10000),)


def test_pages_are_made_to_fit_the_sectors(load) -> None:
    assert load(plain(page=0x20000)).region.page_size == 0x10000
    assert load(plain(page=0)).region.page_size == 256
    assert load(plain(page=24)).region.page_size == 8


def test_sectors_of_several_sizes_keep_their_order(load) -> None:
    sectors = ((8, 0x2000), (15, 0x10000))
    loader = load(plain(sectors=sectors, size=0x100000))
    assert loader.region.groups == sectors


def test_a_name_that_is_not_the_files_is_only_a_warning(load) -> None:
    (warning,) = load(plain(), "W25Q256_board.stldr").warnings
    assert "'loader'" in warning


def rejected(load, contents: bytes) -> str:
    with pytest.raises(LoaderRejected) as refused:
        load(contents)
    return str(refused.value)


def test_what_cannot_work_is_refused_by_name(load) -> None:
    end = BASE + len(CODE)
    descriptor = {"StorageInfo": (end, 200, OBJECT)}
    good = [Segment(BASE, CODE), Segment(end, info())]

    assert rejected(load, b"S0030000FC") == "loader loader.stldr is not an ELF file"
    assert "is ET_REL for EM_ARM" in rejected(load, elf(good, {}, kind=1))
    assert "EM_XTENSA" in rejected(load, elf(good, {}, machine=94))
    assert "has no symbol StorageInfo" in rejected(load, elf(good, routines()))
    assert "has no file contents for StorageInfo at 0x24000f00" in rejected(
        load, elf(good, {**routines(), "StorageInfo": (0x24000F00, 200, OBJECT)})
    )
    for name in routines():
        lacking = {k: v for k, v in routines().items() if k != name}
        assert f"has no function {name}" in rejected(load, elf(good, {**lacking, **descriptor}))
    arm = {**routines(), **descriptor, "Write": (BASE, 8, FUNC)}
    assert "Write at 0x24000004 is not Thumb code" in rejected(load, elf(good, arm))
    away = {**routines(), **descriptor, "Init": (0x20000001, 8, FUNC)}
    assert "Init at 0x20000000 is in no code segment" in rejected(load, elf(good, away))
    assert "describes a device without sectors" in rejected(load, plain(sectors=()))
    assert "erased bytes are 0x00" in rejected(load, plain(erased=0))
    assert "is for 0x080f0000-0x081effff, which is internal flash" in rejected(
        load, plain(start=0x080F0000)
    )


def test_a_loader_outside_ram_is_refused_with_the_rams_that_there_are(load) -> None:
    contents = elf(
        [Segment(0x60000000, CODE), Segment(0, info())],
        {**routines(0x60000000), "StorageInfo": (0, 200, OBJECT)},
    )
    with pytest.raises(LoaderRejected, match="wants 0x60000000-0x6000003f, which is not RAM") as no:
        load(contents)
    assert "AXI SRAM 0x24000000-0x2407ffff" in str(no.value.hint)


def test_two_segments_for_one_place_are_refused(load) -> None:
    contents = elf(
        [Segment(BASE, CODE), Segment(BASE + 32, b"more"), Segment(0, info())],
        {**routines(), "StorageInfo": (0, 200, OBJECT)},
    )
    assert rejected(load, contents) == (
        "loader loader.stldr has two segments for 0x24000024-0x24000027: "
        "0x24000004-0x24000043 and 0x24000024-0x24000027"
    )


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LoaderRejected, match=r"loader x.stldr cannot be read: No such file"):
        LoaderFile.load(tmp_path / "x.stldr")


def test_a_place_in_code_has_a_name(load) -> None:
    image = load(plain()).image
    assert image.place(BASE + 10) == "Write+0x2"
    assert image.place(0x08000000) == "0x08000000"


def test_our_own_loader_is_an_ordinary_one_without_oddities() -> None:
    loader = LoaderFile.load(built("qspi.stldr"))
    assert loader.warnings == ()
    assert loader.region.span == Span.of(0x90000000, 32 << 20)
    assert {"MassErase", "Read", "Verify", "CheckSum"} <= set(loader.image.entries)
    assert {"config", "found"} <= set(loader.image.symbols)


def test_a_variable_can_be_given_another_value_before_the_upload() -> None:
    image = LoaderFile.load(built("qspi.stldr")).image
    patched = image.patched("config", b"\x11\x22\x33\x44")
    start = image.symbols["config"].address
    differing = [
        address + n
        for (address, one), (_, other) in zip(image.chunks, patched.chunks, strict=True)
        for n, (a, b) in enumerate(zip(one, other, strict=True))
        if a != b
    ]
    assert set(differing) <= set(range(start, start + 4))
    assert differing


def test_the_call_queue_can_be_placed_anywhere() -> None:
    image = load_image(built("queue.elf"))
    placed = image.at(0x20001000)
    assert placed.entries["run"] == image.entries["run"] + 0x20001000
    assert placed.memory[0].start == image.memory[0].start + 0x20001000


def test_a_routine_with_a_cpp_name_is_recognised(load) -> None:
    mangled = {("_Z5Writejj" if k == "Write" else k): v for k, v in routines().items()}
    end = BASE + len(CODE)
    symbols = {**mangled, "StorageInfo": (end, 200, OBJECT)}
    with pytest.raises(LoaderRejected, match="has no function Write") as refused:
        load(elf([Segment(BASE, CODE), Segment(end, info())], symbols))
    assert refused.value.hint == 'it has _Z5Writejj, which is C++: declare it extern "C"'
