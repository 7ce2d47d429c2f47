"""Conditions and dprintf that the server evaluates: a real GDB says what, and hears the outcome."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
from gdb_session import debugging, symbol

from gdbserver.sim.bus import Master
from gdbserver.target.breakpoints import BKPT


@pytest.mark.parametrize(("link", "transactions"), [("cmsis-dap-v2", 2), ("stlink-v3", 27)])
def test_a_false_condition_costs_no_word_to_gdb(
    demo_elf: Path, link: str, transactions: int
) -> None:
    with debugging(demo_elf, f"sim:{link}") as here:
        gdb = here.loaded()
        counters = here.machine.target.link.probe.counters
        gdb.do("set breakpoint condition-evaluation target")
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do("break add if b == 120 && sum_in_nor")
        before = counters.transactions
        gdb.do("continue")
        assert gdb.read("b") == 120
        assert counters.transactions - before < 60 * transactions + 100  # 60 hits, and one stop
        gdb.do("condition 2 b == 130")
        gdb.do("continue")
        assert gdb.read("b") == 130, "a new condition takes the old one's place"


def test_an_agents_dprintf_prints_and_goes_on(demo_elf: Path) -> None:
    with debugging(demo_elf) as here:
        gdb = here.loaded()
        gdb.do("set dprintf-style agent")
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do(r'dprintf add,"<%d and %s>\n", b, said')
        gdb.do("break twice_in_bank2 if value == 3")
        said = gdb.do("continue")
        assert "\n".join(f"<{n} and hello from the QSPI NOR>" for n in (0, 2, 4)) in said


def test_a_condition_that_cannot_be_evaluated_is_a_stop_that_says_why(demo_elf: Path) -> None:
    with debugging(demo_elf) as here:
        gdb = here.loaded()
        gdb.do("tbreak main")
        gdb.do("continue")
        gdb.do("break add if *(int *)0x70000000 == 3")
        said = gdb.do("continue")
        assert "breakpoint at 0x080000" in said
        assert "cannot read memory at 0x70000000" in said
        assert gdb.read("b") == 0


def test_conditions_in_ram_are_those_of_a_patched_instruction() -> None:
    elf = support.build_firmware("in_ram")
    with debugging(elf, "sim:cmsis-dap-v2") as here:
        gdb = here.loaded()
        counters = here.machine.target.link.probe.counters
        gdb.do("set breakpoint condition-evaluation target")
        gdb.break_at("main", temporary=True)
        gdb.run()
        weigh = symbol(elf, "weigh") & ~1
        code = gdb.read_memory(weigh, 4)
        # GDB takes its breakpoints out at each stop, unless it is told otherwise.
        gdb.do("set breakpoint always-inserted on")
        gdb.break_at("*weigh", condition="value == 40")
        before = counters.transactions
        assert gdb.run().function == "weigh"
        assert gdb.read("value") == 40
        assert counters.transactions - before < 40 * 10 + 100
        assert here.board.bus.read(weigh, 2, Master.AP0) == BKPT
        assert gdb.read_memory(weigh, 4) == code
        gdb.do("stepi")
        assert gdb.read("$pc") == weigh + 2
        gdb.do("condition 2 value == 45")
        lines = 0
        while gdb.backtrace()[0] != "main":
            gdb.do("next")
            lines += 1
        assert 3 <= lines <= 5, "a step of GDB's is a line, and not an instruction"
        gdb.run()
        assert gdb.read("value") == 45
        assert "Run till exit" in gdb.do("finish")
        assert gdb.read("$") == 1 << 45 % 8
        gdb.do("delete 2")
        gdb.do("set dprintf-style agent")
        gdb.do(r'dprintf *weigh,"<%d>\n", value')
        gdb.break_at("*weigh + 2", condition="value == 48")
        assert "<46>\n<47>\n<48>\n" in gdb.do("continue")
        gdb.do("detach")
        assert here.board.bus.read(weigh, 4, Master.AP0).to_bytes(4, "little") == code
