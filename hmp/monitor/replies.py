"""Answers that are data: recorded ones that hmp ships, and the files of --replies, which have the same form.

{"version": 1, "qemu": "7.2.22", "schema": [SchemaInfo...],
 "qmp": {"COMMAND": [{"arguments": {...}, "return": ...}, {"error": {"class": "...", "desc": "..."}}]},
 "hmp": {"LINE": "TEXT"}}
"""

from __future__ import annotations

import os

from hmp.monitor import UsageError, escape
from hmp.monitor.emulated import version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
MAX_BYTES = 64 << 20
"""The largest file: three hundred times the size of QEMU's schema with all its answers."""

MAX_WHY = 300
"""The most characters of a reason that are shown: it may quote the file."""

FIXED = ("qmp_capabilities", "human-monitor-command", "query-commands")
"""Commands that a file may not answer: clients could not even begin a session without them."""

_SHIPPED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "replies", "qemu-7.2.json")
_NAMES = {"version", "qemu", "schema", "qmp", "hmp"}


class Replies:
    """The answers of one file: `qmp` has the answers of each command (the first match is used), `hmp` the text of
    each line."""

    def __init__(self, found: Any) -> None:
        """Take the parsed JSON of a file. Raises ValueError, whose text says what is wrong."""
        if not isinstance(found, dict):
            raise ValueError("is not a JSON object")
        # Not isinstance, because to Python `true` is an int.
        if type(found.get("version")) is not int or found["version"] != FORMAT:
            raise ValueError(f"version {found.get('version', 'nothing')!r} is not known, only {FORMAT}")
        for name in found.keys() - _NAMES:
            raise ValueError(f"'{name}' is not one of {', '.join(sorted(_NAMES))}")
        if not isinstance(found.get("qemu", ""), str):
            raise ValueError("qemu is not a text such as '7.2.22'")
        self.qemu: str | None = None if "qemu" not in found else version(found["qemu"])
        # Everything is checked now, so that a mistake in the file is an error at the start and not during a test.
        schema, qmp, hmp = found.get("schema", []), found.get("qmp", {}), found.get("hmp", {})
        if not isinstance(schema, list) or not all(isinstance(each, dict) and _sound(each) for each in schema):
            raise ValueError("schema is not a list as query-qmp-schema returns it")
        self.schema: dict[str, dict[str, Any]] = {each["name"]: each for each in schema}
        if not isinstance(qmp, dict) or not isinstance(hmp, dict):
            raise ValueError("qmp and hmp are not JSON objects")
        for name, answers in qmp.items():
            if name in FIXED:
                raise ValueError(f"{name} cannot be answered from a file")
            if not isinstance(answers, list) or not answers or not all(map(_answer, answers)):
                raise ValueError(f"qmp: {name}: not a list of answers, each with return, or error with class and desc")
        for line, text in hmp.items():
            if not line.strip():
                raise ValueError("hmp: an empty line cannot be answered")
            if not isinstance(text, str):
                raise ValueError(f"hmp: '{line}': the answer is not a text")
        self.qmp: dict[str, list[dict[str, Any]]] = qmp
        # Files that were saved from a socket have \r\n; each front end adds its own line ends.
        self.hmp: dict[str, str] = {}
        for line, text in hmp.items():
            self.hmp.setdefault(" ".join(line.split()), text.replace("\r\n", "\n"))

    def line(self, line: str) -> str | None:
        """Return the text for a line, or None. Extra blanks in the line do not matter."""
        return self.hmp.get(" ".join(line.split()))


_BUILTIN = {"json-type": ("string", "int", "number", "boolean", "null", "value")}
_SCHEMA: dict[str, dict[str, Any]] = {
    "builtin": _BUILTIN,
    "enum": {"members": ("name",)},
    "array": {"element-type": str},
    "alternate": {"members": ("type",)},
    "object": {"members": ("name", "type")},
    "command": {},
    "event": {},
}
"""For each meta-type the members that hmp.qmp.visitor reads: a text, one of these words, or a list of objects with
these members."""


def _sound(entry: dict[str, Any]) -> bool:
    """Whether an entry of a schema has all members that hmp.qmp.visitor reads."""

    def objects(found: object, names: tuple[str, ...]) -> bool:
        return isinstance(found, list) and all(
            isinstance(each, dict) and all(isinstance(each.get(name), str) for name in names) for each in found
        )

    meta = entry.get("meta-type")
    if not isinstance(meta, str) or meta not in _SCHEMA or not isinstance(entry.get("name"), str):
        return False
    if not isinstance(entry.get("arg-type", ""), str) or not objects(entry.get("variants", []), ("case", "type")):
        return False
    if "variants" in entry and not isinstance(entry.get("tag"), str):
        return False
    for name, wanted in _SCHEMA[meta].items():
        found = entry.get(name)
        if meta == "enum" and (values := entry.get("values", [])):
            fits = isinstance(values, list) and all(isinstance(each, str) for each in values)
        elif wanted is str:
            fits = isinstance(found, str)
        else:
            fits = found in wanted if name == "json-type" else objects(found, wanted)
        if not fits:
            return False
    return True


def _answer(found: object) -> bool:
    if not isinstance(found, dict) or found.keys() - {"arguments", "return", "error"}:
        return False
    # Each answer has exactly one of `return` and `error`.
    if not isinstance(found.get("arguments", {}), dict) or ("return" in found) is ("error" in found):
        return False
    error = found.get("error", {"class": "", "desc": ""})
    return isinstance(error, dict) and all(isinstance(error.get(key), str) for key in ("class", "desc"))


def no_constant(word: str) -> None:
    """Refuse NaN and Infinity: Python's json accepts them, but they are not JSON. Raises ValueError."""
    raise ValueError(f"is not JSON: {word}")


def _number(word: str) -> float:
    found = float(word)
    # 1e999 becomes infinity in Python; other readers of JSON refuse the number or keep it.
    if found in (float("inf"), -float("inf")):
        raise ValueError(f"is not JSON: {word} is too large for a number")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # With a name twice, readers of JSON disagree on which value is used.
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has '{next(name for name in names if names.count(name) > 1)}' twice in one object")
    return found


STRICT: dict[str, Any] = {"parse_constant": no_constant, "parse_float": _number, "object_pairs_hook": _members}
"""Options that make Python's json refuse words that are not JSON, numbers that are too large, and a name twice."""


def load(path: str) -> Replies:
    """Read a file of --replies. Raises UsageError with one line that names the file and the mistake."""
    import json

    try:
        # The file may be a pipe from the shell, as in <(...). Without O_NONBLOCK, opening a FIFO that has no writer
        # would block for ever; with it, the FIFO reads as empty. Reading must block, because a writer may be slow.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("is larger than 64 MiB")
        return Replies(json.loads(data, **STRICT))
    except OSError as error:
        why = error.strerror or str(error)
    except RecursionError:
        why = "is not JSON: nested too deep"
    except UnicodeDecodeError:
        why = "is not JSON: not UTF-8"
    except json.JSONDecodeError as error:
        why = f"is not JSON: {error}"
    except ValueError as error:
        why = str(error)
    raise UsageError(f"--replies '{escape(path)}': {escape(why[:MAX_WHY])}".replace("\n", " "))


_kept: list[Replies] = []


def shipped() -> Replies:
    """Return the recorded answers that come with hmp, read once."""
    if not _kept:
        _kept.append(load(_SHIPPED))
    return _kept[0]


def show(line: str, reply: Any) -> str:
    """Return QEMU's text for a line whose answer never changes. If that is an error, mark the reply as failed."""
    text = shipped().hmp[line]
    reply.failed = text.startswith("Error: ")
    return text
