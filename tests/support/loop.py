"""An event loop whose time is virtual: it never waits, it moves its clock to the next timer."""

from __future__ import annotations

import asyncio
import selectors

from device.clock import SECOND, Clock
from tests.support.timing import PATIENCE


class _Selector(selectors.DefaultSelector):
    """Returns what is ready; if nothing is, it moves the time by the timeout."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout == 0 else self.loop.grace)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timer at all: only a descriptor can bring something
            return super().select(PATIENCE) or self.loop.stuck("nothing is due and nothing comes in")
        self.loop.now += max(timeout, 0)
        if self.loop.now > self.loop.limit:
            self.loop.stuck(f"still running at {self.loop.now:.0f} s")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Run it with asyncio.Runner(loop_factory=VirtualLoop). `now` is its time in seconds, `limit` where a test fails.

    `grace` is how many real seconds may pass between what is sent and its arrival: none in pipes and unix sockets, but
    over TCP a busy kernel may deliver later.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.limit = 3600.0
        self.grace = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def stuck(self, why: str) -> list[tuple[selectors.SelectorKey, int]]:
        raise AssertionError(f"the virtual loop hangs: {why}")

    def machine_clock(self) -> Clock:
        """Return a clock for machines that goes with this loop's time and calls itself real."""
        return Clock("real", lambda: round(self.now * SECOND), lambda: round((1e9 + self.now) * SECOND))
