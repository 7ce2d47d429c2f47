"""The bus as Unicorn sees it: plain memory in place, everything else access by access.

Pages are mapped when the core first touches them.  What `Mappable.direct` offers is shared
with Unicorn, so it runs at full speed; all other addresses call back for each access.

Unicorn cannot stop *behind* an access: a stop inside a callback leaves the instruction
undone, and it runs again later.  So an access that must have its effect at once (it pends an
exception, it resets the chip) is carried out, remembered, and answered from memory when its
instruction comes by again: see `Core.finish_instruction`.  An instruction with several
accesses to a device may repeat those before it, as LDM and STM may on silicon.  A look at a
status register has no effect: where nothing but time is the reason to stop, it is made anew
later, which costs the host less.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import unicorn as uc

from gdbserver.chip.memory import Span
from gdbserver.sim.bus import (
    BLOCK_BITS,
    Bus,
    BusError,
    BusStall,
    Device,
    Direct,
    Mappable,
    Master,
    PolledDevice,
    QuickToRead,
    QuickToWrite,
)
from gdbserver.sim.clock import Clock
from gdbserver.sim.core_time import CoreTime
from gdbserver.sim.polling import AccessKind, PollDetector
from gdbserver.sim.unicorn_calls import AccessCallbacks

log = logging.getLogger(__name__)

PAGE = 0x1000
LAST_PAGE = 0xFFFFF000
_READ_EXECUTE = uc.UC_PROT_READ | uc.UC_PROT_EXEC

# What every access needs, without a look into the enumerations.
_LOOK, _FEED, _WRITE, _ACT = AccessKind.LOOK, AccessKind.FEED, AccessKind.WRITE, AccessKind.ACT
_CORE = Master.CORE
_MASKS = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}


class AccessListener(Protocol):
    """What the core does about accesses that leave its plain memory."""

    def before_access(self, address: int) -> bool:
        """Time passes; False if the core may not make this access."""

    def after_access(self, address: int, *, waits: bool) -> bool:
        """Whether the core must stop behind this access; `waits`: time may be skipped."""

    def looks_again(self, address: int) -> bool:
        """Whether it stops before the instruction after all; for an access without effect."""

    def refused(self, error: BusError) -> bool:
        """The access failed; False if the instruction will not be finished."""

    def stalled(self, stall: BusStall) -> None:
        """The access has to wait; the instruction will be tried again."""

    def finish_instruction(self) -> None:
        """The access is done: run its instruction to the end, then stop."""


@dataclass(frozen=True, slots=True)
class _Access:
    write: bool
    address: int
    value: int


@dataclass(frozen=True, slots=True)
class _Slave:
    """The device behind a block of the address map, found once: accesses do not ask the bus."""

    start: int
    read: Callable[[int, int, Master], int]
    write: Callable[[int, int, int, Master], None]
    data_ports: frozenset[int] = frozenset()
    """Offsets whose reads must not be taken for waiting."""
    kinds: Mapping[int, AccessKind] = field(default_factory=dict)
    """What a write means there, by offset: of most it is `AccessKind.WRITE`."""
    direct: Callable[[int], Direct | None] | None = None
    """Of one that may become plain memory."""
    quick_read: Callable[[int, int], int | None] | None = None
    quick_write: Callable[[int, int, int], AccessKind | None] | None = None
    """Of one that has a short way."""


class CoreMemory:
    """Unicorn's memory map, kept in step with the bus."""

    def __init__(
        self,
        unicorn: Any,
        bus: Bus,
        listener: AccessListener,
        *,
        clock: Clock,
        time: CoreTime,
        polls: PollDetector,
    ) -> None:
        self._uc = unicorn
        self._bus = bus
        self._clock = clock
        self._time = time
        self._polls = polls
        self._listener = listener
        self._plain: dict[int, tuple[Span, Any, bytearray | memoryview]] = {}
        self._called: set[int] = set()
        self._programmed: set[int] = set()
        """Starts of devices that are plain for reading only, and that the core has written to."""
        self._slaves: dict[int, _Slave] = {}
        """By the number of a block that lies in one device."""
        self._known: dict[int, _Slave] = {}
        """By where they start: what a device can do is not asked again for each access."""
        self._callbacks = AccessCallbacks(unicorn, self._load, self._store)
        self._failure: BaseException | None = None
        self.running = False
        self._replay: _Access | None = None
        self._expected_bytes = Span(0, 0)
        self.deferred: list[Callable[[], None]] = []
        """The map or code changed under a running core: it has to stop and call `settle`."""
        bus.on_revoked.append(self._on_revoked)
        bus.on_changed.append(self._on_changed)
        unicorn.hook_add(uc.UC_HOOK_MEM_WRITE_PROT, self._on_protected_write)
        # Unicorn cannot map the last page when it is first touched, as by a push of a program
        # that was started on a blank chip with sp at 0xFFFFFFFC; before it runs, it can.
        self.map_page(LAST_PAGE, fetch=False)

    def settle(self) -> None:
        """Carry out what could not be done while Unicorn was running."""
        deferred, self.deferred = self.deferred, []
        for action in deferred:
            action()

    def run(self, start: int, until: int, count: int) -> None:
        self.running = True
        try:
            self._uc.emu_start(start, until, 0, count)
        finally:
            self.running = False
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure

    def is_plain(self, address: int) -> bool:
        """Whether an access here reaches memory without a call back; maps it if need be."""
        return address & ~(PAGE - 1) not in self._called and self.map_page(address, fetch=True)

    def fetch(self, address: int, length: int) -> bytes:
        """Up to `length` bytes of code; fewer, or none, where the memory is not plain."""
        for _ in range(2):
            for span, _, memory in self._plain.values():
                if address in span:
                    offset = address - span.start
                    return bytes(memory[offset : offset + length])
            if not self.map_page(address, fetch=True):
                break
        return b""

    def map_page(self, address: int, *, fetch: bool, store: bool = False) -> bool:
        """Make `address` accessible to Unicorn; False if it cannot be executed from.

        Data accesses to where nobody is are mapped as well: they call back and are refused.
        So is a page of flash that is about to be programmed: as plain memory it would have to be
        taken back at once.
        """
        if any(address in span for span, _, _ in self._plain.values()):
            return True
        page = address & ~(PAGE - 1)
        found = self._bus.find(address)
        if found is not None:
            span, device = found
            direct = None
            if isinstance(device, Mappable) and not (store and span.start in self._programmed):
                direct = device.direct(address - span.start)
            if direct is not None:
                self._map_plain(span.start + direct.offset, direct)
                return True
        if fetch:
            return False
        if page not in self._called:
            self._called.add(page)
            self._callbacks.map(page, PAGE)
        return True

    def forget_page(self, address: int) -> None:
        """The next access to this page asks the bus anew what is there."""
        page = address & ~(PAGE - 1)
        if page in self._called:
            self._uc.mem_unmap(page, PAGE)
            self._called.discard(page)

    def _map_plain(self, start: int, direct: Direct) -> None:
        length = len(direct.memory)
        self._forget_pages(Span.of(start, length))
        shared = (ctypes.c_char * length).from_buffer(direct.memory)
        self._uc.mem_map_ptr(start, length, uc.UC_PROT_ALL, ctypes.addressof(shared))
        if not direct.writable:
            # Mapped without the right to write from the start, Unicorn calls the hook for a
            # store and then stores all the same, into the device's own memory.
            self._uc.mem_protect(start, length, _READ_EXECUTE)
        self._plain[start] = (Span.of(start, length), shared, direct.memory)

    def _unmap(self, revoked: Span) -> None:
        for start, (span, _, _) in list(self._plain.items()):
            if span.start < revoked.end and revoked.start < span.end:
                self._uc.mem_unmap(start, len(span))
                del self._plain[start]
        self._forget_pages(revoked)

    def _forget_pages(self, span: Span) -> None:
        for page in [p for p in self._called if p < span.end and span.start < p + PAGE]:
            self.forget_page(page)

    def _forget_code(self, changed: Span) -> None:
        self._uc.ctl_remove_cache(changed.start, changed.end)

    def _on_revoked(self, span: Span) -> None:
        self._now_or_later(lambda: self._unmap(span))

    def _on_changed(self, span: Span) -> None:
        if any(span.start < p.end and p.start < span.end for p, _, _ in self._plain.values()):
            self._now_or_later(lambda: self._forget_code(span))

    def _now_or_later(self, action: Callable[[], None]) -> None:
        if self.running:
            self.deferred.append(action)
        else:
            action()

    def _fail(self, failure: BaseException) -> None:
        """Whatever else goes wrong in here is raised by `run`: Unicorn would swallow it."""
        self._failure = self._failure or failure
        self._uc.emu_stop()

    def shows(self, words: Mapping[int, int]) -> bool:
        """Whether words in devices still read so; False where only a read can tell."""
        for address, value in words.items():
            slave = self._slaves.get(address >> BLOCK_BITS)
            if slave is None or slave.quick_read is None:
                return False
            if slave.quick_read(address - slave.start, 4) != value:
                return False
        return True

    def forget_access(self) -> None:
        """The instruction whose access was remembered is over."""
        self._replay = None

    def _load(self, _engine: int, offset: int, size: int, page: int) -> int:
        """Carry out a load, no wider than the bus."""
        address = page + offset
        try:
            slave = self._slaves.get(address >> BLOCK_BITS) or self._find_slave(address)
            paid = False
            if slave.quick_read is not None and self._time.access_quietly():
                paid = True
                value = slave.quick_read(address - slave.start, size)
                if value is not None:
                    if self._polls.sees(address, value, _LOOK):
                        return self._answer(address, value, _LOOK, waits=True)
                    return value
            return self._load_any(address, size, slave, paid=paid)
        except BusError as error:
            error.complete(address)
            self._listener.refused(error)
        except BusStall as stall:
            self._listener.stalled(stall)
        except BaseException as failure:
            self._fail(failure)
        return 0

    def _load_any(self, address: int, size: int, slave: _Slave, *, paid: bool) -> int:
        """The usual way; `paid`: time has passed for it."""
        if not paid:
            if self._replay is not None:
                replay, self._replay = self._replay, None
                if not replay.write and replay.address == address:
                    return replay.value
            if not self._listener.before_access(address):
                raise BusError("read", address)
        at = address - slave.start
        if size <= 4:
            value = slave.read(at, size, _CORE)
        else:
            value = slave.read(at, 4, _CORE)
            value |= self._bus.read(address + 4, 4, _CORE) << 32
        if slave.direct is not None and slave.direct(at) is not None:
            # The slave that answered has become plain memory.
            self._now_or_later(lambda: self.forget_page(address))
        kind = _ACT if at in slave.data_ports else _LOOK
        return self._answer(address, value, kind, waits=self._polls.sees(address, value, kind))

    def _answer(self, address: int, value: int, kind: AccessKind, *, waits: bool) -> int:
        listener = self._listener
        stops = listener.after_access(address, waits=waits)
        if stops and (kind is _ACT or not listener.looks_again(address)):
            self._replay = _Access(False, address, value)
            listener.finish_instruction()
        return value

    def _store(self, _engine: int, offset: int, size: int, value: int, page: int) -> bool:
        """Carry out a store, no wider than the bus; whether its instruction goes on."""
        address = page + offset
        try:
            value &= _MASKS[size]
            slave = self._slaves.get(address >> BLOCK_BITS) or self._find_slave(address)
            paid = False
            if slave.quick_write is not None and self._time.access_quietly():
                paid = True
                kind = slave.quick_write(address - slave.start, size, value)
                if kind is _ACT:
                    if self._polls.remembers:
                        self._polls.forget()
                    return True
                if kind is not None:
                    self._polls.sees(address, value, kind)
                    return True
            return self._store_any(address, size, value, slave, paid=paid)
        except BusError as error:
            error.complete(address)
            return self._listener.refused(error)
        except BusStall as stall:
            self._listener.stalled(stall)
        except BaseException as failure:
            self._fail(failure)
        return False

    def _store_any(self, address: int, size: int, value: int, slave: _Slave, *, paid: bool) -> bool:
        """The usual way; `paid`: time has passed for it."""
        listener = self._listener
        if not paid:
            if self._replay is not None:
                replay, self._replay = self._replay, None
                if replay == _Access(True, address, value):
                    return True
            if not listener.before_access(address):
                raise BusError("write", address)
        at = address - slave.start
        if size <= 4:
            slave.write(at, size, value, _CORE)
        else:
            slave.write(at, 4, value & 0xFFFFFFFF, _CORE)
            self._bus.write(address + 4, 4, value >> 32, _CORE)
        waits = self._polls.sees(address, value, slave.kinds.get(at, _WRITE))
        if listener.after_access(address, waits=waits):
            self._replay = _Access(True, address, value)
            listener.finish_instruction()
        return True

    def _on_protected_write(
        self, _uc: Any, _access: int, address: int, size: int, value: int, _data: Any
    ) -> bool:
        """A store to memory that is plain for reading only, such as flash."""
        found = self._bus.find(address)
        if found is not None:
            self._programmed.add(found[0].start)
        if size == 1 and address in self._expected_bytes:
            return True
        if address % size and not (size == 8 and address % 4 == 0):
            return True  # Unicorn comes again, byte by byte
        self._expected_bytes = Span.of(address, 8) if address % size else Span(0, 0)
        return self._store(0, 0, size, value, address)

    def _find_slave(self, address: int) -> _Slave:
        """The device at `address`, or the bus itself, which refuses, where there is none."""
        found = self._bus.find(address)
        if found is None:
            return _Slave(0, self._bus.read, self._bus.write)
        span, device = found
        slave = self._known.get(span.start) or self._meet(span, device)
        block = Span.of(address >> BLOCK_BITS << BLOCK_BITS, 1 << BLOCK_BITS)
        if block in span:  # the device has it for itself
            self._slaves[address >> BLOCK_BITS] = slave
        return slave

    def _meet(self, span: Span, device: Device) -> _Slave:
        ports: frozenset[int] = frozenset()
        kinds: dict[int, AccessKind] = {}
        if isinstance(device, PolledDevice):
            ports = device.data_ports
            kinds = dict.fromkeys(ports, _ACT) | dict.fromkeys(device.idle_writes, _FEED)
        self._known[span.start] = slave = _Slave(
            span.start,
            device.read,
            device.write,
            ports,
            kinds,
            direct=device.direct if isinstance(device, Mappable) else None,
            quick_read=device.quick_read if isinstance(device, QuickToRead) else None,
            quick_write=device.quick_write if isinstance(device, QuickToWrite) else None,
        )
        return slave
