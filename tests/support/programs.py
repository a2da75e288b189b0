"""hmp as a process of its own, and blocking clients for it. For tests marked slow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.support.timing import PATIENCE

HMP = [sys.executable, "-m", "hmp"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


class Program:
    """A running hmp. As a context manager it waits for the ready line and sends SIGTERM at the end if hmp still runs."""

    def __init__(
        self,
        *arguments: str,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        program: list[str] | None = None,
        **options: Any,
    ) -> None:
        options = {"stdout": subprocess.PIPE, "env": ENVIRONMENT, **options}
        self.process = subprocess.Popen(
            [*(program or HMP), *arguments], bufsize=0, stdin=stdin, stderr=subprocess.PIPE, **options
        )
        self.ready = ""

    def __enter__(self) -> Program:
        assert self.process.stderr is not None
        self.ready = self.process.stderr.readline().decode()
        assert self.ready.startswith("hmp: ready "), self.ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            if error is None:
                raise
        finally:
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    def address(self, kind: str) -> str:
        """Return the first address of a kind, from the ready line."""
        return next(word.partition("=")[2] for word in self.ready.split() if word.startswith(f"{kind}="))

    def connect(self, kind: str = "qmp") -> socket.socket:
        """Connect to the first address of a kind."""
        scheme, _, where = self.address(kind).partition(":")
        if scheme == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.connect(where)
        else:
            host, _, port = where.rpartition(":")
            made = socket.create_connection((host.strip("[]"), int(port)))
        made.settimeout(PATIENCE)
        return made

    def qmp(self) -> Talker:
        """Return a client of QMP that has negotiated."""
        talker = Talker(self.connect("qmp"))
        talker.message()
        assert talker.ask("qmp_capabilities") == {"return": {}}
        return talker

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal (0 for none), wait; return exit status, stdout, and what stderr had after the ready line."""
        if number:
            self.process.send_signal(number)
        out, complaints = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (out or b"").decode(), complaints.decode()

    @property
    def peak_memory(self) -> int:
        """Return the most bytes of memory that the process has had."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("no VmHWM")


class Talker:
    """A blocking client of QMP."""

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self._data = b""

    def line(self) -> bytes:
        """Return the next line."""
        while b"\r\n" not in self._data:
            data = self.socket.recv(1 << 16)
            assert data, "hung up"
            self._data += data
        line, end, self._data = self._data.partition(b"\r\n")
        return line + end

    def message(self) -> dict[str, Any]:
        """Return the next message."""
        message = json.loads(self.line())
        assert isinstance(message, dict)
        return message

    def ask(self, name: str, **arguments: object) -> dict[str, Any]:
        """Run a command; return its reply and skip events."""
        command = {"execute": name, "arguments": {key.replace("_", "-"): each for key, each in arguments.items()}}
        self.socket.sendall(json.dumps(command).encode())
        while "event" in (message := self.message()):
            pass
        return message

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
