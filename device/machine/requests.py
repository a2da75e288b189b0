"""Requests for fresh statistics. Any number can wait, each with its own deadline; one answer ends them all."""

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
    """A request for statistics by one caller. `state` is PENDING until the request ends, once, in another state.

    `on_done`, if set, is called with the request when it ends, except by `cancel`. A request may have ended before the
    caller gets it: look at `state` first, then set `on_done`.
    """

    # Class attributes instead of an __init__: nearly all requests end before anything but `state` is set.
    state: RequestState = PENDING
    deadline: int | None = None
    on_done: Callable[[StatsRequest], None] | None = None
    _timer: Timer | None = None


class _Ended(StatsRequest):
    """A request that ended at once. All callers share it, so its attributes cannot be set."""

    # Without the error, an `on_done` that one caller sets would appear in the request of every other caller.

    def __init__(self, state: RequestState) -> None:
        self.__dict__["state"] = state

    def __setattr__(self, name: str, value: object) -> None:
        if value is not None:  # setting `on_done` to None is harmless
            raise MisuseError(f"the request has ended ({self.state}): look at that instead of setting {name}")


KEPT = 512
"""How many unanswered requests are remembered."""

_AT_ONCE: tuple[RequestState, ...] = (ANSWERED, UNSUPPORTED, NO_DEVICE)
ENDED = {state: _Ended(state) for state in _AT_ONCE}
"""The request that is returned if one ends at once: one for each state, shared by all callers."""


class StatsRequests:
    """The pending requests of a machine, also while its device or guest is replaced. The attributes are read-only."""

    __slots__ = ("_clock", "_timers", "answered", "pending", "timed_out", "unanswered")

    def __init__(self, clock: Clock, timers: TimerQueue) -> None:
        self._clock = clock
        self._timers = timers
        # A dict as an ordered set: in the order of opening, and cancelling one of many needs no search.
        self.pending: dict[StatsRequest, None] = {}
        self.answered = 0
        self.timed_out = 0
        self.unanswered: list[int] = []
        """When the last KEPT requests that timed out were made (host ns), in the order of their deadlines."""

    def open(self, timeout: int | None) -> StatsRequest:
        """Open a request that waits `timeout` ns, or with None until the next sample. Ask the guest before this."""
        request = StatsRequest()
        self.pending[request] = None
        if timeout is not None:
            asked = self._clock.now()
            request.deadline = asked + timeout
            request._timer = self._timers.at(request.deadline, lambda: self._expire(request, asked))
        return request

    def end_all(self, state: RequestState) -> None:
        """End every pending request in `state`, in the order of opening.

        Requests that the callbacks open stay pending.
        """
        # If a callback opens a request for each one that ends, ending those here too would never stop.
        ending, self.pending = self.pending, {}
        for request in ending:
            if request.state is PENDING:  # the callback of an earlier request may have cancelled it
                if state is ANSWERED:
                    self.answered += 1
                self._end(request, state)

    def cancel(self, request: StatsRequest) -> None:
        """Drop a request whose caller has gone. Does nothing if it has ended."""
        if request.state is PENDING:
            self.pending.pop(request, None)  # it may be absent: `end_all` takes all out before it ends each
            request.on_done = None
            self._end(request, CANCELLED)

    def _expire(self, request: StatsRequest, asked: int) -> None:
        self.pending.pop(request, None)
        self.timed_out += 1
        self.unanswered = [*self.unanswered[1 - KEPT :], asked]
        self._end(request, TIMED_OUT)

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
    """Something that a guest was asked to do and that takes a while. It gives up at `deadline` (host ns).

    It is `pending` until it ends, once. Then it has a `result`, or an `error` with the reason. `on_done`, if set, is
    called with the task when it ends, except by `cancel`.
    """

    pending = True
    result = 0
    error: MisuseError | None = None
    on_done: Callable[[Task], None] | None = None

    def __init__(self, deadline: int, forget: Callable[[], object]) -> None:
        """`forget` is called when the task ends in any way."""
        self.deadline = deadline
        self._forget = forget

    def end(self, outcome: Callable[[], int]) -> None:
        """End with what `outcome` returns, or the MisuseError that it raises. Does nothing if it ended before."""
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
        """Stop waiting. The guest may still do what it was asked to do."""
        if self.pending:
            self.pending = False
            self._forget()
