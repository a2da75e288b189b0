"""QMP's command table: names, arguments, what comes back. Dispatch, query-commands and the schema all read it.

A handler gets (session, arguments) and returns the value of `return`, or PENDING after it suspended the session.
Where HMP has the same command, both call the same operation.
"""

from __future__ import annotations

from device.errors import MisuseError
from hmp import QEMU_VERSION, __version__
from hmp.monitor import qom
from hmp.monitor.commands.machine import check_driver, parse_switches, valid_id
from hmp.monitor.errors import MAX_LINE, TOO_LONG, CommandError
from hmp.monitor.monitor import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from device.machine.machine import Machine
    from hmp.monitor.monitor import Reply
    from hmp.qmp.protocol import QmpSession

    Handler = Callable[["QmpSession", Mapping[str, object]], object]

PENDING = object()
"""What a handler returns when its answer comes later."""

PACKAGE = f"hmp-emulator {__version__}"


class Argument:
    """One argument: its name, its type (a key of TYPES) and whether it may be left out."""

    __slots__ = ("kind", "name", "optional")

    def __init__(self, name: str, kind: str, *, optional: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.optional = optional


def _is_integer(value: object) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


TYPES: dict[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "array": lambda value: isinstance(value, list),
    "any": lambda value: True,
}
"""How each type is checked; the names are those of QEMU's error."""


class QmpCommand:
    """One command. `returns` names its result in the schema; `open` says that further arguments are taken as given."""

    __slots__ = ("arguments", "handler", "name", "open", "returns")

    def __init__(
        self, name: str, handler: Handler, *arguments: Argument, returns: str = "empty", open: bool = False
    ) -> None:
        self.name = name
        self.handler = handler
        self.arguments = arguments
        self.returns = returns
        self.open = open

    def check(self, given: Mapping[str, object]) -> None:
        """Raise CommandError in QEMU's words where the arguments do not fit."""
        for argument in self.arguments:
            if argument.name in given:
                if not TYPES[argument.kind](given[argument.name]):
                    raise CommandError(f"Invalid parameter type for '{argument.name}', expected: {argument.kind}")
            elif not argument.optional:
                raise CommandError(f"Parameter '{argument.name}' is missing")
        if not self.open:
            known = [argument.name for argument in self.arguments]
            for name in given:
                if name not in known:
                    raise CommandError(f"Parameter '{name}' is unexpected")


def version(machine: Machine) -> dict[str, object]:
    """Return the version as the greeting and query-version tell it."""
    major, minor, micro = (int(part) for part in QEMU_VERSION.split("."))
    return {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": PACKAGE}


def _negotiate(session: QmpSession, arguments: Mapping[str, object]) -> object:
    wanted = arguments.get("enable", [])
    assert isinstance(wanted, list)  # noqa: S101 - checked by its type
    for capability in wanted:
        if not isinstance(capability, str):
            raise CommandError("Invalid parameter type for 'null', expected: string")
        if capability != "oob":
            raise CommandError(f"Parameter 'null' does not accept value '{capability}'")
    session.negotiated(oob=bool(wanted))
    return {}


def _query_balloon(session: QmpSession, arguments: Mapping[str, object]) -> object:
    device = session.machine.device
    if device is None:
        raise CommandError("No balloon device has been activated", "DeviceNotActive")
    if session.dialect.balloon_event:
        session.afterwards(lambda: session.hub.ask(session))
    return session.dialect.query(device)


def _balloon(session: QmpSession, arguments: Mapping[str, object]) -> object:
    value = arguments["value"]
    assert isinstance(value, int)  # noqa: S101 - checked by its type
    if session.machine.device is None:
        raise CommandError("No balloon device has been activated", "DeviceNotActive")
    session.machine.set_balloon(value)
    return {}


def _query_status(session: QmpSession, arguments: Mapping[str, object]) -> object:
    state = session.machine.run_state
    return {"status": state, "singlestep": False, "running": session.machine.running}


def _simple(method: str) -> Handler:
    def handler(session: QmpSession, arguments: Mapping[str, object]) -> object:
        getattr(session.machine, method)()
        return {}

    return handler


def _query_version(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return version(session.machine)


def _query_name(session: QmpSession, arguments: Mapping[str, object]) -> object:
    name = session.machine.name
    return {} if name is None else {"name": name}


def _query_uuid(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return {"UUID": session.machine.uuid}


def _query_kvm(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return {"enabled": False, "present": True}


def _query_memory_size_summary(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return {"base-memory": session.machine.ram, "plugged-memory": 0}


def _query_commands(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return [{"name": name} for name in COMMANDS]


def _query_schema(session: QmpSession, arguments: Mapping[str, object]) -> object:
    from hmp.qmp.schema import schema

    return schema(COMMANDS)


def _qom_list(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return qom.qom_list(session.machine, str(arguments["path"]))


def _qom_get(session: QmpSession, arguments: Mapping[str, object]) -> object:
    return qom.qom_get(session.machine, str(arguments["path"]), str(arguments["property"]))


def _qom_set(session: QmpSession, arguments: Mapping[str, object]) -> object:
    qom.qom_set(session.machine, str(arguments["path"]), str(arguments["property"]), arguments["value"])
    return {}


def _device_add(session: QmpSession, arguments: Mapping[str, object]) -> object:
    given = {name: _as_text(value) for name, value in arguments.items()}
    if not valid_id(given.get("id", "x")):
        raise CommandError("Parameter 'id' expects an identifier")
    check_driver(given.pop("driver"))
    id, switches = parse_switches(list(given.items()))
    session.machine.device_add(id, switches)
    return {}


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else str(value)


def _device_del(session: QmpSession, arguments: Mapping[str, object]) -> object:
    machine = session.machine
    id = qom.unpluggable(machine, str(arguments["id"]))
    _guest_follows(session, "DEVICE_DELETED", lambda: machine.device_del(id))
    return {}


def _system_powerdown(session: QmpSession, arguments: Mapping[str, object]) -> object:
    _guest_follows(session, "SHUTDOWN", session.machine.power_down)
    return {}


def _guest_follows(session: QmpSession, event: str, action: Callable[[], None]) -> None:
    """Do `action`; the event that its guest leads to is told behind the reply, for real guests take a moment."""
    session.hub.hold(event)
    try:
        action()
    except MisuseError:
        session.hub.release()
        raise
    session.afterwards(session.hub.release)


def _human_monitor_command(session: QmpSession, arguments: Mapping[str, object]) -> object:
    if arguments.get("cpu-index", 0) != 0:
        raise CommandError("Parameter 'cpu-index' expects a CPU number")
    monitor = Monitor(session.machine, session.dialect)
    monitor.sole = False
    monitor.host_files = session.host_files
    line = str(arguments["command-line"])
    if len(line) > MAX_LINE:  # as long a sum would hold up all clients
        return f"{TOO_LONG}\r\n"
    reply = monitor.execute(line)
    if reply.refused is not None:
        raise reply.refused
    if not reply.pending:
        return _text(reply)
    session.suspend(reply.cancel)
    reply.on_done = lambda done: session.resume(_text(done))
    return PENDING


def _text(reply: Reply) -> str:
    return reply.text.replace("\n", "\r\n")


COMMANDS: dict[str, QmpCommand] = {
    command.name: command
    for command in (
        QmpCommand("qmp_capabilities", _negotiate, Argument("enable", "array", optional=True)),
        QmpCommand("query-balloon", _query_balloon, returns="BalloonInfo"),
        QmpCommand("balloon", _balloon, Argument("value", "integer")),
        QmpCommand("query-status", _query_status, returns="StatusInfo"),
        QmpCommand("stop", _simple("stop")),
        QmpCommand("cont", _simple("cont")),
        QmpCommand("quit", _simple("quit")),
        QmpCommand("system_reset", _simple("reset")),
        QmpCommand("system_powerdown", _system_powerdown),
        QmpCommand("query-version", _query_version, returns="VersionInfo"),
        QmpCommand("query-name", _query_name, returns="NameInfo"),
        QmpCommand("query-uuid", _query_uuid, returns="UuidInfo"),
        QmpCommand("query-kvm", _query_kvm, returns="KvmInfo"),
        QmpCommand("query-memory-size-summary", _query_memory_size_summary, returns="MemoryInfo"),
        QmpCommand("query-commands", _query_commands, returns="[CommandInfo]"),
        QmpCommand("query-qmp-schema", _query_schema, returns="[SchemaInfo]"),
        QmpCommand("qom-list", _qom_list, Argument("path", "string"), returns="[ObjectPropertyInfo]"),
        QmpCommand("qom-get", _qom_get, Argument("path", "string"), Argument("property", "string"), returns="any"),
        QmpCommand(
            "qom-set", _qom_set, Argument("path", "string"), Argument("property", "string"), Argument("value", "any")
        ),
        QmpCommand(
            "device_add", _device_add, Argument("driver", "any"), Argument("id", "any", optional=True), open=True
        ),
        QmpCommand("device_del", _device_del, Argument("id", "string")),
        QmpCommand(
            "human-monitor-command",
            _human_monitor_command,
            Argument("command-line", "string"),
            Argument("cpu-index", "integer", optional=True),
            returns="str",
        ),
    )
}
"""Every command by name."""


def run(command: QmpCommand, session: QmpSession, arguments: Mapping[str, object]) -> object:
    """Check the arguments and run the command. Raises CommandError for what QMP answers with an error."""
    command.check(arguments)
    try:
        return command.handler(session, arguments)
    except MisuseError as error:
        raise CommandError(str(error)) from None
