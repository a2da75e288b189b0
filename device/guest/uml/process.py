"""The process of a User-Mode Linux guest: starts it, freezes it, ends it, and leaves nothing behind.

We kill the guest when we are done with it. If something kills us first, a shell that waits on a pipe from us kills the
guest and removes its directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress

from device.errors import MisuseError
from device.guest.uml.console import Console

_NO_RANDOM_ADDRESSES = 0x0040000
"""personality(2)'s ADDR_NO_RANDOMIZE."""

_LONGEST = 60
"""The longest path in bytes of a parent directory: the paths of sockets below it must fit into Linux's 108."""

_START = 'ulimit -c 0; exec "$@"'
"""UML aborts when it panics. Without this limit that would write a core file as large as the guest's memory."""

_WATCH = """
trap '' INT TERM HUP QUIT
read -r group
read -r word
[ "$word" = done ] && exit
[ -z "$group" ] || kill -KILL "-$group"
rm -rf -- "$1"
"""
"""Waits until we write `done`. If the pipe closes before that, we have died: it kills the guest and cleans up.

It ignores the signals that commonly end programs.
"""


def make_directory() -> str:
    """Make a directory of our own whose path the guest's kernel accepts: short, no blanks, no colons.

    Raises MisuseError if that fails.
    """
    reason: str | None = None
    for parent in (os.environ.get("TMPDIR", ""), "/tmp"):  # noqa: S108 - mkdtemp makes it safe
        usable = parent.startswith("/") and len(os.fsencode(parent)) <= _LONGEST
        if usable and not set(parent) & set(" \t\n:,\"'\\"):
            try:
                return tempfile.mkdtemp(prefix="hmp-", dir=parent)
            except OSError as error:
                reason = error.strerror
    raise MisuseError(f"guest uml: no directory for its sockets can be made in /tmp: {reason}")


class UmlProcess:
    """A running kernel in `directory`, which `close` removes. Call `close` even if the kernel has ended."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._pidfd = -1
        self._child: subprocess.Popen[bytes] | None = None
        self._complaints = open(os.path.join(directory, "stderr"), "w+b", buffering=0)  # noqa: SIM115 - closed below
        self.console = Console(-1, -1)
        # Started before the kernel, so that it gets the kernel's process number at once.
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def start(self, kernel: str, options: list[str], restrict: Callable[[], object] | None = None) -> None:
        """Start the kernel. `restrict` is called in the child before exec. Raises OSError, ImportError."""
        import ctypes

        # Address space randomization leaves a gap of random size in the kernel's memory: MemTotal then varies by some
        # percent, and a kernel with 32 MiB may panic. `setarch -R` turns it off in the same way.

        library = ctypes.CDLL(None)

        def prepare() -> None:
            library.personality(_NO_RANDOM_ADDRESSES)
            if restrict is not None:
                restrict()

        self._child = subprocess.Popen(
            ["/bin/sh", "-c", _START, "sh", kernel, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            cwd=self.directory,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": self.directory},
            # A group of its own, which `close` kills whole, and no Ctrl-C from our terminal.
            start_new_session=True,
            preexec_fn=prepare,  # safe: we have no threads
        )
        self._write_to_watcher(f"{self._child.pid}\n")
        self._pidfd = os.pidfd_open(self._child.pid)
        assert self._child.stdin is not None  # noqa: S101 - pipes were asked for
        assert self._child.stdout is not None  # noqa: S101
        # Copies, because Popen's file objects close their descriptors when they are collected.
        ends = os.dup(self._child.stdin.fileno()), os.dup(self._child.stdout.fileno())
        self._child.stdin.close()
        self._child.stdout.close()
        for end in ends:
            os.set_blocking(end, False)
        self.console = Console(*ends)

    def _write_to_watcher(self, text: str) -> None:
        assert self._watcher.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(OSError):  # the watcher was killed
            self._watcher.stdin.write(text.encode())
            self._watcher.stdin.flush()

    def descriptors(self) -> list[int]:
        """Return the descriptors to watch: the console's, and one that shows when the kernel ends."""
        # A pidfd is needed: the end of the console's output does not say that the process has ended.
        watched = [] if self._pidfd < 0 else [self._pidfd]
        if self.console.fd >= 0 and not self.console.ended:
            watched.append(self.console.fd)
        return watched

    @property
    def pid(self) -> int:
        """The number of the kernel's process, which is also that of its process group."""
        return 0 if self._child is None else self._child.pid

    def ended(self) -> int | None:
        """Return the exit status if the kernel ended (negative: the signal), else None."""
        if self._child is None:
            return None
        # WNOWAIT leaves the process a zombie until `close`, so Linux cannot give its number to another process, which
        # `close` would then kill.
        found = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def signal(self, number: int) -> None:
        """Send the kernel SIGSTOP or SIGCONT. Its traced programs halt at their next trap into it."""
        # Not to the whole group: the kernel takes a signal to one of its programs for a crash and kills that program
        # with SIGSEGV. If it is init, the kernel panics (seen with SIGSTOP while a program ran).
        # Not with Popen.send_signal, which polls: it would reap a kernel that has just died, and `ended` would miss it.
        if self._child is not None:
            os.kill(self._child.pid, number)

    def complaints(self) -> str:
        """Return the end of what the kernel wrote to stderr, which it uses before it has a console."""
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - 4096))
        return self._complaints.read(4096).decode("utf-8", "replace")

    def close(self) -> None:
        """Kill all processes of the guest, and remove its files."""
        if self._child is not None:
            with suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self.console.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._complaints.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        # The watcher reads the group's number first. If no kernel was started, it gets an empty line for it.
        self._write_to_watcher(("" if self._child is not None else "\n") + "done\n")
        self._watcher.communicate()  # unlike close(), it does not raise for a stdin that is broken
