"""Requests for fresh statistics: any number pending, each with its own deadline, all ended by one answer."""

from __future__ import annotations

from device.errors import MisuseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from device.clock import Clock, Timer, TimerQueue
    from device.machine.states import RequestState

PENDING: Final = "pending"
ANSWERED: Final = "answered"
TIMED_OUT: Final = "timed out"
UNSUPPORTED: Final = "unsupported"
NO_DEVICE: Final = "no device"
CANCELLED: Final = "cancelled"


class StatsRequest:
    """One asker's wait. `state` is PENDING until the request ends, once, in one of the other states.

    `on_done`, if given, is called with the request when it ends otherwise than by `cancel`. A request that ends
    inside `StatsRequests.open` has ended when that returns: look at `state`, then set `on_done`.
    """

    # Defaults of the class: nearly all requests end before any of these but the state is touched.
    state: RequestState = PENDING
    deadline: int | None = None
    on_done: Callable[[StatsRequest], None] | None = None
    _timer: Timer | None = None


class _Ended(StatsRequest):
    """A request that ended before it began. It is shared, so nothing of it can be set."""

    def __init__(self, state: RequestState) -> None:
        self.__dict__["state"] = state

    def __setattr__(self, name: str, value: object) -> None:
        if value is not None:
            raise MisuseError(f"the request has ended ({self.state}): look at that instead of setting {name}")


KEPT = 512
"""Requests that were not answered that are remembered."""

_AT_ONCE: tuple[RequestState, ...] = (ANSWERED, UNSUPPORTED, NO_DEVICE)
ENDED = {state: _Ended(state) for state in _AT_ONCE}
"""What is returned of requests that end at once: one of each kind does for all."""


class StatsRequests:
    """The pending requests of a machine, whatever becomes of its devices and guests meanwhile: look, don't touch."""

    __slots__ = ("_clock", "_timers", "answered", "pending", "timed_out", "unanswered")

    def __init__(self, clock: Clock, timers: TimerQueue) -> None:
        self._clock = clock
        self._timers = timers
        self.pending: dict[StatsRequest, None] = {}  # in the order they were opened
        self.answered = 0
        self.timed_out = 0
        self.unanswered: list[int] = []
        """Host times (ns) at which the last KEPT requests were made that timed out, in the order they did."""

    def open(self, timeout: int | None) -> StatsRequest:
        """Open a request that waits `timeout` ns (None: until the next sample) for what the caller has asked."""
        request = StatsRequest()
        self.pending[request] = None
        if timeout is not None:
            asked = self._clock.now()
            request.deadline = asked + timeout
            request._timer = self._timers.at(request.deadline, lambda: self._expire(request, asked))
        return request

    def end_all(self, state: RequestState) -> None:
        """End every pending request in `state`, in the order they were opened.

        Requests opened by their callbacks are new ones and stay.
        """
        ending, self.pending = self.pending, {}
        for request in ending:
            if request.state is PENDING:  # else a callback of an earlier one cancelled it
                if state is ANSWERED:
                    self.answered += 1
                self._end(request, state)

    def cancel(self, request: StatsRequest) -> None:
        """Drop a request whose asker has gone; nothing if it has ended."""
        if request.state is PENDING:
            self._drop(request)
            request.on_done = None
            self._end(request, CANCELLED)

    def _expire(self, request: StatsRequest, asked: int) -> None:
        self._drop(request)
        self.timed_out += 1
        self.unanswered = [*self.unanswered[1 - KEPT :], asked]
        self._end(request, TIMED_OUT)

    def _drop(self, request: StatsRequest) -> None:
        self.pending.pop(request, None)  # not there while `end_all` is on its way to it

    @staticmethod
    def _end(request: StatsRequest, state: RequestState) -> None:
        request.state = state
        if request._timer is not None:
            request._timer.cancel()
            request._timer = None
        on_done = request.on_done
        if on_done is not None:
            request.on_done = None
            on_done(request)


class Task:
    """Something that a guest was asked to do and takes a while over. `deadline` (host ns) is when it gives up.

    It is `pending` until it ends, once: then `result` is what came of it, or `error` why nothing did. `on_done`, if
    given, is called with the task when it ends otherwise than by `cancel`.
    """

    pending = True
    result = 0
    error: MisuseError | None = None
    on_done: Callable[[Task], None] | None = None

    def __init__(self, deadline: int, forget: Callable[[], object]) -> None:
        """`forget` is called at the end, however it comes."""
        self.deadline = deadline
        self._forget = forget

    def end(self, outcome: Callable[[], int]) -> None:
        """End with what `outcome` returns, or the MisuseError that it raises; nothing if it ended before."""
        if self.pending:
            self.pending = False
            self._forget()
            try:
                self.result = outcome()
            except MisuseError as error:
                self.error = error
            if self.on_done is not None:
                self.on_done(self)

    def cancel(self) -> None:
        """Nobody waits any more. What the guest was asked to do it may do all the same."""
        if self.pending:
            self.pending = False
            self._forget()
