"""A machine's time: host and VM timers in one order, jumps of the warp clock, the manual clock's advance."""

from __future__ import annotations

import pytest

from device.clock import SECOND, Clock, SimulatedClock, Timeline
from device.errors import MisuseError
from device.machine.machine import AT_ONCE


class Stepped(Timeline):
    """A timeline that is driven as a machine drives its own."""

    def run_due(self) -> bool:
        now, fired = self.clock.now(), False
        for _ in range(AT_ONCE):
            if not self.fire_due(now):
                break
            fired = True
        return fired

    def warp(self) -> bool:
        moved = self.move(jump=True)
        self.run_due()
        return moved

    def advance(self, duration: int) -> None:
        self.sleep(duration)
        while self.asleep:
            self.move()
            self.run_due()


def timeline(*, warps: bool = True, running: bool = True) -> tuple[Stepped, SimulatedClock, list[str]]:
    clock = SimulatedClock(warps=warps)
    time = Stepped(clock)
    if running:
        time.vm_clock.start()
    return time, clock, []


def test_in_the_same_instant_the_guest_comes_first() -> None:
    """An answer at the deadline is an answer (monitor.md, the seed behaviour)."""
    time, _, fired = timeline()
    time.after(5, lambda: fired.append("host"))
    time.vm_timers.at(5, lambda: fired.append("guest"))
    assert time.warp()
    assert fired == ["guest", "host"]


@pytest.mark.parametrize(
    ("vm_due", "order"), [(49, ["guest", "host"]), (50, ["guest", "host"]), (51, ["host", "guest"])]
)
def test_a_late_real_clock_keeps_the_order_of_deadlines(vm_due: int, order: list[str]) -> None:
    """When a busy host fires both late, the order is that of their times, not of their queues."""
    now = [0]
    time = Stepped(Clock("real", lambda: now[0], lambda: now[0]))
    time.vm_clock.start()
    fired: list[str] = []
    time.after(50, lambda: fired.append("host"))
    time.vm_timers.at(vm_due, lambda: fired.append("guest"))
    now[0] = 1000
    assert time.run_due()
    assert fired == order


def test_timers_of_a_stopped_vm_wait_and_keep_their_remaining_time() -> None:
    time, clock, fired = timeline(warps=False)
    time.vm_timers.at(10, lambda: fired.append("guest"))
    time.advance(4)
    time.vm_clock.stop()
    assert time.next_deadline() is None
    time.advance(100)
    assert fired == []
    time.vm_clock.start()
    assert time.next_deadline() == 110
    time.advance(6)
    assert (fired, clock.now()) == (["guest"], 110)


def test_the_next_deadline_is_the_earlier_of_both_clocks() -> None:
    time, _, _ = timeline()
    assert time.next_deadline() is None
    time.after(30, lambda: None)
    assert time.next_deadline() == 30
    time.vm_timers.at(40, lambda: None)
    assert time.next_deadline() == 30
    time.vm_timers.at(20, lambda: None)
    assert time.next_deadline() == 20


def test_a_warp_jumps_to_the_next_timer_of_any_kind_and_no_further() -> None:
    time, clock, fired = timeline()
    time.after(5 * SECOND, lambda: fired.append("deadline"))
    time.vm_timers.at(2 * SECOND, lambda: fired.append("guest"))
    assert time.warp()
    assert (clock.now(), fired) == (2 * SECOND, ["guest"])
    assert time.warp()
    assert (clock.now(), fired) == (5 * SECOND, ["guest", "deadline"])
    assert not time.warp()
    assert clock.now() == 5 * SECOND


def test_a_warp_to_a_timer_of_the_past_does_not_turn_the_clock_back() -> None:
    time, clock, fired = timeline()
    time.after(5, lambda: fired.append("late"))
    clock.move_to(9)
    assert time.warp()
    assert (clock.now(), fired) == (9, ["late"])


def test_only_the_warp_clock_jumps() -> None:
    with pytest.raises(MisuseError, match="the manual clock does not jump"):
        timeline(warps=False)[0].warp()
    with pytest.raises(MisuseError, match="the real clock does not jump"):
        Stepped(Clock("real", lambda: 0, lambda: 0)).warp()


def test_advancing_goes_through_every_timer_on_the_way() -> None:
    time, clock, _ = timeline(warps=False)
    seen: list[int] = []

    def tick() -> None:
        seen.append(clock.now())
        if clock.now() < 50:
            time.after(10, tick)

    time.after(10, tick)
    time.advance(35)
    assert (seen, clock.now()) == ([10, 20, 30], 35)
    time.advance(5)
    assert (seen, clock.now()) == ([10, 20, 30, 40], 40)


@pytest.mark.parametrize("duration", [-1, -SECOND])
def test_time_is_not_advanced_backwards(duration: int) -> None:
    time, clock, _ = timeline()
    with pytest.raises(MisuseError, match="time does not go back"):
        time.advance(duration)
    assert clock.now() == 0


def test_real_time_cannot_be_advanced() -> None:
    with pytest.raises(MisuseError, match="real time cannot be moved"):
        Stepped(Clock("real", lambda: 0, lambda: 0)).advance(1)


def test_nothing_due_fires_nothing() -> None:
    time, _, fired = timeline()
    time.after(5, lambda: fired.append("host"))
    assert not time.run_due()
    assert fired == []


def test_a_timer_that_rearms_itself_for_now_cannot_keep_us() -> None:
    """One `run_due` ends, whatever timers its callbacks arm (device.md: never loops unbounded)."""
    time, _, _ = timeline()
    count = [0]

    def again() -> None:
        count[0] += 1
        time.after(0, again)

    time.after(0, again)
    assert time.run_due()
    assert count[0] == AT_ONCE


def test_a_callback_that_stops_the_vm_keeps_the_rest_of_its_timers() -> None:
    time, _, fired = timeline(warps=False)
    time.vm_timers.at(5, time.vm_clock.stop)
    time.vm_timers.at(5, lambda: fired.append("guest"))
    time.advance(10)
    assert fired == []
    time.vm_clock.start()
    time.run_due()
    assert fired == ["guest"]
