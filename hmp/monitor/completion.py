"""What can be typed next: candidates from the command table and the machine, for every front end.

Which argument completes to what is written in the table (Command.complete): alternatives joined by `|`, each the name
of a provider below or a word that stands for itself; a `*` at the end says that the argument repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from device.balloon.device import PROPERTIES
from device.balloon.spec import STATS_TABLE
from device.guest.table import KEYS, PROFILES
from device.machine.machine import Machine
from device.units import format_size
from hmp.monitor.grammar import BLANKS, skip_blanks
from hmp.monitor.registry import TABLE, Command

Offer = tuple[str, str, bool]
"""Text, help, and whether more is to follow on the line."""
Tags = Callable[[], Iterable[str]]


class Candidate:
    """One way to go on: `text` replaces the line from `start` to its end; `help` is one line about it.

    All candidates of one answer have the same `start`. `more` says that the command takes another word, so a front end
    that completed to this one can go on behind a blank.
    """

    def __init__(self, text: str, start: int, help: str, *, more: bool = False) -> None:
        self.text = text
        self.start = start
        self.help = help
        self.more = more

    def __repr__(self) -> str:
        return f"Candidate({self.text!r}, {self.start}, {self.help!r}, more={self.more})"


def complete(machine: Machine, line: str, *, snapshots: Tags | None = None) -> list[Candidate]:
    """Return what `line`, the text before the cursor, can go on with; nothing for what no command begins with.

    `snapshots` returns the tags that can be loaded; without it the machine is asked, if it keeps any.
    """
    table: dict[str, Command] = TABLE
    at = 0
    while True:
        start = at = skip_blanks(line, at)
        while at < len(line) and line[at] != "/" and line[at] not in BLANKS:
            at += 1
        if at == len(line):
            return _matching(_names(table), line[start:], start)
        command = table.get(line[start:at])
        if command is None:
            return []
        if command.topics is None:
            return _Arguments(machine, command, line, at, snapshots).candidates()
        table = command.topics


def _matching(offers: Iterable[Offer], word: str, start: int) -> list[Candidate]:
    return [Candidate(text, start, help, more=more) for text, help, more in offers if text.startswith(word)]


def _names(table: dict[str, Command]) -> Iterator[Offer]:
    for name, command in table.items():
        yield name, command.help, bool(command.parameters or command.topics)


class _Arguments:
    """The arguments of one command as far as they are typed, and what can stand next."""

    def __init__(self, machine: Machine, command: Command, line: str, at: int, snapshots: Tags | None) -> None:
        self.machine = machine
        self.command = command
        self.line = line
        self.at = at
        self.snapshots = snapshots
        self.start = max(line.rfind(blank) for blank in BLANKS) + 1
        self.word = line[self.start :]
        self.words = line[at : self.start].split()
        self.flags = {f"-{kind[1]}" for _, kind, _ in command.parameters if kind[0] == "-"}
        while self.words and self.words[0] in self.flags:
            self.flags.discard(self.words.pop(0))

    def candidates(self) -> list[Candidate]:
        """Return the candidates for the word at the end of the line."""
        if '"' in self.line or self.start < self.at:  # `info/`: the name ended, but no argument begins
            return []
        if self.word.startswith("-") and not self.words:
            flags = [(flag, "an option of this command", True) for flag in sorted(self.flags)]
            return _matching(flags, self.word, self.start)
        kinds = self.command.complete
        place = len(self.words)
        if not kinds:
            return []
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
        elif place + 1 < len([None for _, types, _ in self.command.parameters if types[0] != "-"]):
            for candidate in found:
                candidate.more = True
        return found

    def cut(self, separators: str) -> str:
        """Let the candidates begin behind the last of `separators` in the word; returns the word before that."""
        behind = max(self.word.rfind(separator) for separator in separators) + 1
        before, self.word = self.word[:behind], self.word[behind:]
        self.start += behind
        return before


_LITERALS = {
    "actual": "the memory that the guest has",
    "none": "report nothing for it",
    "load": "insert the balloon driver",
    "unload": "remove the balloon driver",
}


def _stats(arguments: _Arguments) -> Iterator[Offer]:
    for stat in STATS_TABLE:
        yield stat.name, stat.help, False
    if arguments.word.startswith("stat-"):  # QOM's names are taken too, but are no news to who does not use them
        for stat in STATS_TABLE:
            yield stat.qom, stat.help, False


def _guests(arguments: _Arguments) -> Iterator[Offer]:
    name, comma, settings = arguments.word.partition(",")
    if not comma:
        for each in PROFILES.values():
            yield each.name, each.help, False
        return
    profile = PROFILES.get(name)
    if profile is None:
        return
    *given, last = settings.split(",")
    if last.startswith("stats="):
        listed = arguments.cut("=+").rpartition("=")[2].split("+")
        if listed == [""]:
            yield "none", "answers without any statistic", False
        yield from ((stat.name, stat.help, False) for stat in STATS_TABLE if stat.name not in listed)
        return
    if last.startswith("rule=") and "rule" in profile.keys:
        from device.guest.hostile.attacks import ATTACKS

        arguments.cut("=")
        yield from ((rule, help, False) for rule, (_, help) in ATTACKS.items())
        return
    if "=" in last:
        return
    yield from _keys(arguments, given, ((key, KEYS[key][1]) for key in profile.keys))


def _keys(arguments: _Arguments, given: list[str], keys: Iterable[tuple[str, str]]) -> Iterator[Offer]:
    """Yield the keys that are not given yet, for behind the last comma."""
    arguments.cut(",")
    taken = {pair.partition("=")[0] for pair in given}
    yield from ((f"{key}=", help, False) for key, help in keys if key not in taken)


def _drivers(arguments: _Arguments) -> Iterator[Offer]:
    from hmp.monitor.commands.machine import DRIVERS

    driver, comma, settings = arguments.word.partition(",")
    if not comma:
        yield DRIVERS[0], "the balloon device", False
        for alias in DRIVERS[1:]:
            yield alias, f"another name of {DRIVERS[0]}", False
        return
    *given, last = settings.split(",")
    if "=" in last:
        name = arguments.cut("=")[len(driver) :].strip(",=").rpartition(",")[2]
        if name in PROPERTIES:
            for value in ("on", "off"):
                default = ", as it is without saying so" if PROPERTIES[name][1] == (value == "on") else ""
                yield value, f"switch {name} {value}{default}", False
        return
    keys = {"id": "the name of the device, for device_del"}
    keys |= {name: f"on or off ({'on' if on else 'off'} unless told)" for name, (_, on) in PROPERTIES.items()}
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
    tags = arguments.snapshots or getattr(arguments.machine, "snapshot_tags", None)
    for tag in tags() if tags is not None else ():
        yield f'"{tag}"' if " " in tag else tag, "a snapshot", False


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
    "device": _devices,
    "driver": _drivers,
    "guest": _guests,
    "help": _help,
    "path": _paths,
    "property": _properties,
    "snapshot": _snapshots,
    "stat": _stats,
    "virtio": _virtio,
    "writable": lambda arguments: _properties(arguments, writable_only=True),
}
