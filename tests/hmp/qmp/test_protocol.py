"""One QMP conversation, bytes in and bytes out; no socket, no loop, simulated time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from device.machine.machine import Machine
from hmp import __version__
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.emulated import emulated
from hmp.qmp.events import EventHub
from hmp.qmp.protocol import QmpSession
from tests.support.machines import build

SCENES = sorted((Path(__file__).parents[2] / "conformance" / "scenes").glob("qmp-*.json"))


class Talk:
    """A session and what it sent."""

    def __init__(
        self, machine: Machine, dialect: str = "seed", *, hub: EventHub | None = None, negotiate: bool = True
    ) -> None:
        self.machine = machine
        self.hub = hub or EventHub(machine)
        self.sent = b""
        self.session = QmpSession(machine, DIALECTS[dialect], self.hub, self._take)
        if negotiate:
            assert self.ask("qmp_capabilities") == {"return": {}}

    def _take(self, data: bytes) -> None:
        self.sent += data

    def send(self, data: bytes | str) -> list[dict[str, Any]]:
        """Feed bytes, handle all messages in them, and return everything sent since the last call."""
        self.session.feed(data.encode() if isinstance(data, str) else data)
        while self.session.step():
            pass
        return self.heard()

    def heard(self) -> list[dict[str, Any]]:
        sent, self.sent = self.sent, b""
        *lines, rest = sent.split(b"\r\n")
        assert rest == b""
        return [json.loads(line) for line in lines]

    def ask(self, name: str, **arguments: object) -> dict[str, Any]:
        """Run a command; the one reply, without the events."""
        message: dict[str, object] = {"execute": name}
        if arguments:
            message["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        (reply,) = [each for each in self.send(json.dumps(message)) if "event" not in each]
        return reply

    def fails(self, name: str, **arguments: object) -> tuple[str, str]:
        reply = self.ask(name, **arguments)
        return reply["error"]["class"], reply["error"]["desc"]


def error(desc: str, kind: str = "GenericError", **id: object) -> dict[str, Any]:
    return {**id, "error": {"class": kind, "desc": desc}}


@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)
def test_every_exchange_of_a_recorded_scene_is_repeated_word_for_word(path: Path) -> None:
    scene = json.loads(path.read_text())
    setting = scene["machine"]
    machine = build(
        "linux" if setting["driver"] else "nodriver",
        memory=setting["memory"],
        paused=setting["paused"],
        balloon=setting["balloon"],
    )
    talk = Talk(machine, "qemu", negotiate=False)
    compared = 0
    for step in scene["steps"]:
        replies = talk.send(step["send"])
        for reply in replies:
            reply.pop("timestamp", None)
        if "skip" not in step:
            assert (step["send"], replies) == (step["send"], step["reply"])
            compared += 1
    assert compared


def test_the_scenes_are_there() -> None:
    assert len(SCENES) == 7


class TestNegotiation:
    def test_the_greeting_names_the_emulated_version_and_ours(self) -> None:
        greeting = Talk(build(), negotiate=False).session.greeting()
        assert greeting.endswith(b"\r\n")
        assert json.loads(greeting) == {
            "QMP": {
                "version": {
                    "qemu": {"micro": 0, "minor": 2, "major": 7},
                    "package": f"hmp-emulator {__version__}",
                },
                "capabilities": ["oob"],
            }
        }

    @pytest.mark.parametrize("name", ["query-balloon", "quit", "nosuch", "human-monitor-command"])
    def test_nothing_runs_before_it(self, name: str) -> None:
        talk = Talk(build(), negotiate=False)
        expected = "Expecting capabilities negotiation with 'qmp_capabilities'"
        assert talk.fails(name) == ("CommandNotFound", expected)
        assert not talk.machine.over

    def test_it_cannot_be_repeated(self) -> None:
        expected = "Capabilities negotiation is already complete, command ignored"
        assert Talk(build()).fails("qmp_capabilities") == ("CommandNotFound", expected)

    def test_a_capability_that_is_not_offered_is_refused_and_negotiation_goes_on(self) -> None:
        talk = Talk(build(), negotiate=False)
        assert talk.fails("qmp_capabilities", enable=["x"])[1] == "Parameter 'null' does not accept value 'x'"
        for enable in ([1], ["oob", None]):
            wrong = f"Invalid parameter type for 'enable[{len(enable) - 1}]', expected: string"
            assert talk.fails("qmp_capabilities", enable=enable, zz=1)[1] == wrong
        assert talk.fails("query-name")[0] == "CommandNotFound"
        assert talk.ask("qmp_capabilities", enable=[]) == {"return": {}}
        assert talk.ask("query-name") == {"return": {}}

    def test_oob_is_accepted_and_no_command_here_supports_it(self) -> None:
        talk = Talk(build(), negotiate=False)
        assert talk.ask("qmp_capabilities", enable=["oob"]) == {"return": {}}
        assert talk.send('{"exec-oob": "stop", "id": 4}') == [error("The command stop does not support OOB", id=4)]
        assert talk.machine.running

    def test_a_second_negotiation_is_read_as_any_command_before_it_is_refused(self) -> None:
        talk = Talk(build(), negotiate=False)
        talk.ask("qmp_capabilities", enable=["oob"])
        already = "Capabilities negotiation is already complete, command ignored"
        assert talk.fails("qmp_capabilities") == ("CommandNotFound", already)
        assert talk.fails("qmp_capabilities", x=1) == ("GenericError", "Parameter 'x' is unexpected")
        unsupported = error("The command qmp_capabilities does not support OOB")
        assert talk.send('{"exec-oob": "qmp_capabilities"}') == [unsupported]

    def test_without_oob_its_member_is_unexpected(self) -> None:
        talk = Talk(build())
        assert talk.send('{"exec-oob": "stop"}') == [error("QMP input member 'exec-oob' is unexpected")]


def test_of_several_wrong_members_the_one_is_named_that_qemu_names() -> None:
    # Recorded from QEMU 7.2, which goes through them in the order of its hash table.
    talk = Talk(build(), negotiate=False)
    talk.ask("qmp_capabilities", enable=["oob"])
    for message, desc in {
        '{"arguments": 1, "execute": 2}': "'execute' must be a string",
        '{"execute": 2, "arguments": 1}': "'execute' must be a string",
        '{"exe0cute": "query-balloon", "if": 1}': "'if' is unexpected",
        '{"path": "/machine", "propery": "type"}': "'propery' is unexpected",
        '{"execute": "query-name", "argumentss": {}, "id0": 1}': "'id0' is unexpected",
        '{"execute": "query-name", "exec-oob": null}': "'exec-oob' must be a string",
        '{"execute": 1, "exec-oob": "query-name"}': "'execute' must be a string",
        '{"execute": "query-name", "exec-oob": "query-name"}': "'execute' clashes with 'exec-oob'",
    }.items():
        assert talk.send(message) == [error(f"QMP input member {desc}")]


def test_of_several_unexpected_arguments_the_one_is_named_that_qemu_names() -> None:
    # Recorded from QEMU 7.2; its visitor has another hash table.
    talk = Talk(build())
    for names in (
        "B value", "property ", "a-b ", "actual é", "polling-interval zz", "é foo zz", "B c y",
        "path bar foo id", "1 bar foo zz id", "B A a a_b path c", "b property zz A a actual foo",
        "path id b nosuch c bar name",
    ):  # fmt: skip
        given = dict.fromkeys(names.split(" "), 1)
        for order in (given, dict(reversed(given.items()))):
            (reply,) = talk.send(json.dumps({"execute": "query-uuid", "arguments": order}))
            assert reply == error(f"Parameter '{names.split(' ')[0]}' is unexpected")


@pytest.mark.parametrize(("name", "arguments", "desc"), [
    ("migrate-set-parameters", {"compress-level": 256}, "Parameter 'compress-level' expects uint8_t"),
    ("migrate-set-parameters", {"x-checkpoint-delay": -1}, "Parameter 'x-checkpoint-delay' expects uint32_t"),
    ("migrate-set-parameters", {"compress-threads": "x"}, "Parameter 'compress-threads' expects uint64"),
    ("migrate-set-parameters", {"max-bandwidth": 1 << 64}, "Parameter 'max-bandwidth' expects uint64"),
    ("migrate-set-parameters", {"compress-threads": 0},
     "Parameter 'compress_threads' expects a value between 1 and 255"),
    ("migrate-set-parameters", {"cpu-throttle-initial": 100},
     "Parameter 'cpu_throttle_initial' expects an integer in the range of 1 to 99"),
    ("migrate-set-parameters", {"max-cpu-throttle": 19},
     "Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99"),
    ("migrate-set-parameters", {"xbzrle-cache-size": 4097},
     "Parameter 'xbzrle_cache_size' expects a power of two no less than the target page size"),
    ("migrate-set-parameters", {"downtime-limit": -1},
     "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms"),
    ("send-key", {"keys": [], "hold-time": 1 << 63}, "Invalid parameter type for 'hold-time', expected: integer"),
    ("screendump", {"filename": "x", "head": 0}, "'head' must be specified together with 'device'"),
    ("screendump", {"filename": "x", "device": "balloon0", "head": 1 << 31},
     "Device balloon0 (head -2147483648) is not bound to a QemuConsole"),
    ("screendump", {"filename": "x", "device": "x"}, "Device 'x' not found"),
    ("input-send-event", {"events": [], "device": "balloon0"},
     "Device balloon0 (head 0) is not bound to a QemuConsole"),
    ("device_add", {"driver": -9223372036854775809}, "'-9.2233720368547758e+18' is not a valid device model name"),
])  # fmt: skip
def test_wrong_arguments_are_refused_in_the_words_of_qemu(name: str, arguments: dict[str, Any], desc: str) -> None:
    # Recorded from QEMU 7.2.
    message = json.dumps({"execute": name, "arguments": arguments})
    (reply,) = Talk(build()).send(message)
    assert reply["error"]["desc"] == desc


def test_what_qemu_takes_for_an_unsigned_number_or_for_the_first_cpu() -> None:
    talk = Talk(build())
    message = '{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": -1, "multifd-zlib-level": 9}}'
    assert talk.send(message) == [{"return": {}}]
    found = talk.ask("query-migrate-parameters")["return"]
    assert (found["max-bandwidth"], found["multifd-zlib-level"]) == ((1 << 64) - 1, 1)
    assert talk.ask("human-monitor-command", command_line="info name", cpu_index=-1 << 63) == {"return": ""}


class TestStream:
    def test_a_message_is_fed_with_its_newline_in_one_piece(self) -> None:
        session = Talk(build("linux")).session
        line = b'{"execute": "stop"}\n'
        assert session.room(line) == session.room(line + line[:-4]) == len(line)

    QUERY = b'{"execute": "query-uuid", "id": 5}'

    def reply(self) -> dict[str, Any]:
        return {"return": {"UUID": "00000000-0000-0000-0000-000000000000"}, "id": 5}

    def test_no_newline_is_needed(self) -> None:
        assert Talk(build()).send(self.QUERY) == [self.reply()]

    def test_byte_by_byte(self) -> None:
        talk = Talk(build())
        heard = [talk.send(self.QUERY[at : at + 1]) for at in range(len(self.QUERY))]
        assert heard == [[]] * (len(self.QUERY) - 1) + [[self.reply()]]
        assert not talk.session.unfinished

    def test_several_in_one_packet(self) -> None:
        assert Talk(build()).send(self.QUERY * 3 + b"\n" + self.QUERY) == [self.reply()] * 4

    def test_single_quotes(self) -> None:
        assert Talk(build()).send(self.QUERY.replace(b'"', b"'")) == [self.reply()]

    def test_a_reply_has_return_before_id_and_an_error_id_before_error(self) -> None:
        talk = Talk(build())
        talk.session.feed(b'{"id": [1, {"a": "\xc3\xa9"}], "execute": "query-name"}{"id": null, "execute": "nosuch"}')
        while talk.session.step():
            pass
        assert talk.sent == (
            b'{"return": {}, "id": [1, {"a": "\\u00E9"}]}\r\n'
            b'{"id": null, "error": {"class": "CommandNotFound", "desc": "The command nosuch has not been found"}}\r\n'
        )

    MALFORMED = (
        b"}",
        b"[",
        b'{"execute": "query-name"',
        b"xyz\n",
        b'"\xff"\n',
        b"'\n",
        b"{{}}",
        b'{"execute" "x"}',
        b"[" * 2000,
        b'{"execute": "\\ud800"}',
        b"\0",
        b"5 ",
        b"null ",
        b'{"execute": 5}',
        b"{}",
        b'{"execute": "query-name", "execute": "query-name"}',
    )

    @pytest.mark.parametrize("sent", MALFORMED)
    def test_after_anything_malformed_a_good_message_is_answered(self, sent: bytes) -> None:
        talk = Talk(build())
        talk.send(sent)
        talk.send(b"\xff\xff")  # what a client can send after any garbage to be understood again
        talk.send(b"\n")
        assert talk.send(self.QUERY) == [self.reply()]

    def test_an_unfinished_message_is_known_and_can_be_given_up(self) -> None:
        talk = Talk(build())
        talk.send(b'{"execute": ')
        assert talk.session.unfinished
        talk.session.give_up("too late")
        assert talk.heard() == [error("JSON parse error, too late")]
        assert not talk.session.unfinished
        assert talk.send(self.QUERY) == [self.reply()]

    def test_one_step_handles_one_message(self) -> None:
        talk = Talk(build())
        talk.session.feed(self.QUERY * 2)
        assert talk.session.step()
        assert talk.heard() == [self.reply()]
        assert talk.session.step()
        assert not talk.session.step()


class TestHumanMonitorCommand:
    def test_the_text_comes_with_crlf(self) -> None:
        talk = Talk(build(name="vm"))
        assert talk.ask("human-monitor-command", command_line="info name") == {"return": "vm\r\n"}

    def test_a_failing_command_is_text_too(self) -> None:
        reply = Talk(build()).ask("human-monitor-command", command_line="nosuch")
        assert reply == {"return": "unknown command: 'nosuch'\r\n"}

    def test_one_snapshot_too_many_is_refused_in_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hmp.monitor.snapshots.COUNT_LIMIT", 2)
        talk = Talk(build())
        tags = ("a", "b", "c", "a")
        replies = [talk.ask("human-monitor-command", command_line=f"savevm {tag}") for tag in tags]
        refusal = replies.pop(2)["return"]
        assert replies == [{"return": ""}] * 3
        assert refusal.startswith("Error: there are 2 snapshots in memory, the most there can be: ")
        assert refusal.index("\r\n") == len(refusal) - 2

    def test_it_has_no_history(self) -> None:
        talk = Talk(build())
        talk.ask("human-monitor-command", command_line="info name")
        assert talk.ask("human-monitor-command", command_line="info history") == {"return": ""}

    def test_never_again_4_a_suspending_command_holds_up_its_client_only_and_keeps_the_id(self) -> None:
        machine = build("silent")
        one = Talk(machine)
        other = Talk(machine, hub=one.hub)
        waits = '{"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}, "id": "a"}'
        assert one.send(waits + '{"execute": "query-name", "id": "b"}') == []
        assert one.session.suspended
        assert one.send('{"execute": "query-kvm", "id": "c"}') == []
        assert other.ask("query-name") == {"return": {}}
        woken: list[bool] = []
        one.session.on_resume = lambda: woken.append(one.session.suspended)
        assert machine.step(jump=True)
        assert woken == [False]
        assert one.heard() == [{"return": "balloon: actual=512,age=5000\r\n", "id": "a"}]
        assert one.send(b"") == [
            {"return": {}, "id": "b"},
            {"return": {"enabled": False, "present": True}, "id": "c"},
        ]

    def test_what_was_kept_does_not_run_inside_anothers_command(self) -> None:
        machine = build("hung")
        one = Talk(machine)
        assert one.ask("human-monitor-command", command_line="info balloon")["return"].count("free_mem")
        one.send('{"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}}')
        one.send('{"execute": "device_del", "arguments": {"id": "balloon0"}}')
        machine.reset()  # the new driver answers within
        assert [each for each in one.heard() if "return" in each]
        assert machine.device is not None
        assert one.session.step()
        assert machine.device is None

    def test_never_again_4_closing_cancels_what_it_waits_for(self) -> None:
        machine = build("silent")
        talk = Talk(machine)
        talk.send('{"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}}')
        assert len(machine.requests.pending) == 1
        talk.session.close()
        assert not machine.requests.pending
        machine.advance(10**10)
        assert talk.heard() == []

    def test_in_the_clients_own_dialect(self) -> None:
        reply = Talk(build("silent"), "qemu").ask("human-monitor-command", command_line="info balloon")
        assert reply == {"return": "balloon: actual=512\r\n"}

    def test_there_is_one_cpu(self) -> None:
        talk = Talk(build())
        for index in (0, 1 << 32, -(1 << 62)):  # QEMU takes the lowest 32 bits
            assert talk.ask("human-monitor-command", command_line="", cpu_index=index) == {"return": ""}
        failure = talk.fails("human-monitor-command", command_line="", cpu_index=1)
        assert failure == ("GenericError", "Parameter 'cpu-index' expects a CPU number")


class TestEnding:
    def test_quit_is_answered_and_nothing_behind_it_runs(self) -> None:
        talk = Talk(build())
        heard = talk.send('{"execute": "quit", "id": 1}{"execute": "query-name", "id": 2}')
        assert [each.get("event", each.get("id")) for each in heard] == ["SHUTDOWN", 1]
        assert heard[0]["data"] == {"guest": False, "reason": "host-qmp-quit"}
        assert talk.machine.over

    def test_the_event_of_an_unplugged_device_is_behind_the_reply(self) -> None:
        heard = Talk(build()).send('{"execute": "device_del", "arguments": {"id": "balloon0"}}')
        assert heard[0] == {"return": {}}
        assert heard[1]["event"] == "DEVICE_DELETED"
        assert heard[1]["data"] == {"device": "balloon0", "path": "/machine/peripheral/balloon0"}

    def test_the_end_of_a_guest_that_shuts_down_is_behind_the_reply(self) -> None:
        heard = Talk(build()).send('{"execute": "system_powerdown"}')
        assert [each.get("event", "reply") for each in heard] == ["POWERDOWN", "reply", "SHUTDOWN"]
        assert heard[2]["data"] == {"guest": True, "reason": "guest-shutdown"}

    @pytest.mark.parametrize(
        ("guest", "line", "heard"),
        [
            ("linux", "device_del balloon0", ["reply", "DEVICE_DELETED"]),
            ("linux", " system_powerdown ", ["POWERDOWN", "reply", "SHUTDOWN"]),
            ("linux", "device_del nosuch", ["reply"]),
            ("linux", "", ["reply"]),
            ("nodriver", "system_reset", ["RESET", "reply", "DEVICE_DELETED"]),
        ],
    )
    def test_and_both_where_the_human_monitors_command_does_it(self, guest: str, line: str, heard: list[str]) -> None:
        talk = Talk(build(guest))
        if guest == "nodriver":
            talk.ask("device_del", id="balloon0")
        said = talk.send(json.dumps({"execute": "human-monitor-command", "arguments": {"command-line": line}}))
        assert [each.get("event", "reply") for each in said] == heard

    def test_so_is_a_device_that_a_reset_removes(self) -> None:
        talk = Talk(build("nodriver"))
        talk.ask("device_del", id="balloon0")
        heard = talk.send('{"execute": "system_reset"}')
        assert [each.get("event", "reply") for each in heard] == ["RESET", "reply", "DEVICE_DELETED"]

    def test_an_unplug_may_be_asked_for_again(self) -> None:
        """As in QEMU 7.2, whose pc lets it be repeated until the guest hears."""
        talk = Talk(build("nodriver"))
        for _ in range(3):
            assert talk.ask("device_del", id="balloon0") == {"return": {}}
        talk.machine.stop()
        assert talk.heard()[-1]["event"] == "STOP"  # nothing was kept back


GOOD: dict[str, dict[str, object]] = {
    "balloon": {"value": 1 << 28},
    "qom-list": {"path": "/machine"},
    "qom-get": {"path": "/machine/peripheral/balloon0", "property": "type"},
    "qom-set": {
        "path": "/machine/peripheral/balloon0",
        "property": "guest-stats-polling-interval",
        "value": 2,
    },
    "device_add": {"driver": "virtio-balloon-pci", "id": "b1"},
    "device_del": {"id": "balloon0"},
    "human-monitor-command": {"command-line": "info status"},
    "migrate-set-capabilities": {"capabilities": [{"capability": "xbzrle", "state": True}]},
    "input-send-event": {"events": []},
    "send-key": {"keys": [{"type": "qcode", "data": "a"}]},
    "screendump": {"filename": "x"},
}
"""Arguments for the commands that need some."""


NONE = {"screendump": "no console", "query-sev-capabilities": "KVM not enabled", "query-sgx": "No EPC regions",
        "query-sev-launch-measure": "is not available", "query-sgx-capabilities": "SGX is not enabled",
        "query-vm-generation-id": "device not found"}  # fmt: skip
"""What there is none of, and so an error."""


def commands() -> list[str]:
    return [
        each["name"] for each in Talk(build()).ask("query-commands")["return"] if each["name"] != "qmp_capabilities"
    ]


class TestDeviceAdd:
    """The answers of a real QEMU 7.2 to the same input."""

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"driver": None}, "Parameter 'driver' is missing"),
            ({"driver": []}, "Parameter 'driver' is missing"),
            ({"driver": 1}, "'1' is not a valid device model name"),
            ({"driver": 1e3}, "'1000' is not a valid device model name"),
            ({"driver": 0.1}, "'0.10000000000000001' is not a valid device model name"),
            ({"driver": True}, "'on' is not a valid device model name"),
            ({"id": "1"}, "Parameter 'id' expects an identifier"),
            ({"id": ""}, "Parameter 'id' expects an identifier"),
            ({"deflate-on-oom": 1}, "Parameter 'deflate-on-oom' expects 'on' or 'off'"),
            ({"guest-stats-polling-interval": "x"}, "Parameter 'guest-stats-polling-interval' expects integer"),
            ({"guest-stats-polling-interval": True}, "Parameter 'guest-stats-polling-interval' expects integer"),
            ({"guest-stats-polling-interval": 1.5}, "Parameter 'guest-stats-polling-interval' expects integer"),
            ({"guest-stats-polling-interval": -1}, "timer value must be greater than zero"),
            ({"guest-stats-polling-interval": 1 << 32}, "timer value is too big"),
            ({"free-page-hint": True}, "'free-page-hint' requires 'iothread' to be set"),
            ({"driver": "virtio-balloon-pci-transitional", "x": 1},
             "Property 'virtio-balloon-pci-transitional.x' not found"),
        ],
    )  # fmt: skip
    def test_bad_arguments_are_refused_in_qemus_words(self, given: dict[str, object], words: str) -> None:
        talk = Talk(build(balloon=False))
        arguments = {"driver": "virtio-balloon-pci", "id": "b", **given}
        assert talk.fails("device_add", **arguments) == ("GenericError", words)
        assert talk.machine.device is None

    @pytest.mark.parametrize(
        ("given", "path", "told"),
        [
            ({"guest-stats-polling-interval": 5}, "b", {"guest-stats-polling-interval": 5}),
            ({"guest-stats-polling-interval": 6.0}, "b", {"guest-stats-polling-interval": 6}),
            ({"guest-stats-polling-interval": "0x10"}, "b", {"guest-stats-polling-interval": 16}),
            ({"guest-stats-polling-interval": None, "deflate-on-oom": [], "page-poison": {}}, "b",
             {"guest-stats-polling-interval": 0, "deflate-on-oom": False, "page-poison": True}),
            ({"driver": "virtio-balloon-pci-non-transitional"}, "b", {"type": "virtio-balloon-pci-non-transitional"}),
            ({"free-page-hint": True, "iothread": "io1"}, "b", {"free-page-hint": True, "iothread": "/objects/io1"}),
            ({"id": 1}, "/machine/peripheral-anon/device[0]", {"type": "virtio-balloon-pci", "iothread": ""}),
        ],
    )  # fmt: skip
    def test_good_arguments_reach_the_device(
        self, given: dict[str, object], path: str, told: dict[str, object]
    ) -> None:
        talk = Talk(build(balloon=False))
        arguments = {"driver": "virtio-balloon-pci", "id": "b", **given}
        assert talk.ask("device_add", **arguments) == {"return": {}}
        assert {name: talk.ask("qom-get", path=path, property=name)["return"] for name in told} == told

    def test_an_id_may_be_left_out(self) -> None:
        talk = Talk(build(balloon=False))
        assert talk.ask("device_add", driver="virtio-balloon-pci") == {"return": {}}
        assert [each["name"] for each in talk.ask("qom-list", path="/machine/peripheral-anon")["return"]] == [
            "type",
            "device[0]",
        ]


def test_the_recorded_answers_are_not_read_before_a_client_needs_them() -> None:
    """They take a MiB, and most clients never ask for one of them."""
    talk = Talk(build("linux"))
    for name in ("query-status", "query-balloon", "query-name"):
        assert "return" in talk.ask(name)
    assert emulated(talk.machine).commands is None
    assert "query-cpus-fast" in [each["name"] for each in talk.ask("query-commands")["return"]]
    assert emulated(talk.machine).commands is not None


class TestEveryCommand:
    @pytest.mark.parametrize("name", commands())
    def test_good_arguments_are_answered(self, name: str) -> None:
        talk = Talk(build(balloon=name != "device_add"))
        answer = talk.ask(name, **GOOD.get(name, {}))
        if name in NONE:
            assert NONE[name] in answer["error"]["desc"]
        else:
            assert "return" in answer

    @pytest.mark.parametrize("name", commands())
    def test_an_unknown_argument_is_refused_and_nothing_happens(self, name: str) -> None:
        talk = Talk(build())
        before = talk.machine.run_state
        kind, desc = talk.fails(name, **GOOD.get(name, {}), nosuch=1)
        expected = (
            "Only one balloon device is supported" if name == "device_add" else "Parameter 'nosuch' is unexpected"
        )
        assert (kind, desc) in (
            ("GenericError", expected),
            ("GenericError", "Property 'virtio-balloon-pci.nosuch' not found"),
        )
        assert (talk.machine.run_state, talk.machine.over) == (before, False)

    @pytest.mark.parametrize("name", [name for name in commands() if name in GOOD])
    def test_a_missing_argument_is_named(self, name: str) -> None:
        needed = next(iter(GOOD[name]))
        assert Talk(build()).fails(name) == ("GenericError", f"Parameter '{needed}' is missing")

    def test_hmp_and_qmp_act_on_the_same_machine(self) -> None:
        talk = Talk(build())
        assert talk.ask("stop") == {"return": {}}
        reply = talk.ask("human-monitor-command", command_line="info status")
        assert reply == {"return": "VM status: paused\r\n"}
        talk.ask("human-monitor-command", command_line="cont")
        assert talk.ask("query-status") == {"return": {"status": "running", "singlestep": False, "running": True}}

    def test_without_a_device(self) -> None:
        talk = Talk(build(balloon=False))
        expected = ("DeviceNotActive", "No balloon device has been activated")
        assert talk.fails("query-balloon") == expected
        assert talk.fails("balloon", value=1) == expected

    def test_statistics_and_polling_through_qom(self) -> None:
        talk = Talk(build())
        path = "/machine/peripheral/balloon0"
        talk.ask("qom-set", path=path, property="guest-stats-polling-interval", value=2)
        talk.machine.advance(3 * 10**9)
        stats = talk.ask("qom-get", path=path, property="guest-stats")["return"]
        assert stats["last-update"] > 0
        assert stats["stats"]["stat-total-memory"] < 512 << 20
        interval = talk.ask("qom-get", path=path, property="guest-stats-polling-interval")
        assert interval == {"return": 2}
