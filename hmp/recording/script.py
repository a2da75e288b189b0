"""Scripts read for a recording: their lines, and the `#!` lines that direct it. Checked as a whole before any runs.

    #! chapter TEXT    a marker in the recording
    #! hide            what follows runs, but is not recorded
    #! show            from here on it is again
    #! pause SEC       time passes in the recording, and nowhere else

Played without a recording the same lines are comments, so that a script prints the same either way.
"""

from __future__ import annotations

from device.clock import SECOND
from device.errors import MisuseError
from device.units import parse_seconds
from hmp.monitor.errors import UnreadableError, UsageError
from hmp.monitor.escape import escape
from hmp.streams import LineSplitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hmp.pipe import Source

MAX_SCRIPT = 1 << 20
"""Bytes of a script: typed at a person's pace that much takes a day."""

MAX_PAUSE = 3600 * SECOND

CHAPTER, HIDE, SHOW, PAUSE = "chapter", "hide", "show", "pause"

_MARK = "#!"
_QUOTED = 60


class Step:
    """A line of a script: where it stands, its bytes (None if it was too long), and what it directs, if anything."""

    __slots__ = ("direction", "duration", "name", "number", "raw", "text")

    def __init__(self, name: str, number: int, raw: bytes | None) -> None:
        self.name = name
        self.number = number
        self.raw = raw
        self.direction = ""
        self.text = ""
        self.duration = 0


def read_steps(sources: Iterable[Source]) -> list[Step]:
    """Return every line of every source.

    Raises UsageError naming the line and the word that is wrong, UnreadableError naming what cannot be read.
    """
    steps: list[Step] = []
    hidden = False
    for name, source in sources:
        for number, raw in enumerate(_lines(name, source), 1):
            step = Step(name, number, raw)
            if raw is not None:
                _direct(step, raw.decode("utf-8", "surrogateescape").strip(), hidden=hidden)
            if step.direction in (HIDE, SHOW):
                hidden = step.direction == HIDE
            steps.append(step)
    return steps


def _lines(name: str, source: int | list[str]) -> Iterator[bytes | None]:
    if isinstance(source, list):
        for line in source:
            yield line.encode("utf-8", "surrogateescape")
        return
    splitter = LineSplitter()
    while not splitter.over:
        try:
            yield from splitter.read(source)
        except UnreadableError as error:
            raise UnreadableError(f"{name}: cannot be read: {error}") from None
        if splitter.size > MAX_SCRIPT:
            raise UsageError(f"--record: {escape(name)}: more than {MAX_SCRIPT >> 20} MiB is too long to be typed")


def _direct(step: Step, line: str, *, hidden: bool) -> None:
    """Read a line that directs the recording; other lines are left alone."""
    if not line.startswith(_MARK) or (step.number == 1 and line[len(_MARK) :].lstrip().startswith("/")):
        return  # the latter is how the kernel finds the interpreter of a program
    word, _, rest = line[len(_MARK) :].strip().partition(" ")
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
