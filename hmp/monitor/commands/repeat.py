"""`sim watch`, `sim source` and `sim save`: run a line repeatedly, run the lines of a file, write lines to a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial

from device.clock import MS, SECOND, Timer
from device.errors import MisuseError
from device.units import format_seconds, format_size, parse_seconds
from hmp.monitor import MAX_LINE, TOO_LONG, UTF_16, CommandError
from hmp.monitor.commands import STANDSTILL, balloon_device
from hmp.monitor.commands.chart import draw
from hmp.monitor.commands.sim import MAX_DELAY, plural, stat_cells, stats_meaning, stats_state
from hmp.monitor.drawn import Cell, Drawn
from hmp.monitor.monitor import Arguments, Monitor, Reply

MIN_INTERVAL, MAX_ROUNDS = 100 * MS, 100_000
"""The shortest time between two rounds, and the most rounds."""

WATCHED = ("info", "sim stats", "sim chart", "qom-get")
"""The commands that can be watched: those that change nothing."""

_ACTUAL = -1
"""Stands for the balloon's size among the tags of statistics."""

TREND = 16
"""How many rounds the trend shows."""

MAX_NESTED, MAX_LINES, MAX_SCRIPT = 10, 10_000, 1 << 20
"""How deep scripts may call one another, the most lines that one `sim source` runs, and the most bytes of a script.
Without the first two a script that calls itself would never end."""


class _Lines:
    """Runs lines one after the other for one reply, which waits while a line waits.

    `show` gets the reply of each line.
    """

    def __init__(
        self, monitor: Monitor, reply: Reply, lines: Iterator[str | Timer], end: Callable[[], str],
        show: Callable[[Reply], None],
    ) -> None:  # fmt: skip
        self._monitor, self._reply, self._lines, self._end, self._show = monitor, reply, lines, end, show
        self.failed = self._stale = False

    def run(self) -> str | None:
        """Run lines until one waits. Returns None then, and after the last line the text that `end` makes."""
        for line in self._lines:
            if self._monitor.machine.over:
                break
            self._reply.until = None
            # A timer stands for a pause between two rounds. It calls go_on when it fires (see watch).
            if not isinstance(line, str):
                self._reply.suspend(partial(self._cancel, line.cancel))
                return None
            inner = self._monitor.execute(line)
            # The line waits, for a guest or a pause; its end calls _done, which runs the next line.
            if inner.pending:
                self._reply.suspend(partial(self._cancel, inner.cancel))
                # The countdown of the prompt shows the wait of the line that runs now.
                self._reply.until = inner.until
                inner.on_done = self._done
                return None
            self._note(inner)
        return self._end()

    def _cancel(self, wait: Callable[[], object]) -> None:
        wait()
        self._end()

    def _note(self, inner: Reply) -> None:
        self.failed |= inner.failed
        self._stale |= inner.stale
        self._show(inner)

    def _done(self, inner: Reply) -> None:
        self._note(inner)
        self.go_on()

    def go_on(self) -> None:
        """Go on after a wait."""
        text = self.run()
        if text is not None:
            self._reply.finish(text, failed=self.failed, stale=self._stale)

    def begin(self) -> str | None:
        """Start."""
        text = self.run()
        self._reply.failed, self._reply.stale = self.failed, self._stale
        return text


def watch(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Run a command repeatedly."""
    machine = monitor.machine
    every, rounds, line = _watched(arguments.get("what", ""))
    # Only a person at a terminal can end it with Ctrl-C. On a simulated clock the rounds take no time, so it would
    # fill the screen until it is stopped.
    if rounds is None and (monitor.live is None or machine.clock.simulated):
        raise CommandError("sim watch needs a number of rounds here, such as: sim watch 1 10")
    if machine.clock.simulated and not machine.clock.warps:
        raise CommandError(STANDSTILL)
    texts: list[str] = []
    past: list[dict[int, int]] = []

    def turns() -> Iterator[str | Timer]:
        count = 0
        while True:
            # From the beginning of the round: a guest that takes long to answer does not make the rounds longer.
            due = machine.clock.now() + every
            yield line
            count += 1
            if count == rounds or state.failed:
                return
            yield machine.time.after(max(0, due - machine.clock.now()), lambda: state.go_on())

    def show(inner: Reply) -> None:
        if monitor.live is None or inner.failed:
            texts.append(inner.text)
        else:
            # These two show statistics, which get the change and the trend of each value in addition.
            plain = line not in ("info balloon", "sim stats")
            monitor.live((lambda: inner.text) if plain else _trend(monitor, inner.text, past))

    state = _Lines(monitor, reply, turns(), lambda: "".join(texts), show)
    return state.begin()


def _watched(text: str) -> tuple[int, int | None, str]:
    """Return the time between rounds (ns), their number or None, and the command. Raises CommandError."""
    words = text.split()
    every, rounds = SECOND, None
    if words and words[0][:1].isdigit():
        try:
            every = parse_seconds(words.pop(0))
        except MisuseError as error:
            raise CommandError(f"sim watch: {error}") from None
        if not MIN_INTERVAL <= every <= MAX_DELAY:
            raise CommandError(f"sim watch takes {format_seconds(MIN_INTERVAL)} to {MAX_DELAY // SECOND} seconds")
        if words and words[0].isascii() and words[0].isdigit():
            word = words.pop(0)
            # A longer number is too large; 0 gives the error below without converting it.
            rounds = int(word) if len(word) < 9 else 0
            if not 1 <= rounds <= MAX_ROUNDS:
                raise CommandError(f"sim watch takes 1 to {MAX_ROUNDS} rounds, not {word}")
    line = " ".join(words) or "info balloon"
    if not any(line == each or line.startswith(f"{each} ") for each in WATCHED):
        raise CommandError(f"sim watch shows {', '.join(WATCHED[:-1])} and {WATCHED[-1]}, not '{line}'")
    return every, rounds, line


def _trend(monitor: Monitor, text: str, past: list[dict[int, int]]) -> Callable[[], str]:
    """Return a function that draws the size and each statistic with its change since the last round and its trend."""
    machine = monitor.machine
    balloon = balloon_device(machine)
    sample = balloon.stats.sample
    reported = [] if sample is None else sorted({**sample.values, **sample.unknown}.items())
    # The size is no statistic of the guest's, but it is what `balloon` changes, and the toolbar is hidden meanwhile.
    known = {_ACTUAL: balloon.actual, **dict(reported)}
    past[:] = [*past, known][-TREND:]
    rows: list[list[Cell]] = []
    sizes: list[list[Cell]] = [["actual", format_size(balloon.actual)]]
    for (tag, value), cells in zip(known.items(), sizes + stat_cells(reported), strict=True):
        values = [each[tag] for each in past if tag in each]
        change = value - (values[-2] if len(values) > 1 else value)
        # Between the lowest and the highest value of these rounds, unlike sim chart: a trend shows direction, not
        # size.
        low = min(values)
        trend = draw([each - low for each in values], max(values) - low, 1)[0]
        rows.append([*cells[:2], (("notice" if change else "dim"), f"{change:+,}" if change else "="), ("plot", trend)])
    names = ("statistic", "", "change", "trend")

    # A function, because the terminal also calls it between the rounds, so that the age in the heading stays current.
    def drawn() -> str:
        device = machine.device
        heading = "" if device is None else (stats_meaning(machine), stats_state(machine, device))
        return Drawn.of(text, rows, heading=heading, names=names, right=(1, 2))

    return drawn


def source(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Run the commands of a file in this monitor."""
    if monitor.sourcing == 0:
        monitor.sourced = 0
    if monitor.sourcing >= MAX_NESTED:
        raise CommandError(f"sim source: scripts call one another at most {MAX_NESTED} deep")
    lines = _script(arguments["file"])
    # Counted before any of them runs, so a script that is too long does nothing.
    monitor.sourced += len(lines)
    if monitor.sourced > MAX_LINES:
        raise CommandError(f"sim source: more than {MAX_LINES} lines in all")
    texts: list[str] = []
    monitor.sourcing += 1

    def end() -> str:
        monitor.sourcing -= 1
        return "".join(texts)

    def show(inner: Reply) -> None:
        # On a terminal each reply is shown at once; elsewhere all text is the reply of this one command.
        if monitor.show_reply is None:
            texts.append(inner.text)
        else:
            monitor.show_reply(inner)

    return _Lines(monitor, reply, iter(lines), end, show).begin()


def _script(path: str) -> list[str]:
    """Return the commands of a script. Raises CommandError."""
    try:
        # O_NONBLOCK, because opening a FIFO would wait for its writer and stop all monitors; O_NOCTTY, so that a
        # terminal does not become ours.
        flags = os.O_NONBLOCK | os.O_NOCTTY
        with open(path, "rb", opener=lambda path, usual: os.open(path, usual | flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CommandError(f"sim source: '{path}' is not a regular file")
            data = file.read(MAX_SCRIPT + 1)
    except (OSError, ValueError) as error:
        raise CommandError(f"sim source: '{path}': {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_SCRIPT:
        raise CommandError(f"sim source: '{path}' has more than {MAX_SCRIPT >> 20} MiB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in data[:4]:
        raise CommandError(f"sim source: '{path}': {UTF_16}")
    # As for scripts on the command line: skip a byte order mark, keep bytes that are not UTF-8, and end lines only with
    # \n or \r\n.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = text.replace("\r\n", "\n").removesuffix("\r").split("\n")
    if any(len(line) > MAX_LINE for line in lines):
        raise CommandError(f"sim source: '{path}': {TOO_LONG}")
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def save(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Write the typed lines to a file as a script. Lines that failed become comments."""
    path, typed = arguments["file"], monitor.typed
    if not typed:
        raise CommandError("sim save: nothing was typed here yet")
    text = "".join([f"{line if worked else f'# {line}'}\n" for line, worked in typed])
    try:
        # x: never overwrite a file. The name may be a mistake, and an earlier script would be lost.
        with open(path, "xb") as file:
            try:
                file.write(text.encode("utf-8", "surrogateescape"))
                file.flush()
            except OSError:  # the disk is full, for example: half a script must not stay
                os.unlink(path)
                raise
    except FileExistsError:
        raise CommandError(f"sim save: '{path}' is there already: give another name") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"sim save: '{path}': {getattr(error, 'strerror', None) or error}") from None
    return f"{plural(len(typed), 'line')} in {path}\n"
