"""What can be typed next: candidates from the command table and the machine, for every front end.

The command table says how each argument is completed (Command.complete). An entry has alternatives joined by `|`. Each
alternative is the name of a provider below, or else a word to offer. A `*` at the end means that the argument repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from device.balloon.spec import BYTES, MODELS, PROPERTIES, STATS_TABLE, stat_tag
from device.guest.keys import KEYS
from device.guest.table import PROFILES
from device.machine.machine import Machine
from device.units import format_size
from hmp.monitor import BLANKS, skip_blanks
from hmp.monitor.registry import TABLE, Command

Offer = tuple[str, str, bool]
"""The text, its help, and whether the command takes another word after it."""


class Candidate(NamedTuple):
    """One possible continuation: `text` replaces the line from `start` to its end; `help` is one line about it.

    All candidates of one answer have the same `start`. `more` says that the command takes another word, so a front end
    that completes to this candidate can add a blank.
    """

    text: str
    start: int
    help: str
    more: bool = False


def complete(machine: Machine, line: str, *, examples: bool = False) -> list[Candidate]:
    """Return how `line`, the text before the cursor, can continue; an empty list if no command begins like it.

    With `examples` numbers and sizes are offered too, which a person can change. QEMU's line editor offers none, so
    sockets do not ask for them.
    """
    # With --attach the machine is a running QEMU, whose commands our table does not know. It completes its own.
    offers = getattr(machine, "offers", None)
    if offers is not None:
        return offers(line)  # type: ignore[no-any-return]
    table: dict[str, Command] = TABLE
    at = 0
    while True:
        start = at = skip_blanks(line, at)
        # A name ends at a blank or `/`, as in find_command. TAB and Enter have to agree on what the line means.
        while at < len(line) and line[at] != "/" and line[at] not in BLANKS:
            at += 1
        if at == len(line):
            return _matching(_names(table), line[start:], start)
        command = table.get(line[start:at])
        if command is None:
            return []
        if command.topics is None:
            return _Arguments(machine, command, line, at, examples=examples).candidates()
        table = command.topics


def _matching(offers: Iterable[Offer], word: str, start: int) -> list[Candidate]:
    return [Candidate(text, start, help, more) for text, help, more in offers if text.startswith(word)]


def _names(table: dict[str, Command]) -> Iterator[Offer]:
    for name, command in table.items():
        yield name, command.help, bool(command.parameters or command.topics)


class _Arguments:
    """The arguments of one command that are typed so far, and what can follow them."""

    def __init__(self, machine: Machine, command: Command, line: str, at: int, *, examples: bool) -> None:
        self.machine, self.command, self.line, self.at, self.examples = machine, command, line, at, examples
        self.start = max(line.rfind(blank) for blank in BLANKS) + 1
        self.word = line[self.start :]
        self.words = line[at : self.start].split()
        self.flags = {f"-{kind[1]}" for _, kind, _ in command.parameters if kind[0] == "-"}
        # Flags come before the other arguments and do not count among them. A flag that was given is not offered again.
        while self.words and self.words[0] in self.flags:
            self.flags.discard(self.words.pop(0))

    def candidates(self) -> list[Candidate]:
        """Return the candidates for the word at the end of the line."""
        # This class splits at blanks, but inside quotes a blank does not end a word: offer nothing rather than
        # something wrong. In `info/` the name has ended, but no argument has begun.
        if '"' in self.line or self.start < self.at:
            return []
        if self.word.startswith("-") and not self.words:
            flags = [(flag, "an option of this command", True) for flag in sorted(self.flags)]
            return _matching(flags, self.word, self.start)
        kinds = self.command.complete
        place = len(self.words)
        if not kinds:
            return []
        # `help` takes as many words as the name of a command has.
        repeats = kinds[-1].endswith("*") or kinds[-1] == "help"
        if place >= len(kinds) and not repeats:
            return []
        offers: list[Offer] = []
        for kind in kinds[min(place, len(kinds) - 1)].rstrip("*").split("|"):
            provider = _PROVIDERS.get(kind)
            offers += provider(self) if provider is not None else [(kind, _LITERALS.get(kind, ""), False)]
        found = _matching(offers, self.word, self.start)
        if repeats:
            found = [candidate for candidate in found if candidate.text not in self.words]
        # Another argument follows, so the front end may add a blank after this one.
        elif place + 1 < len([None for _, types, _ in self.command.parameters if types[0] != "-"]):
            found = [candidate._replace(more=True) for candidate in found]
        return found

    def cut(self, separators: str) -> str:
        """Let the candidates begin after the last of `separators` in the word; return the part of the word before
        it."""
        end = max(self.word.rfind(separator) for separator in separators) + 1
        before, self.word = self.word[:end], self.word[end:]
        self.start += end
        return before


_LITERALS = {"actual": "the memory that the guest has", "none": "report nothing for it",
             "load": "insert the balloon driver", "unload": "remove the balloon driver"}  # fmt: skip


def _stats(arguments: _Arguments) -> Iterator[Offer]:
    for stat in STATS_TABLE:
        yield stat.name, stat.help, False
    # QOM's names work too, but two names for each statistic would make the menu twice as long.
    if arguments.word.startswith("stat-"):
        for stat in STATS_TABLE:
            yield stat.qom, stat.help, False


def _pins(arguments: _Arguments) -> Iterator[Offer]:
    for tag, value in sorted(arguments.machine.guest.controls.pins().items()):
        name = STATS_TABLE[tag].name if tag < len(STATS_TABLE) else str(tag)
        yield name, "left out" if value is None else f"pinned to {value}", False


def _values(arguments: _Arguments) -> Iterator[Offer]:
    """Yield the present value of the statistic before it on the line, and round values to start from."""
    tag = stat_tag(arguments.words[0]) if arguments.examples and arguments.words else None
    if tag is None:
        return
    device = arguments.machine.device
    sample = None if device is None else device.stats.sample
    now = None if sample is None else sample.values.get(tag, sample.unknown.get(tag))
    if now is not None:
        yield str(now), "the last value that the guest reported", False
    if tag < len(STATS_TABLE) and STATS_TABLE[tag].unit == BYTES:
        yield from _sizes(arguments)
    else:
        yield "0", "a count", False


def _sizes(arguments: _Arguments) -> Iterator[Offer]:
    if arguments.examples:
        ram = arguments.machine.ram
        for part, words in ((16, "a sixteenth"), (4, "a quarter"), (2, "half")):
            yield format_size(ram // part), f"{words} of the guest's RAM", False


def _targets(arguments: _Arguments) -> Iterator[Offer]:
    if arguments.examples:
        ram = arguments.machine.ram >> 20
        for part, words in ((4, "a quarter of the guest's RAM"), (2, "half of it"), (1, "all of it")):
            yield str(ram // part), f"MiB: {words}", False


def _examples(*each: tuple[str, str]) -> Callable[[_Arguments], Iterable[Offer]]:
    return lambda arguments: [(text, help, False) for text, help in each * arguments.examples]


_VALUES = {
    "delay": "0.5 seconds: half of one, 2 within the timeout, 10 after it",
    "loss": "0.3 three notifications of ten, 1 all of them",
    "answers": "1 then nothing more, 3 then nothing more",
    "swap": "0 none, 512M of swap space",
    "boot": "1 second until the driver is up, 20 after the timeout",
    "shutdown": "0 at once, 5 seconds, never until quit",
    "service": "0 at once, 20 seconds as virtio-win, never no statistics at all",
    "pace": "64M a second, 1G a second",
    "seed": "1 the same dice in each run",
    "mem": "32M the least, 128M of memory, 1G of memory",
}
"""For a key of a guest: example values, each with its meaning."""


def _guests(arguments: _Arguments) -> Iterator[Offer]:
    name, comma, settings = arguments.word.partition(",")
    if not comma:
        # Only the name is typed so far; the settings begin after a comma.
        for each in PROFILES.values():
            yield each.name, each.help, False
        return
    profile = PROFILES.get(name)
    if profile is None:
        return
    *given, last = settings.split(",")
    if last.startswith("stats="):
        # Statistics are joined by +; each is offered once.
        listed = arguments.cut("=+").rpartition("=")[2].split("+")
        if listed == [""]:
            yield "none", "answers without any statistic", False
        yield from ((stat.name, stat.help, False) for stat in STATS_TABLE if stat.name not in listed)
        return
    if last.startswith("rule=") and "rule" in profile.keys:
        # Imported here: only completion after `hostile,rule=` needs the table of attacks.
        from device.guest.hostile.attacks import ATTACKS

        arguments.cut("=")
        yield from ((rule, help, False) for rule, (_, help) in ATTACKS.items())
        return
    key, equals, _ = last.partition("=")
    if equals:
        arguments.cut("=")
        if arguments.examples and key in profile.keys and key in _VALUES:
            for example in _VALUES[key].split(", "):
                value, _, what = example.partition(" ")
                yield value, what, False
        return
    yield from _keys(arguments, given, ((key, KEYS[key][1]) for key in profile.keys))


def _keys(arguments: _Arguments, given: list[str], keys: Iterable[tuple[str, str]]) -> Iterator[Offer]:
    """Yield the keys that are not given yet, to follow the last comma."""
    arguments.cut(",")
    taken = {pair.partition("=")[0] for pair in given}
    yield from ((f"{key}=", help, False) for key, help in keys if key not in taken)


def _drivers(arguments: _Arguments) -> Iterator[Offer]:
    # Imported here, because the modules of commands are loaded when they are first used.
    from hmp.monitor.commands.machine import ALIAS

    driver, comma, settings = arguments.word.partition(",")
    if not comma:
        for model in MODELS:
            yield model, "the balloon device", False
        yield ALIAS, f"another name of {MODELS[0]}", False
        return
    *given, last = settings.split(",")
    if "=" in last:
        name = arguments.cut("=")[len(driver) :].strip(",=").rpartition(",")[2]
        if name in PROPERTIES:
            for value in ("on", "off"):
                default = ", the default" if PROPERTIES[name][1] == (value == "on") else ""
                yield value, f"switch {name} {value}{default}", False
        return
    keys = {
        "id": "the name of the device, for device_del",
        "guest-stats-polling-interval": "seconds from one poll of the statistics to the next, 0 for none",
        "iothread": "any id; free-page-hint needs one",
    }
    keys |= {name: f"on or off (default: {'on' if on else 'off'})" for name, (_, on) in PROPERTIES.items()}
    yield from _keys(arguments, given, keys.items())


def _devices(arguments: _Arguments) -> Iterator[Offer]:
    machine = arguments.machine
    device, path = machine.device, machine.device_path
    if device is not None and path is not None:
        yield device.id or path, f"the balloon device, {format_size(device.actual)} of {format_size(device.ram)}", False


def _virtio(arguments: _Arguments) -> Iterator[Offer]:
    path = arguments.machine.device_path
    if path is not None:
        yield f"{path}/virtio-backend", "virtio-balloon", False


def _paths(arguments: _Arguments) -> Iterator[Offer]:
    from hmp.monitor.qom import tree

    for node in tree(arguments.machine).walk():
        yield node.path, node.kind, False


def _properties(arguments: _Arguments, *, writable_only: bool = False) -> Iterator[Offer]:
    from hmp.monitor.qom import property_names

    named = property_names(arguments.machine, arguments.words[0], writable_only=writable_only)
    return ((name, kind, False) for name, kind in named)


def _snapshots(arguments: _Arguments) -> Iterator[Offer]:
    for tag in arguments.machine.snapshot_tags():
        # A tag may have blanks; without quotes the command would read only its first word.
        quoted = tag.replace("\\", "\\\\").replace('"', '\\"')
        yield f'"{quoted}"' if " " in tag or tag[0] == '"' else tag, "a snapshot", False


def _help(arguments: _Arguments) -> Iterator[Offer]:
    table = TABLE
    for word in arguments.words:
        command = table.get(word)
        if command is None or command.topics is None:
            return
        table = command.topics
    for name, command in table.items():
        yield name, command.help, command.topics is not None


_PROVIDERS: dict[str, Callable[[_Arguments], Iterable[Offer]]] = {
    "count": _examples(("1", "notification"), ("3", "notifications")), "device": _devices, "driver": _drivers,
    "guest": _guests, "help": _help, "path": _paths, "pin": _pins, "property": _properties,
    "seconds": _examples(("0", "at once"), ("1", "second"), ("5", "seconds"), ("60", "seconds")),
    "size": _sizes, "snapshot": _snapshots, "stat": _stats, "target": _targets, "value": _values, "virtio": _virtio,
    "writable": lambda arguments: _properties(arguments, writable_only=True),
}  # fmt: skip
