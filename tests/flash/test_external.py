"""QSPI NOR through our own loader, which runs on the simulated core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from flash_bench import Bench, download, noise

from gdbserver.chip import cortex_m as cm
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    QUADSPI_CCR,
    QUADSPI_CR,
    QUADSPI_DCR,
    QUADSPI_DCR_FSIZE_SHIFT,
    QuadspiCr,
)
from gdbserver.errors import (
    FlashError,
    LoaderRefused,
    LoaderTimeout,
    MemoryFault,
    ProbeError,
)
from gdbserver.flash.external import ExternalFlash
from gdbserver.flash.plan import plan
from gdbserver.flash.programmer import Programmer
from gdbserver.loader.own import builtin
from gdbserver.sim.nor import Frame
from gdbserver.target.access import Write
from gdbserver.target.breakpoints import BreakKind

NOR = 0x90000000
PINS = {"CLK": "PB2", "NCS": "PB6", "IO0": "PF8", "IO1": "PF9", "IO2": "PF7", "IO3": "PF6"}


def test_an_image_arrives_whole_and_can_be_read_where_it_is_mapped(bench: Bench) -> None:
    image = noise(50_001)
    bench.carry_out(download((NOR + 0x10003, image)))
    assert bench.contents(Span.of(NOR + 0x10003, len(image))) == image
    assert bench.target.read_memory(NOR + 0x10003, 1000) == image[:1000]


def test_a_nor_on_the_second_bank_of_the_quadspi(bench_at: Callable[..., Bench]) -> None:
    pins = {"CLK": "PF10", "NCS": "PC11", "IO0": "PE7", "IO1": "PE8", "IO2": "PE9", "IO3": "PE10"}
    bench = bench_at("sim:ideal,qspi_pins=" + "/".join(pins.values()), pins)
    for seed in range(2):  # blank at first, and then not
        image = noise(50_001, seed)
        bench.carry_out(download((NOR + 0x10003, image)))
        assert bench.contents(Span.of(NOR + 0x10003, len(image))) == image
        assert bench.target.read_memory(NOR + 0x10003, 1000) == image[:1000]


def test_the_end_of_the_device_beyond_16_mib_is_reached(quick: Bench) -> None:
    end = NOR + (32 << 20)
    writes = ((NOR + (16 << 20) - 300, noise(600)), (end - 700, noise(700, seed=1)))
    quick.carry_out(download(*writes))
    for address, data in writes:
        assert quick.contents(Span.of(address, len(data))) == data


def test_a_sector_that_begins_with_something_else_is_looked_at_no_further(quick: Bench) -> None:
    loader = builtin(PINS)
    wanted = noise(4 << 16)
    (region_plan,) = plan(download((NOR, wanted)), [loader.region])
    held = [wanted[:0x8000], b"", noise(0x10000, seed=5), wanted[0x30000:]]
    quick.board.nor.memory[: 4 << 16] = b"".join(part.ljust(0x10000, b"\xff") for part in held)
    quick.target.halt()
    with ExternalFlash(quick.target, loader) as flash:
        compared = flash.compare(region_plan.sectors)
        while True:
            try:
                next(compared)
            except StopIteration as end:
                found = end.value
                break
        digests = [flash.digest_of(part.ljust(0x10000, b"\xff")) for part in held]
    assert found == [digests[0], digests[1], None, digests[3]]


@pytest.mark.parametrize(("at", "times"), [(0x7000, 0), (0x7800, 1)])
def test_what_hides_in_a_sector_that_begins_blank_is_found_before_or_after(
    quick: Bench, at: int, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, where a file would begin; in between, when the digest is wrong."""
    caplog.set_level("INFO")
    quick.board.nor.memory[at : at + 16] = bytes(16)
    wanted = noise(2 << 16)
    steps = quick.carry_out(download((NOR, wanted)))
    assert quick.contents(Span.of(NOR, 2 << 16)) == wanted
    assert sum(quick.board.nor.erases.values()) == 1
    complete = [step.action for step in steps if step.done == step.total]
    assert (complete.count("erased"), complete.count("programmed")) == (1, 1 + times)
    assert caplog.text.count("erasing 1 sectors after all") == times


def test_the_core_is_quick_while_our_loader_runs_and_its_clocks_are_as_before(quick: Bench) -> None:
    rcc = quick.board.rcc
    speeds = {
        (rcc.core_hz, rcc.quadspi_hz)
        for step in quick.programmer.carry_out(download((NOR, noise(100))))
        if step.action == "programmed"
    }
    assert speeds == {(200_000_000, 64_000_000)}
    assert (rcc.core_hz, rcc.quadspi_hz, rcc.pclk3_hz) == (64_000_000,) * 3


def test_sectors_are_erased_once_and_their_neighbours_not_at_all(quick: Bench) -> None:
    everything = download((NOR, noise(4 << 16)))
    quick.carry_out(everything)
    quick.board.nor.erases.clear()
    quick.carry_out(download((NOR + 0x10000, noise(100, seed=9))))
    assert sum(quick.board.nor.erases.values()) == 1
    held = quick.contents(Span.of(NOR, 4 << 16))
    assert held[:0x10000] == noise(4 << 16)[:0x10000]
    assert held[0x10000:0x20000] == noise(100, seed=9).ljust(0x10000, b"\xff")
    assert held[0x20000:] == noise(4 << 16)[0x20000:]


def test_blank_sectors_are_programmed_without_an_erase(quick: Bench) -> None:
    quick.carry_out(download((NOR, noise(1000))))
    assert not quick.board.nor.erases
    assert set(quick.board.nor.programs.values()) == {1}


def test_waiting_for_the_nor_takes_few_exchanges(bench_at: Callable[..., Bench]) -> None:
    """The link is free for half of the time, and a short look takes a third of a millisecond."""
    bench = bench_at("sim:stlink-v3", PINS)
    bench.carry_out(download((NOR, noise(1000))))  # the first one asks what the NOR is
    begun, exchanges = bench.target.monotonic(), bench.cost()
    bench.carry_out(download((NOR + 0x100000, noise(512 << 10))))
    assert bench.cost() - exchanges < 800 * (bench.target.monotonic() - begun)


def test_a_nor_that_takes_its_time_is_waited_for(bench_at: Callable[..., Bench]) -> None:
    """Longer than is usual: nothing is reckoned with that it should have done by now."""
    bench = bench_at("sim:stlink-v3,timing=maximum", PINS)
    image = noise(128 << 10)
    bench.carry_out(download((NOR, image)))
    assert bench.contents(Span.of(NOR, len(image))) == image


def test_an_unchanged_image_is_only_compared(bench: Bench) -> None:
    image = download((NOR, noise(100_000)))
    bench.carry_out(image)
    programs = dict(bench.board.nor.programs)
    assert {step.action for step in bench.carry_out(image)} == {"compared"}
    assert dict(bench.board.nor.programs) == programs


def test_the_core_and_its_ram_are_as_they_were(bench: Bench) -> None:
    """GDB writes the sections in RAM first, and believes its register cache afterwards."""
    target = bench.target
    ram = {0x24000000: noise(0x30000), 0x20000000: noise(0x20000, seed=1)}
    for address, data in ram.items():
        target.write_memory(address, data)
    registers = {f"r{n}": 0x1000 + n for n in range(13)}
    registers |= {"lr": 0x08000101, "pc": 0x08000200, "msp": 0x20010000, "psp": 0x20008000}
    registers |= {"primask": 1, "basepri": 0x40, "control": 2, "xpsr": 0x61000000, "fpscr": 0}
    registers |= {f"s{n}": 0x40000000 + n for n in range(32)}
    target.write_registers(registers)
    target.set_breakpoint(BreakKind.HARDWARE, 0x08000400, 2)
    system = [cm.VTOR, cm.CCR, cm.SHCSR, cm.CPACR, cm.MPU_CTRL, cm.SYST_RVR, cm.SYST_CSR, cm.DEMCR]
    target.write_word(cm.VTOR, 0x08000400)
    before = [target.read_word(register) for register in system]
    fpb = target.read_words(cm.FP_CTRL, 10)

    bench.carry_out(download((NOR, noise(150_000, seed=2))))

    assert target.is_halted()
    for address, data in ram.items():
        assert target.read_memory(address, len(data)) == data
    target.is_halted()
    assert target.read_registers(registers) == registers
    assert [target.read_word(register) for register in system] == before
    assert target.read_words(cm.FP_CTRL, 10) == fpb


def test_what_is_read_by_a_loaders_own_read_goes_where_there_is_room(quick: Bench) -> None:
    """A small download leaves small buffers behind, and is verified in larger blocks."""
    ours = builtin(PINS)
    symbols = {name: symbol for name, symbol in ours.image.symbols.items() if name != "found"}
    stranger = replace(ours, image=replace(ours.image, symbols=symbols))
    ram = noise(0x20000)
    quick.target.write_memory(0x24000000, ram)
    programmer = Programmer(quick.target, [stranger])
    for seed in range(2):
        image = noise(700, seed)
        list(programmer.carry_out(download((NOR + 0x10000, image))))
        assert quick.contents(Span.of(NOR + 0x10000, len(image))) == image
        assert quick.target.read_memory(0x24000000, len(ram)) == ram


def test_a_program_with_interrupts_under_way_does_not_disturb_the_loader(quick: Bench) -> None:
    """SysTick runs, its handler is in the NOR that is about to be erased, and one is active."""
    target = quick.target
    target.write_word(cm.VTOR, NOR)
    target.write_word(cm.SYST_RVR, 100)
    target.write_word(cm.SYST_CSR, 7)
    target.write_words(cm.NVIC_ISER, [0xFFFFFFFF] * 5)
    target.write_words(cm.NVIC_ISPR, [0x000000FF])
    target.write_word(cm.ICSR, cm.Icsr.PENDSVSET)
    quick.carry_out(download((NOR, noise(10_000))))
    assert quick.contents(Span.of(NOR, 10_000)) == noise(10_000)
    assert target.read_word(cm.VTOR) == NOR
    assert target.read_word(cm.SYST_CSR) & 7 == 7


def test_abandoning_a_download_leaves_the_nor_idle(bench: Bench) -> None:
    ram = noise(0x20000)
    bench.target.write_memory(0x24000000, ram)
    bench.carry_out(download((NOR, noise(0x20000, seed=3))))
    steps = bench.programmer.carry_out(download((NOR, noise(0x20000, seed=4))))
    for step in steps:
        if step.action == "programmed":
            break
    steps.close()
    assert not bench.board.nor.busy
    assert bench.target.is_halted()
    assert bench.target.read_memory(0x24000000, len(ram)) == ram
    bench.carry_out(download((NOR, noise(0x20000, seed=4))))
    assert bench.contents(Span.of(NOR, 0x20000)) == noise(0x20000, seed=4)


def test_a_nor_that_does_not_answer_is_explained(bench_at: Callable[..., Bench]) -> None:
    elsewhere = {**PINS, "NCS": "PG6"}
    bench = bench_at("sim:cmsis-dap-v2", elsewhere)
    before = bench.target.read_registers(["pc", "msp"])
    with pytest.raises(LoaderRefused, match=r"loader qspi.stldr: Init\(\) returned 0x0") as failed:
        bench.carry_out(download((NOR, b"1234")))
    pins = ", ".join(f"{signal}={pin}" for signal, pin in elsewhere.items())
    assert failed.value.why == (
        f"no NOR answers at {pins}: its JEDEC id reads as FF FF FF (nobody drives IO1)"
    )
    assert str(failed.value.hint).startswith("compare these pins with the schematic")
    assert bench.target.read_registers(["pc", "msp"]) == before


def test_a_nor_that_stays_busy_is_explained(quick: Bench) -> None:
    quick.carry_out(download((NOR, noise(1000))))
    steps = quick.programmer.carry_out(download((NOR, noise(1000, seed=1))))
    next(steps)
    quick.board.nor.stick_busy()
    with pytest.raises((LoaderRefused, LoaderTimeout)) as failed:
        list(steps)
    assert "SectorErase(0x90000000, 0x90000000)" in str(failed.value)
    assert failed.value.why == (
        "the NOR says that it is busy for longer than it may (JEDEC id EF4019)"
    )
    assert str(failed.value.hint).startswith("switch its power off and on")


def test_a_nor_that_was_busy_before_init_is_not_given_an_id_that_it_has_not(
    bench_at: Callable[..., Bench],
) -> None:
    bench = bench_at("sim:cmsis-dap-v2")
    bench.board.nor.stick_busy(now=True)
    with pytest.raises(LoaderRefused) as failed:
        bench.programmer.describe_external()
    assert failed.value.why == "the NOR says that it is busy for longer than it may"


@pytest.mark.parametrize(
    ("signal", "pin"), [("CLK", "PF10"), ("NCS", "PB10"), ("IO0", "PD11"), ("IO1", "PD12")]
)
def test_wrong_pins_are_told_with_what_to_compare_and_to_measure(
    bench_at: Callable[..., Bench], signal: str, pin: str
) -> None:
    bench = bench_at("sim:cmsis-dap-v2", {**PINS, signal: pin})
    with pytest.raises(LoaderRefused, match=r"no NOR answers at .* reads as FF FF FF") as failed:
        bench.programmer.describe_external()
    assert f"{signal}={pin}" in str(failed.value)
    assert "power, RESET# and HOLD#" in str(failed.value.hint)


def test_a_line_that_is_held_low_reads_as_zeros_and_is_named(quick: Bench) -> None:
    quick.board.nor.jedec_id = bytes(3)
    with pytest.raises(LoaderRefused) as failed:
        quick.programmer.describe_external()
    assert failed.value.why.endswith("reads as 00 00 00 (something holds IO1 low)")


def test_a_nor_that_answers_only_when_asked_slowly_is_told_so(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    nor = quick.board.nor
    clock = []
    answer = nor.transfer

    def transfer(frame: Frame) -> bytes:
        prescaler = quick.board.quadspi.raw(quick.board.quadspi.CR) >> 24
        clock.append(prescaler)
        return bytes(answer(frame)) if prescaler == 0xFF else b"\xff" * frame.read

    monkeypatch.setattr(nor, "transfer", transfer)
    with pytest.raises(LoaderRefused) as failed:
        quick.programmer.describe_external()
    assert clock[0] < 0xFF == clock[-1]
    assert failed.value.why.endswith(
        "its JEDEC id is EF 40 19 (Winbond, 32 MiB), but not at the loader's clock"
    )
    assert "max_clock" in str(failed.value.hint)


def test_a_dead_cell_is_found_and_named(quick: Bench) -> None:
    quick.board.nor.fail_cell(0x123)
    with pytest.raises(FlashError) as failed:
        quick.carry_out(download((NOR, bytes(0x400))))
    assert "0x90000123" in str(failed.value)


def test_what_is_on_the_board_is_described(quick: Bench) -> None:
    line = quick.programmer.describe_external()
    assert "JEDEC id EF4019, 32768 KiB" in line


def test_asking_the_nor_what_it_is_is_no_long_story(bench: Bench) -> None:
    cost, begun = bench.cost(), bench.seconds()
    bench.programmer.describe_external()
    assert bench.cost() - cost <= (225 if "stlink" in bench.target.probe_uid else 98)
    assert bench.seconds() - begun < 0.085


def test_after_a_reset_the_nor_can_be_made_readable(quick: Bench) -> None:
    quick.carry_out(download((NOR, b"still here")))
    quick.target.reset(halt=True)
    quick.programmer.prepare_external_reads()
    assert quick.target.read_memory(NOR, 10) == b"still here"


def test_one_call_at_a_time_works_just_as_well(quick: Bench) -> None:
    loader = builtin(PINS)
    image = noise(5000)
    with ExternalFlash(quick.target, loader, queued=False) as flash:
        (region_plan,) = plan(download((NOR, image)), [loader.region])
        list(flash.change(region_plan.sectors))
        assert flash.read(Span.of(NOR, 5000)) == image
    assert quick.contents(Span.of(NOR, 5000)) == image


def test_mass_erase_blanks_the_nor(quick: Bench) -> None:
    quick.carry_out(download((NOR + 0x1000000, noise(1000))))
    actions = [step.action for step in quick.programmer.mass_erase("external")]
    assert actions[-1] == "erased"
    assert quick.contents(Span.of(NOR + 0x1000000, 1000)) == b"\xff" * 1000


def test_pulling_the_probe_out_is_reported_as_such(quick: Bench) -> None:
    steps = quick.programmer.carry_out(download((NOR, noise(100_000))))
    for step in steps:
        if step.action == "programmed":
            break
    quick.board.unplug()
    with pytest.raises(ProbeError):
        list(steps)
    quick.board.replug()


def test_a_debugger_keeps_away_from_the_end_of_a_window_that_ends_with_the_nor(
    bench: Bench,
) -> None:
    bench.target.halt()
    end = 0x92000000
    bench.carry_out(download((end - 256, noise(256))))
    bench.programmer.prepare_external_reads()
    assert bench.target.read_memory(end - 256, 256) == noise(256)
    (communication,) = bench.target.read_words(QUADSPI_CCR, 1)
    bench.target.run(
        [
            Write(QUADSPI_CR, [bench.target.read_word(QUADSPI_CR) | QuadspiCr.ABORT]),
            Write(QUADSPI_DCR, [24 << QUADSPI_DCR_FSIZE_SHIFT]),
            Write(QUADSPI_CCR, [communication]),
        ]
    )
    for read in (bench.target.read_memory, bench.target.view_memory) * 2:
        with pytest.raises(MemoryFault) as fault:
            read(end - 64, 64)
        assert fault.value.readable == noise(256)[-64:-32]
        assert "FSIZE to one more" in str(fault.value.hint)
        assert read(end - 256, 200) == noise(256)[:200]
