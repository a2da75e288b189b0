"""The human monitor of a running virtual machine. QEMU runs its own commands; hmp's are answered here."""

from __future__ import annotations

from functools import partial
from typing import Any

from device.machine.machine import NO_BALLOON
from device.machine.requests import PENDING, TIMED_OUT, UNSUPPORTED, StatsRequest
from hmp.attach.link import ANSWER_LIMIT, LONG_LIMIT, BusyError, LinkError
from hmp.attach.machine import Attached, Steps
from hmp.monitor import BLANKS, CommandError, SyntaxRefused, grammar, skip_blanks
from hmp.monitor.completion import Candidate
from hmp.monitor.dialects import AGELESS, Dialect
from hmp.monitor.monitor import History, Monitor, Reply
from hmp.monitor.registry import SIM, TABLE
from hmp.streams import complain

FREE = frozenset(["info", "help", "?", "print", "p", "x", "xp", "gva2gpa", "qom-list", "qom-get", "balloon", "cpu"])
"""Commands that neither stop the VM nor change it permanently. A list of dangerous commands was rejected, because
it would never be complete: even a loadvm that fails leaves the VM paused."""

KEPT = ("sim stats", "sim chart", "sim watch")
"""The `sim` commands that work here: they show the samples that hmp has seen."""

NOTHING_SIMULATED = "there is nothing to simulate: this VM is real (sim stats, sim chart and sim watch work)"

QUESTION = "{} may change or stop this VM. Run it? [y/N] "


def failed(text: str) -> bool:
    """Return whether a command of QEMU's failed. human-monitor-command returns no status, so its text is examined."""
    last = text.rstrip("\n").rpartition("\n")[2]
    return text.startswith(("Error: ", "unknown command: ")) or last.startswith('Try "help ')


def first_word(line: str) -> str:
    """Return the name of the command on a line. It ends at a blank or `/`."""
    start = end = skip_blanks(line, 0)
    while end < len(line) and line[end] != "/" and line[end] not in BLANKS:
        end += 1
    return line[start:end]


class AttachedMonitor(Monitor):
    """One monitor of a running VM.

    With `asks` a person is asked before a command that may stop the VM. Without it such a command is refused, unless
    `allowed` is true. With `reports_stale` the reason is printed on stderr if an answer was not new. `end_reported` is
    true once a reply has reported the end of QEMU.
    """

    def __init__(self, machine: Attached, dialect: Dialect, history: History | None = None) -> None:
        super().__init__(machine, dialect, history)  # type: ignore[arg-type]
        self.attached = machine
        self.allowed = self.reports_stale = self.end_reported = False
        self.cpu: int | None = None
        """The CPU of the `cpu` command. human-monitor-command does not keep it, so it is sent with each line."""

    def execute(self, line: str) -> Reply:
        """Run one line, here or in QEMU."""
        words = line.split()
        name = " ".join(words[:2])
        if not words:
            return Reply()
        if name == "info balloon" and self.dialect.waits and len(words) == 2:
            return self._info_balloon()
        # QEMU does not see the lines that are typed here, so its own history is of no use.
        if name in KEPT or line.strip() == "info history":
            return super().execute(line)
        reply = Reply()
        if words[0] == "sim":
            reply.text, reply.failed = f"Error: {NOTHING_SIMULATED}\n", True
        # In QEMU's monitor `quit` ends the VM. A person who only wants to leave the monitor would lose the VM, so here
        # `quit vm` does that.
        elif line.strip() in ("quit", "q"):
            self.attached.quit()
            reply.text = f"left {self.attached.guest.name} running\n"
        else:
            if line.strip() in ("quit vm", "q vm"):
                line = words[0]
            self._may_run(line, reply)
        return reply

    # Statistics.

    def _info_balloon(self) -> Reply:
        machine, reply = self.attached, Reply()
        request = machine.request_stats(machine.timeout)
        if request.state is PENDING:
            reply.suspend(partial(machine.requests.cancel, request))
            reply.until = request.deadline
            request.on_done = partial(self._request_ended, reply)
        else:  # the connection was lost at once
            reply.pending = True
            self._request_ended(reply, request)
        return reply

    def _request_ended(self, reply: Reply, request: StatsRequest) -> None:
        machine = self.attached
        question = machine.question
        why = question.why or f"{machine.link.name}: no answer"
        if machine.guest.ended:
            self.end_reported = True
            reply.finish(f"Error: {machine.guest.ended}\n", failed=True)
        elif machine.device is None:
            reply.finish(f"Error: {why if request.state is TIMED_OUT else NO_BALLOON}\n", failed=True)
        else:
            stale, timeout = request.state is UNSUPPORTED, AGELESS
            if request.state is TIMED_OUT:
                assert request.deadline is not None  # noqa: S101
                asked = request.deadline - machine.timeout
                # If only putting the interval back takes too long, the guest has answered in time.
                if stale := question.came <= asked:
                    # last-update has whole seconds. The numbers are at least as old as the request.
                    stats, timeout = machine.device.stats, machine.timeout
                    stats.held, stats.since = None, min(stats.since, asked)
            if stale and self.reports_stale:
                complain(f"not fresh: {why}")
            reply.finish(self.dialect.line(machine.device, timeout), stale=stale)  # type: ignore[arg-type]

    # QEMU's commands.

    def _may_run(self, line: str, reply: Reply) -> None:
        name = first_word(line)
        if name in FREE or self.allowed:
            self._send(line, reply)
        elif self.asks:
            reply.question = QUESTION.format(name)
            reply.go_on = partial(self._send, line, reply)
        else:
            text = f"'{name}' may change or stop this VM: --allow-disruptive lets scripts run it"
            reply.text, reply.failed = f"Error: {text}\n", True

    def _send(self, line: str, reply: Reply) -> None:
        # Ctrl-C only ends the wait: QEMU has no way to cancel a command that it got.
        reply.suspend(lambda: None)
        if first_word(line) == "balloon" and self.attached.device is not None:
            self._targeted(line)  # before the reply, because QEMU may send its BALLOON_CHANGE first
        self.attached.run(self._run(line), partial(self._printed, line, reply))

    def _run(self, line: str) -> Steps:
        arguments: dict[str, object] = {"command-line": line}
        if self.cpu is not None:
            arguments["cpu-index"] = self.cpu
        # savevm or migrate may take minutes, a query does not.
        limit = ANSWER_LIMIT if first_word(line) in FREE else LONG_LIMIT
        return (yield "human-monitor-command", arguments, limit).replace("\r\n", "\n")

    def _printed(self, line: str, reply: Reply, value: Any, error: Exception | None) -> None:
        words = line.split()
        later = isinstance(error, BusyError) and self.asks  # a person can wait until QEMU answers again
        if isinstance(error, LinkError) and not later:
            # QEMU ends before it can answer `quit`.
            if words[0] in ("quit", "q"):
                self.attached.quit()
                reply.finish("")
                return
            self.end_reported = True
            self.attached.lost(str(error))
        if error is not None:
            reply.finish(f"Error: {error}\n", failed=True)
            return
        text = str(value)
        if text and not text.endswith("\n"):
            text += "\n"
        # QEMU confirmed the command, so note what it changed for us.
        if not failed(text):
            if words[0] == "cpu" and words[1:] and words[1].isdigit():
                self.cpu = int(words[1])
            elif words[0] in ("quit", "q"):
                self.attached.quit()
        reply.finish(text, failed=failed(text))

    def _targeted(self, line: str) -> None:
        """Remember the target of `balloon`, because QEMU does not report it."""
        device = self.attached.device
        try:
            asked = grammar.arguments(TABLE["balloon"].parameters, "balloon", line, line.index("balloon") + 7)["value"]
        except (CommandError, SyntaxRefused, ValueError):
            return
        assert device is not None  # noqa: S101
        device.target = min(max(0, asked), device.ram)
        device.awaited = device.target != device.actual


class Words:
    """Completes commands, from QEMU's own help."""

    def __init__(self) -> None:
        self.commands: dict[str, str] = {}
        self.topics: dict[str, str] = {}

    def learn(self, commands: str, topics: str) -> None:
        """Read the output of `help` and of `help info`."""
        self.commands = dict(_entries(commands, 0))
        self.commands.pop("info", None)
        self.topics = {**dict(_entries(topics, 1)), "history": "the lines typed so far"}

    def complete(self, line: str) -> list[Candidate]:
        """Return how `line`, the text before the cursor, can continue."""
        start = max(line.rfind(blank) for blank in BLANKS) + 1
        before = line[:start].split()
        if not before:
            offers = {**self.commands, "info": "show something about the VM", "quit": "end hmp; the VM goes on",
                      "sim": "the statistics that hmp has seen"}  # fmt: skip
        elif before == ["info"]:
            offers = self.topics
        elif before == ["sim"]:
            offers = {each.name: each.help for each in SIM if f"sim {each.name}" in KEPT}
        elif before[0] in ("help", "?"):
            offers = self.topics if before[1:] == ["info"] else self.commands if len(before) == 1 else {}
        elif before in (["quit"], ["q"]):
            offers = {"vm": "end the VM itself"}
        else:
            offers = {}
        word = line[start:]
        more = "info", "sim", "help"
        return [Candidate(name, start, help, more=not before and name in more) for name, help in sorted(offers.items())
                if name.startswith(word)]  # fmt: skip


def _entries(text: str, at: int) -> list[tuple[str, str]]:
    """Return (name, help) of each line `NAME|ALIAS ARGS -- TEXT`; the name is the word with the number `at`."""
    found = []
    before = ""
    for line in text.splitlines():
        line, before = f"{before}{line}", ""
        if " -- " not in line:
            before = f"{line} "  # the arguments go on in the next line
        usage, dashes, help = line.partition(" -- ")
        words = usage.split()
        if dashes and len(words) > at:
            shown = " ".join([*words[at + 1 :], help.strip()])
            found += [(name, shown) for name in words[at].split("|") if name.isprintable()]
    return found
