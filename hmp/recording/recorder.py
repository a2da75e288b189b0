"""A typed session recorded: what goes to the terminal goes into the cast too, at the time it does."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from hmp import FAILED
from hmp.recording.cast import Tape
from hmp.recording.record import TITLE, begin, tell_failure
from hmp.terminal.app import Typed
from hmp.terminal.history import history_path

_SIZE = (80, 24)


def terminal_size(descriptor: int) -> tuple[int, int]:
    """Return columns and rows of a terminal; the usual ones where it does not know."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return _SIZE
    return columns or _SIZE[0], rows or _SIZE[1]


class _Tee(io.BufferedIOBase):
    """Writes to `terminal` and tells `record` what was written."""

    def __init__(self, terminal: TextIO, record: Callable[[bytes], None]) -> None:
        self._terminal = terminal
        self._record = record

    @property
    def name(self) -> str:
        return self._terminal.name

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._terminal.fileno()

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def write(self, data: Any, /) -> int:
        written = self._terminal.buffer.write(data)
        self._record(bytes(data))
        return written

    def flush(self) -> None:
        if not self._terminal.closed:  # the last flush comes when this is collected, perhaps behind the terminal's end
            self._terminal.buffer.flush()


class Recorder:
    """Records what is written to `stdout` into a cast on `descriptor`. Hand its `stdout` to the session.

    When the file can't be written any more `on_failure` is told, once; it may be set later than the failure.
    """

    def __init__(
        self, stdout: TextIO, descriptor: int, *, title: str, now: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._descriptor = stdout.fileno()
        encoding = stdout.encoding or "utf-8"
        self._reason = ""
        self._tell: Callable[[str], None] | None = None
        size = terminal_size(self._descriptor)
        self._tape = Tape(descriptor, size, title=title, on_failure=self._failed, encoding=encoding, now=now)
        tee = _Tee(stdout, self._record)
        self.stdout: TextIO = io.TextIOWrapper(tee, encoding, stdout.errors, newline="\n", write_through=True)

    @property
    def failed(self) -> bool:
        """Whether the recording ended before the session."""
        return self._tape.cast.failed

    def on_failure(self, tell: Callable[[str], None]) -> None:
        """Let `tell` be called with the reason when the recording fails, or now if it has."""
        self._tell = tell
        if self._reason:
            self._failed(self._reason)

    def _failed(self, reason: str) -> None:
        self._reason = reason
        if self._tell is not None:
            self._tell(reason)

    def _record(self, data: bytes) -> None:
        # The size is asked each time, for no handler of SIGWINCH survives those that come and go with each prompt;
        # whoever changes it makes the prompt draw itself anew, so it is not late.
        self._tape.shown(data, terminal_size(self._descriptor))

    def close(self) -> None:
        """End the recording; the terminal stays as it is."""
        self._tape.cast.close()


class Recorded(Typed):
    """A typed session that is recorded."""

    def _use(self) -> int | None:
        history = history_path()
        spared = [] if history is None else [("the history of what was typed", history)]
        recorder = self.recorder = begin(
            self.config, lambda descriptor: Recorder(sys.stdout, descriptor, title=TITLE), private=True, spared=spared
        )
        try:
            status = super()._use()
        finally:
            if not recorder.failed:  # else the session has told
                recorder.on_failure(partial(tell_failure, self.config))
            recorder.close()
        return status or (FAILED if recorder.failed else None)
