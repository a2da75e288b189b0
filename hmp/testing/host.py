"""What all machines of a process share: the thread that serves them, and the folder of their sockets.

Both are there as long as there is a machine. The folder is swept by the next process that makes one if this one is
killed: it holds a lock that goes with the process that has it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import tempfile
import threading
import time

from device.errors import MisuseError
from hmp.sockets.service import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    T = TypeVar("T")

PREFIX = "hmp-test-"
LOCK = "lock"

LONGEST_BASE = 60
"""Bytes of a directory for temporary files with which a socket's path still has room for the rest of its 107."""

_REAL_TIME = (time.monotonic,)
"""In a tuple, where libraries that freeze the time of tests do not find it: what serves the machines goes on."""


class _Loop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        return _REAL_TIME[0]()


class Folder:
    """A private directory with a short name, gone with `close`, or swept once its process is gone."""

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > LONGEST_BASE:
            base = "/tmp"  # noqa: S108 - the folder is private
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
        """Remove it."""
        _remove(self.path)
        os.close(self._lock)

    def forget(self) -> None:
        """Leave it to the process that this one is a fork of."""
        os.close(self._lock)


def sweep(base: str) -> None:
    """Remove the folders of processes that are gone."""
    for entry in os.scandir(base):
        try:
            if not entry.name.startswith(PREFIX) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            lock = os.open(f"{entry.path}/{LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or being made
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(entry.path)
        except OSError:  # in use
            pass
        finally:
            os.close(lock)


def _remove(path: str) -> None:
    """Remove a folder with its sockets; anything else in it was put there by somebody, and stays."""
    try:
        for entry in os.scandir(path):
            if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.path)
        os.unlink(f"{path}/{LOCK}")
        os.rmdir(path)
    except OSError:
        pass


class Host:
    """The thread and the folder. `enter` for each machine, and `leave` when it is gone: the last takes both along."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._made = 0
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None
        self._folder: Folder | None = None

    def enter(self) -> str:
        """One machine more; returns how the names of its sockets begin."""
        with self._lock:
            if self._loop is None:
                self._folder, self._loop = Folder(), _Loop()
                self._loop.set_exception_handler(report)
                self._thread = threading.Thread(target=self._loop.run_forever, name="hmp.testing", daemon=True)
                self._thread.start()
            assert self._folder is not None  # noqa: S101 - made with the loop
            self._users += 1
            self._made += 1
            return f"{self._folder.path}/{self._made}"

    def leave(self) -> None:
        """One machine less."""
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
        """Run a coroutine in the thread and return what it does. Raises what it raises, and TimeoutError."""
        loop = self._loop
        if loop is None or threading.current_thread() is self._thread:
            work.close()
            raise MisuseError("the machine is gone" if loop is None else "not from the thread that serves the machines")
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def forget(self) -> None:
        """In the child of a fork: thread and sockets are the parent's."""
        if self._folder is not None:
            self._folder.forget()
        self.__init__()  # type: ignore[misc]
