"""What has to wait in a storm: when it is due again, and for how long a storm is remembered."""

from __future__ import annotations

from itertools import pairwise

import pytest

from device.clock import MS, SimulatedClock, Timeline
from device.virtio.device import VirtioDevice
from device.virtio.memory import Memory


class Waiting:
    """A backlog on its own clock, and what it resumed at which time (ms)."""

    def __init__(self) -> None:
        self.time = Timeline(SimulatedClock())
        self.time.vm_clock.start()
        self.resumed: list[tuple[float, int]] = []
        self.device = VirtioDevice(self.time, Memory([]), 0, 4)

    @property
    def now(self) -> float:
        return self.time.vm_clock.now() / MS

    def jump(self) -> bool:
        """Go to the next timer and note what came due; returns whether there was one."""
        moved = self.time.move(jump=True)
        while self.time.fire_due(self.time.clock.now()):
            self.resumed.append((self.now, self.device.due))
            self.device.due = 0
        return moved

    def wait(self, ms: float) -> None:
        end = self.time.sleep(round(ms * MS))
        while (due := self.time.next_deadline()) is not None and due <= end:
            self.jump()
        while self.time.asleep:
            self.time.move()


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_exactly_those_that_were_added_are_resumed_once(waiting: Waiting) -> None:
    waiting.device.defer(0b100)
    waiting.device.defer(0b010)
    waiting.wait(0.999)
    assert waiting.resumed == []
    waiting.wait(500)
    assert waiting.resumed == [(1, 0b110)]
    waiting.device.defer(0b1000)
    waiting.wait(500)
    assert [queues for _, queues in waiting.resumed] == [0b110, 0b1000]


def test_the_wait_doubles_while_the_storm_goes_on_up_to_the_longest(waiting: Waiting) -> None:
    for _ in range(10):
        waiting.device.defer(1)
        assert waiting.jump()
    times = [0.0, *[when for when, _ in waiting.resumed]]
    waits = [after - before for before, after in pairwise(times)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 128, 128]


@pytest.mark.parametrize(("calm", "wait"), [(1, 2), (1.001, 1)])
def test_a_storm_is_over_when_as_long_again_was_calm(waiting: Waiting, calm: float, wait: float) -> None:
    waiting.device.defer(1)
    waiting.wait(1)
    waiting.wait(calm)
    waiting.device.defer(1)
    before = waiting.now
    waiting.wait(500)
    assert waiting.resumed[-1][0] - before == pytest.approx(wait)


def test_who_is_forgotten_is_not_resumed_and_the_storm_is_forgotten_too(waiting: Waiting) -> None:
    waiting.device.defer(1)
    waiting.device.forget_later()
    waiting.wait(500)
    assert (waiting.resumed, len(waiting.time.vm_timers)) == ([], 0)
    waiting.device.defer(1)
    waiting.wait(1)
    waiting.device.forget_later()
    waiting.device.defer(0b10)
    waiting.wait(1)
    assert waiting.resumed == [(501, 1), (502, 0b10)]


def test_it_goes_on_by_another_clock(waiting: Waiting) -> None:
    other = Waiting()
    waiting.device.time = other.time
    waiting.device.defer(1)
    other.wait(1)
    assert waiting.device.due == 1
