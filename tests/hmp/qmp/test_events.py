"""Events: who gets which, when, how often, and with which time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from device.clock import SECOND, SIMULATED_EPOCH
from device.machine.events import (
    ActualChanged,
    ClientRefused,
    DriverMissing,
    GuestGone,
    RuleBroken,
    SampleArrived,
    SnapshotDone,
    TargetReached,
    WasReset,
)
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.monitor.dialects import DIALECTS
from hmp.qmp.events import CHANGE_INTERVAL, EventHub
from hmp.qmp.protocol import QmpSession
from tests.support.machines import build

EPOCH = SIMULATED_EPOCH // SECOND
SIX = (
    "mem_swapped_in", "mem_swapped_out", "major_page_faults", "minor_page_faults", "free_mem", "total_mem",
)  # fmt: skip


class Ear:
    """A negotiated client, and what it received."""

    def __init__(self, hub: EventHub, machine: Machine, dialect: str = "seed", *, negotiate: bool = True) -> None:
        self.heard: list[dict[str, Any]] = []
        self.session = QmpSession(machine, DIALECTS[dialect], hub, self._take)
        if negotiate:
            self.run("qmp_capabilities")

    def _take(self, data: bytes) -> None:
        self.heard += [json.loads(line) for line in data.split(b"\r\n") if line]

    def run(self, name: str, **arguments: object) -> None:
        """Run a command, and drop its reply."""
        self.session.feed(json.dumps({"execute": name, "arguments": arguments}).encode())
        while self.session.step():
            pass
        self.heard = [each for each in self.heard if "event" in each]

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return what was received (of one kind), and clear it."""
        found = [each for each in self.heard if name in ("", each["event"])]
        self.heard = [each for each in self.heard if each not in found]
        return found

    def names(self) -> list[str]:
        return [each["event"] for each in self.events()]


def ears(machine: Machine, *dialects: str) -> list[Ear]:
    hub = EventHub(machine)
    return [Ear(hub, machine, dialect) for dialect in dialects]


class TestBalloon:
    def test_an_answer_raises_one_for_every_negotiated_client_of_the_dialect(self) -> None:
        machine = build("linux")
        hub = EventHub(machine)
        asks, hears, plain = Ear(hub, machine), Ear(hub, machine), Ear(hub, machine, "qemu")
        silent = Ear(hub, machine, negotiate=False)
        asks.run("query-balloon")
        (event,) = asks.events()
        assert event["event"] == "BALLOON"
        assert tuple(event["data"]) == ("actual", *SIX)
        assert event["data"]["actual"] == 512 * MIB
        assert event["data"]["total_mem"] < 512 * MIB
        assert hears.events() == [event]
        assert plain.events() == silent.events() == []

    def test_in_other_dialects_query_balloon_raises_none(self) -> None:
        machine = build("linux")
        hears, asks = ears(machine, "seed", "qemu")
        asks.run("query-balloon")
        assert hears.events() == []
        assert machine.requests.answered == 0

    def test_it_follows_the_reply(self) -> None:
        (ear,) = ears(build("linux"), "seed")
        ear.session.feed(b'{"execute": "query-balloon"}')
        ear.session.step()
        assert list(ear.heard[0]) == ["return"]
        assert ear.heard[1]["event"] == "BALLOON"

    def test_a_silent_guest_raises_neither_event_nor_error(self) -> None:
        machine = build("silent")
        (ear,) = ears(machine, "seed")
        ear.run("query-balloon")
        machine.advance(3600 * SECOND)
        assert ear.events() == []

    def test_a_late_answer_still_raises_it(self) -> None:
        machine = build("slow,delay=60")
        (ear,) = ears(machine, "seed")
        ear.run("query-balloon")
        machine.advance(59 * SECOND)
        assert ear.events() == []
        machine.advance(2 * SECOND)
        assert len(ear.events("BALLOON")) == 1

    def test_one_for_all_that_asked_before_the_answer(self) -> None:
        machine = build("slow")
        one, other = ears(machine, "seed", "seed")
        for ear in (one, other, one):
            ear.run("query-balloon")
        machine.advance(10 * SECOND)
        assert (len(one.events("BALLOON")), len(other.events("BALLOON"))) == (1, 1)
        one.run("query-balloon")
        machine.advance(10 * SECOND)
        assert (len(one.events("BALLOON")), len(other.events("BALLOON"))) == (1, 1)

    def test_an_answer_that_hmp_asked_for_serves_who_waits_and_nobody_else(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "seed")
        ear.run("human-monitor-command", **{"command-line": "info balloon"})
        assert ear.events() == []

    def test_it_comes_though_the_client_that_asked_has_left(self) -> None:
        machine = build("slow")
        asks, hears = ears(machine, "seed", "seed")
        asks.run("query-balloon")
        asks.session.close()
        machine.advance(10 * SECOND)
        assert (asks.events(), len(hears.events("BALLOON"))) == ([], 1)

    @pytest.mark.parametrize("guest", ["nostats", "nodriver"])
    def test_a_guest_without_statistics_raises_it_at_once_with_actual_only(self, guest: str) -> None:
        (ear,) = ears(build(guest), "seed")
        ear.run("query-balloon")
        (event,) = ear.events()
        assert event["data"] == {"actual": 512 * MIB}

    def test_a_machine_that_has_not_started_raises_it_at_once_too(self) -> None:
        (ear,) = ears(build("linux", paused=True), "seed")
        ear.run("query-balloon")
        assert [each["data"] for each in ear.events()] == [{"actual": 512 * MIB}]

    def test_absent_statistics_are_absent(self) -> None:
        (ear,) = ears(build("partial"), "seed")
        ear.run("query-balloon")
        (event,) = ear.events()
        assert list(event["data"]) == ["actual", "free_mem", "total_mem"]

    def test_a_stopped_machine_answers_when_it_goes_on(self) -> None:
        machine = build("slow,delay=1")
        (ear,) = ears(machine, "seed")
        machine.stop()
        ear.run("query-balloon")
        machine.advance(10 * SECOND)
        assert ear.events("BALLOON") == []
        machine.cont()
        machine.advance(10 * SECOND)
        assert len(ear.events("BALLOON")) == 1

    def test_unloading_the_driver_answers_with_actual_only(self) -> None:
        machine = build("silent")
        (ear,) = ears(machine, "seed")
        ear.run("query-balloon")
        ear.run("human-monitor-command", **{"command-line": "sim driver unload"})
        assert [each["data"] for each in ear.events("BALLOON")] == [{"actual": 512 * MIB}]

    def test_over_a_reset_the_new_driver_answers(self) -> None:
        machine = build("hung")
        (ear,) = ears(machine, "seed")
        ear.run("query-balloon")
        assert len(ear.events("BALLOON")) == 1
        ear.run("query-balloon")
        machine.advance(10 * SECOND)
        assert ear.events("BALLOON") == []
        machine.reset()
        machine.advance(10 * SECOND)
        assert len(ear.events("BALLOON")) == 1

    def test_a_device_that_goes_takes_the_question_with_it(self) -> None:
        machine = build("silent")
        (ear,) = ears(machine, "seed")
        ear.run("query-balloon")
        ear.run("device_del", id="balloon0")
        assert ear.names() == ["DEVICE_DELETED"]
        assert not machine.requests.pending

    def test_a_second_question_reminds_a_guest_that_missed_the_first(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "seed")
        ear.run("human-monitor-command", **{"command-line": "sim drop 1"})
        ear.run("query-balloon")
        assert ear.events() == []
        ear.run("query-balloon")
        assert ear.names() == ["BALLOON"]


class Changing:
    """A machine whose `actual` is set at will."""

    def __init__(self) -> None:
        self.machine = build("linux")
        self.machine.advance(SECOND)
        (self.ear,) = ears(self.machine, "seed")
        self.start = self.machine.clock.now()

    def change(self, mib: int) -> None:
        device = self.machine.device
        assert device is not None
        device.write_config(4, (mib * 256).to_bytes(4, "little"))
        self.machine.deliver()

    def advance(self, seconds: float) -> None:
        self.machine.advance(round(seconds * SECOND))

    def heard(self) -> list[tuple[int, float]]:
        """MiB, and seconds after the start, of each BALLOON_CHANGE since the last time."""
        found = []
        for event in self.ear.events("BALLOON_CHANGE"):
            stamp = event["timestamp"]
            when = (stamp["seconds"] - EPOCH) + stamp["microseconds"] / 1e6 - self.start / SECOND
            found.append((event["data"]["actual"] // MIB, round(when, 6)))
        return found


class TestBalloonChange:
    def test_the_first_goes_at_once(self) -> None:
        scene = Changing()
        scene.change(12)
        assert scene.heard() == [(500, 0.0)]

    def test_then_one_a_second_and_the_last_is_never_lost(self) -> None:
        scene = Changing()
        scene.change(1)
        for step in range(2, 26):
            scene.advance(0.1)
            scene.change(step)
        assert scene.heard() == [(511, 0.0), (502, 0.9), (492, 1.9)]
        scene.advance(10)
        assert scene.heard() == [(487, 2.4)]  # with the time at which it happened

    def test_an_unchanged_size_raises_none(self) -> None:
        scene = Changing()
        scene.change(1)
        scene.advance(10)
        assert scene.heard() == [(511, 0.0)]

    def test_after_a_quiet_second_the_next_goes_at_once_again(self) -> None:
        scene = Changing()
        scene.change(1)
        scene.advance(1.5)
        scene.change(2)
        assert scene.heard() == [(511, 0.0), (510, 1.5)]

    def test_behind_a_delayed_one_the_interval_counts_anew(self) -> None:
        scene = Changing()
        scene.change(1)
        scene.advance(0.5)
        scene.change(2)
        scene.advance(0.75)
        scene.change(3)
        assert scene.heard() == [(511, 0.0), (510, 0.5)]
        scene.advance(0.75)
        assert scene.heard() == [(509, 1.25)]

    def test_every_dialect_hears_it(self) -> None:
        machine = build("linux")
        three = ears(machine, "seed", "qemu", "pve")
        three[0].run("balloon", value=256 * MIB)
        machine.advance(5 * SECOND)
        heard = [ear.events() for ear in three]
        assert heard[0] == heard[1] == heard[2]
        assert heard[0][-1]["data"] == {"actual": 256 * MIB}

    def test_who_joins_in_between_hears_the_last(self) -> None:
        scene = Changing()
        scene.change(1)
        scene.change(2)
        late = Ear(scene.ear.session.hub, scene.machine)
        scene.advance(2)
        assert [each["data"]["actual"] // MIB for each in late.events()] == [510]

    def test_a_closed_hub_leaves_no_timer_and_no_request(self) -> None:
        machine = build("silent")
        before = len(machine.host_timers)
        (ear,) = ears(machine, "seed")
        ear.run("query-balloon")
        machine.emit(ActualChanged(1))
        assert (len(machine.host_timers), len(machine.requests.pending)) == (before + 1, 1)
        ear.session.hub.close()
        assert (len(machine.host_timers), len(machine.requests.pending)) == (before, 0)
        ear.events()
        machine.stop()
        assert ear.events() == []

    def test_the_interval_is_a_second(self) -> None:
        assert CHANGE_INTERVAL == SECOND


class TestRunState:
    def test_stop_cont_reset_powerdown(self) -> None:
        machine = build("nodriver")
        (ear,) = ears(machine, "qemu")
        for name in ("stop", "cont", "system_reset", "system_powerdown", "stop", "stop"):
            ear.run(name)
        events = ear.events()
        assert [each["event"] for each in events] == ["STOP", "RESUME", "RESET", "POWERDOWN", "STOP"]
        assert "data" not in events[0]
        assert events[2]["data"] == {"guest": False, "reason": "host-qmp-system-reset"}

    def test_a_guest_that_powers_down_ends_the_machine(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "qemu")
        ear.run("system_powerdown")
        machine.advance(60 * SECOND)
        events = ear.events()
        assert [each["event"] for each in events] == ["POWERDOWN", "SHUTDOWN"]
        assert events[1]["data"] == {"guest": True, "reason": "guest-shutdown"}

    def test_a_panic(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "qemu")
        ear.run("human-monitor-command", **{"command-line": "sim panic"})
        (event,) = ear.events()
        assert (event["event"], event["data"]) == ("GUEST_PANICKED", {"action": "run"})

    def test_the_order_of_members_is_qemus(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "qemu")
        machine.stop()
        assert [list(each) for each in ear.events()] == [["timestamp", "event"]]
        machine.emit(WasReset(guest=False, reason="x"))
        assert [list(each) for each in ear.events()] == [["timestamp", "event", "data"]]

    def test_nothing_before_negotiation_nothing_after_closing(self) -> None:
        machine = build("linux")
        ear = Ear(EventHub(machine), machine, negotiate=False)
        machine.stop()
        assert ear.events() == []
        ear.run("qmp_capabilities")
        machine.cont()
        assert ear.names() == ["RESUME"]
        ear.session.close()
        machine.stop()
        assert ear.events() == []

    def test_the_machines_own_events_stay_inside(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "seed")
        sample = machine.device and machine.device.stats.sample
        assert sample is not None
        own = SampleArrived(sample), TargetReached(1), RuleBroken("bad-pfn", "x"), GuestGone("x"), DriverMissing("x")
        for event in (*own, ClientRefused("x"), SnapshotDone("x")):
            machine.emit(event)
        assert ear.events() == []


class TestHeldEvents:
    def test_what_follows_a_held_event_does_not_overtake_it(self) -> None:
        machine = build("linux")
        (ear,) = ears(machine, "seed")
        hub = ear.session.hub
        hub.hold("DEVICE_DELETED")
        machine.stop()
        machine.cont()
        assert ear.names() == ["STOP", "RESUME"], "what comes before it is told"
        machine.device_del("balloon0")
        machine.stop()
        machine.reset()
        assert ear.names() == []
        hub.release()
        assert ear.names() == ["DEVICE_DELETED", "STOP", "RESET"]
        machine.cont()
        assert ear.names() == ["RESUME"]

    def test_a_change_of_the_balloon_does_not_overtake_a_held_event(self) -> None:
        scene = Changing()
        hub = scene.ear.session.hub
        hub.hold("STOP")
        scene.machine.stop()
        scene.change(12)
        assert scene.ear.names() == []
        hub.release()
        assert scene.ear.names() == ["STOP", "BALLOON_CHANGE"]
