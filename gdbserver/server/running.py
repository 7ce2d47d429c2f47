"""The core runs: resume it, look now and then, decide about each stop, tell the client.

While the core runs, listening to the client *is* the sleep between two looks at it.  In all-stop
mode that is `_wait_for_stop`, and the client waits for the reply; in non-stop mode it is the
session's own loop, where the client is answered meanwhile (`patience`, `look`), and the stop
goes out as a notification.  GDB manual, "Remote Non-Stop".

Rule 1: what the core was asked to do is a `_Run`, and `_advance` takes it a little further; so
running and stepping out of a range are one loop.
Rule 2: a stop that nobody has asked for goes through `judges` before the client hears of it:
a breakpoint whose condition is false, or a service that the program asks for, is no stop to
the client, and the core goes on with what it was asked to do.
Rule 3: who waits for a stop is told of one, whatever fails meanwhile (`find_out`); or, where the
core is out of sight for longer than wires have glitches, that the program is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from gdbserver.chip.cortex_m import Demcr
from gdbserver.chip.memory import Span
from gdbserver.errors import (
    BadRequest,
    GdbServerError,
    ProbeError,
    TargetError,
    ThreadNotOnCore,
    explain,
)
from gdbserver.rsp import commands, replies
from gdbserver.rsp.packets import Disconnected, Event, Interrupt, Packet
from gdbserver.server import activity
from gdbserver.server.client import Client
from gdbserver.server.control import Control
from gdbserver.server.reading import to_wire
from gdbserver.server.threads import Threads, known_registers
from gdbserver.server.worker import Workers
from gdbserver.target.breakpoints import BKPT, CODE, BreakKind
from gdbserver.target.registers import EXPEDITED, REGISTERS
from gdbserver.target.scripts import Script
from gdbserver.target.semihosting import BKPT_NUMBER
from gdbserver.target.stop import SIGINT, SIGLOST, SIGTRAP, StopReason
from gdbserver.target.target import DEFAULT_CATCH, Target

log = logging.getLogger(__name__)

# How long to listen to the client between two looks at the core: at once in the beginning, so
# that a short run ends without delay, then less often, because looking costs the link.
_FIRST_INTERVAL, _LAST_INTERVAL = 0.0005, 0.01
# How long one look may last.  Behind a debug probe that we have not met there may be a board
# that exists in software and runs only while it is looked at; one that we know to be so is
# looked at nearly without a pause.
_LOOK, _SIMULATED_LOOK = 0.002, 0.02
# For how long a core that runs may be out of sight before its client hears of it.
_GLITCH = 1.0

_REGISTER = {register.name: register for register in REGISTERS}


async def _never() -> bool:
    return False


Judge = Callable[[StopReason], Awaitable[StopReason | None]]
"""Is this stop for the client?  Answers it, or another, or None: the core is to go on.

The core is halted meanwhile, and has to be so afterwards; who answers None has seen to it that
the core does not stop there once more for the same reason.
"""


def _look(target: Target) -> StopReason | None:
    """Look whether the core has stopped."""
    end = time.monotonic() + (_SIMULATED_LOOK if target.simulated else _LOOK)
    while (stop := target.poll_stop()) is None and time.monotonic() < end:
        pass
    return stop


def _step(target: Target, start: int, end: int) -> StopReason | None:
    """Begin a step, out of [start, end) if that is a range, and look."""
    if start < end:
        target.step_range(Span(start, end))
    else:
        target.step()
    return _look(target)


def _pass_covered_bkpt(target: Target, told_at: int) -> None:
    """Run on behind a BKPT of the program's own, if the breakpoint that was told covered it.

    Not behind one that asks for semihosting: that has something to do yet.
    """
    if target.read_registers(["pc"])["pc"] == told_at:
        code = int.from_bytes(target.view_memory(told_at, 2), "little")
        if code & 0xFF00 == BKPT and code & 0xFF != BKPT_NUMBER:
            target.write_registers({"pc": told_at + 2})


def take_hold(target: Target) -> None:
    """What a debugger finds: a halted core, that stops at faults which nobody handles."""
    halted = target.reach()
    target.catch_faults(target.chosen_catch)
    if not halted:
        target.halt()


def watch_over(target: Target) -> bool:
    """The same without halting it: whether it is halted."""
    halted = target.reach()
    target.catch_faults(target.chosen_catch)
    return halted


def detach(target: Target, *, resume: bool = True) -> None:
    """What `detach` leaves behind: the program running, with its faults its own affair."""
    target.reach()
    target.clear_all_breakpoints()
    target.catch_faults(Demcr(0))
    target.chosen_catch = DEFAULT_CATCH
    target.step_interrupts(False)
    if resume and target.is_halted():
        target.resume()


def restart(target: Target) -> None:
    """Forget the old run, breakpoints and all, and stand at the first instruction."""
    target.reach()
    target.clear_all_breakpoints()
    target.catch_faults(target.chosen_catch)
    target.reset(halt=True)


@dataclass(slots=True)
class _Run:
    """What the core was asked to do: to run, or to step until pc leaves [start, end)."""

    stepping: bool = False
    start: int = 0
    end: int = 0
    begun: bool = False
    """The step is under way: what is left is to look whether it is over."""
    told_at: int | None = None
    """Where it begins, if the client was told of a breakpoint there."""
    over: StopReason | None = None
    """It has ended already, and the core is not to move."""
    unwanted: bool = False
    """The client has asked for it to end, and shall not wait because of a judge."""
    signal: int | None = None
    """What the client wants a halt that it asked for to be called, if not SIGINT."""
    missing: float | None = None
    """Since when every look at the core has failed."""
    interval: float = _FIRST_INTERVAL
    longest: float = _LAST_INTERVAL

    def end_it(self) -> None:
        """The client has asked for it to end: the next look halts the core."""
        self.stepping, self.unwanted = False, True

    def patience(self) -> float:
        """How long to listen before the next look."""
        self.interval = min(self.interval * 1.1, self.longest)
        return self.interval

    def missed_for_long(self, error: GdbServerError) -> bool:
        """A look has failed.  Wires have glitches, and somebody may press reset: bear with it?"""
        log.debug("the core cannot be seen: %s", error)
        now = trio.current_time()
        self.missing = self.missing or now
        return now > self.missing + _GLITCH


class Running:
    """Runs the core for one client.  `judges` decide, in order, what is a stop to it."""

    def __init__(
        self, workers: Workers, client: Client, control: Control, threads: Threads
    ) -> None:
        self.judges: list[Judge] = [self._passes]
        self.is_due: Callable[[], Awaitable[bool]] = _never
        """Whether the core stands where a judge has to act before it can go on."""
        self.non_stop = False
        """Whether the client is answered while the core runs, and notified of stops."""
        self.passed: frozenset[int] = frozenset()
        """The signals that the client leaves to the program."""
        self._target = workers.target
        self._client = client
        self._control = control
        self._threads = threads
        self._run: _Run | None = None
        self._judged: _Run | None = None
        """The run of which a judge decides whether it is over."""
        self._interrupted = False
        self._accessed = False
        """The client was told last of an access that it watches."""
        self._told_at: int | None = None
        """Where the client was told last that there is a breakpoint."""
        self._software_breakpoints: set[int] = set()
        self._watchpoints: set[tuple[BreakKind, int, int]] = set()

    async def interrupt(self) -> None:
        """GDB manual, "Interrupts": one that finds the program stopped is for its next run."""
        run = self._run or self._judged
        if run is not None:
            run.end_it()
        else:
            self._interrupted = True

    # --- Breakpoints -----------------------------------------------------------------------------

    async def set_point(self, kind: BreakKind, address: int, length: int, script: Script) -> None:
        await self._target.call(Target.set_breakpoint, kind, address, length, script)
        if kind is BreakKind.SOFTWARE:
            self._software_breakpoints.add(address)
        elif kind not in CODE:
            self._watchpoints.add((kind, address, length))

    async def clear_point(self, kind: BreakKind, address: int, length: int) -> None:
        await self._target.call(Target.clear_breakpoint, kind, address, length)
        if kind is BreakKind.SOFTWARE:
            self._software_breakpoints.discard(address)
        self._watchpoints.discard((kind, address, length))

    # --- From resuming to the stop reply ---------------------------------------------------------

    async def resume(self, address: int | None) -> bytes | None:
        """Run, and return the stop reply; None if the client left meanwhile.

        In non-stop mode the reply says only that the core runs.
        """
        if self._run is not None:
            return replies.OK  # it runs already
        if await self._ran_on():
            return await self._go(_Run())
        told_at = self._told_at
        await self._begin(address)
        run = _Run()
        if not self.non_stop and await self.is_due():
            return await self._make_up(run)
        if told_at is not None:
            await self._target.call(_pass_covered_bkpt, told_at)
        await self._target.call(Target.resume)
        return await self._go(run)

    async def step(self, address: int | None, start: int, end: int) -> bytes | None:
        """One instruction, or on until pc leaves [start, end): as `resume`."""
        if self._run is not None:
            raise BadRequest("the core runs, so it cannot be stepped")
        if await self._ran_on():  # past what the client wanted to step
            await self._target.call(Target.halt)
            return await self._go(_Run())
        if address is None and start == end and self._has_been_made():
            over = StopReason(SIGTRAP, "step", "the watched access had been made already")
            return await self._go(_Run(True, over=over))
        run = _Run(True, start, end, told_at=self._told_at)
        await self._begin(address)
        if not self.non_stop and await self.is_due():
            return await self._make_up(run)
        return await self._go(run)

    async def _ran_on(self) -> bool:
        """Whether the core runs although the client believes that it has stopped, or is lost."""
        return not self.non_stop and not await self._target.call(Target.seems_halted)

    async def _make_up(self, run: _Run) -> bytes | None:
        """Go on from where the core already stands, in the way that `_advance` would."""
        stop = await self._target.call(Target.poll_stop)
        if stop is not None and (stop := await self._judge(run, stop)) is not None:
            return await self._tell(stop)
        return await self._go(run)

    async def stay(self, error: ThreadNotOnCore) -> bytes:
        """Do not run, and say why.

        An error LLDB would take for the end of the program; and a stop of another thread than that
        which it wants to step, or without a signal, for none: it would try for ever.
        """
        story = "; ".join(explain(error))
        log.error("%s", story)
        self._control.remember(activity.STEP, error)
        await self.say(story + "\n")
        return replies.stopped(SIGINT, [], thread=error.thread)

    def _has_been_made(self) -> bool:
        """Whether a step is the one by which GDB lets a watched access happen.

        Of Arm cores GDB believes that they stop before it.  It takes out its watchpoints, steps,
        and tells its user only then.  But DWT matches an access that was made (Armv7-M ARM, "The
        DWT", "Comparator matches"), so that step would end an instruction too late: beyond a
        breakpoint, and on the next line.
        """
        return self._accessed and not self._watchpoints and self._client.is_gdb

    async def _begin(self, address: int | None) -> None:
        self._accessed, self._told_at = False, None
        if address is not None:
            await self._target.call(Target.write_registers, {"pc": address & ~1})

    async def _go(self, run: _Run) -> bytes | None:
        if self._interrupted and not run.stepping:
            self._interrupted = False
            run.end_it()
        if await self._target.call(lambda target: target.simulated):
            run.longest = _FIRST_INTERVAL
        if self.non_stop:
            return self._notify_of(run)
        return await self._wait_for_stop(run)

    async def find_out(self, story: str) -> bytes | None:
        """Something has failed on the way to a stop reply: tell that, and then the truth.

        After an error GDB asks for the registers; where there are none, it does not tell its IDE
        that anything has stopped, which for ever shows a program that runs.
        """
        await self.say(story + "\n")
        try:
            return await self._wait_for_stop(_Run())
        except GdbServerError as error:
            return await self._tell(self._lost(error))

    async def _wait_for_stop(self, run: _Run) -> bytes | None:
        while (stop := await self._advance(run)) is None:
            match await self._overhear(run.patience()):
                case Interrupt():
                    run.end_it()
                case Disconnected():
                    return None
        return await self._tell(stop)

    async def _advance(self, run: _Run) -> StopReason | None:
        """Go on with a run for a while: why it is over, or None when it is not."""
        if run.over is not None:
            return run.over
        if run.stepping and not run.begun:
            run.begun = True
            stop = await self._target.call(_step, run.start, run.end)
        else:
            try:
                if run.unwanted:
                    await self._target.call(Target.halt)
                stop = await self._target.call(_look)
            except (ProbeError, TargetError) as error:
                return self._lost(error) if run.missed_for_long(error) else None
            run.missing = None
        if text := await self._target.call(Target.take_output):
            await self.say(text)
        return None if stop is None else await self._judge(run, stop)

    def _lost(self, error: GdbServerError) -> StopReason:
        """Nobody knows what the core does now."""
        self._control.remember(activity.CONTINUE, error)
        return StopReason(SIGLOST, "lost", "; ".join(explain(error)))

    async def _judge(self, run: _Run, stop: StopReason) -> StopReason | None:
        for judge in self.judges:
            self._judged = run
            try:
                verdict = await judge(stop)
            finally:
                self._judged = None
            if verdict is None:
                if run.unwanted:
                    return StopReason(SIGINT, "halted", stop.detail)
                if run.stepping and not await self._is_within(run):
                    return stop  # that was the step
                if not run.stepping:
                    await self._target.call(Target.resume)
                run.begun = False
                return None
            stop = verdict
        if stop.kind == "swbreak" and await self._was_told(run):
            await self._target.call(Target.step)
            run.begun = False
            return None if await self._is_within(run) else replace(stop, kind="step")
        return stop

    async def _was_told(self, run: _Run) -> bool:
        """Whether a breakpoint that was told covered this BKPT of the program's own."""
        if run.told_at is None or await self._target.call(Target.own_bkpt) is None:
            return False
        return (await self._target.call(Target.read_registers, ("pc",)))["pc"] == run.told_at

    async def _is_within(self, run: _Run) -> bool:
        pc = (await self._target.call(Target.read_registers, ("pc",)))["pc"]
        return run.start <= pc < run.end

    async def _passes(self, stop: StopReason) -> StopReason | None:
        """A fault that the client leaves to the program's own handler is no stop."""
        return None if stop.kind == "fault" and stop.signal in self.passed else stop

    async def _overhear(self, patience: float) -> Event | None:
        """Listen for a while to a client that waits for a stop.

        Kill and detach end the waiting; they are heard again when it is over.  All else that
        is a packet has to wait for the stop in this protocol, so nobody sends it.
        """
        event = await self._client.listen(patience)
        while isinstance(event, Packet):
            match commands.parse(event.payload):
                case commands.Stop():
                    await self._client.send(replies.OK)
                    return Interrupt()
                case commands.Kill() | commands.Detach():
                    self._client.hear_again(event)
                    return Disconnected()
                case _:
                    log.warning(
                        "%s: ignored %.80r: the core runs", self._client.name, event.payload
                    )
            event = self._client.event()
        return event

    # --- Non-stop --------------------------------------------------------------------------------

    def patience(self) -> float | None:
        """How long to listen before the next `look`; None while there is nothing to look for."""
        return None if self._run is None else self._run.patience()

    def _notify_of(self, run: _Run) -> bytes:
        self._run = run
        return replies.OK

    def forget(self) -> None:
        """The client has put the core where it is, without breakpoints: no stop is to be told."""
        self._run = None
        self._accessed, self._told_at = False, None
        self._software_breakpoints.clear()
        self._watchpoints.clear()

    async def look(self) -> None:
        """Go on with the run, and notify the client when it is over."""
        assert self._run is not None
        try:
            if (stop := await self._advance(self._run)) is None:
                return
            if stop.kind == "halted" and self._run.signal is not None:
                stop = replace(stop, signal=self._run.signal)
            reply = await self._tell(stop)
        except GdbServerError as error:
            if self._run.stepping:  # that has failed; what the core does now is to be found out
                log.error("%s: %s", activity.STEP, "; ".join(explain(error)))
                self._control.remember(activity.STEP, error)
                self._run.stepping = False
                return
            reply = await self._tell(self._lost(error))
        self._run = None
        await self._client.notify(replies.notification(reply))

    async def stop(self, *, quietly: bool) -> bytes:
        """vCont;t and vCtrlC, in the midst of the conversation."""
        if self._run is not None:
            self._run.end_it()
            self._run.signal = 0 if quietly else None
        elif not self.non_stop:
            await self._target.call(Target.halt)
        return replies.OK

    async def attach(self) -> bytes:
        """Halt the core; in non-stop mode the stop follows as a notification."""
        self._threads.told = True
        if not self.non_stop:
            return await self.why_stopped()
        await self._target.call(take_hold)
        return self._notify_of(_Run(signal=0))

    # --- Telling ---------------------------------------------------------------------------------

    async def why_stopped(self) -> bytes:
        """Answer `?`: with a halted core, or in non-stop mode, with the truth."""
        self._threads.told = True
        self._run = None
        if not self.non_stop:
            await self._target.call(take_hold)
        elif not await self._target.call(watch_over):
            return self._notify_of(_Run())
        return await self.stop_reply(await self._target.call(Target.poll_stop))

    async def _tell(self, stop: StopReason) -> bytes:
        if stop.kind == "lost":
            log.error("the core is out of sight: %s", stop.detail)
            if not self.non_stop:
                await self.say(stop.detail + "\n")
            self._threads.told = False
            return replies.killed(stop.signal)  # of a stop GDB would want to see the registers
        if stop.kind in ("fault", "lockup", "exited", "aborted"):
            log.info("stopped: %s", stop.detail)
            # Of an exit the client's own words will do, where it takes it for one.
            if not self.non_stop and not (stop.kind == "exited" and self._client.extended):
                await self.say(stop.detail + "\n")
        else:
            log.debug("stopped: %s", stop.detail)
        self._accessed = stop.kind in replies.WATCH_KEYS
        return await self.stop_reply(stop)

    async def say(self, text: str | bytes) -> None:
        """Print on the client's console; between resuming and the stop reply, and nowhere else.

        In non-stop mode there is no such time, and the server's terminal has to do.
        """
        if self.non_stop:
            words = text if isinstance(text, str) else text.decode(errors="replace")
            log.info("%s", words.rstrip("\n"))
        else:
            await self._client.say(text)

    async def thread_stop(self, number: int) -> bytes:
        """The stop of one thread; only that on the core has one."""
        if number == await self._threads.current():
            return await self.stop_reply(await self._target.call(Target.poll_stop))
        name = {row.number: row.name for row in await self._threads.rows()}.get(number)
        if name is None:
            raise BadRequest(f"there is no thread {number}")
        return replies.stopped_thread(replies.stopped(0, [], thread=number), name, ())

    async def stop_reply(self, stop: StopReason | None) -> bytes:
        """What the client is told of a stop, or where there is none: of a core that runs."""
        values = await self._target.call(known_registers, EXPEDITED)
        registers = [
            (_REGISTER[name].number, to_wire(_REGISTER[name], value))
            for name, value in values.items()
        ]
        self._told_at = values["pc"] if stop and stop.kind in replies.BREAK_KEYS else None
        if stop is None:
            return replies.stopped(SIGTRAP, registers, thread=await self._threads.current())
        if stop.exit_status is not None and self._client.extended:
            return replies.exited(stop.exit_status)
        reason: str | None = stop.kind
        if reason in replies.BREAK_KEYS and f"{reason}+" not in self._client.features:
            reason = None
        # GDB takes a software breakpoint that it has not set for one that it has just removed,
        # and resumes: for ever, where it is a BKPT of the program's own.
        if reason == "swbreak" and values["pc"] not in self._software_breakpoints:
            reason = None
        thread = await self._threads.current()
        reply = replies.stopped(stop.signal, registers, reason, stop.address, thread)
        if self._client.wants_threads:
            names = {row.number: row.name for row in await self._threads.rows()}
            reply = replies.stopped_thread(reply, names[thread], names)
        return reply
