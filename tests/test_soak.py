"""An honest client among fifty abusers, and what they leave behind: tests.soak for a short while."""

from __future__ import annotations

import statistics

import pytest

from tests import soak


@pytest.mark.slow
def test_fifty_abusers_cost_an_honest_client_little_and_memory_stays() -> None:
    looks, trips, said = soak.soak(20.0, every=2.0)
    assert said == ""
    assert not soak.grew(looks), looks
    assert len(trips) > 20
    assert statistics.median(trips) < 0.25
    assert max(trips) < 3.0  # a second where nobody else uses the processors; its clients alone take one of them


@pytest.mark.parametrize(
    ("sizes", "grown"), [([24, 90, 92, 91, 90, 92], False), ([24, 60, 90, 120, 150, 180], True), ([50] * 4, False)]
)
def test_steady_growth_is_a_failure_and_settling_is_not(sizes: list[int], grown: bool) -> None:
    assert soak.grew([(20.0 * number, size) for number, size in enumerate(sizes)]) is grown
