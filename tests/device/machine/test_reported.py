"""What listeners and the history get, exactly: front ends and QMP's events are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from device.balloon.stats import decode, encode
from device.clock import SECOND, SimulatedClock, Timeline
from device.errors import MisuseError
from device.guest.table import make_guest
from device.machine.events import GuestGone
from device.machine.machine import NIL_UUID, Machine
from device.virtio.spec import MIB
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
    ("panic", lambda m: m.guest.controls.panic(), [("GUEST_PANICKED", {"action": "run"})]),
    ("gone", lambda m: m.machine.emit(GuestGone("it died")), [("GUEST_GONE", {"why": "it died"})]),
    (
        "fault",
        lambda m: (m.device.write_config(0, b"abc"), m.machine.deliver()),
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
            m.machine.device_add(""),
            m.machine.device_del("/machine/peripheral-anon/device[1]"),
        ),
        [
            ("DEVICE_DELETED", {"device": "balloon0", "path": "/machine/peripheral/balloon0"}),
            ("DEVICE_DELETED", {"path": "/machine/peripheral-anon/device[0]"}),
            ("DEVICE_DELETED", {"path": "/machine/peripheral-anon/device[1]"}),
        ],
    ),
    (
        "reset, which removes what the driver did not let go",  # in this order, as QEMU
        lambda m: (m.guest.controls.hang(), m.machine.device_del("balloon0"), m.machine.reset()),
        [
            ("RESET", {"guest": False, "reason": "host-qmp-system-reset"}),
            ("DEVICE_DELETED", {"device": "balloon0", "path": "/machine/peripheral/balloon0"}),
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
        m.machine.subscribe(lambda event: states.append((event.name, m.machine.run_state, m.machine.over)))
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
        m.guest.controls.hang()
        for count in range(1, 4):
            m.info()
            assert (m.machine.requests.answered, m.machine.requests.timed_out) == (3, count)
            assert not m.machine.requests.pending


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
    """The old driver goes before the new one comes: a waiting request must stay pending."""
    with Modelled() as m:
        m.guest.controls.hang()
        for restart in (m.machine.reset, lambda: m.machine.replace_guest(make_guest("linux"))):
            m.machine.guest.controls.hang()
            request = m.ask()
            assert request.state == "pending"
            restart()
            assert request.state == "answered"
        m.machine.replace_guest(make_guest("nodriver"))
        assert m.ask().state == "unsupported"


def test_who_waits_for_a_driver_that_lets_go_of_its_device_learns_that_there_is_none() -> None:
    with Modelled() as m:
        m.guest.controls.hang()
        request = m.ask()
        m.machine.device_del("balloon0")
        assert request.state == "pending"
        m.guest.controls.wake()
        assert (request.state, m.machine.device) == ("no device", None)


def test_who_waits_for_a_driver_that_goes_learns_that_nobody_reports_any_more() -> None:
    with Modelled() as m:
        m.machine.reset()
        m.guest.controls.hang()
        request = m.ask()
        m.guest.controls.unload_driver()
        assert request.state == "unsupported"


def test_a_buffer_without_a_sample_is_given_back_at_once_to_those_who_wait() -> None:
    with Rig() as rig:
        rig.up(prime=None)
        request = rig.ask()
        assert rig.guest.interrupts == []
        rig.report(b"\0")
        assert (rig.guest.interrupts, request.state, rig.device.stats.held) == ([2], "pending", None)
        rig.queues["stats"].take()
        rig.report([(4, 1)])
        assert (rig.guest.interrupts, request.state) == ([2], "answered")
        assert rig.device.stats.held is not None


def test_more_statistics_buffers_than_a_round_looks_at_are_all_looked_at() -> None:
    with Rig() as rig:
        rig.up(prime=None)
        for number in range(40):
            rig.prime(encode([(4, number)]))
        rig.kick("stats")
        assert rig.refused == {"unsolicited-stats": 39}
        assert rig.guest.interrupts == [2, 2, 2], "sixteen in a round"
        assert rig.device.queues[2].available() == 0
        assert rig.device.queues[2].used_idx == 39


def test_what_a_machine_is_unless_told_otherwise() -> None:
    machine = Machine(SimulatedClock(), ram=4 * MIB, guest=make_guest("linux"))
    assert (machine.seed, machine.name, machine.timeout, machine.uuid) == (0, None, 5 * SECOND, NIL_UUID)
    assert (machine.run_state, machine.over, machine.unplugging, machine.powering_down) == (
        "prelaunch",
        False,
        False,
        False,
    )
    assert machine.device is not None
    assert machine.device.id == "balloon0"
    machine.set_balloon(1)
    assert machine.device.target == 4096, "a byte is in a page"
    machine.close()


def test_a_machine_without_timers_has_nothing_due() -> None:
    assert Timeline(SimulatedClock()).fire_due(0) is False


def test_records_of_any_number_hold_tags_and_values_of_full_width() -> None:
    for count in (1, 61, 62, 63, 64):
        data = encode([(0xFFFF, 2**64 - 2)] * count)
        assert data == b"\xff\xff\xfe" + b"\xff" * 7 + (b"\xff\xff\xfe" + b"\xff" * 7) * (count - 1)
        assert decode(data)[3] == {0xFFFF: 2**64 - 2}


def test_a_device_that_goes_while_it_is_asked_is_no_device() -> None:
    with Rig() as rig:
        rig.up(prime=[(4, 1)])

        def let_go(index: int) -> None:
            rig.machine.device_del("balloon0")
            rig.machine.driver_released()

        rig.guest.on_interrupt = let_go
        assert rig.ask().state == "no device"
        assert rig.machine.device is None
        with pytest.raises(MisuseError) as caught:
            rig.machine.set_balloon(MIB)
        assert str(caught.value) == "No balloon device has been activated"
