"""Events of a machine for its listeners, one small class for each kind.

Events that QEMU also has use QEMU's names and members. Front ends without QMP look at the class and its attributes.
"""

# Classes instead of (name, dict) pairs, because mypy finds a misspelt name or member of a class, but not of a pair.

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from device.balloon.stats import Sample


class Event:
    """Something that happened to a machine. `name` is what QMP calls it, its attributes are the members."""

    name = ""

    @property
    def data(self) -> dict[str, object]:
        """The members as QMP sends them."""
        return dict(vars(self))


class Stopped(Event):
    """The VM was stopped; its time stands still."""

    name = "STOP"


class Resumed(Event):
    """The VM was started or continued."""

    name = "RESUME"


class PowerButton(Event):
    """The power button was pressed, whether or not a guest listens."""

    name = "POWERDOWN"


class _End(Event):
    """The end of a boot or of the machine. `guest`: whether the guest caused it; `reason` is one of QEMU's
    ShutdownCause.
    """

    # In QEMU the reason decides the flag: guest-reset and guest-shutdown are the guest's, the host-* ones are not.

    def __init__(self, *, guest: bool, reason: str) -> None:
        self.guest = guest
        self.reason = reason


class WasReset(_End):
    """The machine was reset."""

    name = "RESET"


class Ended(_End):
    """The machine ended: the guest powered it off, or it was ended from outside."""

    name = "SHUTDOWN"


class _Size(Event):
    def __init__(self, actual: int) -> None:
        self.actual = actual


class ActualChanged(_Size):
    """The guest reported another size: it now has `actual` bytes."""

    name = "BALLOON_CHANGE"


class TargetReached(_Size):
    """The guest reached the requested size: `actual` bytes. QEMU has no such event."""

    name = "BALLOON_TARGET"


class SampleArrived(Event):
    """The guest sent statistics."""

    name = "BALLOON"

    def __init__(self, sample: Sample) -> None:
        self.sample = sample


class DeviceDeleted(Event):
    """The device was unplugged: its id, "" if it had none, and its QOM path."""

    name = "DEVICE_DELETED"

    def __init__(self, device: str, path: str) -> None:
        self.device = device
        self.path = path

    @property
    def data(self) -> dict[str, object]:
        """The members as QMP sends them; a device without an id has no such member."""
        return {"device": self.device, "path": self.path} if self.device else {"path": self.path}


class Panicked(Event):
    """The guest's kernel panicked; `action` is what the machine does then."""

    name = "GUEST_PANICKED"

    def __init__(self, action: str) -> None:
        self.action = action


class _Trouble(Event):
    """An event with a reason in words. Part of it may come from the guest or a client, so it is not safe to print."""

    def __init__(self, why: str) -> None:
        self.why = why


class GuestGone(_Trouble):
    """A real guest ended: nothing answers until the machine is reset."""

    name = "GUEST_GONE"


class DriverMissing(_Trouble):
    """The driver of a real guest does not come up."""

    name = "DRIVER_MISSING"


class ClientRefused(_Trouble):
    """A front end disconnected a client; the reason is for other front ends to show."""

    name = "CLIENT_REFUSED"


class SnapshotDone(Event):
    """A snapshot that took a while is finished. `tag` is its name."""

    name = "SNAPSHOT_DONE"

    def __init__(self, tag: str) -> None:
        self.tag = tag


class RuleBroken(Event):
    """The guest broke `rule` of errors.RULES, `times` times since the last event; `detail` is about the last time."""

    # A count, because a hostile guest breaks rules much faster than a terminal can show them.

    name = "GUEST_FAULT"

    def __init__(self, rule: str, detail: str, times: int = 1) -> None:
        self.rule, self.detail, self.times = rule, detail, times

    @property
    def data(self) -> dict[str, object]:
        """The members, with `times` only if it is more than 1."""
        data: dict[str, object] = {"rule": self.rule, "detail": self.detail}
        return data | {"times": self.times} if self.times > 1 else data


class Relayed(Event):
    """An event of a QEMU that runs elsewhere: `raw` is QMP's object, `text` a line for people or ""."""

    name = "RELAYED"

    def __init__(self, raw: Mapping[str, object], text: str = "") -> None:
        self.raw = raw
        self.text = text


QMP_EVENTS: dict[type[Event], str] = {
    Stopped: "empty",
    Resumed: "empty",
    WasReset: "ResetInfo",
    PowerButton: "empty",
    Ended: "ResetInfo",
    DeviceDeleted: "DeviceDeleted",
    Panicked: "GuestPanicked",
}
"""The events that QMP's clients get unchanged, each with the type of its data: one of OBJECTS in hmp/qmp/schema.py."""
