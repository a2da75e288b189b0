"""Types a story at hmp's own prompt, in real time, before a real kernel: real_kernel.py SCRIPT CAST.

Real numbers and real time differ from run to run, so there is nothing to compare such a cast with: it is made when the
story changes (`make demo-kernel`), looked at and committed. The picture is made of it like all others.

The script is one of hmp, with `#! chapter` and `#! pause`. It needs what the guest `uml` needs, and the extra dev.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import pexpect
import pyte

from device.clock import SECOND
from hmp.recording.cast import MARKER, event_line
from hmp.recording.player import KEY_MAX, KEY_MIN, LOOK_MAX
from hmp.recording.script import CHAPTER, PAUSE, read_steps

COLUMNS, ROWS = 56, 24
GUEST = "uml,mem=128M"
PATIENCE = 30
"""Seconds for a command."""


class _Screen(pyte.Screen):
    """A screen that answers when it is asked where its cursor is: there is a toolbar only then."""

    def __init__(self, child: pexpect.spawn[str]) -> None:
        self._child = child
        super().__init__(COLUMNS, ROWS)

    def write_process_input(self, data: str) -> None:
        self._child.send(data)


class Terminal:
    """hmp at a terminal, its screen, and somebody who types."""

    def __init__(self, cast: Path, state: str, options: list[str]) -> None:
        self._cast = cast
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"TERM": "xterm-256color", "XDG_STATE_HOME": state}
        command = ["-m", "hmp", *options, "--record", str(cast)]
        self._child = pexpect.spawn(
            sys.executable, command, dimensions=(ROWS, COLUMNS), env=environment, encoding="utf-8", timeout=PATIENCE
        )
        self._screen = _Screen(self._child)
        self._stream = pyte.Stream(self._screen)

    def pass_time(self, seconds: float) -> None:
        """Look on for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self._stream.feed(self._child.read_nonblocking(4096, timeout=left))
            except pexpect.TIMEOUT:
                return

    def until_prompt(self) -> None:
        """Wait for the prompt. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while self._screen.display[self._screen.cursor.y].rstrip() != "(qemu)":
            self.pass_time(0.05)
            if time.monotonic() > end:
                raise TimeoutError("\n".join(self._screen.display))

    def type(self, line: str) -> None:
        """Type a line and enter it."""
        for char in f"{line}\r":
            self.pass_time(random.uniform(KEY_MIN, KEY_MAX) / SECOND)
            self._child.send(char)
        self.pass_time(0.2)

    def recorded(self) -> list[str]:
        """Return the lines of the cast so far; the first is there before anything else happens."""
        self.until_prompt()
        return self._cast.read_text(encoding="utf-8").splitlines(keepends=True)

    def end(self) -> None:
        """Leave hmp."""
        self._child.sendeof()
        self._child.expect(pexpect.EOF)
        self._child.close()


class Story:
    """What is typed, looked at and divided into chapters."""

    def __init__(self, cast: Path, state: str, options: list[str]) -> None:
        self.terminal = Terminal(cast, state, options)
        self.chapters: list[tuple[int, str]] = []

    def chapter(self, text: str) -> None:
        """Begin a chapter."""
        self.chapters.append((len(self.terminal.recorded()), text))

    def look(self, seconds: float) -> None:
        """Look on for so long."""
        self.terminal.pass_time(seconds)

    def line(self, line: str) -> None:
        """Wait for the prompt, look at it, and type a line."""
        self.terminal.until_prompt()
        self.look(LOOK_MAX / SECOND)
        self.terminal.type(line)


def finish(story: Story, title: str, path: Path) -> None:
    """End the story, and put its cast in its place."""
    story.terminal.until_prompt()
    story.look(2)
    lines = story.terminal.recorded()  # how hmp is left does not belong to the story
    story.terminal.end()
    for at, text in reversed(story.chapters):  # before the first thing that was shown in it
        when = json.loads(lines[at])[0]
        lines.insert(at, event_line(round(when * SECOND), MARKER, text))
    header = json.loads(lines[0])
    header["title"] = title
    lines[0] = f"{json.dumps(header)}\n"
    path.write_text("".join(lines), encoding="utf-8")


def main(script: str, path: str) -> None:
    """Make the cast."""
    with tempfile.TemporaryDirectory() as folder, Path(script).open("rb") as source:
        story = Story(Path(folder, "typed.cast"), folder, ["--guest", GUEST])
        for step in read_steps([(script, source.fileno())]):
            if step.direction == CHAPTER:
                story.chapter(step.text)
            elif step.direction == PAUSE:
                story.look(step.duration / SECOND)
            elif not step.direction and step.line is not None:
                story.line(step.line)
        finish(story, f"hmp: {Path(script).stem}", Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
