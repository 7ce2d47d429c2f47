"""The lines from the QUADSPI to one die or two; some may lead nowhere.

A frame arrives whole, or with those bits as ones that travel on an IO2 or IO3 which is not
connected and pulled up, or not at all: then a read brings ones.  In dual-flash mode (RM0433,
"Dual-flash mode") both dice get the same instruction and half the address, and every other byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gdbserver.sim.nor import Nor
from gdbserver.sim.nor_frames import Frame

LostBits = Callable[[int, bool], int | None]
"""`lost_bits(bank, dual)`: which bits of a byte on four lines do not get through to a bank's die.

None where nothing does, without clock, chip select (in dual- or in single-flash mode), IO0 or IO1.
"""


class Wires:
    """Dice by their bank, and what of the lines to them is connected."""

    def __init__(self, nors: Mapping[int, Nor], lost_bits: LostBits) -> None:
        self._nors = nors
        self._lost_bits = lost_bits
        self._dice: dict[tuple[int, ...], list[tuple[Nor | None, int]]] = {}

    def rewired(self) -> None:
        """A pin is multiplexed differently."""
        self._dice.clear()

    def transfer(self, banks: tuple[int, ...], frame: Frame) -> bytes:
        """To the dice of these banks, where there are any, or into the void."""
        dice = self._selected(banks)
        answers = []
        for (nor, lost), part in zip(dice, _shared_out(frame, len(dice)), strict=True):
            if nor is None:
                answers.append(b"\xff" * part.read)
            elif lost and _on_four_lines(part):
                answer = nor.transfer(_garbled(part, lost))
                answers.append(_with_ones(answer, lost) if part.data_lines == 4 else answer)
            else:
                answers.append(nor.transfer(part))
        return answers[0] if len(answers) == 1 else _interleaved(answers)

    def understand(self, banks: tuple[int, ...], frame: Frame) -> bool:
        """Would this frame read the arrays of all these dice, in step?"""
        dice = self._selected(banks)
        return all(
            nor is not None and not (lost and _on_four_lines(part)) and nor.understands(part)
            for (nor, lost), part in zip(dice, _shared_out(frame, len(dice)), strict=True)
        )

    def _selected(self, banks: tuple[int, ...]) -> list[tuple[Nor | None, int]]:
        """Which die hangs on each bank, and which bits of what crosses four lines get lost."""
        dice = self._dice.get(banks)
        if dice is None:
            dice = []
            for bank in banks:
                lost = self._lost_bits(bank, len(banks) == 2)
                dice.append((None, 0) if lost is None else (self._nors.get(bank), lost))
            self._dice[banks] = dice
        return dice


def _shared_out(frame: Frame, dice: int) -> list[Frame]:
    """What each die gets of a frame: the same, but for its own part of the data."""
    if dice == 1:
        return [frame]
    address, length = frame.address >> 1, frame.read // 2
    return [
        replace(frame, address=address, write=frame.write[number::2], read=length)
        for number in range(dice)
    ]


def _on_four_lines(frame: Frame) -> bool:
    lines = (frame.address_lines, frame.alternate_lines, frame.data_lines)
    return 4 in lines or frame.instruction_lines == 4


def _with_ones(data: bytes, bits: int) -> bytes:
    return bytes(byte | bits for byte in data)


def _garbled(frame: Frame, lost: int) -> Frame:
    """What arrives of a frame, each of whose bytes loses these bits where it is on four lines."""
    many = lost * 0x01010101
    return replace(
        frame,
        instruction=frame.instruction | lost
        if frame.instruction is not None and frame.instruction_lines == 4
        else frame.instruction,
        address=frame.address | many if frame.address_lines == 4 else frame.address,
        alternate=frame.alternate | many if frame.alternate_lines == 4 else frame.alternate,
        write=_with_ones(frame.write, lost) if frame.data_lines == 4 else frame.write,
    )


def _interleaved(parts: list[bytes]) -> bytes:
    """The bytes of two dice as one sees them: in turns."""
    return bytes(byte for pair in zip(*parts, strict=True) for byte in pair)
