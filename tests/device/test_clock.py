"""Clocks and timers: who moves them, in which order timers fire, what happens to cancelled ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.clock import SECOND, SIMULATED_EPOCH, Clock, SimulatedClock, TimerQueue, VmClock
from device.errors import MisuseError


def test_a_host_clock_calls_the_functions_it_was_handed() -> None:
    clock = Clock("real", lambda: 7, lambda: 9)
    assert (clock.now(), clock.wall(), clock.name) == (7, 9, "real")
    assert not clock.simulated
    assert not clock.warps


@pytest.mark.parametrize(("warps", "name"), [(True, "warp"), (False, "manual")])
def test_a_simulated_clock_stands_still_until_it_is_moved(warps: bool, name: str) -> None:
    clock = SimulatedClock(warps=warps)
    assert (clock.name, clock.simulated, clock.warps) == (name, True, warps)
    assert clock.now() == clock.now() == 0
    clock.move_to(3 * SECOND)
    clock.move_to(3 * SECOND)
    assert clock.now() == 3 * SECOND


def test_a_simulated_wall_clock_starts_with_the_commit_of_2010() -> None:
    """2010-01-11 19:09:35 UTC plus simulated time (device.md, Time)."""
    clock = SimulatedClock(start=SECOND)
    assert clock.wall() == SIMULATED_EPOCH + SECOND == 1263236976 * SECOND


def test_a_clock_does_not_go_back() -> None:
    clock = SimulatedClock(start=5)
    with pytest.raises(MisuseError, match="back from 5 to 4"):
        clock.move_to(4)
    assert clock.now() == 5


class TestVmClock:
    """VM time runs only while the VM runs."""

    def test_stands_still_until_started_and_while_stopped(self) -> None:
        host = SimulatedClock()
        vm = VmClock(host)
        host.move_to(10)
        assert vm.now() == 0
        vm.start()
        host.move_to(25)
        assert vm.now() == 15
        vm.stop()
        host.move_to(100)
        assert vm.now() == 15
        vm.start()
        host.move_to(101)
        assert vm.now() == 16

    def test_starting_or_stopping_twice_changes_nothing(self) -> None:
        host = SimulatedClock()
        vm = VmClock(host)
        vm.start()
        host.move_to(10)
        vm.start()
        assert vm.now() == 10
        vm.stop()
        host.move_to(20)
        vm.stop()
        assert vm.now() == 10

    def test_says_when_its_time_comes_on_the_host(self) -> None:
        host = SimulatedClock(start=1000)
        vm = VmClock(host, start=7)
        vm.start()
        assert vm.now() == 7
        assert vm.to_host(10) == 1003


class TestTimers:
    def test_fire_in_order_of_time_and_then_of_arming(self) -> None:
        queue = TimerQueue()
        fired: list[str] = []
        for due, name in ((5, "b"), (3, "a"), (5, "c"), (4, "x")):
            queue.at(due, lambda name=name: fired.append(name))
        while queue.next_due() is not None:
            queue.fire_next()
        assert fired == ["a", "x", "b", "c"]

    def test_a_cancelled_one_never_fires_and_is_not_counted(self) -> None:
        queue = TimerQueue()
        first = queue.at(1, lambda: pytest.fail("cancelled"))
        second = queue.at(2, lambda: None)
        assert len(queue) == 2
        first.cancel()
        first.cancel()
        assert not first.armed
        assert second.armed
        assert len(queue) == 1
        assert queue.next_due() == 2
        queue.fire_next()
        assert not second.armed
        second.cancel()
        assert queue.next_due() is None
        assert len(queue) == 0

    def test_a_callback_may_arm_and_cancel(self) -> None:
        queue = TimerQueue()
        doomed = queue.at(2, lambda: pytest.fail("cancelled"))

        def callback() -> None:
            doomed.cancel()
            queue.at(1, lambda: None)

        queue.at(1, callback)
        assert queue.next_due() == 1
        queue.fire_next()
        assert queue.next_due() == 1
        queue.fire_next()
        assert queue.next_due() is None

    def test_cancelled_ones_do_not_pile_up(self) -> None:
        """A million requests that are answered in time cancel a million deadlines, which must not take memory."""
        queue = TimerQueue()
        queue.at(1, lambda: None)
        for due in range(10_000):
            queue.at(due + 2, lambda: None).cancel()
        assert len(queue) == 1
        assert len(queue._heap) < 200

    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=300))
    def test_whatever_is_cancelled_the_rest_fires_in_order(self, plan: list[tuple[int, bool]]) -> None:
        queue = TimerQueue()
        fired: list[tuple[int, int]] = []
        timers = [queue.at(due, lambda key=(due, n): fired.append(key)) for n, (due, _) in enumerate(plan)]
        for timer, (_, cancelled) in zip(timers, plan, strict=True):
            if cancelled:
                timer.cancel()
        expected = sorted((due, n) for n, (due, cancelled) in enumerate(plan) if not cancelled)
        assert len(queue) == len(expected)
        while queue.next_due() is not None:
            queue.fire_next()
        assert fired == expected
