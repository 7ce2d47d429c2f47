"""Breakpoints and watchpoints: asked for by GDB, in the hardware at once.

A breakpoint is in force when `Breakpoints.insert` returns, or it is refused there and then, with
the counts.  Three means:

* the FPB has comparators for any address (revision 2 of it);
* in RAM, a Z0 is a BKPT written over the instruction, of which there is no shortage.  Reads
  show what was there, and writes go behind it (`overlay`, `absorb`);
* the DWT watches naturally aligned blocks of 2^n bytes, so a range takes one comparator per
  block that it is made of (`blocks`).

Rule: what is in the hardware is a function of what is asked for.  `rewrite` makes it so
whenever hardware may have lost it, and comparators that nobody asked for are off.

Armv7-M ARM (DDI 0403E.e), "Flash Patch and Breakpoint unit", "The Data Watchpoint and Trace
unit"; DDI 0489 (Cortex-M7), the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gdbserver.chip.cortex_m import (
    DWT_COMP,
    DWT_CTRL,
    DWT_FUNCTION,
    DWT_FUNCTION_ACCESS,
    DWT_FUNCTION_MATCHED,
    DWT_FUNCTION_READ,
    DWT_FUNCTION_WRITE,
    FP_COMP,
    FP_CTRL,
    FP_CTRL_ENABLE,
    FP_CTRL_KEY,
)
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM, D2_SRAM_ALIAS, DTCM, ITCM, SRAM1, SRAM2, SRAM3, SRAM4
from gdbserver.errors import BreakpointError
from gdbserver.target.access import Read, Write
from gdbserver.target.memory import Memory
from gdbserver.target.port import Port

BKPT: Final = 0xBE00
_CODE_RAM: Final = (ITCM, D2_SRAM_ALIAS, DTCM, AXI_SRAM, SRAM1, SRAM2, SRAM3, SRAM4)
_LARGEST_MASK: Final = 15  # DWT_MASK ignores at most so many address bits, and at least these


_ENABLE: Final = Write(FP_CTRL, [FP_CTRL_KEY | FP_CTRL_ENABLE])
_FPB_WORDS: Final = 2 + 8
"""From FP_CTRL to the last of eight comparators, of which the Cortex-M7 has no more."""
_DWT_WORDS: Final = (DWT_FUNCTION - DWT_CTRL) // 4 + 4 * 3 + 1
"""From DWT_CTRL to the fourth DWT_FUNCTION, which is its last."""


class BreakKind(IntEnum):
    """The kinds of ``Z`` and ``z`` packets, by their number."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE_WATCH = 2
    READ_WATCH = 3
    ACCESS_WATCH = 4


CODE: Final = (BreakKind.SOFTWARE, BreakKind.HARDWARE)

_FUNCTION: Final = {
    BreakKind.WRITE_WATCH: DWT_FUNCTION_WRITE,
    BreakKind.READ_WATCH: DWT_FUNCTION_READ,
    BreakKind.ACCESS_WATCH: DWT_FUNCTION_ACCESS,
}


@dataclass(frozen=True, slots=True)
class Watch:
    """What one watchpoint of GDB's asks for."""

    kind: BreakKind
    span: Span


@dataclass(frozen=True, slots=True)
class Block:
    """What one comparator watches: 2^`mask` bytes, naturally aligned."""

    address: int
    mask: int

    @property
    def span(self) -> Span:
        return Span.of(self.address, 1 << self.mask)


def blocks(span: Span) -> list[Block]:
    """`span` in as few naturally aligned blocks as possible, ascending."""
    result = []
    address = span.start
    while address < span.end:
        mask = min(_LARGEST_MASK, (span.end - address).bit_length() - 1)
        if address:
            mask = min(mask, (address & -address).bit_length() - 1)
        result.append(Block(address, mask))
        address += 1 << mask
    return result


def in_code_ram(address: int) -> bool:
    return any(address in span for span in _CODE_RAM)


class Breakpoints:
    """All breakpoints and watchpoints of one core."""

    def __init__(self, port: Port, memory: Memory) -> None:
        self._port = port
        self._memory = memory
        self._code: dict[int, set[BreakKind]] = {}
        self._patches: dict[int, bytes] = {}
        self._fpb: list[int | None] = []
        self._fpb_is_on = False
        self._lent: dict[int, int] = {}
        self._dwt: list[tuple[Watch, Block] | None] = []

    def start(self) -> list[Write]:
        """Find out what the hardware has, and what switches it off, whoever used it last."""
        fpb, dwt = self._port.run([Read(FP_CTRL, _FPB_WORDS), Read(DWT_CTRL, _DWT_WORDS)])
        self._fpb = [None] * (fpb[0] >> 4 & 0xF | fpb[0] >> 8 & 0x70)
        self._dwt = [None] * (dwt[0] >> 28)
        compared = fpb[(FP_COMP - FP_CTRL) // 4 :]
        functions = dwt[(DWT_FUNCTION - DWT_CTRL) // 4 :: 4]
        known = len(self._fpb) <= len(compared) and len(self._dwt) <= len(functions)
        if known and not any(compared) and not any(functions):
            return []  # usually nobody has used them
        return self._all()

    def rewrite(self) -> None:
        """Make FPB and DWT hold what is asked for: after a reset that they may not survive."""
        self._lent.clear()
        self._port.run(self._all())

    def _all(self) -> list[Write]:
        self._fpb_is_on = True
        return [
            Write(FP_COMP, [_comparator(address) for address in self._fpb]),
            _ENABLE,
            *(self._write_watch(index) for index in range(len(self._dwt))),
        ]

    # --- Asking ----------------------------------------------------------------------------------

    def insert(self, kind: BreakKind, address: int, length: int) -> None:
        """Raises: BreakpointError, with nothing changed; MemoryFault (Z0 in RAM)."""
        if kind in _FUNCTION:
            self._watch(Watch(kind, Span.of(address, length)))
            return
        address &= ~1
        kinds = self._code.get(address, set())
        if kind not in kinds:
            self._place(address, kinds | {kind})

    def remove(self, kind: BreakKind, address: int, length: int) -> None:
        """What was never set is cleared already."""
        if kind in _FUNCTION:
            self._unwatch(Watch(kind, Span.of(address, length)))
            return
        address &= ~1
        kinds = self._code.get(address, set())
        if kind in kinds:
            self._place(address, kinds - {kind})

    def clear_all(self) -> None:
        """Everything off at once, and the RAM as it was."""
        self._code.clear()
        self._fpb = [None] * len(self._fpb)
        self._dwt = [None] * len(self._dwt)
        self.rewrite()
        for address in list(self._patches):
            self._unpatch(address)

    def at(self, address: int) -> BreakKind | None:
        """The breakpoint that stops the core at `address`, if one does."""
        kinds = self._code.get(address)
        return max(kinds) if kinds else None

    # --- Code ------------------------------------------------------------------------------------

    def _place(self, address: int, kinds: set[BreakKind]) -> None:
        """Bring the hardware from what is asked for at `address` to `kinds`."""
        patched = BreakKind.SOFTWARE in kinds and in_code_ram(address)
        compared = bool(kinds - {BreakKind.SOFTWARE}) or (bool(kinds) and not patched)
        if compared != (address in self._fpb):
            index, new = (self._spare(), address) if compared else (self._fpb.index(address), None)
            self._port.run([*self._switch_on(), Write(FP_COMP + 4 * index, [_comparator(new)])])
            self._lent.pop(index, None)
            self._fpb[index] = new
        if patched and address not in self._patches:
            self._patch(address)
        elif not patched and address in self._patches:
            self._unpatch(address)
        if kinds:
            self._code[address] = kinds
        else:
            self._code.pop(address, None)

    def _switch_on(self) -> list[Write]:
        """What the first comparator that is used needs besides."""
        was_on, self._fpb_is_on = self._fpb_is_on, True
        return [] if was_on else [_ENABLE]

    def _spare(self) -> int:
        """A comparator that no breakpoint has; rather one that nobody has borrowed either."""
        free = [index for index, entry in enumerate(self._fpb) if entry is None]
        if not free:
            total = len(self._fpb)
            raise BreakpointError(
                f"{total} of {total} hardware breakpoints are in use",
                hint="in RAM, a software breakpoint (Z0) needs none",
            )
        return min(free, key=lambda index: index in self._lent)

    def _patch(self, address: int) -> None:
        original = self._memory.read(address, 2)
        self._memory.write(address, BKPT.to_bytes(2, "little"))
        if self._memory.read(address, 2) != BKPT.to_bytes(2, "little"):
            raise BreakpointError(
                f"the memory at {address:#010x} does not keep what is written",
                hint="RAM of the D2 domain needs its clock: RCC_AHB2ENR",
            )
        self._memory.sync_caches()
        self._patches[address] = original

    def _unpatch(self, address: int) -> None:
        original = self._patches.pop(address)
        # Whoever wrote something else there since, behind our back, meant it.
        if self._memory.read(address, 2) == BKPT.to_bytes(2, "little"):
            self._memory.write(address, original)
            self._memory.sync_caches()

    def overlay(self, address: int, data: bytes) -> bytes:
        """What the client shall see, of `data` that were read at `address`."""
        if not self._patches:
            return data
        seen = bytearray(data)
        for offset, index, original in self._patched_bytes(address, len(data)):
            seen[offset] = original[index]
        return bytes(seen)

    def absorb(self, address: int, data: bytes) -> bytes:
        """What to write at `address`, so that the client's `data` go behind the patches."""
        if not self._patches:
            return data
        written = bytearray(data)
        bkpt = BKPT.to_bytes(2, "little")
        for offset, index, _ in self._patched_bytes(address, len(data)):
            where = address + offset - index
            original = bytearray(self._patches[where])
            original[index] = data[offset]
            self._patches[where] = bytes(original)
            written[offset] = bkpt[index]
        return bytes(written)

    def _patched_bytes(self, address: int, length: int) -> Iterator[tuple[int, int, bytes]]:
        """(offset into the range, index into the patch, original) of each patched byte."""
        for where, original in list(self._patches.items()):
            for index in range(2):
                if address <= where + index < address + length:
                    yield where + index - address, index, original

    # --- Data ------------------------------------------------------------------------------------

    def _watch(self, watch: Watch) -> None:
        if any(entry and entry[0] == watch for entry in self._dwt):
            return
        wanted = blocks(watch.span)
        free = [index for index, entry in enumerate(self._dwt) if entry is None]
        if not wanted:
            raise BreakpointError(f"there is nothing to watch at {watch.span}")
        if len(wanted) > len(free):
            total, many = len(self._dwt), "s" if len(wanted) > 1 else ""
            raise BreakpointError(
                f"watching {watch.span} takes {len(wanted)} comparator{many}, and"
                f" {total - len(free)} of {total} are in use",
                hint="one comparator watches 1, 2, 4, 8, ... bytes at a multiple of their number",
            )
        for index, block in zip(free, wanted, strict=False):
            self._dwt[index] = (watch, block)
        self._port.run([self._write_watch(index) for index in free[: len(wanted)]])

    def _unwatch(self, watch: Watch) -> None:
        mine = [index for index, entry in enumerate(self._dwt) if entry and entry[0] == watch]
        for index in mine:
            self._dwt[index] = None
        if mine:
            self._port.run([self._write_watch(index) for index in mine])

    def _write_watch(self, index: int) -> Write:
        entry = self._dwt[index]
        if entry is None:
            return Write(DWT_FUNCTION + 16 * index, [0])
        watch, block = entry
        values = [block.address, block.mask, _FUNCTION[watch.kind]]
        return Write(DWT_COMP + 16 * index, values)

    def watch_status(self) -> list[Read]:
        """What tells which watchpoint matched; reading it clears it."""
        return [Read(DWT_FUNCTION + 16 * i) for i, entry in enumerate(self._dwt) if entry]

    def matched(self, status: list[int]) -> tuple[Watch, Block] | None:
        """The watchpoint that matched, given what the reads of `watch_status` found."""
        entries = [entry for entry in self._dwt if entry]
        for entry, function in zip(entries, status, strict=True):
            if function & DWT_FUNCTION_MATCHED:
                return entry
        return None

    # --- For a while -----------------------------------------------------------------------------

    def borrow(self, addresses: Collection[int]) -> list[Write] | None:
        """Stop at these too, once the result is written; None without as many comparators.

        They are no breakpoints of the client's, and `give_back` takes them out.
        """
        wanted = [address for address in addresses if self.at(address) is None]
        free = [index for index, entry in enumerate(self._fpb) if entry is None]
        if len(wanted) > len(free):
            return None
        self._lent = dict(zip(free, wanted, strict=False))
        places = [Write(FP_COMP + 4 * i, [_comparator(a)]) for i, a in self._lent.items()]
        return [*self._switch_on(), *places]

    def borrowed(self, address: int) -> bool:
        return address in self._lent.values()

    def give_back(self) -> list[Write]:
        """What makes the hardware forget what was borrowed."""
        lent, self._lent = self._lent, {}
        return [Write(FP_COMP + 4 * index, [0]) for index in lent]

    def lift(self, address: int) -> tuple[list[Write], list[Write]] | None:
        """What lets the core execute what is at `address`, and what puts the breakpoint back.

        None where that takes more than a comparator: see `lifted`.
        """
        if address in self._patches:
            return None
        indices = [index for index, entry in enumerate(self._fpb) if entry == address]
        return (
            [Write(FP_COMP + 4 * index, [0]) for index in indices],
            [Write(FP_COMP + 4 * index, [_comparator(address)]) for index in indices],
        )

    # --- Out of the way ------------------------------------------------------------------------

    @contextmanager
    def lifted(self, address: int) -> Iterator[None]:
        """Let the core execute the instruction at `address`, whatever breakpoint sits on it."""
        kinds = self._code.get(address, set())
        self._place(address, set())
        try:
            yield
        finally:
            self._place(address, kinds)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """All of them out of the hardware, for the time of a loader."""
        code, watches = self._code.copy(), {entry[0] for entry in self._dwt if entry}
        if not (code or watches or self._lent):
            yield
            return
        self.clear_all()
        try:
            yield
        finally:
            for address, kinds in code.items():
                self._place(address, kinds)
            for watch in watches:
                self._watch(watch)


def _comparator(address: int | None) -> int:
    """FP_COMPn of FPB revision 2: an address, and bit 0 to enable it."""
    return 0 if address is None else address | 1
