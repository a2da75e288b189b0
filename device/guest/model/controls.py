"""What `sim` changes of a modelled guest."""

from __future__ import annotations

from device.balloon.spec import ABSENT
from device.errors import MisuseError
from device.guest.model.guest import ModelledGuest
from device.guest.model.kernel import Kernel
from device.machine.events import Panicked
from device.machine.guest import Controls


class ModelledControls(Controls):
    """As Controls: a modelled guest has all of them."""

    guest: ModelledGuest

    def hang(self) -> None:
        """Stop serving all queues; the VM keeps running."""
        self.guest.set_fault("hang", True)

    def wake(self) -> None:
        """Serve the queues again, including what came meanwhile. A guest that had fallen silent answers again."""
        # In this order: what has waited is answered by a driver that is awake.
        self.guest.faults.wake()
        self.guest.catch_up()
        self.guest.machine.deliver()

    def set_delay(self, delay: int) -> None:
        """Answer `delay` ns of VM time after being asked; an answer that already waits keeps its time."""
        self.guest.set_fault("delay", delay)

    def drop(self, count: int) -> None:
        """Miss the next `count` notifications of the statistics queue."""
        self.guest.set_fault("drop", count)

    def pin(self, tag: int, value: int | None) -> None:
        """Report `value` for `tag` from now on; None leaves it out. Raises MisuseError for more than 64 bits."""
        if value is not None and not 0 <= value <= ABSENT:
            raise MisuseError(f"a statistic is from 0 to {ABSENT}, not {value}")
        self.guest.faults["pin"].value[tag] = value
        self.guest.faults.arrange()

    def unpin(self, tag: int) -> None:
        """Report the real value again. Does nothing if it is not pinned."""
        self.guest.faults["pin"].value.pop(tag, None)
        self.guest.faults.arrange()

    def pins(self) -> dict[int, int | None]:
        """Return the pinned statistics by tag."""
        return dict(self.guest.faults["pin"].value)

    def _alive(self) -> Kernel:
        if self.guest.kernel is None or self.guest.dead:
            raise MisuseError("the guest is not running a kernel")
        return self.guest.kernel

    def alloc(self, size: int) -> int:
        """Let the workload take `size` bytes; returns what it got: 0 if the OOM killer killed it."""
        kernel, driver = self._alive(), self.guest.driver
        kernel.tick(self.guest.machine.vm_clock.now())
        got = kernel.alloc(
            size, self.guest.inflation.relieve if driver is not None and driver.deflates_on_oom else None
        )
        self.guest.machine.deliver()
        return got

    def free(self, size: int) -> int:
        """Let the workload give back `size` bytes; returns what it had. A stuck balloon tries again."""
        kernel = self._alive()
        kernel.tick(self.guest.machine.vm_clock.now())
        freed = kernel.free_workload(size)
        self.guest.inflation.unstick()
        return freed

    def load_driver(self) -> None:
        """Load the driver. Raises MisuseError if it is loaded, and if there is no device or no running kernel."""
        if self.guest.driver is not None:
            raise MisuseError("the driver is loaded already")
        self._alive()
        if self.guest.machine.device is None:
            raise MisuseError("there is no balloon device for it")
        # During a boot this comes before the boot's own driver, whose timer `boot_over` then stops.
        self.guest.start_driver()
        self.guest.boot_over()
        self.guest.machine.deliver()

    def unload_driver(self) -> None:
        """Unload the driver; the balloon deflates. Raises MisuseError if it is not loaded, or no kernel runs."""
        if self.guest.driver is None:
            raise MisuseError("the driver is not loaded")
        self._alive()
        self.guest.stop_driver()
        # A device that is being unplugged waits for just this.
        self.guest.release_wanted = False
        self.guest.machine.driver_released()
        self.guest.machine.deliver()

    def panic(self) -> None:
        """Let the kernel panic: nothing answers until the machine is reset. Raises MisuseError if no kernel runs."""
        self._alive()
        # A dead kernel loads no driver, so no request may wait for one.
        self.guest.set_fault("panic", True)
        self.guest.boot_over()
        # The machine itself goes on: of QEMU's actions that is `run`.
        self.guest.machine.emit(Panicked("run"))
