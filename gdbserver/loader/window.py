"""The NOR as memory, behind a loader that never maps it.

There is no routine in a CMSIS .FLM that reads.  Some leave the NOR memory-mapped after Init; many
do not, and read it by commands inside `Verify` and `BlankCheck`.  To send every byte there only to
have it compared would take the link as long as programming does.  A .stldr may have a `Read`; but
a debugger that looks at variables in the NOR wants memory.

So such a routine is called once, for the sake of what it leaves behind: the QUADSPI's communication
register (CCR) then says how this loader reads this NOR, with which instruction, on how many
lines, after how many dummy cycles.  The same command in memory-mapped mode makes the NOR memory,
for as long as no routine of the loader is called.

Open-CMSIS-Pack, "Flash Programming Algorithms"; RM0433, "Quad-SPI interface (QUADSPI)":
"Memory-mapped mode", "QUADSPI abort request".
"""

from __future__ import annotations

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.stm32h743 import QuadspiCcr, QuadspiCr, QuadspiSr
from gdbserver.errors import TargetError
from gdbserver.loader.file import LoaderFile
from gdbserver.target.link import Read
from gdbserver.target.target import Target

SHOWN_BYTES = 256
"""How many a routine is to look at: it stops at the first that is wrong, after it has begun."""

THREE_BYTES = 1 << 24
"""How many bytes three bytes of address reach."""
_ABORT_SECONDS = 0.1


class Window:
    """Where the NOR of one loader is mapped, if it is not the loader that maps it."""

    def __init__(self, target: Target, loader: LoaderFile, *, for_good: bool) -> None:
        """`for_good`: it is for a debugger, which has no other way to read."""
        self._target = target
        names: tuple[str, ...] = ("Read",) if for_good and not loader.finds_out else ()
        if loader.kind == "flm":
            names = ("Verify", "BlankCheck")
        shows = [name for name in names if name in loader.image.entries]
        self.routine = shows[0] if shows and loader.region.span in chip.QSPI_WINDOW else None
        """What to call when `needs_showing`; None where nothing is to be done, or can be.

        All of them take an address, a number of bytes, and a third."""
        self._command: int | None = None  # CCR that reads
        self._is_open = False

    def needs_showing(self) -> bool:
        """Whether the NOR is not mapped, and nobody has shown yet how it is read."""
        return self.routine is not None and self._command is None and not self._is_mapped()

    def learn(self) -> None:
        """The routine has just returned."""
        ccr = self._target.read_word(chip.QUADSPI_CCR)
        reads = ccr & QuadspiCcr.FMODE == QuadspiCcr.INDIRECT_READ
        if reads and ccr & QuadspiCcr.ADMODE and ccr & QuadspiCcr.DMODE:
            self._command = ccr

    def open(self) -> None:
        """Map the NOR, when it is known how, and it is not mapped anyway."""
        if self._command is None or self._is_mapped():
            return
        self._be_idle()
        self._target.write_word(chip.QUADSPI_CCR, self._command | QuadspiCcr.MEMORY_MAPPED)
        self._is_open = True

    def close(self) -> None:
        """Let the loader find the QUADSPI as it left it: idle."""
        if self._is_open:
            self._is_open = False
            self._be_idle()

    def _is_mapped(self) -> bool:
        if not self._target.read_word(chip.RCC_AHB3ENR) & chip.AHB3_QSPI:
            return False
        (control,), (ccr,) = self._target.run([Read(chip.QUADSPI_CR), Read(chip.QUADSPI_CCR)])
        return bool(control & QuadspiCr.EN) and ccr & QuadspiCcr.FMODE == QuadspiCcr.MEMORY_MAPPED

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


def falls_short(target: Target, offset: int) -> bool:
    """Whether `offset` of the NOR, which was read last or is mapped, has been out of reach.

    The QUADSPI drops the bits of an address that it has no bytes for (CCR.ADSIZE): what a loader
    reads there, and erases and programs, lies 16 MiB below, or a multiple of it.
    """
    (control,), (ccr,), (address,) = target.run(
        [Read(chip.QUADSPI_CR), Read(chip.QUADSPI_CCR), Read(chip.QUADSPI_AR)]
    )
    # Of two NORs each gets half the address.
    reach = (2 if control & QuadspiCr.DFM else 1) * THREE_BYTES
    four_bytes = ccr & QuadspiCcr.ADSIZE == QuadspiCcr.FOUR_ADDRESS_BYTES
    if not control & QuadspiCr.EN or not ccr & QuadspiCcr.ADMODE or four_bytes:
        return False
    mode = ccr & QuadspiCcr.FMODE
    indirect = mode == QuadspiCcr.INDIRECT_READ and address >= reach
    return offset >= reach and (indirect or mode == QuadspiCcr.MEMORY_MAPPED)
