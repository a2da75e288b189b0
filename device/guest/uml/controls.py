"""What `sim` can change in a real kernel, through the shell on its console."""

from __future__ import annotations

from device.errors import MisuseError
from device.guest.uml.console import Answer
from device.guest.uml.guest import UmlGuest
from device.machine.guest import Controls
from device.machine.requests import Task


class UmlControls(Controls):
    """As Controls: a workload, loading and unloading the driver, and a panic. Each is a task for the guest's shell."""

    guest: UmlGuest

    def alloc(self, size: int) -> Task:
        """Let a file in the guest's memory grow; the kernel keeps 8 MiB."""
        return self.guest.shell(f"alloc {size}", self._read_amount)

    def free(self, size: int) -> Task:
        """Let the file of `alloc` shrink."""
        return self.guest.shell(f"free {size}", self._read_amount)

    def _read_amount(self, answer: Answer) -> int:
        status, text = answer()
        # The result is on the last line: the kernel may print its own lines before it.
        last = text.rpartition("\n")[2]
        if status or not last.isdigit():
            raise self._failed(last or str(status))
        return int(last)

    def _failed(self, why: str) -> MisuseError:
        return MisuseError(f"the {self.guest.name} guest's shell failed: {why}")

    def load_driver(self) -> Task | None:
        """Load the balloon driver, if it is not loaded."""
        if self.guest.driver_loaded:
            return None
        task = self.guest.shell("$B insmod /virtio_balloon.ko 2>&1", self._read_driver_change)
        self.guest.booting = True
        return task

    def unload_driver(self) -> Task:
        """Unload the balloon driver, which empties the balloon, if it is loaded."""
        return self.guest.shell("$B rmmod virtio_balloon 2>&1", self._read_driver_change)

    def _read_driver_change(self, answer: Answer) -> int:
        try:
            status, text = answer()
            # These words mean that the driver is loaded already, or is not loaded: that is what was asked for.
            if status and "File exists" not in text and "No such file" not in text:
                raise self._failed(text.strip() or str(status))
        except MisuseError:
            self.guest.booting = False
            raise
        return status

    def panic(self) -> Task:
        """Make the kernel crash itself (SysRq c)."""
        return self.guest.shell("echo c > /proc/sysrq-trigger", self._read_panic)

    def _read_panic(self, answer: Answer) -> int:
        # A kernel that panicked sends no answer. The end of its process is the success.
        try:
            return answer()[0]
        except MisuseError:
            if self.guest.process is not None:  # the kernel still runs
                raise
            return 0
