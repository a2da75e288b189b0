"""Scripts played as if a person typed them, for a recording.

Two times run side by side. The machine's is the one it would have without a recording: nothing here moves it but the
waits of the commands, so that stdout is the same. The recording's goes on with it and, while it stands still, by what
a person needs to read and to type.
"""

from __future__ import annotations

from device.clock import MS, SECOND
from device.guest.model.kernel import mix
from hmp.monitor.errors import MAX_LINE, TOO_LONG
from hmp.monitor.escape import escape
from hmp.recording.cast import MARKER, OUTPUT
from hmp.recording.script import CHAPTER, HIDE, PAUSE, SHOW
from hmp.terminal import countdown
from hmp.terminal.app import BANNER
from hmp.terminal.events import Announcer
from hmp.terminal.screen import Screen, tint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from device.machine.machine import Machine
    from hmp.monitor.monitor import Reply
    from hmp.pipe import Runner
    from hmp.recording.cast import Cast
    from hmp.recording.script import Step

KEY_MIN, KEY_MAX = 60 * MS, 120 * MS
"""The time a key takes, ends included."""

LOOK_MIN, LOOK_MAX = 500 * MS, 900 * MS
"""The time from a prompt to the first key."""

READ = 12 * MS
"""How much more that is for each character printed before, up to READ_MAX."""

READ_MAX = 1500 * MS
END = 2 * SECOND
"""The time the last screen stands."""

MAX_LENGTH = 3600 * SECOND
"""Where a recording ends, if the script did not."""

_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"
PROMPT = f"{_GREEN}(qemu){_PLAIN} "


class Rhythm:
    """How long a person takes for what, by `seed`."""

    __slots__ = ("_count", "_key")

    def __init__(self, seed: int) -> None:
        self._key = mix(seed)
        self._count = 0

    def between(self, least: int, most: int) -> int:
        """Return a time from `least` to `most` (ns), in whole milliseconds."""
        self._count += 1
        return least + mix(self._key ^ self._count) % ((most - least) // MS + 1) * MS


class Player:
    """Plays steps on a machine that has a simulated clock, through `runner`, into `cast`."""

    def __init__(self, machine: Machine, runner: Runner, cast: Cast, *, columns: int, seed: int) -> None:
        self._machine = machine
        self._runner = runner
        self._cast = cast
        self._rhythm = Rhythm(seed)
        self._screen = Screen(self._print, width=lambda: columns)
        self._announcer = Announcer(self._announce, now=lambda: machine.clock.now() / SECOND)
        self._at = 0
        """The time of the recording."""
        self._seen = machine.clock.now()
        """The machine's time up to which the recording's has followed."""
        self._hidden = False
        self._asking = False
        self._printed = 0
        self._wait: _Wait | None = None

    def play(self, steps: Iterable[Step]) -> bool:
        """Run every step; returns whether the machine could go on, False once it ended.

        Raises OSError when stdout cannot be written and KeyboardInterrupt on SIGINT; the cast is valid then too.
        """
        runner, cast = self._runner, self._cast
        unsubscribe = self._machine.subscribe(self._hear)
        try:
            self._screen.write(f"{BANNER}\n")
            self._ask()
            for step in steps:
                if step.direction:
                    self._follow(step)
                    continue
                self._run(step)
                cast.flush()
                if runner.over:
                    break
            self._hidden = False
            self._pass(END)
            self._print("")
            return not runner.over
        finally:
            unsubscribe()
            runner.flush()

    # Time.

    def _pass(self, duration: int) -> None:
        """Let time pass in the recording alone."""
        if not self._hidden:
            self._at += duration
            if self._at > MAX_LENGTH and not self._cast.failed:
                self._cast.fail(f"it is longer than {MAX_LENGTH // SECOND} seconds")

    def _follow_clock(self) -> None:
        """Let the recording catch up with the machine, counting down on the way."""
        now = self._machine.clock.now()
        wait = self._wait
        while wait is not None and wait.due < now and not self._cast.failed and not self._hidden:
            self._pass(wait.due - self._seen)
            self._seen = wait.due
            self._screen.transient(wait.line())
        self._pass(now - self._seen)
        self._seen = now

    # Showing.

    def _print(self, text: str) -> None:
        if not self._hidden:
            self._cast.event(self._at, OUTPUT, text.replace("\n", "\r\n"))

    def _ask(self) -> None:
        if not self._asking and not self._hidden:
            self._screen.write(PROMPT)
            self._asking = True

    def _type(self, line: str) -> None:
        """Look at what is there, then type a line and enter it."""
        between = self._rhythm.between
        self._pass(between(LOOK_MIN, LOOK_MAX) + min(self._printed * READ, READ_MAX))
        self._printed = 0
        for char in line:
            self._print(escape(char))
            self._pass(between(KEY_MIN, KEY_MAX))
        self._print("\n")
        self._asking = False

    # Running.

    def _follow(self, step: Step) -> None:
        """Do what a line says about the recording."""
        if step.direction == PAUSE:
            self._pass(step.duration)
            self._printed = 0  # it has been read by then
        elif step.direction == CHAPTER and not self._hidden:
            self._cast.event(self._at, MARKER, escape(step.text))
        elif step.direction in (HIDE, SHOW):
            self._hidden = step.direction == HIDE

    def _run(self, step: Step) -> None:
        runner, raw = self._runner, step.raw
        line = "" if raw is None else raw.decode("utf-8", "surrogateescape")
        too_long = raw is None or len(line) > MAX_LINE
        if not too_long and line.lstrip()[:1] in ("", "#"):
            return
        if not self._hidden:
            self._type("" if too_long else line)
        self._announcer.own = True
        try:
            reply = runner.begin(step.name, step.number, raw)
        finally:
            self._announcer.own = False
        if reply is None:
            self._screen.show(f"{TOO_LONG}\n", "error")
        else:
            if reply.pending:
                runner.flush()
                self._suspend(reply)
            else:
                self._follow_clock()
            runner.end(step.name, step.number, reply)
            self._answer(reply)
        if not self._machine.over:
            self._ask()

    def _suspend(self, reply: Reply) -> None:
        """Wait for a reply, as pipe.wait does, in the sight of the recording."""
        machine = self._machine
        self._wait = _Wait(machine, reply.until)
        try:
            while reply.pending and not machine.over and machine.time.warp():
                self._follow_clock()
        finally:
            self._wait = None
            self._screen.clear()

    def _answer(self, reply: Reply) -> None:
        text = reply.text
        if not self._hidden:
            self._printed += len(text)
        if reply.failed:
            self._screen.show(text, "error")
        else:
            self._screen.write(tint(escape(text)))

    # Events.

    def _hear(self, name: str, data: Mapping[str, object]) -> None:
        self._follow_clock()
        self._announcer.hear(name, data)

    def _announce(self, line: str) -> None:
        self._screen.show(f"[{line}]\n", "event")


class _Wait:
    """The countdown of one wait: when it changes next, and to what."""

    __slots__ = ("_guest", "_since", "_until", "due")

    def __init__(self, machine: Machine, until: int | None) -> None:
        self._guest = countdown.waits_for_guest(machine, until)
        self._since = machine.clock.now()
        self._until = until
        self.due = self._since + countdown.AFTER

    def line(self) -> str:
        """Return what it says when it is due, and go on to the next."""
        now, self.due = self.due, self.due + countdown.STEP
        return countdown.countdown_line(now, self._since, self._until, guest=self._guest)
