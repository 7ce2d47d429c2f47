"""Random, legal conversations against a model that knows which stop has to come next.

`tests/firmware/in_ram.c` does the same things for ever, one after the other: `EVENTS`.  So of
what the client has asked for follows where the program stops, in which iteration, and why; with
conditions, that are evaluated in the server, and with watchpoints.  Clients leave politely or
vanish, and the next one comes at once; some of them work in non-stop mode.  The hardware is
looked at behind the server's back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import support
from dialogue import board_of, open_machine, symbols
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import examples

from gdbserver.chip.memory import Span
from gdbserver.flash.machine import Machine
from gdbserver.rsp.packets import Connection, Packet, frame
from gdbserver.sim.bus import Master
from gdbserver.target.breakpoints import BKPT, BreakKind, blocks
from gdbserver.testing.server import Server

T = TypeVar("T")

FPB, DWT, RAM = 0xE0002008, 0xE0001020, 0x20000000
PATIENCE: Final = 20  # host seconds for one answer
SOFTWARE, HARDWARE = BreakKind.SOFTWARE, BreakKind.HARDWARE

EVENTS: Final = (
    *(("read", "counter"), ("enter", "weigh"), ("read", "sum"), ("write", "sum")),
    *(("enter", "count"), ("read", "counter"), ("write", "counter")),
)
"""What each iteration does; the last makes `counter` the number of the next one."""
COUNT: Final = len(EVENTS)
PLACES: Final = ("main", "weigh", "weigh", "weigh", "count", "count", "count")
"""Whose code does it."""
SIZES: Final = {"main": 0x10, "weigh": 0x24, "count": 0x10}
"""Bytes of code, and no more than there are."""
SUMMED: Final = 3
"""The event that makes `sum` what it is after the iteration."""

WATCHES: Final = {
    BreakKind.WRITE_WATCH: ("watch", {"write"}),
    BreakKind.READ_WATCH: ("rwatch", {"read"}),
    BreakKind.ACCESS_WATCH: ("awatch", {"read", "write"}),
}

REF32, REM, EQUAL, CONST8, CONST32, END = 0x19, 0x08, 0x13, 0x22, 0x24, 0x27


@dataclass(frozen=True)
class Condition:
    """counter % modulus == rest"""

    modulus: int
    rest: int

    def holds(self, iteration: int) -> bool:
        return iteration % self.modulus == self.rest

    def code(self, counter: int) -> bytes:
        where = bytes([CONST32]) + counter.to_bytes(4, "big")
        return where + bytes([REF32, CONST8, self.modulus, REM, CONST8, self.rest, EQUAL, END])


conditions = st.none() | st.integers(1, 5).flatmap(
    lambda modulus: st.builds(Condition, st.just(modulus), st.integers(0, modulus - 1))
)
functions = st.sampled_from(["weigh", "count"])
# From the start of a variable: of an access that begins before what is watched, the manual
# leaves open whether it matches.
watches = st.tuples(
    st.sampled_from(list(WATCHES)), st.sampled_from(["counter", "sum"]), st.integers(1, 8)
)


class Line:
    """A client, and whether the core runs as far as it knows."""

    def __init__(self, address: tuple[str, int], *, non_stop: bool) -> None:
        self._socket = socket.create_connection(address, PATIENCE)
        self._connection = Connection()
        self._connection.stop_acks()
        self._stops: list[str] = []
        self.non_stop = non_stop
        self.ask("qSupported:swbreak+;hwbreak+")
        if non_stop:
            assert self.ask("QNonStop:1") == "OK"
        self.first = self.ask("?")

    def send(self, payload: str) -> None:
        self._socket.sendall(frame(payload.encode("latin-1")))

    def interrupt(self) -> None:
        if self.non_stop:
            assert self.ask("vCtrlC") == "OK"
        else:
            self._socket.sendall(b"\x03")

    def ask(self, payload: str) -> str:
        self.send(payload)
        return self._hear()

    def do(self, payload: str) -> None:
        assert self.ask(payload) == "OK", payload

    def stop(self) -> str:
        """The next stop, told as a reply or as a notification."""
        if not self.non_stop:
            return self._hear()
        while not self._stops:
            self._listen()
        stop = self._stops.pop()
        assert self.ask("vStopped") == "OK", "there is one core"
        return stop

    def hang_up(self) -> None:
        self._socket.close()

    def _hear(self) -> str:
        """The next reply; what is printed on the console before it is passed over."""
        while True:
            while (event := self._connection.next_event()) is None:
                self._listen()
            assert isinstance(event, Packet)
            reply = event.payload.decode("latin-1")
            if reply == "OK" or not reply.startswith("O"):
                return reply

    def _listen(self) -> None:
        data = self._socket.recv(1 << 16)
        assert data, "the server has hung up"
        while (at := data.find(b"%Stop:")) >= 0:
            while (end := data.find(b"#", at)) < 0 or len(data) < end + 3:
                data += self._socket.recv(1 << 16)
            self._stops.append(data[at + len("%Stop:") : end].decode("latin-1"))
            data = data[:at] + data[end + 3 :]
        if data:
            self._connection.receive_data(data)


class Conversation(RuleBasedStateMachine):
    # --- The board, behind the server's back ----------------------------------------------------

    @initialize(link=st.sampled_from(["cmsis-dap-v2", "stlink-v3", "ideal"]))
    def begin(self, link: str) -> None:
        elf = support.build_firmware("in_ram")
        self.names = symbols(elf)
        self.names["weigh"] &= ~1
        machines: list[Machine] = []

        def open_board() -> Machine:
            machines.append(open_machine(f"sim:{link}", elf))
            return machines[0]

        self.stack = ExitStack()
        self.server = self.stack.enter_context(Server(open_board))
        self.board: Any = board_of(machines[0])
        self.running = False
        self.breaks: dict[tuple[BreakKind, str], Condition | None] = {}
        self.watches: set[tuple[BreakKind, int, int]] = set()
        self.low = self.high = 0  # the next event is one of these, or one between them;
        self.away = False  # or long past, because nothing was to stop the core
        self.client: Line | None = Line((self.server.host, self.server.port), non_stop=False)
        self.reset()
        self.code = self.words(self.names["weigh"], 2)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            if self.client is not None:
                self.client.hang_up()
            self.stack.close()
            compared, watched, patched = self.hardware()
            assert not compared | watched
            assert not patched

    def behind(self, look: Callable[[], T]) -> T:
        return self.server.call(lambda target: look())

    def words(self, address: int, count: int) -> list[int]:
        return [self.board.bus.read(address + 4 * n, 4, Master.AP0) for n in range(count)]

    def hardware(self) -> tuple[set[int], set[tuple[int, int]], bool]:
        """Comparators of FPB and DWT, and whether there is a BKPT in RAM."""
        compared = {word & ~1 for word in self.words(FPB, 8) if word & 1}
        watched = {
            (self.words(DWT + 16 * n, 1)[0], self.words(DWT + 16 * n + 4, 1)[0])
            for n in range(4)
            if self.words(DWT + 16 * n + 8, 1)[0] & 0xF
        }
        return compared, watched, self.words(RAM, 1)[0] & 0xFFFF == BKPT

    # --- The model --------------------------------------------------------------------------------

    def where(self) -> tuple[int, int]:
        """Which event is next, as far as the variables tell: the first and the last it may be."""
        names = (self.names["counter"], self.names["sum"])
        iteration, total = self.behind(lambda: [self.words(name, 1)[0] for name in names])
        first = iteration * COUNT
        if total == summed(iteration):
            return first, first + SUMMED
        assert total == summed(iteration + 1)
        return first + SUMMED + 1, first + COUNT - 1

    def wanted(self, index: int) -> set[str]:
        """What a stop at this event may be called; empty where there is to be none."""
        iteration, at = divmod(index, COUNT)
        what, name = EVENTS[at]
        if what == "enter":
            kinds = {kind for kind, function in self.breaks if function == name}
            scripts = [self.breaks[kind, name] for kind in kinds]
            stops = any(script is None or script.holds(iteration) for script in scripts)
            return {"hwbreak:" if HARDWARE in kinds else "swbreak:"} if stops else set()
        address = self.names[name]
        return {
            f"{WATCHES[kind][0]}:{block.address:x}"
            for kind, start, length in self.watches
            for block in blocks(Span.of(start, length))
            if what in WATCHES[kind][1]
            and block.span.start < address + 4
            and address < block.span.end
        }

    def due(self) -> int | None:
        """The first event from here that must stop the core; no condition needs 60 iterations."""
        for index in range(self.high, self.high + 60 * COUNT):
            if self.wanted(index):
                return index
        return None

    def understand(self, reply: str) -> None:
        """A stop for a reason that was asked for, at an event that is due."""
        assert reply[:3] == "T05", reply
        fields = dict(part.split(":") for part in reply[3:].split(";") if part)
        pc = int.from_bytes(bytes.fromhex(fields["0f"]), "little")
        found = {f"{key}:{value}" for key, value in fields.items()}
        due, before = None if self.away else self.due(), self.low
        first, last = self.where()
        assert first >= before - (before % COUNT), "the program does not go backwards"
        entered = [i for i in range(first, last + 1) if self.names.get(EVENTS[i % COUNT][1]) == pc]
        if "hwbreak" in fields or "swbreak" in fields:
            (index,) = entered
            self.low = self.high = index
        else:
            # Behind an access: the variables tell which, and an access ends its instruction.
            index = self.accessed(first, last, found, pc)
            self.low = self.high = index + 1
        assert found & self.wanted(index), (reply, EVENTS[index % COUNT])
        assert index >= before, "and nothing happens twice"
        assert due is None or index <= due, f"{EVENTS[due % COUNT]} was missed: {reply}"
        self.running = self.away = False

    def accessed(self, first: int, last: int, found: set[str], pc: int) -> int:
        """The access, of those that may have been the last, that is a reason to stop."""
        here = next(n for n, size in SIZES.items() if self.names[n] <= pc < self.names[n] + size)
        (index,) = [
            index
            for index in range(max(0, first - 1), last)
            if EVENTS[index % COUNT][0] == ("write" if index < first else "read")
            and PLACES[index % COUNT] == here
            and found & self.wanted(index)
        ]
        return index

    # --- Clients ------------------------------------------------------------------------------

    @precondition(lambda self: self.client is None)
    @rule(non_stop=st.booleans())
    def connect(self, non_stop: bool) -> None:
        self.client = Line((self.server.host, self.server.port), non_stop=non_stop)
        self.running = self.client.first == "OK"
        assert self.running <= non_stop
        assert self.running or self.client.first[0] == "T"
        self.away = self.running
        self.low, self.high = (self.low, self.high) if self.running else self.where()

    @precondition(lambda self: self.client is not None)
    @rule(politely=st.booleans())
    def leave(self, politely: bool) -> None:
        assert self.client is not None
        if politely and self.can_ask():
            self.client.do("D")
        self.client.hang_up()
        self.client = None
        self.running = True
        self.breaks.clear()
        self.watches.clear()
        self.wait_until_it_runs()

    def wait_until_it_runs(self) -> None:
        """What has been sent, and is not answered, is heard some time."""
        while self.behind(lambda: self.board.core.halted):
            pass

    # --- What it asks for -------------------------------------------------------------------------

    def can_ask(self) -> bool:
        return self.client is not None and (not self.running or self.client.non_stop)

    @precondition(can_ask)
    @rule(kind=st.sampled_from([SOFTWARE, HARDWARE]), function=functions, condition=conditions)
    def set_breakpoint(self, kind: BreakKind, function: str, condition: Condition | None) -> None:
        assert self.client is not None
        script = b"" if condition is None else condition.code(self.names["counter"])
        words = f";X{len(script):x},{script.hex()}" if script else ""
        self.client.do(f"Z{kind:d},{self.names[function]:x},2{words}")
        self.breaks[kind, function] = condition
        self.meet()

    @precondition(can_ask)
    @rule(kind=st.sampled_from([SOFTWARE, HARDWARE]), function=functions)
    def clear_breakpoint(self, kind: BreakKind, function: str) -> None:
        assert self.client is not None
        self.client.do(f"z{kind:d},{self.names[function]:x},2")
        self.breaks.pop((kind, function), None)

    @precondition(can_ask)
    @rule(watch=watches)
    def set_watch(self, watch: tuple[BreakKind, str, int]) -> None:
        assert self.client is not None
        kind, name, length = watch
        asked = (kind, self.names[name], length)
        spans = [Span.of(start, size) for _, start, size in self.watches | {asked}]
        answer = self.client.ask(f"Z{kind:d},{asked[1]:x},{length:x}")
        assert answer == ("OK" if sum(len(blocks(span)) for span in spans) <= 4 else "E1c")
        if answer == "OK":
            self.watches.add(asked)
            self.meet()

    @precondition(lambda self: self.can_ask() and self.watches)
    @rule(data=st.data())
    def clear_watch(self, data: st.DataObject) -> None:
        assert self.client is not None
        watch = data.draw(st.sampled_from(sorted(self.watches)))
        self.client.do("z{:d},{:x},{:x}".format(*watch))
        self.watches.discard(watch)

    def meet(self) -> None:
        """What a core that runs comes to, stops it."""
        if self.running and self.due() is not None:
            assert self.client is not None
            self.understand(self.client.stop())
        self.away |= self.running

    @precondition(can_ask)
    @rule()
    def look(self) -> None:
        """The code is what it was; and `counter` what it is, where nothing runs."""
        assert self.client is not None
        code = b"".join(word.to_bytes(4, "little") for word in self.code)
        assert self.client.ask(f"m{self.names['weigh']:x},8") == code.hex()
        if not self.running:
            (counter,) = self.behind(lambda: self.words(self.names["counter"], 1))
            found = self.client.ask(f"m{self.names['counter']:x},4")
            assert found == counter.to_bytes(4, "little").hex()

    # --- Running ----------------------------------------------------------------------------------

    def stands(self) -> bool:
        return self.client is not None and not self.running

    @precondition(stands)
    @rule()
    def go(self) -> None:
        assert self.client is not None
        if self.client.non_stop:
            self.client.do("vCont;c")
        else:
            self.client.send("vCont;c")
        self.running = True
        self.meet()
        if self.running:
            self.wait_until_it_runs()

    @precondition(lambda self: self.client is not None and self.running)
    @rule()
    def interrupt(self) -> None:
        assert self.client is not None
        self.client.interrupt()
        reply = self.client.stop()
        if reply[:3] == "T02":
            self.running = self.away = False
            self.low, self.high = self.where()
        else:
            self.understand(reply)

    @precondition(stands)
    @rule(out_of=st.sampled_from([None, "weigh", "count"]))
    def step(self, out_of: str | None) -> None:
        """One instruction, or out of a function, if it is there."""
        assert self.client is not None
        pc = self.behind(lambda: self.board.core.pc)
        action = "s"
        if out_of is not None:
            start = self.names[out_of]
            action = f"r{start:x},{start + SIZES[out_of]:x}"
        if self.client.non_stop:
            self.client.do(f"vCont;{action}")
        else:
            self.client.send(f"vCont;{action}")
        what, name = EVENTS[self.low % COUNT]
        if self.low == self.high and what == "enter" and pc == self.names[name]:
            self.low = self.high = self.low + 1  # a step goes past a breakpoint where it begins
        before = self.low
        reply = self.client.stop()
        assert reply[:3] == "T05"
        if "watch" in reply or "break" in reply:
            self.understand(reply)
        else:
            self.low, self.high = self.where()
            self.low = max(self.low, before)

    @precondition(stands)
    @rule()
    def reset(self) -> None:
        """What is patched into RAM does not outlive the startup code, which copies it there."""
        assert self.client is not None
        for kind, function in list(self.breaks):
            self.clear_breakpoint(kind, function)
        for watch in list(self.watches):
            self.client.do("z{:d},{:x},{:x}".format(*watch))
        self.watches.clear()
        self.client.do(f"qRcmd,{b'reset halt'.hex()}")
        self.client.do(f"Z1,{self.names['main']:x},2")
        if self.client.non_stop:
            self.client.do("vCont;c")
        else:
            self.client.send("vCont;c")
        assert "hwbreak" in self.client.stop()
        self.client.do(f"z1,{self.names['main']:x},2")
        self.low = self.high = 0

    # --- What always holds --------------------------------------------------------------------

    @invariant()
    def the_hardware_holds_what_was_asked_for(self) -> None:
        if not hasattr(self, "stack"):
            return
        compared, watched, patched = self.behind(self.hardware)
        hard = {f for kind, f in self.breaks if kind is HARDWARE or f == "count"}
        assert compared == {self.names[function] for function in hard}
        assert patched == ((SOFTWARE, "weigh") in self.breaks)
        assert watched == {
            (block.address, block.mask)
            for _, start, length in self.watches
            for block in blocks(Span.of(start, length))
        }
        assert self.behind(lambda: self.board.core.halted) == (not self.running)


def summed(iterations: int) -> int:
    """What `sum` is after so many."""
    return iterations // 8 * 255 + (1 << iterations % 8) - 1 & 0xFFFFFFFF


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    max_examples=examples(10), stateful_step_count=25, deadline=None
)
