"""device.md, "Snapshots": the whole machine comes back, at whatever moment it was saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from device.clock import SECOND
from device.guest.table import PROFILES
from device.virtio.spec import GIB, MIB
from tests.support.rig import Modelled
from tests.support.snapshots import restore, saved, settled

MODELLED = [name for name in PROFILES if name not in ("host", "uml", "vhost-user")]


def prelude(m: Modelled) -> None:
    """Give a machine a past: statistics, a balloon on its way, a workload, a control or two."""
    m.info()
    m.machine.set_balloon(400 * MIB)
    m.advance(0.03)
    m.guest.controls.alloc(30 * MIB)
    m.device.stats.set_poll_interval(3)
    m.advance(1.3)


def ask_and_leave(m: Modelled) -> None:
    m.ask()


def hang(m: Modelled) -> None:
    m.guest.controls.hang()
    m.ask()


def delayed(m: Modelled) -> None:
    m.guest.controls.set_delay(SECOND)
    m.ask()
    m.advance(0.4)


def unplug(m: Modelled) -> None:
    m.guest.controls.hang()
    m.machine.device_del("balloon0")


def no_device(m: Modelled) -> None:
    m.guest.set_fault("hang", False)
    m.machine.device_del("balloon0")
    m.machine.reset()


def pinned(m: Modelled) -> None:
    m.guest.controls.pin(4, 7)
    m.guest.controls.pin(5, None)
    m.guest.controls.pin(700, 2**64 - 1)


MOMENTS: dict[str, Callable[[Modelled], object]] = {
    "quiet": lambda m: m.advance(2),
    "request pending": ask_and_leave,
    "reply timer running": delayed,
    "hung": hang,
    "panicked": lambda m: m.guest.controls.panic(),
    "stopped": lambda m: m.machine.stop(),
    "powering down": lambda m: (m.machine.stop(), m.machine.power_down()),
    "inflating": lambda m: (m.machine.set_balloon(340 * MIB), m.advance(0.02)),
    "deflating": lambda m: (m.machine.set_balloon(512 * MIB), m.advance(0.01)),
    "unplugging": unplug,
    "no device": no_device,
    "device plugged while stopped": lambda m: (no_device(m), m.machine.stop(), m.machine.device_add("other")),
    "driver unloaded": lambda m: m.guest.controls.unload_driver(),
    "statistics pinned": pinned,
    "notifications dropped": lambda m: (m.guest.controls.drop(3), m.ask()),
    "prelaunch": lambda m: (m.machine.stop(), m.machine.reset()),
}


def play_on(m: Modelled) -> list[object]:
    """Let the machine continue; returns everything that can be seen of it."""
    m.events.clear()
    m.guest = m.machine.guest
    seen: list[object] = []
    for turn in range(4):
        if m.machine.device is not None:
            seen += [m.info(), m.device.actual, m.device.status, dict(m.device.refused)]
            sample = m.stats.sample
            seen.append(None if sample is None else (sample.values, sample.unknown, m.stats.age))
            m.machine.set_balloon((440 - 20 * turn) * MIB)
        else:
            seen.append(m.info())
        m.machine.cont()
        m.advance(1.7)
        seen.append((m.machine.run_state, m.machine.vm_clock.now(), m.guest.memory_free(), m.guest.shown()))
    m.machine.reset()
    m.advance(30)
    seen.append(m.info())
    return [*seen, *[(name, {**data, "sample": None}) for name, data in m.events]]


THOROUGH = ("linux", "slow", "hostile")


@pytest.mark.parametrize(
    ("spec", "moment"),
    [
        pytest.param(
            spec, moment, marks=() if spec in THOROUGH or moment in ("quiet", "request pending") else pytest.mark.slow
        )
        for spec in MODELLED
        for moment in MOMENTS
    ],
)
def test_a_machine_comes_back_as_it_was_and_lives_on_alike(spec: str, moment: str) -> None:
    with Modelled(spec, switches={"deflate-on-oom": True}) as m, Modelled("nodriver") as other:
        try:
            prelude(m)
            MOMENTS[moment](m)
        except ValueError:
            pytest.skip(f"{spec} has no such moment")
        state = m.machine.run_state
        for request in tuple(m.machine.requests.pending):
            m.machine.requests.cancel(request)
        data = saved(m.machine)
        # A stopped machine takes it, so that nothing moves before it is looked at.
        other.machine.stop()
        other.clock.move_to(max(m.clock.now(), other.clock.now()))
        restore(other.machine, data)
        assert settled(saved(other.machine)) == settled(data)
        if state == "running":
            other.machine.cont()
        for each in (m, other):  # polling is not in a snapshot
            if each.machine.device is not None:
                each.stats.set_poll_interval(0)
                each.stats.set_poll_interval(3)
        assert play_on(other) == play_on(m)


@pytest.mark.parametrize("spec", ["linux", "hostile", "host"])
def test_loading_into_itself_repeats_the_future(spec: str) -> None:
    with Modelled(spec) as m:
        prelude(m)
        data = saved(m.machine)
        first = settled(data)
        m.advance(7)
        m.machine.set_balloon(GIB)
        m.machine.stop()
        restore(m.machine, data)
        state, rest = settled(saved(m.machine))
        device: Any = state["device"]
        for member, name in ((device, "age"), (device["stats"], "reset_age"), (device["stats"]["sample"], "age")):
            member[name] -= 7 * SECOND  # the time since the save
        assert (state, rest) == first
        assert m.machine.run_state == "paused"


def test_a_snapshot_keeps_the_loading_machines_run_state() -> None:
    with Modelled() as m:
        running = saved(m.machine)
        m.machine.stop()
        stopped = saved(m.machine)
        restore(m.machine, running)
        assert m.machine.run_state == "paused"
        m.machine.cont()
        m.events.clear()
        restore(m.machine, stopped)
        assert m.machine.run_state == "running"
        assert [name for name, _ in m.events] == ["STOP", "RESUME"]
        m.machine.stop()
        m.machine.reset()
        prelaunch = saved(m.machine)
        restore(m.machine, running)
        assert m.machine.run_state == "paused", "there is a booted guest in it now"
        restore(m.machine, prelaunch)
        assert m.machine.run_state == "prelaunch"
        m.machine.cont()
        assert m.info() == "answered"


def test_a_running_machine_boots_a_guest_that_was_saved_before_its_start() -> None:
    with Modelled(paused=True) as cold, Modelled() as m:
        restore(m.machine, saved(cold.machine))
        assert (m.machine.run_state, m.info()) == ("running", "answered")


def test_a_held_buffer_is_asked_with_after_the_load() -> None:
    with Modelled() as m, Modelled("nodriver") as other:
        assert m.stats.held is not None
        restore(other.machine, saved(m.machine))
        assert other.stats.held is not None
        before = other.device.queues[2].used_idx
        assert other.info() == "answered"
        assert other.device.queues[2].used_idx == before + 1


def test_a_buffer_that_was_out_comes_back_by_the_reply_timer() -> None:
    with Modelled("slow") as m, Modelled() as other:
        m.ask()
        m.advance(0.5)
        restore(other.machine, saved(m.machine))
        assert other.stats.out
        request = other.ask()
        other.advance(1.4)
        assert request.state == "pending"
        other.advance(0.2)
        assert request.state == "answered"


@pytest.mark.parametrize("rest", [0.0, 0.25])
def test_the_polls_are_the_machines_that_loads(rest: float) -> None:
    with Modelled() as m, Modelled("nodriver") as other:
        m.device.stats.set_poll_interval(2)
        other.device.stats.set_poll_interval(3)
        m.advance(6 + rest)
        restore(other.machine, saved(m.machine))
        assert other.device.stats.poll_interval == 3
        first = other.stats.sample.collected
        other.advance(2.9)
        assert other.stats.sample.collected == first
        other.advance(0.1)
        assert other.stats.sample.collected > first
        assert other.age == 0


def test_a_poll_that_repeats_its_question_still_does_after_a_load() -> None:
    """A monitor's request had given the guest the buffer when a poll was due: the poll repeats the interrupt."""
    with Modelled() as m:
        m.device.stats.set_poll_interval(10)
        m.advance(1)
        m.guest.controls.drop(1)
        m.ask(SECOND)
        m.advance(2)
        assert m.stats.out
        restore(m.machine, saved(m.machine))
        m.advance(10)
        assert not m.stats.out


def test_timers_of_polls_are_not_doubled() -> None:
    with Modelled() as m:
        m.device.stats.set_poll_interval(5)
        for _ in range(5):
            m.advance(1)
            restore(m.machine, saved(m.machine))
            assert len(m.machine.vm_timers) <= 1


def test_buffers_that_had_to_wait_for_their_turn_are_served_after_the_load() -> None:
    with Modelled("hostile,rule=kick-storm") as m, Modelled("nodriver") as other:
        while not m.device.later:
            m.machine.advance(1_000_000)
        restore(other.machine, saved(m.machine))
        assert other.device.later == m.device.later
        other.advance(0.05)
        assert not other.device.later
        assert other.machine.guest.driver.storm == 0  # type: ignore[attr-defined]


def test_the_device_of_before_is_off_the_machine() -> None:
    with Modelled() as m:
        m.machine.set_balloon(256 * MIB)
        m.advance(1)
        old = m.device
        restore(m.machine, saved(m.machine))
        m.events.clear()
        old.write_config(4, b"\7\0\0\0")
        old.notify(0)
        old.write_status(0)
        old.stats.ask()
        assert (m.events, m.device.actual, old.gone) == ([], 256 * MIB, True)


def test_a_machine_whose_device_was_unplugged_gets_it_back() -> None:
    with Modelled() as m:
        data = saved(m.machine)
        m.machine.device_del("balloon0")
        restore(m.machine, data)
        assert (m.info(), m.device.id) == ("answered", "balloon0")


def test_a_machine_without_a_balloon_comes_back_to_its_like() -> None:
    with Modelled(balloon=False) as bare:
        assert not bare.machine.unplugging
        restore(bare.machine, saved(bare.machine))
        assert (bare.machine.device, bare.machine.unplugging) == (None, False)
