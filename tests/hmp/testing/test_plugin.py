"""The pytest plugin, as a project that installed hmp has it: sessions of their own, which fail, are stopped or killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmp.testing.host import PREFIX
from tests.support.shell import environment

CLIENT = """
import json, os, signal, socket, sys, threading

def ask(vm, name):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(vm.qmp)
        lines = client.makefile()
        lines.readline()
        client.sendall(b'{"execute": "qmp_capabilities"}' + json.dumps({"execute": name}).encode())
        lines.readline()
        with lines:
            return json.loads(lines.readline())["return"]
"""


class Session:
    """A folder with tests, and for temporary files one that is private to it."""

    def __init__(self, folder: Path, temporary: str) -> None:
        self.folder = folder
        self.temporary = temporary

    def run(self, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "test_it.py").write_text(CLIENT + tests)
        # rerunfailures has a thread of its own in every session, and the tests here count threads.
        plugins = ["-p", "no:cacheprovider", "-p", "no:rerunfailures"]
        command = [sys.executable, "-m", "pytest", "-q", *plugins, *options, "test_it.py"]
        settings = environment() | {"TMPDIR": self.temporary, "PYTHONWARNINGS": "error::ResourceWarning"}
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=240, env=settings)

    def left(self) -> list[str]:
        return [name for name in os.listdir(self.temporary) if name.startswith(PREFIX)]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    temporary = tempfile.mkdtemp(prefix="s", dir="/tmp")
    yield Session(tmp_path, temporary)
    shutil.rmtree(temporary)


def test_a_test_that_fails_shows_the_log_and_leaves_nothing(session: Session) -> None:
    ended = session.run(
        """
def test_fails(fake_qemu):
    vm = fake_qemu(memory="2G")
    assert ask(vm, "query-balloon") == {"actual": 1}

def test_nothing_is_left():
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    assert not [name for name in os.listdir(os.environ["TMPDIR"]) if name.startswith("hmp")]
"""
    )
    assert ended.returncode == 1
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout + ended.stderr
    assert "--- fake_qemu 0 ---" in ended.stdout
    assert '0.000 qmp 1 in         {"execute": "query-balloon"}\n' in ended.stdout
    assert '0.000 qmp 1 out        {"return": {"actual": 2147483648}}\n' in ended.stdout
    assert session.left() == []


def test_a_test_that_passes_shows_nothing(session: Session) -> None:
    ended = session.run("def test_it(fake_qemu):\n    assert ask(fake_qemu(), 'query-status')['running']\n", "-rA")
    assert ended.returncode == 0, ended.stdout
    assert "query-status" not in ended.stdout


def test_the_summary_warns_of_a_client_that_polled_on_a_clock_that_stood_still(session: Session) -> None:
    tests = """
def test_it(fake_qemu):
    vm = fake_qemu()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(vm.qmp)
        place = {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"}
        commands = [("qmp_capabilities", {}), ("qom-set", place | {"value": 1})]
        commands += [("qom-get", place | {"property": "guest-stats"})] * 30
        for name, arguments in commands:
            client.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        vm.wait_for("qom-get", 30)
"""
    ended = session.run(tests)
    assert ended.returncode == 0, ended.stdout
    assert "1 passed, 1 warning" in ended.stdout
    assert (
        "StandstillWarning: guest statistics were read at least 10 times while the warp clock stood still"
        in ended.stdout
    )
    ended = session.run(tests, "-W", "error")
    assert ended.returncode == 1, ended.stdout
    assert "1 passed, 1 error" in ended.stdout
    assert session.left() == []


INTERRUPTED = {
    "in the test": "    raise KeyboardInterrupt\n",
    "while it waits": "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    "    vm.sim('info balloon', timeout=200)\n",
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_a_session_that_is_interrupted_leaves_nothing(where: str, session: Session) -> None:
    begin = "def test_it(fake_qemu):\n    vm = fake_qemu(clock='manual', guest='silent', dialect='seed')\n    ask(vm, 'query-status')\n"
    ended = session.run(begin + INTERRUPTED[where])
    assert ended.returncode == pytest.ExitCode.INTERRUPTED, ended.stdout
    assert session.left() == []


def test_what_a_crash_leaves_the_next_session_sweeps(session: Session) -> None:
    ended = session.run("def test_it(fake_qemu):\n    fake_qemu()\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    assert ended.returncode == -9
    assert len(session.left()) == 1
    ended = session.run("def test_it(fake_qemu):\n    assert len(os.listdir(os.environ['TMPDIR'])) == 1 or fake_qemu()\n"
                        "    fake_qemu()\n")  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    assert session.left() == []


@pytest.mark.slow
def test_under_xdist_also_where_a_worker_crashes(session: Session) -> None:
    ended = session.run(
        """
import pytest

@pytest.mark.parametrize("number", range(8))
def test_it(fake_qemu, number):
    machines = [fake_qemu(name=str(number)) for _ in range(3)]
    assert [ask(vm, "query-name")["name"] for vm in machines] == [str(number)] * 3
    if number == 5:
        os._exit(1)
""",
        "-n",
        "2",
    )
    assert "1 failed, 7 passed" in ended.stdout, ended.stdout
    assert "crashed while running 'test_it.py::test_it[5]'" in ended.stdout
    ended = session.run("def test_it(fake_qemu):\n    fake_qemu()\n", "-n", "2")
    assert ended.returncode == 0, ended.stdout
    assert session.left() == []


def test_it_costs_nothing_where_it_is_not_used(session: Session) -> None:
    ended = session.run(
        """
def test_it():
    ours = [name for name in sys.modules if name.partition(".")[0] in ("hmp", "device")]
    assert sorted(ours) == ["hmp", "hmp.testing", "hmp.testing.plugin"]
"""
    )
    assert ended.returncode == 0, ended.stdout


def test_a_program_without_pytest_that_ends_with_machines_open_leaves_nothing(session: Session) -> None:
    code = "from hmp.testing import FakeQemu; vm = FakeQemu(); print(vm.qmp)"
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code],
        capture_output=True, text=True, timeout=60, env=environment() | {"TMPDIR": session.temporary},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{session.temporary}/{PREFIX}")
    assert session.left() == []
