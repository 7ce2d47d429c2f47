"""Two NORs side by side (dual-flash mode), from a download to what each of them holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flash_bench import Bench, noise

from gdbserver.chip.memory import Span
from gdbserver.errors import LoaderRefused, LoaderTimeout
from gdbserver.flash.plan import Download

NOR = 0x90000000
SECTOR = 0x20000
PINS = {
    "CLK": "PF10",
    "NCS": "PG6",
    "IO0": "PD11",
    "IO1": "PF9",
    "IO2": "PF7",
    "IO3": "PF6",
    "BK2_IO0": "PH2",
    "BK2_IO1": "PH3",
    "BK2_IO2": "PG9",
    "BK2_IO3": "PG14",
}
UID = "qspi_pins=" + "/".join(PINS.values())


def download(*writes: tuple[int, bytes]) -> Download:
    """Writes, and before them the erases that GDB asks for: whole sectors, as the map has them."""
    whole = Download()
    for address, data in writes:
        start, end = address // SECTOR * SECTOR, -(-(address + len(data)) // SECTOR) * SECTOR
        whole.erase(Span(start, end))
    for address, data in writes:
        whole.write(address, data)
    return whole


@pytest.fixture(params=["cmsis-dap-v2", "stlink-v3"])
def bench(request: pytest.FixtureRequest, bench_at: Callable[..., Bench]) -> Bench:
    return bench_at(f"sim:{request.param},{UID}", PINS)


@pytest.fixture
def quick(bench_at: Callable[..., Bench]) -> Bench:
    return bench_at(f"sim:cmsis-dap-v2,{UID}", PINS)


def halves(bench: Bench, offset: int, length: int) -> list[bytes]:
    """What each of the two holds of these bytes; `offset` is even."""
    return [nor.contents(offset // 2, (length + 1) // 2) for nor in bench.board.nors]


def test_a_mixed_load_reaches_both_banks_and_both_nors(bench: Bench) -> None:
    images = {0x08000000: noise(3000), 0x08100000: noise(5000, 1), NOR: noise(40_001, 2)}
    bench.carry_out(download(*images.items()))
    for address, image in images.items():
        assert bench.contents(Span.of(address, len(image))) == image
    even, odd = halves(bench, 0, 40_000)
    assert (even, odd) == (images[NOR][:40_000:2], images[NOR][1:40_000:2])
    assert bench.target.read_memory(NOR + 1, 1000) == images[NOR][1:1001]


def test_the_map_has_sectors_and_size_of_both_together(quick: Bench) -> None:
    quick.carry_out(download((NOR, b"1234")))
    (region,) = [r for r in quick.programmer.regions() if r.span.start == NOR]
    assert (region.groups, region.page_size) == (((512, SECTOR),), 512)
    assert quick.programmer.describe_external().endswith(
        "JEDEC id EF4019 of each of two, 65536 KiB, 64 MHz"
    )


def test_parts_that_are_larger_than_thought_are_used_whole(bench_at: Callable[..., Bench]) -> None:
    """As on the boards that have an MT25TL01G: two dice of 512 Mbit."""
    bench = bench_at(f"sim:cmsis-dap-v2,nor=MT25QL512ABB,{UID}", PINS)
    end = NOR + (128 << 20)
    image = noise(5001)
    bench.programmer.describe_external()
    bench.carry_out(download((end - len(image), image)))
    assert bench.contents(Span(end - len(image), end)) == image


@pytest.mark.parametrize("offset", [1, 511, SECTOR - 7])
def test_odd_ends_leave_the_bytes_beside_them_alone(quick: Bench, offset: int) -> None:
    """Within a sector that is not erased because what is there need not change."""
    before = noise(1000)
    quick.carry_out(download((NOR + offset + 1001, before)))
    image = noise(1001, 1)
    quick.carry_out(download((NOR + offset, image + before)))
    expected = b"\xff" * offset + image + before
    assert quick.contents(Span.of(NOR, len(expected))) == expected


def test_sectors_beside_a_changed_one_keep_theirs(quick: Bench) -> None:
    everything = noise(3 * SECTOR)
    for number, nor in enumerate(quick.board.nors):
        nor.memory[: 3 * SECTOR // 2] = everything[number::2]
    quick.carry_out(download((NOR + SECTOR + 3, noise(100, 9))))
    assert [dict(nor.erases) for nor in quick.board.nors] == [{(0x10000, 0x10000): 1}] * 2
    held = quick.contents(Span.of(NOR, 3 * SECTOR))
    assert held[:SECTOR] == everything[:SECTOR]
    assert held[SECTOR + 3 : SECTOR + 103] == noise(100, 9)
    assert held[2 * SECTOR :] == everything[2 * SECTOR :]


def test_an_unchanged_image_is_only_compared(quick: Bench) -> None:
    image = download((NOR + 5, noise(20_000)))
    quick.carry_out(image)
    programs = [dict(nor.programs) for nor in quick.board.nors]
    assert {step.action for step in quick.carry_out(image)} == {"compared"}
    assert [dict(nor.programs) for nor in quick.board.nors] == programs


def test_two_take_little_more_than_half_the_time_of_one(bench_at: Callable[..., Bench]) -> None:
    image = noise(SECTOR)
    one = bench_at("sim:cmsis-dap-v2")
    two = bench_at(f"sim:cmsis-dap-v2,{UID}", PINS)
    seconds = []
    for bench in (one, two):
        for nor in bench.board.nors:
            nor.memory[: SECTOR // 2] = bytes(SECTOR // 2)
            if bench is one:
                nor.memory[SECTOR // 2 : SECTOR] = bytes(SECTOR // 2)
        start = bench.seconds()
        bench.carry_out(download((NOR, image)))
        seconds.append(bench.seconds() - start)
    assert seconds[1] < 0.7 * seconds[0]


@pytest.mark.parametrize(
    ("number", "ids"),
    [
        (0, "FF FF FF (nobody drives IO1) on bank 1, and as EF 40 19 on bank 2"),
        (1, "EF 40 19 on bank 1, and as FF FF FF (nobody drives IO1) on bank 2"),
    ],
)
def test_one_that_is_missing_is_named(quick: Bench, number: int, ids: str) -> None:
    quick.board.nors[number].lift_off()
    with pytest.raises(LoaderRefused, match=r"Init\(\) returned 0x0") as failed:
        quick.carry_out(download((NOR, b"1234")))
    assert failed.value.why.startswith(
        f"of two NORs side by side (dual-flash mode) the one on bank {number + 1} does not answer "
    )
    assert failed.value.why.endswith(f": the JEDEC ids read as {ids}")


def test_wrong_pins_of_bank_2_are_found_at_its_nor(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at(f"sim:cmsis-dap-v2,{UID}", {**PINS, "BK2_IO1": "PE8"})
    with pytest.raises(LoaderRefused) as failed:
        bench.carry_out(download((NOR, b"1234")))
    assert "the one on bank 2 does not answer" in failed.value.why


def test_wrong_pins_of_both_are_found_at_both(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at(f"sim:cmsis-dap-v2,{UID}", {**PINS, "NCS": "PB6"})
    with pytest.raises(LoaderRefused) as failed:
        bench.carry_out(download((NOR, b"1234")))
    assert failed.value.why.startswith("neither of two NORs answers at ")


def test_two_different_parts_are_told_with_both_ids(bench_at: Callable[..., Bench]) -> None:
    bench = bench_at(f"sim:cmsis-dap-v2,nor2=IS25LP256D,{UID}", PINS)
    with pytest.raises(LoaderRefused) as failed:
        bench.carry_out(download((0x08000000, b"1234"), (NOR, b"1234")))
    assert failed.value.why == (
        "the two NORs side by side are not alike (JEDEC id EF4019 on bank 1, 9D6019 on bank 2)"
    )


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_stays_busy_is_named(quick: Bench, number: int) -> None:
    quick.carry_out(download((NOR, noise(1000))))
    steps = quick.programmer.carry_out(download((NOR, noise(1000, seed=1))))
    next(steps)
    quick.board.nors[number].stick_busy()
    with pytest.raises((LoaderRefused, LoaderTimeout)) as failed:
        list(steps)
    assert failed.value.why == (
        f"on bank {number + 1} of the QUADSPI, the NOR says that it is busy for longer than it "
        "may (JEDEC id EF4019 of each of two)"
    )
