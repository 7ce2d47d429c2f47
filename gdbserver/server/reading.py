"""What any client may ask, in control or not: documents, registers, memory.

Nothing here halts, resumes or changes anything, so it may be asked while the core runs for
somebody else.  Then memory can be read, and of the registers little more than pc.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress

from gdbserver.chip import stm32h743
from gdbserver.chip.memory import Kind, MemoryMap, Span
from gdbserver.errors import BadRequest, FlashBusy, MemoryFault, TargetError
from gdbserver.flash.programmer import Programmer
from gdbserver.program.known import KnownProgram
from gdbserver.rsp import commands, documents, replies
from gdbserver.rsp.packets import MAX_PACKET
from gdbserver.server.control import Control
from gdbserver.server.threads import Threads
from gdbserver.server.worker import Workers
from gdbserver.target.registers import EXPEDITED, REGISTERS, RegisterInfo
from gdbserver.target.stop import StopReason
from gdbserver.target.target import Target

# One read of memory; larger ones are cut up, so that other clients get their turn.
_CHUNK = 0x4000
# An `m` reply is two digits a byte; a binary one may double in size by escapes.
_LONGEST_READ = (MAX_PACKET - 8) // 2


_TOLD = (*EXPEDITED, "r11")  # in which LLDB looks for the frame
_REGISTER = {register.name: register for register in REGISTERS}


def to_wire(register: RegisterInfo, value: int) -> bytes:
    return value.to_bytes(register.bits // 8, "little")


def _is_process(annex: str) -> bool:
    """Whose program is asked for; whoever it is, there is one."""
    return re.fullmatch("[0-9a-fA-F]*", annex) is not None


class Reader:
    """Answers one client's questions about the machine."""

    def __init__(
        self,
        workers: Workers,
        control: Control,
        threads: Threads,
        program: KnownProgram | None = None,
    ) -> None:
        self._target = workers.target
        self._programmer = workers.programmer
        self._control = control
        self._threads = threads
        self._program = program
        self._documents: dict[tuple[str, str], bytes] = {}

    async def transfer(self, name: str, annex: str, offset: int, length: int) -> bytes:
        """A piece of a document, which is made anew when its beginning is asked for."""
        key = name, annex
        if offset == 0 or key not in self._documents:
            match key:
                case "features", "target.xml":
                    self._documents[key] = documents.target_description(REGISTERS)
                case "memory-map", "":
                    self._documents[key] = documents.memory_map(await self._memory_map())
                case "threads", "":
                    self._documents[key] = documents.threads(await self._threads.rows())
                case "exec-file", process if self._program is None or _is_process(process):
                    if self._program is None:
                        return replies.NOTHING
                    self._documents[key] = os.fsencode(self._program.path)
                case "features" | "memory-map" | "threads" | "exec-file", _:
                    raise BadRequest(f"there is no {name} document {annex!r}")
                case _:
                    return replies.NOTHING
        return replies.piece(self._documents[key], offset, min(length, _LONGEST_READ))

    async def _memory_map(self) -> MemoryMap:
        return stm32h743.memory_map(await self._programmer.call(Programmer.regions))

    async def region_info(self, address: int) -> bytes:
        everything = await self._memory_map()
        if flash := everything.flash_at(address):
            return replies.pairs(
                start=f"{flash.span.start:x}",
                size=f"{len(flash.span):x}",
                permissions="rx",
                name=flash.name.encode().hex(),
            )
        if region := everything.region_at(address):
            return replies.pairs(
                start=f"{region.span.start:x}",
                size=f"{len(region.span):x}",
                permissions="rwx" if region.kind is Kind.RAM else "rx",
                name=region.name.encode().hex(),
            )
        spans = [r.span for r in everything.regions] + [f.span for f in everything.flash]
        start = max((s.end for s in spans if s.end <= address), default=0)
        end = min((s.start for s in spans if s.start > address), default=commands.ADDRESS_SPACE)
        return replies.pairs(start=f"{start:x}", size=f"{end - start:x}")

    async def registers(self, registers: Sequence[RegisterInfo]) -> bytes:
        """Values, and x's for what cannot be known now."""
        values = await self._threads.registers([r.name for r in registers])
        return b"".join(
            replies.data(to_wire(r, values[r.name])) if r.name in values else b"xx" * (r.bits // 8)
            for r in registers
        )

    async def threads_info(self, stop: StopReason | None) -> bytes:
        """All threads as LLDB wants to know them; the stop is of that on the core.

        Where there is but one a stop reply tells all of it, and asking would be one packet more at
        each stop: nothing, and LLDB does not ask again.
        """
        if self._threads.alone:
            return replies.NOTHING
        current = await self._threads.current()
        told = []
        for row in await self._threads.rows():
            about: dict[str, object] = {"tid": row.number, "name": row.name}
            with suppress(TargetError):  # its stack has been overwritten
                values = await self._threads.registers(_TOLD, row.number)
                about["registers"] = {
                    str(_REGISTER[name].number): to_wire(_REGISTER[name], value).hex()
                    for name, value in values.items()
                }
            if stop is not None and row.number == current:
                about["signal"] = stop.signal
                if stop.kind in replies.WATCH_KEYS:
                    about |= {"reason": "watchpoint", "description": str(stop.address)}
            told.append(about)
        return replies.threads_info(told)

    async def memory(self, address: int, length: int) -> bytes:
        """What can be read from `address` on: less than `length` where the bus ends it."""
        length = min(length, _LONGEST_READ, commands.ADDRESS_SPACE - address)
        await self._check_readable(Span.of(address, length))
        data = bytearray()
        while len(data) < length:
            at = address + len(data)
            try:
                size = min(_CHUNK, length - len(data))
                data += await self._target.ask(Target.view_memory, at, size)
            except MemoryFault as fault:
                data += fault.readable
                if not data:
                    raise
                break
        return bytes(data)

    async def _check_readable(self, span: Span) -> None:
        if self._control.flash_job is not None:
            regions = await self._programmer.call(Programmer.regions)
            if any(len(span & region.span) for region in regions):
                raise FlashBusy(self._control.flash_job)

    async def checksum(self, span: Span) -> bytes:
        """compare-sections: the whole range or an error."""
        await self._check_readable(span)
        crc = 0xFFFFFFFF
        for at in range(span.start, span.end, _CHUNK):
            data = await self._target.call(Target.read_memory, at, min(_CHUNK, span.end - at))
            crc = replies.crc32(data, crc)
        return replies.checksum(crc)

    async def search(self, span: Span, pattern: bytes) -> int | None:
        await self._check_readable(span)
        window, start = b"", span.start
        for at in range(span.start, span.end, _CHUNK):
            window += await self._target.call(Target.read_memory, at, min(_CHUNK, span.end - at))
            if (found := window.find(pattern)) >= 0:
                return start + found
            keep = len(pattern) - 1
            start, window = start + max(0, len(window) - keep), window[-keep:] if keep else b""
        return None
