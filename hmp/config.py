"""The options of the command line as data, and the machine that they describe."""

from __future__ import annotations

import time

from device.clock import Clock, SimulatedClock
from device.guest.table import make_guest
from device.machine.machine import DEFAULT_TIMEOUT, NIL_UUID, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device.machine.guest import Guest
    from hmp.addresses import Address
    from hmp.attach.address import Place

DEFAULT_RAM = 1 << 30
DEFAULT_GUEST = "linux"
DEFAULT_DEVICE = "virtio-balloon-pci,id=balloon0"

NUMBER = "%d"
"""Stands for the number of a machine (from 0) in addresses, --name, --log and --snapshot-dir with --count."""


class Config:
    """The options, with their defaults. Sizes in bytes, times in ns."""

    def __init__(self) -> None:
        self.ram = DEFAULT_RAM
        self.guest = DEFAULT_GUEST
        self.timeout = DEFAULT_TIMEOUT
        self.clock = "real"
        self.seed = 0
        self.balloon = True
        self.device_id = "balloon0"
        self.switches: dict[str, Any] = {}
        """Further arguments for the device."""
        self.name: str | None = None
        self.uuid = NIL_UUID
        self.dialect = "seed"
        self.sources: list[tuple[str, int | list[str]]] = []
        """What to run: a name for messages, and a descriptor to read or a list of lines."""
        self.paused = self.scripted = self.interactive = self.echo = self.exit_on_error = self.fail_stale = False
        self.snapshot_dir: str | None = None
        self.attach: Place | None = None
        self.allow_disruptive = self.allow_host_files = self.allow_remote = self.overwrite = False
        self.save_replies: str | None = None
        self.typed = False
        """Whether a person types at a terminal; choose() sets it."""
        self.addresses: list[Address] = []
        self.chardevs: list[tuple[str, str, bool]] = []
        """Further devices for query-chardev: label, file name, and whether something uses them."""
        self.no_shutdown = False
        """Whether the machine stays, stopped, after its guest switches itself off (QEMU's -no-shutdown)."""
        self.resets = True
        """Whether a reset reboots the guest. If not, it ends the machine (QEMU's -no-reboot)."""
        self.on_listening: Callable[[], Callable[[], None]] | None = None
        """Called when all addresses listen. The function that it returns is called at the end."""
        self.stdio = False
        """Whether a monitor is on stdin and stdout."""
        self.headless = self.exit_with_parent = False
        self.replies: str | None = None
        self.log: str | None = None
        self.qemu_version: str | None = None
        self.count: int | None = None
        """The number of machines; None means one machine without the restrictions of --count."""
        self.record: str | None = None
        self.size: tuple[int, int] | None = None


CLOCKS: dict[str, tuple[Callable[[], Clock], str]] = {
    "real": (lambda: Clock("real", time.monotonic_ns, time.time_ns), "real time"),
    "warp": (lambda: SimulatedClock(warps=True), "simulated: jumps while a monitor waits"),
    "manual": (lambda: SimulatedClock(warps=False), "simulated: only sim sleep moves it"),
}
"""The clocks: a function that makes each, and its help."""


def make_machine(config: Config, guest: Guest | None = None) -> Machine:
    """Make the machine; `guest` is its guest if that is made already.

    Raises MisuseError for errors that the options alone did not show, such as those of a guest's keys.
    """
    store = None
    if config.snapshot_dir is not None:
        # Each of the imports below is only needed with its option; a script without options pays for none.
        from hmp.monitor.snapshots import DirectoryStore

        store = DirectoryStore(config.snapshot_dir)
    replies = None
    if config.replies is not None:
        from hmp.monitor.replies import load

        replies = load(config.replies)
    machine = Machine(
        CLOCKS[config.clock][0](), ram=config.ram, guest=guest or make_guest(config.guest), seed=config.seed,
        device_id=config.device_id, switches=config.switches, balloon=config.balloon, timeout=config.timeout,
        name=config.name or None, uuid=config.uuid,
    )  # fmt: skip
    machine.store, machine.no_shutdown, machine.resets = store, config.no_shutdown, config.resets
    if replies is not None or config.qemu_version is not None or config.log is not None:
        from hmp.monitor.emulated import emulated

        # Only then is an Emulated made: the piped path does without one.
        front = emulated(machine)
        front.replies = replies
        if config.log is not None:
            from hmp.log import Log

            front.log = Log(config.log, machine.clock)
        front.version = config.qemu_version or (replies and replies.qemu) or front.version
    return machine
