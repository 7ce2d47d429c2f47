"""Breakpoints and watchpoints, as the hardware has them: the board's FPB and DWT are looked at."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import examples
from target_bench import Bench

from gdbserver.chip.cortex_m import DWT_COMP, DWT_FUNCTION, DWT_MASK, FP_COMP, FP_CTRL
from gdbserver.errors import BreakpointError
from gdbserver.sim.bus import Master
from gdbserver.target.breakpoints import BKPT, BreakKind
from gdbserver.target.target import Target

HARDWARE, SOFTWARE = BreakKind.HARDWARE, BreakKind.SOFTWARE
WRITE, READ, ACCESS = BreakKind.WRITE_WATCH, BreakKind.READ_WATCH, BreakKind.ACCESS_WATCH
CODE = 0x24000000
WATCH = 2  # of the drills


def board_word(board: object, address: int) -> int:
    """A word as the hardware has it, past the debug port."""
    return int(board.bus.read(address, 4, Master.AP0))  # type: ignore[attr-defined]


def armed(board: object) -> set[int]:
    """The addresses at which the FPB stops the core."""
    if not board_word(board, FP_CTRL) & 1:
        return set()
    values = (board_word(board, FP_COMP + 4 * n) for n in range(8))
    return {value & ~1 for value in values if value & 1}


def watched(board: object) -> set[tuple[int, int, int]]:
    """(address, mask, function) of each comparator of the DWT that is on."""
    return {
        tuple(board_word(board, register + 16 * n) & 0xFFFFFFFF for register in REGISTERS)
        for n in range(4)
        if board_word(board, DWT_FUNCTION + 16 * n) & 0xF
    }  # type: ignore[return-value]


REGISTERS = (DWT_COMP, DWT_MASK, DWT_FUNCTION)


def test_a_breakpoint_is_in_the_fpb_as_soon_as_it_is_set(bench: Bench) -> None:
    bench.target.set_breakpoint(HARDWARE, 0x08000100, 2)
    assert armed(bench.board) == {0x08000100}
    bench.target.clear_breakpoint(HARDWARE, 0x08000100, 2)
    assert armed(bench.board) == set()


def test_setting_and_clearing_twice_is_the_same_as_once(quick: Bench) -> None:
    for _ in range(10):
        quick.target.set_breakpoint(HARDWARE, 0x08000100, 2)
    assert armed(quick.board) == {0x08000100}
    for _ in range(2):
        quick.target.clear_breakpoint(HARDWARE, 0x08000100, 2)
    assert armed(quick.board) == set()


def test_the_ninth_is_refused_at_once_with_the_counts(quick: Bench) -> None:
    for n in range(8):
        quick.target.set_breakpoint(HARDWARE, 0x08000100 + 4 * n, 2)
    with pytest.raises(BreakpointError, match="8 of 8 hardware breakpoints are in use"):
        quick.target.set_breakpoint(HARDWARE, 0x08000200, 2)
    assert 0x08000200 not in armed(quick.board)
    quick.target.clear_breakpoint(HARDWARE, 0x08000100, 2)
    quick.target.set_breakpoint(HARDWARE, 0x08000200, 2)
    assert 0x08000200 in armed(quick.board)


def test_a_software_breakpoint_in_flash_takes_a_comparator(bench: Bench) -> None:
    where = bench.names["step_1"] & ~1
    bench.target.set_breakpoint(SOFTWARE, where, 2)
    assert armed(bench.board) == {where}
    assert bench.run().kind == "swbreak"


def test_both_kinds_at_one_address_share_a_comparator(quick: Bench) -> None:
    quick.target.set_breakpoint(SOFTWARE, 0x08000100, 2)
    quick.target.set_breakpoint(HARDWARE, 0x08000100, 2)
    quick.target.clear_breakpoint(SOFTWARE, 0x08000100, 2)
    assert armed(quick.board) == {0x08000100}
    quick.target.clear_breakpoint(HARDWARE, 0x08000100, 2)
    assert armed(quick.board) == set()


def code_in_ram(bench: Bench) -> None:
    """nop; nop; nop; b . - in AXI SRAM, and pc at it."""
    bench.target.write_memory(CODE, bytes.fromhex("00bf 00bf 00bf fee7"))
    bench.target.write_registers({"pc": CODE})


def test_a_software_breakpoint_in_ram_is_patched(bench: Bench) -> None:
    code_in_ram(bench)
    bench.target.set_breakpoint(SOFTWARE, CODE + 4, 2)
    assert armed(bench.board) == set()
    assert board_word(bench.board, CODE + 4) & 0xFFFF == BKPT
    stop = bench.run()
    assert stop.kind == "swbreak"
    assert bench.pc == CODE + 4


def test_a_patch_is_not_seen_in_memory(quick: Bench) -> None:
    code_in_ram(quick)
    quick.target.set_breakpoint(SOFTWARE, CODE + 2, 2)
    quick.target.set_breakpoint(SOFTWARE, CODE + 4, 2)
    assert quick.target.read_memory(CODE, 8).hex() == "00bf00bf00bffee7"
    assert quick.target.read_memory(CODE + 3, 2).hex() == "bf00"
    assert quick.target.read_memory(CODE + 5, 1).hex() == "bf"


def test_a_write_goes_behind_the_patch(quick: Bench) -> None:
    code_in_ram(quick)
    quick.target.set_breakpoint(SOFTWARE, CODE + 2, 2)
    quick.target.write_memory(CODE + 3, b"\x46\x01")
    assert quick.target.read_memory(CODE, 8).hex() == "00bf0046" + "01bffee7"
    assert board_word(quick.board, CODE) >> 16 == BKPT
    quick.target.clear_breakpoint(SOFTWARE, CODE + 2, 2)
    assert board_word(quick.board, CODE) == 0x4600BF00


def test_a_patch_is_stepped_through(quick: Bench) -> None:
    code_in_ram(quick)
    quick.target.set_breakpoint(SOFTWARE, CODE + 2, 2)
    quick.run()
    quick.target.step()
    assert quick.pc == CODE + 4
    assert board_word(quick.board, CODE) >> 16 == BKPT


def test_a_software_breakpoint_in_ram_without_a_clock_is_refused(quick: Bench) -> None:
    with pytest.raises(BreakpointError, match="does not keep what is written"):
        quick.target.set_breakpoint(SOFTWARE, 0x30000000, 2)  # SRAM1, whose clock is off
    quick.target.clear_breakpoint(SOFTWARE, 0x30000000, 2)


def to_touch(bench: Bench) -> int:
    """Run until just before `watched` is written; its address."""
    bench.run_to("step_1")
    bench.target.write_word(bench.names["drill"], WATCH)
    bench.run_to("touch")
    return bench.names["watched"]


def test_a_write_watchpoint_tells_where_and_what(bench: Bench) -> None:
    address = to_touch(bench)
    bench.target.set_breakpoint(WRITE, address, 4)
    stop = bench.run()
    assert (stop.kind, stop.signal, stop.address) == ("watch", 5, address)
    assert bench.target.read_word(address) == 0x22222222


def test_a_read_watchpoint_lets_writes_pass(bench: Bench) -> None:
    address = to_touch(bench)
    bench.target.set_breakpoint(READ, address, 4)
    stop = bench.run()
    assert (stop.kind, stop.address) == ("rwatch", address)
    assert bench.target.read_word(address) == 0x22222222


def test_an_access_watchpoint_stops_at_either(quick: Bench) -> None:
    address = to_touch(quick)
    quick.target.set_breakpoint(ACCESS, address, 4)
    assert [quick.run().kind for _ in range(3)] == ["awatch"] * 3


def test_the_watchpoint_that_matched_is_the_one_that_is_named(quick: Bench) -> None:
    address = to_touch(quick)
    quick.target.set_breakpoint(WRITE, quick.names["copied"], 4)
    quick.target.set_breakpoint(WRITE, address, 4)
    assert [quick.run().address for _ in range(3)] == [address, quick.names["copied"], address]


def test_a_range_is_split_over_comparators(quick: Bench) -> None:
    quick.target.set_breakpoint(WRITE, 0x20000006, 6)
    assert watched(quick.board) == {(0x20000006, 1, 6), (0x20000008, 2, 6)}
    quick.target.clear_breakpoint(WRITE, 0x20000006, 6)
    assert watched(quick.board) == set()


def test_a_range_that_takes_too_many_comparators_is_refused_with_the_counts(quick: Bench) -> None:
    quick.target.set_breakpoint(WRITE, 0x20000000, 4)
    with pytest.raises(BreakpointError, match=r"takes 6 comparators, and 1 of 4 are in use"):
        quick.target.set_breakpoint(WRITE, 0x20000011, 14)
    assert watched(quick.board) == {(0x20000000, 2, 6)}


def test_watching_nothing_is_refused(quick: Bench) -> None:
    with pytest.raises(BreakpointError, match="nothing to watch"):
        quick.target.set_breakpoint(WRITE, 0x20000000, 0)


def test_a_large_aligned_range_takes_one_comparator(quick: Bench) -> None:
    quick.target.set_breakpoint(ACCESS, 0x20000000, 0x8000)
    assert watched(quick.board) == {(0x20000000, 15, 7)}


def test_nothing_is_left_after_closing(quick: Bench) -> None:
    code_in_ram(quick)
    quick.target.set_breakpoint(HARDWARE, 0x08000100, 2)
    quick.target.set_breakpoint(SOFTWARE, CODE + 2, 2)
    quick.target.set_breakpoint(WRITE, 0x20000000, 4)
    quick.target.close()
    assert armed(quick.board) == set()
    assert watched(quick.board) == set()
    assert board_word(quick.board, CODE) == 0xBF00BF00
    assert not quick.board.core.halted


def test_breakpoints_are_out_of_the_way_of_a_loader(quick: Bench) -> None:
    code_in_ram(quick)
    quick.target.set_breakpoint(HARDWARE, 0x08000100, 2)
    quick.target.set_breakpoint(SOFTWARE, CODE + 2, 2)
    quick.target.set_breakpoint(WRITE, 0x20000000, 4)
    with quick.target.saved_core():
        assert armed(quick.board) == set()
        assert watched(quick.board) == set()
        assert board_word(quick.board, CODE) == 0xBF00BF00
    assert armed(quick.board) == {0x08000100}
    assert watched(quick.board) == {(0x20000000, 2, 6)}
    assert board_word(quick.board, CODE) == 0xBE00BF00


ADDRESSES = st.sampled_from(
    [0x08000000 + 4 * n for n in range(6)] + [CODE + 2 * n for n in range(6)]
)
KINDS = st.sampled_from([HARDWARE, SOFTWARE])


class BreakpointMachine(RuleBasedStateMachine):
    """Whatever is set, cleared, written and reset: hardware has what was asked for."""

    @initialize()
    def plug_in(self) -> None:
        self.target = Target.open("sim:ideal")
        self.board = self.target.link.probe.board
        self.asked: set[tuple[BreakKind, int]] = set()
        self.ram = bytearray(b"\x00\xbf" * 8)
        self.target.write_memory(CODE, bytes(self.ram))

    def comparators(self, asked: set[tuple[BreakKind, int]]) -> set[int]:
        return {a for kind, a in asked if kind is HARDWARE or a < CODE}

    @rule(kind=KINDS, address=ADDRESSES)
    def insert(self, kind: BreakKind, address: int) -> None:
        asked = self.asked | {(kind, address)}
        if len(self.comparators(asked)) > 8:
            with pytest.raises(BreakpointError):
                self.target.set_breakpoint(kind, address, 2)
        else:
            self.target.set_breakpoint(kind, address, 2)
            self.asked = asked

    @rule(kind=KINDS, address=ADDRESSES)
    def remove(self, kind: BreakKind, address: int) -> None:
        self.target.clear_breakpoint(kind, address, 2)
        self.asked.discard((kind, address))

    @rule(offset=st.integers(0, 15), data=st.binary(min_size=1, max_size=8))
    def write(self, offset: int, data: bytes) -> None:
        data = data[: 16 - offset]
        self.target.write_memory(CODE + offset, data)
        self.ram[offset : offset + len(data)] = data

    @rule()
    def reset(self) -> None:
        self.target.reset(halt=True)

    @precondition(lambda self: self.asked)
    @rule()
    def clear_all(self) -> None:
        self.target.clear_all_breakpoints()
        self.asked.clear()

    @invariant()
    def hardware_has_what_was_asked_for(self) -> None:
        assert armed(self.board) == self.comparators(self.asked)
        patches = {a for kind, a in self.asked if kind is SOFTWARE and a >= CODE}
        raw = bytearray(self.ram)
        for address in patches:
            raw[address - CODE : address - CODE + 2] = BKPT.to_bytes(2, "little")
        found = b"".join(
            board_word(self.board, CODE + 4 * n).to_bytes(4, "little") for n in range(4)
        )
        assert found == bytes(raw)
        assert self.target.read_memory(CODE, 16) == bytes(self.ram)

    def teardown(self) -> None:
        self.target.close()
        assert armed(self.board) == set()


TestBreakpointMachine = BreakpointMachine.TestCase
TestBreakpointMachine.settings = settings(
    max_examples=examples(20), stateful_step_count=15, deadline=None
)
