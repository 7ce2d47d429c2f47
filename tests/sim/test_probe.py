"""The probe as pyOCD's layers above it see it, over every kind of link."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from pyocd.core import exceptions
from pyocd.core.session import Session
from pyocd.core.target import Target

from gdbserver.chip.cortex_m import DHCSR, Dhcsr
from gdbserver.chip.stm32h743 import (
    AXI_SRAM,
    BANK1,
    DTCM,
    FLASH,
    FLASH_CR,
    FLASH_KEY1,
    FLASH_KEY2,
    FLASH_KEYR,
    FLASH_SR,
    SECTOR_ERASE_SECONDS,
    FlashCr,
    FlashSr,
)
from gdbserver.sim.access_port import BD0, TAR
from gdbserver.sim.bus import Master
from gdbserver.sim.clock import MICROSECOND
from gdbserver.sim.link import LINKS, Polling
from gdbserver.sim.probe import SimProbe

ACCELERATED = ["stlink-v2", "stlink-v3"]
REGISTER_LEVEL = ["cmsis-dap-v1", "cmsis-dap-v2", "ideal"]
assert sorted([*ACCELERATED, *REGISTER_LEVEL]) == sorted(LINKS)

FASTEST = 50_000_000
PG_X64 = int(FlashCr.PG) | 3 << 4


@contextmanager
def session(uid: str, target: str = "stm32h743xx", frequency: int = FASTEST) -> Iterator[Any]:
    """pyOCD's own session, connected under reset."""
    options = {
        "target_override": target,
        "frequency": frequency,
        "connect_mode": "under-reset",
        "hide_programming_progress": True,
    }
    with Session(SimProbe(uid), options=options) as connected:
        yield connected


@pytest.fixture(params=LINKS)
def connected(request: pytest.FixtureRequest) -> Iterator[Any]:
    with session(f"sim:{request.param}") as connected:
        yield connected


def unlock_flash(target: Any, cr: int) -> None:
    """Unlock bank 1 and set its control register."""
    if target.read32(FLASH + FLASH_CR) & FlashCr.LOCK:
        target.write32(FLASH + FLASH_KEYR, FLASH_KEY1)
        target.write32(FLASH + FLASH_KEYR, FLASH_KEY2)
    target.write32(FLASH + FLASH_CR, cr)


def write_through(target: Any, address: int, words: list[int]) -> None:
    """Write, and have the probe carry out what pyOCD would still hold back."""
    target.write_memory_block32(address, words)
    target.dp.flush()


# --- Sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["stm32h743xx", "cortex_m"])
@pytest.mark.parametrize("link", LINKS)
def test_pyocd_connects_and_finds_the_chip(link: str, target: str):
    with session(f"sim:{link}", target) as connected:
        core = connected.target
        assert core.get_state() is Target.State.HALTED
        assert core.read32(0x5C001000) == 0x20036450
        assert len(core.dp.aps) == 3
        assert core.selected_core.name == "Cortex-M7"
        assert core.selected_core.available_breakpoint_count == 8


def test_random_blocks_come_back_as_they_were_written(connected: Any):
    random = Random(1)
    target, board = connected.target, connected.probe.board
    for ram in (DTCM, AXI_SRAM):
        image = bytearray(board.bus.read_block(ram.start, len(ram), Master.AP0))
        for _ in range(30):
            start = random.randrange(0x2000)
            data = random.randbytes(random.choice([1, 2, 3, 4, 7, 64, 1023, 1024, 1025, 9000]))
            target.write_memory_block8(ram.start + start, list(data))
            image[start : start + len(data)] = data
            start, length = random.randrange(0x2000), random.randrange(1, 5000)
            found = target.read_memory_block8(ram.start + start, length)
            assert bytes(found) == image[start : start + length]
        assert board.bus.read_block(ram.start, len(ram), Master.AP0) == image


def test_single_accesses_of_each_size(connected: Any):
    target = connected.target
    target.write32(0x24000000, 0x44332211)
    target.write8(0x24000001, 0xAA)
    target.write16(0x24000002, 0xBBCC)
    assert target.read32(0x24000000) == 0xBBCCAA11
    assert target.read8(0x24000003) == 0xBB
    assert target.read16(0x24000002) == 0xBBCC


def test_deferred_reads_have_their_values_when_asked(connected: Any):
    ap = connected.target.aps[0]
    connected.target.write_memory_block32(0x24000000, [1, 2, 3])
    later = [ap.read_memory(0x24000000 + 4 * n, 32, now=False) for n in range(3)]
    assert [value() for value in later] == [1, 2, 3]


def test_the_core_halts_steps_and_runs(connected: Any):
    target = connected.target
    target.write_memory_block8(0x24000000, list(bytes.fromhex("0020 0130 fde7")))
    target.write_core_register("pc", 0x24000000)
    target.write_core_register("xpsr", 1 << 24)
    pcs = []
    for _ in range(3):
        target.step()
        pcs.append(target.read_core_register("pc"))
    assert pcs == [0x24000002, 0x24000004, 0x24000002]
    target.resume()
    assert target.get_state() is Target.State.RUNNING
    target.halt()
    assert target.read_core_register("r0") > 100, "it ran for as long as the link took"
    target.set_breakpoint(0x24000004)
    target.resume()
    assert target.get_state() is Target.State.HALTED
    assert target.read_core_register("pc") == 0x24000004


def test_reset_and_halt_stops_at_the_reset_vector(connected: Any):
    connected.probe.board.flash.load(BANK1.start, struct.pack("<II", 0x20001000, 0x08000101))
    connected.target.reset_and_halt()
    assert connected.target.get_state() is Target.State.HALTED
    assert connected.target.read_core_register("pc") == 0x08000100
    assert connected.target.read_core_register("sp") == 0x20001000


def test_trace_components_appear_once_their_clocks_are_on(connected: Any):
    """Reads of AP2's components fault until DBGMCU_CR gives them a clock; pyOCD sets it."""
    names = [c.name for c in connected.target.aps[2].rom_table.components]
    assert "SWO" in names
    connected.target.write32(0x5C001004, 0)
    with pytest.raises(exceptions.TransferFaultError):
        connected.target.aps[2].read32(0xE00E3FD0)
    assert connected.target.aps[2].read32(0xE00E1000) == 0x20036450


def test_connecting_as_cortex_m_survives_dead_trace_components(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR, "pyocd")  # whatever opened a probe in this process before us
    with session("sim:ideal", "cortex_m") as connected:
        assert connected.target.aps[2].rom_table.components == []
    assert "Error attempting to probe CoreSight component" in caplog.text


# --- Faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ACCELERATED)
def test_an_stlink_names_the_address_that_faulted(link: str):
    with session(f"sim:{link}") as connected:
        end = AXI_SRAM.end
        with pytest.raises(exceptions.TransferFaultError) as read:
            connected.target.read_memory_block32(end - 16, 8)
        assert read.value.fault_address == end
        with pytest.raises(exceptions.TransferFaultError) as write:
            connected.target.write_memory_block32(end - 16, list(range(8)))
        assert write.value.fault_address == end
        assert connected.target.read_memory_block32(end - 16, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("link", REGISTER_LEVEL)
def test_a_refused_block_leaves_tar_at_the_bad_word(link: str):
    with session(f"sim:{link}") as connected:
        ap, end = connected.target.aps[0], AXI_SRAM.end
        with pytest.raises(exceptions.TransferFaultError):
            write_through(connected.target, end - 16, list(range(8)))
        assert ap.read_reg(0x04) == end
        assert ap.read_memory_block32(end - 16, 4) == [0, 1, 2, 3]


def test_after_a_fault_the_link_works_again(connected: Any):
    for address in (0x60000000, 0x1FF80000, 0xA0000000):
        with pytest.raises(exceptions.TransferFaultError):
            connected.target.read32(address)
        connected.target.write32(0x24000000, address)
        assert connected.target.read32(0x24000000) == address


# --- WAIT -----------------------------------------------------------------------------------------


def stream_flash_words(target: Any, count: int) -> None:
    """Write flash words as fast as the link goes; the controller stalls the bus."""
    write_through(target, BANK1.start, list(range(8 * count)))


@pytest.mark.parametrize("link", ["stlink-v3", "ideal"])
def test_a_patient_probe_is_throttled_by_wait(link: str):
    with session(f"sim:{link}") as connected:
        unlock_flash(connected.target, PG_X64)
        before = connected.probe.monotonic()
        stream_flash_words(connected.target, 20)
        connected.target.read32(FLASH + FLASH_SR)
        took = connected.probe.monotonic() - before
        assert connected.probe.counters.waits > 0
        board = connected.probe.board
        board.run_until(board.clock.now + 1_000_000)
        expected = struct.pack("<160I", *range(160))
        assert bytes(board.flash.banks[0].cells.data[: len(expected)]) == expected
        assert 17 * 100e-6 < took < 25 * 100e-6, "18 of 20 words had to be waited for"


@pytest.mark.parametrize("link", ["stlink-v3", "ideal"])
def test_an_impatient_probe_reports_a_time_out_and_tar_tells_how_far_it_got(link: str):
    with session(f"sim:{link},waits=3") as connected:
        target, ap, board = connected.target, connected.target.aps[0], connected.probe.board
        unlock_flash(target, PG_X64)
        with pytest.raises(exceptions.TransferTimeoutError):
            stream_flash_words(target, 20)
        board.run_until(board.clock.now + 1_000_000)
        taken = ap.read_reg(0x04) - BANK1.start
        assert 0 < taken < 8 * 20 * 4
        assert taken % 32 == 0, "the word that completed a flash word was the one that hung"
        expected = struct.pack("<160I", *range(160))[:taken]
        assert bytes(board.flash.banks[0].cells.data[:taken]) == expected
        assert board.flash.programs.total() == taken // 32
        assert target.read32(FLASH + FLASH_SR) & (FlashSr.QW | FlashSr.WBNE) == 0


def test_a_storm_of_waits_passes(connected: Any):
    connected.target.write32(0x24000000, 0x12345678)
    connected.probe.board.wait_storm(500 * MICROSECOND)
    before = connected.probe.monotonic()
    assert connected.target.read32(0x24000000) == 0x12345678
    assert connected.probe.monotonic() - before >= 400e-6


# --- Time and traffic --------------------------------------------------------------------------


def script(link: str) -> tuple[Any, ...]:
    """A bit of everything; returns what it cost."""
    with session(f"sim:{link}") as connected:
        target, probe = connected.target, connected.probe
        target.write_memory_block8(0x24000000, list(Random(0).randbytes(5000)))
        target.write_memory_block8(0x24010000, list(bytes.fromhex("0020 0130 fde7")))
        target.write_core_register("pc", 0x24010000)
        target.write_core_register("xpsr", 1 << 24)
        target.resume()
        target.halt()
        r0 = target.read_core_register("r0")
        return probe.link_time, probe.board.clock.now, probe.counters, r0


@pytest.mark.parametrize("link", LINKS)
def test_the_same_script_takes_the_same_nanoseconds(link: str):
    assert script(link) == script(link)


@pytest.mark.parametrize(
    ("link", "slowest", "fastest"),
    [  # KiB/s into RAM: published ceilings of such probes, or the wire's own
        ("cmsis-dap-v1", 28, 64),
        ("cmsis-dap-v2", 400, 1000),
        ("stlink-v2", 150, 340),
        ("stlink-v3", 600, 2038),
    ],
)
def test_writing_ram_goes_as_fast_as_on_such_probes(link: str, slowest: float, fastest: float):
    with session(f"sim:{link}") as connected:
        data = [0] * 16384
        before = connected.probe.monotonic()
        write_through(connected.target, AXI_SRAM.start, data)
        rate = 64 / (connected.probe.monotonic() - before)
    assert slowest < rate < fastest


def test_a_slower_clock_costs_time_and_no_traffic():
    costs = []
    for frequency in (1_000_000, 8_000_000):
        with session("sim:cmsis-dap-v2", frequency=frequency) as connected:
            before = connected.probe.monotonic()
            connected.target.read_memory_block32(AXI_SRAM.start, 256)
            costs.append(connected.probe.monotonic() - before)
    assert costs[0] - costs[1] == pytest.approx(257 * 48 * (1 - 1 / 8) * 1e-6, rel=0.05)


def test_a_cmsis_dap_packet_is_filled_before_it_is_sent():
    with session("sim:cmsis-dap-v1") as connected:
        counters = connected.probe.counters
        before = counters.transactions, counters.swd_transfers
        write_through(connected.target, AXI_SRAM.start, [0] * 140)
        packets = counters.transactions - before[0]
        assert packets == 11, "14 words in each packet of 64 bytes, and one for the address"
        # SELECT, CSW and TAR first; RDBUFF at the end of each packet.
        assert counters.swd_transfers - before[1] == 3 + 140 + packets


def test_an_stlink_moves_6144_bytes_per_command_and_fewer_as_bytes():
    with session("sim:stlink-v2") as connected:
        counters = connected.probe.counters
        before = counters.transactions
        connected.target.write_memory_block32(AXI_SRAM.start, [0] * 3072)
        assert counters.transactions - before == 4, "two commands, each with a look at its status"
        before = counters.transactions
        connected.target.aps[0].read_memory(AXI_SRAM.start, 8)
        assert counters.transactions - before == 2


def test_waiting_for_an_erase_costs_few_exchanges_and_the_datasheets_time(connected: Any):
    target, probe = connected.target, connected.probe
    unlock_flash(target, int(FlashCr.SER) | 3 << 4)
    target.write32(FLASH + FLASH_CR, int(FlashCr.SER | FlashCr.START) | 3 << 4)
    start, before = probe.monotonic(), probe.counters.transactions
    while target.read32(FLASH + FLASH_SR) & FlashSr.QW:
        pass
    assert probe.monotonic() - start == pytest.approx(SECTOR_ERASE_SECONDS[3][0], rel=0.01)
    assert probe.counters.transactions - before < 400


def test_waiting_through_the_banked_data_registers_is_waiting_too(connected: Any):
    """BD0-3 show the 16 bytes around TAR without moving it."""
    target, probe, ap = connected.target, connected.probe, connected.target.aps[0]
    unlock_flash(target, int(FlashCr.SER) | 3 << 4)
    target.write32(FLASH + FLASH_CR, int(FlashCr.SER | FlashCr.START) | 3 << 4)
    ap.write_reg(TAR, FLASH + FLASH_SR)
    start, before = probe.monotonic(), probe.counters.transactions
    while ap.read_reg(BD0 + FLASH_SR % 16) & FlashSr.QW:
        pass
    assert probe.monotonic() - start == pytest.approx(SECTOR_ERASE_SECONDS[3][0], rel=0.01)
    assert probe.counters.transactions - before < 400


def test_reading_blank_memory_is_not_mistaken_for_waiting(connected: Any):
    """The same bytes from other addresses are another question."""
    target, board = connected.target, connected.probe.board
    fired = []
    board.clock.after(10**12, lambda: fired.append(True))
    target.read_memory_block32(BANK1.start, 4096)
    for n in range(20):
        target.write32(AXI_SRAM.start, 0)
        target.write_memory_block32(AXI_SRAM.start, [0] * 64)
        target.read_memory_block32(BANK1.start + 1024 * n, 256)
    assert connected.probe.monotonic() < 10
    assert not fired


def test_a_poll_is_three_turns_of_the_same():
    polling = Polling()
    turn = [(b"ask A", b"0"), (b"ask B", b"1")]
    for n, (command, answer) in enumerate(3 * turn):
        assert polling.turn(command) is None
        polling.note(command, answer, n, harmless=True)
    assert polling.turn(b"ask A") == 2
    assert polling.turn(b"ask B") is None
    assert polling.patience(2, 101, running=True) == 100 // 32
    polling.note(b"ask A", b"1", 6, harmless=True)
    assert polling.turn(b"ask B") is None


def test_a_core_that_stopped_since_it_was_asked_is_asked_at_once():
    polling = Polling()
    for n in range(6):
        polling.note(b"halted?", b"no", n, harmless=True, moving=True)
    assert polling.patience(1, 1000, running=False) == 0
    polling.note(b"halted?", b"no", 7, harmless=True)
    assert polling.patience(1, 1000, running=False) > 0


def test_time_passes_on_the_board_while_the_host_holds_reset(probe: SimProbe):
    with Session(
        probe, options={"target_override": "stm32h743xx", "reset.hold_time": 0.25}
    ) as connected:
        before = probe.monotonic()
        connected.probe.reset()
        assert probe.monotonic() - before == pytest.approx(0.25 + 0.1, rel=0.01)


# --- The cable -----------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
def test_an_unplugged_probe_is_a_probe_error_for_every_access(link: str):
    with session(f"sim:{link}") as connected:
        connected.probe.board.unplug()
        for access in (
            lambda: connected.target.read32(DHCSR),
            lambda: connected.probe.read_dp(0x4),
            lambda: connected.target.aps[0].read_reg(0xFC),
            lambda: connected.probe.assert_reset(False),
        ):
            with pytest.raises(exceptions.ProbeError):
                access()
        connected.probe.board.replug()
        assert connected.target.read32(DHCSR) & Dhcsr.C_DEBUGEN


# --- Ids ----------------------------------------------------------------------------------------


def test_the_id_says_which_board_and_which_link():
    probe = SimProbe("sim:stlink-v2,nor=W25Q128JV,timing=maximum,rdp=0x55,waits=8")
    assert probe.options.nor == "W25Q128JV"
    assert (probe.options.link, probe.options.timing) == ("stlink-v2", "maximum")
    assert (probe.options.rdp, probe.options.waits) == (0x55, 8)
    assert probe.unique_id == "sim:stlink-v2,nor=W25Q128JV,timing=maximum,rdp=0x55,waits=8"


def test_the_link_may_be_left_out_of_the_id():
    plain = SimProbe("sim").options
    assert SimProbe("sim:nor=W25Q128JV").options == replace(plain, nor="W25Q128JV")


@pytest.mark.parametrize(
    ("uid", "sentence"),
    [
        ("sim:jlink", "no link is called 'jlink'; there are cmsis-dap-v1"),
        ("sim:ideal,nor=M25P40", "no NOR is called 'M25P40'; there are"),
        ("sim:ideal,colour=red", "no option is called 'colour'; there are nor, nor2, timing"),
        ("sim:ideal,waits=many", "waits is a number, not 'many'"),
        ("sim:ideal,revision=1", "revision is one of 0x1000, 0x1001, 0x1003"),
        ("sim:ideal,flash_kib=512", "flash_kib is one of 128, 1024, 2048"),
        ("sim:ideal,timing=slow", "timing is typical or maximum, not 'slow'"),
        ("sim:ideal,qspi_pins=PB2", "qspi_pins are six"),
        ("sim:ideal,qspi_pins=PB2/PB6/PF8/PF9/PF7/PA0", "IO3 can be on PA1, PD13, PF6, not on PA0"),
        (
            "sim:ideal,qspi_pins=PB2/PB6/PF8/PF9/PF7/PF6/PH2/PH3/PG9/PA0",
            "IO3 can be on PE10, PG14, not on PA0",
        ),
        ("sim:ideal,nor2=W25Q128JV", "a second NOR needs qspi_pins of its own: BK2_IO0 to BK2_IO3"),
    ],
)
def test_a_bad_id_is_refused_with_a_sentence(uid: str, sentence: str):
    with pytest.raises(exceptions.ProbeError) as refused:
        SimProbe.get_probe_with_id(uid)
    assert sentence in str(refused.value)


def test_ids_of_other_probes_are_none_of_ours():
    assert SimProbe.get_probe_with_id("066DFF383333554157243840") is None
