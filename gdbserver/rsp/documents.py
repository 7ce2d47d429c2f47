"""The XML that GDB reads through qXfer: target description, memory map, threads.

GDB manual, "Target Descriptions", "ARM Features", "Memory Map Format", "Thread List Format".
LLDB reads the same target description, with four attributes of its own (``generic``,
``altname``, ``encoding``, ``format``) that GDB passes over.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Protocol
from xml.etree import ElementTree

from gdbserver.chip.memory import FlashRegion, Kind, MemoryMap, Region


class RegisterRow(Protocol):
    """One register as GDB numbers it; `type` is GDB's word (int, data_ptr, ieee_double…)."""

    @property
    def name(self) -> str: ...
    @property
    def bits(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def group(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def feature(self) -> str: ...


class ThreadRow(Protocol):
    """What is shown of one thread."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...


# What the registers are for, in LLDB's words; AAPCS32, "Core registers".
_GENERIC = {"r7": "fp", "sp": "sp", "lr": "ra", "pc": "pc", "xpsr": "flags"} | {
    f"r{n}": f"arg{n + 1}" for n in range(4)
}


def _document(root: ElementTree.Element, doctype: str = "") -> bytes:
    ElementTree.indent(root, " ")
    head = '<?xml version="1.0"?>\n' + doctype
    return head.encode() + ElementTree.tostring(root) + b"\n"


def target_description(registers: Iterable[RegisterRow]) -> bytes:
    """target.xml: architecture and registers, by feature, in GDB's order."""
    target = ElementTree.Element("target", version="1.0")
    ElementTree.SubElement(target, "architecture").text = "armv7e-m"
    for name, rows in groupby(sorted(registers, key=lambda r: r.number), lambda r: r.feature):
        feature = ElementTree.SubElement(target, "feature", name=name)
        for row in rows:
            attributes = {
                "name": row.name,
                "bitsize": str(row.bits),
                "regnum": str(row.number),
                "type": row.type,
                "group": row.group,
            }
            if row.name in _GENERIC:
                attributes["generic"] = _GENERIC[row.name]
            ElementTree.SubElement(feature, "reg", attributes)
    return _document(target, '<!DOCTYPE target SYSTEM "gdb-target.dtd">\n')


_ANY_BLOCK = 0x10000  # flash that nobody can program has no sectors, but GDB wants some


def memory_map(everything: MemoryMap) -> bytes:
    """What GDB may touch, and how flash is cut: a `memory` element for each run of sectors."""
    root = ElementTree.Element("memory-map")
    places: list[Region | FlashRegion] = [*everything.regions, *everything.flash]
    for place in sorted(places, key=lambda p: p.span):
        if isinstance(place, FlashRegion):
            start = place.span.start
            for count, size in place.groups:
                _flash(root, start, count * size, size)
                start += count * size
        elif place.kind is Kind.FLASH:
            _flash(root, place.span.start, len(place.span), _ANY_BLOCK)
        else:
            _memory(root, place.kind.value, place.span.start, len(place.span))
    return _document(
        root,
        '<!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN" '
        '"http://sourceware.org/gdb/gdb-memory-map.dtd">\n',
    )


def _flash(root: ElementTree.Element, start: int, length: int, block: int) -> None:
    memory = _memory(root, "flash", start, length)
    ElementTree.SubElement(memory, "property", name="blocksize").text = f"{block:#x}"


def _memory(root: ElementTree.Element, kind: str, start: int, length: int) -> ElementTree.Element:
    return ElementTree.SubElement(
        root, "memory", type=kind, start=f"{start:#x}", length=f"{length:#x}"
    )


def threads(rows: Iterable[ThreadRow]) -> bytes:
    """The threads of the program's operating system, or the core as the only one."""
    root = ElementTree.Element("threads")
    for row in rows:
        attributes = {"id": f"{row.number:x}", "core": "0", "name": row.name}
        ElementTree.SubElement(root, "thread", attributes).text = row.state
    return _document(root)
