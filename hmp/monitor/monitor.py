"""The human monitor: it takes a line and returns a reply, which may be pending. It uses no terminal and no socket."""

from __future__ import annotations

from device.errors import MisuseError
from device.machine.requests import Task
from hmp.monitor import BLANKS, CommandError, HostRefused, SyntaxRefused, escape, skip_blanks
from hmp.monitor.registry import TABLE, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from device.machine.machine import Machine
    from hmp.monitor.dialects import Dialect

Arguments: TypeAlias = "dict[str, Any]"
"""The arguments of a command, by name."""

HISTORY_LIMIT = 64
"""The most lines that are kept, as in QEMU 7.2."""

NAME_LIMIT = 255
"""The most characters of a command's name that are compared, as in QEMU's buffer of 256 bytes."""

COLUMNS = 80
"""The default width, also for pipes: nearly every screen has at least so many columns."""

_PARSED_KEPT, _PARSED_LENGTH = 256, 80
"""How many parsed lines are kept, and the most characters of one. Without the second limit a client could fill a
megabyte with them."""


class Reply:
    """The result of a line. While it is `pending`, the monitor is suspended.

    `text` is what the monitor prints. `failed` says whether the command failed, `stale` whether it printed old
    statistics. `error` is set if the command failed after a wait; QMP makes an error of it. `refused` is set if the
    command needs `Monitor.host_files`; QMP makes an error of it too. `until` is the host time (ns) at which the wait
    ends by itself, or None if that is not known; countdowns use it.
    """

    # Defaults of the class, and not attributes that __init__ sets: a reply is made for every line, and this is faster.
    text = ""
    failed = False
    stale = False
    pending = False
    refused: HostRefused | None = None
    error: MisuseError | None = None
    until: int | None = None
    question: str | None = None
    """With --attach, a question that a person has to answer with yes before `go_on` runs the line."""
    go_on: Callable[[], None] | None = None
    on_done: Callable[[Reply], None] | None = None
    _cancel: Callable[[], None] | None = None

    def suspend(self, cancel: Callable[[], None]) -> None:
        """Begin a wait; `cancel` is called if the wait is given up."""
        self.pending = True
        self._cancel = cancel

    def finish(self, text: str, *, failed: bool = False, stale: bool = False) -> None:
        """End the wait with the text to print; does nothing if it has ended already."""
        if not self.pending:
            return
        self.pending = False
        # The cancel function holds the request, and through it the machine: do not keep it longer than the wait.
        self._cancel = None
        self.text, self.failed, self.stale = text, failed, stale
        if self.on_done is not None:
            self.on_done(self)

    def fail(self, error: MisuseError) -> None:
        """End the wait with an error."""
        self.error = error
        self.finish(f"Error: {error}\n", failed=True)

    def follow(self, outcome: object, say: Callable[[int], str] = lambda result: "") -> str | None:
        """Wait for a task of the guest and print `say(result)`.

        If `outcome` is a result already, return its text at once.
        """
        if not isinstance(outcome, Task):
            return say(outcome if isinstance(outcome, int) else 0)
        self.suspend(outcome.cancel)
        self.until = outcome.deadline
        outcome.on_done = lambda task: self.finish(say(task.result)) if task.error is None else self.fail(task.error)
        return None

    def cancel(self) -> None:
        """Give the prompt back at once and print nothing. An answer may still come later; it is stored."""
        if self.pending:
            # First end the wait, then call: the function may reach this reply again.
            cancel, self._cancel = self._cancel, None
            self.pending = False
            if cancel is not None:
                cancel()


class History:
    """Lines, oldest first. All clients of an address share them, and they stay when a client leaves.

    The client that typed a line gets it back unchanged. Others get it escaped, so that no client controls another's
    terminal. As in QEMU 7.2 a repeated line moves to the end, empty lines are not kept, and lines of blanks are.
    """

    def __init__(self) -> None:
        self._lines: dict[str, object] = {}  # each line, and the client that typed it last
        self._newest = ""

    def __len__(self) -> int:
        return len(self._lines)

    def shown(self, index: int, reader: object) -> str:
        """Return the line at `index` as `reader` may see it."""
        line, owner = list(self._lines.items())[index]
        return line if owner is reader else escape(line)

    def add(self, line: str, owner: object = None) -> bool:
        """Add `line`, typed by `owner`, as the newest; drop the oldest if there are too many.

        Returns whether an editor goes to the end of its history afterwards. QEMU's stays where it is after an empty
        line, and after a repeated line in a full history.

        The number of lines never falls, so an editor's place in the history stays valid while other clients add lines.
        """
        lines = self._lines
        if not line:
            return False
        # Scripts often repeat a line. This saved 600 of 72,187 instructions a piped line (callgrind, Python 3.11).
        if line == self._newest:
            lines[line] = owner
            return len(lines) < HISTORY_LIMIT
        if line in lines:
            del lines[line]
        elif len(lines) == HISTORY_LIMIT:
            del lines[next(iter(lines))]
        self._newest = line
        lines[line] = owner
        return True

    def entries(self) -> list[str]:
        """All lines, oldest first, as `info history` numbers them from 0. A copy."""
        return list(self._lines)


class Monitor:
    """One monitor of a machine. `execute` raises nothing for any line.

    `dialect` says how `info balloon` answers. `history` has what `info history` shows; the front end adds the lines to
    it. For human-monitor-command it stays empty, as in QEMU.
    """

    def __init__(self, machine: Machine, dialect: Dialect, history: History | None = None) -> None:
        self.machine = machine
        self.dialect = dialect
        self.history = History() if history is None else history
        self.columns: Callable[[], int] = lambda: COLUMNS
        """How wide plots may be; a front end with another screen changes it."""
        self.alone = True
        """Whether there is no other monitor, which could move a manual clock while this one waits."""
        self.host_files = False
        """Whether commands that start programs or name files of this host may run. For clients of sockets it is off by
        default."""
        self.client = 0
        """The number of its client, or 0 if the monitor is not on a socket."""
        self.before_real_guest: Callable[[], Callable[[], object]] | None = None
        """Called before this monitor reboots the machine into a guest of another process. The function that it returns
        is called after the reboot."""
        self.live: Callable[[Callable[[], str]], None] | None = None
        """On a terminal: shows the text that a function returns in place of the last text, and calls the function again
        during the wait."""
        self.show_reply: Callable[[Reply], None] | None = None
        """On a terminal: shows the reply to a line of a script at once."""
        self.typed: list[tuple[str, bool]] = []
        """The lines that a person typed, and whether they succeeded; the front end adds them for `sim save`."""
        self.sourcing = self.sourced = 0
        """How many scripts run within one another, and how many lines they have in all."""
        self._parsed: dict[str, tuple[Callable[..., str | None], Arguments]] = {}

    def execute(self, line: str) -> Reply:
        """Run one line. If the reply is `pending`, its `on_done` is called later; else it is complete."""
        reply = Reply()
        try:
            # Scripts that measure or poll repeat a few lines, and parsing takes longer than most commands.
            known = self._parsed.get(line)
            if known is None:
                known = self._parse(line)
                if known is None:
                    return reply
            run, arguments = known
            text = run(self, arguments, reply)
            if text is not None:
                reply.text = text
        except (CommandError, MisuseError) as error:
            reply.text, reply.failed = f"Error: {error}\n", True
            if isinstance(error, HostRefused):
                reply.refused = error
        except SyntaxRefused as error:
            reply.text, reply.failed = f"{error}\n", True
        return reply

    def _parse(self, line: str) -> tuple[Callable[..., str | None], Arguments] | None:
        """Find the command and read its arguments; None for an empty line. Raises SyntaxRefused and HostRefused."""
        if self.machine.front is not None and self.machine.front.replies is not None:
            # --replies goes before the table, so that a file can replace the answer to any line. Such a line is not
            # kept: the file decides each time.
            text = self.machine.front.replies.line(line)
            if text is not None:
                return lambda monitor, arguments, reply: text, {}
        command, at = find_command(line)
        if command is None:
            return None
        # Before the arguments are read: the errors of arguments would tell a client which files exist.
        if command.host and not self.host_files:
            raise HostRefused
        arguments = _arguments(self.machine, command, line, at)
        found = command.handler(), arguments
        if len(line) <= _PARSED_LENGTH:
            if len(self._parsed) >= _PARSED_KEPT:
                self._parsed.clear()
            self._parsed[line] = found
        return found


def _arguments(machine: Machine, command: Command, line: str, at: int) -> Arguments:
    """Read the arguments at `at`. Raises SyntaxRefused."""
    if at == len(line) and not command.types:  # most lines have no arguments, and need not import the grammar
        return {}
    from hmp.monitor import grammar

    found: Arguments = {}
    try:
        return grammar.arguments(command.parameters, command.name, line, at, found)
    except SyntaxRefused as error:
        if found.get("fmt"):  # in QEMU it stays the format of `print`, whatever is wrong with the rest
            from hmp.monitor.emulated import emulated

            emulated(machine).format = found["fmt"]
        typed = line[:at].rstrip(BLANKS)  # leading blanks stay, as in QEMU
        # The letter of a lone `-` is a NUL, which ends QEMU's text, with its newline.
        text = f"{error}\n".removesuffix("\0\n")
        raise SyntaxRefused(f'{text}Try "help {typed}" for more information') from None


def find_command(line: str) -> tuple[Command | None, int]:
    """Return the command of `line` and the position of its arguments, or (None, 0) for a blank line.

    A name ends at a blank or `/`. Raises SyntaxRefused for an unknown one, in QEMU's words.
    """
    table = TABLE
    at = 0
    while True:
        start = at = skip_blanks(line, at)
        end = len(line)
        if start == end:
            return None, 0
        while at < end and line[at] != "/" and line[at] not in BLANKS:
            at += 1
        command = table.get(line[start : min(at, start + NAME_LIMIT)])
        if command is None:
            raise SyntaxRefused(f"unknown command: '{line[:at]}'")
        at = skip_blanks(line, at)
        # `info` alone is a command of its own: it lists the topics.
        if command.topics is None or at == end:
            return command, at
        table = command.topics
