"""Agent expressions, opcode by opcode."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbserver.errors import ExpressionError
from gdbserver.target.expressions import Outcome, evaluate

ADD, SUB, MUL, DIV, UDIV, REM, UREM, LSH, RSH, URSH = range(2, 12)
NOT, AND, OR, XOR, INVERT, EQUAL, LESS, ULESS, EXT, REF8, REF16, REF32, REF64 = range(0x0E, 0x1B)
IF_GOTO, GOTO, CONST8, CONST16, CONST32, CONST64, REG, END, DUP, POP, ZERO_EXT, SWAP = range(
    0x20, 0x2C
)
PICK, ROT, PRINTF = 0x32, 0x33, 0x34
MEMORY = {0x20000000: struct.pack("<QQ", 0x8877665544332211, 3) + b"hello\0" + bytes(42)}

cells = st.integers(0, (1 << 64) - 1)


def read(address: int, length: int) -> bytes:
    for start, data in MEMORY.items():
        if start <= address and address + length <= start + len(data):
            return data[address - start :][:length]
    raise LookupError(hex(address))


def run(code: bytes) -> Outcome:
    return evaluate(code, {13: 0x20001000}.__getitem__, read)


def const(value: int) -> bytes:
    return bytes([CONST64]) + (value & (1 << 64) - 1).to_bytes(8, "big")


def value(*code: int | bytes) -> int:
    whole = b"".join(part if isinstance(part, bytes) else bytes([part]) for part in code)
    return run(whole + bytes([END])).value


def signed(cell: int) -> int:
    return cell - (cell >> 63 << 64)


@given(cells, cells)
def test_arithmetic_is_that_of_64_bit_cells(a: int, b: int) -> None:
    mask = (1 << 64) - 1
    operands = const(a) + const(b)
    assert value(operands, ADD) == (a + b) & mask
    assert value(operands, SUB) == (a - b) & mask
    assert value(operands, MUL) == a * b & mask
    assert value(operands, AND) == a & b
    assert value(operands, OR) == a | b
    assert value(operands, XOR) == a ^ b
    assert value(operands, EQUAL) == (a == b)
    assert value(operands, LESS) == (signed(a) < signed(b))
    assert value(operands, ULESS) == (a < b)
    assert value(const(a), INVERT) == ~a & mask
    assert value(const(a), NOT) == (a == 0)


@given(cells, cells.filter(bool))
def test_division_goes_towards_zero(a: int, b: int) -> None:
    operands = const(a) + const(b)
    quotient, rest = signed(value(operands, DIV)), signed(value(operands, REM))
    if (a, b) != (1 << 63, (1 << 64) - 1):  # the one quotient that does not fit
        assert quotient * signed(b) + rest == signed(a)
        assert abs(rest) < abs(signed(b))
        assert rest == 0 or (rest < 0) == (signed(a) < 0)
    assert (value(operands, UDIV), value(operands, UREM)) == divmod(a, b)


@given(cells, st.integers(0, 80))
def test_shifts_of_any_width_are_defined(a: int, count: int) -> None:
    operands = const(a) + const(count)
    assert value(operands, LSH) == a << count & (1 << 64) - 1
    assert value(operands, URSH) == a >> count
    assert signed(value(operands, RSH)) == signed(a) >> count


def test_extensions() -> None:
    assert value(const(0x1FF), EXT, 8) == (1 << 64) - 1
    assert value(const(0x17F), EXT, 8) == 0x7F
    assert value(const(0x1FF), ZERO_EXT, 8) == 0xFF
    assert value(const(5), EXT, 64) == 5


def test_memory_is_read_little_endian_and_zero_extended() -> None:
    address = const(0x20000000)
    assert value(address, REF8) == 0x11
    assert value(address, REF16) == 0x2211
    assert value(address, REF32) == 0x44332211
    assert value(address, REF64) == 0x8877665544332211


def test_registers_have_gdbs_numbers() -> None:
    assert value(REG, 0, 13) == 0x20001000


def test_constants_of_each_size() -> None:
    assert value(CONST8, 0x81) == 0x81
    assert value(CONST16, 0x81, 0x82) == 0x8182
    assert value(CONST32, 1, 2, 3, 4) == 0x01020304


def test_cells_are_moved_about() -> None:
    two, three = const(1) + const(2), const(1) + const(2) + const(3)
    assert value(two, SWAP) == 1
    assert value(two, POP) == 1
    assert value(two, DUP, ADD) == 4
    assert value(three, PICK, 2) == 1
    assert value(three, ROT) == 2
    assert value(three, ROT, POP, POP) == 3


def test_jumps() -> None:
    # if (0) 7 else 9
    assert value(CONST8, 0, IF_GOTO, 0, 10, CONST8, 9, GOTO, 0, 12, CONST8, 7) == 9
    assert value(CONST8, 1, IF_GOTO, 0, 10, CONST8, 9, GOTO, 0, 12, CONST8, 7) == 7


def printed(text: str, *arguments: int) -> str:
    code = b"".join(const(argument) for argument in reversed(arguments))
    code += const(0) + const(0)  # channel and function
    body = text.encode() + b"\0"
    code += bytes([PRINTF, len(arguments)]) + len(body).to_bytes(2, "big") + body
    return run(code + bytes([END])).printed


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("plain, 100 %%\n", (), "plain, 100 %\n"),
        (r"a\tb\\n\n\"\101\e", (), 'a\tb\\n\n"A\x1b'),
        ("%d %u %i", (-1, -1, 5), "-1 4294967295 5"),
        ("%08x|%-4X|%#o", (0xBEEF, 10, 8), "0000beef|A   |010"),
        ("%hhd %hu %lld", (0x1FF, 0x12345, -7), "-1 9029 -7"),
        ("%c%c", (72, 105), "Hi"),
        ("<%s> <%8s>", (0x20000010, 0x20000010), "<hello> <   hello>"),
        ("%p", (0x20000010,), "0x20000010"),
    ],
)
def test_printf_prints_as_c_does(text: str, arguments: tuple[int, ...], expected: str) -> None:
    assert printed(text, *arguments) == expected


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (const(1) + const(0) + bytes([DIV, END]), "divides by zero"),
        (const(1) + const(0) + bytes([UREM, END]), "divides by zero"),
        (bytes([ADD, END]), "takes more from the stack"),
        (bytes([PICK, 0, END]), "takes more from the stack"),
        (bytes([CONST32, 1, 2]), "runs past its end"),
        (b"", "runs past its end"),
        (bytes([GOTO, 0, 0]), "no end"),
        (bytes([CONST8, 0, GOTO, 0, 0]), "more than 256 cells"),
        (bytes([0x01, END]), "floating point"),
        (bytes([0x2C, 0, 0, END]), "a trace state variable"),
        (bytes([0x31, END]), "opcode 0x31"),
        (bytes([PRINTF, 0, 0, 9, 65]), "runs past its end"),
    ],
)
def test_what_cannot_be_evaluated_is_said(code: bytes, why: str) -> None:
    with pytest.raises(ExpressionError, match=why) as caught:
        run(code)
    assert caught.value.hint


@given(st.binary(max_size=40))
def test_no_bytes_whatever_upset_the_machine(code: bytes) -> None:
    with suppress(ExpressionError):
        evaluate(code, lambda _: 1, lambda _, length: bytes(length))


def test_printf_wants_as_many_arguments_as_its_format() -> None:
    with pytest.raises(ExpressionError, match="more arguments"):
        printed("%d")


def test_memory_that_cannot_be_read_is_the_callers_affair() -> None:
    with pytest.raises(LookupError):
        value(const(0x70000000), REF32)
