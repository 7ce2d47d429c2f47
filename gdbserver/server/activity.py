"""What a client was about, in its user's words: for the log and `monitor why`.

Where GDB and LLDB have a command that asks for just this, it is called like that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gdbserver.rsp import commands

CONTINUE: Final = "continue"
STEP: Final = "step"
READING_MEMORY: Final = "reading memory"
_CONNECTING: Final = "connecting"
_THREADS: Final = "listing threads"
_SYMBOLS: Final = "looking up symbols"
_PROGRAM_FILE: Final = "fetching the program's file"

_WORDS: Final[Mapping[type, str]] = {
    commands.Supported: _CONNECTING,
    commands.StartNoAckMode: _CONNECTING,
    commands.ExtendedMode: _CONNECTING,
    commands.NonStop: _CONNECTING,
    commands.PassSignals: "handle",
    commands.EnableErrorStrings: _CONNECTING,
    commands.SelectThread: "thread",
    commands.ThreadAlive: _THREADS,
    commands.CurrentThread: _THREADS,
    commands.FirstThreads: _THREADS,
    commands.MoreThreads: _THREADS,
    commands.ThreadExtraInfo: _THREADS,
    commands.Attached: _CONNECTING,
    commands.Offsets: _CONNECTING,
    commands.Symbols: _SYMBOLS,
    commands.SymbolValue: _SYMBOLS,
    commands.MemoryRegionInfo: "memory region",
    commands.WatchpointSupport: _CONNECTING,
    commands.HostInfo: _CONNECTING,
    commands.ProcessInfo: _CONNECTING,
    commands.ThreadsInfo: _THREADS,
    commands.ThreadSuffix: _CONNECTING,
    commands.ListThreads: _CONNECTING,
    commands.ThreadStopInfo: _THREADS,
    commands.ReadRegisters: "reading registers",
    commands.WriteRegisters: "writing registers",
    commands.ReadRegister: "reading a register",
    commands.WriteRegister: "writing a register",
    commands.ReadMemory: READING_MEMORY,
    commands.WriteMemory: "writing memory",
    commands.Checksum: "compare-sections",
    commands.SearchMemory: "find",
    commands.FlashErase: "load",
    commands.FlashWrite: "load",
    commands.FlashDone: "load",
    commands.ResumeActions: _CONNECTING,
    commands.Continue: CONTINUE,
    commands.Step: STEP,
    commands.Stop: "interrupt",
    commands.NextStop: CONTINUE,
    commands.FileReply: "semihosting",
    commands.ChooseFileSystem: _PROGRAM_FILE,
    commands.OpenFile: _PROGRAM_FILE,
    commands.ReadFile: _PROGRAM_FILE,
    commands.FileStatus: _PROGRAM_FILE,
    commands.CloseFile: _PROGRAM_FILE,
    commands.WhyStopped: _CONNECTING,
    commands.Detach: "detach",
    commands.Kill: "kill",
    commands.Restart: "run",
    commands.Attach: "attach",
    commands.Malformed: "a malformed packet",
    commands.Unsupported: "an unknown packet",
}
_DOCUMENTS: Final = {
    "features": _CONNECTING,
    "memory-map": "reading the memory map",
    "threads": _THREADS,
    "exec-file": _PROGRAM_FILE,
}


def of(command: commands.Command) -> str:
    """What `command` is to its client's user."""
    match command:
        case commands.OnThread(_, inner):
            return of(inner)
        case commands.Resume(actions):
            stepping = any(isinstance(action, commands.Step) for _, action in actions)
            return STEP if stepping else CONTINUE
        case commands.SetPoint(kind):
            return f"setting a {_point(kind)}"
        case commands.ClearPoint(kind):
            return f"removing a {_point(kind)}"
        case commands.Transfer(name):
            return _DOCUMENTS.get(name, "asking for a document")
        case commands.Monitor(line):
            return " ".join(["monitor", *line.split()[:1]])
        case _:
            return _WORDS[type(command)]


def _point(kind: int) -> str:
    return "breakpoint" if kind <= 1 else "watchpoint"
