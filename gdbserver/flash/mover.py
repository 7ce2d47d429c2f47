"""Internal flash by way of the MDMA: beside a loader, over a probe that gives up on WAIT.

Such a probe can stream no more than two flash words at a time, and comes back for the next two
long after they are done.  Where no loader has the core, the `feeder` does better.  Beside a loader
it is the MDMA: the host fills a ring of buffers, and a channel moves them into flash.  It takes
the wait that the probe does not, while link and core do something else.

Each bank has a ring and a channel, which moves blocks: what lies in the ring when the block before
is done.  There is one engine for all channels, and one that waits for its bank holds up the other
bank.  So when both program, a request is for four flash words, and the MDMA makes them itself:

    beat            at the lowest priority, writes SWRQ of `round` thousands of times
    round           at each request writes SWRQ of bank 1's channel and of bank 2's; then it loads
                    itself anew, from a list with one node
    bank 1, bank 2  at each request move four flash words, before anybody else

So they take turns, and while the engine waits for one bank the other programs what it has in its
queue.  A request to a channel that still has one is lost, and one to a channel that is
not enabled has no effect; the next round makes another.  Whether all that works is tried out,
from RAM to RAM, before flash is touched.

Where it does not, or the link is slower than a bank, or a cache may hide the list, the banks take
turns by sectors, as with streaming: a request is for a block then, and one bank programs while
the other is erased.

Rule 1: the flash controller drops what it does not like, and flags it, without an error on the bus.
So the MDMA goes on, and FLASH_SR is looked at when all is moved, as always.
Rule 2: a program's own transfers go on while the core is halted.  Where one of its channels is
enabled, the MDMA is left alone.
Rule 3: rings are in ITCM.  No cache hides what is written there, and no queue of ours is there.
The MDMA reaches it through a port of its own, by words.  A list has to be behind the other port.
Rule 4: where the MDMA does not do what it should (a loader's Init may reset it), time is lost and
nothing else: the sector is erased again, and programmed by two flash words at a time.

RM0433, "MDMA controller (MDMA)": "MDMA buffer transfer", "Request arbitration", "Linked-list mode",
and SWRQ in "MDMA channel x control register (MDMA_CxCR)", of which a byte may be written;
"Embedded flash memory (FLASH)".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from gdbserver.chip.cortex_m import CCR, Ccr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    AHB3_MDMA,
    FLASH_WORD,
    ITCM,
    MDMA,
    MDMA_CBNDTR_BRC_SHIFT,
    MDMA_CBRUR_DUV_SHIFT,
    MDMA_CCR,
    MDMA_CCR_EN,
    MDMA_CCR_PL_SHIFT,
    MDMA_CCR_SWRQ,
    MDMA_CCR_SWRQ_BYTE,
    MDMA_CHANNEL,
    MDMA_CHANNELS,
    MDMA_CIFCR,
    MDMA_CISR_TEIF,
    MDMA_CMAR,
    MDMA_CSAR,
    MDMA_CTBR_SBUS,
    MDMA_CTCR,
    MDMA_CTCR_TLEN_SHIFT,
    MDMA_FLAGS,
    RCC_AHB3ENR,
    SRAM4,
    MdmaCtcr,
)
from gdbserver.errors import MdmaFailed, TargetError
from gdbserver.flash.driver import putting_back
from gdbserver.loader.borrowed_ram import BorrowedRam
from gdbserver.target.access import Access, Read, Write, words_of
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

PIECE: Final = 6 * 1024
"""Bytes that are put into a ring at once, at most: 19 ms of programming."""

RING: Final = 3 * PIECE

_BANKS: Final = (12, 13)  # the last channels: the program's own would come before them
_ROUND, _BEAT = 14, 15
_OURS: Final = (*_BANKS, _ROUND, _BEAT)
_FIRST, _SECOND, _LAST = 3, 1, 0  # priority levels of banks, round and beat
_BUFFER: Final = 4 * FLASH_WORD  # what an arbiter's decision, and a request, is for
_HOW: Final = (  # eight words make a flash word
    MdmaCtcr.SWRM
    | _BUFFER - 1 << MDMA_CTCR_TLEN_SHIFT
    | MdmaCtcr.SOURCE_COUNTS_UP
    | MdmaCtcr.SOURCE_WORDS
    | MdmaCtcr.SOURCE_BURSTS_OF_8
    | MdmaCtcr.DESTINATION_COUNTS_UP
    | MdmaCtcr.DESTINATION_WORDS
    | MdmaCtcr.DESTINATION_BURSTS_OF_8
)
_BEATS: Final = 8192  # at a time: more than the words of a sector, and over soon if nobody listens

LIST: Final = Span.of(SRAM4.end - 512, 512)
"""The node of `round`, what it writes, and from `_TRIAL` on what is moved there on trial."""

_ONE, _TRIAL = LIST.start + 40, LIST.start + 64
_TRIED: Final = 2 * _BUFFER

_STOPPED = 0.1  # seconds; it takes a few flash words
_LATE = 0.5  # seconds without progress; by the data sheet 100 us


class Mover:
    """The MDMA, as far as it is ours; it is looked at when it is first needed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stack = ExitStack()
        self._usable = True
        """Until it is known that it is not."""
        self.is_open = False
        self.alternates = False
        """Whether both banks can be programmed at the same time."""
        self.is_beating = False
        """Whether there is a beat, as far as is known."""
        self.ram = BorrowedRam(target)
        self.lanes = MoverLane(target, self, 0), MoverLane(target, self, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with putting_back(error, "the MDMA and ITCM were not put back"):
            self._stack.close()

    # --- Opening and closing --------------------------------------------------------------------

    def open(self, *, slow: bool) -> bool:
        """Whether it can be used; `slow`: a bank is quicker than the link."""
        if not self.is_open and self._usable:
            try:
                self._usable = self.is_open = self._open()
                self.alternates = self.is_open and not slow and self._works_by_itself()
            except TargetError as error:
                self._usable = self.is_open = False
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
        self._stack.enter_context(self.ram)
        self._stack.callback(self.stop)
        return True

    def _clocked(self, on: bool) -> bool:
        """Switch its clock; whether it was on before."""
        before = self._target.read_word(RCC_AHB3ENR)
        self._target.write_word(RCC_AHB3ENR, before | AHB3_MDMA if on else before & ~AHB3_MDMA)
        return bool(before & AHB3_MDMA)

    def _answers(self, channel: int) -> bool:
        pattern = [ITCM.end - RING, 0x08000020]
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

    def _works_by_itself(self) -> bool:
        """Try `beat` and `round` on two flash words that bank 2's channel moves from RAM to RAM.

        Two rounds: so `round` has to make both of its steps, and to load itself.
        """
        target = self._target
        if target.read_word(CCR) & Ccr.DC:
            log.info("the data cache is on: the MDMA takes the banks in turn")
            return False
        self.ram.borrow(LIST)
        how = MdmaCtcr.SWRM | MdmaCtcr.REPEATED_BLOCKS_PER_REQUEST | MdmaCtcr.DESTINATION_COUNTS_UP
        node = [
            *(how, len(_BANKS) - 1 << MDMA_CBNDTR_BRC_SHIFT | 1, _ONE, _request(_BANKS[0])),
            *(MDMA_CHANNEL - 1 << MDMA_CBRUR_DUV_SHIFT, LIST.start, 0),
        ]
        trial = [_HOW, _TRIED, _ring(1), _TRIAL, 0, 0, MDMA_CTBR_SBUS]
        target.run(
            [
                Write(LIST.start, [*node, 0, 0, 0, 1]),
                *_set_up(_ROUND, node, _SECOND),
                *_set_up(_BANKS[1], trial, _FIRST),
            ]
        )
        self.beat()
        there, moved, (control,) = target.run(
            [
                Read(_ring(1), _TRIED // 4),
                Read(_TRIAL, _TRIED // 4),
                Read(_channel(_BANKS[1]) + MDMA_CCR, 1),
            ]
        )
        self.rest()
        if list(there) == list(moved) and not control & MDMA_CCR_EN:
            return True
        log.info("the MDMA does not make requests itself: it takes the banks in turn")
        self.stop()
        return False

    # --- Both banks at once ---------------------------------------------------------------------

    def is_shared(self) -> bool:
        """Whether requests shall be for flash words, because both banks are programmed."""
        return self.alternates and all(lane.active for lane in self.lanes)

    def beat(self) -> None:
        """See to it that there is a beat, for a while.

        Raises: MdmaFailed when there is nobody to hear it.
        """
        if not self._target.read_word(_channel(_ROUND) + MDMA_CCR) & MDMA_CCR_EN:
            raise MdmaFailed("was reset by somebody")
        self.is_beating = True
        if not self._target.read_word(_channel(_BEAT) + MDMA_CCR) & MDMA_CCR_EN:
            how = MdmaCtcr.SWRM | MdmaCtcr.EVERYTHING_PER_REQUEST
            what = [how, _BEATS, _ONE, _request(_ROUND), 0, 0, 0]
            self._target.run(_set_up(_BEAT, what, _LAST, request=True))

    def rest(self) -> None:
        """Nobody listens to the beat any more."""
        self.is_beating = False
        self._target.write_word(_channel(_BEAT) + MDMA_CCR, 0)

    # --- Coming to an end -----------------------------------------------------------------------

    def give_up(self) -> None:
        """Something went wrong: do without it from now on.

        Raises: MdmaFailed when it does not even stop.
        """
        self._usable = self.is_open = False
        self._clocked(True)  # or it would go on when somebody else does that
        self.stop()

    def stop(self) -> None:
        """Return when the MDMA has done with flash; what was not moved is forgotten.

        Raises: MdmaFailed when it goes on.
        """
        for number in reversed(_OURS):
            self.disable(number)

    def disable(self, number: int) -> None:
        """Raises: MdmaFailed when it goes on."""
        control = _channel(number) + MDMA_CCR
        self._target.write_word(control, 0)
        deadline = self._target.deadline(_STOPPED)
        while self._target.read_word(control) & MDMA_CCR_EN:
            if deadline.expired():
                raise MdmaFailed("does not stop")


class MoverLane:
    """What one bank has of the MDMA: a ring, and the channel that empties it."""

    def __init__(self, target: Target, mover: Mover, bank: int) -> None:
        self._target = target
        self._mover = mover
        self._number = _BANKS[bank]
        self._ring = _ring(bank)
        self._borrowed: list[int] = []
        self.active = False
        """Whether its bank is being programmed."""
        self.begin(Span(0, 0), 0.0)

    def begin(self, span: Span, seconds_per_byte: float) -> None:
        """What is put into the ring from now on is for `span`, from its start."""
        self.span = span
        self._seconds_per_byte = seconds_per_byte
        self._filled = 0  # so many bytes were put into the ring;
        self._told = 0  # of so many the MDMA was told;
        self._moved = 0  # so many it has moved, as far as is known
        self._due = 0.0
        self._patience = self._target.deadline(_LATE)
        self._by_word = False  # whether a request is for flash words, not for the block

    def next(self) -> tuple[int, int]:
        """Which part of the run to put into the ring; an empty one where there is no room."""
        end = min(self._filled + PIECE, len(self.span))
        return self._filled, end if end <= self._moved + RING else self._filled

    def put(self, data: bytes) -> None:
        """Add the next part."""
        start = self._ring + self._filled % RING
        if start not in self._borrowed:
            self._mover.ram.borrow(Span.of(start, PIECE))
            self._borrowed.append(start)
        self._target.run([Write(start, words_of(data))])
        self._filled += len(data)

    def is_done(self) -> bool:
        return self._moved == len(self.span)

    def until_due(self) -> float:
        """Seconds until `look` may have something to do."""
        return self._due - self._target.monotonic()

    def look(self) -> None:
        """See how far it is; tell it of the next block.

        Raises: MdmaFailed when it stopped before the end of a block, or does not come to it.
        """
        if not self._mover.is_open:
            raise MdmaFailed("was given up")
        if self._moved < self._told:
            self._see()
        if self._moved == self._told < self._filled:
            self._go_on()
        left = min(self._told - self._moved, PIECE)
        self._due = self._target.monotonic() + left * self._seconds_per_byte

    def _see(self) -> None:
        flags, _, error, control, _, _, _, at = self._target.read_words(_channel(self._number), 8)
        moved = at - self.span.start
        if flags & MDMA_CISR_TEIF:
            raise MdmaFailed(f"stopped with an error, CESR = {error:#x}")
        if not self._moved <= moved <= self._told:
            raise MdmaFailed("was reset by somebody")
        if control & MDMA_CCR_EN:  # then it had not finished the block, whatever it has by now
            moved = min(moved, self._told - FLASH_WORD)
        elif moved < self._told:
            raise MdmaFailed("was stopped by somebody")
        if moved > self._moved:
            self._moved = moved
            self._patience = self._target.deadline(_LATE)
        elif self._patience.expired():
            raise MdmaFailed(f"does not come to the end of {self.span}")
        elif self._by_word:
            self._mover.beat()

    def _go_on(self) -> None:
        """Tell the MDMA of what the ring holds, as far as it is in one piece."""
        offset = self._moved % RING
        length = min(self._filled - self._moved, RING - offset)
        self._by_word = self._mover.is_shared()
        how = _HOW if self._by_word else _HOW | MdmaCtcr.A_BLOCK_PER_REQUEST
        to = self.span.start + self._moved
        what = [how, length, self._ring + offset, to, 0, 0, MDMA_CTBR_SBUS]
        self._target.run(_set_up(self._number, what, _FIRST, request=not self._by_word))
        if self._by_word and not self._mover.is_beating:
            self._mover.beat()
        self._told += length
        self._patience = self._target.deadline(_LATE)

    def give_back(self) -> bool:
        """Restore a piece of RAM that this run needs no more; False where there is none."""
        if self._filled < len(self.span):
            return False
        needed = range(self._moved // PIECE * PIECE, self._filled, PIECE)
        in_use = {self._ring + at % RING for at in needed}
        start = next((start for start in self._borrowed if start not in in_use), None)
        if start is not None:
            self._mover.ram.give_back(start)
            self._borrowed.remove(start)
        return start is not None

    def end(self) -> None:
        """Nothing more is to be moved for now.

        Raises: MdmaFailed when its channel does not stop.
        """
        self.active = False
        if self._mover.is_open:
            self._mover.disable(self._number)
            if self._mover.alternates and not any(lane.active for lane in self._mover.lanes):
                self._mover.rest()


def _set_up(number: int, what: Sequence[int], level: int, *, request: bool = False) -> list[Access]:
    """How to enable a channel with the registers from CTCR to CTBR; SWRQ is of use after EN."""
    channel = _channel(number)
    control = MDMA_CCR_EN | level << MDMA_CCR_PL_SHIFT
    return [
        Write(channel + MDMA_CIFCR, [MDMA_FLAGS]),
        Write(channel + MDMA_CTCR, what),
        Write(channel + MDMA_CCR, [control]),
        *([Write(channel + MDMA_CCR, [control | MDMA_CCR_SWRQ])] if request else []),
    ]


def _channel(number: int) -> int:
    """Where the registers of a channel are."""
    return MDMA + MDMA_CHANNEL * (1 + number)


def _request(number: int) -> int:
    """Where a 1 makes a request to a channel."""
    return _channel(number) + MDMA_CCR_SWRQ_BYTE


def _ring(bank: int) -> int:
    return ITCM.end - (len(_BANKS) - bank) * RING
