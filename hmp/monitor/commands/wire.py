"""`sim reply`, `sim event`, `sim wire` and `sim log`: show and disturb what goes over the wire."""

from __future__ import annotations

from hmp.monitor import CommandError
from hmp.monitor.emulated import emulated
from hmp.monitor.faults import Fault, Faults, Words, read_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hmp.monitor.monitor import Arguments, Monitor, Reply

DEFAULT_SHOWN = 20
"""How many entries `sim log` shows by default."""


def _faults(monitor: Monitor) -> Faults:
    kept = emulated(monitor.machine)
    if kept.faults is None:
        kept.faults = Faults()
    found: Faults = kept.faults
    return found


def _server(monitor: Monitor) -> Any:
    found = emulated(monitor.machine).wire
    if found is None:
        raise CommandError("no client can connect: start hmp with --qmp or --monitor")
    return found


def reply(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Set a fault of a reply, remove faults, or list them."""
    faults = _faults(monitor)
    text: str = arguments.get("what", "")
    if not text.strip():
        return "".join(f"{each}\n" for each in faults.set) or "all replies are as usual\n"
    words = text.split()
    # `default` can also be a word of a fault or of its JSON, so it counts only in `default`, `WHAT default` and
    # `"LINE" default`.
    if words[-1] == "default" and (len(words) <= 2 or text.lstrip().startswith('"')):
        rest = Words(text.rstrip()[: -len("default")])
        if not rest.peek():
            faults.remove(None)
            return ""
        line = rest.peek().startswith('"')
        what = " ".join(rest.text("the line").split()) if line else rest.word("what to answer")
        rest.end()
        faults.remove(what, line=line)
        return ""
    faults.add(Fault(Words(text), monitor.client))
    return ""


def event(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Send an event to every QMP client."""
    words = Words(arguments["what"])
    name, data = read_event(words)
    count = words.number("count") if words.option("count") else 1
    every = words.seconds("every") if words.option("every") else 0
    words.end()
    _server(monitor).send_events(name, data, count, every)


def wire(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """List the clients, hang up on them, send them garbage, or serve one at a time."""
    server = _server(monitor)
    words = Words(arguments.get("what", ""))
    if not words.peek():
        rows = [f"client {number}  {name}\n" for number, name in server.numbered()]
        return "".join(rows) + ("one client at a time\n" if _faults(monitor).one_client else "")
    what = words.word("what")
    if what == "one-client":
        state = words.word("on or off")
        words.end()
        if state not in ("on", "off"):
            raise CommandError(f"one-client takes on or off, not '{state}'")
        _faults(monitor).one_client = state == "on"
        server.accept_again()
        return ""
    if what not in ("cut", "garbage"):
        raise CommandError(f"sim wire takes cut, garbage or one-client, not '{what}'")
    text = words.text("the garbage") if what == "garbage" else None
    client = words.client(monitor.client)
    words.end()
    if not server.disturb(client, monitor.client, text):
        raise CommandError("there is no other client" if client is None else f"there is no client {client}")
    return ""


def log(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the last entries of --log."""
    found = emulated(monitor.machine).log
    if found is None:
        raise CommandError("there is no log: start hmp with --log FILE")
    count = arguments.get("count", DEFAULT_SHOWN)
    if count < 0:
        raise CommandError(f"sim log takes a number from 0 up, not {count}")
    # Not [-count:], which would return all entries for 0.
    return "".join(f"{line}\n" for line in [*found.entries][max(0, len(found.entries) - count) :])
