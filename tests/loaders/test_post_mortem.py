"""What exception entry has pushed, read back from the stack of a loader that crashed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loader_runs import Run, run

from gdbserver.chip.stm32h743 import DTCM
from gdbserver.loader.file import Image, LoaderFile, built, load_image
from gdbserver.loader.post_mortem import PostMortem
from gdbserver.loader.resident import Call, Layout

SP = 0x20001000
BASIC, WITH_FPU = 0xFFFFFFF1, 0xFFFFFFE1  # EXC_RETURN to a handler
TO_THREAD = 0xFFFFFFF9
FRAME, FRAME_WITH_FPU = 8, 26  # words
SYS_TICK, HARD_FAULT, IRQ_5 = 15, 3, 21
THUMB, REALIGNED, RESERVED = 1 << 24, 1 << 9, 1 << 20


@pytest.fixture(scope="module")
def here() -> Iterator[Run]:
    with run() as machine:
        machine.target.halt()
        yield machine


def image() -> Image:
    return LoaderFile.load(built("qspi.stldr")).image


def routine(name: str) -> int:
    return image().symbols[name].address & ~1


def frame(pc: int, lr: int, xpsr: int, *, words: int = FRAME) -> list[int]:
    pushed = [0xA0, 0xA1, 0xA2, 0xA3, 0xAC, lr, pc, THUMB | xpsr]
    return pushed + [0xF10A7] * (words - len(pushed))


def crash(here: Run, lr: int, stack: list[int], *, sp: int = SP) -> tuple[str, list[str]]:
    """The sentence, and what is told of each frame, of a core that stands in `Write`."""
    here.target.write_words(SP, stack + [0] * 16)
    pc = routine("Write")
    here.target.write_registers({"sp": sp, "lr": lr, "pc": pc, "xpsr": THUMB | HARD_FAULT})
    loader = image()
    post_mortem = PostMortem(
        here.target, loader, Layout(loader, load_image(built("queue.elf")), own=True)
    )
    call = Call("Write", (0x90000000,), 1.0, True, 1)
    error = post_mortem.crash(call, overflowed=False)
    stacked = [line for line in error.details if line.startswith("stacked: ")]
    return str(error), [line.partition("pc ")[2].partition(", r0")[0] for line in stacked]


def places(stacked: list[str]) -> list[str]:
    return [line.partition("+")[0] for line in stacked]


def test_exceptions_within_exceptions_are_followed_over_frames_of_every_length(here: Run) -> None:
    """One realigned, one with FPU registers, and the last: where the loader was interrupted."""
    stack = [
        *frame(routine("SectorErase"), WITH_FPU, HARD_FAULT | REALIGNED, words=FRAME + 1),
        *frame(routine("MassErase"), BASIC, SYS_TICK, words=FRAME_WITH_FPU),
        *frame(routine("Read"), TO_THREAD, IRQ_5),
        *frame(routine("Init"), 0x24000021, 0),
    ]
    sentence, stacked = crash(here, BASIC, stack)
    assert places(stacked) == ["SectorErase", "MassErase", "Read", "Init"]
    assert "in exception HARD_FAULT, lr 0xffffffe1" in stacked[0]
    assert "in exception SYS_TICK" in stacked[1]
    assert "in interrupt 5" in stacked[2]
    assert stacked[3].endswith("lr 0x24000021")
    assert "exception HARD_FAULT, which interrupted MassErase" in sentence


def test_a_frame_of_the_loader_itself_says_where_it_was_called_from(here: Run) -> None:
    sentence, stacked = crash(here, TO_THREAD, frame(routine("Init"), routine("Read") + 1, 0))
    assert places(stacked) == ["Init"]
    assert "at Init+0x0 " in sentence
    assert "called from Read+0x0" in sentence


@pytest.mark.parametrize(
    "noise",
    [
        frame(routine("Init"), TO_THREAD, RESERVED),
        frame(routine("Init") | 1, TO_THREAD, 0),
    ],
    ids=["reserved bits of xPSR are set", "pc is odd"],
)
def test_what_cannot_be_a_frame_is_not_told_as_one(here: Run, noise: list[int]) -> None:
    sentence, stacked = crash(here, TO_THREAD, noise)
    assert stacked == []
    assert "at Write+0x0 " in sentence


def test_without_an_exception_nothing_is_taken_for_a_frame(here: Run) -> None:
    assert crash(here, routine("Read") + 1, frame(routine("Init"), TO_THREAD, 0))[1] == []


def test_a_stack_that_is_no_memory_is_not_read(here: Run) -> None:
    sentence, stacked = crash(here, TO_THREAD, [], sp=DTCM.end + 0x1000)
    assert stacked == []
    assert "at Write+0x0 " in sentence
