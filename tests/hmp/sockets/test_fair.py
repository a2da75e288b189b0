"""Many clients: what one does costs the others little, and after it has left nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from device.machine.events import Stopped, WasReset
from hmp.sockets.connection import GONE_CLIENTS, RECEIVE_SIZE, UNSENT_LIMIT
from tests.support.sockets import Served, play

UNFINISHED = b'{"execute":"' + b"x" * 100_000
WAITS = b'{"execute": "qmp_capabilities"}{"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}}'


class TestGone:
    @pytest.mark.parametrize("data", [b"", UNFINISHED, WAITS, b"info balloon\ninfo balloon\n", b"help\n" * 3000])
    @pytest.mark.parametrize("kind", ["monitor=unix:", "monitor=telnet:", "qmp=unix:"])
    @pytest.mark.parametrize("way", ["hang_up", "half_close", "reset"])
    def test_nothing_is_kept_of_who_is_gone_even_without_a_collector(self, kind: str, data: bytes, way: str) -> None:
        async def scene(served: Served) -> None:
            client = await served.raw(kind)
            await client.send(data)
            await served.settle()
            kept = [weakref.ref(connection) for connection in served.server.connections]
            assert kept
            getattr(client, way)()
            if way == "half_close":
                await client.rest()
            await served.settle(10)
            assert not served.server.connections
            assert [each() for each in kept] == [None]

        gc.collect()
        gc.disable()
        try:
            play(scene, "silent", "monitor=unix:m", "qmp=unix:q", "monitor=telnet:127.0.0.1:0")
        finally:
            gc.enable()

    def test_who_is_cut_off_is_forgotten_too(self) -> None:
        async def scene(served: Served) -> None:
            await served.qmp()
            (connection,) = served.server.connections
            kept = weakref.ref(connection)
            del connection
            while served.server.connections:
                served.machine.emit(WasReset(guest=False, reason="x" * (UNSENT_LIMIT // 10)))
                await served.settle()
            assert kept() is None

        gc.collect()
        gc.disable()
        try:
            play(scene)
        finally:
            gc.enable()


class TestMuchToRun:
    def test_of_many_that_leave_much_behind_little_is_kept_and_each_gets_a_turn(self) -> None:
        async def scene(served: Served) -> None:
            served.server.now = Ticking()
            other = await served.hmp()
            told: list[str] = []
            served.machine.subscribe(lambda event: told.append(event.name))
            for number in range(300):
                client = await served.hmp()
                await client.send((b"stop\n", b"cont\n")[number % 2] + b"info name\n" * 1000)
                client.hang_up()
            while len(told) < 300 or served.server.clients > len(served.server.connections):
                assert served.server.clients - len(served.server.connections) <= GONE_CLIENTS + 16
                await served.settle()
            assert told == ["STOP", "RESUME"] * 150
            assert await other.say("info status") == "VM status: running\n"

        play(scene)


class TestBalloonEvents:
    def test_who_does_not_read_gets_the_newest_alone(self) -> None:
        async def scene(served: Served) -> None:
            await served.qmp()
            (stuck,) = served.server.connections
            asks = await served.qmp()
            while not stuck.unsent:
                served.machine.emit(WasReset(guest=False, reason="x" * 1000))
            sizes = set()
            for megabytes in range(100, 200):
                await asks.ask("balloon", value=megabytes << 20)
                await asks.ask("query-balloon")
                await served.settle()
                sizes.add(stuck.unsent)
            assert max(sizes) - min(sizes) < 100, "they pile up"
            assert stuck in served.server.connections
            assert await asks.ask("query-name") == {"return": {}}
            assert [event["event"] for event in asks.events].count("BALLOON") == 100

        play(scene)

    def test_who_reads_late_gets_it_behind_what_came_before(self) -> None:
        async def scene(served: Served) -> None:
            late, asks = await served.qmp(), await served.qmp()
            count = 300
            for _ in range(count):
                served.machine.emit(WasReset(guest=False, reason="x" * 1000))
                await asks.ask("query-balloon")
            served.machine.emit(Stopped())
            names = []
            while names[-1:] != ["STOP"]:
                names.append((await late.message())["event"])
            assert names.count("RESET") == count
            assert names[-2] == "BALLOON"
            assert 0 < names.count("BALLOON") <= count

        play(scene)

    def test_a_thousand_that_ask_at_once_get_one_each(self) -> None:
        async def scene(served: Served) -> None:
            clients = [await served.qmp() for _ in range(200)]
            for client in clients:
                client.socket.send(b'{"execute": "query-balloon", "id": 1}')
            for client in clients:
                assert (await client.answer())["id"] == 1
            await served.settle()
            heard = 0
            for client in clients:
                assert "return" in await client.ask("query-name")
                heard += len(client.events)
                assert client.events[-1]["event"] == "BALLOON"
            assert heard <= 3 * len(clients)

        play(scene)

    def test_behind_the_last_reply_there_is_always_one(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.send(b'{"execute": "query-balloon"}' * 20 + b'{"execute": "stop"}')
            names = []
            while names[-1:] != ["STOP"]:
                message = await client.message()
                names.append(message.get("event", "return"))
            assert names.count("return") == 20  # the reply to `stop` comes after its event
            assert names[-2] == "BALLOON"
            assert 1 <= names.count("BALLOON") < 20

        play(scene)


class Ticking:
    """A clock on which everything takes half a millisecond: each reading is so much later than the last."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks / 2000


class TestTurns:
    @pytest.mark.parametrize(
        ("kind", "data", "steps"),
        [
            ("monitor", b"qom-get /" + b"\t" * 2000, 2000),
            ("monitor", b"nothing begins so" + b"\t" * 2000, 2000),
            ("monitor", b"help\n" * 2000, 2000),
            ("monitor", b"\n" * 2000, 2000),
            ("monitor", b"x" * 3000, 300),
            ("qmp", b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 200, 200),
            ("qmp", b"{}" * 5000, 5000),
            ("qmp", b"}" * 5000, 5000),
        ],
    )
    def test_what_takes_long_is_done_bit_by_bit(self, kind: str, data: bytes, steps: int) -> None:
        async def scene(served: Served) -> None:
            other, busy = await served.hmp(), await served.raw(kind)
            clock = served.server.now = Ticking()
            await busy.send(data)
            reading = asyncio.ensure_future(busy.rest())
            await served.settle()
            before = clock.looks
            assert await other.say("info status") == "VM status: running\n"
            assert clock.looks - before < 60
            busy.half_close()
            await reading
            assert clock.looks > steps

        play(scene)

    def test_who_waits_for_a_turn_is_not_read_from(self) -> None:
        async def scene(served: Served) -> None:
            served.server.now = Ticking()
            crowd = [await served.hmp() for _ in range(20)]
            sending = [asyncio.ensure_future(client.send(b"info name\n" * 10_000)) for client in crowd]
            reading = [asyncio.ensure_future(client.rest()) for client in crowd]
            for _ in range(300):
                await asyncio.sleep(0)
                assert all(len(each._received) <= RECEIVE_SIZE for each in served.server.connections)
            await asyncio.gather(*sending)
            for client in crowd:
                client.half_close()
            await asyncio.gather(*reading)

        play(scene)

    def test_what_comes_in_pieces_before_its_turn_is_one_line(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            (connection,) = served.server.connections
            connection._turn_soon()  # as when a client reads again
            for piece in (b"info ", b"sta", b"tus\n"):
                served.server.buffer[: len(piece)] = piece
                connection.buffer_updated(len(piece))
            assert connection._received == b"info status\n"
            assert await client.reply() == "VM status: running\n"

        play(scene, "linux", "monitor=unix:a")

    def test_who_asks_little_goes_ahead_of_a_hundred_that_ask_without_end(self) -> None:
        async def scene(served: Served) -> None:
            clock = served.server.now = Ticking()
            other = await served.hmp()
            await other.say("info status")
            crowd = [await served.hmp() for _ in range(100)]
            for client in crowd:
                client.socket.send(b"info name\n" * 100)
            await served.settle()
            assert served.server.crowded
            before = clock.looks
            assert await other.say("info status") == "VM status: running\n"
            assert clock.looks - before < 60
            for client in crowd:
                for _ in range(100):
                    await client.reply()

        play(scene)
