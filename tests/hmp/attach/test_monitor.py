"""QEMU's commands go to QEMU, hmp's own are answered here, and what may stop the VM is asked for first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.machine.events import Ended, Relayed
from hmp.attach.monitor import Words, failed
from tests.support.vms import Pair

HELP = """\
announce_self [interfaces] [id] -- Trigger GARP/RARP announcements\r
info [subcommand] -- show various information about the system state\r
stop|s  -- stop emulation\r
x /fmt addr -- virtual memory dump starting at 'addr'\r
drive_add [-n] [[<domain>:]<bus>:]<slot>\r
[file=file]... -- add drive to PCI storage controller\r
"""
TOPICS = "info balloon  -- show balloon information\r\ninfo block [-n] [device] -- show info of block devices\r\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    def said(given: dict[str, Any]) -> str:
        return {"info kvm": "kvm support: disabled\r\n", "print 1": "1", "nosuch": "unknown command: 'nosuch'\r\n",
                "balloon x": "invalid char 'x' in expression\r\nTry \"help balloon\" for more information\r\n",
                "savevm": "Error: No block device can accept snapshots\r\n"}.get(given["command-line"], "")  # fmt: skip

    made = Pair(tmp_path / "q", human_monitor_command=said)
    yield made
    made.close()


def sent(pair: Pair) -> list[dict[str, Any]]:
    return [given for name, given in pair.peer.said if name == "human-monitor-command"]


def test_what_qemu_prints_is_printed(pair: Pair) -> None:
    assert pair.say("info kvm") == "kvm support: disabled\n"
    assert not pair.reply.failed
    assert pair.say("print 1") == "1\n"
    assert pair.say("balloon 256") == ""
    assert pair.say("") == ""
    assert [given["command-line"] for given in sent(pair)] == ["info kvm", "print 1", "balloon 256"]


@pytest.mark.parametrize("line", ["balloon x", "nosuch", "savevm"])
def test_a_failure_is_known_by_qemus_words(pair: Pair, line: str) -> None:
    pair.monitor.allowed = True
    assert pair.say(line)
    assert pair.reply.failed


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("", False), ("ok\n", False), ("no Error: here\n", False), ("Error: x\n", True), ("unknown command: 'x'\n", True),
     ("bad\nTry \"help x\" for more information\n", True), ("Try \"help x\"\nand more\n", False)],
)  # fmt: skip
def test_words_of_failure(text: str, is_one: bool) -> None:
    assert failed(text) == is_one


class TestDisruptive:
    @pytest.mark.parametrize("line", ["stop", " stop ", "quit vm", "nosuch", "savevm", "device_del x", "stop/x", "i/"])
    def test_a_disruptive_command_is_refused_where_no_person_can_be_asked(self, pair: Pair, line: str) -> None:
        text = pair.say(line)
        assert "may change or stop this VM: --allow-disruptive" in text
        assert pair.reply.failed
        assert sent(pair) == []

    def test_with_allow_disruptive_it_runs(self, pair: Pair) -> None:
        pair.monitor.allowed = True
        assert pair.say("stop") == ""
        assert sent(pair) == [{"command-line": "stop"}]

    def test_a_person_is_asked_each_time(self, pair: Pair) -> None:
        pair.monitor.asks = True
        for _ in range(2):
            reply = pair.monitor.execute("stop")
            assert reply.question == "stop may change or stop this VM. Run it? [y/N] "
            assert not reply.pending
            assert sent(pair) == []
        assert reply.go_on is not None
        reply.go_on()
        pair.settle(lambda: not reply.pending)
        assert sent(pair) == [{"command-line": "stop"}]

    @pytest.mark.parametrize("line", ["info kvm", "help", "? stop", "print 1", "p 1", "x/4 0", "xp /4 0", "qom-list /",
                                      "qom-get a b", "balloon 1", "cpu 0", "gva2gpa 0"])  # fmt: skip
    def test_a_harmless_command_runs_without_the_option(self, pair: Pair, line: str) -> None:
        pair.say(line)
        assert sent(pair) == [{"command-line": line}]


class TestOwn:
    def test_quit_leaves_the_vm_alone(self, pair: Pair) -> None:
        assert pair.say("quit") == "left vm running\n"
        assert pair.machine.over
        assert pair.machine.failure == ""
        assert pair.peer.said == []

    def test_quit_vm_is_quit_of_qemu(self, pair: Pair) -> None:
        pair.monitor.allowed = True
        pair.say("quit vm")
        assert sent(pair) == [{"command-line": "quit"}]
        assert pair.machine.over

    def test_quit_vm_whose_reply_does_not_come_is_no_failure(self, pair: Pair) -> None:
        pair.monitor.allowed = True
        pair.peer.answers["human-monitor-command"] = None
        reply = pair.monitor.execute("q vm")
        pair.settle()
        pair.peer.send({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}})
        pair.peer.close()
        pair.settle(lambda: not reply.pending)
        assert (reply.text, reply.failed, pair.machine.failure) == ("", False, "")

    @pytest.mark.parametrize("line", ["sim", "sim hang", "sim guest slow", "sim set free_mem 1"])
    def test_there_is_nothing_to_simulate(self, pair: Pair, line: str) -> None:
        assert "there is nothing to simulate" in pair.say(line)
        assert pair.reply.failed
        assert pair.peer.said == []

    def test_statistics_and_charts_are_of_the_samples_seen(self, pair: Pair) -> None:
        assert pair.say("sim stats") == "Error: No balloon device has been activated\n"
        pair.say("info balloon")
        assert "free_mem  1002" in pair.say("sim stats")
        pair.settle(seconds=1)
        pair.say("info balloon")
        assert "free_mem" in pair.say("sim chart")

    def test_history_lists_the_lines_typed_here(self, pair: Pair) -> None:
        pair.monitor.history.add("info kvm")
        assert pair.say("info history") == "0: 'info kvm'\n"

    def test_the_chosen_cpu_goes_with_each_command(self, pair: Pair) -> None:
        pair.say("cpu 1")
        pair.say("info kvm")
        assert sent(pair)[-1] == {"command-line": "info kvm", "cpu-index": 1}


class TestLost:
    def test_a_vm_that_is_gone_ends_hmp_with_a_failure(self, pair: Pair) -> None:
        pair.say("info kvm")
        pair.peer.close()
        pair.settle()
        assert pair.machine.over
        assert "hung up" in pair.machine.failure
        assert isinstance(pair.events[-1], Ended)

    def test_a_vm_that_reported_its_shutdown_is_no_failure(self, pair: Pair) -> None:
        pair.say("info kvm")
        pair.peer.send({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}})
        pair.peer.close()
        pair.settle()
        assert (pair.machine.over, pair.machine.failure) == (True, "")

    def test_a_command_that_waits_fails(self, pair: Pair) -> None:
        pair.peer.answers["human-monitor-command"] = None
        reply = pair.monitor.execute("info kvm")
        pair.settle()
        pair.peer.close()
        pair.settle(lambda: not reply.pending)
        assert reply.failed
        assert reply.text.startswith("Error: ")


class TestSilence:
    def test_a_command_that_is_not_answered_ends_a_script(self, pair: Pair) -> None:
        pair.peer.answers["human-monitor-command"] = None
        assert pair.say("info kvm", 11) == f"Error: unix:{pair.peer.path}: no answer within 10 s\n"
        assert pair.reply.failed
        assert pair.machine.over
        assert pair.monitor.end_reported

    def test_a_command_that_is_not_answered_does_not_end_a_session(self, pair: Pair) -> None:
        pair.monitor.asks = True
        pair.peer.answers["human-monitor-command"] = None
        assert "no answer within 10 s" in pair.say("info kvm", 11)
        pair.peer.answers["human-monitor-command"] = "running\r\n"
        assert pair.say("info status") == "running\n"
        assert not pair.machine.over

    def test_a_slow_command_has_more_time(self, pair: Pair) -> None:
        pair.monitor.allowed = True
        pair.peer.answers["human-monitor-command"] = None
        reply = pair.monitor.execute("savevm x")
        pair.settle(seconds=599)
        assert reply.pending
        pair.settle(seconds=1.1)
        assert reply.text == f"Error: unix:{pair.peer.path}: no answer within 600 s\n"

    def test_an_answer_that_is_no_text_is_an_error(self, pair: Pair) -> None:
        pair.peer.answers["human-monitor-command"] = {"a": 1}
        told = f"Error: unix:{pair.peer.path}: an answer to human-monitor-command that makes no sense\n"
        assert pair.say("info kvm") == told


class TestEvents:
    def test_run_state_follows(self, pair: Pair) -> None:
        pair.say("info kvm")
        for name, state in (("STOP", "paused"), ("RESUME", "running")):
            pair.peer.send({"event": name, "timestamp": {"seconds": 1, "microseconds": 2}})
            pair.settle()
            assert pair.machine.run_state == state
            assert pair.events[-1].name == name

    def test_other_events_are_shown_as_they_came(self, pair: Pair) -> None:
        pair.say("info kvm")
        pair.peer.send({"event": "JOB_STATUS_CHANGE", "data": {"id": "x"}})
        pair.settle()
        (event,) = pair.events
        assert isinstance(event, Relayed)
        assert event.text == "JOB_STATUS_CHANGE id=x"

    def test_a_target_that_was_set_here_is_reported_once_it_is_reached(self, pair: Pair) -> None:
        pair.say("info balloon")
        pair.peer.answers["human-monitor-command"] = None
        reply = pair.monitor.execute("balloon 128")
        pair.settle()
        for actual in (200, 128):  # before the reply, as QEMU's may come
            pair.peer.send({"event": "BALLOON_CHANGE", "data": {"actual": actual << 20}})
        pair.settle()
        assert reply.pending
        assert [each.name for each in pair.events if not isinstance(each, Relayed)] == [
            "BALLOON_CHANGE",
            "BALLOON_TARGET",
        ]
        assert not any(each.text for each in pair.events if isinstance(each, Relayed))


class TestCompletion:
    @pytest.mark.parametrize(
        ("line", "offered"),
        [("st", ["stop"]), ("i", ["info"]), ("info b", ["balloon", "block"]), ("help x", ["x"]), ("sim s", ["stats"]),
         ("quit ", ["vm"]), ("stop ", []), ("info h", ["history"]), ("nosuch x", []), ("s", ["s", "sim", "stop"]),
         ("dr", ["drive_add"]), ("[", [])],
    )  # fmt: skip
    def test_words_come_from_qemus_help(self, line: str, offered: list[str]) -> None:
        words = Words()
        words.learn(HELP, TOPICS)
        assert [each.text for each in words.complete(line)] == offered

    def test_help_of_a_command_comes_from_qemus_help(self) -> None:
        words = Words()
        words.learn(HELP, TOPICS)
        assert words.complete("anno")[0].help == "[interfaces] [id] Trigger GARP/RARP announcements"
