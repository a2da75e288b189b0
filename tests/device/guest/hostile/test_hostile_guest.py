"""device.md, "Hostile guests", with `--guest hostile`: attacks are counted, reported, bounded, and end with a reset."""

from __future__ import annotations

import pytest

from device.clock import MS, SECOND, Clock
from device.errors import FATAL_RULES, RULES, MisuseError
from device.guest.hostile.attacks import ATTACKS
from device.guest.hostile.driver import ANSWERS, SPARE_PAGE
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB, TIB
from tests.support.machines import build, device_of, monitor, run, say
from tests.support.rig import Modelled
from tests.support.snapshots import restore, saved, settled, state_in, with_state

PATH = "/machine/peripheral/balloon0/virtio-backend"
SEEDS = range(12)
"""Enough for every variant of every attack to come up."""

COUNTED = [rule for rule in ATTACKS if rule in RULES]


def test_every_rule_has_its_attack() -> None:
    assert set(RULES) - set(ATTACKS) == {"front-end"}, "that one is for front ends of vhost-user"
    assert set(ATTACKS) - set(RULES) == {"interrupt-storm", "reset-midway"}


@pytest.mark.parametrize("rule", COUNTED)
def test_a_broken_rule_is_counted_reported_and_recovered_from(rule: str) -> None:
    for seed in SEEDS:
        machine = build(f"hostile,rule={rule},seed={seed}", memory=(4, 64, 512)[seed % 3])
        there = monitor(machine)
        assert "age=" not in say(there, "info balloon"), "the first answer is an honest one"
        say(there, "sim sleep 4")
        device = device_of(there)
        assert device.refused.get(rule, 0) > 0
        told = f" x {RULES[rule]} ({rule})\n"
        assert told in say(there, f"info virtio-status {PATH}")
        assert told in say(there, "sim")
        assert device.broken == (rule in FATAL_RULES)
        start = machine.clock.now()
        say(there, "info balloon")
        assert machine.clock.now() - start <= 5 * SECOND
        say(there, "system_reset")
        assert not device.broken
        assert device.live
        assert say(there, "info balloon").startswith("balloon: actual=")


@pytest.mark.parametrize("rule", ["interrupt-storm", "reset-midway"])
def test_an_attack_that_breaks_no_rule_does_no_harm(rule: str) -> None:
    for seed in SEEDS:
        with Modelled(f"hostile,rule={rule},seed={seed}") as m:
            m.advance(10)
            assert (m.device.refused, m.device.broken) == ({}, False)
            assert m.info() in ("answered", "unsupported")
            assert len(m.device.queues[0:2]) == sum(queue.in_use == 0 for queue in m.device.queues[:2])


def test_an_attack_on_a_fatal_rule_comes_again_after_each_reset() -> None:
    with Modelled("hostile,rule=chain-loop") as m:
        for turn in range(1, 4):
            m.advance(60)
            assert m.device.refused == {"chain-loop": turn}
            assert m.device.broken
            assert m.info() == "timed out"
            m.machine.reset()
            assert m.info() == "answered"


def test_each_request_but_the_first_may_bring_an_attack() -> None:
    with Modelled("hostile,rule=status-order") as m:
        for asked in range(5):
            assert m.info() == "answered"
            assert m.device.refused.get("status-order", 0) == asked
    with Modelled("hostile") as m:
        for _ in range(100):
            m.ask()
        assert m.clock.now() == 0
        assert m.device.refused != {}


@pytest.mark.parametrize("seed", range(8))
def test_all_attacks_take_turns_and_requests_are_answered_in_between(seed: int) -> None:
    machine = build(f"hostile,seed={seed}")
    there = monitor(machine)
    waits = []
    for turn in range(60):
        before = machine.clock.now()
        assert "balloon: actual=" in say(there, "info balloon")
        waits.append(machine.clock.now() - before)
        say(there, f"balloon {300 + turn % 5}")
        say(there, "sim sleep 0.5")
    device = device_of(there)
    assert len(device.refused) > 10
    assert max(waits) <= 5 * SECOND
    assert waits.count(0) > 30, "most are answered at once"
    assert sum(wait == 5 * SECOND for wait in waits) < 5


def test_the_same_seed_makes_the_same_attacks() -> None:
    def story(spec: str, seed: int = 0) -> tuple[object, ...]:
        with Modelled(spec, seed=seed) as m:
            for _ in range(20):
                m.info()
                m.advance(1)
            return m.device.refused, m.device.last_refusal, m.guest.shown(), m.device.actual

    assert story("hostile,seed=5") == story("hostile,seed=5")
    assert story("hostile,seed=5") != story("hostile,seed=6")
    assert story("hostile", seed=5)[:2] == story("hostile,seed=5", seed=5)[:2], "without one the machine's counts"


def test_it_follows_the_target_as_any_guest() -> None:
    with Modelled("hostile,rule=ragged-pfns") as m:
        m.machine.set_balloon(256 * MIB)
        m.advance(2)
        assert m.device.actual == 256 * MIB
        assert SPARE_PAGE not in m.device.pages


def test_sixteen_terabytes_leave_no_page_number_to_get_wrong() -> None:
    with Modelled("hostile,rule=bad-pfn", ram=16 * TIB) as m:
        m.advance(5)
        assert (m.device.refused.get("bad-pfn"), m.device.broken) == (None, False)


def test_faults_can_be_combined_with_attacks() -> None:
    with Modelled("hostile,rule=unknown-tag,delay=1,stats=free_mem") as m:
        request = m.ask()
        m.advance(0.9)
        assert request.state == "pending"
        m.advance(0.2)
        assert request.state == "answered"
        assert set(m.stats.sample.values) == {4}
        assert m.stats.sample.unknown != {}


@pytest.mark.parametrize("rule", ANSWERS)
def test_an_odd_answer_is_still_an_answer(rule: str) -> None:
    with Modelled(f"hostile,rule={rule}") as m:
        for _ in range(5):
            assert m.info() == "answered"
            assert m.stats.sample.values.keys() >= {4, 5}


def test_it_is_hung_and_woken_unplugged_and_plugged_like_any_guest() -> None:
    with Modelled("hostile,seed=1") as m:
        m.guest.controls.hang()
        m.advance(20)
        refused = dict(m.device.refused)
        m.advance(20)
        assert m.device.refused == refused, "a hung driver does nothing, bad or good"
        m.guest.controls.wake()
        m.advance(20)
        assert m.device.refused != refused
        m.machine.device_del("balloon0")
        assert m.machine.device is None
        m.advance(20)
        m.machine.device_add("again")
        m.advance(20)
        assert m.device.refused != {}
        m.guest.controls.unload_driver()
        m.advance(20)
        m.guest.controls.load_driver()
        assert m.info() == "answered"


def test_a_broken_device_is_unplugged_too() -> None:
    with Modelled("hostile,rule=bad-ring") as m:
        m.advance(5)
        assert m.device.broken
        m.machine.device_del("balloon0")
        assert m.machine.device is None


@pytest.mark.parametrize("seed", range(6))
def test_its_snapshots_are_loaded_at_any_moment(seed: int) -> None:
    with Modelled(f"hostile,seed={seed}", ram=4 * MIB) as m, Modelled("linux", ram=4 * MIB) as other:
        other.machine.stop()
        for _ in range(60):
            m.advance(0.21)
            data = saved(m.machine)
            restore(other.machine, data)
            assert settled(saved(other.machine)) == settled(data)


def test_a_storm_that_never_ends_does_not_keep_a_real_clock_from_its_deadlines() -> None:
    """A round of a storm may take longer than the pause before the next one, which still has to wait."""
    now = [0]

    def ticking() -> int:
        now[0] += 20_000  # looking at the clock is the only thing that takes time here
        return now[0]

    machine = Machine(Clock("real", ticking, ticking), ram=64 * MIB, guest=make_guest("linux"))
    machine.start()
    fired = [0]

    def again() -> None:
        fired[0] += 1
        now[0] += 5 * MS
        machine.vm_timers.at(machine.vm_clock.now() + MS, again)

    again()
    now[0] += 10 * MS
    assert machine.step()
    assert fired[0] == 2
    machine.close()


def test_a_storm_that_never_ends_costs_less_and_less() -> None:
    """Two statistics buffers in circulation: each that comes back is filled and sent, which brings back the other."""
    machine = build("linux")
    there = monitor(machine)
    device, guest = device_of(there), machine.guest
    guest.driver.report(guest.records())  # type: ignore[attr-defined]
    before = device.refused["unsolicited-stats"]
    guest.controls.hang()
    start = machine.clock.now()
    guest.controls.wake()
    reply = run(there, "sim sleep 5")
    assert (reply.failed, machine.clock.now() - start) == (False, 5 * SECOND)
    assert device.refused["kick-storm"] < 60, "a millisecond's pause would make it thousands"
    assert device.refused["unsolicited-stats"] > before
    assert "balloon: actual=" in say(there, "info balloon")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hostile,rule=nice", "guest hostile: rule: 'nice' is not a rule to break \\(one of bad-address, "),
        ("hostile,seed=x", "guest hostile: seed: 'x' is not a whole number"),
        ("hostile,seed=", "guest hostile: seed needs a value"),
        ("hostile,rules=direction", "guest hostile has no key 'rules'"),
        ("linux,rule=direction", "guest linux has no key 'rule'"),
    ],
)
def test_odd_words_are_refused(spec: str, words: str) -> None:
    with pytest.raises(MisuseError, match=words):
        make_guest(spec)


def test_a_snapshot_that_calls_an_attack_a_trick_is_loaded() -> None:
    """Snapshots from before the timer was renamed."""
    with Modelled("hostile") as m, Modelled("hostile") as other:
        m.advance(0.01)
        state = state_in(saved(m.machine))
        timers = state["guest"]["state"]["timers"]
        timers["trick"] = timers.pop("attack")
        restore(other.machine, with_state(saved(m.machine), state))
        other.guest = other.machine.guest
        before = other.guest.attacks
        other.advance(2)
        assert other.guest.attacks > before
