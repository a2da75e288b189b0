"""What an attached machine learns of its VM from events, and how it detaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vms import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path / "q", human_monitor_command="")
    made.say("info kvm")
    yield made
    made.close()


def test_a_guest_that_panicked_is_well_again_after_a_reset(pair: Pair) -> None:
    seen: list[bool] = []
    for name, data in (("GUEST_PANICKED", {"action": "pause"}), ("RESET", {"guest": False, "reason": "host-qmp"})):
        pair.peer.send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}})
        pair.settle()
        seen.append(pair.machine.guest.panicked)
    assert seen == [True, False]
    assert [event.name for event in pair.events if event.name != "RELAYED"] == ["GUEST_PANICKED", "RESET"]


def test_closing_the_machine_closes_the_connection(pair: Pair) -> None:
    assert pair.link.descriptors
    pair.machine.close()
    assert pair.link.descriptors == []
    pair.peer.serve()
    assert pair.peer.client is None
