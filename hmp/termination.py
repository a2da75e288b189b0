"""Ends hmp with a clean-up on SIGTERM or SIGHUP: before and after an event loop that handles signals, and without
one."""

from __future__ import annotations

import signal
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """A signal ended hmp; `code` is the exit status. Event loops pass it on, because it is a SystemExit."""


class CleanEnd:
    """Makes SIGTERM and SIGHUP raise Terminated in the main thread, so that the clean-up runs.

    Make one before anything is made that has to be removed at the end, such as sockets. Call `allow` inside the `try`
    that removes it; a signal that came before raises there. Other handlers stay, and so does a SIGHUP that nohup
    ignores.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._came = 0
        for number in _NUMBERS:
            # A handler that other code has set stays, and so does a signal that is ignored.
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._end)

    def _end(self, number: int, _: FrameType | None) -> None:
        # Before `allow` only remember it: what must be removed is just being made.
        self._came = number
        if self._allowed:
            self.allow()

    def allow(self) -> None:
        """Raise Terminated if a signal has come; from now on raise it at once when one comes."""
        self._allowed = True
        if self._came:
            for each in _NUMBERS:  # a second signal would interrupt the clean-up
                signal.signal(each, signal.SIG_IGN)
            raise Terminated(128 + self._came)
