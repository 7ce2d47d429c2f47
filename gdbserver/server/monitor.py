"""`monitor` commands: what GDB has no packet for.

Output is streamed, line by line: GDB prints it as it comes, and does not run out of patience
while it does.  `COMMANDS` is all there is; the longest name that begins a line wins.

Scripts of IDEs are written for one server or another.  What such a script needs to have said, and
what makes no difference here, is in `OTHER_SERVERS`: GDB ends a script at the first refusal.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import Literal

import trio

from gdbserver.chip.cortex_m import VC_ALL_FAULTS, Demcr
from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import INTERNAL_FLASH
from gdbserver.errors import BadRequest, GdbServerError, Interrupted, explain
from gdbserver.flash import repair
from gdbserver.flash.machine import describe_chip
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.rsp.documents import target_description
from gdbserver.server import activity
from gdbserver.server.control import Control
from gdbserver.server.semihosting import Mode, SemihostingHost
from gdbserver.server.worker import Workers
from gdbserver.target import core_dump
from gdbserver.target.raw_registers import RawRegisters
from gdbserver.target.target import Target


@dataclass(frozen=True, slots=True)
class Context:
    """What a command may use.

    `check_cancelled` raises Interrupted, or ends the job of a client that has left.
    """

    workers: Workers
    control: Control
    say: Callable[[str], Awaitable[None]]
    check_cancelled: Callable[[], None]
    semihosting: SemihostingHost
    init_external: bool = False
    """Whether every reset is one with `init`."""


Handler = Callable[[Context, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class MonitorCommand:
    help: str
    handler: Handler
    reads_only: bool = False


async def _help(context: Context, _arguments: str) -> None:
    width = max(map(len, COMMANDS))
    for name, command in COMMANDS.items():
        await context.say(f"{name:{width}}  {command.help}\n")
    await context.say(f"and for scripts written for other servers: {', '.join(OTHER_SERVERS)}\n")


async def _reset(context: Context, arguments: str) -> None:
    # GDB believes that a core to which it can send a monitor command is halted, so it is.
    if arguments and not arguments.isdecimal():  # a J-Link has several ways, by number
        raise BadRequest(f"monitor reset knows halt, init and run, not {arguments!r}")
    await context.workers.target.call(Target.reset, halt=True)
    await context.say("reset; the core is halted at its first instruction\n")
    if context.init_external:
        await _init(context)


async def _reset_init(context: Context, arguments: str) -> None:
    await _reset(context, arguments)
    if not context.init_external:
        await _init(context)


async def _init(context: Context) -> None:
    await context.workers.programmer.call(Programmer.prepare_external_reads)
    await context.say("the external flash can be read\n")


async def _halt(context: Context, _arguments: str) -> None:
    await context.workers.target.call(Target.halt)
    await context.say("halted\n")


async def _why(context: Context, _arguments: str) -> None:
    nothing = True
    # Reads come last: GDB looks at many a place by itself, and takes a refusal for an answer.
    failures = sorted(
        context.control.failures(), key=lambda failed: failed[0] == activity.READING_MEMORY
    )
    for action, lines in failures:
        nothing = False
        await context.say(f"{action}: {lines[0]}\n" + "".join(f"  {line}\n" for line in lines[1:]))
    try:
        fault = await context.workers.target.call(Target.describe_fault)
    except GdbServerError as error:
        fault = "\n  ".join(explain(error))
    if fault is not None:
        nothing = False
        await context.say(f"core: {fault}\n")
    if nothing:
        await context.say("nothing has failed\n")


async def _info(context: Context, _arguments: str) -> None:
    for line in await context.workers.target.call(describe_chip):
        await context.say(f"{line}\n")
    for region in await context.workers.programmer.call(Programmer.regions):
        sizes = ", ".join(f"{count} x {size // 1024} KiB" for count, size in region.groups)
        await context.say(f"flash           {region}: {sizes}\n")
    await context.say(
        f"clients         {len(context.control.clients)}, control: {context.control.holder}\n"
    )


@contextmanager
def _interrupted_with(how_far: str | Callable[[], str]) -> Iterator[None]:
    """What an interrupt is answered with: how far it has come.

    Raises: Interrupted.
    """
    try:
        yield
    except Interrupted:
        raise Interrupted(how_far if isinstance(how_far, str) else how_far()) from None


async def _mass_erase(context: Context, arguments: str) -> None:
    which: dict[str, Literal["internal", "external", "all"]] = {
        "": "internal",
        "internal": "internal",
        "external": "external",
        "all": "all",
    }
    if arguments not in which:
        raise BadRequest(f"mass_erase knows internal, external and all, not {arguments!r}")

    wanted = [
        region.name
        for region in await context.workers.programmer.call(Programmer.regions)
        if which[arguments] in ("all", "internal" if region.span in INTERNAL_FLASH else "external")
    ]
    done: list[str] = []

    async def tell(step: Step) -> None:
        context.check_cancelled()
        if step.action != "waiting" and step.done == step.total:
            done.append(step.region.name)
            await context.say(f"{step.action} {step.region}\n")

    def how_far() -> str:
        rest = [name for name in wanted if name not in done]
        return f"erased: {', '.join(done) or 'none'}; in part, or not: {', '.join(rest) or 'none'}"

    with context.control.changing_flash("a mass erase"), _interrupted_with(how_far):
        await context.workers.programmer.run_steps(Programmer.mass_erase, tell, which[arguments])
    await context.say("mass erase complete\n")


async def _repair(context: Context, arguments: str) -> None:
    (address,) = _numbers("ADDRESS", arguments)
    sector = await context.workers.programmer.call(repair.sector_at, address)
    readable, lost = await context.workers.target.call(repair.survey, sector)
    if not lost:
        await context.say(f"all of {sector} can be read; nothing was changed\n")
        return

    with _interrupted_with("nothing was changed"):
        context.check_cancelled()

    async def tell(step: Step) -> None:
        pass  # the sector is in nobody's memory but ours: it is not left half done

    with context.control.changing_flash("a repair"):
        await context.workers.programmer.run_steps(repair.put_back, tell, sector, readable)
    await context.workers.target.call(repair.check, sector)
    for span in lost:
        await context.say(f"lost, and blank now: {span}\n")
    await context.say(f"all else in {sector} is as it was\n")
    with _interrupted_with("but the sector was erased by then, so its repair was finished"):
        context.check_cancelled()


def _numbers(usage: str, arguments: str) -> list[int]:
    """As many as `usage` names.

    Raises: BadRequest.
    """
    try:
        numbers = [int(word, 0) for word in arguments.split()]
    except ValueError:
        numbers = []
    if len(numbers) != len(usage.split()) or any(not 0 <= n <= 0xFFFFFFFF for n in numbers):
        raise BadRequest(f"expected {usage}, as numbers, not {arguments or 'nothing'}")
    return numbers


# How ST's servers answer these: "O.K." and, of a register that was read, a colon and its value.


def _raw_read(usage: str, read: Callable[..., int]) -> Handler:
    async def handle(context: Context, arguments: str) -> None:
        numbers = _numbers(usage, arguments)
        value = await context.workers.target.call(lambda target: read(target.raw, *numbers))
        await context.say(f"O.K.:{value:#010x}\n")

    return handle


def _raw_write(usage: str, write: Callable[..., None]) -> Handler:
    async def handle(context: Context, arguments: str) -> None:
        numbers = _numbers(usage, arguments)
        await context.workers.target.call(lambda target: write(target.raw, *numbers))
        await context.say("O.K.\n")

    return handle


_read_dp = _raw_read("REGISTER", RawRegisters.read_dp)
_write_dp = _raw_write("REGISTER VALUE", RawRegisters.write_dp)
_read_ap = _raw_read("REGISTER", RawRegisters.read_ap)
_read_ap_at = _raw_read("PORT OFFSET", RawRegisters.read_ap_at)
_write_ap = _raw_write("REGISTER VALUE", RawRegisters.write_ap)


_ALSO = re.compile(r"(?:^|\s+)--also(?:\s+|$)")


def _span(text: str) -> Span:
    try:
        return Span.parse(text)
    except ValueError as wrong:
        raise BadRequest(f"--also wants START+LENGTH or START-LAST: {wrong}") from None


async def _core_dump(context: Context, arguments: str) -> None:
    file, *rest = _ALSO.split(arguments)
    if not file:
        raise BadRequest("monitor coredump needs the name of a file, which the server writes")
    also = [_span(text) for ranges in rest for text in ranges.split() or [""]]
    size = 0

    async def tell(span: Span) -> None:
        nonlocal size
        context.check_cancelled()
        size += len(span)

    path = core_dump.destination(file)
    dump = core_dump.CoreDump(also)
    with _interrupted_with("no file was written"):
        await context.workers.target.run_steps(dump.read, tell)
    await trio.to_thread.run_sync(dump.write, path, target_description)
    await context.say(f"{path}: {size} bytes of memory, and the registers\n")


_MODES: dict[str, Mode] = {
    "on": "on",
    "off": "off",
    "fileio": "fileio",
    "enable": "on",
    "disable": "off",
}


async def _semihosting(context: Context, arguments: str) -> None:
    if arguments:
        if arguments not in _MODES:
            *words, last = _MODES
            known = f"{', '.join(words)} and {last}"
            raise BadRequest(f"monitor semihosting knows {known}, not {arguments!r}")
        context.semihosting.choose(_MODES[arguments])
    await context.say(context.semihosting.describe() + "\n")


_USAGE = Demcr.VC_NOCPERR | Demcr.VC_CHKERR | Demcr.VC_STATERR
_CATCHES = {
    "hard": Demcr.VC_HARDERR,
    "mem": Demcr.VC_MMERR,
    "bus": Demcr.VC_BUSERR,
    "usage": _USAGE,
    "nocp": Demcr.VC_NOCPERR,
    "check": Demcr.VC_CHKERR,
    "state": Demcr.VC_STATERR,
    "entry": Demcr.VC_INTERR,
    "all": VC_ALL_FAULTS,
    "none": Demcr(0),
}


async def _catch(context: Context, arguments: str) -> None:
    words = arguments.split()
    if any(word not in _CATCHES for word in words):
        raise BadRequest(f"monitor catch knows {', '.join(_CATCHES)}, not {arguments!r}")
    if words:
        catch = reduce(or_, (_CATCHES[word] for word in words))
        await context.workers.target.call(Target.choose_catch, catch)
    catch = await context.workers.target.call(lambda target: target.chosen_catch)
    single = ("hard", "mem", "bus", "nocp", "check", "state", "entry")
    caught = [name for name in single if catch & _CATCHES[name]]
    await context.say(f"caught before their handler runs: {', '.join(caught) or 'none'}\n")


async def _fault(context: Context, _arguments: str) -> None:
    fault = await context.workers.target.call(Target.describe_fault)
    await context.say(f"{fault or 'the status registers tell of no fault'}\n")


async def _step_interrupts(context: Context, arguments: str) -> None:
    if arguments not in ("on", "off"):
        raise BadRequest(f"monitor step interrupts knows on and off, not {arguments!r}")
    await context.workers.target.call(Target.step_interrupts, arguments == "on")
    await context.say(f"interrupts {'come in' if arguments == 'on' else 'wait'} while stepping\n")


_LONGEST_SLEEP = 60_000
_GLANCE = 50
"""Milliseconds after which it is seen that nobody waits any more."""


async def _sleep(context: Context, arguments: str) -> None:
    (milliseconds,) = _numbers("MILLISECONDS", arguments)
    if milliseconds > _LONGEST_SLEEP:
        raise BadRequest(f"monitor sleep takes {_LONGEST_SLEEP} ms at most, not {milliseconds}")
    for slept in range(0, milliseconds, _GLANCE):
        with _interrupted_with(f"slept for {slept} of {milliseconds} ms"):
            context.check_cancelled()
        await trio.sleep(min(_GLANCE, milliseconds - slept) / 1000)


async def _vendor(context: Context, _arguments: str) -> None:
    await context.say("stm32-gdbserver\n")


COMMANDS = {
    "help": MonitorCommand("this list", _help, reads_only=True),
    "info": MonitorCommand("probe, chip, flash devices, clients", _info, reads_only=True),
    "why": MonitorCommand("what failed last, why, and what to do", _why, reads_only=True),
    "fault": MonitorCommand("the fault that stopped the core, in words", _fault, reads_only=True),
    "catch": MonitorCommand(
        "[hard|mem|bus|usage|nocp|check|state|entry|all|none ...]: which faults stop the core",
        _catch,
    ),
    "step interrupts": MonitorCommand(
        "on|off: whether they come in while stepping", _step_interrupts
    ),
    "halt": MonitorCommand("halt the core", _halt),
    "reset": MonitorCommand("reset the chip; the core halts at its first instruction", _reset),
    "reset halt": MonitorCommand("the same", _reset),
    "reset run": MonitorCommand("the same: it runs when GDB continues, or leaves", _reset),
    "reset init": MonitorCommand("the same, and make the external flash readable", _reset_init),
    "flash mass_erase": MonitorCommand(
        "[internal|external|all]: erase whole flash devices", _mass_erase
    ),
    "flash repair": MonitorCommand(
        "ADDRESS: erase a sector that cannot be read as a whole, and put back the rest", _repair
    ),
    "ReadDP": MonitorCommand("REGISTER: of the debug port, by number", _read_dp),
    "WriteDP": MonitorCommand("REGISTER VALUE: the same; 2 is SELECT, for ReadAP", _write_dp),
    "ReadAP": MonitorCommand("REGISTER: of the access port, in the bank selected", _read_ap),
    "ReadAPEx": MonitorCommand("PORT OFFSET: a register of any access port", _read_ap_at),
    "WriteAP": MonitorCommand("REGISTER VALUE: of the access port, as for ReadAP", _write_ap),
    "coredump": MonitorCommand(
        "FILE [--also START+LENGTH ...]: registers and RAM, as an ELF core for GDB", _core_dump
    ),
    "semihosting": MonitorCommand(
        "[on|off|fileio]: serve the program's BKPT 0xAB; its files may be GDB's", _semihosting
    ),
    "arm semihosting": MonitorCommand(
        "enable|disable: the same, in the words of OpenOCD and pyOCD", _semihosting
    ),
    "sleep": MonitorCommand("MILLISECONDS: wait, for a minute at most", _sleep, reads_only=True),
    "vendor": MonitorCommand("whose server this is", _vendor, reads_only=True),
}


def _saying(answer: str) -> MonitorCommand:
    async def say(context: Context, _arguments: str) -> None:
        await context.say(f"{answer}\n")

    return MonitorCommand(answer, say, reads_only=True)


_CLOCK = _saying("the SWD clock is chosen when the server starts: --frequency")
_FLASH = _saying("flash is known, and load programs it")
_RUNS = _saying("the core runs when GDB continues, or leaves")
_STOPPED = _saying("halt and reset answer when the core has stopped")
_ENDS = _saying("the server ends when its last client has left, or with --persistent, by a signal")

OTHER_SERVERS = {
    "adapter speed": _CLOCK,
    "clrbp": _saying("breakpoints are GDB's to remove, and gone when it leaves"),
    "endian": _saying("the chip is little-endian"),
    "exit": _ENDS,
    "flash breakpoints": _saying("breakpoints in flash are in the core's comparators"),
    "flash device": _FLASH,
    "flash download": _FLASH,
    "flash probe": _FLASH,
    "gdb_sync": _STOPPED,
    "go": _RUNS,
    "init": _saying("the chip was taken over when the server started"),
    "interface": _saying("the interface is SWD"),
    "jtag_reset": COMMANDS["reset"],
    "poll": _STOPPED,
    "regs": _saying("in GDB: info registers"),
    "resume": _RUNS,
    "semihosting ioclient": _saying("output goes to GDB's console"),
    "shutdown": _ENDS,
    "soft_reset_halt": COMMANDS["reset"],
    "speed": _CLOCK,
    "wait_halt": _STOPPED,
    "waithalt": _STOPPED,
}
"""What scripts for OpenOCD, pyOCD, J-Link and stlink say, and need not say here."""

_BY_NAME = {name.lower(): command for name, command in (COMMANDS | OTHER_SERVERS).items()}


def find(line: str) -> tuple[MonitorCommand, str]:
    """The command that a line names, and its arguments.

    Raises:
        BadRequest: it names none.
    """
    words = line.split()
    for count in range(len(words), 0, -1):
        if command := _BY_NAME.get(" ".join(words[:count]).lower()):
            return command, " ".join(words[count:])
    first = words[0].lower() if words else ""
    near = [name for name in COMMANDS if name.startswith(f"{first} ")]
    near = near or get_close_matches(first, COMMANDS, 1)
    meant = f": did you mean {' or '.join(near)}?" if near else "; try: monitor help"
    raise BadRequest(f"unknown monitor command{meant}")
