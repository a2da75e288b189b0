"""A running virtual machine in the place of the simulated one: what front ends and the monitor ask of a machine.

It has the clock, the timers and the requests of the simulated machine; `wait_for` and `step` drive its connection as
they drive a guest there. What happens between QEMU and us is written as generators: they yield a command (its name, its
arguments, and a limit if it may take long), and are sent what came of it, or a time to sleep (ns).
"""

from __future__ import annotations

import signal
from functools import partial

from device.balloon.stats import History
from device.clock import SECOND, Clock, Timeline
from device.machine.events import (
    ActualChanged,
    DeviceDeleted,
    Ended,
    Event,
    Panicked,
    Relayed,
    Resumed,
    Stopped,
    TargetReached,
    WasReset,
)
from device.machine.guest import Guest
from device.machine.machine import PAUSED, RUNNING, SHUTDOWN
from device.machine.requests import TIMED_OUT, StatsRequests
from hmp.attach.link import LinkError, QmpError
from hmp.attach.question import SENSELESS, Question, is_whole
from hmp.monitor import escape
from hmp.monitor.emulated import Emulated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

    from device.machine.machine import Listener
    from device.machine.requests import StatsRequest
    from hmp.attach.link import Link
    from hmp.attach.question import Balloon
    from hmp.monitor.completion import Candidate

    Steps = Generator[Any, Any, Any]
    Command = tuple[str, Mapping[str, object] | None] | tuple[str, Mapping[str, object] | None, int]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PUT_BACK_LIMIT = 3 * SECOND
"""How long (ns) the end may take to put the polling interval back: longer than a greeting may take."""


class Vm(Guest):
    """What runs in the VM, as far as the monitor and the toolbar ask."""

    driver_loaded = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = self.spec = name
        self.panicked = False

    def shown(self) -> dict[str, str]:
        """Return what it suffers from."""
        return {"panicked": "until system_reset"} if self.panicked else {}


class unbroken:
    """A context that no signal breaks: a command half sent would leave the connection of no use for the clean-up."""

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


class Attached:
    """A machine that runs elsewhere. Events go to listeners as those of the simulated machine, and as Relayed."""

    def __init__(self, link: Link, clock: Clock, *, name: str, timeout: int, hold: bool) -> None:
        self.clock = clock
        self.timeout = timeout
        self.begun = clock.now()
        self.time = Timeline(clock)
        self.requests = StatsRequests(clock, self.time.host_timers)
        self.history = History()
        self.guest = Vm(name)
        self.device: Balloon | None = None
        self.run_state = RUNNING
        self.over = False
        self.failure = ""
        """What goes to stderr at the end, and makes it a failed one."""
        self.ram = 0
        self.store = None
        self.front = Emulated()
        self.front.relays = True
        self.offers: Callable[[str], list[Candidate]] = lambda line: []
        """What completion asks."""
        self.link = link
        self.hold = hold
        """Whether the connection is kept while nothing is asked."""
        self.question = Question(self)
        self._flows = 0
        self._ending = False
        self._listeners: list[Listener] = []
        link.on_event = self._event
        link.on_lost = self._lost_idle

    # What a front end asks of a machine.

    @property
    def running(self) -> bool:
        """Whether the VM runs, as far as is known."""
        return self.run_state == RUNNING

    def start(self, *, paused: bool = False) -> None:
        """Nothing: it runs."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns the function that ends it."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def emit(self, event: Event) -> None:
        """Tell every listener of an event."""
        for listener in tuple(self._listeners):
            listener(event)

    def wait_for(self, *, jump: bool = False) -> tuple[list[int], int | None]:
        """Return the descriptors that concern the machine, and the host time (ns) at which to `step` next, or None."""
        times = [due for due in (self.time.next_deadline(), self.link.due) if due is not None]
        return self.link.descriptors, min(times, default=None)

    def step(self, *, jump: bool = False) -> bool:
        """Do what is due."""
        with unbroken():
            self.link.serve()
            now, fired = self.clock.now(), False
            while self.time.fire_due(now):
                fired = True
            if not self._flows and not self.hold:
                self.link.release()
        return fired

    def quit(self, *, reason: str = "") -> None:
        """Leave the VM alone, and end."""
        if not self.over:
            self.over = True
            self.run_state = SHUTDOWN
            self.emit(Ended(guest=False, reason=reason))

    def close(self) -> None:
        """Put back what was changed, and hang up."""
        with unbroken():
            for request in tuple(self.requests.pending):
                self.requests.cancel(request)
            self.wait_until(lambda: not self.question.asking, PUT_BACK_LIMIT)
            self.question.give_up()
            self.link.close()

    def wait_until(self, done: Callable[[], bool], limit: int) -> None:
        """Run the machine until `done()`, `limit` ns at the most."""
        from hmp.pipe import poll_once

        end = self.clock.now() + limit
        while not done() and (now := self.clock.now()) < end:
            descriptors, due = self.wait_for()
            poll_once([-1, *descriptors], min(end, now + SECOND if due is None else due), self)  # type: ignore[arg-type]

    # Talking to QEMU.

    def run(self, steps: Steps, done: Callable[[Any, Exception | None], object] = lambda value, error: None) -> None:
        """Run a generator; `done` is called with what it returned, or the QmpError or LinkError that it raised."""
        self._flows += 1

        def go(value: object = None, error: Exception | None = None) -> None:
            try:
                wanted: int | Command = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                self._flows -= 1
                done(end.value, None)
            except (QmpError, LinkError) as why:
                self._flows -= 1
                done(None, why)
            except SENSELESS:
                self._flows -= 1
                done(None, self.senseless())
            else:
                if isinstance(wanted, int):
                    self.time.after(wanted, go)
                else:
                    self.link.order(wanted[0], wanted[1], go, *wanted[2:])

        with unbroken():
            go()

    def ask(self, steps: Steps, limit: int) -> Any:
        """Run a generator to its end; returns what it returned. Raises QmpError and LinkError."""
        ended: list[tuple[Any, Exception | None]] = []
        self.run(steps, lambda *end: ended.append(end))
        self.wait_until(lambda: bool(ended), limit)
        if not ended:
            raise LinkError(f"{self.link.name}: no answer came")
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    def senseless(self) -> LinkError:
        """Return what to say of an answer that no QEMU would give: it was the last that came."""
        return LinkError(f"{self.link.name}: an answer to {self.link.asked} that makes no sense")

    def _lost_idle(self, error: LinkError) -> None:
        if not self._flows:  # else what sleeps finds out, and connects anew
            self.lost(str(error))

    def lost(self, why: str) -> None:
        """QEMU is gone: everything that waits ends, and we too."""
        if self.over:
            return
        self.guest.ended = why
        self.failure = "" if self._ending else why
        self.requests.end_all(TIMED_OUT)
        self.over = True
        self.run_state = SHUTDOWN
        self.emit(Ended(guest=True, reason=why))

    # Events.

    def _event(self, raw: Mapping[str, Any]) -> None:
        name, data = str(raw.get("event")), raw.get("data")
        data = data if isinstance(data, dict) else {}
        event: Event | None = None
        if name in ("STOP", "RESUME"):
            self.run_state = RUNNING if name == "RESUME" else PAUSED
            event = Resumed() if name == "RESUME" else Stopped()
        elif name == "GUEST_PANICKED":
            self.guest.panicked = True
            event = Panicked(str(data.get("action")))
        elif name == "RESET":
            self.guest.panicked = False
            event = WasReset(guest=bool(data.get("guest")), reason=str(data.get("reason")))
        elif name == "DEVICE_DELETED":
            event = DeviceDeleted(str(data.get("device", "")), str(data.get("path")))
        elif name == "BALLOON_CHANGE":
            event = self._changed(data.get("actual"))
        self._ending = self._ending or name == "SHUTDOWN"
        told = " ".join([name, *[f"{key}={value}" for key, value in data.items()]])
        self.emit(Relayed(raw, "" if event is not None else told))
        if event is not None:
            self.emit(event)

    def _changed(self, actual: object) -> Event | None:
        device = self.device
        if device is None or not is_whole(actual):
            return None
        device.actual = actual
        self.history.add(self.clock.now(), actual, device.stats.sample)
        if not device.awaited:  # somebody else asked for it
            device.target = actual
            return None
        device.awaited = actual != device.target
        return ActualChanged(actual) if device.awaited else TargetReached(actual)

    # What is known from the start.

    def look_around(self, *, whole: bool) -> Steps:
        """Learn the VM's name; the `whole`, for a toolbar, is its run state and balloon too."""
        name = (yield "query-name", None).get("name")
        if name:
            self.guest.name = self.guest.spec = " ".join(escape(str(name)).split())
        if whole:
            self.run_state = escape(str((yield "query-status", None)["status"]))
            yield from self.question.find()
            if self.device is not None:
                yield from self.question.read(self.device)
                self.device.target = self.device.actual

    def help(self) -> Steps:
        """Return what `help` and `help info` print."""
        texts = []
        for line in ("help", "help info"):
            texts.append((yield "human-monitor-command", {"command-line": line}))
        return texts

    # Statistics.

    def request_stats(self, timeout: int | None) -> StatsRequest:
        """Ask the guest for fresh statistics, as the simulated machine does: one question for all that wait."""
        request = self.requests.open(timeout)
        self.question.begin()
        return request
