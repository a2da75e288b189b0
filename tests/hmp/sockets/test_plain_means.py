"""Sockets where the system lacks what Linux has."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ENVIRONMENT
from tests.support.sockets import Served, play

WITHOUT_EPOLL = """
import select
del select.epoll
import selectors, sys
assert selectors.DefaultSelector is selectors.PollSelector
from hmp.cli import main
sys.exit(main())
"""


def test_who_hangs_up_while_suspended_is_noticed_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(served: Served) -> None:
        gone, stays = await served.hmp(), await served.hmp()
        for client in (gone, stays):
            await client.send(b"info balloon\n" * 2)
        await served.settle()
        stays.half_close()
        gone.hang_up()
        await served.settle(1)
        assert len(served.server.connections) == 1
        assert (await stays.rest()).count(b"actual=512") == 2

    monkeypatch.delattr(select, "epoll")
    play(scene, "silent")


@pytest.mark.slow
def test_all_monitors_work_without_epoll(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_EPOLL, "--monitor", f"unix:{tmp_path}/m", "--qmp", "tcp:127.0.0.1:0"]
    command += ["-c", "info status"]
    found = subprocess.run(
        command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stdout) == (0, "VM status: running\n"), found.stderr
