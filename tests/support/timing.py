"""Real time in tests, for machines that are slow or busy with other things.

A wait ends when something happens, so it is only long in a failure. How long something takes is judged by the best of
several tries: a busy machine makes a try slower and never faster, while code that is slow is slow in each try.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds; only reached when something hangs."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds; fails after that long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.005)


def takes_less_than(limit: float, measure: Callable[[], float], tries: int = 10) -> None:
    """Fail unless one of so many tries is below `limit`; `measure` does what is measured and returns the seconds."""
    taken: list[float] = []
    while not taken or taken[-1] >= limit:
        assert len(taken) < tries, f"never less than {limit} s: {taken}"
        taken.append(measure())
