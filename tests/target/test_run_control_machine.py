"""Random, legal sessions against a model: whatever is asked in whatever order, hardware agrees.

The model knows what was asked for, and reads the board behind the debugger's back; what the
target answers has to be what is there now.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support import drills, examples
from target_bench import Bench, make_bench

from gdbserver.chip.memory import Span
from gdbserver.errors import BreakpointError
from gdbserver.sim.bus import Master
from gdbserver.target.breakpoints import BreakKind, blocks

FPB, DWT = 0xE0002008, 0xE0001020
FUNCTIONS = ("main", "step_1", "step_2", "step_3")
RAM = 0x24000100
LENGTH = 48

functions = st.sampled_from(FUNCTIONS)
watches = st.tuples(
    st.sampled_from([BreakKind.WRITE_WATCH, BreakKind.READ_WATCH, BreakKind.ACCESS_WATCH]),
    st.integers(0x24010000, 0x24010010),
    st.integers(1, 8),
)


class RunControl(RuleBasedStateMachine):
    bench: Bench
    running: bool

    @initialize(link=st.sampled_from(["cmsis-dap-v2", "stlink-v3"]))
    def begin(self, link: str) -> None:
        self.source = make_bench(f"sim:{link}", drills())
        self.bench = next(self.source)
        self.code: dict[int, BreakKind] = {}
        self.watches: set[tuple[BreakKind, int, int]] = set()
        self.memory = bytearray(LENGTH)
        self.running = False
        self.fresh = False  # after a reset main is still to come
        self.bench.target.write_memory(RAM, bytes(LENGTH))
        self.bench.run_to("step_1")

    def teardown(self) -> None:
        if hasattr(self, "source"):
            next(self.source, None)
            assert not self.compared(), "closing leaves nothing behind"

    # --- The board, behind the debugger's back ------------------------------------------------

    def word(self, address: int) -> int:
        board: Any = self.bench.board
        return int(board.bus.read(address, 4, Master.AP0))

    def compared(self) -> set[int]:
        words = [self.word(FPB + 4 * n) for n in range(8)]
        return {word & ~1 for word in words if word & 1}

    # --- Breakpoints -----------------------------------------------------------------------------

    @rule(name=functions, kind=st.sampled_from([BreakKind.SOFTWARE, BreakKind.HARDWARE]))
    def set_breakpoint(self, name: str, kind: BreakKind) -> None:
        address = self.bench.names[name] & ~1
        if address not in self.code:
            self.bench.target.set_breakpoint(kind, address, 2)
            self.code[address] = kind
            self.meet_in_the_loop()

    @rule(name=functions)
    def clear_breakpoint(self, name: str) -> None:
        address = self.bench.names[name] & ~1
        if address in self.code:
            self.bench.target.clear_breakpoint(self.code.pop(address), address, 2)

    @rule(watch=watches)
    def set_watch(self, watch: tuple[BreakKind, int, int]) -> None:
        kind, address, length = watch
        used = sum(len(blocks(Span.of(at, size))) for _, at, size in self.watches)
        fits = used + len(blocks(Span.of(address, length))) <= 4
        try:
            self.bench.target.set_breakpoint(kind, address, length)
        except BreakpointError:
            assert not fits
            assert watch not in self.watches
        else:
            assert fits or watch in self.watches
            self.watches.add(watch)

    @rule(data=st.data())
    @precondition(lambda self: self.watches)
    def clear_watch(self, data: st.DataObject) -> None:
        watch = data.draw(st.sampled_from(sorted(self.watches)))
        self.bench.target.clear_breakpoint(*watch)
        self.watches.discard(watch)

    # --- Memory ----------------------------------------------------------------------------------

    @rule(offset=st.integers(0, LENGTH - 4), data=st.binary(min_size=1, max_size=4))
    def write(self, offset: int, data: bytes) -> None:
        self.bench.target.write_memory(RAM + offset, data)
        self.memory[offset : offset + len(data)] = data

    @rule(offset=st.integers(0, LENGTH - 4), length=st.integers(1, 4))
    def read(self, offset: int, length: int) -> None:
        found = self.bench.target.view_memory(RAM + offset, length)
        assert found == self.memory[offset : offset + length]

    @rule()
    def what_the_program_changes_is_read_as_it_is(self) -> None:
        if not self.running:
            counter = self.bench.names["counter"]
            found = self.bench.target.view_memory(counter, 4)
            assert int.from_bytes(found, "little") == self.word(counter)

    # --- Running ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Whatever the core does by now, it is for a reason that was asked for."""
        for _ in range(200):
            if (stop := self.bench.target.poll_stop()) is not None:
                self.running = False
                assert stop.kind in ("hwbreak", "swbreak", "halted"), stop
                assert (self.bench.pc in self.code) == (stop.kind != "halted"), stop
                return

    @precondition(lambda self: not self.running)
    @rule()
    def resume(self) -> None:
        if self.bench.pc in self.code:
            self.step()  # as a client does
        self.bench.target.resume()
        self.running = True
        self.meet_in_the_loop()

    def meet_in_the_loop(self) -> None:
        """A core that runs comes through every function with a breakpoint; main it meets once."""
        main = self.bench.names["main"] & ~1
        if self.running and self.code.keys() - {main}:
            self.look()
            assert not self.running
            self.fresh = False
        elif self.running and self.fresh and main in self.code:
            self.look()  # it may have been there already
            self.fresh = False

    @precondition(lambda self: self.running)
    @rule()
    def interrupt(self) -> None:
        self.bench.target.halt()
        self.look()
        assert not self.running

    @precondition(lambda self: not self.running)
    @rule()
    def step(self) -> None:
        self.bench.target.step()
        stop = self.bench.target.poll_stop()
        assert stop is not None
        assert stop.kind == "step"
        assert self.bench.pc == self.bench.board.core.pc

    @precondition(lambda self: not self.running)
    @rule(length=st.sampled_from([4, 8, 20]))
    def leave(self, length: int) -> None:
        before = self.bench.pc
        span = Span.of(before & ~3, length)
        self.bench.target.step_range(span)
        for _ in range(200):
            if (stop := self.bench.target.poll_stop()) is not None:
                break
        else:
            self.bench.target.halt()  # it goes in circles there
            stop = self.bench.target.poll_stop()
            assert stop is not None
            assert stop.kind == "halted"
            return
        if stop.kind == "step":
            assert self.bench.pc not in span
        else:
            assert self.bench.pc in self.code, stop
        assert self.bench.pc == self.bench.board.core.pc

    @rule(halt=st.booleans())
    def reset(self, halt: bool) -> None:
        self.bench.target.reset(halt=halt)
        self.running = not halt
        self.fresh = True
        self.memory[:] = self.bench.target.read_memory(RAM, LENGTH)
        if self.running and self.code:
            self.look()
        elif halt:
            assert self.bench.pc == self.bench.names["Reset_Handler"] & ~1

    @rule()
    def a_client_leaves_and_another_comes(self) -> None:
        self.bench.target.clear_all_breakpoints()
        self.code.clear()
        self.watches.clear()
        if self.bench.target.is_halted():
            self.bench.target.resume()
        self.bench.target.halt()
        assert self.bench.target.poll_stop() is not None
        self.running = False

    # --- What always holds ------------------------------------------------------------------------

    @invariant()
    def the_hardware_holds_what_was_asked_for(self) -> None:
        if not hasattr(self, "bench"):
            return
        assert self.compared() == set(self.code)
        watched = set()
        for n in range(4):
            if self.word(DWT + 16 * n + 8) & 0xF:
                watched.add((self.word(DWT + 16 * n), self.word(DWT + 16 * n + 4)))
        wanted = {
            (block.address, block.mask)
            for _, address, length in self.watches
            for block in blocks(Span.of(address, length))
        }
        assert watched == wanted
        assert self.bench.board.core.halted == (not self.running)


TestRunControl = RunControl.TestCase
TestRunControl.settings = settings(max_examples=examples(15), stateful_step_count=25, deadline=None)
