"""What differs between makers of serial NOR: registers, protection, dummy cycles, quad enable.

A `Vendor` belongs to one die and holds the state that has a vendor's name.  An instruction's
`action` is a method of the vendor or, for what all parts share, of `Nor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from gdbserver.chip.memory import Span

if TYPE_CHECKING:
    from gdbserver.sim.nor import Nor

BY_MODE = -1  # address bytes: three or four, as the address mode says

BUSY = 1 << 0
WEL = 1 << 1


class Data(Enum):
    """Where data goes after the instruction, seen from the die."""

    NONE = "none"
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Command:
    """One opcode: how it looks on the wires, and what it does."""

    opcode: int
    name: str
    action: str
    address: int = 0
    """Address bytes, or `BY_MODE`."""
    lines: tuple[int, int] = (1, 1)
    """Of address (with mode bits), and of data."""
    mode: bool = False
    """Eight mode bits follow the address."""
    dummy: int = 0
    """Clock cycles, after mode bits."""
    data: Data = Data.NONE
    size: int = 0
    """Bytes that are erased."""
    needs_write_enable: bool = False
    when_busy: bool = False
    """Accepted while an operation runs."""
    when_down: bool = False
    """Accepted in deep power-down."""
    wraps: bool = False
    """Obeys the burst wrap setting."""


@dataclass(slots=True)
class Request:
    """A frame, understood: an instruction of this die with its operands."""

    command: Command
    address: int = 0
    mode: int = 0xFF
    """The first eight bits after the address; undriven lines give ones."""
    write: bytes = b""
    read: int = 0
    exact: bool = True
    """Chip select rose where the instruction ends, on a byte boundary."""
    complete: bool = True
    """Opcode, address and dummy cycles were all clocked in."""


@dataclass(slots=True)
class Operation:
    """Something that keeps the die busy, and what it leaves behind."""

    kind: Literal["program", "erase", "chip erase", "registers", "security"]
    span: Span
    duration: int
    finish: Callable[[], None] = lambda: None
    image: bytes = b""
    done: int = 0
    """Nanoseconds of work done before the last suspension."""
    started: int = 0


class Vendor(Protocol):
    """The part of a die that has its maker's name on it."""

    @property
    def quad_enabled(self) -> bool:
        """IO2 and IO3 are data lines, not WP# and HOLD#."""

    def power_up(self) -> None:
        """Volatile registers take their power-up values."""

    def power_cycled(self) -> None:
        """Power went: what a soft reset leaves alone goes too."""

    def waits(self, command: Command) -> int:
        """Clocks between address and data, mode bits included."""

    def continues(self, command: Command, mode: int) -> bool:
        """Do these mode bits ask for a next read without an opcode?"""

    def protected(self, span: Span) -> bool:
        """Would a program or erase of this span be refused?"""

    def refused(self, what: Literal["program", "erase"]) -> None:
        """A program or erase hit protection."""

    def failed(self, what: Literal["program", "erase"]) -> None:
        """A cell did not take what it was given."""


def repeat(data: bytes, length: int) -> bytes:
    """A register that is read on and on."""
    return (data * (length // len(data) + 1))[:length]


class Winbond:
    """W25Q..JV: three status registers, each with a volatile and a non-volatile copy."""

    SRP, SEC, TB_SMALL = 1 << 7, 1 << 6, 1 << 5  # up to 128 Mbit; a 256 Mbit part has BP3 and
    TB = 1 << 6  # ... TB here, and neither SRP nor SEC
    SRL, QE, LB, CMP, SUS = 1 << 0, 1 << 1, 0b111 << 3, 1 << 6, 1 << 7
    ADS, ADP, WPS, DRV, HOLD_RST = 1 << 0, 1 << 1, 1 << 2, 0b11 << 5, 1 << 7

    def __init__(self, nor: Nor) -> None:
        self.nor = nor
        self.large = nor.part.size > 1 << 24
        self.stored = [0, self.QE if nor.part.quad_fixed else 0, self.DRV]
        self.status = list(self.stored)
        self._srl_until_power_cycle = False
        if self.large:
            writable1, writable3 = 0x7C, self.ADP | self.WPS | self.DRV
        else:
            writable1, writable3 = 0xFC, self.WPS | self.DRV | self.HOLD_RST
        writable2 = self.SRL | self.LB | self.CMP | (0 if nor.part.quad_fixed else self.QE)
        self.writable = (writable1, writable2, writable3)
        self.security = {number: bytearray(b"\xff" * 256) for number in (1, 2, 3)}
        self.unlocked: set[int] = set()
        """Starts of the blocks and sectors that individual block locks leave open."""

    def power_up(self) -> None:
        self.status = list(self.stored)
        self.unlocked.clear()
        self.nor.four_byte = bool(self.large and self.status[2] & self.ADP)

    @property
    def quad_enabled(self) -> bool:
        return bool(self.status[1] & self.QE)

    def waits(self, command: Command) -> int:
        if command.action == "read_unique_id" and self.nor.four_byte:
            return command.dummy + 8
        return command.dummy + (8 // command.lines[0] if command.mode else 0)

    def continues(self, command: Command, mode: int) -> bool:
        return command.mode and mode >> 4 & 0b11 == 0b10

    # --- Protection -----------------------------------------------------------------------

    def protected(self, span: Span) -> bool:
        if self.status[2] & self.WPS:
            return any(unit not in self.unlocked for unit in self.lock_units(span))
        kept = self.protected_span()
        if self.status[1] & self.CMP:
            return bool(len(span)) and span not in kept
        return bool(len(span & kept))

    def protected_span(self) -> Span:
        """What BP, TB and SEC select; CMP protects all the rest instead."""
        size, sr1 = self.nor.part.size, self.status[0]
        if self.large:
            bp, bottom = sr1 >> 2 & 0xF, sr1 & self.TB
            length = 0 if not bp else 0x10000 << bp - 1 if bp < 10 else size
        else:
            bp, bottom = sr1 >> 2 & 7, sr1 & self.TB_SMALL
            if bp in {0, 7}:
                length = size if bp else 0
            elif sr1 & self.SEC:
                length = 0x1000 << min(bp - 1, 3)
            else:
                length = size >> 7 - bp
        length = min(length, size)
        return Span(0, length) if bottom else Span(size - length, size)

    def lock_unit(self, address: int) -> int:
        """Individual locks are per 64 KiB block; per sector in the first and last block."""
        last = self.nor.part.size - 0x10000
        return address & ~0xFFF if address < 0x10000 or address >= last else address & ~0xFFFF

    def lock_units(self, span: Span) -> set[int]:
        return {self.lock_unit(address) for address in range(span.start, span.end, 0x1000)} | {
            self.lock_unit(span.start)
        }

    def refused(self, what: Literal["program", "erase"]) -> None:
        pass  # these parts do not tell

    def failed(self, what: Literal["program", "erase"]) -> None:
        pass

    def lock_block(self, request: Request) -> bytes:
        self.unlocked.discard(self.lock_unit(self.nor.full_address(request)))
        return b""

    def unlock_block(self, request: Request) -> bytes:
        self.unlocked.add(self.lock_unit(self.nor.full_address(request)))
        return b""

    def read_lock(self, request: Request) -> bytes:
        locked = self.lock_unit(self.nor.full_address(request)) not in self.unlocked
        return bytes([locked]) * request.read

    def lock_all(self, request: Request) -> bytes:
        self.unlocked.clear()
        return b""

    def unlock_all(self, request: Request) -> bytes:
        self.unlocked = self.lock_units(Span.of(0, self.nor.part.size))
        return b""

    # --- Registers ----------------------------------------------------------------------------

    def read_status1(self, request: Request) -> bytes:
        nor = self.nor
        value = self.status[0] | (WEL if nor.write_enabled else 0) | (BUSY if nor.busy else 0)
        return bytes([value]) * request.read

    def read_status2(self, request: Request) -> bytes:
        return bytes([self.status[1] | (self.SUS if self.nor.suspended else 0)]) * request.read

    def read_status3(self, request: Request) -> bytes:
        return bytes([self.status[2] | (self.ADS if self.nor.four_byte else 0)]) * request.read

    def write_status1(self, request: Request) -> bytes:
        """One byte writes SR1; two write SR1 and SR2."""
        if len(request.write) in {1, 2}:
            self._write_status(0, request.write)
        return b""

    def write_status2(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self._write_status(1, request.write)
        return b""

    def write_status3(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self._write_status(2, request.write)
        return b""

    def _write_status(self, first: int, values: bytes) -> None:
        nor = self.nor
        if nor.suspended or not (nor.write_enabled or nor.volatile_write_enabled):
            return
        if self._srl_until_power_cycle or (
            not self.large and self.status[0] & self.SRP and not self.quad_enabled
        ):
            # SRP gives the registers to the WP# pin, which a controller on one line holds low.
            nor.write_enabled = nor.volatile_write_enabled = False
            return
        new = list(self.status)
        for index, value in enumerate(values, first):
            mask = self.writable[index]
            new[index] = new[index] & ~mask | value & mask
        new[1] |= self.stored[1] & self.LB  # one-time programmable
        if nor.write_enabled:
            nor.start(
                Operation("registers", Span(0, 0), nor.time("status"), lambda: self._store(new))
            )
        else:
            new[1] = new[1] & ~self.LB | self.stored[1] & self.LB
            self.status = new
            nor.volatile_write_enabled = False
            self._srl_until_power_cycle |= bool(new[1] & self.SRL)

    def _store(self, values: list[int]) -> None:
        self.status = values
        self.stored = list(values)
        self._srl_until_power_cycle |= bool(values[1] & self.SRL)

    def power_cycled(self) -> None:
        """SRL locks the registers until the next power cycle, which clears it."""
        self._srl_until_power_cycle = False
        self.stored[1] &= ~self.SRL

    def write_extended_address(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self.nor.extended_address = request.write[0] & (self.nor.part.size - 1 >> 24)
            self.nor.write_enabled = False
        return b""

    def set_wrap(self, request: Request) -> bytes:
        """W4 = 1 ends wrapping; W6-5 choose 8, 16, 32 or 64 bytes."""
        if request.write:
            bits = request.write[0]
            self.nor.wrap = 0 if bits & 0x10 else 8 << (bits >> 5 & 0b11)
        return b""

    def read_device_id(self, request: Request) -> bytes:
        maker, device = self.nor.jedec_id[0], self.nor.part.device_id
        pair = bytes([device, maker] if request.address & 1 else [maker, device])
        return repeat(pair, request.read)

    # --- Security registers: 256 bytes at 0x1000, 0x2000 and 0x3000 ----------------------------

    def _security(self, request: Request) -> int | None:
        number = request.address >> 12
        return number if number in self.security and not request.address & 0xF00 else None

    def read_security(self, request: Request) -> bytes:
        number = self._security(request)
        if number is None:
            return b""
        start = request.address & 0xFF
        register = bytes(self.security[number])
        return repeat(register[start:] + register[:start], request.read)

    def _security_locked(self, number: int) -> bool:
        return bool(self.status[1] & 1 << 2 + number)

    def program_security(self, request: Request) -> bytes:
        number = self._security(request)
        if number is None or not request.write or self.nor.suspended:
            return b""
        if self._security_locked(number):
            self.nor.write_enabled = False
            return b""
        start, register = request.address & 0xFF, self.security[number]

        def finish() -> None:
            for index, byte in enumerate(request.write[-256:]):
                register[(start + index) % 256] &= byte

        self.nor.start(Operation("security", Span(0, 0), self.nor.time("program"), finish))
        return b""

    def erase_security(self, request: Request) -> bytes:
        number = self._security(request)
        if number is None or self.nor.suspended:
            return b""
        if self._security_locked(number):
            self.nor.write_enabled = False
            return b""
        register = self.security[number]

        def finish() -> None:
            register[:] = b"\xff" * 256

        self.nor.start(Operation("security", Span(0, 0), self.nor.time(0x1000), finish))
        return b""
