"""Hostile and broken clients: each gets a clear error or is cut off, and the next one is served."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from device.machine.events import WasReset
from hmp.sockets.connection import SEND_SIZE, STALL_LIMIT, UNFINISHED_LIMIT, UNSENT_LIMIT
from tests.support.programs import Program
from tests.support.sockets import Client, Qmp, Served, play
from tests.support.timing import PATIENCE, takes_less_than

MIB = 1 << 20
ORDINARY_MEMORY = 80 * MIB
"""What an idle hmp with sockets stays well below."""


async def served_next(served: Served) -> None:
    """The next client, of either kind, is served as usual."""
    client = await served.qmp()
    assert await client.ask("query-status", 1) == {
        "return": {"status": "running", "singlestep": False, "running": True},
        "id": 1,
    }
    client.hang_up()
    person = await served.hmp()
    assert await person.say("info status") == "VM status: running\n"
    person.hang_up()
    await served.settle()


async def errors(client: Client, data: bytes) -> list[str]:
    """Send `data` and what ends any message; return the errors that come back, up to the next good reply."""
    sending = asyncio.ensure_future(client.send(data + b'\xff\xff\n{"execute": "query-name", "id": "end"}'))
    found = []
    while True:
        message = json.loads(await client.until(b"\r\n"))
        if message.get("id") == "end":
            await sending
            return found
        if "error" in message:
            found.append(message["error"]["desc"])


class TestNeverReading:
    def test_who_only_listens_is_cut_off_at_the_bound(self) -> None:
        async def scene(served: Served) -> None:
            stuck, other = await served.qmp(), await served.qmp()
            most = 0
            for _ in range(3 * UNSENT_LIMIT // 1000):
                served.machine.emit(WasReset(guest=False, reason="x" * 1000))
                most = max(most, *(each.unsent for each in served.server.connections))
                assert (await other.event())["event"] == "RESET"
            assert UNSENT_LIMIT < most < UNSENT_LIMIT + 2000
            await served.settle()
            assert len(served.server.connections) == 1
            heard = await stuck.rest()
            assert heard.count(b"RESET") > 10
            await served_next(served)

        play(scene)

    @pytest.mark.parametrize("kind", ["qmp", "monitor"])
    def test_who_only_asks_is_not_read_from_and_cut_off_after_a_while(self, kind: str) -> None:
        async def scene(served: Served) -> None:
            stuck = await (served.qmp() if kind == "qmp" else served.hmp())
            line = b'{"execute": "query-commands"}' if kind == "qmp" else b"help\n"
            sending = asyncio.ensure_future(stuck.send(line * 100_000))
            await served.settle(STALL_LIMIT - 1)
            (connection,) = served.server.connections
            assert connection.unsent < 4 * SEND_SIZE
            await served_next(served)
            assert len(served.server.connections) == 1
            await served.settle(2)
            assert not served.server.connections
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await sending
            await served_next(served)

        play(scene)

    def test_who_reads_slowly_is_not_cut_off(self) -> None:
        async def scene(served: Served) -> None:
            slow = await served.qmp()
            sending = asyncio.ensure_future(slow.send(b'{"execute": "query-commands"}' * 5000))
            for _ in range(20):
                await served.settle(STALL_LIMIT * 0.9)
                for _ in range(250):
                    assert "return" in await slow.message()
            await sending

        play(scene)

    def test_who_half_closes_and_never_reads_loses_its_place(self) -> None:
        async def scene(served: Served) -> None:
            stuck = await served.qmp()
            await stuck.send(b'{"execute": "query-qmp-schema"}' * 60)
            stuck.half_close()
            await served.settle(1)
            assert served.server.connections
            await served.settle(2 * STALL_LIMIT)
            assert not served.server.connections

        play(scene)

    def test_a_long_line_echoes_no_faster_than_it_is_read(self) -> None:
        async def scene(served: Served) -> None:
            stuck = await served.hmp()
            await stuck.send(b"x" * 4000)  # echoed, this is 32 MB
            await served.settle(1)
            (connection,) = served.server.connections
            assert connection.unsent < 4 * SEND_SIZE
            await served_next(served)

        play(scene)


class TestMessages:
    @pytest.mark.parametrize("opening", [b"[", b'{"a": ', b'[{"a": '])
    def test_thousands_of_levels_deep(self, opening: bytes) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            found = await errors(client, opening * 20_000)
            assert "JSON nesting depth limit exceeded" in found
            await served_next(served)

        play(scene)

    def test_objects_without_a_newline(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            found = await errors(client, b"{}" * 10_000)
            assert found.count("QMP input lacks member 'execute'") == 10_000
            await served_next(served)

        play(scene)

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff",
            b"\xc3(",
            b'{"execute": "\xff"}',
            b'"\xed\xa0\x80" ',
            b"\x80" * 5000,
            bytes(range(256)) * 40,
            b"\0" * 999,
        ],
    )
    def test_what_is_no_text(self, data: bytes) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            assert await errors(client, data)
            person = await served.hmp()
            await person.send(data.translate(None, b"\t") + b"\x05\x17\n")
            assert await person.until(b"(qemu) ")
            person.hang_up()
            await served_next(served)

        play(scene)

    def test_garbage_is_answered_no_faster_than_answers_are_read(self) -> None:
        async def scene(served: Served) -> None:
            stuck = await served.qmp()
            sending = asyncio.ensure_future(stuck.send(b"}" * MIB))
            await served.settle(1)
            (connection,) = served.server.connections
            assert connection.unsent < 4 * SEND_SIZE
            await served_next(served)
            sending.cancel()

        play(scene)

    def test_half_a_message_and_then_silence(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.send(b'{"execute": "query-name", "arguments": {"x": "' + b"x" * 100_000)
            await served_next(served)
            assert await client.quiet(UNFINISHED_LIMIT - 1)
            assert "did not come" in (await client.answer())["error"]["desc"]
            await served_next(served)

        play(scene)

    def test_half_a_message_and_then_the_end(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.send(b'{"execute": ')
            client.half_close()
            assert await client.rest() == b""
            await served_next(served)

        play(scene)


class TestComingAndGoing:
    def test_clients_that_leave_at_once(self) -> None:
        async def scene(served: Served) -> None:
            for kind in ("qmp", "monitor") * 100:
                client = await served.raw(kind)
                client.hang_up()
            await served.settle(0.1)
            assert not served.server.connections
            assert served.server.clients == 0
            await served_next(served)

        play(scene)

    def test_clients_that_ask_and_leave_rudely(self) -> None:
        async def scene(served: Served) -> None:
            for count in range(60):
                client = await served.raw(("qmp", "monitor")[count % 2])
                await client.send(b'info balloon\n{"execute": "qmp_capabilities"}{"execute": "query-balloon"}')
                await served.settle()
                client.reset()
            await served.settle(0.1)
            assert not served.server.connections
            assert len(served.machine.requests.pending) <= 1  # the one of QMP, which serves all clients
            await served_next(served)

        play(scene, "silent", "monitor=tcp:127.0.0.1:0", "qmp=tcp:127.0.0.1:0")

    def test_a_hundred_at_once_that_all_wait(self) -> None:
        async def scene(served: Served) -> None:
            clients: list[Qmp] = [await served.qmp() for _ in range(100)]
            for id, client in enumerate(clients):
                await client.order("human-monitor-command", id, command_line="info balloon")
            for id, client in enumerate(clients):
                assert (await client.answer())["id"] == id
            assert served.loop.time() == pytest.approx(5)

        play(scene, "silent")


# In a process of its own, which must stay small.


@pytest.fixture
def program(tmp_path: object) -> Iterator[Program]:
    with Program("--headless", "--qmp", f"unix:{tmp_path}/q", "--monitor", f"unix:{tmp_path}/m") as found:
        yield found
        assert found.end() == (0, "", "")


def next_is_served(program: Program) -> None:
    talker = program.qmp()
    assert talker.ask("query-name") == {"return": {}}
    talker.close()


def pour(client: socket.socket, piece: bytes, count: int, take: Callable[[bytes], None]) -> None:
    """Send a piece many times while reading what comes back."""
    client.setblocking(False)
    todo = memoryview(piece)
    while count:
        readable, writable, _ = select.select([client], [client], [], PATIENCE)
        assert readable or writable
        if readable:
            take(client.recv(1 << 20))
        if writable:
            todo = todo[client.send(todo) :]
            if not todo:
                count -= 1
                todo = memoryview(piece)
    client.setblocking(True)
    client.settimeout(PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestBoundedMemory:
    def test_a_message_of_a_gigabyte(self, program: Program) -> None:
        talker = program.qmp()
        said: list[bytes] = []
        talker.socket.sendall(b'{"execute": "query-name", "arguments": {"x": "')
        pour(talker.socket, b"x" * MIB, 1024, said.append)
        assert program.peak_memory < ORDINARY_MEMORY
        next_is_served(program)
        talker.socket.sendall(b'"}}\xff\xff\n{"execute": "query-uuid"}')
        while b'"UUID"' not in said[-1]:
            said.append(talker.socket.recv(1 << 16))
        assert b"JSON token size limit exceeded" in b"".join(said)
        talker.close()

    def test_a_typed_line_without_an_end(self, program: Program) -> None:
        with program.connect("monitor") as client:
            client.sendall(b"x" * 4095)
            heard = [0]
            pour(client, b"x" * MIB, 16, lambda data: heard.__setitem__(0, heard[0] + len(data)))
        assert program.peak_memory < ORDINARY_MEMORY
        next_is_served(program)

    def test_a_million_objects_without_a_newline(self, program: Program) -> None:
        talker = program.qmp()
        errors = [0]
        pour(talker.socket, b"{}" * 10_000, 100, lambda data: errors.__setitem__(0, errors[0] + data.count(b"error")))
        next_is_served(program)
        assert errors[0] > 500_000
        assert program.peak_memory < ORDINARY_MEMORY
        talker.close()

    def test_a_million_levels(self, program: Program) -> None:
        talker = program.qmp()
        talker.socket.sendall(b"[" * 1_000_000)
        assert "nesting depth" in talker.message()["error"]["desc"]
        next_is_served(program)
        assert program.peak_memory < ORDINARY_MEMORY
        talker.close()

    def test_a_thousand_clients_at_once(self, program: Program) -> None:
        clients = [program.connect(("qmp", "monitor")[number % 2]) for number in range(1000)]
        try:
            for client in clients:
                assert client.recv(4096).startswith((b'{"QMP"', b"QEMU"))
            for client in clients[::2]:
                client.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-balloon", "id": 1}')
            for client in clients[1::2]:
                client.sendall(b"info balloon\n")
            for number, client in enumerate(clients):
                end, data = (b"(qemu) ", b'"id": 1}\r\n')[number % 2 == 0], b""
                while end not in data:
                    data += client.recv(1 << 16)
            assert program.peak_memory < 2 * ORDINARY_MEMORY
            next_is_served(program)
        finally:
            for client in clients:
                client.close()

    def test_a_thousand_connects_and_disconnects_a_second(self, program: Program) -> None:
        def hundreds() -> float:
            start = time.monotonic()
            for number in range(300):
                program.connect(("qmp", "monitor")[number % 2]).close()
            next_is_served(program)
            return time.monotonic() - start

        for _ in range(10):
            hundreds()
        takes_less_than(0.3, hundreds, tries=50)
        assert program.peak_memory < ORDINARY_MEMORY

    def test_a_client_that_never_reads_among_ones_that_do(self, program: Program) -> None:
        stuck, other = program.qmp(), program.qmp()
        slowest = 0.0
        for number in range(15_000):
            start = time.monotonic()
            other.ask("system_reset" if number % 2 else "query-balloon")
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < STALL_LIMIT / 6, "it waited for the one that never reads, not for a processor"
        data = b"x"
        while data:  # what it was sent, then the end
            data = stuck.socket.recv(1 << 20)
        assert program.peak_memory < ORDINARY_MEMORY
        for talker in (stuck, other):
            talker.close()
