"""hmp on a host that lacks something that Linux has: `python -m tests.support.lacking WHAT,WHAT [ARGUMENT]...`.

Each thing is removed before our modules are imported, so the program sees what it would see there.
"""

from __future__ import annotations

import builtins
import errno
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

UNIX_ONLY = (
    "_posixsubprocess",
    "ctypes",
    "_ctypes",
    "fcntl",
    "grp",
    "pty",
    "pwd",
    "resource",
    "subprocess",
    "termios",
    "tty",
)
"""What WebAssembly's Python has not, or cannot import."""


def refusing(number: int) -> Callable[..., Any]:
    """A call that a filter answers with an error."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def no_proc() -> None:
    """No file below /proc can be opened or read as a link."""

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any, *rest: Any, **options: Any) -> Any:
            if isinstance(path, str) and path.startswith("/proc"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return call(path, *rest, **options)

        return look

    builtins.open = guarded(builtins.open)
    for name in ("open", "readlink", "listdir", "stat"):
        setattr(os, name, guarded(getattr(os, name)))


def no_advice() -> None:
    """The mmap module names no advice, as on systems without madvise."""
    for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
        delattr(mmap, name)


def not_unix() -> None:
    """Neither modules nor calls of Unix processes."""
    for name in UNIX_ONLY:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in ("fork", "forkpty", "kill", "killpg", "waitid", "pidfd_open", "setsid", "getrusage"):
        if hasattr(os, name):
            delattr(os, name)


TAKE: dict[str, Callable[[], None]] = {
    "memfd": lambda: delattr(os, "memfd_create"),
    "memfd-ENOSYS": lambda: setattr(os, "memfd_create", refusing(errno.ENOSYS)),
    "memfd-EPERM": lambda: setattr(os, "memfd_create", refusing(errno.EPERM)),
    "memfd-EINVAL": lambda: setattr(os, "memfd_create", refusing(errno.EINVAL)),
    "advice": no_advice,
    "proc": no_proc,
    "not-unix": not_unix,
}
"""What can be taken away."""

EVERYTHING = "memfd,advice,proc"
"""What a monitor on Unix can do without, all at once."""

if __name__ == "__main__":
    for what in sys.argv.pop(1).split(","):
        TAKE[what]()
    from hmp.cli import main

    sys.exit(main())
