"""Carry out a download: plan, compare, and one lane per device.

A lane takes one device through its part of the plan: compare what is there with what shall be
there, erase, program, and compare again.  Lanes are generators.  The scheduler gives the link to
whichever lane can use it, while the devices of the others work on their own; when all of
them are busy it looks at the one that will be ready first: looking is what lets time pass.

A `Step` is progress, and the moment at which a job can be abandoned: closing the generator closes
the lanes, which wait until their devices are idle.  What was done so far stays done.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

from gdbserver.chip.memory import FlashRegion, Span, merge
from gdbserver.chip.stm32h743 import (
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_OPTSR_CUR,
    FLASH_PRAR_CUR,
    FLASH_SCAR_CUR,
    ITCM,
    KIB,
    OPTSR_SECURITY,
    RCC_RSR,
    bank,
)
from gdbserver.errors import (
    ChipLocked,
    ChipReset,
    FlashError,
    GdbServerError,
    HeldInReset,
    TargetError,
    VerifyError,
)
from gdbserver.flash.bank_digests import CrcUnit
from gdbserver.flash.diff import diff
from gdbserver.flash.driver import Did, Event, FlashDriver, putting_back
from gdbserver.flash.external import ExternalFlash, measured
from gdbserver.flash.feeder import Feeder
from gdbserver.flash.internal import InternalBank, Pace
from gdbserver.flash.mover import LIST, Mover
from gdbserver.flash.plan import Download, RegionPlan, SectorPlan, plan
from gdbserver.loader.diagnosis import pattern, reset_cause
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import four_lines_failed, identity, resized
from gdbserver.target.busy import Busy, finish
from gdbserver.target.target import Target, check_rdp

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSE_LOOK = 64  # bytes from the first wrong one on: enough to see what is wrong with them
_PIECE = 16 * KIB  # of what is read: enough to be quick, and to show progress
_HEARTBEAT = 0.25  # seconds of the target's time without a step

Verify = Literal["digest", "full"]
"""Whether the chip computes digests of what it holds, or every byte is read back as well."""

Action = Literal["compared", "erased", "programmed", "verified", "waiting"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to flash; `done` of `total` bytes of this device had this done to them.

    "waiting" is a sign of life while devices are busy.
    """

    action: Action
    region: FlashRegion
    span: Span
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a download means for one device."""

    wanted: RegionPlan
    left: RegionPlan
    """What of it is not in flash yet."""
    by: str
    """Who programs it."""
    seconds: float
    """How long the device will be at it, typically; the link adds to that."""


class Programmer:
    """Changes flash, internal and external, as downloads ask.

    Raises (from the constructor): FlashError when the devices of two loaders overlap, or the
    chip's flash size is absurd.
    """

    def __init__(
        self, target: Target, loaders: Sequence[LoaderFile], *, verify: Verify = "digest"
    ) -> None:
        self._target = target
        self._verify: Verify = verify
        self._loaders = list(loaders)
        self._banks = _internal_banks(target.chip.flash_kib)
        self._pace = Pace()
        self._crc_unit = CrcUnit()
        self.unfinished = False
        """Whether flash holds no whole program, because a download ended in the middle."""
        self._met: set[int] = set()
        """Which of the loaders have said how large their device really is."""
        self._check_disjoint()

    def _check_disjoint(self) -> None:
        for one, other in itertools.pairwise(self.regions()):
            if len(one.span & other.span):
                raise FlashError(
                    f"two loaders are for the same addresses, {one.span & other.span}: "
                    f"{one} and {other}",
                    hint="give one --extload for each device; the same one need not be given twice",
                )

    def regions(self) -> tuple[FlashRegion, ...]:
        """All flash that can be programmed, in address order."""
        external = [loader.region for loader in self._loaders]
        return tuple(sorted([*self._banks, *external], key=lambda region: region.span))

    @property
    def has_loaders(self) -> bool:
        """Whether there is external flash that can be programmed."""
        return bool(self._loaders)

    # --- Downloads ------------------------------------------------------------------------

    def carry_out(self, download: Download) -> Generator[Step, None, None]:
        """Erase, program and verify; yield after each operation.

        Raises:
            OutsideFlash, FlashError: refused; nothing has been erased.
            FlashError: a device failed; the others have come to rest.
        """
        with self._noticing_resets("the download"):
            plans = self._plans(download)
            with Feeder(self._target) as feeder, Mover(self._target) as mover:
                # A loader needs the core for itself: beside it, internal flash is streamed to, or
                # fed by the MDMA.
                alone = all(p.region in self._banks for p in plans)
                beside = None if self._is_mover_in_the_way() else mover
                helpers = (feeder, None) if alone else (None, beside)
                lanes = [_Lane(self._driver(p.region, *helpers), p, self._verify) for p in plans]
                lanes.sort(key=lambda lane: lane.seconds, reverse=True)
                try:
                    yield from self._run(lanes)
                except BaseException:
                    self.unfinished |= any(lane.has_changed_flash for lane in lanes)
                    raise
                self.unfinished = False

    def preview(self, download: Download) -> list[Change]:
        """What `carry_out` would do: flash is compared with it, and not changed.

        Raises: what `carry_out` raises.
        """
        changes = []
        for region_plan in self._plans(download):
            with self._driver(region_plan.region) as driver:
                found = finish(driver.compare(region_plan.sectors))
                left = diff(region_plan, found, driver.digest_of)
                by = self._worker(region_plan.region)
                changes.append(Change(region_plan, left, by, driver.seconds(left)))
        return changes

    def _plans(self, download: Download) -> list[RegionPlan]:
        """The plan, with nothing in it that is forbidden; the core is halted for it."""
        plans = plan(download, self.regions())
        for region_plan in plans:
            self._check_allowed([s.sector for s in region_plan.sectors], region_plan.region)
        self._target.halt()
        if self._meet([p.region for p in plans]):
            plans = plan(download, self.regions())
        return plans

    def read(self, span: Span) -> Iterator[bytes]:
        """What is at these addresses, piece by piece: flash through its driver, or memory.

        Raises: TargetError, FlashError.
        """
        self._target.halt()
        self._meet([region for region in self.regions() if len(span & region.span)])
        address = span.start
        while address < span.end:
            region = next((r for r in self.regions() if address in r.span), None)
            starts = [r.span.start for r in self.regions() if r.span.start > address]
            end = min(region.span.end if region else min(starts, default=span.end), span.end)
            with self._reading(region) as read:
                for start in range(address, end, _PIECE):
                    yield read(Span(start, min(end, start + _PIECE)))
            address = end

    @contextmanager
    def _reading(self, region: FlashRegion | None) -> Iterator[Callable[[Span], bytes]]:
        if region is None:
            yield lambda span: self._target.read_memory(span.start, len(span))
        else:
            with self._driver(region) as driver:
                yield driver.read

    def mass_erase(self, which: Literal["internal", "external", "all"]) -> Iterator[Step]:
        """Erase whole devices."""
        with self._noticing_resets("the mass erase"):
            internal = list(self._banks) if which != "external" else []
            for region in internal:
                self._check_allowed([region.span], region)
            self._target.halt()
            if which != "internal":
                self._meet([loader.region for loader in self._loaders])
            external = [loader.region for loader in self._loaders] if which != "internal" else []
            yield from self._run([_EraseLane(self._driver(r)) for r in [*external, *internal]])

    @contextmanager
    def _noticing_resets(self, job: str) -> Iterator[None]:
        """Whatever it is that fails because the chip was reset, or protected: that it was is what
        helps."""
        target = self._target
        resets, before, after = target.unasked_resets, 0, 0
        try:
            before = target.read_word(RCC_RSR)
            yield
        except (ChipReset, ChipLocked):
            raise
        except (FlashError, TargetError) as error:
            try:
                if not target.is_halted():
                    target.halt()
                after = target.read_word(RCC_RSR)
                check_rdp(target.read_word(FLASH + FLASH_OPTSR_CUR))
            except (HeldInReset, ChipLocked) as reason:
                raise reason from error
            except GdbServerError as failure:
                log.debug("whether there was a reset cannot be seen: %s", failure)
            if target.unasked_resets == resets:
                raise
            raise ChipReset(job, reset_cause(before, after)) from error

    def _check_allowed(self, spans: Sequence[Span], region: FlashRegion) -> None:
        """Refuse what the option bytes forbid, before anything is done."""
        if region not in self._banks:
            return
        chip = self._target.chip
        protected = [
            sector for sector in chip.protected_sectors if any(len(sector & span) for span in spans)
        ]
        if protected:
            raise FlashError(
                f"write-protected: {', '.join(str(span) for span in merge(protected))} "
                f"of {region.name}",
                hint="the option bytes (WPSN) protect these sectors: change them first",
            )
        for register, name in ((FLASH_PRAR_CUR, "PCROP"), (FLASH_SCAR_CUR, "a secure area")):
            if register == FLASH_SCAR_CUR and not chip.optsr & OPTSR_SECURITY:
                continue
            area = self._area_of(region, register)
            if any(len(area & span) for span in spans):
                raise FlashError(
                    f"protected against being read, and so against change: {area} of {region.name}",
                    hint=f"the option bytes ({name}) protect it; only a mass erase can end that",
                )

    def _area_of(self, region: FlashRegion, register: int) -> Span:
        """What PRAR or SCAR covers: units of 256 bytes from the first to the last.

        RM0433, "FLASH protection address", "FLASH secure address": both the same, it is the whole
        bank; the first behind the last, it is nothing.
        """
        bank = self._banks.index(region)
        area = self._target.read_word(FLASH + bank * FLASH_BANK2_OFFSET + register)
        first, last = area & 0xFFF, area >> 16 & 0xFFF
        if first == last:
            return region.span
        start = region.span.start
        return Span(start + 256 * first, start + 256 * max(first, last + 1 if last > first else 0))

    def _driver(
        self, region: FlashRegion, feeder: Feeder | None = None, mover: Mover | None = None
    ) -> FlashDriver:
        for loader in self._loaders:
            if loader.region == region:
                return ExternalFlash(self._target, loader)
        return InternalBank(
            self._target, region, pace=self._pace, unit=self._crc_unit, feeder=feeder, mover=mover
        )

    def _is_mover_in_the_way(self) -> bool:
        """Whether a loader lies where the MDMA's buffers would."""
        taken = [span for loader in self._loaders for span in loader.image.memory]
        return any(len(ours & span) for ours in (ITCM, LIST) for span in taken)

    def _worker(self, region: FlashRegion) -> str:
        """Who programs a device, in words."""
        for loader in self._loaders:
            if loader.region == region:
                return f"loader {loader.path.name}"
        return "the flash controller"

    # --- Lanes ----------------------------------------------------------------------------

    def _run(self, lanes: Sequence[_Lane]) -> Iterator[Step]:
        """Let the lanes run side by side until all are done, or one fails.

        The first lane that can use the link gets it.  So the one with the most work comes
        first: it decides when all are done, and the others find time while its device is busy.
        Of two banks the first keeps the link until its sector is programmed: then it erases
        the next one while the second bank is programmed, and from there on they take turns by
        themselves.  But before that each gets its device to work, those with least work first:
        a bank's erase begins in an instant, while a loader takes its time to begin.
        """
        with ExitStack() as stack:
            stack.push(self._forget_caches)
            running = {lane: lane.run() for lane in _one_loader_at_a_time(lanes)}
            for steps in running.values():
                stack.callback(steps.close)
            pauses: dict[_Lane | _Turns, float] = {}  # when there will be something to do again
            now = self._target.monotonic
            heartbeat = now() + _HEARTBEAT
            fresh = list(running)  # the last of them begins
            while running:
                ready = next((lane for lane in running if pauses.get(lane, 0) <= now()), None)
                ready = fresh[-1] if fresh else ready
                # With all of them busy, time passes by looking at one: the first to have something
                # to do, for whoever waits longer may take a longer look.
                for lane in [ready] if ready else sorted(running, key=pauses.__getitem__):
                    begun = now()
                    pauses.pop(lane, None)
                    event = next(running[lane], None)
                    while isinstance(event, Step):  # which offers the link to nobody
                        yield event
                        heartbeat = now() + _HEARTBEAT
                        event = next(running[lane], None)
                    if fresh:
                        fresh.pop()
                    if event is None:
                        del running[lane]
                    elif event.seconds:
                        pauses[lane] = now() + event.seconds
                    if now() >= heartbeat:
                        yield lane.waiting()
                        heartbeat = now() + _HEARTBEAT
                    if now() > begun:
                        break

    def _forget_caches(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """A program's caches know nothing of what became of flash, also where that failed."""
        with putting_back(error, "the caches may hold what flash held before"):
            self._target.forget_caches()

    # --- External flash as memory ---------------------------------------------------------

    def prepare_external_reads(self) -> None:
        """Leave the NOR memory-mapped, so that it can be read like memory."""
        for loader in self._loaders:
            with ExternalFlash(self._target, loader, queued=False, for_good=True):
                log.info("%s can be read", loader.region)

    def describe_external(self) -> str:
        """One line about the external flash: JEDEC id and size, as far as a loader tells."""
        lines = []
        for number, loader in enumerate(self._loaders):
            found = self._ask(number)
            if found is None:
                lines.append(f"{loader.region} by loader {loader.path.name}")
            else:
                lines.append(
                    f"{self._loaders[number].region}: {identity(found)}, "
                    f"{found['size'] // KIB} KiB, {found['clock_hz'] / 1e6:g} MHz"
                )
        return "; ".join(lines) or "no external flash"

    def _meet(self, regions: Sequence[FlashRegion]) -> bool:
        """Ask loaders, or their NORs, for these regions, once; whether one has another size.

        Raises: FlashError, when a NOR that is larger than thought reaches into another device.
        """
        before = self.regions()
        for number, loader in enumerate(self._loaders):
            if number not in self._met and loader.region in regions:
                if loader.finds_out:
                    self._ask(number)
                else:
                    self._loaders[number] = measured(self._target, loader)
                    self._met.add(number)
        return self.regions() != before

    def _ask(self, number: int) -> dict[str, int] | None:
        """What a loader of ours finds; its region has the size of the NOR from now on."""
        loader = self._loaders[number]
        with ExternalFlash(self._target, loader, queued=False) as flash:
            found = flash.found()
        self._met.add(number)
        if found is not None and four_lines_failed(found):
            log.warning(
                "%s is read on one line, because four lines read something else: are IO2 and IO3 "
                "on the pins that were named?",
                loader.region,
            )
        if found is not None and found["size"] != len(loader.region.span):
            self._loaders[number] = resized(loader, found["size"])
            log.info("%s: the NOR is %d KiB large", loader.region, found["size"] // KIB)
            self._check_disjoint()
        return found


class _Lane:
    """One device's part of a download, from the first comparison to the last."""

    def __init__(
        self, driver: FlashDriver, region_plan: RegionPlan, verify: Verify = "digest"
    ) -> None:
        self._driver = driver
        self._verify_how = verify
        self._region = driver.region
        self._plan = region_plan
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._found: dict[Span, int] = {}
        self.seconds = driver.seconds(region_plan)
        self._last = Step("waiting", self._region, self._region.span, 0, 0)
        self.external = isinstance(driver, ExternalFlash)
        self.has_changed_flash = False

    def run(self) -> Generator[Busy | Step, None, None]:
        with self._driver as driver:
            everything = self._plan.sectors
            self._expect(compared=sum(len(s.sector) for s in everything))
            found = yield from self._tell(driver.compare(everything))
            before = dict(zip((s.sector for s in everything), found, strict=True))
            left = diff(self._plan, found, driver.digest_of)
            log.info(
                "%s: %d of %d sectors change", self._region, len(left.sectors), len(everything)
            )
            self._expect(erased=left.erase_bytes, programmed=left.program_bytes)
            self.has_changed_flash = bool(left.sectors)
            yield from self._tell(driver.change(left.sectors))
            wrong = yield from self._verify(driver, left)
            again = replace(
                left, sectors=tuple(replace(s, erase=True) for s in wrong if not s.erase)
            )
            if again.sectors:
                # It looked blank, and was not: in internal flash a word of ones that was
                # programmed once cannot be programmed again.
                log.info("%s: erasing %d sectors after all", self._region, len(again.sectors))
                self._expect(erased=again.erase_bytes, programmed=again.program_bytes)
                yield from self._tell(driver.change(again.sectors))
                wrong = [s for s in wrong if s.erase]
                wrong += yield from self._verify(driver, again)
            if wrong:
                unchanged = self._found[wrong[0].sector] == before[wrong[0].sector]
                raise _mismatch(driver, wrong[0], unchanged=unchanged)
            if self._verify_how == "full":
                yield from self._tell(self._read_back(driver))

    def _read_back(self, driver: FlashDriver) -> Generator[Event, None, None]:
        """Every byte of every sector of the download, changed or not, through the link."""
        self._expect(verified=sum(len(s.sector) for s in self._plan.sectors))
        driver.refresh()
        for sector in self._plan.sectors:
            if driver.read(sector.sector) != sector.contents():
                raise _mismatch(driver, sector, unchanged=False)
            yield Did("verified", sector.sector)

    def _verify(
        self, driver: FlashDriver, region_plan: RegionPlan
    ) -> Generator[Busy | Step, None, list[SectorPlan]]:
        """The sectors that do not hold what they shall; what they hold goes into `_found`."""
        sectors = region_plan.sectors
        self._expect(verified=sum(len(s.sector) for s in sectors))
        found = yield from self._tell(driver.verify(sectors), "verified")
        self._found.update(zip((s.sector for s in sectors), found, strict=True))
        return [s for s in sectors if self._found[s.sector] != driver.digest_of(s.contents())]

    def _expect(self, **totals: int) -> None:
        self._total.update(totals)
        self._done.update(dict.fromkeys(totals, 0))

    def _tell(
        self, events: Generator[Event, None, T], action: Action | None = None
    ) -> Generator[Busy | Step, None, T]:
        """Pass on a driver's events as steps, counting bytes."""
        try:
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    return cast(T, end.value)
                if isinstance(event, Did):
                    yield self._step(action or event.action, event.span)
                else:
                    yield event
        finally:
            events.close()

    def _step(self, action: Action, span: Span) -> Step:
        # A sector that is done a second time does not count twice.
        total = self._total[action]
        self._done[action] = min(total, self._done[action] + len(span))
        self._last = Step(action, self._region, span, self._done[action], total)
        return self._last

    def waiting(self) -> Step:
        """A sign of life, with the progress of what was done last."""
        return replace(self._last, action="waiting")


class _Turns:
    """Lanes of several loaders: one core runs one loader at a time."""

    def __init__(self, lanes: Sequence[_Lane]) -> None:
        self._lanes = lanes
        self._current = lanes[0]

    def run(self) -> Generator[Busy | Step, None, None]:
        for lane in self._lanes:
            self._current = lane
            yield from lane.run()

    def waiting(self) -> Step:
        return self._current.waiting()


def _one_loader_at_a_time(lanes: Sequence[_Lane]) -> list[_Lane | _Turns]:
    """The same lanes, with all that need the core one after the other in the first one's place."""
    external = [lane for lane in lanes if lane.external]
    if len(external) < 2:
        return list(lanes)
    turns = _Turns(external)
    merged = [turns if lane is external[0] else lane for lane in lanes]
    return [lane for lane in merged if lane not in external]


class _EraseLane(_Lane):
    """One device, erased whole."""

    def __init__(self, driver: FlashDriver) -> None:
        super().__init__(driver, RegionPlan(driver.region, ()))

    def run(self) -> Generator[Busy | Step, None, None]:
        with self._driver as driver:
            self._expect(erased=len(self._region.span))
            yield from self._tell(driver.erase_all())


def _mismatch(driver: FlashDriver, sector: SectorPlan, *, unchanged: bool) -> VerifyError:
    """Read back a sector whose digest is wrong, to say where and how it differs.

    `unchanged`: its digest is what it was before anything was done.
    """
    expected, found = sector.contents(), driver.read(sector.sector)
    first = next((n for n, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b), 0)
    end = first + _CLOSE_LOOK
    looks: str | None
    if found == expected:
        looks = "read again it is right: reading is not reliable, at this clock or on these wires"
    elif _read_afresh(driver, sector) == expected:
        looks = (
            "it is a stale read, and right after another Init: the loader maps, or remembers, what "
            "was there before it wrote"
        )
    elif unchanged and found.strip(bytes([sector.erased])):
        looks = "it still holds what it held before: it was neither erased nor programmed"
    else:
        looks = pattern(expected[first:end], found[first:end])
    return VerifyError(
        driver.region,
        sector.sector.start + first,
        expected[first : first + 16],
        found[first : first + 16],
        looks,
    )


def _read_afresh(driver: FlashDriver, sector: SectorPlan) -> bytes | None:
    """What a sector holds, after everything that may have kept an earlier reading was told."""
    try:
        driver.refresh()
        return driver.read(sector.sector)
    except GdbServerError as error:
        log.debug("no second look: %s", error)
        return None


def _internal_banks(flash_kib: int) -> tuple[FlashRegion, ...]:
    """The banks of a chip with so much flash; the smallest has one sector and one bank."""
    if flash_kib == 128:
        return (bank(1, 128 * KIB),)
    if flash_kib in (1024, 2048):
        return (bank(1, flash_kib // 2 * KIB), bank(2, flash_kib // 2 * KIB))
    raise FlashError(
        f"the chip says that it has {flash_kib} KiB of flash",
        hint="an STM32H742, H743, H750 or H753 has 128, 1024 or 2048: is the link good?",
    )
