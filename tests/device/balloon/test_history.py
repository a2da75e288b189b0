"""The recent past that charts draw: bounded, and a burst does not push it out."""

from __future__ import annotations

from device.balloon.stats import KEEP, SPACING, History, Sample


def test_entries_come_back_oldest_first_with_their_sample() -> None:
    history = History()
    sample = Sample((4,), (1,), {}, 0, 0)
    history.add(0, 10, None)
    history.add(SPACING, 20, sample)
    assert history.recent() == [(0, 10, None), (SPACING, 20, sample)]


def test_a_burst_is_one_entry_with_the_last_values() -> None:
    history = History()
    history.add(0, 1, None)
    for step in range(1000):
        history.add(SPACING + step, step, None)
    assert history.recent() == [(0, 1, None), (SPACING + 999, 999, None)]


def test_a_steady_stream_faster_than_the_spacing_still_makes_entries() -> None:
    """Each entry replaces the one before only within one spacing of that one's first value."""
    history = History()
    for step in range(100):
        history.add(step * SPACING // 10, step, None)
    assert len(history.recent()) == 10


def test_it_keeps_a_bounded_past() -> None:
    history = History()
    for step in range(10 * KEEP):
        history.add(step * SPACING, step, None)
    recent = history.recent()
    assert len(recent) == KEEP
    assert recent[-1][1] == 10 * KEEP - 1
    assert len(history.entries) <= 2 * KEEP
