"""Clients that hang up while nobody reads from them: asyncio does not notice those."""

from __future__ import annotations

import select
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

INTERVAL = 0.5
"""Seconds between two looks where the system has no epoll, which the loop itself could watch."""


class HangUps:
    """Watches sockets for nothing but their end."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._actions: dict[int, Callable[[], None]] = {}
        self._timer: TimerHandle | None = None
        self._epoll: select.epoll | None = None
        self._poller: select.epoll | select.poll | None = None

    def _open(self) -> select.epoll | select.poll:
        """Make what watches. Not before there is something to watch: of a thousand machines few ever need it."""
        try:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._look)
        except (AttributeError, OSError):  # another system than Linux, or a sandbox
            pass
        return self._epoll or select.poll()

    def watch(self, descriptor: int, action: Callable[[], None]) -> None:
        """Call `action` once both directions of `descriptor` are closed, or it broke. A half-close is neither."""
        if self._poller is None:
            self._poller = self._open()
        if descriptor not in self._actions:
            self._poller.register(descriptor, 0)
        self._actions[descriptor] = action
        self._look_later()

    def unwatch(self, descriptor: int) -> None:
        """Look no longer; call this before the descriptor is closed."""
        if self._actions.pop(descriptor, None) is not None and self._poller is not None:
            self._poller.unregister(descriptor)

    def _look_later(self) -> None:
        if self._timer is None and self._actions and self._epoll is None:
            self._timer = self._loop.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        for descriptor, _ in self._poller.poll(0) if self._poller is not None else ():
            action = self._actions.get(descriptor)
            if action is not None:  # else an action before it ended this one too
                self.unwatch(descriptor)
                action()
        self._look_later()

    def close(self) -> None:
        """Look at nothing any more."""
        self._actions.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
