"""How the host gets to see what a loader's device holds: as memory, or through the loader's `Read`.

A .stldr may have a `Read`, and where it has one mapped reads need not work, whatever the type of
its device says; but our own leaves the NOR mapped after every routine.  One without a `Read` has
the NOR mapped by Init, and it may have to be called again for that.  Others have it mapped by
`Read`, which copies from there; then it is read as memory.  Some of those can do nothing
afterwards without another Init, because their HAL refuses commands while it believes in a
mapping: ST's tools upload a loader and call Init before whatever they do.  There is no routine in
a CMSIS .FLM that reads.  Some leave the NOR memory-mapped after Init; many do not, and read it by
commands inside `Verify` and `BlankCheck`.  To send every byte there only to have it compared
would take the link as long as programming does.  And a debugger that looks at variables in the
NOR wants memory, behind a .stldr as well.

So such a routine is called once, for the sake of what it leaves behind: the QUADSPI's communication
register (CCR) then says how this loader reads this NOR, with which instruction, on how many
lines, after how many dummy cycles.  The same command in memory-mapped mode makes the NOR memory,
for as long as no routine of the loader is called.

UM2237, "Loader creation"; Open-CMSIS-Pack, "Flash Programming Algorithms"; RM0433, "Quad-SPI
interface (QUADSPI)": "Memory-mapped mode", "QUADSPI abort request"; ES0392.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import QuadspiCcr, QuadspiCr, QuadspiSr
from gdbserver.errors import TargetError
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.dialect import INIT_SECONDS, read_seconds
from gdbserver.loader.file import LoaderFile
from gdbserver.target.access import Read, Write
from gdbserver.target.busy import Busy
from gdbserver.target.target import Target

THREE_BYTES = 1 << 24
"""How many bytes three bytes of address reach."""

_SHOWN_BYTES = 256  # to look at: a routine stops at the first that is wrong, after it has begun
_ABORT_SECONDS = 0.1


class Readout:
    """Reading the device of a loader that is in a call queue, between its other routines."""

    def __init__(
        self,
        target: Target,
        loader: LoaderFile,
        queue: CallQueue,
        buffer: Callable[[], AbstractContextManager[Span]],
        *,
        for_good: bool = False,
    ) -> None:
        """`buffer` lends RAM that a routine may fill.

        `for_good`: it is for a debugger, which has no other way to read than as memory.
        """
        self._target = target
        self._region = loader.region
        self._queue = queue
        self._buffer = buffer
        self._in_window = loader.region.span in chip.QSPI_WINDOW
        self._reaches_all = loader.finds_out or not self._in_window
        routines = loader.image.entries
        self._by_routine = loader.kind == "stldr" and "Read" in routines and not loader.finds_out
        self._asks_read = self._by_routine and self._in_window and not for_good
        self._mapped_by_read = False
        # All of them take an address, a number of bytes, and a third.
        shows: tuple[str, ...] = ("Read",) if for_good and not loader.finds_out else ()
        if loader.kind == "flm":
            shows = ("Verify", "BlankCheck")
        self._shows = next((name for name in shows if name in routines and self._in_window), None)
        self._initialised_to_read = (
            loader.kind == "stldr"
            and self._in_window
            and not loader.finds_out
            and "Read" not in routines
        )
        self._was_mapped = False
        self._command: int | None = None  # CCR that reads
        self._is_open = False

    @property
    def mapped(self) -> bool:
        """Whether the device is read as memory, which may take an `open`."""
        return not self._by_routine or self._mapped_by_read

    # --- As memory ----------------------------------------------------------------------------

    def open(self) -> Generator[Busy, None, None]:
        """Have the NOR mapped, where the loader does not do it, and it is known how."""
        yield from self._map()
        if not self._reaches_all and self._is_mapped():
            self._show_last_byte()

    def _map(self) -> Generator[Busy, None, None]:
        if self._asks_read:
            yield from self._map_by_read()
        if self._initialised_to_read:
            yield from self._map_by_init()
        if self._shows is None or self._is_mapped():
            return
        if self._command is None:
            self._command = yield from self._learn(self._shows)
            if self._command is None or self._is_mapped():
                return
        self._be_idle()
        self._target.write_word(chip.QUADSPI_CCR, self._command | QuadspiCcr.MEMORY_MAPPED)
        self._is_open = True

    def _map_by_init(self) -> Generator[Busy, None, None]:
        """Some map the NOR in Init, have no `Read`, and in Write or SectorErase unmap it.

        ST's tools call Init before whatever they do; here it is called once, and again for that.
        """
        mapped = self._is_mapped()
        if self._was_mapped and not mapped:
            yield from self._queue.call("Init", timeout=INIT_SECONDS)
        self._was_mapped |= mapped

    def _map_by_read(self) -> Generator[Busy, None, None]:
        """Whether the NOR is memory after a `Read`, and holds what that has read."""
        with self._buffer() as buffer:
            first = Span.of(self._region.span.start, min(_SHOWN_BYTES, len(buffer)))
            yield from self.fetch(first, buffer)
            self._asks_read = self._mapped_by_read = self._is_mapped() and (
                self._target.read_memory(first.start, len(first))
                == self._target.read_memory(buffer.start, len(first))
            )

    def _show_last_byte(self) -> None:
        """Have the window reach beyond the NOR, where it ends with it.

        ES0392, "Memory-mapped read of last memory byte fails": of what DCR.FSIZE says it reads 0,
        and read again it stalls the bus for good.
        """
        device, ccr = self._target.read_spread(
            chip.QUADSPI_DCR, [0, chip.QUADSPI_CCR - chip.QUADSPI_DCR]
        )
        end = chip.QSPI_WINDOW.start + (2 << (device >> chip.QUADSPI_DCR_FSIZE_SHIFT & 0x1F))
        if end > self._region.span.end or end >= chip.QSPI_WINDOW.end:
            return
        if ccr & QuadspiCcr.SIOO:
            return  # it would be sent an instruction, and the NOR expects none any more
        self._be_idle()
        one_more = 1 << chip.QUADSPI_DCR_FSIZE_SHIFT
        self._target.run(
            [Write(chip.QUADSPI_DCR, [device + one_more]), Write(chip.QUADSPI_CCR, [ccr])]
        )

    def close(self) -> None:
        """Let the loader find the QUADSPI as it left it: idle."""
        if self._is_open:
            self._is_open = False
            self._be_idle()

    def make_way(self) -> Generator[Busy, None, None]:
        """The same, for a routine that changes what the device holds."""
        self.close()
        if self._mapped_by_read:
            self._mapped_by_read = False
            self._queue.renew_image()
            yield from self._queue.call("Init", timeout=INIT_SECONDS)

    def _learn(self, routine: str) -> Generator[Busy, None, int | None]:
        """What is in CCR after it has read; None when it has not, or not by one command."""
        with self._buffer() as buffer:
            yield from self._queue.call(
                *(routine, self._region.span.start, min(_SHOWN_BYTES, len(buffer)), buffer.start),
                timeout=read_seconds(_SHOWN_BYTES),
                checked=False,
            )
        ccr = self._target.read_word(chip.QUADSPI_CCR)
        reads = ccr & QuadspiCcr.FMODE == QuadspiCcr.INDIRECT_READ
        return ccr if reads and ccr & QuadspiCcr.ADMODE and ccr & QuadspiCcr.DMODE else None

    def _is_mapped(self) -> bool:
        if not self._target.read_word(chip.RCC_AHB3ENR) & chip.AHB3_QSPI:
            return False
        (control,), (ccr,) = self._target.run([Read(chip.QUADSPI_CR), Read(chip.QUADSPI_CCR)])
        return bool(control & QuadspiCr.EN) and ccr & QuadspiCcr.FMODE == QuadspiCcr.MEMORY_MAPPED

    def _reads_on(self) -> bool:
        (ccr,), (status,) = self._target.run([Read(chip.QUADSPI_CCR), Read(chip.QUADSPI_SR)])
        reads = ccr & QuadspiCcr.FMODE == QuadspiCcr.INDIRECT_READ
        return reads and bool(status & QuadspiSr.BUSY)

    def _be_idle(self) -> None:
        control = self._target.read_word(chip.QUADSPI_CR)
        if not control & QuadspiCr.EN:
            return  # somebody has reset it
        self._target.write_word(chip.QUADSPI_CR, control | QuadspiCr.ABORT)
        deadline = self._target.deadline(_ABORT_SECONDS)
        while self._target.read_word(chip.QUADSPI_SR) & QuadspiSr.BUSY:
            if deadline.expired():
                raise TargetError("the QUADSPI does not end what it is doing")
        # An abort counts as a transfer that is complete, which the loader's next one is not yet.
        self._target.write_word(chip.QUADSPI_FCR, chip.QUADSPI_CLEARED)

    # --- Either way ---------------------------------------------------------------------------

    def read(self, span: Span) -> Generator[Busy, None, bytes]:
        """What is there."""
        if self.mapped:
            return self._target.read_memory(span.start, len(span))
        data = bytearray()
        with self._buffer() as buffer:
            for start in range(span.start, span.end, len(buffer)):
                part = Span(start, min(start + len(buffer), span.end))
                yield from self.fetch(part, buffer)
                data += self._target.read_memory(buffer.start, len(part))
        return bytes(data)

    def fetch(self, span: Span, buffer: Span) -> Generator[Busy, None, None]:
        """What is not mapped, into RAM.

        Some read in pages and then the rest, be it of no bytes at all.  DLR is one less than a
        length: that reads to the end of the flash, and the next command waits for it.
        """
        yield from self._queue.call(
            *("Read", span.start, len(span), buffer.start), timeout=read_seconds(len(span))
        )
        if self._in_window and self._reads_on():
            self._be_idle()

    def falls_short(self, address: int) -> Generator[Busy, None, bool]:
        """Whether the loader's addresses are too short for what is there.

        The QUADSPI drops the bits of an address that it has no bytes for (CCR.ADSIZE): what a
        loader reads there, and erases and programs, lies 16 MiB below, or a multiple of it.
        """
        offset = address - self._region.span.start
        if self._reaches_all or offset < THREE_BYTES:
            return False
        if not self.mapped:
            with self._buffer() as buffer:
                yield from self.fetch(Span.of(address, self._region.page_size), buffer)
        (control,), (ccr,), (sent,) = self._target.run(
            [Read(chip.QUADSPI_CR), Read(chip.QUADSPI_CCR), Read(chip.QUADSPI_AR)]
        )
        # Of two NORs each gets half the address.
        reach = (2 if control & QuadspiCr.DFM else 1) * THREE_BYTES
        four_bytes = ccr & QuadspiCcr.ADSIZE == QuadspiCcr.FOUR_ADDRESS_BYTES
        if not control & QuadspiCr.EN or not ccr & QuadspiCcr.ADMODE or four_bytes:
            return False
        mode = ccr & QuadspiCcr.FMODE
        indirect = mode == QuadspiCcr.INDIRECT_READ and sent >= reach
        return offset >= reach and (indirect or mode == QuadspiCcr.MEMORY_MAPPED)
