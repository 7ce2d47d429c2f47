"""Call a loader's routines on the target's own core, many at a time.

The plain way to call a routine is a dozen register writes, a resume, polling for the halt,
and a read of r0: a handful of probe transactions per call, in which the device sits idle.  So
a small `resident` routine of ours (``loaders/queue``, position independent) runs on the core
instead.  It takes call records from a ring in SRAM, calls them one after the other, and
stores their results; the host fills buffers and records while the core works, and follows
along by reading the ring through the debug port, without halting the core.

All that lies in RAM is saved before and restored after, which over most links takes longer than
anything else here.  So what not every queue needs, the tables and some of the code, gets its
place when it is first asked for.
"""

from __future__ import annotations

import logging
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import RCC_RSR
from gdbserver.errors import (
    AccessStalled,
    LoaderBroken,
    LoaderFault,
    LoaderRefused,
    LoaderReset,
    LoaderTimeout,
    TargetError,
)
from gdbserver.loader.borrowed_ram import BorrowedRam, clocked, read_reliably
from gdbserver.loader.clocks import quick_clocks, same_clocks
from gdbserver.loader.diagnosis import reset_cause
from gdbserver.loader.file import Image, built, load_image
from gdbserver.loader.known_state import known_state
from gdbserver.loader.post_mortem import PostMortem
from gdbserver.loader.resident import (
    DONE_AT,
    LATER,
    RESIDENT,
    RESULT_AT,
    RING,
    STATE_AT,
    STATE_CALLING,
    STATE_ENDED,
    STATE_STOPPED,
    STATE_WAITING,
    TRAPS,
    WATCHDOGS_AT,
    WITH_TABLES,
    Call,
    Layout,
)
from gdbserver.loader.watchdogs import Watchdogs, patient_watchdogs
from gdbserver.target.access import Write, bytes_of, words_of
from gdbserver.target.busy import Busy
from gdbserver.target.core import RESET_TIMEOUT
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_CANARY = 64  # bytes at the foot of the stack that nobody may touch
_PAINT = b"\xa5\x5a\xc3\x3c"
_INTERVAL = 0.002  # seconds between two looks, while others may have the link
_BETWEEN_LOOKS = 0.0002  # seconds, where nobody else wants it: about what a look takes
_LEAST_PADDING = 64  # words: about what takes as long as the way to the probe and back
_FIRST_LOOK = 0.2  # seconds without progress until the core itself is looked at; then twice that
_PATIENCE = 2.0  # seconds between two looks at what takes minutes


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
    ) -> None:
        self._target = target
        self._image = image
        self._good = good
        self._queued = queued
        self._careful = careful
        self._quick = quick
        self._checks_image = queued and careful  # else caches may be on
        resident = load_image(built("queue.elf"))
        self.ram = BorrowedRam(target)
        """What is used of `free` is borrowed here, and is restored at the end or before."""
        self._layout = Layout(image, resident, own=quick)
        self._resident = resident.at(self._layout.resident)
        self._post_mortem = PostMortem(target, image, self._layout)
        self._foot = self._layout.always.start  # of the stack, as far as it is ours
        self._has_tables = self._has_all_code = False
        self._image_is_there = True
        self._calls: deque[Call] = deque()
        self._latest: Call | None = None  # of those that have finished
        self._posted = self._finished = 0
        self._results: dict[int, int] = {}
        self._now = target.monotonic
        self._idle_since = self._look_after = 0.0
        self._padding = 0  # words that a slow look reads besides
        self._running = self._broken = False
        self._constants: list[tuple[int, bytes]] = []
        self._watchdogs: Watchdogs | None = None

    # --- Opening and closing --------------------------------------------------------------------

    def __enter__(self) -> Self:
        target, layout = self._target, self._layout
        self._resets, self._reset_flags = target.unasked_resets, target.read_word(RCC_RSR)
        with ExitStack() as stack:
            stack.enter_context(clocked(target, self._image.memory))
            if self._careful:
                stack.enter_context(read_reliably(target))
                stack.enter_context(target.saved_core(with_fpu=not self._quick))
                stack.enter_context(self.ram)
                self.ram.borrow(layout.always)
                for span in self._image.memory:
                    self.ram.borrow(span)
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
            registers |= {"msp": layout.stack.end, "xpsr": cm.XPSR_THUMB}
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
        vectors = [layout.stack.end, *[layout.stray | 1] * (layout.exceptions - 1)]
        # Some start SysTick for their HAL and have a handler, but no vector table to put it in.
        # ST's start-up files have one name for each exception, and all are for one endless loop.
        functions = self._image.entries
        handler = functions.get("SysTick_Handler")
        if handler is not None and functions.get("Default_Handler") != handler:
            vectors[cm.ExceptionNumber.SYS_TICK] = handler
        header = RING.build(
            {
                "done": 0,
                "state": STATE_WAITING,
                "result": 0,
                "capacity": self._layout.calls,
                "static_base": layout.static_base,
                "window_watchdog": 0,
                "independent_watchdog": 0,
            }
        )
        self._constants = [
            (layout.stage.vectors, bytes_of(vectors)),
            (layout.traps, TRAPS),
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
        if routine in WITH_TABLES and not self._has_tables:
            self._has_tables = True
            self.ram.borrow(layout.tables)
        if routine in LATER and not self._has_all_code:
            self._has_all_code = True
            self.ram.borrow(layout.later_code)
            self._target.write_memory(layout.later_code.start, layout.later)
            self._check_arrived(layout.later_code.start, layout.later)
            if self._foot > layout.stack.start:
                self.ram.borrow(Span(layout.stack.start, self._foot))
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
        if self._watchdogs is not None and any(self._watchdogs.food):
            self._target.run([Write(self._layout.ring + WATCHDOGS_AT, self._watchdogs.food)])
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
                    self._target.write_word(self._layout.record(number), 0)
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
            done, state = self._target.read_words(self._layout.ring + DONE_AT, 2)
            if state in (STATE_STOPPED, STATE_ENDED) or (
                done == self._posted and state == STATE_WAITING
            ):
                return True
        return self._target.is_halted()

    # --- Calling ---------------------------------------------------------------------------------

    @property
    def free(self) -> Span:
        """RAM for buffers, which the loader and the queue leave."""
        return self._layout.free

    def put_image_away(self) -> None:
        """Let the RAM that the loader lies in be as it was, for as long as nobody calls it."""
        if self._image_is_there:
            self._image_is_there = False
            for span in self._image.memory:
                self.ram.give_back(span.start)

    def bring_image_back(self) -> bool:
        """Whether it had been put away; then its variables are as in the file."""
        if self._image_is_there:
            return False
        self._image_is_there = True
        for span in self._image.memory:
            self.ram.borrow(span)
        self._write_image()
        return True

    def renew_image(self) -> None:
        """Have the loader's variables as in the file, as some want it for another Init.

        With the core halted, because the loader's tick may go on between calls, and count in them.
        """
        if self._running:
            self._halt()
        self._write_image()
        if self._running:
            self._target.resume()

    def _write_image(self) -> None:
        for address, data in self._image.chunks:
            self._target.write_memory(address, data)
            self._check_arrived(address, data)
        if scratch := self._layout.scratch:
            self._target.write_memory(scratch.start, bytes(len(scratch)))

    def prepare_digests(self) -> None:
        """Have the tables' memory in time: while the device is busy, that costs nothing."""
        self._make_room_for(WITH_TABLES[0])

    @property
    def results(self) -> int:
        """Address of `RESULTS` words for what helpers find out."""
        return self._layout.results

    @property
    def helpers(self) -> bool:
        """Whether the routines of the resident image can be called, too."""
        return self._queued

    def has_room(self) -> bool:
        return len(self._calls) < (self._layout.calls if self._queued else 1)

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
            self._target.run([*_words(carrying), Write(self._layout.record(number), record)])
        else:
            if carrying is not None:
                self._target.write_memory(*carrying)
            self._call_through_registers(call)
        return number

    def _entry(self, routine: str) -> int:
        if routine in RESIDENT:
            return self._resident.entries[routine]
        return self._image.entries[routine]

    def _call_through_registers(self, call: Call) -> None:
        registers = {f"r{n}": value for n, value in enumerate([*call.arguments, 0, 0, 0, 0][:4])}
        self._target.write_registers(
            registers
            | {
                "r9": self._layout.static_base,
                "msp": self._layout.stack.end,
                "lr": self._layout.traps | 1,
                "pc": self._entry(call.routine) & ~1,
                "xpsr": cm.XPSR_THUMB,
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
            done = self._target.read_word(self._layout.ring + DONE_AT)  # it counts before it stops
        if not self._finished <= done <= self._posted:
            self._broken = True
            raise self._overwritten() or LoaderBroken(
                self._image.path, f"has overwritten the call queue in {self._calls[0]}"
            )
        if state == STATE_CALLING and done == self._posted:
            done = max(self._finished, done - 1)  # the last one has returned, and is not judged yet
        progress = done != self._finished
        for number in range(self._finished, done):
            self._latest = self._calls.popleft()
            self._finished += 1
            if self._latest.checked:
                continue
            if done == self._posted and number == done - 1:
                self._results[number] = last  # and no other call has finished since
            else:
                self._results[number] = self._target.read_word(
                    self._layout.record(number) + RESULT_AT
                )
        call = self._latest  # which an earlier look may have seen before it was judged
        if state == STATE_STOPPED and call is not None and last != call.expected:
            self._broken = True
            raise LoaderRefused(self._image.path, str(call), last, call.expected)
        if not progress and self._now() - self._idle_since >= self._look_after:
            self._look_after *= 2
            stop = self._target.poll_stop()
            self._check_reset(None)
            if stop is None:
                return
            if self._target.read_word(self._layout.ring + STATE_AT) == STATE_STOPPED:
                return  # it has stopped by itself since we looked: the next poll tells why
            self._broken = True
            raise self._crashed()

    def _look(self, more: int) -> tuple[int, int, int]:
        """How many calls are done, the state, the last result; after so many words of our own."""
        start = self._layout.ring + DONE_AT - 4 * more
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
        if self._has_overflowed():
            raise LoaderBroken(
                self._image.path, f"needs more than {len(self._layout.stack)} bytes of stack"
            )
        # Of our own code it is known that it keeps to what is its own.
        if not self._quick and (broken := self._overwritten()) is not None:
            raise broken

    def _has_overflowed(self) -> bool:
        foot = self._target.read_memory(self._foot, _CANARY)
        return foot != _PAINT * (_CANARY // len(_PAINT))

    def stack_used(self) -> int:
        """High-water mark, in bytes, of foreign code: how far down the paint is gone."""
        stack = self._target.read_memory(self._foot, self._layout.stack.end - self._foot)
        for offset in range(0, len(stack), len(_PAINT)):
            if stack[offset : offset + len(_PAINT)] != _PAINT:
                return len(stack) - offset
        return 0

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

    def _crashed(self) -> LoaderFault | LoaderBroken:
        """The core has halted where it should not."""
        if (broken := self._overwritten()) is not None:
            return broken
        return self._post_mortem.crash(self._calls[0], overflowed=self._has_overflowed())

    def _overdue(self) -> LoaderTimeout | LoaderBroken:
        """A call takes too long."""
        self._target.halt()
        if (broken := self._overwritten()) is not None:
            return broken  # what a core does then is no news
        return self._post_mortem.timeout(self._calls[0])

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


def _words(data: tuple[int, bytes] | None) -> Iterator[Write]:
    """Bytes, a multiple of four, as an access."""
    if data is not None:
        address, contents = data
        yield Write(address, words_of(contents))
