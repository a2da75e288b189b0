"""A signal leaves the terminal as it was, at whatever moment of a typed session it strikes."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.support.timing import PATIENCE

pytestmark = pytest.mark.slow

STRUCK = """
import os, sys
point, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
def look(frame, event, _):
    if f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}:{event}" == point:
        sys.setprofile(None)
        os.write(2, b"struck")
        os.kill(os.getpid(), number)
sys.setprofile(look)
from hmp.cli import main
sys.exit(main())
"""
"""hmp, with a signal to itself where a function of a module is called or returns."""

SHELL = """
import json, os, signal, sys, termios
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    # A script that runs the tests behind an & lets them ignore SIGQUIT, and they would hand that on.
    for number in (signal.SIGTTOU, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
told = int(sys.argv[1])
os.write(told, b"%d\\n" % pid)
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    stopped, echoes = os.WIFSTOPPED(status), bool(termios.tcgetattr(0)[3] & termios.ECHO)
    os.write(told, b"%s\\n" % json.dumps([0 if stopped else os.waitstatus_to_exitcode(status), stopped, echoes]).encode())
    if not stopped:
        break
    os.kill(pid, signal.SIGCONT)
"""
"""What a shell does for a job: tells whether the terminal echoes when it stops or ends, and continues it."""

LEAVING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


class Job:
    """hmp as the job of a shell on a terminal of its own; `quit` is typed ahead."""

    def __init__(self, folder: Path, arguments: list[str], *, term: str = "xterm") -> None:
        self._master, slave = os.openpty()
        self._read, write = os.pipe()
        os.write(self._master, b"quit\r")
        self._child = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(write), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            pass_fds=[write],
            env={**os.environ, "XDG_STATE_HOME": str(folder), "TERM": term},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(write)
        os.close(slave)
        self._told = self.seen = b""
        self._watched = [self._read, self._master]
        self._until(lambda: b"\n" in self._told, PATIENCE)
        self.pid = int(self._told.partition(b"\n")[0])

    def _until(self, done, seconds: float) -> None:  # type: ignore[no-untyped-def]
        """Take what it prints and tells until `done()` or so much later."""
        end = time.monotonic() + seconds
        while not done() and (left := end - time.monotonic()) > 0:
            for ready in select.select(self._watched, [], [], left)[0]:
                try:
                    data = os.read(ready, 65536)
                except OSError:  # no process has the terminal open any more
                    data = b""
                if not data:
                    self._watched.remove(ready)
                if ready == self._master:
                    self.seen += data
                else:
                    self._told += data

    def strike(self, seconds: float, number: int) -> None:
        """Send a signal so long after the start."""
        self._until(lambda: False, seconds)
        if self._told.count(b"\n") < 2:
            os.kill(self.pid, number)

    def ends(self) -> tuple[int, list[bool], list[bool]]:
        """Return the exit status, and whether the terminal echoed at each stop and at the end."""
        self._until(lambda: not self._watched, PATIENCE)
        self._child.wait(PATIENCE)
        told = [json.loads(line) for line in self._told.splitlines()[1:]]
        os.close(self._read)
        os.close(self._master)
        stops = [echoes for _, stopped, echoes in told if stopped]
        return told[-1][0], stops, [told[-1][2]]


def struck(folder: Path, point: str, number: int, term: str = "xterm") -> tuple[int, list[bool], list[bool]]:
    """Return how a job ended to which the signal came at that point."""
    job = Job(folder, ["-c", STRUCK, point, str(int(number))], term=term)
    found = job.ends()
    assert b"struck" in job.seen
    return found


STARTING = [
    "hmp.terminal.app:<module>:call",
    "hmp.terminal.tty:Tty.quiet:call",
    "hmp.terminal.tty:Tty.quiet:return",
    "asyncio:<module>:call",
    "hmp.terminal.session:Session.__init__:return",
    "hmp.drive:MachineDriver.start:return",
]
DRAWING = ["prompt_toolkit:<module>:call", "prompt_toolkit.shortcuts.prompt:<module>:call"]
ENDING = [
    "hmp.drive:MachineDriver.stop:call",
    "hmp.drive:MachineDriver.stop:return",
    "asyncio.runners:Runner.close:call",
    "asyncio.runners:Runner.close:return",
    "hmp.terminal.tty:Tty.restore:call",
    "hmp.terminal.tty:Tty.restore:return",
    "device.machine.machine:Machine.close:call",
]


@pytest.mark.parametrize("number", LEAVING)
@pytest.mark.parametrize("point", STARTING + DRAWING)
def test_a_signal_while_it_starts_ends_it_cleanly(tmp_path: Path, point: str, number: int) -> None:
    status, stops, ended = struck(tmp_path, point, number)
    assert (stops, ended) == ([], [True])
    assert status in (128 + number, -number)


@pytest.mark.parametrize("number", LEAVING)
@pytest.mark.parametrize("point", ENDING)
def test_a_signal_while_it_ends_lets_it_end_once(tmp_path: Path, point: str, number: int) -> None:
    status, stops, ended = struck(tmp_path, point, number)
    assert (stops, ended) == ([], [True])
    assert status in (0, 128 + number, -number)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("point", STARTING + ENDING)
def test_a_stop_at_any_time(tmp_path: Path, point: str, term: str) -> None:
    status, stops, ended = struck(tmp_path, point, signal.SIGTSTP, term)
    assert (status, stops, ended) == (0, [True], [True])


@pytest.mark.parametrize("point", ["hmp.terminal.tty:Tty.suspend:call", "hmp.terminal.tty:Tty.suspend:return"])
def test_a_second_stop_while_it_stops_or_goes_on(tmp_path: Path, point: str) -> None:
    again = STRUCK.replace("sys.setprofile(look)", "sys.setprofile(look)\nimport signal")
    again = again.replace("from hmp.cli", "import hmp.terminal.app as app\nquiet = app.Tty.quiet\n"
                          "app.Tty.quiet = lambda self: (quiet(self), os.kill(0, signal.SIGTSTP))[0]\nfrom hmp.cli")  # fmt: skip
    status, stops, ended = Job(tmp_path, ["-c", again, point, str(int(signal.SIGTSTP))]).ends()
    assert (status, ended) == (0, [True])
    assert stops
    assert all(stops)


def test_a_library_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "prompt_toolkit.py").write_text("raise OSError(5, 'Input/output error', 'prompt_toolkit')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hmp.cli import main; sys.exit(main())"
    assert Job(tmp_path, ["-c", code]).ends() == (1, [], [True])


@pytest.mark.parametrize("number", [*LEAVING, signal.SIGTSTP])
def test_at_many_moments(tmp_path: Path, number: int) -> None:
    for ms in range(0, 440, 40):
        job = Job(tmp_path, ["-m", "hmp"])
        job.strike(ms / 1000, number)
        _, stops, ended = job.ends()
        assert all(stops), f"{ms} ms"
        assert ended == [True], f"{ms} ms"
