"""The state of the machine as an ELF core file, which GDB opens like the core of a crashed process.

    arm-none-eabi-gdb app.elf -c board.core

It holds registers and every RAM, and those peripherals that can be read without changing them:
fault status, interrupts, clocks, power, flash and QUADSPI controllers.  Flash itself is left
out: GDB takes code and constants from the program's own ELF file.

GDB reads three notes: NT_PRSTATUS with r0-r15 and xpsr, NT_ARM_VFP with d0-d15 and fpscr, both in
Linux's layout, which GDB takes over for bare metal; and target.xml, which says that this is an M
profile.  Armv7-M's own registers (msp, psp, control ...) have no note that GDB knows; they are
in one of ours, as text.

Rule 1: one register set is one thread.  The first is the core's.  A second one is there when an
exception interrupted code that runs on the process stack, a task of an RTOS for example: what
was stacked.  Back through a handler on the main stack GDB finds its own way.

System V ABI, "Object Files"; GDB manual, "Target Descriptions"; Linux, struct elf_prstatus;
Armv7-M Architecture Reference Manual (DDI 0403E.e), "Exception return behavior".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import Span
from gdbserver.errors import BadRequest, MemoryFault
from gdbserver.target.registers import REGISTERS, RegisterInfo
from gdbserver.target.stop import SIGBUS, SIGTRAP, StopReason
from gdbserver.target.target import Target

RAMS = (
    *(chip.ITCM, chip.DTCM, chip.AXI_SRAM, chip.SRAM1, chip.SRAM2, chip.SRAM3, chip.SRAM4),
    chip.BACKUP_SRAM,
)
"""What a program may have written to."""

PERIPHERALS = (
    Span(0xE000E100, 0xE000E600),  # NVIC
    Span(0xE000ED00, 0xE000ED40),  # SCB: VTOR, CFSR, HFSR, MMFAR, BFAR
    Span(0xE000ED90, 0xE000EDB0),  # MPU
    Span(0xE000EF34, 0xE000EF40),  # FPCCR, FPCAR, FPDSCR
    Span.of(chip.DBGMCU, 4),
    Span.of(chip.PWR, 0x2C),
    Span.of(chip.RCC, 0x160),
    Span.of(chip.FLASH, 0x164),
    Span(chip.QUADSPI_CR, chip.QUADSPI_DR),  # a read of DR would take data from the FIFO
)
"""Registers that may be read at any time without a trace."""

_CHUNK = 0x4000
# Memory with ECC is refused by the flash word at most; what is not there at all, as a whole.
_SMALLEST_GAP = 32

_ET_CORE, _EM_ARM, _PT_LOAD, _PT_NOTE = 4, 40, 1, 4
_NT_PRSTATUS, _NT_ARM_VFP, _NT_GDB_TDESC = 1, 0x400, 0xFF000000
_NT_OURS = 0x53744D33  # a number that nobody else uses: readers look at it before the owner
_HEADER, _PROGRAM_HEADER = 52, 32
_READ_WRITE_EXECUTE = 7
_EABI5 = 0x05000000
_HOST_SIGNALS = {SIGBUS: 7}  # GDB reads a core's signals with the numbers of Linux

# EXC_RETURN in lr: what it returns to.
_IPSR, _EXC_RETURN = 0x1FF, 0xFFFFFF
_ON_PROCESS_STACK, _WITHOUT_FPU = 1 << 2, 1 << 4
_BASIC_FRAME, _FPU_FRAME = 0x20, 0x68
_ALIGNED = 1 << 9  # of the stacked xpsr: one more word lies below the frame


Describe = Callable[[Iterable[RegisterInfo]], bytes]
"""What describes registers in the words of GDB: target.xml."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that lie together."""

    span: Span
    data: bytes


def read_all(target: Target, spans: Iterable[Span]) -> Iterator[list[Piece]]:
    """What can be read of each span; yields after each read, so that others get their turn.

    RAM without a clock cannot be read, nor can a word whose ECC is wrong: left out.
    """
    for span in spans:
        at, gap = span.start, _SMALLEST_GAP // 2
        while at < span.end:
            length = min(_CHUNK, span.end - at)
            try:
                data = target.read_memory(at, length)
                skip = 0
            except MemoryFault as fault:
                data = fault.readable
                gap = _SMALLEST_GAP if data else 2 * gap
                skip = gap - (at + len(data)) % _SMALLEST_GAP
            yield [Piece(Span.of(at, len(data)), data)] if data else []
            at += len(data) + skip


def destination(name: str) -> Path:
    """Where a file that a client names will be: as from the server's folder."""
    return Path(name).expanduser().absolute()


@dataclass(slots=True)
class CoreDump:
    """The state of a machine: `read` it, and then `write` it."""

    also: Sequence[Span] = ()
    """Memory that is to be in it besides."""
    _pieces: list[Piece] = field(default_factory=list)
    _sets: list[Mapping[str, int]] = field(default_factory=list)
    _stop: StopReason | None = None

    def read(self, target: Target) -> Iterator[Span]:
        """Read all of it; yields what it has read, as it reads.

        The core is halted meanwhile, and goes on if it ran.
        """
        stop = target.poll_stop()  # None of a core at a breakpoint that does not stop it, too
        if running := stop is None:
            target.halt()
        try:
            self._stop = stop or target.poll_stop()
            self._sets = list(_register_sets(target))
            for read in read_all(target, [*RAMS, *PERIPHERALS, *self.also]):
                self._pieces += read
                yield from (piece.span for piece in read)
        finally:
            if running:
                target.resume()

    def write(self, path: Path, describe: Describe) -> None:
        """Write the core file; it is there in whole or not at all.

        Raises:
            BadRequest: it cannot be written.
        """
        part = path.with_name(path.name + ".part")
        whole = core_file(self._pieces, self._sets, self._stop, describe)
        try:
            if path.exists() and not path.is_file():  # a device is written to, not replaced
                path.write_bytes(whole)
                return
            part.write_bytes(whole)
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise BadRequest(f"cannot write {path.absolute()}: {error.strerror}") from error


def _register_sets(target: Target) -> Iterator[Mapping[str, int]]:
    """The core's registers, and those of what its exception handler has interrupted."""
    core = target.read_registers([register.name for register in REGISTERS])
    yield core
    exc_return = core["lr"]
    interrupted = core["xpsr"] & _IPSR and exc_return >> 8 == _EXC_RETURN
    if not interrupted or not exc_return & _ON_PROCESS_STACK:
        return
    psp = core["psp"]
    with suppress(MemoryFault):
        frame = struct.unpack("<8I", target.read_memory(psp, 32))
        xpsr = frame[7]
        size = _BASIC_FRAME if exc_return & _WITHOUT_FPU else _FPU_FRAME
        sp = psp + size + (4 if xpsr & _ALIGNED else 0)
        names = ("r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr")
        stacked = dict(zip(names, frame, strict=True))
        yield {**core, **stacked, "sp": sp, "xpsr": xpsr & ~_ALIGNED}


def core_file(
    pieces: Iterable[Piece],
    sets: Sequence[Mapping[str, int]],
    stop: StopReason | None,
    describe: Describe,
) -> bytes:
    """The ELF file.  Each register set is by the names of `REGISTERS`."""
    loads = _joined(pieces)
    signal = _HOST_SIGNALS.get(stop.signal, stop.signal) if stop else SIGTRAP
    description = describe(r for r in REGISTERS if r.group != "system")
    notes = b"".join(
        [
            *(
                _note(b"CORE", _NT_PRSTATUS, _prstatus(registers, signal, number))
                + _note(b"LINUX", _NT_ARM_VFP, _vfp(registers))
                for number, registers in enumerate(sets, 1)
            ),
            _note(b"GDB", _NT_GDB_TDESC, description + b"\0"),
            _note(b"stm32-gdbserver", _NT_OURS, _in_words(sets[0], stop)),
        ]
    )
    count = len(loads) + 1
    at = _HEADER + count * _PROGRAM_HEADER
    headers = [struct.pack("<8I", _PT_NOTE, at, 0, 0, len(notes), 0, 0, 4)]
    at += len(notes)
    for piece in loads:
        start, size = piece.span.start, len(piece.data)
        headers.append(
            struct.pack("<8I", _PT_LOAD, at, start, start, size, size, _READ_WRITE_EXECUTE, 4)
        )
        at += size
    identity = b"\x7fELF" + bytes((1, 1, 1)) + bytes(9)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH",
        *(identity, _ET_CORE, _EM_ARM, 1, 0, _HEADER, 0, _EABI5),
        *(_HEADER, _PROGRAM_HEADER, count, 0, 0, 0),
    )
    return b"".join((header, *headers, notes, *(piece.data for piece in loads)))


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces that touch become one; one segment each in the file."""
    joined: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.span):
        if joined and joined[-1].span.end == piece.span.start:
            before = joined.pop()
            span = Span(before.span.start, piece.span.end)
            joined.append(Piece(span, before.data + piece.data))
        else:
            joined.append(piece)
    return joined


def _note(owner: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    head = struct.pack("<III", len(owner) + 1, len(content), kind)
    return head + padded(owner + b"\0") + padded(content)


def _prstatus(registers: Mapping[str, int], signal: int, number: int) -> bytes:
    """Linux's struct elf_prstatus for ARM, 148 bytes: cursig at 12, pid at 24, registers at 72."""
    names = [*(f"r{n}" for n in range(13)), "sp", "lr", "pc", "xpsr"]
    values = [registers[name] for name in names]
    return struct.pack("<12xh10xI44x17I8x", signal, number, *values)


def _vfp(registers: Mapping[str, int]) -> bytes:
    """d0-d31 and fpscr; this core has sixteen of them."""
    doubles = struct.pack("<16Q", *(registers[f"d{n}"] for n in range(16)))
    return doubles + bytes(16 * 8) + struct.pack("<I", registers["fpscr"])


def _in_words(registers: Mapping[str, int], stop: StopReason | None) -> bytes:
    lines = [f"{register.name} = {registers[register.name]:#x}" for register in REGISTERS]
    return "\n".join([stop.detail if stop else "running", *lines]).encode()
