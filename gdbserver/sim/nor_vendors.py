"""What differs between makers of serial NOR: registers, protection, dummy cycles, quad enable.

A `Vendor` belongs to one die and holds the state that has a vendor's name.  An instruction's
`action` is a method of the vendor or, for what all parts share, of `Nor`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from gdbserver.chip.memory import Span
from gdbserver.sim.nor_commands import Command, Operation, Request

if TYPE_CHECKING:
    from gdbserver.sim.nor import Nor

BUSY = 1 << 0
WEL = 1 << 1


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
    """W25Q..JV: three status registers, each with a volatile and a non-volatile copy.

    SRP, HOLD/RST and DRV are stored and do nothing: WP# and RESET# are pins that QE makes data
    lines, and these wires need no drive strength.
    """

    SEC, TB_SMALL = 1 << 6, 1 << 5  # up to 128 Mbit
    TB = 1 << 6  # 256 Mbit, with a BP3 and without SEC
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
        self.read_parameters = 0
        self.unlocked: set[int] = set()
        """Starts of the blocks and sectors that individual block locks leave open."""

    def power_up(self) -> None:
        self.status = list(self.stored)
        self.read_parameters = 0
        self.unlocked.clear()
        self.nor.four_byte = bool(self.large and self.status[2] & self.ADP)

    @property
    def quad_enabled(self) -> bool:
        return bool(self.status[1] & self.QE)

    def waits(self, command: Command) -> int:
        if self.nor.protocol == 4 and command.action == "read_array":
            return 2 * (self.read_parameters >> 4 & 0b11) + 2  # mode bits are the first two
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
        self.nor.write_enabled = False  # all that these parts let one see

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
        if self._srl_until_power_cycle:
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

    def enter_qpi(self, request: Request) -> bytes:
        return self.nor.enter_quad_protocol(request) if self.quad_enabled else b""

    def set_read_parameters(self, request: Request) -> bytes:
        """How many dummy cycles the reads of QPI have; only QPI has this instruction."""
        if request.write and self.nor.protocol == 4:
            self.read_parameters = request.write[0]
            self.nor.changed()
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


class Micron:
    """MT25Q: flag status, and configuration registers with a non-volatile twin.

    Stored and without effect: status register write disable (the pin W#), drive strength, the
    segment bit.  Non-volatile lock bits, passwords and the OTP area are not there.
    """

    TB = 1 << 5
    STATUS_WRITABLE = 0b11111100
    ERASE_SUSPENDED, ERASE_FAILED, PROGRAM_FAILED = 1 << 6, 1 << 5, 1 << 4
    PROGRAM_SUSPENDED, PROTECTION, FOUR_BYTE = 1 << 2, 1 << 1, 1 << 0
    XIP_OFF = 1 << 3  # in the volatile configuration register

    def __init__(self, nor: Nor) -> None:
        self.nor = nor
        self.status = 0
        self.nonvolatile = 0xFFFF
        self.flags = 0
        self.configuration = 0xFB
        self.enhanced = 0xFF
        self.locks: dict[int, int] = {}
        """Volatile lock bits by sector: bit 0 write lock, bit 1 lock down."""

    def power_up(self) -> None:
        """The volatile registers take what the non-volatile one says."""
        bits = self.nonvolatile
        xip = bits >> 9 & 0b111
        self.configuration = (bits >> 12 & 0xF) << 4 | 0b11 | (self.XIP_OFF if xip == 7 else 0)
        self.enhanced = (bits >> 2 & 0b11) << 6 | 0x3F
        self.flags = 0
        self.locks.clear()
        self.nor.four_byte = not bits & 1
        self._set_protocol()

    def power_cycled(self) -> None:
        pass

    @property
    def quad_enabled(self) -> bool:
        return True  # no QE bit: a quad instruction takes W# and HOLD# for its duration

    def waits(self, command: Command) -> int:
        """Dummy cycles of fast reads are set in VCR; 0 and 15 mean the instruction's own."""
        own = command.dummy
        if command.action != "read_array" or not own:
            return own
        chosen = self.configuration >> 4
        if chosen in {0, 15}:
            return own if self.nor.protocol != 4 else 8 if command.ddr else 10
        return chosen

    def continues(self, command: Command, mode: int) -> bool:
        """XIP: enabled in VCR, and confirmed by a 0 on IO0 in the first dummy cycle."""
        lines = self.nor.protocol if self.nor.protocol > 1 else command.lines[0]
        first = mode >> 8 - lines & 1
        return bool(command.dummy) and not self.configuration & self.XIP_OFF and not first

    def protected(self, span: Span) -> bool:
        if any(lock & 1 and len(span & Span.of(at, 0x10000)) for at, lock in self.locks.items()):
            return True
        bp = self.status >> 2 & 7 | self.status >> 3 & 8
        size = self.nor.part.size
        length = min(size, 0x10000 << bp - 1) if bp else 0
        kept = Span(0, length) if self.status & self.TB else Span(size - length, size)
        return bool(len(span & kept))

    def refused(self, what: Literal["program", "erase"]) -> None:
        """The flags tell, and the write enable latch stays set."""
        self.flags |= self.PROTECTION
        self.failed(what)

    def failed(self, what: Literal["program", "erase"]) -> None:
        self.flags |= self.PROGRAM_FAILED if what == "program" else self.ERASE_FAILED
        self.nor.write_enabled = True

    # --- Registers -----------------------------------------------------------------------------

    def read_status(self, request: Request) -> bytes:
        nor = self.nor
        value = self.status | (WEL if nor.write_enabled else 0) | (BUSY if nor.busy else 0)
        return bytes([value]) * request.read

    def read_flag_status(self, request: Request) -> bytes:
        value = self.flags | (self.FOUR_BYTE if self.nor.four_byte else 0)
        if not self.nor.busy:
            value |= 0x80
        held = self.nor.suspended_kind
        if held is not None:
            value |= self.PROGRAM_SUSPENDED if held == "program" else self.ERASE_SUSPENDED
        return bytes([value]) * request.read

    def clear_flag_status(self, request: Request) -> bytes:
        self.flags = 0
        return b""

    def _write(self, request: Request, length: int, finish: Callable[[], None], time: str) -> bytes:
        if len(request.write) == length and not self.nor.suspended:
            self.nor.start(Operation("registers", Span(0, 0), self.nor.time(time), finish))
        return b""

    def write_status(self, request: Request) -> bytes:
        def finish() -> None:
            self.status = request.write[0] & self.STATUS_WRITABLE

        return self._write(request, 1, finish, "status")

    def read_nonvolatile(self, request: Request) -> bytes:
        return repeat(self.nonvolatile.to_bytes(2, "little"), request.read)

    def write_nonvolatile(self, request: Request) -> bytes:
        def finish() -> None:
            self.nonvolatile = int.from_bytes(request.write, "little")

        return self._write(request, 2, finish, "nonvolatile")

    def read_volatile(self, request: Request) -> bytes:
        return bytes([self.configuration]) * request.read

    def write_volatile(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self.configuration = request.write[0] & 0xFB
            self.nor.wrap = (16, 32, 64, 0)[self.configuration & 0b11]
            self.nor.write_enabled = False
            self.nor.changed()
        return b""

    def read_enhanced(self, request: Request) -> bytes:
        return bytes([self.enhanced]) * request.read

    def write_enhanced(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self.enhanced = request.write[0]
            self.nor.write_enabled = False
            self._set_protocol()
        return b""

    def _set_protocol(self) -> None:
        """EVCR bits 7 and 6, low active: opcodes on four lines, or on two."""
        quad, dual = not self.enhanced & 0x80, not self.enhanced & 0x40
        self.nor.protocol = 4 if quad else 2 if dual else 1

    def write_extended_address(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self.nor.extended_address = request.write[0] & (self.nor.part.size - 1 >> 24)
            self.nor.write_enabled = False
        return b""

    def read_lock(self, request: Request) -> bytes:
        sector = self.nor.full_address(request) & ~0xFFFF
        return bytes([self.locks.get(sector, 0)]) * request.read

    def write_lock(self, request: Request) -> bytes:
        sector = self.nor.full_address(request) & ~0xFFFF
        if len(request.write) == 1 and not self.locks.get(sector, 0) & 2:
            self.locks[sector] = request.write[0] & 0b11
        self.nor.write_enabled = False
        return b""


class Issi:
    """IS25LP: QE in the one status register, read parameters, a bank address register.

    Stored and without effect: SRWD (the pin WP#), drive strength, the locks of the information
    row.  The row itself, AutoBoot, sector locks and reads on both clock edges are not there.
    """

    QE, STATUS_WRITABLE = 1 << 6, 0b11111100
    TBS = 1 << 1  # in the function register
    WRAP = 1 << 2  # in the read register
    PROTECTION, PROGRAM_FAILED, ERASE_FAILED = 1 << 1, 1 << 2, 1 << 3

    def __init__(self, nor: Nor) -> None:
        self.nor = nor
        self.stored_status = self.status = 0
        self.function = 0
        self.stored_read = self.read_parameters = 0
        self.extended_read = 0xF0
        self.errors = 0
        self.stored_bank = 0

    def power_up(self) -> None:
        self.status = self.stored_status
        self.read_parameters = self.stored_read
        self.errors = 0
        self._set_bank(self.stored_bank)
        self._set_wrap()

    def power_cycled(self) -> None:
        pass

    @property
    def quad_enabled(self) -> bool:
        return bool(self.status & self.QE)

    def waits(self, command: Command) -> int:
        """P6 to P3 choose the cycles of all fast reads, mode bits included; 0 their own."""
        own = command.dummy + (8 // command.lines[0] if command.mode else 0)
        if command.action != "read_array" or not own:
            return own
        chosen = self.read_parameters >> 3 & 0xF
        return chosen or (6 if self.nor.protocol == 4 else own)

    def continues(self, command: Command, mode: int) -> bool:
        return command.mode and mode >> 4 == 0xA

    def protected(self, span: Span) -> bool:
        bp, size = self.status >> 2 & 0xF, self.nor.part.size
        length = min(size, 0x10000 << bp - 1) if bp else 0
        kept = Span(0, length) if self.function & self.TBS else Span(size - length, size)
        return bool(len(span & kept))

    def refused(self, what: Literal["program", "erase"]) -> None:
        self.errors |= self.PROTECTION
        self.failed(what)

    def failed(self, what: Literal["program", "erase"]) -> None:
        self.errors |= self.PROGRAM_FAILED if what == "program" else self.ERASE_FAILED
        self.nor.write_enabled = False

    # --- Registers -----------------------------------------------------------------------------

    def read_status(self, request: Request) -> bytes:
        nor = self.nor
        value = self.status | (WEL if nor.write_enabled else 0) | (BUSY if nor.busy else 0)
        return bytes([value]) * request.read

    def write_status(self, request: Request) -> bytes:
        nor = self.nor
        if len(request.write) != 1 or nor.suspended:
            return b""
        value = request.write[0] & self.STATUS_WRITABLE
        if nor.write_enabled:

            def finish() -> None:
                self.status = self.stored_status = value

            nor.start(Operation("registers", Span(0, 0), nor.time("status"), finish))
        elif nor.volatile_write_enabled:
            nor.volatile_write_enabled = False
            self.status = value
        return b""

    def read_function(self, request: Request) -> bytes:
        suspended = {None: 0, "program": 1 << 2}.get(self.nor.suspended_kind, 1 << 3)
        return bytes([self.function | suspended]) * request.read

    def write_function(self, request: Request) -> bytes:
        """One-time programmable."""

        def finish() -> None:
            self.function |= request.write[0] & 0xF3

        if len(request.write) == 1:
            time = self.nor.time("status")
            self.nor.start(Operation("registers", Span(0, 0), time, finish))
        return b""

    def read_read_parameters(self, request: Request) -> bytes:
        return bytes([self.read_parameters]) * request.read

    def set_read_volatile(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self.read_parameters = request.write[0]
            self._set_wrap()
            self.nor.changed()
        return b""

    def set_read_nonvolatile(self, request: Request) -> bytes:
        def finish() -> None:
            self.read_parameters = self.stored_read = request.write[0]
            self._set_wrap()

        if len(request.write) == 1:
            time = self.nor.time("status")
            self.nor.start(Operation("registers", Span(0, 0), time, finish))
        return b""

    def _set_wrap(self) -> None:
        bits = self.read_parameters
        self.nor.wrap = 8 << (bits & 0b11) if bits & self.WRAP else 0

    def read_extended_parameters(self, request: Request) -> bytes:
        value = self.extended_read | self.errors | (1 if self.nor.busy else 0)
        return bytes([value]) * request.read

    def clear_errors(self, request: Request) -> bytes:
        self.errors = 0
        return b""

    def _set_bank(self, value: int) -> None:
        """Bit 7 chooses four address bytes; bit 0 is A24 for three."""
        self.nor.four_byte = bool(value & 0x80)
        self.nor.extended_address = value & 1

    def read_bank(self, request: Request) -> bytes:
        value = self.nor.extended_address | (0x80 if self.nor.four_byte else 0)
        return bytes([value]) * request.read

    def write_bank(self, request: Request) -> bytes:
        if len(request.write) == 1:
            self._set_bank(request.write[0])
        return b""

    def write_bank_nonvolatile(self, request: Request) -> bytes:
        def finish() -> None:
            self.stored_bank = request.write[0] & 0x81
            self._set_bank(self.stored_bank)

        if len(request.write) == 1:
            time = self.nor.time("status")
            self.nor.start(Operation("registers", Span(0, 0), time, finish))
        return b""
