"""The time of a recorded script: an asyncio loop whose clock jumps, or the real clock.

With a simulated clock the loop never sleeps. When it has nothing to do, its clock jumps to the next timer. So all runs
have the same events at the same times, however long the computer takes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from device.clock import SECOND
from hmp.drive import MachineDriver


class _Selector(selectors.DefaultSelector):
    """Calls `rest` when the loop has nothing to do. `rest` gets the loop's timeout and returns the one to use."""

    rest: Callable[[float | None], float | None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # With 0 there are callbacks to run, so the loop is not idle.
        return super().select(timeout if timeout == 0 else self.rest(timeout))


class Pace(asyncio.SelectorEventLoop):
    """A loop with the time of a recording. It calls `idle` each time before its clock moves.

    It calls `follow` with the time (ns) by which its clock has moved; if that is None, the clock is the computer's.
    """

    def __init__(self, idle: Callable[[], object], follow: Callable[[int], object] | None) -> None:
        self._now = 0
        self._idle = idle
        self._follow = follow
        self._moves = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        selector = _Selector()
        selector.rest = self._rest
        super().__init__(selector)

    def time(self) -> float:
        """Return the time in seconds."""
        return super().time() if self._follow is None else self._now / SECOND

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: Any = None
    ) -> asyncio.Handle:
        """As `call_soon`. A loop with a simulated clock never sleeps, so it need not be woken for each drawing."""
        call = super().call_soon_threadsafe if self._follow is None else self.call_soon
        return call(callback, *args, context=context)

    def settled(self) -> asyncio.Future[None]:
        """Return a future that is done when the loop has nothing left to do at this time."""
        return self._waiter(self._moves)

    def moved(self) -> asyncio.Future[None]:
        """Return a future that is done when the clock has moved and the loop has nothing left to do again."""
        return self._waiter(self._moves + 1)

    def skip(self, duration: int) -> None:
        """Move the simulated clock by `duration` (ns); timers that are due are late."""
        self._now += duration

    def _waiter(self, move: int) -> asyncio.Future[None]:
        waiter = self.create_future()
        self._waiters.append((move, waiter))
        return waiter

    def _rest(self, timeout: float | None) -> float | None:
        """Return how long (s) to wait for descriptors."""
        self._idle()
        ready = [waiter for move, waiter in self._waiters if move <= self._moves]
        self._waiters = [(move, waiter) for move, waiter in self._waiters if move > self._moves]
        for waiter in ready:
            if not waiter.done():
                waiter.set_result(None)
        if ready:
            return 0
        self._moves += 1
        if self._follow is None:
            return timeout
        assert timeout is not None, "nothing to wait for"  # noqa: S101 - a prompt and a countdown both have timers
        # At least 1 ns: rounding could give 0, and the loop would ask again for ever.
        duration = max(1, round((self._now / SECOND + timeout) * SECOND) - self._now)
        self._now += duration
        self._follow(duration)
        return 0


class FollowingDriver(MachineDriver):
    """Moves the machine's simulated clock with the loop's, but only while a command waits or `watched` is set.

    The manual clock is the other way round: `sim sleep` moves it, and the loop's clock follows.
    """

    _loop: Pace
    watched = False
    skips_waits = False
    """Whether waits take no time, because the recording has failed."""

    @property
    def stuck(self) -> bool:
        """Whether nothing more will happen on the machine, however long the wait."""
        time = self._machine.time
        return time.next_deadline() is None if self._machine.clock.warps else not time.asleep

    def reschedule(self) -> None:
        """Look again when something is due."""
        self._disarm()
        machine = self._machine
        if not self._started or machine.over or self.stuck or not (self._waiting or self.watched):
            return
        if not machine.clock.warps:
            self._handle = self._loop.call_soon(self._sleep)
        elif (due := machine.time.next_deadline()) is not None:
            self._handle = self._loop.call_later(max(0, due - machine.clock.now()) / SECOND, self._run_due)

    def _sleep(self) -> None:
        now = self._machine.clock.now
        before = now()
        self._run_due()
        self._loop.skip(now() - before)

    def follow(self, duration: int) -> None:
        """Move the machine's clock by as much (ns) as the loop's."""
        machine = self._machine
        while self.skips_waits and self._waiting and machine.step(jump=machine.clock.warps):
            pass
        if machine.clock.warps and (self._waiting or self.watched) and not machine.over:
            machine.advance(duration)
            self.reschedule()
