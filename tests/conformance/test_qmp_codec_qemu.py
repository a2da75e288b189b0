"""The codec's answers beside those of a live QEMU 7.2, for every malformed input of the codec's own table."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from hmp.qjson.codec import Decoder, ParseFailure, encode
from tests.hmp.qjson.test_codec import MALFORMED, VALUES

QEMU = "qemu-system-x86_64"
pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not on PATH"),
]
# 0xFF resets QEMU's reader in any state, at the price of one error; the command after it marks the end of the replies.
RESET = b"\xff\n"
MARK = "end of the replies"
SENTINEL = json.dumps({"execute": "nosuch", "id": MARK}).encode()


class Oracle:
    """A QEMU without a machine, its QMP on pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.version = json.loads(self.line())["QMP"]["version"]["qemu"]
        self.send(b'{"execute":"qmp_capabilities"}')
        self.line()

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def line(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline()

    def replies(self, data: bytes) -> list[bytes]:
        self.send(data + RESET + SENTINEL)
        lines = []
        while MARK.encode() not in (line := self.line()):
            assert line, "QEMU is gone"
            lines.append(line)
        return lines

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def qemu() -> Iterator[Oracle]:
    oracle = Oracle()
    try:
        if (oracle.version["major"], oracle.version["minor"]) != (7, 2):
            pytest.skip(f"QEMU is {oracle.version}, the codec follows 7.2")
        yield oracle
    finally:
        oracle.close()


def our_replies(data: bytes) -> list[bytes]:
    """The decoder and encoder with the least protocol around them that answers an unknown command."""
    replies = []
    for item in Decoder().feed(data + RESET + SENTINEL)[:-1]:
        if isinstance(item, dict):
            desc = "The command nosuch has not been found"
            error = {"class": "CommandNotFound", "desc": desc}
            if "execute" not in item:
                error = {"class": "GenericError", "desc": "QMP input lacks member 'execute'"}
            replies.append(encode(({"id": item["id"]} if "id" in item else {}) | {"error": error}))
        else:
            desc = item.desc if isinstance(item, ParseFailure) else "QMP input must be a JSON object"
            replies.append(encode({"error": {"class": "GenericError", "desc": desc}}))
    return replies


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:30]))
def test_malformed_input_is_answered_alike(qemu: Oracle, data: bytes) -> None:
    assert our_replies(data) == qemu.replies(data)


@pytest.mark.parametrize("data", [data for data in VALUES if b"," not in data], ids=lambda data: repr(data[:30]))
def test_values_are_written_back_alike(qemu: Oracle, data: bytes) -> None:
    data = b'{"execute":"nosuch","id":[%s]}' % data
    assert our_replies(data) == qemu.replies(data)


@pytest.mark.parametrize("data", [data[1:-1] for data in VALUES if data[:1] == b"["], ids=lambda data: repr(data[:30]))
def test_lists_of_scalars_are_written_back_alike(qemu: Oracle, data: bytes) -> None:
    data = b'{"execute":"nosuch","id":[%s]}' % data
    assert our_replies(data) == qemu.replies(data)


def test_characters_all_over_the_basic_plane_are_taken_or_refused_alike(qemu: Oracle) -> None:
    for start in range(0, 0x10000, 0x1000):
        data = b"".join(
            b'{"execute":"nosuch","id":"\\u%04x%s"}'
            % (code, chr(code).encode("utf-8", "surrogatepass") if code >= 0x80 else b"")
            for code in range(start, start + 0x1000)
            if code % 16 in (0, 14, 15)
        )
        assert our_replies(data) == qemu.replies(data)
