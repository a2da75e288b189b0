"""What `sim` changes of a real kernel, through the shell on its console."""

from __future__ import annotations

from device.errors import MisuseError
from device.guest.uml.guest import UmlGuest
from device.machine.guest import Controls


class ControlledUml(UmlGuest, Controls):
    """A real kernel with a workload, a module that comes and goes, and a panic."""

    def _workload(self, command: str) -> int:
        status, text = self.shell(command)
        last = text.rpartition("\n")[2]
        if status or not last.isdigit():
            raise MisuseError(f"the {self.name} guest's shell failed: {last or status}")
        return int(last)

    def alloc(self, size: int) -> int:
        """Let a file in the guest's memory grow; it leaves the kernel 8 MiB to live."""
        return self._workload(f"alloc {size}")

    def free(self, size: int) -> int:
        """Let that file shrink."""
        return self._workload(f"free {size}")

    def load_driver(self) -> None:
        """Load the balloon driver, if it is not loaded."""
        if not self.driver_loaded:
            self.booting = True
            self._driver("$B insmod /virtio_balloon.ko")

    def unload_driver(self) -> None:
        """Unload the balloon driver, which empties the balloon, if it is loaded."""
        self._driver("$B rmmod virtio_balloon")

    def _driver(self, command: str) -> None:
        try:
            status, text = self.shell(f"{command} 2>&1")
        except MisuseError:
            self.booting = False
            raise
        if status and "File exists" not in text and "No such file" not in text:
            self.booting = False
            raise MisuseError(f"the {self.name} guest's shell failed: {text.strip() or status}")

    def panic(self) -> None:
        """Let the kernel crash by its own means (SysRq c)."""
        try:
            self.shell("echo c > /proc/sysrq-trigger")
        except MisuseError:
            if self.process is not None:  # it lives
                raise
