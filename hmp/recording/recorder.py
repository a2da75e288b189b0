"""A typed session that is recorded: all output for the terminal goes into the cast too, with its time."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from hmp import FAILED
from hmp.recording.cast import Tape
from hmp.recording.record import TITLE, begin, report_failure
from hmp.terminal.app import Typed
from hmp.terminal.history import history_path
from hmp.terminal.screen import terminal_size


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
        # The object is flushed again when it is collected, and stdout may be closed by then.
        if not self._terminal.closed:
            self._terminal.buffer.flush()


class Recorder:
    """Records what is written to `stdout` into a cast on `descriptor`. Hand its `stdout` to the session.

    If the file cannot be written, the function given to `on_failure` is called once; it may be set after the failure.
    """

    def __init__(
        self, stdout: TextIO, descriptor: int, *, title: str, now: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._descriptor = stdout.fileno()
        encoding = stdout.encoding or "utf-8"
        self._reason = ""
        self._report: Callable[[str], None] | None = None
        size = terminal_size(self._descriptor)
        self._tape = Tape(descriptor, size, title=title, on_failure=self._failed, encoding=encoding, now=now)
        tee = _Tee(stdout, self._record)
        self.stdout: TextIO = io.TextIOWrapper(tee, encoding, stdout.errors, newline="\n", write_through=True)

    @property
    def failed(self) -> bool:
        """Whether the recording ended before the session."""
        return self._tape.cast.failed

    def on_failure(self, report: Callable[[str], None]) -> None:
        """Let `report` be called with the reason when the recording fails, or now if it has."""
        self._report = report
        if self._reason:
            self._failed(self._reason)

    def _failed(self, reason: str) -> None:
        self._reason = reason
        if self._report is not None:
            self._report(reason)

    def _record(self, data: bytes) -> None:
        # Ask for the size each time: prompt_toolkit sets and removes its own handler of SIGWINCH with each prompt. The
        # prompt draws again when the size changes, so this is not late.
        self._tape.shown(data, terminal_size(self._descriptor))

    def close(self) -> None:
        """End the recording; the terminal stays as it is."""
        self._tape.cast.close()


class Recorded(Typed):
    """A typed session that is recorded."""

    def _use(self) -> int | None:
        history = history_path()
        in_use = [] if history is None else [("the history of what was typed", history)]
        recorder = self.recorder = begin(
            self.config, lambda descriptor: Recorder(sys.stdout, descriptor, title=TITLE), private=True, in_use=in_use
        )
        try:
            status = super()._use()
        finally:
            if not recorder.failed:  # otherwise the session has said it already
                recorder.on_failure(partial(report_failure, self.config))
            recorder.close()
        return status or (FAILED if recorder.failed else None)
