"""Notices clients that hang up while we do not read from them, which asyncio does not."""

from __future__ import annotations

import select
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

INTERVAL = 0.5
"""Seconds between two polls on systems without epoll; the loop itself can watch an epoll descriptor."""


class HangUps:
    """Watches sockets for a hang-up, and for nothing else."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._actions: dict[int, Callable[[], None]] = {}
        self._timer: TimerHandle | None = None
        self._epoll: select.epoll | None = None
        self._poller: select.epoll | select.poll | None = None

    def _open(self) -> select.epoll | select.poll:
        """Make the poller.

        It is made when there is something to watch, because of a thousand machines few ever need it.
        """
        try:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._poll)
        except (AttributeError, OSError):  # another system than Linux, or a sandbox
            pass
        return self._epoll or select.poll()

    def watch(self, descriptor: int, action: Callable[[], None]) -> None:
        """Call `action` when both directions of `descriptor` are closed, or it failed. A half-close does not count."""
        if self._poller is None:
            self._poller = self._open()
        if descriptor not in self._actions:
            # An empty mask still reports POLLHUP and POLLERR, and nothing else.
            self._poller.register(descriptor, 0)
        self._actions[descriptor] = action
        self._poll_later()

    def unwatch(self, descriptor: int) -> None:
        """Stop watching. Call this before the descriptor is closed, because its number may be used again."""
        if self._actions.pop(descriptor, None) is not None and self._poller is not None:
            self._poller.unregister(descriptor)

    def _poll_later(self) -> None:
        if self._timer is None and self._actions and self._epoll is None:
            self._timer = self._loop.call_later(INTERVAL, self._poll)

    def _poll(self) -> None:
        self._timer = None
        for descriptor, _ in self._poller.poll(0) if self._poller is not None else ():
            action = self._actions.get(descriptor)
            if action is not None:  # else an earlier action ended this one too
                self.unwatch(descriptor)
                action()
        self._poll_later()

    def close(self) -> None:
        """Stop watching all sockets."""
        self._actions.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
