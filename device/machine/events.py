"""What happened to a machine: events for its listeners, one small class for each kind.

Events that QEMU has too bear its names and members; front ends that do not speak QMP look at class and attributes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from device.balloon.stats import Sample


class Event:
    """Something that happened to a machine. `name` is what QMP calls it, `members` are its attributes."""

    __slots__ = ()
    name = ""
    members: tuple[str, ...] = ()

    @property
    def data(self) -> dict[str, object]:
        """The members as QMP sends them."""
        return {member: getattr(self, member) for member in self.members}


class Stopped(Event):
    """The VM was stopped: its time stands still."""

    __slots__ = ()
    name = "STOP"


class Resumed(Event):
    """The VM runs, or runs again."""

    __slots__ = ()
    name = "RESUME"


class PowerButton(Event):
    """The power button was pressed, whether or not a guest listens."""

    __slots__ = ()
    name = "POWERDOWN"


class _End(Event):
    """The end of a boot or of the machine: by the `guest` or from outside; `reason` is one of QEMU's ShutdownCause."""

    __slots__ = members = ("guest", "reason")

    def __init__(self, *, guest: bool, reason: str) -> None:
        self.guest = guest
        self.reason = reason


class WasReset(_End):
    """The machine was reset."""

    __slots__ = ()
    name = "RESET"


class Ended(_End):
    """The machine ended: the guest switched it off, or somebody outside did."""

    __slots__ = ()
    name = "SHUTDOWN"


class _Size(Event):
    __slots__ = members = ("actual",)

    def __init__(self, actual: int) -> None:
        self.actual = actual


class ActualChanged(_Size):
    """The guest says that it keeps another amount: `actual` bytes."""

    __slots__ = ()
    name = "BALLOON_CHANGE"


class TargetReached(_Size):
    """The guest keeps what it was asked to: `actual` bytes."""

    __slots__ = ()
    name = "BALLOON_TARGET"


class SampleArrived(Event):
    """The guest sent statistics."""

    __slots__ = members = ("sample",)
    name = "BALLOON"

    def __init__(self, sample: Sample) -> None:
        self.sample = sample


class DeviceDeleted(Event):
    """The device was unplugged: its id, "" if it had none, and its QOM path."""

    __slots__ = members = ("device", "path")
    name = "DEVICE_DELETED"

    def __init__(self, device: str, path: str) -> None:
        self.device = device
        self.path = path

    @property
    def data(self) -> dict[str, object]:
        """The members as QMP sends them: no id where there is none."""
        return {"device": self.device, "path": self.path} if self.device else {"path": self.path}


class Panicked(Event):
    """The guest's kernel died; `action` is what the machine does about it."""

    __slots__ = members = ("action",)
    name = "GUEST_PANICKED"

    def __init__(self, action: str) -> None:
        self.action = action


class _Trouble(Event):
    """Something that has a reason in words, part of which may be the guest's or a client's."""

    __slots__ = members = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class GuestGone(_Trouble):
    """A real guest died: nothing answers until the machine is reset."""

    __slots__ = ()
    name = "GUEST_GONE"


class DriverMissing(_Trouble):
    """The driver of a real guest does not come up."""

    __slots__ = ()
    name = "DRIVER_MISSING"


class ClientRefused(_Trouble):
    """A front end hung up on a client: what it did not like, for the other front ends to show."""

    __slots__ = ()
    name = "CLIENT_REFUSED"


class SnapshotDone(Event):
    """A snapshot that took a while is made: its `tag`."""

    __slots__ = members = ("tag",)
    name = "SNAPSHOT_DONE"

    def __init__(self, tag: str) -> None:
        self.tag = tag


class RuleBroken(Event):
    """The guest broke `rule` of errors.RULES, `times` times since it was last told; `detail` is of the last time."""

    __slots__ = members = ("detail", "rule", "times")
    name = "GUEST_FAULT"

    def __init__(self, rule: str, detail: str, times: int = 1) -> None:
        self.rule = rule
        self.detail = detail
        self.times = times

    @property
    def data(self) -> dict[str, object]:
        """The members, `times` where there were more than one."""
        data: dict[str, object] = {"rule": self.rule, "detail": self.detail}
        return data | {"times": self.times} if self.times > 1 else data


class Relayed(Event):
    """What a machine outside said, in its own words: `raw` is QMP's object, `told` a line for people or nothing."""

    __slots__ = members = ("raw", "told")
    name = "RELAYED"

    def __init__(self, raw: Mapping[str, object], told: str = "") -> None:
        self.raw = raw
        self.told = told


QMP_EVENTS: dict[type[Event], str] = {
    Stopped: "empty",
    Resumed: "empty",
    WasReset: "ResetInfo",
    PowerButton: "empty",
    Ended: "ResetInfo",
    DeviceDeleted: "DeviceDeleted",
    Panicked: "GuestPanicked",
}
"""What QMP's clients are told of as it is, with the object that it carries: one of OBJECTS in hmp/qmp/schema.py."""
