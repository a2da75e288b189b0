"""The time of a recording that is played: a loop whose clock goes on only when nothing is left to do, or the real one.

On simulated time the loop never sleeps: where it would, its clock jumps to what comes next. So the same happens at the
same time in every run, however long the work takes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

from device.clock import SECOND
from hmp.drive import MachineDriver


class _Selector(selectors.DefaultSelector):
    """Where a loop comes when it has nothing to do at the moment: `rest` is called then, and says what to do."""

    rest: Callable[[float | None], float | None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout if timeout == 0 else self.rest(timeout))


class Pace(asyncio.SelectorEventLoop):
    """A loop with the time of a recording; `idle` is called each time before time goes on.

    `follow` is told by how much (ns) the time goes on; without it the time is the computer's.
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

    def settled(self) -> asyncio.Future[None]:
        """Return what is done when nothing is left to do at this time."""
        return self._waiter(self._moves)

    def moved(self) -> asyncio.Future[None]:
        """Return what is done when time has gone on and nothing is left to do again."""
        return self._waiter(self._moves + 1)

    def skip(self, duration: int) -> None:
        """Let simulated time go on by so many ns, whatever is due meanwhile."""
        self._now += duration

    def _waiter(self, move: int) -> asyncio.Future[None]:
        waiter = self.create_future()
        self._waiters.append((move, waiter))
        return waiter

    def _rest(self, timeout: float | None) -> float | None:
        """Return how long to wait for descriptors."""
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
        duration = max(1, round((self._now / SECOND + timeout) * SECOND) - self._now)
        self._now += duration
        self._follow(duration)
        return 0


class FollowingDriver(MachineDriver):
    """Drives a machine whose simulated clock goes on with the loop's, while a monitor waits or `watched` is set.

    The manual clock, which a sleep moves all at once, takes the loop's with it.
    """

    _loop: Pace
    watched = False
    hurried = False
    """Whether waits take no time, because nobody looks any more."""

    @property
    def stuck(self) -> bool:
        """Whether nothing more happens on the machine, however long somebody waits."""
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
        """Let the machine's clock go on with the loop's."""
        machine = self._machine
        while self.hurried and self._waiting and machine.step(jump=machine.clock.warps):
            pass
        if machine.clock.warps and (self._waiting or self.watched) and not machine.over:
            machine.advance(duration)
            self.reschedule()
