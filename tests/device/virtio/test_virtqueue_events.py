"""The indices of a split ring: 16 bits that wrap (virtio 1.2, 2.7.6, 2.7.8); who wants a notification (2.7.7, 2.7.10)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device.virtio.spec import U16
from tests.support.rig import PAIR_DATA as DATA
from tests.support.rig import PAIR_SIZE as SIZE
from tests.support.rig import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.memory.close()


@pytest.mark.parametrize("event_idx", [False, True])
def test_indices_wrap_at_16_bits(event_idx: bool) -> None:
    """Both indices run freely modulo 2^16 (2.7.6, 2.7.8): a whole turn without an error."""
    pair = Pair(event_idx=event_idx)
    for lap in range(65536 + 3):
        head = pair.driver.add_out(DATA, 4)
        element = pair.pop()
        pair.queue.push(element, lap & 0xFFFF)
        assert pair.queue.wants_interrupt() or not event_idx
        assert pair.driver.take() == (head, lap & 0xFFFF)
    assert pair.queue.last_avail == pair.queue.used_idx == 3
    assert pair.queue.in_use == 0
    pair.memory.close()


@pytest.mark.parametrize("start", [65535, 65536 + 7, -1])
def test_a_ring_may_go_on_from_any_index(start: int) -> None:
    pair = Pair(last_avail=start)
    pair.driver.set_avail_idx(start)
    assert pair.queue.available() == 0
    assert pair.queue.pop() is None
    pair.driver.add([(DATA, 4)])
    assert pair.pop().readable() == 4
    assert pair.queue.last_avail == (start + 1) & U16
    pair.memory.close()


class TestNotifications:
    """Who wants a notification: flags (2.7.7, 2.7.10) or the event indices of EVENT_IDX."""

    @staticmethod
    def _serve(pair: Pair) -> bool:
        pair.driver.add_out(DATA, 4)
        pair.queue.push(pair.pop())
        wants = pair.queue.wants_interrupt()
        pair.driver.take()
        return wants

    def test_by_flag(self, pair: Pair) -> None:
        assert self._serve(pair)
        pair.poke16(pair.driver.avail, 1)
        assert not self._serve(pair)
        pair.poke16(pair.driver.avail, 0)
        assert self._serve(pair)

    def test_by_event_index_only_when_it_is_crossed(self) -> None:
        pair = Pair(event_idx=True)
        used_event = pair.driver.avail + 4 + 2 * SIZE
        assert self._serve(pair), "the first is always told: nothing is known of the driver yet"
        assert self._serve(pair), "DriverQueue.take asks for the next one"
        pair.poke16(pair.driver.avail, 1)
        pair.driver.event_idx = False  # from here on the test writes used_event itself
        pair.poke16(used_event, 4)
        assert [self._serve(pair) for _ in range(4)] == [False, False, True, False], "the flag has no meaning now"
        pair.poke16(used_event, 0)
        assert not self._serve(pair)
        pair.memory.close()

    @pytest.mark.parametrize("start", [0, 65530, 65535])
    def test_event_index_over_the_wrap(self, start: int) -> None:
        pair = Pair(event_idx=True, last_avail=start)
        pair.driver.set_avail_idx(start)
        used_event = pair.driver.avail + 4 + 2 * SIZE
        pair.queue.used_idx = pair.queue.signalled = pair.driver._last_used = start
        self._serve(pair)
        pair.driver.event_idx = False
        pair.poke16(used_event, (start + 3) & U16)
        assert [self._serve(pair) for _ in range(4)] == [False, False, True, False]
        pair.memory.close()

    def test_several_at_once_are_one_notification(self) -> None:
        pair = Pair(event_idx=True)
        for _ in range(3):
            self._serve(pair)
        for _ in range(4):
            pair.driver.add_out(DATA, 4)
        for _ in range(4):
            pair.queue.push(pair.pop())
        assert pair.queue.wants_interrupt()
        assert not pair.queue.wants_interrupt()
        pair.memory.close()

    def test_the_device_says_how_far_it_looked(self) -> None:
        """avail_event follows what was popped, so that the driver notifies for the next one (2.7.10)."""
        pair = Pair(event_idx=True)
        avail_event = pair.driver.used + 4 + 8 * SIZE
        for count in range(1, 5):
            pair.driver.add_out(DATA, 4)
            assert pair.driver.should_notify()
            pair.queue.push(pair.pop())
            assert pair.peek16(avail_event) == count
        pair.memory.close()
