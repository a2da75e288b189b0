"""The human monitor on real sockets, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from device.clock import SECOND, SimulatedClock
from hmp import QEMU_VERSION
from hmp.sockets.connection import RECEIVE_SIZE
from hmp.sockets.readline import TYPE_AHEAD_LIMIT
from tests.support.screen import render
from tests.support.sockets import PROMPT, Served, play

STALE = "balloon: actual=512,age=5000\n"
BANNER = f"QEMU {QEMU_VERSION} monitor - type 'help' for more information\r\n".encode()
WHERE = ("unix:m", "tcp:127.0.0.1:0", "tcp:localhost:0", "telnet:127.0.0.1:0")


class TestTalking:
    @pytest.mark.parametrize("where", WHERE)
    def test_banner_prompt_and_a_command(self, where: str) -> None:
        async def scene(served: Served) -> None:
            raw = await served.raw("monitor")
            opening = bytes.fromhex("fffb01 fffb03 fffb00 fffd00") if where.startswith("telnet") else b""
            assert await raw.until(PROMPT) == opening + BANNER + PROMPT
            await raw.send(b"info status\r")
            assert render((await raw.until(PROMPT)).decode()) == "info status\nVM status: running\n(qemu) "

        play(scene, "linux", f"monitor={where}")

    def test_a_program_that_drops_the_echoed_line_and_keeps_the_rest(self) -> None:
        async def scene(served: Served) -> None:
            raw = await served.raw("monitor")
            await raw.until(PROMPT)
            await raw.send(b"info status\n")
            said = (await raw.until(PROMPT)).decode().removesuffix("(qemu) ")
            assert said.split("\r\n")[1:] == ["VM status: running", ""]

        play(scene)

    def test_what_one_monitor_does_the_others_see(self) -> None:
        async def scene(served: Served) -> None:
            one, other = await served.hmp(), await served.hmp()
            assert await one.say("stop") == ""
            assert await other.say("info status") == "VM status: paused\n"

        play(scene)

    def test_a_dialect_per_address(self) -> None:
        async def scene(served: Served) -> None:
            seed, plain = [await served.hmp(name.partition("=")[2]) for name in served.names]
            assert "free_mem" in await seed.say("info balloon")
            assert await plain.say("info balloon") == "balloon: actual=512\n"

        play(scene, "linux", "monitor=unix:a", "monitor=unix:b,dialect=qemu")

    def test_keys(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"fo st\x01in\x1b[D\x7fi\x04n\x05atus\x01\x1b[C\x1b[C\x1b[3~xx\x17info\x05\r")
            await client.until(PROMPT)
            await client.send(b"inf\tstatx\x08us\r")
            assert await client.reply() == "VM status: running\n"
            await client.send(b"\x1b[A\r")
            assert await client.reply() == "VM status: running\n"

        play(scene)

    def test_history_belongs_to_the_address_and_outlives_its_clients(self) -> None:
        async def scene(served: Served) -> None:
            one, other = [name.partition("=")[2] for name in served.names]
            first = await served.hmp(one)
            await first.say("info name")
            first.hang_up()
            assert await (await served.hmp(one)).say("info history") == "0: 'info name'\n1: 'info history'\n"
            assert await (await served.hmp(other)).say("info history") == "0: 'info history'\n"

        play(scene, "linux", "monitor=unix:a", "monitor=unix:b")

    def test_bytes_from_0x80_up_come_back_and_controls_do_not(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"\xe9\xff \xc3\xa4\n")
            assert b"unknown command: '\xe9\xff'\r\n" in await client.until(PROMPT)

        play(scene)

    def test_a_hash_is_an_unknown_command_here(self) -> None:
        async def scene(served: Served) -> None:
            assert await (await served.hmp()).say("# x") == "unknown command: '#'\n"

        play(scene)

    def test_a_line_is_cut_at_4095_characters(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            sending = asyncio.ensure_future(client.send(b"y" * 5000 + b"\r"))
            said = await client.until(PROMPT)
            await sending
            assert said.endswith(b"\r\nunknown command: '" + b"y" * 4095 + b"'\r\n" + PROMPT)
            assert await client.say("info name") == ""

        play(scene)

    def test_telnet_commands_are_not_typed(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"\xff\xfd\x01info \xff\xfa\x1f\x00\x50\x00\x18\xff\xf0sta\xff\xf1tus\r\0")
            assert await client.reply() == "VM status: running\n"

        play(scene, "linux", "monitor=telnet:127.0.0.1:0")

    def test_ipv6(self) -> None:
        async def scene(served: Served) -> None:
            assert served.name("monitor").startswith("tcp:[::1]:")
            assert await (await served.hmp()).say("info name") == ""

        try:
            play(scene, "linux", "monitor=tcp:[::1]:0")
        except Exception as error:
            if "Cannot assign" in str(error) or "not supported" in str(error):
                pytest.skip("no IPv6 here")
            raise


class TestSuspended:
    def test_no_prompt_until_the_deadline_and_what_is_typed_runs_afterwards(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"info balloon\ninfo name\ninfo sta")
            await client.until(b"\r\n")
            assert await client.quiet(4.9)
            assert render((await client.until(PROMPT)).decode()) == STALE + "(qemu) "
            assert served.loop.time() == pytest.approx(5)
            assert await client.reply() == "vm\n"
            assert await client.say("tus") == "VM status: running\n"

        play(scene, "silent", name="vm")

    def test_too_much_typed_ahead_is_left_unread_and_not_lost(self) -> None:
        lines = 4 * (TYPE_AHEAD_LIMIT + RECEIVE_SIZE) // 10

        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"info balloon\n")
            sending = asyncio.ensure_future(client.send(b"info name\n" * lines))
            assert not await client.quiet()  # the echo of the first line
            await client.until(b"\r\n")
            assert await client.quiet(3)
            assert await client.reply() == ""  # STALE went with the rest of that first line
            for _ in range(lines):
                assert await client.reply() == "vm\n"
            await sending

        play(scene, "silent", name="vm")

    def test_an_answer_in_time_is_fresh(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            assert ",age=" not in await client.say("info balloon")
            assert served.loop.time() == pytest.approx(4.9)

        play(scene, "linux,delay=4.9")

    def test_everyone_asks_and_is_answered_once_in_its_own_time(self) -> None:
        async def scene(served: Served) -> None:
            clients = []
            for _ in range(20):
                client = await served.hmp()
                await client.send(b"info balloon\n")
                await client.until(b"\r\n")
                clients.append((served.loop.time(), client))
                await served.settle(0.1)
            for client in [client for _, client in clients[::3]]:
                client.hang_up()
            del clients[::3]
            for start, client in clients:
                age = 5000 + round(start * 1000)  # since the machine was made
                assert await client.until(PROMPT) == b"balloon: actual=512,age=%d\r\n(qemu) " % age
                assert served.loop.time() == pytest.approx(start + 5)
                assert await client.quiet(0.01)
            assert served.machine.requests.timed_out == len(clients)

        play(scene, "silent")

    def test_hanging_up_cancels_that_clients_request_only(self) -> None:
        async def scene(served: Served) -> None:
            for way in ("hang_up", "reset"):
                gone, stays = [await served.hmp() for _ in range(2)]
                for client in (gone, stays):
                    await client.send(b"info balloon\n")
                    await client.until(b"\r\n")
                assert len(served.machine.requests.pending) == 2
                getattr(gone, way)()
                await served.settle(0.1)
                assert len(served.machine.requests.pending) == 1
                assert await stays.until(PROMPT)

        play(scene, "silent")

    def test_a_reset_over_tcp_does_too(self) -> None:
        async def scene(served: Served) -> None:
            gone = await served.hmp()
            await gone.send(b"info balloon\n")
            await gone.until(b"\r\n")
            gone.reset()
            await served.settle(0.1)
            assert not served.machine.requests.pending

        play(scene, "silent", "monitor=tcp:127.0.0.1:0")

    def test_hanging_up_is_noticed_behind_more_than_is_read(self) -> None:
        async def scene(served: Served) -> None:
            gone = await served.hmp()
            await gone.send(b"info balloon\n" + b"info name\n" * 4000)
            await gone.until(b"\r\n")
            await served.settle(0.5)
            assert len(served.machine.requests.pending) == 1
            gone.hang_up()
            await served.settle(0.1)
            assert not served.machine.requests.pending
            assert not served.server.connections

        play(scene, "silent")

    def test_hanging_up_after_a_half_close_is_noticed(self) -> None:
        async def scene(served: Served) -> None:
            gone = await served.hmp()
            await gone.send(b"info balloon\n")
            gone.half_close()
            await served.settle(1)
            assert len(served.machine.requests.pending) == 1
            gone.hang_up()
            await served.settle(0.1)
            assert not served.machine.requests.pending

        play(scene, "silent")

    def test_another_monitors_command_ends_the_wait(self) -> None:
        async def scene(served: Served) -> None:
            waits, other = await served.hmp(), await served.hmp()
            await waits.send(b"info balloon\n")
            await waits.until(b"\r\n")
            await other.say("device_del balloon0")
            assert await waits.until(PROMPT) == b"Error: No balloon device has been activated\r\n(qemu) "

        play(scene, "silent")

    def test_a_late_answer_is_stored_silently(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            assert (await client.say("info balloon")).endswith(",age=5000\n")
            assert await client.quiet(10)
            device = served.machine.device
            assert device is not None
            assert device.stats.sample is not None
            assert device.stats.sample.collected == 6 * SECOND

        play(scene, "slow,delay=6")


class TestSimulatedClocks:
    def test_the_warp_clock_jumps_while_a_client_waits(self) -> None:
        clock = SimulatedClock(warps=True)

        async def scene(served: Served) -> None:
            client = await served.hmp()
            assert await client.quiet(100)
            assert clock.now() == 0
            assert await client.say("info balloon") == STALE
            assert clock.now() == 5 * SECOND
            assert served.loop.time() == 100  # and no real time passed
            assert await client.quiet(100)
            assert clock.now() == 5 * SECOND

        play(scene, "silent", clock=clock)

    def test_a_client_that_is_gone_moves_it_no_more(self) -> None:
        clock = SimulatedClock(warps=True)

        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"sim sleep 3600\n")
            client.hang_up()
            await served.settle(1)
            before = clock.now()
            await served.settle(10)
            assert clock.now() == before

        play(scene, clock=clock)

    def test_the_manual_clock_is_moved_by_another_monitor(self) -> None:
        clock = SimulatedClock(warps=False)

        async def scene(served: Served) -> None:
            waits, other = await served.hmp(), await served.hmp()
            await waits.send(b"info balloon\ninfo name\n")
            await waits.until(b"\r\n")
            assert await waits.quiet(1000)
            assert await other.say("sim sleep 4.999") == ""
            assert await waits.quiet()
            assert await other.say("sim sleep 0.001") == ""
            assert render((await waits.until(PROMPT)).decode()) == STALE + "(qemu) "
            assert await waits.reply() == "vm\n"

        play(scene, "silent", clock=clock, name="vm")


class TestEnds:
    def test_eof_is_a_half_close(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"info name\ninfo balloon\ninfo status\ninfo na")
            client.half_close()
            text = render((await client.rest()).decode())
            assert served.loop.time() == pytest.approx(5)
            assert text == (
                "info name\nvm\n(qemu) info balloon\n" + STALE
                + "(qemu) info status\nVM status: running\n(qemu) info na"
            )  # fmt: skip
            assert not served.server.connections

        play(scene, "silent", name="vm")

    def test_everything_sent_before_a_half_close_is_answered_to_a_slow_reader(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            sending = asyncio.ensure_future(client.send(b"help\n" * 500))
            await served.settle(1)
            assert not sending.done() or served.server.connections
            texts = 0
            while not sending.done():
                await client.until(PROMPT)
                texts += 1
            client.half_close()
            texts += (await client.rest()).count(PROMPT)
            assert texts == 500

        play(scene)

    def test_what_was_sent_before_hanging_up_still_runs(self) -> None:
        async def scene(served: Served) -> None:
            client = await served.hmp()
            await client.send(b"info name\n" * 300 + b"stop\n")
            client.hang_up()
            await served.settle(0.1)
            assert served.machine.run_state == "paused"

        play(scene)

    def test_quit_ends_the_machine_without_a_prompt(self) -> None:
        async def scene(served: Served) -> None:
            client, other = await served.hmp(), await served.hmp()
            await client.send(b"quit\ninfo status\n")
            await served.settle()
            assert served.machine.over
            await other.send(b"cont\n")
            await served.settle()
            await served.server.stop()
            assert render((await client.rest()).decode()) == "quit\n"
            assert await other.rest() == b""

        play(scene)

    def test_stopping_closes_clients_that_wait_and_that_never_read(self) -> None:
        async def scene(served: Served) -> None:
            waits, stuck = await served.hmp(), await served.hmp()
            await waits.send(b"info balloon\n")
            await stuck.send(b"help\n" * 3000)
            await served.settle()
            await served.server.stop()
            assert not served.server.connections
            assert not served.machine.requests.pending
            assert served.loop.time() < 1

        play(scene, "silent")
