"""The core runs: resume it, look now and then, decide about each stop, tell the client.

While the core runs, listening to the client *is* the sleep between two looks at it.

Rule 1: what the core was asked to do is a `_Run`, and `_advance` takes it a little further; so
running and stepping out of a range are one loop.
Rule 2: a stop that nobody has asked for goes through `judges` before the client hears of it:
a breakpoint whose condition is false, or a service that the program asks for, is no stop to
the client, and the core goes on with what it was asked to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gdbserver.chip.cortex_m import Demcr
from gdbserver.rsp import commands, replies
from gdbserver.rsp.packets import Disconnected, Event, Interrupt, Packet
from gdbserver.server.client import Client
from gdbserver.server.reading import known_registers, to_wire
from gdbserver.server.worker import Bench
from gdbserver.target.breakpoints import BreakKind
from gdbserver.target.registers import EXPEDITED, REGISTERS
from gdbserver.target.stop import SIGTRAP, StopReason
from gdbserver.target.target import Target

log = logging.getLogger(__name__)

# How long to listen to the client between two looks at the core: at once in the beginning, so
# that a short run ends without delay, then less often, because looking costs the link.
_FIRST_INTERVAL, _LAST_INTERVAL = 0.0005, 0.01
# How long one look may last.  Behind a debug probe that we have not met there may be a board
# that exists in software and runs only while it is looked at; one that we know to be so is
# looked at nearly without a pause.
_LOOK, _SIMULATED_LOOK = 0.002, 0.02
# How many steps of a range are worth one hop to the worker.
_AT_ONCE = 16

_REGISTER = {register.name: register for register in REGISTERS}

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


def take_hold(target: Target) -> None:
    """What a debugger finds: a halted core, that stops at faults which nobody handles."""
    target.catch_faults(Demcr.VC_HARDERR)
    if not target.is_halted():
        target.halt()


def let_go(target: Target) -> None:
    """What `detach` leaves behind: the program running, with its faults its own affair."""
    target.clear_all_breakpoints()
    target.catch_faults(Demcr(0))
    if target.is_halted():
        target.resume()


def restart(target: Target) -> None:
    """Forget the old run, breakpoints and all, and stand at the first instruction."""
    target.clear_all_breakpoints()
    target.catch_faults(Demcr.VC_HARDERR)
    target.reset(halt=True)


@dataclass(slots=True)
class _Run:
    """What the core was asked to do: to run, or to step until pc leaves [start, end)."""

    stepping: bool = False
    start: int = 0
    end: int = 0


class Running:
    """Runs the core for one client.  `judges` decide, in order, what is a stop to it."""

    def __init__(self, bench: Bench, client: Client) -> None:
        self.judges: list[Judge] = []
        self._target = bench.target
        self._client = client
        self._interrupted = False
        self._software_breakpoints: set[int] = set()

    def interrupt_next_run(self) -> None:
        """GDB manual, "Interrupts": one that finds the program stopped is for its next run."""
        self._interrupted = True

    # --- Breakpoints -----------------------------------------------------------------------------

    async def set_point(self, kind: BreakKind, address: int, length: int) -> None:
        await self._target.call(Target.set_breakpoint, kind, address, length)
        if kind is BreakKind.SOFTWARE:
            self._software_breakpoints.add(address)

    async def clear_point(self, kind: BreakKind, address: int, length: int) -> None:
        await self._target.call(Target.clear_breakpoint, kind, address, length)
        if kind is BreakKind.SOFTWARE:
            self._software_breakpoints.discard(address)

    # --- From resuming to the stop reply ---------------------------------------------------------

    async def resume(self, address: int | None) -> bytes | None:
        """Run, and return the stop reply; None if the client left meanwhile."""
        await self._set_pc(address)
        await self._target.call(Target.resume)
        return await self._wait_for_stop(_Run())

    async def step(self, address: int | None, start: int, end: int) -> bytes | None:
        """One instruction, or on until pc leaves [start, end): as `resume`."""
        await self._set_pc(address)
        return await self._wait_for_stop(_Run(True, start, end))

    async def _set_pc(self, address: int | None) -> None:
        if address is not None:
            await self._target.call(Target.write_registers, {"pc": address & ~1})

    async def _wait_for_stop(self, run: _Run) -> bytes | None:
        if self._interrupted and not run.stepping:
            self._interrupted = False
            await self._target.call(Target.halt)
        simulated = await self._target.call(lambda target: target.simulated)
        interval, longest = _FIRST_INTERVAL, _FIRST_INTERVAL if simulated else _LAST_INTERVAL
        while (stop := await self._advance(run)) is None:
            match await self._overhear(interval):
                case Interrupt():
                    await self._target.call(Target.halt)
                    run.stepping = False
                case Disconnected():
                    return None
            interval = min(interval * 1.1, longest)
        return await self._tell(stop)

    async def _advance(self, run: _Run) -> StopReason | None:
        """Go on with a run for a while: why it is over, or None when it is not."""
        if run.stepping:
            stop, again = await self._target.call(_step_some, run.start, run.end)
            if again:
                return None
            run.stepping = stop is not None  # a step that does not end has become a run
        else:
            stop = await self._target.call(_look)
        return None if stop is None else await self._judge(run, stop)

    async def _judge(self, run: _Run, stop: StopReason) -> StopReason | None:
        for judge in self.judges:
            verdict = await judge(stop)
            if verdict is None:
                if run.stepping and run.start == run.end:
                    return stop  # one instruction was asked for, and has been executed
                if not run.stepping:
                    await self._target.call(Target.resume)
                return None
            stop = verdict
        return stop

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

    # --- Telling ---------------------------------------------------------------------------------

    async def why_stopped(self) -> bytes:
        """Halt the core, if it runs, and answer `?`."""
        await self._target.call(take_hold)
        return await self.stop_reply(await self._target.call(Target.poll_stop))

    async def _tell(self, stop: StopReason) -> bytes:
        if stop.kind in ("fault", "lockup"):
            log.info("stopped: %s", stop.detail)
            await self._client.say(stop.detail + "\n")
        else:
            log.debug("stopped: %s", stop.detail)
        return await self.stop_reply(stop)

    async def stop_reply(self, stop: StopReason | None) -> bytes:
        """What the client is told of a stop, or where there is none: of a core that runs."""
        values = await self._target.call(known_registers, EXPEDITED)
        registers = [
            (_REGISTER[name].number, to_wire(_REGISTER[name], value))
            for name, value in values.items()
        ]
        if stop is None:
            return replies.stopped(SIGTRAP, registers)
        reason: str | None = stop.kind
        if reason in replies.BREAK_KEYS and f"{reason}+" not in self._client.features:
            reason = None
        # GDB takes a software breakpoint that it has not set for one that it has just removed,
        # and resumes: for ever, where it is a BKPT of the program's own.
        if reason == "swbreak" and values["pc"] not in self._software_breakpoints:
            reason = None
        return replies.stopped(stop.signal, registers, reason, stop.address)
