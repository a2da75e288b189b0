"""`help`, and `info` without a topic: generated from the command table."""

from __future__ import annotations

from device.guest.keys import KEYS, MODELLED_KEYS
from device.guest.table import PROFILES
from hmp.monitor import grammar
from hmp.monitor.drawn import Cell, Drawn
from hmp.monitor.registry import COMMANDS, TABLE, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hmp.monitor.monitor import Arguments, Monitor, Reply

    Line = tuple[Command, str]
    """A command, and the text before its name, such as `info `."""


def help_line(command: Command, parent: str = "") -> str:
    """Return `NAME ARGS -- TEXT`. Programs that ask for help split such lines at the first blank."""
    return f"{parent}{command.name} {command.usage} -- {command.help}\n"


def _topics(command: Command) -> list[Line]:
    """Return a line for each topic of a command that has topics."""
    # A command with several names is in the table several times; dict.fromkeys keeps one.
    return [(topic, f"{command.name} ") for topic in dict.fromkeys((command.topics or {}).values())]


def _drawn(lines: Sequence[Line | str]) -> Drawn:
    """Return help lines and headings as text with its rows (Drawn)."""
    text: list[str] = []
    rows: list[Sequence[Cell]] = []
    for line in lines:
        if isinstance(line, str):
            text.append(f"[{line}]\n")
            rows.append([("dim", f"[{line}]")])
        else:
            command, parent = line
            text.append(help_line(command, parent))
            rows.append([("name", f"{parent}{command.name} {command.usage}".rstrip()), command.help])
    return Drawn.of("".join(text), rows)


def help(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Print every command, one command, or the topics of one that has topics."""
    words = _words(arguments.get("name", ""))
    if not words:
        lines: list[Line | str] = []
        for command in COMMANDS:
            lines += [command.heading, (command, ""), *_topics(command)] if command.heading else [(command, "")]
        front = monitor.machine.front
        # A file of --replies may answer lines that hmp does not know; help should list what works.
        added = () if front is None or front.replies is None else front.replies.hmp
        lines += [f"{line}  -- answered by --replies\n" for line in added if line.split()[0] not in TABLE]
        return _drawn(lines)
    table, path = TABLE, ""
    for position, word in enumerate(words):
        found = table.get(word)
        if found is None:
            return _unknown(reply, " ".join(words[: position + 1]))
        if found.topics is None:
            drawn = _drawn([(found, path)])
            # Only in the rows for a terminal: programs that read help expect one line for a command.
            if found.complete == ["guest"]:
                drawn.rows = [*drawn.rows, *_guests()]
            return drawn
        if position + 1 == len(words):
            return _drawn([*[(found, "")] * bool(found.heading), *_topics(found)])
        table, path = found.topics, f"{path}{found.name} "
    return ""


def _guests() -> list[Sequence[Cell]]:
    """Return a row for each guest, and for each key that some of them take."""
    rows: list[Sequence[Cell]] = [[("dim", "[guests]")]]
    rows += [(("name", each.name), each.help) for each in PROFILES.values()]
    rows.append([("dim", "[keys]")])
    for key, (_, help) in KEYS.items():
        value, _, what = help.partition(": ")
        # Name the guests only for keys that not all modelled guests take; else the line would list nearly all guests.
        some = "" if key in MODELLED_KEYS else f" ({', '.join(n for n, each in PROFILES.items() if key in each.keys)})"
        rows.append((("name", f"{key}={value}"), what + some))
    return rows


def _words(text: str) -> list[str]:
    """Return the words of `text`; each may be in quotes."""
    words: list[str] = []
    at = 0
    while (found := grammar.string(text, at)) is not None:
        word, at = found
        words.append(word)
    return words


def _unknown(reply: Reply, typed: str) -> str:
    reply.failed = True
    return f"unknown command: '{typed}'\n"


def info(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """List the topics."""
    return _drawn(_topics(TABLE["info"]))
