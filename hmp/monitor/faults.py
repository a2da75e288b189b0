"""Faults of the wire: what `sim reply` sets, as data. The sessions ask `find` for the fault of each reply.

sim reply WHAT [client N] [times N] [after SEC] ANSWER [MANNER]...
"""

from __future__ import annotations

from device.clock import SECOND
from device.units import format_seconds, parse_seconds
from hmp.monitor import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from device.machine.machine import Machine

GREETING = "greeting"
ANSWERS = ("usual", "return", "error", "raw", "never", "cut")
MANNERS = ("event", "split", "pad", "id", "cut-after")
LIMITS = {"client": 1 << 31, "times": 1 << 31, "split": 1 << 30, "pad": 64 << 20, "cut-after": 1 << 30,
          "count": 1_000_000}  # fmt: skip
"""The largest numbers that are accepted; a larger one is most likely a typing error."""

MAX_DELAY = 3600 * SECOND
SPLIT_PAUSE = SECOND // 100
"""The default pause (ns) between two pieces of a reply: long enough that the client receives them one by one."""


PIECE = 1 << 20
"""The most bytes of a reply that are sent at once, so that other clients get their turn; no reply without `pad` has so
many."""


class Words:
    """Reads a line word by word. A JSON value may have blanks in it and ends at its closing bracket."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """Return the next word without taking it; "" at the end."""
        self._at += len(self._text[self._at :]) - len(self._text[self._at :].lstrip())
        return (self._text[self._at :].split(None, 1) or [""])[0]

    def word(self, missing: str) -> str:
        """Take a word. At the end of the line raise CommandError, which says that `missing` is missing."""
        found = self.peek()
        if not found:
            raise CommandError(f"{missing} is missing")
        self._at += len(found)
        return found

    def json(self, missing: str) -> Any:
        """Take a JSON value. Raises CommandError."""
        if not self.peek():
            raise CommandError(f"{missing} is missing")
        # Imported here: a script without faults should not pay for the import.
        import json

        from hmp.monitor.replies import STRICT

        try:
            # As strict as --replies: Python would accept NaN and Infinity, and send them on as text that no client
            # can read.
            value, self._at = json.JSONDecoder(**STRICT).raw_decode(self._text, self._at)
        except (ValueError, RecursionError):
            raise CommandError(f"'{self._text[self._at :][:40]}' is not JSON ({missing})") from None
        return value

    def text(self, missing: str) -> str:
        """Take a JSON string. Raises CommandError."""
        found = self.json(missing)
        if not isinstance(found, str):
            raise CommandError(f"{missing} is not a string in double quotes")
        return found

    def number(self, name: str) -> int:
        """Take a number from 1 up to the limit of `name`. Raises CommandError."""
        found = self.word(f"the number after {name}")
        if not (found.isascii() and found.isdigit() and len(found) < 12 and 0 < int(found) <= LIMITS[name]):
            raise CommandError(f"{name} takes a number from 1 to {LIMITS[name]}, not '{found}'")
        return int(found)

    def seconds(self, name: str) -> int:
        """Take a number of seconds, as ns. Raises CommandError and MisuseError."""
        found = parse_seconds(self.word(f"the number of seconds after {name}"))
        if found > MAX_DELAY:
            raise CommandError(f"{name} takes at most {format_seconds(MAX_DELAY)} seconds")
        return found

    def option(self, name: str) -> bool:
        """Take the word `name` if it is next; returns whether it was."""
        if self.peek() == name:
            self._at += len(name)
            return True
        return False

    def client(self, own: int) -> int | None:
        """Take `client N` or `client self` if that is next; None if not."""
        if not self.option("client"):
            return None
        if not self.option("self"):
            return self.number("client")
        # Lines of a script, a pipe or the prompt come from no client.
        if not own:
            raise CommandError("client self: this line is not from a client; faults only affect clients")
        return own

    def end(self) -> None:
        """Raise CommandError if there are more words."""
        if self.peek():
            raise CommandError(f"'{self.peek()}' makes no sense here")


class Fault:
    """One fault of the wire. `line` says that `what` is a line of the human monitor, and not a QMP command.

    `client` is the number of the only client that it affects; None means all but `by`, the client that set it. `times`
    is how many replies it still affects, None for no limit. `answer` is one of ANSWERS. Its `value` is any JSON value
    for return, (class, desc) for error, and a text for raw.
    """

    def __init__(self, words: Words, by: int) -> None:
        """Read what follows `sim reply`. Raises CommandError for words that do not fit together."""
        self.line = words.peek().startswith('"')
        # Blanks are normalized here and in find(), so that `info  balloon` and `info balloon` are the same line.
        self.what = " ".join(words.text("the line").split()) if self.line else words.word("what to answer")
        self.by = by
        self.client = words.client(by)
        self.times = words.number("times") if words.option("times") else None
        self.after = words.seconds("after") if words.option("after") else 0
        self.answer = words.word("an answer (usual, return, error, raw, never or cut)")
        self.value: Any = None
        if self.answer not in ANSWERS:
            raise CommandError(f"'{self.answer}' is not an answer ({', '.join(ANSWERS)})")
        if self.what == GREETING and self.answer in ("return", "error"):
            raise CommandError(f"a greeting cannot have the answer {self.answer}")
        if self.answer == "return":
            self.value = words.json("what to return")
        elif self.answer == "error":
            self.value = (words.word("the class of the error"), words.text("the text of the error"))
        elif self.answer == "raw":
            self.value = words.text("what to send")
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.split = self.pad = self.pause = 0
        self.id = ""
        self.cut_after: int | None = None
        while words.peek():
            self._manner(words)

    def _manner(self, words: Words) -> None:
        manner = words.word("a manner")
        if manner not in MANNERS:
            raise CommandError(f"'{manner}' is not a manner ({', '.join(MANNERS)})")
        # Without a reply there is nothing to split, pad or cut; an event can still be sent.
        if self.answer in ("never", "cut") and manner != "event":
            raise CommandError(f"{manner} makes no sense where there is no reply")
        # A line of the human monitor and a greeting have no id, and HMP clients get no events.
        if manner in ("event", "id") and (self.line or self.what == GREETING):
            raise CommandError(f"{manner} makes no sense without a command of QMP")
        if manner == "event":
            self.events.append(read_event(words))
        elif manner == "split":
            self.split = words.number("split")
            self.pause = words.seconds("split") if words.peek()[:1].isdigit() else SPLIT_PAUSE
        elif manner == "pad":
            self.pad = words.number("pad")
        elif manner == "id":
            self.id = words.word("stale or none")
            if self.id not in ("stale", "none"):
                raise CommandError(f"id takes stale or none, not '{self.id}'")
        else:
            self.cut_after = words.number("cut-after")

    def __str__(self) -> str:
        # In the grammar of `sim reply`, so that a user can copy a line of the list and set the fault again.
        import json

        parts = [json.dumps(self.what) if self.line else self.what]
        parts += [f"client {self.client}"] * (self.client is not None)
        parts += [f"times {self.times}"] * (self.times is not None)
        parts += [f"after {format_seconds(self.after)}"] * bool(self.after) + [self.answer]
        if self.answer == "error":
            parts += [self.value[0], json.dumps(self.value[1])]
        elif self.answer in ("return", "raw"):
            parts.append(json.dumps(self.value))
        parts += [f"event {_word(name)}" + (f" {json.dumps(data)}" if data else "") for name, data in self.events]
        parts += [f"split {self.split} {format_seconds(self.pause)}"] * bool(self.split)
        parts += [f"pad {self.pad}"] * bool(self.pad) + [f"id {self.id}"] * bool(self.id)
        parts += [f"cut-after {self.cut_after}"] * (self.cut_after is not None)
        return " ".join(parts)

    @property
    def raw(self) -> bytes:
        """What is sent for raw, never and cut."""
        return (self.value or "").encode("utf-8", "surrogatepass")

    def concerns(self, client: int) -> bool:
        """Whether it affects that client."""
        # The client that sets a fault usually belongs to the test, and must be able to remove the fault again.
        return client != self.by if self.client is None else client == self.client

    def fits(self, name: str, line: str | None) -> bool:
        """Whether it affects the reply to command `name`, or to `line` of the human monitor."""
        if self.line:
            return self.what == line
        # `*` means any command. A greeting answers no command, so it needs a fault of its own.
        return self.what == name or (self.what == "*" and name != GREETING)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces of a reply that are sent: `data` with padding, cut off and split."""
        # Made one by one: a list of 64 Mi pieces of one byte held up all clients for 13 seconds.
        pad, end = self.pad, len(data.rstrip(b"}\r\n"))
        size = self.split or PIECE
        total = len(data) + pad
        if self.cut_after is not None:
            total = min(total, self.cut_after)
        for at in range(0, total, size):
            stop = min(at + size, total)
            # Blanks before the closing brackets keep the message valid JSON: it only gets longer.
            blanks = max(0, min(stop, end + pad) - max(at, end))
            yield data[at : min(stop, end)] + b" " * blanks + data[max(at - pad, end) : max(stop - pad, end)]


def _word(name: str) -> str:
    """Return `name` as it is typed: in quotes if it is not one word."""
    import json

    return name if name.isprintable() and name.isascii() and not set(name) & set(' "') else json.dumps(name)


def read_event(words: Words) -> tuple[str, dict[str, Any]]:
    """Read NAME [JSON]. Raises CommandError."""
    missing = "the name of the event"
    name = words.text(missing).strip() if words.peek().startswith('"') else words.word(missing)
    if not name:
        raise CommandError(f"{missing} is missing")
    data = words.json("the data of the event") if words.peek().startswith("{") else {}
    return name, data


class Faults:
    """The faults that are set on one machine."""

    def __init__(self) -> None:
        self.set: list[Fault] = []
        self.one_client = False

    def add(self, fault: Fault) -> None:
        """Set a fault. It replaces one for the same command or line and the same client."""
        same = fault.what, fault.line, fault.client
        self.set = [*[each for each in self.set if (each.what, each.line, each.client) != same], fault]

    def remove(self, what: str | None, *, line: bool = False) -> None:
        """Remove the faults of one command or line, or with None all faults."""
        self.set = [] if what is None else [each for each in self.set if (each.what, each.line) != (what, line)]

    def find(self, client: int, name: str, line: str | None = None) -> Fault | None:
        """Return the fault of the reply to command `name` or to the human monitor's `line`, and count it as used.

        A fault for this command is preferred to `*`, and one for this client to one for all clients.
        """
        if not self.set:
            return None
        text = None if line is None else " ".join(line.split())
        fits = [each for each in self.set if each.concerns(client) and each.fits(name, text)]
        if not fits:
            return None
        found = max(fits, key=lambda each: (each.what != "*", each.client is not None))
        if found.times is not None:
            found.times -= 1
            if not found.times:
                self.set.remove(found)
        return found


def find_fault(machine: Machine, client: int, name: str, line: str | None = None) -> Fault | None:
    """As Faults.find for the faults of `machine`; None if none was ever set."""
    # Not emulated(machine), which makes the object: most machines never have a fault.
    front = machine.front
    faults: Faults | None = None if front is None else front.faults
    return None if faults is None else faults.find(client, name, line)
