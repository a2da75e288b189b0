"""Events for QMP's clients: what the machine says, in QEMU's words and at QEMU's rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from device.balloon.spec import SEED_STATS, STATS_TABLE
from device.clock import SECOND, Timer
from device.machine.events import ActualChanged, Event, Relayed
from device.machine.machine import Machine
from device.machine.requests import ANSWERED, PENDING, UNSUPPORTED, StatsRequest
from hmp.monitor.dialects import Dialect
from hmp.monitor.emulated import emulated
from hmp.qjson import codec
from hmp.qmp.schema import EVENTS


class Listener(Protocol):
    """A client's session, as far as events go."""

    dialect: Dialect
    send: Callable[[bytes], None]


FORWARDED_EVENTS = frozenset(EVENTS) - {"BALLOON", "BALLOON_CHANGE"}
"""The machine's events that go out as they are."""

CHANGE_INTERVAL = SECOND
"""Host time between two BALLOON_CHANGE: the first goes at once, the last is never lost (QEMU 7.2)."""


class Latest(bytes):
    """An event that takes the place of an older one that the client was not sent yet: BALLOON."""

    __slots__ = ()


class EventHub:
    """Sends events to the clients of one machine that finished their negotiation. `close` it at the end.

    `later` calls a function once what is under way is done, as an event loop's call_soon: of the BALLOONs that many
    clients ask for at the same time, all get the last. Without it each goes out at once.
    """

    def __init__(self, machine: Machine, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._machine = machine
        self._later = later
        self._answer: Latest | None = None  # the BALLOON to come
        self._asker: Listener | None = None  # who has it already
        self._sessions: list[Listener] = []
        self._request: StatsRequest | None = None
        self._latest: tuple[int, ActualChanged] | None = None  # when, and what, for the end of the interval
        self._throttle: Timer | None = None
        self._hold_from = ""
        self._held: list[bytes] = []
        self._unsubscribe = machine.subscribe(self._machine_event)

    def close(self) -> None:
        """Listen to the machine no more."""
        self._unsubscribe()
        self._sessions.clear()
        if self._throttle is not None:
            self._throttle.cancel()
            self._throttle = None
        if self._request is not None:
            self._machine.requests.cancel(self._request)
            self._request = None

    def join(self, session: Listener) -> None:
        """Send events to `session` from now on."""
        self._sessions.append(session)

    def leave(self, session: Listener) -> None:
        """Send it none any more."""
        if session in self._sessions:
            self._sessions.remove(session)

    def encode(self, name: str, data: Mapping[str, object], wall: int | None = None) -> bytes:
        """Return the wire form of an event that happened at `wall` (ns since the epoch), or happens now."""
        seconds, rest = divmod(self._machine.clock.wall() if wall is None else wall, SECOND)
        event: dict[str, object] = {"timestamp": {"seconds": seconds, "microseconds": rest // 1000}, "event": name}
        if data:
            event["data"] = data
        return codec.encode(event)

    def tell(self, name: str, data: Mapping[str, object]) -> None:
        """Send any event to every client."""
        self._broadcast(self.encode(name, data))

    def hold(self, name: str) -> None:
        """Keep event `name`, and whatever follows it, for `release`: they are to be told after a reply."""
        self._hold_from = name

    def release(self) -> None:
        """Send what was kept."""
        self._hold_from = ""
        held, self._held = self._held, []
        for message in held:
            self._broadcast(message)

    def _broadcast(self, message: bytes) -> None:
        if self._held:
            self._held.append(message)
            return
        self._tell_answer()
        for session in tuple(self._sessions):
            session.send(message)

    def _machine_event(self, event: Event) -> None:
        if isinstance(event, Relayed):  # of a running QEMU, in its own words
            self._broadcast(codec.encode(event.raw))
        elif emulated(self._machine).relays:
            pass
        elif isinstance(event, ActualChanged):
            self._changed(event)
        elif event.name in FORWARDED_EVENTS and self._sessions:
            message = self.encode(event.name, event.data)
            if event.name == self._hold_from:
                self._held.append(message)
            else:
                self._broadcast(message)

    def _changed(self, event: ActualChanged) -> None:
        if self._throttle is None:
            self._tell_change(self._machine.clock.wall(), event)
        else:
            self._latest = (self._machine.clock.wall(), event)  # the latest wins, with its own timestamp

    def _tell_change(self, wall: int, event: ActualChanged) -> None:
        self._throttle = self._machine.time.after(CHANGE_INTERVAL, self._interval_over)
        if self._sessions:
            self._broadcast(self.encode(event.name, event.data, wall))

    def _interval_over(self) -> None:
        self._throttle = None
        latest, self._latest = self._latest, None
        if latest is not None:
            self._tell_change(*latest)

    # Statistics asked for by query-balloon.

    def ask(self, asker: Listener | None = None) -> None:
        """Ask the guest for fresh statistics, for all clients at once; BALLOON follows if and when it answers.

        The `asker` has it at once where the guest answers at once: with the reply.
        """
        if self._request is not None:
            device = self._machine.device
            if device is not None:  # the guest may have missed the notification: say it again
                device.stats.ask()
                self._machine.deliver()
            return
        request = self._machine.request_stats(None)
        if request.state is PENDING:
            self._request = request
            request.on_done = self._answered
        else:
            self._answered(request, asker)

    def _answered(self, request: StatsRequest, asker: Listener | None = None) -> None:
        self._request = None
        device = self._machine.device
        if device is None or request.state not in (ANSWERED, UNSUPPORTED):
            return
        data: dict[str, object] = {"actual": device.actual}
        sample = device.stats.sample
        if sample is not None:
            values = sample.values
            data.update((STATS_TABLE[tag].name, values[tag]) for tag in SEED_STATS if tag in values)
        message = Latest(self.encode("BALLOON", data))
        if asker is not None:
            asker.send(message)
        waits, self._answer, self._asker = self._answer is not None, message, asker
        if self._later is None:
            self._tell_answer()
        elif not waits:
            self._later(self._tell_answer)

    def _tell_answer(self) -> None:
        message, self._answer = self._answer, None
        asker, self._asker = self._asker, None
        if message is not None:
            for session in tuple(self._sessions):
                if session.dialect.balloon_event and session is not asker:
                    session.send(message)
