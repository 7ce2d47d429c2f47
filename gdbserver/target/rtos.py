"""The threads of an RTOS: which there are, which one runs, and the registers of the others.

How each kernel keeps its threads is known to pyOCD's thread providers (FreeRTOS, Zephyr, RTX5,
ThreadX, Argon).  They read a machine of pyOCD's; `_Machine` shows them ours, as it is at one halt.

Rule 1: what is found belongs to one halt, and is made anew after it: nothing is remembered about
a kernel but where its variables are.
Rule 2: memory that a program may have spoiled is never trusted: a survey makes so many reads and no
more, and a list that does not have the running thread in it is no list.  Then there is one
thread, the core, and a line in the log.
Rule 3: where the kernel itself waits and no thread runs, as ThreadX does in its PendSV handler,
the core is one more thread.
Rule 4: of a thread that is not on the core, what its kernel has saved is shown, and what nobody has
saved is not made up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from pyocd.core.exceptions import TransferError, TransferFaultError
from pyocd.core.target import Target as PyocdTarget
from pyocd.coresight.core_ids import CoreArchitecture
from pyocd.debug.context import DebugContext
from pyocd.rtos.argon import ArgonThreadProvider
from pyocd.rtos.freertos import LIST_SIZE, FreeRTOSThreadProvider
from pyocd.rtos.rtx5 import RTX5ThreadProvider
from pyocd.rtos.threadx import ThreadXThreadProvider
from pyocd.rtos.zephyr import ZephyrThreadProvider

from gdbserver.errors import MemoryFault, TargetError
from gdbserver.target.memory import is_volatile
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_KERNELS: Final = {
    "FreeRTOS": FreeRTOSThreadProvider,
    "Zephyr": ZephyrThreadProvider,
    "RTX5": RTX5ThreadProvider,
    "ThreadX": ThreadXThreadProvider,
    "Argon": ArgonThreadProvider,
}

_LINE: Final = 256
"""Bytes that are read at once: a few lists, or a TCB and what lies around it."""
_ADDRESSES: Final = 1 << 32
_MOST_READS: Final = 20_000
"""More than any look takes: a list of which this is not the end goes round in circles."""
_MOST_THREADS: Final = 256
_LONGEST_NAME: Final = 32

_FREERTOS_EVENT: Final = 40
"""In a task's control block: the list that its event item is in (`xEventListItem.pxContainer`)."""

_KERNEL: Final = 0
"""What the kernel has for the running thread when none runs; here the core's key then."""

_LIST_END_VALUE_OFFSET: Final = 8
_END_OF_LIST: Final = 0xFFFFFFFF
_MOST_PRIORITIES: Final = 63

_OF_THE_CORE: Final = ("msp", "primask", "basepri", "faultmask")
"""Registers that no switch of threads changes."""
_XPSR_EXCEPTION: Final = 0x1FF
_CONTROL_SPSEL: Final = 2
_XPSR_ALIGNED: Final = 1 << 9
"""In a stacked xPSR: the frame is followed by a word that aligns the stack."""


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread.  `key` is the address of what its kernel knows about it."""

    key: int
    name: str
    state: str


class _Unknown(Exception):
    """The value of this symbol would be needed."""


class _Memory(DebugContext):  # type: ignore[misc]
    """What pyOCD calls a context: memory at one halt, each line of it read once."""

    def __init__(self, target: Target) -> None:
        # The base class wants a pyOCD core; all that is needed of one is here.
        self._target = target
        self._lines: dict[int, bytes] = {}
        self._reads = 0
        self.core_facts = SimpleNamespace(
            has_fpu=True,
            supported_security_states=(),
            architecture=CoreArchitecture.ARMv7M,
            is_vector_catch=lambda: False,
        )
        self.failed = False

    def begin(self) -> None:
        """One look at the kernel; `failed` tells afterwards whether all of it could be read."""
        self._reads, self.failed = 0, False

    @property
    def core(self) -> Any:
        return self.core_facts

    def read_memory(self, addr: int, transfer_size: int = 32, now: bool = True) -> Any:
        value = int.from_bytes(self._read(addr, transfer_size // 8), "little")
        return value if now else lambda: value

    def read_memory_block8(self, addr: int, size: int) -> list[int]:
        return list(self._read(addr, size))

    def read_memory_block32(self, addr: int, size: int) -> list[int]:
        data = self._read(addr, 4 * size)
        return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]

    def read_core_register(self, reg: str) -> int:
        """No thread is asked for that is on the core; ipsr 0: nor one of an exception's."""
        return 0

    def read_core_registers_raw(self, reg_list: Iterable[str | int]) -> list[int | None]:
        """What the kernel has not saved."""
        return [None for _ in reg_list]

    def _read(self, address: int, length: int) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            self.failed = True
            raise TransferError("the kernel's lists have no end")
        data = b""
        for line in range(address & -_LINE, address + length, _LINE):
            data += self._line(line)
        data = data[address % _LINE :][:length]
        if len(data) < length:
            self.failed = True
            raise TransferFaultError(fault_address=address, length=length)
        return data

    def _line(self, line: int) -> bytes:
        if line not in self._lines:
            # A pointer that has been overwritten may point to registers, which are left alone.
            there = line <= _ADDRESSES - _LINE and not is_volatile(line)
            try:
                self._lines[line] = self._target.read_memory(line, _LINE) if there else b""
            except MemoryFault as fault:
                self._lines[line] = fault.readable
        return self._lines[line]


def _before_the_kernel(target: Target) -> bool:
    """Whether the core is where it is from reset until a kernel starts its first thread.

    Threads run on the process stack (Armv7-M ARM, DDI 0403E.e, "The SP registers").  RAM may say
    otherwise: after a reset it still has what the last run has left there.
    """
    registers = target.read_registers(("xpsr", "control"))
    return not registers["xpsr"] & _XPSR_EXCEPTION and not registers["control"] & _CONTROL_SPSEL


class _Machine:
    """What pyOCD calls a target, as far as its thread providers go."""

    run_token = 1  # a machine lasts as long as a halt

    def __init__(self, target: Target, symbols: Mapping[str, int | None]) -> None:
        self._target = target
        self._symbols = symbols
        self.memory = _Memory(target)
        self.session = SimpleNamespace(subscribe=lambda *_: None, log_tracebacks=False)
        self.elf = SimpleNamespace(symbol_decoder=self)

    def get_target_context(self) -> _Memory:
        return self.memory

    def get_state(self) -> PyocdTarget.State:
        return PyocdTarget.State.HALTED

    def in_thread_mode_on_main_stack(self) -> bool:
        return _before_the_kernel(self._target)

    def get_symbol_for_name(self, name: str) -> Any:
        """Sizes, where pyOCD would believe that symbols lie in the order of the kernel's source.

        A list of FreeRTOS that has been initialised ends in an item with the highest value of
        all; so the array of ready lists is as long as there are such lists, up to whatever else
        is known to be behind it.
        """
        address = self._symbols.get(name)
        if address is None:
            return None
        size = LIST_SIZE
        if name == "pxReadyTasksLists":
            behind = min(
                (at for at in self._symbols.values() if at is not None and at > address),
                default=_END_OF_LIST,
            )
            while size <= _MOST_PRIORITIES * LIST_SIZE and address + size <= behind:
                if self.memory.read_memory(address + size - 12) != _END_OF_LIST:
                    break
                size += LIST_SIZE
            size -= LIST_SIZE
        return SimpleNamespace(address=address, size=size)


class Survey:
    """What a kernel knows at one halt."""

    def __init__(self, target: Target, machine: _Machine, provider: Any, current: int) -> None:
        self._target = target
        self._machine = machine
        self._provider = provider
        self._found: dict[int, Any] | None = None
        self.current = current
        """The key of the thread on the core; 0 where the kernel itself has it."""

    def threads(self) -> list[Thread]:
        """All of them; empty when the kernel's lists make no sense."""
        if self._found is None:
            self._found = self._look()
        threads = [
            Thread(key, _readable(found.name), _readable(self._state(key, found.description)))
            for key, found in self._found.items()
        ]
        if self.current == _KERNEL and threads:
            threads.append(Thread(_KERNEL, "kernel", "no thread runs"))
        return threads

    def _state(self, key: int, description: str) -> str:
        """As the kernel's own words would have it, where its lists alone do not tell.

        To ThreadX a thread that runs is one that is ready.  FreeRTOS keeps a task that waits
        without a time-out among the suspended ones: but there it is in the list of an event, too.
        """
        if key == self.current and description.startswith("Ready"):
            return description.replace("Ready", "Running", 1)
        if isinstance(self._provider, FreeRTOSThreadProvider) and description.startswith("Susp"):
            with suppress(TransferError):
                if self._machine.memory.read_memory(key + _FREERTOS_EVENT):
                    return description.replace("Suspended", "Blocked", 1)
        return description

    def _look(self) -> dict[int, Any]:
        self._machine.memory.begin()
        try:
            found = {thread.unique_id: thread for thread in self._provider.get_threads()}
        except TransferError as error:
            log.warning("the RTOS's lists cannot be read (%s): one thread is shown", error)
            return {}
        known = self.current == _KERNEL or self.current in found
        if self._machine.memory.failed or not known or len(found) > _MOST_THREADS:
            log.warning(
                "the RTOS's lists do not hold together (%d threads; that at %#010x, which"
                " runs, is %s them): one thread is shown",
                *(len(found), self.current, "among" if known else "not among"),
            )
            return {}
        return found

    def registers(self, key: int, names: Iterable[str]) -> dict[str, int]:
        """Those of `names` that are known of a thread which is not on the core.

        Raises:
            TargetError: its stack cannot be read.
        """
        self.threads()
        thread = (self._found or {})[key]
        names = list(names)
        parts = list(dict.fromkeys(part for name in names for part in _parts(name)))
        memory = self._machine.memory
        memory.begin()
        try:
            values = thread.context.read_core_registers_raw([*parts, "xpsr"])
        except TransferError:
            values = []
        if memory.failed or not values:
            raise TargetError(
                f"the stack of thread {_readable(thread.name)!r} cannot be read",
                hint="the thread's control block, or the stack itself, may have been overwritten",
            )
        saved = dict(zip(parts, values, strict=False))
        if (values[-1] or 0) & _XPSR_ALIGNED:
            saved |= {name: saved[name] + 4 for name in ("sp", "psp") if name in saved}
            saved |= {"xpsr": values[-1] & ~_XPSR_ALIGNED}
        of_the_core = [name for name in names if name in _OF_THE_CORE]
        if of_the_core:
            saved |= self._target.read_registers(of_the_core)
        known = {}
        for name in names:
            found = [saved[part] for part in _parts(name)]
            if None not in found:
                known[name] = sum(value << 32 * n for n, value in enumerate(found))
        if "pc" in known:
            known["pc"] &= ~1  # ThreadX stacks a function's address, with its Thumb bit
        return known


def _parts(name: str) -> list[str]:
    """What a register is made of on a stack: d1 is s2 and s3."""
    if name[0] == "d" and name[1:].isdigit():
        return [f"s{2 * int(name[1:])}", f"s{2 * int(name[1:]) + 1}"]
    return [name]


def _readable(text: str) -> str:
    """As much of a text as a program that runs wild has left readable."""
    return "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_NAME])


class Rtos:
    """Where a program's kernel has its variables, and what it says at this halt."""

    def __init__(self) -> None:
        self._symbols: dict[str, int | None] = {}
        self._kernel: str | None = None
        self._survey: Survey | None = None
        self._moment = -1

    def forget(self) -> None:
        """Another program."""
        self._symbols.clear()
        self._kernel = None
        self._moment = -1

    @property
    def known(self) -> bool:
        """Whether the program has a kernel, started or not."""
        return self._kernel is not None

    def learn(self, symbol: str, value: int | None) -> None:
        self._symbols[symbol] = value

    def wanted(self, target: Target) -> str | None:
        """The symbol whose value is to be found out next; None when all is known, or nothing is."""

        def lookup(name: str) -> int | None:
            if name not in self._symbols:
                raise _Unknown(name)
            return self._symbols[name]

        for name, provider in _KERNELS.items():
            try:
                if self._starts(target, provider, lookup) is not None:
                    if self._kernel != name:
                        log.info("RTOS: %s", name)
                    self._kernel = name
                    return None
            except _Unknown as unknown:
                return str(unknown)
        return None

    def _starts(
        self, target: Target, provider: Any, lookup: Callable[[str], int | None]
    ) -> tuple[_Machine, Any] | None:
        machine = _Machine(target, self._symbols)
        threads = provider(machine)
        try:
            known = threads.init(SimpleNamespace(get_symbol_value=lookup))
        except TransferError as error:
            log.debug("RTOS: %s", error)
            return None
        threads.read_from_target = True
        return (machine, threads) if known else None

    def survey(self, target: Target) -> Survey | None:
        """What the kernel knows now; None where there is none, or none that has started."""
        if self._kernel is None or not target.is_halted():
            return None
        if self._moment != target.link.changes:
            self._survey = self._make(target, _KERNELS[self._kernel])
            self._moment = target.link.changes
        return self._survey

    def _make(self, target: Target, provider: Any) -> Survey | None:
        if _before_the_kernel(target):
            return None
        started = self._starts(target, provider, self._symbols.get)
        if started is None:
            return None
        machine, threads = started
        try:
            current = threads.get_actual_current_thread_id() if threads.is_enabled else None
        except TransferError as error:
            log.warning("the RTOS's variables cannot be read (%s): one thread is shown", error)
            return None
        return None if current is None else Survey(target, machine, threads, current)
