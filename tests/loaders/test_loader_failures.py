"""F9: loaders that fail on the target, and what their user is told, word for word."""

from __future__ import annotations

import re

import pytest
from fixture_loaders import build
from loader_runs import NOR, Run, download, noise, run, run_files

from gdbserver.errors import FlashError, LoaderTimeout, explain

PINS = "CLK=PB2, NCS=PB6, IO0=PF8, IO1=PF9, IO2=PF7, IO3=PF6"


def story(here: Run) -> list[str]:
    """What a download into a NOR that is not blank fails with."""
    here.board.nor.memory[:1000] = bytes(1000)
    before = here.target.read_registers(["pc", "sp", "lr", "r0", "primask"])
    with pytest.raises(FlashError) as failed:
        here.load((NOR, noise(1000)))
    # The core is the client's again, whatever the loader did.
    assert here.target.is_halted()
    assert here.target.read_registers(before) == before
    return list(explain(failed.value))


def failing(fault: str, uid: str = "sim:cmsis-dap-v2") -> list[str]:
    with run(f"W25Q256_F9_{fault}", uid=uid) as here:
        return story(here)


def failing_in_a_small_sector(fault: str) -> list[str]:
    """A sector of 4 KiB takes 0.4 s at most, and is not waited for as long as one of 64 KiB."""
    with run_files(build(f"W25Q256_F9_{fault}", SECTOR=0x1000, COUNT=0x2000)) as here:
        return story(here)


def told(lines: list[str], *patterns: str) -> None:
    """Each pattern is a whole line, in this order; hexadecimal digits may be anything (#)."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(re.escape(pattern).replace(r"\#", "[0-9a-f]"), line), line


MAPPED = (
    "QUADSPI: memory-mapped, instruction 0xec (SR 0x########, CR 0x########, DCR 0x########, "
    "CCR 0x########, AR 0x########)"
)
BUSY = MAPPED.replace(" (SR", ", busy (SR")


# --- A routine says no ----------------------------------------------------------------------------


def test_init_that_fails_on_the_nor_that_the_name_promises() -> None:
    told(
        failing("INIT_FAILS"),
        "loader W25Q256_F9_INIT_FAILS.stldr: Init() returned 0x0 (expected 1); "
        f"the NOR at {PINS} answers: its JEDEC id is EF 40 19 (Winbond, 32 MiB), as the "
        "loader's name promises",
        MAPPED,
        "hint: it may insist on another id (Winbond sells EF 40 and EF 70 under one name); "
        "--extload builtin asks the NOR itself",
    )


def test_init_that_fails_on_another_nor() -> None:
    with run("W25Q128_WRONG") as here:
        first, *_, hint = story(here)
    assert first.endswith(
        f"; the NOR at {PINS} answers: its JEDEC id is EF 40 19 (Winbond, 32 MiB), and the "
        "loader's name promises W25Q128 of 16 MiB"
    )
    assert hint.startswith("hint: the loader is for another NOR; ")


def test_init_that_fails_without_a_nor() -> None:
    with run("W25Q256_F9_INIT_FAILS") as here:
        here.board.nor.jedec_id = b"\xff\xff\xff"
        first, *_, hint = story(here)
    assert first.endswith(
        f"; no NOR answers at {PINS}: its JEDEC id reads as FF FF FF (nobody drives IO1)"
    )
    assert hint == (
        "hint: compare these pins with the schematic (CLK, NCS, IO0 and IO1 matter first); measure "
        "at the NOR: power, RESET# and HOLD# (IO3) high, NCS falling; "
        "does another chip drive these lines?"
    )


def test_init_that_returns_something_else() -> None:
    first, *_ = failing("INIT_ODD")
    assert first.startswith("loader W25Q256_F9_INIT_ODD.stldr: Init() returned 0x2 (expected 1); ")


# --- A crash --------------------------------------------------------------------------------------


def test_an_undefined_instruction() -> None:
    told(
        failing("WRITE_UDF"),
        "loader W25Q256_F9_WRITE_UDF.stldr crashed in Write(0x90000000, 0x400, 0x2400####) at "
        "fault+0x0 (0x24000004), called from Write+0x6: usage fault: undefined instruction at "
        "0x24000004; escalated to a hard fault; called from 0x2400001c",
        "stacked: pc fault+0x0 (0x24000004), lr 0x2400001d, r0 0x90000000 r1 0x00000400 "
        "r2 0x2400#### r3 0x######## r12 0x######## xpsr 0x21000000",
        MAPPED,
        "hint: was the loader built for this chip and board?",
    )


def test_an_access_to_nothing() -> None:
    first, *_ = failing("WRITE_BUS")
    assert "crashed in Write(0x90000000, 0x400, " in first
    assert "bus fault: the instruction at 0x24000006 accessed 0x5ffffff0" in first


def test_too_deep_a_stack() -> None:
    first, *_ = failing("STACK")
    assert "called from deep" in first
    assert ": it needs more than 4096 bytes of stack: " in first


def test_a_lock_up() -> None:
    told(
        failing("LOCKS_UP"),
        "loader W25Q256_F9_LOCKS_UP.stldr crashed in Write(0x90000000, 0x400, 0x2400####) at "
        "a place that was not kept, called from Write+0x6: the core locked up, faulting in a "
        "fault handler: usage fault: undefined instruction somewhere; escalated to a hard fault",
        MAPPED,
        "hint: was the loader built for this chip and board?",
    )


def test_an_interrupt_without_a_handler() -> None:
    first, *_ = failing("STRAY")
    assert first.endswith("exception PEND_SV came, and the loader has no handler for it")
    assert "at fault+0x" in first


def test_memory_that_is_not_the_loaders() -> None:
    first, hint = failing("SCRIBBLES")
    assert re.fullmatch(
        r"loader W25Q256_F9_SCRIBBLES.stldr has overwritten 0x2000\w{4}-0x2000\w{4}, "
        r"which is not its own memory in Init\(\)",
        first,
    )
    assert re.fullmatch(r"hint: its file claims 0x24000004-0x2400\w{4}, and no more", hint)


# --- A routine does not return --------------------------------------------------------------------


def test_waiting_for_a_tick_that_stands_still() -> None:
    lines = failing_in_a_small_sector("ERASE_SPINS")
    assert re.fullmatch(
        r"loader W25Q256_F9_ERASE_SPINS.stldr: SectorErase\(0x90000000, 0x90000000\) has not "
        r"returned after 1.4 s; it is at delay\S*\+0x\w+ \(0x2400\w{4}\), called from "
        r"SectorErase\+0x\w+; SysTick is stopped",
        lines[0],
    )
    assert lines[-1] == (
        "hint: if it waits for a tick to be counted (HAL_Delay), it waits for ever: "
        "SysTick does not run"
    )


def test_waiting_for_a_tick_that_is_masked() -> None:
    lines = failing_in_a_small_sector("MASKED")
    assert lines[0].endswith("; SysTick is running; interrupts are masked (PRIMASK = 1)")
    assert lines[1] == (
        "SysTick is running with its interrupt enabled and pending (CSR 0x00000007), "
        "masked for now (PRIMASK = 1)"
    )
    assert lines[-1].endswith("PRIMASK keeps its interrupt out")


def test_sleeping_for_ever() -> None:
    lines = failing("SLEEPS")
    assert "has not returned after 1." in lines[0]
    assert lines[0].endswith("; SysTick is stopped; the core sleeps (WFI or WFE)")
    assert lines[-1] == "hint: nothing wakes it: no interrupt is enabled that will come"


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_reset_by_the_watchdog(link: str) -> None:
    told(
        [line for line in failing("WATCHDOG", f"sim:{link}") if not line.startswith("because")],
        "loader W25Q256_F9_WATCHDOG.stldr: the chip was reset during "
        "Write(0x90000000, 0x400, 0x2400####), by the independent watchdog (IWDG1)",
        "hint: the loader, or a program that ran before it, has started the watchdog, and "
        "only a reset stops it: try `monitor reset halt` before `load`",
    )


def test_a_nor_that_is_never_ready_is_reported_as_soon_as_its_data_sheet_allows() -> None:
    """64 KiB take 6.4 s at most, in units of 4 KiB; and a second is for the loader."""
    with run("W25Q256_F9_WAITS") as here:
        here.board.nor.memory[:1000] = bytes(1000)
        steps = here.programmer.carry_out(download((NOR, noise(1000))))
        while next(steps).action != "compared":
            pass
        start = here.board.clock.now
        with pytest.raises(LoaderTimeout) as failed:
            list(steps)
        assert str(failed.value).startswith(
            "loader W25Q256_F9_WAITS.stldr: SectorErase(0x90000000, 0x90000000) has not returned "
            "after 7.4 s; it is at "
        )
        assert 7.4 < (here.board.clock.now - start) / 1e9 < 7.6


def test_a_loader_that_prints_or_stops_by_itself() -> None:
    assert failing("PRINTS")[0].endswith(
        "called from Write+0x6: it asks for semihosting (BKPT 0xab), as printf does, and nobody "
        "is there"
    )
    assert failing("BREAKS")[0].endswith(
        "called from Write+0x6: a BKPT instruction of its own (0x01)"
    )


# --- All went well, and the contents are wrong ---------------------------------------------------

PATTERNS = {
    "WRITES_NOTHING": "it is still erased: the device did not program it",
    "WRITES_SHIFTED": "the right bytes, 1 too far up: an address or a count is off",
    "WRITES_SWAPPED": "the right bytes, each pair of bytes reversed: an error in byte order",
    "WRITES_REVERSED": (
        "the right bytes, each word of four bytes reversed: an error in byte order"
    ),
    "ERASES_NOTHING": "it still holds what it held before: it was neither erased nor programmed",
    "STALE": (
        "it is a stale read, and right after another Init: the loader maps, or remembers, what "
        "was there before it wrote"
    ),
}


@pytest.mark.parametrize("fault", PATTERNS)
def test_wrong_contents_are_told_by_what_they_look_like(fault: str) -> None:
    first, hint = failing(fault)
    start = noise(1000)[:16].hex(" ")
    assert first.startswith(
        f"W25Q256_F9_{fault} does not hold what was programmed: at 0x90000000 {start} was "
        "expected, and "
    )
    assert hint == f"hint: {PATTERNS[fault]}"
