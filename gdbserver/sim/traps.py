"""Instructions that Unicorn does not execute as silicon does, found before they run.

Unicorn sleeps nowhere, has no event register, executes floating point whatever CPACR says,
divides by zero without a trap, and does not tell when an instruction unmasks exceptions.
The core therefore looks through each piece of code once, when Unicorn translates it, and
stops at these instructions.  Data taken for code does no harm: nobody executes it.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "Thumb instruction set encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from gdbserver.chip.memory import Span

_LONGEST_SCAN = 256  # bytes; a translated block ends at the next branch, mostly long before
_PAGE = 4096  # bytes of code that are remembered, and forgotten, together


class Trap(Enum):
    """What the core does itself at such an instruction."""

    WAIT_FOR_INTERRUPT = "wfi"
    WAIT_FOR_EVENT = "wfe"
    SEND_EVENT = "sev"
    FLOATING_POINT = "floating point"
    DIVIDE = "divide"
    UNMASK = "unmask"


_HINTS = {2: Trap.WAIT_FOR_EVENT, 3: Trap.WAIT_FOR_INTERRUPT, 4: Trap.SEND_EVENT}
_MASK_REGISTERS = {16, 17, 18, 19}  # SYSm of PRIMASK, BASEPRI, BASEPRI_MAX, FAULTMASK


def length_of(halfword: int) -> int:
    """The length in bytes of the instruction that begins with `halfword`."""
    return 4 if halfword >= 0xE800 else 2


def is_it(halfword: int) -> bool:
    return halfword & 0xFF00 == 0xBF00 and halfword & 0xF != 0


def classify(first: int, second: int) -> Trap | None:
    """The trap that an instruction is; `second` counts only for a 32-bit one."""
    if first & 0xFF0F == 0xBF00:
        return _HINTS.get(first >> 4 & 0xF)
    if first & 0xFFF0 == 0xB660:
        return Trap.UNMASK  # CPSIE
    if first < 0xE800:
        return None
    if first == 0xF3AF and second & 0xFF00 == 0x8000:
        return _HINTS.get(second & 0xFF)
    if first & 0xFFE0 == 0xF380 and second & 0xFF00 == 0x8800:
        return Trap.UNMASK if second & 0xFF in _MASK_REGISTERS else None  # MSR
    if first & 0xEC00 == 0xEC00 and second >> 8 & 0xF in (10, 11):
        return Trap.FLOATING_POINT
    if first & 0xFFD0 == 0xFB90 and second & 0xF0 == 0xF0:
        return Trap.DIVIDE
    return None


def is_coprocessor(first: int) -> bool:
    """Whether the instruction is for a coprocessor, of which only CP10 and CP11 exist."""
    return first & 0xEC00 == 0xEC00


def find_traps(code: bytes, address: int) -> Iterator[tuple[int, Trap]]:
    """The traps in straight code at `address`."""
    offset = 0
    while offset + 2 <= len(code):
        first = code[offset] | code[offset + 1] << 8
        second = int.from_bytes(code[offset + 2 : offset + 4], "little")
        trap = classify(first, second)
        if trap is not None:
            yield address + offset, trap
        offset += length_of(first)


class TrapMap:
    """The traps in all code that was looked through, for as long as it is there."""

    def __init__(self, fetch: Callable[[int, int], bytes]) -> None:
        self._fetch = fetch
        self._scanned: dict[int, set[int]] = {}  # by page
        self._traps: dict[int, Trap] = {}
        self.version = 0
        """Counts changes of what `where` says."""

    def scan(self, address: int) -> None:
        """Look through straight code at `address`, unless that has been done."""
        scanned = self._scanned.get(address // _PAGE)
        if scanned is None:
            scanned = self._scanned[address // _PAGE] = set()
        elif address in scanned:
            return
        code = self._fetch(address, _LONGEST_SCAN)
        if code:
            scanned.add(address)
            self.add(code[: _straight_length(code)], address)

    def add(self, code: bytes, address: int) -> bool:
        """Remember the traps in `code`; whether there was a new one."""
        found = dict(find_traps(code, address))
        if found.items() <= self._traps.items():
            return False
        self._traps.update(found)
        self.version += 1
        return True

    def get(self, address: int) -> Trap | None:
        """What was found there; a program may have been replaced since: see `is_there`."""
        return self._traps.get(address)

    def is_there(self, trap: Trap, address: int) -> bool:
        """Whether it still is; else it is forgotten."""
        if dict(find_traps(self._fetch(address, 4), address)).get(address) is trap:
            return True
        del self._traps[address]
        self.version += 1
        return False

    def where(self, matters: Callable[[Trap], bool]) -> set[int]:
        """Addresses of the traps that matter."""
        return {address for address, trap in self._traps.items() if matters(trap)}

    def changed(self, span: Span) -> None:
        """Memory has changed: what began before may reach into it."""
        if len(span) > _PAGE:
            self._scanned.clear()
            return
        first = span.start - _LONGEST_SCAN
        for page in range(first // _PAGE, span.end // _PAGE + 1):
            if scanned := self._scanned.get(page):
                scanned.difference_update([a for a in scanned if first < a < span.end])


def _straight_length(code: bytes) -> int:
    """How many bytes of `code` come before the first instruction that never falls through."""
    offset = 0
    while offset + 2 <= len(code):
        first = code[offset] | code[offset + 1] << 8
        offset += length_of(first)
        if first & 0xF800 == 0xE000 or first & 0xFF87 == 0x4700 or first & 0xFF00 == 0xBD00:
            return offset  # B, BX, POP {..., pc}
    return len(code)


def condition_passed(xpsr: int) -> bool:
    """Whether the instruction at hand executes, by the IT state and flags in `xpsr`."""
    state = it_state(xpsr)
    if not state & 0xF:
        return True
    n, z, c, v = (bool(xpsr >> bit & 1) for bit in (31, 30, 29, 28))
    condition = state >> 4
    holds = (z, c, n, v, c and not z, n == v, not z and n == v, True)[condition >> 1]
    return bool(holds) != bool(condition & 1 and condition != 15)


def it_state(xpsr: int) -> int:
    return (xpsr >> 25 & 3) | (xpsr >> 10 & 0x3F) << 2


def advance_it(xpsr: int) -> int:
    """`xpsr` after one instruction of an IT block: ITAdvance() of the manual."""
    state = it_state(xpsr)
    state = 0 if not state & 7 else state & 0xE0 | state << 1 & 0x1F
    return xpsr & ~0x0600FC00 | (state & 3) << 25 | (state >> 2) << 10
