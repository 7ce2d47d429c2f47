"""Call a loader's routines on the target's own core, many at a time.

The plain way to call a routine is a dozen register writes, a resume, polling for the halt,
and a read of r0: a handful of probe transactions per call, in which the device sits idle.  So
a small resident routine of ours (``loaders/queue``, position independent) runs on the core
instead.  It takes call records from a ring in SRAM, calls them one after the other, and
stores their results; the host fills buffers and records while the core works, and follows
along by reading the ring through the debug port, without halting the core.

The resident routine, as ``loaders/queue`` implements it and this module relies on it:

``run(queue)``, with r0 = address of a `RING` header, never returns::

    for (;;) {
        while (queue->put == queue->done)      // free-running counts, compared for equality
            ;                                  // spin: no WFI, so that memory can be polled
        record = &queue->records[queue->done & (queue->capacity - 1)];
        if (record->function == 0) { queue->state = ENDED; for (;;) bkpt; }
        queue->state = CALLING;
        r9 = queue->static_base;
        record->result = record->function(record->arguments[0..3]);
        queue->done += 1;                      // after the result (DMB between)
        if (record->check && record->result != record->expected) {
            queue->state = STOPPED; for (;;) bkpt;
        }
        queue->state = WAITING;
    }

It keeps its own variables in r4-r8, r10 and r11, which a routine preserves (AAPCS32), uses
the stack pointer that the host sets, no FPU, no literal that depends on its address, and reads
`put` from memory each time.  ``expected`` is what the loader's kind calls success.

Helpers in the same image, called through the ring like any other routine (AAPCS32; they
preserve r9):

``crc32(address, length) -> crc``
    zlib's CRC-32 (reflected, polynomial 0xEDB88320, initial and final inversion).
``crc32_each(start, size, count, results) -> 0``
    The same for `count` adjacent blocks of `size` bytes; stores one word each at `results`.

Both read memory by words where aligned, and are quick enough for megabytes.
"""

from __future__ import annotations

from construct import Array, Const, Int32ul, Struct

RECORD = Struct(
    "function" / Int32ul,  # entry address, thumb bit set; 0 ends the queue
    "arguments" / Array(4, Int32ul),  # r0 to r3
    "check" / Int32ul,  # 0: any result is good; 1: it must be `expected`
    "expected" / Int32ul,
    "result" / Int32ul,  # written by the target: r0
)
"""One call: 8 words."""

RING = Struct(
    "magic" / Const(0x474E4952, Int32ul),  # "RING"
    "put" / Int32ul,  # written by the host: records filled so far
    "done" / Int32ul,  # written by the target: records finished so far
    "state" / Int32ul,  # written by the target: one of the STATE_ values
    "capacity" / Int32ul,  # records in the ring: a power of two
    "static_base" / Int32ul,  # r9 for each call
    "spare" / Array(2, Int32ul),
)
"""Header of the ring, 8 words; the records follow it at once."""

STATE_WAITING, STATE_CALLING, STATE_STOPPED, STATE_ENDED = range(4)
