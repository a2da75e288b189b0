"""Commands that a real guest's shell answers, in both monitors: they wait as `info balloon` does."""

from __future__ import annotations

import json
from pathlib import Path

from device.virtio.spec import MIB
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor, Reply
from hmp.qmp.events import EventHub
from hmp.qmp.protocol import QmpSession
from tests.device.guest.uml.test_uml import SHELL, place, script, shell, spec
from tests.support.real import Real
from tests.support.shell import hmp

__all__ = ["place", "shell", "spec"]


def wait(real: Real, line: str) -> Reply:
    reply = Monitor(real.machine, DIALECTS["seed"]).execute(line)
    assert reply.pending
    assert reply.until is not None
    real.until(lambda: not reply.pending)
    return reply


def test_the_human_monitor_waits_and_other_monitors_do_not(shell: Real) -> None:
    reply = Monitor(shell.machine, DIALECTS["seed"]).execute("sim driver unload")
    assert reply.pending
    other = Monitor(shell.machine, DIALECTS["seed"]).execute("info status")
    assert other.text == "VM status: running\n"
    reply.cancel()


def test_the_result_of_a_task_is_printed(shell: Real) -> None:
    assert wait(shell, "sim alloc 1M").text == "the workload took 1M (1048576 bytes)\n"
    reply = wait(shell, "balloon 48")
    assert (reply.text, reply.failed) == ("", False)
    assert shell.device.target == 48 * MIB
    reply = wait(shell, "balloon 8")
    assert reply.text.startswith("Error: the uml guest's kernel would not survive less than ")
    assert reply.failed
    reply = wait(shell, "sim driver load")
    assert (reply.text, reply.failed) == ("Error: the uml guest's shell failed: insmod: odd\n", True)


def test_qmp_answers_balloon_once_the_floor_is_known(shell: Real) -> None:
    sent: list[bytes] = []
    session = QmpSession(shell.machine, DIALECTS["seed"], EventHub(shell.machine), sent.append)

    def ask(**message: object) -> object:
        sent.clear()
        session.feed(json.dumps(message).encode())
        while session.step():
            pass
        assert session.suspended
        assert sent == []
        shell.until(lambda: not session.suspended)
        return json.loads(sent[0])

    session.feed(b'{"execute": "qmp_capabilities"}')
    session.step()
    assert ask(execute="balloon", arguments={"value": 48 * MIB}, id=1) == {"return": {}, "id": 1}
    assert shell.device.target == 48 * MIB
    refused = ask(execute="balloon", arguments={"value": 8 * MIB}, id=2)
    assert isinstance(refused, dict)
    assert refused["id"] == 2
    assert refused["error"]["class"] == "GenericError"
    assert refused["error"]["desc"].startswith("the uml guest's kernel would not survive less than ")
    line = {"command-line": "sim alloc 1M"}
    assert ask(execute="human-monitor-command", arguments=line) == {
        "return": "the workload took 1M (1048576 bytes)\r\n"
    }


def test_a_pipe_waits_line_by_line(place: Path, spec: str, tmp_path: Path) -> None:
    script(tmp_path / "kernel", SHELL)
    text = "sim sleep 1\nsim alloc 1M\nballoon 8\n"
    ended = hmp("--guest", f"{spec},mem=64M", text=text)
    assert ended.out.splitlines()[0] == "the workload took 1M (1048576 bytes)"
    assert ended.out.splitlines()[1].startswith("Error: the uml guest's kernel would not survive")
