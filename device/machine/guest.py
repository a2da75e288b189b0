"""What a machine expects of a guest, what a guest finds in its machine, and what can be controlled of it."""

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
        """A machine as its guest sees it; device.machine.machine says what each means."""

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
    """A guest behind the device: its life, as the machine leads it.

    A guest drives the device through rings, config space and notifications only. What can be changed of it by hand is
    another matter: its `controls`.
    """

    name = "guest"
    spec = "guest"
    """The words that `--guest` takes to make this guest again."""

    real = False
    """Whether it runs in real time outside this process, so that no simulated clock can drive it."""

    foreign = False
    """Whether its numbers are those of another machine, perhaps a larger one."""

    booting = False
    """Whether its driver may still come up by itself, so that a request is worth keeping for it."""

    ram = 0
    """The RAM in bytes that it asks its machine for; 0 takes what there is."""

    ended = ""
    """Why the process of a real guest is over, so that nothing answers until a reset; empty for all that may answer."""

    driver_loaded = False
    machine: Platform

    def attach(self, machine: Platform) -> None:
        """Belong to `machine` from now on. Called once, before any other but `close`.

        Raises MisuseError where the guest does not find what it needs.
        """
        self.machine = machine

    def boot(self) -> None:
        """The machine starts, after power-on or reset; the device has been reset."""

    def halt(self) -> None:
        """The machine is reset or taken apart: stop doing anything, forget everything volatile."""

    def close(self) -> None:
        """Give back what the guest holds of the host. The guest is not used afterwards."""
        self.halt()

    def stopped(self) -> None:
        """The VM was stopped."""

    def resumed(self) -> None:
        """The VM goes on."""

    def interrupt(self, queue: int) -> None:
        """Buffers of queue number `queue` came back."""

    def config_changed(self) -> None:
        """The device's configuration space or status changed."""

    def device_added(self) -> None:
        """A balloon device was plugged in while the machine was up, perhaps stopped."""

    def release_device(self) -> bool:
        """Be asked to let go of the device for hot-unplug, perhaps while the VM is stopped.

        Returns whether the driver did at once; if it does later, it calls `machine.driver_released`.
        """
        return self.driver_loaded

    def power_down(self) -> bool:
        """Be asked to shut down; returns whether the guest will."""
        return False

    def check_target(self, size: int, go: Callable[[], object]) -> Task | None:
        """Call `go`, which asks for `size` bytes, unless the guest would not survive being left with so little.

        Then it raises MisuseError. A guest that has to be asked first returns the task that this is.
        """
        go()
        return None

    def descriptors(self) -> list[int]:
        """Return the file descriptors whose readability concerns the guest."""
        return []

    def serve(self) -> None:
        """Some of the descriptors became readable."""

    # What is known of it.

    controlled_by = "device.machine.guest:Controls"
    """The class of its controls, as MODULE:NAME: most scripts change nothing and need not import it."""

    @property
    def controls(self) -> Controls:
        """What can be controlled of it."""
        module, _, name = self.controlled_by.partition(":")
        controls: Controls = getattr(__import__(module, fromlist=[name]), name)(self)
        return controls

    def shown(self) -> Mapping[str, str]:
        """Return what is out of the ordinary here, by name, for the overview."""
        return {}

    def memory_free(self) -> int | None:
        """Return the guest's free memory in bytes as the model knows it, or None where only the guest knows."""
        return None

    # Snapshots.

    snapshot_refusal = ""
    """Why this guest cannot be saved; empty where it can."""

    def state(self) -> dict[str, object]:
        """Return everything the guest remembers, as plain data; what is in guest memory is saved with that."""
        raise UnsupportedError(f"the {self.name} guest cannot be saved")

    def restore(self, state: Fields) -> None:
        """Remember again what `state` said; the machine's memory and device are restored already.

        Raises SnapshotError naming the member that is wrong.
        """
        raise UnsupportedError(f"the {self.name} guest cannot be loaded")


class Controls:
    """What can be changed of a guest by hand, as `sim` does: a second interface of the guests that have it.

    What a kind of guest cannot do raises UnsupportedError. A guest that takes a while returns the Task instead.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def cannot(self, what: str) -> UnsupportedError:
        """Return the error for what this guest cannot do."""
        return UnsupportedError(f"the {self.guest.name} guest cannot {what}")

    def hang(self) -> None:
        """Stop serving all queues."""
        raise self.cannot("hang its driver")

    def wake(self) -> None:
        """Serve the queues again, and what came meanwhile."""
        raise self.cannot("wake its driver")

    def set_delay(self, delay: int) -> None:
        """Answer `delay` ns of VM time after being asked."""
        raise self.cannot("delay its answers")

    def drop(self, count: int) -> None:
        """Miss the next `count` notifications of the statistics queue."""
        raise self.cannot("miss notifications")

    def pin(self, tag: int, value: int | None) -> None:
        """Report `value` for statistic `tag` from now on, or with None nothing."""
        raise self.cannot("set statistics")

    def unpin(self, tag: int) -> None:
        """Report the real value of statistic `tag` again."""
        raise self.cannot("set statistics")

    def pins(self) -> dict[int, int | None]:
        """Return the pinned statistics by tag."""
        return {}

    def alloc(self, size: int) -> int | Task:
        """Let a workload take `size` bytes; returns how many it got."""
        raise self.cannot("run a workload")

    def free(self, size: int) -> int | Task:
        """Let the workload give back `size` bytes; returns how many it had to give."""
        raise self.cannot("run a workload")

    def load_driver(self) -> Task | None:
        """Load the balloon driver."""
        raise self.cannot("load a driver")

    def unload_driver(self) -> Task | None:
        """Unload the balloon driver."""
        raise self.cannot("unload its driver")

    def panic(self) -> Task | None:
        """Let the kernel die."""
        raise self.cannot("panic")
