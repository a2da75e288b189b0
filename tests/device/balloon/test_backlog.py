"""Queues that wait for their turn: who is resumed, after how long, and for how long a storm is remembered."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from device.balloon.backlog import LONGEST, Backlog
from device.clock import MS, SimulatedClock
from device.machine.timeline import Timeline


class Waiting:
    """A backlog on a clock of its own, and what it resumed when (ms)."""

    def __init__(self) -> None:
        self.time = Timeline(SimulatedClock())
        self.time.vm_clock.start()
        self.resumed: list[tuple[float, int]] = []
        owner: Any = SimpleNamespace(vm_clock=self.time.vm_clock, vm_timers=self.time.vm_timers)
        self.backlog = Backlog(owner, lambda queues: self.resumed.append((self.now, queues)))

    @property
    def now(self) -> float:
        return self.time.vm_clock.now() / MS

    def wait(self, ms: float) -> None:
        self.time.advance(round(ms * MS))


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_exactly_those_that_were_added_are_resumed_once(waiting: Waiting) -> None:
    waiting.backlog.add(0b100)
    waiting.backlog.add(0b010)
    waiting.wait(0.999)
    assert waiting.resumed == []
    waiting.wait(500)
    assert waiting.resumed == [(1, 0b110)]
    waiting.backlog.add(0b1000)
    waiting.wait(500)
    assert [queues for _, queues in waiting.resumed] == [0b110, 0b1000]


def test_the_wait_doubles_while_the_storm_goes_on_up_to_the_longest(waiting: Waiting) -> None:
    for _ in range(10):
        waiting.backlog.add(1)
        assert waiting.time.warp()
    times = [0.0, *[when for when, _ in waiting.resumed]]
    waits = [after - before for before, after in pairwise(times)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 128, 128]
    assert LONGEST == 128 * MS


@pytest.mark.parametrize(("calm", "wait"), [(1, 2), (1.001, 1)])
def test_a_storm_is_over_when_as_long_again_was_calm(waiting: Waiting, calm: float, wait: float) -> None:
    waiting.backlog.add(1)
    waiting.wait(1)
    waiting.wait(calm)
    waiting.backlog.add(1)
    before = waiting.now
    waiting.wait(500)
    assert waiting.resumed[-1][0] - before == pytest.approx(wait)


def test_who_is_forgotten_is_not_resumed_and_the_storm_is_forgotten_too(waiting: Waiting) -> None:
    waiting.backlog.add(1)
    waiting.backlog.clear()
    waiting.wait(500)
    assert (waiting.resumed, len(waiting.time.vm_timers)) == ([], 0)
    waiting.backlog.add(1)
    waiting.wait(1)
    waiting.backlog.clear()
    waiting.backlog.add(0b10)
    waiting.wait(1)
    assert waiting.resumed == [(501, 1), (502, 0b10)]


def test_it_goes_on_by_another_clock(waiting: Waiting) -> None:
    other = Waiting()
    waiting.backlog.adopt(SimpleNamespace(vm_clock=other.time.vm_clock, vm_timers=other.time.vm_timers))  # type: ignore[arg-type]
    waiting.backlog.add(1)
    other.wait(1)
    assert waiting.resumed == [(0, 1)]
