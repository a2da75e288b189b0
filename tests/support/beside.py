"""The modelled guest beside a real one, both through hmp: the same steps, then `info balloon` and the events of each.

The real one is QEMU with an hmp attached to it, which serves a monitor and QMP; the modelled one is an hmp that serves
the same. `python -m tests.support.beside` prints the tables whose figures are in docs/attach.md.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.live import CHANGE, Hmp, Qemu, Qmp, Side, Wire
from tests.support.programs import Program
from tests.support.screen import render
from tests.support.timing import PATIENCE

DEVICE = "virtio-balloon-pci,id=balloon0"

SIZES = ("total-memory", "free-memory", "available-memory", "disk-caches")
COUNTS = ("major-faults", "minor-faults", "swap-in", "swap-out", "htlb-pgalloc", "htlb-pgfail")

PLAIN = (
    ("after boot", ""),
    ("`balloon {low}`", "hmp balloon {low}", "changed {low}"),
    ("{some} MiB on tmpfs, amid that", "guest alloc {some}"),
    ("freed", "guest free {some}"),
    ("`balloon {ram}`", "hmp balloon {ram}", "changed {ram}"),
    ("{much} MiB on tmpfs", "guest alloc {much}"),
    ("freed again", "guest free {much}"),
    ("rmmod", "guest rmmod", "no driver"),
    ("insmod", "guest insmod"),
    ("`stop`", "hmp stop", "old"),
    ("`cont`", "hmp cont"),
    ("`savevm`", "hmp savevm x"),
    ("`balloon {low}` once more", "hmp balloon {low}", "changed {low}"),
    ("`loadvm`", "hmp loadvm x", "actual {ram}"),
    ("`system_reset`", "hmp system_reset", "booted"),
)
"""What happens: how it is called, what is done, and what has come of it once it is done."""

OOM = (
    ("after boot", ""),
    ("`balloon {low}`", "hmp balloon {low}", "changed {low}"),
    ("{much} MiB on tmpfs", "guest alloc {much}", "risen"),
    ("freed", "guest free {much}"),
    ("`balloon {ram}`", "hmp balloon {ram}", "changed {ram}"),
)
"""The same with deflate-on-oom."""


class Row:
    """What one side said after a step: the line, its statistics by name, and the events since the step before."""

    def __init__(self, name: str, line: str, stats: dict[str, int], events: list[str]) -> None:
        self.name = name
        self.line = line
        self.stats = {key: value for key, value in stats.items() if value < 1 << 63 and "total_mem" in line}
        self.stats["actual"] = int(line.partition("actual=")[2].partition(",")[0])
        self.events = events


class Watched:
    """One side, and the hmp in front of it."""

    def __init__(self, side: Side, monitor: Path, qmp: Path) -> None:
        self.side = side
        self.monitor = Wire(monitor)
        self.monitor.read(b"(qemu) ")
        self.qmp = Qmp(qmp)
        self.change = 0
        """What the last BALLOON_CHANGE said: one a second at the most, so that the last comes late."""

    def close(self) -> None:
        self.monitor.socket.close()
        self.qmp.socket.close()

    def say(self, line: str) -> str:
        """Return what its monitor prints for a line."""
        self.monitor.send(f"{line}\n")
        return render(self.monitor.read(b"(qemu) ")).partition("\n")[2].removesuffix("(qemu) ").rstrip("\n")

    def events(self) -> list[str]:
        """Return the events that came, with changes of the balloon in a row as one."""
        mark = f"m{time.monotonic_ns()}"
        self.qmp.order("query-version", id=mark)
        found: list[dict[str, Any]] = []
        while (message := self.qmp.message()).get("id") != mark:
            found.append(message)
        names = [each["event"] for each in found if "event" in each]
        self.change = next((each["data"]["actual"] for each in found[::-1] if each.get("event") == CHANGE), self.change)
        return [name for at, name in enumerate(names) if name != CHANGE or names[at - 1 : at] != [name]]

    def settled(self, wanted: str, before: list[str]) -> str:
        """Ask until the line is as wanted; events that come until then are added to `before`."""
        end = time.monotonic() + PATIENCE
        last = ""
        kind, _, value = wanted.partition(" ")
        while True:
            line = self.say("info balloon")
            before += self.events()
            fresh = ",age=" not in line and "free_mem" in line
            done = {
                "": fresh,
                "actual": fresh and f"actual={value}," in line,
                "changed": fresh and f"actual={value}," in line and self.change == int(value) << 20,
                "risen": fresh and self.change == int(line.partition("actual=")[2].partition(",")[0]) << 20,
                "no": line.count("=") == 1,
                "booted": fresh,
                "old": ",age=" in line,
            }[kind]
            # Wait for the same value twice: during a change the kernel reports values in between.
            total = line.partition("total_mem=")[2].partition(",")[0]
            if done and total == last:
                return line
            last = total
            assert time.monotonic() < end, (wanted, line)

    def play(self, steps: tuple[tuple[str, ...], ...], **words: int) -> list[Row]:
        rows = []
        self.events()
        for name, done, *wanted in steps:
            kind, _, rest = done.format(**words).partition(" ")
            events: list[str] = []
            self.change = 0
            if kind == "hmp":
                said = self.say(rest)
                assert said == "", (rest, said)
            elif kind == "guest":
                self.side.guest(*rest.split())
            if wanted == ["booted"]:
                self.side.up(True)
            line = self.settled(wanted[0].format(**words) if wanted else "", events)
            told = json.loads(self.say("qom-get /machine/peripheral/balloon0 guest-stats"))["stats"]
            stats = {key.removeprefix("stat-"): value for key, value in told.items()}
            rows.append(
                Row(name.format(**words), line, stats, [e for at, e in enumerate(events) if [e] != events[at - 1 : at]])
            )
        return rows


@contextlib.contextmanager
def both(folder: Path, memory: int, device: str = DEVICE) -> Iterator[tuple[Watched, Watched]]:
    """The real machine and ours, both running."""
    real, ours = folder / "real", folder / "ours"
    real.mkdir()
    ours.mkdir()
    qemu = Qemu(real, memory, device, ["-qmp", f"unix:{real}/a,server=on,wait=off"])
    attach = ["--attach", f"unix:{real}/a", "--headless", "--allow-disruptive", "--timeout", "2"]
    model = Hmp(ours, memory, device, ["--timeout", "2"])
    try:
        for side in (qemu, model):
            side.aside.ask("cont")
            side.up(True)
        with Program(*attach, "--monitor", f"unix:{real}/h", "--qmp", f"unix:{real}/s") as front:
            assert front.ready
            with (
                contextlib.closing(Watched(qemu, real / "h", real / "s")) as one,
                contextlib.closing(Watched(model, ours / "seed.hmp", ours / "qemu.qmp")) as other,
            ):
                yield one, other
    finally:
        qemu.close()
        model.close()


def compared(memory: int, steps: tuple[tuple[str, ...], ...], device: str = DEVICE) -> list[tuple[Row, Row]]:
    """Return what both said after each step."""
    words = {"ram": memory, "low": memory * 5 // 8, "some": memory // 8, "much": memory * 3 // 8}
    with tempfile.TemporaryDirectory(prefix="hmp-") as folder, both(Path(folder), memory, device) as sides:
        played = [side.play(steps, **words) for side in sides]
    return list(zip(*played, strict=True))


def table(rows: list[tuple[Row, Row]]) -> str:
    """Return a table in markdown: real/ours, sizes in MiB."""
    names = (*SIZES, *COUNTS[:2])
    lines = [f"| step | actual | {' | '.join(names)} | events |", "|---|" + "---|" * (len(names) + 2)]

    def cell(name: str, row: Row) -> str:
        value = row.stats.get(name)
        return "-" if value is None else f"{value / (1 << 20):.0f}" if name in SIZES else str(value)

    for pair in rows:
        cells = ["/".join(cell(name, row) for row in pair) for name in ("actual", *names)]
        events = [", ".join(row.events) or "-" for row in pair]
        lines.append(f"| {pair[0].name} | {' | '.join(cells)} | {' / '.join(dict.fromkeys(events))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for ram in (256, 1024):
        print(table(compared(ram, PLAIN)), file=sys.stdout, flush=True)
    print(table(compared(256, OOM, f"{DEVICE},deflate-on-oom=on")), file=sys.stdout)
