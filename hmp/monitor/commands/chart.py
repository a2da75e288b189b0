"""`sim chart`: the recent past as text plots.

All columns stand for the same length of time. While the guest owes an answer, the plot has a gap. The scale is fixed:
sizes go from 0 to RAM, counters from 0 to the largest value shown. A scale that began at the lowest value would make a
change of one page look like a collapse. The exception is the guest `host` on a host that is larger than the machine:
there sizes go up to the largest value, and counters begin at their lowest, because with the usual scale all rows would
be full.
"""

from __future__ import annotations

from device.balloon.spec import AVAILABLE, CACHES, FREE, TOTAL
from device.units import format_size
from hmp.monitor import CommandError
from hmp.monitor.commands import balloon_device
from hmp.monitor.commands.sim import ago, find_stat, in_bytes, plural, readable, stat_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from device.balloon.stats import Sample
    from hmp.monitor.monitor import Arguments, Monitor, Reply

    Entry = tuple[int, int, Sample | None]
    Series = list[int | None]

ACTUAL = "actual"

BLOCKS = " ▁▂▃▄▅▆▇█"
"""The character at index n fills n eighths of a cell.

Front ends replace them if the encoding lacks them, as Latin-1.
"""

WAITED = "·"
"""Marks a column in which the guest owed an answer."""

LEGEND = f"{WAITED} an answer was due\n"
"""Printed after a chart that has such cells; it fits 20 columns."""

SPARK_MARGIN = 42
PLOT_HEIGHT = 8
"""The columns for the name and the value beside a plot of one row, and the rows of a larger plot. With the longest
names and values a line fits 80 columns."""

MIN_COLUMNS = 8
"""The fewest columns of a plot. With the usual names and values it fits a screen of 40 columns."""

NARROW = 40
"""On a screen with fewer columns the plot is printed below its name."""

SIZES = (FREE, TOTAL, AVAILABLE, CACHES)
"""The statistics that are a part of RAM. All others are counters that only rise, also those in bytes."""


def value_of(entry: Entry, tag: int | None) -> int | None:
    """Return the value of a statistic in an entry of the history; tag None is `actual`. None if it is not known."""
    _, actual, sample = entry
    if tag is None:
        return actual
    return None if sample is None else sample.values.get(tag, sample.unknown.get(tag))


def series(entries: list[Entry], tag: int | None, end: int, width: int, unanswered: Sequence[int] = ()) -> Series:
    """Return `width` values at even distances from the first entry to `end` (ns). A value lasts until the next entry.

    A statistic ends with its last sample, because later values are not known; `actual` is always known. From a request
    in `unanswered` (ns) to the next sample the value is OWED.
    """
    start, last = entries[0][0], entries[-1][2]
    known_until = end if tag is None or last is None else last.collected
    # width - 1, so that the last column is exactly now.
    times = [start + (end - start) * column // (width - 1) for column in range(width)]
    found: Series = []
    position = 0
    for column, when in enumerate(times):
        while position + 1 < len(entries) and entries[position + 1][0] <= when:
            position += 1
        # A sample between the times of two columns is drawn in the later column; otherwise a last sample there would
        # not be drawn. After its last sample a statistic is not known, so nothing is drawn.
        fresh = not column or times[column - 1] < known_until
        sample = entries[position][2]
        if tag is not None and sample is not None and any(sample.collected <= asked < when for asked in unanswered):
            found.append(OWED)
        else:
            found.append(value_of(entries[position], tag) if fresh else None)
    return found


OWED = -1
"""Stands for a value while the guest owes an answer; real values are not negative."""


# Eighths of a cell give a plot of 8 rows 64 levels.
def draw(values: Series, top: int, height: int) -> list[str]:
    """Return the rows of a plot, top row first.

    Every value but 0 is visible; a value above the scale fills the column.
    """
    steps = height * 8
    # Rounded up (-(-a // b)), so that a small value is not drawn as 0.
    levels = [None if value is None else min(steps, -(-value * steps // max(1, top))) for value in values]
    rows = []
    for row in range(height - 1, -1, -1):
        rows.append("".join([" " if level is None else BLOCKS[max(0, min(8, level - row * 8))] for level in levels]))
    rows[-1] = "".join([WAITED if value == OWED else char for char, value in zip(rows[-1], values, strict=True)])
    return rows


class _Chart:
    """The history of one machine, and the width and scale to draw it with."""

    def __init__(self, entries: list[Entry], monitor: Monitor) -> None:
        machine = monitor.machine
        self.entries = entries
        self.end = machine.clock.now()
        self.columns = monitor.columns()
        self.unanswered = machine.requests.unanswered
        sizes = [value for entry in entries for tag in SIZES if (value := value_of(entry, tag)) is not None]
        # The guest `host` shows the memory of this host, which may be larger than the machine's RAM.
        self.top = max(machine.ram, *sizes) if machine.guest.foreign else machine.ram
        self.foreign = self.top > machine.ram

    def scale(self, tag: int | None) -> tuple[int, int]:
        """Return the lowest and the highest value of the scale of a plot."""
        if tag is None or tag in SIZES:
            return 0, self.top
        values = [value for entry in self.entries if (value := value_of(entry, tag)) is not None]
        return min(values, default=0) if self.foreign else 0, max(values, default=1)

    def rows(self, tag: int | None, width: int, height: int) -> list[str]:
        """Return the rows of a plot."""
        low, top = self.scale(tag)
        values = series(self.entries, tag, self.end, width, self.unanswered)
        return draw([value if value is None or value < 0 else value - low for value in values], top - low, height)

    def sparks(self, tags: list[int | None]) -> str:
        """Return one row for each statistic; on a narrow screen two."""
        lines, columns = [], self.columns
        for tag in tags:
            value = value_of(self.entries[-1], tag)
            latest = "-" if value is None else _short(tag, value)
            if columns < NARROW:
                blank = " " if len(_name(tag)) + len(latest) < columns else "\n"
                row = self.rows(tag, max(MIN_COLUMNS, columns - 3), 1)[0]
                lines.append(f"{_name(tag)}{blank}{latest}\n|{row}|\n")
            else:
                row = self.rows(tag, max(MIN_COLUMNS, columns - SPARK_MARGIN), 1)[0]
                lines.append(f"{_name(tag):<17} |{row}| {latest}\n")
        return "".join(lines)

    def plot(self, tag: int | None) -> str:
        """Return a plot with the ends of its scale in the margin."""
        low, top = (_short(tag, value) for value in self.scale(tag))
        marks = {0: top, PLOT_HEIGHT - 1: low if self.foreign and low != "0B" else "0"}
        margin = max(8 if self.columns >= NARROW else 4, *map(len, marks.values()))
        width = max(MIN_COLUMNS, self.columns - margin - 3)
        latest = value_of(self.entries[-1], tag)
        if latest is None:
            now = "not reported any more"
        else:
            now = " ".join([str(latest), *[f"({word})" for word in (readable(tag, latest),) if word]])
        blank = " " if len(_name(tag)) + len(now) + 2 <= self.columns else "\n"
        lines = [f"{_name(tag)}:{blank}{now}\n"]
        for number, row in enumerate(self.rows(tag, width, PLOT_HEIGHT)):
            lines.append(f"{marks.get(number, ''):>{margin}} |{row}".rstrip() + "\n")
        begin = f"{ago(self.end - self.entries[0][0])} ago"
        lines.append(f"{'':>{margin}}  {begin}{'now':>{width - len(begin)}}\n")
        return "".join(lines)


def _name(tag: int | None) -> str:
    return ACTUAL if tag is None else stat_name(tag)


def _short(tag: int | None, value: int) -> str:
    """Return a value for the margin of a plot."""
    return format_size(value) if in_bytes(tag) else str(value)


def chart(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Draw a plot for each statistic that is named; without names draw one row for each that is known."""
    machine = monitor.machine
    balloon_device(machine)
    words = arguments.get("stats", "").split()
    # A name that is given twice is drawn once; a dict keeps the order.
    tags = list(dict.fromkeys([None if word == ACTUAL else find_stat(word) for word in words]))
    entries = machine.history.recent()
    if not entries:
        return "nothing to draw yet: no statistics have come and actual has not changed\n"
    for tag in tags:
        if all(value_of(entry, tag) is None for entry in entries):
            raise CommandError(f"the guest has not reported {_name(tag)} lately")
    drawn = _Chart(entries, monitor)
    heading = f"last {ago(drawn.end - entries[0][0])}, {plural(len(entries), 'point')}; "
    begin = "their lowest" if drawn.foreign else "0"
    heading += f"sizes 0 to {format_size(drawn.top)}, counters {begin} to their largest\n"
    # The heading is longer than a narrow screen: break it at its commas and not inside a word.
    if len(heading) > drawn.columns + 1:
        heading = heading.replace("; ", "\n").replace(", counters", "\ncounters")
        if max(map(len, heading.splitlines())) > drawn.columns:
            from textwrap import fill

            heading = "".join([f"{fill(part, drawn.columns)}\n" for part in heading.splitlines()])
    # Also those that only older samples have: a statistic that stopped is worth seeing.
    seen = {tag for _, _, sample in entries if sample is not None for tag in (*sample.tags, *sample.unknown)}
    shown = "".join(map(drawn.plot, tags)) if tags else drawn.sparks([None, *sorted(seen)])
    return heading + shown + (LEGEND if WAITED in shown else "")
