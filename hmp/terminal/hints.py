"""Lines of ours that help a person on at the typed prompt; nobody else gets them."""

from __future__ import annotations

from hmp.monitor import SyntaxRefused, grammar
from hmp.monitor.drawn import Drawn
from hmp.monitor.monitor import find_command
from hmp.monitor.registry import TABLE, Command

LEAVE = "quit, or Ctrl-D on an empty line, ends hmp"

_FIRST = ("try: help, sim, TAB to complete, F1 for the keys; quit leaves", "try: help, sim, TAB, F1; quit leaves")


def first(columns: int) -> str:
    """Return what is said below the banner while there is no history: how to leave is always in it."""
    return next((line for line in (*_FIRST, "quit leaves") if len(line) < columns), "")


KEYS = (
    ("TAB", "complete; again for the next entry, Enter takes it, Escape closes the menu"),
    ("Up, Down", "earlier lines; after a pause those that begin as what is typed"),
    ("Right", "take the suggestion behind the cursor"),
    ("Ctrl-R", "search the history"),
    ("Ctrl-C", "clear the line; while a command waits: give the prompt back"),
    ("Ctrl-D", "on an empty line: end hmp"),
    ("Ctrl-Z", "stop the job; fg goes on"),
    ("F1", "this list"),
    ("F4", "switch between the keys of emacs and vi (~/.inputrc says which come first)"),
)
"""The keys and what they do, for F1 and the docs."""

TIPS = {"sim": "try: help sim, sim hang, sim wake"}
"""What is said once behind a command that worked, to who looks where to go on."""

_ELSEWHERE = {
    "exit": "quit", "bye": "quit", "logout": "quit", "x": "quit", "history": "info history", "ls": "qom-list",
    "man": "help", "h": "help", "status": "info status", "version": "info version", "snapshots": "info snapshots",
}  # fmt: skip
"""What people type who come from elsewhere, and what it is called here."""

_HELP = ("help", "?", "-h", "--help")


def keys() -> Drawn:
    """Return what the keys do."""
    return Drawn.of(
        "".join([f"{key:<9} {what}\n" for key, what in KEYS]), [(("name", key), what) for key, what in KEYS]
    )


def advice(line: str, text: str) -> str:
    """Return what may have been meant by a command that failed with `text`, or nothing."""
    if text.startswith("unknown command"):
        return _unknown(line.split())
    import re

    found = re.search(r"'([^']*)' .*\((?:one of|takes) (.*)\)$", text.strip())
    return _meant(found[1], {name: name for name in found[2].split(", ")}) if found else ""


_UNFINISHED = ("expected", "unexpected end of expression", "unterminated string")
"""How errors end that more typing may mend."""


def wrong(line: str) -> int:
    """Return where what is typed begins to be wrong, whatever follows; the line's length while it may become right."""
    try:
        command, at = find_command(line)
    except SyntaxRefused as error:
        typed = len(str(error)) - len("unknown command: ''")
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
    """Return what the command that was typed takes, once its name is typed and a blank; nothing behind that."""
    try:
        command, at = find_command(line)
    except SyntaxRefused:
        return ""
    if command is None or at < len(line) or line[-1:] != " " or not command.usage:
        return ""
    return f"{command.usage}: {command.help}"


def _unknown(words: list[str]) -> str:
    if words[0] in _HELP and len(words) > 1 and words[1] not in _HELP:
        return _unknown(words[1:]).replace(": ", ": help ", 1)
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
                names = topics | _ELSEWHERE | names
            return _meant(word, names)
        if command.topics is None:
            return ""
        table = command.topics
    return ""


def _topics(name: str) -> dict[str, Command]:
    return TABLE[name].topics or {}


def _meant(word: str, names: dict[str, str]) -> str:
    from difflib import get_close_matches

    word = word.lower()
    # Two letters that changed places are the commonest slip; difflib holds another name for nearer.
    swapped = [name for name in names if sorted(name) == sorted(word)]
    near = [word] if word in names else swapped or get_close_matches(word, names, 1)
    return f"did you mean: {names[near[0]]}" if near else ""
