"""The debug port as the wire sees it: requests in, acknowledge and data out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.stm32h743 import DPIDR
from gdbserver.sim.access_port import AHB_AP, APB_AP, BASE, BD0, CSW, DRW, IDR, TAR, MemAp
from gdbserver.sim.bus import Bus, BusError, BusStall, Master, Ram
from gdbserver.sim.clock import Clock
from gdbserver.sim.debug_port import Abort, Ack, CtrlStat, DebugPort

RAM = 0x20000000
SLOW = 0x30000000
NOWHERE = 0x60000000
POWER = int(CtrlStat.CDBGPWRUPREQ | CtrlStat.CSYSPWRUPREQ)
CLEAR_STICKY = int(Abort.STKERRCLR | Abort.WDERRCLR | Abort.ORUNERRCLR | Abort.STKCMPCLR)
WORDS_UP = 0x12  # CSW: 32 bits, single increment


class SlowSlave:
    """Takes one write, then holds the bus for 1000 ns: a flash bank with a full queue."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.taken: list[tuple[int, int]] = []
        self.free = 0

    def read(self, offset: int, size: int, master: Master) -> int:
        if self.clock.now < self.free:
            raise BusStall(self.free)
        return 0xCAFE0000 | offset

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        if self.clock.now < self.free:
            raise BusStall(self.free)
        self.free = self.clock.now + 1000
        self.taken.append((offset, value))


class Bench:
    """A debug port with a RAM, a slow slave and nothing else behind its access ports."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bus = Bus()
        self.ram = Ram(0x1000)
        self.slow = SlowSlave(self.clock)
        self.bus.attach(RAM, 0x1000, self.ram)
        self.bus.attach(SLOW, 0x1000, self.slow)
        aps = {
            0: MemAp(AHB_AP, self.clock, self.bus, Master.AP0, base=0xE00FE003),
            2: MemAp(APB_AP, self.clock, self.bus, Master.AP2),
        }
        self.port = DebugPort(self.clock, aps)
        self.selected = 0

    def line_reset(self) -> None:
        self.port.sequence((1 << 51) - 1, 51)
        self.port.sequence(0, 8)

    def switch_to_swd(self) -> None:
        self.port.sequence((1 << 51) - 1, 51)
        self.port.sequence(0xE79E, 16)
        self.line_reset()

    def connect(self) -> Bench:
        self.switch_to_swd()
        self.read_dp(0x0)
        self.write_dp(0x4, POWER)
        return self

    def read_dp(self, address: int) -> int:
        ack, value = self.port.transfer(ap=False, read=True, address=address)
        assert ack is Ack.OK, ack.name
        return value

    def write_dp(self, address: int, value: int) -> None:
        ack, _ = self.port.transfer(ap=False, read=False, address=address, value=value)
        assert ack is Ack.OK, ack.name

    def select(self, ap: int, register: int) -> int:
        self.write_dp(0x8, ap << 24 | register & 0xF0)
        return register & 0xC

    def write_ap(self, register: int, value: int, *, ap: int = 0) -> Ack:
        address = self.select(ap, register)
        return self.port.transfer(ap=True, read=False, address=address, value=value)[0]

    def read_ap(self, register: int, *, ap: int = 0) -> int:
        address = self.select(ap, register)
        assert self.port.transfer(ap=True, read=True, address=address)[0] is Ack.OK
        return self.read_dp(0xC)

    def aim(self, address: int, csw: int = WORDS_UP) -> None:
        self.write_ap(CSW, csw)
        self.write_ap(TAR, address)

    @property
    def flags(self) -> CtrlStat:
        return CtrlStat(self.read_dp(0x4))


@pytest.fixture
def bench() -> Bench:
    return Bench().connect()


# --- The line --------------------------------------------------------------------------------


def test_nobody_answers_before_the_line_is_switched_to_swd():
    bench = Bench()
    assert bench.port.transfer(ap=False, read=True, address=0x0)[0] is Ack.NONE
    bench.line_reset()
    assert bench.port.transfer(ap=False, read=True, address=0x0)[0] is Ack.NONE


def test_after_a_line_reset_only_dpidr_is_answered():
    bench = Bench()
    bench.switch_to_swd()
    assert bench.port.transfer(ap=False, read=True, address=0x4)[0] is Ack.NONE
    assert bench.read_dp(0x0) == DPIDR
    bench.write_dp(0x4, POWER)
    bench.line_reset()
    assert bench.port.transfer(ap=False, read=True, address=0x4)[0] is Ack.NONE
    assert bench.read_dp(0x0) == DPIDR
    assert bench.flags & POWER == POWER, "a line reset is no power cycle"


def test_switching_to_jtag_silences_the_port(bench: Bench):
    bench.port.sequence((1 << 51) - 1, 51)
    bench.port.sequence(0xE73C, 16)
    assert bench.port.transfer(ap=False, read=True, address=0x0)[0] is Ack.NONE


# --- DP registers ------------------------------------------------------------------------------


def test_power_is_acknowledged_as_far_as_it_was_asked_for(bench: Bench):
    assert bench.flags & 0xF0000000 == 0xF0000000
    bench.write_dp(0x4, int(CtrlStat.CDBGPWRUPREQ))
    assert bench.flags & 0xF0000000 == 0x30000000


def test_an_access_port_without_power_is_a_fault():
    bench = Bench()
    bench.switch_to_swd()
    bench.read_dp(0x0)
    assert bench.port.transfer(ap=True, read=True, address=0xC)[0] is Ack.FAULT
    assert CtrlStat.STICKYERR in bench.flags


def test_dpbanksel_shows_other_registers_at_the_address_of_ctrl_stat(bench: Bench):
    bench.write_dp(0x8, 2)
    assert bench.read_dp(0x4) & 0xFFF == 0x041  # TARGETID: ST
    bench.write_dp(0x8, 3)
    assert bench.read_dp(0x4) == 0x00000001  # DLPIDR: SWD protocol version 2
    bench.write_dp(0x8, 0)
    assert bench.flags & POWER == POWER


def test_reads_of_access_ports_are_posted(bench: Bench):
    address = bench.select(0, IDR)
    assert bench.port.transfer(ap=True, read=True, address=address)[0] is Ack.OK
    address = bench.select(0, BASE)
    assert bench.port.transfer(ap=True, read=True, address=address) == (Ack.OK, AHB_AP.idr)
    assert bench.read_dp(0xC) == 0xE00FE003
    assert bench.read_dp(0x8) == 0xE00FE003, "RESEND repeats"


def test_an_absent_access_port_reads_as_zero(bench: Bench):
    assert bench.read_ap(IDR, ap=3) == 0
    assert bench.write_ap(TAR, 0x1234, ap=3) is Ack.OK


# --- Memory through an access port --------------------------------------------------------------


def test_bytes_and_halfwords_travel_in_their_lanes(bench: Bench):
    bench.ram.data[:8] = bytes(range(0x10, 0x18))
    bench.aim(RAM + 1, csw=0x10)
    assert bench.read_ap(DRW) == 0x11 << 8
    assert bench.read_ap(DRW) == 0x12 << 16
    bench.aim(RAM + 6, csw=0x11)
    assert bench.read_ap(DRW) == 0x1716 << 16
    bench.aim(RAM + 3, csw=0x10)
    bench.write_ap(DRW, 0xAA000000)
    assert bench.ram.data[:8] == bytes.fromhex("101112aa14151617")


def test_packed_transfers_fill_a_word(bench: Bench):
    bench.ram.data[:8] = bytes(range(8))
    bench.aim(RAM, csw=0x20)
    assert bench.read_ap(DRW) == 0x03020100
    assert bench.read_ap(TAR) == RAM + 4
    bench.aim(RAM + 4, csw=0x21)
    bench.write_ap(DRW, 0xDDCCBBAA)
    assert bench.ram.data[4:8] == bytes.fromhex("aabbccdd")


def test_tar_counts_up_within_1_kib_only(bench: Bench):
    bench.aim(RAM + 0x3FC)
    bench.write_ap(DRW, 1)
    assert bench.read_ap(TAR) == RAM
    bench.write_ap(DRW, 2)
    assert bench.ram.data[0x3FC:0x400] == b"\1\0\0\0"
    assert bench.ram.data[:4] == b"\2\0\0\0"


def test_without_increment_tar_stays(bench: Bench):
    bench.aim(RAM, csw=0x02)
    bench.write_ap(DRW, 1)
    bench.write_ap(DRW, 2)
    assert bench.read_ap(TAR) == RAM
    assert bench.ram.data[:4] == b"\2\0\0\0"


def test_banked_data_registers_reach_four_words_around_tar(bench: Bench):
    bench.aim(RAM + 0x24)
    for n in range(4):
        bench.write_ap(BD0 + 4 * n, n)
    assert bench.ram.data[0x20:0x30] == bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])
    assert bench.read_ap(TAR) == RAM + 0x24


def test_csw_shows_what_the_port_can_do(bench: Bench):
    assert bench.read_ap(CSW) & 0x40, "DeviceEn"
    bench.write_ap(CSW, 0xFFFFFFFF)
    assert bench.read_ap(CSW) == 0x4F000072, "a size that does not exist becomes 32 bits"
    bench.write_ap(CSW, 0x00000000, ap=2)
    assert bench.read_ap(CSW, ap=2) & 7 == 2, "an APB-AP moves words only"


# --- Errors --------------------------------------------------------------------------------------


def test_a_refused_write_is_felt_by_the_next_request(bench: Bench):
    bench.aim(NOWHERE)
    assert bench.write_ap(DRW, 1) is Ack.OK
    assert bench.port.transfer(ap=True, read=False, address=0xC)[0] is Ack.FAULT
    assert CtrlStat.STICKYERR in bench.flags


def test_a_refused_read_is_felt_when_its_data_are_fetched(bench: Bench):
    bench.aim(NOWHERE)
    address = bench.select(0, DRW)
    assert bench.port.transfer(ap=True, read=True, address=address)[0] is Ack.OK
    assert bench.port.transfer(ap=False, read=True, address=0xC)[0] is Ack.FAULT


def test_an_error_sticks_until_abort_clears_it(bench: Bench):
    bench.aim(NOWHERE)
    bench.write_ap(DRW, 1)
    for _ in range(2):
        assert bench.port.transfer(ap=False, read=False, address=0x8)[0] is Ack.FAULT
        assert bench.read_dp(0x0) == DPIDR
    bench.write_dp(0x0, CLEAR_STICKY)
    assert CtrlStat.STICKYERR not in bench.flags
    assert bench.read_ap(TAR) == NOWHERE, "TAR does not move past a failed access"


def test_readok_tells_whether_the_last_read_was_answered(bench: Bench):
    bench.read_ap(IDR)
    assert CtrlStat.READOK in bench.flags
    bench.aim(NOWHERE)
    bench.write_ap(DRW, 1)
    assert bench.port.transfer(ap=False, read=True, address=0xC)[0] is Ack.FAULT
    assert CtrlStat.READOK not in bench.flags


def test_overrun_detection_remembers_a_request_that_was_not_taken(bench: Bench):
    bench.write_dp(0x4, POWER | CtrlStat.ORUNDETECT)
    bench.aim(SLOW)
    bench.write_ap(DRW, 1)
    bench.write_ap(DRW, 2)
    assert bench.port.transfer(ap=True, read=False, address=0xC)[0] is Ack.WAIT
    assert CtrlStat.STICKYORUN in bench.flags
    bench.write_dp(0x0, CLEAR_STICKY)
    assert CtrlStat.STICKYORUN not in bench.flags


def test_a_garbled_word_is_dropped_and_remembered(bench: Bench):
    bench.aim(RAM)
    bench.port.garble_next_write = True
    assert bench.write_ap(DRW, 0x12345678) is Ack.OK
    assert CtrlStat.WDATAERR in bench.flags
    assert bench.port.transfer(ap=True, read=False, address=0xC)[0] is Ack.FAULT
    bench.write_dp(0x0, Abort.WDERRCLR)
    assert bench.read_ap(TAR) == RAM
    assert bench.read_ap(DRW) == 0


# --- A slave that stalls -----------------------------------------------------------------------


@pytest.fixture
def stalled(bench: Bench) -> Bench:
    """One word is taken, a second one hangs on the bus until 1000 ns."""
    bench.aim(SLOW)
    bench.write_ap(DRW, 1)
    assert bench.write_ap(DRW, 2) is Ack.OK, "a write is posted"
    return bench


def test_while_a_write_hangs_everything_but_a_look_waits(stalled: Bench):
    port = stalled.port
    for ap, read, address in [(True, False, 0xC), (True, True, 0x0), (False, True, 0xC)]:
        assert port.transfer(ap=ap, read=read, address=address)[0] is Ack.WAIT
    assert port.transfer(ap=False, read=False, address=0x8)[0] is Ack.WAIT
    assert stalled.read_dp(0x0) == DPIDR
    assert CtrlStat.STICKYERR not in stalled.flags
    assert port.ready == 1000


def test_the_write_goes_through_at_the_slaves_own_time(stalled: Bench):
    stalled.clock.advance_to(5000)
    assert stalled.slow.taken == [(0, 1), (4, 2)]
    assert stalled.slow.free == 2000, "nobody had to look for it to happen"
    assert stalled.read_ap(TAR) == SLOW + 8


def test_a_read_of_a_busy_slave_waits_for_its_data(stalled: Bench):
    stalled.clock.advance_to(1500)
    stalled.aim(SLOW + 0x10)
    address = stalled.select(0, DRW)
    assert stalled.port.transfer(ap=True, read=True, address=address)[0] is Ack.OK
    assert stalled.port.transfer(ap=False, read=True, address=0xC)[0] is Ack.WAIT
    stalled.clock.advance_to(2000)
    assert stalled.read_dp(0xC) == 0xCAFE0010


def test_dapabort_frees_the_wire_and_not_the_bus(stalled: Bench):
    stalled.write_dp(0x0, Abort.DAPABORT)
    assert stalled.read_ap(TAR) == SLOW + 4, "the word that hangs is not counted yet"
    assert stalled.read_ap(CSW) & 0x80, "TrInProg"
    address = stalled.select(0, DRW)
    assert stalled.port.transfer(ap=True, read=False, address=address)[0] is Ack.WAIT
    stalled.clock.advance_to(1000)
    assert stalled.slow.taken == [(0, 1), (4, 2)]
    assert not stalled.read_ap(CSW) & 0x80
    assert stalled.read_ap(TAR) == SLOW + 8


def test_an_aborted_write_that_fails_later_sets_no_flag(bench: Bench):
    class Refuses(SlowSlave):
        def write(self, offset: int, size: int, value: int, master: Master) -> None:
            if self.clock.now < 1000:
                raise BusStall(1000)
            raise BusError("write")

    bench.bus.attach(0x40000000, 0x1000, Refuses(bench.clock))
    bench.aim(0x40000000)
    bench.write_ap(DRW, 1)
    bench.write_dp(0x0, Abort.DAPABORT)
    bench.clock.advance_to(2000)
    assert CtrlStat.STICKYERR not in bench.flags


def test_a_wait_storm_spares_the_debug_port_itself(bench: Bench):
    bench.port.stormy_until = 500
    bench.select(0, CSW)
    assert bench.port.transfer(ap=True, read=True, address=0x0)[0] is Ack.WAIT
    assert bench.flags & POWER == POWER
    bench.clock.advance_to(500)
    assert bench.port.transfer(ap=True, read=True, address=0x0)[0] is Ack.OK


# --- Blocks ---------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 0x3FF), st.binary(min_size=4, max_size=64))
def test_a_block_is_taken_at_once_only_where_single_accesses_do_the_same(start: int, data: bytes):
    data = data[: len(data) & ~3]
    one_by_one, at_once = Bench().connect(), Bench().connect()
    for bench in (one_by_one, at_once):
        bench.aim(RAM + start)
    for i in range(0, len(data), 4):
        one_by_one.write_ap(DRW, int.from_bytes(data[i : i + 4], "little"))
    at_once.select(0, DRW)
    ap = at_once.port.ready_for_block
    assert ap is not None
    if not ap.block_to_write(len(data) // 4):
        assert start & 3 or start + len(data) > 0x400
        return
    assert ap.write_block(data) == len(data) // 4
    assert at_once.ram.data == one_by_one.ram.data
    assert at_once.read_ap(TAR) == one_by_one.read_ap(TAR)


# --- Anything at all ---------------------------------------------------------------------------

a_request = st.tuples(
    st.booleans(),
    st.booleans(),
    st.sampled_from([0x0, 0x4, 0x8, 0xC]),
    st.one_of(
        st.integers(0, 0xFFFFFFFF),
        st.sampled_from([0, POWER, 0x1E, 0x1F, WORDS_UP, RAM, SLOW, NOWHERE, 0x01000000, 0xF0]),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(a_request, st.integers(0, 700)), max_size=60))
def test_every_request_has_an_answer_and_abort_always_brings_the_port_back(
    requests: list[tuple[tuple[bool, bool, int, int], int]],
):
    bench = Bench().connect()
    for (ap, read, address, value), pause in requests:
        ack, data = bench.port.transfer(ap=ap, read=read, address=address, value=value)
        assert ack in Ack
        assert 0 <= data <= 0xFFFFFFFF
        bench.clock.advance_to(bench.clock.now + pause)
    bench.clock.advance_to(bench.clock.now + 10_000)
    bench.write_dp(0x0, CLEAR_STICKY | Abort.DAPABORT)
    bench.write_dp(0x8, 0)
    bench.write_dp(0x4, POWER)
    bench.aim(RAM + 0x10)
    assert bench.write_ap(DRW, 0xFEEDC0DE) is Ack.OK
    assert bench.ram.data[0x10:0x14] == bytes.fromhex("dec0edfe")
