"""One client, from connect to disconnect: hear, do, answer.

A session is one task that pulls.  There is no state variable for "running": while the core is
halted we are in `run`, and while it runs, in `_wait_for_stop`, where listening to the client
*is* the sleep between two looks at the core.

Rule 1: the client's name for a thing (a packet) ends in `_execute`, and the machine's begins.
Rule 2: a reply leaves in one piece, and each packet gets one; console output and keep-alives
go out only where GDB and LLDB expect or ignore them.
Rule 3: whatever ends a session, its breakpoints are gone from the hardware afterwards and the
core goes on, as `detach` would leave it.
"""

from __future__ import annotations

import errno
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import assert_never

import trio

from gdbserver.chip import stm32h743
from gdbserver.chip.cortex_m import Demcr
from gdbserver.chip.memory import FlashRegion, Kind, Span
from gdbserver.errors import (
    BadRequest,
    ClientLeft,
    GdbServerError,
    MemoryFault,
    ProtocolError,
    explain,
)
from gdbserver.flash.plan import Download, plan
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.rsp import commands, replies
from gdbserver.rsp.packets import (
    MAX_PACKET,
    Connection,
    Disconnected,
    Event,
    Interrupt,
    Packet,
)
from gdbserver.server import monitor
from gdbserver.server.control import Control
from gdbserver.server.observer import Observer
from gdbserver.server.reading import MACHINE_NAME, Reader, known_registers, to_wire
from gdbserver.server.worker import Bench
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.registers import CORE_COUNT, EXPEDITED, REGISTERS, RegisterInfo
from gdbserver.target.stop import SIGTRAP, StopReason
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

# GDB gives up on most packets after three silences of 2 s; any notification starts them anew.
_KEEP_ALIVE = 1.0
# How long to listen to the client between two looks at the core: at once in the beginning, so
# that a short run ends without delay, then less often, because looking costs the link.
_FIRST_INTERVAL, _LAST_INTERVAL = 0.0005, 0.01
# How long one look may last.  Behind a debug probe that we have not met there may be a board
# that exists in software and runs only while it is looked at; one that we know to be so is
# looked at nearly without a pause.
_LOOK, _SIMULATED_LOOK = 0.002, 0.02
# How many steps of a range are worth one hop to the worker.
_AT_ONCE = 16

_BY_NUMBER = {register.number: register for register in REGISTERS}
_NUMBER = {register.name: register.number for register in REGISTERS}
_REGISTER = {register.name: register for register in REGISTERS}


def _look(target: Target) -> StopReason | None:
    """Look whether the core has stopped."""
    end = time.monotonic() + (_SIMULATED_LOOK if target.simulated else _LOOK)
    while (stop := target.poll_stop()) is None and time.monotonic() < end:
        pass
    return stop


def _step_some(target: Target, start: int, end: int) -> tuple[StopReason | None, bool]:
    """Step until pc leaves [start, end), or enough for now: why it stopped, whether to go on."""
    stop = None
    for _ in range(_AT_ONCE):
        target.step()
        stop = target.poll_stop()
        if stop is None or stop.kind != "step" or start == end:
            return stop, False
        if not start <= target.read_registers(("pc",))["pc"] < end:
            return stop, False
    return stop, True


def _take_hold(target: Target) -> None:
    """What a debugger finds: a halted core, that stops at faults which nobody handles."""
    target.catch_faults(Demcr.VC_HARDERR)
    if not target.is_halted():
        target.halt()


def _let_go(target: Target) -> None:
    """What `detach` leaves behind: the program running, with its faults its own affair."""
    target.clear_all_breakpoints()
    target.catch_faults(Demcr(0))
    if target.is_halted():
        target.resume()


def _restart(target: Target) -> None:
    """Forget the old run, breakpoints and all, and stand at the first instruction."""
    target.clear_all_breakpoints()
    target.catch_faults(Demcr.VC_HARDERR)
    target.reset(halt=True)


class Session:
    """One client.  It must send a packet to be one: IDEs probe a port and leave."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        bench: Bench,
        control: Control,
        *,
        name: str = "client",
        leave_halted: bool = False,
        erase_all: bool = False,
        init_external: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self._stream = stream
        self._target = bench.target
        self._programmer = bench.programmer
        self._control = control
        self._name = name
        self._leave_halted = leave_halted
        self._erase_all = erase_all
        self._observer = observer or Observer()
        self._reader = Reader(bench, control)
        self._desk = monitor.Desk(bench, control, self._say, self._look_for_client, init_external)
        self._connection = Connection()
        self._sending = trio.Lock()
        self._features: frozenset[str] = frozenset()
        self._error_strings = False
        self._interrupted = False
        self._unheard: list[Event] = []
        self._client_gone = False
        self._download = Download()
        self._software_breakpoints: set[int] = set()

    async def run(self) -> bool:
        """Serve the client until it leaves; return whether it was one."""
        try:
            event = await self._next_event()
            while isinstance(event, Interrupt):
                event = await self._next_event()
            if isinstance(event, Disconnected):
                return False
            async with self._admitted():
                while not isinstance(event, Disconnected):
                    await self._do(event)
                    event = await self._next_event()
        except ProtocolError as error:
            log.error("%s: %s", self._name, error)
        return True

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        await self._control.enter(self._name)
        role = "" if self._control.holder == self._name else ", to read only"
        log.info("Debugger connected (%s%s)", self._name, role)
        self._observer.connected(self._name)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                if self._control.holder == self._name:
                    await self._leave()
                self._control.leave(self._name)
            log.info("Debugger connection lost. (%s)", self._name)
            self._observer.disconnected(self._name)

    async def _leave(self) -> None:
        try:
            if self._leave_halted:
                await self._target.call(Target.clear_all_breakpoints)
            else:
                await self._target.call(_let_go)
        except GdbServerError as error:
            log.error("the core could not be released: %s", "; ".join(explain(error)))

    # --- Hearing and answering -------------------------------------------------------------------

    async def _do(self, event: Packet | Interrupt) -> None:
        if isinstance(event, Interrupt):
            # GDB manual, "Interrupts": one that finds the program stopped is for its next run.
            self._interrupted = True
            return
        log.debug("%s -> %.200r", self._name, event.payload)
        reply = await self._answer(commands.parse(event.payload))
        if reply is not None:
            log.debug("%s <- %.200r", self._name, reply)
            self._connection.send(reply)
        await self._flush()

    async def _answer(self, command: commands.Command) -> bytes | None:
        # Waiting for a stop listens by itself, and a client that waits for one is patient.
        if isinstance(command, commands.Continue | commands.Step):
            return await self._try(command)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._attend)
            reply = await self._try(command)
            nursery.cancel_scope.cancel()
        return reply

    async def _try(self, command: commands.Command) -> bytes | None:
        try:
            return await self._execute(command)
        except GdbServerError as error:
            return await self._refuse(command, error)

    async def _refuse(self, command: commands.Command, error: GdbServerError) -> bytes:
        action = type(command).__name__
        story = "; ".join(explain(error))
        # GDB looks at many a place where nothing is, to find out how far a stack goes.
        prying = isinstance(command, commands.ReadMemory) and isinstance(error, MemoryFault)
        log.log(logging.DEBUG if prying else logging.ERROR, "%s: %s", action, story)
        self._control.remember(action, error)
        if isinstance(command, commands.FlashErase | commands.FlashWrite | commands.FlashDone):
            self._download = Download()  # GDB sends no vFlashDone after an error
        if isinstance(command, commands.Monitor):
            for line in explain(error):
                await self._say(line + "\n")
        return self._error_reply(error.code, str(error))

    def _error_reply(self, code: int, text: str) -> bytes:
        """An error in the form that this client can show."""
        if self._error_strings:
            return replies.lldb_error(code, text)
        return replies.error(code, text if "error-message+" in self._features else None)

    async def _attend(self) -> None:
        """While a command is carried out: say that we live, and notice if the client leaves."""
        for beat in itertools.count():
            with trio.move_on_after(_KEEP_ALIVE):
                while not self._client_gone:
                    await self._receive()
                return
            self._connection.notify(b"Busy:%x" % beat)
            # Cut off in the middle it would garble what follows.
            with trio.move_on_after(_KEEP_ALIVE, shield=True):
                await self._flush()

    def _look_for_client(self) -> None:
        if self._client_gone:
            raise ClientLeft

    async def _say(self, text: str) -> None:
        """Print on the client's console: only while the core runs or a qRcmd does."""
        self._connection.send(replies.console(text))
        await self._flush()

    async def _next_event(self) -> Event:
        if self._unheard:
            return self._unheard.pop(0)
        while (event := self._connection.next_event()) is None:
            await self._flush()
            await self._receive()
        return event

    async def _receive(self) -> None:
        """The one place that waits for the client; cancelling it loses nothing."""
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:
            data = b""  # a client that vanished has disconnected
        if not data:
            self._note_departure()
        self._connection.receive_data(data)

    def _note_departure(self) -> None:
        self._client_gone = True
        self._control.depart(self._name)

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._connection.data_to_send():
                try:
                    await self._stream.send_all(data)
                except trio.BrokenResourceError:
                    self._note_departure()
                    self._connection.receive_data(b"")

    # --- Commands --------------------------------------------------------------------------------

    async def _execute(self, command: commands.Command) -> bytes | None:
        call = self._target.call
        match command:
            # Hand-shake.
            case commands.Supported(features):
                self._features = features
                return self._supported()
            case commands.StartNoAckMode():
                self._connection.send(replies.OK)
                self._connection.stop_acks()
                return None
            case commands.EnableErrorStrings():
                self._error_strings = True
                return replies.OK
            case commands.ExtendedMode() | commands.SelectThread() | commands.Symbols():
                return replies.OK
            case commands.ThreadAlive(exists):
                return replies.OK if exists else replies.error(errno.ESRCH)
            case commands.CurrentThread():
                return b"QC" + replies.THREAD
            case commands.FirstThreads():
                return b"m" + replies.THREAD
            case commands.MoreThreads():
                return b"l"
            case commands.ThreadExtraInfo():
                return replies.data(MACHINE_NAME.encode())
            case commands.Attached():
                return b"1"  # at its end GDB detaches, and the program lives on
            case commands.Offsets():
                return b"Text=0;Data=0;Bss=0"
            case commands.Transfer(name, annex, offset, length):
                return await self._reader.transfer(name, annex, offset, length)
            case commands.MemoryRegionInfo(address):
                return await self._reader.region_info(address)
            case commands.WatchpointSupport():
                return b"num:4;"

            # Memory and registers.
            case commands.ReadRegisters():
                return await self._reader.registers(REGISTERS[:CORE_COUNT])
            case commands.ReadRegister(number):
                return await self._reader.registers((self._register(number),))
            case commands.WriteRegisters(data):
                self._check_control()
                await call(Target.write_registers, self._from_wire(data))
                return replies.OK
            case commands.WriteRegister(number, data):
                self._check_control()
                register = self._register(number)
                if len(data) * 8 != register.bits:
                    raise BadRequest(f"{register.name} has {register.bits} bits")
                await self._write_register(register.name, int.from_bytes(data, "little"))
                return replies.OK
            case commands.ReadMemory(address, length, binary):
                data = await self._reader.memory(address, length)
                return b"b" + data if binary else replies.data(data)
            case commands.WriteMemory(address, data):
                self._check_control()
                if data:
                    await call(Target.write_memory, address, data)
                return replies.OK
            case commands.Checksum(address, length):
                return await self._reader.checksum(Span.of(address, length))
            case commands.SearchMemory(address, length, pattern):
                return replies.found(await self._reader.search(Span.of(address, length), pattern))

            # Flash.
            case commands.FlashErase(address, length):
                self._check_control()
                await self._stage_erase(Span.of(address, length))
                return replies.OK
            case commands.FlashWrite(address, data):
                self._check_control()
                self._download.write(address, data)
                return replies.OK
            case commands.FlashDone():
                self._check_control()
                await self._carry_out()
                return replies.OK

            # Running.
            case commands.ResumeActions():
                return b"vCont;c;C;s;S;t;r"
            case commands.WhyStopped():
                return await self._why_stopped()
            case commands.Continue(address):
                self._check_control()
                await self._set_pc(address)
                await call(Target.resume)
                return await self._wait_for_stop()
            case commands.Step(address, start, end):
                self._check_control()
                await self._set_pc(address)
                return await self._step(start, end)
            case commands.Stop():
                self._check_control()
                await call(Target.halt)
                return replies.OK
            case commands.SetPoint(kind, address, length):
                self._check_control()
                await call(Target.set_breakpoint, BreakKind(kind), address, length)
                if kind == BreakKind.SOFTWARE:
                    self._software_breakpoints.add(address)
                return replies.OK
            case commands.ClearPoint(kind, address, length):
                self._check_control()
                await call(Target.clear_breakpoint, BreakKind(kind), address, length)
                if kind == BreakKind.SOFTWARE:
                    self._software_breakpoints.discard(address)
                return replies.OK

            # Endings.
            case commands.Detach():
                # Only who controls the core lets it go; to a reader it means "good-bye".
                if self._control.holder == self._name:
                    await call(_let_go)
                return replies.OK
            case commands.Kill(by_id):
                # There is no process to end: the program is back at its first instruction and
                # stays there for as long as this client does.
                self._check_control()
                await call(_restart)
                log.info("killed: the core stands at reset")
                # GDB sends `k` when it hangs up anyway; LLDB waits for a word.
                return replies.OK if by_id else replies.KILLED
            case commands.Restart(answered):
                self._check_control()
                await call(_restart)
                log.info("restarted: the core stands at reset")
                return await self._why_stopped() if answered else None
            case commands.Attach():
                self._check_control()
                return await self._why_stopped()
            case commands.Monitor(line):
                return await self._monitor(line)

            case commands.Malformed(_, reason):
                raise BadRequest(reason)
            case commands.Unsupported():
                return replies.NOTHING
            case _:
                assert_never(command)  # so a command that nobody handles does not type-check

    def _check_control(self) -> None:
        self._control.check(self._name)

    def _supported(self) -> bytes:
        """What we can do; an answer to an offer is given only where there was one."""
        ours = [
            f"PacketSize={MAX_PACKET:x}",
            "QStartNoAckMode+",
            "vContSupported+",
            "qXfer:features:read+",
            "qXfer:memory-map:read+",
            "qXfer:threads:read+",
            "binary-upload+",
        ]
        theirs = ("swbreak+", "hwbreak+", "error-message+")
        return ";".join(ours + [f for f in theirs if f in self._features]).encode()

    # --- Registers -------------------------------------------------------------------------------

    def _register(self, number: int) -> RegisterInfo:
        if number not in _BY_NUMBER:
            raise BadRequest(f"there is no register {number}")
        return _BY_NUMBER[number]

    def _from_wire(self, data: bytes) -> dict[str, int]:
        """The registers of a G packet, which may end early."""
        values, at = {}, 0
        for register in REGISTERS:
            size = register.bits // 8
            if at + size > len(data):
                break
            values[register.name] = int.from_bytes(data[at : at + size], "little")
            at += size
        if "pc" in values:
            values["pc"] &= ~1
        return values

    async def _write_register(self, name: str, value: int) -> None:
        if name == "pc":
            value &= ~1  # LLDB keeps the Thumb bit of an entry point
        await self._target.call(Target.write_registers, {name: value})

    async def _set_pc(self, address: int | None) -> None:
        if address is not None:
            await self._write_register("pc", address)

    # --- Flash -----------------------------------------------------------------------------------

    async def _stage_erase(self, span: Span) -> None:
        """Note what shall be erased.  Nothing is, before vFlashDone.

        Nobody erases a place twice in one download; so that is a new one, and the client gave
        up the old (Ctrl-C during `load`).
        """
        if any(len(span & erase) for erase in self._download.erases):
            log.info("a download that was not finished is dropped")
            self._download = Download()
        regions = await self._programmer.call(Programmer.regions)
        place = stm32h743.memory_map(regions).region_at(span.start)
        if place is not None and place.kind is Kind.FLASH and place.span == span:
            # "flash-erase" goes through the map, and comes to the flash that nobody can program.
            log.info("nothing to erase at %s: there is no loader for it", span)
            return
        attempt = Download()
        attempt.erase(span)
        plan(attempt, regions)  # refuses what no one has
        self._download.erase(span)

    async def _carry_out(self) -> None:
        download, self._download = self._download, Download()
        done: Counter[tuple[str, str]] = Counter()

        async def on_step(step: Step) -> None:
            self._look_for_client()
            log.debug("%s %s", step.action, step.span)
            self._observer.download_step(step)
            done[step.region.name, step.action] += len(step.span)

        size = sum(len(span) for span, _ in download.writes)
        log.info("download: %d bytes", size)
        regions = await self._programmer.call(Programmer.regions)
        if self._erase_all:
            download.erase_devices(regions)
        with self._control.changing_flash("a download"), self._observed(download, regions):
            await self._programmer.run_steps(Programmer.carry_out, on_step, download)
        for region, parts in itertools.groupby(sorted(done.items()), lambda item: item[0][0]):
            log.info("%s: %s bytes", region, ", ".join(f"{a} {n}" for (_, a), n in parts))

    @contextmanager
    def _observed(self, download: Download, regions: Sequence[FlashRegion]) -> Iterator[None]:
        self._observer.download_begins(download, regions)
        try:
            yield
        except BaseException as error:
            ours = error if isinstance(error, GdbServerError) else ClientLeft()
            self._observer.download_ends(ours)
            raise
        self._observer.download_ends(None)

    # --- Running ---------------------------------------------------------------------------------

    async def _why_stopped(self) -> bytes:
        """Answer `?`: a client that will control the core finds it halted."""
        if self._control.holder not in (None, self._name):
            return await self._stopped(None)
        self._check_control()
        await self._target.call(_take_hold)
        return await self._stopped(await self._target.call(Target.poll_stop))

    async def _stopped(self, stop: StopReason | None) -> bytes:
        values = await self._target.call(known_registers, EXPEDITED)
        registers = [(_NUMBER[n], to_wire(_REGISTER[n], value)) for n, value in values.items()]
        if stop is None:
            return replies.stopped(SIGTRAP, registers)
        reason: str | None = stop.kind
        if reason in replies.BREAK_KEYS and f"{reason}+" not in self._features:
            reason = None
        # GDB takes a software breakpoint that it has not set for one that it has just removed,
        # and resumes: for ever, where it is a BKPT of the program's own.
        if reason == "swbreak" and values["pc"] not in self._software_breakpoints:
            reason = None
        return replies.stopped(stop.signal, registers, reason, stop.address)

    async def _wait_for_stop(self) -> bytes | None:
        """Return the stop reply once the core has stopped, or None if the client left."""
        if self._interrupted:
            self._interrupted = False
            await self._target.call(Target.halt)
        simulated = await self._target.call(lambda target: target.simulated)
        interval, longest = _FIRST_INTERVAL, _FIRST_INTERVAL if simulated else _LAST_INTERVAL
        while (stop := await self._target.call(_look)) is None:
            match await self._overhear(interval):
                case Interrupt():
                    await self._target.call(Target.halt)
                case Disconnected():
                    return None
            interval = min(interval * 1.1, longest)
        return await self._tell_stop(stop)

    async def _tell_stop(self, stop: StopReason) -> bytes:
        if stop.kind in ("fault", "lockup"):
            log.info("stopped: %s", stop.detail)
            await self._say(stop.detail + "\n")
        else:
            log.debug("stopped: %s", stop.detail)
        return await self._stopped(stop)

    async def _step(self, start: int, end: int) -> bytes | None:
        while True:
            stop, again = await self._target.call(_step_some, start, end)
            if stop is None:
                return await self._wait_for_stop()
            if not again:
                return await self._tell_stop(stop)
            match await self._overhear(_FIRST_INTERVAL):
                case Interrupt():
                    await self._target.call(Target.halt)
                    return await self._wait_for_stop()
                case Disconnected():
                    return None

    async def _overhear(self, patience: float) -> Event | None:
        """Listen for a while to a client that waits for a stop.

        Kill and detach end the waiting; they are heard again when it is over.  All else that
        is a packet has to wait for the stop in this protocol, so nobody sends it.
        """
        with trio.move_on_after(patience):
            await self._receive()
        while (event := self._connection.next_event()) is not None:
            if not isinstance(event, Packet):
                return event
            match commands.parse(event.payload):
                case commands.Stop():
                    self._connection.send(replies.OK)
                    await self._flush()
                    return Interrupt()
                case commands.Kill() | commands.Detach():
                    self._unheard.append(event)
                    return Disconnected()
                case _:
                    log.warning("%s: ignored %.80r: the core runs", self._name, event.payload)
        await self._flush()
        return None

    # --- monitor ---------------------------------------------------------------------------------

    async def _monitor(self, line: str) -> bytes:
        command, arguments = monitor.find(line)
        if not command.reads_only:
            self._check_control()
            log.info("monitor %s", line)
        await command.handler(self._desk, arguments)
        return replies.OK
