"""An access port: a list of accesses, in as few transactions as its kind of probe allows.

The round trip is what a debugger waits for, so callers hand over a *list* of accesses:

* `RegisterPort`: a probe that moves the registers of access ports (CMSIS-DAP).  Its reads are
  deferred to the end of the list, so a list is as few packets as it has bytes for.
* `InterfacePort`: a probe with memory commands (ST-LINK, J-Link).  An access is a command.

Either way, words that lie in the same 16 bytes go through the port's banked data registers
where possible: BD0-3 stand for the 16 bytes around TAR, which need not be written again.  The
core is controlled through four registers in one such line, so this is what makes polling it
and reading its registers cheap: on an ST-LINK, a memory command takes two USB exchanges, a
register access one.

ADIv5.2 (IHI 0031), "The Memory Access Port"; DDI 0489, "AHBD": only accesses with HPROT[3]
look into the D-cache, so they must have it for memory and must not for registers.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pyocd.core import exceptions
from pyocd.coresight.dap import (
    CTRLSTAT_STICKYERR,
    CTRLSTAT_WDATAERR,
    DP_CTRL_STAT,
    DP_RDBUFF,
    DP_SELECT,
)
from pyocd.probe.stlink_probe import STLinkMemoryInterface

from gdbserver.chip.cortex_m import CPUID, CPUID_M7_R1P1, CPUID_PART, DHCSR, PPB
from gdbserver.errors import AccessRefused, AccessStalled
from gdbserver.target.access import Access, Read, Write, bytes_of, keeps_memory, words_of

if TYPE_CHECKING:
    from gdbserver.target.link import Link

log = logging.getLogger(__name__)

CSW, TAR, DRW, BD0, IDR = 0x00, 0x04, 0x0C, 0x10, 0xFC
CSW_FIELDS: Final = 0x37  # ADDRINC and SIZE
CSW_INCREMENT: Final = 0x10
CSW_SIZE: Final = {1: 0, 2: 1, 4: 2}
CSW_DEVICE_ENABLED: Final = 1 << 6
CSW_HPROT: Final = 0x0F000000
HPROT_REGISTERS: Final = 0x03000000  # data, privileged
HPROT_MEMORY: Final = 0x0B000000  # and cacheable
TAR_WRAP: Final = 0x400
"""TAR counts up within 1 KiB only; ADIv5 promises no more."""

_CORTEX_M7: Final = CPUID_M7_R1P1 & CPUID_PART

CORE_LINE: Final = DHCSR & ~0xF
"""DHCSR, DCRSR, DCRDR and DEMCR: what polling and the register file go through."""

PACKET_WORDS: Final = 96
"""Words per transaction in `stream`: with TAR they fill one packet of a CMSIS-DAP probe.

Packets must not be under way together: when the first fails, the probe still carries out the
next, whose words would then land where the first's were meant to."""

COMMAND_WORDS: Final = 1024
"""The same for a probe with memory commands, which minds TAR itself: an ST-LINK takes 6 KiB."""


class Port(ABC):
    """A memory access port: carries out lists of accesses.

    Raises (from all that touches the chip): AccessRefused, AccessStalled, ProbeError.
    """

    has_memory_commands: bool
    """The probe reads and writes memory by itself; each access is an exchange with it."""
    stream_words: int
    """What one transaction of `stream` carries at most."""
    stream_span: int
    """Where TAR has to be written anew: a transaction of `stream` does not go beyond."""

    def __init__(self, link: Link, dp: Any, base: int, csw: int) -> None:
        self._link = link
        self._dp = dp
        self._base = base
        self._csw_rest = csw & ~CSW_FIELDS
        self._has_hprot = base == 0  # AP0 is the AHB port; the APB port has no such field
        self._banked = False  # until `try_banked`
        self.forget()

    def forget(self) -> None:
        """CSW and TAR may be anything now: an error, a reset, or the probe's own firmware."""
        self._current_csw: int | None = None
        self._line: int | None = None
        """The 16 bytes that BD0-3 show, by their first address."""

    def renew(self, interface: Any) -> None:
        """The probe was opened anew; `interface` is what it has for this port now."""
        self.forget()

    def run(self, accesses: Sequence[Access], *, cacheable: bool = False) -> list[Sequence[int]]:
        """Carry out `accesses` in order; the result has what each `Read` found."""
        if not all(map(keeps_memory, accesses)):
            self._link.changes += 1
        first = accesses[0]
        with self._link.translated("read" if isinstance(first, Read) else "write", first.address):
            return self._run(accesses, cacheable)

    def read(self, address: int, count: int = 1) -> Sequence[int]:
        return self.run([Read(address, count)])[0]

    def write(self, address: int, *values: int) -> None:
        self.run([Write(address, values)])

    def read_spread(
        self, address: int, offsets: Sequence[int], before: Sequence[Write] = ()
    ) -> list[int]:
        """Words at ascending `offsets`, of which the first is 0; `before` rides along.

        What lies between must bear being read: it is, where that saves commands.
        """
        if self.has_memory_commands:
            try:
                (block,) = self.run([*before, Read(address, offsets[-1] // 4 + 1)])
            except AccessRefused as error:
                log.debug("there are gaps: %s", error)
            else:
                return [block[offset // 4] for offset in offsets]
        reads = [Read(address + offset) for offset in offsets]
        return [value for (value,) in self.run([*before, *reads])]

    def try_banked(self) -> None:
        """Find out whether BD0-3 work here: CPUID can be seen through them."""
        results = _Results()
        try:
            with self._link.translated("read", CPUID):
                self._through_line(Read(CPUID), False, results)
                ((cpuid,),) = results.collect()
        except AccessRefused as error:
            log.debug("BD0-3 do not work: %s", error)
            cpuid = 0
        self._banked = cpuid & CPUID_PART == _CORTEX_M7
        if not self._banked:
            self.forget()

    def stream(
        self,
        address: int,
        words: Sequence[int],
        patience: Callable[[], bool],
        *,
        idle: bool = False,
    ) -> int:
        """Write `words` into a slave that throttles by WAIT; how many of them it took.

        Fewer than all means that the probe gave up waiting.  What the slave took it has
        finished, unless `patience` (asked before each new look) ran out first.
        `idle`: it is known that the port has nothing to do.
        """
        self._link.changes += 1
        # A port that still works on something would not take TAR; then TAR would tell nothing.
        if not idle:
            self._idle_tar(address, patience)
        done = 0
        while done < len(words):
            here = address + 4 * done
            room = self.stream_span - here % self.stream_span
            piece = words[done : done + min(self.stream_words, room // 4)]
            try:
                with self._link.translated("write", here):
                    self._stream_piece(here, piece)
                    self._dp.probe.flush()
            except AccessStalled:
                progress = _progress(here, self._idle_tar(here, patience)) // 4
                return done + min(progress, len(piece))
            done += len(piece)
        return done

    def rush(self, address: int, words: Sequence[int], patience: Callable[[], bool]) -> None:
        """Write `words` into a slave that is quicker than the link, with no look in between.

        Raises:
            AccessStalled: it is not, and the probe gave up.  What it took instead, from `address`
                to the end of `words`, is not known; it has finished, if `patience` lasted.
        """
        self._link.changes += 1
        try:
            with self._link.translated("write", address):
                done = 0
                while done < len(words):
                    here = address + 4 * done
                    room = (self.stream_span - here % self.stream_span) // 4
                    self._stream_piece(here, words[done : done + room])
                    done += room
                self._dp.probe.flush()
        except AccessStalled:
            self._idle_tar(address, patience)
            raise

    def _idle_tar(self, address: int, patience: Callable[[], bool]) -> int:
        """TAR, once the port has nothing to do any more: where the next access would go."""
        probe = self._dp.probe
        while True:
            try:
                with self._link.translated("access", address):
                    if not self._link.manages_select:
                        self._link.forget_select()
                        probe.write_dp(DP_SELECT, self._base)  # past `DebugPort`: see `recover`
                    return int(probe.read_ap(self._base + TAR))
            except AccessStalled:
                if not patience():
                    raise

    def _csw(self, size: int, cacheable: bool) -> int:
        csw = self._csw_rest | CSW_INCREMENT | CSW_SIZE[size]
        if self._has_hprot:
            csw = csw & ~CSW_HPROT | (HPROT_MEMORY if cacheable else HPROT_REGISTERS)
        return csw

    def _set_csw(self, size: int, cacheable: bool) -> None:
        csw = self._csw(size, cacheable)
        if csw != self._current_csw:
            self._dp.write_ap(self._base + CSW, csw)
            self._current_csw = csw

    def _run(self, accesses: Sequence[Access], cacheable: bool) -> list[Sequence[int]]:
        results = _Results()
        try:
            for access, following in itertools.zip_longest(accesses, accesses[1:]):
                cached = cacheable or (isinstance(access, Read) and access.cacheable)
                if self._in_line(access, following):
                    self._through_line(access, cached, results)
                else:
                    self._directly(access, cached, results)
        except BaseException:
            results.abandon()
            raise
        return self._finish(results, wrote=isinstance(accesses[-1], Write))

    def _in_line(self, access: Access, following: Access | None) -> bool:
        """Whether this access is better done through BD0-3."""
        if not self._banked or not _is_word(access):
            return False
        line = access.address & ~0xF
        if line in (self._line, CORE_LINE):
            return True
        return following is not None and _is_word(following) and following.address & ~0xF == line

    def _through_line(self, access: Access, cacheable: bool, results: _Results) -> None:
        self._set_csw(4, cacheable)
        line = access.address & ~0xF
        if line != self._line:
            self._dp.write_ap(self._base + TAR, line)
            self._line = line
        register = self._base + BD0 + (access.address & 0xC)
        if isinstance(access, Write):
            self._dp.write_ap(register, int(access.values[0]))
        else:
            results.expect([self._dp.read_ap(register, now=False)])

    def _finish(self, results: _Results, *, wrote: bool) -> list[Sequence[int]]:
        return results.collect()

    @abstractmethod
    def _directly(self, access: Access, cacheable: bool, results: _Results) -> None: ...

    @abstractmethod
    def _stream_piece(self, address: int, words: Sequence[int]) -> None:
        """Write words that do not cross `stream_span`; a flush tells how that went."""


class RegisterPort(Port):
    """Through the port's own registers, every read deferred to the end of the list."""

    has_memory_commands = False
    stream_words = PACKET_WORDS
    stream_span = TAR_WRAP

    def _directly(self, access: Access, cacheable: bool, results: _Results) -> None:
        self._set_csw(access.size, cacheable)
        self._line = None
        deferred: list[Callable[[], Any]] = []
        if isinstance(access, Read):
            results.expect(deferred)
        count = len(access.values) if isinstance(access, Write) else access.count
        for start, stop in _wraps(access.address, count, access.size):
            address = access.address + start * access.size
            self._dp.write_ap(self._base + TAR, address)
            if isinstance(access, Write):
                self._write_data(address, access.values[start:stop], access.size)
            elif stop - start == 1:
                deferred.append(
                    _in_lane(self._dp.read_ap(self._base + DRW, now=False), address, access.size)
                )
            else:
                deferred.append(
                    self._dp.read_ap_multiple(self._base + DRW, stop - start, now=False)
                )

    def _write_data(self, address: int, values: Sequence[int], size: int) -> None:
        lanes = (
            [v << 8 * (address + i * size & 3) for i, v in enumerate(values)]
            if size < 4
            else values
        )
        if len(lanes) == 1:
            self._dp.write_ap(self._base + DRW, int(lanes[0]))
        else:  # past `DebugPort`, for TAR is in the bank of DRW, and that has been selected
            self._dp.probe.write_ap_multiple(self._base + DRW, self._block(lanes))

    def _finish(self, results: _Results, *, wrote: bool) -> list[Sequence[int]]:
        if not wrote:
            return results.collect()
        # A write is acknowledged before it happens.  RDBUFF waits until it has, and CTRL/STAT
        # tells whether it was refused; both ride in the same packet.  RDBUFF, which is in no bank,
        # needs nothing of `DebugPort`.
        waited = self._dp.probe.read_dp(DP_RDBUFF, now=False)
        results.expect([waited, self._dp.read_dp(DP_CTRL_STAT, now=False)])
        *values, (_, status) = results.collect()
        if status & (CTRLSTAT_STICKYERR | CTRLSTAT_WDATAERR):
            raise exceptions.TransferFaultError("write")
        return values

    def _stream_piece(self, address: int, words: Sequence[int]) -> None:
        self._set_csw(4, cacheable=False)
        self._line = None
        self._dp.write_ap(self._base + TAR, address)
        # Past `DebugPort`: see `Link.recover`.
        self._dp.probe.write_ap_multiple(self._base + DRW, self._block(words))

    def _block(self, words: Sequence[int]) -> Sequence[int]:
        return words if self._link.takes_buffers else list(words)


class InterfacePort(Port):
    """Through the probe's memory commands, and its register accesses for BD0-3."""

    has_memory_commands = True
    stream_words = COMMAND_WORDS
    stream_span = 4 * COMMAND_WORDS

    def __init__(self, link: Link, dp: Any, base: int, csw: int, interface: Any) -> None:
        super().__init__(link, dp, base, csw)
        self._interface = interface

    def renew(self, interface: Any) -> None:
        super().renew(interface)
        self._interface = interface

    def try_banked(self) -> None:
        # Memory commands use SELECT, CSW and TAR as they like.  With a probe that leaves
        # SELECT to the host, the host would then select the wrong register.
        if self._link.manages_select:
            super().try_banked()

    def _in_line(self, access: Access, following: Access | None) -> bool:
        # A memory command takes two exchanges, as TAR and BDn do; but then CSW is another's.
        return super()._in_line(access, following) or (
            self._banked
            and _is_word(access)
            and access.address in PPB
            and self._current_csw == self._csw(4, cacheable=False)
        )

    def _directly(self, access: Access, cacheable: bool, results: _Results) -> None:
        self._dp.flush()  # what was deferred comes first
        self.forget()
        self._link.forget_select()
        address, csw = access.address, self._csw(access.size, cacheable)
        if isinstance(access, Write):
            if access.size == 4 and len(access.values) > 1:
                self._write_words(address, access.values, csw)
            else:
                for i, value in enumerate(access.values):
                    where = address + i * access.size
                    self._interface.write_memory(where, int(value), 8 * access.size, csw=csw)
        elif access.size == 4 and access.count > 1:
            results.have(self._read_words(address, access.count, csw))
        else:
            units = range(address, address + access.count * access.size, access.size)
            results.have(
                [self._interface.read_memory(a, 8 * access.size, True, csw=csw) for a in units]
            )

    def _stream_piece(self, address: int, words: Sequence[int]) -> None:
        self.forget()
        self._link.forget_select()
        self._write_words(address, words, self._csw(4, cacheable=False))

    # pyOCD takes words apart, and puts them together, one by one in Python; with an ST-LINK that
    # is more work than all the rest.  Its driver sends whole words as words also where they come
    # as bytes; others would access them byte by byte.

    def _write_words(self, address: int, words: Sequence[int], csw: int) -> None:
        if isinstance(self._interface, STLinkMemoryInterface):
            self._interface.write_memory_block8(address, bytes_of(words), csw=csw)
        else:
            self._interface.write_memory_block32(address, list(words), csw=csw)

    def _read_words(self, address: int, count: int, csw: int) -> Sequence[int]:
        if isinstance(self._interface, STLinkMemoryInterface):
            data = self._interface.read_memory_block8(address, 4 * count, csw=csw)
            return words_of(bytearray(data))  # which takes half the time of `bytes`
        words: Sequence[int] = self._interface.read_memory_block32(address, count, csw=csw)
        return words


class _Results:
    """What the reads of a list found, or will have found once all deferred ones are in."""

    def __init__(self) -> None:
        self._parts: list[list[Callable[[], Any]]] = []

    def expect(self, deferred: list[Callable[[], Any]]) -> None:
        """One `Read`, in so many parts (more may come): each a word or a sequence of words."""
        self._parts.append(deferred)

    def have(self, values: Sequence[int]) -> None:
        self._parts.append([lambda: values])

    def abandon(self) -> None:
        """Nobody wants them any more; but pyOCD holds a lock for each until it is asked for."""
        with suppress(Exception):
            self.collect()

    def collect(self) -> list[Sequence[int]]:
        found = iter(_collect([part for parts in self._parts for part in parts]))
        results: list[Sequence[int]] = []
        for parts in self._parts:
            if len(parts) == 1:  # often long, and not copied
                only = next(found)
                results.append([only] if isinstance(only, int) else only)
                continue
            values: list[int] = []
            for _ in parts:
                value = next(found)
                values.extend([value] if isinstance(value, int) else value)
            results.append(values)
        return results


def _is_word(access: Access) -> bool:
    count = len(access.values) if isinstance(access, Write) else access.count
    return access.size == 4 and count == 1


def _wraps(address: int, count: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut `count` units where TAR does not count on by itself: (first, last + 1) of each part."""
    start = 0
    while start < count:
        room = (TAR_WRAP - (address + start * size) % TAR_WRAP) // size
        stop = min(count, start + room)
        yield start, stop
        start = stop


def _progress(start: int, tar: int) -> int:
    """Bytes of a stream that were taken, going by where TAR ended up.

    TAR comes round at the end of a KiB, and shows where that began.  It never shows where the
    next begins, because a port that took a new TAR is idle, and takes a word as well.
    """
    passed = tar - (start & -TAR_WRAP)
    if passed % TAR_WRAP == 0:
        passed += TAR_WRAP
    return max(0, passed - start % TAR_WRAP)


def _in_lane(result: Callable[[], int], address: int, size: int) -> Callable[[], int]:
    """Bytes and halfwords travel in the lane of DRW that their address says."""
    if size == 4:
        return result
    return lambda: result() >> 8 * (address & 3) & (1 << 8 * size) - 1


def _collect(deferred: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of deferred reads.

    Each is asked for, even when one has failed: pyOCD holds a lock for every one.
    """
    results: list[Any] = []
    failure: Exception | None = None
    for result in deferred:
        try:
            results.append(result())
        except Exception as error:  # after the first, pyOCD may raise anything
            failure = failure or error
    if failure is not None:
        raise failure
    return results
