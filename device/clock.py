"""Host clocks, the VM's clock and timers.

Times are integers in nanoseconds. The core reads no clock itself: a Clock gets the functions to call, and the owner of
a SimulatedClock moves it.
"""

from __future__ import annotations

import os

from device.errors import MisuseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MS = 1_000_000
SECOND = 1_000_000_000

# Integers and not floats: a float of seconds since 1970 is exact only to some hundred ns, and equal times have to be
# equal.

SIMULATED_EPOCH = 1263236975 * SECOND
"""2010-01-11 19:09:35 UTC: the wall clock when a simulated clock is at zero, always the same in each run."""


class Clock:
    """A host clock: `now` is monotonic, `wall` is nanoseconds since the Unix epoch."""

    __slots__ = ("name", "now", "wall")

    simulated = False
    warps = False
    """Whether a waiting monitor makes the clock jump to the next timer."""

    run = ""
    """A random id of a simulated clock, different in each process and for each clock; empty for real clocks.

    A snapshot has it: time passed since the save only if the same clock, or a real one, measures it.
    """

    def __init__(self, name: str, now: Callable[[], int], wall: Callable[[], int]) -> None:
        self.name, self.now, self.wall = name, now, wall


class SimulatedClock(Clock):
    """A clock that stands still until its owner moves it. With `warps` it jumps while a monitor waits."""

    __slots__ = ("_time", "epoch", "run", "warps")

    simulated = True

    def __init__(self, *, warps: bool = True, start: int = 0, epoch: int = SIMULATED_EPOCH) -> None:
        """Start at `start` ns; the wall clock is at `epoch` (ns since 1970) when the clock is at zero."""
        super().__init__("warp" if warps else "manual", self._now, self._wall)
        self.warps = warps
        # Random and not a counter: two processes must not share one, or time would seem to pass between them.
        self.run = os.urandom(8).hex()
        self.epoch = epoch
        self._time = start

    def _now(self) -> int:
        return self._time

    def _wall(self) -> int:
        return self.epoch + self._time

    def move_to(self, when: int) -> None:
        """Move the clock forward to `when` (ns). Raises MisuseError if that is in the past."""
        if when < self._time:
            raise MisuseError(f"a clock cannot go back from {self._time} to {when} ns")
        self._time = when


class VmClock:
    """The guest's time: runs with the host clock while the VM runs, and stands still while the VM is stopped."""

    # While the VM runs, `_behind` is host time minus VM time. While it is stopped, `_stood` is the VM time.

    __slots__ = ("_behind", "_host_now", "_stood", "running")

    def __init__(self, host: Clock, *, start: int = 0) -> None:
        self._host_now = host.now
        self._stood = start
        self._behind = 0
        self.running = False

    def now(self) -> int:
        """Return the VM time in ns."""
        return self._host_now() - self._behind if self.running else self._stood

    def start(self) -> None:
        """Let VM time run. Does nothing if it runs."""
        if not self.running:
            self._behind = self._host_now() - self._stood
            self.running = True

    def stop(self) -> None:
        """Freeze VM time. Does nothing if it is frozen."""
        if self.running:
            self._stood = self.now()
            self.running = False

    def set(self, when: int) -> None:
        """Set a stopped clock, as loading a snapshot does."""
        self._stood = when

    def to_host(self, when: int) -> int:
        """Return the host time of VM time `when`, if the VM keeps running."""
        return self._host_now() + when - self.now()


class Timer:
    """A callback for a time. It fires once, unless `cancel()` is called before."""

    __slots__ = ("_queue", "callback", "due")

    def __init__(self, queue: TimerQueue, due: int, callback: Callable[[], None]) -> None:
        self._queue: TimerQueue | None = queue
        self.due = due
        self.callback = callback

    @property
    def armed(self) -> bool:
        """Whether the timer has neither fired nor been cancelled."""
        return self._queue is not None

    def cancel(self) -> None:
        """Disarm the timer. Does nothing if it fired or was cancelled."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue._cancelled()


class TimerQueue:
    """Timers of one clock, in order of time; timers of the same time fire in the order in which they were set."""

    __slots__ = ("_dead", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._serial = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def at(self, due: int, callback: Callable[[], None]) -> Timer:
        """Arm a timer for `due` (ns on this queue's clock) and return it."""
        from _heapq import heappush  # here, because most scripts arm no timer; heapq itself is one file more to open

        timer = Timer(self, due, callback)
        # Without the serial number, the heap would compare the timers themselves if their times are equal.
        self._serial += 1
        heappush(self._heap, (due, self._serial, timer))
        return timer

    def next_due(self) -> int | None:
        """Return when the next timer is due, or None."""
        heap = self._heap
        while heap:
            due, _, timer = heap[0]
            if timer._queue is not None:
                return due
            from _heapq import heappop

            heappop(heap)
            self._dead -= 1
        return None

    def fire_next(self) -> None:
        """Fire the next timer, due or not. Call only after next_due() said that there is one."""
        from _heapq import heappop

        _, _, timer = heappop(self._heap)
        timer._queue = None
        timer.callback()

    def _cancelled(self) -> None:
        # A cancelled timer stays in the heap until it is the first, because removing it from the middle costs a search.
        # If most of the heap is cancelled it is rebuilt, so that many requests that were answered in time do not fill
        # it.
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]._queue is not None]
            from _heapq import heapify

            heapify(self._heap)
            self._dead = 0


class Timeline:
    """Host and VM time of one machine. Deadlines are on `host_timers`; the guest and polling are on `vm_timers`."""

    __slots__ = ("_ends", "clock", "host_timers", "vm_clock", "vm_timers")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.vm_clock = VmClock(clock)
        self.host_timers = TimerQueue()
        self.vm_timers = TimerQueue()
        self._ends: list[int] = []

    def after(self, delay: int, callback: Callable[[], None]) -> Timer:
        """Arm a timer on the host clock, `delay` ns from now."""
        return self.host_timers.at(self.clock.now() + delay, callback)

    def busy(self) -> bool:
        """Whether there may be a timer or a sleep."""
        # This runs for each line of a pipe. Reading the heaps instead of calling four methods took the instructions for
        # a line from 82,535 to 77,531 (callgrind).
        return bool(self._ends or self.host_timers._heap or self.vm_timers._heap)

    def _next(self) -> tuple[int, TimerQueue] | None:
        """Return the host time (ns) of the next timer, and its queue. While the VM is stopped its timers do not count.

        At the same time the guest's timers go first: an answer at the deadline counts as an answer.
        """
        due = self.host_timers.next_due()
        vm_due = self.vm_timers.next_due() if self.vm_clock.running else None
        if vm_due is not None:
            vm_due = self.vm_clock.to_host(vm_due)
            if due is None or vm_due <= due:
                return vm_due, self.vm_timers
        return None if due is None else (due, self.host_timers)

    def next_deadline(self) -> int | None:
        """Return the host time (ns) of the next timer, or None. While the VM is stopped its timers do not count."""
        found = self._next()
        return None if found is None else found[0]

    def fire_due(self, now: int) -> bool:
        """Fire the next timer if it is due at host time `now`; returns whether one was."""
        found = self._next()
        if found is None or found[0] > now:
            return False
        found[1].fire_next()
        return True

    def sleep(self, duration: int) -> int:
        """Begin a sleep: as the machine is stepped, its simulated clock moves `duration` ns. Returns the end (host ns).

        Raises MisuseError on a real clock and for a negative duration.
        """
        if not self.clock.simulated:
            raise MisuseError("real time cannot be moved")
        if duration < 0:
            raise MisuseError("time does not go back")
        end = self.clock.now() + duration
        self._ends.append(end)
        return end

    def wake(self, end: int) -> None:
        """End a sleep early; `end` is what `sleep` returned. Does nothing if the sleep is over."""
        if end in self._ends:
            self._ends.remove(end)

    @property
    def asleep(self) -> bool:
        """Whether a sleep is not over yet."""
        if self._ends:
            now = self.clock.now()
            self._ends = [end for end in self._ends if end > now]
        return bool(self._ends)

    def move(self, *, jump: bool = False) -> bool:
        """Move a simulated clock to the next timer, or to the end of a sleep; returns whether there was such a time.

        Without `jump` it moves only during a sleep. Raises MisuseError for a jump of a clock that does not warp.
        """
        # One timer at a time: what it does may arm another timer before the next one, or end the sleep.
        clock = self.clock
        asleep = self.asleep
        if jump and not clock.warps:
            raise MisuseError(f"the {clock.name} clock does not jump")
        if not asleep and not jump:
            return False
        assert isinstance(clock, SimulatedClock)  # noqa: S101 - no other sleeps or warps
        due = self.next_deadline()
        if not jump:
            end = max(self._ends)
            due = end if due is None else min(due, end)
        if due is None:
            return False
        if due > clock.now():
            clock.move_to(due)
        return True
