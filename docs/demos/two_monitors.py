"""Plays two people at two monitors of one machine, and makes the cast of it: two_monitors.py SCRIPT CAST.

A script of hmp is one person, whose waits are all that moves the time. Here time goes on by itself, typing included, on
a simulated clock: so one waits while the other types, and the bytes are the same on every run. The upper half shows
what `hmp` prints on its terminal, the lower one what a client gets on a socket, each by the parts that do it in hmp.

A line of the script is `SECOND WHO WHAT`: `typed` or `socket` and a command that is begun to be typed at that second;
`chapter` and a text; or `end`.
"""

from __future__ import annotations

import sys
from functools import partial
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pyte

from device.clock import SECOND
from device.units import parse_seconds
from hmp.config import Config, make_machine
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import History, Monitor
from hmp.recording.cast import MARKER, OUTPUT, Cast, create
from hmp.recording.player import KEY_MAX, KEY_MIN, PROMPT, Rhythm
from hmp.sockets.clients import banner
from hmp.sockets.readline import PROMPT as SOCKET_PROMPT
from hmp.sockets.readline import Line, LineEditor, Output
from hmp.terminal.app import BANNER
from hmp.terminal.countdown import Countdown
from hmp.terminal.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from device.machine.machine import Machine
    from hmp.monitor.monitor import Reply

COLUMNS, ROWS = 56, 30
"""Of the whole picture: two halves, each with a line on top that says what was started there."""

HALVES = {"typed": "hmp --monitor unix:hmp.sock", "socket": "socat -,raw,echo=0 unix:hmp.sock"}
_CODES = {"default": 0, "red": 31, "green": 32, "brown": 33, "cyan": 36, "brightblack": 2}


class Half(pyte.Screen):
    """A terminal of so many rows; knows faint text, which pyte does not, and turns its rows back into text."""

    def __init__(self, rows: int) -> None:
        super().__init__(COLUMNS, rows)
        self._stream = pyte.Stream(self)
        self.dirty.clear()

    def select_graphic_rendition(self, *attrs: int, **options: bool) -> None:
        super().select_graphic_rendition(*[90 if number == 2 else number for number in attrs], **options)

    def print(self, text: str) -> None:
        """Show text as a terminal does that makes two of a line's end."""
        self._stream.feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))

    def row(self, number: int) -> str:
        """Return a row with its colours, without the blanks at its end."""
        text, before = "", "default"
        line = self.buffer[number]
        shown = self.display[number].rstrip()
        for x, char in enumerate(shown):
            if line[x].fg != before:
                before = line[x].fg
                text += f"\x1b[{_CODES[before]}m"
            text += char
        return text if before == "default" else f"{text}\x1b[0m"


class Typed:
    """The monitor that was started with the machine, at its own terminal."""

    def __init__(self, machine: Machine, half: Half) -> None:
        self._machine = machine
        self._screen = Screen(half.print, width=lambda: COLUMNS)
        self._print = half.print
        self._monitor = Monitor(machine, DIALECTS["seed"])
        self._monitor.alone = False
        self._line = ""
        self._reply: Reply | None = None
        self._countdown: Countdown | None = None
        self._screen.write(f"{BANNER}\n{PROMPT}")

    @property
    def busy(self) -> bool:
        """Whether there is no prompt."""
        return self._reply is not None

    def key(self, char: str) -> None:
        """Type a character, or "\\n" to enter the line."""
        self._print(char)
        if char != "\n":
            self._line += char
            return
        line, self._line = self._line, ""
        reply = self._monitor.execute(line)
        if not reply.pending:
            self._answer(reply)
            return
        self._reply, reply.on_done = reply, self._answer
        self._countdown = Countdown(self._machine, reply.until)

    @property
    def due(self) -> int | None:
        """When the countdown is to be drawn next."""
        return None if self._countdown is None else self._countdown.due

    def count(self) -> None:
        """Draw the countdown."""
        assert self._countdown is not None  # noqa: S101 - else nothing is due
        self._screen.transient(self._countdown.line(self._machine.clock.now()))

    def _answer(self, reply: Reply) -> None:
        self._reply = self._countdown = None
        self._screen.show(reply.text)
        self._screen.write(PROMPT)


class Socketed:
    """A client's monitor on a socket: QEMU's banner and line editor, no colours, no countdown."""

    due = None

    def __init__(self, machine: Machine, half: Half) -> None:
        self._half = half
        history = History()
        self._editor = LineEditor(SOCKET_PROMPT, history, lambda line: (line, []))
        self._monitor = Monitor(machine, DIALECTS["seed"], history)
        self._monitor.alone = False
        self.busy = False
        self._write(banner(machine) + self._editor.show_prompt())

    def _write(self, data: bytes) -> None:
        self._half.print(data.decode())

    def key(self, char: str) -> None:
        """Type a character, or "\\n" to enter the line."""
        self._editor.feed(char.encode())
        while (event := self._editor.next_event()) is not None:
            if isinstance(event, Output):
                self._write(event)
            elif isinstance(event, Line):
                reply = self._monitor.execute(event.decode())
                if reply.pending:
                    self.busy, reply.on_done = True, self._answer
                else:
                    self._answer(reply)

    def count(self) -> None:
        """Nothing: a socket has no countdown."""

    def _answer(self, reply: Reply) -> None:
        self.busy = False
        self._write(reply.text.encode() + self._editor.show_prompt())


class Stage:
    """Both halves, and the cast that shows them."""

    def __init__(self, machine: Machine, cast: Cast) -> None:
        self._machine = machine
        self._cast = cast
        rows = ROWS // 2 - 1
        self._halves = {name: Half(rows) for name in HALVES}
        self._tops = {name: at * (rows + 1) + 1 for at, name in enumerate(HALVES)}
        self.people: dict[str, Typed | Socketed] = {
            "typed": Typed(machine, self._halves["typed"]),
            "socket": Socketed(machine, self._halves["socket"]),
        }
        self._focus = "typed"
        heads = [
            f"\x1b[{self._tops[name]};1H\x1b[2m{f'── {text} ':─<{COLUMNS}}\x1b[0m" for name, text in HALVES.items()
        ]
        cast.event(0, OUTPUT, "".join(heads))
        self.show()

    def key(self, name: str, char: str) -> None:
        """Let somebody type a character."""
        self._focus = name
        self.people[name].key(char)

    def chapter(self, text: str) -> None:
        """Set a marker."""
        self._cast.event(self._machine.clock.now(), MARKER, text)

    def show(self) -> None:
        """Note what changed, and where the cursor is."""
        text = ""
        for name, half in self._halves.items():
            for number in sorted(half.dirty):
                text += f"\x1b[{self._tops[name] + 1 + number};1H{half.row(number)}\x1b[K"
            half.dirty.clear()
        if text:
            cursor = self._halves[self._focus].cursor
            place = f"\x1b[{self._tops[self._focus] + 1 + cursor.y};{min(cursor.x, COLUMNS - 1) + 1}H"
            self._cast.event(self._machine.clock.now(), OUTPUT, text + place)


def play(script: str, machine: Machine, cast: Cast) -> None:
    """Play a script. Raises ValueError for a line that can't be read, and for one who types while the prompt waits."""
    stage = Stage(machine, cast)
    rhythm, serial = Rhythm(machine.seed), count()
    agenda: list[tuple[int, int, Callable[[], None] | None]] = []

    def plan(at: int, act: Callable[[], None] | None) -> None:
        heappush(agenda, (at, next(serial), act))

    def typing(name: str) -> None:
        if stage.people[name].busy:
            raise ValueError(f"{name} types at {machine.clock.now() / SECOND} s, but there is no prompt")

    for line in script.splitlines():
        if not line or line.startswith("#"):
            continue
        second, who, *rest = line.split(None, 2)
        at = parse_seconds(second)
        if who == "chapter":
            plan(at, partial(stage.chapter, rest[0]))
        elif who == "end":
            plan(at, None)
        elif who in stage.people:
            plan(at, partial(typing, who))
            for char in f"{rest[0]}\n":
                plan(at, partial(stage.key, who, char))
                at += rhythm.between(KEY_MIN, KEY_MAX)
        else:
            raise ValueError(f"{line}: not typed, socket, chapter or end")
    while agenda:
        people = stage.people.values()
        times = [agenda[0][0], machine.time.next_deadline(), *(person.due for person in people)]
        due = min(time for time in times if time is not None)
        machine.advance(max(0, due - machine.clock.now()))
        stage.show()
        for person in people:
            if person.due is not None and person.due <= due:
                person.count()
        while agenda and agenda[0][0] <= due:
            act = heappop(agenda)[2]
            if act is None:
                cast.event(due, OUTPUT, "")
                return
            act()
            stage.show()
        stage.show()
    raise ValueError("the script has no end")


def main(script: str, path: str) -> None:
    """Make the cast."""
    config = Config()
    config.clock = "manual"
    machine = make_machine(config)
    title = f"hmp: {Path(script).stem}"

    def fail(reason: str) -> None:
        raise OSError(reason)

    file = create(path, overwrite=True)
    cast = Cast(file.descriptor, columns=COLUMNS, rows=ROWS, title=title, on_failure=fail)
    file.settle(True)
    try:
        machine.start(paused=False)
        play(Path(script).read_text(encoding="utf-8"), machine, cast)
    finally:
        cast.close()
        machine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
