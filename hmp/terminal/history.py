"""The lines of earlier sessions, in a private file. If the file cannot be used, the monitor works without it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from prompt_toolkit.history import History

from hmp.newfile import write_file
from hmp.terminal import history_path as history_path

KEEP_BYTES = 1 << 18
"""The most bytes that are read of the file. When it is four times as large, it is cut to this size."""


class FileHistory(History):
    """One line per entry, oldest first, in a file that only its owner can read."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path

    def _open(self, flags: int) -> int:
        """Open the file. Raises OSError, also if it is not a regular file."""
        if self._path is None:
            raise OSError("no place for a history")
        # Without O_NONBLOCK opening a FIFO would block the prompt for ever.
        descriptor = os.open(self._path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("not a regular file")
            if stat.S_IMODE(found.st_mode) != 0o600:
                # Lines may have names and paths that others should not read.
                os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines of the file, newest first, as prompt_toolkit needs them."""
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
            # The first line of the part that was read may be cut.
            data = data.partition(b"\n")[2]
            if size > 4 * KEEP_BYTES:
                self._shorten(data)
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        return [line for line in reversed(lines) if line.strip()]

    def _shorten(self, data: bytes) -> None:
        """Replace the file by its last part in one step, so that another session never reads half of it."""
        with suppress(OSError):
            write_file(str(self._path), data, overwrite=True)

    def store_string(self, string: str) -> None:
        """Append a line to the file."""
        # The file has one entry a line, so an entry with a newline would come back as two.
        if not string.strip() or "\n" in string or self._path is None:
            return
        with suppress(OSError, UnicodeEncodeError):
            # At the first line and not at the start: a person who types nothing gets no directory.
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            descriptor = self._open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                # One write with O_APPEND, so that lines of two sessions do not mix.
                os.write(descriptor, f"{string}\n".encode("utf-8", "surrogateescape"))
            finally:
                os.close(descriptor)
