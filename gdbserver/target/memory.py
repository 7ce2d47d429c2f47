"""Memory through the debugger's eyes: any address, any length, and coherent with the core.

Ordinary memory is read and written in words wherever that is possible; reading a little more
than was asked for does no harm there.  Registers are touched exactly as asked, in their
natural size: a read may have effects, and a byte is not a word.

The core's caches lie between.  Accesses with HPROT[3] look into the D-cache, so data agree.
Instructions do not: the I-cache never sees the debugger's writes.  So what was written is kept
in mind until the core goes on (`sync_caches`).  DDI 0489 (Cortex-M7), "AHBD" and "Memory
System"; Armv7-M ARM (DDI 0403E.e), "Cache maintenance operations".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gdbserver.chip.cortex_m import CCR, DCCISW, DCCMVAU, DCCSW, ICIALLU, Ccr
from gdbserver.chip.memory import Span, merge
from gdbserver.chip.stm32h743 import (
    BANK1,
    BANK2,
    DTCM,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_CCR,
    FLASH_SR,
    FLASH_WORD,
    ITCM,
    KIB,
    PERIPHERALS,
    PPB,
    QSPI_WINDOW,
    QUADSPI_CCR,
    QUADSPI_CR,
    QUADSPI_DCR,
    QUADSPI_DCR_FSIZE_SHIFT,
    FlashSr,
    QuadspiCcr,
    QuadspiCr,
)
from gdbserver.errors import AccessRefused, AccessStalled, MemoryFault
from gdbserver.target.access import Access, Read, Write, bytes_of, words_of
from gdbserver.target.link import Deadline
from gdbserver.target.port import Port

log = logging.getLogger(__name__)

CHUNK: Final = 0x10000
"""Bytes per list of accesses: long enough to keep a probe's queue full."""

STALL_TIMEOUT: Final = 5.0
"""Seconds that a bus may be busy with something else: erasing a sector takes up to 4."""

PAGE: Final = 256
"""Of external flash: what is mapped of it is mapped up to a power of two, which is more.

RM0433, "QUADSPI memory-mapped mode" and "QUADSPI device configuration register"."""

CACHE_LINE: Final = 32
_FIFO: Final = 32  # bytes that the QUADSPI reads ahead
_SMALLEST_NOR: Final = 64 * KIB
_WAYS, _SETS, _WAY_SHIFT, _SET_SHIFT = 4, 128, 30, 5
"""The H743's D-cache of 16 KiB, as DCCSW counts it."""

_VOLATILE: Final = (PERIPHERALS, PPB)
_BORDERS: Final = sorted(border for span in _VOLATILE for border in (span.start, span.end))
_TIGHTLY_COUPLED: Final = (ITCM, DTCM)  # never cached


def is_volatile(address: int) -> bool:
    """Whether registers are there, of which a read may have effects."""
    return address in PERIPHERALS or address in PPB


class Memory:
    """What AP0 reaches."""

    def __init__(self, port: Port, deadline: Callable[[float], Deadline]) -> None:
        self._port = port
        self.has_memory_commands = port.has_memory_commands
        self._deadline = deadline
        self._written: list[Span] = []

    # --- Bytes ------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Raises: MemoryFault, with what is readable before the word that was refused."""
        data = b""
        for piece in _pieces(Span.of(address, length)):
            shown = Span(piece.start, self._last_shown(piece))
            try:
                data += self._read_patiently(shown) if len(shown) else b""
            except AccessRefused as refused:
                data += self._readable(shown)
                bad = address + len(data)
                fault = MemoryFault("read", Span(bad, max(bad + 1, address + length)), data)
                fault.hint = self._flash_trouble(bad) or fault.hint
                raise fault from refused
            if shown != piece:
                raise _unshown(Span(shown.end, address + length), data)
        return data

    def write(self, address: int, data: bytes) -> None:
        """Raises: MemoryFault."""
        for piece in _pieces(Span.of(address, len(data))):
            part = data[piece.start - address : piece.end - address]
            try:
                self._port.run(_write_accesses(piece.start, part), cacheable=_cacheable(piece))
            except AccessRefused as refused:
                raise MemoryFault("write", piece) from refused
            self._note(piece)

    def _read_patiently(self, span: Span) -> bytes:
        """Wait for a bus that is busy: with another debugger's flash operation, for instance."""
        deadline = self._deadline(STALL_TIMEOUT)
        while True:
            try:
                return self._read(span)
            except AccessStalled:
                if deadline.expired():
                    raise

    def _read(self, span: Span) -> bytes:
        if not _cacheable(span):
            accesses = list(_exactly(span))
            found = self._port.run(accesses)
            return b"".join(
                b"".join(value.to_bytes(access.size, "little") for value in values)
                for access, values in zip(accesses, found, strict=True)
            )
        start, end = span.start & ~3, span.end + 3 & ~3
        (words,) = self._port.run([Read(start, (end - start) // 4)], cacheable=True)
        data = bytes_of(words)
        return data[span.start - start : span.end - start]

    def _last_shown(self, span: Span) -> int:
        """Where to stop reading: before the end of what the QUADSPI maps, or at the end of `span`.

        ES0392, "Memory-mapped read of last memory byte fails": it reads 0, and read again it stalls
        the bus for good.  It is read ahead of time, too, when others in the FIFO's 32 bytes are.
        """
        if span not in QSPI_WINDOW:
            return span.end
        start, end = span.start - QSPI_WINDOW.start, span.end - QSPI_WINDOW.start
        size = 1 << (end + _FIFO - 1).bit_length() - 1  # the only one that `span` could end with
        if size < _SMALLEST_NOR or size >= len(QSPI_WINDOW) or start >= size:
            return span.end
        try:
            control, device, how = self._port.read_spread(
                QUADSPI_CR, [0, QUADSPI_DCR - QUADSPI_CR, QUADSPI_CCR - QUADSPI_CR]
            )
        except AccessRefused as error:
            log.debug("%s", error)
            return span.end
        mapped = control & QuadspiCr.EN and how & QuadspiCcr.FMODE == QuadspiCcr.MEMORY_MAPPED
        if not mapped or 2 << (device >> QUADSPI_DCR_FSIZE_SHIFT & 0x1F) != size:
            return span.end
        return max(span.start, QSPI_WINDOW.start + size - _FIFO)

    def _readable(self, span: Span) -> bytes:
        """What can be read at the start of a span that cannot be read as a whole."""
        data = b""
        start, end = span.start, span.end
        while end - start > 4 or start // 4 != (end - 1) // 4:
            middle = max((start + (end - start) // 2) & ~3, (start & ~3) + 4)
            try:
                data += self._read(Span(start, middle))
                start = middle
            except AccessRefused:
                end = middle
        return data

    # --- Words --------------------------------------------------------------------------------

    def read_words(self, address: int, count: int) -> list[int]:
        """Raises: MemoryFault."""
        try:
            return list(
                self._port.run([Read(address, count)], cacheable=not is_volatile(address))[0]
            )
        except AccessRefused as refused:
            raise MemoryFault("read", Span.of(address, 4 * count)) from refused

    def try_words(self, address: int, count: int, asked: Span) -> list[int] | None:
        """Words around those that were `asked` for; None where some cannot be read, or not now.

        Raises:
            MemoryFault: none of them can, so there is no need to try those that were asked for.
        """
        span = Span.of(address, 4 * count)
        if self._last_shown(span) < span.end:
            return None
        try:
            return list(self._port.run([Read(address, count)], cacheable=True)[0])
        except AccessRefused as refused:
            if address in QSPI_WINDOW and address // PAGE == (address + 4 * count - 1) // PAGE:
                raise MemoryFault("read", asked) from refused
            self._flash_trouble(address)  # no flag of the controller's stays behind
        except AccessStalled:
            log.debug("%#010x: whatever is there is busy", address)
        return None

    def write_words(self, address: int, values: Sequence[int]) -> None:
        """Raises: MemoryFault."""
        span = Span.of(address, 4 * len(values))
        try:
            self._port.run([Write(address, values)], cacheable=not is_volatile(address))
        except AccessRefused as refused:
            raise MemoryFault("write", span) from refused
        self._note(span)

    # --- Caches ---------------------------------------------------------------------------------

    def _note(self, span: Span) -> None:
        if _cacheable(span) and not any(span in known for known in self._written):
            self._written = merge([*self._written, span])

    def sync_caches(self) -> None:
        """Let the core fetch what was written since the last time.  Call it before it runs."""
        if not self._written:
            return
        written, self._written = self._written, []
        (ccr,) = self._port.read(CCR)
        accesses: list[Access] = []
        if ccr & Ccr.DC:
            lines = [line for span in written for line in _cache_lines(span)]
            if len(lines) < _WAYS * _SETS:
                accesses += [Write(DCCMVAU, [line]) for line in lines]
            else:
                accesses += _whole_cache(DCCSW)
        if ccr & Ccr.IC:
            accesses.append(Write(ICIALLU, [0]))
        if accesses:
            self._port.run(accesses)

    def forget_caches(self) -> None:
        """Memory changed behind the caches, by programming flash: drop what they hold."""
        (ccr,) = self._port.read(CCR)
        accesses: list[Access] = []
        if ccr & Ccr.DC:
            accesses += _whole_cache(DCCISW)
        if ccr & Ccr.IC:
            accesses.append(Write(ICIALLU, [0]))
        if accesses:
            self._port.run(accesses)

    # --- Flash that cannot be read ----------------------------------------------------------

    def _flash_trouble(self, address: int) -> str | None:
        """Why flash refused a read at `address`, where the controller knows.

        Its register for where (ECC_FA) keeps the first error, which may be another, of a bit that
        was corrected when the program read it.
        """
        if address not in BANK1 and address not in BANK2:
            return None
        base = FLASH + (FLASH_BANK2_OFFSET if address in BANK2 else 0)
        try:
            (sr,) = self._port.read(base + FLASH_SR)
        except (AccessRefused, AccessStalled) as error:
            log.debug("%s", error)
            return "the flash controller cannot be read either: is the chip held in reset?"
        seen = sr & (FlashSr.DBECCERR | FlashSr.RDPERR | FlashSr.RDSERR)
        if not seen:
            return None
        self._port.write(base + FLASH_CCR, seen)
        if seen & FlashSr.DBECCERR:
            word = Span.of(address & -FLASH_WORD, FLASH_WORD)
            return (
                f"ECC cannot correct the flash word at {word}: it was programmed twice, or a"
                " reset cut its programming short; erasing its sector repairs it"
            )
        return "this part of flash is protected against being read (PCROP or secure area)"


def _unshown(span: Span, readable: bytes) -> MemoryFault:
    fault = MemoryFault("read", span, readable)
    fault.hint = (
        "the QUADSPI's window ends there, and reading its last byte would stall the bus for good "
        "(ES0392): the program should set QUADSPI_DCR.FSIZE to one more"
    )
    return fault


def _cacheable(span: Span) -> bool:
    return not is_volatile(span.start)


def _pieces(span: Span) -> Iterator[Span]:
    """Cut where registers begin or end, and into pieces of `CHUNK`."""
    start = span.start
    while start < span.end:
        border = next((b for b in _BORDERS if b > start), span.end)
        end = min(span.end, border, start + CHUNK)
        yield Span(start, end)
        start = end


def _exactly(span: Span) -> Iterator[Read]:
    """Reads of exactly `span`, each as wide as alignment lets it be, words in blocks."""
    address = span.start
    while address < span.end:
        left = span.end - address
        if address & 1 or left < 2:
            size = 1
        elif address & 2 or left < 4:
            size = 2
        else:
            size = 4
        count = left // 4 if size == 4 else 1
        yield Read(address, count, size)
        address += count * size


def _write_accesses(address: int, data: bytes) -> list[Access]:
    if not (address | len(data)) & 3:
        return [Write(address, words_of(data))]
    accesses: list[Access] = []
    for read in _exactly(Span.of(address, len(data))):
        part = data[read.address - address :][: read.count * read.size]
        if read.size == 4:
            accesses.append(Write(read.address, words_of(part)))
        else:
            accesses.append(Write(read.address, [int.from_bytes(part, "little")], read.size))
    return accesses


def _cache_lines(span: Span) -> range | tuple[()]:
    if any(span in tcm for tcm in _TIGHTLY_COUPLED):
        return ()
    return range(span.start & -CACHE_LINE, span.end, CACHE_LINE)


def _whole_cache(operation: int) -> list[Access]:
    """One write of `operation` per line that the D-cache has."""
    return [
        Write(operation, [way << _WAY_SHIFT | index << _SET_SHIFT])
        for way in range(_WAYS)
        for index in range(_SETS)
    ]
