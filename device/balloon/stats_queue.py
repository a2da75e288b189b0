"""The statistics queue, which runs in reverse (virtio 1.2, 5.5.6.3), and polling.

The driver gives the device one buffer (it primes the queue). The device keeps the buffer, and returns it to ask for new
numbers. The driver fills it and makes it available again.
"""

from __future__ import annotations

from device.balloon.stats import WIRE_LIMIT, Sample, decode
from device.clock import SECOND
from device.errors import GuestFault, MisuseError
from device.state import Age, Member, load, reset, slots
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
"""Buffers served in one round: an honest driver has one. The rest waits for the next round."""

_READ_LIMIT = WIRE_LIMIT + 1
"""Bytes read of a buffer: one more than are used, which shows that the buffer is too large."""

ABSENT, UNPRIMED, HELD, OUT = "absent", "unprimed", "held", "with the guest"
"""The states of the driver's one buffer: there is no queue; the driver gave no buffer yet; the device holds the buffer
until a request or poll; the guest has it, to fill it."""

MOVES: dict[str, dict[str, str]] = {
    ABSENT: {"negotiate": UNPRIMED, "forget": ABSENT},
    UNPRIMED: {"negotiate": UNPRIMED, "fill": HELD, "park": UNPRIMED, "forget": ABSENT},
    HELD: {"negotiate": HELD, "fill": HELD, "ask": OUT, "park": UNPRIMED, "forget": ABSENT},
    OUT: {"negotiate": OUT, "fill": HELD, "park": UNPRIMED, "forget": ABSENT},
}
"""The moves of each state and the next state; any other move is an error in hmp. docs/design.md shows the table.

The driver negotiates the queue and fills the buffer; a second buffer replaces a held one, which is returned. Requests
and polls ask. A transport parks the queue. A reset or another driver forgets the buffer.
"""

# A table instead of two flags (held, out): one of their combinations is impossible, and bugs of the first
# implementation came from it, such as a held buffer that was overwritten or pushed twice.


def _check_queue(stats: StatsQueue, fields: Fields) -> VirtQueue:
    if stats.index < 0 or not stats._device.queues[stats.index].enabled:
        raise fields.refuse("held", "needs a statistics queue, and there is none")
    return stats._device.queues[stats.index]


def _load_held(stats: StatsQueue, fields: Fields) -> None:
    held = fields.maybe("held")
    if held is not None:
        queue = _check_queue(stats, fields)
        stats.held = Element.restored(held, queue.size, stats._device.memory)
        if stats.held.into or not queue.in_use:
            raise held.refuse("head", "cannot be held")
        stats.move("fill")


def _load_out(stats: StatsQueue, fields: Fields) -> None:
    if fields.flag("out"):
        _check_queue(stats, fields)
        if stats.held is not None:
            raise fields.refuse("out", "says that the held buffer is with the guest")
        stats.buffer = OUT


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

    `index` is the queue's number, -1 while it is not negotiated. `buffer` is one of the states of MOVES; `held` is the
    guest's buffer while the device holds it. `sample` is the last one of this driver, `qom_sample` the last of any
    driver, which guest-stats shows. A transport sets `read_before` if it knows that the next buffer was read before: it
    is the sample of that buffer, which is not reported a second time if the content is the same. `reset_at` is when
    (host ns) the device was created or last reset.
    """

    # `qom_sample` is there because QEMU's guest-stats keeps its values and last-update over a reset and over rmmod
    # (measured on 7.2); `sample`, because the age of a sample from before a reset would mislead.

    STATE = (
        Member("held", lambda stats, now: stats.held and stats.held.state(), _load_held),
        Member("out", lambda stats, now: stats.out, _load_out, ABSENT, attribute="buffer"),
        Age("reset_age", attribute="reset_at", kept=True),
        Member("sample", lambda stats, now: stats.sample and stats.sample.state(now), _load_sample),
    )
    DERIVED = (
        "_data", "_decoded", "_device", "_poll_timer", "index", "poll_interval", "qom_sample", "read_before", "time",
    )  # fmt: skip
    __slots__ = slots(STATE, DERIVED)

    held: Element | None
    buffer: str
    sample: Sample | None

    def __init__(self, device: VirtioDevice, time: Timeline) -> None:
        self._device = device
        self.time = time
        self._data = b""
        self._decoded = decode(b"")
        self.read_before: Sample | None = None
        self.qom_sample: Sample | None = None
        self.poll_interval = 0
        self._poll_timer: Timer | None = None
        self.index = -1
        reset(self, new=True)
        self.reset_at = time.clock.now()

    def forget(self) -> None:
        """The driver is gone: forget its buffer and its numbers. The polling interval and `qom_sample` stay."""
        self.read_before = None
        self.negotiated(-1)
        reset(self)
        self.reset_at = self.time.clock.now()
        if self.poll_interval:  # the old driver will not answer the last poll
            self._arm_poll(self.poll_interval)

    def move(self, move: str) -> None:
        """Move the buffer to another state. Raises ValueError, and changes nothing, if MOVES does not allow it."""
        state = MOVES[self.buffer].get(move)
        if state is None:
            raise ValueError(f"a statistics buffer that is {self.buffer} has no move {move!r}")
        self.buffer = state

    @property
    def out(self) -> bool:
        """Whether the guest has the buffer, to fill it."""
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
        """The queue is taken out of service: release its buffer. Returns how many were held, 0 or 1."""
        held, self.held = self.held, None
        self.move("park")
        return int(held is not None)

    @property
    def age(self) -> int:
        """Host ns since the last sample was collected; if there is none, since the device was created or reset."""
        return self.time.clock.now() - (self.reset_at if self.sample is None else self.sample.collected)

    def ask(self) -> bool:
        """Ask the guest for fresh statistics; returns whether it will be interrupted for that.

        This returns the held buffer to the guest. If the guest has it already, the interrupt is repeated, because the
        guest may have missed it. If the queue is not primed yet, priming leads to a sample or to another `ask`.
        """
        device, held = self._device, self.held
        if not device.live:  # rings of a broken device are not used until it is reset
            return False
        if held is not None:
            queue = device.queues[self.index]
            self.held = None
            self.buffer = MOVES[HELD]["ask"]  # not by move(), which is slower: each line of a pipe comes here
            # The length is 0, because the device wrote nothing. The first implementation pushed a length that it had
            # not written, which QEMU corrected in 6.2.
            queue.push(held)
            if not queue.wants_interrupt():
                return False
        elif self.buffer is not OUT:
            return False
        # As device.interrupt(), but with DUE_ASKED.
        device.isr |= 1
        device.due |= DUE_QUEUE << self.index | DUE_ASKED
        return True

    def serve(self, queue: VirtQueue) -> bool:
        """Take the buffers that the driver made available; returns whether there may be more.

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
                data = element.read(_READ_LIMIT)
                if data != self._data:  # a guest that is asked twice within a moment often sends the same bytes
                    if len(data) > WIRE_LIMIT:
                        device.refuse("huge-buffer", f"a statistics buffer of {element.readable()} bytes")
                        data = data[:WIRE_LIMIT]
                    if data != self._data:
                        self._decoded = decode(data)
                        self._data = data
                        self.read_before = None
                records, tags, numbers, unknown, faults = self._decoded
                for rule, detail in faults:
                    device.refuse(rule, detail)
                if self.read_before is not None:
                    self.sample, self.read_before = self.read_before, None
                # A buffer without a record that nobody asked for only primes the queue; as an answer it is a sample.
                elif records or before is OUT:
                    clock = self.time.clock
                    self.sample = self.qom_sample = Sample(tags, numbers, unknown, clock.now(), clock.wall())
                    news = NEWS_SAMPLE
                if not queue.more or served == BUFFERS_AT_ONCE:
                    break
        finally:  # a broken ring after good buffers must not lose the news of the good ones
            if served:
                device.due |= news or NEWS_DRIVER
                if self.poll_interval:
                    self._arm_poll(self.poll_interval)
        if returned and queue.wants_interrupt():
            device.interrupt(queue.index)
        return served == BUFFERS_AT_ONCE

    # Polling.

    def set_poll_interval(self, seconds: int) -> None:
        """Poll every `seconds` of VM time. Turning polling on asks at once; 0 turns it off and keeps the data.

        Raises MisuseError as `check_poll_interval`.
        """
        check_poll_interval(seconds)
        before, self.poll_interval = self.poll_interval, seconds
        # As in QEMU, the same interval again changes nothing: not even the time of the next poll.
        if not seconds:
            self._cancel_poll()
        elif seconds != before:
            self._arm_poll(seconds if before else 0)
            self._poll_if_due()

    def _arm_poll(self, seconds: int) -> None:
        self._cancel_poll()
        # VM time, so that a stopped VM is not polled: it could not answer.
        due = self.time.vm_clock.now() + seconds * SECOND
        self._poll_timer = self.time.vm_timers.at(due, self._poll)

    def _cancel_poll(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None

    def _poll_if_due(self) -> None:
        """Poll now and not in the next step, which on a simulated clock may be far away."""
        timer, clock = self._poll_timer, self.time.vm_clock
        if timer is not None and clock.running and timer.due <= clock.now():
            self._poll()

    def _poll(self) -> None:
        # The answer arms the timer too, but that alone is not enough: after one missed interrupt polling would be over.
        self._arm_poll(self.poll_interval)
        self.ask()

    # Snapshots.

    def restore(self, fields: Fields) -> None:
        """Take the state out of a snapshot's `fields`. The device's queues must be loaded. Raises SnapshotError."""
        for name in ("poll_interval", "poll_remaining"):  # only in older snapshots; polling belongs to the host now
            if name in fields:
                fields.perhaps(name)
        load(self, fields)

    def replace(self, old: StatsQueue) -> None:
        """Take over what belongs to the host from a device that a snapshot replaces: the interval, and `qom_sample`."""
        # QEMU's loadvm leaves the polling interval as it is (measured on 7.2), so it is not in the snapshot.
        self.qom_sample, self.poll_interval = old.qom_sample, old.poll_interval
        if self.poll_interval:
            self._arm_poll(self.poll_interval)

    def vm_runs(self) -> None:
        """The VM runs again. The sample of a buffer that a snapshot held counts as received now for guest-stats, as in
        QEMU (measured on 7.2).
        """
        sample = self.sample
        if sample is not None and sample is not self.qom_sample and self.held is not None:
            sample.wall = self.time.clock.wall()
            self.qom_sample = sample
        self._poll_if_due()
