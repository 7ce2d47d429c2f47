"""The resident call queue as an image: on a bare Cortex-M7, without a board around it."""

from __future__ import annotations

import zlib
from pathlib import Path
from random import Random

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import (
    UC_ARCH_ARM,
    UC_HOOK_BLOCK,
    UC_HOOK_INTR,
    UC_MODE_THUMB,
    Uc,
)
from unicorn.arm_const import (
    UC_ARM_REG_LR,
    UC_ARM_REG_PC,
    UC_ARM_REG_R0,
    UC_ARM_REG_R1,
    UC_ARM_REG_R2,
    UC_ARM_REG_R3,
    UC_ARM_REG_R9,
    UC_ARM_REG_SP,
    UC_CPU_ARM_CORTEX_M7,
)

from gdbserver.flash.packing import MARGIN, pack
from gdbserver.loader.resident import (
    RECORD,
    RING,
    SPREAD,
    STATE_ENDED,
    STATE_STOPPED,
    STATE_WAITING,
)

ELF = Path(__file__).parents[2] / "loaders" / "built" / "queue.elf"

RAM = 0x20000000
RING_AT = 0x20008000
DATA = 0x20010000
STACK = 0x20020000
TRAP = 0x2001FF00
IWDG, WWDG = 0x58004800, 0x50003000
ARGUMENTS = (UC_ARM_REG_R0, UC_ARM_REG_R1, UC_ARM_REG_R2, UC_ARM_REG_R3)


class Machine:
    """RAM with the image somewhere in it; `call` runs until the routine is back."""

    def __init__(self, base: int = RAM) -> None:
        self.uc = Uc(UC_ARCH_ARM, UC_MODE_THUMB)
        self.uc.ctl_set_cpu_model(UC_CPU_ARM_CORTEX_M7)
        self.uc.mem_map(RAM, 0x20000)
        for watchdog in (IWDG, WWDG):
            self.uc.mem_map(watchdog & ~0xFFF, 0x1000)
        self.uc.mem_write(RAM, b"\xa5" * 0x20000)  # nothing relies on zeroed memory
        self.uc.hook_add(UC_HOOK_INTR, lambda uc, *_: uc.emu_stop())
        with ELF.open("rb") as file:
            elf = ELFFile(file)
            (segment,) = elf.iter_segments("PT_LOAD")
            self.size = segment["p_memsz"]
            self.uc.mem_write(base, segment.data())
            self.symbols = {
                s.name: base + s["st_value"]
                for s in elf.get_section_by_name(".symtab").iter_symbols()
            }

    def call(self, routine: str, *arguments: int) -> int:
        for register, value in zip(ARGUMENTS, arguments, strict=False):
            self.uc.reg_write(register, value)
        self.uc.reg_write(UC_ARM_REG_SP, STACK)
        self.uc.reg_write(UC_ARM_REG_LR, TRAP | 1)
        self.uc.emu_start(self.symbols[routine], TRAP, count=50_000_000)
        return self.uc.reg_read(UC_ARM_REG_R0)

    def write_ring(self, records: list[dict[str, object]], **header: object) -> None:
        fields = {"done": 0, "state": 9, "result": 0, "capacity": 8}
        fields |= {"static_base": 0, "window_watchdog": 0, "independent_watchdog": 0}
        image = RING.build(fields | header)
        for number, record in enumerate(records, 1):
            image += RECORD.build({"check": 0, "expected": 0, "number": number} | record)
        self.uc.mem_write(RING_AT, image)

    def ring(self) -> object:
        return RING.parse(self.uc.mem_read(RING_AT, RING.sizeof()))

    def result(self, index: int) -> int:
        """What the call of a record has returned: it is in the first argument's place."""
        at = RING_AT + RING.sizeof() + index * RECORD.sizeof()
        return int(RECORD.parse(self.uc.mem_read(at, RECORD.sizeof())).arguments[0])

    def run(self, instructions: int = 100_000) -> None:
        self.uc.reg_write(UC_ARM_REG_SP, STACK)
        self.uc.reg_write(UC_ARM_REG_R0, RING_AT)
        self.uc.emu_start(self.symbols["run"], TRAP, count=instructions)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 7))
def test_crc32_is_zlibs_for_any_length_and_alignment(data: bytes, offset: int) -> None:
    machine = Machine()
    machine.uc.mem_write(DATA + offset, data)
    for _ in range(2):  # the second time, tables are there
        for routine in ("crc32", "crc32_quick"):
            assert machine.call(routine, DATA + offset, len(data)) == zlib.crc32(data)


def test_crc32_needs_nothing_but_its_code() -> None:
    machine = Machine()
    later = machine.symbols["feed"] - RAM
    machine.uc.mem_write(RAM + later, b"\xee" * (machine.size - later))
    machine.uc.mem_write(DATA, b"123456789")
    assert machine.call("crc32", DATA, 9) == 0xCBF43926
    assert bytes(machine.uc.mem_read(RAM + later, 8)) == b"\xee" * 8


@pytest.mark.parametrize("base", [RAM, RAM + 0x1234, RAM + 0x4000])
def test_the_image_runs_wherever_it_is_put(base: int) -> None:
    machine = Machine(base)
    data = bytes(i * 7 & 0xFF for i in range(1024))
    machine.uc.mem_write(DATA, data)
    assert machine.call("crc32_each", DATA, 256, 4, DATA + 0x2000) == 0
    results = bytes(machine.uc.mem_read(DATA + 0x2000, 16))
    expected = [zlib.crc32(data[i : i + 256]) for i in range(0, 1024, 256)]
    assert results == b"".join(c.to_bytes(4, "little") for c in expected)


def test_blank_blocks_have_their_crc_between_others_and_alone() -> None:
    machine = Machine()
    blocks = [b"\xff" * 256, bytes(256), b"\xff" * 256, b"\xff" * 255 + b"\0", b"\xff" * 256]
    machine.uc.mem_write(DATA, b"".join(blocks))
    assert machine.call("crc32_each", DATA, 256, 5, DATA + 0x2000) == 0
    results = bytes(machine.uc.mem_read(DATA + 0x2000, 20))
    assert results == b"".join(zlib.crc32(block).to_bytes(4, "little") for block in blocks)


def test_blank_spread_counts_blank_pieces_up_to_the_first_that_is_not() -> None:
    machine = Machine()
    pieces = [(b"\xff" * 64).ljust(256, b"\0") for _ in range(5)]
    machine.uc.mem_write(DATA, b"".join(pieces))
    assert machine.call("blank_spread", DATA, 256, 5, 64) == 5
    assert machine.call("blank_spread", DATA, 256, 5, 80) == 0
    machine.uc.mem_write(DATA + 3 * 256 + 63, b"\x7f")
    assert machine.call("blank_spread", DATA, 256, 5, 64) == 3
    assert machine.call("blank_spread", DATA, 256, 0, 64) == 0


def test_crc32_spread_looks_at_the_beginning_of_each_sector() -> None:
    machine = Machine()
    sectors = [bytes([n]) * SPREAD + bytes([n ^ 1]) * 1024 for n in (0, 7, 0xFF)]
    machine.uc.mem_write(DATA, b"".join(sectors))
    assert machine.call("crc32_spread", DATA, SPREAD + 1024, 3, DATA + 0x3000) == 0
    results = bytes(machine.uc.mem_read(DATA + 0x3000, 12))
    assert results == b"".join(zlib.crc32(s[:SPREAD]).to_bytes(4, "little") for s in sectors)


PIECES = st.one_of(
    st.binary(max_size=600),
    st.lists(st.sampled_from([b"\xff" * 40, b"push", bytes(300), b"{r4, lr}"]), max_size=60).map(
        b"".join
    ),
)


@given(data=PIECES, level=st.sampled_from([0, 1, 6, 9]), strategy=st.sampled_from([0, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_unpack_undoes_what_zlib_does(data: bytes, level: int, strategy: int) -> None:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    packed = packer.compress(data) + packer.flush()
    machine = Machine()
    machine.uc.mem_write(DATA, packed)
    to = DATA + 0x6000
    assert machine.call("unpack", DATA, len(packed), to, len(data)) == len(data)
    assert bytes(machine.uc.mem_read(to, len(data))) == data


@given(packed=st.binary(max_size=200), room=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_unpack_writes_nowhere_else_whatever_arrives(packed: bytes, room: int) -> None:
    machine = Machine()
    machine.uc.mem_write(DATA, packed)
    to = DATA + 0x6000
    assert machine.call("unpack", DATA, len(packed), to, room) <= room
    assert bytes(machine.uc.mem_read(to - 64, 64)) == b"\xa5" * 64
    assert bytes(machine.uc.mem_read(to + room, 64)) == b"\xa5" * 64


def test_a_piece_of_firmware_is_unpacked_where_it_lies() -> None:
    code = ELF.read_bytes().ljust(8192, b"\xff")[:8192]
    packed = pack(code)
    assert packed is not None
    assert len(packed) < 0.6 * len(code)
    machine = Machine()
    end = DATA + len(code) + MARGIN
    machine.uc.mem_write(end - len(packed), packed)
    assert machine.call("unpack", end - len(packed), len(packed), DATA, len(code)) == len(code)
    assert bytes(machine.uc.mem_read(DATA, len(code))) == code


def test_what_does_not_become_smaller_goes_as_it_is() -> None:
    assert pack(Random(1).randbytes(8192)) is None


def test_crc32_with_tables_takes_less_than_six_instructions_per_byte() -> None:
    machine = Machine()
    machine.call("crc32_quick", DATA, 0)  # builds the tables
    machine.uc.reg_write(UC_ARM_REG_R0, DATA)
    machine.uc.reg_write(UC_ARM_REG_R1, 8192)
    machine.uc.reg_write(UC_ARM_REG_LR, TRAP | 1)
    machine.uc.reg_write(UC_ARM_REG_SP, STACK)
    machine.uc.emu_start(machine.symbols["crc32_quick"], TRAP, count=6 * 8192)
    assert machine.uc.reg_read(UC_ARM_REG_PC) == TRAP


SUM = bytes.fromhex("4018 8018 c018 4844 7047")  # r0 + r1 + r2 + r3 + r9
SUM_AT = DATA + 0x4001


def test_calls_get_four_arguments_and_the_static_base_and_leave_their_results() -> None:
    machine = Machine()
    machine.uc.mem_write(SUM_AT - 1, SUM)
    machine.write_ring(
        [
            {"function": SUM_AT, "arguments": [1, 2, 3, 4]},
            {"function": SUM_AT, "arguments": [10, 20, 30, 40], "check": 1, "expected": 1100},
        ],
        static_base=1000,
    )
    machine.run()
    assert [machine.result(i) for i in (0, 1)] == [1010, 1100]
    ring = machine.ring()
    assert (ring.done, ring.result, ring.state) == (2, 1100, STATE_WAITING)


def test_the_first_bad_result_stops_the_queue_after_it_was_counted() -> None:
    machine = Machine()
    machine.uc.mem_write(SUM_AT - 1, SUM)
    bad = {"function": SUM_AT, "arguments": [0, 0, 0, 0], "check": 1, "expected": 1}
    machine.write_ring([bad, {"function": SUM_AT, "arguments": [5, 1, 0, 0]}])
    machine.run()
    assert (machine.ring().done, machine.ring().state) == (1, STATE_STOPPED)
    assert machine.result(1) == 5  # its first argument still: it was not called
    halted = machine.uc.reg_read(UC_ARM_REG_PC)
    assert bytes(machine.uc.mem_read(halted, 2)) == b"\x00\xbe"


@pytest.mark.parametrize("runs", [(IWDG,), (WWDG,), (IWDG, WWDG), ()])
def test_a_queue_that_waits_feeds_those_watchdogs_that_run(runs: tuple[int, ...]) -> None:
    machine = Machine()
    food = {IWDG: 0xAAAA if IWDG in runs else 0, WWDG: 0xFF if WWDG in runs else 0}
    machine.write_ring([], window_watchdog=food[WWDG], independent_watchdog=food[IWDG])
    for watchdog in (IWDG, WWDG):
        if watchdog not in runs:
            machine.uc.mem_unmap(watchdog & ~0xFFF, 0x1000)
    for _ in range(2):
        for watchdog in runs:
            machine.uc.mem_write(watchdog, bytes(4))
        machine.run(4 * 0x10000 + 100)
        for watchdog in runs:
            fed = int.from_bytes(machine.uc.mem_read(watchdog, 4), "little")
            assert fed == food[watchdog]


def test_function_zero_ends_the_queue() -> None:
    machine = Machine()
    machine.write_ring([{"function": 0, "arguments": [0, 0, 0, 0]}])
    machine.run()
    assert (machine.ring().done, machine.ring().state) == (0, STATE_ENDED)


def test_the_ring_wraps_and_counts_run_freely() -> None:
    machine = Machine()
    machine.uc.mem_write(SUM_AT - 1, SUM)
    numbers = (1, 0xFFFFFFFE, 0xFFFFFFFF, 0)
    records = [
        {"function": SUM_AT, "arguments": [i, 10, 0, 0], "number": number}
        for i, number in enumerate(numbers)
    ]
    machine.write_ring(records, capacity=4, done=0xFFFFFFFE)
    machine.uc.reg_write(UC_ARM_REG_R9, 0)
    machine.run()
    assert machine.ring().done == 1
    assert [machine.result(i) for i in range(4)] == [10, 1, 12, 13]


# movs r4, #0; r5 to r7; mov r8, r4; r10, r11; sub sp, #64; movs r0, #1; bx lr
PRESERVES_NOTHING = bytes.fromhex("0024 0025 0026 0027 a046 a246 a346 90b0 0120 7047")


def test_routines_that_preserve_no_register_and_no_stack_pointer_are_called_all_the_same() -> None:
    machine = Machine()
    machine.uc.mem_write(DATA, PRESERVES_NOTHING)
    call = {"function": DATA | 1, "arguments": [0] * 4, "check": 1, "expected": 1}
    machine.write_ring([call] * 3)
    machine.run()
    ring = machine.ring()
    assert (ring.done, ring.state) == (3, STATE_WAITING)
    assert [machine.result(index) for index in range(3)] == [1, 1, 1]
    assert machine.uc.reg_read(UC_ARM_REG_SP) == STACK


class Bank:
    """A bank of flash beside the bare machine; its clock is the core's instructions."""

    TURN = 20_000  # instructions that a flash word takes

    def __init__(self, machine: Machine, status: int, array: int) -> None:
        self.machine = machine
        self.array = array
        self.contents = bytearray(b"\xff" * 0x1000)
        self.ends: list[int] = []
        self.looks = 0
        self.idle = 0
        self.flags = 0
        machine.uc.mmio_map(status & ~0xFFF, 0x1000, self.read, None, lambda *_: None, None)
        machine.uc.mmio_map(array, 0x1000, lambda *_: 0, None, self.write, None)

    def ongoing(self) -> int:
        return sum(end > self.machine.now for end in self.ends)

    def read(self, uc: Uc, offset: int, size: int, data: object) -> int:
        self.looks += 1
        return self.flags | (4 if self.ongoing() else 0)

    def write(self, uc: Uc, offset: int, size: int, value: int, data: object) -> None:
        assert self.ongoing() < 2, "the write buffer could not be emptied"
        self.contents[offset : offset + size] = value.to_bytes(size, "little")
        if offset % 32 == 28:
            begin = max(self.machine.now, *self.ends[-1:], 0)
            self.idle += begin - self.ends[-1] if self.ends else 0
            self.ends.append(begin + self.TURN)


class FeedingMachine(Machine):
    """Two banks, and a feeder whose lanes hold a job of 64 flash words each."""

    FEEDER = DATA
    WORDS = 64

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.uc.hook_add(UC_HOOK_BLOCK, self._count)
        self.banks = [Bank(self, 0x52002000 + 0x1000 * n, 0x08000000 + 0x1000 * n) for n in (0, 1)]
        self.uc.mem_write(self.FEEDER, bytes(32 + 2 * 320))
        self.data = [Random(n).randbytes(32 * self.WORDS) for n in (0, 1)]
        for n, (lane, bank) in enumerate(zip((32, 352), self.banks, strict=True)):
            source = self.FEEDER + 0x1000 + n * 0x1000
            self.uc.mem_write(source, self.data[n])
            self.words(lane, 0x52002010 + 0x1000 * n, 1)
            self.words(lane + 64, source, bank.array, 0, source, len(self.data[n]))

    def words(self, offset: int, *values: int) -> None:
        for i, value in enumerate(values):
            self.uc.mem_write(self.FEEDER + offset + 4 * i, value.to_bytes(4, "little"))

    def word(self, offset: int) -> int:
        return int.from_bytes(self.uc.mem_read(self.FEEDER + offset, 4), "little")

    def _count(self, uc: Uc, address: int, size: int, data: object) -> None:
        self.now += size // 2

    def feed(self, **header: object) -> None:
        """`feed` as the queue calls it, for somewhat longer than the jobs should take."""
        record = {"function": self.symbols["feed"], "arguments": [self.FEEDER, 0, 0, 0]}
        self.write_ring([record], **header)
        self.run(int(1.2 * Bank.TURN * self.WORDS))


def test_both_banks_are_fed_at_their_own_pace_with_few_looks_at_their_registers() -> None:
    machine = FeedingMachine()
    machine.feed()
    for bank, data, lane in zip(machine.banks, machine.data, (32, 352), strict=True):
        assert bank.contents[: len(data)] == data
        assert machine.word(lane + 12) == 1
        assert bank.idle < 0.03 * Bank.TURN * machine.WORDS
        assert bank.looks < 2 * machine.WORDS


def test_a_bank_with_an_error_flag_is_left_alone_and_the_other_one_goes_on() -> None:
    machine = FeedingMachine()
    machine.banks[0].flags = 1 << 17
    machine.feed()
    assert machine.word(32 + 16) & 1 << 17
    assert machine.word(352 + 16) == 0
    assert not machine.banks[0].ends
    assert machine.banks[1].contents[: len(machine.data[1])] == machine.data[1]


def test_a_machine_that_feeds_feeds_the_watchdogs_too() -> None:
    machine = FeedingMachine()
    machine.uc.mem_write(IWDG, bytes(4))
    machine.feed(independent_watchdog=0xAAAA)
    assert bytes(machine.uc.mem_read(IWDG, 4)) == b"\xaa\xaa\0\0"
