"""The real QEMU as an oracle: HMP lines go through QMP, so that no line editing is involved."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = shutil.which("qemu-system-x86_64")

needs_qemu = [
    pytest.mark.external,
    pytest.mark.skipif(PROGRAM is None, reason="needs qemu-system-x86_64 on PATH to compare with"),
]
"""The marks of a module that asks the oracle."""


class Oracle:
    """A QEMU without a guest, stopped before it ran."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()  # the greeting
        self._ask({"execute": "qmp_capabilities"})

    def _read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "QEMU died"
        message: dict[str, object] = json.loads(line)
        return message

    def _ask(self, request: dict[str, object]) -> object:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        while "return" not in (answer := self._read()):
            assert "event" in answer, answer
        return answer["return"]

    def say(self, line: str) -> str:
        """Return what QEMU's monitor prints for `line`."""
        reply = self._ask({"execute": "human-monitor-command", "arguments": {"command-line": line}})
        assert isinstance(reply, str)
        return reply.replace("\r\n", "\n")

    def end(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def oracle(*, memory: int = 512, balloon: bool = True) -> Iterator[Oracle]:
    """A QEMU with `memory` MiB, ended when the block is left."""
    assert PROGRAM is not None
    command = [PROGRAM, "-accel", "tcg", "-machine", "pc", "-nodefaults", "-display", "none", "-S"]
    command += ["-m", str(memory), "-qmp", "stdio"]
    if balloon:
        command += ["-device", "virtio-balloon-pci,id=balloon0"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # QEMU prints reasons here that the monitor does not show
        encoding="utf-8",
    )
    asked = Oracle(process)
    try:
        yield asked
    finally:
        asked.end()
