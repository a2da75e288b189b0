"""`sim chart`: the recent past as text plots.

Time runs evenly from left to right, whatever the gaps between samples. The scale is fixed: sizes from 0 to RAM,
counters from 0 to the largest value shown. A plot that chose its own lower end would show a guest that moves by a
page as one in free fall.
"""

from __future__ import annotations

from device.balloon.spec import AVAILABLE, BYTES, CACHES, FREE, STATS_TABLE, TOTAL
from device.units import format_size
from hmp.monitor import CommandError
from hmp.monitor.commands import balloon_device
from hmp.monitor.commands.sim import ago, find_stat, human, plural, stat_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.balloon.stats import Sample
    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply

    Entry = tuple[int, int, Sample | None]
    Series = list[int | None]

ACTUAL = "actual"

BLOCKS = " ▁▂▃▄▅▆▇█"
"""A cell filled by that many eighths. The front end encodes them: UTF-8 has them, Latin-1 does not."""

SPARK_MARGIN = 42
PLOT_HEIGHT = 8
"""Columns and rows: with the longest names and values a line still fits 80 columns."""

MIN_COLUMNS = 8
"""Columns of a plot however narrow the screen is; beside the usual values they fit 40."""

SIZES = (FREE, TOTAL, AVAILABLE, CACHES)
"""The statistics that are a share of RAM; the other ones count up, those in bytes too."""


def value_of(entry: Entry, tag: int | None) -> int | None:
    """Return what an entry of the history knows of a statistic, or of `actual` (None)."""
    _, actual, sample = entry
    if tag is None:
        return actual
    if sample is None:
        return None
    return sample.values.get(tag, sample.unknown.get(tag))


def series(entries: list[Entry], tag: int | None, end: int, width: int) -> Series:
    """Return `width` values evenly spread from the first entry to `end` (ns); a value stands until the next entry.

    A statistic ends with its last sample: nobody knows what it was since. `actual` is known until now.
    """
    start, last = entries[0][0], entries[-1][2]
    known_until = end if tag is None or last is None else last.collected
    times = [start + (end - start) * column // (width - 1) for column in range(width)]
    found: Series = []
    position = 0
    for column, when in enumerate(times):
        while position + 1 < len(entries) and entries[position + 1][0] <= when:
            position += 1
        # A sample between two columns belongs to the right one, which looks as if it had stood there.
        fresh = not column or times[column - 1] < known_until
        found.append(value_of(entries[position], tag) if fresh else None)
    return found


def draw(values: Series, top: int, height: int) -> list[str]:
    """Return the rows of a plot, topmost first. Whatever is not zero shows; what is above the scale fills it."""
    steps = height * 8
    levels = [None if value is None else min(steps, -(-value * steps // max(1, top))) for value in values]
    rows = []
    for row in range(height - 1, -1, -1):
        rows.append("".join([" " if level is None else BLOCKS[max(0, min(8, level - row * 8))] for level in levels]))
    return rows


def scale_of(entries: list[Entry], tag: int | None, ram: int) -> int:
    """Return the upper end of a plot's scale."""
    if tag is None or tag in SIZES:
        return ram
    return max([value for entry in entries if (value := value_of(entry, tag)) is not None], default=1)


def _name(tag: int | None) -> str:
    return ACTUAL if tag is None else stat_name(tag)


def _short(tag: int | None, value: int) -> str:
    """Return a value for the margin of a plot."""
    in_bytes = tag is None or (tag < len(STATS_TABLE) and STATS_TABLE[tag].unit == BYTES)
    return format_size(value) if in_bytes else str(value)


def _sparks(entries: list[Entry], tags: list[int | None], end: int, ram: int, columns: int) -> str:
    """One row for each statistic."""
    lines = []
    width = max(MIN_COLUMNS, columns - SPARK_MARGIN)
    for tag in tags:
        row = draw(series(entries, tag, end, width), scale_of(entries, tag, ram), 1)[0]
        latest = value_of(entries[-1], tag)
        lines.append(f"{_name(tag):<17} |{row}| {'-' if latest is None else _short(tag, latest)}\n")
    return "".join(lines)


def _plot(entries: list[Entry], tag: int | None, end: int, ram: int, columns: int) -> str:
    """A plot with its scale in the margin."""
    top = scale_of(entries, tag, ram)
    marks = {0: _short(tag, top), PLOT_HEIGHT - 1: "0"}
    margin = max(8, len(marks[0]))
    width = max(MIN_COLUMNS, columns - margin - 3)
    latest = value_of(entries[-1], tag)
    if latest is None:
        now = "not reported any more"
    else:
        now = " ".join([str(latest), *[f"({word})" for word in (_human(tag, latest),) if word]])
    lines = [f"{_name(tag)}: {now}\n"]
    for number, row in enumerate(draw(series(entries, tag, end, width), top, PLOT_HEIGHT)):
        lines.append(f"{marks.get(number, ''):>{margin}} |{row}".rstrip() + "\n")
    begin = f"{ago(end - entries[0][0])} ago"
    lines.append(f"{'':>{margin}}  {begin}{'now':>{width - len(begin)}}\n")
    return "".join(lines)


def _human(tag: int | None, value: int) -> str:
    return format_size(value) if tag is None else human(tag, value)


def chart(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Draw what is named, each in a plot of its own, else everything known, in a row each."""
    machine = monitor.machine
    balloon_device(machine)
    words = arguments.get("stats", "").split()
    tags = list(dict.fromkeys([None if word == ACTUAL else find_stat(word) for word in words]))
    entries = machine.history.recent()
    if not entries:
        return "nothing to draw yet: no statistics have come and actual has not changed\n"
    for tag in tags:
        if all(value_of(entry, tag) is None for entry in entries):
            raise CommandError(f"the guest has not reported {_name(tag)} lately")
    end = machine.clock.now()
    ram, columns = machine.ram, monitor.columns
    heading = f"last {ago(end - entries[0][0])}, {plural(len(entries), 'point')}; "
    heading += f"sizes 0 to {format_size(ram)}, counters 0 to their largest\n"
    if len(heading) > columns + 1:
        heading = heading.replace("; ", "\n").replace(", counters", "\ncounters")
    if tags:
        return heading + "".join([_plot(entries, tag, end, ram, columns) for tag in tags])
    seen = {tag for _, _, sample in entries if sample is not None for tag in (*sample.tags, *sample.unknown)}
    return heading + _sparks(entries, [None, *sorted(seen)], end, ram, columns)
