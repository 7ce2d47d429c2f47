"""A probe made quick says what pyOCD's own driver says, byte for byte, and understands the same.

Both drivers are real, and so is what they have in common; in place of USB there is a wire that
writes down what it is told, and answers as a probe's firmware does, or fails to.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import pyocd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyocd.core import exceptions
from pyocd.core.session import Session
from pyocd.probe.cmsis_dap_probe import CMSISDAPProbe
from pyocd.probe.pydapaccess import DAPAccess
from pyocd.probe.pydapaccess.dap_access_cmsis_dap import DAPAccessCMSISDAP
from pyocd.probe.pydapaccess.interface.interface import Interface
from target_bench import Bench

from gdbserver.chip.stm32h743 import DTCM
from gdbserver.sim.probe import SimProbe
from gdbserver.target.access import words_of
from gdbserver.target.cmsis_dap import QuickProbe, quicken
from gdbserver.target.target import Target

OK, WAIT, FAULT, NO_ACK, PROTOCOL_ERROR, MISMATCH = 1, 2, 4, 7, 9, 0x11
INFO, TRANSFER, TRANSFER_BLOCK, DELAY, PINS = 0, 5, 6, 9, 0x10
INFO_COUNT, INFO_SIZE, INFO_CAPABILITIES = 0xFE, 0xFF, 0xF0
FAILURES = (WAIT, FAULT, NO_ACK, PROTOCOL_ERROR, MISMATCH, 0, "few", "other", "deaf", "mute")


class Wire(Interface):  # type: ignore[misc]  # pyOCD is untyped
    """What both drivers are in front of; `failures`: in which packet what goes wrong."""

    def __init__(self, size: int, count: int, failures: dict[int, int | str]) -> None:
        super().__init__()
        self.serial_number = "wire"
        self.told: list[bytes] = []
        self.knows_delay = True
        self.interrupted = False
        self._size, self._count = size, count
        self._failures = failures
        self._answers: deque[bytes | None] = deque()
        self._transfers = 0

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def is_bulk(self) -> bool:
        return self._size > 64

    def write(self, data: list[int] | bytes) -> None:
        packet = bytes(data)
        self.told.append(packet)
        assert len(packet) <= self._size
        assert len(self._answers) < self._count
        if packet[0] == DELAY and self.interrupted:
            raise KeyboardInterrupt
        failure: int | str = OK
        if packet[0] in (TRANSFER, TRANSFER_BLOCK):
            failure = self._failures.get(self._transfers, OK)
            self._transfers += 1
        if failure == "deaf":
            self._answers.clear()  # those under way are lost with the connection
            raise DAPAccess.DeviceError("nobody listens")
        self._answers.append(None if failure == "mute" else self._answer(packet, failure))
        if not self.is_bulk:
            assert isinstance(data, list)
            data.extend([0] * (self._size - len(data)))  # as pyOCD's drivers for HID do

    def read(self) -> list[int]:
        answer = self._answers.popleft()
        if answer is None:
            self._answers.clear()
            raise DAPAccess.DeviceError("nobody answers")
        assert len(answer) <= self._size
        return list(answer.ljust(self._size, b"\0"))

    def _answer(self, packet: bytes, failure: int | str) -> bytes:
        match packet[0]:
            case 0:
                item = packet[1]
                return {
                    INFO_COUNT: bytes((INFO, 1, self._count)),
                    INFO_SIZE: struct.pack("<BBH", INFO, 2, self._size),
                    INFO_CAPABILITIES: bytes((INFO, 1, 1)),
                }.get(item, bytes((INFO, 0)))
            case 5:
                reads, position = 0, 3
                for _ in range(packet[2]):
                    is_read = bool(packet[position] & 2)
                    reads += is_read
                    position += 1 if is_read else 5
                assert position == len(packet)
                head, count = bytes((TRANSFER,)), bytes((packet[2] - (failure == "few"),))
            case 6:
                (total,) = struct.unpack_from("<H", packet, 2)
                reads = total if packet[4] & 2 else 0
                assert len(packet) == 5 + 4 * (total - reads)
                head, count = (
                    bytes((TRANSFER_BLOCK,)),
                    struct.pack("<H", total - (failure == "few")),
                )
            case 9 if not self.knows_delay:
                return b"\xff"
            case _:
                return bytes((packet[0], 0))
        if failure == "other":
            head = b"\x02"
        words = Random(self._transfers).randbytes(4 * reads)
        return head + count + bytes((failure if isinstance(failure, int) else OK,)) + words


def opened(wire: Wire, *, deferred: bool = True) -> CMSISDAPProbe:
    probe = CMSISDAPProbe(DAPAccessCMSISDAP(None, interface=wire))
    probe.session = Session(None, options={"cmsis_dap.deferred_transfers": deferred})
    probe.open()
    return probe


DP, AP, DRW = 0, 1, 0xC
REGISTERS = st.tuples(st.sampled_from((DP, AP)), st.sampled_from((0, 4, 8, 0xC)))
COUNTS = st.one_of(st.integers(1, 8), st.integers(1, 300), st.integers(240, 260))
WORDS = st.one_of(st.integers(0, 2**32 - 1), st.integers(-(2**33), 2**33))
ACCESSES = st.one_of(
    st.tuples(st.just("write"), REGISTERS, WORDS),
    st.tuples(st.just("read"), REGISTERS, st.booleans()),
    st.tuples(st.just("write many"), COUNTS, st.integers(0, 99), WORDS),
    st.tuples(st.just("read many"), COUNTS, st.booleans()),
    st.tuples(st.just("collect")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("reset"), st.booleans()),
)


def carry_out(wire: Wire, probe: CMSISDAPProbe, accesses: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What each access gave, and in the end each read that nobody had asked about.

    And how many packets had been sent by then: they leave when they are full, and not later.
    """
    results: list[Any] = []
    deferred: deque[Callable[[], Any]] = deque()

    def note(access: Callable[[], Any]) -> None:
        try:
            found = access()
        except exceptions.Error as error:
            results.append((type(error), error.args))
        except AssertionError:  # pyOCD's, for reads that were under way when something failed
            results.append(AssertionError)
        else:
            if callable(found):
                deferred.append(found)
            else:
                results.append(list(found) if isinstance(found, Sequence) else found)
        results.append(len(wire.told))

    for access in accesses:
        match access:
            case "write", (port, register), value:
                note(lambda: (probe.write_ap if port else probe.write_dp)(register, value))
            case "read", (port, register), now:
                note(lambda: (probe.read_ap if port else probe.read_dp)(register, now))
            case "write many", count, seed, odd_one:
                words = [*Random(seed).choices(range(2**32), k=count - 1), odd_one]
                note(partial(probe.write_ap_multiple, DRW, words))
            case "read many", count, now:
                note(lambda: probe.read_ap_multiple(DRW, count, now))
            case ("collect",) if deferred:
                note(deferred.popleft())
            case ("flush",):
                note(probe.flush)
            case "reset", asserted:
                note(lambda: probe.assert_reset(asserted))
    while deferred:
        note(deferred.popleft())
    note(probe.flush)
    return results


def _filling(size: int) -> Any:
    """Blocks that fill packets of `size` to the last byte, or nearly so, alone or with a write."""
    most = size // 4
    one, end = ("write", (AP, 4), 7), ("flush",)
    return example(
        accesses=[
            access
            for count in range(max(most - 14, 1), most + 2)
            for block in (("write many", count, 1, 5), ("read many", count, False))
            for access in (end, block, one, block)
        ],
        size=size,
        count=4,
        failures={},
        deferred=True,
    )


@_filling(64)
@_filling(512)
@_filling(1024 + 20)  # of which a DAP_Transfer cannot say the number
@given(
    accesses=st.lists(ACCESSES, max_size=20),
    size=st.sampled_from((64, 66, 512, 1024, 4096)),
    count=st.sampled_from((1, 2, 4, 255)),
    failures=st.dictionaries(st.integers(0, 12), st.sampled_from(FAILURES), max_size=2),
    deferred=st.sampled_from((True, True, True, False)),
)
def test_packets_results_and_failures_are_those_of_pyocd(
    accesses: Sequence[tuple[Any, ...]],
    size: int,
    count: int,
    failures: dict[int, int | str],
    deferred: bool,
) -> None:
    theirs, ours = Wire(size, count, failures), Wire(size, count, failures)
    expected = carry_out(theirs, opened(theirs, deferred=deferred), accesses)
    quick = quicken(opened(ours, deferred=deferred))
    assert quick is not None
    assert carry_out(ours, quick, accesses) == expected
    assert ours.told == theirs.told


def test_words_may_come_as_a_view_of_bytes() -> None:
    theirs, ours = Wire(512, 4, {}), Wire(512, 4, {})
    data = Random(1).randbytes(2000)
    pyocds, quick = opened(theirs), quicken(opened(ours))
    assert quick is not None
    for probe, words in ((pyocds, list(words_of(data))), (quick, words_of(data))):
        probe.write_ap(4, 0x2400_0000)
        probe.write_ap_multiple(DRW, words)
        probe.flush()
    assert ours.told == theirs.told


def test_another_probe_keeps_the_driver_that_it_has() -> None:
    quicken(opened(Wire(64, 1, {})))
    other = opened(Wire(64, 1, {}))
    assert type(other) is CMSISDAPProbe
    assert type(other._link) is DAPAccessCMSISDAP


def test_a_probe_that_is_quick_stays_so_when_it_is_opened_again() -> None:
    wire = Wire(64, 1, {})
    quick = quicken(opened(wire))
    assert quick is not None
    quick.close()
    quick.open()
    assert quicken(quick) is quick
    quick.read_dp(0)
    assert wire.told[-1] == bytes((TRANSFER_BLOCK, 0, 1, 0, 2))


def test_a_driver_that_nobody_compared_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(CMSISDAPProbe):  # type: ignore[misc]  # pyOCD is untyped
        """Somebody else's."""

    probe = opened(Wire(64, 1, {}))
    probe.__class__ = Special
    assert quicken(probe) is None
    probe.__class__ = CMSISDAPProbe
    monkeypatch.setattr(pyocd, "__version__", "0.99.1")
    assert quicken(probe) is None
    assert type(probe) is CMSISDAPProbe
    assert quicken(SimProbe("sim:stlink-v3")) is None


def test_the_installed_pyocd_is_one_that_was_compared() -> None:
    assert quicken(opened(Wire(64, 1, {}))) is not None


# --- Waiting -------------------------------------------------------------------------------------


def test_a_wait_comes_after_what_was_said_before_and_ahead_of_what_comes_next() -> None:
    wire = Wire(64, 4, {})
    quick = quicken(opened(wire))
    assert quick is not None
    quick.write_dp(8, 0x10)
    quick.wait(0.0102)
    assert quick.read_dp(4) == struct.unpack("<I", Random(2).randbytes(4))[0]
    write, wait, read = wire.told[-3:]
    assert write == bytes((TRANSFER_BLOCK, 0, 1, 0, 8)) + struct.pack("<I", 0x10)
    assert wait == struct.pack("<BH", DELAY, 10200)
    assert read == bytes((TRANSFER_BLOCK, 0, 1, 0, 6))
    assert quick.can_wait


def test_a_wait_is_no_longer_than_a_packet_can_say() -> None:
    wire = Wire(64, 4, {})
    quick = quicken(opened(wire))
    assert isinstance(quick, QuickProbe)
    quick.wait(1.0)
    assert wire.told[-1] == struct.pack("<BH", DELAY, 65535)


def test_a_probe_that_cannot_wait_says_so_once_and_nothing_is_lost() -> None:
    wire = Wire(64, 4, {})
    wire.knows_delay = False
    quick = quicken(opened(wire))
    assert quick is not None
    quick.wait(0.01)
    assert quick.read_dp(4, now=True) == struct.unpack("<I", Random(1).randbytes(4))[0]
    assert not quick.can_wait


def test_ctrl_c_during_a_wait_leaves_a_probe_that_works() -> None:
    wire = Wire(64, 4, {})
    quick = quicken(opened(wire))
    assert quick is not None
    wire.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        quick.wait(0.01)
    assert quick.read_dp(4, now=True) == struct.unpack("<I", Random(1).randbytes(4))[0]


def test_what_a_probe_waits_is_the_chips_time_and_only_cmsis_dap_knows_how(bench: Bench) -> None:
    target = bench.target
    begun = target.monotonic()
    waited = target.link.wait(0.02)
    target.read_word(DTCM.start)
    took = target.monotonic() - begun
    assert waited == target.probe_uid.endswith("cmsis-dap-v2")
    assert took >= 0.02 if waited else took < 0.002


def test_the_simulated_boards_cmsis_dap_probe_is_made_quick() -> None:
    target = Target.open("sim:ideal")
    assert isinstance(target.link.probe.driver, QuickProbe)
    target.close()
