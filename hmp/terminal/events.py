"""Which of the machine's events a person at the monitor wants to be told, and in which words."""

from __future__ import annotations

from time import monotonic

from device.virtio.spec import MIB
from hmp.ratelimit import GONE_BURST, GONE_SECONDS, RateLimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Data = Mapping[str, object]

FAULT_SPACING = 10.0
"""Seconds between two lines about the guest breaking rules, however often it does."""


_DETAIL = 60
"""Characters of what a guest's fault was about: the numbers are the guest's, the line is ours."""


def _target(data: Data) -> str:
    actual = data.get("actual", 0)
    return f"balloon target reached: {actual // MIB if isinstance(actual, int) else actual} MiB"


def _deleted(data: Data) -> str:
    return f"the guest let go of device {data.get('device') or data.get('path')}"


def _reset(data: Data) -> str:
    return "the guest rebooted" if data.get("guest") else "the machine was reset"


def _shutdown(data: Data) -> str:
    return "the guest switched itself off" if data.get("guest") else "the machine was ended from elsewhere"


ALWAYS: dict[str, Callable[[Data], str]] = {
    "BALLOON_TARGET": _target,
    "CLIENT_REFUSED": lambda data: f"hung up on a client: {data.get('why')}",
    "GUEST_PANICKED": lambda data: "guest panic: nothing answers until system_reset",
    "GUEST_GONE": lambda data: f"the guest is gone: {data.get('why')}",
    "DRIVER_MISSING": lambda data: f"the guest's driver does not come up: {data.get('why')}",
    "SNAPSHOT_DONE": lambda data: f"snapshot {data.get('tag')} is done",
}
"""Told whoever was the cause: they come later than the command, or say more than it did."""

FROM_ELSEWHERE: dict[str, Callable[[Data], str]] = {
    "DEVICE_DELETED": _deleted,
    "RESET": _reset,
    "RESUME": lambda data: "the VM runs",
    "SHUTDOWN": _shutdown,
    "STOP": lambda data: "the VM is stopped",
}
"""Told only if no command typed here was the cause."""


class Announcer:
    """Turns events into lines for `say`. Set `own` while a command typed here runs."""

    def __init__(self, say: Callable[[str], None], *, now: Callable[[], float] = monotonic) -> None:
        self.own = False
        self._say = say
        self._limits = {
            "GUEST_FAULT": RateLimit(FAULT_SPACING, now=now),
            "GUEST_GONE": RateLimit(GONE_SECONDS, burst=GONE_BURST, now=now),
        }

    def hear(self, name: str, data: Data) -> None:
        """Take an event; subscribe this to the machine."""
        dropped = self._limits[name].admit() if name in self._limits else 0
        if dropped is None:
            return
        if name == "GUEST_FAULT":
            more = f" and {dropped} times before" if dropped else ""
            self._say(f"the guest broke a rule{more}: {data.get('rule')} ({str(data.get('detail'))[:_DETAIL]})")
            return
        words = ALWAYS.get(name)
        if words is None and not self.own:
            words = FROM_ELSEWHERE.get(name)
        if words is not None:
            self._say(words(data))
