"""What the device has in `due` and the machine delivers: a listener runs after a page list, never in the middle."""

from __future__ import annotations

from time import process_time

import pytest

from device.balloon.pages import PageSet
from device.clock import SECOND
from device.errors import MisuseError
from device.machine.events import Event, RuleBroken, SampleArrived
from device.machine.machine import AT_ONCE
from device.machine.requests import ANSWERED, CANCELLED, StatsRequest
from device.virtio.spec import MIB, TIB
from tests.support.rig import Modelled, Rig


def test_a_listener_that_resets_the_machine_leaves_no_page_of_the_old_boot() -> None:
    """The list's second page is in the balloon already: that is reported, and the listener resets the machine."""
    with Rig() as rig:
        rig.up()
        rig.machine.subscribe(lambda event: rig.machine.reset() if isinstance(event, RuleBroken) else None)
        rig.send("inflate", [5])
        rig.send("inflate", [9, 5, 3])
        assert "double-inflate" in rig.refused
        assert (rig.device.pages.count, rig.device.pages.runs()) == (0, [])


def test_a_reset_drops_interrupts_and_samples_behind_the_broken_rules_reported_first() -> None:
    with Rig() as rig:
        rig.up()
        rig.device.interrupt(0)
        rig.device.write_config(4, (256).to_bytes(4, "little"))
        rig.device.write_config(0, b"x")
        rig.prime(b"\4\0" + bytes(8))
        rig.device.notify(2)
        rig.events.clear()
        rig.machine.reset()
        assert [name for name, _ in rig.events] == ["BALLOON_CHANGE", *["GUEST_FAULT"] * 2, "RESET"]
        assert rig.events[0][1] == {"actual": 15 * MIB}
        assert rig.guest.interrupts == []


def test_a_step_within_a_step_does_nothing_and_a_request_only_asks() -> None:
    with Modelled() as m:
        seen: list[object] = []

        def hear(event: Event) -> None:
            if isinstance(event, SampleArrived) and not seen:
                seen.append(m.machine.step())
                seen.append(m.machine.request_stats(SECOND).state)

        m.machine.subscribe(hear)
        assert m.ask().state == ANSWERED
        assert seen == [False, "pending"]
        m.machine.step()
        assert not m.machine.requests.pending, "the step in which it asked went on to the answer"


def test_time_that_a_listener_lets_pass_passes_in_the_step_that_called_it() -> None:
    """The listener waited forever, because no time passes within it."""
    with Modelled() as m:
        at: list[int] = []

        def listener(event: Event) -> None:
            if isinstance(event, SampleArrived) and not at:
                at.append(m.clock.now())
                m.machine.advance(3 * SECOND)
                at.append(m.clock.now())

        m.machine.subscribe(listener)
        m.device.stats.set_poll_interval(1)
        m.advance(2)
        assert at[0] == at[1], "nothing moves within a listener"
        assert m.clock.now() == 3 * SECOND


def test_asking_again_from_on_done_is_not_taken_for_a_storm_of_the_guest() -> None:
    with Rig() as rig:
        rig.up()
        asked = [0]

        def again(request: StatsRequest) -> None:
            asked[0] += 1
            if asked[0] < 3 * AT_ONCE:
                rig.ask().on_done = again

        rig.ask().on_done = again
        rig.answer_with([(4, 1)])
        rig.queues["stats"].take()
        rig.report([(4, 1)])
        assert asked[0] < AT_ONCE, "one step is bounded"
        assert rig.machine.wait_for()[1] == rig.clock.now(), "and the next is due now"
        for _ in range(20):
            rig.machine.step()
        assert (asked[0], rig.refused) == (3 * AT_ONCE, {})


def test_what_ended_at_once_is_shared_and_cannot_be_set() -> None:
    with Modelled() as m:
        request = m.ask()
        with pytest.raises(MisuseError, match=r"the request has ended \(answered\): .* setting on_done"):
            request.on_done = lambda _: None
        assert (request.on_done, m.ask().on_done) == (None, None)


def test_cancelling_many_newest_first_takes_time_in_proportion() -> None:
    with Modelled("silent") as m:
        requests = [m.ask() for _ in range(20_000)]
        start = process_time()
        for request in reversed(requests):
            m.machine.requests.cancel(request)
        assert process_time() - start < 1
        assert {request.state for request in requests} == {CANCELLED}
        assert not m.machine.requests.pending


def test_a_long_sleep_on_the_manual_clock_is_done_in_bounded_steps() -> None:
    with Modelled(warps=False) as m:
        m.device.stats.set_poll_interval(1)
        end = m.machine.time.sleep(1_000_000 * SECOND)
        start = process_time()
        m.machine.step()
        assert process_time() - start < 5
        assert 0 < m.clock.now() < end
        assert m.machine.wait_for()[1] == m.clock.now()
        now = m.clock.now()
        m.machine.time.wake(end)
        m.machine.step()
        assert m.clock.now() == now, "who is woken sleeps no more"


def test_the_runs_of_an_emptied_set_of_16_tib_are_none_at_once() -> None:
    pages = PageSet(16 * TIB >> 12)
    for first in (0, (16 * TIB >> 12) - 1):
        pages.add(first, 1)
    start = process_time()
    assert pages.runs() == [(0, 1), ((16 * TIB >> 12) - 1, 1)]
    for first in (0, (16 * TIB >> 12) - 1):
        pages.remove(first, 1)
    half = process_time()
    assert pages.runs() == []
    assert half - start < 2
    assert process_time() - half < 0.01


def test_time_that_passes_within_a_step_passes_when_the_step_goes_on() -> None:
    """The step waited for it forever."""
    with Rig() as rig:
        rig.up(prime=[(4, 1)])
        seen: list[int] = []

        def more(index: int) -> None:
            rig.advance(3)
            seen.append(rig.clock.now())

        rig.guest.on_interrupt = more
        rig.ask()
        rig.machine.step()
        assert (seen, rig.clock.now()) == ([0], 3 * SECOND)
