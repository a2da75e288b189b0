"""The `uml` guest: a real Linux kernel in a process of its own, which uses vhost-user (docs/real-guest.md)."""

from __future__ import annotations

import os
import signal

from device.balloon.spec import F_DEFLATE_ON_OOM
from device.clock import MS, SECOND
from device.errors import MisuseError, UnsupportedError
from device.guest.uml import xstate
from device.guest.uml.parts import build_initramfs, find_parts
from device.guest.uml.process import UmlProcess, make_directory
from device.guest.vhost_user.guest import VhostUserGuest
from device.guest.vhost_user.listener import UnixListener
from device.machine.events import GuestGone, Panicked, WasReset
from device.machine.requests import Task
from device.units import format_size
from device.virtio.spec import MIB, bit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from device.guest.uml.console import Answer
    from device.machine.guest import Platform

MIN_KERNEL_RAM = 32 * MIB
"""A kernel with less does not boot (measured)."""

SHELL_TIMEOUT = 3 * SECOND
"""How long a control waits for the guest's shell."""

ESTIMATE_AFTER = 300 * MS
"""How long to wait for the shell's answer if an estimate can replace it."""

MARGIN = 4 * MIB
"""Memory that must stay available to the kernel. Measured with 32 to 1024 MiB of RAM: kernels panicked with 0 to 1 MiB
available, none did with 2 MiB."""

MEMINFO = "$B cat /proc/meminfo"

_BALLOON_DEVICE = 5
"""virtio's number of the balloon device, as the kernel's `virtio_uml.device` option takes it."""


class UmlGuest(VhostUserGuest):
    """A User-Mode Linux kernel with its own virtio_balloon driver and a shell on its console.

    Settings: mem (bytes), kernel, module, busybox (paths).
    """

    snapshot_refusal = "a real kernel runs in another process, whose state cannot be saved"
    _barrier_ends = True

    def __init__(self, name: str, settings: Mapping[str, object], spec: str) -> None:
        """Take the settings. `attach` looks for the files."""
        super().__init__(name, settings, spec)
        mem = settings.get("mem")
        self.ram = mem if isinstance(mem, int) else 0
        self.process: UmlProcess | None = None
        self._powering_down = False
        self._connected = False
        self._restricted = False

    def attach(self, machine: Platform) -> None:
        """Belong to `machine`. Raises MisuseError for a missing part or an impossible memory size."""
        if self.ram and self.ram != machine.ram:
            raise MisuseError(
                f"guest uml: mem={format_size(self.ram)}: the machine has {format_size(machine.ram)} (-m sets it)"
            )
        if machine.ram < MIN_KERNEL_RAM:
            raise MisuseError(
                f"guest uml: {format_size(machine.ram)} is too little memory for a kernel: "
                f"{format_size(MIN_KERNEL_RAM)} is the least"
            )
        self._parts = find_parts(self._settings)
        self.machine = machine

    # Life.

    def boot(self) -> None:
        """Start a kernel. If it cannot be started, that is reported as its end."""
        # Errors are not raised, because a reset boots the guest too and has no caller that could handle them.
        super().boot()
        self.ended = ""
        self._powering_down = self._connected = False
        try:
            directory = make_directory()
            self.process = process = UmlProcess(directory)
            archive = os.path.join(directory, "initrd")
            with open(archive, "wb") as file:
                file.write(build_initramfs(self._parts))
            path = os.path.join(directory, "balloon")
            # Listen before the kernel starts: UML connects once, at boot, and never again.
            self._listener = UnixListener(path)
            self._restricted = xstate.needs_help()
            restrict = xstate.restriction() if self._restricted else None
            process.start(self._parts.kernel, self._options(directory, archive, path), restrict)
        except (ImportError, OSError, MisuseError) as error:
            self._ended(f"the kernel cannot be started: {error}")

    def _options(self, directory: str, archive: str, path: str) -> list[str]:
        # By default UML opens xterms and ptys for its other consoles, hence con=null and ssl=null. loglevel=1 keeps the
        # kernel's messages off the console that carries our protocol, except for those of a panic. No path here has a
        # blank, because make_directory allows none.
        options = (
            f"mem={self.machine.ram >> 10}K initrd={archive} root=/dev/ram0 con=null con0=fd:0,fd:1 ssl=null "
            f"loglevel=1 uml_dir={directory} umid=kernel virtio_uml.device={path}:{_BALLOON_DEVICE}"
        )
        return options.split(" ") + [xstate.TUNABLES] * self._restricted

    def halt(self) -> None:
        """Kill the kernel, and remove its files and sockets."""
        super().halt()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        process, self.process = self.process, None
        if process is not None:
            process.console.fail(self._cannot(self.ended or "it was reset"))
            process.close()
        self.ended = ""

    def stopped(self) -> None:
        """Freeze the kernel, and with it the guest's programs."""
        if self.process is not None:
            self.process.signal(signal.SIGSTOP)

    def resumed(self) -> None:
        """Let the kernel continue."""
        if self.process is not None:
            self.process.signal(signal.SIGCONT)
        super().resumed()

    def power_down(self) -> bool:
        """Have the guest's shell power it off; the machine ends once that is done."""
        # Not by a power button: UML's kernel has none.
        self._powering_down = self._powering_down or self._send("$B poweroff -f")
        return False

    # What happens in the process.

    def descriptors(self) -> list[int]:
        """Return what to watch: the transport's descriptors, the console, and the one that shows the kernel's end."""
        watched = super().descriptors()
        return watched if self.process is None else watched + self.process.descriptors()

    def serve(self) -> None:
        """Do what the kernel asks for, and notice its end."""
        super().serve()
        process = self.process
        if process is None:
            return
        console = process.console
        before = console.up
        # Before the status below, because what a kernel printed last explains why it ended.
        if console.fd >= 0:
            console.receive()
        if before is None and console.up:
            self._driver_missing("its kernel did not accept the driver: is the module of another version?")
        elif before is None and console.up == 0 and not self.driver_loaded:
            self._module_loaded()
        status = process.ended()
        if status is not None:
            self._process_ended(process, status)

    def _module_loaded(self) -> None:
        """The kernel loaded the module. Its driver has sent all its messages by now, or will never send any.

        `insmod` returns only after the driver's probe.
        """
        super().serve()  # messages may have arrived since the last call
        if self._backend is None:
            self._driver_missing("its kernel has no vhost-user devices (CONFIG_VIRTIO_UML)")
        elif not self.driver_loaded and self.machine.device is not None:
            self._driver_missing("its module was loaded but drives no balloon: is it a virtio_balloon.ko?")

    def _process_ended(self, process: UmlProcess, status: int) -> None:
        for _ in range(64):  # read what it printed last; with a limit, as another process may hold the pipe open
            if process.console.ended:
                break
            process.console.receive()
        words = process.console.end_reason()
        if process.console.panicked:
            self._ended(f"its kernel panicked: {words}", panicked=True)
        # Any program can end with status 0, such as kernel=/bin/true. Only one that connected, or wrote on the console,
        # is a kernel that powered off. On a busy host UML may abort at the end of powering off, which counts as well.
        elif (status == 0 and (self._connected or process.console.total)) or (
            self._powering_down and status == -signal.SIGABRT
        ):
            self._ended("it switched itself off", report=False)
            self.machine.guest_off()
        elif status < 0:
            self._ended(f"its kernel was killed by {signal.Signals(-status).name}")
        else:
            said = words or process.complaints().strip().rpartition("\n")[2]
            if "ptrace" in said:
                said = f"it needs ptrace, which is not allowed here ({said})"
            self._ended(f"its kernel ended with status {status}" + (f": {said}" if said else ""))

    def _ended(self, why: str, *, report: bool = True, panicked: bool = False) -> None:
        """The kernel has ended: clean up its process and files, and leave the device in its last state."""
        self.gone = self.ended = why
        self.halt()
        self.ended = why  # again: `halt` clears it, after it told the waiting tasks
        if report:
            if panicked:
                self.machine.emit(Panicked("run"))
            self.machine.emit(GuestGone(why))
            self.machine.driver_changed()  # ends the requests that wait for a driver which had not come up

    def _hung_up(self) -> None:
        """The kernel closed its vhost-user connection: it is about to end or to reboot.

        Nothing is reported yet: the end of the process has a better reason.
        """
        self._disconnect()
        self.booting = self._booted

    def _accept(self) -> None:
        """Take the kernel's connection. A second one means that the kernel rebooted itself, in the same process."""
        super()._accept()
        if self._backend is None or self.process is None:
            return
        if self._connected:
            self.process.console.up = None
            self.booting = True
            if self.machine.device is not None:
                self.machine.device.reset()
            self.machine.emit(WasReset(guest=True, reason="guest-reset"))
        self._connected = True

    # For monitors.

    def shown(self) -> Mapping[str, str]:
        """Return the kernel's process, or why it ended."""
        shown: dict[str, str] = {}
        if self.process is not None and self.process.pid:
            shown["kernel"] = f"process {self.process.pid}"
            if self._restricted:
                shown["processor"] = xstate.NOTE
        if self.gone:
            shown["gone"] = self.gone
        return shown

    def shell(self, command: str, read: Callable[[Answer], int], timeout: int = SHELL_TIMEOUT) -> Task:
        """Make the guest's shell run a line. `read` turns its answer into the task's result.

        The answer is a function: it returns the status and what was printed, or raises MisuseError if there was no
        answer within `timeout` ns. Raises UnsupportedError if the guest is stopped, not up yet or has ended.
        """
        # A task instead of a loop that waits, which once held up all other monitors for three seconds.
        machine, console = self.machine, None if self.process is None else self.process.console
        if not machine.running:
            raise self._cannot("while the VM is stopped")
        if console is None or console.up is None:
            raise self._cannot(self.gone or "it is not up yet")

        def forget() -> None:
            timer.cancel()
            console.forget(number)

        def late() -> None:
            seconds = timeout // SECOND
            console.fail(MisuseError(f"the {self.name} guest is not done after {seconds} seconds"), number)

        try:
            number = console.send(command, lambda answer: task.end(lambda: read(answer)))
        except OSError as error:
            raise self._cannot(f"its console does not read ({error.strerror})") from None
        timer = machine.time.after(timeout, late)
        task = Task(timer.due, forget)
        return task

    def _cannot(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"the {self.name} guest cannot do that: {why}")

    def release_device(self) -> bool:
        """Make the guest's shell unload the driver; the device is removed after that."""
        # Unloading stops the rings; the port reports that, and then the machine removes the device.
        self._send("$B rmmod virtio_balloon")
        return False

    def device_added(self) -> None:
        """Give the new device to a loaded driver, or have the guest's shell load the driver."""
        super().device_added()
        if not self.driver_loaded:
            self.booting = True
            self._send("$B insmod /virtio_balloon.ko")

    def _send(self, command: str) -> bool:
        """Have the guest's shell run a line. Returns whether it was sent."""
        try:
            return self.process is not None and self.process.console.send(command) > 0
        except OSError:
            return False

    def check_target(self, size: int, go: Callable[[], object]) -> Task | None:
        """Refuse a size that is too small for the kernel: without deflate-on-oom it would panic."""
        # With deflate-on-oom the kernel takes pages back before it runs out, so any size is safe.
        device = self.machine.device
        if device is not None and device.features & bit(F_DEFLATE_ON_OOM):
            go()
            return None

        def check(answer: Answer) -> int:
            floor = self.floor(answer)
            if size < floor:
                raise MisuseError(
                    f"the {self.name} guest's kernel would not survive less than {format_size(floor)} "
                    "(deflate-on-oom=on lets it take memory back)"
                )
            go()
            return size

        try:
            return self.shell(MEMINFO, check, ESTIMATE_AFTER)
        except UnsupportedError:
            check(lambda: (0, ""))
            return None

    def floor(self, meminfo: Answer) -> int:
        """Return the least memory in bytes that the kernel may keep: what it uses plus MARGIN, in whole MiB.

        If its shell gives no answer in time, this takes what kernels were measured to use of this much RAM.
        """
        ram, total = self.machine.ram, self.process.console.total if self.process is not None else 0
        used = 28 * MIB + ram // 32
        # What the kernel reserved is RAM minus the MemTotal from before the driver was loaded. MemTotal of now will not
        # do, because it falls as the balloon grows.
        try:
            known = parse_meminfo(meminfo()[1])
            if total:
                used = ram - total + known["MemTotal"] - known["MemAvailable"]
        except (MisuseError, KeyError):
            pass
        return min(-(-(used + MARGIN) // MIB) * MIB, ram)


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the bytes on each line of /proc/meminfo, by name; lines of another form are left out."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[0].isdigit() and words[1] == "kB":
            found[name] = int(words[0]) << 10
    return found
