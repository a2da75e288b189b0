"""The base class of all faults and other keys of modelled guests, and the keys for boot, shutdown, swap and service."""

from __future__ import annotations

from device.clock import SECOND
from device.errors import MisuseError
from device.guest.model import NEVER
from device.units import format_size, parse_seconds, parse_size
from device.virtio.spec import MAX_RAM, PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar, Protocol

    from device.guest.model.kernel import Kernel
    from device.machine.guest import Platform
    from device.state import Member

    class Owner(Protocol):
        """What a fault needs of its guest."""

        machine: Platform
        kernel: Kernel | None

        @property
        def faults(self) -> Mapping[str, Fault]:
            """Its faults by name."""
            ...

        def chance(self) -> int:
            """Return the next random number below a million; the machine's seed decides."""
            ...


class Fault:
    """A fault of one guest. `value` says how strong it is; with the value `off` it is not in force and affects nothing.

    The methods are called for a request in this order: `misses`, `silent`, `wait`, and with the answer `sent` and
    `reported`. As they are here they change nothing; a fault overrides some of them.
    """

    name = ""
    """Its name in tests and commands, and its key in `--guest` if it has `help`."""

    help = ""
    """What the key takes and does, as --list-guests prints it."""

    label = ""
    """Its name in `sim`; empty if `sim` does not show it."""

    STATE: tuple[Member, ...] = ()
    """What a snapshot keeps, in the guest's state; nothing if the guest's spec says all."""

    DERIVED: tuple[str, ...] = ("given", "guest")

    off: ClassVar[Any] = 0

    common = True
    """Whether every modelled guest takes its key."""

    sleeps = False
    """Whether a driver with this fault serves none of its queues."""

    def __init__(self, guest: Owner, given: Any = None) -> None:
        self.guest = guest
        self.given = self.value = self.off if given is None else given

    @staticmethod
    def parse(text: str) -> Any:
        """Return the value that the key's `text` means. Raises MisuseError."""
        raise NotImplementedError

    def shown(self) -> str:
        """Return what `sim` shows while the fault is in force."""
        return str(self.value)

    # What happens to the guest.

    def boot(self) -> None:
        """A kernel starts."""

    def wake(self) -> None:
        """The driver is woken by hand."""

    def time(self) -> int:
        """Return the ns of VM time until its event comes, or NEVER."""
        return int(self.value)

    # What happens to a request.

    def misses(self) -> bool:
        """Return whether the driver misses this notification of its statistics queue."""
        return False

    def silent(self) -> bool:
        """Return whether the driver keeps the buffer that it fetched, until it is woken."""
        return False

    def wait(self) -> int:
        """Return how many ns of VM time the answer is late."""
        return 0

    def sent(self) -> None:
        """An answer goes out."""

    def reported(self, records: dict[int, int], values: tuple[int, ...]) -> dict[int, int]:
        """Return what is sent instead of `records`: values by tag, in order. `values` are all that the guest knows."""
        return records


def _parse_time(text: str) -> int:
    time = parse_seconds(text)
    # The limit of `sim delay`; a larger number is most likely a typing error.
    if time > 3600 * SECOND:
        raise MisuseError(f"'{text}' is more than 3600 seconds")
    return time


class Time(Fault):
    """A fault or key whose `value` is ns of VM time, or NEVER if the key takes that word."""

    parse = staticmethod(_parse_time)

    def shown(self) -> str:
        return "never" if self.value == NEVER else f"{self.value / SECOND:g} s"


class Event(Time):
    """The time of an event that may never come; None unless it is given."""

    off: ClassVar[int | None] = None
    DERIVED = (*Fault.DERIVED, "value")

    @staticmethod
    def parse(text: str) -> int:
        return NEVER if text == "never" else _parse_time(text)


class Swap(Fault):
    """The guest's swap space in bytes; None is half of its RAM."""

    name = label = "swap"
    help = "SIZE: of the swap space, 0 for none; by default half of RAM"
    off = None
    DERIVED = (*Fault.DERIVED, "value")

    @staticmethod
    def parse(text: str) -> int:
        swap = parse_size(text)
        if swap > MAX_RAM:
            raise MisuseError(f"'{text}' is not a swap space of at most {MAX_RAM >> 40}T")
        return swap & -PAGE_SIZE

    def shown(self) -> str:
        return format_size(self.value)


class Boot(Time):
    """The time from each start of the kernel until its driver is up."""

    # With this key users can try what happens to a request that comes before the driver is up.

    name = label = "boot"
    help = "SEC: until the driver is up, also after a reset; by default 0"
    DERIVED = (*Fault.DERIVED, "value")


class Shutdown(Event):
    """The time from the power button to the end; None is a second, or nothing on a simulated clock."""

    # A second, because a machine that ended at once would not send the reply and the next prompt.

    name = label = "shutdown"
    help = "SEC or never: from the power button to the end; by default 1, on simulated clocks 0"

    def time(self) -> int:
        if self.value is None:  # a simulated clock may have nothing else that moves it
            return 0 if self.guest.machine.clock.simulated else SECOND
        return int(self.value)


class Service(Event):
    """The time from the driver to the service that reports statistics, as in Windows; None is no service."""

    name = label = "service"
    help = "SEC or never: until the service that reports statistics is up"
    common = False

    def time(self) -> int:
        guest = self.guest
        if not self.value or guest.kernel is None:
            return int(self.value or 0)
        if self.value == NEVER:
            return NEVER
        up = guest.kernel.boot + int(guest.faults["boot"].value) + int(self.value)
        return max(0, up - guest.machine.vm_clock.now())

    def silent(self) -> bool:
        return bool(self.time())
