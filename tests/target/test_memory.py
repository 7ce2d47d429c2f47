"""Reading and writing memory: any address, any length, and what refuses."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from target_bench import LINKS, Bench

from gdbserver.chip.cortex_m import CCR, Ccr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM, BANK1, GPIOA, RCC
from gdbserver.errors import AccessRefused, AccessStalled, MemoryFault
from gdbserver.sim.bus import Master
from gdbserver.sim.clock import SECOND
from gdbserver.target.access import Read, Write
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.target import Target


@pytest.mark.parametrize("link", LINKS)
def test_a_round_trip_touches_exactly_what_was_meant(link: str) -> None:
    target = Target.open(f"sim:{link}")
    board = target.link.probe.board
    choose = random.Random(link)
    size = 3000
    image = choose.randbytes(size)
    target.write_memory(AXI_SRAM.start, image)
    for _ in range(25):
        offset = choose.randrange(size)
        length = choose.choice([1, 2, 3, 4, 5, 7, 64, 1024, choose.randrange(1, size)])
        data = choose.randbytes(min(length, size - offset))
        target.write_memory(AXI_SRAM.start + offset, data)
        image = image[:offset] + data + image[offset + len(data) :]
        offset = choose.randrange(size)
        length = choose.randrange(1, size - offset + 1)
        assert target.read_memory(AXI_SRAM.start + offset, length) == image[offset:][:length]
    found = b"".join(
        board.bus.read(AXI_SRAM.start + i, 4, Master.AP0).to_bytes(4, "little")
        for i in range(0, size, 4)
    )
    assert found == image
    target.close()


@pytest.fixture(scope="module")
def plugged() -> Target:
    return Target.open("sim:ideal")


@given(offset=st.integers(0, 5000), data=st.binary(min_size=1, max_size=40), look=st.integers(0, 8))
@settings(max_examples=60)
def test_what_is_written_is_read(plugged: Target, offset: int, data: bytes, look: int) -> None:
    address = AXI_SRAM.start + offset
    before = plugged.read_memory(address - min(look, offset), look)
    plugged.write_memory(address, data)
    assert plugged.read_memory(address, len(data)) == data
    assert (
        plugged.read_memory(address - min(look, offset), look)[: min(look, offset)]
        == (before[: min(look, offset)])
    )


def test_reading_nothing_is_nothing(plugged: Target) -> None:
    assert plugged.read_memory(AXI_SRAM.start, 0) == b""
    plugged.write_memory(AXI_SRAM.start, b"")


def test_words_are_as_the_hardware_has_them(plugged: Target) -> None:
    plugged.write_words(AXI_SRAM.start, [1, 2, 0xFFFFFFFF])
    assert plugged.read_words(AXI_SRAM.start, 3) == [1, 2, 0xFFFFFFFF]
    assert plugged.read_word(AXI_SRAM.start + 8) == 0xFFFFFFFF


def test_a_read_that_runs_out_of_memory_has_what_came_before(bench: Bench) -> None:
    end = AXI_SRAM.end
    bench.target.write_memory(end - 5, b"12345")
    with pytest.raises(MemoryFault) as caught:
        bench.target.read_memory(end - 5, 100)
    assert caught.value.readable == b"12345"
    assert str(caught.value) == f"cannot read memory at {end:#010x}-{end + 94:#010x}"
    assert bench.target.read_memory(end - 5, 5) == b"12345", "and the link works on"


@given(before=st.integers(1, 300), after=st.integers(1, 3000))
@settings(max_examples=20)
def test_all_that_is_readable_is_read(plugged: Target, before: int, after: int) -> None:
    with pytest.raises(MemoryFault) as caught:
        plugged.read_memory(AXI_SRAM.end - before, before + after)
    assert len(caught.value.readable) == before


def test_a_write_where_nothing_is_faults_at_once(bench: Bench) -> None:
    with pytest.raises(MemoryFault, match="cannot write memory at 0x70000000-0x70000003"):
        bench.target.write_memory(0x70000000, b"1234")
    bench.target.write_memory(AXI_SRAM.start, b"1234")
    assert bench.target.read_memory(AXI_SRAM.start, 4) == b"1234"


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        (0x30100000, "this chip has nothing there"),
        (0x60000000, "memory at the FMC answers once the program has set the FMC up"),
        (0x58027000, "a reserved address, or a peripheral whose clock (RCC) or power is off"),
        (0x90000000, "the NOR is mapped there by the program, or by: monitor reset init"),
        (0x24000000, "this RAM always answers, but not while the chip is held in reset"),
        (0x30020000, "this RAM answers once the program has switched its clock on (RCC)"),
        (0x1FF00000, None),
    ],
)
def test_what_a_refused_address_is_is_told(address: int, hint: str | None) -> None:
    assert MemoryFault("read", Span.of(address, 4)).hint == hint


def test_a_block_may_cross_regions(bench: Bench) -> None:
    sram = 0x30020000 - 4  # the last word of SRAM1, and SRAM2
    bench.target.write_word(RCC + 0xDC, 7 << 29)  # RCC_AHB2ENR: all three
    bench.target.write_memory(sram, b"12345678")
    assert bench.target.read_memory(sram, 8) == b"12345678"


def test_registers_are_read_in_their_natural_size(bench: Bench) -> None:
    idr = GPIOA + 0x10
    whole = bench.target.read_memory(idr, 4)
    assert bench.target.read_memory(idr, 2) == whole[:2]
    assert bench.target.read_memory(idr + 1, 1) == whole[1:2]


def test_an_ecc_error_in_flash_is_explained_and_its_neighbours_are_read(bench: Bench) -> None:
    bench.board.flash.load(BANK1.start + 0x20000, bytes(range(256)))
    bench.board.flash.flip_bits(BANK1.start + 0x20040, 3)
    with pytest.raises(MemoryFault) as caught:
        bench.target.read_memory(BANK1.start + 0x20000, 256)
    assert caught.value.readable == bytes(range(0x40))
    assert caught.value.hint is not None
    assert "0x08020040-0x0802005f" in caught.value.hint
    rest = bench.target.read_memory(BANK1.start + 0x20060, 160)
    assert rest == bytes(range(0x60, 0x100))


def test_the_word_that_ecc_cannot_correct_is_named_and_not_one_that_it_has_corrected(
    quick: Bench,
) -> None:
    quick.board.flash.load(BANK1.start + 0x20000, bytes(range(256)))
    quick.board.flash.flip_bits(BANK1.start + 0x20080, 1)
    quick.board.flash.flip_bits(BANK1.start + 0x20040, 3)
    assert quick.target.read_memory(BANK1.start + 0x20080, 1) == b"\x80"
    with pytest.raises(MemoryFault) as caught:
        quick.target.read_memory(BANK1.start + 0x20048, 4)
    assert caught.value.hint is not None
    assert "0x08020040-0x0802005f" in caught.value.hint


def test_flash_that_cannot_be_read_in_reset_is_named_and_not_its_controller(bench: Bench) -> None:
    bench.board.hold_reset(True, who="button")
    with pytest.raises(MemoryFault, match=r"cannot read memory at 0x08000100-0x08000103") as error:
        bench.target.read_memory(BANK1.start + 0x100, 4)
    assert error.value.hint is not None
    assert error.value.hint.endswith("is the chip held in reset?")
    bench.board.hold_reset(False, who="button")


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_a_bus_that_is_held_for_too_long_says_what_to_do(link: str) -> None:
    target = Target.open(f"sim:{link},waits=4")
    target.link.probe.board.wait_storm(SECOND)
    with pytest.raises(AccessStalled) as error:
        target.read_word(AXI_SRAM.start)
    assert str(error.value) == "the chip kept a read at 0x24000000 waiting"
    assert error.value.hint == "something holds the bus: try again, or `monitor reset halt`"
    target.link.probe.board.wait_storm(0)
    target.close()


def test_memory_is_read_while_the_core_runs(bench: Bench) -> None:
    bench.run_to("step_1")
    bench.target.resume()
    first = bench.target.read_word(bench.names["counter"])
    second = bench.target.read_word(bench.names["counter"])
    assert second > first
    assert bench.target.poll_stop() is None


def test_a_stream_is_a_write(bench: Bench) -> None:
    data = random.Random(1).randbytes(5000)
    bench.target.stream(AXI_SRAM.start + 0x3F0, data)
    assert bench.target.read_memory(AXI_SRAM.start + 0x3F0, 5000) == data


@pytest.mark.parametrize("link", LINKS)
def test_after_an_error_in_the_middle_of_a_list_any_thread_can_go_on(link: str) -> None:
    target = Target.open(f"sim:{link}")
    target.write_memory(AXI_SRAM.start, b"any thread")
    with pytest.raises(MemoryFault):
        target.read_memory(AXI_SRAM.end - 0x2000, 0x8000)
    with pytest.raises(AccessRefused):
        target.run(
            [item for n in range(200) for item in (Read(0x70000000), Write(0xE000ED00, [n]))]
        )
    found: list[bytes] = []
    other = threading.Thread(
        target=lambda: found.append(target.read_memory(AXI_SRAM.start, 10)), daemon=True
    )
    other.start()
    other.join(20)
    assert found == [b"any thread"]
    target.close()


@pytest.mark.parametrize("caches", [Ccr.IC, Ccr.DC, Ccr.IC | Ccr.DC])
def test_code_that_is_written_and_patched_with_a_cache_on_is_what_the_core_executes(
    quick: Bench, caches: Ccr
) -> None:
    code, target = AXI_SRAM.start, quick.target
    target.write_word(CCR, target.read_word(CCR) | caches)
    target.write_memory(code, bytes.fromhex("0130 0131 0132 fbe7"))  # r0, r1, r2 += 1; again
    target.write_registers({"pc": code, "r0": 0, "r1": 0, "r2": 0})
    target.set_breakpoint(BreakKind.SOFTWARE, code + 2, 2)
    assert quick.run().kind == "swbreak"
    target.step()
    assert quick.run().kind == "swbreak"
    target.write_memory(code + 4, bytes.fromhex("0a32"))  # r2 += 10
    target.clear_breakpoint(BreakKind.SOFTWARE, code + 2, 2)
    target.set_breakpoint(BreakKind.SOFTWARE, code + 6, 2)
    assert quick.run().kind == "swbreak"
    assert target.read_registers(("r0", "r1", "r2")) == {"r0": 2, "r1": 2, "r2": 11}
    target.clear_all_breakpoints()
    target.resume()
    assert target.poll_stop() is None
    assert quick.board.scs.caches.executed == []


def test_writing_with_the_caches_on_is_followed_by_their_maintenance(bench: Bench) -> None:
    code = AXI_SRAM.start
    ccr = bench.target.read_word(CCR)
    bench.target.write_word(CCR, ccr | Ccr.DC | Ccr.IC)
    bench.target.write_memory(code, bytes.fromhex("00bf") * 5000)
    bench.target.write_registers({"pc": code})
    bench.target.step()
    assert bench.pc == code + 2
    assert bench.board.scs.caches.executed == []
    bench.target.forget_caches()
    before = bench.cost()
    bench.target.step()
    assert bench.cost() - before <= 22, "nothing was written, so nothing needs to be cleaned"
