"""The bottom line of the typed monitor: the state of the machine at a glance."""

from __future__ import annotations

from typing import NamedTuple

from device.balloon.device import BalloonDevice
from device.clock import SECOND
from device.machine.machine import PRELAUNCH, RUNNING, Machine
from device.units import format_size

Segment = tuple[str, str]
"""A meaning ("plain", "good", "notice", "bad", "dim") and a text."""


class Signs(NamedTuple):
    """The characters that the bar and the separators are drawn with."""

    full: str
    empty: str
    separator: str
    arrow: str


LINES = Signs("█", "░", " │ ", "→")
ASCII = Signs("#", ".", " | ", "->")


class _Style(NamedTuple):
    """One level of detail: the width of the bar, and how many words are used."""

    bar: int
    size: str
    age: str
    separated: bool = False
    run_state: bool = True


_STYLES = (
    _Style(20, "{} of {}", "statistics {} old", separated=True),
    _Style(10, "{} of {}", "statistics {} old", separated=True),
    _Style(10, "{}/{}", "stats {}", separated=True),
    _Style(6, "{}/{}", "{}"),
    _Style(4, "{}", "{}"),
    _Style(0, "{}", "{}"),
    _Style(0, "{}", ""),
    _Style(0, "{}", "", run_state=False),
)
"""From the widest to the narrowest; the first that fits is used."""


def segments(
    machine: Machine, columns: int, signs: Signs = LINES, dialect: str = "", *, clock: bool = True
) -> list[Segment]:
    """Return the toolbar as pairs (meaning, text) that have at most `columns` characters together.

    `dialect` is the name of the monitor's dialect, or "" to leave it out. `clock` says whether to name a simulated
    clock.
    """
    found: list[Segment] = []
    for style in _STYLES:
        found = _compose(machine, style, signs, dialect, clock=clock)
        if sum(len(text) for _, text in found) <= columns:
            return found
    fitting: list[Segment] = []
    for meaning, text in found:
        fitting.append((meaning, text[: max(0, columns)]))
        columns -= len(text)
    return [segment for segment in fitting if segment[1]]


def _compose(machine: Machine, style: _Style, signs: Signs, dialect: str, *, clock: bool) -> list[Segment]:
    name, wide = machine.clock.name, style.separated
    parts = [[_state(machine)]] if style.run_state else []
    parts.append(_guest(machine))
    parts.append([("notice", f"{name} clock" if wide else name)] if clock and machine.clock.simulated else [])
    parts.append([("plain", f"{dialect} dialect" if wide else dialect)] if dialect and style.run_state else [])
    parts += [_memory(machine, style, signs), _age(machine, style)]
    between = signs.separator if wide else "  "
    found: list[Segment] = []
    for part in parts:
        if part:
            found.append(("dim", between if found else " "))
            found += part
    return found


def _state(machine: Machine) -> Segment:
    if machine.run_state == RUNNING:
        return "good", machine.run_state
    return "notice", "not started" if machine.run_state == PRELAUNCH else machine.run_state


def _guest(machine: Machine) -> list[Segment]:
    sign = guest_sign(machine)
    found: list[Segment] = [("plain", machine.guest.name)]
    if sign:
        found += [("dim", " "), ("bad", sign)]
    return found


def guest_sign(machine: Machine) -> str:
    """Return why the guest does not answer, in a word or two; "" if nothing is wrong."""
    guest, device = machine.guest, machine.device
    controls = guest.shown()
    # In the order of importance: of several reasons only one is shown.
    if guest.ended or "gone" in controls:
        return "gone"
    for sign in ("panicked", "hung"):
        if sign in controls:
            return sign
    if "waiting for" in controls:
        return "not connected"
    if device is None or machine.run_state == PRELAUNCH:
        return ""
    if device.broken:
        return "broken"
    if not guest.driver_loaded:
        return "booting" if guest.booting else "no driver"
    # Only guests with faults show a service.
    if "service" in controls and getattr(guest, "faults")["service"].silent():  # noqa: B009
        return "service not up"
    # A stopped VM cannot answer, and that is shown as its run state.
    if machine.running and device.can_report and owes(device, machine.timeout):
        return "no answer"
    return ""


def owes(device: BalloonDevice, timeout: int) -> bool:
    """Whether the guest has had the buffer, or has sent none, for at least `timeout` (ns).

    A guest that nobody asked owes nothing, however old its statistics are.
    """
    return device.stats.held is None and device.stats.age >= timeout


def _memory(machine: Machine, style: _Style, signs: Signs) -> list[Segment]:
    device = machine.device
    if device is None:
        return [("notice", "no balloon")]
    size = format_size(device.actual)
    if device.target != device.actual:
        size += f"{signs.arrow}{format_size(device.target)}"
    found: list[Segment] = []
    if style.bar:
        # Even a small balloon shows one full cell.
        full = max(1 if device.actual else 0, style.bar * device.actual // device.ram)
        found = [("plain", signs.full * full), ("dim", signs.empty * (style.bar - full) + " ")]
    return [*found, ("plain", style.size.format(size, format_size(device.ram)))]


def _age(machine: Machine, style: _Style) -> list[Segment]:
    device = machine.device
    if device is None or not style.age:
        return []
    if device.stats.sample is None:
        return [("dim", "no statistics" if " old" in style.age else "no stats")]
    age = device.stats.age
    return [("notice" if owes(device, machine.timeout) else "plain", style.age.format(format_age(age)))]


def format_age(age: int) -> str:
    """Return an age (ns) in one unit, as it can be read at a glance."""
    seconds = age // SECOND
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
