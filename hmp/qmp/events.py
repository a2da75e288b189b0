"""Events for QMP clients: the machine's events, with QEMU's names and at QEMU's rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from device.balloon.spec import SEED_STATS, STATS_TABLE
from device.clock import SECOND, Timer
from device.machine.events import ActualChanged, Event, Relayed, SampleArrived
from device.machine.machine import Machine
from device.machine.requests import ANSWERED, PENDING, UNSUPPORTED, StatsRequest
from hmp.monitor.dialects import Dialect, layout
from hmp.monitor.emulated import emulated
from hmp.qjson import codec
from hmp.qmp.schema import EVENTS


class Listener(Protocol):
    """The part of a client's session that events need."""

    dialect: Dialect
    send: Callable[[bytes], None]


FORWARDED_EVENTS = frozenset(EVENTS) - {"BALLOON", "BALLOON_CHANGE"}
"""The machine's events that are sent unchanged."""

CHANGE_INTERVAL = SECOND
"""Host time (ns) between two BALLOON_CHANGE. As in QEMU 7.2 the first is sent at once and the last is never lost."""


class Latest(bytes):
    """An event (BALLOON) that replaces an older one which was not sent yet.

    A client that reads slowly gets the newest numbers, and not a queue of old ones.
    """

    __slots__ = ()


@lru_cache(64)
def _balloon(tags: tuple[int, ...]) -> tuple[bytes, Callable[[tuple[int, ...]], tuple[int, ...]]]:
    """Return BALLOON for a guest that sends `tags`, with a %d for each number, and the function that picks these."""
    # Making the JSON anew for each answer took 65,700 instructions, filling this in takes 16,800 (callgrind).
    names = ["actual", *(STATS_TABLE[tag].name for tag in SEED_STATS if tag in tags)]
    stamp = dict.fromkeys(("seconds", "microseconds"), "%d")
    event = {"timestamp": stamp, "event": "BALLOON", "data": dict.fromkeys(names, "%d")}
    return codec.encode(event).replace(b'"%d"', b"%d"), layout(tags)[1]


class EventHub:
    """Sends events to the clients of one machine that have finished their negotiation. `close` it at the end.

    `later` calls a function after the present work, as an event loop's call_soon does. With it, if many clients ask at
    the same time, each gets one BALLOON, with the last answer. Without it every BALLOON is sent at once.
    """

    def __init__(self, machine: Machine, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._machine = machine
        self._later = later
        self._answer: Latest | None = None  # the BALLOON that is not sent yet
        self._asker: Listener | None = None  # the client that has it already
        self._sessions: list[Listener] = []
        self._request: StatsRequest | None = None
        # The time and the event to send at the end of the interval.
        self._latest: tuple[int, ActualChanged] | None = None
        self._throttle: Timer | None = None
        self._hold_from = ""
        self._held: list[bytes] = []
        self._unsubscribe = machine.subscribe(self._machine_event)

    def close(self) -> None:
        """Stop listening to the machine."""
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
        """Send `session` no more events."""
        if session in self._sessions:
            self._sessions.remove(session)

    def encode(self, name: str, data: Mapping[str, object], wall: int | None = None) -> bytes:
        """Return the wire form of an event that happened at `wall` (ns since the epoch), or happens now."""
        seconds, rest = divmod(self._machine.clock.wall() if wall is None else wall, SECOND)
        event: dict[str, object] = {"timestamp": {"seconds": seconds, "microseconds": rest // 1000}, "event": name}
        if data:
            event["data"] = data
        return codec.encode(event)

    def send_to_all(self, name: str, data: Mapping[str, object]) -> None:
        """Send any event to every client."""
        self._broadcast(self.encode(name, data))

    def hold(self, name: str) -> None:
        """Keep event `name` and all events after it until `release`: they are sent after a reply."""
        self._hold_from = name

    def release(self) -> None:
        """Send the events that were kept."""
        self._hold_from = ""
        held, self._held = self._held, []
        for message in held:
            self._broadcast(message)

    def _broadcast(self, message: bytes) -> None:
        # No event may overtake one that is held.
        if self._held:
            self._held.append(message)
            return
        # A BALLOON that still waits is older than this event, so it goes first.
        self._send_answer()
        for session in tuple(self._sessions):
            session.send(message)

    def _machine_event(self, event: Event) -> None:
        if isinstance(event, SampleArrived):  # the most frequent event, so it is tested first
            return
        if isinstance(event, Relayed):  # an event of a running QEMU, sent unchanged
            self._broadcast(codec.encode(event.raw))
        # With --attach QEMU's own events come as Relayed; those that hmp derives from them would come twice.
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
            self._send_change(self._machine.clock.wall(), event)
        else:
            # The latest event replaces the one before, and keeps the time at which it happened.
            self._latest = (self._machine.clock.wall(), event)

    def _send_change(self, wall: int, event: ActualChanged) -> None:
        self._throttle = self._machine.time.after(CHANGE_INTERVAL, self._interval_over)
        if self._sessions:
            self._broadcast(self.encode(event.name, event.data, wall))

    def _interval_over(self) -> None:
        self._throttle = None
        latest, self._latest = self._latest, None
        if latest is not None:
            self._send_change(*latest)

    # Statistics that query-balloon asks for.

    @property
    def waiting(self) -> bool:
        """Whether the guest was asked and did not answer yet. One request serves all clients."""
        return self._request is not None

    def send_when_answered(self, request: StatsRequest, asker: Listener | None = None) -> None:
        """Send BALLOON to all clients when `request` is answered, and nothing if it never is.

        If the guest answered at once, the `asker` gets BALLOON at once, together with its reply.
        """
        self._request = None
        if request.state is PENDING:
            self._request = request
            request.on_done = self.send_when_answered
            return
        device = self._machine.device
        if device is None or request.state not in (ANSWERED, UNSUPPORTED):
            return
        sample = device.stats.sample
        text, pick = _balloon(sample.tags if sample is not None else ())
        numbers = pick(sample.numbers) if sample is not None else ()
        seconds, rest = divmod(self._machine.clock.wall(), SECOND)
        message = Latest(text % (seconds, rest // 1000, device.actual, *numbers))
        # Another BALLOON may wait already; this one replaces it.
        waits, self._answer, self._asker = self._answer is not None, message, asker
        if asker is not None:
            asker.send(message)
            if self._sessions == [asker]:  # no other client to send it to
                self._answer = self._asker = None
                return
        if self._later is None:
            self._send_answer()
        elif not waits:
            self._later(self._send_answer)

    def _send_answer(self) -> None:
        message, self._answer = self._answer, None
        asker, self._asker = self._asker, None
        if message is not None:
            for session in tuple(self._sessions):
                if session.dialect.balloon_event and session is not asker:
                    session.send(message)
