"""A web page can make a browser speak HTTP, TLS or STUN to a monitor's port: hmp hangs up on such a client and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.machine.events import ClientRefused
from hmp.sockets.opening import Opening
from hmp.sockets.server import FOREIGN_SPACING
from tests.support.machines import state_of
from tests.support.programs import Program
from tests.support.sockets import Served, play

METHODS = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "CONNECT", "TRACE", "PRI"]
TLS = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))
BODY = b'\r\n\r\n\nballoon 32\nstop\n{"execute":"qmp_capabilities"}{"execute":"stop"}\n'
STUN = bytes.fromhex("2112a442") + b"ZTcCd50h8IE8" + b"\x00\x06\x00\x04user" + b"\nq\nstop\n"
STUNS = {"TURN": b"\0\3\0\x08" + STUN, "ICE": b"\0\x78\0\1\0\x64" + STUN, "a long one": b"\1\n\0\1\0\r" + STUN}
"""As Chromium was seen to send them: to a TURN server, and, behind two bytes of length, to another client's port."""

HTTP = {
    **{method: f"{method} /x HTTP/1.1\r\nHost: y".encode() + BODY for method in METHODS},
    "version 0.9": b"GET /" + BODY,
    "a method of the page's own": b"stop / HTTP/1.1\r\nHost: y" + BODY,
    "one with signs": b"x-y.z!$ /?\xc3\xa4 HTTP/1.0\r\n" + BODY,
    "a long path": b"balloon /" + b"x" * 9000 + b" HTTP/1.1\r\n" + BODY,
    "a line end alone": b"cont * HTTP/1.1\n" + BODY,
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
CLIENTS = {
    "a command": b"info status\n",
    "a return": b"info status\r",
    "an empty line": b"\nGET / HTTP/1.1\n",
    "a method alone": b"GET\n",
    "a method and more": b"GETTER \n",
    "small letters": b"get \n",
    "a version alone": b"HTTP/1.1\n",
    "a version in the second line": b"info kvm\nx / HTTP/1.1\n",
    "telnet": b"\xff\xfd\x01\xff\xfb\x1fGET ",
    "QMP": b'{"execute": "qmp_capabilities"}',
    "QMP behind blanks": b' {"execute": "GET / HTTP/1.1"}',
    "half of TLS": b"\x16\n\x03",
    "zero bytes": b"\0\0\0\0\0\0\0\0\0\0",
    "another control character": b"\x03\x16\x03",
    "UTF-8": b"\xc3\xa4GET ",
}
UNTOLD = {
    "": b"",
    "nine zero bytes": bytes(9),
    "P": b"P",
    "GET": b"GET",
    "CONNECT": b"CONNECT",
    "0x16": b"\x16",
    "a long word": b"x" * 5000,
}


def judge(*pieces: bytes) -> str | None:
    """The first verdict of an Opening that is fed piece by piece."""
    opening = Opening()
    return next((said for piece in pieces if (said := opening.feed(piece)) is not None), None)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["at once", "byte by byte"])
class TestOpening:
    @pytest.mark.parametrize("name", HTTP)
    def test_http(self, name: str, cut: Callable[[bytes], list[bytes]]) -> None:
        assert judge(*cut(HTTP[name])) == "HTTP"

    def test_tls(self, cut: Callable[[bytes], list[bytes]]) -> None:
        assert judge(*cut(TLS)) == "TLS"

    @pytest.mark.parametrize("name", STUNS)
    def test_stun(self, name: str, cut: Callable[[bytes], list[bytes]]) -> None:
        assert judge(*cut(STUNS[name])) == "STUN"

    @pytest.mark.parametrize("name", CLIENTS)
    def test_a_monitors_client(self, name: str, cut: Callable[[bytes], list[bytes]]) -> None:
        assert judge(*cut(CLIENTS[name])) == ""

    @pytest.mark.parametrize("name", UNTOLD)
    def test_too_few_bytes_give_no_verdict(self, name: str, cut: Callable[[bytes], list[bytes]]) -> None:
        assert judge(*cut(UNTOLD[name])) is None


@given(
    st.sampled_from([*HTTP.values(), *CLIENTS.values(), *STUNS.values(), TLS]),
    st.lists(st.integers(0, 100), max_size=8),
)
def test_chunks_do_not_matter(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert judge(*(data[a:b] for a, b in pairwise(edges))) == judge(data)


@given(st.sampled_from([*HTTP.values(), TLS]))
def test_the_verdict_comes_before_the_first_line_ends(data: bytes) -> None:
    """So nothing of it can have run."""
    opening, line = Opening(), b""
    for byte in bytewise(data):
        line += byte
        if opening.feed(byte):
            break
    assert not re.search(rb"[\r\n].", line, re.DOTALL)


TCP = ["monitor=tcp:127.0.0.1:0", "monitor=telnet:127.0.0.1:0", "qmp=tcp:127.0.0.1:0"]
ALL = {**HTTP, **STUNS, "TLS": TLS}


class TestServed:
    @pytest.mark.parametrize("cut", [False, True], ids=["at once", "byte by byte"])
    @pytest.mark.parametrize("address", TCP)
    def test_it_hangs_up_and_nothing_is_run(self, address: str, cut: bool) -> None:
        async def scene(served: Served) -> None:
            before = state_of(served.machine)
            for name in (
                ("GET", "POST", "OPTIONS", "a method of the page's own", "a long path", "TLS", "ICE") if cut else ALL
            ):
                client = await served.raw(address.partition("=")[0])
                for piece in bytewise(ALL[name][:9100]) if cut else [ALL[name]]:
                    try:
                        await client.send(piece)
                    except OSError:  # hung up
                        break
                    if cut and len(ALL[name]) < 1000:
                        await served.settle()
                await client.rest()
                client.hang_up()
                await served.settle()
                assert state_of(served.machine) | {"time": 0} == before | {"time": 0}, name
            assert not served.server.connections

        play(scene, "linux", address)

    @pytest.mark.parametrize("address", TCP[:2])
    def test_who_types_a_capital_letter_sees_it_and_is_not_hung_up_on(self, address: str) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"P")
            assert await client.until(b"P")
            await served.settle(100)
            await client.send(b"OST\x08\x08\x08\x08info kvm\n")
            assert await client.reply() == "kvm support: disabled\n"
            await client.send(b"GET / HTTP/1.1\n")  # the second line: there was a verdict already
            assert await client.reply() == "unknown command: 'GET'\n"

        play(scene, "linux", address)

    def test_unix_sockets_are_not_judged(self) -> None:
        async def scene(served: Served) -> None:
            assert await (await served.hmp()).say("POST / HTTP/1.1") == "unknown command: 'POST'\n"

        play(scene)

    def test_of_many_refusals_a_few_are_reported(self) -> None:
        async def scene(served: Served) -> None:
            told = []
            served.machine.subscribe(lambda event: told.append(event.why) if isinstance(event, ClientRefused) else None)

            async def come(data: bytes) -> None:
                client = await served.raw()
                await client.send(data)
                await client.rest()
                await served.settle()

            for _ in range(5):
                await come(HTTP["POST"])
            place = served.name("qmp").partition(":")[2]
            assert told == [f"it spoke HTTP to {place}, as web pages can"]
            await served.settle(FOREIGN_SPACING)
            await come(TLS)
            assert told[1:] == [f"it spoke TLS to {place}, as web pages can (4 more before)"]

        play(scene, "linux", "qmp=tcp:127.0.0.1:0")


@pytest.mark.slow
def test_stderr_has_one_line_about_it(tmp_path: Path) -> None:
    with Program("--headless", "--qmp", "tcp:127.0.0.1:0") as program:
        for _ in range(3):
            with program.connect() as client:
                client.sendall(HTTP["POST"])
                try:
                    while client.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        place = program.address("qmp").removeprefix("tcp:")
        assert program.end() == (0, "", f"hmp: hung up on a client: it spoke HTTP to {place}, as web pages can\n")
