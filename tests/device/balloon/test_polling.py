"""Polling (`guest-stats-polling-interval`): VM time, one round trip with the monitors, survival of resets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device.clock import SECOND
from device.errors import MisuseError
from tests.support.rig import FEATURES, Modelled, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        rig.up()
        rig.answer_with([(4, 1)])
        yield rig


def pushes(rig: Rig) -> int:
    """How often the guest was asked since its driver came up."""
    return rig.device.queues[2].used_idx


def test_enabling_asks_at_once_and_then_every_interval(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(10)
    rig.advance(0)
    assert pushes(rig) == 1
    for turn in range(2, 6):
        rig.advance(9.999)
        assert pushes(rig) == turn - 1
        rig.advance(0.001)
        assert pushes(rig) == turn


def test_enabling_asks_even_if_no_step_follows(rig: Rig) -> None:
    """On a simulated clock the next step may be far away, and a script looks at the statistics before it."""
    rig.advance(5)
    rig.device.stats.set_poll_interval(10)
    assert pushes(rig) == 1
    rig.advance(0)
    assert pushes(rig) == 1


def test_a_stopped_guest_is_asked_at_cont(rig: Rig) -> None:
    rig.advance(5)
    rig.machine.stop()
    rig.device.stats.set_poll_interval(10)
    rig.advance(5)
    assert pushes(rig) == 0
    rig.machine.cont()
    assert pushes(rig) == 1
    rig.advance(9.999)
    assert pushes(rig) == 1
    rig.advance(0.001)
    assert pushes(rig) == 2


def test_a_change_rearms_with_the_new_value(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(100)
    rig.advance(1)
    rig.device.stats.set_poll_interval(2)
    rig.advance(1.999)
    assert pushes(rig) == 1
    rig.advance(0.001)
    assert pushes(rig) == 2


def test_the_same_value_again_changes_nothing(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(10)
    rig.advance(6)
    rig.device.stats.set_poll_interval(10)
    rig.advance(4)
    assert pushes(rig) == 2


def test_a_notification_without_a_buffer_does_not_delay_the_next_poll(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(10)
    rig.advance(9)
    rig.kick("stats")
    rig.advance(1)
    assert pushes(rig) == 2


def test_a_lost_notification_costs_one_interval_and_no_more() -> None:
    """Only the answer armed the timer once, so a lost notification ended polling (`flaky`, 300 s: 3 samples)."""
    with Modelled("linux") as m:
        m.device.stats.set_poll_interval(1)
        m.advance(5)
        m.guest.controls.drop(1)
        m.advance(60)
        assert m.device.stats.age <= SECOND


def test_0_stops_and_keeps_the_data(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(1)
    rig.advance(3)
    count, sample = pushes(rig), rig.device.stats.sample
    rig.device.stats.set_poll_interval(0)
    rig.advance(100)
    assert (pushes(rig), rig.device.stats.sample) == (count, sample)
    assert sample is not None
    assert len(rig.machine.vm_timers) == 0


@pytest.mark.parametrize(
    ("value", "words"), [(-1, "must be greater than zero"), (1 << 32, "is too big"), (1 << 64, "is too big")]
)
def test_an_impossible_interval_is_refused_in_qemus_words(rig: Rig, value: int, words: str) -> None:
    rig.device.stats.set_poll_interval(7)
    with pytest.raises(MisuseError, match=f"timer value {words}"):
        rig.device.stats.set_poll_interval(value)
    assert rig.device.stats.poll_interval == 7
    rig.device.stats.set_poll_interval((1 << 32) - 1)


def test_it_runs_on_vm_time(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(10)
    rig.advance(5)
    rig.machine.stop()
    rig.advance(1000)
    assert pushes(rig) == 1
    rig.machine.cont()
    rig.advance(4.999)
    assert pushes(rig) == 1
    rig.advance(0.001)
    assert pushes(rig) == 2


def test_a_guest_that_answers_late_is_asked_an_interval_after_its_answer(rig: Rig) -> None:
    """The answer arms the timer again, so that missed polls are not made up for all at once."""
    rig.guest.on_interrupt = None
    rig.device.stats.set_poll_interval(1)
    rig.advance(60)
    assert pushes(rig) == 1
    assert rig.queues["stats"].take() is not None
    rig.report([(4, 1)])
    assert pushes(rig) == 1
    rig.advance(1)
    assert pushes(rig) == 2


def test_a_clock_that_jumps_far_polls_once(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(1)
    rig.advance(0)
    rig.clock.move_to(1000 * SECOND)
    rig.machine.step()
    assert pushes(rig) == 2


def test_a_poll_and_a_request_share_one_round_trip(rig: Rig) -> None:
    rig.guest.on_interrupt = None
    rig.device.stats.set_poll_interval(5)
    rig.advance(0)
    request = rig.ask()
    assert pushes(rig) == 1
    rig.queues["stats"].take()
    rig.report([(4, 1)])
    assert (request.state, pushes(rig)) == ("answered", 1)
    request = rig.ask(60 * SECOND)
    rig.advance(5)
    assert pushes(rig) == 2, "the poll that comes while the buffer is out joins the request"
    rig.queues["stats"].take()
    rig.report([(4, 1)])
    assert (request.state, pushes(rig)) == ("answered", 2)


@pytest.mark.parametrize("pending", [False, True])
def test_it_survives_a_reset(rig: Rig, pending: bool) -> None:
    rig.device.stats.set_poll_interval(10)
    rig.advance(0)
    if pending:
        rig.guest.on_interrupt = None
        rig.advance(10)
    rig.guest.on_boot = rig.up
    rig.machine.reset()
    rig.answer_with([(4, 1)])
    assert rig.device.stats.poll_interval == 10
    rig.advance(9.999)
    assert pushes(rig) == 0
    rig.advance(0.001)
    assert pushes(rig) == 1
    rig.advance(10)
    assert pushes(rig) == 2


def test_without_a_driver_it_waits_for_one(rig: Rig) -> None:
    rig.device.write_status(0)
    rig.device.stats.set_poll_interval(10)
    rig.advance(100)
    rig.up(FEATURES, prime=None)
    rig.advance(20)
    assert pushes(rig) == 0
    rig.report(b"\0")
    rig.advance(10)
    assert pushes(rig) == 1


def test_a_broken_device_polls_on_after_its_reset(rig: Rig) -> None:
    rig.device.stats.set_poll_interval(10)
    rig.advance(0)
    rig.device.accept_features(0)
    assert rig.device.broken
    rig.advance(100)
    rig.up()
    rig.answer_with([(4, 1)])
    rig.advance(10)
    assert pushes(rig) == 1


def test_a_deleted_device_leaves_no_timer() -> None:
    with Modelled() as m:
        m.stats.set_poll_interval(1)
        m.advance(5)
        m.machine.device_del("balloon0")
        assert (len(m.machine.vm_timers), len(m.machine.host_timers)) == (0, 0)


def test_a_modelled_guest_is_polled_every_interval() -> None:
    with Modelled() as m:
        m.events.clear()
        m.stats.set_poll_interval(2)
        m.advance(10)
        assert len(m.named("BALLOON")) == 6
