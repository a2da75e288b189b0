"""Scripts read for a recording: their lines, and the `#!` lines that direct it. Checked as a whole before any runs.

    #! chapter TEXT    a marker in the recording
    #! hide            what follows runs, but is not recorded
    #! show            from here on it is again
    #! pause SEC       time passes in the recording, and nowhere else

Played without a recording the same lines are comments, so that a script prints the same either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from device.clock import SECOND
from device.errors import MisuseError
from device.units import parse_seconds
from hmp.monitor import UnreadableError, UsageError, escape
from hmp.streams import Source

MAX_SCRIPT = 1 << 20
"""Bytes of a script: typed at a person's pace that much takes a day."""

MAX_PAUSE = 3600 * SECOND

CHAPTER, HIDE, SHOW, PAUSE = "chapter", "hide", "show", "pause"

_MARK = "#!"
_QUOTED = 60


class Step:
    """A line of a script: where it stands, its text (None if it was too long), and what it directs, if anything."""

    def __init__(self, name: str, number: int, line: str | None) -> None:
        self.name = name
        self.number = number
        self.line = line
        self.direction = self.text = ""
        self.duration = 0


def read_steps(sources: Iterable[tuple[str, int | list[str]]]) -> list[Step]:
    """Return every command of every source, and what directs the recording.

    Raises UsageError naming the line and the word that is wrong, UnreadableError naming what cannot be read.
    """
    steps: list[Step] = []
    hidden = False
    for name, number, line in _lines(sources):
        step = Step(name, number, line)
        if line is not None and line.lstrip().startswith(_MARK):
            rest = line.strip()[len(_MARK) :]
            if number == 1 and rest.lstrip().startswith("/"):
                continue  # how the kernel finds the interpreter of a program
            _direct(step, rest, hidden=hidden)
            if step.direction in (HIDE, SHOW):
                hidden = step.direction == HIDE
        steps.append(step)
    return steps


def _lines(sources: Iterable[tuple[str, int | list[str]]]) -> Iterator[tuple[str, int, str | None]]:
    for name, origin in sources:
        source = Source(name, origin, kept=_MARK)
        while not source.over:
            try:
                for number, line in source.read():
                    yield name, number, line
            except UnreadableError as error:
                raise UnreadableError(f"{name}: cannot be read: {error}") from None
            if source.size > MAX_SCRIPT:
                raise UsageError(f"--record: {escape(name)}: more than {MAX_SCRIPT >> 20} MiB is too long to be typed")


def _direct(step: Step, text: str, *, hidden: bool) -> None:
    """Read what stands behind the mark. Raises UsageError."""
    word, _, rest = text.strip().partition(" ")
    step.direction, step.text = word, rest.strip()

    def refuse(why: str) -> UsageError:
        return UsageError(f"{escape(step.name)}:{step.number}: {_MARK} {escape(word[:_QUOTED])}: {why}".rstrip())

    if word == CHAPTER:
        if not step.text:
            raise refuse("needs a text")
    elif word == PAUSE:
        try:
            step.duration = parse_seconds(step.text)
        except MisuseError as error:
            raise refuse(escape(str(error)) if step.text else "needs a number of seconds") from None
        if step.duration > MAX_PAUSE:
            raise refuse(f"'{step.text}' is more than {MAX_PAUSE // SECOND} seconds")
    elif word in (HIDE, SHOW):
        if step.text:
            raise refuse(f"takes nothing, not '{escape(step.text[:_QUOTED])}'")
        if hidden == (word == HIDE):
            raise refuse("is hidden already" if hidden else "nothing is hidden")
    else:
        raise refuse(f"is not {CHAPTER}, {HIDE}, {SHOW} or {PAUSE}" if word else "needs a word behind it")
