"""A loader runs in between, and the program does not notice."""

from __future__ import annotations

import pytest
from target_bench import Bench

from gdbserver.chip.cortex_m import DEMCR, VC_ALL_FAULTS
from gdbserver.target.registers import REGISTERS

NAMES = [register.name for register in REGISTERS]
LOADER = 0x24000000


def disturb(bench: Bench) -> None:
    """Change every register that can be changed, and run code."""
    target = bench.target
    target.catch_faults(VC_ALL_FAULTS)
    target.write_memory(LOADER, bytes.fromhex("421c 00be"))  # adds r2, r0, #1; bkpt
    target.write_registers({f"r{n}": 0x100 + n for n in range(13)})
    target.write_registers({f"d{n}": n << 32 | n for n in range(16)})
    target.write_registers({"msp": 0x24010000, "psp": 0x24020000, "primask": 1, "fpscr": 1 << 24})
    target.write_registers({"pc": LOADER, "xpsr": 0x01000000, "lr": 0xFFFFFFFF})
    assert bench.run().kind == "swbreak"
    assert target.read_registers(["r2"])["r2"] == 0x101


def test_every_register_is_put_back(bench: Bench) -> None:
    bench.run_to("step_2")
    target = bench.target
    target.write_registers({"r7": 0x12345678, "d3": 0x0123456789ABCDEF, "basepri": 0x40})
    before = target.read_registers(NAMES)
    reason, demcr = target.poll_stop(), target.read_word(DEMCR)
    with target.saved_core():
        disturb(bench)
    assert target.poll_stop() == reason
    assert target.read_word(DEMCR) == demcr
    target.write_word(DEMCR, demcr)  # what is known about the halt is dropped
    assert target.read_registers(NAMES) == before
    target.write_registers({"basepri": 0})
    bench.run_to("step_3")


def crash(bench: Bench) -> None:
    with bench.target.saved_core():
        bench.target.write_memory(LOADER, bytes.fromhex("fee7"))  # b .
        bench.target.write_registers({"pc": LOADER})
        bench.target.resume()
        raise ZeroDivisionError


def test_it_is_put_back_after_an_error_while_the_loader_runs(bench: Bench) -> None:
    bench.run_to("step_2")
    before = bench.target.read_registers(NAMES)
    with pytest.raises(ZeroDivisionError):
        crash(bench)
    assert bench.target.is_halted()
    bench.target.write_word(DEMCR, 0x01000400)  # what is known about the halt is dropped
    assert bench.target.read_registers(NAMES) == before
