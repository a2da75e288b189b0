"""The monitor on pipes, scripts and -c: no prompt, no escape codes, only what the commands print."""

from __future__ import annotations

from hmp.monitor.errors import MAX_LINE, TOO_LONG, UnreadableError
from hmp.streams import Output, complain, poll_once, read_lines, wait_for_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from device.machine.machine import Machine
    from hmp.monitor.monitor import Monitor, Reply

    Source = tuple[str, "int | list[str]"]
    """What to run: its name for messages, and a descriptor to read or the lines themselves."""

OK, FAILED, USAGE, STALE, NO_CONNECTION, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 4, 130, 141
"""Exit statuses."""


def wait(machine: Machine, reply: Reply) -> None:
    """Wait for a suspended reply, driving the machine's time. Returns early when the machine ends."""
    time = machine.time
    if machine.clock.warps:
        while reply.pending and not machine.over and time.warp():
            pass
        return
    while reply.pending and not machine.over:
        poll_once([-1, *machine.descriptors()], time.next_deadline(), machine)


KNOWN_LINES, KNOWN_LENGTH = 64, 80
"""Lines that are kept decoded, and how long they may be: what is piped by the thousand is mostly the same."""


class Runner:
    """Runs lines on a monitor and keeps the score.

    `echo` prints each command behind a prompt, `stop_on_error` ends at the first that fails. `status` is what to exit
    with.
    """

    __slots__ = ("_echo", "_known", "_machine", "_monitor", "_out", "_stop", "failed", "stale")

    def __init__(self, machine: Machine, monitor: Monitor, *, echo: bool = False, stop_on_error: bool = False) -> None:
        self._machine = machine
        self._monitor = monitor
        self._echo = echo
        self._stop = stop_on_error
        self._out = Output()
        self._known: dict[bytes | None, str] = {}
        self.failed = False
        self.stale = False

    def print_to(self, out: Output) -> None:
        """Print through `out` from now on."""
        self._out = out

    def run(self, sources: Iterable[Source]) -> bool:
        """Run every line of every source, in order; returns whether to go on, False once the machine ended.

        Raises OSError when stdout cannot be written and KeyboardInterrupt on SIGINT.
        """
        try:
            for name, source in sources:
                if isinstance(source, int):
                    lines: Iterable[bytes | None] = self._read(source)
                else:
                    lines = [line.encode("utf-8", "surrogateescape") for line in source]
                try:
                    if not self._run(name, lines):
                        return False
                except UnreadableError as error:
                    self.unreadable(name, error)
                    if self._stop:
                        return False
        finally:
            self._out.flush()
        return True

    def _read(self, descriptor: int) -> Iterator[bytes | None]:
        def before_blocking() -> None:
            self._out.flush()
            wait_for_input(descriptor, self._machine)

        return read_lines(descriptor, before_blocking)

    def _run(self, name: str, lines: Iterable[bytes | None]) -> bool:
        machine = self._machine
        begin, end = self.begin, self.end
        time, simulated = machine.time, machine.clock.simulated
        for number, raw in enumerate(lines, 1):
            if not simulated:
                time.run_due()
            reply = begin(name, number, raw)
            if reply is not None:
                if reply.pending:
                    self.flush()
                    wait(machine, reply)
                end(name, number, reply)
            if machine.over or (self.failed and self._stop):
                return False
        return True

    @property
    def over(self) -> bool:
        """Whether to run no more lines: the machine ended, or a command failed and that is to stop us."""
        return self._machine.over or (self.failed and self._stop)

    def begin(self, name: str, number: int, raw: bytes | None) -> Reply | None:
        """Run a line; returns its reply, to be passed to `end` once it is complete, or None for a line without one.

        None as `raw` is a line that was too long. Raises OSError when stdout cannot be written.
        """
        line = self._known.get(raw)
        if line is None:
            line = self._text(name, number, raw)
            if not line:
                return None
        if self._echo:
            self._out.add(f"(qemu) {line}\n")
        self._monitor.history.add(line)
        return self._monitor.execute(line)

    def _text(self, name: str, number: int, raw: bytes | None) -> str:
        """Return the command that a line holds; empty for a blank line, a comment, and one that is refused."""
        line = "" if raw is None else raw.decode("utf-8", "surrogateescape")
        if raw is None or len(line) > MAX_LINE:
            self._out.add(f"{TOO_LONG}\n")
            self._failed(name, number, TOO_LONG)
            return ""
        if line.lstrip()[:1] in ("", "#"):
            return ""
        if len(self._known) < KNOWN_LINES and len(line) < KNOWN_LENGTH:
            self._known[raw] = line
        return line

    def end(self, name: str, number: int, reply: Reply) -> None:
        """Print a complete reply and note how it went. Raises OSError when stdout cannot be written."""
        text = reply.text
        if text:
            self._out.add(text)
        if reply.failed:
            self._failed(name, number, text.partition("\n")[0])
        if reply.stale:
            self.stale = True

    def unreadable(self, name: str, error: UnreadableError) -> None:
        """Tell that a source could not be read to its end, and count it as a failed command."""
        self.failed = True
        self._out.flush()
        complain(f"{name}: cannot be read: {error}")

    def note(self, reply: Reply) -> None:
        """Note whether a reply had to show old statistics."""
        if reply.stale:
            self.stale = True

    def flush(self) -> None:
        """Write what was printed. Raises OSError."""
        self._out.flush()

    def _failed(self, name: str, number: int, text: str) -> None:
        self.failed = True
        self._out.flush()
        complain(f"{name}:{number}: command failed: {text}")

    def status(self, *, fail_stale: bool) -> int:
        """Return the exit status."""
        if self.failed:
            return FAILED
        return STALE if self.stale and fail_stale else OK
