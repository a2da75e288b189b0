"""How a modelled guest's balloon follows its target: in portions, at a pace, as far as the kernel has pages."""

from __future__ import annotations

from device.balloon.spec import MAX_PFNS_PER_BUFFER
from device.clock import MS, SECOND
from device.state import Integer, reset
from device.virtio.spec import PAGE_SHIFT, PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.guest.model.guest import ModelledGuest

TICK = 5 * MS
"""VM time between two portions."""

STUCK, STUCK_LONG = 200 * MS, 10 * SECOND
"""VM time after which a driver that got no page tries again: at first as Linux's does, then twice as long each time,
so that years of simulated time with a stuck balloon cost nothing."""

DEFLATE_SPEEDUP = 4
"""Deflating needs no page to be found first: measured on Linux, it is about four times as fast."""

PORTION = (256 << 20) >> PAGE_SHIFT
"""Pages moved in one go at most, however fast the pace: the monitor must not wait for a guest."""


class Inflation:
    """The balloon's work in one guest, on the guest's timer called `work`.

    `worked` is the VM time up to which pages were moved, `stuck` how long it waits when it gets no page.
    """

    STATE = (
        Integer("worked", lambda part: part._guest.machine.vm_clock.now()),
        Integer("stuck", STUCK_LONG, STUCK, low=STUCK, late=True),
    )
    DERIVED = ("_guest",)
    __slots__ = ("_guest", "stuck", "worked")

    stuck: int
    worked: int

    def __init__(self, guest: ModelledGuest) -> None:
        self._guest = guest
        reset(self)

    def start(self) -> None:
        """Go to work if the balloon is not what the device asks for; nothing if at work or asleep."""
        guest = self._guest
        driver = guest.driver
        if driver is not None and guest.awake() and driver.target_pages != driver.ballooned:
            timer = guest.timers.get("work")
            if timer is None or not timer.armed:
                self.worked = guest.machine.vm_clock.now()
                guest.arm("work", self._tick(), self.work)

    def unstick(self) -> None:
        """Things have changed: a driver that waits because it got no page tries again soon."""
        timer = self._guest.timers.get("work")
        if self.stuck != STUCK and timer is not None:
            timer.cancel()
            self.stuck = STUCK
        self.start()

    def _tick(self) -> int:
        """VM time until at least one page is due."""
        return max(TICK, -(-PAGE_SIZE * SECOND // self._guest.pace))

    def work(self) -> None:
        """Move the pages that are due, and come again if the target is not reached."""
        guest = self._guest
        driver, kernel, device = guest.driver, guest.kernel, guest.machine.device
        if driver is None or kernel is None or device is None or device.broken or not guest.awake():
            return
        now = guest.machine.vm_clock.now()
        rate = guest.pace
        todo = driver.target_pages - driver.ballooned
        if todo < 0:
            rate *= DEFLATE_SPEEDUP
        due, rest = divmod((now - self.worked) * rate, SECOND << PAGE_SHIFT)
        if due > PORTION:
            due, rest = PORTION, 0
        self.worked = now - rest // rate  # the part of a page that was due stays due
        pause = self._tick()
        kernel.tick(now)
        while todo and due:
            count = min(abs(todo), due, MAX_PFNS_PER_BUFFER)
            if todo > 0:
                count = kernel.inflate(count)
                if not count:
                    pause = self.stuck
                    self.stuck = min(2 * self.stuck, STUCK_LONG)
                    break
                self.stuck = STUCK
                driver.inflate(count)
                todo -= count
            else:
                kernel.deflate(count)
                driver.deflate(count)
                todo += count
            due -= count
        if driver is guest.driver and driver.target_pages != driver.ballooned:
            guest.arm("work", pause, self.work)

    def relieve(self, pages: int) -> int:
        """Deflate for a kernel that runs out of memory; returns the pages that came back."""
        guest = self._guest
        driver, kernel, device = guest.driver, guest.kernel, guest.machine.device
        if driver is None or kernel is None or device is None or device.broken or not guest.awake():
            return 0
        pages = min(pages, driver.ballooned)
        back = 0
        while back < pages:
            count = min(pages - back, MAX_PFNS_PER_BUFFER)
            kernel.deflate(count)
            driver.deflate(count)
            back += count
        return back
