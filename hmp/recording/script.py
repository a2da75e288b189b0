"""Scripts that are recorded: their lines, and the `#!` lines for the recording. All are checked before the first runs.

    #! chapter TEXT    a marker in the recording
    #! hide            run the lines that follow without recording them
    #! show            record again
    #! pause SEC       let time pass in the recording, but not on the machine
    #! speed X         type and read X times as fast from here on
    #! key NAME...     press keys; directly after a command, while it waits
    #! after SEC       how long to wait before the next key or type line
    #! type TEXT       type text, without Enter
    #! wait PATTERN    wait until the screen shows the pattern

Without a recording these lines are comments, so a script prints the same with and without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from device.clock import SECOND
from device.errors import MisuseError
from device.units import parse_seconds
from hmp.monitor import UnreadableError, UsageError, escape
from hmp.recording.record import read_speed
from hmp.streams import Source
from hmp.terminal.keys import KEYS

MAX_SCRIPT = 1 << 20
"""The most bytes of a script; to type that many would take a day."""

MAX_PAUSE = 3600 * SECOND

COMMAND, CHAPTER, HIDE, SHOW, PAUSE = "", "chapter", "hide", "show", "pause"
SPEED, KEY, AFTER, TYPE, WAIT = "speed", "key", "after", "type", "wait"

_MARK = "#!"
_QUOTED = 60


class Step:
    """A line of a script (None if it was too long), its place, and for a `#!` line its word and what follows."""

    def __init__(self, name: str, number: int, line: str | None) -> None:
        self.name = name
        self.number = number
        self.line = line
        self.direction = self.text = ""
        self.duration = 0
        """Of PAUSE and AFTER, in ns."""
        self.speed = 1.0
        self.keys: list[str] = []
        self.pattern = re.compile("")

    @property
    def place(self) -> str:
        """The file and the number of the line, for messages."""
        return f"{escape(self.name)}:{self.number}"


def read_steps(sources: Iterable[tuple[str, int | list[str]]]) -> list[Step]:
    """Return every command and every `#!` line of all sources.

    Raises UsageError naming the line and the word that is wrong, UnreadableError naming what cannot be read.
    """
    steps: list[Step] = []
    hidden = False
    for name, number, line in _lines(sources):
        step, before = Step(name, number, line), steps[-1] if steps else None
        if line is not None and line.lstrip().startswith(_MARK):
            rest = line.strip()[len(_MARK) :]
            if number == 1 and rest.lstrip().startswith("/"):
                continue  # a shebang: it names the program that runs the script
            _direct(step, rest, hidden=hidden)
            if step.direction in (HIDE, SHOW):
                hidden = step.direction == HIDE
        if before is not None and before.direction == AFTER and step.direction not in (KEY, TYPE):
            raise _refused(before, "stands before a key or type line")
        steps.append(step)
    if steps and steps[-1].direction == AFTER:
        raise _refused(steps[-1], "stands before a key or type line")
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


def _refused(step: Step, why: str) -> UsageError:
    mark = f"{_MARK} {escape(step.direction[:_QUOTED])}".rstrip()
    return UsageError(f"{step.place}: {mark}: {why}")


def _direct(step: Step, text: str, *, hidden: bool) -> None:
    """Read the text after the mark. Raises UsageError."""
    word, _, rest = text.strip().partition(" ")
    step.direction, step.text = word, rest.strip()
    if word not in _READERS:
        *others, last = _READERS
        raise _refused(step, f"is not {', '.join(others)} or {last}" if word else "needs a word after it")
    if hidden and word in (KEY, AFTER, TYPE, WAIT):
        raise _refused(step, "nobody sees it between hide and show")
    needs, read = _READERS[word]
    if needs and not step.text:
        raise _refused(step, f"needs {needs}")
    if not needs and step.text:
        raise _refused(step, f"takes nothing, not '{escape(step.text[:_QUOTED])}'")
    try:
        read(step)
    except MisuseError as error:
        raise _refused(step, escape(str(error))) from None
    if word in (HIDE, SHOW) and hidden == (word == HIDE):
        raise _refused(step, "is hidden already" if hidden else "nothing is hidden")


def _read_duration(step: Step) -> None:
    step.duration = parse_seconds(step.text)
    if step.duration > MAX_PAUSE:
        raise MisuseError(f"'{step.text}' is more than {MAX_PAUSE // SECOND} seconds")


def _read_speed(step: Step) -> None:
    step.speed = read_speed(step.text)


def _read_keys(step: Step) -> None:
    step.keys = step.text.split()
    for name in step.keys:
        if name not in KEYS:
            raise MisuseError(f"'{name[:_QUOTED]}' is not a key: {_KEYS}")


# Families of keys are named by their first and last.
_KEYS = f"{', '.join(name for name in KEYS if len(name) > 3 or name.isalpha())}, F1 to F12, C-a to C-y, M-a to M-z"


def _read_pattern(step: Step) -> None:
    try:
        step.pattern = re.compile(step.text, re.MULTILINE)
    # The last two come from patterns that repeat too often or are nested too deep.
    except (re.error, OverflowError, RecursionError) as error:
        raise MisuseError(f"'{step.text[:_QUOTED]}' is not a regular expression: {error}") from None


def _read_nothing(step: Step) -> None:
    """Do nothing: the text is used as it is."""


_READERS: dict[str, tuple[str, Callable[[Step], None]]] = {
    CHAPTER: ("a text", _read_nothing),
    HIDE: ("", _read_nothing),
    SHOW: ("", _read_nothing),
    PAUSE: ("a number of seconds", _read_duration),
    SPEED: ("a number", _read_speed),
    KEY: ("the name of a key", _read_keys),
    AFTER: ("a number of seconds", _read_duration),
    TYPE: ("a text", _read_nothing),
    WAIT: ("a pattern", _read_pattern),
}
"""For each word what must follow it ("" is nothing), and the function that reads that."""
