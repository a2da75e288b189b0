"""The base class of the sessions of HMP and QMP clients: bytes in and bytes out, and commands that wait for a guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hmp.monitor.faults import GREETING, Fault, find_fault
from hmp.monitor.monitor import Monitor, Reply

Work = Iterator[Reply | bytes | None]

MOST_HELD = 4096
"""The most events that are kept while an answer is sent in pieces. After more the client is hung up on."""


def drop(data: bytes) -> None:
    """Ignore `data`: the `send` of a session whose client is gone."""


class Session:
    """The session of one client. Subclasses cut the input into commands and run them.

    How a server drives one session per client:

        session.greet()
        session.feed(received[: session.room(received)])
        while session.step():                 # handle one command: its reply goes to `send`, as events do
            ...                               # a caller may stop here while its client does not read
        if session.suspended:                 # a command waits for a guest; later input is kept
            ...                               # read nothing until on_resume() is called; then call step() again

    `send` is also called between the steps, with events and with the reply of a command that waited. Call `close` when
    the client is gone: it cancels what the client waits for.

    The work of a command is a generator. It yields each reply that it has to wait for, and the bytes of the answer.
    None says that the rest is for the next step, which comes when the client has read enough. So only this class has to
    know about faults of the wire, which may delay, change and split an answer.
    """

    ahead = False
    """Whether it takes further input while a command waits."""
    lingers = False
    """Whether the client gets a moment to hang up before we do, after its command ended the machine."""

    def __init__(
        self, monitor: Monitor, send: Callable[[bytes], None], *, host_files: bool = False, client: int = 0
    ) -> None:
        """`host_files` and `client` are passed to the Monitor."""
        self._monitor = monitor
        self.machine = monitor.machine
        monitor.alone = False
        monitor.host_files = host_files
        monitor.client = client
        # Two names: `send` may be redirected while a reply goes out in pieces, `_write` always reaches the client.
        self.send = self._write = send
        self.on_cut: Callable[[], None] = lambda: None
        """Called to hang up after everything was sent."""
        self.on_resume: Callable[[], None] | None = None
        """Called when a command that waited has been answered."""
        self.on_command: Callable[[bytes], None] | None = None
        """Called with the bytes of each command before it is handled, even if they do not parse."""
        self._work: Work | None = None
        self._waits_for: Reply | None = None

    # For subclasses. These defaults send nothing and accept all input.

    def greeting(self) -> bytes:
        """Return the bytes that a new client gets first."""
        return b""

    def room(self, data: bytes) -> int:
        """Return how many bytes of `data` to feed now."""
        return len(data)

    def feed(self, data: bytes) -> None:
        """Take bytes that the client sent."""

    @property
    def unfinished(self) -> bool:
        """Whether part of a message was fed, and the rest is missing."""
        return False

    def give_up(self, why: str) -> None:
        """Drop an unfinished message, and tell the client."""

    def filter(self, data: bytes) -> bytes:
        """Return the part of the received bytes that is for the monitor."""
        return data

    def _next(self) -> tuple[Work, Fault | None] | None:
        """Return the work of the next command and the fault of its answer, or None if there is no command."""
        return None

    def _faulty_answer(self, fault: Fault) -> bytes:
        """Return the bytes that a fault sends in place of the answer; empty for never and cut."""
        return b""

    def _send_event(self, name: str, data: dict[str, object]) -> None:
        """Send an event."""

    # For servers.

    @property
    def suspended(self) -> bool:
        """Whether a command waits for a guest. Later commands wait for it."""
        return self._waits_for is not None

    @property
    def working(self) -> bool:
        """Whether a command is not yet answered whole."""
        return self._work is not None

    def greet(self) -> None:
        """Send the greeting, as a fault changes it if there is one."""
        greeting = self.greeting()
        if greeting:
            self._begin(iter((greeting,)), find_fault(self.machine, self._monitor.client, GREETING))

    def step(self) -> bool:
        """Handle the next command, or go on with the answer of the last one.

        Returns false if there is none, the client is suspended, or the machine has ended.
        """
        if self._waits_for is not None:
            return False
        if self._work is not None:
            self._go_on()
            return True
        if self.machine.over:
            return False
        found = self._next()
        if found is None:
            return False
        self._begin(*found)
        return True

    def close(self) -> None:
        """Forget the client, which is gone: send nothing any more, and cancel what it waits for."""
        # These are methods of the connection, so they make a reference cycle. The collector runs rarely, and without
        # this the sessions of clients that had left took gigabytes.
        self.send = self._write = drop
        self.on_resume, self.on_command, self.on_cut = None, None, lambda: None
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        reply, self._waits_for, self._work = self._waits_for, None, None
        if reply is not None:
            reply.cancel()

    def _begin(self, work: Work, fault: Fault | None) -> None:
        self._work = work if fault is None else self._disturbed(work, fault)
        self._go_on()

    def _go_on(self) -> None:
        # After a wait, a new for loop over the same generator goes on where the last one stopped.
        for each in self._work or ():
            if each is None:
                return
            if not isinstance(each, Reply):
                self.send(each)
            elif each.pending:
                self._waits_for = each
                each.on_done = self._resume
                return
        self._work = None

    def _resume(self, reply: Reply) -> None:
        """Answer the command that waited. The next commands wait for the next `step`.

        They are not handled here, because the caller may be in the middle of another client's command or of the device.
        """
        self._waits_for = None
        self._go_on()
        if self._waits_for is None and self.on_resume is not None:
            self.on_resume()

    def _disturbed(self, usual: Work, fault: Fault) -> Work:
        """Do the work `usual`, with the delay, the events, the answer and the pieces of `fault`."""
        if fault.after:
            # The wait is a reply like that of a guest, so the warp clock jumps over it.
            yield self._pause(fault.after)
        for event in fault.events:
            self._send_event(*event)
        pieces: Iterator[bytes] = iter(())
        held: list[bytes] = []  # events that come between two pieces of the answer: sent there, they would break it

        def hold(data: bytes) -> None:
            held.append(data)
            if len(held) > MOST_HELD:
                self.on_cut()

        if fault.answer != "usual":
            # Then the command does not run: a test that wants an error for `stop` does not want a stopped VM.
            usual = iter((self._faulty_answer(fault),))
        try:
            for each in usual:
                if each is None or isinstance(each, Reply):
                    yield each
                    continue
                pieces = fault.pieces(each)
                self._write(next(pieces, b""))
                self.send = hold
            for piece in pieces:
                if fault.pause:
                    yield self._pause(fault.pause)
                yield None
                self._write(piece)
        finally:  # also if the client leaves between two pieces
            self.send = self._write
            for data in held:
                self.send(data)
        # After the answer, so that the client has got all that should come before the cut.
        if fault.answer == "cut" or fault.cut_after is not None:
            self.on_cut()

    def _pause(self, duration: int) -> Reply:
        """Return a reply that ends after `duration` (ns) of host time."""
        reply = Reply()
        # A timer of the machine, so that faults keep their times on simulated clocks too.
        timer = self.machine.time.after(duration, lambda: reply.finish(""))
        reply.suspend(timer.cancel)
        return reply
