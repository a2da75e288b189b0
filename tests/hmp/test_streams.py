"""Bytes into lines, text onto descriptors, and unknown characters made visible."""

from __future__ import annotations

import errno
import os
import pty
import tracemalloc
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmp.monitor import MAX_LINE, UnreadableError, escape
from hmp.streams import CHUNK, LINES_AT_ONCE, STDOUT, Output, Source, complain, naming_stdout
from tests.support.torn import torn

LIMIT = MAX_LINE * 4


def split(chunks: list[bytes]) -> list[bytes | None]:
    source = Source("s", 0)
    lines = [line for chunk in chunks for line in source.feed(chunk)] + source.close()
    return [line if line is None else line.encode("utf-8", "surrogateescape") for line in lines]


PIECES = st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"x" * LIMIT, b"y" * 10]), max_size=30)


@given(PIECES, st.lists(st.integers(1, 20_000), max_size=60))
def test_lines_are_the_same_however_they_are_cut_into_chunks(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(data[at : at + cut])
        at += cut
    chunks.append(data[at:])
    whole = data.split(b"\n")
    expected = [line.removesuffix(b"\r") for line in whole[:-1]] + (
        [whole[-1].removesuffix(b"\r")] if whole[-1] else []
    )
    found = split([chunk for chunk in chunks if chunk])
    assert len(found) == len(expected)
    for line, told in zip(expected, found, strict=True):
        assert told == (line if len(line) <= MAX_LINE else None)


def test_a_line_that_is_too_long_is_reported_once_and_takes_one_number() -> None:
    long = b"x" * CHUNK
    assert split([long, long, b"\n", b"next\n"]) == [None, b"next"]
    assert split([long, long, b"end\r\nnext\r\n"]) == [None, b"next"]
    assert split([long + b"\n", b"next\n"]) == [None, b"next"]
    assert split([long]) == [None]
    assert split([long, b"\n\n", b"next"]) == [None, b"", b"next"]


def test_a_line_without_end_is_not_kept() -> None:
    source, chunk = Source("s", 0), b"x" * CHUNK
    source.feed(chunk)
    tracemalloc.start()
    for _ in range(100):
        source.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * CHUNK


# Descriptors.


def test_what_cannot_be_read_is_not_at_its_end() -> None:
    reading, writing = os.pipe()
    for descriptor, refused in ((writing, True), (reading, False)):
        source = Source("s", descriptor)
        if refused:
            with pytest.raises(UnreadableError, match="Bad file descriptor"):
                list(source.read())
            os.close(writing)
        else:
            assert list(source.read()) == []
        assert source.over is not refused
    os.close(reading)


def test_half_a_line_before_a_read_error_is_dropped() -> None:
    descriptor = torn(b"info status\nballoon 9")
    source = Source("s", descriptor)
    assert list(source.read()) == [(1, "info status")]
    with pytest.raises(UnreadableError, match="Input/output error"):
        list(source.read())
    assert source.close() == []
    os.close(descriptor)


def test_half_a_line_of_a_terminal_that_hangs_up_is_dropped() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    source = Source("s", slave)
    os.write(master, b"info status\nballoon 9")
    assert list(source.read()) == [(1, "info status")]
    os.close(master)
    assert list(source.read()) == []
    assert source.over
    os.close(slave)


@pytest.mark.parametrize("cut", range(6))
def test_a_byte_order_mark_is_skipped_at_the_very_beginning(cut: int) -> None:
    mark = b"\xef\xbb\xbf"
    data = mark + b"a\n" + mark + b"b\n"
    assert split([data[:cut], data[cut:]]) == [b"a", mark + b"b"]
    assert split([mark]) == [b""]
    assert split([mark[:2]]) == [mark[:2]]
    assert split([mark[:2], b"\n"]) == [mark[:2]]
    assert split([mark + mark + b"x"]) == [mark + b"x"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_by_name(encoding: str) -> None:
    data = "\ufeffinfo status\n".encode(encoding)
    for cut in range(4):
        with pytest.raises(UnreadableError, match="it is UTF-16; make it UTF-8"):
            split([data[:cut], data[cut:]])
    assert split([b"\xff\xfe\xc3(\n"]) == [b"\xff\xfe\xc3("], "without a NUL it is no UTF-16"


@pytest.mark.parametrize(("kept", "more"), [("", []), ("#!", [(5, "#! c")])])
def test_commands_come_with_their_numbers_and_without_comments(kept: str, more: list[tuple[int, str]]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"\xef\xbb\xbf# one\n\n  a b\r\n \t\n#! c\n \xff#\n" + b"x" * (MAX_LINE + 1) + b"\nd")
    os.close(writing)
    source, found = Source("s", reading, kept=kept), []
    while not source.over:
        found += list(source.read())
    assert found == [(3, "  a b"), *more, (6, " \udcff#"), (7, None), (8, "d")]
    os.close(reading)


def test_lines_that_are_there_already_come_some_at_a_time() -> None:
    source, found = Source("-c", ["a", "#", "x" * (MAX_LINE + 1)] * LINES_AT_ONCE), []
    while not source.over:
        turn = list(source.read())
        assert len(turn) <= LINES_AT_ONCE
        found += turn
    assert found == [each for at in range(0, 3 * LINES_AT_ONCE, 3) for each in ((at + 1, "a"), (at + 3, None))]


def test_only_what_has_no_name_of_its_own_is_stdout() -> None:
    for name, named in ((None, STDOUT), ("there", "there")):
        with pytest.raises(OSError, match="no") as info, naming_stdout():
            raise OSError(errno.ENOSPC, "no", name)
        assert info.value.filename == named


def test_output_is_collected_until_it_is_large_or_flushed() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    output = Output(writing)
    output.add("one\n")
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    output.flush()
    output.flush()
    assert os.read(reading, 100) == b"one\n"
    output.add("x" * CHUNK)
    assert len(os.read(reading, 2 * CHUNK)) == CHUNK
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_output_that_cannot_be_written_is_reported_once() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    output = Output(full)
    output.add("one\n")
    with pytest.raises(OSError, match="No space left"):
        output.flush()
    output.flush()
    os.close(full)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines", "two\\x0alines"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\udcff", "\\xff"),
        ("ä", "ä"),
    ],
)
def test_a_complaint_is_one_line_whatever_is_in_it(text: str, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    complain(text)
    assert capfd.readouterr().err == f"hmp: {line}\n"


# Escapes.

ESCAPES = [
    ("plain text\n", "plain text\n"),
    ("tab\tand\nnewline", "tab\tand\nnewline"),
    ("\0\a\b\v\f\r\x1b", "\\x00\\x07\\x08\\x0b\\x0c\\x0d\\x1b"),
    ("\x7f\x80\x9b\x9f\xa0", "\\x7f\\x80\\x9b\\x9f\\xa0"),
    ("\udc80\udcff", "\\x80\\xff"),
    ("äß€😀", "äß€😀"),
    ("\u202e\u2066\ufeff\u2028", "\\u202e\\u2066\\ufeff\\u2028"),
    ("\U000e0041", "\\U000e0041"),
    ("\ud800", "\\ud800"),
    ("", ""),
    ("\\x1b", "\\x1b"),
]


@pytest.mark.parametrize(("text", "shown"), ESCAPES)
def test_what_would_drive_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(st.characters(codec=None)))
def test_escaped_text_is_printable_and_stays_as_it_is(text: str) -> None:
    shown = escape(text)
    assert all(char in "\n\t" or char.isprintable() for char in shown)
    assert escape(shown) == shown
    assert shown.count("\n") == text.count("\n")
    shown.encode()


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_sockets_get_their_own_bytes_from_0x80_up_unchanged(text: str) -> None:
    shown = escape(text, set(text))
    assert [char for char in shown if char >= "\x80"] == [char for char in text if char >= "\x80"]
    assert not [char for char in shown if (char < " " and char not in "\n\t") or char == "\x7f"]


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_only_bytes_of_their_own_pass_unescaped(text: str, own: str) -> None:
    shown = escape(text, set(own))
    assert all(char in "\n\t" or char.isprintable() or (char in own and char >= "\x80") for char in shown)


@pytest.mark.parametrize("odd", ["", " ", "#x", "  #x", "\xa0", "\u2003", "x" * (MAX_LINE + 1), "!", "\x7f", "\xe9"])
def test_lines_that_are_odd_are_the_same_among_plain_ones_as_alone(odd: str) -> None:
    alone = [line for _, line in Source("-c", [odd]).read()]
    among = [*Source("-c", ["a", odd, "b"]).read()]
    assert [(1, "a"), *[(2, line) for line in alone], (3, "b")] == among
    assert alone == ([] if not odd.strip() or odd.lstrip().startswith("#") else [odd if len(odd) <= MAX_LINE else None])
