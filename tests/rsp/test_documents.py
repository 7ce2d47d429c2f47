"""The XML that GDB and LLDB read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

from gdbserver.chip import stm32h743
from gdbserver.chip.memory import FlashRegion, Span
from gdbserver.rsp import documents


class Row(NamedTuple):
    name: str
    bits: int
    number: int
    group: str
    type: str
    feature: str


CORE, VFP = "org.gnu.gdb.arm.m-profile", "org.gnu.gdb.arm.vfp"
ROWS = [
    Row("d0", 64, 26, "float", "ieee_double", VFP),
    Row("r0", 32, 0, "general", "uint32", CORE),
    Row("pc", 32, 15, "general", "code_ptr", CORE),
]


def test_registers_stand_in_their_features_in_order() -> None:
    root = ElementTree.fromstring(documents.target_description(ROWS))
    assert root.findtext("architecture") == "armv7e-m"
    features = {f.get("name"): [r.attrib for r in f] for f in root.findall("feature")}
    assert list(features) == [CORE, VFP]
    assert [r["name"] for r in features[CORE]] == ["r0", "pc"]
    assert features[VFP] == [
        {"name": "d0", "bitsize": "64", "regnum": "26", "type": "ieee_double", "group": "float"}
    ]


def test_lldb_is_told_which_register_is_the_program_counter() -> None:
    root = ElementTree.fromstring(documents.target_description(ROWS))
    assert {r.get("name"): r.get("generic") for r in root.iter("reg")} == {
        "r0": "arg1",
        "pc": "pc",
        "d0": None,
    }


def test_flash_is_described_run_by_run() -> None:
    nor = FlashRegion("NOR", Span.of(0x90000000, 0x30000), ((16, 0x1000), (2, 0x10000)), 256)
    flash = (stm32h743.bank(1), nor)
    root = ElementTree.fromstring(documents.memory_map(stm32h743.memory_map(flash)))
    described = [
        (m.get("start"), m.get("length"), m.findtext("property"))
        for m in root
        if m.get("type") == "flash"
    ]
    assert described == [
        ("0x8000000", "0x100000", "0x20000"),
        ("0x8100000", "0x7f00000", "0x10000"),  # behind the banks
        ("0x90000000", "0x10000", "0x1000"),
        ("0x90010000", "0x20000", "0x10000"),
        ("0x90030000", "0xffd0000", "0x10000"),  # behind the NOR: nobody's, but GDB shall ask
    ]


def test_the_map_is_ascending_disjoint_and_has_the_peripherals() -> None:
    root = ElementTree.fromstring(
        documents.memory_map(stm32h743.memory_map((stm32h743.bank(1), stm32h743.bank(2))))
    )
    places = [(int(m.get("start", ""), 0), int(m.get("length", ""), 0)) for m in root]
    for (start, length), (following, _) in pairwise(places):
        assert start + length <= following
    for address in (0x40000000, 0x5C001000, 0xE000ED00, 0x24000000, 0x38800000):
        assert any(start <= address < start + length for start, length in places)


@dataclass
class Row:
    number: int
    name: str
    state: str


def test_threads_have_names_and_states() -> None:
    rows = [Row(1, "idle", "Running"), Row(11, 'a "<thread>"', "Blocked; Priority 2")]
    first, second = ElementTree.fromstring(documents.threads(rows))
    assert first.attrib == {"id": "1", "core": "0", "name": "idle"}
    assert first.text == "Running"
    assert (second.attrib["id"], second.attrib["name"]) == ("b", 'a "<thread>"')
