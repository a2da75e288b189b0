"""Clients that hang up while nobody reads from them: asyncio does not notice those."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable


class HangUps:
    """Watches sockets for nothing but their end."""

    __slots__ = ("_actions", "_epoll", "_loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._actions: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, descriptor: int, action: Callable[[], None]) -> None:
        """Call `action` once both directions of `descriptor` are closed, or it broke. A half-close is neither."""
        self._actions[descriptor] = action
        self._epoll.register(descriptor, 0)

    def unwatch(self, descriptor: int) -> None:
        """Look no longer; call this before the descriptor is closed."""
        if self._actions.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _look(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            action = self._actions.get(descriptor)
            if action is not None:  # else an action before it ended this one too
                self.unwatch(descriptor)
                action()

    def close(self) -> None:
        """Look at nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
