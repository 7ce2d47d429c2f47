"""GDB/MI: lines as GDB prints them, and any other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gdbserver.testing.mi import Event, Result, Text, parse, quote, unquote


def test_an_answer_has_its_token_and_its_values() -> None:
    line = '12^done,bkpt={number="1",type="hw breakpoint",locations=[{number="1.1"}],x={}}\n'
    assert parse(line) == Result(
        12,
        "done",
        {
            "bkpt": {
                "number": "1",
                "type": "hw breakpoint",
                "locations": [{"number": "1.1"}],
                "x": {},
            }
        },
    )
    assert parse("^running\n") == Result(None, "running")


def test_a_stop_is_an_event() -> None:
    line = '*stopped,reason="breakpoint-hit",frame={addr="0x08000044",args=[]},core="0"\n'
    assert parse(line) == Event(
        "stopped",
        {"reason": "breakpoint-hit", "frame": {"addr": "0x08000044", "args": []}, "core": "0"},
    )


def test_a_list_may_give_its_members_a_name() -> None:
    assert parse('3^done,stack=[frame={level="0"},frame={level="1"}]') == Result(
        3, "done", {"stack": [{"level": "0"}, {"level": "1"}]}
    )


def test_text_is_unquoted() -> None:
    assert parse(r'~"main () at \"a b.c\":1\n\t\302\265s\\"') == Text(
        "gdb", 'main () at "a b.c":1\n\tµs\\'
    )
    assert parse(r'@"halted\n"') == Text("target", "halted\n")
    assert parse(r'&"warning: no\n"') == Text("log", "warning: no\n")


def test_the_prompt_and_strangers_are_nothing() -> None:
    for line in ("(gdb) \n", "", "\n", "Remote debugging from host", "~no string"):
        assert parse(line) is None


@given(st.text())
def test_what_is_quoted_comes_back(text: str) -> None:
    line = "~" + quote(text)
    assert parse(line) == Text("gdb", text)
    assert unquote(quote(text)[1:-1]) == text


@given(st.text(alphabet='^*+=~@&,{}[]"\\=ab1 \n'))
def test_every_line_is_a_record_or_nothing(line: str) -> None:
    parse(line)  # any exception is a bug, and so is no end
