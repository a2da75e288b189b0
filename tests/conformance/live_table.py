"""What a running guest shows, row by row: see test_live.py, which holds hmp against QEMU with it.

A row is told in the steps of tests.support.live.Play. Rows of a group are played one after another on one machine and
leave it as they found it: running, driver loaded, balloon empty, polling off.
"""

from __future__ import annotations

from typing import NamedTuple

from hmp.monitor.registry import TABLE
from hmp.qmp.commands import COMMANDS

POLL = 'qom-set {{"path": "balloon0", "property": "guest-stats-polling-interval", "value": {}}}'
INTERVAL = 'qom-get {"path": "balloon0", "property": "guest-stats-polling-interval"}'
STATS = 'qom-get {"path": "balloon0", "property": "guest-stats"}'
B = "/machine/peripheral/balloon0"


class Row(NamedTuple):
    """`kernel` are patterns of what is the kernel's (or the program's) own, and is not compared."""

    id: str
    steps: tuple[str, ...]
    kernel: tuple[str, ...] = ()
    only: str = ""
    """The pattern of the lines to compare, where others are not the balloon's."""
    dialect: str = "qemu"
    unordered: bool = False


def get(name: str) -> str:
    return f'qom-get {{"path": "{B}", "property": "{name}"}}'


def resize(size: int) -> tuple[str, str]:
    return f'qmp balloon {{"value": {size << 20}}}', f"see BALLOON_CHANGE actual={size}"


ADDRESS = (r"(desc|avail|used): +0x[0-9a-f]{16}", r"addr 0x[0-9a-f]+")
INDICES = (r"(idx|used|inuse): +\d+", r"valid: +\w+", r"ring: +\d+", r"index: +\d+", r"len \d+.*")
OWN = r'(^|name": ")(legacy-iothread|iothread|qemu-4|page-poison|free-page|deflate|guest|type|realized|hotplug)'
"""What is the balloon's among an object's properties; the rest is PCI's and virtio's."""
SETTLED = (f"qmp {POLL.format(1)}", "until sample", "until sample", f"qmp {POLL.format(0)}")
"""More than a second, in which every BALLOON_CHANGE was told: the next one goes out at once."""
FIRMWARE = r"^(?!.*guest-reset)"
"""After a reset QEMU's firmware at times resets once more by itself."""
SNAPSHOT = (r"[\d.]+ [KM]?i?B +[-\d]+ [:\d]+ +[:.\d]+",)

PLAIN = (
    Row("before it runs", ("hmp info status", "hmp info balloon", "qmp query-status", "qmp query-balloon",
                           f"qmp {STATS}", f"qmp {INTERVAL}", "hmp info virtio-status PATH")),
    Row("a target before it runs", ("hmp balloon 448", "hmp info balloon", "qmp query-balloon")),
    Row("first cont", ("qmp cont", "see RESUME", "until booted", "see BALLOON_CHANGE actual=448", *resize(512))),
    Row("status", ("hmp info status", "qmp query-status", "qmp hmp info status")),
    Row("version", ("hmp info version", "qmp query-version"), (r"7\.2\.\d+.*", r'"micro": \d+', r'"package": "[^"]*"')),
    Row("name, uuid, kvm", ("hmp info name", "hmp info uuid", "hmp info kvm", "qmp query-name", "qmp query-uuid",
                            "qmp query-kvm")),
    Row("memory size", ("hmp info memory_size_summary", "qmp query-memory-size-summary",
                        "qmp hmp info memory_size_summary")),
    Row("balloon asked", ("hmp info balloon", "qmp query-balloon", "qmp hmp info balloon")),
    Row("virtio", ("hmp info virtio", "qmp hmp info virtio")),
    Row("virtio-status", ("hmp info virtio-status PATH",)),
    *(Row(f"virtio-queue-status {n}", (f"hmp info virtio-queue-status PATH {n}",), ADDRESS + INDICES * (n < 2))
      for n in range(4)),
    *(Row(f"virtio-queue-element {n}", (f"hmp info virtio-queue-element PATH {n}",
                                        f"hmp info virtio-queue-element PATH {n} 1"), ADDRESS + INDICES * (n < 2))
      for n in range(4)),
    Row("first statistics", (f"qmp {STATS}", f"qmp {INTERVAL}")),
    Row("polling", (f"qmp {POLL.format(1)}", f"qmp {INTERVAL}", "until sample", f"qmp {STATS}", "until sample",
                    f"qmp {POLL.format(0)}", f"qmp {INTERVAL}", f"qmp {STATS}")),
    Row("polling, changed while on", (f"qmp {POLL.format(1)}", "until sample", f"qmp {POLL.format(300)}",
                                      f"qmp {INTERVAL}", f"qmp {POLL.format(1)}", "until sample", f"qmp {POLL.format(0)}")),
    Row("polling, HMP", (f"hmp qom-set {B} guest-stats-polling-interval 1",
                         f"hmp qom-get {B} guest-stats-polling-interval", "until sample",
                         f"hmp qom-set -j {B} guest-stats-polling-interval 0", f"hmp qom-get {B} guest-stats"),
        (r"(?<=: )\d{2,}|(?<=-)faults\": \d+",)),
    Row("polling, refused", (*(f"qmp {POLL.format(n)}" for n in ("-1", "4294967296", "1.5", '"x"', "null", "true")),
                             f"qmp {INTERVAL}", f"hmp qom-set {B} guest-stats-polling-interval -1",
                             f"hmp qom-set {B} guest-stats-polling-interval x",
                             f'qmp qom-set {{"path": "{B}", "property": "guest-stats", "value": 1}}',
                             f"qmp {get('nosuch')}")),
    Row("polling, stopped", ("qmp stop", f"qmp {POLL.format(1)}", f"qmp {STATS}", "qmp cont", "until sample",
                             f"qmp {STATS}", f"qmp {POLL.format(0)}")),
    Row("properties", tuple(f"qmp {get(name)}" for name in (
        "type", "deflate-on-oom", "free-page-hint", "free-page-reporting", "page-poison", "realized", "hotplugged",
        "iothread", "qemu-4-0-config-size"))),
    Row("properties, set", tuple(f'qmp qom-set {{"path": "{B}", "property": "{name}", "value": {value}}}' for name, value in (
        ("type", '"x"'), ("deflate-on-oom", "true"), ("free-page-reporting", "true"), ("page-poison", "false"),
        ("deflate-on-oom", '"x"')))),
    Row("qom-list of the device", (f'qmp qom-list {{"path": "{B}"}}',), only=OWN),
    Row("qom-list of the backend", (f"hmp qom-list {B}/virtio-backend",), only=OWN),
    Row("qom-list above", ("hmp qom-list /machine/peripheral", "hmp qom-list /machine", "hmp qom-list /",
                           'qmp qom-list {"path": "/machine/peripheral"}'), only=r"^(\(qemu|type |peripheral|machine|balloon)|name"),
    Row("balloon, HMP", ("hmp balloon 256", "see BALLOON_CHANGE actual=256", "hmp info balloon", "hmp balloon 300",
                         "see BALLOON_CHANGE actual=300", "hmp balloon 512", "see BALLOON_CHANGE actual=512",
                         "hmp info balloon")),
    Row("balloon, QMP", (*resize(256), "qmp query-balloon", *resize(512), "qmp query-balloon")),
    Row("balloon, HMP over QMP", ("qmp hmp balloon 480", "see BALLOON_CHANGE actual=480", "qmp hmp balloon 512",
                                  "see BALLOON_CHANGE actual=512")),
    Row("balloon, expressions", ("hmp balloon 0x1c0+(2*16)", "see BALLOON_CHANGE actual=480", "hmp balloon 'A'*7",
                                 "see BALLOON_CHANGE actual=455", "hmp balloon 01000", "until actual=512",
                                 "see BALLOON_CHANGE actual=512")),
    Row("balloon above RAM", ("hmp balloon 448", "see BALLOON_CHANGE actual=448", "hmp balloon 4096",
                              "see BALLOON_CHANGE actual=512", "qmp balloon {\"value\": 1099511627776}",
                              "qmp query-balloon")),
    Row("balloon, refused", ("hmp balloon 0", "hmp balloon -1", "hmp balloon", "hmp balloon 64M", "hmp balloon 1/0",
                             "hmp balloon 0x8000000000000", 'qmp balloon {"value": 0}', 'qmp balloon {"value": -4096}',
                             'qmp balloon {"value": 1.5}', "qmp balloon", "qmp query-balloon")),
    Row("balloon, no whole page or MiB", ('qmp balloon {"value": 503316481}', "see BALLOON_CHANGE actual=503320576",
                                          'qmp balloon {"value": 502268000}', "until actual=502272000", "qmp query-balloon",
                                          "hmp info balloon", *resize(512))),
    Row("balloon, paced", ("hmp balloon 508", "until actual=508", "hmp balloon 504", "see BALLOON_CHANGE actual=504",
                           "pace", "hmp balloon 512", "see BALLOON_CHANGE actual=512")),
    Row("balloon and the guest's total", (f"qmp {POLL.format(1)}", "until sample", "grown", *resize(256), "until sample",
                                          "until sample", "grown", *resize(512), "until sample", "until sample", "grown",
                                          f"qmp {POLL.format(0)}"), (r"by [345]\d\d",)),
    Row("stop and cont, HMP", ("hmp stop", "hmp info status", "hmp s", "hmp c", "hmp info status", "hmp cont",
                               "see RESUME")),
    Row("stop and cont, QMP", ("qmp stop", "qmp query-status", "qmp stop", "qmp cont", "qmp query-status", "qmp cont")),
    Row("stop and cont, HMP over QMP", ("qmp hmp stop", "qmp hmp info status", "qmp hmp cont")),
    Row("balloon, stopped", ("qmp stop", 'qmp balloon {"value": 469762048}', "qmp query-balloon", "hmp info balloon",
                             "qmp cont", "see BALLOON_CHANGE actual=448", *resize(512))),
    Row("virtio-status, stopped", ("qmp stop", "hmp info virtio-status PATH", "qmp cont"), only=r"vm_running|started"),
    Row("balloon asked, seed", ("hmp info balloon", "qmp hmp info balloon"), (r"=\d+(?=[,\r\n]|$)",), dialect="seed"),
    Row("query-balloon, seed", ("qmp query-balloon",), (r'(?<=[a-z]": )\d+(?=[,}])',), dialect="seed"),
    Row("query-commands", ("qmp query-commands",), only="|".join(f'"{name}"' for name in COMMANDS),
        unordered=True),
    Row("quit, HMP", ("hmp quit", "end")),
)  # fmt: skip

LIFE = (
    Row("c", ("hmp c", "until booted")),
    Row("no snapshots", ("hmp info snapshots", "hmp loadvm none", "qmp query-status", "hmp cont", "hmp delvm none")),
    Row("savevm", ("qmp hmp savevm one", "qmp query-status", "hmp savevm two", "hmp info snapshots",
                   "qmp hmp savevm one"), SNAPSHOT),
    Row("savevm, stopped", ("qmp stop", "qmp hmp savevm three", "qmp query-status", "qmp cont")),
    Row("savevm without a name", ("hmp savevm", "hmp delvm nosuch"),),
    Row("loadvm", ("qmp hmp savevm full", *resize(448), "qmp query-balloon", "qmp hmp loadvm full", "qmp query-status",
                   "qmp query-balloon", "hmp info balloon")),
    Row("loadvm into a smaller balloon", (*resize(448), "qmp hmp savevm small", *resize(512), "qmp hmp loadvm small",
                                          "qmp query-balloon", *resize(512))),
    Row("loadvm and statistics", (f"qmp {POLL.format(1)}", "until sample", "qmp hmp savevm polled", f"qmp {POLL.format(0)}",
                                  *resize(448), *resize(512), f"qmp {STATS}", "qmp hmp loadvm polled", f"qmp {INTERVAL}", f"qmp {STATS}",
                                  f"qmp {POLL.format(0)}")),
    Row("loadvm and the interval", (f"qmp {POLL.format(300)}", "qmp hmp savevm on", f"qmp {POLL.format(200)}",
                                    "qmp hmp loadvm on", f"qmp {INTERVAL}", f"qmp {POLL.format(0)}")),
    Row("loadvm, stopped, and statistics", (
        f"qmp {POLL.format(1)}", "until sample", f"qmp {POLL.format(0)}", f"qmp {STATS}", "qmp hmp savevm before", "guest alloc 100",
        f"qmp {POLL.format(1)}", "until sample", "until sample", f"qmp {POLL.format(0)}", f"qmp {STATS}", "qmp stop",
        "qmp hmp loadvm before", f"qmp {STATS}", "qmp query-status", "qmp cont", f"qmp {STATS}", "qmp stop", "qmp cont", f"qmp {STATS}")),
    Row("loadvm without a driver", ("qmp hmp savevm with", f"qmp {STATS}", *resize(448), *resize(512), "guest rmmod", "qmp hmp savevm without",
                                    f"qmp {STATS}", "qmp hmp loadvm with", f"qmp {STATS}", "qmp hmp loadvm without",
                                    f"qmp {STATS}", "qmp query-balloon", "qmp hmp loadvm with", "qmp query-balloon")),
    Row("loadvm, stopped", ("qmp stop", "qmp hmp loadvm full", "qmp query-status", "qmp cont")),
    Row("delvm", ("hmp delvm one", "hmp delvm two", "hmp delvm three", "hmp delvm full", "hmp delvm small",
                  "hmp delvm polled", "hmp delvm on", "hmp delvm before", "hmp delvm with", "hmp delvm without"), (r"vm-\d+",)),
    Row("alloc shows", (f"qmp {POLL.format(1)}", "until sample", "guest alloc 200", "until sample", f"qmp {STATS}",
                        "guest free 200", f"qmp {POLL.format(0)}")),
    Row("rmmod", (*resize(448), f"qmp {STATS}", "guest rmmod", "see BALLOON_CHANGE actual=512", "qmp query-balloon",
                  "hmp info balloon", f"qmp {STATS}")),
    Row("no driver: status", ("hmp info virtio-status PATH", "hmp info virtio-queue-status PATH 2",
                              "hmp info virtio-queue-element PATH 2"), (r"isr: +\d", r"queue_sel: +\d")),
    Row("no driver: polling", (f"qmp {POLL.format(1)}", f"qmp {STATS}", f"qmp {POLL.format(0)}")),
    Row("no driver: balloon", ('qmp balloon {"value": 469762048}', "qmp query-balloon", "hmp info balloon")),
    Row("insmod", ("guest insmod", "see BALLOON_CHANGE actual=448", "until driver", f"qmp {STATS}", *resize(512))),
    Row("rmmod and insmod while polled", (f"qmp {POLL.format(1)}", "until sample", f"qmp {STATS}", "guest rmmod",
                                          f"qmp {STATS}", f"qmp {INTERVAL}", "guest insmod", "until driver",
                                          "until sample", f"qmp {STATS}", f"qmp {POLL.format(0)}")),
    Row("device_add of a second", ("hmp device_add virtio-balloon-pci,id=b2", "hmp device_add virtio-balloon-pci,id=balloon0",
                                   'qmp device_add {"driver": "virtio-balloon-pci", "id": "b2"}')),
    Row("device_del", ("hmp device_del balloon0", "see DEVICE_DELETED device=balloon0")),
    Row("no device", ("hmp info balloon", "hmp balloon 256", "qmp query-balloon", 'qmp balloon {"value": 1073741824}',
                      "hmp info virtio", "hmp device_del balloon0", f"qmp {STATS}",
                      'qmp device_del {"id": "balloon0"}')),
    Row("device_add, refused", tuple(f"hmp device_add virtio-balloon-pci{rest}" for rest in (
        ",guest-stats-polling-interval=x", ",guest-stats-polling-interval=-1",
        ",guest-stats-polling-interval=4294967296", "-transitional,nosuch=1", "-non-transitional,type=x", "-device",
        ",guest-stats=1", ",deflate-on-oom=x", ",nosuch=1")) + tuple(
        f'qmp device_add {{"driver": "virtio-balloon-pci", "id": "balloon0", {rest}}}' for rest in (
        '"guest-stats-polling-interval": "x"', '"guest-stats-polling-interval": true', '"deflate-on-oom": 1',
        '"nosuch": 1'))),
    Row("device_add, polled", ("hmp device_add virtio-balloon-pci-transitional,id=balloon0,guest-stats-polling-interval=1",
                               "until driver", "until sample", "until sample", f"qmp {INTERVAL}", f"qmp {get('type')}",
                               "hmp qom-list /machine/peripheral", f"qmp {POLL.format(0)}",
                               "hmp device_del balloon0", "see DEVICE_DELETED device=balloon0",
                               'qmp device_add {"driver": "virtio-balloon-pci-non-transitional", "id": "balloon0"}',
                               "until driver", f"qmp {get('type')}", 'qmp device_del {"id": "balloon0"}',
                               "see DEVICE_DELETED device=balloon0")),
    Row("device_add", ("hmp device_add virtio-balloon-pci,id=balloon0", "until driver", "until sample", "hmp info balloon", f"qmp {STATS}",
                       f"qmp {INTERVAL}", *resize(448), *resize(512))),
    Row("device_del while inflated, QMP", (*resize(448), *SETTLED, 'qmp device_del {"id": "balloon0"}',
                                           "see DEVICE_DELETED device=balloon0", "see BALLOON_CHANGE actual=512",
                                           'qmp device_add {"driver": "virtio-balloon-pci", "id": "balloon0"}',
                                           "until driver", "qmp query-balloon")),
    Row("device_del twice, stopped", ("qmp stop", 'qmp device_del {"id": "balloon0"}', 'qmp device_del {"id": "balloon0"}',
                                      "hmp device_del balloon0", "qmp query-balloon", "qmp cont", "see DEVICE_DELETED device=balloon0",
                                      "qmp query-balloon", "hmp device_add virtio-balloon-pci,id=balloon0",
                                      "until driver")),
    Row("history", ("hmp info history",), (r"^\d+: '(?!info history).*",)),
    Row("powerdown, nobody heeds", ("guest rmmod", "qmp system_powerdown", "hmp system_powerdown", "see POWERDOWN",
                                    "qmp query-status", "guest insmod", "until driver")),
    Row("powerdown", ("guest heed", "qmp system_powerdown", "end")),
)  # fmt: skip

RESET = (
    Row("cont by HMP", ("hmp cont", "see RESUME", "until booted")),
    Row(
        "system_reset",
        (
            *resize(448),
            *SETTLED[:-1],  # asks no more before it is reset
            f"qmp {POLL.format(300)}",
            f"qmp {STATS}",
            "qmp system_reset",
            "see RESET",
            "qmp query-balloon",
            "hmp info balloon",
            f"qmp {STATS}",
            f"qmp {INTERVAL}",
            "qmp query-status",
        ),
        (r"actual=(?!448)\d+", r'(?<="actual": )(?!469762048)\d+'),
    ),
    Row(
        "after system_reset",
        (
            "until booted",
            "see BALLOON_CHANGE actual=448",
            "qmp query-balloon",
            f"qmp {POLL.format(1)}",
            "until sample",
            f"qmp {STATS}",
            f"qmp {POLL.format(0)}",
            *resize(512),
        ),
        only=FIRMWARE,
    ),
    Row(
        "system_reset, and the new driver has nothing to do",
        (
            *resize(448),
            "qmp system_reset",
            "see RESET",
            'qmp balloon {"value": 536870912}',
            "until booted",
            "qmp query-balloon",
            *resize(480),
            *resize(512),
        ),
        only=FIRMWARE,
    ),
    Row(
        "system_reset while polled",
        (
            f"qmp {POLL.format(1)}",
            "until sample",
            "qmp system_reset",
            f"qmp {INTERVAL}",
            "until booted",
            "until sample",
            "until sample",
            f"qmp {INTERVAL}",
            f"qmp {POLL.format(0)}",
        ),
        only=FIRMWARE,
    ),
    Row(
        "panic, no pvpanic",
        (
            "guest panic",
            "qmp query-status",
            "hmp info balloon",
            f"qmp {STATS}",
            'qmp balloon {"value": 268435456}',
            "qmp query-balloon",
        ),
    ),
    Row("system_reset, stopped", ("qmp stop", "qmp hmp system_reset", "qmp query-status", "qmp cont")),
    Row("quit", ("qmp quit", "end")),
)

OOM = (
    Row("oom: cont", ("qmp cont", "see RESUME", "until booted")),
    Row(
        "oom: features",
        ("hmp info virtio-status PATH", *(f"hmp info virtio-queue-status PATH {n}" for n in range(6))),
        ADDRESS + INDICES[:2],
    ),
    Row(
        "oom: properties",
        tuple(f"qmp {get(name)}" for name in ("deflate-on-oom", "free-page-reporting", "free-page-hint", "iothread")),
    ),
    Row(
        "oom: balloon and the guest's total",
        (
            f"qmp {POLL.format(1)}",
            "until sample",
            "grown",
            *resize(160),
            "until sample",
            "until sample",
            "grown",
            f"qmp {POLL.format(0)}",
        ),
        (r"by \d{3}",),
    ),
    Row(
        "oom: it deflates for who allocates",
        ("guest alloc 150", "see BALLOON_CHANGE", "guest free 150"),
        (r'"actual": \d+',),
    ),
    Row("panic", ("guest panic", "see GUEST_PANICKED", "end"), only=r"^(?!.*BALLOON_CHANGE)"),
)

GROUPS: dict[str, tuple[tuple[Row, ...], int, str, tuple[str, ...]]] = {
    "plain": (PLAIN, 512, "virtio-balloon-pci,id=balloon0", ()),
    "life": (LIFE, 512, "virtio-balloon-pci,id=balloon0", ()),
    "reset": (RESET, 512, "virtio-balloon-pci,id=balloon0", ()),
    "oom": (OOM, 256, ("virtio-balloon-pci,id=balloon0,deflate-on-oom=on,free-page-reporting=on,free-page-hint=on,"
                       "iothread=io1"), ("-device", "pvpanic-pci", "-object", "iothread,id=io1")),
}  # fmt: skip
"""By group: rows, MiB of RAM, the device, and what QEMU has besides."""

ELSEWHERE = {
    "help|?": "lists our own commands in our own words",
    "sim": "not QEMU's",
    "qmp_capabilities": "what every client of the table begins with; test_side_by_side.py compares the negotiation",
    "query-qmp-schema": "describes the commands there are, with or without a guest",
}
"""Commands that have no row, and why."""

INVENTORY = {
    command.name
    for command in {*TABLE.values(), *(TABLE["info"].topics or {}).values()}
    if command.path.startswith(("=", "inventory:"))
}
"""Commands that say what this machine consists of: the scenes of that name compare each with QEMU, without a guest."""
