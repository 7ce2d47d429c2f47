"""Probes of other makes: what pyOCD's interface allows, and neither simulated probe does.

All stand in front of the same simulated board, and do with pyOCD's probe interface what a
third-party plugin may do with it; one of them is pyOCD's own: a probe at another machine
(`pyocd server`), which must have what it is told in a form that can travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pyocd.core import exceptions
from pyocd.core.memory_interface import MemoryInterface
from pyocd.core.session import Session
from pyocd.probe.debug_probe import DebugProbe
from pyocd.probe.shared_probe_proxy import SharedDebugProbeProxy
from pyocd.probe.swj import SWJSequenceSender
from pyocd.probe.tcp_probe_server import TCPProbeServer
from target_bench import Bench, load

from gdbserver.chip.cortex_m import (
    DEMCR,
    DFSR,
    DWT_FUNCTION,
    DWT_FUNCTION_WRITE,
    FP_COMP,
    Demcr,
    Dfsr,
)
from gdbserver.chip.stm32h743 import DBGMCU, DBGMCU_APB_D, DBGMCU_CR_OFFSET
from gdbserver.errors import MemoryFault
from gdbserver.sim.bus import Master
from gdbserver.sim.probe import SimProbe
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.connect import Connect
from gdbserver.target.link import SWITCH_TO_SWD
from gdbserver.target.registers import REGISTERS
from gdbserver.target.target import Target


def plain(data: int) -> int:
    """It may be inverted: ``~`` of one of our flags has no bits but those that have a name."""
    assert type(data) is int
    return data


class EagerProbe(SimProbe):
    """Carries everything out at once, deferred or not, and has no reset pin."""

    def __init__(self) -> None:
        super().__init__("sim:ideal")

    def assert_reset(self, asserted: bool) -> None:
        raise NotImplementedError

    def read_dp(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        value = super().read_dp(addr, True)
        return value if now else lambda: value  # type: ignore[return-value]

    def read_ap(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        value = super().read_ap(addr, True)
        return value if now else lambda: value  # type: ignore[return-value]

    def read_ap_multiple(
        self, addr: int, count: int = 1, now: bool = True
    ) -> Sequence[int] | Callable[[], Sequence[int]]:
        values = [super(EagerProbe, self).read_ap(addr, True) for _ in range(count)]
        return values if now else lambda: values  # type: ignore[return-value]

    def write_dp(self, addr: int, data: int) -> None:
        super().write_dp(addr, plain(data))
        self.flush()

    def write_ap(self, addr: int, data: int) -> None:
        super().write_ap(addr, plain(data))
        self.flush()

    def write_ap_multiple(self, addr: int, values: Sequence[int]) -> None:
        for value in values:
            self.write_ap(addr, value)


class MeddlingProbe(SimProbe):
    """Has memory commands for AP0 only, which leave SELECT, CSW and TAR as they happen to."""

    def __init__(self) -> None:
        super().__init__("sim:ideal")

    def get_memory_interface_for_ap(self, ap_address: Any) -> Any:
        return Meddler(self) if ap_address.apsel == 0 else None


class Meddler(MemoryInterface):  # type: ignore[misc]  # pyOCD is untyped
    def __init__(self, probe: MeddlingProbe) -> None:
        self._probe = probe

    def _aim(self, addr: int, size: int, csw: int) -> None:
        self._probe.write_dp(8, 0)
        self._probe.write_ap(0, csw & ~0x37 | size.bit_length() - 4)
        self._probe.write_ap(4, addr)

    def _leave(self) -> None:
        self._probe.write_dp(8, 0xF0)

    def write_memory(self, addr: int, data: int, transfer_size: int = 32, **attrs: Any) -> None:
        self._aim(addr, transfer_size, attrs["csw"])
        self._probe.write_ap(0xC, plain(data) << 8 * (addr & 3))
        self._finish()

    def read_memory(
        self, addr: int, transfer_size: int = 32, now: bool = True, **attrs: Any
    ) -> int | Callable[[], int]:
        self._aim(addr, transfer_size, attrs["csw"])
        value = self._probe.read_ap(0xC)
        self._leave()
        assert isinstance(value, int)
        value = value >> 8 * (addr & 3) & (1 << transfer_size) - 1
        return value if now else lambda: value

    def _finish(self) -> None:
        try:
            self._probe.flush()
        except exceptions.TransferFaultError:
            self._probe.write_dp(0, 0x1E)
            raise
        self._leave()

    def write_memory_block32(self, addr: int, data: Sequence[int], **attrs: Any) -> None:
        for i, word in enumerate(data):
            self.write_memory(addr + 4 * i, word, 32, **attrs)

    def read_memory_block32(self, addr: int, size: int, **attrs: Any) -> Sequence[int]:
        return [self.read_memory(addr + 4 * i, 32, **attrs) for i in range(size)]  # type: ignore[misc]


class DeafProbe(SimProbe):
    """Loses the first sequence that it is told to send."""

    heard = 0

    def swj_sequence(self, length: int, bits: int) -> None:
        self.heard += 1
        if self.heard > 1:
            super().swj_sequence(length, bits)


class GapProbe(SimProbe):
    """Its DBGMCU answers where RM0433 has a register, and nowhere else."""

    def get_memory_interface_for_ap(self, ap_address: Any) -> Any:
        interface = super().get_memory_interface_for_ap(ap_address)
        read_block = interface.read_memory_block32

        def read_memory_block32(addr: int, size: int, **attrs: Any) -> Any:
            if addr == DBGMCU_APB_D and size > 2:
                raise exceptions.TransferFaultError(addr + 8)
            return read_block(addr, size, **attrs)

        interface.read_memory_block32 = read_memory_block32
        return interface


def test_swd_is_chosen_in_one_sequence_as_pyocd_does_in_four() -> None:
    class Recorder:
        bits = length = 0

        def swj_sequence(self, length: int, bits: int) -> None:
            self.bits |= (bits & (1 << length) - 1) << self.length
            self.length += length

    recorder = Recorder()
    SWJSequenceSender(recorder, False).select_protocol(DebugProbe.Protocol.SWD)
    assert (recorder.length, recorder.bits) == SWITCH_TO_SWD


def test_a_debug_port_that_does_not_answer_at_once_is_asked_again() -> None:
    probe = DeafProbe("sim:cmsis-dap-v2")
    Target.behind(probe, connect=Connect.HALT).close()
    assert probe.heard > 1


@pytest.mark.parametrize("connect", Connect)
def test_registers_with_gaps_between_them_are_read_one_by_one(connect: Connect) -> None:
    target = Target.behind(GapProbe("sim:stlink-v3"), connect=connect)
    assert target.chip.device_id == 0x450
    assert target.read_word(DBGMCU + DBGMCU_CR_OFFSET) & 7 == 7
    target.close()


@pytest.mark.parametrize("link", ["cmsis-dap-v2", "stlink-v3"])
def test_comparators_that_somebody_left_on_are_switched_off(link: str) -> None:
    probe = SimProbe(f"sim:{link}")
    target = Target.behind(probe, connect=Connect.UNDER_RESET)
    target.close()
    fpb, dwt = FP_COMP + 4 * 7, DWT_FUNCTION + 16 * 3
    demcr = probe.board.bus.read(DEMCR, 4, Master.AP0)
    probe.board.bus.write(DEMCR, 4, demcr | Demcr.TRCENA, Master.AP0)
    probe.board.bus.write(fpb, 4, 0x08000101, Master.AP0)
    probe.board.bus.write(dwt, 4, DWT_FUNCTION_WRITE, Master.AP0)
    target = Target.behind(probe, connect=Connect.ATTACH)
    assert target.read_word(fpb) == 0
    assert target.read_word(dwt) == 0
    target.close()


@contextmanager
def at_another_machine(uid: str) -> Iterator[tuple[str, SimProbe]]:
    """What to open instead of a simulated probe, and the probe itself."""
    probe = SimProbe(uid)
    with TCPProbeServer(("localhost", 0), Session(None), SharedDebugProbeProxy(probe)) as server:
        server.server_bind()
        server.server_activate()
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"remote:localhost:{server.socket.getsockname()[1]}", probe
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(params=[EagerProbe, MeddlingProbe, "sim:cmsis-dap-v2", "sim:stlink-v3"])
def other(request: pytest.FixtureRequest, drills_elf: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        if isinstance(request.param, str):
            uid, probe = stack.enter_context(at_another_machine(request.param))
            target = Target.open(uid, connect=Connect.UNDER_RESET)
        else:
            probe = request.param()
            target = Target.behind(probe, connect=Connect.UNDER_RESET)
        names = load(probe.board, drills_elf)
        target.reset(halt=True)
        yield Bench(target, probe.board, names)
        target.close()


def test_a_session_from_reset_to_a_fault(other: Bench) -> None:
    target = other.target
    assert other.run_to("main").kind == "hwbreak"
    for _ in range(5):
        target.step()
        stop = target.poll_stop()
        assert stop is not None
        assert stop.kind == "step"
    other.run_to("step_1")
    target.write_word(other.names["drill"], 3)
    assert other.run().kind == "fault"


def test_registers_and_memory(other: Bench) -> None:
    target = other.target
    values = {r.name: r.number for r in REGISTERS if r.name[0] in "rd"}
    target.write_registers(values)
    target.write_word(0xE000EDFC, 0x01000400)
    assert target.read_registers(values) == values
    target.write_memory(0x24000001, bytes(range(250)))
    assert target.read_memory(0x24000001, 250) == bytes(range(250))
    with pytest.raises(MemoryFault):
        target.write_memory(0x70000000, b"1234")
    with pytest.raises(MemoryFault) as caught:
        target.read_memory(0x2407FFFC, 8)
    assert len(caught.value.readable) == 4
    assert target.read_memory(0x24000001, 250) == bytes(range(250))


def test_a_watchpoint(other: Bench) -> None:
    other.run_to("step_1")
    other.target.write_word(other.names["drill"], 2)
    other.target.set_breakpoint(BreakKind.WRITE_WATCH, other.names["watched"], 4)
    assert other.run().address == other.names["watched"]


def test_a_reset_of_long_ago_is_not_taken_for_the_one_that_did_not_come() -> None:
    probe = EagerProbe()
    before = Target.behind(probe, connect=Connect.UNDER_RESET)
    before.reset(halt=True)  # DFSR.VCATCH stays set; nothing but power takes it away
    assert before.read_word(DFSR) & Dfsr.VCATCH
    before.write_registers({"pc": 0x24000000})
    before.close(resume=False)
    target = Target.behind(probe, connect=Connect.UNDER_RESET)
    assert target.read_registers(["pc"])["pc"] != 0x24000000
    target.close()
