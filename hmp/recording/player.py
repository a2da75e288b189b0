"""Recorded scripts: their lines are typed at the real prompt, as a person would.

With a simulated clock there are two times. The machine's time is the same as without a recording: only commands that
wait move it. The recording's time moves with it, and also while the person reads and types. With the real clock both
are the computer's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from device.clock import SECOND
from device.machine.machine import Machine
from hmp import FAILED, OK
from hmp.config import Config
from hmp.drive import MachineDriver
from hmp.monitor import TOO_LONG, escape
from hmp.monitor.monitor import Monitor, Reply
from hmp.pipe import Front, Runner
from hmp.recording import script
from hmp.recording.camera import Camera
from hmp.recording.cast import MARKER, OUTPUT, Cast
from hmp.recording.pace import FollowingDriver, Pace
from hmp.recording.record import DEFAULT_SIZE, begin, report_failure, title
from hmp.recording.rhythm import END, FIND, LOOK, READ, READ_MAX, STROKE, Rhythm
from hmp.recording.script import Step, read_steps
from hmp.terminal.app import BANNER
from hmp.terminal.keys import INTERRUPT, KEYS, typed
from hmp.terminal.played import Keyboard, PlayedPrompt
from hmp.terminal.screen import Screen
from hmp.terminal.session import Session

KEY_DELAY = SECOND
"""How long (ns) a command waits before a key is pressed, unless `after` says it."""

MAX_LENGTH = 3600 * SECOND
"""The longest recording (ns): a script may sleep for years."""

PATIENCE = 2 * SECOND
"""How long (ns) `wait` goes on when nothing more is due. The toolbar is updated once a second, so this is longer."""

REAL_PATIENCE = 600 * SECOND
"""The same (ns) on the real clock, where hmp cannot know what is due."""


AT_PROMPT, TYPING, WAITING, WATCHING = "at the prompt", "typing", "waiting", "watching"
"""What the person does: has an empty line before them, types one, has entered a command that waits, or watches."""


class Played(Front):
    """Types scripts at a prompt and makes a cast of it. The cast is valid however the run ends."""

    def _use(self) -> int | None:
        config = self.config
        steps = read_steps(config.sources)
        columns, rows = config.size or DEFAULT_SIZE
        on_failure = partial(report_failure, config)

        def make(descriptor: int) -> Cast:
            name = title(config.sources)
            live = not self.machine.clock.simulated
            return Cast(descriptor, columns=columns, rows=rows, title=name, on_failure=on_failure, live=live)

        in_use = [("the script itself", origin) for _, origin in config.sources if isinstance(origin, int)]
        cast = begin(config, make, in_use=in_use)
        player = self.runner = Player(self.machine, self.monitor, config, cast, size=(columns, rows))
        try:
            with asyncio.Runner(loop_factory=player.make_loop) as runner:
                runner.run(player.play(steps))
        finally:
            cast.close()
        return player.status or (FAILED if cast.failed else OK)


class Player(Runner):
    """Plays the steps of scripts on a machine. Prints the output of the commands, and records the screen in `cast`."""

    def __init__(
        self, machine: Machine, monitor: Monitor, config: Config, cast: Cast, *, size: tuple[int, int]
    ) -> None:
        super().__init__(machine, monitor, config)
        self._cast = cast
        self._camera = Camera(*size)
        self._screen = Screen(self._draw, width=lambda: size[0], rows=size[1])
        self._rhythm = Rhythm(config.seed)
        self._speed = 1.0
        self._started = self._hidden_since = 0
        self._hidden = False
        self._printed = 0
        """How many characters were printed since the person last began to type. Reading them takes time."""
        self._state = AT_PROMPT
        self._entered = 0
        """When the command that waits was entered, in the loop's time (ns)."""
        self._delay: int | None = None
        self._wait_failed = False
        """Whether a `wait` ended without its pattern."""
        self._live: list[str] = []
        self._now = Step("", 0, "")

    def make_loop(self) -> Pace:
        """Return the loop to `play` in."""
        follow = self._follow if self.machine.clock.simulated else None
        self._loop = Pace(self._look, follow)
        self._started = self._time()
        return self._loop

    async def play(self, steps: Iterable[Step]) -> None:
        """Run every step.

        Raises OSError when stdout cannot be written and KeyboardInterrupt on SIGINT; the cast is valid then too.
        """
        machine, (columns, rows) = self.machine, (self._camera.screen.columns, self._camera.screen.lines)
        driver = self._driver = (FollowingDriver if machine.clock.simulated else MachineDriver)(machine, self._loop)
        self._keyboard = Keyboard()
        self._prompt = PlayedPrompt(
            machine,
            self._screen,
            self._keyboard,
            write=self._draw,
            columns=columns,
            rows=rows,
            below=lambda: rows - self._camera.screen.cursor.y,
            dialect=self._config.dialect.replace("seed", ""),
        )
        self._session = Session(
            machine, self._monitor, driver, self._screen, self._prompt,
            begin=self.begin, on_reply=self._answer, flush=self._keyboard.clear, counts=True,
        )  # fmt: skip
        self._show_above = self._monitor.show_reply
        self._monitor.live, self._monitor.show_reply = self._show_live, self._show_reply
        self._screen.write(f"{BANNER}\n")
        machine.start(paused=self._config.paused)
        driver.start()
        self._ended = asyncio.ensure_future(self._session.run())
        try:
            for step in steps:
                if self.over or self._wait_failed or self._ended.done():
                    break
                await self._ACTIONS[step.direction](self, step)
            await self._prompted()
            self._show()
            # An empty event at the end makes players show the last screen as long.
            await self._pass(END)
            self._event(OUTPUT, "")
        finally:
            # The cast is complete; what is drawn while the session ends is not part of it.
            self._hidden = True
            self._session.leave()
            await self._ended
            driver.stop()
            self.out.flush()

    # Time.

    def _time(self) -> int:
        return round(self._loop.time() * SECOND)

    def _follow(self, duration: int) -> None:
        assert isinstance(self._driver, FollowingDriver)  # noqa: S101 - on simulated time
        self._driver.skips_waits = self._cast.failed
        self._driver.follow(duration)

    async def _pass(self, duration: int) -> None:
        """Let time pass, as long as there is a recording."""
        if duration > 0 and not (self._hidden or self._cast.failed):
            await asyncio.sleep(duration / SECOND)

    async def _until(self, happened: Callable[[], object]) -> None:
        while not (happened() or self._ended.done()):
            await self._loop.moved()

    async def _prompted(self) -> None:
        """Wait until the prompt asks. End a command that would wait for ever, as Ctrl-C does."""

        def asks() -> bool:
            if self._session.waiting and isinstance(self._driver, FollowingDriver) and self._driver.stuck:
                self._session.interrupt()
            return self._prompt.asking

        await self._loop.settled()
        await self._until(asks)
        if self._state != TYPING:
            self._state = AT_PROMPT

    # Showing.

    def _draw(self, text: str) -> None:
        self._camera.screen.feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))

    def _look(self) -> None:
        """Record what changed on the screen. The loop calls this when all work of this moment is done."""
        if not self._hidden and (text := self._camera.changes()):
            self._event(OUTPUT, text)

    def _event(self, kind: str, text: str) -> None:
        at = self._time() - self._started
        if at > MAX_LENGTH:
            self._cast.fail(f"it is longer than {MAX_LENGTH // SECOND} seconds")
        self._cast.event(at, kind, text)

    def _show(self) -> None:
        """Record again, as if no time had passed since `hide`."""
        if self._hidden:
            self._hidden = self._prompt.hidden = False
            # The beginning moves instead of every later event.
            self._started += self._time() - self._hidden_since
            self._prompt.refresh()

    # What the person does.

    async def _enter(self, step: Step) -> None:
        """Type a line and enter it."""
        await self._prompted()
        if self._hidden or self._cast.failed or step.line is None:
            await self._run(step)
        else:
            await self._wait_for_turn()
            await self._type_text(step.line)
            await self._press("ENTER", step)

    async def _run(self, step: Step) -> None:
        """Run a line without typing it, as in a pipe."""
        machine, monitor = self.machine, self._monitor
        shown, monitor.live, monitor.show_reply = (monitor.live, monitor.show_reply), None, None
        # As a pipe does before each line: real time has passed since the last one.
        if not machine.clock.simulated:
            machine.step()
        reply = self.begin(step.line)
        if reply.pending:
            self.out.flush()
        if reply.pending and not machine.clock.simulated:
            released = self._loop.create_future()

            def release(_: object) -> None:
                if not released.done():
                    released.set_result(None)

            self._ended.add_done_callback(release)
            await self._driver.wait(reply, released)
        while reply.pending and not machine.over and machine.step(jump=machine.clock.warps):
            pass
        monitor.live, monitor.show_reply = shown
        self.end(step.name, step.number, reply)
        self._driver.reschedule()
        if step.line is None:
            self._prompt.show(f"{TOO_LONG}\n", "error")

    async def _wait_for_turn(self, after: int | None = None) -> None:
        """Wait until it is time to press a key."""
        if self._state == WAITING:
            await self._pass(self._entered + (KEY_DELAY if after is None else after) - self._time())
            self._state = WATCHING
            return
        if self._state != WATCHING:
            await self._prompted()
        pace = self._rhythm.between(*(LOOK if self._state == AT_PROMPT else FIND))
        if self._state == AT_PROMPT:
            pace += min(self._printed * READ, READ_MAX)
        self._printed = 0
        await self._pass(round(pace / self._speed) if after is None else after)

    async def _type_text(self, text: str) -> None:
        for char in text:
            self._keyboard.press(typed(char))
            await self._pass(round(self._rhythm.between(*STROKE) / self._speed))
        self._state = TYPING if self._state == AT_PROMPT else self._state

    async def _press(self, name: str, step: Step) -> None:
        self._now = step
        waited = self._session.waiting
        if waited and name == INTERRUPT:
            self._session.interrupt()
        else:
            self._keyboard.press(KEYS[name])
        await self._loop.settled()
        waits = self._session.waiting
        if waits and not waited:
            self._entered = self._time()
            self.out.flush()
        self._state = (WATCHING if waited else WAITING) if waits else AT_PROMPT if waited or name == "ENTER" else TYPING

    async def _type(self, step: Step) -> None:
        await self._wait_for_turn(self._after(step))
        await self._type_text(step.text)

    async def _key(self, step: Step) -> None:
        after = self._after(step)
        for name in step.keys:
            await self._wait_for_turn(after)
            await self._press(name, step)
            after = None

    def _after(self, step: Step) -> int | None:
        """Return the time (ns) of the `after` line before this step, if there was one."""
        after, self._delay = self._delay, None
        return after

    async def _note_delay(self, step: Step) -> None:
        self._delay = step.duration

    async def _note_speed(self, step: Step) -> None:
        self._speed = step.speed

    async def _wait(self, step: Step) -> None:
        """Watch until the screen shows the pattern. If nothing is due that could show it, the recording ends."""
        driver, limit, found = self._driver, self._time() + REAL_PATIENCE, False

        def seen() -> bool:
            nonlocal limit, found
            if isinstance(driver, FollowingDriver) and not driver.stuck:
                limit = self._time() + PATIENCE
            found = step.pattern.search(self._camera.text) is not None
            return found or self._cast.failed or self._time() >= limit

        await self._loop.settled()
        if isinstance(driver, FollowingDriver):
            limit = self._time() + PATIENCE
            driver.watched = True
            driver.reschedule()
        await self._until(seen)
        if isinstance(driver, FollowingDriver):
            driver.watched = False
        self._state = WATCHING
        if not (found or self._cast.failed):
            self._wait_failed = True
            self._fail(f"{step.place}: #! wait: nothing that is still to come shows '{escape(step.text)}'")

    async def _chapter(self, step: Step) -> None:
        if self._state != WATCHING:
            await self._prompted()
        if not self._hidden:
            self._look()
            self._event(MARKER, escape(step.text))

    async def _pause(self, step: Step) -> None:
        if self._state != WATCHING:
            await self._prompted()
        await self._pass(step.duration)
        self._printed = 0  # it has been read by then

    async def _hide(self, step: Step) -> None:
        await self._prompted()
        self._hidden = self._prompt.hidden = True
        self._hidden_since = self._time()

    async def _unhide(self, step: Step) -> None:
        self._show()

    _ACTIONS = {
        script.COMMAND: _enter, script.KEY: _key, script.TYPE: _type, script.WAIT: _wait, script.AFTER: _note_delay,
        script.SPEED: _note_speed, script.CHAPTER: _chapter, script.PAUSE: _pause, script.HIDE: _hide,
        script.SHOW: _unhide,
    }  # fmt: skip

    # Replies.

    def _show_live(self, draw: Callable[[], str]) -> None:
        """Show text that replaces the last one on the screen; stdout gets every one."""
        self._live.append(draw())
        self._screen.live(draw)

    def _show_reply(self, reply: Reply) -> None:
        """Show the reply of a command that `sim source` ran."""
        self._live.append(reply.text)
        if self._show_above is not None:
            self._show_above(reply)

    def _answer(self, reply: Reply) -> None:
        """Print the text of a reply."""
        self._printed += len(reply.text)
        self.out.add("".join(self._live))
        self._live.clear()
        self.end(self._now.name, self._now.number, reply)
        self.out.flush()
        self._cast.flush()
