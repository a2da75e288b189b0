"""QMP's clients of an attached machine: what they may send on to QEMU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hmp.attach.relay import RelaySession
from hmp.monitor.dialects import DIALECTS
from hmp.qmp.events import EventHub
from tests.support.vms import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path / "q", stop={}, quit={}, balloon={}, human_monitor_command="told", x_query_numa="",
                device_list_properties=[])  # fmt: skip
    yield made
    made.close()


def ask(pair: Pair, allowed: bool, name: str, **arguments: Any) -> dict[str, Any]:
    sent: list[bytes] = []
    session = RelaySession(pair.machine, allowed, DIALECTS["seed"], EventHub(pair.machine), sent.append)
    for message in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
        session.feed(json.dumps(message).encode())
    while len(sent) < 2:
        if not session.step():
            pair.settle()
    return json.loads(sent[1])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("stop", {}), ("quit", {}), ("human-monitor-command", {"command-line": "stop"})],
)
def test_what_may_change_the_vm_has_to_be_allowed(pair: Pair, name: str, arguments: dict[str, Any]) -> None:
    refused = ask(pair, False, name, **arguments)["error"]["desc"]
    assert refused == f"The command {name} may change or stop this VM: hmp --allow-disruptive allows it"
    assert name not in dict(pair.peer.said)
    assert "return" in ask(pair, True, name, **arguments)
    assert (name, arguments) in pair.peer.said


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("query-name", {}),
        ("x-query-numa", {}),
        ("qom-list", {"path": "/machine/peripheral"}),
        ("qom-get", {"path": "/x", "property": "guest-stats-polling-interval"}),
        ("balloon", {"value": 1 << 28}),
        ("device-list-properties", {"typename": "x"}),
        ("human-monitor-command", {"command-line": "info kvm"}),
    ],
)
def test_what_changes_nothing_for_good_is_passed_on(pair: Pair, name: str, arguments: dict[str, Any]) -> None:
    assert "return" in ask(pair, False, name, **arguments)
    assert (name, arguments) in pair.peer.said
