"""The process of a User-Mode Linux guest: its start, its freezing, its end, and that nothing is left of it.

We kill the guest when we are done with it. Where we cannot, because something killed us, a shell that waits on a pipe
of ours does, and removes the guest's directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile

from device.errors import MisuseError
from device.guest.uml.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NO_RANDOM_ADDRESSES = 0x0040000
"""personality(2)'s ADDR_NO_RANDOMIZE."""

_LONGEST = 60
"""Bytes of a directory whose sockets' paths still fit into the kernel's 108."""

_START = 'ulimit -c 0; exec "$@"'
"""A panicking kernel aborts: no core file of its memory is wanted."""

_WATCH = """
trap '' INT TERM HUP QUIT
read -r group
read -r word
[ "$word" = done ] && exit
[ -z "$group" ] || kill -KILL "-$group"
rm -rf -- "$1"
"""
"""Waits until we say `done`, or are gone without a word."""


def make_directory() -> str:
    """Make a directory of our own with a path that the guest's kernel can take: short, no blanks, no colons.

    Raises MisuseError where none can be made.
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
    """A running kernel in `directory`, which goes with it. Close it, dead or alive."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._pidfd = -1
        self._child: subprocess.Popen[bytes] | None = None
        self._complaints = open(os.path.join(directory, "stderr"), "w+b", buffering=0)  # noqa: SIM115 - closed below
        self.console = Console(-1, -1)
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def start(self, kernel: str, options: list[str], restrict: Callable[[], object] | None = None) -> None:
        """Start the kernel; `restrict` is called in the child before it becomes that. Raises OSError, ImportError.

        With a random gap in its address space the kernel's memory varies by some percent, and 32 MiB can be too little.
        """
        import ctypes

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
            start_new_session=True,
            preexec_fn=prepare,  # safe: we have no threads
        )
        self._tell(f"{self._child.pid}\n")
        self._pidfd = os.pidfd_open(self._child.pid)
        assert self._child.stdin is not None  # noqa: S101 - pipes were asked for
        assert self._child.stdout is not None  # noqa: S101
        ends = os.dup(self._child.stdin.fileno()), os.dup(self._child.stdout.fileno())
        self._child.stdin.close()
        self._child.stdout.close()
        for end in ends:
            os.set_blocking(end, False)
        self.console = Console(*ends)

    def _tell(self, text: str) -> None:
        assert self._watcher.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._watcher.stdin.write(text.encode())
            self._watcher.stdin.flush()
        except OSError:  # somebody killed it
            pass

    def descriptors(self) -> list[int]:
        """Return what to watch: the console, and the kernel's end."""
        watched = [] if self._pidfd < 0 else [self._pidfd]
        if self.console.fd >= 0 and not self.console.ended:
            watched.append(self.console.fd)
        return watched

    @property
    def pid(self) -> int:
        """The kernel's process, which leads its group."""
        return 0 if self._child is None else self._child.pid

    def ended(self) -> int | None:
        """Return the exit status if the kernel ended (negative: the signal), else None.

        It is not waited for: until `close`, its group's number cannot become another's.
        """
        if self._child is None:
            return None
        found = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def signal(self, number: int) -> None:
        """Stop the kernel or let it go on. Its guest's programs, which it traces, halt at their next trap into it.

        They must not get the signal themselves: the kernel would take it for theirs and kill them with SIGSEGV, init
        too, which is a panic (seen with SIGSTOP to the whole group while a program ran). Popen.send_signal would wait
        for a kernel that has just died, and `ended` never see its end.
        """
        if self._child is not None:
            os.kill(self._child.pid, number)

    def complaints(self) -> str:
        """Return the end of what the kernel said on stderr, before it had a console."""
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - 4096))
        return self._complaints.read(4096).decode("utf-8", "replace")

    def close(self) -> None:
        """Kill every process of the guest that lives, and remove every trace."""
        if self._child is not None:
            try:
                os.killpg(self._child.pid, signal.SIGKILL)
            except OSError:
                pass
            self._child.wait()
        self.console.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._complaints.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._tell(("" if self._child is not None else "\n") + "done\n")
        self._watcher.communicate()  # which closes its stdin, in whatever state that is
