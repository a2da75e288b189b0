"""The lines typed in earlier sessions, in a private file. Whatever is wrong with it, the monitor goes on without."""

from __future__ import annotations

import os
import stat

from prompt_toolkit.history import History

from hmp.newfile import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

KEEP_BYTES = 1 << 18
"""What is read of the file; when it has grown to four times that, only so much is kept of it."""


def history_path() -> str | None:
    """Return where the history belongs, or None where the environment names no sensible place."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG rules: a relative path is to be ignored
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "hmp", "history") if os.path.isabs(state) else None


class FileHistory(History):
    """One line per entry, oldest first, in a file that only its owner can read."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path

    def _open(self, flags: int) -> int:
        """Open the file. Raises OSError, also for what is no plain file of ours."""
        if self._path is None:
            raise OSError("no place for a history")
        # Without O_NONBLOCK a FIFO in its place would hold the prompt up for ever.
        descriptor = os.open(self._path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("no plain file")
            if stat.S_IMODE(found.st_mode) != 0o600:
                os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines of the file, newest first, as prompt_toolkit wants them."""
        try:
            descriptor = self._open(os.O_RDONLY)
        except OSError:
            return []
        with open(descriptor, "rb") as file:
            try:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - KEEP_BYTES))
                data = file.read(KEEP_BYTES)
            except OSError:
                return []
        if size > KEEP_BYTES:
            data = data.partition(b"\n")[2]
            if size > 4 * KEEP_BYTES:
                self._shorten(data)
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        return [line for line in reversed(lines) if line.strip()]

    def _shorten(self, data: bytes) -> None:
        """Replace the file by its tail, at once, so that another session never sees half of it."""
        try:
            write_file(str(self._path), data, overwrite=True)
        except OSError:
            pass

    def store_string(self, string: str) -> None:
        """Append a line to the file."""
        if not string.strip() or "\n" in string or self._path is None:
            return
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            descriptor = self._open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                os.write(descriptor, f"{string}\n".encode("utf-8", "surrogateescape"))
            finally:
                os.close(descriptor)
        except (OSError, UnicodeEncodeError):
            pass
