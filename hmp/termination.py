"""An end by SIGTERM or SIGHUP that leaves nothing behind, wherever it strikes: before a loop that handles signals runs,
behind it, or where there is none."""

from __future__ import annotations

import signal
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """A signal asked for the end; `code` is the exit status. Event loops pass it on as they do SystemExit."""


class CleanEnd:
    """Lets SIGTERM and SIGHUP raise Terminated in the main thread where they would kill without a clean-up.

    Make one before anything is made that must go with the process; call `allow` once all of it is where it will be
    taken away again: signals that come before then raise there. Handlers of others, and a SIGHUP that is ignored as
    under nohup, stay.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._came = 0
        for number in _NUMBERS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._end)

    def _end(self, number: int, _: FrameType | None) -> None:
        self._came = number
        if self._allowed:
            self.allow()

    def allow(self) -> None:
        """Raise Terminated if a signal came, else from now on when one comes."""
        self._allowed = True
        if self._came:
            for each in _NUMBERS:  # a second one would cut the clean-up short
                signal.signal(each, signal.SIG_IGN)
            raise Terminated(128 + self._came)
