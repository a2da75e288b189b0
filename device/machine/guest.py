"""What a machine expects of a guest, modelled or real."""

from __future__ import annotations

from device.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from device.machine.machine import Machine
    from device.state import Fields


class Guest:
    """A guest behind the device. The machine calls these; what a kind of guest cannot do raises UnsupportedError.

    A guest drives the device through rings, config space and notifications only.
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
    machine: Machine

    def attach(self, machine: Machine) -> None:
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

    def check_target(self, size: int) -> None:
        """Raise MisuseError where the guest would not survive being left with `size` bytes."""

    def descriptors(self) -> list[int]:
        """Return the file descriptors whose readability concerns the guest."""
        return []

    def serve(self) -> None:
        """Some of the descriptors became readable."""

    # The simulator's controls.

    def _cannot(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"the {self.name} guest cannot {what}")

    def controls(self) -> Mapping[str, str]:
        """Return what the simulator set here, by name, for the overview."""
        return {}

    def hang(self) -> None:
        """Stop serving all queues."""
        raise self._cannot("hang its driver")

    def wake(self) -> None:
        """Serve the queues again, and what came meanwhile."""
        raise self._cannot("wake its driver")

    def set_delay(self, delay: int) -> None:
        """Answer `delay` ns of VM time after being asked."""
        raise self._cannot("delay its answers")

    def drop(self, count: int) -> None:
        """Miss the next `count` notifications of the statistics queue."""
        raise self._cannot("miss notifications")

    def pin(self, tag: int, value: int | None) -> None:
        """Report `value` for statistic `tag` from now on, or with None nothing."""
        raise self._cannot("set statistics")

    def unpin(self, tag: int) -> None:
        """Report the real value of statistic `tag` again."""
        raise self._cannot("set statistics")

    def pins(self) -> dict[int, int | None]:
        """Return the pinned statistics by tag."""
        return {}

    def alloc(self, size: int) -> int:
        """Let a workload take `size` bytes; returns how many it got."""
        raise self._cannot("run a workload")

    def free(self, size: int) -> int:
        """Let the workload give back `size` bytes; returns how many it had to give."""
        raise self._cannot("run a workload")

    def load_driver(self) -> None:
        """Load the balloon driver."""
        raise self._cannot("load a driver")

    def unload_driver(self) -> None:
        """Unload the balloon driver."""
        raise self._cannot("unload its driver")

    def panic(self) -> None:
        """Let the kernel die."""
        raise self._cannot("panic")

    # Snapshots.

    snapshot_refusal = ""
    """Why this guest cannot be saved; empty where it can."""

    def state(self) -> dict[str, object]:
        """Return everything the guest remembers, as plain data; what is in guest memory is saved with that."""
        raise self._cannot("be saved")

    def restore(self, state: Fields) -> None:
        """Remember again what `state` said; the machine's memory and device are restored already.

        Raises SnapshotError naming the member that is wrong.
        """
        raise self._cannot("be loaded")

    def memory_free(self) -> int | None:
        """Return the guest's free memory in bytes as the model knows it, or None where only the guest knows."""
        return None
