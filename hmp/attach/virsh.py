"""A libvirt domain, through one virsh process that runs all the time and reads commands from a pipe.

A command takes 2 ms this way; a new virsh for each takes 120. `info balloon` uses dommemstat and the domain's XML,
which do not change the domain. All other commands go to QEMU through qemu-monitor-command, after which libvirt marks
the domain as tainted.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from device.balloon.spec import ABSENT
from device.clock import Clock
from hmp.attach.address import Place
from hmp.attach.link import CHUNK, MAX_MESSAGE, Link, LinkError, QmpError
from hmp.streams import complain

BALLOON = "/machine/peripheral/balloon0"
"""A path for the device. question.py needs one; libvirt's commands do not."""

INTERVAL = "guest-stats-polling-interval"

KIB = {"stat-swap-in": "swap_in", "stat-swap-out": "swap_out", "stat-free-memory": "unused",
       "stat-total-memory": "available", "stat-available-memory": "usable", "stat-disk-caches": "disk_caches"
       }  # fmt: skip
COUNTS = {"stat-major-faults": "major_fault", "stat-minor-faults": "minor_fault",
          "stat-htlb-pgalloc": "hugetlb_pgalloc", "stat-htlb-pgfail": "hugetlb_pgfail"}  # fmt: skip
"""QEMU's names of statistics with libvirt's: KIB has those that libvirt gives in KiB, COUNTS plain numbers."""

PROMPT = "virsh # "

STATES = {"running": "running", "paused": "paused", "idle": "running", "pmsuspended": "suspended"}


def quoted(text: str) -> str:
    """Return `text` quoted for virsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _errors(output: list[str]) -> str:
    return ": ".join([line[7:] for line in output if line.startswith("error: ") and line[7:]])


class Pipe:
    """A running virsh, and the lines that it printed."""

    def __init__(self, place: Place, *words: str) -> None:
        uri = ["-c", place.uri] if place.uri else []
        try:
            self.process = subprocess.Popen(
                ["virsh", *uri, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not end it, because it still has to put the interval back
                # In English, because errors are recognized by their words.
                env={**os.environ, "LC_ALL": "C", "TERM": "dumb"},
            )
        except OSError as error:
            why = f"virsh cannot be run: {error.strerror} (Debian: libvirt-clients)"
            raise LinkError(f"{place.name}: {why}", gone=True) from None
        assert self.process.stdout is not None  # noqa: S101
        assert self.process.stdin is not None  # noqa: S101
        self.descriptor = self.process.stdout.fileno()
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)
        self._data = bytearray()

    def write(self, text: str) -> None:
        """Send lines to run. Raises LinkError."""
        assert self.process.stdin is not None  # noqa: S101
        data = text.encode("utf-8", "surrogateescape")
        try:
            short = os.write(self.process.stdin.fileno(), data) < len(data)
        except BlockingIOError:
            short = True
        except OSError:
            raise LinkError("virsh has ended") from None
        if short:
            raise LinkError("virsh does not read what we send")

    def lines(self) -> list[str]:
        """Return the new lines. Raises LinkError at the end of the output."""
        try:
            data = os.read(self.descriptor, CHUNK)
        except BlockingIOError:
            return []
        if not data:
            raise LinkError("virsh has ended")
        self._data += data
        lines: list[bytearray] = []
        if b"\n" in data:  # look only in new bytes: a line without end would be searched again for each piece
            *lines, self._data = self._data.split(b"\n")
        if len(self._data) > MAX_MESSAGE:
            raise LinkError("virsh prints a line without end")
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        self.process.kill()
        self.process.wait()


class VirshLink(Link):
    """A libvirt domain with the interface of a QMP connection."""

    def __init__(self, clock: Clock, place: Place, *, events: bool) -> None:
        super().__init__(clock, place)
        self._place = place
        self._pipe: Pipe | None = None
        self._events: Pipe | None = None
        self._wants_events = events
        self._serial = 0
        self._output: list[str] = []
        self._size = 0
        self._command: tuple[str, Mapping[str, Any]] = ("", {})
        self._tainted = False
        self._name = quoted(place.host)

    @property
    def descriptors(self) -> list[int]:
        """Return the descriptors to wait for."""
        return [each.descriptor for each in (self._pipe, self._events) if each is not None]

    def _go_on(self) -> None:
        if self._current is not None or not self._waiting:
            return
        name, given = self._next()
        self._command = name, given or {}
        try:
            if self._pipe is None:
                self._pipe = Pipe(self._place)
                # A second virsh, because one that prints events takes no commands.
                if self._wants_events:
                    loop = ["qemu-monitor-event", "--loop", "--timestamp", "--domain", self._place.host]
                    self._events = Pipe(self._place, *loop)
            line = self._line(*self._command)
            if not line:
                self._answered(None, QmpError(f"not asked of libvirt: {name}", "CommandNotFound"))
                return
            self._serial += 1
            self._output, self._size = [], 0
            # The echo after the command marks the end of its answer.
            self._pipe.write(f"{line}\necho hmp-{self._serial}\n")
        except LinkError as error:
            self._lose(error)

    def _line(self, name: str, given: Mapping[str, Any]) -> str:
        """Return the virsh command for a QMP command; "" if there is none."""
        domain = f"--domain {self._name}"
        interval = given.get("property") == INTERVAL
        if name in ("qom-list", "query-memory-size-summary") or (interval and name == "qom-get"):
            return f"dumpxml {domain}"
        if interval and name == "qom-set":
            return f"dommemstat {domain} --period {int(given['value'])} --live"
        if name == "query-balloon" or (name == "qom-get" and given["property"] == "guest-stats"):
            return f"dommemstat {domain}"
        if name in ("query-status", "query-name"):
            return f"domstate {domain}"
        # These commands would taint the domain. Without them question.py uses last-update.
        if name.startswith("x-query-virtio-"):
            return ""
        if not self._tainted:
            self._tainted = True
            complain(f"libvirt marks {self._place.host} as tainted (custom-monitor) for commands of QEMU's own")
        # A single quote would end virsh's quotes; in JSON the escape means the same.
        command = json.dumps({"execute": name, "arguments": given}).replace("'", "\\u0027")
        return f"qemu-monitor-command {domain} '{command}'"

    def _late(self) -> None:
        # virsh takes no other command until it has answered, so the next command starts a new virsh.
        self._lose(self._no_answer())

    def _read(self) -> None:
        try:
            if self._pipe is not None:
                for line in self._pipe.lines():
                    if line == f"hmp-{self._serial}":
                        self._complete()
                    elif not line.startswith(PROMPT):
                        self._output.append(line)
                        self._size += len(line) + 1
                        if self._size > MAX_MESSAGE:
                            raise LinkError("virsh prints without end")
                    elif "echo hmp-" not in line:  # the echo of the command: everything before it is the banner
                        self._output = []
        except LinkError as error:
            errors = _errors(self._output)
            self._lose(LinkError(f"{self.name}: {errors or error}", gone=bool(errors)))
            return
        try:
            for line in self._events.lines() if self._events is not None else ():
                self._event(line)
        except LinkError:  # no permission, or an old libvirt: the monitor works without events
            if self._events is not None:
                self._events.close()
                self._events = None

    def _event(self, line: str) -> None:
        when, _, event_text = line.partition(": event ")
        name, _, rest = event_text.partition(" for domain ")
        data = rest.partition(": {")[2]
        try:
            # In microseconds, as QMP's events have their time.
            stamp = int(datetime.fromisoformat(when).timestamp() * 1e6)
            event = {"event": name, "timestamp": {"seconds": stamp // 10**6, "microseconds": stamp % 10**6}}
            if data:
                event["data"] = json.loads("{" + data)
        except ValueError:  # the first lines, or a line that is no event
            return
        self.on_event(event)

    def _complete(self) -> None:
        output = [line for line in self._output if line]
        if why := _errors(output):
            gone = any(words in why for words in ("not running", "failed to get domain", "Domain not found"))
            # Only libvirt's words distinguish a lost domain from a failed command.
            if gone or "connect" in why:
                self._lose(LinkError(f"{self.name}: {why}", gone=gone))
            else:
                self._answered(None, QmpError(why))
            return
        try:
            value = self._value(*self._command, output)
        except LinkError as error:
            self._lose(error)
        except QmpError as error:
            self._answered(None, error)
        except (ValueError, LookupError, AttributeError, TypeError, ElementTree.ParseError):
            begin = " ".join(output)[:60] or "nothing"
            self._lose(LinkError(f"{self.name}: cannot understand the answer of virsh: {begin}"))
        else:
            self._answered(value)

    def _value(self, name: str, given: Mapping[str, Any], output: list[str]) -> object:
        """Return the value that QMP would return. Raises QmpError and LinkError."""
        line = self._line(name, given).partition(" ")[0]
        if line == "dumpxml":
            return self._from_xml(name, given, ElementTree.fromstring("\n".join(output)))  # noqa: S314
        if line == "dommemstat":
            return {} if name == "qom-set" else self._statistics(name, dict(each.split() for each in output))
        if line == "domstate":
            state = output[0]
            if state not in STATES:
                raise LinkError(f"{self.name}: the domain is not running: {state}", gone=True)
            return {"name": self._place.host} if name == "query-name" else {"status": STATES[state]}
        # The answer is the last line with JSON; other lines may come before it.
        for each in reversed(output):
            if each.startswith("{"):
                answer = json.loads(each)
                if "error" in answer:
                    raise QmpError(str(answer["error"].get("desc")), str(answer["error"].get("class")))
                return answer["return"]
        raise ValueError

    def _from_xml(self, name: str, given: Mapping[str, Any], xml: ElementTree.Element) -> object:
        balloon = xml.find("devices/memballoon")
        if name == "query-memory-size-summary":
            return {"base-memory": int(xml.findtext("memory", "0")) << 10}
        there = balloon is not None and balloon.get("model", "").startswith("virtio")
        if name == "qom-list":
            found = {"name": BALLOON.rpartition("/")[2], "type": "child<virtio-balloon-pci>"}
            return [found] if there and BALLOON.startswith(given["path"] + "/") else []
        stats = None if balloon is None else balloon.find("stats")
        return 0 if stats is None else int(stats.get("period", "0"))

    @staticmethod
    def _statistics(name: str, values: Mapping[str, str]) -> object:
        if name == "query-balloon":
            return {"actual": int(values["actual"]) << 10}
        stats = {qom: int(values[each]) << 10 if each in values else ABSENT for qom, each in KIB.items()}
        stats |= {qom: int(values[each]) if each in values else ABSENT for qom, each in COUNTS.items()}
        return {"stats": stats, "last-update": int(values.get("last_update", "0"))}

    def close(self) -> None:
        """End virsh, and call no function of the commands under way."""
        for pipe in (self._pipe, self._events):
            if pipe is not None:
                pipe.close()
        self._pipe = self._events = None
