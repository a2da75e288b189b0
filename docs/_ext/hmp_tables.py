"""The reference tables, read from the tables that hmp itself runs on. The site and the man page render the same rows.

Cells are Markdown: what is in backticks is to be typed, what is between asterisks stands for something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import click

from device.balloon.spec import FEATURES_TABLE, PROPERTIES, STATS_TABLE
from device.errors import FATAL_RULES, RULES
from device.guest.hostile.attacks import ATTACKS
from device.guest.keys import KEYS, MODELLED_KEYS
from device.guest.table import PROFILES
from hmp import BROKEN_PIPE, FAILED, HUNG_UP, INTERRUPTED, OK, STALE, TERMINATED, UNCONNECTED, USAGE
from hmp.config import CLOCKS
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.registry import COMMANDS, Command
from hmp.options import command
from hmp.qmp.commands import COMMANDS as QMP_COMMANDS
from hmp.qmp.schema import EVENTS, OBJECTS
from hmp.terminal.hints import KEYS as KEYS_TYPED


class Table(NamedTuple):
    """A table: what its columns are called, and its rows of as many cells."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


EXITS: dict[int, str] = {
    OK: "every command succeeded; a stale answer is a success",
    FAILED: "a command failed, or output or a recording could not be written",
    USAGE: "bad usage: one line on stderr names the option and the value",
    STALE: "with `--fail-stale`: an `info balloon` printed old statistics, and no command failed",
    UNCONNECTED: "with `--attach`: there is nothing to connect to",
    HUNG_UP: "SIGHUP while monitors on sockets are served",
    INTERRUPTED: "interrupted (SIGINT)",
    BROKEN_PIPE: "the reader of stdout is gone; hmp prints nothing about it",
    TERMINATED: "SIGTERM while monitors on sockets are served; with `--headless` it is 0",
}
"""What an exit status means."""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _plain(commands: Iterable[Command], before: str = "") -> Table:
    rows = []
    for each in commands:
        first, *others = each.name.split("|")
        names = ", ".join(_code(f"{before} {name}".strip()) for name in (first, *others))
        rows.append((names + (f" *{each.usage}*" if each.usage else ""), each.help))
    return Table(("command", "what it does"), rows)


def _topics(name: str) -> list[Command]:
    topics = next(each for each in COMMANDS if each.name == name).topics or {}
    return list(topics.values())


def hmp_commands() -> Table:
    """QEMU's words that hmp knows."""
    return _plain(each for each in COMMANDS if each.name != "sim")


def info_topics() -> Table:
    """What `info` shows."""
    return _plain(_topics("info"), "info")


def sim_commands() -> Table:
    """What controls the simulation."""
    overview = next(each for each in COMMANDS if each.name == "sim")
    table = _plain(_topics("sim"), "sim")
    return Table(table.headings, [("`sim`", overview.help), *table.rows])


def option_rows() -> Table:
    """The options of the command line, as --help lists them."""
    made = command()
    context = made.make_context("hmp", [], resilient_parsing=True)
    rows = []
    for each in made.get_params(context):
        record = each.get_help_record(context)
        if isinstance(each, click.Option) and record is not None:
            names = ", ".join(_code(f"{name} {_metavar(each, context)}".strip()) for name in each.opts)
            rows.append((names, record[1].replace("  [", " [")))
    return Table(("option", "meaning"), rows)


def _metavar(option: click.Option, context: click.Context) -> str:
    if option.is_flag:
        return ""
    return option.metavar or option.type.name


def dialects() -> Table:
    """How `info balloon` may answer."""

    def yes(value: bool) -> str:
        return "yes" if value else "no"

    rows = [(_code(d.name), d.help, yes(d.waits), yes(d.balloon_event)) for d in DIALECTS.values()]
    return Table(("dialect", "what it does", "waits for the guest", "BALLOON event"), rows)


def clocks() -> Table:
    """The clocks."""
    return Table(("clock", "what it is"), [(_code(name), help) for name, (_, help) in CLOCKS.items()])


def device_properties() -> Table:
    """What --device and device_add can switch."""
    help = {feature.bit: feature.help for feature in FEATURES_TABLE}
    rows = [(_code(name), "on" if on else "off", help[bit]) for name, (bit, on) in PROPERTIES.items()]
    return Table(("property", "unless told", "the feature it offers"), rows)


def exits() -> Table:
    """Exit statuses."""
    return Table(("status", "meaning"), [(str(status), help) for status, help in sorted(EXITS.items())])


def guests() -> Table:
    """What --guest takes."""
    return Table(("guest", "what it is"), [(_code(each.name), each.help) for each in PROFILES.values()])


def _key_rows(keys: Iterable[str]) -> list[tuple[str, str]]:
    rows = []
    for key in keys:
        value, _, help = KEYS[key][1].partition(": ")
        rows.append((_code(f"{key}={value}") if " " not in value else f"`{key}=`{value}", help))
    return rows


def modelled_keys() -> Table:
    """Keys of every modelled guest."""
    return Table(("key", "meaning"), _key_rows(MODELLED_KEYS))


def own_keys() -> Table:
    """Keys that only some guest takes."""
    rows: list[tuple[str, ...]] = []
    for profile in PROFILES.values():
        own = [key for key in profile.keys if key not in MODELLED_KEYS]
        rows += [(_code(profile.name), *row) for row in _key_rows(own)]
    return Table(("guest", "key", "meaning"), rows)


def attacks() -> Table:
    """What a hostile guest may do."""
    return Table(("rule", "what the guest does"), [(_code(name), help) for name, (_, help) in ATTACKS.items()])


def statistics() -> Table:
    """Every statistic."""
    rows = [(str(s.tag), f"{_code(s.name)} {_code(s.qom)}", f"{s.help} ({s.unit})") for s in STATS_TABLE]
    return Table(("tag", "name, and in QOM", "what it is"), rows)


def features() -> Table:
    """Every feature bit."""
    rows = [(str(f.bit), _code(f.name), f.help) for f in sorted(FEATURES_TABLE, key=lambda f: f.bit)]
    return Table(("bit", "name", "what it means"), rows)


def rules() -> Table:
    """What is refused, and what follows."""
    rows = [(_code(name), help, "broken" if name in FATAL_RULES else "goes on") for name, help in RULES.items()]
    return Table(("rule", "what was refused", "the device"), rows)


def prompt_keys() -> Table:
    """The keys of the typed prompt."""
    return Table(("key", "what it does"), [(", ".join(map(_code, key.split(", "))), what) for key, what in KEYS_TYPED])


def _members(name: str) -> str:
    members = OBJECTS.get(name, ())
    return ", ".join(_code(f"{member}: {kind.rstrip('?')}") + ("?" * kind.endswith("?")) for member, kind in members)


def _returned(name: str) -> str:
    listed = name.startswith("[")
    inner = name.strip("[]")
    members = _members(inner)
    if not members:
        return "nothing" if inner == "empty" else _code({"str": "text", "any": "any value"}.get(inner, inner))
    return f"a list of {members}" if listed else members


def qmp_commands() -> Table:
    """QMP's commands: arguments and result."""
    rows = []
    for each in QMP_COMMANDS.values():
        given = [_code(f"{name}: {kind}") + ("?" * optional) for name, kind, optional in each.parameters]
        if each.open:
            given.append("properties of the device?")
        rows.append((_code(each.name), ", ".join(given) or "none", _returned(each.returns)))
    return Table(("command", "arguments", "returns"), rows)


def qmp_events() -> Table:
    """QMP's events."""
    return Table(("event", "data"), [(_code(name), _members(kind) or "none") for name, kind in EVENTS.items()])


TABLES: Mapping[str, Callable[[], Table]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        hmp_commands,
        info_topics,
        sim_commands,
        option_rows,
        dialects,
        clocks,
        device_properties,
        exits,
        guests,
        modelled_keys,
        own_keys,
        attacks,
        statistics,
        features,
        rules,
        prompt_keys,
        qmp_commands,
        qmp_events,
    )
}
"""Every table by the name that the pages use."""
