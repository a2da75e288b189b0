"""Random monitor scripts, the same for the same seed. Two versions of hmp are compared with them."""

from __future__ import annotations

from random import Random

GUESTS = (
    "linux", "linux-2.6.34", "linux-6.12", "windows", "nostats", "nodriver", "silent", "hung", "slow", "flaky",
    "partial", "empty", "hostile", "hostile,seed=7", "linux,delay=0.3,loss=0.2", "linux-6.12,answers=3",
    "linux,pace=64M", "windows,delay=1",
)  # fmt: skip

ATTACKS = ("kick-storm", "bad-pfn", "unknown-tag", "queue-live", "unsolicited-stats", "interrupt-storm", "reset-midway")

PATHS = ("/machine/peripheral/balloon0", "/machine/peripheral/b", "/machine", "/")
STATS = ("free_mem", "total_mem", "mem_swapped_in", "oom_kills", "7", "99")

LINES: tuple[tuple[int, str], ...] = (
    (12, "info balloon"),
    (6, "balloon {mib}"),
    (6, "sim sleep {seconds}"),
    (3, "info status"),
    (3, "sim stats"),
    (3, "sim"),
    (2, "stop"),
    (3, "cont"),
    (2, "system_reset"),
    (1, "system_powerdown"),
    (2, "savevm {tag}"),
    (2, "loadvm {tag}"),
    (1, "delvm {tag}"),
    (1, "info snapshots"),
    (1, "info virtio"),
    (2, "info virtio-status /machine/peripheral/balloon0/virtio-backend"),
    (2, "info virtio-queue-status /machine/peripheral/balloon0/virtio-backend {queue}"),
    (1, "info virtio-queue-element /machine/peripheral/balloon0/virtio-backend {queue}"),
    (1, "info memory_size_summary"),
    (1, "info history"),
    (1, "info kvm"),
    (1, "info name"),
    (1, "info uuid"),
    (2, "sim alloc {mib}M"),
    (2, "sim free {mib}M"),
    (1, "sim chart {stat}"),
    (1, "sim chart"),
    (2, "sim delay {seconds}"),
    (1, "sim driver {load}"),
    (2, "sim drop {queue}"),
    (1, "sim guest"),
    (2, "sim guest {guest}"),
    (2, "sim hang"),
    (3, "sim wake"),
    (1, "sim panic"),
    (2, "sim set {stat} {mib}"),
    (1, "sim set {stat} none"),
    (1, "sim unset {stat}"),
    (1, "sim set"),
    (1, "device_del {id}"),
    (2, "device_add virtio-balloon-pci,id={id}"),
    (1, "device_add virtio-balloon-pci,id={id},deflate-on-oom=on,free-page-reporting=on"),
    (2, "qom-get {path} guest-stats"),
    (1, "qom-get {path} guest-stats-polling-interval"),
    (3, "qom-set {path} guest-stats-polling-interval {queue}"),
    (1, "qom-list {path}"),
    (1, "help {word}"),
    (1, "{word} {word}"),
    (1, "quit"),
)
_WEIGHTS = [weight for weight, _ in LINES]


def options(dice: Random) -> list[str]:
    """Return the options of one run; its clock is the warp clock."""
    chosen = ["--clock", "warp", "--guest", dice.choice((*GUESTS, f"hostile,rule={dice.choice(ATTACKS)}"))]
    if dice.random() < 0.5:
        chosen += ["-m", dice.choice(("64", "512", "4G", "16T"))]
    if dice.random() < 0.3:
        chosen += ["--dialect", dice.choice(("seed", "qemu"))]
    if dice.random() < 0.3:
        chosen += ["--timeout", dice.choice(("0.5", "1", "30"))]
    if dice.random() < 0.1:
        chosen += ["-S"]
    return chosen


def script(dice: Random, lines: int) -> str:
    """Return so many lines for the monitor."""
    templates = dice.choices([line for _, line in LINES], _WEIGHTS, k=lines)
    return "".join(
        template.format(
            mib=dice.choice((0, 1, 16, 48, 128, 200, 256, 400, 512, 1000, 4096, 99999999)),
            seconds=dice.choice(("0", "0.001", "0.005", "0.1", "0.3", "1", "2.5", "7", "21", "100")),
            tag=dice.choice("ab"),
            queue=dice.choice((0, 1, 2, 3, 10)),
            stat=dice.choice(STATS),
            load=dice.choice(("load", "unload")),
            guest=dice.choice(GUESTS),
            id=dice.choice(("balloon0", "b")),
            path=dice.choice(PATHS),
            word=dice.choice(("info", "balloon", "sim", "stop", "frobnicate", "x", "-")),
        )
        + "\n"
        for template in templates
    )
