"""`help`, and `info` without a topic: generated from the table that dispatches."""

from __future__ import annotations

from hmp.monitor import grammar
from hmp.monitor.registry import COMMANDS, TABLE, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply


def help_line(command: Command, parent: str = "") -> str:
    """Return `NAME ARGS -- TEXT`, in the form that programs split at the first blank and people read."""
    return f"{parent}{command.name} {command.usage} -- {command.help}\n"


def topic_lines(command: Command) -> str:
    """Return a help line for each topic of a command that has topics."""
    topics = dict.fromkeys((command.topics or {}).values())
    return "".join(help_line(topic, f"{command.name} ") for topic in topics)


def help(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Print every command, one command, or the topics of one that has topics."""
    words = _words(arguments.get("name", ""))
    if not words:
        lines = []
        for command in COMMANDS:
            if command.heading:
                lines.append(f"[{command.heading}]\n{help_line(command)}{topic_lines(command)}")
            else:
                lines.append(help_line(command))
        front = monitor.machine.front
        added = () if front is None or front.replies is None else front.replies.hmp
        return "".join(
            [*lines, *[f"{line}  -- answered by --replies\n" for line in added if line.split()[0] not in TABLE]]
        )
    table, path = TABLE, ""
    for position, word in enumerate(words):
        found = table.get(word)
        if found is None:
            return _unknown(reply, " ".join(words[: position + 1]))
        if found.topics is None:
            return help_line(found, path)
        if position + 1 == len(words):
            own = help_line(found) if found.heading else ""
            return own + topic_lines(found)
        table, path = found.topics, f"{path}{found.name} "
    return ""


def _words(text: str) -> list[str]:
    """Return the words of `text`, each perhaps quoted."""
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
    return topic_lines(TABLE["info"])
