"""What GDB says to programs: a line of GDB/MI -> a record.

GDB manual, "GDB/MI Output Syntax".  A line is an answer (``12^done,bkpt={number="1",…}``),
something that has happened (``*stopped,reason="breakpoint-hit",…``), text for people in a string
of C (``~"Breakpoint 1, main ()\\n"``), or the prompt.  Pure: no I/O happens here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

# A string, a list of these, or a mapping of names to these; what is in it depends on the command.
Value = Any


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a command: done, running, connected, error or exit."""

    token: int | None
    kind: str
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened by itself: running, stopped, breakpoint-modified, download, …"""

    kind: str
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text:
    """For people: by GDB, by the target (`monitor` commands), or about what went wrong."""

    by: Literal["gdb", "target", "log"]
    text: str


Record = Result | Event | Text

_RECORD = re.compile(r"(\d*)([\^*+=])([\w-]+)(.*)", re.DOTALL)
_STREAMS: dict[str, Literal["gdb", "target", "log"]] = {"~": "gdb", "@": "target", "&": "log"}
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NAME = re.compile(r"([\w-]+)=")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPES = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"e": b"\x1b",
}


def parse(line: str) -> Record | None:
    """The record that a line is; None for the prompt, and for anything that GDB did not say."""
    if line[:1] in _STREAMS and (string := _STRING.match(line, 1)):
        return Text(_STREAMS[line[0]], unquote(string[1]))
    match = _RECORD.match(line)
    if match is None:
        return None
    token, sign, kind, rest = match.groups()
    values = _Reader(rest.removeprefix(",")).fields()
    return (
        Result(int(token) if token else None, kind, values) if sign == "^" else Event(kind, values)
    )


def quote(text: str) -> str:
    """As an argument of an MI command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def unquote(text: str) -> str:
    """What a string of C means.  GDB may write bytes of UTF-8 as they are, or as octal escapes."""

    def meaning(escape: re.Match[bytes]) -> bytes:
        code = escape[1]
        return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else _ESCAPES.get(code, code)

    return _ESCAPE.sub(meaning, text.encode()).decode(errors="replace")


class _Reader:
    """Reads values from left to right.  What is no MI ends the reading, not the program."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def fields(self) -> dict[str, Value]:
        """``name=value``, separated by commas."""
        values: dict[str, Value] = {}
        while name := self._take(_NAME):
            values[name[1]] = self._value()
            self._skip(",")
        return values

    def _value(self) -> Value:
        if self._skip("{"):
            fields = self.fields()
            self._skip("}")
            return fields
        if self._skip("["):
            return self._list()
        string = self._take(_STRING)
        return unquote(string[1]) if string else ""

    def _list(self) -> list[Value]:
        values: list[Value] = []
        while not self._skip("]") and self._at < len(self._text):
            before = self._at
            self._take(_NAME)  # in ``[frame={…},frame={…}]`` they are all the same
            values.append(self._value())
            self._skip(",")
            if self._at == before:
                break
        return values

    def _skip(self, text: str) -> bool:
        there = self._text.startswith(text, self._at)
        self._at += len(text) * there
        return there

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match
