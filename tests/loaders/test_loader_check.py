"""`loader check` and `loader info`: what is told of files, without a target."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixture_loaders import build

from gdbserver.cli.loader import loader
from gdbserver.loader.check import check, info, routines
from gdbserver.loader.file import LoaderFile, built, load_image
from gdbserver.loader.hazards import hazards

START = """
    .syntax unified
    .thumb
    .text
    .macro routine name
    .global \\name
    .type \\name, %function
    .thumb_func
\\name:
    .endm
"""


def code(tmp_path: Path, *lines: str) -> list[tuple[str, str]]:
    """(place, kind) of what is found behind Init, which is the first routine of `lines`."""
    source, elf = tmp_path / "code.s", tmp_path / "code.elf"
    source.write_text(START + "\n".join(lines) + "\n.pool\n")
    subprocess.run(
        ["arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb", "-nostdlib", "-Wl,-n", "-Wl,-e,Init",
         "-Wl,-Ttext=0x24000004", source, "-o", elf],
        check=True,
    )  # fmt: skip
    image = load_image(elf)
    found = hazards(image, {"Init": image.entries["Init"]})
    return [(hex(hazard.address - 0x24000004), hazard.kind) for hazard in found]


def test_our_own_loader_is_clean() -> None:
    report = check(built("qspi.stldr"))
    assert report.clean
    assert list(report.lines()) == ["qspi.stldr: can work"]


def test_a_loader_made_from_st_s_template_is_told_what_it_does() -> None:
    report = check(build("W25Q256_F8"))
    assert report.ok
    assert [(hazard.kind, hazard.routine) for hazard in report.hazards] == [
        ("dhcsr", "Init"),
        ("vtor", "Init"),
        ("cpsie", "Init"),
        ("systick", "Init"),
        ("cpsie", "Write"),
        ("cpsie", "SectorErase"),
    ]
    told = [str(hazard).partition(") ")[2] for hazard in report.hazards]
    assert told[:4] == [
        "writes DHCSR, which is the debugger's: 0xa05f0000",
        "moves the vector table (VTOR): 0x24000200",
        "lets interrupts in (CPSIE)",
        "starts SysTick with its interrupt, and never stops it",
    ]
    assert report.hazards[0].place.startswith("Init+0x")


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["ldr r0, =0xE000EDF0", "str r1, [r0]"], "dhcsr"),
        (["movw r0, #0xED00", "movt r0, #0xE000", "str r1, [r0, #8]"], "vtor"),
        (["mov r0, #0xE000E000", "movs r1, #1", "str r1, [r0, #0x10]"], "systick"),
        (["ldr r0, =0xE000ED00", "movs r2, #12", "ldr r1, =0x05FA0004", "str r1, [r0, r2]"],
         "reset"),
        (["ldr r0, =0xE000ED0C", "ldr r1, [r0]", "orr r1, r1, #4", "str r1, [r0]"], "reset"),
        (["wfi"], "sleep"),
        (["wfe"], "sleep"),
        (["bkpt #1"], "bkpt"),
        (["svc #0"], "svc"),
        (["cpsie i"], "cpsie"),
        (["cpsid i"], "cpsid"),
        (["ldr r3, =0x08000401", "blx r3"], "outside"),
        (["ldr r0, =0x58004800", "movw r1, #0xCCCC", "str r1, [r0]"], "watchdog"),
        (["ldr r0, =0xE000E100", "movs r1, #1", "str r1, [r0, #8]"], "nvic"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_hazard_is_seen(tmp_path: Path, lines: list[str], kind: str) -> None:
    found = code(tmp_path, "routine Init", *lines, "bx lr")
    assert [k for _, k in found] == [kind]


@pytest.mark.parametrize(
    "lines",
    [
        ["ldr r0, =0xE000E010", "movs r1, #0", "str r1, [r0]"],  # stops SysTick
        ["ldr r0, =0xE000ED0C", "ldr r1, =0x05FA0300", "str r1, [r0]"],  # priority grouping
        ["mrs r4, primask", "cpsid i", "msr primask, r4"],
        ["b 1f", ".word 0xBF30BF30", "1: nop"],  # WFI WFI, as data
        ["ldr r0, =0xE000EDF0", "ldr r1, [r0]"],
        ["ldr r0, =0xE000EDF0", "bl other", "str r1, [r0]"],  # r0 does not survive a call
    ],
)
def test_what_harms_nobody_is_not_told(tmp_path: Path, lines: list[str]) -> None:
    lines = ["routine Init", "push {lr}", *lines, "pop {pc}", "routine other", "bx lr"]
    assert code(tmp_path, *lines) == []


def test_code_behind_calls_branches_and_jump_tables_is_followed(tmp_path: Path) -> None:
    found = code(
        tmp_path,
        *("routine Init", "push {lr}", "bl far", "cmp r0, #2", "bhi 9f", "tbb [pc, r0]"),
        "5: .byte (1f-5b)/2, (2f-5b)/2, (3f-5b)/2, 0",
        *("1: wfi", "b 9f", "2: bkpt #0", "b 9f", "3: svc #0", "9: pop {pc}"),
        *("routine far", "cbz r0, 1f", "bx lr", "1: wfe", "bx lr"),
        *("routine never", "wfi", "bx lr"),
    )
    assert [kind for _, kind in found] == ["sleep", "bkpt", "svc", "sleep"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("W25Q256", "W25Q256.FLM: can work"),
        ("W25Q256_F4", "W25Q256_F4.stldr: can work, 1 remark"),
        ("W25Q256_NOWHERE", "W25Q256_NOWHERE.stldr: refused"),
    ],
)
def test_files_of_every_kind_have_their_first_line(name: str, line: str) -> None:
    assert next(check(build(name)).lines()) == line


def test_what_a_routine_does_at_many_places_is_one_remark() -> None:
    report = check(build("W25Q256_F8_400_MHZ"))
    first, *lines = report.lines()
    assert first.endswith(f"can work, {len(lines)} remarks")
    (clocks,) = [line for line in lines if "changes the clocks (RCC)" in line]
    assert clocks.endswith(", and 5 times more")
    assert [hazard.kind for hazard in report.hazards].count("clock") == 6


def test_a_refused_file_is_told_why_and_counts_as_failure(tmp_path: Path) -> None:
    file = tmp_path / "notes.stldr"
    file.write_text("remember the milk")
    result = CliRunner().invoke(loader, ["check", str(built("qspi.stldr")), str(file)])
    assert result.exit_code == 1
    assert result.output.startswith(
        "qspi.stldr: can work\nnotes.stldr: refused\n  loader notes.stldr is not an ELF file"
    )


def test_remarks_count_only_when_asked_to_be_strict() -> None:
    file = str(build("W25Q256_F8"))
    assert CliRunner().invoke(loader, ["check", file]).exit_code == 0
    assert CliRunner().invoke(loader, ["check", "--strict", file]).exit_code == 1


def test_the_json_of_check_has_what_people_read() -> None:
    file = build("W25Q256_F8")
    result = CliRunner().invoke(loader, ["check", "--json", str(file)])
    (report,) = json.loads(result.output)
    assert (report["file"], report["ok"], report["refused"]) == (str(file), True, [])
    assert report["hazards"][1]["kind"] == "vtor"
    assert report["hazards"][1]["address"] == check(file).hazards[1].address


def test_info_tells_geometry_memory_and_symbols() -> None:
    file = built("qspi.stldr")
    lines = list(info(file).lines())
    assert "flash       0x90000000-0x91ffffff, 32 MiB" in lines
    assert "sectors     512 of 64 KiB" in lines
    assert "page        256 bytes" in lines
    assert "e_flags     0x05000200 (soft-float)" in lines
    assert "routines    Init, Write, SectorErase, MassErase, Read, Verify, CheckSum" in lines
    (ram,) = [line for line in lines if line.startswith("RAM")]
    assert ram.startswith("RAM         AXI SRAM 0x24000004-0x2400")
    assert any(line.endswith(" function Init") for line in lines)


def test_the_json_of_info_has_the_same() -> None:
    file = built("qspi.stldr")
    result = CliRunner().invoke(loader, ["info", "--json", str(file)])
    (document,) = json.loads(result.output)
    assert document["sectors"] == [{"count": 512, "size": 0x10000}]
    assert document["routines"] == routines(LoaderFile.load(file))
    (memory,) = document["memory"]
    used, free = memory["start"] + memory["size"], memory["free"]
    assert (memory["ram"], free["start"]) == ("AXI SRAM", used)
    assert free["start"] + free["size"] == 0x24080000
