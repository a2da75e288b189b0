"""What listeners and the history are told, to the letter: front ends and QMP's events are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from device.clock import SECOND
from device.spec import MIB
from tests.support.rig import Modelled, Rig


def told(act: Callable[[Modelled], object], spec: str = "linux") -> list[tuple[str, Any]]:
    """Return the events that `act` on a running machine leads to."""
    with Modelled(spec) as m:
        m.events.clear()
        act(m)
        return m.events


GIVEN: list[tuple[str, Callable[[Modelled], object], list[tuple[str, Any]]]] = [
    ("stop", lambda m: m.machine.stop(), [("STOP", {})]),
    ("cont", lambda m: (m.machine.stop(), m.machine.cont()), [("STOP", {}), ("RESUME", {})]),
    (
        "reset",
        lambda m: m.machine.reset(),
        [("RESET", {"guest": False, "reason": "host-qmp-system-reset"})],
    ),
    (
        "reset by the guest",
        lambda m: m.machine.reset(guest=True),
        [("RESET", {"guest": True, "reason": "guest-reset"})],
    ),
    (
        "powerdown",
        lambda m: m.machine.power_down(),
        [("POWERDOWN", {}), ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})],
    ),
    ("quit", lambda m: m.machine.quit(), [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]),
    (
        "quit by a signal",
        lambda m: m.machine.quit(reason="host-signal"),
        [("SHUTDOWN", {"guest": False, "reason": "host-signal"})],
    ),
    ("panic", lambda m: m.guest.panic(), [("GUEST_PANICKED", {"action": "run"})]),
    ("gone", lambda m: m.machine.guest_gone("it died"), [("GUEST_GONE", {"why": "it died"})]),
    (
        "fault",
        lambda m: m.device.write_config(0, b"abc"),
        [("GUEST_FAULT", {"rule": "config-write", "detail": "3 bytes at 0"})],
    ),
    (
        "unplug",
        lambda m: m.machine.device_del("balloon0"),
        [("DEVICE_DELETED", {"device": "balloon0", "path": "/machine/peripheral/balloon0"})],
    ),
    (
        "unplug one without a name",
        lambda m: (
            m.machine.device_del("balloon0"),
            m.machine.device_add(""),
            m.machine.device_del("/machine/peripheral-anon/device[0]"),
        ),
        [
            ("DEVICE_DELETED", {"device": "balloon0", "path": "/machine/peripheral/balloon0"}),
            ("DEVICE_DELETED", {"path": "/machine/peripheral-anon/device[0]"}),
        ],
    ),
]


@pytest.mark.parametrize(("act", "events"), [given[1:] for given in GIVEN], ids=[given[0] for given in GIVEN])
def test_an_event_and_what_comes_with_it(act: Callable[[Modelled], object], events: list[tuple[str, Any]]) -> None:
    heard = [(name, data) for name, data in told(act) if name not in ("BALLOON", "BALLOON_CHANGE")]
    assert heard == events


def test_the_run_state_has_changed_when_it_is_told() -> None:
    with Modelled() as m:
        states: list[tuple[str, str, bool]] = []
        m.machine.subscribe(lambda name, data: states.append((name, m.machine.run_state, m.machine.over)))
        m.machine.stop()
        m.machine.cont()
        m.machine.stop()
        m.machine.reset()
        m.machine.quit()
    assert [state for state in states if not state[0].startswith("BALLOON")] == [
        ("STOP", "paused", False),
        ("RESUME", "running", False),
        ("STOP", "paused", False),
        ("RESET", "paused", False),
        ("SHUTDOWN", "shutdown", True),
    ]


def test_a_sample_is_told_whole_and_kept_with_the_size_of_then() -> None:
    with Modelled() as m:
        m.machine.set_balloon(500 * MIB)
        m.advance(1)
        m.info()
        sample = m.stats.sample
        assert m.named("BALLOON")[-1] == {"sample": sample}
        assert m.machine.history.recent()[-1] == (sample.collected, 500 * MIB, sample)


def test_a_change_of_size_is_kept_with_the_sample_of_then() -> None:
    with Rig() as rig:
        rig.up(prime=[(4, 1)])
        rig.advance(1)
        rig.write_actual(256)
        assert rig.named("BALLOON_CHANGE") == [{"actual": 15 * MIB}]
        assert rig.machine.history.recent()[-1] == (SECOND, 15 * MIB, rig.device.stats.sample)


def test_answers_are_counted_one_by_one() -> None:
    with Modelled() as m:
        for count in range(1, 4):
            m.info()
            assert m.machine.requests.answered == count
        m.guest.hang()
        for count in range(1, 4):
            m.info()
            assert (m.machine.requests.answered, m.machine.requests.timed_out) == (3, count)
            assert m.machine.requests.pending == []


def test_a_device_says_whether_it_was_plugged_in_later() -> None:
    with Modelled() as m:
        assert m.device.hotplugged is False
        m.machine.device_del("balloon0")
        m.machine.device_add("later")
        assert (m.device.hotplugged, m.device.id, m.machine.device_path) == (
            True,
            "later",
            "/machine/peripheral/later",
        )


def test_a_machine_without_a_store_has_no_snapshots() -> None:
    with Modelled() as m:
        assert (m.machine.store, m.machine.snapshot_tags()) == (None, [])


def test_while_a_guest_is_replaced_or_reset_nobody_is_told_that_there_is_none() -> None:
    """The old driver goes before the new one comes: a request that waits must live through that."""
    from device.guest.profiles import make_guest

    with Modelled() as m:
        m.guest.hang()
        for restart in (m.machine.reset, lambda: m.machine.replace_guest(make_guest("linux"))):
            m.machine.guest.hang()
            request = m.ask()
            assert request.state == "pending"
            restart()
            assert request.state == "answered"
        m.machine.replace_guest(make_guest("nodriver"))
        assert m.ask().state == "unsupported"
