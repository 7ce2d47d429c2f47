"""What clients were seen to send, and what it is taken for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.rsp import commands
from gdbserver.rsp.commands import GRAMMAR, Malformed, Unsupported, parse

# One of each thing that GDB 13, GDB 18 and LLDB were seen to send, and what it means.
SENT = {
    b"!": commands.ExtendedMode(),
    b"?": commands.WhyStopped(),
    b"c": commands.Continue(),
    b"c8000100": commands.Continue(0x8000100),
    b"C05": commands.Continue(),
    b"C05;8000100": commands.Continue(0x8000100),
    b"D": commands.Detach(),
    b"D;1": commands.Detach(),
    b"D;0000000000000001": commands.Detach(),
    b"F11": commands.FileReply(0x11),
    b"F-1,2": commands.FileReply(-1, 2),
    b"F-1,4,C": commands.FileReply(-1, 4, interrupted=True),
    b"g": commands.ReadRegisters(),
    b"G0102": commands.WriteRegisters(b"\x01\x02"),
    b"Hg0": commands.SelectThread(0),
    b"Hc-1": commands.SelectThread(-1, resuming=True),
    b"Hgp1.1": commands.SelectThread(1),
    b"k": commands.Kill(by_id=False),
    b"m8000000,200": commands.ReadMemory(0x8000000, 0x200),
    b"M20000000,2:beef": commands.WriteMemory(0x20000000, b"\xbe\xef"),
    b"pf": commands.ReadRegister(15),
    b"Pf=01010008": commands.WriteRegister(15, b"\x01\x01\x00\x08"),
    b"R0": commands.Restart(answered=False),
    b"s": commands.Step(),
    b"s8000100": commands.Step(0x8000100),
    b"S05": commands.Step(),
    b"T1": commands.ThreadAlive(1),
    b"Tp1.2": commands.ThreadAlive(2),
    b"vAttach;1": commands.Attach(),
    b"vCont?": commands.ResumeActions(),
    b"vCont;c": commands.Continue(),
    b"vCont;c:p1.-1": commands.Continue(),
    b"vCont;C05:1": commands.Resume(((1, commands.Continue()),)),
    b"vCont;s:1;c": commands.Resume(((1, commands.Step()), (-1, commands.Continue()))),
    b"vCont;s:p1.1;c:p1.-1": commands.Resume(((1, commands.Step()), (-1, commands.Continue()))),
    b"vCont;S05:1": commands.Resume(((1, commands.Step()),)),
    b"vCont;r8000100,8000110:1": commands.Resume(((1, commands.Step(None, 0x8000100, 0x8000110)),)),
    b"vCont;t": commands.Stop(quietly=True),
    b"vCtrlC": commands.Stop(),
    b"vStopped": commands.NextStop(),
    b"vFile:setfs:0": commands.ChooseFileSystem(),
    b"vFile:open:2f61,0,1c0": commands.OpenFile(b"/a", 0),
    b"vFile:open:,601,1b6": commands.OpenFile(b"", 0x601),
    b"vFile:pread:3,20000,f": commands.ReadFile(3, 0x20000, 15),
    b"vFile:fstat:3": commands.FileStatus(3),
    b"vFile:close:3": commands.CloseFile(3),
    b"vFlashErase:08000000,00020000": commands.FlashErase(0x8000000, 0x20000),
    b"vFlashWrite:8000a03:$#}*\n\x03": commands.FlashWrite(0x8000A03, b"$#}*\n\x03"),
    b"vFlashDone": commands.FlashDone(),
    b"vKill;a410": commands.Kill(by_id=True),
    b"vRun;": commands.Restart(answered=True),
    b"vRun;78": commands.Restart(answered=True),
    b"x90000000,1000": commands.ReadMemory(0x90000000, 0x1000, binary=True),
    b"X20000000,0:": commands.WriteMemory(0x20000000, b""),
    b"X20000000,2:\x00:": commands.WriteMemory(0x20000000, b"\0:"),
    b"Z0,8000100,2": commands.SetPoint(0, 0x8000100, 2),
    b"Z1,8000100,3": commands.SetPoint(1, 0x8000100, 3),
    b"Z1,8000100,3;X3,220027": commands.SetPoint(1, 0x8000100, 3, (b"\x22\0\x27",)),
    b"Z0,2000,2;X1,27X2,2227;cmds:0,X1,27": commands.SetPoint(
        0, 0x2000, 2, (b"\x27", b"\x22\x27"), (b"\x27",)
    ),
    b"z4,20000000,4": commands.ClearPoint(4, 0x20000000, 4),
    b"qAttached": commands.Attached(),
    b"qAttached:1": commands.Attached(),
    b"qC": commands.CurrentThread(),
    b"qCRC:8000000,1a4": commands.Checksum(0x8000000, 0x1A4),
    b"qfThreadInfo": commands.FirstThreads(),
    b"qsThreadInfo": commands.MoreThreads(),
    b"qThreadExtraInfo,1": commands.ThreadExtraInfo(1),
    b"qOffsets": commands.Offsets(),
    b"qRcmd,72657365742068616c74": commands.Monitor("reset halt"),
    b"qSearch:memory:20000000;400;a;b": commands.SearchMemory(0x20000000, 0x400, b"a;b"),
    b"QNonStop:1": commands.NonStop(on=True),
    b"QPassSignals:e;1b": commands.PassSignals(frozenset({14, 27})),
    b"QStartNoAckMode": commands.StartNoAckMode(),
    b"qSupported": commands.Supported(frozenset()),
    b"qSupported:swbreak+;xmlRegisters=i386": commands.Supported(
        frozenset({"swbreak+", "xmlRegisters=i386"})
    ),
    b"QThreadSuffixSupported": commands.ThreadSuffix(),
    b"QListThreadsInStopReply": commands.ListThreads(),
    b"qThreadStopInfo2": commands.ThreadStopInfo(2),
    b"p0;thread:0002;": commands.OnThread(2, commands.ReadRegister(0)),
    b"P0=01000000;thread:1;": commands.OnThread(1, commands.WriteRegister(0, b"\1\0\0\0")),
    b"g;thread:1;": commands.OnThread(1, commands.ReadRegisters()),
    b"qSymbol::": commands.Symbols(),
    b"qSymbol:20000100:6d61696e": commands.SymbolValue(0x20000100, "main"),
    b"qSymbol::6d61696e": commands.SymbolValue(None, "main"),
    b"qXfer:features:read:target.xml:0,1000": commands.Transfer("features", "target.xml", 0, 4096),
    b"qXfer:memory-map:read::0,3fff": commands.Transfer("memory-map", "", 0, 0x3FFF),
    b"qMemoryRegionInfo:8000000": commands.MemoryRegionInfo(0x8000000),
    b"qWatchpointSupportInfo:": commands.WatchpointSupport(),
    b"QEnableErrorStrings": commands.EnableErrorStrings(),
    b"qHostInfo": commands.HostInfo(),
    b"qProcessInfo": commands.ProcessInfo(),
    b"jThreadsInfo": commands.ThreadsInfo(),
}

NOT_KNOWN = [
    b"",
    b"vMustReplyEmpty",
    b"QNonStop:2",
    b"qExecAndArgs",
    b"qGDBServerVersion",
    b'jThreadExtendedInfo:{"thread":1}',
    b"jThreadsInfo:",
    b"qTStatus",
    b"qHostInfo:",
    b"qProcessInfo1",
    b"qProcessInfoPID:1",
    b"QSaveRegisterState",
    b"_M1000,rwx",
    b"qStructuredDataPlugins",
    b"qRegisterInfo0",
    b"Z5,0,0",
    b"vFlashDoner",
    b"vFile:close:",
    b"vFile:pwrite:3,0,a",
    b"vFile:unlink:2f61",
]

IMPOSSIBLE = [
    b"M20000000,3:beef",
    b"M20000000,2:bee",
    b"X20000000,1:",
    b"m100000000,4",
    b"vCont;q",
    b"vCont;",
    b"qRcmd,7",
    b"vFile:open:2f6,0,0",
    b"Z1,8000100,2;X3,2200",
    b"Z1,8000100,2;Y",
    b"Z1,8000100,2;cmds:0,X1,zz",
]


@pytest.mark.parametrize("payload", SENT, ids=repr)
def test_what_debuggers_send_is_understood(payload: bytes) -> None:
    assert parse(payload) == SENT[payload]


def test_every_row_of_the_grammar_is_exercised() -> None:
    rows = [row for row in GRAMMAR if not any(_matches(row, payload) for payload in SENT)]
    assert len(rows) <= 3  # vRun, qWatchpointSupportInfo and C;addr have a second spelling


def _matches(row: object, payload: bytes) -> bool:
    try:
        return row.parse(payload) is not None  # type: ignore[attr-defined]
    except ValueError:
        return False


@pytest.mark.parametrize("payload", NOT_KNOWN, ids=repr)
def test_what_is_not_known_gets_the_empty_reply(payload: bytes) -> None:
    assert parse(payload) == Unsupported(payload)


@pytest.mark.parametrize("payload", IMPOSSIBLE, ids=repr)
def test_known_commands_with_impossible_values_are_errors(payload: bytes) -> None:
    assert isinstance(parse(payload), Malformed)


@given(st.binary())
def test_every_payload_is_some_command(payload: bytes) -> None:
    parse(payload)  # any exception is a bug


@given(st.sampled_from(sorted(SENT)), st.data())
def test_neighbours_of_real_commands_are_some_command(payload: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(payload)))
    cut = data.draw(st.integers(at, len(payload)))
    parse(payload[:at] + data.draw(st.binary(max_size=4)) + payload[cut:])


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=64))
def test_a_flash_write_keeps_every_byte(address: int, data: bytes) -> None:
    command = parse(b"vFlashWrite:%x:%b" % (address, data))
    assert command == commands.FlashWrite(address, data)


def test_the_union_of_commands_names_every_command() -> None:
    classes = {
        value
        for name, value in vars(commands).items()
        if isinstance(value, type)
        and value.__module__ == commands.__name__
        and re.match("[A-Z]", name)
    }
    assert set(commands.Command.__args__) == classes
