"""What a fault or any other key of a modelled guest is, and the keys that say how it lives."""

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
            """Return the next number below a million of the machine's dice."""
            ...


class Fault:
    """A fault of one guest. `value` says how much of it; with the value `off` it is not in force and asked nothing.

    A request passes `misses`, `silent` and `wait`; `sent` and `tell` come with the answer. What a fault has no say in
    it leaves as it is here.
    """

    __slots__ = ("given", "guest", "value")

    name = ""
    """What tests and commands call it; also its key in `--guest`, if it has `help`."""

    help = ""
    """What the key takes and does, as --list-guests prints it."""

    label = ""
    """What `sim` calls it; empty where it shows nothing."""

    STATE: tuple[Member, ...] = ()
    """What a snapshot keeps, in the guest's state; nothing where the words that made the guest say all."""

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
        """Return how `sim` shows a fault in force."""
        return str(self.value)

    # What happens to the guest.

    def boot(self) -> None:
        """A kernel starts."""

    def wake(self) -> None:
        """The driver is woken by hand."""

    def time(self) -> int:
        """Return the ns of VM time until what it is about comes, or NEVER."""
        return int(self.value)

    # What becomes of a request.

    def misses(self) -> bool:
        """Return whether the driver misses this notification of its statistics queue."""
        return False

    def silent(self) -> bool:
        """Return whether the driver keeps the buffer that it fetched, until it is woken."""
        return False

    def wait(self) -> int:
        """Return by how many ns of VM time the answer is late."""
        return 0

    def sent(self) -> None:
        """An answer goes out."""

    def tell(self, records: dict[int, int], values: tuple[int, ...]) -> dict[int, int]:
        """Return what is told by tag, in this order, instead of `records`; `values` are all the guest knows, by tag."""
        return records


def _parse_time(text: str) -> int:
    time = parse_seconds(text)
    if time > 3600 * SECOND:
        raise MisuseError(f"'{text}' is more than 3600 seconds")
    return time


class Time(Fault):
    """`value` is ns of VM time; NEVER where the key takes that word."""

    __slots__ = ()
    parse = staticmethod(_parse_time)

    def shown(self) -> str:
        return "never" if self.value == NEVER else f"{self.value / SECOND:g} s"


class Event(Time):
    """Something that may never come; by itself it comes as `off` says."""

    __slots__ = ()
    off: ClassVar[int | None] = None
    DERIVED = (*Fault.DERIVED, "value")

    @staticmethod
    def parse(text: str) -> int:
        return NEVER if text == "never" else _parse_time(text)


class Swap(Fault):
    """The guest's swap space in bytes, instead of half of its RAM."""

    __slots__ = ()
    name = label = "swap"
    help = "SIZE: of the swap space, 0 for none; half of RAM unless told"
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
    """The driver comes up that much after each start of the kernel."""

    __slots__ = ()
    name = label = "boot"
    help = "SEC: until the driver is up, also after a reset; 0 unless told"
    DERIVED = (*Fault.DERIVED, "value")


class Shutdown(Event):
    """The time from the power button to the end; None means what suits the clock."""

    __slots__ = ()
    name = label = "shutdown"
    help = "SEC or never: from the power button to the end; 1 unless told, 0 on simulated clocks"

    def time(self) -> int:
        if self.value is None:  # on a simulated clock nothing else might move time
            return 0 if self.guest.machine.clock.simulated else SECOND
        return int(self.value)


class Service(Event):
    """The statistics come from a service of the guest, as in Windows: it is up that much after the driver."""

    __slots__ = ()
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
