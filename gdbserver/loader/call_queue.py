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
        record = &queue->records[queue->done & (queue->capacity - 1)];
        while (record->number != queue->done + 1)   // free-running counts
            ;                                  // spin: no WFI, so that memory can be polled
        if (record->function == 0) { queue->state = ENDED; for (;;) bkpt; }
        queue->state = CALLING;
        r9 = queue->static_base;
        sp = as it was at first;
        result = record->function(record->arguments[0..3]);
        record->arguments[0] = queue->result = result;
        queue->done += 1;                      // after the result (DMB between)
        if (record->check && result != record->expected) {
            queue->state = STOPPED; for (;;) bkpt;
        }
        queue->state = WAITING;
    }

A record is written in one go, its number last: so posting a call is one access.  It keeps nothing
in registers over a call, for there are routines that preserve none (AAPCS32 says which they
must); it uses the stack pointer that the host sets, no FPU, no literal that depends on its
address.  ``expected`` is what the loader's kind
calls success.  While it waits it feeds the watchdogs: the independent one always, the window
watchdog with the word in ``window_watchdog``, when that is not 0.

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

All that lies in RAM is saved before and restored after, which over most links takes longer than
anything else here.  So what not every queue needs, the tables and some of the code, gets its
place when it is first asked for.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, cast

from construct import Array, Const, Int32ul, Padding, Struct

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import (
    AHB2_SRAM,
    AXI_READ_ISS_OVERRIDE,
    AXI_SRAM,
    AXI_SRAM_FN_MOD,
    AXI_SRAM_MISREAD_BY,
    DTCM,
    RCC_AHB2ENR,
    RCC_RSR,
)
from gdbserver.errors import (
    AccessStalled,
    LoaderBroken,
    LoaderFault,
    LoaderRefused,
    LoaderRejected,
    LoaderReset,
    LoaderTimeout,
    MemoryFault,
    TargetError,
)
from gdbserver.loader.clocks import quick_clocks, same_clocks
from gdbserver.loader.diagnosis import inherited, reset_cause
from gdbserver.loader.file import Image, built, load_image
from gdbserver.loader.known_state import VECTORS, known_state
from gdbserver.loader.nor_survey import describe_quadspi
from gdbserver.loader.reentry import Stage
from gdbserver.loader.watchdogs import WWDG_FOOD, Watchdogs, patient_watchdogs
from gdbserver.target.core import RESET_TIMEOUT
from gdbserver.target.link import Write, bytes_of, words_of
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

T = TypeVar("T")

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
    Padding(4),
)
"""Header of the ring, 8 words; the records follow it at once."""

_HEADER_SIZE, _RECORD_SIZE = 32, 32
# Where to look: bytes from the start of header and record.
_DONE, _STATE, _WINDOW_WATCHDOG, _RESULT = 4, 8, 24, 4

_WITH_TABLES = ("crc32_each", "crc32_spread")
HELPERS = ("crc32", "blank_spread", *_WITH_TABLES)
_LATER = ("feed", "unpack")  # code that is brought when it is called, from the first of them on
RESIDENT = (*HELPERS, *_LATER)
SPREAD = 1024
"""Bytes of each block of `crc32_spread`."""
RESULTS = 128
"""Words that a helper may fill in one call."""

STATE_WAITING, STATE_CALLING, STATE_STOPPED, STATE_ENDED = range(4)

FOREIGN_STACK = 4 * 1024
"""Bytes: loaders in the wild use less than 1 KiB, because ST's tools give no more."""
OWN_STACK = 2 * 1024
"""Bytes: what unpacks wants 1.7 KiB."""
_SHALLOW = 512  # of these, what everything else of ours wants: Init half of it
_CALLS = 32  # records: far more than buffers, so erases may queue up between writes
_OWN_CALLS = 16  # one writes a whole buffer
_CANARY = 64  # bytes at the foot of the stack that nobody may touch
_PAINT = b"\xa5\x5a\xc3\x3c"
_TRAPS = bytes.fromhex("00be00be 01be00be")  # BKPT 0: "returned"; BKPT 1: a stray interrupt
_EXCEPTIONS = 16  # vectors that code of ours can need: it enables no interrupt
_SCRATCH = 4 * 1024  # for r9 of a loader that is movable but brings no data section
_INTERVAL = 0.002  # seconds between two looks, while others may have the link
_BETWEEN_LOOKS = 0.0002  # seconds, where nobody else wants it: about what a look takes
_LEAST_PADDING = 64  # words: about what takes as long as the way to the probe and back
_MOST_PADDING = 4096  # words: what is read is of no use, and 16 KiB take any link long enough
_FIRST_LOOK = 0.2  # seconds without progress until the core itself is looked at; then twice that
_PATIENCE = 2.0  # seconds between two looks at what takes minutes
_XPSR_THUMB = cm.XPSR_THUMB
_FAULTS = range(cm.ExceptionNumber.HARD_FAULT, cm.ExceptionNumber.USAGE_FAULT + 1)
_EXC_RETURN = 0xFFFFFFE0
_BASIC_FRAME = 1 << 4  # EXC_RETURN: without FPU registers
_FRAME, _FRAME_WITH_FPU = 32, 104
_XPSR_RESERVED = 0x00F00000
_SEMIHOSTING = 0xAB
_SLEEPERS = (b"\x30\xbf", b"\x20\xbf")  # WFI, WFE


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing to do for this device, for about so many seconds; 0 when only being polite."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the core pushes when it takes an exception."""

    r0: int
    r1: int
    r2: int
    r3: int
    r12: int
    lr: int
    pc: int
    xpsr: int

    @property
    def exception(self) -> int:
        """The exception that was interrupted; 0 for none."""
        return self.xpsr & 0x1FF


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a routine, as it was asked for."""

    routine: str
    arguments: tuple[int, ...]
    timeout: float
    checked: bool
    expected: int

    def __str__(self) -> str:
        return f"{self.routine}({', '.join(f'{a:#x}' for a in self.arguments)})"


class BorrowedRam:
    """RAM that is used for a while and then holds again what it held before.

    GDB writes the sections of a program that live in RAM before the flash ones, so that by
    the time a loader runs they are there already.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._before: dict[int, bytes] = {}
        self._seconds = self._bytes = 0.0

    def __enter__(self) -> Self:
        return self

    def borrow(self, span: Span) -> None:
        begun = self._target.monotonic()
        self._before[span.start] = self._target.read_memory(span.start, len(span))
        self._seconds += self._target.monotonic() - begun
        self._bytes += len(span)

    def borrow_known(self, start: int, contents: bytes) -> None:
        """Borrow RAM of which it is known what it holds."""
        self._before[start] = contents

    def forget(self, start: int) -> None:
        """What was borrowed from `start` on is there again already."""
        del self._before[start]

    @property
    def seconds_per_byte(self) -> float:
        """What the link took so far to read what was borrowed."""
        return self._seconds / self._bytes

    def cut(self, start: int, size: int) -> None:
        """Let what was borrowed from `start` on be given back in pieces of `size` bytes."""
        data = self._before.pop(start)
        for offset in range(0, len(data), size):
            self._before[start + offset] = data[offset : offset + size]

    def give_back(self, start: int) -> None:
        """Restore what was borrowed from `start` on."""
        self._target.write_memory(start, self._before[start])
        del self._before[start]

    def __exit__(self, *_: object) -> None:
        """Restore all that can be; a chip in reset, or a bus that is busy, has a while to pass."""
        deadline = self._target.deadline(RESET_TIMEOUT)
        failure: TargetError | None = None
        while self._before:
            start = next(iter(self._before))
            try:
                self.give_back(start)
            except (MemoryFault, AccessStalled) as error:
                if deadline.expired():
                    failure = failure or error
                    del self._before[start]
        if failure is not None:
            raise failure


class CallQueue:
    """A loader in RAM, callable, for as long as the ``with`` block lasts.

    Calls are posted, finish in order, and are followed up by `poll`; a call that fails ends the
    queue with an exception.  `queued=False` makes calls one at a time through the core's
    registers instead, as other tools do: for `loader test`, and where there is only one to make.

    `careful=False` does as other tools do: nothing is put into a known state before, no fault
    is caught, nothing is put back.  It is for the test that shows what comes of it.
    `quick=True` is for code of ours: the core runs faster than after a reset, and what such code
    does not use (the FPU, interrupts) is neither prepared nor put back.
    """

    def __init__(
        self,
        target: Target,
        image: Image,
        *,
        good: int,
        queued: bool = True,
        careful: bool = True,
        quick: bool = False,
        stack: int = FOREIGN_STACK,
    ) -> None:
        self._target = target
        self._image = image
        self._good = good
        self._queued = queued
        self._careful = careful
        self._quick = quick
        self._checks_image = queued and careful  # else caches may be on
        resident = load_image(built("queue.elf"))
        self._layout = _Layout(image, resident, stack, own=quick)
        self._resident = resident.at(self._layout.resident)
        self._capacity = self._layout.calls
        self._foot = self._layout.always.start  # of the stack, as far as it is ours
        self._has_tables = self._has_all_code = False
        self._image_is_there = True
        self._calls: deque[Call] = deque()
        self._posted = self._finished = 0
        self._results: dict[int, int] = {}
        self._now = target.link.monotonic or time.monotonic
        self._idle_since = self._look_after = 0.0
        self._padding = 0  # words that a slow look reads besides
        self._running = self._broken = False
        self._constants: list[tuple[int, bytes]] = []
        self._watchdogs: Watchdogs | None = None

    # --- Opening and closing --------------------------------------------------------------------

    def __enter__(self) -> Self:
        target, layout = self._target, self._layout
        self._resets, self._reset_flags = target.unasked_resets, target.read_word(RCC_RSR)
        self._ram = BorrowedRam(target)
        with ExitStack() as stack:
            stack.enter_context(_clocked(target, self._image))
            if self._careful:
                stack.enter_context(_read_reliably(target))
                stack.enter_context(target.saved_core(with_fpu=not self._quick))
                stack.enter_context(self._ram)
                self._ram.borrow(layout.always)
                for span in self._image.memory:
                    self._ram.borrow(span)
            self._upload()
            demcr = target.read_word(cm.DEMCR)
            if self._careful:
                # What has nothing to call but moves words has no use for a quick core; nor have
                # single calls: the way to other clocks and back takes longer than one of them.
                hurries = self._quick and self._queued and self._image.chunks
                stack.enter_context((quick_clocks if hurries else same_clocks)(target))
                self._watchdogs = stack.enter_context(patient_watchdogs(target))
                stack.enter_context(known_state(target, layout.stage, own=self._quick))
                target.write_word(cm.DEMCR, demcr | cm.VC_ALL_FAULTS)
                registers = {"control": 0, "faultmask": 0, "basepri": 0, "primask": 0, "psp": 0}
                if not self._quick:  # nobody but foreign code could mind what it finds in them
                    registers |= {f"r{n}": 0 for n in range(13)}
            else:
                target.write_word(cm.DEMCR, demcr & ~cm.VC_ALL_FAULTS)
                registers = {}
            stack.callback(self._stop)
            registers |= {"msp": layout.stack.end, "xpsr": _XPSR_THUMB}
            if self._queued:
                registers |= {"r0": layout.ring, "pc": self._resident.entries["run"] & ~1}
            target.write_registers(registers)
            if self._queued:
                self._start_resident()
            if self._checks_image:
                self._check_image()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _upload(self) -> None:
        """Write everything, and read it back: a loader with a wrong bit in it is no fun.

        Once the resident code runs, it looks at the loader's image: see `_check_image`.
        """
        layout = self._layout
        stray = layout.traps + 4 | 1
        vectors = [layout.stack.end, *[stray] * (layout.exceptions - 1)]
        header = RING.build(
            {
                "done": 0,
                "state": STATE_WAITING,
                "result": 0,
                "capacity": self._capacity,
                "static_base": layout.static_base,
                "window_watchdog": 0,
            }
        )
        self._constants = [
            (layout.stage.vectors, bytes_of(vectors)),
            (layout.traps, _TRAPS),
        ]
        code = layout.resident, self._code(0, layout.first_code)
        ours = bytearray(layout.always.end - layout.stage.vectors)
        for address, data in (*self._constants, (layout.ring, header), code):
            offset = address - layout.stage.vectors
            ours[offset : offset + len(data)] = data
        for address, data in (*self._image.chunks, (layout.stage.vectors, bytes(ours))):
            self._target.write_memory(address, data)
        # How much of it our own code needs is known: there the foot is enough.
        self._paint_stack(_CANARY if self._quick else layout.stack.end - self._foot)
        # Vectors are for stray interrupts; what has become of them is seen when one came.
        for address, data in (*(() if self._checks_image else self._image.chunks), code):
            self._check_arrived(address, data)

    def _code(self, start: int, end: int) -> bytes:
        """Resident code; what lies behind it are tables, which it makes itself."""
        return self._resident.chunks[0][1][start:end]

    def _paint_stack(self, length: int) -> None:
        self._target.write_memory(self._foot, _PAINT * (length // len(_PAINT)))

    def _check_arrived(self, address: int, data: bytes) -> None:
        if self._target.read_memory(address, len(data)) != data:
            raise self._mutilated(address, data)

    def _make_room_for(self, routine: str) -> None:
        """What a resident routine needs besides what is always there."""
        layout = self._layout
        if routine in _WITH_TABLES and not self._has_tables:
            self._has_tables = True
            self._ram.borrow(layout.tables)
        if routine in _LATER and not self._has_all_code:
            self._has_all_code = True
            self._ram.borrow(layout.later_code)
            self._target.write_memory(layout.later_code.start, layout.later)
            self._check_arrived(layout.later_code.start, layout.later)
            if self._foot > layout.stack.start:
                self._ram.borrow(Span(layout.stack.start, self._foot))
                self._foot = layout.stack.start
                self._paint_stack(_CANARY)

    def _mutilated(self, address: int, data: bytes) -> LoaderBroken:
        return LoaderBroken(
            self._image.path, f"did not arrive whole at {Span.of(address, len(data))}"
        )

    def _check_image(self) -> None:
        """Have the image's CRC computed where it lies: a link takes longer to read it back."""
        for address, data in self._image.chunks:
            number = self.post("crc32", address, len(data), timeout=1.0, checked=False)
            while self.poll() <= number:
                pass
            if self.result(number) != zlib.crc32(data):
                raise self._mutilated(address, data)

    def _start_resident(self) -> None:
        if self._watchdogs is not None and self._watchdogs.wwdg:
            self._target.write_word(self._layout.ring + _WINDOW_WATCHDOG, WWDG_FOOD)
        self._target.resume()
        self._running = True

    def _stop(self) -> None:
        """Let the call under way finish, forget those that wait, and halt the core."""
        if not self._running:
            return
        if self._calls and not self._broken:
            # A record without a function ends the queue, whichever of them comes next.
            if self._queued:
                for number in range(self._finished + 1, self._posted):
                    self._target.write_word(self._record(number), 0)
            first = self._calls[0]
            log.info("waiting for %s to finish", first)
            self._calls = deque([first])
            deadline = self._target.deadline(first.timeout)
            while not self._at_rest() and not deadline.expired():
                self._feed_watchdogs()
        self._halt()
        self._running = False

    def _halt(self) -> None:
        """As long as the core runs, RAM cannot be given back: a bus that is busy may pass."""
        deadline = self._target.deadline(RESET_TIMEOUT)
        while True:
            try:
                return self._target.halt()
            except AccessStalled:
                if deadline.expired():
                    raise

    def give_up(self) -> None:
        """What is under way does not end by itself: at the end, do not wait for it."""
        self._broken = True

    def _feed_watchdogs(self) -> None:
        if self._watchdogs is not None:
            self._watchdogs.feed()

    @property
    def patience(self) -> float:
        """Seconds for which a call that is under way need not be looked at."""
        interval = None if self._watchdogs is None else self._watchdogs.interval
        return _PATIENCE if interval is None else min(interval, _PATIENCE)

    def _at_rest(self) -> bool:
        """Whether the core has nothing more to do, or has stopped doing it."""
        if self._queued:
            done, state = self._target.read_words(self._layout.ring + _DONE, 2)
            if state in (STATE_STOPPED, STATE_ENDED) or (
                done == self._posted and state == STATE_WAITING
            ):
                return True
        return self._target.is_halted()

    # --- Calling ---------------------------------------------------------------------------------

    @property
    def free(self) -> Span:
        """RAM for buffers, which the loader and the queue leave free; `borrow` what is used."""
        return self._layout.free

    def borrow(self, span: Span) -> None:
        """Use part of `free`; it is restored at the end, or when given back."""
        self._ram.borrow(span)

    def borrow_known(self, start: int, contents: bytes) -> None:
        """The same with RAM of which it is known what it holds."""
        self._ram.borrow_known(start, contents)

    def cut(self, start: int, size: int) -> None:
        """Let what was borrowed from `start` on be given back in pieces of `size` bytes."""
        self._ram.cut(start, size)

    def give_back(self, start: int) -> None:
        self._ram.give_back(start)

    def given_back(self, start: int) -> None:
        """What was borrowed from `start` on is there again already."""
        self._ram.forget(start)

    @property
    def seconds_per_byte(self) -> float:
        """What the link needs, going by what was borrowed."""
        return self._ram.seconds_per_byte

    def put_image_away(self) -> None:
        """Let the RAM that the loader lies in be as it was, for as long as nobody calls it."""
        if self._image_is_there:
            self._image_is_there = False
            for span in self._image.memory:
                self._ram.give_back(span.start)

    def bring_image_back(self) -> bool:
        """Whether it had been put away; then its variables are as in the file."""
        if self._image_is_there:
            return False
        self._image_is_there = True
        for span in self._image.memory:
            self._ram.borrow(span)
        for address, data in self._image.chunks:
            self._target.write_memory(address, data)
            self._check_arrived(address, data)
        return True

    def prepare_digests(self) -> None:
        """Have the tables' memory in time: while the device is busy, that costs nothing."""
        self._make_room_for(_WITH_TABLES[0])

    @property
    def results(self) -> int:
        """Address of `RESULTS` words for what helpers find out."""
        return self._layout.results

    @property
    def helpers(self) -> bool:
        """Whether the routines of the resident image can be called, too."""
        return self._queued

    def has_room(self) -> bool:
        return len(self._calls) < (self._capacity if self._queued else 1)

    def post(
        self,
        routine: str,
        *arguments: int,
        timeout: float,
        checked: bool = True,
        expected: int | None = None,
        carrying: tuple[int, bytes] | None = None,
    ) -> int:
        """Call a routine when those before it have returned; needs `has_room`.

        `timeout` counts from when the call's turn comes.  With `checked`, any result but the
        one that means success, or the `expected` one, ends the queue.  `carrying` are words that
        are written on the same trip: where, and what.  Returns the call's number, for `result`.
        """
        if routine in RESIDENT:
            self._make_room_for(routine)
        else:
            self.bring_image_back()
        success = self._good if expected is None else expected
        call = Call(routine, arguments, timeout, checked, success)
        self._calls.append(call)
        number = self._posted
        self._posted += 1
        if len(self._calls) == 1:
            self._begin_wait()
        if self._queued:
            # A `RECORD`; to have it built would take as long as all the rest.
            parameters = [*arguments, 0, 0, 0, 0][:4]
            record = [self._entry(routine), *parameters, int(checked), success, self._posted]
            self._target.run([*_words(carrying), Write(self._record(number), record)])
        else:
            if carrying is not None:
                self._target.write_memory(*carrying)
            self._call_through_registers(call)
        return number

    def _entry(self, routine: str) -> int:
        if routine in RESIDENT:
            return self._resident.entries[routine]
        return self._image.entries[routine]

    def _record(self, number: int) -> int:
        return self._layout.records + number % self._capacity * _RECORD_SIZE

    def _call_through_registers(self, call: Call) -> None:
        registers = {f"r{n}": value for n, value in enumerate([*call.arguments, 0, 0, 0, 0][:4])}
        self._target.write_registers(
            registers
            | {
                "r9": self._layout.static_base,
                "msp": self._layout.stack.end,
                "lr": self._layout.traps | 1,
                "pc": self._entry(call.routine) & ~1,
                "xpsr": _XPSR_THUMB,
            }
        )
        self._target.resume()
        self._running = True

    def poll(self, idle: float = 0.0) -> int:
        """Look once; return how many calls have finished since the queue was opened.

        `idle`: seconds for which nobody else wants the link.  A look may then take as long: with
        a probe that reads any length in one command, that costs the host less than many looks.

        Raises:
            LoaderRefused: a routine returned something else than success.
            LoaderFault: a routine crashed.
            LoaderTimeout: a routine does not return.
        """
        if not self._calls:
            return self._finished
        before = self._finished
        try:
            self._feed_watchdogs()
            if self._queued:
                self._poll_ring(idle)
            else:
                self._poll_core()
        except TargetError as error:
            self._check_reset(error)
            raise
        if self._finished > before:
            if self._calls:
                self._begin_wait()
        elif self._deadline.expired():
            self._broken = True
            raise self._overdue()
        return self._finished

    def _begin_wait(self) -> None:
        """The first of the calls has its turn now."""
        self._deadline = self._target.deadline(self._calls[0].timeout)
        self._idle_since, self._look_after = self._now(), _FIRST_LOOK

    def _poll_ring(self, idle: float) -> None:
        if idle and self._target.link.wait(idle):
            done, state, last = self._look(0)
        elif idle and self._target.has_memory_commands:
            done, state, last = self._look_slowly(idle)
        else:
            done, state, last = self._look(0)
        if state == STATE_STOPPED:
            done = self._target.read_word(self._layout.ring + _DONE)  # it counts before it stops
        if not self._finished <= done <= self._posted:
            self._broken = True
            raise self._overwritten() or LoaderBroken(
                self._image.path, f"has overwritten the call queue in {self._calls[0]}"
            )
        progress = done != self._finished
        for number in range(self._finished, done):
            call = self._calls.popleft()
            self._finished += 1
            stopped = state == STATE_STOPPED and number == done - 1
            if done == self._posted and number == done - 1 and not stopped:
                if not call.checked:
                    self._results[number] = last  # and no other call has finished since
            elif not call.checked or stopped:
                self._results[number] = self._target.read_word(self._record(number) + _RESULT)
            if stopped:
                self._broken = True
                result = self._results[number]
                raise LoaderRefused(self._image.path, str(call), result, call.expected)
        if not progress and self._now() - self._idle_since >= self._look_after:
            self._look_after *= 2
            stop = self._target.poll_stop()
            self._check_reset(None)
            if stop is None:
                return
            if self._target.read_word(self._layout.ring + _STATE) == STATE_STOPPED:
                return  # it has stopped by itself since we looked: the next poll tells why
            self._broken = True
            raise self._crashed()

    def _look(self, more: int) -> tuple[int, int, int]:
        """How many calls are done, the state, the last result; after so many words of our own."""
        start = self._layout.ring + _DONE - 4 * more
        done, state, last = words_of(self._target.read_memory(start, 4 * more + 12)[-12:])
        return done, state, last

    def _look_slowly(self, idle: float) -> tuple[int, int, int]:
        """The same, in something below `idle` seconds; how much that is on this link is learned."""
        begun = self._now()
        found = self._look(self._padding)
        took = self._now() - begun
        if took > idle:
            self._padding //= 2
        elif took < idle / 2:
            self._padding = min(2 * self._padding + _LEAST_PADDING, self._layout.words_before_ring)
        return found

    def _poll_core(self) -> None:
        self._target.link.wait(_BETWEEN_LOOKS)
        stop = self._target.poll_stop()
        self._check_reset(None)
        if stop is None:
            return
        self._running = False
        registers = self._target.read_registers(["pc", "r0"])
        if registers["pc"] != self._layout.traps:
            self._broken = True
            raise self._crashed()
        call = self._calls.popleft()
        self._results[self._finished] = result = registers["r0"]
        self._finished += 1
        if call.checked and result != self._good:
            self._broken = True
            raise LoaderRefused(self._image.path, str(call), result, self._good)

    def result(self, number: int) -> int:
        """r0 of a call that was posted with ``checked=False`` and has finished."""
        return self._results.pop(number)

    def call(
        self, routine: str, *arguments: int, timeout: float, checked: bool = True
    ) -> Generator[Busy, None, int]:
        """Call a routine and wait until it has returned; its result, when not checked."""
        while not self.has_room():
            self.poll()
            yield Busy(0)
        number = self.post(routine, *arguments, timeout=timeout, checked=checked)
        while self.poll() <= number:
            yield Busy(_INTERVAL)
        return self._good if checked else self.result(number)

    # --- When it goes wrong ------------------------------------------------------------------

    def check_stack(self) -> None:
        """Raises: LoaderBroken when a routine needed more stack than there is."""
        foot = self._target.read_memory(self._foot, _CANARY)
        if foot != _PAINT * (_CANARY // len(_PAINT)):
            raise LoaderBroken(
                self._image.path, f"needs more than {len(self._layout.stack)} bytes of stack"
            )
        # Of our own code it is known that it keeps to what is its own.
        if not self._quick and (broken := self._overwritten()) is not None:
            raise broken

    def stack_used(self) -> int:
        """High-water mark, in bytes, of foreign code: how far down the paint is gone."""
        stack = self._target.read_memory(self._foot, self._layout.stack.end - self._foot)
        for offset in range(0, len(stack), len(_PAINT)):
            if stack[offset : offset + len(_PAINT)] != _PAINT:
                return len(stack) - offset
        return 0

    def _address(self, address: int) -> str:
        """Routine, offset and address; the address alone where there is no routine."""
        place, number = self._place(address), f"{address & ~1:#010x}"
        return place if place == number else f"{place} ({number})"

    def _place(self, address: int) -> str:
        if address & ~1 in self._layout.block:
            return "the call queue"
        return self._image.place(address & ~1)

    def _check_reset(self, error: TargetError | None) -> None:
        """Raises: LoaderReset when the chip is no longer in the state that we left it in."""
        if error is not None:
            with suppress(TargetError):  # what could not be read may have been in reset
                self._target.poll_stop()
        if self._target.unasked_resets == self._resets:
            return
        self._broken = True
        self._target.halt()
        cause = reset_cause(self._reset_flags, self._target.read_word(RCC_RSR))
        raise LoaderReset(self._image.path, str(self._calls[0]), cause) from error

    def _overwritten(self) -> LoaderBroken | None:
        """Whether what the loader has no business with is still as it was uploaded."""
        for address, data in self._constants:
            found = self._target.read_memory(address, len(data))
            wrong = [n for n, (a, b) in enumerate(zip(data, found, strict=True)) if a != b]
            if wrong:
                span = Span(address + wrong[0], address + wrong[-1] + 1)
                return self._broken_by(f"has overwritten {span}, which is not its own memory")
        return None

    def _broken_by(self, why: str) -> LoaderBroken:
        during = f" in {self._calls[0]}" if self._calls else ""
        memory = ", ".join(str(span) for span in self._image.memory)
        return LoaderBroken(
            self._image.path, why + during, hint=f"its file claims {memory}, and no more"
        )

    def _crashed(self) -> LoaderFault | LoaderBroken:
        """The core has halted where it should not: say where, and on what."""
        registers = self._target.read_registers(["sp", "pc", "lr", "xpsr", "primask"])
        pc, lr, exception = registers["pc"], registers["lr"], registers["xpsr"] & 0x1FF
        if (broken := self._overwritten()) is not None:
            return broken
        fault = self._target.describe_fault() or self._unflagged()
        if pc == self._layout.traps + 4 and exception not in _FAULTS:
            fault = f"{_exception(exception)} came, and the loader has no handler for it"
        foot = self._target.read_memory(self._foot, _CANARY)
        if foot != _PAINT * (_CANARY // len(_PAINT)):
            fault = f"it needs more than {len(self._layout.stack)} bytes of stack: {fault}"
        call = self._calls[0]
        if call.routine in HELPERS:
            return LoaderBroken(
                self._image.path,
                f"has left nothing to read at {call.arguments[0]:#010x}: {fault}",
                hint="it neither maps the device in Init nor has a routine Read",
            )
        live = tuple(inherited(self._target, primask=registers["primask"]))
        frames = list(self._frames(registers["sp"], lr))
        error = LoaderFault(self._image.path, str(call), self._where(pc, lr, frames), fault)
        if any(line.startswith("VTOR") for line in live):
            error.hint = (
                "an interrupt that an earlier program or loader left behind went through a "
                "vector table that is no more"
            )
        error.details = (
            *(f"stacked: {self._told(frame)}" for frame in frames),
            *live,
            describe_quadspi(self._target),
        )
        return error

    def _unflagged(self) -> str:
        """Why the core halted, where it was no fault."""
        number = self._target.own_bkpt()
        if number == _SEMIHOSTING:
            return "it asks for semihosting (BKPT 0xab), as printf does, and nobody is there"
        if number is not None:
            return f"a BKPT instruction of its own ({number:#04x})"
        return "the core halted, though no fault is flagged"

    def _where(self, pc: int, lr: int, frames: Sequence[_Frame]) -> str:
        """Where it happened: what was stacked first if the core stands in a handler."""
        if frames:
            innermost, *outer = frames
            if innermost.exception and outer:
                handler = f"{self._address(innermost.pc)} in {_exception(innermost.exception)}"
                return f"{handler}, which interrupted {self._place(outer[0].pc)}"
            pc, lr = innermost.pc, innermost.lr
        elif pc & ~1 == cm.LOCKUP_PC & ~1:
            return f"a place that was not kept, called from {self._place(lr)}"
        return f"{self._address(pc)}, called from {self._place(lr)}"

    def _frames(self, sp: int, lr: int) -> Iterator[_Frame]:
        """What exception entry has pushed, innermost first."""
        while lr & _EXC_RETURN == _EXC_RETURN:
            try:
                words = self._target.read_words(sp & ~3, 8)
            except MemoryFault:
                return  # the stack may be the very trouble
            frame = _Frame(*words)
            if frame.xpsr & _XPSR_RESERVED or frame.pc & 1:
                return
            yield frame
            if not frame.exception:
                return
            sp += _FRAME if lr & _BASIC_FRAME else _FRAME_WITH_FPU
            sp += 4 if frame.xpsr & 1 << 9 else 0
            lr = frame.lr

    def _told(self, frame: _Frame) -> str:
        where = self._address(frame.pc)
        if frame.exception:
            where += f" in {_exception(frame.exception)}"
        return (
            f"pc {where}, lr {frame.lr:#010x}, r0 {frame.r0:#010x} r1 {frame.r1:#010x} "
            f"r2 {frame.r2:#010x} r3 {frame.r3:#010x} r12 {frame.r12:#010x} xpsr {frame.xpsr:#010x}"
        )

    def _overdue(self) -> LoaderTimeout | LoaderBroken:
        """A call takes too long: halt the core, and say where it spins."""
        call = self._calls[0]
        self._target.halt()
        if (broken := self._overwritten()) is not None:
            return broken  # what a core does then is no news
        registers = self._target.read_registers(["sp", "pc", "lr", "xpsr", "primask"])
        csr = self._target.read_word(cm.SYST_CSR)
        pc, exception = registers["pc"], registers["xpsr"] & 0x1FF
        notes = [f"SysTick is {'running' if csr & 1 else 'stopped'}"]
        # A core that is halted while it sleeps stands behind the instruction that sent it there.
        asleep = self._target.read_memory(pc - 2, 2) in _SLEEPERS
        if asleep:
            notes.append("the core sleeps (WFI or WFE)")
        if registers["primask"]:
            notes.append("interrupts are masked (PRIMASK = 1)")
        if exception:
            notes.append(f"in {_exception(exception)}")
        frames = list(self._frames(registers["sp"], registers["lr"]))
        where = self._where(pc, registers["lr"], [] if pc in self._layout.block else frames)
        error = LoaderTimeout(self._image.path, str(call), call.timeout, where, "; ".join(notes))
        error.details = (
            *(f"stacked: {self._told(frame)}" for frame in frames),
            *inherited(self._target, primask=registers["primask"]),
            describe_quadspi(self._target),
        )
        if asleep:
            error.hint = "nothing wakes it: no interrupt is enabled that will come"
        elif not csr & 1 or registers["primask"]:
            error.hint = "if it waits for a tick to be counted (HAL_Delay), it waits for ever: " + (
                "SysTick does not run" if not csr & 1 else "PRIMASK keeps its interrupt out"
            )
        return error


@contextmanager
def _clocked(target: Target, image: Image) -> Iterator[None]:
    """With a clock for the SRAMs of the D2 domain that the loader lies in: a reset stops them."""
    needed = sum(
        bit for ram, bit in AHB2_SRAM.items() if any(len(ram & span) for span in image.memory)
    )
    enabled = target.read_word(RCC_AHB2ENR) if needed else 0
    if enabled & needed == needed:
        yield
        return
    target.write_word(RCC_AHB2ENR, enabled | needed)
    try:
        yield
    finally:
        target.write_word(RCC_AHB2ENR, target.read_word(RCC_AHB2ENR) & ~needed | enabled)


def finish(events: Generator[object, None, T]) -> T:
    """Run what lets others have the link, and let nobody have it."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return cast(T, end.value)


@contextmanager
def _read_reliably(target: Target) -> Iterator[None]:
    """Keep early silicon from reading wrong data, or code, out of AXI SRAM.

    ES0392, "Reading from AXI SRAM may lead to data read corruption".  Programs that need it do the
    same when they start, but a chip that was reset has not come so far.
    """
    before = None
    if target.chip.revision in AXI_SRAM_MISREAD_BY:
        try:
            before = target.read_word(AXI_SRAM_FN_MOD)
            target.write_word(AXI_SRAM_FN_MOD, before | AXI_READ_ISS_OVERRIDE)
        except MemoryFault as fault:  # most of what this would prevent never happens
            log.warning("AXI SRAM may be read wrongly (ES0392): %s", fault)
    try:
        yield
    finally:
        if before is not None:
            target.write_word(AXI_SRAM_FN_MOD, before)


def _words(data: tuple[int, bytes] | None) -> Iterator[Write]:
    """Bytes, a multiple of four, as an access."""
    if data is not None:
        address, contents = data
        yield Write(address, words_of(contents))


def _exception(number: int) -> str:
    if number >= 16:
        return f"interrupt {number - 16}"
    try:
        return f"exception {cm.ExceptionNumber(number).name}"
    except ValueError:
        return f"exception {number}"


class _Layout:
    """Who lies where in RAM, beside a loader that is linked where it is linked.

    One block holds all that is ours: stack, vector table, ring, traps, resident code.  It goes to
    the start of DTCM, which nothing stalls, or of AXI SRAM when the loader is in its way: a
    stack that is used up then leaves RAM altogether, and that is a fault, right where it happens.
    With code of ours, which has stack enough, it goes to the end: a slow look then has RAM to read
    before it comes to the ring.
    """

    def __init__(self, image: Image, resident: Image, stack: int, *, own: bool) -> None:
        code, end = resident.chunks[0][1], resident.memory[-1].end
        self.calls = _OWN_CALLS if own else _CALLS
        self.exceptions = _EXCEPTIONS if own else VECTORS
        self.first_code = min(resident.symbols[name].address for name in _LATER)
        self.later = code[self.first_code :]
        offset = 0
        parts = {}
        sizes = {
            "stack": stack,  # a multiple of 1024, as VTOR wants the address of what follows
            "vectors": 4 * self.exceptions,
            "ring": _HEADER_SIZE + self.calls * _RECORD_SIZE,
            "traps": len(_TRAPS),
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
        self.ring = block.start + parts["ring"]
        ram = DTCM if self.ring in DTCM else AXI_SRAM
        self.words_before_ring = min((self.ring - ram.start) // 4, _MOST_PADDING)
        self.results = block.start + parts["results"]
        self.records = self.ring + _HEADER_SIZE
        self.resident = block.start + parts["resident"]
        self.scratch = block.start + parts["scratch"] if sizes["scratch"] else 0
        self.stack = Span.of(block.start + parts["stack"], stack)
        foot = self.stack.end - (_SHALLOW if own else stack)
        self.always = Span(foot, self.resident + self.first_code)
        """What every queue uses; the rest of the block is borrowed when it is needed."""
        self.later_code = Span.of(self.resident + self.first_code, len(self.later))
        self.tables = Span(self.resident + len(code), self.results + 4 * RESULTS)
        # What a handler is entered through lies over vectors and ring: no call comes after that.
        self.stage = Stage(block.start + parts["vectors"], foot, self.stack.end)
        self.static_base = image.static_base or self.scratch
        taken = [*image.memory, block]
        gaps = [gap for ram in (AXI_SRAM, DTCM) for gap in _gaps(ram, taken)]
        self.free = max(gaps, key=len)


def _gaps(area: Span, taken: Sequence[Span]) -> Iterator[Span]:
    """What is left of `area`, in whole cache lines."""
    start = area.start
    for span in [*merge(list(taken)), Span(area.end, area.end)]:
        if len(span & area) or span.start == area.end:
            first = -(-start // 32) * 32
            yield Span(first, max(first, span.start // 32 * 32))
            start = max(start, span.end)
