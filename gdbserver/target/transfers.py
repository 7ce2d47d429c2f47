"""The core's registers, read and written while it stands: through DCRSR and DCRDR.

DCRSR is told which register, and whether it is to be written; then the core moves it from or to
DCRDR, and DHCSR.S_REGRDY tells when it has.  That takes a few cycles of the core, so usually nobody
waits for it: whole lists of registers are moved, and DHCSR tells afterwards whether the core kept
up.  Where it did not, because its clock is that slow, the list is moved once more, and each waited
for.

Armv7-M ARM (DDI 0403E.e), "Debug Core Register Selector Register, DCRSR".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from gdbserver.chip.cortex_m import DCRDR, DCRSR, DCRSR_WRITE, DHCSR, Dhcsr, Selector
from gdbserver.errors import TargetError
from gdbserver.target import registers
from gdbserver.target.access import Access, Read, Write
from gdbserver.target.link import Deadline
from gdbserver.target.port import Port

TRANSFER_TIMEOUT: Final = 0.5
"""Seconds for one register: an age, whatever clock the core has."""

_CONTROL_SPSEL: Final = 2


class Known(dict[int, int]):
    """What was read of a core that stands: values by DCRSR selector."""

    keeps_up = False
    """The core was seen to be done with a register by the next exchange with the probe."""


def read_together(selectors: Iterable[int]) -> list[Access]:
    """Accesses that bring registers to DCRDR, one after the other: for `Transfers.take`.

    DHCSR, which is read before DCRDR is, tells whether the core has done its part by then.
    """
    return [
        access
        for selector in selectors
        for access in (Write(DCRSR, [selector]), Read(DHCSR), Read(DCRDR))
    ]


class Transfers:
    """Moves registers.

    `note_status` is told whatever DHCSR says; `forget_halt`, that the core does not stand.
    """

    def __init__(
        self,
        port: Port,
        deadline: Callable[[float], Deadline],
        note_status: Callable[[int], int],
        forget_halt: Callable[[], None],
    ) -> None:
        self._port = port
        self._deadline = deadline
        self._note_status = note_status
        self._forget_halt = forget_halt

    # --- Reading -----------------------------------------------------------------------------

    def read(
        self, known: Known, selectors: Sequence[int], besides: Sequence[Access] = ()
    ) -> list[Sequence[int]]:
        """Read what is not known yet of `selectors`; the result is that of `besides`.

        These ride along, but with a probe that makes an exchange of each access.
        """
        if self._port.has_memory_commands:
            complete = self._read_one_by_one(known, selectors)
            found = self._port.run(besides) if besides else []
        else:
            missing = [selector for selector in selectors if selector not in known]
            accesses = [*read_together(missing), *besides]
            found = self._port.run(accesses) if accesses else []
            complete = self.take(known, missing, found[: 2 * len(missing)])
            del found[: 2 * len(missing)]
        if not complete:
            self._read_slowly(known, selectors)
        return found

    def take(self, known: Known, selectors: Iterable[int], found: Iterable[Sequence[int]]) -> bool:
        """Know what the reads of `read_together` have found; False, and nothing, if too early."""
        words = [word for (word,) in found]
        kept_up = self._has_kept_up(words[::2])
        if kept_up:
            known |= zip(selectors, words[1::2], strict=True)
        return kept_up

    def _read_one_by_one(self, known: Known, selectors: Sequence[int]) -> bool:
        """The same of all that is not known yet, where DHCSR is asked only once.

        With the first register that is read at a stop, it tells whether the core is done with one
        by the next access; later, that the core still stands.
        """
        missing = [selector for selector in selectors if selector not in known]
        if not missing:
            return True
        look: list[Access] = [Read(DHCSR)]
        if not known.keeps_up:
            first, look = missing[:1], []
            known.keeps_up = self.take(known, first, self._port.run(read_together(first)))
            if not known.keeps_up:
                return False
        read = dict(known)
        self._derive_stack(read, selectors)
        rest = [selector for selector in selectors if selector not in read]
        reads = [access for s in rest for access in (Write(DCRSR, [s]), Read(DCRDR))]
        if accesses := [*reads, *look]:
            words = [word for (word,) in self._port.run(accesses)]
            self._has_kept_up(words[len(rest) :])
            read |= zip(rest, words, strict=False)
        known |= read
        return True

    def _derive_stack(self, known: dict[int, int], selectors: Sequence[int]) -> None:
        """Know msp or psp without reading it: sp is one of them."""
        wanted = {Selector.MSP, Selector.PSP} & {*selectors} - known.keys()
        if not wanted or Selector.SP not in {*selectors, *known}:
            return
        self._peek(known, Selector.SP)
        process = False
        if not self._peek(known, Selector.XPSR) & 0x1FF:  # else a handler runs, on msp
            process = bool(self._peek(known, Selector.SPECIAL) >> 24 & _CONTROL_SPSEL)
        known[Selector.PSP if process else Selector.MSP] = known[Selector.SP]

    def _peek(self, known: dict[int, int], selector: int) -> int:
        if selector not in known:
            ((known[selector],),) = self._port.run([Write(DCRSR, [selector]), Read(DCRDR)])
        return known[selector]

    def _read_slowly(self, known: Known, selectors: Sequence[int]) -> None:
        self._wait()
        for selector in selectors:
            if selector not in known:
                self._move([Write(DCRSR, [selector])])
                (known[selector],) = self._port.read(DCRDR)

    # --- Writing -----------------------------------------------------------------------------

    def write(self, known: Known, raw: Mapping[int, int]) -> None:
        """Write values by selector; DHCSR is asked as where they are read."""
        if not raw:
            return
        selectors = asked = list(raw)
        if self._port.has_memory_commands:
            asked = selectors[-1:] if known.keeps_up else selectors[:1]
        accesses: list[Access] = []
        for selector, value in raw.items():
            accesses += _write(selector, value)
            accesses += [Read(DHCSR)] * (selector in asked)
        for selector in registers.aliases(raw):
            known.pop(selector, None)
        if not self._has_kept_up(status for (status,) in self._port.run(accesses)):
            self._wait()
            for selector, value in raw.items():
                self._move(_write(selector, value))
        known |= {s: raw[s] for s in raw if s in registers.KEPT_AS_WRITTEN}

    # --- Waiting -----------------------------------------------------------------------------

    def _has_kept_up(self, statuses: Iterable[int]) -> bool:
        """Whether the core was done with each register by the time at which DHCSR was read.

        Raises:
            TargetError: it was not even halted.
        """
        together = -1
        for status in statuses:
            together &= self._note_status(status)
        if not together & Dhcsr.S_HALT:
            self._port.forget()  # it may not have been DHCSR: see `Core._look`
            self._forget_halt()
            raise TargetError("the core is running", hint="something else resumed or reset it")
        return bool(together & Dhcsr.S_REGRDY)

    def _move(self, request: Sequence[Write]) -> None:
        self._port.run(request)
        self._wait()

    def _wait(self) -> None:
        """Wait until the core has done its part."""
        deadline = self._deadline(TRANSFER_TIMEOUT)
        while not self._has_kept_up(self._port.read(DHCSR)):
            if deadline.expired():
                self._forget_halt()
                raise TargetError(
                    "the core does not show its registers: DHCSR.S_REGRDY stays 0",
                    hint="its clock may have stopped: `monitor reset halt`",
                )


def _write(selector: int, value: int) -> list[Write]:
    return [Write(DCRDR, [value]), Write(DCRSR, [DCRSR_WRITE | selector])]
