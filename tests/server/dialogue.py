"""A client of a session on the simulated board, and scripts for it.

A script is a dialogue, a packet a line::

    # Said to the reader.
    board sim:stlink-v3     the simulated board to use, if it is not the usual one
    program drills          what is in its flash
    loader builtin          the external loader, if there is to be one
    told program            the server knows the program's file, as by --elf
    > m@watched,4           the client sends this; @name is a symbol of the program
    < 11111111              and wants exactly this
    <~ T05.*thread:1;.*     or something that this regular expression matches
    O hello                 console output, which comes before the reply
    O~ bus fault .*
    < %Stop:T05...          a notification
    ^C                      the client interrupts
    < T02...

``@name:le`` is the address as it stands in a register or in memory; ``\\x03`` is a byte;
``{path}`` is that of the program's file, and ``{path:hex}`` too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import support
import trio
import trio.testing
from elftools.elf.elffile import ELFFile

from gdbserver.flash.machine import Machine
from gdbserver.flash.programmer import Programmer
from gdbserver.loader.file import LoaderFile
from gdbserver.loader.own import builtin
from gdbserver.program.known import KnownProgram
from gdbserver.rsp.packets import Connection, Packet, frame
from gdbserver.server.control import Control
from gdbserver.server.session import Session
from gdbserver.server.worker import Workers, owning
from gdbserver.sim.board import DEFAULT_PINS
from gdbserver.target.target import Target

BOARD = "sim:stlink-v3"


def board_of(machine: Machine) -> Any:
    return machine.target.link.probe.board


def open_machine(
    uid: str = BOARD, elf: Path | None = None, loaders: Sequence[LoaderFile] = ()
) -> Machine:
    target = Target.open(uid)
    machine = Machine(target, Programmer(target, loaders))
    if elf is not None:
        for address, data in segments(elf):
            board_of(machine).flash.load(address, data)
        target.reset(halt=True)
    return machine


def segments(elf: Path) -> list[tuple[int, bytes]]:
    """What a debugger would load, by load address."""
    with elf.open("rb") as file:
        headers = ELFFile(file).iter_segments(type="PT_LOAD")
        return [(s["p_paddr"], s.data()) for s in headers if s["p_filesz"]]


def symbols(elf: Path) -> dict[str, int]:
    """Addresses by name; a function's without the Thumb bit."""
    with elf.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return {
            s.name: s["st_value"] & ~int(s["st_info"]["type"] == "STT_FUNC")
            for s in table.iter_symbols()
            if s.name
        }


class Client:
    """The other end of the conversation."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._connection = Connection()
        self._connection.stop_acks()  # what we say is not acknowledged here, nor checked there

    async def send(self, payload: bytes) -> None:
        await self.stream.send_all(frame(payload))

    async def send_and_interrupt(self, payload: bytes) -> None:
        """Both are there before what is asked for begins; so it cannot be over sooner."""
        await self.stream.send_all(frame(payload) + b"\x03")

    async def interrupt(self) -> None:
        await self.stream.send_all(b"\x03")

    async def hear(self) -> bytes | None:
        """The next packet, or None when the server has closed the connection."""
        while not isinstance(event := self._connection.next_event(), Packet):
            if event is not None:
                return None
            data = await self.stream.receive_some()
            # A notification is to be heard here like a packet, with its % in front.
            self._connection.receive_data(data.replace(b"%Stop:", b"$%Stop:"))
        return event.payload

    async def ask(self, payload: bytes) -> bytes | None:
        await self.send(payload)
        return await self.hear()


@asynccontextmanager
async def lent(machine: Machine) -> AsyncIterator[Workers]:
    async with owning(lambda: machine) as workers:
        yield workers


@asynccontextmanager
async def connected(
    workers: Workers,
    control: Control | None = None,
    name: str = "here:1",
    *,
    leave_halted: bool = False,
    program: KnownProgram | None = None,
) -> AsyncIterator[Client]:
    """A client of a session of its own.  Afterwards the session has ended."""
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session(
        theirs,
        workers,
        control or Control(),
        name=name,
        leave_halted=leave_halted,
        program=program,
    )
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        async with ours:
            yield Client(ours)


def decode(text: str, names: dict[str, int]) -> bytes:
    """A line of a script, with its symbols and escapes resolved."""

    def address(match: re.Match[str]) -> str:
        value = names[match[1]] + int(match[2] or "0")
        return value.to_bytes(4, "little").hex() if match[3] else f"{value:x}"

    text = re.sub(r"@(\w+?)(\+\d+)?(:le)?(?!\w)", address, text)
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text).encode("latin-1")


async def play(name: str, lines: list[str]) -> None:
    """Speak the client's lines, and compare the server's."""
    settings = dict(
        line.split(" ", 1) for line in lines if re.match("(board|program|loader|told) ", line)
    )
    programs = {"drills": support.drills, "demo": support.demo, "hosted": support.hosted}
    program = programs.get(settings.get("program", ""))
    elf = program() if program else None
    names = symbols(elf) if elf else {}
    path = str(elf)
    lines = [
        line.replace("{path}", path).replace("{path:hex}", path.encode().hex()) for line in lines
    ]
    known = KnownProgram(elf) if elf and "told" in settings else None
    loaders = [builtin(DEFAULT_PINS)] if "loader" in settings else []
    uid = settings.get("board", BOARD)
    machine = await trio.to_thread.run_sync(open_machine, uid, elf, loaders)
    async with lent(machine) as workers, connected(workers, program=known) as client:
        for number, line in enumerate(lines, 1):
            kind, _, text = line.partition(" ")
            if kind in ("", "#", "board", "program", "loader", "told"):
                continue
            if kind == ">":
                await client.send(decode(text, names))
            elif kind == "^C":
                await client.interrupt()
            else:
                reply = await client.hear()
                if kind[0] == "O":
                    assert reply is not None
                    assert reply[:1] == b"O", f"{name}:{number}: {reply!r}"
                    reply = bytes.fromhex(reply[1:].decode()).rstrip(b"\n")
                wanted = decode(text, names)
                same = re.fullmatch(wanted, reply or b"", re.DOTALL) if "~" in kind else None
                assert same or reply == wanted, f"{name}:{number}: {line}\ngot {reply!r:.600}"
