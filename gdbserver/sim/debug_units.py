"""Breakpoints, watchpoints and trace: the debug units beside the core.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "Flash Patch and Breakpoint unit", "The
Data Watchpoint and Trace unit", "Instrumentation Trace Macrocell unit"; Cortex-M7 Technical
Reference Manual (DDI 0489) for how many of each there are.

A unit that is not used costs nothing: the core is told what to look out for when a register
is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gdbserver.chip import cortex_m
from gdbserver.chip.memory import Span
from gdbserver.sim.bus import Master
from gdbserver.sim.components import GENERIC_IP, CoreSightComponent, Identity
from gdbserver.sim.cpu import Watchpoint
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Constant,
    Fields,
    Flag,
    Padding,
    Register,
    Unmodelled,
    Word,
    on_read,
    on_write,
)

if TYPE_CHECKING:
    from gdbserver.sim.cpu import Core
    from gdbserver.sim.system_control import SystemControl

log = logging.getLogger(__name__)

CODE_COMPARATORS = 8
WATCH_COMPARATORS = 4

LAR_KEY = 0xC5ACCE55


class Fpb(CoreSightComponent):
    """Flash Patch and Breakpoint unit, revision 2: eight breakpoints, at any address."""

    identity = Identity(0x00E, GENERIC_IP)

    CTRL = Word(0x000, reset=0x10000080)
    REMAP = Constant(0x004, 0)  # bit 29 clear: no remapping on this core
    COMP0, COMP1, COMP2, COMP3, COMP4, COMP5, COMP6, COMP7 = (
        Word(0x008 + 4 * n) for n in range(CODE_COMPARATORS)
    )
    COMPARATORS = (COMP0, COMP1, COMP2, COMP3, COMP4, COMP5, COMP6, COMP7)

    def __init__(self, core: Core) -> None:
        self._core = core
        super().__init__("FPB")

    def reset(self) -> None:
        super().reset()
        self._arm()

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        super().write(offset, size, value, master)
        self._arm()

    def _arm(self) -> None:
        enabled = self.raw(self.CTRL) & cortex_m.FP_CTRL_ENABLE
        comparators = [self.raw(register) for register in self.COMPARATORS] if enabled else []
        self._core.set_breakpoints(frozenset(c & ~1 for c in comparators if c & 1))

    @on_write(CTRL)
    def _write_ctrl(self, fields: Fields) -> None:
        if fields.value & cortex_m.FP_CTRL_KEY:
            self.set_raw(self.CTRL, self.CTRL.reset | fields.value & cortex_m.FP_CTRL_ENABLE)


class _TraceUnit(CoreSightComponent):
    """A unit that DEMCR.TRCENA switches on: without it only the identification answers."""

    def __init__(self, scs: SystemControl | None, name: str) -> None:
        self._scs = scs
        super().__init__(name)

    @property
    def _enabled(self) -> bool:
        return self._scs is None or self._scs.trace_enabled

    def read(self, offset: int, size: int, master: Master) -> int:
        if offset < 0xFB0 and not self._enabled:
            return 0
        return super().read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if not self._enabled:
            log.warning("%s: a write without DEMCR.TRCENA is lost", self.name)
            return
        super().write(offset, size, value, master)


def _function(number: int) -> Register:
    return Register(
        0x028 + 16 * number,
        BitStruct(
            Padding(7),
            "MATCHED" / Flag,
            Padding(4),
            Unmodelled("DATAVADDR1", 4),
            Unmodelled("DATAVADDR0", 4),
            Unmodelled("DATAVSIZE", 2),
            Padding(1),
            Unmodelled("DATAVMATCH"),
            Unmodelled("CYCMATCH"),
            Padding(1),
            Unmodelled("EMITRANGE"),
            Padding(1),
            "FUNCTION" / BitsInteger(4),
        ),
        writable=0xFFFFFFFF & ~cortex_m.DWT_FUNCTION_MATCHED,
    )


class Dwt(_TraceUnit):
    """Data Watchpoint and Trace unit: four comparators and the cycle counter.

    Of the comparators' functions those are modelled that halt the core.
    """

    identity = Identity(0x002, GENERIC_IP)

    CTRL = Register(
        0x000,
        BitStruct(
            "NUMCOMP" / BitsInteger(4),
            Padding(5),
            Unmodelled("CYCEVTENA"),
            Unmodelled("FOLDEVTENA"),
            Unmodelled("LSUEVTENA"),
            Unmodelled("SLEEPEVTENA"),
            Unmodelled("EXCEVTENA"),
            Unmodelled("CPIEVTENA"),
            Unmodelled("EXCTRCENA"),
            Padding(3),
            Unmodelled("PCSAMPLENA"),
            Unmodelled("SYNCTAP", 2),
            Unmodelled("CYCTAP"),
            Unmodelled("POSTINIT", 4),
            Unmodelled("POSTPRESET", 4),
            "CYCCNTENA" / Flag,
        ),
        reset=WATCH_COMPARATORS << 28,
        writable=0x0FFFFFFF,
    )
    CYCCNT = Word(0x004)
    CPICNT = Word(0x008, writable=0xFF)
    EXCCNT = Word(0x00C, writable=0xFF)
    SLEEPCNT = Word(0x010, writable=0xFF)
    LSUCNT = Word(0x014, writable=0xFF)
    FOLDCNT = Word(0x018, writable=0xFF)
    PCSR = Constant(0x01C, 0xFFFFFFFF)
    COMP0, COMP1, COMP2, COMP3 = (Word(0x020 + 16 * n) for n in range(WATCH_COMPARATORS))
    MASK0, MASK1, MASK2, MASK3 = (
        Word(0x024 + 16 * n, writable=0x1F) for n in range(WATCH_COMPARATORS)
    )
    FUNCTION0, FUNCTION1, FUNCTION2, FUNCTION3 = map(_function, range(WATCH_COMPARATORS))
    LAR = Constant(0xFB0, 0)
    LSR = Constant(0xFB4, 0)  # no lock

    COMPARATORS = (
        (COMP0, MASK0, FUNCTION0),
        (COMP1, MASK1, FUNCTION1),
        (COMP2, MASK2, FUNCTION2),
        (COMP3, MASK3, FUNCTION3),
    )

    _INSTRUCTION = 4
    _LOADS = frozenset({cortex_m.DWT_FUNCTION_READ, cortex_m.DWT_FUNCTION_ACCESS})
    _STORES = frozenset({cortex_m.DWT_FUNCTION_WRITE, cortex_m.DWT_FUNCTION_ACCESS})

    def __init__(self, core: Core) -> None:
        self._core = core
        self._counted_from = 0
        super().__init__(core.scs, "DWT")

    def reset(self) -> None:
        super().reset()
        self._arm()

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        super().write(offset, size, value, master)
        if 0x020 <= offset < 0x060:
            self._arm()

    def _arm(self) -> None:
        watchpoints = []
        instructions: dict[int, Callable[[], None]] = {}
        for comparator, mask, function in self.COMPARATORS:
            kind = self[function].FUNCTION
            size = 1 << self.raw(mask)
            start = self.raw(comparator) & ~(size - 1)
            matched = partial(self.update, function, MATCHED=1)
            loads, stores = kind in self._LOADS, kind in self._STORES
            if loads or stores:
                span = Span.of(start, size)
                watchpoints.append(Watchpoint(span, loads=loads, stores=stores, matched=matched))
            elif kind == self._INSTRUCTION:
                instructions |= dict.fromkeys(range(start & ~1, start + size, 2), matched)
            elif kind:
                log.warning("DWT: comparator function %d is not modelled", kind)
        self._core.set_watchpoints(watchpoints)
        self._core.set_instruction_watches(instructions)

    @on_write(CTRL)
    def _write_ctrl(self, fields: Fields) -> None:
        self._count()
        self.store(fields)

    @on_read(CYCCNT)
    def _count(self) -> None:
        """Bring CYCCNT up to date."""
        passed = self._core.cycles - self._counted_from
        self._counted_from = self._core.cycles
        if self[self.CTRL].CYCCNTENA:
            self.set_raw(self.CYCCNT, self.raw(self.CYCCNT) + passed)

    @on_write(CYCCNT)
    def _set_count(self, fields: Fields) -> None:
        self._count()
        self.set_raw(self.CYCCNT, fields.value)

    @on_read(PCSR)
    def _sample(self) -> None:
        core = self._core
        running = not (core.halted or core.in_reset or core.asleep)
        self.set_raw(self.PCSR, core.pc if running else 0xFFFFFFFF)

    def read(self, offset: int, size: int, master: Master) -> int:
        value = super().read(offset, size, master)
        for _, _, function in self.COMPARATORS:
            if offset & ~3 == function.offset:
                self.update(function, MATCHED=0)
        return value


class TraceOutput(Protocol):
    """Where trace packets go."""

    @property
    def full(self) -> bool: ...

    def send(self, packet: bytes) -> None: ...


class Itm(_TraceUnit):
    """Instrumentation Trace Macrocell: what a program writes to its ports goes to `output`.

    A stimulus port reads as one while there is room for more.  Time stamps and what the DWT
    could send along are not modelled.
    """

    identity = Identity(0x001, GENERIC_IP)

    TER = Word(0xE00)
    TPR = Word(0xE40, writable=0xF)
    TCR = Register(
        0xE80,
        BitStruct(
            Padding(9),
            "TRACEBUSID" / BitsInteger(7),
            Padding(4),
            Unmodelled("GTSFREQ", 2),
            Unmodelled("TSPRESCALE", 2),
            Padding(3),
            Unmodelled("SWOENA"),
            Unmodelled("TXENA"),
            Unmodelled("SYNCENA"),
            Unmodelled("TSENA"),
            "ITMENA" / Flag,
        ),
    )
    LAR = Word(0xFB0)
    LSR = Word(0xFB4, reset=0x3)  # locked, 32-bit lock register

    STIMULUS_PORTS = 32
    data_ports = frozenset(range(0, 4 * STIMULUS_PORTS, 4))

    def __init__(self, scs: SystemControl | None = None, output: TraceOutput | None = None) -> None:
        self._output = output
        super().__init__(scs, "ITM")

    def read(self, offset: int, size: int, master: Master) -> int:
        if offset < 4 * self.STIMULUS_PORTS:
            return int(self._enabled and not (self._output is not None and self._output.full))
        return super().read(offset, size, master)

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if offset < 4 * self.STIMULUS_PORTS:
            self._stimulate(offset // 4, size, value)
            return
        if offset != self.LAR.offset and self.raw(self.LSR) & 0x2 and master is Master.CORE:
            return  # the lock holds back software on the core, not the debugger
        super().write(offset, size, value, master)

    def _stimulate(self, port: int, size: int, value: int) -> None:
        """A software source packet: port and size in its header, then the data."""
        on = self._enabled and self.raw(self.TCR) & 1 and self.raw(self.TER) >> port & 1
        if on and self._output is not None:
            header = port << 3 | {1: 1, 2: 2, 4: 3}[size]
            self._output.send(bytes([header]) + value.to_bytes(size, "little"))

    @on_write(LAR)
    def _unlock(self, fields: Fields) -> None:
        self.set_raw(self.LSR, 0x1 if fields.value == LAR_KEY else 0x3)
