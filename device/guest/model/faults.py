"""The faults of modelled guests. Each is one class, with everything about it: key, help, state and effect.

To add one, write its class and name it in FAULTS. If it has `help`, `--guest` takes its name as a key, and completion
and docs explain it. `sim` shows it while it is in force. Its members are in snapshots; with `late` members, snapshots
that are older than the fault still load.
"""

from __future__ import annotations

from device.balloon.spec import ABSENT, STATS_TABLE, stat_tag
from device.errors import MisuseError
from device.guest.model import CENTURY
from device.guest.model.life import Boot, Fault, Service, Shutdown, Swap, Time
from device.state import Flag, Integer, Member
from device.units import parse_count, parse_share
from device.virtio.spec import U16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar

    from device.fields import Fields
    from device.guest.model.life import Owner

# A bound for snapshots; the commands that set such a number take less.
_MAX_COUNT = 1 << 40


class _Sleep(Fault):
    """A fault with which no queue is served."""

    off = False
    sleeps = True

    def shown(self) -> str:
        return "yes"

    def boot(self) -> None:
        self.value = False


class Panic(_Sleep):
    """The kernel is dead until the machine is reset."""

    name, label = "panic", "panicked"
    STATE = (Flag("dead", attribute="value"),)


class Hang(_Sleep):
    """The driver hangs until it is woken."""

    name, label = "hang", "hung"
    STATE = (Flag("hung", attribute="value"),)

    def wake(self) -> None:
        self.value = False


class Delay(Time):
    """Answers come later. An answer that already waits keeps its time when the delay is changed."""

    name = label = "delay"
    help = "SEC: answer that much later"
    STATE = (Integer("delay", CENTURY, attribute="value"),)

    def wait(self) -> int:
        return int(self.value)


class Loss(Fault):
    """Notifications are missed at random, on average `value` of a million; the machine's seed decides which."""

    name = label = "loss"
    help = "P: share of notifications missed, 0 to 1"
    STATE = (Integer("loss", 1_000_000, attribute="value"),)
    parse = staticmethod(parse_share)

    def shown(self) -> str:
        return f"{self.value / 1e6:g}"

    def misses(self) -> bool:
        return bool(self.guest.chance() < self.value)


class Drop(Fault):
    """The next `value` notifications are missed."""

    name, label = "drop", "drops left"
    STATE = (Integer("drops", _MAX_COUNT, attribute="value"),)

    def misses(self) -> bool:
        missed = bool(self.value)
        self.value -= missed
        return missed


class Stats(Fault):
    """Only the tags in `value` are reported: first those that the kernel knows, in its order, then the others.

    If there are none, the driver sends its kernel's tags, each with the value for "not known" (2^64-1).
    """

    name = "stats"
    help = "A+B or none: the statistics reported"
    off = None
    DERIVED = (*Fault.DERIVED, "value")

    @staticmethod
    def parse(text: str) -> tuple[int, ...]:
        if text == "none":
            return ()
        tags: dict[int, None] = {}
        for name in text.split("+"):
            tag = stat_tag(name)
            if tag is None:
                known = ", ".join(stat.name for stat in STATS_TABLE)
                raise MisuseError(f"'{name}' is not a statistic (one of {known})")
            tags[tag] = None
        return tuple(tags)

    def reported(self, records: dict[int, int], values: tuple[int, ...]) -> dict[int, int]:
        chosen = self.value
        if not chosen:
            return dict.fromkeys(records, ABSENT)
        tags = [tag for tag in records if tag in chosen] + [tag for tag in chosen if tag not in records]
        # A tag that the kernel does not know has no number. It is sent all the same, with 0.
        return {tag: values[tag] if tag < len(values) else 0 for tag in tags}


class Answers(Fault):
    """After a number of answers the driver is silent until it is woken or boots. `value` is how many are left, or -1
    for no limit.
    """

    name, label = "answers", "answers left"
    STATE = (Integer("answers", _MAX_COUNT, attribute="left"),)
    DERIVED = (*Fault.DERIVED, "value")
    help = "N: answer that often, then fall silent"
    off = -1

    @staticmethod
    def parse(text: str) -> int:
        return parse_count(text, 999_999_999, "a number of answers")

    def boot(self) -> None:
        self.value = self.given

    def wake(self) -> None:
        self.value = -1

    def silent(self) -> bool:
        return not self.value

    def sent(self) -> None:
        self.value -= self.value > 0

    @property
    def left(self) -> int:
        """The answers left plus 1, or 0 for no limit: a snapshot has no negative numbers."""
        return int(self.value) + 1

    @left.setter
    def left(self, left: int) -> None:
        self.value = left - 1


def _load_pins(pin: Pin, fields: Fields) -> None:
    for tag, value in fields.pairs("pinned", U16 + 1):
        if tag > U16 or tag in pin.value:
            raise fields.refuse("pinned", "names a tag twice, or one beyond 16 bits")
        pin.value[tag] = value


class Pin(Fault):
    """Some statistics have values that were set by hand: `value` has them by tag, None for one that is left out."""

    name, label = "pin", "pinned"
    STATE = (Member("pinned", lambda pin, now: [*map(list, pin.value.items())], _load_pins, attribute="value"),)
    off: ClassVar[dict[int, int | None]] = {}

    def __init__(self, guest: Owner, given: Any = None) -> None:
        # It is no key of --guest, so no value is given.
        super().__init__(guest, {})

    def shown(self) -> str:
        return str(len(self.value))

    def reported(self, records: dict[int, int], values: tuple[int, ...]) -> dict[int, int]:
        sent = {tag: value for tag, value in {**records, **self.value}.items() if value is not None}
        # An empty buffer would break the device (rule zero-length), so if nothing is left all values are "not known".
        return sent or dict.fromkeys(records, ABSENT)


FAULTS: tuple[type[Fault], ...] = (Panic, Hang, Delay, Loss, Drop, Stats, Answers, Pin, Swap, Boot, Shutdown, Service)
"""Every fault, in the order in which `sim` and --list-guests show them, and in which they change an answer.

A notification asks them in the opposite order: if it is dropped by count, it uses no random number.
"""


class Faults(dict[str, Fault]):
    """The faults of one guest by name. Only those `in_force` affect a request. `asleep` is whether one of them keeps
    the driver from serving its queues.
    """

    def __init__(self, guest: Owner, settings: Mapping[str, object]) -> None:
        super().__init__({fault.name: fault(guest, settings.get(fault.name)) for fault in FAULTS})
        self.arrange()

    def arrange(self) -> None:
        """Work out which are in force, after a change from outside. One that ends by itself later stays among them."""
        self.in_force = [fault for fault in self.values() if fault.value != fault.off]
        self.asleep = any(fault.sleeps for fault in self.in_force)

    def boot(self) -> None:
        """A kernel starts."""
        for fault in self.values():
            fault.boot()
        self.arrange()

    def wake(self) -> None:
        """The driver is woken by hand."""
        for fault in self.values():
            fault.wake()
        self.arrange()

    def miss(self) -> bool:
        """Return whether this notification is missed."""
        return any(fault.misses() for fault in reversed(self.in_force))

    def silent(self) -> bool:
        """Return whether there is no answer until the driver is woken."""
        return any(fault.silent() for fault in self.in_force)

    def wait(self) -> int:
        """Return how many ns of VM time the answer is late."""
        return sum(fault.wait() for fault in self.in_force)

    def sent(self) -> None:
        """An answer goes out."""
        for fault in self.in_force:
            fault.sent()

    def reported(self, records: dict[int, int], values: tuple[int, ...]) -> dict[int, int]:
        """Return what is sent instead of `records`, as Fault.reported."""
        for fault in self.in_force:
            records = fault.reported(records, values)
        return records

    def shown(self) -> dict[str, str]:
        """Return what `sim` shows of those in force."""
        return {fault.label: fault.shown() for fault in self.in_force if fault.label and fault.value != fault.off}
