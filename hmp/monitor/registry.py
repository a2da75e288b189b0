"""The command table. Dispatch, help, completion, QMP's human-monitor-command and the docs all read it.

The path of a handler has one of three forms:

`module:function` names a function in hmp.monitor.commands (`:function` in the package itself). It is imported when its
command first runs, so a script pays only for what it uses. It is called with (monitor, arguments, reply) and returns
the text to print. It returns None if there is no text, or if it has suspended the reply. `machine.stop` names a method
of the machine or its guest, if calling that is all the command does. `=LINE` names a recorded line, which always has
the same answer (replies.py).
"""

from __future__ import annotations

from _operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hmp.monitor.grammar import Parameter


class Command:
    """One command. `name` has its names joined by `|`. `types` has its arguments in the form of grammar.py, and `usage`
    in a form for people. `complete` has a word for each argument: what completion offers (completion.py). `host` says
    that it starts programs or names files of this host: it is refused if the monitor's `host_files` is off.
    """

    def __init__(
        self, name: str, types: str, usage: str, help: str, path: str, *, complete: str = "",
        topics: tuple[Command, ...] | None = None, heading: str = "", host: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.types, self.usage, self.help, self.path = name, types, usage, help, path
        self.complete, self.heading, self.host = complete.split(), heading, host
        self.topics = None if topics is None else _by_name(topics)
        self._handler: Callable[..., str | None] | None = None

    @property
    def parameters(self) -> list[Parameter]:
        """The (name, type, optional) of each argument."""
        from hmp.monitor.grammar import parameters

        return parameters(self.types)

    def handler(self) -> Callable[..., str | None]:
        """Return the function that runs the command, importing it the first time."""
        # The import is looked up once; a pipe may run the same command 100,000 times.
        if self._handler is None:
            self._handler = self._found()
        return self._handler

    def _found(self) -> Callable[..., str | None]:
        module, colon, function = self.path.partition(":")
        if self.path[0] == "=":
            from hmp.monitor.replies import show

            return lambda monitor, arguments, reply: show(self.path[1:], reply)
        if not colon:
            method = attrgetter(self.path)
            return lambda monitor, arguments, reply: reply.follow(method(monitor)())
        # With a fromlist __import__ returns the module itself and not the package at the top.
        found = __import__(f"hmp.monitor.commands.{module}".rstrip("."), fromlist=[function])
        handler: Callable[..., str | None] = getattr(found, function)
        return handler


def _by_name(commands: tuple[Command, ...]) -> dict[str, Command]:
    return {name: command for command in commands for name in command.name.split("|")}


INFO: tuple[Command, ...] = (
    Command("balloon", "", "", "ask the guest for its memory statistics", ":info_balloon"),
    Command("history", "", "", "the lines typed so far", "status:info_history"),
    Command("kvm", "", "", "whether KVM is used (never)", "status:info_kvm"),
    Command("memory_size_summary", "", "", "RAM and plugged memory in bytes", "status:info_memory_size_summary"),
    Command("name", "", "", "the machine's name", "status:info_name"),
    Command("snapshots", "", "", "the snapshots that can be loaded", "snapshot:info_snapshots"),
    Command("status", "", "", "whether the VM runs", "status:info_status"),
    Command("uuid", "", "", "the machine's UUID", "status:info_uuid"),
    Command("version", "", "", "the QEMU that is emulated, and by what", "status:info_version"),
    Command("virtio", "", "", "the virtio devices there are", "virtio:info_virtio"),
    Command("virtio-queue-element", "path:s,queue:i,index:i?", "path queue [index]",
            "a buffer on a virtqueue's available ring", "virtio:info_virtio_queue_element", complete="virtio"),
    Command("virtio-queue-status", "path:s,queue:i", "path queue", "a virtqueue's rings and indices",
            "virtio:info_virtio_queue_status", complete="virtio"),
    Command("virtio-status", "path:s", "path", "status, features and refusals of a virtio device",
            "virtio:info_virtio_status", complete="virtio"),
)  # fmt: skip

# Clients and libraries ask for these before they come to the balloon. The texts were recorded from QEMU 7.2
# (replies.py).
_CONSTANT = {
    "block-jobs": "jobs on block devices: none", "blockstats": "what block devices did: none",
    "capture": "sound that is recorded: none", "dirty_rate": "how fast memory is written to: not measured",
    "dump": "how a dump of memory goes: none", "hotpluggable-cpus": "the processors",
    "iothreads": "threads for input and output: none", "mem": "mappings of virtual memory: none",
    "memory-devices": "plugged memory: none", "mice": "the mouse that gets events",
    "migrate": "how a migration goes: none", "network": "network devices: none", "numa": "NUMA nodes: none",
    "opcount": "the translator's counters: none", "profile": "the profiler: none", "rdma": "RDMA devices: none",
    "replay": "recorded execution: none", "sev": "SEV: off", "sgx": "SGX: off", "spice": "the SPICE server: off",
    "tlb": "the processor's TLB: empty", "tpm": "TPM devices: none", "usb": "USB devices: none",
    "usernet": "connections of user networks: none", "vcpu_dirty_limit": "limits to writing memory: none",
    "vm-generation-id": "the VM generation ID: none", "vnc": "VNC servers: none",
}  # fmt: skip
"""Topics whose text never changes, because hmp has no such device, with their help."""

INFO += (
    *[Command(name, "", "", help, f"=info {name}") for name, help in _CONSTANT.items()],
    Command("block", "nodes:-n,verbose:-v,device:B?", "[-n] [-v] [device]", "block devices: none", "=info block"),
    Command("chardev", "", "", "the character devices", "inventory:info_chardev"),
    Command("cpus", "", "", "the processor", "inventory:info_cpus"),
    Command("memdev", "", "", "what the RAM is made of", "inventory:info_memdev"),
    Command("migrate_capabilities", "", "", "what migration may use", "inventory:info_migrate_capabilities"),
    Command("migrate_parameters", "", "", "what migration is set to", "inventory:info_migrate_parameters"),
    Command("pci", "", "", "the PCI devices", "inventory:info_pci"),
)
# `info` and `help info` list the topics by name.
INFO = tuple(sorted(INFO, key=lambda command: command.name))

SIM = (
    Command("alloc", "size:Z", "size", "let a workload in the guest take memory", "sim:alloc", complete="size"),
    Command("chart", "stats:S?", "[stat...]", "draw the recent past of actual and statistics", "chart:chart",
            complete="actual|stat*"),
    Command("delay", "delay:T", "seconds", "let the driver answer that much later; 0 is at once", "sim:delay",
            complete="seconds"),
    Command("driver", "what:s", "load|unload", "load or unload the guest's balloon driver", "sim:driver",
            complete="load|unload"),
    Command("drop", "count:l?", "[n]", "let the driver miss its next n notifications (1)", "sim:drop",
            complete="count"),
    Command("event", "what:S", "name [json] [count n] [every sec]", "send an event to QMP's clients", "wire:event"),
    Command("free", "size:Z", "size", "let the workload give memory back", "sim:free", complete="size"),
    Command("guest", "guest:S?", "[name[,key=value...]]", "show the guest, or reboot into another one", "sim:guest",
            complete="guest"),
    Command("hang", "", "", "let the driver stop serving its queues", "machine.guest.controls.hang"),
    Command("log", "count:l?", "[n]", "the last n (20) entries of --log", "wire:log"),
    Command("panic", "", "", "let the guest's kernel die", "machine.guest.controls.panic"),
    Command("reply", "what:S?", "[what [client n] [times n] [after sec] answer [manner...]]",
            "set how clients are answered", "wire:reply"),
    Command("save", "file:s", "file", "write what was typed as a script; what failed as comments", "repeat:save",
            host=True),
    Command("set", "stat:s?,value:s?", "[stat value|none]", "pin a statistic, or leave it out; alone: list pins",
            "sim:set_stat", complete="stat value|none"),
    Command("sleep", "duration:T", "seconds", "let host time pass", "sim:sleep", complete="seconds"),
    Command("source", "file:s", "file", "run the commands of a script", "repeat:source", host=True),
    Command("stats", "", "", "all statistics the guest reported, with their age", "sim:stats"),
    Command("unset", "stat:s", "stat", "release a pinned statistic", "sim:unset", complete="pin"),
    Command("wake", "", "", "let the driver serve its queues again", "machine.guest.controls.wake"),
    Command("watch", "what:S?", "[seconds [n]] [command]", "show something again and again", "repeat:watch"),
    Command("wire", "what:S?", "[cut|garbage text [client n]|one-client on|off]",
            "list the clients, or hang up on them", "wire:wire"),
)  # fmt: skip

# QEMU's commands in the order of their names. `sim` is last, under its own heading, because it is not a command of
# QEMU.
COMMANDS = (
    Command("balloon", "value:M", "target", "ask the guest to keep that many MiB", ":balloon", complete="target"),
    Command("chardev-remove", "id:s", "id", "remove a character device: none can go", "inventory:no_chardev"),
    Command("cont|c", "", "", "let the VM run", "machine.cont"),
    Command("delvm", "name:s", "tag", "delete a snapshot", "snapshot:delvm", complete="snapshot"),
    Command("device_add", "device:O", "driver[,prop=value][,...]", "plug a device in", "machine:device_add",
            complete="driver"),
    Command("device_del", "id:s", "device", "ask the guest to let go of a device", "machine:device_del",
            complete="device"),
    Command("drive_del", "id:B", "device", "remove a block device: there is none", "inventory:no_drive"),
    Command("help|?", "name:S?", "[cmd]", "show what commands there are", "help:help", complete="help"),
    Command("hostfwd_add", "arg1:s,arg2:s?", "[netdev] protocol:address:port-address:port",
            "forward a port: there is no network", "inventory:no_network"),
    Command("hostfwd_remove", "arg1:s,arg2:s?", "[netdev] protocol:address:port",
            "stop forwarding a port: there is no network", "inventory:no_network"),
    Command("info", "item:s?", "[topic]", "show something about the machine", "help:info", topics=INFO),
    Command("loadvm", "name:s", "tag", "go back to a snapshot", "snapshot:loadvm", complete="snapshot"),
    Command("mouse_button", "state:i", "state", "press the mouse's buttons", "inventory:nothing"),
    Command("mouse_move", "dx:s,dy:s,dz:s?", "dx dy [dz]", "move the mouse", "inventory:nothing"),
    Command("netdev_del", "id:s", "id", "remove a network device: there is none", "inventory:not_found"),
    Command("nmi", "", "", "send an NMI", "inventory:nothing"),
    Command("object_del", "id:s", "id", "remove an object: there is none", "inventory:no_object"),
    Command("print|p", "fmt:/,val:l", "/format expression", "print the value of an expression",
            "inventory:print_value"),
    Command("qom-get", "path:s,property:s", "path property", "print a property of an object", "qom:qom_get",
            complete="path property"),
    Command("qom-list", "path:s?", "path", "list the properties of an object", "qom:qom_list", complete="path"),
    Command("qom-set", "json:-j,path:s,property:s,value:S", "[-j] path property value",
            "set a property of an object (-j: the value is JSON)", "qom:qom_set", complete="path writable"),
    Command("quit|q", "", "", "end the machine", "machine.quit"),
    Command("savevm", "name:s?", "[tag]", "save the whole machine", "snapshot:savevm", complete="snapshot"),
    Command("screendump", "filename:F,format:-fs,device:s?,head:i?", "filename [-f format] [device [head]]",
            "save the screen: there is none", "inventory:screendump"),
    Command("sendkey", "keys:s,hold_ms:i?", "keys [hold_ms]", "send keys to the guest", "inventory:sendkey"),
    Command("stop|s", "", "", "stop the VM", "machine.stop"),
    Command("system_powerdown", "", "", "press the power button", "machine.power_down"),
    Command("system_reset", "", "", "reset the machine", "machine.reset"),
    Command("sim", "", "[topic]", "show or control the simulated guest", "sim:overview", topics=SIM,
            heading="simulator"),
)  # fmt: skip

TABLE = _by_name(COMMANDS)
"""Every command by each of its names."""
