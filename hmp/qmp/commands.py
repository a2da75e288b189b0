"""QMP's command table. Dispatch, query-commands and the schema all read it.

Handlers return a value or a reply and never use the session. What else the session does for a command is in the table;
see QmpCommand.
"""

from __future__ import annotations

from device.errors import MisuseError
from device.machine.machine import Machine
from hmp.monitor import MAX_LINE, TOO_LONG, CommandError, qom
from hmp.monitor.commands import balloon_device
from hmp.monitor.commands.machine import plug
from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import Monitor, Reply
from hmp.monitor.registry import TABLE
from hmp.qmp.schema import Arguments, QmpCommand

NEGOTIATE, HUMAN = "qmp_capabilities", "human-monitor-command"


def version(machine: Machine) -> dict[str, object]:
    """Return the version in the form of the greeting and of query-version."""
    front = emulated(machine)
    numbers = map(int, reversed(front.version.split(".")))
    return {"qemu": dict(zip(("micro", "minor", "major"), numbers, strict=True)), "package": front.package}


def _query_status(monitor: Monitor, arguments: Arguments) -> object:
    # QEMU always sends singlestep; hmp has no CPU that could do it.
    return {"status": monitor.machine.run_state, "singlestep": False, "running": monitor.machine.running}


def _query_name(monitor: Monitor, arguments: Arguments) -> object:
    name = monitor.machine.name
    return {} if name is None else {"name": name}


def _query_commands(monitor: Monitor, arguments: Arguments) -> object:
    return [{"name": name} for name in emulated(monitor.machine).commands or COMMANDS]


def _query_schema(monitor: Monitor, arguments: Arguments) -> object:
    return emulated(monitor.machine).schema()


def _qom_set(monitor: Monitor, arguments: Arguments) -> object:
    qom.qom_set(monitor.machine, arguments["path"], arguments["property"], arguments["value"])
    return {}


def _device_add(monitor: Monitor, arguments: Arguments) -> object:
    # QEMU turns numbers and booleans into text, and ignores null, lists and objects. But an id has to be text.
    given = {name: _as_text(value) for name, value in arguments.items() if not isinstance(value, dict | list | None)}
    driver, id = given.pop("driver", None), given.pop("id", None)
    id = id if isinstance(arguments.get("id"), str) else None
    if id is not None and not qom.valid_id(id):
        raise CommandError("Parameter 'id' expects an identifier")
    plug(monitor.machine, driver, id or "", given.items())
    return {}


def _as_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.17g}"  # 1.0 is the text 1
    return str(value) if not isinstance(value, bool) else "on" if value else "off"


def _human_monitor_command(monitor: Monitor, arguments: Arguments) -> object:
    if arguments.get("cpu-index", 0) % (1 << 32):  # QEMU takes the lower half of the number
        raise CommandError("Parameter 'cpu-index' expects a CPU number")
    line = arguments["command-line"]
    # A message may be longer than a typed line. An expression of that length would hold up all clients.
    if len(line) > MAX_LINE:
        return f"{TOO_LONG}\r\n"
    reply = monitor.execute(line)
    # QEMU returns all errors of the human monitor as text. This error exists only in hmp, so it is a QMP error: a
    # program should not have to read text to notice it.
    if reply.refused is not None:
        raise reply.refused
    return reply


COMMANDS: dict[str, QmpCommand] = {
    command.name: command
    for command in (
        QmpCommand(NEGOTIATE, "enable:array?", lambda monitor, _: {}),
        QmpCommand("query-balloon", "", lambda monitor, _: monitor.dialect.query(balloon_device(monitor.machine)),
                   returns="BalloonInfo", asks=True),
        QmpCommand("balloon", "value:integer"),
        QmpCommand("query-status", "", _query_status, returns="StatusInfo"),
        QmpCommand("stop"),
        QmpCommand("cont"),
        QmpCommand("quit"),
        QmpCommand("system_reset", holds="DEVICE_DELETED"),
        QmpCommand("system_powerdown", holds="SHUTDOWN"),
        QmpCommand("query-version", "", lambda monitor, _: version(monitor.machine), returns="VersionInfo"),
        QmpCommand("query-name", "", _query_name, returns="NameInfo"),
        QmpCommand("query-uuid", "", lambda monitor, _: {"UUID": monitor.machine.uuid}, returns="UuidInfo"),
        QmpCommand("query-kvm", "", lambda monitor, _: {"enabled": False, "present": True}, returns="KvmInfo"),
        QmpCommand("query-memory-size-summary", "",
                   lambda monitor, _: {"base-memory": monitor.machine.ram, "plugged-memory": 0}, returns="MemoryInfo"),
        QmpCommand("query-commands", "", _query_commands, returns="[CommandInfo]", lists=True),
        QmpCommand("query-qmp-schema", "", _query_schema, returns="[SchemaInfo]", lists=True),
        QmpCommand("qom-list", "path:string", lambda monitor, given: qom.qom_list(monitor.machine, given["path"]),
                   returns="[ObjectPropertyInfo]"),
        QmpCommand("qom-get", "path:string,property:string",
                   lambda monitor, given: qom.qom_get(monitor.machine, given["path"], given["property"]),
                   returns="any"),
        QmpCommand("qom-set", "path:string,property:string,value:any", _qom_set),
        QmpCommand("device_add", "driver:any,id:any?", _device_add, open=True),
        QmpCommand("device_del", "id:string", holds="DEVICE_DELETED"),
        QmpCommand(HUMAN, "command-line:string,cpu-index:integer?", _human_monitor_command,
                   returns="str"),
    )
}  # fmt: skip
"""Every command that hmp models, by name. hmp.qmp.inventory adds those that are answered with recorded data."""


def run(command: QmpCommand, monitor: Monitor, arguments: Arguments) -> object:
    """Check the arguments and run the command. Raises CommandError if QMP has to answer with an error."""
    try:
        command.check(arguments)
        if command.handler is not None:
            return command.handler(monitor, arguments)
        reply = Reply()
        # The human monitor's command of the same name does the same work; QMP drops its text.
        TABLE[command.name].handler()(monitor, arguments, reply)
    except MisuseError as error:
        raise CommandError(str(error)) from None
    except RecursionError:  # with a schema of --replies
        raise CommandError(f"the arguments of {command.name} are nested too deep") from None
    return reply if reply.pending else {}
