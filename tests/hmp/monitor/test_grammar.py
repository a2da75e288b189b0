"""Arguments as QEMU reads them: every type, the integer expressions, and lines that no person would type."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmp.monitor import SyntaxRefused, grammar
from hmp.monitor.monitor import Monitor
from tests.support.machines import monitor_on

MAX = (1 << 63) - 1
MIN = -(1 << 63)


def value(text: str) -> int:
    """The value of an expression that is all of `text`."""
    found, at = grammar.expression(text)
    assert at == len(text)
    return found


def refusal(types: str, text: str) -> str:
    """The error for `text` as the arguments of a command called `cmd`."""
    with pytest.raises(SyntaxRefused) as caught:
        grammar.arguments(grammar.parameters(types), "cmd", text, 0)
    return str(caught.value)


def read(types: str, text: str) -> dict[str, object]:
    return grammar.arguments(grammar.parameters(types), "cmd", text, 0)


# Integer expressions. The values are what QEMU 7.2's `print` says.

VALUES = [
    ("0", 0),
    ("007", 7),
    ("0x10", 16),
    ("0XfF", 255),
    ("00000000000000000000000000000000017", 15),
    ("' '", 32),
    ("'a'", 97),
    ("'''", 39),
    ("'\\'", 92),
    ("'\udcff'", -1),  # a char of C is signed
    ("+5", 5),
    ("-5", -5),
    ("~0", -1),
    ("+-~1", 2),
    ("- - 3", 3),
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("( ( 7 ) )", 7),
    ("\t 1\v+\f1 ", 2),
    # Three levels, not C's: + - binds loosest, then & | ^ alike from the left, then * / %.
    ("1+2*3&4", 5),
    ("1&3+1", 2),
    ("6&3|8^1", 11),
    ("8-2-1", 5),
    ("2*3%4*5", 10),
    ("1|2+4", 7),
    # Division goes towards zero, the remainder has the dividend's sign.
    ("-7/2", -3),
    ("-7%2", -1),
    ("7/-2", -3),
    ("7%-2", 1),
    # 64 bits, wrapping.
    ("9223372036854775807+1", MIN),
    ("9223372036854775808", MIN),
    ("18446744073709551615", -1),
    ("-18446744073709551615", 1),
    ("4294967296*4294967296", 0),
    ("0x7fffffffffffffff*2", -2),
    ("-9223372036854775808", MIN),
    ("0-9223372036854775808-1", MAX),
    ("9223372036854775808/-1", MIN),  # QEMU itself is killed by this one
    ("9223372036854775808%-1", 0),
]


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_an_expression_has_the_value_that_qemu_gives_it(text: str, expected: int) -> None:
    assert value(text) == expected


REFUSALS = [
    ("", "unexpected end of expression"),
    ("1+", "unexpected end of expression"),
    ("~", "unexpected end of expression"),
    ("(", "unexpected end of expression"),
    ("(1", "')' expected"),
    ("(1]", "')' expected"),
    ("((1)+2", "')' expected"),
    ("()", "invalid char ')' in expression"),
    ("x", "invalid char 'x' in expression"),
    ("1//2", "invalid char '/' in expression"),
    ('"1"', "invalid char '\"' in expression"),
    ("٣", "invalid char '٣' in expression"),  # a digit, but not one of C's
    ("²", "invalid char '²' in expression"),
    ("$eax", "unknown register"),
    ("$", "unknown register"),
    ("'", "character constant expected"),
    ("'a", "missing terminating ' character"),
    ("''", "missing terminating ' character"),
    ("'ab'", "missing terminating ' character"),
    ("'€'", "missing terminating ' character"),
    ("'\xff'", "missing terminating ' character"),  # two bytes, as QEMU gets them
    ("1/0", "division by zero"),
    ("1%(2-2)", "division by zero"),
    ("1/0+(", "division by zero"),  # the first error is reported
    ("(1/0", "division by zero"),
    ("18446744073709551616", "number too large"),
    ("0x10000000000000000", "number too large"),
    ("02000000000000000000000", "number too large"),
    ("9" * 5000, "number too large"),
    ("0" + "7" * 5000, "number too large"),
]


@pytest.mark.parametrize(("text", "words"), REFUSALS)
def test_a_bad_expression_is_refused_in_qemus_words(text: str, words: str) -> None:
    with pytest.raises(SyntaxRefused) as caught:
        grammar.expression(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("text", "expected", "rest"),
    [("1 2", 1, "2"), ("1)", 1, ")"), ("0xg", 0, "xg"), ("08", 0, "8"), ("0x", 0, "x"), ("1e5", 1, "e5")],
)
def test_an_expression_ends_where_no_operator_follows(text: str, expected: int, rest: str) -> None:
    found, at = grammar.expression(text)
    assert (found, text[at:]) == (expected, rest)


@pytest.mark.parametrize("depth", [10, 200, 2000, 20_000])
@pytest.mark.parametrize(
    ("opening", "inside", "closing", "expected"),
    [("(", "7", ")", 7), ("-", "7", "", 7), ("~(", "7", ")", 7), ("1+(", "7", ")", None), ("2*(0+", "0", ")", 0)],
)
def test_nesting_has_no_limit(depth: int, opening: str, inside: str, closing: str, expected: int | None) -> None:
    assert value(opening * depth + inside + closing * depth) == (depth + 7 if expected is None else expected)


@given(st.integers(MIN, MAX), st.integers(MIN, MAX), st.sampled_from("+-*&|^"))
def test_operators_wrap_at_64_bits(left: int, right: int, operator: str) -> None:
    exact = {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "&": left & right,
        "|": left | right,
        "^": left ^ right,
    }[operator]
    assert value(f"({left}){operator}({right})") == (exact - MIN) % (1 << 64) + MIN


# Argument types.

ARGUMENTS = [
    ("a:s", "one", {"a": "one"}),
    ("a:s", '"o n\\ne"', {"a": "o n\ne"}),
    ("a:s", r'"\"\\\'\r"', {"a": "\"\\'\r"}),
    ("a:s", 'a"b', {"a": 'a"b'}),
    ("a:s", '""', {"a": ""}),
    ("a:s,b:s", '"one"two', {"a": "one", "b": "two"}),  # QEMU needs no blank after a quote
    ("a:s", "x" * 2000, {"a": "x" * 1023}),  # as much as QEMU's buffer holds
    ("a:s", f'"{"x" * 2000}"', {"a": "x" * 1023}),
    ("a:s?", "", {}),
    ("a:s?", "  ", {}),
    ("a:s?", "one", {"a": "one"}),
    ("a:S", "one two  ", {"a": "one two  "}),
    ("a:S?", " ", {}),
    ("a:s,b:S", 'one "two" three', {"a": "one", "b": '"two" three'}),
    ("a:i", "0xffffffff", {"a": 0xFFFFFFFF}),
    ("a:i?,b:i?", "1", {"a": 1}),
    ("a:i,b:i", "1 2", {"a": 1, "b": 2}),
    ("a:i,b:i", "1 (2)", {"a": 1, "b": 2}),
    ("a:l", "18446744073709551615", {"a": -1}),
    ("a:M", "512", {"a": 512 << 20}),
    ("a:M", "8796093022207", {"a": (1 << 63) - (1 << 20)}),
    ("a:M", "8796093022208", {"a": MIN}),  # the product wraps, as QEMU's
    ("a:M", "17592186044416", {"a": 0}),
    ("j:-j,a:s", "x", {"j": False, "a": "x"}),
    ("j:-j,a:s", "-j x", {"j": True, "a": "x"}),
    ("j:-j,a:s", "-jx", {"j": True, "a": "x"}),
    ("j:-j,k:-k,a:s", "-k x", {"j": False, "k": True, "a": "x"}),
    ("j:-j,k:-k,a:s", "-j -k x", {"j": True, "k": True, "a": "x"}),
    ("j:-j,a:s", "-j -j", {"j": True, "a": "-j"}),
    ("o:O", "drv,id=x", {"o": "drv,id=x"}),
    ("o:O", "", {"o": ""}),
    ("z:Z", "4K", {"z": 4096}),
    ("z:Z", "1", {"z": 1 << 20}),
    ("z:Z", "0.5G", {"z": 1 << 29}),
    ("t:T", "1.25", {"t": 1_250_000_000}),
    ("", "  ", {}),
]


@pytest.mark.parametrize(("types", "text", "expected"), ARGUMENTS)
def test_arguments_are_read_by_their_types(types: str, text: str, expected: dict[str, object]) -> None:
    assert read(types, text) == expected


BAD_ARGUMENTS = [
    ("", "x", "cmd: extraneous characters at the end of line"),
    ("a:s", "", "cmd: string expected"),
    ("a:s", '"open', "unterminated string\ncmd: string expected"),
    ("a:s", r'"\q"', "unsupported escape code: '\\q'\ncmd: string expected"),
    ("a:s", '"\\', "unsupported escape code: '\\'\ncmd: string expected"),
    ("a:s", "one two", "cmd: extraneous characters at the end of line"),
    ("a:S", " ", "cmd: string expected"),
    ("a:i", "", "unexpected end of expression"),
    ("a:i", "1 2", "cmd: extraneous characters at the end of line"),
    ("a:i", "4294967296", "'cmd' has failed: integer is for 32-bit values"),
    ("a:i", "-1", "'cmd' has failed: integer is for 32-bit values"),
    ("a:i?", "x", "invalid char 'x' in expression"),
    ("a:M", "-1", "enter a positive value"),
    ("a:M", "9223372036854775808", "enter a positive value"),
    ("a:M", "64M", "cmd: extraneous characters at the end of line"),
    ("j:-j,a:s", "-x", "cmd: unsupported option -x"),
    ("j:-j,a:s", "-", "cmd: unsupported option -\0"),  # of the NUL see the monitor
    ("j:-j,a:s", "-j", "cmd: string expected"),
    ("o:O", '"open', "unterminated string"),
    ("z:Z", "", "cmd: size expected"),
    ("z:Z", "4X", "cmd: '4X' is not a size (a number with K, M, G or T; plain is MiB)"),
    ("t:T", "", "cmd: number of seconds expected"),
    ("t:T", "-1", "cmd: '-1' is not a number of seconds"),
]


@pytest.mark.parametrize(("types", "text", "words"), BAD_ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused_in_words(types: str, text: str, words: str) -> None:
    assert refusal(types, text) == words


@pytest.mark.parametrize("blank", ["\xa0", "\u2003", "\x1c", "\x85"])
def test_only_the_blanks_of_c_separate(blank: str) -> None:
    assert read("a:s", f"x{blank}y") == {"a": f"x{blank}y"}


# Nothing that is typed raises, or takes long.

HEADS = ["", "balloon ", "info ", "info virtio-queue-status x ", "info virtio-queue-element x ", "device_add ",
         "device_del ", "help ", "? ", "qom-set ", "qom-set -j ", "qom-get ", "qom-list ", "sim ", "sim alloc ",
         "sim set ", "sim sleep ", "sim drop ", "sim chart ", "loadvm ", "delvm ", "info/"]  # fmt: skip

TEXTS = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=5000),
    st.text(max_size=5000),
    st.text("()+-*/%&|^~'\"\\$0129xXabe ", max_size=5000),
    st.text(st.characters(codec=None), max_size=50),  # surrogates too, which stand for bytes that are not UTF-8
)


def execute(monitor: Monitor, line: str) -> float:
    """Run a line; returns the seconds that the processor spent on it."""
    begun = time.process_time()
    reply = monitor.execute(line)
    took = time.process_time() - begun
    assert reply.pending or reply.text == "" or reply.text.endswith("\n")
    reply.cancel()
    return took


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(HEADS), TEXTS)
def test_no_line_raises_or_takes_long(head: str, text: str) -> None:
    assert execute(SUBJECT, head + text) < 2


SUBJECT = monitor_on()
LONG = 5_000


@pytest.mark.parametrize(
    "unit",
    ["(", "-", "~", "1+", "1*(", "9", "0x", "'a'+", " ", "/", '"', '\\"', "a,", ",", "=", "no,", "x ", "\0", "é"],
)
@pytest.mark.parametrize("head", HEADS)
def test_thousands_of_the_same_take_no_time(head: str, unit: str) -> None:
    assert execute(SUBJECT, head + unit * (LONG // len(unit))) < 1
