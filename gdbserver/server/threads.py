"""The threads that a client sees: those of the program's RTOS, or the core as the only one.

A client knows a thread by a number.  The thread on the core when an RTOS is first seen has the
core's number, which is 1; so a client that has begun with one thread goes on with it.  Numbers stay
as long as the chip is not reset; then the core has that of the thread that was on it last, because
GDB does not go on with a thread that is no more.

Where the RTOS has its variables the client knows: it is asked, symbol by symbol, when it offers
to look them up (GDB manual, "qSymbol").  Until it does, and where it knows of no RTOS, the program
that the server was told of is asked.  In non-stop mode there is one thread, the core: others
could not be stopped or resumed apart from it.

A program that has exited leaves the core behind, and that is a thread too.  Without one GDB (13 and
18) shows memory from its ELF file and no registers, and crashes at the end of a `load`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio

from gdbserver.chip.cortex_m import DWT_PCSR
from gdbserver.errors import BadRequest, ThreadNotOnCore
from gdbserver.program.known import KnownProgram
from gdbserver.rsp import commands, replies
from gdbserver.server.worker import Workers
from gdbserver.target.rtos import Rtos, Survey
from gdbserver.target.target import Target

MACHINE_NAME = "Cortex-M7"

_NO_SAMPLE = 0xFFFFFFFF
_XPSR_THUMB = 1 << 24
_ANY = (-1, 0)


def known_registers(target: Target, names: Iterable[str]) -> dict[str, int]:
    """The values of those of `names` that can be known of the core.

    While it runs these are two, and GDB cannot do without them: pc, of which DWT takes
    samples (Armv7-M ARM, DDI 0403E.e, "Program Counter Sampling Register"), and xpsr, whose
    Thumb bit is always set.
    """
    if target.seems_halted():
        return target.read_registers(names)
    sample = target.read_word(DWT_PCSR)
    if sample == _NO_SAMPLE:
        return {}
    known = {"pc": sample & ~1, "xpsr": _XPSR_THUMB}
    return {name: known[name] for name in names if name in known}


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """What `info threads` shows."""

    number: int
    name: str
    state: str


class Threads:
    """The threads as one client numbers them, and which of them its packets are about."""

    def __init__(self, workers: Workers, program: KnownProgram | None = None) -> None:
        self.only_one = False
        self.told = True
        """The client has heard of one, and not ended or left it since."""
        self._target = workers.target
        self._program = program
        self._rtos = Rtos()
        self._numbers: dict[int, int] = {}
        self._core = 1
        """The number of the thread on the core, when the client heard of it last."""
        self._resets = 0
        self._selected = 0

    # --- Which there are -------------------------------------------------------------------------

    async def rows(self) -> list[ThreadRow]:
        """All threads, by number."""
        look = self._target.ask if self.alone else self._target.call
        rows = await look(self._rows)
        self.told = True
        return rows

    async def is_alive(self, number: int) -> bool:
        """Whether there is such a thread, or it means any."""
        if self.alone:
            return number in (*_ANY, self._core)
        return number in (*_ANY, *(row.number for row in await self.rows()))

    @property
    def alone(self) -> bool:
        """Whether the core is the only thread, and nobody needs to be asked."""
        return self.only_one or not self._rtos.known

    async def current(self) -> int:
        """The number of the thread on the core."""
        if self.alone:
            self._numbers = {}
            return self._core
        return await self._target.call(lambda target: self._current(self._survey(target)))

    def _survey(self, target: Target) -> Survey | None:
        survey = None if self.alone else self._rtos.survey(target)
        if survey is None or self._resets != target.resets:
            self._resets = target.resets
            self._numbers = {}
        return survey

    def _current(self, survey: Survey | None) -> int:
        if survey is not None:
            self._core = self._number(survey.current)
        return self._core

    def _number(self, key: int) -> int:
        if key not in self._numbers:
            taken = self._numbers.values()
            free = (number for number in itertools.count(1) if number not in taken)
            self._numbers[key] = next(free) if taken else self._core
        return self._numbers[key]

    def _rows(self, target: Target) -> list[ThreadRow]:
        survey = self._survey(target)
        number = self._current(survey)
        if survey is not None and (threads := survey.threads()):
            found = [ThreadRow(self._number(t.key), t.name, t.state) for t in threads]
            return sorted(found, key=lambda row: row.number)
        return [ThreadRow(number, MACHINE_NAME, "halted" if target.seems_halted() else "running")]

    # --- Which one is meant ----------------------------------------------------------------------

    def select(self, number: int) -> None:
        """The registers that are asked for from now on are that thread's; 0 is the core."""
        self._selected = number

    def select_the_one_that_stops(self) -> None:
        """That on the core: of a stop GDB takes the thread for selected, and does not say so."""
        self._selected = 0

    async def registers(self, names: Sequence[str], number: int | None = None) -> dict[str, int]:
        """Those of `names` that can be known of a thread; without a number, of the selected one."""
        look = self._target.ask if self.alone else self._target.call
        return await look(self._registers, self._selected if number is None else number, names)

    def _registers(self, target: Target, number: int, names: Sequence[str]) -> dict[str, int]:
        survey = self._survey(target)
        if survey is None or number in (*_ANY, self._current(survey)):
            return known_registers(target, names)
        return survey.registers(self._key(survey, number), names)

    def _key(self, survey: Survey, number: int) -> int:
        for thread in survey.threads():
            if self._number(thread.key) == number:
                return thread.key
        raise BadRequest(f"there is no thread {number}")

    async def check_on_core(self) -> None:
        """Raises: ThreadNotOnCore, when the selected thread is another than the core's."""
        current = await self.current()
        if self._numbers and self._selected not in (*_ANY, current):
            raise ThreadNotOnCore(self._selected, current)

    async def chosen(self, actions: Sequence[commands.Action]) -> commands.Continue | commands.Step:
        """The action that the leftmost mention of the core's thread asks for.

        The core runs all threads or none, so who asks for others to run gets that; but one that is
        not on the core cannot be stepped.

        Raises:
            ThreadNotOnCore: that was asked for.
            BadRequest: no action is about any thread that there is.
        """
        current = await self.current()
        for thread, action in actions:
            if thread in (*_ANY, current):
                return action
            if self._numbers and isinstance(action, commands.Step):
                raise ThreadNotOnCore(thread, current)
        if self._numbers and actions:
            return commands.Continue()
        raise BadRequest(f"no action is about thread {current}")

    # --- Where the RTOS is -----------------------------------------------------------------------

    async def look_up(self, name: str | None = None, value: int | None = None) -> bytes:
        """The next symbol to look up; the first, where none has been."""
        if name is None:
            self._rtos.forget()
        else:
            self._rtos.learn(name, value)
        wanted = await self._target.call(self._rtos.wanted)
        if wanted is not None:
            return replies.symbol(wanted)
        if not self._rtos.known:
            await self.begin()
        return replies.OK

    async def begin(self) -> None:
        """Look up the symbols in the program that the server was told of, if it was."""
        if self._program is None:
            return
        self._rtos.forget()
        while (wanted := await self._target.call(self._rtos.wanted)) is not None:
            value = await trio.to_thread.run_sync(self._program.address_of, wanted)
            self._rtos.learn(wanted, value)
