"""Put an external loader through what has broken loaders for others, on a board.

Each check is a sentence that can be false, and stands on its own: the loader is uploaded and
initialised anew, does something, and what it did is read back and compared.  One that fails
does not keep the others from being tried.  The list is what users of ST's tools ran into: a second
Init without a power cycle, ends that are not whole pages, crossings of pages, sectors and of
the 16 MiB that three address bytes reach, a NOR that is still in the mode that an application
chose, and a core that was running that application a moment ago.

Rule 1: calls are made one at a time, as other tools make them; nothing here depends on the queue.
Rule 2: `touched` names every byte that may change; sectors beside those are compared, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import Literal

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import KIB, MIB
from gdbserver.errors import (
    FlashError,
    LoaderRefused,
    LoaderTimeout,
    LoaderWrong,
    TargetError,
    UsageError,
    explain,
)
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.diagnosis import (
    explain_refusal,
    explain_timeout,
    inherited,
    what_it_found,
)
from gdbserver.loader.dialect import Request, dialect, program_seconds, read_seconds
from gdbserver.loader.file import LoaderFile, built, load_image
from gdbserver.loader.nor_states import Nor
from gdbserver.loader.own import identity, resized
from gdbserver.loader.readout import THREE_BYTES, Readout
from gdbserver.target.busy import finish
from gdbserver.target.target import Target

Outcome = Literal["ok", "remark", "failed", "skipped"]

_BUFFER = 8 * KIB
_LOOK = 64 * KIB  # of a larger sector only so much is compared, at both of its ends
_ST_STACK = 1024  # what STM32CubeProgrammer gives a loader
_MOMENT = 0.02  # seconds for a program to run


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one check."""

    name: str
    outcome: Outcome
    seconds: float
    """Of the board's time."""
    detail: str
    more: tuple[str, ...] = ()
    """Of a failure: what was seen, causes, hint."""


class _Skip(Exception):
    """A check that does not apply."""


class _Remark(Exception):
    """A check that was passed, with something to be told."""


class LoaderTest:
    """The checks, on one loader and the board that `target` is connected to."""

    def __init__(
        self, target: Target, loader: LoaderFile, *, thorough: bool = False, only: str = ""
    ) -> None:
        """`only`: those whose name contains this.

        Raises: UsageError, when there is no such check.
        """
        self._target = target
        self._loader = loader
        self._thorough = thorough
        self._only = only
        self._random = Random(loader.name)
        self._now = target.monotonic
        self.works = False
        """Whether `meet` went well."""
        self.simulated = target.simulated
        self._aside: dict[Span, bytes] = {}
        if not any(self._checks()):
            self._only = ""
            raise UsageError(
                f"no check is called {only!r}, or anything with that in it",
                hint="there are: " + "; ".join(name for name, _ in self._checks()),
            )

    # --- The list -----------------------------------------------------------------------------

    def meet(self) -> Result:
        """Only Init: nothing is changed, and the size of the NOR is known afterwards."""
        result = self._carry_out("Init", self._init)
        self.works = result.outcome in ("ok", "remark")
        return result

    def run(self) -> Iterator[Result]:
        """All other checks, in order; `meet` comes first."""
        checks = self._checks()
        if not self.works:
            for name, _ in checks:
                yield Result(name, "skipped", 0, "Init fails")
            return
        yield self._carry_out("sectors beside the tested ones are read", self._look_aside)
        for name, check in checks:
            yield self._carry_out(name, check)
        yield self._carry_out("other sectors are as they were", self._same_aside)

    def _checks(self) -> list[tuple[str, Callable[[], str]]]:
        first, second, middle, last = self._sectors()
        checks: list[tuple[str, Callable[[], str]]] = [
            ("Init a second time", self._init_again),
            ("first sector: erase, program, erase", lambda: self._cycle(first)),
            ("middle sector: erase, program, erase", lambda: self._cycle(middle)),
            ("last sector: erase, program, erase", lambda: self._cycle(last)),
            ("1, 3, 255, 257 bytes at odd addresses", lambda: self._odd(first)),
            ("across a page", lambda: self._across(first.start + self._page, [first])),
            ("across a sector", lambda: self._across(second.start, [first, second])),
            ("across 16 MiB", self._across_three_bytes),
            ("last bytes of the device", lambda: self._write_end(last)),
            ("again, without a power cycle", lambda: self._again(first)),
            ("verified twice", lambda: self._verify_twice(first)),
            ("NOR left memory-mapped", lambda: self._left_mapped(first)),
            ("NOR left in 4-byte mode", lambda: self._left(Nor.leave_in_four_byte_mode)),
            ("NOR left in QPI", lambda: self._left(Nor.leave_in_qpi)),
            ("NOR left in continuous read", lambda: self._left(Nor.leave_in_continuous_read)),
            ("NOR left powered down", lambda: self._left(Nor.leave_powered_down)),
            ("program with all on was running", lambda: self._busy_before(first)),
            ("stack", lambda: self._stack(first)),
        ]
        if self._thorough:
            checks.append(("mass erase", self._mass_erase))
        return [(name, check) for name, check in checks if self._only in name]

    def _carry_out(self, name: str, check: Callable[[], str]) -> Result:
        start = self._now()
        outcome: Outcome
        more: list[str] = []
        try:
            outcome, detail = "ok", check()
        except _Skip as skip:
            outcome, detail = "skipped", str(skip)
        except _Remark as remark:
            outcome, detail = "remark", str(remark)
        except (FlashError, TargetError) as error:
            outcome = "failed"
            detail, *more = explain(error)
            self._target.reset(halt=True)
        return Result(name, outcome, self._now() - start, detail, tuple(more))

    # --- Where --------------------------------------------------------------------------------

    @property
    def _page(self) -> int:
        return self._loader.region.page_size

    def _sectors(self) -> tuple[Span, Span, Span, Span]:
        """First, second, middle and last; a device with few sectors has some of them twice."""
        region = self._loader.region
        first = region.sector_at(region.span.start)
        second = region.sector_at(min(first.end, region.span.end - 1))
        middle = region.sector_at(region.span.start + len(region.span) // 2)
        return first, second, middle, region.sector_at(region.span.end - 1)

    def touched(self) -> list[Span]:
        """The sectors that the test erases."""
        region = self._loader.region
        if self._thorough:
            return [region.span]
        sectors = set(self._sectors())
        if len(region.span) > THREE_BYTES:
            sectors |= set(self._around_three_bytes())
        return sorted(sectors)

    def _around_three_bytes(self) -> tuple[Span, Span]:
        region = self._loader.region
        border = region.span.start + THREE_BYTES
        return region.sector_at(border - 1), region.sector_at(border)

    # --- Sessions -----------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[_Session]:
        """The loader uploaded and initialised, until it has been left again."""
        queue = CallQueue(self._target, self._loader.image, good=self._loader.good, queued=False)
        with queue:
            session = _Session(self._target, self._loader, queue)
            try:
                session.start()
                yield session
                session.say(session.dialect.finish())
            except LoaderRefused as error:
                explain_refusal(self._target, self._loader, error)
                raise
            except LoaderTimeout as error:
                explain_timeout(self._target, self._loader, error)
                raise
            queue.check_stack()

    def _bytes(self, length: int) -> bytes:
        return self._random.randbytes(length)

    # --- Checks -------------------------------------------------------------------------------

    def _init(self) -> str:
        with self._open():
            found = what_it_found(self._target, self._loader)
            primask = self._target.read_registers(["primask"])["primask"]
            left = list(inherited(self._target, primask=primask))
        if found is not None:
            self._loader = resized(self._loader, found["size"])
        if left:
            raise _Remark("leaves " + "; ".join(left))
        if found is None:
            return f"{self._loader.region}"
        return f"{identity(found)}, {found['size'] // MIB} MiB"

    def _init_again(self) -> str:
        """Tools upload a loader anew before each Init; one that needs that may not be reused."""
        start = Span.of(self._loader.region.span.start, 16)
        for _ in range(2):
            with self._open() as session:
                session.read(start)
        try:
            with self._open() as session:
                session.say(session.dialect.finish())
                session.say(dialect(self._loader).start())
                session.read(start)
        except LoaderRefused:
            raise _Remark("only after a new upload, which is how it is called here") from None
        return "after a new upload, and without"

    def _cycle(self, sector: Span) -> str:
        ends = [Span.of(sector.start, self._page), Span(sector.end - self._page, sector.end)]
        with self._open() as session:
            session.erase([sector])
            session.expect_blank(sector)
            for end in ends:
                session.write_and_compare(end.start, self._bytes(len(end)))
            session.erase([sector])
            session.expect_blank(sector)
        return f"{sector}"

    def _odd(self, sector: Span) -> str:
        self._needs_any_size()
        expected = bytearray(b"\xff") * (8 * self._page)
        with self._open() as session:
            session.erase([sector])
            for number, (offset, size) in enumerate(((1, 1), (2, 3), (7, 255), (3, 257))):
                at = 2 * number * self._page + offset
                data = self._bytes(size)
                session.write(sector.start + at, data)
                expected[at : at + size] = data
            found = session.read(Span.of(sector.start, len(expected)))
            session.compare(sector.start, bytes(expected), found)
        return "nothing beside them has changed"

    def _needs_any_size(self) -> None:
        if self._loader.kind != "stldr":
            raise _Skip("an .FLM programs whole pages only")

    def _across(self, border: int, sectors: Sequence[Span]) -> str:
        with self._open() as session:
            session.erase(sorted(set(sectors)))
            before = self._page // 2 + 3 if self._loader.kind == "stldr" else self._page
            data = self._bytes(2 * before)
            session.write_and_compare(border - before, data)
            erased = Span(sectors[0].start, sectors[-1].end)
            beside = 2 * self._page
            start, end = border - before, border + before
            session.expect_blank(Span(max(erased.start, start - beside), start))
            session.expect_blank(Span(end, min(erased.end, end + beside)))
        return f"at {border:#010x}"

    def _across_three_bytes(self) -> str:
        region = self._loader.region
        if len(region.span) <= THREE_BYTES:
            raise _Skip(f"the device has {len(region.span) // MIB} MiB")
        below, above = self._around_three_bytes()
        start = Span.of(region.span.start, KIB)
        with self._open() as session:
            before = session.read(start)
        detail = self._across(above.start, [below, above])
        with self._open() as session:
            session.compare(start.start, before, session.read(start))
        return f"{detail}; the first bytes of the device are as before"

    def _write_end(self, last: Span) -> str:
        size = 257 if self._loader.kind == "stldr" else self._page
        with self._open() as session:
            session.erase([last])
            session.write_and_compare(last.end - size, self._bytes(size))
        return f"up to {last.end - 1:#010x}"

    def _again(self, sector: Span) -> str:
        for _ in range(2):
            with self._open() as session:
                session.erase([sector])
                session.write_and_compare(sector.start, self._bytes(2 * self._page))
        return "twice from upload to comparison"

    def _verify_twice(self, sector: Span) -> str:
        size = 4 * self._page
        data = self._bytes(size)
        with self._open() as session:
            session.erase([sector])
            session.write_and_compare(sector.start, data)
            session.compare(sector.start, data, session.read(Span.of(sector.start, size)))
            said = [session.verify(sector.start, data) for _ in range(2)]
        if said[0] is None:
            return "by reading; the loader has no Verify"
        if any(said):
            raise _Remark(f"its own Verify answers {said[0]:#x} and {said[1]:#x} instead of 0")
        return "by reading, and by its own Verify"

    def _left_mapped(self, sector: Span) -> str:
        if not self._loader.mapped:
            raise _Skip("the device is not mapped")
        with self._open() as session:
            session.read(Span.of(sector.start, 64))
        with self._open() as session:
            session.erase([sector])
            session.write_and_compare(sector.start, self._bytes(self._page))
        return "and initialised from there"

    def _left(self, leave: Callable[[Nor], str | None]) -> str:
        """Let the loader set up the pins, then drive the NOR ourselves."""
        with self._open():
            pass
        nor = Nor(self._target)
        if not nor.answers:
            raise _Skip("no NOR answers at the QUADSPI's pins")
        if why := leave(nor):
            raise _Skip(why)
        first = self._sectors()[0]
        try:
            with self._open() as session:
                session.erase([first])
                session.write_and_compare(first.start, self._bytes(self._page))
        except (LoaderRefused, LoaderTimeout) as error:
            if error.nor_answers:
                raise _Remark(
                    "Init fails; stm32-gdbserver wakes the NOR and calls it again, others do not"
                ) from error
            raise
        finally:
            nor.soothe()
        return "and initialised from there"

    def _busy_before(self, sector: Span) -> str:
        """What the loader finds: MPU, caches, interrupts, watchdog, all on and in use."""
        target = self._target
        image = load_image(built("busy.elf"))
        counters = image.symbols["counters"].address
        target.reset(halt=True)
        try:
            for address, data in image.chunks:
                target.write_memory(address, data)
            stack, entry = target.read_words(image.memory[0].start, 2)
            target.write_registers(
                {"msp": stack, "control": 0, "pc": entry & ~1, "xpsr": cm.XPSR_THUMB}
            )
            before = self._let_run(counters)
            if not all(before):
                raise TargetError("the program that shall be running before the loader does not")
            with self._open() as session:
                session.erase([sector])
                session.write_and_compare(sector.start, self._bytes(self._page))
            after = self._let_run(counters)
            if not all(late > early for early, late in zip(before, after, strict=True)):
                raise LoaderWrong(
                    self._loader.path, "the program that ran before does not run on afterwards"
                )
        finally:
            target.reset(halt=True)
        return "MPU, caches, SysTick, an interrupt, watchdog; it runs on afterwards"

    def _let_run(self, counters: int) -> list[int]:
        """Run for a moment; turns, ticks and interrupts so far."""
        self._target.resume()
        deadline = self._target.deadline(_MOMENT)
        while not deadline.expired():
            self._target.is_halted()
        self._target.halt()
        return self._target.read_words(counters, 3)

    def _stack(self, sector: Span) -> str:
        with self._open() as session:
            session.erase([sector])
            session.write_and_compare(sector.start, self._bytes(2 * self._page))
            used = session.stack_used()
        if used > _ST_STACK:
            raise _Remark(f"{used} bytes; STM32CubeProgrammer gives {_ST_STACK}")
        return f"{used} bytes"

    def _mass_erase(self) -> str:
        with self._open() as session:
            requests = session.dialect.erase_all()
            if requests is None:
                raise _Skip("the loader has no such routine")
            session.say([*requests, *session.dialect.look()])
            for sector in self._sectors():
                session.expect_blank(sector)
        return f"{self._loader.region.span}"

    # --- What must not change -------------------------------------------------------------------

    def _look_aside(self) -> str:
        """Read the sectors beside those that the test uses."""
        region = self._loader.region
        touched = self.touched()
        beside = {
            region.sector_at(address)
            for sector in touched
            for address in (sector.start - 1, sector.end)
            if address in region.span
        }
        with self._open() as session:
            self._aside = {
                part: session.read(part)
                for sector in sorted(beside - set(touched))
                for part in _ends(sector)
            }
        return f"{len(self._aside)} pieces"

    def _same_aside(self) -> str:
        with self._open() as session:
            for part, before in self._aside.items():
                session.compare(part.start, before, session.read(part))
        return f"{len(self._aside)} pieces"

    # --- Keeping what was there -------------------------------------------------------------------

    def contents(self) -> dict[Span, bytes]:
        """What the sectors hold that the test is going to erase."""
        with self._open() as session:
            return {sector: session.read(sector) for sector in self.touched()}

    def put_back(self, contents: dict[Span, bytes]) -> Result:
        """Program again what `contents` has read; a loader that fails here has failed before."""

        def put_back() -> str:
            with self._open() as session:
                for sector, data in contents.items():
                    session.erase([sector])
                    session.write_and_compare(sector.start, data)
            return f"{len(contents)} sectors"

        return self._carry_out("what was there is put back", put_back)


class _Session:
    """A loader that is initialised, with calls made one at a time."""

    def __init__(self, target: Target, loader: LoaderFile, queue: CallQueue) -> None:
        self._target = target
        self._loader = loader
        self._queue = queue
        self.dialect = dialect(loader)
        buffer = Span.of(queue.free.start, _BUFFER)
        queue.ram.borrow(buffer)
        self._buffer = buffer.start
        self._readout = Readout(target, loader, queue, lambda: nullcontext(buffer))

    def start(self) -> None:
        self.say(self.dialect.start())
        finish(self._readout.open())  # which notes how Init leaves it
        finish(self._readout.make_way())

    def say(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._call(request.routine, *request.arguments, timeout=request.timeout)

    def _call(self, routine: str, *arguments: int, timeout: float, checked: bool = True) -> int:
        return finish(self._queue.call(routine, *arguments, timeout=timeout, checked=checked))

    def stack_used(self) -> int:
        return self._queue.stack_used()

    def erase(self, sectors: Sequence[Span]) -> None:
        self.say(self.dialect.erase(sectors))

    def write(self, address: int, data: bytes) -> None:
        """Exactly these bytes; an .FLM gets the pages that they are in."""
        if self._loader.kind == "flm":
            page = self._loader.region.page_size
            front = address % page
            data = (b"\xff" * front + data).ljust(-(-(front + len(data)) // page) * page, b"\xff")
            address -= front
        for start in range(0, len(data), _BUFFER):
            part = data[start : start + _BUFFER]
            self._target.write_memory(self._buffer, part)
            span = Span.of(address + start, len(part))
            if self._loader.kind == "flm":
                self.say(self.dialect.program(span, self._buffer))
            else:
                seconds = program_seconds(len(part))
                self._call("Write", span.start, len(part), self._buffer, timeout=seconds)

    def read(self, span: Span) -> bytes:
        self.say(self.dialect.look())
        finish(self._readout.open())
        data = finish(self._readout.read(span))
        finish(self._readout.make_way())
        return data

    def verify(self, address: int, data: bytes) -> int | None:
        """What the loader's own Verify answers: 0 is good.  None when it has none."""
        if "Verify" not in self._loader.image.entries or self._loader.kind != "stldr":
            return None
        self._target.write_memory(self._buffer, data)
        return self._call(
            *("Verify", address, self._buffer, len(data) // 4, 0),
            timeout=read_seconds(len(data)),
            checked=False,
        )

    def write_and_compare(self, address: int, data: bytes) -> None:
        self.write(address, data)
        self.compare(address, data, self.read(Span.of(address, len(data))))

    def compare(self, address: int, expected: bytes, found: bytes) -> None:
        """Raises: LoaderWrong, with the first byte that differs."""
        if expected == found:
            return
        at = next(n for n, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
        raise LoaderWrong(
            self._loader.path,
            f"at {address + at:#010x} there is {found[at : at + 8].hex(' ')} "
            f"instead of {expected[at : at + 8].hex(' ')}",
        )

    def expect_blank(self, span: Span) -> None:
        for part in _ends(span):
            self.compare(part.start, b"\xff" * len(part), self.read(part))


def _ends(span: Span) -> list[Span]:
    """What is looked at of a sector: all of it, or both ends of a large one."""
    if len(span) <= _LOOK:
        return [span]
    half = _LOOK // 2
    return [Span.of(span.start, half), Span(span.end - half, span.end)]
