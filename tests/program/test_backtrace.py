"""Walking stacks: through calls, through exceptions, and where nothing helps."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.chip.memory import Span
from gdbserver.errors import MemoryFault
from gdbserver.program.backtrace import MAX_FRAMES, REGISTERS, Frame, describe, walk
from gdbserver.program.symbols import Symbols

STACK = 0x20000000
NOTHING = Symbols([])


class Ram:
    """A stack of words, and nothing around it."""

    def __init__(self, *words: int) -> None:
        self.data = struct.pack(f"<{len(words)}I", *words)

    def read(self, address: int, count: int) -> list[int]:
        at = address - STACK
        if at < 0 or at + 4 * count > len(self.data):
            raise MemoryFault("read", Span.of(address, 4 * count))
        return list(struct.unpack_from(f"<{count}I", self.data, at))


def registers(**values: int) -> dict[str, int]:
    return dict.fromkeys(REGISTERS, 0) | {"sp": STACK, "msp": STACK, "psp": STACK} | values


HARD_FAULT = 3


def frame(pc: int, lr: int, xpsr: int = 0x01000000) -> list[int]:
    return [0, 1, 2, 3, 12, lr, pc, xpsr]


@pytest.mark.parametrize(
    ("how", "size"), [(0xFFFFFFF9, 8), (0xFFFFFFFD, 8), (0xFFFFFFE9, 26), (0xFFFFFFED, 26)]
)
@pytest.mark.parametrize("padding", [0, 1])
def test_an_exception_leads_to_what_it_interrupted(how: int, size: int, padding: int) -> None:
    stacked = frame(0x08000100, 0xFFFFFFF9, 0x01000000 | 38 + 16 | padding << 9)
    outer = frame(0x08000200, 0xFFFFFFFF)
    ram = Ram(*stacked, *[0] * (size - 8 + padding), *outer)
    handler = registers(pc=0x08000300, lr=how, xpsr=HARD_FAULT)
    assert list(walk(handler, ram.read, NOTHING)) == [
        Frame(0x08000300),
        Frame(how, exception=HARD_FAULT),
        Frame(0x08000100),
        Frame(0xFFFFFFF9, exception=54),
        Frame(0x08000200),
    ]
    told = list(describe(walk(handler, ram.read, NOTHING, interrupted=True), NOTHING))
    assert told == ["#0  0x08000100", "#1  <interrupt 38>", "#2  0x08000200"]


def test_the_link_register_is_believed_once() -> None:
    at = registers(pc=0x08000300, lr=0x08000201)
    assert list(walk(at, Ram().read, NOTHING)) == [
        Frame(0x08000300),
        Frame(0x08000200, called=True, guessed=True),
    ]
    for lr in (0, 0xFFFFFFFF, 0x20000000):  # nobody, nobody, and no Thumb code
        assert list(walk(registers(pc=0x08000300, lr=lr), Ram().read, NOTHING)) == [
            Frame(0x08000300)
        ]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=20, max_size=60), st.data())
def test_whatever_lies_on_the_stack_the_walk_ends(words: list[int], data: st.DataObject) -> None:
    word = st.integers(0, 2**32 - 1) | st.sampled_from([0xFFFFFFF9, 0xFFFFFFFD, 0xFFFFFFE1])
    start = {name: data.draw(word) for name in REGISTERS}
    found = list(walk(start | {"sp": STACK}, Ram(*words).read, NOTHING, interrupted=True))
    assert len(found) <= MAX_FRAMES
    assert all(describe(iter(found), NOTHING))


def test_a_stack_that_leads_to_itself_is_walked_to_a_limit() -> None:
    ram = Ram(*frame(0xFFFFFFF0, 0xFFFFFFF1), *frame(0, 0) * 2000)
    found = list(walk(registers(pc=0xFFFFFFF1), ram.read, NOTHING))
    assert len(found) <= MAX_FRAMES
