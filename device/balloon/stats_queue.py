"""The statistics queue, which runs in reverse (virtio 1.2, 5.5.6.3), and polling.

The driver primes it with one buffer; the device keeps that buffer and returns it to ask for fresh numbers; the driver
fills it again and makes it available.
"""

from __future__ import annotations

from device.balloon.stats import WIRE_LIMIT, Sample, decode
from device.clock import SECOND
from device.errors import GuestFault, MisuseError
from device.virtio.spec import U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.balloon.device import BalloonDevice, Owner
    from device.clock import Timer
    from device.virtio.queue import Element, VirtQueue

BUFFERS_AT_ONCE = 16
"""Buffers looked at in one round: an honest driver has one; the rest waits for the next round."""


class StatsQueue:
    """The statistics side of a balloon device.

    `index` is the queue's number, -1 while it is not negotiated. `held` is the guest's buffer while it waits here for
    the next request, `out` says that it is with the guest to be filled. `sample` is the last one, `reset_at` when
    (host ns) the device was created or last reset.
    """

    __slots__ = (
        "_data",
        "_decoded",
        "_device",
        "_owner",
        "_poll_timer",
        "held",
        "index",
        "out",
        "poll_interval",
        "reset_at",
        "sample",
    )

    def __init__(self, device: BalloonDevice, owner: Owner) -> None:
        self._device = device
        self._owner = owner
        self._poll_timer: Timer | None = None
        self._data = b""
        self._decoded = decode(b"")
        self.poll_interval = 0
        self.index = -1
        self.held: Element | None = None
        self.out = False
        self.sample: Sample | None = None
        self.reset_at = owner.clock.now()

    def forget(self) -> None:
        """The driver is gone: so are its buffer and its numbers. The polling interval stays."""
        self.index = -1
        self.held = None
        self.out = False
        self.sample = None
        self.reset_at = self._owner.clock.now()
        if self.poll_interval:  # a poll that was out is lost with the driver; the next one is not
            self._arm_poll(self.poll_interval)

    def let_go(self) -> int:
        """The queue is taken out of service: hold no buffer of it. Returns how many were held, 0 or 1."""
        held, self.held = self.held, None
        self.out = False
        return int(held is not None)

    @property
    def age(self) -> int:
        """Host ns since the last sample was collected; without one since the device was created or reset."""
        return self._owner.clock.now() - (self.reset_at if self.sample is None else self.sample.collected)

    def ask(self) -> None:
        """Ask the guest for fresh statistics.

        Returns the held buffer; if it is out already, the notification is repeated, for the guest may have missed
        it; if the driver has not primed the queue yet, priming will lead to a sample or to another `ask`.
        """
        if not self._device.live:  # broken: its rings are not touched until it is reset
            return
        held = self.held
        if held is not None:
            queue = self._device.queues[self.index]
            self.held = None
            self.out = True
            queue.push(held)
            if queue.wants_interrupt():
                self._device.interrupt(self.index)
        elif self.out:
            self._device.interrupt(self.index)

    def serve(self, queue: VirtQueue) -> bool:
        """Take the buffers the driver made available; returns whether there may be more of them.

        Raises GuestFault for a broken ring.
        """
        device, owner = self._device, self._owner
        sample: Sample | None = None
        odd: list[tuple[str, str]] | None = None  # told last: whoever listens may reset us
        returned = False
        served = 0
        try:
            while served < BUFFERS_AT_ONCE and (element := queue.pop()) is not None:
                served += 1
                if element.into:
                    raise GuestFault("direction", "a statistics buffer must be readable only")
                if self.held is not None:
                    odd = [*(odd or ()), ("unsolicited-stats", f"queue {queue.index}")]
                    queue.push(self.held)
                    returned = True
                self.held = element
                data = element.read(WIRE_LIMIT + 1)
                if len(data) > WIRE_LIMIT:
                    odd = [*(odd or ()), ("huge-buffer", f"a statistics buffer of {element.readable()} bytes")]
                    data = data[:WIRE_LIMIT]
                if data != self._data:  # a guest asked again at once says the same again
                    self._decoded = decode(data)
                    self._data = data
                records, tags, numbers, unknown, faults = self._decoded
                if faults:
                    odd = [*(odd or ()), *faults]
                if records or self.out:
                    clock = owner.clock
                    sample = Sample(tags, numbers, unknown, clock.now(), clock.wall())
                self.out = False
                if not queue.more:
                    break
            if not served:
                return False
            if self.poll_interval:
                self._arm_poll(self.poll_interval)
            if sample is None:
                wanted = owner.answer_wanted()
            else:
                self.sample = sample
                wanted = owner.sample_arrived(sample)
            if wanted and self.held is not None:
                self.ask()
            if returned and queue.wants_interrupt():
                device.interrupt(queue.index)
        finally:
            if odd is not None:
                for rule, detail in odd:
                    device.refuse(rule, detail)
        return served == BUFFERS_AT_ONCE

    # Polling.

    def set_poll_interval(self, seconds: int) -> None:
        """Poll every `seconds` of VM time; enabling asks at once, 0 stops and keeps the data.

        Raises MisuseError below 0 and above 2^32-1, in QEMU's words.
        """
        if seconds < 0:
            raise MisuseError("timer value must be greater than zero")
        if seconds > U32:
            raise MisuseError("timer value is too big")
        before, self.poll_interval = self.poll_interval, seconds
        if not seconds:
            self._cancel_poll()
        elif seconds != before:
            self._arm_poll(seconds if before else 0)

    def _arm_poll(self, seconds: int) -> None:
        self._cancel_poll()
        due = self._owner.vm_clock.now() + seconds * SECOND
        self._poll_timer = self._owner.vm_timers.at(due, self._poll)

    @property
    def poll_remaining(self) -> int | None:
        """VM ns until the next poll; None where the answer to the last one is awaited, which arms the timer."""
        timer = self._poll_timer
        return None if timer is None or not timer.armed else max(0, timer.due - self._owner.vm_clock.now())

    def restore_polling(self, seconds: int, remaining: int | None) -> None:
        """Poll every `seconds` again, as a snapshot says: `remaining` is what `poll_remaining` was."""
        self.poll_interval = seconds
        if remaining is not None:
            self._poll_timer = self._owner.vm_timers.at(self._owner.vm_clock.now() + remaining, self._poll)

    def adopt(self, owner: Owner) -> None:
        """Belong to `owner`, who took over the timers too."""
        self._owner = owner

    def _cancel_poll(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None

    def _poll(self) -> None:
        self._poll_timer = None
        if self._device.can_report and (self.held is not None or self.out):
            self.ask()  # the answer arms the timer again
        else:
            self._arm_poll(self.poll_interval)
