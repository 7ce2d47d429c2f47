"""Loader files from the wild: what is read out of them, and what is refused, by name."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from fixture_loaders import build

from gdbserver.chip.memory import Span
from gdbserver.errors import LoaderRejected, explain
from gdbserver.loader.file import LoaderFile


def load(name: str) -> LoaderFile:
    return LoaderFile.load(build(name))


WHOLE = ("F1", "F2", "F3", "F4", "F6", "F6_DTCM", "20000004", "F7", "F8", "F10")


@pytest.mark.parametrize("name", [*WHOLE, "HARD_FLOAT", "170_KB", "64_KB_BSS"])
def test_every_layout_describes_the_same_device(name: str) -> None:
    region = load(f"W25Q256_{name}").region
    assert region.span == Span.of(0x90000000, 32 << 20)
    assert region.groups == ((512, 0x10000),)
    assert region.page_size == 256


@pytest.mark.parametrize(
    ("name", "start"), [("F1", 0x24000004), ("F6", 0x24000004), ("F6_DTCM", 0x20000000)]
)
def test_a_descriptor_of_its_own_takes_no_ram(name: str, start: int) -> None:
    (span,) = load(f"W25Q256_{name}").image.memory
    assert span.start == start
    assert len(span) < 8192


def test_the_image_of_a_keil_file_has_zeros_where_the_descriptor_lies() -> None:
    loader = load("W25Q256_F2")
    assert loader.image.rwpi
    (code, data), (zeros, blank) = loader.image.chunks
    assert zeros == code + len(data)
    assert not blank.strip(b"\0")
    assert loader.image.static_base == code + len(data) - 8


def test_movable_code_without_a_data_section_is_seen_by_its_flags() -> None:
    image = load("W25Q256_F3").image
    assert image.rwpi
    assert image.static_base is None


def test_ram_that_no_segment_names_is_zeroed_too() -> None:
    loader = load("W25Q256_F7")
    (code, data), (zeros, blank) = loader.image.chunks
    assert zeros == code + len(data)
    assert len(blank) > 108


def test_a_descriptor_in_a_hole_of_the_code_is_read_from_its_own_segment() -> None:
    loader = load("W25Q256_F8")
    assert loader.name == "W25Q256_F8"
    assert loader.warnings == ()


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("W25Q256_F3", "StorageInfo has 0 bytes instead of 200"),
        ("W25Q256_F4", "StorageInfo has 32888 bytes instead of 200"),
        (
            "W25Q256_F5",
            (
                "StorageInfo has 0x100000 bytes of sectors, but says it is 0x1000000 bytes large: "
                "using the smaller"
            ),
        ),
    ],
)
def test_what_is_odd_about_a_descriptor_is_a_warning(name: str, warning: str) -> None:
    assert load(name).warnings == (warning,)


def test_hard_float_code_is_known_by_its_flags() -> None:
    assert load("W25Q256_HARD_FLOAT").image.hard_float
    assert not load("W25Q256_F1").image.hard_float


def test_a_flash_algorithm_is_moved_to_ram() -> None:
    loader = load("W25Q256")
    assert loader.kind == "flm"
    assert loader.good == 0
    assert loader.name == "W25Q256 QSPI"
    assert loader.region.groups == ((512, 0x10000),)
    assert loader.image.memory[0].start == 0x24000000
    assert loader.image.entries["Init"] & 1
    assert loader.image.static_base == loader.image.symbols["initial"].address
    assert (loader.program_seconds, loader.erase_seconds) == (0.1, 3.0)


def test_r9_points_to_the_first_of_two_sections_of_data(tmp_path: Path) -> None:
    # armlink calls them both PrgData, what has contents and what is zero.
    file = bytearray(build("W25Q256").read_bytes())
    with build("W25Q256").open("rb") as stream:
        elf = ELFFile(stream)
        zeros, data = elf.get_section_by_name(".bss"), elf.get_section_by_name("PrgData")
        header = elf["e_shoff"] + elf.get_section_index(".bss") * elf["e_shentsize"]
    assert zeros["sh_addr"] > data["sh_addr"]
    struct.pack_into("<I", file, header, data["sh_name"])
    (path := tmp_path / "two.FLM").write_bytes(file)
    assert LoaderFile.load(path).image.static_base == load("W25Q256").image.static_base


def test_a_device_description_may_end_behind_its_last_sectors(tmp_path: Path) -> None:
    file = bytearray(build("W25Q256").read_bytes())
    with build("W25Q256").open("rb") as stream:
        elf = ELFFile(stream)
        start = elf.get_section_by_name("DevDscr")["sh_addr"]
        (number,) = [n for n, s in enumerate(elf.iter_segments()) if s["p_vaddr"] == start]
        header = elf["e_phoff"] + number * elf["e_phentsize"]
    for size, whole in ((160 + 16, True), (160 + 8, True), (160, False)):
        struct.pack_into("<II", file, header + 16, size, size)  # p_filesz, p_memsz
        (path := tmp_path / "short.FLM").write_bytes(file)
        if whole:
            assert LoaderFile.load(path).region == load("W25Q256").region
            continue
        with pytest.raises(LoaderRejected, match="has no file contents for FlashDevice"):
            LoaderFile.load(path)


REFUSED = {
    "W25Q256_TYPO": [
        (
            "loader W25Q256_TYPO.stldr puts its device at 0x09000000-0x0affffff, where no external "
            "memory can be"
        ),
        (
            "hint: is 0x90000000 meant?  external memory is at QUADSPI 0x90000000-0x9fffffff, "
            "FMC 0x60000000-0x8fffffff, FMC SDRAM 0xc0000000-0xdfffffff"
        ),
    ],
    "W25Q256_INTERNAL": [
        "loader W25Q256_INTERNAL.stldr is for 0x08000000-0x09ffffff, which is internal flash",
        "hint: internal flash needs no loader: leave this one out",
    ],
    "second_stub": [
        (
            "loader second_stub.stldr puts its device at 0xa0000000-0xa1ffffff, where nothing is "
            "mapped, and has no Read"
        ),
        "hint: the QUADSPI is mapped at 0x90000000",
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_device_that_cannot_be_where_it_says_is_refused(name: str) -> None:
    with pytest.raises(LoaderRejected) as refused:
        load(name)
    assert list(explain(refused.value)) == REFUSED[name]


def test_a_loader_outside_ram_is_refused() -> None:
    with pytest.raises(LoaderRejected, match=r"wants 0x24080004-0x2408\w{4}, which is not RAM"):
        load("W25Q256_NOWHERE")
