"""One client, from connect to disconnect: hear, do, answer.

A session is one task that pulls.  There is no state variable for "running": while the core is
halted we are in `run`, and while it runs, in `Running`, where listening to the client *is* the
sleep between two looks at the core.

Rule 1: the client's name for a thing (a packet) ends in `_execute`, and the machine's begins.
Rule 2: each packet gets one reply, or none.
Rule 3: whatever ends a session, its breakpoints are gone from the hardware afterwards and the
core goes on, as `detach` would leave it: unless a download has left half a program in flash.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Final, assert_never

import trio

from gdbserver.chip.memory import Span
from gdbserver.errors import (
    BadRequest,
    GdbServerError,
    MemoryFault,
    NoProgram,
    ProbeError,
    ProtocolError,
    StillBusy,
    TargetError,
    ThreadNotOnCore,
    explain,
)
from gdbserver.program.known import KnownProgram
from gdbserver.rsp import commands, replies
from gdbserver.rsp.packets import MAX_PACKET, Disconnected, Event, Interrupt, Packet
from gdbserver.server import activity, monitor
from gdbserver.server.client import Client
from gdbserver.server.control import Control
from gdbserver.server.downloading import Downloading
from gdbserver.server.files import Files
from gdbserver.server.observer import Observer
from gdbserver.server.reading import Reader
from gdbserver.server.running import Running, detach, restart
from gdbserver.server.semihosting import SemihostingHost, SemihostingService
from gdbserver.server.threads import Threads
from gdbserver.server.worker import Workers
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.registers import CORE_COUNT, REGISTERS, RegisterInfo
from gdbserver.target.scripts import Script
from gdbserver.target.stop import SIGKILL
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

_BY_NUMBER = {register.number: register for register in REGISTERS}

# Waiting for a stop listens by itself, and a client that waits for one is patient; in non-stop
# mode the answer is there at once.
_LISTENING = (commands.Resume, commands.Continue, commands.Step)
_LONG = (commands.Monitor, commands.FlashDone)
_LOOK_AGAIN: Final = 0.01
"""Seconds after a look at a core that runs when the next one comes before anything else."""


class Session:
    """One client.  It must send a packet to be one: IDEs probe a port and leave."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        workers: Workers,
        control: Control,
        *,
        name: str = "client",
        leave_halted: bool = False,
        erase_all: bool = False,
        init_external: bool = False,
        observer: Observer | None = None,
        semihosting: SemihostingHost | None = None,
        program: KnownProgram | None = None,
    ) -> None:
        self._target = workers.target
        self._programmer = workers.programmer
        self._control = control
        self._name = name
        self._leave_halted = leave_halted
        self._observer = observer or Observer()
        self._client = client = Client(stream, name, control)
        self._program = program
        self._unseen: str | None = None
        """Why the core could not be seen when GDB asked why it is stopped."""
        self._warned = False
        """It was said that the core stays halted; `detach` is followed by a hanging up."""
        self._threads = Threads(workers, program)
        self._reader = Reader(workers, control, self._threads, program)
        self._files = Files(program)
        self._running = Running(workers, client, control, self._threads)
        self._look_due = 0.0
        semihosting = semihosting or SemihostingHost()
        service = SemihostingService(semihosting, self._target, client, self._running, self._do)
        self._running.judges.append(service.judge)
        self._running.is_due = service.is_due
        self._downloading = Downloading(
            workers, client, control, self._observer, erase_all=erase_all
        )
        self._monitor_context = monitor.Context(
            workers, control, client.say, client.look_for_interrupt, semihosting, init_external
        )

    async def run(self) -> bool:
        """Serve the client until it leaves; return whether it was one."""
        event = await self._next_event()
        while isinstance(event, Interrupt):
            event = await self._next_event()
        if isinstance(event, Disconnected):
            return False
        async with self._admitted(), trio.open_nursery() as nursery:
            nursery.start_soon(self._client.attend)
            while not isinstance(event, Disconnected):
                await self._do(event)
                event = await self._next_event()
            nursery.cancel_scope.cancel()
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
                try:
                    if self._control.holder == self._name:
                        await self._leave()
                finally:  # or whoever comes next would wait for ever
                    self._control.leave(self._name)
            log.info("Debugger connection lost. (%s)", self._name)
            self._observer.disconnected(self._name)

    async def _leave(self) -> None:
        try:
            if self._leave_halted:
                await self._target.call(Target.clear_all_breakpoints)
            else:
                await self._detach()
        except GdbServerError as error:
            log.error("the core could not be released: %s", "; ".join(explain(error)))

    # --- Hearing and answering -------------------------------------------------------------------

    async def _next_event(self) -> Event:
        """Listen; and while the core runs in non-stop mode, look at it now and then.

        Also where the client always has something more to ask: it waits for the stop, too.
        A client that does not speak the protocol is shown the door.
        """
        try:
            while (patience := self._running.patience()) is not None:
                overdue = trio.current_time() >= self._look_due
                event = None if overdue else await self._client.listen(patience)
                if event is not None:
                    return event
                await self._running.look()
                self._look_due = trio.current_time() + _LOOK_AGAIN
            return await self._client.next_event()
        except ProtocolError as error:
            log.error("%s: %s", self._name, error)
            return Disconnected()

    async def _do(self, event: Packet | Interrupt) -> None:
        if isinstance(event, Interrupt):
            await self._running.interrupt()
            return
        log.debug("%s -> %.200r", self._name, event.payload)
        reply = await self._answer(commands.parse(event.payload))
        if reply is not None:
            log.debug("%s <- %.200r", self._name, reply)
            await self._client.send(reply)

    async def _answer(self, command: commands.Command) -> bytes | None:
        if isinstance(command, _LISTENING):
            self._look_due = 0.0  # a step is told of before what comes next
            return await self._try(command)
        client = self._client
        wait = client.heard_while if isinstance(command, _LONG) else client.while_waiting
        return await wait(self._try(command))

    async def _try(self, command: commands.Command) -> bytes | None:
        try:
            return await self._execute(command)
        except GdbServerError as error:
            return await self._refuse(command, error)

    async def _refuse(self, command: commands.Command, error: GdbServerError) -> bytes | None:
        story = self._note(command, error)
        if (
            isinstance(command, _LISTENING)
            and isinstance(error, ProbeError | TargetError)
            and not self._running.non_stop
        ):
            return await self._running.find_out(story)
        if isinstance(command, commands.FlashErase | commands.FlashWrite | commands.FlashDone):
            self._downloading.forget()
        if isinstance(command, commands.Monitor):
            for line in explain(error):
                await self._client.say(line + "\n")
        if self._client.is_gdb and isinstance(command, commands.WhyStopped):
            # An error is no answer to GDB: it would wait on, for ever.  Told of a stop it asks for
            # the registers; what it hears there instead it shows, and hangs up.
            self._unseen = story
            return replies.SOMEWHERE
        if self._client.is_gdb and isinstance(command, commands.ReadRegisters):
            return replies.error(error.code, story)  # GDB shows it, of whatever age it is
        return self._client.error(error.code, str(error))

    def _note(self, command: commands.Command, error: GdbServerError) -> str:
        """Keep what has failed, for whoever asks; the whole of it."""
        action = activity.of(command)
        story = "; ".join(explain(error))
        # GDB looks at many a place where nothing is, to find out how far a stack goes.
        prying = isinstance(command, commands.ReadMemory) and isinstance(error, MemoryFault)
        log.log(logging.DEBUG if prying else logging.ERROR, "%s: %s", action, story)
        self._control.remember(action, error)
        return story

    # --- Commands --------------------------------------------------------------------------------

    async def _execute(self, command: commands.Command) -> bytes | None:
        call = self._target.call
        match command:
            # Memory and registers, which are asked for most: cases are tried from the top.
            case commands.ReadRegisters():
                if self._unseen is not None:
                    return replies.error(errno.EIO, self._unseen)
                return await self._reader.registers(REGISTERS[:CORE_COUNT])
            case commands.ReadRegister(number):
                return await self._reader.registers((self._register(number),))
            case commands.WriteRegisters(data):
                self._check_control()
                await self._threads.check_on_core()
                await call(Target.write_registers, self._from_wire(data))
                return replies.OK
            case commands.WriteRegister(number, data):
                self._check_control()
                await self._threads.check_on_core()
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
                    if self._running.non_stop:
                        await call(Target.sync_caches)  # it may run, and this may be its code
                return replies.OK
            case commands.Checksum(address, length):
                return await self._reader.checksum(Span.of(address, length))
            case commands.SearchMemory(address, length, pattern):
                return replies.found(await self._reader.search(Span.of(address, length), pattern))

            # Hand-shake.
            case commands.Supported(features):
                self._client.features = features
                with suppress(StillBusy):  # which is told where GDB can show it
                    await self._threads.begin()
                return self._supported()
            case commands.StartNoAckMode():
                await self._client.stop_acks()
                return None
            case commands.NonStop(on):
                self._running.non_stop = self._threads.only_one = on
                return replies.OK
            case commands.PassSignals(signals):
                self._running.passed = signals
                return replies.OK
            case commands.EnableErrorStrings():
                self._client.error_strings = True
                return replies.OK
            case commands.ExtendedMode():
                self._client.extended = True
                return replies.OK
            case commands.Symbols():
                return await self._threads.look_up()
            case commands.SymbolValue(value, name):
                return await self._threads.look_up(name, value)

            # Threads.
            case commands.SelectThread(thread, resuming):
                if not resuming:
                    self._threads.select(thread)
                return replies.OK
            case commands.ThreadAlive(thread):
                alive = await self._threads.is_alive(thread)
                return replies.OK if alive else replies.error(errno.ESRCH)
            case commands.CurrentThread():
                return b"QC%x" % await self._threads.current()
            case commands.FirstThreads():
                return replies.threads(row.number for row in await self._threads.rows())
            case commands.MoreThreads():
                return b"l"
            case commands.ThreadExtraInfo(thread):
                for row in await self._threads.rows():
                    if row.number == thread:
                        return replies.data(f"{row.name}: {row.state}".encode())
                return replies.error(errno.ESRCH)
            case commands.Attached():
                return b"1"  # at its end GDB detaches, and the program lives on
            case commands.Offsets():
                return b"Text=0;Data=0;Bss=0"
            case commands.Transfer(name, annex, offset, length):
                return await self._reader.transfer(name, annex, offset, length)
            case (
                commands.ChooseFileSystem()
                | commands.OpenFile()
                | commands.ReadFile()
                | commands.FileStatus()
                | commands.CloseFile()
            ):
                return await self._files.answer(command)
            case commands.MemoryRegionInfo(address):
                return await self._reader.region_info(address)
            case commands.HostInfo():
                return replies.host_info()
            case commands.ProcessInfo():
                return replies.process_info()
            case commands.ThreadsInfo():
                return await self._reader.threads_info(await call(Target.poll_stop))
            case commands.ThreadSuffix():
                return replies.OK
            case commands.ListThreads():
                self._client.wants_threads = True
                return replies.OK
            case commands.ThreadStopInfo(thread):
                return await self._running.thread_stop(thread)
            case commands.OnThread(thread, inner):
                self._threads.select(thread)
                return await self._execute(inner)
            case commands.WatchpointSupport():
                return b"num:4;"

            # Flash.
            case commands.FlashErase(address, length):
                self._check_control()
                self._check_thread()
                await self._downloading.erase(Span.of(address, length))
                return replies.OK
            case commands.FlashWrite(address, data):
                self._check_control()
                self._downloading.write(address, data)
                return replies.OK
            case commands.FlashDone():
                self._check_control()
                await self._downloading.carry_out()
                return replies.OK

            # Running.
            case commands.ResumeActions():
                return b"vCont;c;C;s;S;t;r"
            case commands.WhyStopped():
                self._unseen = None
                return await self._why_stopped()
            case commands.Resume(actions):
                self._check_control()
                try:
                    action = await self._threads.chosen(actions)
                except ThreadNotOnCore as error:
                    return await self._running.stay(error)
                return await self._execute(action)
            case commands.Continue(address):
                self._check_control()
                self._threads.select_the_one_that_stops()
                return await self._running.resume(address)
            case commands.Step(address, start, end):
                self._check_control()
                self._threads.select_the_one_that_stops()
                return await self._running.step(address, start, end)
            case commands.Stop(quietly):
                self._check_control()
                self._look_due = 0.0  # the stop is what the client waits for
                return await self._running.stop(quietly=quietly)
            case commands.NextStop():
                return replies.OK  # there is one core, so there are no more
            case commands.SetPoint(kind, address, length, conditions, actions):
                self._check_control()
                script = Script(conditions, actions)
                await self._running.set_point(BreakKind(kind), address, length, script)
                return replies.OK
            case commands.ClearPoint(kind, address, length):
                self._check_control()
                await self._running.clear_point(BreakKind(kind), address, length)
                return replies.OK

            # Endings.
            case commands.Detach():
                # Only who controls the core lets it go; to a reader it means "good-bye".
                if self._control.holder == self._name:
                    self._running.forget()
                    await self._part_with(command, self._detach())
                self._threads.told = False
                return replies.OK
            case commands.Kill(by_id):
                # There is no process to end: the program is back at its first instruction and
                # stays there for as long as this client does.
                self._check_control()
                self._running.forget()
                self._threads.told = False
                if await self._part_with(command, self._target.call(restart)):
                    log.info("killed: the core stands at reset")
                # GDB sends `k` when it hangs up anyway; LLDB waits for a word.
                return replies.OK if by_id else replies.killed(SIGKILL)
            case commands.Restart(answered):
                self._check_control()
                self._running.forget()
                await call(restart)
                log.info("restarted: the core stands at reset")
                return await self._why_stopped() if answered else None
            case commands.Attach():
                self._check_control()
                self._threads.select_the_one_that_stops()
                return await self._running.attach()
            case commands.Monitor(line):
                self._look_due = 0.0  # it may have halted the core
                return await self._monitor(line)

            case commands.FileReply():
                return replies.NOTHING  # nothing was asked
            case commands.Malformed(_, reason):
                raise BadRequest(reason)
            case commands.Unsupported():
                return replies.NOTHING
            case _:
                assert_never(command)  # so a command that nobody handles does not type-check

    async def _detach(self) -> None:
        """Leave the core running, if there is a program for it to run."""
        unfinished = await self._programmer.call(lambda programmer: programmer.unfinished)
        await self._target.call(detach, resume=not unfinished)
        if unfinished and not self._warned:
            log.warning(
                "the last download was not finished, so flash holds no whole program: the core "
                "stays halted; load again"
            )
        self._warned = unfinished

    async def _part_with(self, command: commands.Command, farewell: Awaitable[None]) -> bool:
        """Leave the core as `command` wants it; False where the chip is out of reach.

        That is no error for the client: GDB would hold on to its program, and come no further.
        """
        try:
            await farewell
        except ProbeError as error:
            self._note(command, error)
            return False
        return True

    def _check_control(self) -> None:
        self._control.check(self._name)

    def _check_thread(self) -> None:
        """At the end of a download GDB sets the pc; without a thread to do so with, it crashes."""
        if self._client.is_gdb and not self._threads.told:
            raise NoProgram

    def _supported(self) -> bytes:
        """What we can do; an answer to an offer is given only where there was one."""
        ours = [
            f"PacketSize={MAX_PACKET:x}",
            "QStartNoAckMode+",
            "QNonStop+",
            "QPassSignals+",
            "vContSupported+",
            "qXfer:features:read+",
            "qXfer:memory-map:read+",
            "qXfer:threads:read+",
            "binary-upload+",
            "ConditionalBreakpoints+",
            "BreakpointCommands+",
        ]
        if self._program is not None:
            ours.append("qXfer:exec-file:read+")
        theirs = ("swbreak+", "hwbreak+", "error-message+")
        return ";".join(ours + [f for f in theirs if f in self._client.features]).encode()

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

    # --- Stopped ---------------------------------------------------------------------------------

    async def _why_stopped(self) -> bytes:
        """Answer `?`: a client that will control the core finds it halted."""
        if self._control.holder not in (None, self._name):
            return await self._running.stop_reply(None)
        self._check_control()
        self._threads.select_the_one_that_stops()
        return await self._running.why_stopped()

    # --- monitor ---------------------------------------------------------------------------------

    async def _monitor(self, line: str) -> bytes:
        command, arguments = monitor.find(line)
        if not command.reads_only:
            self._check_control()
            log.info("monitor %s", line)
        await command.handler(self._monitor_context, arguments)
        return replies.OK
