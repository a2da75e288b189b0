"""QMP on real sockets, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from device.clock import SECOND, SimulatedClock
from device.virtio.spec import MIB
from hmp.sockets.connection import UNFINISHED_LIMIT
from hmp.sockets.server import ASKER_GRACE
from tests.support.sockets import Served, play

LINE = "human-monitor-command"


def stale(seconds: float = 0) -> str:
    """What info balloon prints after a timeout that began so long after the machine was made."""
    return f"balloon: actual=512,age={5000 + round(seconds * 1000)}\r\n"


class TestTalking:
    @pytest.mark.parametrize("where", ["unix:q", "tcp:127.0.0.1:0"])
    def test_greeting_negotiation_commands(self, where: str) -> None:
        async def scene(served: Served) -> None:
            raw = await served.raw()
            assert (await raw.until(b"\r\n")).startswith(b'{"QMP": {"version": ')
            client = await served.qmp()
            assert await client.ask("query-balloon", 1) == {"return": {"actual": 512 * MIB}, "id": 1}

        play(scene, "linux", f"qmp={where}")

    def test_pretty_output_has_a_line_for_each_member(self) -> None:
        async def scene(served: Served) -> None:
            served.server._ports[0].listener.address.pretty = True
            client = await served.raw()
            assert (await client.until(b"\r\n}\r\n")).startswith(b'{\r\n    "QMP": {\r\n        "version": {\r\n')
            await client.send(b'{"execute": "qmp_capabilities"}')
            assert await client.until(b"\r\n}\r\n") == b'{\r\n    "return": {\r\n    }\r\n}\r\n'

        play(scene, "linux", "qmp=unix:q")

    def test_messages_in_pieces_and_in_lumps(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            for byte in b'{"execute": "query-name", "id": 1}':
                await client.send(bytes([byte]))
                await served.settle()
            assert await client.answer() == {"return": {}, "id": 1}
            await client.send(b"{'execute':'query-name','id':%d}" * 3 % (2, 3, 4))
            assert [(await client.answer())["id"] for _ in range(3)] == [2, 3, 4]

        play(scene)

    def test_thousands_in_one_go_come_back_in_order(self) -> None:
        async def scene(served: Served) -> None:
            client, other = await served.qmp(), await served.qmp()
            wanted = [b'{"execute": "query-balloon", "id": %d}' % number for number in range(2000)]
            sending = asyncio.ensure_future(client.send(b"".join(wanted)))
            assert [(await client.answer())["id"] for _ in wanted] == list(range(2000))
            await sending
            assert await other.ask("query-name") == {"return": {}}
            assert {each["event"] for each in other.events} == {"BALLOON"}
            assert len(other.events) <= 2000
            assert (await client.event())["event"] == "BALLOON"

        play(scene)

    def test_one_clients_flood_leaves_the_others_their_turn(self) -> None:
        async def scene(served: Served) -> None:
            flood, other = await served.qmp(), await served.qmp()
            await flood.send(b'{"execute": "query-name"}' * 600)
            await other.order("stop")
            assert await other.answer() == {"return": {}}
            before = 0
            while "event" not in await flood.message():
                before += 1
            assert before < 600

        play(scene, dialect="qemu")

    def test_nothing_but_the_greeting_before_negotiation(self) -> None:
        async def scene(served: Served) -> None:
            client, other = await served.qmp(negotiate=False), await served.qmp()
            await other.ask("query-balloon")
            await other.ask("stop")
            assert await client.quiet()
            await client.ask("qmp_capabilities")
            await other.ask("cont")
            assert (await client.event())["event"] == "RESUME"

        play(scene)


class TestBalloonEvent:
    def test_it_comes_when_a_slow_guest_answers(self) -> None:
        async def scene(served: Served) -> None:
            asks, hears, plain = await served.qmp(), await served.qmp(), await served.qmp(served.names[1][4:])
            assert await asks.ask("query-balloon", "x") == {"return": {"actual": 512 * MIB}, "id": "x"}
            event = await hears.event()
            assert served.loop.time() == pytest.approx(2)
            assert event["timestamp"] == {"seconds": 10**9 + 2, "microseconds": 0}
            assert (event["event"], "free_mem" in event["data"]) == ("BALLOON", True)
            assert await asks.event() == event
            assert await plain.quiet(10)
            assert await hears.quiet(10)

        play(scene, "slow,delay=2", "qmp=unix:q", "qmp=unix:plain,dialect=qemu")

    def test_a_silent_guest_leads_to_no_event_and_no_error(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.ask("query-balloon")
            assert await client.quiet(3000)

        play(scene, "silent")

    def test_an_answer_later_than_any_timeout_still_raises_it(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.ask("query-balloon")
            assert (await client.event())["event"] == "BALLOON"
            assert served.loop.time() == pytest.approx(100)

        play(scene, "slow,delay=100")

    def test_on_the_warp_clock_it_comes_while_somebody_waits(self) -> None:
        clock = SimulatedClock(warps=True)

        async def scene(served: Served) -> None:
            client, human = await served.qmp(), await served.hmp()
            await client.ask("query-balloon")
            assert await client.quiet(100)
            await human.say("sim sleep 3")
            assert (await client.event())["event"] == "BALLOON"

        play(scene, "slow,delay=2", clock=clock)

    def test_changes_are_sent_at_most_once_a_second_and_the_last_always(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await served.settle(10)
            await client.ask("balloon", value=512 * MIB)
            times, sizes = [], []
            while not sizes or sizes[-1] != 512 * MIB:
                event = await client.event()
                assert event["event"] == "BALLOON_CHANGE"
                times.append(served.loop.time())
                sizes.append(event["data"]["actual"])
            assert len(times) > 3
            assert min(later - sooner for sooner, later in pairwise(times)) > 0.9999
            stamp = event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6 - 1e9
            assert times[-1] - 1 < stamp < times[-1]

        play(scene, "linux,pace=100M", memory=1024)

    def test_on_the_manual_clock_too(self) -> None:
        clock = SimulatedClock(warps=False)

        async def scene(served: Served) -> None:
            client, human = await served.qmp(), await served.hmp()
            await human.say("sim sleep 10")
            await client.ask("balloon", value=256 * MIB)
            assert await client.quiet(100)
            await human.say("sim sleep 30")
            sizes: list[int] = []
            while not await client.quiet(0.1):
                event = await client.event()
                sizes.append(event["data"]["actual"] // MIB)
            assert sizes[0] > sizes[-1] == 256

        play(scene, "linux", clock=clock)


class TestHumanMonitorCommand:
    def test_it_suspends_only_its_client_within_five_seconds(self) -> None:
        async def scene(served: Served) -> None:
            one, other = await served.qmp(), await served.qmp()
            await one.order(LINE, 1, command_line="info balloon")
            await one.order("query-name", 2)
            await one.order(LINE, 3, command_line="info balloon")
            await one.order("query-kvm", 4)
            assert await other.ask("query-name", 9) == {"return": {}, "id": 9}
            assert served.loop.time() == 0
            assert await one.answer() == {"return": stale(), "id": 1}
            assert served.loop.time() == pytest.approx(5)
            assert await one.answer() == {"return": {}, "id": 2}
            assert await one.answer() == {"return": stale(5), "id": 3}
            assert served.loop.time() == pytest.approx(10)
            assert (await one.answer())["id"] == 4

        play(scene, "silent")

    def test_much_more_behind_it_waits_in_the_socket(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.order(LINE, command_line="info balloon")
            sending = asyncio.ensure_future(client.send(b'{"execute": "query-name"}' * 20_000))
            await served.settle(3)
            assert not sending.done()
            assert (await client.answer())["return"] == stale()
            for _ in range(20_000):
                assert await client.answer() == {"return": {}}
            await sending

        play(scene, "silent")

    def test_twenty_of_each_at_once_with_ids(self) -> None:
        async def scene(served: Served) -> None:
            people = [await served.hmp() for _ in range(20)]
            programs = [await served.qmp() for _ in range(20)]
            for person in people:
                await person.send(b"info balloon\n")
            for id, program in enumerate(programs):
                await program.order(LINE, id, command_line="info balloon")
                await program.order("query-balloon", id + 100)
            await served.settle(1)
            for client in (*people[::4], *programs[::4]):
                client.hang_up()
            for person in people[1::4]:
                assert (await person.reply()).startswith("balloon: actual=512")
                assert await person.quiet(0.001)
            for id, program in list(enumerate(programs))[1::4]:
                reply = await program.answer()
                assert (reply["id"], reply["return"][:7]) == (id, "balloon")
                assert await program.answer() == {"return": {"actual": 512 * MIB}, "id": id + 100}

        for guest in ("silent", "slow,delay=3"):
            play(scene, guest)

    @pytest.mark.parametrize("way", ["hang_up", "reset"])
    def test_hanging_up_cancels_it(self, way: str) -> None:
        async def scene(served: Served) -> None:
            gone = await served.qmp()
            await gone.order(LINE, command_line="info balloon")
            await gone.order("quit")
            await served.settle(0.1)
            assert len(served.machine.requests.pending) == 1
            getattr(gone, way)()
            await served.settle(0.1)
            assert not served.machine.requests.pending
            await served.settle(10)
            assert not served.machine.over

        play(scene, "silent")

    def test_the_warp_clock_jumps_for_it(self) -> None:
        clock = SimulatedClock(warps=True)

        async def scene(served: Served) -> None:
            client = await served.qmp()
            assert (await client.line("info balloon"))["return"] == stale()
            assert (served.loop.time(), clock.now()) == (0, 5 * SECOND)

        play(scene, "silent", clock=clock)


class TestEnds:
    def test_eof_is_a_half_close(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.order(LINE, 1, command_line="info balloon")
            await client.order("query-name", 2)
            client.half_close()
            assert await client.answer() == {"return": stale(), "id": 1}
            assert await client.answer() == {"return": {}, "id": 2}
            assert await client.rest() == b""

        play(scene, "silent")

    def test_quit_is_answered_and_every_client_gets_the_event(self) -> None:
        async def scene(served: Served) -> None:
            client, other, human = await served.qmp(), await served.qmp(), await served.hmp()
            assert await client.ask("quit", 1) == {"return": {}, "id": 1}
            await served.server.stop()
            assert served.loop.time() == pytest.approx(ASKER_GRACE)
            assert (await other.event())["data"] == {"guest": False, "reason": "host-qmp-quit"}
            assert await client.rest() == await other.rest() == await human.rest() == b""

        play(scene)

    def test_quit_in_the_human_monitor_is_an_event_for_qmp_clients(self) -> None:
        async def scene(served: Served) -> None:
            client, human = await served.qmp(), await served.hmp()
            await human.send(b"quit\n")
            assert (await client.event())["event"] == "SHUTDOWN"

        play(scene)

    def test_an_unfinished_message_is_given_up_after_a_while(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.send(b'{"execute": "query-')
            assert await client.quiet(UNFINISHED_LIMIT - 1)
            await client.send(b"na")
            assert await client.quiet(UNFINISHED_LIMIT - 1)
            await client.send(b'me"}')
            assert await client.answer() == {"return": {}}
            assert await client.quiet(UNFINISHED_LIMIT * 2)
            await client.send(b'{"execute": ')
            reply = await client.answer()
            assert "the rest of the message did not come" in reply["error"]["desc"]
            assert await client.ask("query-name") == {"return": {}}

        play(scene)

    def test_but_not_while_an_earlier_command_waits(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.qmp()
            await client.order(LINE, 1, command_line="sim sleep 300")
            await client.send(b'{"execute": ')
            await served.settle(200)
            await client.send(b'"query-name"}')
            assert (await client.answer())["id"] == 1
            assert await client.answer() == {"return": {}}

        play(scene)
