"""The machine being debugged: memory, run control, registers, breakpoints.

Rule 1: everything known about a halted core is in one `_Halt`, and `_let_go` drops it as a
whole.  Whatever could change the core goes through there first, so nothing stale is ever
answered, and nothing is read twice at one stop.

Rule 2: DHCSR is read in one place, `_note_status`, because reading it clears S_RESET_ST: a
reset that happened unasked is noticed by whoever reads it first, and what resets destroy is
put back.

Everything here blocks, and nothing here is thread-safe: the server's worker runs one call at
a time.

Armv7-M ARM (DDI 0403E.e), "Debug register support in the SCS", "Debug stepping"; RM0433,
"Microcontroller debug unit (DBGMCU)".
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal, Self

from gdbserver.chip.cortex_m import (
    AIRCR,
    CFSR,
    DBGKEY,
    DCRDR,
    DCRSR,
    DCRSR_WRITE,
    DEMCR,
    DFSR,
    DHCSR,
    VECTKEY,
    Aircr,
    Demcr,
    Dfsr,
    Dhcsr,
    Selector,
)
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
    StreamStalled,
    TargetError,
)
from gdbserver.target import faults, registers
from gdbserver.target.breakpoints import BKPT, BreakKind, Breakpoints
from gdbserver.target.link import Access, Deadline, Link, Port, Read, Write, is_simulated
from gdbserver.target.memory import STALL_TIMEOUT, Memory
from gdbserver.target.stop import SIGINT, SIGTRAP, StopKind, StopReason

log = logging.getLogger(__name__)

HALT_TIMEOUT: Final = 1.0
RESET_TIMEOUT: Final = 1.0
STEP_TIMEOUT: Final = 0.1
"""After so many seconds a step is taken to be asleep in WFI or WFE, and is halted there."""

_DEBUG: Final = DBGKEY | Dhcsr.C_DEBUGEN
_HALTED: Final = _DEBUG | Dhcsr.C_HALT
_ALL_DFSR: Final = 0x1F

_LOW_POWER: Final = (
    DbgmcuCr.DBGSLEEP_D1
    | DbgmcuCr.DBGSTOP_D1
    | DbgmcuCr.DBGSTBY_D1
    | DbgmcuCr.DBGSTOP_D3
    | DbgmcuCr.DBGSTBY_D3
    | DbgmcuCr.D1DBGCKEN
    | DbgmcuCr.D3DBGCKEN
)
_DBGMCU_SETTINGS: Final = (
    (DBGMCU_CR_OFFSET, int(_LOW_POWER)),  # debugging goes on while the program sleeps
    (DBGMCU_APB3FZ1_OFFSET, APB3FZ1_WWDG1),  # a halted core cannot feed its watchdogs
    (DBGMCU_APB4FZ1_OFFSET, APB4FZ1_IWDG1),
)


class Connect(Enum):
    """What may happen to the running program when we connect."""

    UNDER_RESET = "under-reset"  # restarted through NRST, halted before its first instruction
    HALT = "halt"  # halted where it is
    ATTACH = "attach"  # not disturbed


@dataclass(frozen=True, slots=True)
class ChipInfo:
    """What the chip says about itself."""

    device_id: int
    """DBGMCU_IDCODE.DEV_ID."""
    revision: str
    """The letter of the die's revision, "V" for the current one, or the REV_ID in hex."""
    flash_kib: int
    rdp_level: int
    """Read protection: 0, 1 or 2."""
    swap_bank: bool
    protected_sectors: tuple[Span, ...]
    """Sectors of internal flash that WPSN protects, as addresses, ascending."""
    optsr: int
    """FLASH_OPTSR_CUR as it is."""


@dataclass(slots=True)
class _Halt:
    """What is known about the core while it is halted."""

    registers: dict[int, int] = field(default_factory=dict)
    """By DCRSR selector."""
    status: faults.FaultStatus | None = None
    reason: StopReason | None = None
    bkpt: int | None = None
    """Where a BKPT of the program's own stopped the core: running on means stepping over it."""


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
        self._port = link.port(0)
        self._memory = Memory(self._port, link.deadline)
        self._breakpoints = Breakpoints(self._port, self._memory)
        self._dbgmcu: tuple[Port, int] | None = None
        self._dbgmcu_before: list[int] = []
        self._demcr_before = 0
        self._catch = Demcr.VC_HARDERR
        self._halt: _Halt | None = None
        self._asked: Literal["halt", "step"] = "halt"
        self._masked = False  # DHCSR.C_MASKINTS is set
        self._reset_seen = False

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
        link = Link.open(uid, frequency, under_reset=connect is Connect.UNDER_RESET)
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
        self._port.try_banked()
        status, demcr = self._port.run([Read(DHCSR), Read(DEMCR)])
        self._demcr_before = demcr[0] & Demcr.TRCENA
        match connect:
            case Connect.UNDER_RESET:
                self._come_out_of_reset()
            case Connect.HALT:
                self.halt()
            case Connect.ATTACH:
                # A core that a debugger has halted before us stays so.
                halted = status[0] & (Dhcsr.C_HALT if status[0] & Dhcsr.S_HALT else 0)
                self._port.write(DHCSR, _DEBUG | halted)
        self._port.write(DEMCR, self._demcr)
        if self._dbgmcu is None:
            self._set_up_dbgmcu()
        self.chip = self._identify()
        self._breakpoints.start()
        self._reset_seen = False

    def _come_out_of_reset(self) -> None:
        """Let NRST go, and have the core stop before its first instruction."""
        self._port.run([Write(DHCSR, [_HALTED]), Write(DEMCR, [self._demcr | Demcr.VC_CORERESET])])
        self.link.hold_reset(False)
        deadline = self.link.deadline(RESET_TIMEOUT)
        while not self._look() & Dhcsr.S_HALT:
            if deadline.expired():
                break
        (dfsr,) = self._port.read(DFSR)
        if not dfsr & Dfsr.VCATCH:
            log.info("NRST did not reset the core (is the pin connected?): resetting by software")
            self.reset(halt=True)

    def _set_up_dbgmcu(self) -> None:
        """Debug through low power, and freeze what a halted core cannot feed.

        AP2 reaches DBGMCU also in reset and in low power; AP0 only where the core could.
        """
        for number, base in ((2, DBGMCU_APB_D), (0, DBGMCU)):
            try:
                port = self.link.port(number)
                before = port.run([Read(base + offset) for offset, _ in _DBGMCU_SETTINGS])
            except TargetError as error:
                log.debug("DBGMCU is out of reach through AP%d: %s", number, error)
                continue
            self._dbgmcu = port, base
            self._dbgmcu_before = [value for (value,) in before]
            self._write_dbgmcu()
            return

    def _write_dbgmcu(self) -> None:
        if self._dbgmcu is not None:
            port, base = self._dbgmcu
            settings = zip(_DBGMCU_SETTINGS, self._dbgmcu_before, strict=True)
            port.run([Write(base + offset, [b | bits]) for (offset, bits), b in settings])

    def _identify(self) -> ChipInfo:
        if self._dbgmcu is None:
            raise TargetError(
                "the chip does not show DBGMCU, so it cannot be told what it is",
                hint="connect under reset: the program may have put the chip to sleep",
            )
        port, base = self._dbgmcu
        (idcode,) = port.read(base)
        if idcode & 0xFFF != DEVICE_ID:
            raise TargetError(
                f"the chip is not an STM32H743: its device id is {idcode & 0xFFF:#05x}",
                hint=f"STM32H742, H743, H750 and H753 have {DEVICE_ID:#05x}",
            )
        (optsr,), (protection1,), (protection2,) = self._port.run(
            [
                Read(FLASH + FLASH_OPTSR_CUR),
                Read(FLASH + FLASH_WPSN_CUR),
                Read(FLASH + FLASH_BANK2_OFFSET + FLASH_WPSN_CUR),
            ]
        )
        rdp_level = {0xAA: 0, 0xCC: 2}.get(optsr >> OPTSR_RDP_SHIFT & 0xFF, 1)
        if rdp_level:
            raise ChipLocked(rdp_level)
        (flash_size,) = self._port.read(FLASH_SIZE)
        return ChipInfo(
            device_id=idcode & 0xFFF,
            revision=REVISIONS.get(idcode >> 16, f"{idcode >> 16:#06x}"),
            flash_kib=flash_size & 0xFFFF,
            rdp_level=rdp_level,
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
        that is gone is given up without complaint.
        """
        try:
            self._leave(resume)
        except GdbServerError as error:
            log.info("the target could not be left in order: %s", error)
        finally:
            self._let_go()
            self.link.close()

    def _leave(self, resume: bool) -> None:
        self.link.hold_reset(False)
        self._breakpoints.clear_all()
        if not resume:
            self._port.write(DEMCR, self._demcr_before)
            return
        if self._look() & Dhcsr.S_HALT:
            self._pass_bkpt()
            self._memory.sync_caches()
        self._port.run(
            [
                Write(DFSR, [_ALL_DFSR]),
                *([Write(DHCSR, [_HALTED])] if self._masked else []),
                Write(DEMCR, [self._demcr_before]),
                Write(DHCSR, [DBGKEY]),
            ]
        )
        if self._dbgmcu is not None:
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

    def write_memory(self, address: int, data: bytes) -> None:
        """Software breakpoints stay where they are, over what is written.

        Raises:
            MemoryFault: how much was written before is not known.
        """
        self._memory.write(address, self._breakpoints.absorb(address, data))
        self._written(address)

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

    def run(self, accesses: Sequence[Access]) -> list[list[int]]:
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
            self._let_go()

    def stream(self, address: int, data: bytes) -> None:
        """Write words into a slave that throttles by WAIT, such as flash being programmed.

        Raises:
            StreamStalled: the probe gave up waiting.  The first `written` bytes were taken, and
                the link is usable again.
        """
        words = struct.unpack(f"<{len(data) // 4}I", data)
        deadline = self.link.deadline(STALL_TIMEOUT)
        taken = self._port.stream(address, words, lambda: not deadline.expired())
        if taken < len(words):
            raise StreamStalled(Span.of(address, len(data)), 4 * taken)

    def forget_caches(self) -> None:
        """Flash changed behind the core's caches: drop what they hold, where they are on."""
        self._memory.forget_caches()

    # --- Run control ------------------------------------------------------------------------------

    def is_halted(self) -> bool:
        """Look now; a chip that somebody reset is not where we left it."""
        status = self._look()
        if not status & Dhcsr.S_HALT or self._reset_seen:
            self._let_go()
        return bool(status & Dhcsr.S_HALT)

    def halt(self) -> None:
        """Stop the core, if it is not stopped already."""
        if self._halt is not None:
            return
        ((status,),) = self._port.run([Write(DHCSR, [_HALTED]), Read(DHCSR)])
        self._note_status(status)
        self._asked = "halt"
        self._wait_halted(status)

    def _wait_halted(self, status: int) -> None:
        deadline = self.link.deadline(HALT_TIMEOUT)
        while not status & Dhcsr.S_HALT:
            if deadline.expired():
                raise TargetError(
                    "the core does not halt",
                    hint="it may be waiting for a bus that never answers; try `monitor reset halt`",
                )
            status = self._look()
        self._halt = _Halt()

    def resume(self) -> None:
        """Let the core run; breakpoints at its pc stop it there and then."""
        if self._halt is None and not self.is_halted():
            return
        self._pass_bkpt()
        self._memory.sync_caches()
        accesses: list[Access] = [Write(DFSR, [_ALL_DFSR])]
        if self._masked:
            accesses.append(Write(DHCSR, [_HALTED]))  # C_MASKINTS changes only with C_HALT set
        accesses.append(Write(DHCSR, [_DEBUG]))
        self._let_go()
        self._masked = False
        self._port.run(accesses)

    def step(self, *, mask_interrupts: bool = True) -> None:
        """Execute one instruction, also where a breakpoint sits on it.

        A core that sleeps in it (WFI, WFE) is woken after `STEP_TIMEOUT`.
        """
        self._need_halt()
        if self._pass_bkpt():
            # That was the step: a BKPT does nothing else.
            self._port.write(DFSR, _ALL_DFSR)
            halt = self._need_halt()
            halt.bkpt, halt.reason = None, StopReason(SIGTRAP, "step", "stepped over a BKPT")
            return
        if self._breakpoints.any_code():
            pc = self.read_registers(["pc"])["pc"]
            with self._breakpoints.lifted(pc):
                self._single_step(mask_interrupts)
        else:
            self._single_step(mask_interrupts)

    def _single_step(self, mask_interrupts: bool) -> None:
        self._memory.sync_caches()
        control = _DEBUG | (Dhcsr.C_MASKINTS if mask_interrupts else 0)
        accesses: list[Access] = [Write(DFSR, [_ALL_DFSR])]
        if mask_interrupts != self._masked:
            accesses.append(Write(DHCSR, [control | Dhcsr.C_HALT]))
        accesses += [Write(DHCSR, [control | Dhcsr.C_STEP]), Read(DHCSR)]
        self._let_go()
        self._asked = "step"
        self._masked = mask_interrupts
        ((status,),) = self._port.run(accesses)
        self._note_status(status)
        deadline = self.link.deadline(STEP_TIMEOUT)
        while not status & Dhcsr.S_HALT and not deadline.expired():
            status = self._look()
        if not status & Dhcsr.S_HALT:
            self._port.write(DHCSR, control | Dhcsr.C_HALT)
            status = self._look()
        self._wait_halted(status)

    def reset(self, *, halt: bool) -> None:
        """Reset the chip, all but its debug units; with `halt`, stop before the first instruction.

        By software; and through NRST, where that has no effect.
        """
        self._let_go()
        self._masked = False
        catch = self._demcr | (Demcr.VC_CORERESET if halt else 0)
        for pull in (self._request_reset, self._pulse_reset):
            self._port.run([Write(DFSR, [_ALL_DFSR]), Write(DEMCR, [catch]), Read(DHCSR)])
            self._reset_seen = False
            pull()
            if self._came_back(halt):
                break
            log.info("no reset by %s", pull.__name__)
        else:
            raise TargetError("the chip does not reset", hint="power it off and on")
        self._put_back()
        if not halt and self._look() & Dhcsr.S_HALT:
            self._port.run([Write(DFSR, [_ALL_DFSR]), Write(DHCSR, [_DEBUG])])
        self._reset_seen = False

    def _request_reset(self) -> None:
        with suppress(AccessRefused, AccessStalled):  # it may strike before it is acknowledged
            self._port.write(AIRCR, VECTKEY | Aircr.SYSRESETREQ)

    def _pulse_reset(self) -> None:
        self.link.hold_reset(True)
        self.link.hold_reset(False)

    def _came_back(self, halt: bool) -> bool:
        """Wait until the core has been reset and, with `halt`, has stopped."""
        deadline = self.link.deadline(RESET_TIMEOUT)
        while not deadline.expired():
            try:
                status = self._look()
            except (AccessRefused, AccessStalled):
                continue  # still in reset
            if self._reset_seen and (status & Dhcsr.S_HALT or not halt):
                return True
        return False

    def _put_back(self) -> None:
        """What a reset may have destroyed: FPB, DWT, DBGMCU, vector catch."""
        self._port.write(DEMCR, self._demcr)
        self._write_dbgmcu()
        self._breakpoints.rewrite()

    def catch_faults(self, catch: Demcr) -> None:
        """Choose the exceptions that stop the core before their handler runs."""
        self._catch = catch
        self._port.write(DEMCR, self._demcr)

    @property
    def _demcr(self) -> int:
        return Demcr.TRCENA | self._catch

    # --- What the core is doing ---------------------------------------------------------------

    def poll_stop(self) -> StopReason | None:
        """Look once: why the core is stopped, or None while it runs or sleeps."""
        if self._halt is None:
            status = self._look()
            if self._reset_seen:
                self._reset_seen = False
                log.warning("the chip was reset")
                self._put_back()
            if not status & (Dhcsr.S_HALT | Dhcsr.S_LOCKUP):
                return None
            if not status & Dhcsr.S_HALT:
                self.halt()
            self._halt = _Halt()
        return self._explain(self._halt)

    def _look(self) -> int:
        (status,) = self._port.read(DHCSR)
        return self._note_status(status)

    def _note_status(self, status: int) -> int:
        self._reset_seen |= bool(status & Dhcsr.S_RESET_ST)
        return status

    def _let_go(self) -> None:
        self._halt = None

    def _need_halt(self) -> _Halt:
        """What is known about the core.

        Raises:
            TargetError: it is running.
        """
        if self._halt is None:
            if not self._look() & Dhcsr.S_HALT:
                raise TargetError("the core is running", hint="interrupt it first")
            self._halt = _Halt()
        return self._halt

    def _explain(self, halt: _Halt) -> StopReason:
        """Find out why the core stopped, and what GDB asks next, in one go."""
        if halt.reason is not None:
            return halt.reason
        watches = self._breakpoints.watch_status()
        (cfsr, hfsr, dfsr, mmfar, bfar), *matched = self._fetch(
            halt, registers.selectors(registers.EXPEDITED), [Read(CFSR, 5), *watches]
        )
        halt.status = faults.FaultStatus(cfsr, hfsr, mmfar, bfar)
        pc = halt.registers[Selector.PC]
        watch = self._breakpoints.matched([status for (status,) in matched])
        where = f"at {pc:#010x}"
        if faults.is_lockup(pc):
            status = self._fault_status(halt)
            detail = faults.describe(status) or "the core locked up"
            halt.reason = StopReason(faults.signal(status), "lockup", detail)
        elif dfsr & Dfsr.VCATCH and halt.registers[Selector.XPSR] & 0x1FF == 0:
            halt.reason = StopReason(SIGTRAP, "reset", "caught at the reset vector")
        elif dfsr & Dfsr.VCATCH:
            status = self._fault_status(halt)
            detail = faults.describe(status) or f"an exception was caught {where}"
            halt.reason = StopReason(faults.signal(status), "fault", detail)
        elif dfsr & Dfsr.DWTTRAP and watch is not None:
            request, block = watch
            kind, verb = _WATCHED[request.kind]
            detail = f"{block.span} was {verb}, shortly before {pc:#010x}"
            halt.reason = StopReason(SIGTRAP, kind, detail, block.address)
        elif dfsr & Dfsr.BKPT:
            found = self._breakpoints.at(pc)
            if found is BreakKind.HARDWARE:
                halt.reason = StopReason(SIGTRAP, "hwbreak", f"breakpoint {where}")
            elif found is BreakKind.SOFTWARE:
                halt.reason = StopReason(SIGTRAP, "swbreak", f"breakpoint {where}")
            else:
                halt.bkpt = pc
                halt.reason = StopReason(SIGTRAP, "swbreak", f"BKPT instruction {where}")
        elif self._asked == "step":
            halt.reason = StopReason(SIGTRAP, "step", f"stepped to {pc:#010x}")
        else:
            halt.reason = StopReason(SIGINT, "halted", f"halted {where}")
        return halt.reason

    def _pass_bkpt(self) -> bool:
        """Set pc behind the BKPT that stopped the core, if it still stands on one of its own."""
        halt = self._need_halt()
        self._explain(halt)
        if halt.bkpt is None:
            return False
        pc = self.read_registers(["pc"])["pc"]
        here = int.from_bytes(self.read_memory(pc, 2), "little")
        if pc != halt.bkpt or here & 0xFF00 != BKPT:
            return False
        self.write_registers({"pc": pc + 2})
        return True

    def describe_fault(self) -> str | None:
        """One sentence about the fault that the status registers tell of, or None."""
        if self._halt is None and not self.is_halted():
            cfsr, hfsr, _, mmfar, bfar = self._port.read(CFSR, 5)
            return faults.describe(faults.FaultStatus(cfsr, hfsr, mmfar, bfar))
        halt = self._need_halt()
        self._explain(halt)
        return faults.describe(self._fault_status(halt))

    def _fault_status(self, halt: _Halt) -> faults.FaultStatus:
        """The status of `halt` with what can be found out about where the program was."""
        assert halt.status is not None, "comes with the explanation"
        status = replace(halt.status, locked_up=faults.is_lockup(halt.registers[Selector.PC]))
        stack = faults.frame_stack(halt.registers[Selector.XPSR], halt.registers[Selector.LR])
        if stack is None or not (status.cfsr or status.hfsr):
            return status
        pointer = self.read_registers([stack])[stack]
        with suppress(TargetError):  # a stack that cannot be read may be the very trouble
            words = self._memory.read_words(pointer & ~3, faults.FRAME_WORDS)
            return replace(status, frame=faults.Frame.of(words))
        return status

    # --- Registers -----------------------------------------------------------------------------

    def read_registers(self, names: Iterable[str]) -> dict[str, int]:
        """By the names of `registers.REGISTERS`, and s0-s31.  The core must be halted."""
        names = list(names)
        halt = self._need_halt()
        self._fetch(halt, registers.selectors(names))
        return registers.decode(names, halt.registers)

    def write_registers(self, values: Mapping[str, int]) -> None:
        """The core must be halted."""
        halt = self._need_halt()
        self._fetch(halt, registers.partial(values))
        self._store(halt, registers.encode(values, halt.registers))

    def _fetch(
        self, halt: _Halt, selectors: Iterable[int], before: Sequence[Access] = ()
    ) -> list[list[int]]:
        """Read what is not known yet of `selectors`; the result is that of `before`."""
        missing = [selector for selector in selectors if selector not in halt.registers]
        accesses = list(before)
        for selector in missing:
            accesses.append(Write(DCRSR, [selector]))
            if not self._port.patient:
                accesses.append(Read(DHCSR))
            accesses.append(Read(DCRDR))
        if not accesses:
            return []
        if missing:
            accesses.append(Read(DHCSR))
        found = self._port.run(accesses)
        reads_before = sum(isinstance(access, Read) for access in before)
        before_found, rest = found[:reads_before], [value for (value,) in found[reads_before:]]
        if not missing:
            return before_found
        *rest, last = rest
        values = rest if self._port.patient else rest[1::2]
        seen = [last] if self._port.patient else [*rest[::2], last]
        self._check_transfers(seen)
        halt.registers.update(zip(missing, values, strict=True))
        return before_found

    def _store(self, halt: _Halt, raw: Mapping[int, int]) -> None:
        accesses: list[Access] = []
        for selector, value in raw.items():
            accesses += [Write(DCRDR, [value]), Write(DCRSR, [DCRSR_WRITE | selector])]
            if not self._port.patient:
                accesses.append(Read(DHCSR))
        for selector in registers.aliases(raw):
            halt.registers.pop(selector, None)
        self._check_transfers([value for (value,) in self._port.run([*accesses, Read(DHCSR)])])
        halt.registers.update({s: raw[s] for s in raw if s in registers.KEPT_AS_WRITTEN})

    def _check_transfers(self, seen: Sequence[int]) -> None:
        """Whether the core was halted, and done with each transfer when it was used."""
        together = -1
        for status in seen:
            self._note_status(status)
            together &= status
        if not together & Dhcsr.S_HALT:
            self._let_go()
            raise TargetError("the core is running", hint="something else resumed or reset it")
        if not together & Dhcsr.S_REGRDY:
            self._let_go()
            raise TargetError(
                "the core is too slow to show its registers", hint="try a lower --frequency"
            )

    @contextmanager
    def saved_core(self) -> Iterator[None]:
        """For the time of a loader: put every core register, DEMCR and all breakpoints back.

        Inside, the core may do anything; no breakpoint of the client's is in the hardware.
        """
        everything = (*registers.CORE_SELECTORS, *registers.FPU_SELECTORS)
        halt = self._need_halt()
        (demcr,), *_ = self._fetch(halt, everything, [Read(DEMCR)])
        saved = {selector: halt.registers[selector] for selector in everything}
        reason, bkpt, asked = halt.reason, halt.bkpt, self._asked
        with self._breakpoints.suspended():
            try:
                yield
            finally:
                self.halt()
                self._store(self._need_halt(), saved)
                self._port.write(DEMCR, demcr)
        # For the client, the core has not moved: it is stopped for the same reason.
        self._asked = asked
        self._halt = _Halt(dict(saved), reason=reason, bkpt=bkpt)

    # --- Breakpoints ------------------------------------------------------------------------------

    def set_breakpoint(self, kind: BreakKind, address: int, length: int) -> None:
        """In force on return.  `length` is what a watchpoint covers.

        Raises:
            BreakpointError: the hardware has none left, or cannot watch that.
            MemoryFault: a software breakpoint in RAM that is not there.
        """
        self._breakpoints.insert(kind, address, length)

    def clear_breakpoint(self, kind: BreakKind, address: int, length: int) -> None:
        """What was not set is cleared already."""
        self._breakpoints.remove(kind, address, length)

    def clear_all_breakpoints(self) -> None:
        self._breakpoints.clear_all()

    # --- Time -----------------------------------------------------------------------------------

    def deadline(self, seconds: float) -> Deadline:
        """A time-out in the target's time; ask its `expired` once per look."""
        return self.link.deadline(seconds)


_WATCHED: Final[Mapping[BreakKind, tuple[StopKind, str]]] = {
    BreakKind.WRITE_WATCH: ("watch", "written"),
    BreakKind.READ_WATCH: ("rwatch", "read"),
    BreakKind.ACCESS_WATCH: ("awatch", "accessed"),
}
