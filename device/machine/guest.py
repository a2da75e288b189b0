"""The interfaces between a machine and its guest: Guest, Platform, and Controls for changes by hand."""

from __future__ import annotations

from device.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from device.balloon.device import BalloonDevice
    from device.clock import Clock, Timeline, TimerQueue, VmClock
    from device.fields import Fields
    from device.machine.events import Event
    from device.machine.requests import Task
    from device.virtio.memory import GuestMemory

    class Platform(Protocol):
        """A machine as its guest sees it; device.machine.machine explains each attribute."""

        # A protocol, because otherwise guests and the machine would import each other.

        ram: int
        seed: int
        clock: Clock
        time: Timeline
        vm_clock: VmClock
        vm_timers: TimerQueue
        memory: GuestMemory
        device: BalloonDevice | None
        guest: Guest

        @property
        def running(self) -> bool: ...
        def emit(self, event: Event) -> None: ...
        def deliver(self) -> None: ...
        def reset(self, *, guest: bool = False) -> None: ...
        def driver_changed(self) -> None: ...
        def driver_released(self) -> None: ...
        def guest_off(self) -> None: ...


class Guest:
    """What runs in the machine and drives the device. The machine calls these methods as it starts, stops and resets.

    A guest uses the device only through rings, config space and notifications. Its `controls` are what can be changed
    by hand.
    """

    name = "guest"
    spec = "guest"
    """The text that `--guest` takes to make this guest again."""

    real = False
    """Whether it runs in real time outside this process: then no simulated clock can drive it."""

    foreign = False
    """Whether its numbers are those of another machine, which may have more memory than this one."""

    booting = False
    """Whether its driver may still come up by itself: then a request waits for it."""

    ram = 0
    """The RAM in bytes that it needs; 0 if it takes the machine's."""

    ended = ""
    """Why the process of a real guest ended: nothing answers until a reset. Empty for a guest that may answer."""

    driver_loaded = False
    machine: Platform

    def attach(self, machine: Platform) -> None:
        """Belong to `machine` from now on. Called once, before any other method except `close`.

        Raises MisuseError if something that the guest needs is missing.
        """
        self.machine = machine

    def boot(self) -> None:
        """The machine starts, after power-on or reset; the device has been reset."""

    def halt(self) -> None:
        """The machine is reset or closed: stop everything, and forget what a power cycle clears."""

    def close(self) -> None:
        """Release the guest's files, sockets and processes. The guest is not used afterwards."""
        self.halt()

    def stopped(self) -> None:
        """The VM was stopped."""

    def resumed(self) -> None:
        """The VM was continued."""

    def interrupt(self, queue: int) -> None:
        """The device returned buffers of queue number `queue`."""

    def config_changed(self) -> None:
        """The device's configuration space or status changed."""

    def device_added(self) -> None:
        """A balloon device was plugged in while the machine was up, perhaps stopped."""

    def release_device(self) -> bool:
        """Let go of the device for hot-unplug; the VM may be stopped.

        Returns whether the driver let go at once. If it does so later, it calls `machine.driver_released`.
        """
        # Without a driver the request has no answer, as in QEMU: the device stays until a reset.
        return self.driver_loaded

    def power_down(self) -> bool:
        """The power button was pressed. Returns whether the guest is off at once; a later end calls `guest_off`."""
        return False

    def check_target(self, size: int, go: Callable[[], object]) -> Task | None:
        """Call `go`, which asks for `size` bytes. Raises MisuseError instead if the guest would not survive so little.

        If the guest has to be asked first, this returns a task, which calls `go` or ends with the error.
        """
        go()
        return None

    def descriptors(self) -> list[int]:
        """Return the file descriptors for which `serve` has to be called when they are readable."""
        return []

    def serve(self) -> None:
        """Some of the descriptors may be readable. Must not block."""

    # For monitors.

    controlled_by = "device.machine.guest:Controls"
    """The class of its controls, as MODULE:NAME. It is imported when needed: most scripts change nothing."""

    @property
    def controls(self) -> Controls:
        """What can be changed in it by hand."""
        module, _, name = self.controlled_by.partition(":")
        controls: Controls = getattr(__import__(module, fromlist=[name]), name)(self)
        return controls

    def shown(self) -> Mapping[str, str]:
        """Return what is special about this guest, by name, for `sim`."""
        return {}

    def memory_free(self) -> int | None:
        """Return the guest's free memory in bytes, or None if only the guest itself knows it."""
        return None

    # Snapshots.

    snapshot_refusal = ""
    """Why this guest cannot be saved; empty if it can."""

    def state(self) -> dict[str, object]:
        """Return the guest's state as plain data; guest memory is saved separately."""
        raise UnsupportedError(f"the {self.name} guest cannot be saved")

    def restore(self, state: Fields) -> None:
        """Restore what `state` says. The machine's memory and device are restored already.

        Raises SnapshotError with the name of a wrong member.
        """
        raise UnsupportedError(f"the {self.name} guest cannot be loaded")


class Controls:
    """What can be changed in a guest by hand, with `sim`. A guest names its subclass of this in `controlled_by`.

    A method that a kind of guest does not have raises UnsupportedError. A guest that takes a while returns a Task.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def cannot(self, what: str) -> UnsupportedError:
        """Return the error for something that this guest cannot do."""
        return UnsupportedError(f"the {self.guest.name} guest cannot {what}")

    def hang(self) -> None:
        """Stop serving all queues."""
        raise self.cannot("hang its driver")

    def wake(self) -> None:
        """Serve the queues again, including what came meanwhile."""
        raise self.cannot("wake its driver")

    def set_delay(self, delay: int) -> None:
        """Answer `delay` ns of VM time after being asked."""
        raise self.cannot("delay its answers")

    def drop(self, count: int) -> None:
        """Miss the next `count` notifications of the statistics queue."""
        raise self.cannot("miss notifications")

    def pin(self, tag: int, value: int | None) -> None:
        """Report `value` for statistic `tag` from now on; None leaves the statistic out."""
        raise self.cannot("set statistics")

    def unpin(self, tag: int) -> None:
        """Report the real value of statistic `tag` again."""
        raise self.cannot("set statistics")

    def pins(self) -> dict[int, int | None]:
        """Return the pinned statistics by tag."""
        return {}

    def alloc(self, size: int) -> int | Task:
        """Let a workload take `size` bytes; returns how many bytes it got."""
        raise self.cannot("run a workload")

    def free(self, size: int) -> int | Task:
        """Let the workload give back `size` bytes; returns how many bytes it gave back."""
        raise self.cannot("run a workload")

    def load_driver(self) -> Task | None:
        """Load the balloon driver."""
        raise self.cannot("load a driver")

    def unload_driver(self) -> Task | None:
        """Unload the balloon driver."""
        raise self.cannot("unload its driver")

    def panic(self) -> Task | None:
        """Let the kernel panic."""
        raise self.cannot("panic")
