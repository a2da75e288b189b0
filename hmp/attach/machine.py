"""A running virtual machine in place of the simulated one: it has the methods that front ends and the monitor call.

It uses the clock, the timers and the requests of the simulated machine. Here `wait_for` and `step` drive a connection
instead of a guest. The exchanges with QEMU are written as generators. They yield a command (its name, its arguments,
and a limit in ns if it may take long) and receive its result, or they yield a time to sleep (ns).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

from device.balloon.stats import History
from device.clock import SECOND, Clock, Timeline
from device.machine import events
from device.machine.guest import Guest
from device.machine.machine import PAUSED, RUNNING, SHUTDOWN
from device.machine.requests import TIMED_OUT, StatsRequest, StatsRequests
from hmp.attach.link import Link, LinkError, QmpError
from hmp.attach.question import SENSELESS, Balloon, Question, is_whole
from hmp.monitor import escape
from hmp.monitor.completion import Candidate
from hmp.monitor.emulated import Emulated

Steps = Generator[Any, Any, Any]
Command = tuple[str, Mapping[str, object] | None] | tuple[str, Mapping[str, object] | None, int]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

RESTORE_LIMIT = 3 * SECOND
"""How long (ns) to try to put the polling interval back at the end. It is longer than a greeting may take."""


class Vm(Guest):
    """The guest of the VM: what the monitor and the toolbar need of it."""

    driver_loaded = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = self.spec = name
        self.panicked = False

    def shown(self) -> dict[str, str]:
        """Return the states to show, as the simulated guests do."""
        return {"panicked": "until system_reset"} if self.panicked else {}


class signals_blocked:
    """A context in which signals are blocked.

    A command that is half sent would spoil the connection, which the clean-up needs.
    """

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


class Attached:
    """A machine that runs elsewhere. Listeners get its events as Relayed, and many also in hmp's own classes."""

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
        """A text for stderr at the end; if it is set, hmp fails. If QEMU ends after SHUTDOWN, that is no failure."""
        self.ram = 0
        self.front = Emulated()
        self.front.relays = True
        self.offers: Callable[[str], list[Candidate]] = lambda line: []
        """Completes a line; completion.complete calls it."""
        self.link = link
        self.hold = hold
        """Whether to keep the connection while nothing is asked."""
        self.question = Question(self)
        self._running_steps = 0
        self._ending = False
        self._listeners: list[Callable[[events.Event], None]] = []
        link.on_event = self._event
        link.on_lost = self._lost_idle

    # Called by front ends.

    @property
    def running(self) -> bool:
        """Whether the VM runs, according to QEMU's last event or answer."""
        return self.run_state == RUNNING

    def start(self, *, paused: bool = False) -> None:
        """Do nothing: the VM runs already."""

    def subscribe(self, listener: Callable[[events.Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on. Returns a function that ends this."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def emit(self, event: events.Event) -> None:
        """Call every listener with an event."""
        for listener in tuple(self._listeners):
            listener(event)

    def wait_for(self, *, jump: bool = False) -> tuple[list[int], int | None]:
        """Return the descriptors to wait for, and the host time (ns) of the next `step`, or None."""
        times = [due for due in (self.time.next_deadline(), self.link.due) if due is not None]
        return self.link.descriptors, min(times, default=None)

    def step(self, *, jump: bool = False) -> bool:
        """Read from QEMU and fire the timers that are due."""
        with signals_blocked():
            self.link.serve()
            now, fired = self.clock.now(), False
            while self.time.fire_due(now):
                fired = True
            # QEMU serves one client at a time, so let another one connect while nothing is asked.
            if not self._running_steps and not self.hold:
                self.link.release()
        return fired

    def later(self, act: Callable[[], object]) -> None:
        """Call `act` now: QEMU keeps the effects of commands, and none of them waits for the end of a step here."""
        act()

    def quit(self, *, reason: str = "") -> None:
        """End hmp; the VM goes on."""
        if not self.over:
            self.over = True
            self.run_state = SHUTDOWN
            self.emit(events.Ended(guest=False, reason=reason))

    def close(self) -> None:
        """Put the polling interval back, and close the connection."""
        with signals_blocked():
            # Without pending requests the question ends, and puts the interval back.
            for request in tuple(self.requests.pending):
                self.requests.cancel(request)
            self.wait_until(lambda: not self.question.asking, RESTORE_LIMIT)
            self.question.report_interval_left("no answer")
            self.link.close()

    def wait_until(self, done: Callable[[], bool], limit: int) -> None:
        """Run the machine until `done()`, but at most for `limit` (ns)."""
        from hmp.pipe import poll_once

        end = self.clock.now() + limit
        while not done() and (now := self.clock.now()) < end:
            descriptors, due = self.wait_for()
            poll_once([-1, *descriptors], min(end, now + SECOND if due is None else due), self)  # type: ignore[arg-type]

    # Commands to QEMU.

    def run(self, steps: Steps, done: Callable[[Any, Exception | None], object] = lambda value, error: None) -> None:
        """Run a generator. `done` is called with its result, or with the QmpError or LinkError that it raised."""
        # The connection is in use while any generator runs.
        self._running_steps += 1

        def go(value: object = None, error: Exception | None = None) -> None:
            try:
                wanted: int | Command = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                self._running_steps -= 1
                done(end.value, None)
            except (QmpError, LinkError) as why:
                self._running_steps -= 1
                done(None, why)
            except SENSELESS:
                self._running_steps -= 1
                # The generator raised it for an answer of the wrong form.
                done(None, self.senseless())
            else:
                if isinstance(wanted, int):
                    self.time.after(wanted, go)
                else:
                    self.link.execute(wanted[0], wanted[1], go, *wanted[2:])

        with signals_blocked():
            go()

    def ask(self, steps: Steps, limit: int) -> Any:
        """Run a generator to its end and return its result. Raises QmpError and LinkError."""
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
        """Return the error for an answer that QEMU would never give. It names the command that was sent last."""
        return LinkError(f"{self.link.name}: an answer to {self.link.last_command} that makes no sense")

    def _lost_idle(self, error: LinkError) -> None:
        if not self._running_steps:  # else a sleeping generator finds out, and connects again
            self.lost(str(error))

    def lost(self, why: str) -> None:
        """QEMU is gone: end everything that waits, and hmp itself."""
        if self.over:
            return
        self.guest.ended = why
        self.failure = "" if self._ending else why
        self.requests.end_all(TIMED_OUT)
        self.over = True
        self.run_state = SHUTDOWN
        self.emit(events.Ended(guest=True, reason=why))

    # Events.

    def _event(self, raw: Mapping[str, Any]) -> None:
        name, data = str(raw.get("event")), raw.get("data")
        data = data if isinstance(data, dict) else {}
        event: events.Event | None = None
        # Translated for the prompt's announcements and the toolbar, which know hmp's events only.
        if name in ("STOP", "RESUME"):
            self.run_state = RUNNING if name == "RESUME" else PAUSED
            event = events.Resumed() if name == "RESUME" else events.Stopped()
        elif name == "GUEST_PANICKED":
            self.guest.panicked = True
            event = events.Panicked(str(data.get("action")))
        elif name == "RESET":
            self.guest.panicked = False
            event = events.WasReset(guest=bool(data.get("guest")), reason=str(data.get("reason")))
        elif name == "DEVICE_DELETED":
            event = events.DeviceDeleted(str(data.get("device", "")), str(data.get("path")))
        elif name == "BALLOON_CHANGE":
            event = self._changed(data.get("actual"))
        self._ending = self._ending or name == "SHUTDOWN"
        # Events that have a class are shown in hmp's words, all others in QEMU's.
        text = " ".join([name, *[f"{key}={value}" for key, value in data.items()]])
        self.emit(events.Relayed(raw, "" if event is not None else text))
        if event is not None:
            self.emit(event)

    def _changed(self, actual: object) -> events.Event | None:
        device = self.device
        if device is None or not is_whole(actual):
            return None
        device.actual = actual
        self.history.add(self.clock.now(), actual, device.stats.sample)
        if not device.awaited:  # another client set the target
            device.target = actual
            return None
        # TargetReached is only sent for a target that was set in this hmp.
        device.awaited = actual != device.target
        return events.ActualChanged(actual) if device.awaited else events.TargetReached(actual)

    # Queries at the start.

    def query_vm(self, *, whole: bool) -> Steps:
        """Ask for the VM's name; with `whole`, for a toolbar, also for its run state and its balloon."""
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
        """Return the output of `help` and of `help info`."""
        texts = []
        for line in ("help", "help info"):
            texts.append((yield "human-monitor-command", {"command-line": line}))
        return texts

    # Statistics.

    def request_stats(self, timeout: int | None) -> StatsRequest:
        """Ask the guest for new statistics, as the simulated machine does. One question serves all pending requests."""
        request = self.requests.open(timeout)
        self.question.begin()
        return request
