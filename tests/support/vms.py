"""A scripted QMP server, driven by hand in the test's own thread, and a real QEMU that hmp can be attached to."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device.clock import Clock, SimulatedClock
from device.machine.events import Event
from hmp.attach.address import Place
from hmp.attach.link import SocketLink
from hmp.attach.machine import Attached
from hmp.attach.monitor import AttachedMonitor
from hmp.monitor.dialects import DIALECTS
from tests.support.live import Qemu, Side

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}


class Peer:
    """A server of QMP that does what `answers` says: by command, a value, an error's class, or a function of both."""

    def __init__(self, path: Path, **answers: Any) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.setblocking(False)
        self.path = path
        self.client: socket.socket | None = None
        self.said: list[tuple[str, Any]] = []
        """The commands that came, and their arguments."""
        self.greets = True
        self.interval = 0
        self.index = 1
        self.ring = 4096
        self.update = 1_000_000_000
        self.answering = True
        self.wakes = True
        """Whether the guest answers as soon as it is asked."""
        self.answers: dict[str, Any] = {
            "query-name": {"name": "vm1"},
            "query-status": {"status": "running", "running": True},
            "query-balloon": {"actual": 256 << 20},
            "query-memory-size-summary": {"base-memory": 512 << 20, "plugged-memory": 0},
            "qom-list": lambda given: (
                [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
                if given["path"].endswith("peripheral")
                else []
            ),
            "qom-get": self._get,
            "qom-set": self._set,
            "x-query-virtio-queue-status": lambda given: {"vring-desc": self.ring, "last-avail-idx": self.index},
            "x-query-virtio-status": lambda given: {
                "started": True,
                "guest-features": {"dev-features": ["VIRTIO_BALLOON_F_STATS_VQ: x"]},
            },
            **{name.replace("_", "-"): each for name, each in answers.items()},
        }

    def _get(self, given: dict[str, Any]) -> object:
        if given["property"] == "guest-stats-polling-interval":
            return self.interval
        return {
            "stats": {"stat-free-memory": 1000 + self.index, "stat-swap-in": (1 << 64) - 1},
            "last-update": self.update,
        }

    def _set(self, given: dict[str, Any]) -> object:
        self.interval = given["value"]
        if self.interval and self.wakes:
            self.answer()
        return {}

    def answer(self) -> None:
        """Let the guest answer."""
        self.index += 1
        self.update += 1

    def send(self, data: bytes | dict[str, Any]) -> None:
        assert self.client is not None
        self.client.sendall(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\r\n")

    def serve(self) -> None:
        """Accept a client, and answer what it has sent."""
        if self.client is None:
            try:
                self.client, _ = self.listener.accept()
            except OSError:  # no client connects, or the socket is closed
                return
            self.client.setblocking(False)
            if self.greets:
                self.send(GREETING)
        try:
            data = self.client.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.hang_up()
            return
        for line in data.splitlines():
            command = json.loads(line)
            name, given = command["execute"], command.get("arguments", {})
            self.said.append((name, given))
            if not self.answering:
                continue
            answer = {} if name == "qmp_capabilities" else self.answers.get(name, "CommandNotFound")
            if callable(answer):
                answer = answer(given)
            if isinstance(answer, str) and answer.endswith(("Found", "Error", "Active")):
                self.send({"id": command["id"], "error": {"class": answer, "desc": f"no {name}"}})
            elif answer is not None:
                self.send({"return": answer, "id": command["id"]})

    def hang_up(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def close(self) -> None:
        self.hang_up()
        self.listener.close()
        self.path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the commands that it has received."""
        return [name for name, _ in self.said]


class Pair:
    """A monitor attached to a Peer, on a clock that the test moves."""

    def __init__(self, path: Path, *, hold: bool = True, timeout: float = 5, **answers: Any) -> None:
        self.peer = Peer(path, **answers)
        self.time = SimulatedClock(warps=False)
        self.clock = Clock("real", self.time.now, lambda: self.time.now() + 1_000_000_000 * 1_000_000_000)
        self.link = SocketLink(self.clock, Place(f"unix:{path}"))
        self.machine = Attached(self.link, self.clock, name="vm", timeout=int(timeout * 1e9), hold=hold)
        self.events: list[Event] = []
        self.machine.subscribe(self.events.append)
        self.monitor = AttachedMonitor(self.machine, DIALECTS["seed"])

    def settle(self, done: Callable[[], object] = lambda: False, seconds: float = 0.0) -> None:
        """Serve both sides until nothing more happens, or `done`; then let time pass, to the next timer at a time."""
        end = self.time.now() + int(seconds * 1e9)
        while True:
            for _ in range(40):
                self.peer.serve()
                self.machine.step()
            if done():
                return
            due = self.machine.wait_for()[1]
            if due is None or due > end:
                break
            self.time.move_to(max(due, self.time.now()))
        self.time.move_to(max(end, self.time.now()))
        for _ in range(40):
            self.peer.serve()
            self.machine.step()

    def say(self, line: str, seconds: float = 10.0) -> str:
        """Return what the monitor prints for a line."""
        reply = self.monitor.execute(line)
        self.settle(lambda: not reply.pending, seconds)
        assert not reply.pending, "suspended for ever"
        self.reply = reply
        return reply.text

    def close(self) -> None:
        self.peer.close()
        self.link.close()


def boot(folder: Path, memory: int = 256, *more: str) -> Qemu:
    """Return a running QEMU with a Linux guest that is up, and two QMP sockets, `a` and `b`, that nobody uses."""
    sockets = [word for name in ("a", "b") for word in ("-qmp", f"unix:{folder}/{name},server=on,wait=off")]
    vm = Qemu(folder, memory, "virtio-balloon-pci,id=balloon0", ["-name", "vm1", "-device", "pvpanic", *sockets, *more])
    vm.aside.ask("cont")
    vm.up(True)
    return vm


def interval(vm: Side) -> object:
    """Return the polling interval of a VM's balloon."""
    return vm.aside.ask("qom-get", path="/machine/peripheral/balloon0", property="guest-stats-polling-interval")
