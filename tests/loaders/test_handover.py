"""F8, the reason for this project: what one loader leaves behind for the next.

ST's tools said "failed to download Segment[0]" and no more.  An external loader, made as ST's
template has it, left SysTick running with its interrupt enabled, and the vector table in its own
image.  Then the tool copied its loader for internal flash over that table, ran it, and it let
interrupts in.
"""

from __future__ import annotations

import pytest
from fixture_loaders import build
from loader_runs import BANK1, NOR, Run, download, noise, run, run_files

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import IWDG1, RCC, WWDG1
from gdbserver.errors import LoaderFault, explain
from gdbserver.loader.call_queue import CallQueue
from gdbserver.loader.clocks import same_clocks
from gdbserver.loader.file import Image, LoaderFile, built, load_image
from gdbserver.sim.bus import BusError, Master
from gdbserver.target.access import Write

SECTOR = 0x20000
RCC_APB3ENR = RCC + 0xE4


def call(queue: CallQueue, routine: str, *arguments: int) -> None:
    for _ in queue.call(routine, *arguments, timeout=5.0):
        pass


def as_other_tools_do(here: Run, image: Image) -> CallQueue:
    """A loader copied to RAM and called, with nothing done before or after."""
    return CallQueue(here.target, image, good=1, queued=False, careful=False)


def test_a_loader_that_leaves_its_tick_running_disturbs_nothing_here() -> None:
    with run("W25Q256_F8") as here:
        here.board.flash.load(BANK1, noise(SECTOR, 1))
        here.board.nor.memory[:0x10000] = noise(0x10000, 2)
        internal, external = noise(100_000, 3), noise(90_000, 4)
        vtor = here.target.read_word(cm.VTOR)
        here.load((BANK1, internal), (NOR, external))
        assert here.contents(BANK1, len(internal)) == internal
        assert here.contents(NOR, len(external)) == external
        target = here.target
        assert target.is_halted()
        assert target.read_word(cm.SYST_CSR) & 7 == 0
        assert target.read_word(cm.VTOR) == vtor
        assert target.read_registers(["primask"]) == {"primask": 0}


def lock_up(here: Run) -> LoaderFault:
    """The external loader, then a loader for internal flash, as other tools do it."""
    with as_other_tools_do(here, LoaderFile.load(build("W25Q256_F8")).image) as queue:
        call(queue, "Init")
        call(queue, "SectorErase", NOR, NOR)
    with pytest.raises(LoaderFault) as failed:
        program_internal_flash(here)
    return failed.value


def program_internal_flash(here: Run) -> None:
    with as_other_tools_do(here, load_image(build("second_stub"))) as queue:
        call(queue, "Init")
        call(queue, "Write", BANK1, 1024, 0x24010000)


def test_without_a_known_state_the_next_loader_locks_up_the_core() -> None:
    with run("W25Q256_F8") as here:
        assert here.contents(BANK1, SECTOR) == b"\xff" * SECTOR  # the first sector is erased
        lock_up(here)
        assert here.board.core.locked_up or here.board.core.read_register(15) & ~1 == 0xFFFFFFFE


def test_the_lock_up_is_explained_by_the_live_tick_and_the_vectors_that_are_gone() -> None:
    with run("W25Q256_F8") as here:
        story = list(explain(lock_up(here)))
        assert story[0].startswith(
            "loader second_stub.stldr crashed in Write(0x8000000, 0x400, 0x24010000) at 0x0800f8de "
            "in exception SYS_TICK, which interrupted Write+0x"
        )
        assert "the core locked up, faulting in a fault handler" in story[0]
        assert any(
            line.startswith("SysTick is running with its interrupt enabled") for line in story
        )
        assert (
            "VTOR 0x24000200 points to no vector table any more: its SysTick vector is "
            "0x0800f8df, in erased flash, its HardFault vector is 0x68000830, which is not Thumb "
            "code"
        ) in story
        assert story[-1] == (
            "hint: an interrupt that an earlier program or loader left behind went through a "
            "vector table that is no more"
        )


def test_with_a_known_state_the_same_two_loaders_get_along() -> None:
    with run("W25Q256_F8") as here:
        external = LoaderFile.load(build("W25Q256_F8")).image
        internal = load_image(build("second_stub"))
        for image, address in ((external, NOR), (internal, BANK1), (external, NOR + 256)):
            with CallQueue(here.target, image, good=1) as queue:
                queue.ram.borrow(Span.of(0x24010000, 256))
                here.target.write_memory(0x24010000, noise(256))
                call(queue, "Init")
                call(queue, "Write", address, 256, 0x24010000)
        assert here.contents(NOR, 512) == noise(256) * 2


def test_clocks_that_a_loader_has_changed_are_put_back() -> None:
    """Wait states, core voltage, dividers and all; and the NOR can be read with them."""
    with run("W25Q256_F8_400_MHZ") as here:
        registers = (0x58024400, 0x58024410, 0x58024418, 0x5802442C, 0x58024430, 0x52002000)
        before = [here.target.read_word(register) for register in registers]
        hertz = here.board.rcc.core_hz
        seen = set()
        internal, external = noise(200_000, 1), noise(200_000, 2)
        for _ in here.programmer.carry_out(download((BANK1, internal), (NOR, external))):
            seen.add(here.board.rcc.core_hz)
        assert 400_000_000 in seen
        assert here.board.rcc.core_hz == hertz
        assert [here.target.read_word(register) for register in registers] == before
        assert here.target.read_memory(NOR, len(external)) == external
        assert here.contents(BANK1, len(internal)) == internal


def test_clocks_of_a_program_are_put_back_as_well() -> None:
    """A program runs from the PLL; a loader's SystemInit would go back to HSI."""
    with run("W25Q256_F8_400_MHZ") as here:
        with as_other_tools_do(here, LoaderFile.load(build("W25Q256_F8_400_MHZ")).image) as queue:
            call(queue, "Init")
        assert here.board.rcc.core_hz == 400_000_000
        target = here.target
        with same_clocks(target):
            target.write_word(0x58024410, 0)  # RCC_CFGR: HSI
            target.write_word(0x58024418, 0)  # RCC_D1CFGR: undivided
            target.write_word(0x58024400, 1)  # RCC_CR: nothing but HSI
            target.write_word(0x52002000, 0x37)  # FLASH_ACR, as after a reset
            assert here.board.rcc.core_hz == 64_000_000
        assert here.board.rcc.core_hz == 400_000_000
        assert target.read_word(0x52002000) == 0x24


def test_what_init_leaves_behind_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gdbserver.flash")
    with run("W25Q256_F8") as here:
        here.load((NOR, b"1234"))
    told = [line for line in caplog.messages if line.startswith("after Init of W25Q256_F8.stldr: ")]
    tick, vectors = (line.partition(": ")[2] for line in told)
    assert tick.startswith("SysTick is running with its interrupt enabled")
    assert vectors == "the vector table is the loader's (VTOR 0x24000200)"


def bites_when_the_program_runs_on(here: Run) -> bool:
    """A program that does not feed it."""
    target = here.target
    target.write_registers({"pc": 0x20000000, "xpsr": cm.XPSR_THUMB})
    target.resume()
    deadline = target.deadline(1.0)
    while not target.unasked_resets and not deadline.expired():
        target.poll_stop()
    return target.unasked_resets == 1


@pytest.mark.parametrize("window", [0xFFF, 0x100])
def test_a_watchdog_that_a_program_has_started_does_not_bite(window: int) -> None:
    """64 ms are nothing for a loader; afterwards they are the program's again."""
    with run("W25Q256_F8") as here:
        target = here.target
        target.write_memory(0x20000000, b"\xfe\xe7")  # b .
        target.run(
            [
                Write(IWDG1, [0xCCCC]),
                Write(IWDG1, [0x5555]),
                Write(IWDG1 + 4, [0]),
                Write(IWDG1 + 8, [0x200]),
                Write(IWDG1 + 16, [window]),
            ]
        )
        here.board.nor.memory[:60_000] = bytes(60_000)
        external = noise(60_000)
        here.load((NOR, external))
        assert here.contents(NOR, len(external)) == external
        assert target.read_words(IWDG1 + 4, 2) == [0, 0x200]
        assert target.read_word(IWDG1 + 16) == window
        assert bites_when_the_program_runs_on(here)


class Nobody:
    """What a bus finds where nobody is."""

    def read(self, offset: int, size: int, master: Master) -> int:
        raise BusError("read")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        raise BusError("write")


def test_a_board_without_watchdogs_never_hears_of_them() -> None:
    """Nobody asks for one that does not run: neither host, nor resident code, nor our loader."""
    with run_files(built("qspi.stldr")) as here:
        bus = here.board.bus
        bus.devices = [
            (span, Nobody() if span.start in (IWDG1, WWDG1) else device)
            for span, device in bus.devices
        ]
        here.board.nor.memory[:20_000] = bytes(20_000)
        internal, external = noise(SECTOR, 1), noise(20_000)
        here.load((BANK1, internal), (NOR, external))
        assert here.contents(NOR, len(external)) == external
        assert here.contents(BANK1, len(internal)) == internal


@pytest.mark.parametrize("name", ["W25Q256_F8", "W25Q256_F8_400_MHZ"])
def test_a_window_watchdog_does_not_bite_either(name: str) -> None:
    """Four milliseconds, in the second half of which it may be fed; a loader takes seconds."""
    with run(name) as here:
        target = here.target
        target.write_memory(0x20000000, b"\xfe\xe7")  # b .
        target.write_word(RCC_APB3ENR, 1 << 6)
        target.run([Write(WWDG1 + 4, [0x260]), Write(WWDG1, [0xF0])])
        before = target.read_words(WWDG1, 2)
        here.board.flash.load(BANK1, noise(SECTOR))
        here.board.nor.memory[:20_000] = bytes(20_000)
        internal, external = noise(SECTOR, 1), noise(20_000)
        here.load((BANK1, internal), (NOR, external))
        assert here.contents(NOR, len(external)) == external
        assert target.read_words(WWDG1, 2) == before
        assert bites_when_the_program_runs_on(here)


def test_what_takes_minutes_is_looked_at_as_often_as_a_watchdog_wants() -> None:
    with run("W25Q256_F8") as here:
        image = LoaderFile.load(build("W25Q256_F8")).image
        with CallQueue(here.target, image, good=1) as queue:
            assert queue.patience == 2.0
        here.target.write_word(RCC_APB3ENR, 1 << 6)
        here.target.run([Write(WWDG1, [0xFF])])
        with CallQueue(here.target, image, good=1) as queue:
            assert queue.patience == 0.05
