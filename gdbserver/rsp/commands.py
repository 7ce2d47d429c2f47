"""RSP commands: the payload of a packet -> what the client asks for.

`GRAMMAR` reads like the "Packets", "General Query Packets" and "vCont" sections of the GDB
manual, plus what LLDB asks of any stub.  A payload that no row matches is `Unsupported`, which
the protocol answers with an empty reply, so a row is all that it takes to recognise one more
command.  A payload that a row matches, but whose values cannot be, is `Malformed`.

A thread id is a number in all its spellings; -1 is all of them, 0 any.  The process in front of
it is dropped: there is one program.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ADDRESS_SPACE = 1 << 32


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A packet that this server does not know."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """A packet that it knows, with values that cannot be."""

    payload: bytes
    reason: str


# --- Hand-shake ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Supported:
    """What the client can do; it wants to hear what we can."""

    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class StartNoAckMode:
    """TCP loses nothing: stop acknowledging."""


@dataclass(frozen=True, slots=True)
class ExtendedMode:
    """The client will restart and kill as it likes: `target extended-remote`."""


@dataclass(frozen=True, slots=True)
class NonStop:
    """QNonStop: are stops to be told by notifications, while the conversation goes on?"""

    on: bool


@dataclass(frozen=True, slots=True)
class PassSignals:
    """QPassSignals: stops by these are the program's own affair."""

    signals: frozenset[int]


@dataclass(frozen=True, slots=True)
class EnableErrorStrings:
    """LLDB: an error code may carry a hexadecimal text."""


@dataclass(frozen=True, slots=True)
class SelectThread:
    """Hg: which thread's registers the next commands are about.  Hc says so of resuming."""

    thread: int
    resuming: bool = False


@dataclass(frozen=True, slots=True)
class ThreadAlive:
    """T: is this thread still there?"""

    thread: int


@dataclass(frozen=True, slots=True)
class CurrentThread:
    """qC: which thread is meant when none is named?"""


@dataclass(frozen=True, slots=True)
class FirstThreads:
    """qfThreadInfo: which threads are there?"""


@dataclass(frozen=True, slots=True)
class MoreThreads:
    """qsThreadInfo: and which others?"""


@dataclass(frozen=True, slots=True)
class ThreadExtraInfo:
    """qThreadExtraInfo: what `info threads` shows behind the number."""

    thread: int


@dataclass(frozen=True, slots=True)
class Attached:
    """qAttached: at the end, is the program to be left running (1) or killed (0)?"""


@dataclass(frozen=True, slots=True)
class Offsets:
    """qOffsets: has the program been relocated?"""


@dataclass(frozen=True, slots=True)
class Symbols:
    """qSymbol:: "I can look up symbols now, do you want any?" """


@dataclass(frozen=True, slots=True)
class SymbolValue:
    """qSymbol: what was asked for, or that there is no such symbol."""

    value: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """qXfer: a piece of a document."""

    object: str
    annex: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class MemoryRegionInfo:
    """LLDB: what is at this address?"""

    address: int


@dataclass(frozen=True, slots=True)
class WatchpointSupport:
    """LLDB: how many watchpoints are there?"""


@dataclass(frozen=True, slots=True)
class HostInfo:
    """LLDB: what machine is this?"""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """LLDB: and what runs there?"""


@dataclass(frozen=True, slots=True)
class ThreadsInfo:
    """LLDB: all threads, with what a stop reply would say of each."""


@dataclass(frozen=True, slots=True)
class ThreadSuffix:
    """LLDB: may a packet about registers name its thread itself?"""


@dataclass(frozen=True, slots=True)
class ListThreads:
    """LLDB: a stop reply is to list all threads."""


@dataclass(frozen=True, slots=True)
class ThreadStopInfo:
    """LLDB: the stop reply, as this thread would send it."""

    thread: int


# --- Memory and registers ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadRegisters:
    """g: all of them."""


@dataclass(frozen=True, slots=True)
class WriteRegisters:
    """G: all of them, in the order of `ReadRegisters`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ReadRegister:
    """p: one, by the number that the target description gives it."""

    number: int


@dataclass(frozen=True, slots=True)
class WriteRegister:
    """P: the same."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """m, and x, which wants the answer in binary."""

    address: int
    length: int
    binary: bool = False


@dataclass(frozen=True, slots=True)
class WriteMemory:
    """M and X.  Nothing written is a probe: "do you know X?" """

    address: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Checksum:
    """qCRC: compare-sections."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class SearchMemory:
    """qSearch:memory: find."""

    address: int
    length: int
    pattern: bytes


@dataclass(frozen=True, slots=True)
class FlashErase:
    """vFlashErase: a range of whole sectors, before anything is written there."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class FlashWrite:
    """vFlashWrite: bytes in what was erased."""

    address: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FlashDone:
    """vFlashDone: there is no more, and now it counts."""


# --- Running -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResumeActions:
    """vCont?: which actions are there?"""


@dataclass(frozen=True, slots=True)
class Continue:
    """c, C, vCont;c: run, from `address` if there is one.

    A signal to deliver is not kept: a bare core has no signals to take.
    """

    address: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """s, S, vCont;s, vCont;r: one instruction, or on until pc leaves [`start`, `end`)."""

    address: int | None = None
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class OnThread:
    """LLDB: a packet about registers that says of which thread."""

    thread: int
    command: Command


Action = tuple[int, Continue | Step]
"""What is to be done, and with which thread."""


@dataclass(frozen=True, slots=True)
class Resume:
    """vCont: for each thread the leftmost action that mentions it counts."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """vCont;t and vCtrlC: stop running; an interrupt that is a packet.

    In non-stop mode the first is told as no signal at all, the second as SIGINT.
    """

    quietly: bool = False


@dataclass(frozen=True, slots=True)
class NextStop:
    """vStopped: the notification of a stop has arrived; are there more?"""


@dataclass(frozen=True, slots=True)
class WhyStopped:
    """?: why does the program stand still?"""


@dataclass(frozen=True, slots=True)
class SetPoint:
    """Z: 0 software, 1 hardware breakpoint; 2 write, 3 read, 4 access watchpoint.

    Conditions and commands are agent expressions: it is a stop if one of the conditions is true,
    or there is none; and if there are commands, they are carried out and it is no stop.
    """

    kind: int
    address: int
    length: int
    conditions: tuple[bytes, ...] = ()
    commands: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ClearPoint:
    """z: the same kinds as `SetPoint`."""

    kind: int
    address: int
    length: int


# --- Endings -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detach:
    """D: the client leaves, and the program goes on."""


@dataclass(frozen=True, slots=True)
class Kill:
    """k and vKill: the program is to end."""

    by_id: bool


@dataclass(frozen=True, slots=True)
class FileReply:
    """F: what has become of a call of ours.  `errno` counts where the result is negative."""

    result: int
    errno: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class ChooseFileSystem:
    """vFile:setfs: which process's file system is meant from now on?"""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """vFile:open: a file of ours."""

    name: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class ReadFile:
    """vFile:pread: so many bytes from an offset."""

    descriptor: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class FileStatus:
    """vFile:fstat: how large, how old?"""

    descriptor: int


@dataclass(frozen=True, slots=True)
class CloseFile:
    """vFile:close: it is not needed any more."""

    descriptor: int


FileCommand = ChooseFileSystem | OpenFile | ReadFile | FileStatus | CloseFile


@dataclass(frozen=True, slots=True)
class Restart:
    """R and vRun: start the program from reset.  `R` has no answer."""

    answered: bool


@dataclass(frozen=True, slots=True)
class Attach:
    """vAttach: halt what is running."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """qRcmd: a line for the server itself."""

    line: str


Command = (
    Unsupported
    | Malformed
    | Supported
    | StartNoAckMode
    | ExtendedMode
    | NonStop
    | PassSignals
    | EnableErrorStrings
    | SelectThread
    | ThreadAlive
    | CurrentThread
    | FirstThreads
    | MoreThreads
    | ThreadExtraInfo
    | Attached
    | Offsets
    | Symbols
    | SymbolValue
    | Transfer
    | MemoryRegionInfo
    | WatchpointSupport
    | HostInfo
    | ProcessInfo
    | ThreadsInfo
    | ThreadSuffix
    | ListThreads
    | ThreadStopInfo
    | OnThread
    | ReadRegisters
    | WriteRegisters
    | ReadRegister
    | WriteRegister
    | ReadMemory
    | WriteMemory
    | Checksum
    | SearchMemory
    | FlashErase
    | FlashWrite
    | FlashDone
    | ResumeActions
    | Resume
    | Continue
    | Step
    | Stop
    | NextStop
    | FileReply
    | FileCommand
    | WhyStopped
    | SetPoint
    | ClearPoint
    | Detach
    | Kill
    | Restart
    | Attach
    | Monitor
)

_THREAD = rb"p?-?[0-9a-fA-F]+(?:\.-?[0-9a-fA-F]+)?"


def _address(digits: bytes) -> int:
    value = int(digits, 16)
    if value >= ADDRESS_SPACE:
        raise ValueError(f"{value:#x} is no 32-bit address")
    return value


def _thread(thread: bytes) -> int:
    return int(thread.rpartition(b".")[2].lstrip(b"p"), 16)


# What stands in braces -> the bytes that it matches, and what they mean.
_KINDS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "int": (rb"[0-9a-fA-F]{1,16}", lambda digits: int(digits, 16)),
    "address": (rb"[0-9a-fA-F]{1,16}", _address),
    "hex": (rb"[0-9a-fA-F]*", lambda digits: bytes.fromhex(digits.decode())),
    "bin": (rb".*", bytes),
    "text": (rb".*", lambda text: text.decode(errors="replace")),
    "word": (rb"[^:]*", lambda text: text.decode(errors="replace")),
    "thread": (_THREAD, _thread),
    "point": (rb"[0-4]", int),
    "signed": (rb"-?[0-9a-fA-F]{1,16}", lambda digits: int(digits, 16)),
    "value": (rb"[0-9a-fA-F]*", lambda digits: int(digits, 16) if digits else None),
    "flag": (rb"[01]", lambda digit: digit == b"1"),
    "numbers": (
        rb"[0-9a-fA-F;]*",
        lambda text: frozenset(int(n, 16) for n in text.split(b";") if n),
    ),
}


class _Row:
    """One line of the grammar: a template, and what to make of the values in it."""

    def __init__(self, template: str, build: Callable[..., Command]) -> None:
        self._build = build
        self._converters: list[Callable[[bytes], Any]] = []
        pattern = b""
        for literal, kind in re.findall(r"([^{}]*)(?:\{(\w+)\})?", template):
            pattern += re.escape(literal.encode())
            if kind:
                group, convert = _KINDS[kind]
                pattern += b"(%b)" % group
                self._converters.append(convert)
        self._fullmatch = re.compile(pattern, re.DOTALL).fullmatch
        self.first_byte = template.encode()[0]

    def parse(self, payload: bytes) -> Command | None:
        match = self._fullmatch(payload)
        if match is None:
            return None
        pairs = zip(self._converters, match.groups(), strict=True)
        return self._build(*[convert(text) for convert, text in pairs])


def _supported(features: str) -> Supported:
    return Supported(frozenset(filter(None, features.lstrip(":").split(";"))))


def _write_memory(address: int, length: int, data: bytes) -> WriteMemory:
    if length != len(data):
        raise ValueError(f"{length} bytes were announced and {len(data)} came")
    return WriteMemory(address, data)


_SCRIPT = re.compile(rb"(?P<commands>;?cmds:[0-9a-fA-F]+,?)|;?X(?P<length>[0-9a-fA-F]+),")


def _conditional(kind: int, address: int, length: int, script: bytes) -> SetPoint:
    """``X`` length ``,`` bytes, any number of times; behind ``cmds:`` they are commands.

    The flag behind ``cmds:`` asks for commands to live on after a detach, where breakpoints of
    ours do not.
    """
    conditions: list[bytes] = []
    commands: list[bytes] = []
    found, at = conditions, 0
    while at < len(script):
        match = _SCRIPT.match(script, at)
        if match is None:
            raise ValueError(f"{script[at : at + 20]!r} is neither a condition nor a command")
        at = match.end()
        if match["commands"]:
            found = commands
            continue
        size = int(match["length"], 16)
        code = bytes.fromhex(script[at : at + 2 * size].decode("ascii", "replace"))
        if len(code) != size:
            raise ValueError(f"{size} bytes of an expression were announced and {len(code)} came")
        found.append(code)
        at += 2 * size
    return SetPoint(kind, address, length, tuple(conditions), tuple(commands))


_ACTION = re.compile(
    rb"(?:(?P<go>c|C[0-9a-fA-F]{2})|(?P<step>s|S[0-9a-fA-F]{2})|(?P<stop>t)"
    rb"|r(?P<start>[0-9a-fA-F]{1,16}),(?P<end>[0-9a-fA-F]{1,16}))(?::(?P<thread>"
    + _THREAD
    + rb"))?"
)


def _resume(actions: bytes) -> Command:
    """vCont: where one action is about every thread, it is that one."""
    found: list[Action] = []
    for action in actions.split(b";"):
        match = _ACTION.fullmatch(action)
        if match is None:
            raise ValueError(f"no such action: {action!r}")
        if match["stop"]:
            return Stop(quietly=True)
        thread = _thread(match["thread"]) if match["thread"] else -1
        if match["go"]:
            found.append((thread, Continue()))
        elif match["step"]:
            found.append((thread, Step()))
        else:
            found.append((thread, Step(None, _address(match["start"]), _address(match["end"]))))
    return found[0][1] if found[0][0] == -1 else Resume(tuple(found))


GRAMMAR = (
    # The manual's "Packets", in its order.
    _Row("!", ExtendedMode),
    _Row("?", WhyStopped),
    _Row("F{signed}", FileReply),
    _Row("F{signed},{int}", FileReply),
    _Row("F{signed},{int},C", lambda result, number: FileReply(result, number, True)),
    _Row("c", Continue),
    _Row("c{address}", Continue),
    _Row("C{int}", lambda _signal: Continue()),
    _Row("C{int};{address}", lambda _signal, address: Continue(address)),
    _Row("D", Detach),
    _Row("D;{int}", lambda _process: Detach()),
    _Row("g", ReadRegisters),
    _Row("G{hex}", WriteRegisters),
    _Row("Hc{thread}", lambda thread: SelectThread(thread, resuming=True)),
    _Row("Hg{thread}", SelectThread),
    _Row("k", lambda: Kill(by_id=False)),
    _Row("m{address},{int}", ReadMemory),
    _Row("M{address},{int}:{hex}", _write_memory),
    _Row("p{int}", ReadRegister),
    _Row("P{int}={hex}", WriteRegister),
    _Row("R{int}", lambda _: Restart(answered=False)),
    _Row("s", Step),
    _Row("s{address}", Step),
    _Row("S{int}", lambda _signal: Step()),
    _Row("S{int};{address}", lambda _signal, address: Step(address)),
    _Row("T{thread}", ThreadAlive),
    _Row("vAttach;{int}", lambda _process: Attach()),
    _Row("vCont?", ResumeActions),
    _Row("vCont;{bin}", _resume),
    _Row("vCtrlC", Stop),
    _Row("vFile:setfs:{int}", lambda _process: ChooseFileSystem()),
    _Row("vFile:open:{hex},{int},{int}", lambda name, flags, _mode: OpenFile(name, flags)),
    _Row("vFile:pread:{int},{int},{int}", ReadFile),
    _Row("vFile:fstat:{int}", FileStatus),
    _Row("vFile:close:{int}", CloseFile),
    _Row("vFlashErase:{address},{int}", FlashErase),
    _Row("vFlashWrite:{address}:{bin}", FlashWrite),
    _Row("vFlashDone", FlashDone),
    _Row("vKill;{int}", lambda _process: Kill(by_id=True)),
    _Row("vStopped", NextStop),
    _Row("vRun", lambda: Restart(answered=True)),
    _Row("vRun;{bin}", lambda _program: Restart(answered=True)),
    _Row("x{address},{int}", lambda address, length: ReadMemory(address, length, binary=True)),
    _Row("X{address},{int}:{bin}", _write_memory),
    _Row("z{point},{address},{int}", ClearPoint),
    _Row("Z{point},{address},{int}", SetPoint),
    _Row("Z{point},{address},{int};{bin}", _conditional),
    # "General Query Packets".
    _Row("qAttached", Attached),
    _Row("qAttached:{int}", lambda _process: Attached()),
    _Row("qC", CurrentThread),
    _Row("qCRC:{address},{int}", Checksum),
    _Row("qfThreadInfo", FirstThreads),
    _Row("qsThreadInfo", MoreThreads),
    _Row("qThreadExtraInfo,{thread}", ThreadExtraInfo),
    _Row("qOffsets", Offsets),
    _Row("qRcmd,{hex}", lambda line: Monitor(line.decode(errors="replace"))),
    _Row("qSearch:memory:{address};{int};{bin}", SearchMemory),
    _Row("QNonStop:{flag}", NonStop),
    _Row("QPassSignals:{numbers}", PassSignals),
    _Row("QStartNoAckMode", StartNoAckMode),
    _Row("qSupported{text}", _supported),
    _Row("qSymbol::", Symbols),
    _Row(
        "qSymbol:{value}:{hex}",
        lambda value, name: SymbolValue(value, name.decode(errors="replace")),
    ),
    _Row("qXfer:{word}:read:{word}:{int},{int}", Transfer),
    # LLDB's "GDB Remote Protocol Extensions".  Missing on purpose: QSaveRegisterState and _M, for
    # calls of functions, which LLDB switches off where no operating system loads programs; and
    # jThreadExtendedInfo, which is about Darwin's threads.
    _Row("qMemoryRegionInfo:{address}", MemoryRegionInfo),
    _Row("qWatchpointSupportInfo:", WatchpointSupport),
    _Row("qWatchpointSupportInfo", WatchpointSupport),
    _Row("qHostInfo", HostInfo),
    _Row("qProcessInfo", ProcessInfo),
    _Row("jThreadsInfo", ThreadsInfo),
    _Row("QEnableErrorStrings", EnableErrorStrings),
    _Row("QThreadSuffixSupported", ThreadSuffix),
    _Row("QListThreadsInStopReply", ListThreads),
    _Row("qThreadStopInfo{thread}", ThreadStopInfo),
)

_BY_FIRST_BYTE: dict[int, list[_Row]] = {}
for _row in GRAMMAR:
    _BY_FIRST_BYTE.setdefault(_row.first_byte, []).append(_row)


_ON_THREAD = re.compile(rb"([gGpP][^;]*);thread:(" + _THREAD + rb");?")


def parse(payload: bytes) -> Command:
    """Recognise a command; there is none that cannot be parsed."""
    if match := _ON_THREAD.fullmatch(payload):
        return OnThread(_thread(match[2]), parse(match[1]))
    for row in _BY_FIRST_BYTE.get(payload[0], []) if payload else []:
        try:
            command = row.parse(payload)
        except ValueError as error:
            return Malformed(payload, str(error))
        if command is not None:
            return command
    return Unsupported(payload)
