"""Every attribute of every part of a machine is declared: state that a snapshot has, or derived."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from device.guest.table import PROFILES
from device.virtio.spec import MIB
from tests.support.rig import Modelled
from tests.support.state import attributes, undeclared

UNDECLARED = {
    "Clock", "SimulatedClock", "VmClock", "Timeline", "TimerQueue", "Timer",  # saved as what is left of their timers
    "GuestMemory", "Region", "PageSet",  # saved beside the state, as runs
    "Element", "Sample",  # values: they save themselves
    "History", "StatsRequests",  # the front ends' and the monitors': a snapshot has none of them
    "Controls", "ModelledControls",
}  # fmt: skip
"""Classes of the core that have no state of their own, or save it in another way."""


def _parts(root: object) -> Iterator[object]:
    """Yield all objects of the core that are reached from `root` by attributes, lists and dictionaries."""
    seen: set[int] = set()
    left = [root]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            left += part.values()
        elif isinstance(part, (list, tuple)):
            left += part
        elif type(part).__module__.partition(".")[0] == "device":
            yield part
            left += [getattr(part, name) for name in attributes(part) if hasattr(part, name)]


def _busy(name: str) -> Modelled:
    m = Modelled(name, ram=64 * MIB)
    m.machine.set_balloon(32 * MIB)
    m.advance(2)
    m.ask()
    m.advance(0.5)
    return m


@pytest.mark.parametrize("name", [name for name in PROFILES if name not in ("uml", "vhost-user", "host")])
def test_every_attribute_of_every_part_is_state_or_derived(name: str) -> None:
    with _busy(name) as m:
        wrong: dict[str, Any] = {}
        for part in _parts(m.machine):
            kind = type(part)
            if not hasattr(kind, "STATE"):
                if kind.__name__ not in UNDECLARED:
                    wrong[kind.__name__] = "declares nothing"
            elif names := undeclared(part):
                wrong[kind.__name__] = names
        assert wrong == {}, "each is a member of its class's STATE, or named in its DERIVED"


def test_the_walk_reaches_every_layer() -> None:
    with _busy("linux") as m:
        found = {type(part).__name__ for part in _parts(m.machine)}
        assert {
            "Machine",
            "BalloonDevice",
            "StatsQueue",
            "VirtQueue",
            "ModelledGuest",
            "Kernel",
            "DriverQueue",
        } <= found


def test_each_class_that_is_excepted_exists() -> None:
    """A class that is gone must leave the list of exceptions too."""
    with _busy("linux") as m:
        found = {type(part).__name__ for part in _parts(m.machine)} | {type(m.guest.controls).__name__}
        assert UNDECLARED - found <= {"Controls", "Clock"}
