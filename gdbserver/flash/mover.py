"""Internal flash by way of the MDMA: beside a loader, over a probe that gives up on WAIT.

Such a probe can stream no more than two flash words at a time, and comes back for the next two
long after they are done.  Where no loader has the core, the `feeder` does better.  Beside a loader
it is the MDMA: the host writes a few KiB into a buffer, and a channel moves them into flash.  It
takes the wait that the probe does not, while link and core do something else.

Two buffers take turns: one is filled while the other is moved.  The MDMA looks after each flash
word for the channel with the highest priority, and what is under way cannot be appended to.  So
each piece of a sector has a channel and level of its own, below those of the piece before: four
levels of four channels make sixteen ranks.  A channel that waits for its bank holds up all others.
So one bank programs while the other is erased, as with streaming.

Rule 1: the flash controller drops what it does not like, and flags it, without an error on the bus.
So the MDMA goes on, and FLASH_SR is looked at when all is moved, as always.
Rule 2: a program's own transfers go on while the core is halted.  Where one of its channels is
enabled, the MDMA is left alone.
Rule 3: buffers are in ITCM.  No cache hides what is written there, and no queue of ours is there.
The MDMA reaches it through a port of its own, by words.
Rule 4: where the MDMA does not do what it should (a loader's Init may reset it), time is lost and
nothing else: the sector is erased again, and programmed by two flash words at a time.

RM0433, "MDMA controller (MDMA)"; "Embedded flash memory (FLASH)".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AHB3_MDMA,
    FLASH_WORD,
    ITCM,
    MDMA,
    MDMA_CCR,
    MDMA_CCR_EN,
    MDMA_CCR_PL_SHIFT,
    MDMA_CCR_SWRQ,
    MDMA_CHANNEL,
    MDMA_CHANNELS,
    MDMA_CIFCR,
    MDMA_CISR,
    MDMA_CISR_CTCIF,
    MDMA_CISR_TEIF,
    MDMA_CMAR,
    MDMA_CSAR,
    MDMA_CTBR_SBUS,
    MDMA_CTCR,
    MDMA_CTCR_TLEN_SHIFT,
    MDMA_FLAGS,
    RCC_AHB3ENR,
    MdmaCtcr,
)
from gdbserver.errors import MdmaFailed, ProbeError, TargetError
from gdbserver.loader.borrowed_ram import BorrowedRam
from gdbserver.target.access import Read, Write, words_of
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

BUFFER: Final = 12 * 1024
"""Bytes that a channel is told to move at once, at most: 39 ms of programming."""

_FIRST: Final = 1024  # of a run: the bank shall not wait for long
_OURS: Final = (12, 13, 14, 15)  # the last: the program's own would come before them
_LEVELS: Final = 4
_RANKS: Final = _LEVELS * len(_OURS)  # a sector is no more than 14 pieces
_BUFFERS: Final = 2
_HOW: Final = (  # eight words make a flash word
    MdmaCtcr.SWRM
    | MdmaCtcr.A_BLOCK_PER_REQUEST
    | FLASH_WORD - 1 << MDMA_CTCR_TLEN_SHIFT
    | MdmaCtcr.SOURCE_COUNTS_UP
    | MdmaCtcr.SOURCE_WORDS
    | MdmaCtcr.SOURCE_BURSTS_OF_8
    | MdmaCtcr.DESTINATION_COUNTS_UP
    | MdmaCtcr.DESTINATION_WORDS
    | MdmaCtcr.DESTINATION_BURSTS_OF_8
)

_STOPPED = 0.1  # seconds; it takes a flash word
_LATE = 0.5  # seconds that a buffer may take longer than it should; by the data sheet 0.04


@dataclass
class _Job:
    """A piece that a channel has been told to move."""

    channel: int
    """Where its registers are."""
    span: Span
    due: float
    """When it should be done."""


class Mover:
    """The MDMA, as far as it is ours; it is looked at when it is first needed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stack = ExitStack()
        self._jobs: deque[_Job] = deque()
        self._begun = 0
        """Jobs of this run, or since the ranks were used up."""
        self._usable = True
        """Until it is known that it is not."""
        self.is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
        except (ProbeError, TargetError) as failure:
            if error is None:
                raise
            log.warning("the MDMA and ITCM were not put back: %s", failure)

    # --- Opening and closing --------------------------------------------------------------------

    def open(self) -> bool:
        """Whether it can be used; what is in its place is saved."""
        if not self.is_open and self._usable:
            try:
                self._usable = self.is_open = self._open()
            except TargetError as error:
                self._usable = False
                log.info("the MDMA is not used: %s", error)
        return self._usable

    def _open(self) -> bool:
        target = self._target
        if not self._clocked(True):
            self._stack.callback(self._clocked, False)
        words = target.read_words(_channel(0), MDMA_CHANNELS * MDMA_CHANNEL // 4)
        of_each = [
            words[n : n + MDMA_CHANNEL // 4] for n in range(0, len(words), MDMA_CHANNEL // 4)
        ]
        if any(registers[MDMA_CCR // 4] & MDMA_CCR_EN for registers in of_each):
            log.info("the program uses the MDMA: it is left alone")
            return False
        for n in _OURS:
            self._stack.callback(self._restore, _channel(n), of_each[n])
            target.write_words(_channel(n) + MDMA_CMAR, [0, 0])  # nobody is to be told
        if not self._answers(_channel(_OURS[0])):
            log.info("there is no MDMA that answers: it is not used")
            return False
        ram = self._stack.enter_context(BorrowedRam(target))
        for n in range(_BUFFERS):
            ram.borrow(Span.of(_buffer(n), BUFFER))
        self._stack.callback(self.stop)
        return True

    def _clocked(self, on: bool) -> bool:
        """Switch its clock; whether it was on before."""
        before = self._target.read_word(RCC_AHB3ENR)
        self._target.write_word(RCC_AHB3ENR, before | AHB3_MDMA if on else before & ~AHB3_MDMA)
        return bool(before & AHB3_MDMA)

    def _answers(self, channel: int) -> bool:
        pattern = [ITCM.end - BUFFER, 0x08000020]
        (found,) = self._target.run(
            [Write(channel + MDMA_CSAR, pattern), Read(channel + MDMA_CSAR, 2)]
        )
        return list(found) == pattern

    def _restore(self, channel: int, words: Sequence[int]) -> None:
        self._target.run(
            [
                Write(channel + MDMA_CIFCR, [MDMA_FLAGS]),
                Write(channel + MDMA_CTCR, words[MDMA_CTCR // 4 : MDMA_CTCR // 4 + 7]),
                Write(channel + MDMA_CMAR, words[MDMA_CMAR // 4 : MDMA_CMAR // 4 + 2]),
                Write(channel + MDMA_CCR, [words[MDMA_CCR // 4]]),
            ]
        )

    def give_up(self) -> None:
        """Something went wrong: do without it from now on.

        Raises: MdmaFailed when it does not even stop.
        """
        self._usable = False
        self._clocked(True)  # or it would go on when somebody else does that
        self.stop()

    def stop(self) -> None:
        """Return when the MDMA has done with flash; what was not moved is forgotten.

        Raises: MdmaFailed when it goes on.
        """
        for job in self._jobs:
            self._target.write_word(job.channel + MDMA_CCR, 0)
        while self._jobs:
            deadline = self._target.deadline(_STOPPED)
            while self._target.read_word(self._jobs[0].channel + MDMA_CCR) & MDMA_CCR_EN:
                if deadline.expired():
                    raise MdmaFailed("does not stop")
            self._jobs.popleft()

    # --- Moving -----------------------------------------------------------------------------------

    @staticmethod
    def sizes(length: int) -> Iterator[tuple[int, int]]:
        """How to cut a run: small pieces first, so that the bank has something to do at once."""
        start, size = 0, _FIRST
        while start < length:
            yield start, min(start + size, length)
            start, size = start + size, min(2 * size, BUFFER)

    def begin(self) -> None:
        """What is moved from now on is another run: of a sector at most."""
        assert not self._jobs
        self._begun = 0

    def has_room(self) -> bool:
        """Whether `move` may be called."""
        if self._begun == _RANKS:  # from the highest again, which nothing may be below
            return not self._jobs
        return len(self._jobs) < _BUFFERS

    def is_busy(self) -> bool:
        return bool(self._jobs)

    def until_due(self) -> float:
        """Seconds until the first of what is under way may be done."""
        return self._jobs[0].due - self._target.monotonic()

    def move(self, span: Span, data: bytes, seconds_per_byte: float) -> None:
        """Have `data`, whole flash words, moved into flash, after all before.

        Eight words from ITCM to one flash word, for as many as there are: RM0433, "MDMA channel x
        transfer configuration register (MDMA_CxTCR)".  SWRQ is of use once EN is set.
        """
        rank = self._begun % _RANKS
        self._begun = rank + 1
        level, number = divmod(rank, len(_OURS))
        channel, buffer = _channel(_OURS[number]), _buffer(rank % _BUFFERS)
        control = MDMA_CCR_EN | _LEVELS - 1 - level << MDMA_CCR_PL_SHIFT
        self._target.run(
            [
                Write(buffer, words_of(data)),
                Write(channel + MDMA_CIFCR, [MDMA_FLAGS]),
                Write(
                    channel + MDMA_CTCR, [_HOW, len(data), buffer, span.start, 0, 0, MDMA_CTBR_SBUS]
                ),
                Write(channel + MDMA_CCR, [control]),
                Write(channel + MDMA_CCR, [control | MDMA_CCR_SWRQ]),
            ]
        )
        begins = max(self._target.monotonic(), self._jobs[-1].due if self._jobs else 0.0)
        self._jobs.append(_Job(channel, span, begins + len(data) * seconds_per_byte))

    def look(self) -> None:
        """See whether the first of what is under way is done.

        Raises: MdmaFailed when it stopped before its end, or does not come to it.
        """
        job = self._jobs[0]
        flags, _, error, control = self._target.read_words(job.channel, 4)
        if not control & MDMA_CCR_EN:  # which it may not have been yet when the flags were read
            flags = self._target.read_word(job.channel + MDMA_CISR)
        now = self._target.monotonic()
        if flags & MDMA_CISR_TEIF:
            raise MdmaFailed(f"stopped with an error, CESR = {error:#x}")
        if control & MDMA_CCR_EN:
            if now > job.due + _LATE:
                raise MdmaFailed(f"does not come to the end of {job.span}")
        elif flags & MDMA_CISR_CTCIF:
            self._jobs.popleft()
        else:
            raise MdmaFailed("was reset by somebody")


def _channel(number: int) -> int:
    """Where the registers of a channel are."""
    return MDMA + MDMA_CHANNEL * (1 + number)


def _buffer(number: int) -> int:
    return ITCM.end - (_BUFFERS - number) * BUFFER
