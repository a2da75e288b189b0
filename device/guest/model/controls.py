"""What `sim` changes of a modelled guest."""

from __future__ import annotations

from device.balloon.spec import ABSENT
from device.errors import MisuseError
from device.guest.model.guest import ModelledGuest
from device.machine.events import Panicked
from device.machine.guest import Controls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.guest.model.kernel import Kernel


class ControlledGuest(ModelledGuest, Controls):
    """A modelled guest all of which can be controlled."""

    def hang(self) -> None:
        """Stop serving all queues; the VM keeps running."""
        self.set_fault("hang", True)

    def wake(self) -> None:
        """Serve the queues again, and what came meanwhile; a guest that had fallen silent answers again."""
        self.faults.wake()
        self.catch_up()
        self.machine.deliver()

    def set_delay(self, delay: int) -> None:
        """Answer `delay` ns of VM time after being asked; an answer under way keeps its time."""
        self.set_fault("delay", delay)

    def drop(self, count: int) -> None:
        """Miss the next `count` notifications of the statistics queue."""
        self.set_fault("drop", count)

    def pin(self, tag: int, value: int | None) -> None:
        """Report `value` for `tag` from now on; None leaves it out. Raises MisuseError out of 64 bits."""
        if value is not None and not 0 <= value <= ABSENT:
            raise MisuseError(f"a statistic is from 0 to {ABSENT}, not {value}")
        self.faults["pin"].value[tag] = value
        self.faults.arrange()

    def unpin(self, tag: int) -> None:
        """Report the real value again; nothing if it is not pinned."""
        self.faults["pin"].value.pop(tag, None)
        self.faults.arrange()

    def pins(self) -> dict[int, int | None]:
        """Return the pinned statistics by tag."""
        return dict(self.faults["pin"].value)

    def _alive(self) -> Kernel:
        if self.kernel is None or self.dead:
            raise MisuseError("the guest is not running a kernel")
        return self.kernel

    def alloc(self, size: int) -> int:
        """Let the workload take `size` bytes; returns what it got: 0 if the OOM killer came."""
        kernel, driver = self._alive(), self.driver
        kernel.tick(self.machine.vm_clock.now())
        got = kernel.alloc(size, self.inflation.relieve if driver is not None and driver.deflates_on_oom else None)
        self.machine.deliver()
        return got

    def free(self, size: int) -> int:
        """Let the workload give back `size` bytes; returns what it had to give. A stuck balloon goes on."""
        kernel = self._alive()
        kernel.tick(self.machine.vm_clock.now())
        freed = kernel.free_workload(size)
        self.inflation.unstick()
        return freed

    def load_driver(self) -> None:
        """Load the driver. Raises MisuseError if that cannot be."""
        if self.driver is not None:
            raise MisuseError("the driver is loaded already")
        self._alive()
        if self.machine.device is None:
            raise MisuseError("there is no balloon device for it")
        self.start_driver()
        self.boot_over()
        self.machine.deliver()

    def unload_driver(self) -> None:
        """Unload the driver; the balloon deflates. Raises MisuseError if there is none."""
        if self.driver is None:
            raise MisuseError("the driver is not loaded")
        self._alive()
        self.stop_driver()
        self.release_wanted = False
        self.machine.driver_released()
        self.machine.deliver()

    def panic(self) -> None:
        """The kernel dies: nothing answers until the machine is reset. Raises MisuseError if it cannot."""
        self._alive()
        self.set_fault("panic", True)
        self.boot_over()
        self.machine.emit(Panicked("run"))
