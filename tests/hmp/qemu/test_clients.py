"""Programs that start QEMU themselves, unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hmp.qemu.test_command_line import command
from tests.support.shell import TIMEOUT, environment

pytest.importorskip("qemu.qmp", reason="the client library qemu.qmp is not installed")


def test_qmp_shell_wrap(tmp_path: Path) -> None:
    shell = [sys.executable, "-c", "from qemu.qmp.qmp_shell import main_wrap; main_wrap()", "--"]
    machine = command("-m", "512", "-nodefaults", "-device", "virtio-balloon-pci")
    ended = subprocess.run([*shell, *machine], input=b"query-balloon\nquit\n", capture_output=True, timeout=TIMEOUT,
                           cwd=tmp_path, env=environment() | {"HOME": str(tmp_path)})  # fmt: skip
    assert b'{"return": {"actual": 536870912}}' in ended.stdout
    assert b"Traceback" not in ended.stderr
