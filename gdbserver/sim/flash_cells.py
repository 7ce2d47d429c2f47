"""The cells of one flash bank: bits that programming clears and erasing sets, with ECC.

Each flash word of 256 bits carries 10 ECC bits, which are programmed and erased with it.
ST does not publish the code.  What is known fixes the rule that is modelled here:

1. Erased flash reads without an error, so the ECC of all ones is all ones; and a flash word
   may be overwritten with zeros at any time, so the ECC of all zeros is all zeros.
2. Programming ANDs the data and ANDs the ECC.  If one of the two words was all ones, all
   zeros or equal to the other, the ECC still belongs to some word, which is remembered.
   Else it belongs to none.
3. A read compares: if the data differ from the word that the ECC belongs to in one bit, that
   bit is corrected (SNECCERR); if in more, or if there is no such word, the read fails
   (DBECCERR).  A real code of ten bits would let some of those pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import FLASH_WORD

BLOCK = 0x1000  # what can be mapped separately

_ONES = (1 << 8 * FLASH_WORD) - 1
_HALF_ERASED = bytes(byte | 0xA5 for byte in range(256))


class FlashCells:
    """The contents of one bank.  Offsets count from its start.

    `data` is what the cells hold and is shared with whoever maps it.  `suspect` has each
    flash word whose ECC does not belong to its data, with the word that it does belong to.
    """

    def __init__(self, size: int) -> None:
        self.data = bytearray(b"\xff") * size
        self.suspect: dict[int, int | None] = {}
        self._stuck: dict[int, int] = {}

    def _word(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + FLASH_WORD], "little")

    def program(self, offset: int, word: bytes) -> None:
        """Program the flash word at `offset`, which may already hold something."""
        old = self._word(offset)
        new = int.from_bytes(word, "little")
        stored = old & new
        if self._stuck:
            stored |= self._stuck.get(offset, 0) & old
        self.data[offset : offset + FLASH_WORD] = stored.to_bytes(FLASH_WORD, "little")
        meant = _combine(self.suspect.get(offset, old), new)
        if meant == stored:
            self.suspect.pop(offset, None)
        else:
            self.suspect[offset] = meant

    def erase(self, span: Span) -> None:
        self.data[span.start : span.end] = b"\xff" * len(span)
        self._trust(span)

    def load(self, offset: int, data: bytes) -> None:
        """Make `data` the contents, with ECC to match, whatever was there."""
        self.data[offset : offset + len(data)] = data
        first = offset - offset % FLASH_WORD
        self._trust(Span(first, offset + len(data)))

    def half_program(self, offset: int, word: bytes) -> None:
        """What an interrupted programming leaves: the even bytes, and no sense in the ECC."""
        some = bytes(byte if i % 2 == 0 else 0xFF for i, byte in enumerate(word))
        self.program(offset, some)
        self.suspect[offset] = None

    def half_erase(self, span: Span) -> None:
        """What an interrupted erase leaves: some bits of each byte back at one, and no ECC."""
        self.data[span.start : span.end] = self.data[span.start : span.end].translate(_HALF_ERASED)
        self.suspect.update(dict.fromkeys(range(span.start, span.end, FLASH_WORD)))

    def _trust(self, span: Span) -> None:
        if len(self.suspect) > len(span) // FLASH_WORD:
            words: Iterable[int] = range(span.start, span.end, FLASH_WORD)
        else:
            words = [word for word in self.suspect if word in span]
        for word in words:
            self.suspect.pop(word, None)

    def check(self, offset: int) -> int | None:
        """The flash word at `offset` as a reader gets it, or None if it cannot be corrected."""
        stored = self._word(offset)
        meant = self.suspect.get(offset, stored)
        if meant is None or (meant ^ stored).bit_count() > 1:
            return None
        return meant

    def stick(self, offset: int, mask: int) -> None:
        """From now on the bits under `mask` of the byte at `offset` cannot be cleared."""
        word = offset - offset % FLASH_WORD
        self._stuck[word] = self._stuck.get(word, 0) | mask << 8 * (offset - word)

    def flip(self, offset: int, mask: int) -> None:
        """Change bits behind the back of the ECC, as radiation or wear does."""
        word = offset - offset % FLASH_WORD
        meant = self.suspect.get(word, self._word(word))
        self.data[offset] ^= mask
        if self._word(word) == meant:
            self.suspect.pop(word, None)
        else:
            self.suspect[word] = meant

    def clean_run(self, offset: int) -> Span | None:
        """The blocks around `offset` that hold no suspect word, or None if its own does."""
        if not self.suspect:
            return Span(0, len(self.data))
        bad = {word // BLOCK for word in self.suspect}
        first = last = offset // BLOCK
        if first in bad:
            return None
        while first > 0 and first - 1 not in bad:
            first -= 1
        while (last + 1) * BLOCK < len(self.data) and last + 1 not in bad:
            last += 1
        return Span(first * BLOCK, (last + 1) * BLOCK)


def _combine(before: int | None, new: int) -> int | None:
    """The word that the ECC belongs to once the ECC of `new` was programmed over it."""
    if new == 0 or before == _ONES:
        return new
    if before is None or new in (_ONES, before):
        return before
    return 0 if before == 0 else None
