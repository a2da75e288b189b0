"""Text from other clients, names and guests cannot control a client's terminal; a client gets back what it typed."""

from __future__ import annotations

import pytest

from hmp.sockets.readline import LINE_LIMIT
from tests.support.sockets import Hmp, Served, play

ODD = "\x85\x9b41m\u061c\u200e\u202e\u2028\u2029\u2066\u206f\ufeff\U000e0041\xad"
SHOWN = "".join(f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" if ord(c) < 65536 else f"\\U{ord(c):08x}"
                if not c.isprintable() else c for c in ODD).replace("\\x34\\x31\\x6d", "41m")  # fmt: skip
TYPED = ODD.replace("\x9b", "")
"""What can be typed: 0x9b begins an escape sequence, also inside UTF-8."""

ADDRESSES = ["unix:m", "tcp:127.0.0.1:0", "telnet:127.0.0.1:0"]


async def heard(client: Hmp, line: str) -> str:
    """Run an ASCII line and return everything that comes, the echo too."""
    await client.send(line.encode() + b"\n")
    return (await client.until(b"(qemu) ")).decode(errors="surrogateescape")


def harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\r\n\t\x1b" for char in text)


@pytest.mark.parametrize("address", ADDRESSES)
class TestOthers:
    def test_the_machines_name(self, address: str) -> None:
        async def scene(served: Served) -> None:
            assert await (await served.hmp()).say("info name") == f"x{SHOWN}y\xe4\n".encode().decode("latin-1")

        play(scene, "linux", f"monitor={address}", name=f"x{ODD}yä")

    def test_what_another_typed_in_the_history(self, address: str) -> None:
        async def scene(served: Served) -> None:
            other = await served.hmp()
            await other.send(f"stop {TYPED}\n".encode() + b"x\x90\x9d0;title\x85\n")
            await other.until(b"(qemu) ")
            await other.until(b"(qemu) ")
            client = await served.hmp()
            listed = await heard(client, "info history")
            assert "'stop \\x8541m\\u061c" in listed
            assert "\\x90" in listed
            await client.send(b"\x1b[A\x1b[A")  # the other client's last line, then a new prompt
            recalled = (await client.until(b"title")).decode(errors="surrogateescape")
            await client.send(b"\x17\x17\n")
            recalled += (await client.until(b"(qemu) ")).decode(errors="surrogateescape")
            assert harmless(listed + recalled)
            assert "x\\x90" in recalled

        play(scene, "linux", f"monitor={address}")


def test_a_guests_settings_as_another_gave_them() -> None:
    async def scene(served: Served) -> None:
        qmp = await served.qmp()
        await qmp.line(f"sim guest linux,stats={ODD}")
        client = await served.hmp()
        for line in ("sim", "sim guest", "info history", "info snapshots", "qom-list /machine/peripheral"):
            assert harmless(await heard(client, line))

    play(scene)


def test_completions_that_could_drive_a_terminal_are_not_offered() -> None:
    async def scene(served: Served) -> None:
        class Store:
            def tags(self) -> list[str]:
                return [f"a{ODD}", "ab\u202e", "ac", "ad"]

        served.machine.store = Store()
        client = await served.hmp()
        await client.send(b"loadvm a\t")
        drawn = (await client.until(b"(qemu) ")).decode()
        assert "ac        ad" in drawn
        assert harmless(drawn)

    play(scene)


class TestOwn:
    def test_it_comes_back_as_it_was_typed(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(f"{TYPED}\n".encode())
            drawn = (await client.until(b"(qemu) ")).decode(errors="surrogateescape")
            assert f"unknown command: '{TYPED}'\r\n" in drawn
            await client.send(b"\x1b[A\n")
            assert f"unknown command: '{TYPED}'\r\n" in (await client.until(b"(qemu) ")).decode(
                errors="surrogateescape"
            )

        play(scene)

    def test_control_characters_of_ones_own_line_are_escaped(self) -> None:
        async def scene(served: Served) -> None:
            assert "\x1b" not in await (await served.hmp()).say("info name")

        play(scene, name="a\x1b[31m\x07\x7fb")

    def test_a_recalled_line_fits(self) -> None:
        async def scene(served: Served) -> None:
            other, client = await served.hmp(), await served.hmp()
            await other.send(b"\x85" * 4000 + b"\n")
            await other.until(b"unknown command")
            await client.send(b"\x1b[A\n")
            said = await client.until(b"'\r\n(qemu) ")
            assert len(said.rpartition(b"unknown command: '")[2]) == LINE_LIMIT + len(b"'\r\n(qemu) ")
            assert set(said.rpartition(b"unknown command: '")[2]) == {*b"\\x85'\r\n(qemu) "}

        play(scene)
