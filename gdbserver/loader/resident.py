"""The resident routine: what it is told through its ring, and who lies where in RAM beside it.

``run(ring)`` of ``loaders/queue``, with r0 = address of a `RING` header, never returns::

    for (;;) {
        record = &ring->records[ring->done & (ring->capacity - 1)];
        while (record->number != ring->done + 1)   // free-running counts
            ;                                  // spin: no WFI, so that memory can be polled
        if (record->function == 0) { ring->state = ENDED; for (;;) bkpt; }
        ring->state = CALLING;
        r9 = ring->static_base;
        sp = as it was at first;
        result = record->function(record->arguments[0..3]);
        record->arguments[0] = ring->result = result;
        ring->done += 1;                       // after the result (DMB between)
        if (record->check && result != record->expected) {
            ring->state = STOPPED; for (;;) bkpt;
        }
        ring->state = WAITING;
    }

A record is written in one go, its number last: so posting a call is one access.  ``run`` keeps
nothing in registers over a call, for there are routines that preserve none (AAPCS32 says which
they must); it uses the stack pointer that the host sets, no FPU, no literal that depends on its
address.  ``expected`` is what the loader's kind calls success.  While ``run`` waits, when the host
need not look, it feeds those watchdogs that the header has a word for; in a call the host does.

Helpers in the same image, called through the ring like any other routine (AAPCS32; they
preserve r9):

``crc32(address, length) -> crc``
    zlib's CRC-32 (reflected, polynomial 0xEDB88320, initial and final inversion), for kilobytes.
``crc32_each(start, size, count, results) -> 0``
    The same for `count` adjacent blocks of `size` bytes; stores one word each at `results`.
    Like the next it has tables of its own, and is quick enough for megabytes.
``crc32_spread(start, stride, count, results) -> 0``
    The same for the first `SPREAD` bytes of `count` sectors that are `stride` bytes apart.
``blank_spread(start, stride, count, size) -> blank``
    How many pieces of `size` bytes, a multiple of 16, `stride` bytes apart, are all ones, up to
    the first that is not.
``unpack(from, length, to, room) -> length``
    Undoes `gdbserver.flash.packing`; 0 when that cannot be.
``feed(feeder) -> 0``
    Keeps internal flash programming: see `gdbserver.flash.feeder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from construct import Array, Const, Int32ul, Struct

from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import AXI_SRAM, DTCM
from gdbserver.errors import LoaderRejected
from gdbserver.loader.file import Image
from gdbserver.loader.known_state import VECTORS
from gdbserver.loader.reentry import Stage

RECORD = Struct(
    "function" / Int32ul,  # entry address, thumb bit set; 0 ends the queue
    "arguments" / Array(4, Int32ul),  # r0 to r3
    "check" / Int32ul,  # 0: any result is good; 1: it must be `expected`
    "expected" / Int32ul,
    "number" / Int32ul,  # of the call, from 1 on: with it the record is complete
)
"""One call: 8 words.  The target puts r0 of a finished one in the first argument's place."""

RING = Struct(
    "magic" / Const(0x474E4952, Int32ul),  # "RING"
    "done" / Int32ul,  # written by the target: records finished so far
    "state" / Int32ul,  # written by the target: one of the STATE_ values
    "result" / Int32ul,  # written by the target: r0 of the call that finished last
    "capacity" / Int32ul,  # records in the ring: a power of two
    "static_base" / Int32ul,  # r9 for each call
    "window_watchdog" / Int32ul,  # for WWDG1_CR, between calls; 0: it does not run
    "independent_watchdog" / Int32ul,  # for IWDG1_KR, likewise
)
"""Header of the ring, 8 words; the records follow it at once."""

_HEADER_SIZE, _RECORD_SIZE = 32, 32
# Where to look: bytes from the start of header and record.
DONE_AT, STATE_AT, WATCHDOGS_AT, RESULT_AT = 4, 8, 24, 4

WITH_TABLES = ("crc32_each", "crc32_spread")
HELPERS = ("crc32", "blank_spread", *WITH_TABLES)
"""Those that read memory, and may find none."""
LATER = ("feed", "unpack")
"""Those whose code is brought when one is called; it lies behind all other."""
RESIDENT = (*HELPERS, *LATER)
SPREAD = 1024
"""Bytes of each block of `crc32_spread`."""
RESULTS = 128
"""Words that a helper may fill in one call."""

STATE_WAITING, STATE_CALLING, STATE_STOPPED, STATE_ENDED = range(4)

TRAPS = bytes.fromhex("00be00be 01be00be")
"""BKPT 0, where a routine returns to; BKPT 1, where a stray interrupt leads."""

_FOREIGN_STACK = 4 * 1024  # loaders in the wild use less than 1 KiB: ST's tools give no more
_OWN_STACK = 2 * 1024  # what unpacks wants 1.7 KiB
_SHALLOW = 512  # of these, what everything else of ours wants: Init half of it
_CALLS = 32  # a power of two: far more than buffers, so erases may queue up between writes
_OWN_CALLS = 16  # one writes a whole buffer
_EXCEPTIONS = 16  # vectors that code of ours can need: it enables no interrupt
_SCRATCH = 4 * 1024  # for r9 of a loader that is movable but brings no data section
_MOST_PADDING = 4096  # words: what is read is of no use, and 16 KiB take any link long enough


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a routine, as it was asked for: what the host keeps of a `RECORD`."""

    routine: str
    arguments: tuple[int, ...]
    timeout: float
    checked: bool
    expected: int

    def __str__(self) -> str:
        return f"{self.routine}({', '.join(f'{a:#x}' for a in self.arguments)})"


class Layout:
    """Who lies where in RAM, beside a loader that is linked where it is linked.

    One block holds all that is ours: stack, vector table, ring, traps, resident code.  It goes to
    the start of DTCM, which nothing stalls, or of AXI SRAM when the loader is in its way: a
    stack that is used up then leaves RAM altogether, and that is a fault, right where it happens.
    With code of ours, which has stack enough, it goes to the end: a slow look then has RAM to read
    before it comes to the ring.
    """

    def __init__(self, image: Image, resident: Image, *, own: bool) -> None:
        code, end = resident.chunks[0][1], resident.memory[-1].end
        self.calls = _OWN_CALLS if own else _CALLS
        """Records in the ring."""
        self.exceptions = _EXCEPTIONS if own else VECTORS
        self.first_code = min(resident.symbols[name].address for name in LATER)
        self.later = code[self.first_code :]
        stack = _OWN_STACK if own else _FOREIGN_STACK
        offset = 0
        parts = {}
        sizes = {
            "stack": stack,  # a multiple of 1024, as VTOR wants the address of what follows
            "vectors": 4 * self.exceptions,
            "ring": _HEADER_SIZE + self.calls * _RECORD_SIZE,
            "traps": len(TRAPS),
            "scratch": _SCRATCH if image.rwpi and image.static_base is None else 0,
            "resident": end,
            "results": 4 * RESULTS,
        }
        for name, size in sizes.items():
            parts[name] = offset
            offset += -(-size // 32) * 32
        size = -(-offset // 1024) * 1024
        starts = DTCM.start, AXI_SRAM.start
        ends = DTCM.end - size, AXI_SRAM.end - size
        for block in (Span.of(at, size) for at in (ends + starts if own else starts + ends)):
            if not any(len(block & span) for span in image.memory):
                break
        else:
            raise LoaderRejected(image.path, f"leaves no room for {size} bytes of stack and queue")
        self.block = block
        self.traps = block.start + parts["traps"]
        self.stray = self.traps + 4
        self.ring = block.start + parts["ring"]
        ram = DTCM if self.ring in DTCM else AXI_SRAM
        self.words_before_ring = min((self.ring - ram.start) // 4, _MOST_PADDING)
        self.results = block.start + parts["results"]
        self.resident = block.start + parts["resident"]
        self.scratch = Span.of(block.start + parts["scratch"], sizes["scratch"])
        """Zeros."""
        self.stack = Span.of(block.start + parts["stack"], stack)
        foot = self.stack.end - (_SHALLOW if own else stack)
        self.always = Span(foot, self.resident + self.first_code)
        """What every queue uses; the rest of the block is borrowed when it is needed."""
        self.later_code = Span.of(self.resident + self.first_code, len(self.later))
        self.tables = Span(self.resident + len(code), self.results + 4 * RESULTS)
        # What a handler is entered through lies over vectors and ring: no call comes after that.
        self.stage = Stage(block.start + parts["vectors"], foot, self.stack.end)
        self.static_base = image.static_base or (self.scratch.start if self.scratch else 0)
        taken = [*image.memory, block]
        gaps = [gap for ram in (AXI_SRAM, DTCM) for gap in _gaps(ram, taken)]
        self.free = max(gaps, key=len)

    def record(self, number: int) -> int:
        """Address of the record of call `number`."""
        return self.ring + _HEADER_SIZE + number % self.calls * _RECORD_SIZE


def _gaps(area: Span, taken: Sequence[Span]) -> Iterator[Span]:
    """What is left of `area`, in whole cache lines."""
    start = area.start
    for span in [*merge(list(taken)), Span(area.end, area.end)]:
        if len(span & area) or span.start == area.end:
            first = -(-start // 32) * 32
            yield Span(first, max(first, span.start // 32 * 32))
            start = max(start, span.end)
