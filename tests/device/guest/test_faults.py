"""Faults and the rest of a modelled guest: all their state is declared, and a snapshot loses none of it."""

from __future__ import annotations

from typing import Any

import pytest

from device.clock import SECOND
from device.guest.keys import KEYS, MODELLED_KEYS
from device.guest.model import faults
from device.guest.model.faults import FAULTS, Delay
from device.guest.model.life import Fault
from device.guest.table import PROFILES
from device.state import Integer
from device.virtio.spec import MIB
from tests.support.rig import Modelled
from tests.support.snapshots import replaced, restore, saved, settled, state_in, with_state
from tests.support.state import undeclared

SOME: dict[type, object] = {bool: True, dict: {4: 5, 900: None}, type(None): (4,)}
"""A value for a fault to be in force with, by the type of its values."""

MODELLED = [name for name, profile in PROFILES.items() if "delay" in profile.keys]


@pytest.mark.parametrize("name", MODELLED)
def test_every_attribute_is_state_or_derived(name: str) -> None:
    with Modelled(name, ram=16 * MIB) as m:
        m.machine.set_balloon(8 * MIB)
        m.advance(3)
        guest = m.guest
        driver = guest.driver
        rings = driver._rings if driver is not None else []
        parts = [guest, *guest.faults.values(), guest.inflation, guest.kernel, *([driver] if driver else []), *rings]
        assert {type(part).__name__: undeclared(part) for part in parts if undeclared(part)} == {}


class TestTable:
    def test_a_fault_has_a_name_and_what_it_needs(self) -> None:
        assert len({fault.name for fault in FAULTS}) == len({fault.label for fault in FAULTS if fault.label}) + 1
        for fault in FAULTS:
            assert fault.__doc__
            assert fault.name.isidentifier()
            assert (fault.name in KEYS) == bool(fault.help)
            assert not fault.help or fault.parse is not Fault.parse

    def test_a_fault_is_in_force_if_its_key_was_given(self) -> None:
        with Modelled("linux") as m:
            assert [fault for fault in m.guest.faults.values() if fault.value != fault.off] == []
        assert (*[fault.name for fault in FAULTS if fault.help and fault.common], "pace") == MODELLED_KEYS

    def test_what_a_fault_does_not_decide_it_leaves(self) -> None:
        with Modelled() as m:
            fault = Fault(m.guest)
            assert (fault.misses(), fault.silent(), fault.wait(), fault.reported({1: 2}, ())) == (
                False,
                False,
                0,
                {1: 2},
            )
            assert (fault.value, fault.shown()) == (0, "0")
            fault.boot(), fault.wake(), fault.sent()
            assert fault.value == 0


class TestOrder:
    def test_a_notification_that_is_dropped_by_count_takes_no_random_number(self) -> None:
        with Modelled("linux,loss=0.5") as m:
            m.guest.controls.drop(1)
            m.ask()
            assert (m.guest.draws, m.guest.faults["drop"].value) == (0, 0)
            m.ask()
            assert m.guest.draws == 1

    def test_a_guest_that_ran_out_of_answers_is_not_just_late(self) -> None:
        with Modelled("linux,answers=0,delay=1") as m:
            m.ask()
            assert (m.guest.holding, m.guest.timers) == (True, {})
            m.machine.stop()
            m.machine.cont()
            assert m.guest.holding
            m.guest.controls.wake()
            assert not m.guest.holding

    def test_pins_come_after_the_choice_of_statistics(self) -> None:
        with Modelled("linux,stats=none") as m:
            m.guest.controls.pin(4, 7)
            m.info()
            assert m.stats.sample.values == {4: 7}


class TestSnapshots:
    def test_a_stuck_balloon_waits_as_long_as_it_did(self) -> None:
        """The pause was forgotten once: a loaded machine tried again after 0.2 s although it had got no page for long."""
        with Modelled("linux,pace=1000T", ram=64 * MIB) as m, Modelled(ram=64 * MIB) as other:
            m.machine.set_balloon(MIB)
            m.advance(5)
            restore(other.machine, saved(m.machine))
            for _ in range(6):
                due, there = m.machine.time.next_deadline(), other.machine.time.next_deadline()
                assert due is not None
                assert there is not None
                assert due - m.clock.now() == there - other.clock.now()
                m.advance((due - m.clock.now()) / SECOND)
                other.advance((there - other.clock.now()) / SECOND)
            assert settled(saved(other.machine))[0]["guest"] == settled(saved(m.machine))[0]["guest"]

    @pytest.mark.parametrize(("spec", "member"), [("linux", ("stuck",)), ("hostile", ("driver", "ambush"))])
    def test_a_snapshot_from_before_a_member_was_kept_is_loaded(self, spec: str, member: tuple[str, ...]) -> None:
        with Modelled(spec, ram=16 * MIB) as m:
            data = saved(m.machine)
            state = state_in(data)
            path = ("guest", "state", *member)
            above = state
            for step in path[:-1]:
                above = above[step]
            left = {key: value for key, value in above.items() if key != path[-1]}
            restore(m.machine, with_state(data, replaced(state, path[:-1], left)))
            assert settled(saved(m.machine)) == settled(data)

    def test_every_fault_in_force_is_shown_and_comes_back(self) -> None:
        with Modelled() as m, Modelled() as other:
            for fault in m.guest.faults.values():
                if fault.STATE:  # the values of the others are in the guest's spec
                    m.guest.set_fault(fault.name, SOME.get(type(fault.off), 3))
            shown = m.guest.shown()
            assert list(shown) == [fault.label for fault in FAULTS if fault.label and fault.STATE]
            assert all(shown.values())
            restore(other.machine, saved(m.machine))
            assert other.machine.guest.shown() == shown

    def test_a_fault_that_an_older_snapshot_does_not_know_is_not_in_force(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Jitter(Delay):
            name = label = "jitter"
            STATE = (Integer("jitter", attribute="value", late=True),)

        with Modelled("linux,delay=1") as m:
            data = saved(m.machine)
            monkeypatch.setattr(faults, "FAULTS", (*FAULTS, Jitter))
            restore(m.machine, data)
            guest: Any = m.machine.guest
            assert list(guest.shown()) == ["delay"]
            guest.set_fault("jitter", 2 * SECOND)
            restore(m.machine, saved(m.machine))
            assert m.machine.guest.shown() == {"delay": "1 s", "jitter": "2 s"}
            before = m.clock.now()
            assert m.info() == "answered"
            assert m.clock.now() - before == 3 * SECOND, "faults of a kind add up"
