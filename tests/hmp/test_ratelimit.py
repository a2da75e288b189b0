"""A guest can end, and break rules, at any rate; the messages about it are limited."""

from __future__ import annotations

from device.machine.events import GuestGone
from hmp.ratelimit import GONE_BURST, GONE_SECONDS, RateLimit
from hmp.terminal.events import Announcer


def test_a_burst_is_shown_and_the_rest_counted_until_its_time_is_over() -> None:
    now = [100.0]
    limit = RateLimit(10, burst=2, now=lambda: now[0])
    assert [limit.admit() for _ in range(4)] == [0, 0, None, None]
    now[0] = 109.9
    assert limit.admit() is None
    now[0] = 110
    assert [limit.admit() for _ in range(3)] == [3, 0, None]


def test_a_front_end_that_comes_and_goes_for_ever_does_not_flood_the_prompt() -> None:
    lines: list[str] = []
    now = [0.0]
    announcer = Announcer(lines.append, now=lambda: now[0])
    for _ in range(1000):
        announcer.on_event(GuestGone("its front end hung up"))
    assert lines == ["the guest is gone: its front end hung up"] * GONE_BURST
    now[0] = GONE_SECONDS
    announcer.on_event(GuestGone("again"))
    assert lines[GONE_BURST:] == ["the guest is gone: again"]
