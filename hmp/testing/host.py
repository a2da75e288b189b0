"""What all machines of a process share: the thread that serves them, and the folder of their sockets.

Both exist while there is a machine. If this process is killed, the next process that makes a folder removes this one:
the lock in it is free then, because the kernel releases it with the process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Coroutine
from contextlib import ExitStack, closing, suppress
from typing import Any, TypeVar

from device.errors import MisuseError
from hmp.sockets.service import report

T = TypeVar("T")

PREFIX = "hmp-test-"
LOCK = "lock"

LONGEST_BASE = 60
"""The most bytes of the directory for temporary files: the path of a unix socket has at most 107 bytes."""


class _Loop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        # Libraries that freeze time in tests replace time.monotonic. The loop has to go on, so it reads the system's
        # clock.
        return time.clock_gettime(time.CLOCK_MONOTONIC)


class Folder:
    """A private directory with a short name.

    `close` removes it. If this process is killed, the `sweep` of another process does.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > LONGEST_BASE:
            base = "/tmp"  # noqa: S108 - the folder is private
        # Remove the folders of processes that were killed.
        sweep(base)
        while True:
            self.path = tempfile.mkdtemp(prefix=PREFIX, dir=base)
            try:
                self._lock = os.open(f"{self.path}/{LOCK}", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (FileNotFoundError, BlockingIOError):  # another process swept it before it was locked
                continue

    def close(self) -> None:
        """Remove the folder."""
        _remove(self.path)
        os.close(self._lock)

    def forget(self) -> None:
        """Leave the folder to the parent process, of which this one is a fork."""
        os.close(self._lock)


def sweep(base: str) -> None:
    """Remove the folders of processes that have ended."""
    for entry in os.scandir(base):
        try:
            if not entry.name.startswith(PREFIX) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            lock = os.open(f"{entry.path}/{LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # it has been removed, or it is just being made
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(entry.path)
        except OSError:  # in use
            pass
        finally:
            os.close(lock)


def _remove(path: str) -> None:
    """Remove a folder with its sockets. If it has anything else in it, that is not ours, and the folder stays."""
    with suppress(OSError):
        for entry in os.scandir(path):
            if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.path)
        os.unlink(f"{path}/{LOCK}")
        os.rmdir(path)


class Host:
    """The thread and the folder.

    Call `enter` for each machine and `leave` at its end; the last `leave` removes both.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._made = 0
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None
        self._folder: Folder | None = None

    def enter(self) -> str:
        """Count one machine more. Returns the beginning of the paths of its sockets."""
        with self._lock:
            if self._loop is None:
                self._open()
            assert self._folder is not None  # noqa: S101 - made with the loop
            self._users += 1
            self._made += 1
            return f"{self._folder.path}/{self._made}"

    def _open(self) -> None:
        # If the thread cannot be started, folder and loop are closed again.
        with ExitStack() as made:
            folder = made.enter_context(closing(Folder()))
            loop = made.enter_context(closing(_Loop()))
            loop.set_exception_handler(report)
            # A daemon thread: a test program that ends must not wait for it.
            thread = threading.Thread(target=loop.run_forever, name="hmp.testing", daemon=True)
            thread.start()
            self._folder, self._loop, self._thread = folder, loop, thread
            made.pop_all()

    def leave(self) -> None:
        """Count one machine less."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            loop, thread, folder = self._loop, self._thread, self._folder
            self._loop = self._thread = self._folder = None
            if loop is not None and thread is not None and folder is not None:
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()
                folder.close()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine in the thread and return its result. Raises what it raises, and TimeoutError."""
        loop = self._loop
        # In the thread of the loop the wait below would never end.
        if loop is None or threading.current_thread() is self._thread:
            work.close()
            raise MisuseError("the machine is gone" if loop is None else "not from the thread that serves the machines")
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result(timeout)
        except BaseException:
            # Else the coroutine would go on in the thread after the caller gave up.
            future.cancel()
            raise

    def forget(self) -> None:
        """Forget thread and sockets in the child of a fork: they belong to the parent."""
        if self._folder is not None:
            self._folder.forget()
        self.__init__()  # type: ignore[misc]
