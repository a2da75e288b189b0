"""A real guest that is dead: `info balloon` fails with the reason, and commands that only show something still work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from device.machine.machine import Machine
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor
from hmp.qmp.events import EventHub
from hmp.qmp.protocol import QmpSession
from hmp.terminal.toolbar import guest_sign
from tests.device.guest.uml.test_uml import place, script, spec
from tests.support.real import Real
from tests.support.shell import hmp

__all__ = ["place", "spec"]

DEAD = "the guest is gone: its kernel ended with status 3: oops"


@pytest.fixture
def dead(place: Path, spec: str, tmp_path: Path) -> Iterator[Real]:
    script(tmp_path / "kernel", "echo oops; exit 3")
    with Real(spec, memory=64) as real:
        real.until(lambda: real.guest.ended)
        yield real


def say(machine: Machine, line: str, dialect: str = "seed") -> tuple[str, bool]:
    reply = Monitor(machine, DIALECTS[dialect]).execute(line)
    assert not reply.pending
    return reply.text, reply.failed


def test_a_script_ends_with_1_and_the_reason(place: Path, spec: str, tmp_path: Path) -> None:
    script(tmp_path / "kernel", "echo oops; exit 3")
    ended = hmp("--guest", f"{spec},mem=64M", text="info balloon\ninfo balloon\n")
    assert (ended.status, ended.out) == (1, f"Error: {DEAD}\n" * 2)
    assert ended.err.splitlines()[0] == f"hmp: {DEAD}"


def test_every_request_fails_until_a_reset(dead: Real, tmp_path: Path) -> None:
    assert say(dead.machine, "info balloon") == (f"Error: {DEAD}\n", True)
    script(tmp_path / "kernel", "read _")
    dead.machine.reset()
    reply = Monitor(dead.machine, DIALECTS["seed"]).execute("info balloon")
    assert reply.pending, "a kernel boots"
    reply.cancel()


def test_a_request_that_waited_for_it_ends_with_the_reason(place: Path, spec: str, tmp_path: Path) -> None:
    script(tmp_path / "kernel", "read _; echo oops; exit 3")
    with Real(spec, memory=64) as real:
        reply = Monitor(real.machine, DIALECTS["seed"]).execute("info balloon")
        assert reply.pending
        real.guest.process.console.send("")
        real.until(lambda: not reply.pending)
        assert (reply.text, reply.failed) == (f"Error: {DEAD}\n", True)


@pytest.mark.parametrize("dialect", ["qemu", "pve"])
def test_dialects_that_do_not_ask_show_the_size(dead: Real, dialect: str) -> None:
    text, failed = say(dead.machine, "info balloon", dialect)
    assert text.startswith("balloon: actual=64")
    assert not failed


def test_a_qmp_client_still_gets_the_size(dead: Real) -> None:
    sent: list[bytes] = []
    session = QmpSession(dead.machine, DIALECTS["seed"], EventHub(dead.machine), sent.append)
    session.feed(b'{"execute": "qmp_capabilities"}{"execute": "query-balloon"}')
    while session.step():
        pass
    assert b'"actual": 67108864' in b"".join(sent)


def test_without_a_device_that_is_what_is_missing(dead: Real) -> None:
    dead.machine.device_del("balloon0")
    dead.machine.reset()
    dead.until(lambda: dead.guest.ended)
    assert say(dead.machine, "info balloon") == ("Error: No balloon device has been activated\n", True)


def test_the_toolbar_says_that_it_is_gone(dead: Real) -> None:
    assert guest_sign(dead.machine) == "gone"


def test_a_guest_that_waits_for_its_front_end_is_not_dead(tmp_path: Path) -> None:
    with Real(f"vhost-user,path={tmp_path}/s") as real:
        assert guest_sign(real.machine) == "not connected"
        reply = Monitor(real.machine, DIALECTS["seed"]).execute("info balloon")
        assert reply.pending
        reply.cancel()
