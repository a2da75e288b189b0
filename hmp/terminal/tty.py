"""The settings of the terminal: quiet while no line is asked for, and restored at the end."""

from __future__ import annotations

import os
import signal
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_IFLAG, _LFLAG, _CC = 0, 3, 6

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)
"""The signals that end or stop a program."""


class Tty:
    """The terminal on descriptor `fd`, as a context that restores its settings at the end.

    Quiet means that keys are not echoed, collected into lines, or changed. So type-ahead reaches the next prompt as it
    was typed. Ctrl-C is still a signal. A terminal that has hung up is left alone.

    Inside the context SIGNALS are held back: a signal without a handler would end hmp and leave the terminal without
    echo. Call `release` after handlers are set that end the context, and `hold` before they are removed. A signal that
    came in between takes effect after the context. At the end the old handlers are set again.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._before = self._get()

    def __enter__(self) -> Tty:
        # Asks for the present mask: a caller may have blocked signals itself.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            self.hold()
        except BaseException:  # a signal's handler raised just before the signals were blocked
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        for number, handler in self._handlers.items():
            if handler is not None:  # None is a handler that Python did not set
                signal.signal(number, handler)
        self.release()

    def hold(self) -> None:
        """Hold SIGNALS back from now on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def release(self) -> None:
        """Stop holding SIGNALS back."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _get(self) -> list[int | list[bytes | int]] | None:
        try:
            return termios.tcgetattr(self.fd)
        except termios.error:
            return None

    def _set(self, attributes: list[int | list[bytes | int]] | None) -> None:
        if attributes is not None:
            try:
                # TCSANOW and not TCSAFLUSH: keys that were typed ahead must stay.
                termios.tcsetattr(self.fd, termios.TCSANOW, attributes)
            except termios.error:
                pass

    @property
    def echoes(self) -> bool:
        """Whether the terminal echoed keys at the start."""
        flags = self._before[_LFLAG] if self._before is not None else 0
        return isinstance(flags, int) and bool(flags & termios.ECHO)

    def quiet(self) -> None:
        """Keep keys for later, without echo."""
        attributes = self._get()
        if attributes is None:
            return
        iflag, lflag, characters = attributes[_IFLAG], attributes[_LFLAG], attributes[_CC]
        assert isinstance(iflag, int) and isinstance(lflag, int) and isinstance(characters, list)  # noqa: S101, PT018
        # ICRNL would change the code of Enter, and IXON would take Ctrl-S and Ctrl-Q.
        attributes[_IFLAG] = iflag & ~(termios.ICRNL | termios.IXON)
        attributes[_LFLAG] = lflag & ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.NOFLSH) | termios.ISIG
        # A read returns each key at once.
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        self._set(attributes)

    def restore(self) -> None:
        """Restore the settings that the terminal had at the start."""
        self._set(self._before)

    def flush(self) -> None:
        """Drop keys that were not read yet."""
        try:
            termios.tcflush(self.fd, termios.TCIFLUSH)
        except termios.error:
            pass

    def suspend(self) -> None:
        """Stop this job, as Ctrl-Z does, with the old settings; return when it continues, with the present ones.

        The caller holds SIGNALS back and has removed its own handler of SIGTSTP.
        """
        now = self._get()
        self.restore()
        # 0 is the whole process group, as for Ctrl-Z at a terminal.
        os.kill(0, signal.SIGTSTP)
        self.release()  # the signal takes effect here
        self.hold()
        self._set(now)
