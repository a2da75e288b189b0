"""The terminal's own settings: quiet while nobody is asked for a line, and as they were when we leave."""

from __future__ import annotations

import os
import signal
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_IFLAG, _LFLAG, _CC = 0, 3, 6

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)
"""What ends or stops a program."""


class Tty:
    """The terminal on descriptor `fd`, as a context: its settings are put back at the end.

    Quiet means that keys are neither echoed nor gathered into lines nor changed, so that what is typed ahead reaches
    the next prompt as it was typed, and that Ctrl-C still is a signal. A terminal that has hung up is left alone.

    Inside, SIGNALS wait, for one that strikes while nothing handles it would leave the terminal without echo: `release`
    lets them come once handlers are there that end the context, and `hold` makes them wait again before those go. What
    came meanwhile strikes behind the context. The signals' handlers are then what they were.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._before = self._get()

    def __enter__(self) -> Tty:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            self.hold()
        except BaseException:  # one came in this very moment
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        for number, handler in self._handlers.items():
            if handler is not None:  # one that is not Python's
                signal.signal(number, handler)
        self.release()

    def hold(self) -> None:
        """Let SIGNALS wait from now on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def release(self) -> None:
        """Let SIGNALS come as they did before."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _get(self) -> list[int | list[bytes | int]] | None:
        try:
            return termios.tcgetattr(self.fd)
        except termios.error:
            return None

    def _set(self, attributes: list[int | list[bytes | int]] | None) -> None:
        if attributes is not None:
            try:
                termios.tcsetattr(self.fd, termios.TCSANOW, attributes)
            except termios.error:
                pass

    @property
    def echoes(self) -> bool:
        """Whether the terminal echoed what is typed when we came."""
        flags = self._before[_LFLAG] if self._before is not None else 0
        return isinstance(flags, int) and bool(flags & termios.ECHO)

    def quiet(self) -> None:
        """Keep what is typed for later, without echo."""
        attributes = self._get()
        if attributes is None:
            return
        iflag, lflag, characters = attributes[_IFLAG], attributes[_LFLAG], attributes[_CC]
        assert isinstance(iflag, int) and isinstance(lflag, int) and isinstance(characters, list)  # noqa: S101, PT018
        attributes[_IFLAG] = iflag & ~(termios.ICRNL | termios.IXON)
        attributes[_LFLAG] = lflag & ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.NOFLSH) | termios.ISIG
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        self._set(attributes)

    def restore(self) -> None:
        """Put the settings back that the terminal had when we came."""
        self._set(self._before)

    def flush(self) -> None:
        """Forget what was typed and not read."""
        try:
            termios.tcflush(self.fd, termios.TCIFLUSH)
        except termios.error:
            pass

    def suspend(self) -> None:
        """Stop this job, as Ctrl-Z does, with the terminal as it was; returns when it goes on, with it as it is now.

        The caller has SIGNALS on hold, and has taken its own handler of SIGTSTP away.
        """
        now = self._get()
        self.restore()
        os.kill(0, signal.SIGTSTP)
        self.release()  # here it stops
        self.hold()
        self._set(now)
