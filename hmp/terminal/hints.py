"""Hints for a person at the typed prompt. Scripts, pipes and clients never get them."""

from __future__ import annotations

from hmp.monitor import SyntaxRefused, escape, grammar
from hmp.monitor.drawn import Drawn
from hmp.monitor.monitor import find_command
from hmp.monitor.registry import TABLE, Command
from hmp.terminal import history_path

LEAVE = "quit, or Ctrl-D on an empty line, ends hmp"

_FIRST = ("try: help, sim, TAB to complete, F1 for the keys; quit leaves", "try: help, sim, TAB, F1; quit leaves")


def first_hint(columns: int) -> str:
    """Return the line below the banner while there is no history. Every version of it says how to leave."""
    return _fitting((*_FIRST, "quit leaves"), columns)


def no_history_hint(columns: int) -> str:
    """Return the line below the banner where no history file can be written."""
    path = escape(history_path() or "~/.local/state")
    long = f"what you type is not kept for the next session: cannot write {path}"
    return _fitting((long, "no history is kept"), columns)


def _fitting(lines: tuple[str, ...], columns: int) -> str:
    return next((line for line in lines if len(line) < columns), "")


KEYS = (
    ("TAB", "complete; again for the next entry, Enter takes it, Escape closes the menu"),
    ("Up, Down", "earlier lines; after a pause only those that begin with what is typed"),
    ("Right", "take the suggestion after the cursor"),
    ("Ctrl-R", "search the history"),
    ("Ctrl-C", "clear the line; while a command waits: give the prompt back"),
    ("Ctrl-D", "on an empty line: end hmp"),
    ("Ctrl-Z", "stop the job; fg goes on"),
    ("F1", "this list"),
    ("F4", "switch between the keys of emacs and vi (~/.inputrc sets the first)"),
)
"""The keys and what they do, for F1 and the docs."""

TIPS = {"sim": "try: help sim, sim hang, sim wake"}
"""Tips that are shown once, after a command that succeeded: a person who types only `sim` wants to know what to type
next."""

_ELSEWHERE = {
    "exit": "quit", "bye": "quit", "logout": "quit", "x": "quit", "history": "info history", "ls": "qom-list",
    "man": "help", "h": "help", "status": "info status", "version": "info version", "snapshots": "info snapshots",
}  # fmt: skip
"""Commands of other programs, and their names here."""

_HELP = ("help", "?", "-h", "--help")

_UNKNOWN = "unknown command: '"


def keys() -> Drawn:
    """Return the list of keys."""
    text = "".join([f"{key:<9} {what}\n" for key, what in KEYS])
    return Drawn.of(text, [(("name", key), what) for key, what in KEYS])


def advice(line: str, text: str) -> str:
    """Return a suggestion for a command that failed with `text`, or ""."""
    if text.startswith(_UNKNOWN):
        # The words before the command, such as `help` or `sim watch 1 10`, stay in front of it.
        line = line.lstrip()
        at = max(0, line.find(text.strip()[len(_UNKNOWN) : -1]))
        return _unknown(line[at:].split()).replace(": ", f": {line[:at]}", 1)
    # Imported here: only a failed command needs it.
    import re

    found = re.search(r"'([^']*)' .*\((?:one of|takes) (.*)\)$", text.strip())
    # The errors of sim end in the list of accepted words, so the nearest word of that list is the suggestion.
    return _meant(found[1], {name: name for name in found[2].split(", ")}) if found else ""


_UNFINISHED = ("expected", "expected for -f", "option -\0", "unexpected end of expression", "unterminated string")
"""The ends of errors that may go away when more is typed."""


def wrong(line: str) -> int:
    """Return the position from which the line is wrong, whatever is typed next; its length if it may become right."""
    try:
        command, at = find_command(line)
    except SyntaxRefused as error:
        # If the name is the last word of the line, more letters may still make it a command.
        typed = len(str(error)) - len(f"{_UNKNOWN}'")
        return len(line) if typed == len(line) and _may_go_on(line.split()) else 0
    if command is not None:
        try:
            grammar.arguments(command.parameters, command.name, line, at)
        except SyntaxRefused as error:
            if not str(error).endswith(_UNFINISHED):
                return at
    return len(line)


def _may_go_on(words: list[str]) -> bool:
    table: dict[str, Command] = TABLE
    for word in words[:-1]:
        table = getattr(table.get(word), "topics", None) or {}
    return any(name.startswith(words[-1]) for name in table)


def usage(line: str) -> str:
    """Return the arguments and help of a command, after its name and a blank were typed and before anything else."""
    try:
        command, at = find_command(line)
    except SyntaxRefused:
        return ""
    if command is None or at < len(line) or line[-1:] != " " or not command.usage:
        return ""
    return f"{command.usage}: {command.help}"


def _unknown(words: list[str]) -> str:
    table: dict[str, Command] = TABLE
    for at, word in enumerate(words):
        command = table.get(word)
        if command is None:
            before, rest = " ".join(words[:at]), " ".join(words[at + 1 :])
            if word in _HELP or words[0] in _HELP:
                return f"try: {f'help {before}'.strip()}" if word in _HELP else ""
            if rest and word.endswith(";"):
                return "try: one command a line"
            names = {name: f"{before} {name} {rest}".strip() for name in table}
            if not at:
                topics = {
                    topic: f"{each} {topic} {rest}".strip() for each in ("info", "sim") for topic in _topics(each)
                }
                # Of equal names the last table's is used: a command is the most likely.
                names = topics | _ELSEWHERE | names
            return _meant(word, names)
        if command.topics is None:
            return ""
        table = command.topics
    return ""


def _topics(name: str) -> dict[str, Command]:
    return TABLE[name].topics or {}


def _meant(word: str, names: dict[str, str]) -> str:
    # Imported here: only a failed command needs it.
    from difflib import get_close_matches

    word = word.lower()
    # Swapped letters are the most common typing error, but difflib may rate another name as nearer.
    swapped = [name for name in names if sorted(name) == sorted(word)]
    near = [word] if word in names else swapped or get_close_matches(word, names, 1)
    return f"did you mean: {names[near[0]]}" if near else ""
