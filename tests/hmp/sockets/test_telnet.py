"""What a telnet client sends, without telnet's own commands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmp.sockets.telnet import OPENING, SUBNEGOTIATION_LIMIT, TelnetFilter

COMMANDS: dict[str, tuple[bytes, bytes]] = {
    "plain text": (b"info balloon\r\n", b"info balloon\r\n"),
    "line ends stay as they are": (b"a\r\0b\r\nc\nd\r", b"a\r\0b\r\nc\nd\r"),
    "high bytes": ("é€".encode(), "é€".encode()),
    "WILL, WONT, DO, DONT": (b"a\xff\xfb\x18\xff\xfc\x18\xff\xfd\x01\xff\xfe\x01b", b"ab"),
    "answers to our opening": (b"\xff\xfd\x01\xff\xfd\x03\xff\xfd\x00\xff\xfb\x00stop", b"stop"),
    "an option with number 255": (b"a\xff\xfb\xffb", b"ab"),
    "a doubled byte 255": (b"a\xff\xffb", b"a\xffb"),
    "byte 255 twice": (b"\xff\xff\xff\xff", b"\xff\xff"),
    "BRK": (b"a\xff\xf3b", b"ab"),
    "commands of two bytes": (b"a\xff\xf1b\xff\xf4c\xff\xf6d\xff\xf9e", b"abcde"),
    "not a command at all": (b"a\xffAb", b"ab"),
    "a subnegotiation": (b"a\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0b", b"ab"),
    "byte 255 in a subnegotiation": (b"a\xff\xfa\x1f\xff\xff\x00\xff\xff\xf0\xff\xf0b", b"ab"),
    "a command in a subnegotiation": (b"a\xff\xfa\x18\xff\xf1x\xff\xf0b", b"ab"),
    "an empty subnegotiation": (b"a\xff\xfa\xff\xf0b", b"ab"),
    "an end without a beginning": (b"a\xff\xf0b", b"ab"),
}


def test_the_opening_is_qemus() -> None:
    assert bytes.fromhex("fffb01 fffb03 fffb00 fffd00") == OPENING


@pytest.mark.parametrize("name", COMMANDS)
def test_only_what_was_typed_is_left(name: str) -> None:
    sent, typed = COMMANDS[name]
    assert TelnetFilter().feed(sent) == typed


@pytest.mark.parametrize("name", COMMANDS)
def test_byte_by_byte_is_the_same(name: str) -> None:
    sent, typed = COMMANDS[name]
    telnet = TelnetFilter()
    assert b"".join(telnet.feed(bytes((byte,))) for byte in sent) == typed


def test_a_subnegotiation_without_end_gives_the_keyboard_back() -> None:
    telnet = TelnetFilter()
    assert telnet.feed(b"\xff\xfa" + b"x" * SUBNEGOTIATION_LIMIT) == b""
    assert telnet.feed(b"stop\r") == b"stop\r"


def test_the_limit_is_for_each_subnegotiation() -> None:
    one = b"\xff\xfa" + b"x" * (SUBNEGOTIATION_LIMIT - 10) + b"\xff\xf0"
    assert TelnetFilter().feed(one + one + b"stop") == b"stop"


BYTES = st.lists(st.sampled_from([b"\xff", b"\xfa", b"\xf0", b"\xfb", b"a"]) | st.binary(max_size=4)).map(b"".join)


@given(BYTES, st.lists(st.integers(0, 100)))
def test_chunks_do_not_matter(sent: bytes, cuts: list[int]) -> None:
    telnet = TelnetFilter()
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [telnet.feed(sent[start:end]) for start, end in pairwise(edges)]
    assert b"".join(pieces) == TelnetFilter().feed(sent)


@given(BYTES)
def test_never_more_than_was_sent(sent: bytes) -> None:
    assert len(TelnetFilter().feed(sent)) <= len(sent)


@given(st.binary())
def test_doubling_byte_255_brings_any_bytes_through(typed: bytes) -> None:
    assert TelnetFilter().feed(typed.replace(b"\xff", b"\xff\xff")) == typed
