"""Faults of the wire that a test sets, as a client sees them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable

import pytest

from device.clock import SECOND, SimulatedClock
from hmp.monitor.faults import PIECE, Fault, Words
from hmp.monitor.session import MOST_HELD
from tests.support.shell import ROOT
from tests.support.sockets import PROMPT, Hmp, Qmp, Served, play

Scene = Callable[[Served, Qmp, Hmp], Awaitable[None]]


def staged(scene: Scene, **options: object) -> None:
    """Play `scene` with client 1, of QMP, and client 2, at the human monitor, which sets the faults."""

    async def run(served: Served) -> None:
        client = await served.qmp()
        strings = await served.hmp()
        await scene(served, client, strings)

    play(run, "linux", **options)  # type: ignore[arg-type]


async def sim(strings: Hmp, line: str) -> None:
    assert await strings.say(f"sim {line}") == ""


STATUS = {"status": "running", "singlestep": False, "running": True}


def test_a_swallowed_command() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-status times 1 never")
        await client.order("query-status", 1)
        assert (await client.ask("query-name", 2))["id"] == 2
        assert (await client.ask("query-status", 3))["id"] == 3

    staged(scene)


def test_a_reply_has_an_old_id_or_none() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-status times 1 usual id stale")
        await client.ask("query-name", "old")
        assert await client.ask("query-status", "new") == {"return": STATUS, "id": "old"}
        await sim(strings, "reply query-status usual id none")
        assert await client.ask("query-status", "new") == {"return": STATUS}

    staged(scene)


def test_an_event_before_the_reply() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, 'reply stop usual event BLOCK_JOB_READY {"device": "d", "x": [{}]} event B')
        assert await client.ask("stop") == {"return": {}}
        assert [(each["event"], each.get("data")) for each in client.events] == [
            ("BLOCK_JOB_READY", {"device": "d", "x": [{}]}), ("B", None), ("STOP", None)]  # fmt: skip

    staged(scene)


def test_an_unfinished_frame() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-status usual cut-after 12")
        await client.order("query-status")
        await client.order("quit")
        assert await client.rest() == b'{"return": {'
        assert not served.machine.over  # the command after it did not run

    staged(scene)


def test_an_oversized_frame_is_still_json() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-status usual pad 100000")
        await client.order("query-status", 5)
        line = await client.until(b"\r\n")
        assert len(line) > 100_000
        assert json.loads(line) == {"return": STATUS, "id": 5}

    staged(scene)


@pytest.mark.parametrize("data", [b'{"return": {"a": []}}\r\n', b"VM status: running\r\n", b"", b"}}"])
@pytest.mark.parametrize("pad", [0, 1, 30])
@pytest.mark.parametrize("split", [0, 1, 7, 1000])
def test_the_pieces_of_a_reply(data: bytes, pad: int, split: int) -> None:
    end = len(data.rstrip(b"}\r\n"))
    padded = data[:end] + b" " * pad + data[end:]
    for cut in (None, 1, end or 1, end + pad + 1, 99):
        manner = f" pad {pad}" * bool(pad) + f" split {split}" * bool(split) + f" cut-after {cut}" * bool(cut)
        pieces = [*Fault(Words(f"x usual{manner}"), 0).pieces(data)]
        assert b"".join(pieces) == padded[:cut]
        assert all(len(piece) == split for piece in pieces[:-1])
        assert all(pieces)


def test_the_largest_reply_in_the_smallest_pieces_takes_no_time() -> None:
    fault = Fault(Words("x usual pad 67108864 split 1"), 0)
    assert next(fault.pieces(b"{}\r\n")) == b"{"
    begun = time.process_time()
    assert sum(1 for _ in zip(range(1000), fault.pieces(b"{}"), strict=False)) == 1000
    assert time.process_time() - begun < 0.5
    whole = [*Fault(Words("x usual pad 67108864"), 0).pieces(b"{}\r\n")]
    assert (max(map(len, whole)), sum(map(len, whole))) == (PIECE, 67108864 + 4)


@pytest.mark.parametrize("manner", ["", " split 1000000", " split 500000 0.01"])
def test_a_client_that_reads_late_gets_an_oversized_frame_whole(manner: str) -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, f"reply query-status usual pad 8000000{manner}")
        await client.order("query-status", 5)
        for _ in range(20):
            await strings.say("info status")
            await asyncio.sleep(0.1)  # of the test's clock
        assert not client.data
        await client.order("query-name", 6)
        line = await client.until(b"\r\n")
        assert len(line) == 8_000_000 + len(json.dumps({"return": STATUS, "id": 5})) + 2
        assert await client.answer() == {"return": {}, "id": 6}

    staged(scene)


def test_a_late_greeting_and_the_last_reply_come_whole_in_pieces() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply greeting usual pad 3000000 split 1000000 0")
        other = await served.qmp(negotiate=False)  # reads the greeting
        await sim(strings, "reply quit usual split 5 0")
        await other.order("qmp_capabilities")
        await other.order("quit", 1)
        assert (await other.until(b'"id": 1}\r\n')).endswith(b'\r\n{"return": {}, "id": 1}\r\n')

    staged(scene)


def test_events_that_wait_for_an_answer_in_pieces_are_bounded() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-status usual split 1 3600")
        await client.order("query-status")
        await client.until(b"{")
        await sim(strings, f"event NOISE count {MOST_HELD}")
        assert await client.quiet()
        await sim(strings, "event NOISE")
        assert b"NOISE" not in await client.rest()

    staged(scene)


def test_a_flood_of_events() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, 'event NOISE {"n": 1} count 5000')
        for _ in range(5000):
            assert (await client.event())["event"] == "NOISE"
        assert await client.ask("query-name") == {"return": {}}

    staged(scene)


def test_events_one_by_one() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "event TICK count 3 every 10")
        begun = served.loop.time()
        times = [((await client.event())["event"], round(served.loop.time() - begun)) for _ in range(3)]
        assert times == [("TICK", 0), ("TICK", 10), ("TICK", 20)]

    staged(scene)


def test_refused_capabilities() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, 'reply qmp_capabilities error CommandNotFound "not today"')
        other = await served.qmp(negotiate=False)
        assert (await other.ask("qmp_capabilities"))["error"] == {"class": "CommandNotFound", "desc": "not today"}
        assert "Expecting capabilities" in (await other.ask("query-name"))["error"]["desc"]

    staged(scene)


@pytest.mark.parametrize("kind", ["qmp", "monitor"])
def test_no_greeting_a_late_one_and_another(kind: str) -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply greeting times 1 never")
        assert await (await served.raw(kind)).quiet(30)
        await sim(strings, "reply greeting times 1 after 20 usual")
        late = await served.raw(kind)
        assert await late.quiet(19)
        assert await late.more()
        await sim(strings, 'reply greeting raw "SSH-2.0\\r\\n"')
        assert await (await served.raw(kind)).until(b"\n") == b"SSH-2.0\r\n"
        await sim(strings, "reply greeting cut")
        assert await (await served.raw(kind)).rest() == b""

    staged(scene)


def test_a_hang_up_in_mid_command() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply stop cut")
        await client.order("stop")
        assert await client.rest() == b""
        assert served.machine.running
        assert (await (await served.qmp()).ask("query-name")) == {"return": {}}

    staged(scene)


def test_a_reply_in_pieces_and_nothing_in_between() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-name usual split 5 2")
        await client.order("query-name")
        begun = served.loop.time()
        assert await client.until(b"t") == b'{"ret'
        await sim(strings, "event NOISE")
        await client.order("query-status")
        assert json.loads(b'{"ret' + await client.until(b"\r\n")) == {"return": {}}
        assert served.loop.time() - begun == pytest.approx(6, abs=0.1)
        assert (await client.message())["event"] == "NOISE"
        assert await client.answer() == {"return": STATUS}

    staged(scene)


def test_a_late_reply_is_a_suspended_monitor_so_the_warp_clock_jumps() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        before = served.machine.clock.now()
        await sim(strings, "reply query-status after 90 usual")
        assert await client.ask("query-status") == {"return": STATUS}
        assert served.machine.clock.now() - before == 90 * SECOND
        await sim(strings, 'reply "info name" after 30 usual split 2 10')
        other = await served.hmp()
        assert await other.say("info name") == ""
        assert served.machine.clock.now() - before >= 130 * SECOND

    staged(scene, clock=SimulatedClock(warps=True))


def test_answers_of_any_kind() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, 'reply query-nosuch return [1, {"a": "} x"}, null]')
        assert await client.ask("query-nosuch", 1) == {"return": [1, {"a": "} x"}, None], "id": 1}
        await sim(strings, 'reply * error GenericError "all is lost"')
        assert (await client.ask("query-name"))["error"]["desc"] == "all is lost"
        assert await client.ask("query-nosuch") == {"return": [1, {"a": "} x"}, None]}
        await sim(strings, 'reply query-name raw "HTTP/1.1 200\\n"')
        await client.order("query-name")
        assert await client.until(b"\n") == b"HTTP/1.1 200\n"

    staged(scene)


def test_lines_of_the_human_monitor() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        other = await served.hmp()
        await sim(strings, 'reply "info  status" return "VM status: on fire\\n"')
        assert await other.say("info status") == "VM status: on fire\n"
        assert await strings.say("info status") == "VM status: running\n"  # not for the client that set it
        assert await client.line("info status") == {"return": "VM status: on fire\n"}
        await sim(strings, 'reply "info status" error GenericError "no"')
        assert await other.say("info status") == "Error: no\n"
        await sim(strings, 'reply "info status" never')
        await other.send(b"info status\ninfo name\n")
        assert b"VM status" not in await other.until(PROMPT)
        await sim(strings, 'reply "info status" usual cut-after 9')
        await other.send(b"info status\n")
        assert (await other.rest()).endswith(b"VM status")

    staged(scene)


def test_an_empty_answer_in_pieces_is_as_a_swallowed_command() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        other = await served.hmp()
        for what in ("query-name", '"info name"'):
            await sim(strings, f'reply {what} times 1 raw "" split 3')
        await client.order("query-name")
        await other.send(b"info name\ninfo status\n")
        assert await client.ask("query-name") == {"return": {}}
        assert b"VM status: running" in await other.until(b"running")

    staged(scene)


def test_a_misbehaviour_is_for_one_client_or_for_oneself() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        other = await served.qmp()  # client 3
        await sim(strings, "reply query-name client 3 return 3")
        assert await client.ask("query-name") == {"return": {}}
        assert await other.ask("query-name") == {"return": 3}
        await sim(strings, 'reply "info kvm" client self return "me"')
        assert (await strings.say("info kvm")).startswith("me")
        assert await other.line("info kvm") == {"return": "kvm support: disabled\r\n"}

    staged(scene)


def test_what_is_set_is_listed_and_taken_back() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        assert await strings.say("sim reply") == "all replies are as usual\n"
        lines = ["query-status times 3 after 0.5 usual event X {\"a\": 1} event \"a b\" split 4 0.01 pad 9 id none cut-after 8",
                 '"info name" client 7 return "x"', 'query-name error A "b"', 'greeting raw "\\u001b"']  # fmt: skip
        for line in lines:
            await sim(strings, f"reply {line}")
        assert (await strings.say("sim reply")).splitlines() == lines
        assert [
            line.split(None, 1)[1] for line in (await strings.say("sim")).splitlines() if line.startswith("reply ")
        ] == lines
        await sim(strings, 'reply "info name" default')
        await sim(strings, "reply query-name default")
        assert (await strings.say("sim reply")).splitlines() == [lines[0], lines[3]]
        await sim(strings, "reply default")
        assert await strings.say("sim reply") == "all replies are as usual\n"
        assert (await client.ask("query-status", 4)) == {"return": STATUS, "id": 4}

    staged(scene)


@pytest.mark.parametrize("kind", ["qmp", "monitor"])
def test_half_a_surrogate_pair_can_be_sent(kind: str) -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, 'reply greeting raw "\\ud83d \\udcff\\n"')
        assert await (await served.raw(kind)).until(b"\n") == b"\xed\xa0\xbd \xed\xb3\xbf\n"
        await sim(strings, 'wire garbage "\\ud83d\\n"')
        assert await client.until(b"\n") == b"\xed\xa0\xbd\n"

    staged(scene)


def test_a_client_is_cut_off_sent_garbage_and_listed() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        rows = (await strings.say("sim wire")).splitlines()
        assert [row.split()[:3] for row in rows] == [["client", "1", "qmp"], ["client", "2", "monitor"]]
        await sim(strings, 'wire garbage "\\u0000{\\n" client 1')
        assert await client.until(b"\n") == b"\0{\n"
        await sim(strings, "wire cut")
        assert await client.rest() == b""
        assert await strings.say("sim wire cut") == "Error: there is no other client\n"
        assert await strings.say("sim wire cut client 1") == "Error: there is no client 1\n"

    staged(scene)


def test_one_client_at_a_time_the_second_waits_as_with_qemu() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "wire one-client on")
        second, third = await served.raw(), await served.raw()
        assert await second.quiet(5)
        client.hang_up()
        await second.until(b"\r\n")
        assert await third.quiet(5)
        await sim(strings, "wire one-client off")
        await third.until(b"\r\n")

    staged(scene)


async def seen(served: Served, what: str) -> tuple[bytes, float]:
    """Return all that a client gets which asks for `what` between two other things, and the seconds that it takes."""
    line = {"execute": "human-monitor-command", "arguments": {"command-line": "info block"}}
    command = line if what.startswith('"') else {"execute": what}
    begin, client = served.loop.time(), await served.raw()
    asked = [{"execute": "qmp_capabilities"}, {"execute": "query-name"}, command, {"execute": "query-uuid"}]
    await client.send(b"".join(json.dumps({**each, "id": number}).encode() for number, each in enumerate(asked)))
    client.half_close()
    return await client.rest(), served.loop.time() - begin


RECIPES = re.findall(
    r"`(sim [^`]*)`",
    (ROOT / "docs/fake-qemu.md").read_text().partition("| your client should survive | say |")[2].partition("\n\n")[0],
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_client_notices_each_recipe_of_the_docs(recipe: str) -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        what = recipe.split()[2]
        what = "query-name" if what == "greeting" else what
        if asks := recipe.startswith("sim reply"):
            await seen(served, what)  # such as stop, which does something the first time only
            before = await seen(served, what)
            assert await seen(served, what) == before
        await sim(strings, recipe.removeprefix("sim "))
        if asks:
            assert await seen(served, what) != before
        elif "one-client" in recipe:
            assert await (await served.raw()).quiet()
        elif "event" in recipe:
            assert (await client.message())["event"] == what
        else:
            assert (await client.more(), client.data[:1]) in ((False, b""), (True, b"\0"))

    staged(scene)


def test_there_is_a_recipe_for_each_misbehaviour() -> None:
    assert len(RECIPES) >= 18


WRONG = {
    "reply query-name": "an answer (usual, return, error, raw, never or cut) is missing",
    "reply query-name maybe": "'maybe' is not an answer (usual, return, error, raw, never, cut)",
    "reply query-name return": "what to return is missing",
    "reply query-name return {x": "'{x' is not JSON (what to return)",
    "reply query-name return [-Infinity]": "'[-Infinity]' is not JSON (what to return)",
    "reply query-name error A": "the text of the error is missing",
    "reply query-name error A b": "'b' is not JSON (the text of the error)",
    "reply query-name raw 1": "what to send is not a string in double quotes",
    "reply query-name usual often": "'often' is not a manner (event, split, pad, id, cut-after)",
    "reply query-name never pad 3": "pad makes no sense where there is no reply",
    "reply query-name cut split 3": "split makes no sense where there is no reply",
    "reply greeting return 1": "a greeting cannot have the answer return",
    "reply greeting usual id stale": "id makes no sense without a command of QMP",
    'reply "info name" usual event X': "event makes no sense without a command of QMP",
    "reply query-name usual id new": "id takes stale or none, not 'new'",
    "reply query-name usual split 0": "split takes a number from 1 to 1073741824, not '0'",
    "reply query-name times x usual": "times takes a number from 1 to 2147483648, not 'x'",
    "reply query-name client -1 usual": "client takes a number from 1 to 2147483648, not '-1'",
    "reply query-name after 9999 usual": "after takes at most 3600 seconds",
    "reply query-name after x usual": "'x' is not a number of seconds",
    'reply "info': "'\"info' is not JSON (the line)",
    "event X count 1000001": "count takes a number from 1 to 1000000, not '1000001'",
    "event X {} y": "'y' makes no sense here",
    'event X {"a": NaN}': "'{\"a\": NaN}' is not JSON (the data of the event)",
    'event ""': "the name of the event is missing",
    'event "STOP': "'\"STOP' is not JSON (the name of the event)",
    "event X {": "'{' is not JSON (the data of the event)",
    "wire explode": "sim wire takes cut, garbage or one-client, not 'explode'",
    "wire garbage": "the garbage is missing",
    "wire one-client": "on or off is missing",
    "wire one-client maybe": "one-client takes on or off, not 'maybe'",
    "wire one-client on client 1": "'client' makes no sense here",
    "wire cut client x": "client takes a number from 1 to 2147483648, not 'x'",
    "reply x return " + "[" * 1100: "is not JSON (what to return)",
}


def test_what_makes_no_sense_is_refused_in_one_line_and_nothing_is_set() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        for line, words in WRONG.items():
            said = await strings.say(f"sim {line}")
            assert said.startswith("Error: "), line
            assert said.endswith(f"{words}\n"), (line, said)
            assert said.count("\n") == 1
        assert await strings.say("sim reply") == "all replies are as usual\n"

    staged(scene)


def test_the_name_of_an_event_may_stand_in_quotes() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, 'event "STOP" {"n": 1}')
        await sim(strings, 'reply query-name usual event "X y"')
        assert (await client.message())["event"] == "STOP"
        await client.order("query-name")
        assert (await client.message())["event"] == "X y"

    staged(scene)


def test_without_a_server_there_is_no_wire() -> None:
    from tests.support.machines import monitor_on, run

    assert run(monitor_on(), "sim wire").text == "Error: no client can connect: start hmp with --qmp or --monitor\n"
    assert run(monitor_on(), "sim event X").failed
    # In the log client 0 is the script or the prompt; clients on sockets are numbered from 1.
    told = "Error: client self: this line is not from a client; faults only affect clients\n"
    assert run(monitor_on(), 'sim reply "info kvm" client self return 1').text == told
    assert run(monitor_on(), "sim reply x client 0 never").text.startswith("Error: client takes a number from 1")
    assert run(monitor_on(), "sim log").text == "Error: there is no log: start hmp with --log FILE\n"


def test_it_ends_while_replies_are_held_back() -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, "reply query-name after 50 usual")
        await sim(strings, "event X count 100 every 1")
        await client.order("query-name")
        await served.settle(1)
        await strings.send(b"quit\n")
        await served.settle(1)
        assert served.machine.over

    staged(scene)


@pytest.mark.parametrize(("line", "name", "most"), [
    ("reply stop client {} never", "client", 1 << 31),
    ("reply stop times {} never", "times", 1 << 31),
    ("reply stop usual split {}", "split", 1 << 30),
    ("reply stop usual pad {}", "pad", 64 << 20),
    ("reply stop usual cut-after {}", "cut-after", 1 << 30),
])  # fmt: skip
def test_the_largest_number_is_taken_and_one_more_refused(line: str, name: str, most: int) -> None:
    async def scene(served: Served, client: Qmp, strings: Hmp) -> None:
        await sim(strings, line.format(most))
        refused = await strings.say("sim " + line.format(most + 1))
        assert refused == f"Error: {name} takes a number from 1 to {most}, not '{most + 1}'\n"

    staged(scene)
