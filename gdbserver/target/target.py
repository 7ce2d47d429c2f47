"""The machine being debugged: one chip behind one probe.

`Target` puts the parts together: the wire (`link`), memory, breakpoints and the core.  It
recognises the chip, and sees to it that debugging works in low power and in reset.

Everything here blocks, and nothing here is thread-safe: the server's worker runs one call at
a time.  RM0433, "Microcontroller debug unit (DBGMCU)", "FLASH option bytes".
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Self

from gdbserver.chip.cortex_m import DEMCR, DHCSR, DWT_CTRL, FP_CTRL, Demcr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    APB3FZ1_WWDG1,
    APB4FZ1_IWDG1,
    BANK1,
    BANK2,
    DBGMCU,
    DBGMCU_APB3FZ1_OFFSET,
    DBGMCU_APB4FZ1_OFFSET,
    DBGMCU_APB_D,
    DBGMCU_CR_OFFSET,
    DEVICE_ID,
    FLASH,
    FLASH_BANK2_OFFSET,
    FLASH_OPTSR_CUR,
    FLASH_SIZE,
    FLASH_WPSN_CUR,
    OPTSR_RDP_SHIFT,
    OPTSR_SWAP_BANK,
    PPB,
    REVISIONS,
    SECTOR,
    DbgmcuCr,
)
from gdbserver.errors import (
    AccessRefused,
    AccessStalled,
    ChipLocked,
    GdbServerError,
    MemoryFault,
    ProbeError,
    StreamStalled,
    TargetError,
)
from gdbserver.target.access import Access, Read, Write
from gdbserver.target.breakpoints import CODE, BreakKind, Breakpoints
from gdbserver.target.connect import Connect
from gdbserver.target.core import Core
from gdbserver.target.link import Deadline, Link
from gdbserver.target.memory import STALL_TIMEOUT, Memory
from gdbserver.target.port import Port
from gdbserver.target.probes import find_probe, is_simulated
from gdbserver.target.raw_registers import RawRegisters
from gdbserver.target.scripts import ALWAYS, Script, Scripts
from gdbserver.target.stop import StopReason

log = logging.getLogger(__name__)

DEFAULT_CATCH: Final = Demcr.VC_HARDERR
"""A fault that nobody handles stops the core; what a program handles is its own affair."""

_LOW_POWER: Final = (
    DbgmcuCr.DBGSLEEP_D1
    | DbgmcuCr.DBGSTOP_D1
    | DbgmcuCr.DBGSTBY_D1
    | DbgmcuCr.DBGSTOP_D3
    | DbgmcuCr.DBGSTBY_D3
    | DbgmcuCr.D1DBGCKEN
    | DbgmcuCr.D3DBGCKEN
)
_TRACE_CLOCKS: Final = DbgmcuCr.TRACECLKEN | DbgmcuCr.D1DBGCKEN | DbgmcuCr.D3DBGCKEN
_DBGMCU_SETTINGS: Final = (
    (DBGMCU_CR_OFFSET, int(_LOW_POWER)),  # debugging goes on while the program sleeps
    (DBGMCU_APB3FZ1_OFFSET, APB3FZ1_WWDG1),  # a halted core cannot feed its watchdogs
    (DBGMCU_APB4FZ1_OFFSET, APB4FZ1_IWDG1),
)


_ASLEEP: Final = (
    "the core may be asleep without a clock (WFI, Stop mode), and DBGMCU cannot be reached to "
    "keep it going: connect under reset"
)
_IN_RESET: Final = (
    "does the reset button, another probe, or a part hold NRST low? else connect under reset, or "
    "switch the board off and on"
)

_NEEDED: Final = (
    (DHCSR, "the core's debug registers (DHCSR)", _IN_RESET),
    (DEMCR, "the core's debug registers (DEMCR)", _IN_RESET),
    (FP_CTRL, "the core's breakpoint unit (FPB)", _IN_RESET),
    (DWT_CTRL, "the core's watchpoint unit (DWT)", _IN_RESET),
    (FLASH + FLASH_OPTSR_CUR, "the option bytes (FLASH_OPTSR_CUR)", _IN_RESET),
    (
        FLASH + FLASH_BANK2_OFFSET + FLASH_WPSN_CUR,
        "bank 2's option bytes (FLASH_WPSN_CUR2)",
        _IN_RESET,
    ),
    (
        FLASH_SIZE,
        "the word that tells how much flash there is",
        "is it an STM32H742, H743, H750 or H753, and not in secure access mode?",
    ),
)
"""What is asked for on connecting, what that is, and what to do where it is refused."""


@dataclass(frozen=True, slots=True)
class ChipInfo:
    """What the chip says about itself."""

    device_id: int
    """DBGMCU_IDCODE.DEV_ID."""
    revision: str
    """The letter of the die's revision, "V" for the current one, or the REV_ID in hex."""
    flash_kib: int
    rdp_level: int
    """Read protection: 0, because a chip that has any is refused."""
    swap_bank: bool
    protected_sectors: tuple[Span, ...]
    """Sectors of internal flash that WPSN protects, as addresses, ascending."""
    optsr: int
    """FLASH_OPTSR_CUR as it is."""


def check_rdp(optsr: int) -> None:
    """Raises: ChipLocked, when FLASH_OPTSR_CUR says that the chip is read-protected."""
    if level := {0xAA: 0, 0xCC: 2}.get(optsr >> OPTSR_RDP_SHIFT & 0xFF, 1):
        raise ChipLocked(level)


class Target:
    """The chip behind one probe.

    Raises (from every method): ProbeError when the probe or the wire is gone; TargetError
    when the chip answers otherwise than it must.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.probe_name = link.name
        self.probe_uid = link.uid
        self.simulated = is_simulated(link.uid)
        self.chip: ChipInfo
        self.raw = RawRegisters(link)
        self._port = link.port(0)
        self._memory = Memory(self._port, link.deadline)
        self._breakpoints = Breakpoints(self._port, self._memory)
        self._core = Core(link, self._port, self._memory, self._breakpoints, self._write_dbgmcu)
        self._scripts = Scripts(self._core)
        self._wanted: StopReason | None = None  # the stop that a script has let through
        self.chosen_catch = DEFAULT_CATCH
        """What to catch while somebody debugs; a loader may catch more for its own time."""
        self._dbgmcu: tuple[Port, int] | None = None
        self._dbgmcu_before: list[int] = []
        self._dbgmcu_trace = 0
        self._idcode = 0

    # --- From open to close -----------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        uid: str | None,
        *,
        connect: Connect = Connect.UNDER_RESET,
        frequency: int | None = None,
    ) -> Self:
        """Connect to the chip behind probe `uid`, or behind the one that is plugged in.

        Raises:
            ProbeError: there is no such probe, or it is taken, or no chip answers.
            ChipLocked: read protection.
            TargetError: another chip, or one that does not do as it must.
        """
        return cls.behind(find_probe(uid), connect=connect, frequency=frequency)

    @classmethod
    def behind(cls, probe: Any, *, connect: Connect, frequency: int | None = None) -> Self:
        """Connect to the chip behind a probe that has been found, a pyOCD `DebugProbe`."""
        link = Link.open(probe, frequency, under_reset=connect is Connect.UNDER_RESET)
        try:
            target = cls(link)
        except BaseException:
            link.close()
            raise
        try:
            target._connect(connect)
        except BaseException:
            target.close()
            raise
        return target

    def _connect(self, connect: Connect) -> None:
        self._set_up_dbgmcu()
        try:
            self._port.try_banked()
            finish = self._core.start(
                in_reset=connect is Connect.UNDER_RESET, halt=connect is not Connect.ATTACH
            )
            if self._dbgmcu is None:
                self._set_up_dbgmcu()
            self.chip = self._identify(finish)
        except AccessStalled as stall:
            stall.hint = _ASLEEP
            raise
        except AccessRefused as refused:
            raise self._name_refused(refused) from refused.__cause__

    def _name_refused(self, refused: AccessRefused) -> AccessRefused:
        """The same with what it was that could not be reached: a batch tells where it began."""
        for address, what, hint in _NEEDED:
            try:
                self._port.read(address)
            except AccessRefused:
                sentence = f"the chip does not let a debugger reach {what} at {address:#010x}"
                refused = AccessRefused(sentence)
                refused.hint = hint
                break
            except GdbServerError as error:
                log.debug("what was refused cannot be told: %s", error)
                break
        else:
            refused.hint = "it is let in now, so try again: did something pull NRST low meanwhile?"
        return refused

    def _set_up_dbgmcu(self) -> None:
        """Debug through low power, and freeze what a halted core cannot feed.

        AP2 reaches DBGMCU also in reset and in low power; AP0 only where the core could.
        """
        for number, base in ((2, DBGMCU_APB_D), (0, DBGMCU)):
            try:
                port = self.link.port(number)
                # Between them are registers of the same kind, and reserved words.
                idcode, *before = port.read_spread(
                    base, [0, *(offset for offset, _ in _DBGMCU_SETTINGS)]
                )
            except TargetError as error:
                log.debug("DBGMCU is out of reach through AP%d: %s", number, error)
                continue
            self._idcode = self._idcode or idcode
            if idcode & 0xFFF == DEVICE_ID:
                self._idcode = idcode
                self._dbgmcu = port, base
                self._dbgmcu_before = before
                self._write_dbgmcu()
                return

    def _write_dbgmcu(self) -> None:
        if self._dbgmcu is not None:
            port, base = self._dbgmcu
            settings = zip(_DBGMCU_SETTINGS, self._dbgmcu_before, strict=True)
            words = {offset: before | bits for (offset, bits), before in settings}
            words[DBGMCU_CR_OFFSET] |= self._dbgmcu_trace
            port.run([Write(base + offset, [word]) for offset, word in words.items()])

    def clock_trace(self, *, on: bool) -> None:
        """Whether the trace components have a clock, from now on and after each reset."""
        self._dbgmcu_trace = int(_TRACE_CLOCKS) if on else 0
        self._write_dbgmcu()

    def trace_is_clocked(self) -> bool:
        """No more after a power cycle, or where the program has written DBGMCU_CR."""
        if self._dbgmcu is None:
            return False
        port, base = self._dbgmcu
        (cr,) = port.read(base + DBGMCU_CR_OFFSET)
        return cr & _TRACE_CLOCKS == _TRACE_CLOCKS

    def _wake(self, stall: AccessStalled) -> None:
        """The program has switched off what keeps the clock going in its sleep: on it again.

        Raises:
            AccessStalled: it is not that.
        """
        if self._dbgmcu is None:
            raise stall
        port, base = self._dbgmcu
        try:
            (cr,) = port.read(base + DBGMCU_CR_OFFSET)
        except TargetError:
            stall.hint = _ASLEEP
            raise stall from None
        if cr & _LOW_POWER == _LOW_POWER:
            raise stall
        log.warning(
            "the program has switched off debugging in low power (DBGMCU_CR = %#010x), and "
            "sleeps: switched on again",
            cr,
        )
        self._write_dbgmcu()

    def _identify(self, before: Sequence[Write]) -> ChipInfo:
        """Ask the chip what it is; `before`, and what starts the breakpoints, ride along."""
        idcode = self._idcode
        if not idcode:
            raise TargetError(
                "the chip does not show DBGMCU, so it cannot be told what it is",
                hint="connect under reset: the program may have put the chip to sleep",
            )
        if idcode & 0xFFF != DEVICE_ID:
            raise TargetError(
                f"the chip is not an STM32H743: its device id is {idcode & 0xFFF:#05x}",
                hint=f"STM32H742, H743, H750 and H753 have {DEVICE_ID:#05x}",
            )
        # Between them are registers of the controller that a read does nothing to.
        first, second = FLASH_WPSN_CUR, FLASH_BANK2_OFFSET + FLASH_WPSN_CUR
        optsr, protection1, protection2 = self._port.read_spread(
            FLASH + FLASH_OPTSR_CUR,
            [0, first - FLASH_OPTSR_CUR, second - FLASH_OPTSR_CUR],
            before,
        )
        check_rdp(optsr)
        ((flash_size,),) = self._port.run([*self._breakpoints.start(), Read(FLASH_SIZE)])
        return ChipInfo(
            device_id=idcode & 0xFFF,
            revision=REVISIONS.get(idcode >> 16, f"{idcode >> 16:#06x}"),
            flash_kib=flash_size & 0xFFFF,
            rdp_level=0,
            swap_bank=bool(optsr & OPTSR_SWAP_BANK),
            protected_sectors=tuple(
                Span.of(bank.start + sector * SECTOR, SECTOR)
                for bank, bits in ((BANK1, protection1), (BANK2, protection2))
                for sector in range(8)
                if not bits >> sector & 1
            ),
            optsr=optsr,
        )

    def close(self, *, resume: bool = True) -> None:
        """Leave nothing behind: breakpoints out, vector catch off, the core as it should be.

        With `resume` the core runs on without a debugger; otherwise it stays halted.  A probe
        that is gone is given up without complaint.  Closing twice does no harm.
        """
        if self.link.closed:
            return
        try:
            self._leave(resume)
        except GdbServerError as error:
            log.info("the target could not be left in order: %s", error)
        finally:
            self._core.forget_halt()
            self.link.close()

    def _leave(self, resume: bool) -> None:
        self.link.hold_reset(False)
        self._breakpoints.clear_all()
        self._core.finish(resume=resume)
        if resume and self._dbgmcu is not None:
            port, base = self._dbgmcu
            settings = zip(_DBGMCU_SETTINGS, self._dbgmcu_before, strict=True)
            port.run([Write(base + offset, [before]) for (offset, _), before in settings])

    # --- Memory ---------------------------------------------------------------------------------

    def read_memory(self, address: int, length: int) -> bytes:
        """What the program sees: instructions under software breakpoints included.

        Raises:
            MemoryFault: with what is `readable` before the word that was refused.
        """
        try:
            data = self._memory.read(address, length)
        except MemoryFault as fault:
            fault.readable = self._breakpoints.overlay(address, fault.readable)
            raise
        return self._breakpoints.overlay(address, data)

    def view_memory(self, address: int, length: int) -> bytes:
        """As `read_memory`; of a halted core, what was read a moment ago is not read again.

        Raises:
            MemoryFault: with what is `readable` before the word that was refused.
        """
        return self._core.view(address, length)

    def write_memory(self, address: int, data: bytes) -> None:
        """Software breakpoints stay where they are, over what is written.

        Raises:
            MemoryFault: how much was written before is not known.
        """
        self._memory.write(address, self._breakpoints.absorb(address, data))
        self._written(address)

    @property
    def has_memory_commands(self) -> bool:
        """Whether the probe reads and writes memory by itself, much of it in one exchange."""
        return self._memory.has_memory_commands

    def read_word(self, address: int) -> int:
        return self._memory.read_words(address, 1)[0]

    def write_word(self, address: int, value: int) -> None:
        self.write_words(address, [value])

    def read_words(self, address: int, count: int) -> list[int]:
        """`count` words from an aligned `address`, as the hardware has them."""
        return self._memory.read_words(address, count)

    def write_words(self, address: int, values: Sequence[int]) -> None:
        """`values` to an aligned `address`; software breakpoints there are overwritten."""
        self._memory.write_words(address, values)
        self._written(address)

    def read_spread(self, address: int, offsets: Sequence[int]) -> list[int]:
        """Registers at ascending `offsets`, of which the first is 0.

        What lies between must bear being read: it is, where that saves commands.
        """
        return self._port.read_spread(address, offsets)

    def run(self, accesses: Sequence[Access]) -> list[Sequence[int]]:
        """Carry out register accesses in order, in as few transactions as the probe allows.

        The result has a list for each `Read`.  Not for memory: caches are passed by.

        Raises:
            AccessRefused: one of them; what became of those behind it is not known.
        """
        found = self._port.run(accesses)
        for access in accesses:
            if isinstance(access, Write):
                self._written(access.address)
        return found

    def _written(self, address: int) -> None:
        """Debug registers can change everything that is known about a halt."""
        if address in PPB:
            self._core.forget_halt()

    def stream(self, address: int, data: bytes, *, idle: bool = False) -> None:
        """Write words into a slave that throttles by WAIT, such as flash being programmed.

        `idle`: it is known to have finished what was written before.

        Raises:
            StreamStalled: the probe gave up waiting.  The first `written` bytes were taken, and
                the link is usable again.
        """
        words = struct.unpack(f"<{len(data) // 4}I", data)
        deadline = self.link.deadline(STALL_TIMEOUT)
        taken = self._port.stream(address, words, lambda: not deadline.expired(), idle=idle)
        if taken < len(words):
            raise StreamStalled(Span.of(address, len(data)), 4 * taken)

    def rush(self, address: int, data: bytes) -> None:
        """Write words into a slave that is quicker than the link, with no look in between.

        Raises:
            AccessStalled: it was not, and the probe gave up.  What lies there now is not known.
        """
        words = struct.unpack(f"<{len(data) // 4}I", data)
        deadline = self.link.deadline(STALL_TIMEOUT)
        self._port.rush(address, words, lambda: not deadline.expired())

    def sync_caches(self) -> None:
        """Let a core that runs fetch what was written; before a halted one goes on it is done."""
        self._memory.sync_caches()

    def forget_caches(self) -> None:
        """Flash changed behind the core's caches: drop what they hold, where they are on."""
        self._memory.forget_caches()

    # --- Run control ----------------------------------------------------------------------------

    def is_halted(self) -> bool:
        """Look now; a chip that somebody reset is not where we left it."""
        try:
            return self._core.is_halted()
        except AccessStalled as stall:
            self._wake(stall)
            return self._core.is_halted()

    def seems_halted(self) -> bool:
        """As `is_halted`, but what was seen a moment ago will do."""
        return self._core.seems_halted()

    def halt(self) -> None:
        """Stop the core, if it is not stopped already."""
        try:
            self._core.halt()
        except AccessStalled as stall:
            self._wake(stall)
            self._core.halt()

    def resume(self) -> None:
        """Let the core run; a breakpoint at its pc stops it there and then."""
        self._core.resume()

    def step(self, *, mask_interrupts: bool | None = None) -> None:
        """Execute one instruction, also where a breakpoint sits on it, or sleep is asked for."""
        self._core.step(mask_interrupts=mask_interrupts)

    def step_range(self, span: Span) -> None:
        """Execute until pc is outside `span`: `poll_stop` tells when.  Calls are not followed."""
        self._core.step_range(span)

    def step_interrupts(self, wanted: bool) -> None:
        """Whether interrupts may come in between while the core is stepped."""
        self._core.mask_interrupts = not wanted

    def reset(self, *, halt: bool) -> None:
        """Reset all but the debug units; with `halt`, stop before the first instruction.

        A chip that has lost power, or a probe that was pulled out, is taken up again by this.
        """
        try:
            self._core.reset(halt=halt)
        except ProbeError as error:
            log.info("%s; connecting again", error)
            self.link.reconnect()
            self._core.reset(halt=halt)

    def reach(self) -> bool:
        """As `is_halted`, and connect again first if the chip was without power, or the probe."""
        try:
            return self._core.is_halted()
        except ProbeError as error:
            log.info("%s; connecting again", error)
            self.link.reconnect()
            self._core.start_over()
            return self._core.is_halted()

    def poll_stop(self) -> StopReason | None:
        """Look once: why the core is stopped, or None while it runs or sleeps.

        A breakpoint whose script does not want to stop is passed, and the core goes on; unless
        somebody wants it to stand, who came while it stood there.  A script is asked once per stop.
        """
        try:
            stop = self._core.poll_stop(briefly=self._scripts.decide)
        except AccessStalled as stall:
            self._wake(stall)
            stop = self._core.poll_stop()
        if stop is None or stop is self._wanted or self._scripts.want(stop):
            self._wanted = stop
            return stop
        if (halted := self._core.wanted_halt()) is not None:
            return halted
        return None if self._core.pass_breakpoint() else self._core.poll_stop()

    @property
    def resets(self) -> int:
        """How often the chip was reset, by us or, as far as was noticed, by others."""
        return self._core.resets

    @property
    def unasked_resets(self) -> int:
        """How often it was found that a watchdog, or somebody else, had reset the chip."""
        return self._core.unasked_resets

    def own_bkpt(self) -> int | None:
        """The number in the program's own BKPT that stopped the core, if it still stands there."""
        return self._core.own_bkpt()

    def describe_fault(self) -> str | None:
        """One sentence about the fault that the status registers tell of, or None."""
        return self._core.describe_fault()

    def catch_faults(self, catch: Demcr) -> None:
        """Choose the exceptions that stop the core before their handler runs."""
        self._core.catch_faults(catch)

    def choose_catch(self, catch: Demcr) -> None:
        """The same, as what this client wants until it leaves: see `chosen_catch`."""
        self.chosen_catch = catch
        self._core.catch_faults(catch)

    def read_registers(self, names: Iterable[str]) -> dict[str, int]:
        """By the names of `registers.REGISTERS`, and s0-s31.  The core must be halted."""
        return self._core.read_registers(names)

    def write_registers(self, values: Mapping[str, int]) -> None:
        """By the same names.  The core must be halted."""
        self._core.write_registers(values)

    def saved_core(self, *, with_fpu: bool = True) -> AbstractContextManager[None]:
        """For the time of a loader: put every core register, DEMCR and all breakpoints back.

        Inside, the core may do anything; no breakpoint of the client's is in the hardware.
        `with_fpu=False`: what runs there does not use the FPU.
        """
        return self._core.saved(with_fpu=with_fpu)

    # --- Breakpoints ------------------------------------------------------------------------------

    def set_breakpoint(
        self, kind: BreakKind, address: int, length: int, script: Script = ALWAYS
    ) -> None:
        """In force on return.  `length` is what a watchpoint covers.

        `script` decides at each hit whether it is a stop; set again, it takes the old one's place.

        Raises:
            BreakpointError: the hardware has none left, or cannot watch that.
            MemoryFault: a software breakpoint in RAM that is not there.
        """
        self._breakpoints.insert(kind, address, length)
        if kind in CODE:
            self._scripts.set(kind, address & ~1, script)

    def clear_breakpoint(self, kind: BreakKind, address: int, length: int) -> None:
        """What was not set is cleared already."""
        self._breakpoints.remove(kind, address, length)
        if kind in CODE:
            self._scripts.remove(kind, address & ~1)

    def clear_all_breakpoints(self) -> None:
        self._scripts.clear()
        self._breakpoints.clear_all()

    def take_output(self) -> str:
        """What commands of breakpoints have printed since the last time, for the client."""
        return self._scripts.take_output()

    # --- Time -----------------------------------------------------------------------------------

    def deadline(self, seconds: float) -> Deadline:
        """A time-out in the target's time; ask its `expired` once per look."""
        return self.link.deadline(seconds)

    def monotonic(self) -> float:
        """Seconds of the target's time, since whenever: a simulated board keeps its own."""
        return self.link.monotonic()
