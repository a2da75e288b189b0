"""The line at the bottom of the typed monitor: what state the machine is in, at a glance."""

from __future__ import annotations

from device.clock import SECOND
from device.machine.machine import PRELAUNCH, RUNNING
from device.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.machine.machine import Machine

    Segment = tuple[str, str]
    """What it means ("plain", "good", "notice", "bad", "dim") and the text."""


class Signs:
    """The characters that the bar and the separators are drawn with."""

    def __init__(self, full: str, empty: str, separator: str, arrow: str) -> None:
        self.full = full
        self.empty = empty
        self.separator = separator
        self.arrow = arrow


LINES = Signs("█", "░", " │ ", "→")
ASCII = Signs("#", ".", " | ", "->")


class _Style:
    """One amount of detail: how wide the bar is and how much the words say."""

    def __init__(self, bar: int, *, size: str, age: str, state: bool, tight: bool) -> None:
        self.bar = bar
        self.size = size
        self.age = age
        self.state = state
        self.tight = tight


_STYLES = (
    _Style(20, size="{} of {}", age="statistics {} old", state=True, tight=False),
    _Style(10, size="{} of {}", age="statistics {} old", state=True, tight=False),
    _Style(10, size="{}/{}", age="stats {}", state=True, tight=False),
    _Style(6, size="{}/{}", age="{}", state=True, tight=True),
    _Style(4, size="{}", age="{}", state=True, tight=True),
    _Style(0, size="{}", age="{}", state=True, tight=True),
    _Style(0, size="{}", age="", state=False, tight=True),
)
"""From the widest to the narrowest; the first that fits is taken."""


def segments(machine: Machine, columns: int, signs: Signs = LINES) -> list[Segment]:
    """Return the toolbar as (meaning, text) pairs that together fill at most `columns`."""
    found: list[Segment] = []
    for style in _STYLES:
        found = _compose(machine, style, signs)
        if sum(len(text) for _, text in found) <= columns:
            return found
    fitting: list[Segment] = []
    for meaning, text in found:
        fitting.append((meaning, text[: max(0, columns)]))
        columns -= len(text)
    return [segment for segment in fitting if segment[1]]


def text(machine: Machine, columns: int, signs: Signs = LINES) -> str:
    """Return the toolbar without its meanings."""
    return "".join(part for _, part in segments(machine, columns, signs))


def _compose(machine: Machine, style: _Style, signs: Signs) -> list[Segment]:
    parts = [[_state(machine)], _guest(machine)]
    parts += [_memory(machine, style, signs), _age(machine, style)]
    if not style.state:
        del parts[0]
    between = "  " if style.tight else signs.separator
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
    """Return what keeps the guest from answering, in a word or two, or nothing."""
    guest, device = machine.guest, machine.device
    if guest.ended:
        return "gone"
    for sign in ("panicked", "hung"):
        if sign in guest.shown():
            return sign
    if device is None or machine.run_state == PRELAUNCH:
        return ""
    if device.broken:
        return "broken"
    if not guest.driver_loaded:
        return "booting" if guest.booting else "no driver"
    stats = device.stats
    if machine.running and device.can_report and stats.held is None and stats.age >= machine.timeout:
        return "no answer"  # the buffer is with the guest, or never came, for longer than anybody waits
    return ""


def _memory(machine: Machine, style: _Style, signs: Signs) -> list[Segment]:
    device = machine.device
    if device is None:
        return [("notice", "no balloon")]
    size = format_size(device.actual)
    if device.target != device.actual:
        size += f"{signs.arrow}{format_size(device.target)}"
    found: list[Segment] = []
    if style.bar:
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
    return [("notice" if age >= machine.timeout else "plain", style.age.format(format_age(age)))]


def format_age(age: int) -> str:
    """Return ns as a person reads an age at a glance."""
    seconds = age // SECOND
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
