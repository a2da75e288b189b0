"""The statistics queue, which runs in reverse (virtio 1.2, 5.5.6.3), and polling.

The driver primes it with one buffer; the device keeps that buffer and returns it to ask for fresh numbers; the driver
fills it again and makes it available.
"""

from __future__ import annotations

from device.balloon.stats import WIRE_LIMIT, Sample, decode
from device.clock import SECOND
from device.errors import GuestFault, MisuseError
from device.state import Age, Other, load, reset
from device.virtio.device import DUE_ASKED, DUE_QUEUE, NEWS_DRIVER, NEWS_SAMPLE
from device.virtio.queue import Element
from device.virtio.spec import U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.clock import Timeline, Timer
    from device.fields import Fields
    from device.virtio.device import VirtioDevice
    from device.virtio.queue import VirtQueue

BUFFERS_AT_ONCE = 16
"""Buffers looked at in one round: an honest driver has one; the rest waits for the next round."""

_LOOKED_AT = WIRE_LIMIT + 1
"""Bytes read of a buffer: one more than count, which tells that there are too many."""

ABSENT, UNPRIMED, HELD, OUT = "absent", "unprimed", "held", "with the guest"
"""Where the driver's one buffer is: there is no queue for it; the driver put none there yet; it waits here for a
request; it was returned to be filled."""

MOVES: dict[str, dict[str, str]] = {
    ABSENT: {"negotiate": UNPRIMED, "forget": ABSENT},
    UNPRIMED: {"negotiate": UNPRIMED, "fill": HELD, "park": UNPRIMED, "forget": ABSENT},
    HELD: {"negotiate": HELD, "fill": HELD, "ask": OUT, "park": UNPRIMED, "forget": ABSENT},
    OUT: {"negotiate": OUT, "fill": HELD, "park": UNPRIMED, "forget": ABSENT},
}
"""The moves of each state and where they lead; any other is a fault of ours. docs/design.md draws it. The driver
negotiates the queue and fills the buffer (a second one takes the place of one that is held, which goes back), requests
and polls ask, a transport parks the queue, a reset or another driver forgets it."""


def _load_sample(stats: StatsQueue, fields: Fields) -> None:
    sample = fields.maybe("sample")
    stats.sample = None if sample is None else Sample.restored(sample)


def check_poll_interval(seconds: int) -> None:
    """Raise MisuseError below 0 and above 2^32-1, in QEMU's words."""
    if seconds < 0:
        raise MisuseError("timer value must be greater than zero")
    if seconds > U32:
        raise MisuseError("timer value is too big")


class StatsQueue:
    """The statistics side of a balloon device.

    `index` is the queue's number, -1 while it is not negotiated. `buffer` is one of the states of MOVES, `held` the
    guest's buffer while it is held. `sample` is the last one of this driver, `told`
    the last of any, which QEMU's guest-stats goes on with. `again` is the sample of the buffer that comes next, where a
    transport knows that it was seen before: if it says the same, it is no news. `reset_at` is when (host ns) the device
    was created or last reset.
    """

    __slots__ = (
        "_data",
        "_decoded",
        "_device",
        "_poll_timer",
        "again",
        "buffer",
        "held",
        "index",
        "poll_interval",
        "reset_at",
        "sample",
        "time",
        "told",
    )

    STATE = (
        Other(
            "held", lambda stats, now: stats.held and stats.held.state(), lambda stats, fields: stats.load_held(fields)
        ),
        Other(
            "out",
            lambda stats, now: stats.out,
            lambda stats, fields: stats.load_out(fields),
            ABSENT,
            attribute="buffer",
        ),
        Age("reset_age", attribute="reset_at", kept=True),
        Other("sample", lambda stats, now: stats.sample and stats.sample.state(now), _load_sample),
    )
    DERIVED = ("_data", "_decoded", "_device", "_poll_timer", "again", "index", "poll_interval", "time", "told")

    held: Element | None
    buffer: str
    sample: Sample | None

    def __init__(self, device: VirtioDevice, time: Timeline) -> None:
        self._device = device
        self.time = time
        self._data = b""
        self._decoded = decode(b"")
        self.again: Sample | None = None
        self.told: Sample | None = None
        self.poll_interval = 0
        self._poll_timer: Timer | None = None
        self.index = -1
        reset(self, new=True)
        self.reset_at = time.clock.now()

    def forget(self) -> None:
        """The driver is gone: so are its buffer and its numbers. The polling interval stays, and what is told."""
        self.again = None
        self.negotiated(-1)
        reset(self)
        self.reset_at = self.time.clock.now()
        if self.poll_interval:  # a poll that was out is lost with the driver; the next one is not
            self._arm_poll(self.poll_interval)

    def move(self, move: str) -> None:
        """Let the buffer go to another state. Raises ValueError where MOVES does not allow it, and changes nothing."""
        state = MOVES[self.buffer].get(move)
        if state is None:
            raise ValueError(f"a statistics buffer that is {self.buffer} has no move {move!r}")
        self.buffer = state

    @property
    def out(self) -> bool:
        """Whether the buffer is with the guest, to be filled."""
        return self.buffer is OUT

    def negotiated(self, index: int) -> None:
        """The driver accepted the features that make queue `index` the one for statistics; -1 for none."""
        self.index = index
        if index >= 0:
            self.move("negotiate")
        else:
            self.held = None
            self.move("forget")

    def let_go(self) -> int:
        """The queue is taken out of service: hold no buffer of it. Returns how many were held, 0 or 1."""
        held, self.held = self.held, None
        self.move("park")
        return int(held is not None)

    @property
    def age(self) -> int:
        """Host ns since the last sample was collected; without one since the device was created or reset."""
        return self.time.clock.now() - (self.reset_at if self.sample is None else self.sample.collected)

    def ask(self) -> bool:
        """Ask the guest for fresh statistics; returns whether it is to be interrupted for that.

        Returns the held buffer; if it is out already, the notification is repeated, for the guest may have missed
        it; if the driver has not primed the queue yet, priming will lead to a sample or to another `ask`.
        """
        device, held = self._device, self.held
        if not device.live:  # broken: its rings are not touched until it is reset
            return False
        if held is not None:
            queue = device.queues[self.index]
            self.held = None
            self.buffer = MOVES[HELD]["ask"]  # not by way of move(): each line of a pipe comes here, and at `fill`
            queue.push(held)
            if not queue.wants_interrupt():
                return False
        elif self.buffer is not OUT:
            return False
        device.isr |= 1
        device.due |= DUE_QUEUE << self.index | DUE_ASKED
        return True

    def serve(self, queue: VirtQueue) -> bool:
        """Take the buffers the driver made available; returns whether there may be more of them.

        Raises GuestFault for a broken ring.
        """
        device = self._device
        news = 0
        returned = False
        served = 0
        try:
            while (element := queue.pop()) is not None:
                served += 1
                if element.into:
                    raise GuestFault("direction", "a statistics buffer must be readable only")
                before = self.buffer
                if self.held is not None:
                    device.refuse("unsolicited-stats", f"queue {queue.index}")
                    queue.push(self.held)
                    returned = True
                self.held = element
                self.buffer = MOVES[before]["fill"]
                data = element.read(_LOOKED_AT)
                if data != self._data:  # a guest asked again at once says the same again
                    if len(data) > WIRE_LIMIT:
                        device.refuse("huge-buffer", f"a statistics buffer of {element.readable()} bytes")
                        data = data[:WIRE_LIMIT]
                    if data != self._data:
                        self._decoded = decode(data)
                        self._data = data
                        self.again = None
                records, tags, numbers, unknown, faults = self._decoded
                for rule, detail in faults:
                    device.refuse(rule, detail)
                if self.again is not None:
                    self.sample, self.again = self.again, None
                elif records or before is OUT:
                    clock = self.time.clock
                    self.sample = self.told = Sample(tags, numbers, unknown, clock.now(), clock.wall())
                    news = NEWS_SAMPLE
                if not queue.more or served == BUFFERS_AT_ONCE:
                    break
        finally:
            if served:
                device.due |= news or NEWS_DRIVER
                if self.poll_interval:
                    self._arm_poll(self.poll_interval)
        if returned and queue.wants_interrupt():
            device.interrupt(queue.index)
        return served == BUFFERS_AT_ONCE

    # Polling.

    def set_poll_interval(self, seconds: int) -> None:
        """Poll every `seconds` of VM time; enabling asks at once, 0 stops and keeps the data.

        Raises MisuseError as `check_poll_interval`.
        """
        check_poll_interval(seconds)
        before, self.poll_interval = self.poll_interval, seconds
        if not seconds:
            self._cancel_poll()
        elif seconds != before:
            self._arm_poll(seconds if before else 0)

    def _arm_poll(self, seconds: int) -> None:
        self._cancel_poll()
        due = self.time.vm_clock.now() + seconds * SECOND
        self._poll_timer = self.time.vm_timers.at(due, self._poll)

    def _cancel_poll(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None

    def _poll(self) -> None:
        # Armed anew here, not by the answer alone: one notification that the guest missed would end polling for good.
        self._arm_poll(self.poll_interval)
        self.ask()

    # Snapshots.

    def restore(self, fields: Fields) -> None:
        """Take the state out of a snapshot's `fields`; the device's queues are there. Raises SnapshotError."""
        for name in ("poll_interval", "poll_remaining"):  # which are the host's: only older snapshots have them
            if name in fields:
                fields.perhaps(name)
        load(self, fields)

    def replace(self, old: StatsQueue) -> None:
        """Take over from a device that a snapshot replaces what is the host's: the interval, and what is told."""
        self.told, self.poll_interval = old.told, old.poll_interval
        if self.poll_interval:
            self._arm_poll(self.poll_interval)

    def vm_runs(self) -> None:
        """The VM runs: a held buffer that came with a snapshot is told of as if it had come now, as in QEMU."""
        sample = self.sample
        if sample is not None and sample is not self.told and self.held is not None:
            sample.wall = self.time.clock.wall()
            self.told = sample

    @property
    def _set_up(self) -> bool:
        return self.index >= 0 and self._device.queues[self.index].enabled

    def load_held(self, fields: Fields) -> None:
        """Take the held buffer, if there is one. Raises SnapshotError."""
        held = fields.maybe("held")
        if held is None:
            return
        if not self._set_up:
            raise fields.refuse("held", "needs a statistics queue, which there is not")
        queue = self._device.queues[self.index]
        self.held = Element.restored(held, queue.size, self._device.memory)
        if self.held.into or not queue.in_use:
            raise held.refuse("head", "cannot be held")
        self.move("fill")

    def load_out(self, fields: Fields) -> None:
        """Take whether the buffer is with the guest. Raises SnapshotError."""
        if not fields.flag("out"):
            return
        if not self._set_up:
            raise fields.refuse("held", "needs a statistics queue, which there is not")
        if self.held is not None:
            raise fields.refuse("out", "says that the held buffer is with the guest")
        self.buffer = OUT
