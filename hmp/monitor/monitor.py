"""The human monitor: a line in, text or a wait out. No terminal, no socket, no clock in sight."""

from __future__ import annotations

from device.errors import MisuseError
from device.machine.requests import Task
from hmp.monitor import BLANKS, CommandError, HostRefused, SyntaxRefused, escape, skip_blanks
from hmp.monitor.registry import TABLE, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from device.machine.machine import Machine
    from hmp.monitor.dialects import Dialect
    from hmp.monitor.grammar import Arguments

HISTORY_LIMIT = 64
"""Lines kept, as QEMU 7.2."""

NAME_LIMIT = 255
"""Characters of a command's name that are looked at, as QEMU's buffer holds them."""

COLUMNS = 80
"""What everybody's screen has, and pipes get."""

_PARSED_KEPT, _PARSED_LENGTH = 256, 80
"""Lines that are kept with what they mean, and how long these may be."""


class Reply:
    """What became of a line. While `pending` the monitor is suspended.

    `text` is what the monitor prints, `failed` whether the command did, `stale` whether the statistics shown are old.
    `error` is that of a command that failed behind its wait; QMP has its own words around it.
    `refused` is the error of a command that needs `Monitor.host_files`, which QMP answers as an error of its own.
    `until` is the host time (ns) at which the wait ends by itself, or None where nobody knows: for countdowns.
    """

    # Defaults of the class, not slots filled one by one: one of these is made for every line.
    text = ""
    failed = False
    stale = False
    pending = False
    refused: HostRefused | None = None
    error: MisuseError | None = None
    until: int | None = None
    question: str | None = None
    """What a person has to say yes to before `go_on` runs the line after all: on a running VM."""
    go_on: Callable[[], None] | None = None
    on_done: Callable[[Reply], None] | None = None
    _cancel: Callable[[], None] | None = None

    def suspend(self, cancel: Callable[[], None]) -> None:
        """Wait; `cancel` is what takes the wait back."""
        self.pending = True
        self._cancel = cancel

    def finish(self, text: str, *, failed: bool = False, stale: bool = False) -> None:
        """End the wait with what is to be printed; nothing if it ended before."""
        if not self.pending:
            return
        self.pending = False
        self._cancel = None
        self.text, self.failed, self.stale = text, failed, stale
        if self.on_done is not None:
            self.on_done(self)

    def fail(self, error: MisuseError) -> None:
        """End the wait with an error."""
        self.error = error
        self.finish(f"Error: {error}\n", failed=True)

    def follow(self, outcome: object, say: Callable[[int], str] = lambda result: "") -> str | None:
        """Wait for a task of the guest and print what `say` makes of its result; return that of what is one already."""
        if not isinstance(outcome, Task):
            return say(outcome if isinstance(outcome, int) else 0)
        self.suspend(outcome.cancel)
        self.until = outcome.deadline
        outcome.on_done = lambda task: self.finish(say(task.result)) if task.error is None else self.fail(task.error)
        return None

    def cancel(self) -> None:
        """Give the prompt back at once, with nothing printed; what was asked may still come and is stored."""
        if self.pending:
            cancel, self._cancel = self._cancel, None
            self.pending = False
            if cancel is not None:
                cancel()


class History:
    """Lines, oldest first; shared by the clients of an address and kept when they go.

    Who typed a line gets it back as it was; others get it escaped, so that no client drives another's terminal.
    QEMU 7.2 behaviour: HISTORY_LIMIT lines; a repeated line moves to the end; empty lines are not kept, blank ones are.
    """

    def __init__(self) -> None:
        self._lines: dict[str, object] = {}  # to who typed it last
        self._newest = ""

    def __len__(self) -> int:
        return len(self._lines)

    def shown(self, index: int, reader: object) -> str:
        """Return the line at `index` as `reader` may see it."""
        line, owner = list(self._lines.items())[index]
        return line if owner is reader else escape(line)

    def add(self, line: str, owner: object = None) -> bool:
        """Note `line`, typed by `owner`, as the newest, at the cost of the oldest if there are too many.

        False: there was nothing to do.

        The number of lines never falls, so an editor's place in the history stays valid while other clients add lines.
        """
        lines = self._lines
        if not line:
            return False
        if line == self._newest:  # as scripts often do: no need to move it
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
    """One monitor on a machine. `execute` never raises for what was typed.

    `dialect` says how `info balloon` answers. `history` is what `info history` shows; the front end adds the lines
    to it. Callers without lines of their own (human-monitor-command) leave it empty, as in QEMU.
    """

    def __init__(self, machine: Machine, dialect: Dialect, history: History | None = None) -> None:
        self.machine = machine
        self.dialect = dialect
        self.history = History() if history is None else history
        self.columns = COLUMNS
        """What plots may take of a row; a front end on a narrower screen says so."""
        self.alone = True
        """Whether no other monitor can move a clock that stands still."""
        self.host_files = False
        """Whether what starts programs or names files of this host may run: off for clients of sockets."""
        self.client = 0
        """The number of the client that this is for; 0 for one that is not on a socket."""
        self.before_real_guest: Callable[[], Callable[[], object]] | None = None
        """Called before this monitor reboots the machine into a guest of another process; what it returns, after."""
        self.live: Callable[[Callable[[], str]], None] | None = None
        """Shows a text in place of the one before, where a person looks on, and asks for it again while it waits."""
        self.say: Callable[[Reply], None] | None = None
        """Shows the reply to a line of a script at once, where a person looks on."""
        self.typed: list[tuple[str, bool]] = []
        """The lines that a person typed, and whether they worked; the front end adds them."""
        self.sourcing = self.sourced = 0
        """How many scripts run within one another, and how many lines they have."""
        self._parsed: dict[str, tuple[Callable[..., str | None], Arguments]] = {}

    def execute(self, line: str) -> Reply:
        """Run one line. The reply is complete unless it says `pending`; then its `on_done` will be called."""
        reply = Reply()
        try:
            known = self._parsed.get(line)
            if known is None:
                known = self._parse(line)
                if known is None:
                    return reply
            run, arguments = known
            text = run(self, arguments, reply)
            if text is not None:
                reply.text = text
        except CommandError as error:
            reply.text, reply.failed = f"Error: {error.desc}\n", True
            if isinstance(error, HostRefused):
                reply.refused = error
        except MisuseError as error:
            reply.text, reply.failed = f"Error: {error}\n", True
        except SyntaxRefused as error:
            reply.text, reply.failed = f"{error}\n", True
        return reply

    def _parse(self, line: str) -> tuple[Callable[..., str | None], Arguments] | None:
        """Find the command and read its arguments; None for an empty line. Raises SyntaxRefused and HostRefused."""
        if self.machine.front is not None and self.machine.front.replies is not None:
            text = self.machine.front.replies.line(line)
            if text is not None:
                return lambda monitor, arguments, reply: text, {}
        command, at = find_command(line)
        if command is None:
            return None
        if command.host and not self.host_files:
            raise HostRefused
        arguments = _arguments(command, line, at)
        found = command.handler(), arguments
        if len(line) <= _PARSED_LENGTH:
            if len(self._parsed) >= _PARSED_KEPT:
                self._parsed.clear()
            self._parsed[line] = found
        return found


def _arguments(command: Command, line: str, at: int) -> Arguments:
    """Read the arguments at `at`. Raises SyntaxRefused."""
    if at == len(line) and not command.types:  # as with most lines: what reads arguments is not even imported
        return {}
    from hmp.monitor import grammar

    try:
        return grammar.arguments(command.parameters, command.name, line, at)
    except SyntaxRefused as error:
        typed = line[:at].rstrip(BLANKS)  # leading blanks stay, as in QEMU
        raise SyntaxRefused(f'{error}\nTry "help {typed}" for more information') from None


def find_command(line: str) -> tuple[Command | None, int]:
    """Return the command that `line` names and where its arguments begin; (None, 0) for a blank line.

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
        if command.topics is None or at == end:
            return command, at
        table = command.topics
