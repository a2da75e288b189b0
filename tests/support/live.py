"""A real Linux under the real QEMU, and hmp: both get the same steps, and their output is compared.

The guest is Debian's cloud kernel with its balloon modules and a busybox, built once and kept in the user's cache. What
it takes on Debian: apt-get install qemu-system-x86 qemu-utils busybox-static; `python -m tests.support.live` builds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from device.guest.uml.initramfs import Archive
from tests.support.programs import ENVIRONMENT, HMP
from tests.support.screen import render
from tests.support.timing import PATIENCE, until

QEMU = "qemu-system-x86_64"
PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio", "virtio_ring", "virtio_pci*", "virtio_balloon", "button", "evdev", "pvpanic", "pvpanic-pci")
"""What the guest loads, by patterns of names. The order does not matter: it tries all of them three times."""

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc x /proc
mount -t sysfs x /sys
mount -t devtmpfs x /dev
mkdir /t
mount -t tmpfs -o size=95% x /t
dmesg -n 1
echo 512 >/proc/sys/vm/percpu_pagelist_high_fraction
for again in 1 2 3; do for each in /m/*; do insmod $each 2>/dev/null; done; done
stty -echo -onlcr
echo THE-GUEST-IS-UP
while true; do while read -r line; do eval "$line"; done; done
"""
"""A processor's own list of free pages is not in MemFree, and how long it is is chance: up to the low watermark, some
50 MiB of 1 GiB, unless a fraction of RAM is set."""

CMDLINE = "console=ttyS0 quiet panic=0 no_timer_check nowatchdog"
"""A busy machine is late with timer interrupts, and the kernel would refuse to go on for want of them."""

GUEST = {
    "insmod": ("insmod /m/virtio_balloon.ko", "sim driver load"),
    "rmmod": ("rmmod virtio_balloon", "sim driver unload"),
    "alloc": ("dd if=/dev/zero of=/t/x bs=1M count={} 2>/dev/null", "sim alloc {}M"),
    "free": ("rm /t/x", "sim free {}M"),
    "panic": ("echo c >/proc/sysrq-trigger", "sim panic"),
    # The modelled guest always heeds the power button; the real one here when something reads its events.
    "heed": ("for e in /dev/input/event*; do exec 3<$e; (head -c 24 <&3 >/dev/null; poweroff -f) & done", ""),
}
"""What happens inside a guest, by name: a line for the real one's shell, and for hmp's monitor."""


SOON = 4.0
"""Seconds within which our modelled guest does what it does."""

CHANGE = "BALLOON_CHANGE"


class Unavailable(Exception):
    """There is no real guest here; the text says why, and what to install."""


def built() -> Path:
    """Return the folder with the guest's `vmlinuz` and `initrd`, built if need be. Raises Unavailable."""
    for program, package in ((QEMU, "qemu-system-x86"), ("qemu-img", "qemu-utils"), ("busybox", "busybox-static")):
        if shutil.which(program) is None:
            raise Unavailable(f"needs {program} (Debian: {package})")
    recipe = hashlib.sha256(repr((PACKAGE, MODULES, INIT)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hmp-tests")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"guest-{recipe}"
    with locked(cache / "lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                _build(Path(work))
                (Path(work) / "guest").rename(folder)
    return folder


def _build(work: Path) -> None:
    (work / "guest").mkdir()
    try:
        depends = subprocess.run(["apt-cache", "depends", PACKAGE], capture_output=True, text=True, check=True).stdout
        name = next(word for word in depends.split() if word.startswith("linux-image-") and word != PACKAGE)
        # As root, apt would like to download as another user, who cannot write here.
        fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", name]
        subprocess.run(fetch, cwd=work, capture_output=True, text=True, check=True, timeout=200)
        subprocess.run(["dpkg", "-x", next(work.glob("*.deb")), work / "x"], check=True)
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", "") or str(error) or "apt does not know it").strip().split("\n")[-1]
        raise Unavailable(f"no {PACKAGE}: {told} (apt-get update first)") from None
    archive = Archive()
    for each in ("bin", "dev", "proc", "sys", "m"):
        archive.add(each, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, b"", 5, 1)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(shutil.which("busybox") or "").read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
    kernel = next(work.glob("x/lib/modules/*/kernel"))
    for path in sorted(path for name in MODULES for path in kernel.rglob(f"{name}.ko")):
        archive.add(f"m/{path.name}", stat.S_IFREG | 0o644, path.read_bytes())
    (work / "guest/initrd").write_bytes(bytes(archive))
    next(work.glob("x/boot/vmlinuz-*")).rename(work / "guest/vmlinuz")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of the tests take too."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Wire:
    """A client of a unix socket that waits for what it reads."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        until(lambda: self.socket.connect_ex(str(path)) == 0)
        self.data = b""

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def read(self, end: bytes, seconds: float = PATIENCE) -> str:
        """Return what comes up to and with `end`; an EOFError where the other side hung up before."""
        stop = time.monotonic() + seconds
        while (at := self.data.find(end)) < 0:
            self.socket.settimeout(max(0.001, stop - time.monotonic()))
            try:
                more = self.socket.recv(1 << 16)
            except TimeoutError:
                raise TimeoutError(f"no {end!r} behind {self.data[-300:]!r}") from None
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError
            self.data += more
        at += len(end)
        found, self.data = self.data[:at], self.data[at:]
        return found.decode(errors="replace")


class Qmp(Wire):
    """A negotiated client of QMP."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.message()
        self.ask("qmp_capabilities")

    def message(self, seconds: float = PATIENCE) -> dict[str, Any]:
        message = json.loads(self.read(b"\r\n", seconds))
        assert isinstance(message, dict)
        return message

    def order(self, name: str, arguments: object = None, id: object = None) -> None:
        command = {"execute": name, "arguments": arguments, "id": id}
        self.send(json.dumps({key: value for key, value in command.items() if value is not None}) + "\n")

    def ask(self, name: str, **arguments: object) -> Any:
        """Return what a command returned, or its error's words; events before it are dropped."""
        self.order(name, arguments or None)
        while "event" in (message := self.message()):
            pass
        return message.get("return", message.get("error", {}).get("desc"))


class Side:
    """A running machine, QEMU's or ours: monitors of both kinds, and a way into the guest.

    `talk` is the QMP client whose messages, in order, are the transcript; `aside` looks without leaving a trace.
    """

    ours = False

    def __init__(self, folder: Path, command: list[str | Path]) -> None:
        self.folder = folder
        with (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=err, env=ENVIRONMENT)
        self.hmps: dict[str, Wire] = {}
        self.talks: dict[str, Qmp] = {}
        self.aside = Qmp(folder / "aside")

    def hmp(self, dialect: str) -> Wire:
        if dialect not in self.hmps:
            self.hmps[dialect] = Wire(self.folder / f"{dialect}.hmp")
            self.hmps[dialect].read(b"(qemu) ")
        return self.hmps[dialect]

    def talk(self, dialect: str) -> Qmp:
        if dialect not in self.talks:
            self.talks[dialect] = Qmp(self.folder / f"{dialect}.qmp")
        return self.talks[dialect]

    def line(self, text: str) -> str:
        """Return what the human monitor prints for a line, without an entry in the transcript."""
        return str(self.aside.ask("human-monitor-command", **{"command-line": text}))

    def guest(self, name: str, *words: str) -> None:
        """Let something happen inside the guest."""
        raise NotImplementedError

    def up(self, booted: bool) -> None:
        """Wait for the driver, and for the guest's shell if it `booted` anew."""
        until(lambda: re.search(r"^ +started: +true", self.line(f"info virtio-status {self.path()}"), re.M))

    def path(self) -> str:
        return self.line("info virtio").split(" [")[0]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for wire in (*self.hmps.values(), *self.talks.values(), self.aside):
            wire.socket.close()


class Qemu(Side):
    """The real one. Its dialect is its own, whatever is asked for."""

    def __init__(self, folder: Path, memory: int, device: str, more: list[str]) -> None:
        guest = built()
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk", "64M"], check=True)
        command: list[str | Path] = [QEMU, "-S", "-accel", "tcg", "-machine", "pc", "-nodefaults", "-display", "none"]
        command += ["-m", str(memory), "-device", device, "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd"]
        command += ["-append", CMDLINE, *more]
        command += ["-drive", f"if=none,id=d0,file={folder}/disk,format=qcow2,cache=unsafe"]
        command += ["-chardev", f"socket,id=sh,path={folder}/sh,server=on,wait=off", "-serial", "chardev:sh"]
        for option, name in (("-monitor", "qemu.hmp"), ("-qmp", "qemu.qmp"), ("-qmp", "aside")):
            command += [option, f"unix:{folder}/{name},server=on,wait=off"]
        super().__init__(folder, command)
        self.shell = Wire(folder / "sh")

    def hmp(self, dialect: str) -> Wire:
        return super().hmp("qemu")

    def talk(self, dialect: str) -> Qmp:
        return super().talk("qemu")

    def guest(self, name: str, *words: str) -> None:
        line = GUEST[name][0].format(*words)
        if name == "panic":
            self.shell.send(f"{line}\n")
            with contextlib.suppress(EOFError):
                self.shell.read(b"end Kernel panic")  # its pipe has to be read, or QEMU stops
            return
        self.shell.send(f"{line}\necho '<'$?'>'\n")
        said = self.shell.read(b">\n")
        assert said.endswith("<0>\n"), (line, said)

    def up(self, booted: bool) -> None:
        if booted:
            self.shell.read(b"THE-GUEST-IS-UP")
        super().up(booted)

    def close(self) -> None:
        super().close()
        self.shell.socket.close()


class Hmp(Side):
    """Ours, with the modelled guest."""

    ours = True

    def __init__(self, folder: Path, memory: int, device: str, more: list[str]) -> None:
        command: list[str | Path] = [
            *HMP,
            "-S",
            "--headless",
            "-m",
            str(memory),
            "--guest",
            "linux,swap=0,boot=1",  # a real guest also needs time after a reset
            "--device",
            device,
        ]
        for dialect in ("qemu", "seed"):
            for option, kind in (("--monitor", "hmp"), ("--qmp", "qmp")):
                command += [option, f"unix:{folder}/{dialect}.{kind},dialect={dialect}"]
        super().__init__(folder, [*command, "--qmp", f"unix:{folder}/aside,dialect=qemu"])

    def guest(self, name: str, *words: str) -> None:
        if line := GUEST[name][1].format(*words):
            assert "Error" not in (said := self.line(line)), said


def size(text: str) -> int:
    """Return the bytes of a size, which is in MiB unless larger than any of them."""
    number = int(text)
    return number if number >> 20 else number << 20


class Play:
    """Plays rows' steps to one side and writes down what it says. A step is a word and what belongs to it:

    hmp LINE       the human monitor on a socket, and what it prints
    qmp NAME JSON  a QMP command, with everything up to its reply; `qmp hmp LINE` is human-monitor-command
    see EVENT K=V  QMP's messages up to that event, whose data hold that, if it was not seen since something was done
    guest NAME N   something inside the guest (GUEST)
    until K=V      wait for query-balloon's actual, in MiB; `until booted` or `until driver`, for it to be up; `until sample`, for new statistics
    pace           when the row's BALLOON_CHANGE arrived, and when they say that they were
    grown          by how many MiB the total that the guest reports has changed since the last `grown`
    end            everything up to the hang-up
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.lines: list[str] = []
        self.changes: list[tuple[float, float]] = []
        self.samples: list[object] = []
        self.total = 0
        self.since: list[dict[str, Any]] = []
        """Events since something was last done."""

    def row(self, steps: tuple[str, ...], dialect: str = "qemu") -> list[str]:
        """Return the transcript of one row. The guest has its own pace: of many changes the last counts."""
        self.lines, self.changes, self.samples, self.dialect = [], [], [], dialect
        self.since.clear()
        self.qmp = self.side.talk(dialect)
        self.last_sample = self.sample()
        for step in steps:
            word, _, rest = step.partition(" ")
            if word in ("hmp", "qmp", "guest"):
                self.since.clear()
            getattr(self, f"step_{word}")(rest)
        if steps[-1] != "end":  # what came after the last reply belongs to the row too
            self.qmp.order("query-name", id="end")
            self.read(lambda message: message.get("id") == "end", hide=True)
        return self.last_changes()

    def last_changes(self) -> list[str]:
        """Return the lines with only the last BALLOON_CHANGE that follows each command."""
        kept: list[str] = []
        later = False
        for line in reversed(self.lines):
            if CHANGE in line and line.startswith("event"):
                if later:
                    continue
                later = True
            elif line.startswith(("(qemu) ", "-> ")):
                later = False
            kept.append(line)
        return kept[::-1]

    def sample(self) -> Any:
        found = self.side.aside.ask("qom-get", path="balloon0", property="guest-stats")
        return found["last-update"] or None if isinstance(found, dict) else None

    def read(self, last: Callable[[dict[str, Any]], object], *, hide: bool = False, seconds: float = PATIENCE) -> None:
        while True:
            message = self.qmp.message(seconds)
            if "event" in message:
                self.event(message)
            elif not hide:
                self.reply(message)
            if last(message):
                return

    def event(self, message: dict[str, Any]) -> None:
        stamp = message.pop("timestamp")
        assert set(stamp) == {"seconds", "microseconds"}
        assert 0 <= stamp["microseconds"] < 1000000
        if message["event"] == CHANGE:
            self.changes.append((time.time(), stamp["seconds"] + stamp["microseconds"] / 1e6))
        self.since.append(message)
        self.lines.append(f"event {json.dumps(message)}")

    def reply(self, message: dict[str, Any]) -> None:
        found = message.get("return")
        if isinstance(found, dict) and "stats" in found:
            found = self.statistics(found)
        elif isinstance(found, str):
            found = found.replace("\r\n", "\n").splitlines()
        elif isinstance(found, list):
            found = [json.dumps(each) for each in found]
        else:
            found = [json.dumps(message)]
        self.lines += [f"return {each}" for each in found or [json.dumps(message)]]

    def statistics(self, found: dict[str, Any]) -> list[str]:
        """Name samples in the order the row sees them; what the guest does not tell stays as it is."""
        told: dict[object, list[str]] = {}
        for key, value in sorted(found["stats"].items()):
            told.setdefault("told" if value < 1 << 63 else value, []).append(key)
        if found not in self.samples:
            self.samples.append(found)
        update = f"of sample {self.samples.index(found)}" if found["last-update"] else "of never"
        return [f"stats {update}", *[f"stats {value}: {', '.join(keys)}" for value, keys in told.items()]]

    def step_hmp(self, line: str) -> None:
        wire = self.side.hmp(self.dialect)
        line = line.replace("PATH", self.side.path()) if "PATH" in line else line
        wire.send(f"{line}\n")
        self.lines.append(f"(qemu) {line}")
        with contextlib.suppress(EOFError):
            self.lines += render(wire.read(b"(qemu) ")).partition("\n")[2].removesuffix("(qemu) ").splitlines()

    def step_qmp(self, text: str) -> None:
        name, _, arguments = text.partition(" ")
        if name == "hmp":
            name, given = "human-monitor-command", {"command-line": arguments}
        else:
            given = json.loads(arguments or "{}")
        self.lines.append(f"-> {text}")
        self.qmp.order(name, given)
        self.read(lambda message: "event" not in message)

    def step_see(self, text: str) -> None:
        name, _, wanted = text.partition(" ")
        key, _, value = wanted.partition("=")

        def seen(message: dict[str, Any]) -> bool:
            found = message.get("data", {}).get(key)
            return message.get("event") == name and (not wanted or found == (size(value) if value.isdigit() else value))

        if not any(map(seen, self.since)):
            try:
                self.read(seen, seconds=SOON if self.side.ours else PATIENCE)
            except TimeoutError:
                self.lines.append(f"no {text}")

    def step_guest(self, text: str) -> None:
        self.side.guest(*text.split())

    def step_until(self, text: str) -> None:
        if text in ("driver", "booted"):
            self.side.up(text == "booted")
        elif text == "sample":
            until(lambda: self.sample() not in (None, self.last_sample))
            self.last_sample = self.sample()
        else:
            wanted = size(text.partition("=")[2])
            until(lambda: self.side.aside.ask("query-balloon")["actual"] == wanted)

    def step_pace(self, text: str) -> None:
        for (came, _), (then, stamped) in itertools.pairwise(self.changes):
            self.lines.append(f"{then - came:.0f} s later, that was {'old' if then - stamped > 0.5 else 'new'}")

    def step_grown(self, text: str) -> None:
        total = self.side.aside.ask("qom-get", path="balloon0", property="guest-stats")["stats"]["stat-total-memory"]
        self.lines.append(f"the total changed by {round((total - self.total) / (1 << 20))} MiB")
        self.total = total

    def step_end(self, text: str) -> None:
        try:
            self.read(lambda message: False, seconds=SOON if self.side.ours else PATIENCE)
        except EOFError:
            self.lines.append(f"gone with status {self.side.process.wait(PATIENCE)}")
        except TimeoutError:
            self.lines.append("still there")


if __name__ == "__main__":
    print(built(), file=sys.stdout)
