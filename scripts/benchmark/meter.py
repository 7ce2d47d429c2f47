"""What it cost: virtual time, traffic on the link, erases, and the host's CPU time.

CPU time is told apart: what the simulated board takes, for both servers the same, and the rest,
which is the server's own.  The board begins where the probe's firmware is asked for something.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

from benchmark.cases import DEVICES, NOR, Image
from gdbserver.sim.cmsis_dap import CmsisDapFirmware
from gdbserver.sim.stlink import StlinkFirmware


@dataclass
class Cost:
    """What something cost: the difference of two readings."""

    seconds: float
    """Of the board's time."""
    transactions: int
    bytes: int
    erases: int
    cpu: float
    """Seconds of the host, outside the simulated board."""
    board_cpu: float

    def __sub__(self, before: Cost) -> Cost:
        names = [field.name for field in fields(self)]
        return Cost(*(getattr(self, name) - getattr(before, name) for name in names))


class _Board:
    cpu = 0.0
    calls = 0
    overhead = 0.0
    """Seconds that it takes to measure a call, outside of what is measured."""

    @classmethod
    def share(cls) -> float:
        return cls.cpu + cls.calls * cls.overhead


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            _Board.cpu += time.thread_time() - began
            _Board.calls += 1

    return timed


def tell_the_board_apart() -> None:
    """Measure from now on what the simulated board takes of this process."""
    _Board.overhead = _overhead()
    StlinkFirmware.transfer = _timed(StlinkFirmware.transfer)  # type: ignore[method-assign]
    CmsisDapFirmware.write = _timed(CmsisDapFirmware.write)  # type: ignore[method-assign]


def _overhead() -> float:
    """Of telling apart, for a call: a server that makes more of them does not pay for that."""
    nothing, calls = _timed(lambda: None), 20_000
    began = time.thread_time()
    for _ in range(calls):
        nothing()
    seconds = time.thread_time() - began - _Board.cpu
    _Board.cpu, _Board.calls = 0.0, 0
    return seconds / calls


def reading(probe: Any) -> Cost:
    """What all that happened on a probe's board has cost so far."""
    counters, board = probe.counters, probe.board
    return Cost(
        seconds=probe.monotonic(),
        transactions=counters.transactions,
        bytes=counters.bytes_out + counters.bytes_in,
        erases=board.flash.erases.total() + board.nor.erases.total(),
        cpu=time.process_time() - _Board.share(),
        board_cpu=_Board.cpu,
    )


def fill(board: Any, image: Image) -> None:
    """Put an image into the board's flash, without a trace."""
    for address, data in image.items():
        if address in NOR:
            board.nor.memory[address - NOR.start : address - NOR.start + len(data)] = data
        else:
            board.flash.load(address, data)


def wrong_bytes(board: Any, image: Image) -> int:
    """How many bytes of the three devices are not what they should be after a load."""
    wrong = 0
    for device in DEVICES.values():
        expected = bytearray(b"\xff") * len(device)
        for address, data in image.items():
            if address in device:
                offset = address - device.start
                expected[offset : offset + len(data)] = data
        nor = device is NOR
        found = board.nor.contents(0, len(NOR)) if nor else board.flash.contents(device)
        if found != expected:
            wrong += sum(a != b for a, b in zip(found, expected, strict=True))
    return wrong
