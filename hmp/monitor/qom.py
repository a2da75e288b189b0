"""The object tree of `qom-list`, `qom-get` and `qom-set`, for HMP and QMP.

The operations return data and raise CommandError in QEMU's words, with kind DeviceNotFound if no object has the path.
Each call makes the tree from the machine, so that hot-plugging does not have to update it.
"""

from __future__ import annotations

import builtins

from device.balloon.spec import ABSENT, MODELS, PROPERTIES, QOM_STATS, STATS_TABLE
from device.balloon.stats_queue import check_poll_interval
from device.clock import SECOND
from hmp.monitor import BLANKS, CommandError
from hmp.monitor.grammar import SWITCH, natural
from hmp.monitor.replies import shipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from device.balloon.device import BalloonDevice
    from device.machine.machine import Machine

    Value = int | bool | str
    Reader = Callable[[Any, str, str], Value]

MACHINE_TYPE = "pc-i440fx-7.2-machine"
BACKEND_TYPE = "virtio-balloon-device"
CONTAINER = "container"

_POLLING, _IOTHREAD, _LINK = "guest-stats-polling-interval", "iothread", "link<iothread>"
_SIGNED = range(-(1 << 63), 1 << 63)

_JSON = {"bool": (bool, "boolean"), "int": (int, "integer"), _LINK: (str, "string")}
"""For each type of property the Python type, and its name in QEMU's errors."""

OPTIONS = {**dict.fromkeys(PROPERTIES, "bool"), _POLLING: "int", _IOTHREAD: _LINK}
"""The options of a device that is plugged in, with their types."""


def valid_id(id: str) -> bool:
    """Whether `id` can name a device: a letter, then letters, digits, '-', '.' and '_'."""
    return id.isascii() and id[:1].isalpha() and all(char.isalnum() or char in "-._" for char in id)


def from_json(value: object, name: str, type: str) -> Value:
    """Return a value from QMP if it has the type of the property `name`. Raises CommandError."""
    wanted, words = _JSON[type]
    # Not isinstance: in Python True is an int, and QEMU refuses a boolean for an integer.
    if builtins.type(value) is wanted and (wanted is not int or value in _SIGNED):
        return value  # type: ignore[return-value]
    raise CommandError(f"Invalid parameter type for '{name}', expected: {words}")


def from_option(text: str, name: str, type: str) -> Value:
    """As from_text, for the options of a device that is plugged in: QEMU names the type differently in the error."""
    return from_text(text, name, type, words="integer")


def from_text(text: str, name: str, type: str, *, words: str = "int64") -> Value:
    """Return the value of a text from HMP for the type of the property `name`. Raises CommandError."""
    if type == _LINK:
        return text
    if type == "bool":
        if text not in SWITCH:
            raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
        return SWITCH[text]
    text = text.lstrip(BLANKS)
    sign = text[:1] if text[:1] in ("-", "+") else ""
    value, end = natural(text, len(sign))
    value = -value if sign == "-" else value
    if end == len(sign) or end < len(text) or value not in _SIGNED:
        raise CommandError(f"Parameter '{name}' expects {words}")
    return value


class Property:
    """One property. `set` is None if it is read-only. `alias` says that it belongs to the backend."""

    def __init__(self, name: str, type: str, get: Getter, set: Setter | None = None, *, alias: bool = False) -> None:
        self.name, self.type, self.get, self.set, self.alias = name, type, get, set, alias


class Node:
    """One object of the tree. Only the balloon device and its backend have a `device`."""

    device: BalloonDevice

    def __init__(self, path: str, kind: str, properties: tuple[Property, ...], *children: Node) -> None:
        self.path = path
        self.name = path[path.rindex("/") + 1 :]
        self.kind = kind
        self.properties = properties
        self.children = {child.name: child for child in children}

    def walk(self) -> Iterator[Node]:
        """Yield this object and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def descend(self, parts: list[str]) -> Node | None:
        """Return the object that `parts` lead to from here, or None. Empty parts are skipped, so // is /."""
        node: Node | None = self
        for part in parts:
            if part and node is not None:
                node = node.children.get(part)
        return node


if TYPE_CHECKING:
    Getter = Callable[[Node], object]
    Setter = Callable[[Node, Callable[[], Any]], None]


# The properties.


def _guest_stats(node: Node) -> dict[str, object]:
    # Not `sample`: in QEMU guest-stats keeps its values over a reset and after rmmod (measured with Linux).
    sample = node.device.stats.qom_sample
    values = {} if sample is None else sample.values
    return {
        "stats": {STATS_TABLE[tag].qom: values.get(tag, ABSENT) for tag in QOM_STATS},
        "last-update": 0 if sample is None else sample.wall // SECOND,
    }


def _set_interval(node: Node, value: Callable[[], Any]) -> None:
    node.device.stats.set_poll_interval(value())


def _set_iothread(node: Node, value: Callable[[], Any]) -> None:
    # Read the value first: QEMU reports a value of the wrong type before it says that the link cannot be set.
    value()
    raise CommandError(
        f"Attempt to set link property '{_IOTHREAD}' on device '(null)' (type '{BACKEND_TYPE}') after it was realized"
    )


def _set_realized(node: Node, value: Callable[[], Any]) -> None:
    if not value():
        # QEMU unplugs the device here, and aborts when the device is realized again. So hmp refuses.
        raise CommandError("A device that is in use cannot be unrealized: use device_del")


def _switch(name: str) -> Property:
    def late(node: Node, value: Callable[[], Any]) -> None:
        raise CommandError(
            f"Attempt to set property '{name}' on anonymous device (type '{BACKEND_TYPE}') after it was realized"
        )

    return Property(name, "bool", lambda node: node.device.properties[name], late, alias=True)


_TYPE = Property("type", "string", lambda node: node.kind)
_COMMON = (
    _TYPE,
    Property("realized", "bool", lambda node: True, _set_realized),
    Property("hotplugged", "bool", lambda node: node.device.hotplugged),
    Property("hotpluggable", "bool", lambda node: True),
)
_SWITCHES = ("free-page-reporting", "deflate-on-oom", "page-poison", "free-page-hint")
_REPORTING, _OOM, _POISON, _HINT = map(_switch, _SWITCHES)
_INTERVAL = Property(_POLLING, "int", lambda node: node.device.stats.poll_interval, _set_interval, alias=True)
_STATS = Property("guest-stats", "guest statistics", _guest_stats, alias=True)
_THREAD = Property(_IOTHREAD, _LINK, lambda node: node.device.iothread and f"/objects/{node.device.iothread}",
                   _set_iothread, alias=True)  # fmt: skip

_DEVICE = (*_COMMON, _REPORTING, _OOM, _POISON, _INTERVAL, _STATS, _THREAD, _HINT)
_BACKEND = (*_COMMON, _THREAD, _OOM, _HINT, _POISON, _REPORTING, _INTERVAL, _STATS)
"""The properties of the device and of its backend: those of QEMU's that hmp has, in QEMU's order."""


def _container(path: str, *children: Node) -> Node:
    return Node(path, CONTAINER, (_TYPE,), *children)


def backend_path(machine: Machine) -> str | None:
    """Return the path of the virtio device, which is the child of the balloon device, or None without a device."""
    path = machine.device_path
    return None if path is None else f"{path}/virtio-backend"


def _processor() -> Node:
    """Return the CPU as it was recorded. None of its properties can be set."""
    # libvirt 9 reads the properties of the CPU at each start of a domain.
    data = shipped().qmp
    values = {each["arguments"]["property"]: each["return"] for each in data["qom-get"]}
    known = [
        Property(each["name"], each["type"], lambda node, value=values[each["name"]]: value)  # type: ignore[misc]
        for each in data["qom-list"][0]["return"]
        if each["name"] in values and not each["type"].startswith("child<")
    ]
    return Node(data["qom-list"][0]["arguments"]["path"], str(values["type"]), tuple(known))


def tree(machine: Machine) -> Node:
    """Return the root of the machine's objects."""
    device, path = machine.device, machine.device_path
    named, anonymous = _container("/machine/peripheral"), _container("/machine/peripheral-anon")
    if device is not None and path is not None:
        backend = Node(f"{path}/virtio-backend", BACKEND_TYPE, _BACKEND)
        front = Node(path, device.model, _DEVICE, backend)
        front.device = backend.device = device
        (named if device.id else anonymous).children[front.name] = front
    unattached = _container("/machine/unattached", _processor())
    top = Node("/machine", MACHINE_TYPE, (_TYPE,), unattached, anonymous, named)
    return _container("/", _container("/objects"), top, _container("/chardevs"))


def _resolve(machine: Machine, path: str) -> list[Node]:
    """Return the objects that `path` means: one or none; a partial path may mean several."""
    root = tree(machine)
    parts = path.split("/") if path else []
    # A path without a leading / may begin at any object, as in QEMU: `balloon0` finds /machine/peripheral/balloon0.
    starts = [root] if parts and not parts[0] else root.walk()
    return [found for start in starts if (found := start.descend(parts)) is not None]


def _find(machine: Machine, path: str) -> Node:
    found = _resolve(machine, path)
    if len(found) != 1:
        raise CommandError(f"Device '{path}' not found", "DeviceNotFound")
    return found[0]


def _property(node: Node, name: str) -> Property:
    for found in node.properties:
        if found.name == name:
            return found
    child = node.children.get(name)
    if child is None:
        raise CommandError(f"Property '{node.kind}.{name}' not found")
    # A child is a property of its parent too; its value is its path.
    return Property(name, f"child<{child.kind}>", lambda node: child.path)


# The operations.


def qom_list(machine: Machine, path: str) -> list[dict[str, str]]:
    """Return name and type of each property of an object. Raises CommandError if there is no such object."""
    if len(_resolve(machine, path)) > 1:
        raise CommandError(f"Path '{path}' is ambiguous")
    node = _find(machine, path)
    names = [*[each.name for each in node.properties], *node.children]
    return [{"name": name, "type": _property(node, name).type} for name in names]


def qom_get(machine: Machine, path: str, prop: str) -> object:
    """Return the value of a property. Raises CommandError if there is no such object or property."""
    node = _find(machine, path)
    return _property(node, prop).get(node)


def qom_set(machine: Machine, path: str, name: str, value: Any, read: Reader = from_json) -> None:
    """Set a property to a value from JSON, or of the text that `read` reads.

    Raises CommandError, and then nothing has changed.
    """
    node = _find(machine, path)
    found = _property(node, name)
    if found.set is None:
        raise _not_writable(found, node.kind)
    # A function and not the value: the setter decides whether the value or the state is checked first, and so which
    # error comes.
    found.set(node, lambda: read(value, name, found.type))
    machine.deliver()


def _not_writable(found: Property, kind: str) -> CommandError:
    # The device passes such a property on to its backend, so QEMU's error names the backend's type.
    return CommandError(f"Property '{BACKEND_TYPE if found.alias else kind}.{found.name}' is not writable")


def read_options(model: str, pairs: Iterable[tuple[str, Any]], read: Reader) -> dict[str, Any]:
    """Return the keywords to make a balloon device of `model` with; `read` reads the values of the (key, value) pairs.

    If a key is given twice, the last value is used, as in QEMU. Raises CommandError and MisuseError in QEMU's words.
    """
    options: dict[str, Any] = {} if model == MODELS[0] else {"model": model}
    for key, value in pairs:
        if key not in OPTIONS:
            for found in _DEVICE:
                if found.name == key and found.set is None:
                    raise _not_writable(found, model)
            raise CommandError(f"Property '{model}.{key}' not found")
        options[key.replace("-", "_")] = read(value, key, OPTIONS[key])
    if thread := options.get("iothread"):
        options["iothread"] = thread = thread.removeprefix("/objects/")
        if not valid_id(thread):
            raise CommandError(f"Device '{thread}' not found")
    check_poll_interval(options.get("guest_stats_polling_interval", 0))
    return options


def device_to_unplug(machine: Machine, id: str) -> str:
    """Return the name of a device for `Machine.device_del`; `id` is its id or any spelling of its path.

    Raises CommandError for anything that cannot be unplugged.
    """
    root = tree(machine)
    # As in QEMU: resolve the path first, then say what is wrong with the object. So the error for a backend or a
    # container is not "not found".
    start = root if id.startswith("/") else root.descend(["machine", "peripheral"])
    node = None if start is None else start.descend(id.split("/"))
    if node is None:
        raise CommandError(f"Device '{id}' not found", "DeviceNotFound")
    if node.kind == BACKEND_TYPE:
        raise CommandError("Bus 'virtio-bus' does not support hotplugging")
    if node.kind not in MODELS:
        raise CommandError(f"{id} is not a hotpluggable device")
    return id if id == node.name else node.path


def property_names(machine: Machine, path: str, *, writable_only: bool = False) -> list[tuple[str, str]]:
    """Return (name, type) of the properties of an object, for completion; an empty list if the path is wrong.

    With `writable_only` only those that can be set. The switches of a device that is in use cannot.
    """
    found = _resolve(machine, path)
    if len(found) != 1:
        return []
    if writable_only:
        settable = [
            each for each in found[0].properties if each.set is not None and each.name not in (*PROPERTIES, _IOTHREAD)
        ]
        return [(each.name, each.type) for each in settable]
    return [(each["name"], each["type"]) for each in qom_list(machine, path)]
