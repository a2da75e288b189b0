"""Scripts played as if a person typed them, for a recording.

Two times run side by side. The machine's is the one it would have without a recording: nothing here moves it but the
waits of the commands, so that stdout is the same. The recording's goes on with it and, while it stands still, by what
a person needs to read and to type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from device.clock import MS, SECOND
from device.guest.model.kernel import mix
from device.machine.events import Event
from device.machine.machine import Machine
from hmp import FAILED, OK
from hmp.config import Config
from hmp.monitor import escape
from hmp.monitor.monitor import Monitor, Reply
from hmp.pipe import Front, Runner
from hmp.recording.cast import MARKER, OUTPUT, Cast
from hmp.recording.record import DEFAULT_SIZE, begin, tell_failure, title
from hmp.recording.script import CHAPTER, HIDE, PAUSE, SHOW, Step, read_steps
from hmp.streams import Source
from hmp.terminal import countdown
from hmp.terminal.app import BANNER
from hmp.terminal.events import Announcer
from hmp.terminal.screen import Screen, tint

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

    def __init__(self, seed: int) -> None:
        self._key = mix(seed)
        self._count = 0

    def between(self, least: int, most: int) -> int:
        """Return a time from `least` to `most` (ns), in whole milliseconds."""
        self._count += 1
        return least + mix(self._key ^ self._count) % ((most - least) // MS + 1) * MS


class Played(Front):
    """Runs lines on simulated time and makes the cast of it, which is valid however that ends."""

    def _use(self) -> int | None:
        config = self.config
        steps = read_steps(config.sources)
        columns, rows = config.size or DEFAULT_SIZE
        on_failure = partial(tell_failure, config)

        def make(descriptor: int) -> Cast:
            name = title(config.sources)
            return Cast(descriptor, columns=columns, rows=rows, title=name, on_failure=on_failure)

        spared = [("the script itself", origin) for _, origin in config.sources if isinstance(origin, int)]
        cast = begin(config, make, spared=spared)
        player = self.runner = Player(self.machine, self.monitor, config, cast, columns=columns)
        try:
            self.machine.start(paused=config.paused)
            player.play(steps)
        finally:
            cast.close()
        return player.status or (FAILED if cast.failed else OK)


class _Script(Source):
    """Steps as a source, which are typed or followed as they are read."""

    def __init__(self, steps: Iterable[Step], follow: Callable[[Step], None]) -> None:
        super().__init__("", [])
        self._steps = steps
        self._follow = follow

    def read(self) -> Iterator[tuple[int, str | None]]:
        for step in self._steps:
            if step.direction:
                self._follow(step)
            else:
                self.name = step.name
                yield step.number, step.line
        self.over = True


class Player(Runner):
    """Plays steps on a machine that has a simulated clock, into `cast` as well."""

    def __init__(self, machine: Machine, monitor: Monitor, config: Config, cast: Cast, *, columns: int) -> None:
        super().__init__(machine, monitor, config)
        self._cast = cast
        self._rhythm = Rhythm(config.seed)
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

    def play(self, steps: Iterable[Step]) -> None:
        """Run every step.

        Raises OSError when stdout cannot be written and KeyboardInterrupt on SIGINT; the cast is valid then too.
        """
        unsubscribe = self.machine.subscribe(self._hear)
        try:
            self._screen.write(f"{BANNER}\n")
            self._ask()
            for awaited in self.steps([_Script(steps, self._follow)]):
                if isinstance(awaited, Reply):
                    self.out.flush()
                    self._suspend(awaited)
            self._hidden = False
            self._pass(END)
            self._print("")
        finally:
            unsubscribe()
            self.out.flush()

    # Time.

    def _pass(self, duration: int) -> None:
        """Let time pass in the recording alone."""
        if not self._hidden:
            self._at += duration
            if self._at > MAX_LENGTH and not self._cast.failed:
                self._cast.fail(f"it is longer than {MAX_LENGTH // SECOND} seconds")

    def _follow_clock(self) -> None:
        """Let the recording catch up with the machine, counting down on the way."""
        now = self.machine.clock.now()
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

    def begin(self, line: str | None) -> Reply:
        """Type a line and run it."""
        if not self._hidden:
            self._type(line or "")
        self._announcer.own = True
        try:
            return super().begin(line)
        finally:
            self._announcer.own = False

    def end(self, name: str, number: int, reply: Reply) -> None:
        """Show what came of it, and the next prompt."""
        self._follow_clock()
        super().end(name, number, reply)
        self._answer(reply)
        if not self.machine.over:
            self._ask()
        self._cast.flush()

    def _suspend(self, reply: Reply) -> None:
        """Wait for a reply, as pipe.wait does, in the sight of the recording."""
        machine = self.machine
        self._wait = _Wait(machine, reply.until)
        try:
            while reply.pending and not machine.over and machine.step(jump=machine.clock.warps):
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

    def _hear(self, event: Event) -> None:
        self._follow_clock()
        self._announcer.hear(event)

    def _announce(self, line: str) -> None:
        self._screen.show(f"[{line}]\n", "event")


class _Wait:
    """The countdown of one wait: when it changes next, and to what."""

    def __init__(self, machine: Machine, until: int | None) -> None:
        self._guest = countdown.waits_for_guest(machine, until)
        self._since = machine.clock.now()
        self._until = until
        self.due = self._since + countdown.AFTER

    def line(self) -> str:
        """Return what it says when it is due, and go on to the next."""
        now, self.due = self.due, self.due + countdown.STEP
        return countdown.countdown_line(now, self._since, self._until, guest=self._guest)
