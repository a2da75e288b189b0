"""Asks the guest of a running VM for its present statistics.

QEMU has no command for that. It polls the guest if an interval is set, and setting an interval of 1 where there was
none makes it ask at once. So hmp sets the polling interval to 1 until the guest has answered, and then sets it back.
"""

from __future__ import annotations

from device.balloon.spec import ABSENT, STATS_TABLE
from device.balloon.stats import Sample
from device.clock import MS, SECOND
from device.machine.requests import ANSWERED, NO_DEVICE, TIMED_OUT, UNSUPPORTED
from hmp.attach.link import BusyError, LinkError, QmpError
from hmp.monitor import escape
from hmp.streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

    from device.clock import Clock
    from hmp.attach.machine import Attached, Steps

EAGER_LOOKS = 8
"""How many times to look for the answer without pauses at first. Most guests answer within 4 ms."""

FIRST_LOOK, LONGEST_LOOK = MS, 50 * MS
"""The first and the longest pause (ns) between later looks. poll() has no pauses below 1 ms, and a guest that is slower
does not answer earlier if it is looked at more often."""

KEPT_OPEN = 20 * MS
"""During a pause of this length (ns) or more, a connection that is not kept is closed, so that other clients can
connect."""

RESTORE_TRIES = 3
"""How often to try to put the interval back while another client has the socket, or QEMU hangs."""

STATS = "guest-stats"

INTERVAL = "guest-stats-polling-interval"

SENSELESS = KeyError, TypeError, ValueError, AttributeError
"""The exceptions that reading an answer raises if it does not have the form of QEMU's."""

TAGS = {stat.qom: tag for tag, stat in enumerate(STATS_TABLE)}


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether `value` can be a size, a count or a number of seconds from QEMU."""
    return type(value) is int and 0 <= value <= ABSENT


def whole(value: Any) -> int:
    """Return `value`, a size, a count or a number of seconds. Raises ValueError if QEMU would never send it."""
    if is_whole(value):
        return value
    raise ValueError


class Stats:
    """The last statistics of the guest, with the attributes of the simulated device."""

    def __init__(self, clock: Clock, since: int) -> None:
        self._clock = clock
        self.sample: Sample | None = None
        self.since = since
        """The host time (ns) from which the age of the numbers counts."""
        self.poll_interval = 0
        self.held: object = None
        self.out = False

    @property
    def age(self) -> int:
        """The age (ns) of the numbers."""
        return self._clock.now() - self.since


class Balloon:
    """The balloon device, with the attributes of the simulated one that front ends use."""

    def __init__(self, machine: Attached, path: str, backend: str) -> None:
        self.path = path
        self.backend = backend
        self.id = escape(path.rpartition("/")[2])
        self.ram = self.actual = self.target = machine.ram
        self.stats = Stats(machine.clock, machine.begun)
        self.can_report = self.live = True
        self.broken = False
        self.answered: object = None
        """The address of the ring on which the last answer came."""
        self.awaited = False
        """Whether hmp set a target that is not reached yet."""


class Question:
    """Asks the guest while a machine has pending requests. One answer ends them all."""

    def __init__(self, machine: Attached) -> None:
        self.machine = machine
        self.asking = False
        self.saved_interval: int | None = None
        """The polling interval before hmp set it to 1; None while it is not changed."""
        self.why = ""
        """Why the last answer was not new, if QEMU has told or shown that."""
        self.came = -1
        """When the guest answered last (host ns)."""
        self._tries = 0
        self._by_queue = True  # whether QEMU has x-query-virtio-queue-status to see answers by

    def begin(self) -> None:
        """Start to ask, unless that is under way."""
        if not self.asking:
            self._tries, self.why = 0, ""
            self._ask()

    def _question_ended(self, value: object, error: Exception | None) -> None:
        self.asking = False
        if isinstance(error, BusyError):
            self.why = str(error)
            self._tries += 1
            if not self.machine.requests.pending and (self.saved_interval is None or self._tries > RESTORE_TRIES):
                self.report_interval_left(self.why)
                return
            self._ask(LONGEST_LOOK)  # each request has its own deadline, so try again while one is pending
        elif error is not None:
            # If QEMU is gone, its interval is gone too, and there is nothing to report.
            if not getattr(error, "gone", False):
                self.report_interval_left(str(error))
            self.saved_interval = None
            self.machine.lost(str(error))
        elif self.machine.requests.pending:  # a request came while the last one ended
            self._ask()

    def _ask(self, delay: int = 0) -> None:
        self.asking = True
        self.machine.run(self._steps(delay), self._question_ended)

    def report_interval_left(self, why: str) -> None:
        """Report an interval that is still changed, because it could not be put back."""
        if self.saved_interval is not None:
            name = self.machine.device.id if self.machine.device is not None else "the balloon"
            complain(f"the polling interval of {name} was left at 1 (it was {self.saved_interval}): {why}")
            self.saved_interval = None

    def _get(self, path: str, name: str) -> Steps:
        return (yield "qom-get", {"path": path, "property": name})

    def find(self) -> Steps:
        """Find the balloon device, if there is one."""
        if self.machine.device is not None:
            return
        found = []
        for folder in ("/machine/peripheral", "/machine/peripheral-anon"):
            for child in (yield "qom-list", {"path": folder}):
                if child["type"].startswith("child<virtio-balloon"):
                    found.append((f"{folder}/{child['name']}", child["type"] == "child<virtio-balloon-device>"))
        if not found:
            return
        (path, bare), *others = found
        if others:  # QEMU has at most one
            complain(f"{self.machine.link.name}: {len(found)} balloon devices: using {path}")
        memory = yield "query-memory-size-summary", None
        self.machine.ram = whole(memory["base-memory"]) + whole(memory.get("plugged-memory", 0))
        device = Balloon(self.machine, path, path if bare else f"{path}/virtio-backend")
        yield from self._read_actual(device)
        device.stats.held = self
        self.machine.device = device

    def _read_actual(self, device: Balloon) -> Steps:
        device.actual = whole((yield "query-balloon", None)["actual"])

    def _mark(self, device: Balloon) -> Steps:
        """Return a value that changes when the guest answers, and whether there is a queue that it can answer on.

        The index of the statistics queue changes with each answer. guest-stats is used only if QEMU cannot show the
        queue, because its last-update counts in seconds.
        """
        if self._by_queue:
            try:
                queue = yield "x-query-virtio-queue-status", {"path": device.backend, "queue": 2}
                mark = whole(queue["vring-desc"]), whole(queue["last-avail-idx"])
                return mark, bool(mark[0])
            except QmpError as error:
                if error.kind != "CommandNotFound":
                    raise
                self._by_queue = False  # QEMU before 7.2 does not have the command
        return (yield from self._get(device.path, STATS)), True

    def _reports(self, device: Balloon) -> Steps:
        """Return whether there is a driver that reports statistics."""
        if not self._by_queue:
            return True
        found = yield "x-query-virtio-status", {"path": device.backend}
        features = found["guest-features"].get("dev-features", ())
        return bool(found["started"]) and any("F_STATS_VQ" in each for each in features)

    def read(self, device: Balloon) -> Steps:
        """Read `actual` and the statistics, with the age that QEMU's last-update gives."""
        yield from self._read_actual(device)
        answer = yield from self._get(device.path, STATS)
        stats, update = answer["stats"], whole(answer["last-update"])
        values = {TAGS[name]: ABSENT if value == -1 else whole(value) for name, value in stats.items() if name in TAGS}
        # 2^64-1 (which QEMU may send as -1) stands for a statistic that the guest did not report.
        known = {tag: value for tag, value in sorted(values.items()) if value != ABSENT}
        # QEMU sends 0 until the guest has answered for the first time.
        if not update:
            device.stats.sample = None
            return
        now = self.machine.clock.now()
        age = max(0, self.machine.clock.wall() - update * SECOND)
        device.stats.since = now - age
        device.stats.sample = Sample(tuple(known), tuple(known.values()), {}, now - age, update * SECOND)

    def _steps(self, delay: int) -> Steps:
        """Ask until the guest has answered or no request is pending, then put the interval back."""
        if delay:
            yield delay
        known = None
        try:
            try:
                yield from self._look()
            except QmpError:  # look again for the device, because it may be gone or replaced
                known, self.machine.device = self.machine.device, None
                yield from self._look()
        except QmpError as why:
            yield from self._refused(why, self.machine.device or known)
        except BusyError:
            raise
        except SENSELESS:
            error = self.machine.senseless()
            yield from self._restore_interval()
            raise error from None
        except LinkError as error:
            yield from self._restore_interval_anew(error)

    def _refused(self, error: QmpError, device: Balloon | None) -> Steps:
        """End all requests with an error that stays, and try to put the interval of `device` back."""
        self.machine.device = device
        try:
            yield from self._restore_interval()
        except QmpError as again:
            self.report_interval_left(str(again))
        self.why, self.machine.device = " ".join(str(error).split()), None
        self.machine.requests.end_all(TIMED_OUT)

    def _restore_interval_anew(self, error: LinkError) -> Steps:
        """Put the interval back on a new connection. Raises LinkError if that fails, or if nothing was changed.

        It tries more than once, because a QEMU that is about to end still accepts a connection, or hangs up on it.
        """
        for _ in range(RESTORE_TRIES):
            if self.saved_interval is None or error.gone:
                break
            yield LONGEST_LOOK
            try:
                yield from self._restore_interval()
            except LinkError as again:
                error = again
            else:
                return
        raise error

    def _look(self) -> Steps:
        yield from self.find()
        device = self.machine.device
        if device is None:
            self.saved_interval = None  # a device that is gone has no interval
            self.machine.requests.end_all(NO_DEVICE)
            return
        before, there = yield from self._mark(device)
        # If an answer came on this ring before, its driver reports statistics. Then do not ask for the features again,
        # because that answer is long.
        if not there or not ((self._by_queue and before[0] == device.answered) or (yield from self._reports(device))):
            yield from self._read_actual(device)
            device.stats.sample, device.can_report = None, False
            self.why = "the guest has no balloon driver that reports statistics"
            self.machine.requests.end_all(UNSUPPORTED)
            return
        device.can_report = True
        yield from self._shorten_interval(device)
        self.why = "the guest did not answer"
        pause, looks = FIRST_LOOK, 0
        while self.machine.requests.pending:
            mark, there = yield from self._mark(device)
            # On a new ring (the driver was loaded again) only an index above 0 is an answer.
            if there and mark != before and (not self._by_queue or mark[0] == before[0] or mark[1]):
                yield from self.read(device)
                self.came = device.stats.since = self.machine.clock.now()
                device.stats.held = self
                self.machine.history.add(device.stats.since, device.actual, device.stats.sample)
                self.why = ""
                device.answered = mark[0] if self._by_queue else None
                yield from self._restore_interval()
                self.machine.requests.end_all(ANSWERED)
                return
            if not there:
                before = mark  # a reset, or the driver is gone: the next answer is new
            looks += 1
            if looks < EAGER_LOOKS:
                continue
            # Only once the pauses have begun: most guests have answered by then, and each of these queries takes time.
            if looks > EAGER_LOOKS:
                yield from self._shorten_interval(device)
                yield from self._read_actual(device) if looks > EAGER_LOOKS + 1 else self.read(device)
            if pause >= KEPT_OPEN and not self.machine.hold:
                self.machine.link.release()
            yield pause
            # Look less often the longer it takes.
            pause = min(pause * 3 // 2, LONGEST_LOOK)
        yield from self._restore_interval()

    def _shorten_interval(self, device: Balloon) -> Steps:
        """Make QEMU ask the guest at once or within a second. If its interval is short enough, leave that as it is."""
        interval = whole((yield from self._get(device.path, INTERVAL)))
        device.stats.poll_interval = interval
        if not 0 < interval * SECOND < self.machine.timeout and interval != 1:
            self.saved_interval = interval
            yield "qom-set", {"path": device.path, "property": INTERVAL, "value": 1}

    def _restore_interval(self) -> Steps:
        device = self.machine.device
        if self.saved_interval is not None and device is not None:
            # If it is not 1 any more, another client has set it, and that value stays.
            if whole((yield from self._get(device.path, INTERVAL))) == 1:
                yield "qom-set", {"path": device.path, "property": INTERVAL, "value": self.saved_interval}
            self.saved_interval = None
