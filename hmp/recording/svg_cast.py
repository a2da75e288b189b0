"""Reads an asciicast that may be damaged or hostile: the result is a header and events, or one clear error."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from hmp.recording.cast import MARKER, OUTPUT, RESIZE

MAX_SIDE = 1000
"""The most columns or rows of a terminal that can be drawn."""

MAX_SECONDS = 24 * 3600
MAX_BYTES = 64 << 20


class CastError(Exception):
    """A cast can't be used; the text says where and why."""


class Event(NamedTuple):
    """Something that happened `at` ms after the beginning: OUTPUT, RESIZE (as columns and rows) or MARKER."""

    at: int
    kind: str
    text: str = ""
    size: tuple[int, int] = (0, 0)


class Recording(NamedTuple):
    """A cast that was read: the size it starts with, its title and its events in order of time."""

    columns: int
    rows: int
    title: str
    events: list[Event]
    idle: int | None = None
    """The longest time (ms) in which nothing happens, if the header has one."""

    @property
    def length(self) -> int:
        """The time of the last event in ms."""
        return self.events[-1].at if self.events else 0

    @property
    def chapters(self) -> list[Event]:
        """The markers."""
        return [event for event in self.events if event.kind == MARKER]


def paced(
    recording: Recording, *, idle: int | None = None, speed: float = 1, start: int = 0, end: int | None = None
) -> Recording:
    """Return a recording from `start` to `end` (ms) alone, with no pause longer than `idle`, `speed` times as fast.

    What was on the screen before `start` is there at once. If `idle` is None, the limit in the header is used.
    """
    limit = recording.idle if idle is None else idle
    events: list[Event] = []
    at, last = 0, start
    for event in recording.events:
        if end is not None and event.at > end:
            break
        gap = max(0, event.at - last)
        at += gap if limit is None else min(gap, limit)
        last += gap
        events.append(event._replace(at=round(at / speed)))
    return recording._replace(events=events)


def read_cast(path: str) -> Recording:
    """Read an asciicast of version 2, from stdin if `path` is -. Raises CastError naming the line, and OSError."""
    with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CastError(f"more than {MAX_BYTES >> 20} MiB")
    try:
        # Not splitlines(), which also splits at characters that JSON may have in a string.
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise CastError("not UTF-8 text") from None
    recording = _header(lines[0])
    at = 0
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            event = _event(line)
        except CastError as error:
            cut = " (is it cut off?)" if number == len(lines) else ""
            raise CastError(f"line {number}: {error}{cut}") from None
        if event is not None:
            at = max(at, event.at)  # some recorders let times step back a little
            recording.events.append(event._replace(at=at))
    return recording


def _load(line: str) -> object:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError):
        raise CastError("is not JSON") from None
    return found


def _header(line: str) -> Recording:
    try:
        header = _load(line)
    except CastError:
        header = None
    if not isinstance(header, dict) or "version" not in header:
        raise CastError("line 1: is not the header of an asciicast")
    if header["version"] != 2:
        raise CastError(f"line 1: is of version {str(header['version'])[:20]}, and only asciicast 2 can be drawn")
    size = header.get("width"), header.get("height")
    # Not isinstance: to Python `true` is an int.
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in size):
        raise CastError("line 1: has no usable width and height")
    title, idle = header.get("title"), header.get("idle_time_limit")
    limit = round(idle * 1000) if isinstance(idle, (int, float)) and 0 <= idle <= MAX_SECONDS else None
    return Recording(header["width"], header["height"], title if isinstance(title, str) else "", [], limit)


def _event(line: str) -> Event | None:
    """Return what a line says, or None for a kind of event that draws nothing."""
    event = _load(line)
    if not isinstance(event, list) or len(event) != 3:
        raise CastError("is not an event")
    at, kind, data = event
    if type(at) not in (int, float) or not isinstance(kind, str) or not isinstance(data, str):
        raise CastError("is not an event")
    if not (math.isfinite(at) and 0 <= at <= MAX_SECONDS):
        raise CastError("its time is not within a day")
    ms = round(at * 1000)
    if kind in (OUTPUT, MARKER):
        return Event(ms, kind, data)
    if kind != RESIZE:
        return None
    sides = data.split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) < 5 for side in sides):
        raise CastError("is not a size")
    size = int(sides[0]), int(sides[1])
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise CastError("has no usable width and height")
    return Event(ms, kind, size=size)
