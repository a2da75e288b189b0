"""What the sessions of both monitors share: one client's conversation, bytes in, bytes out, with waits between."""

from __future__ import annotations

from hmp.monitor.faults import GREETING, find_fault
from hmp.monitor.monitor import Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hmp.monitor.faults import Fault
    from hmp.monitor.monitor import Monitor

    Work = Iterator[Reply | bytes]


def drop(data: bytes) -> None:
    """Send to nobody."""


class Session:
    """The conversation of one client. Subclasses say what a command is, and what is done with it.

    How a server drives one session per client:

        session.greet()
        session.feed(received[: session.room(received)])
        while session.step():                 # handle one command: replies go to `send`, events too
            ...                               # a caller may stop here while its client does not read
        if session.suspended:                 # a command waits for a guest; what was fed behind it is kept
            ...                               # read no more, until on_resume() is called; then go on with step()

    `send` is also called between the steps, with events and with the reply of a command that waited. `close` when the
    client is gone: what it waits for is cancelled.

    What is done with a command is a generator: it yields each reply that has to be waited for, and the bytes to answer.
    So faults of the wire, which may delay, change and split an answer, need to be known here only.
    """

    ahead = False
    """Whether it takes what comes behind a command that waits."""
    lingers = False
    """Whether the client may hang up first where its command ended everything."""

    def __init__(
        self, monitor: Monitor, send: Callable[[bytes], None], *, host_files: bool = False, client: int = 0
    ) -> None:
        """`host_files` and `client` are the Monitor's."""
        self._monitor = monitor
        self.machine = monitor.machine
        monitor.alone = False
        monitor.host_files = host_files
        monitor.client = client
        self.send = self._write = send
        self.on_cut: Callable[[], None] = lambda: None
        """Called to hang up, once what was sent is out."""
        self.on_resume: Callable[[], None] | None = None
        """Called when a command that waited has been answered."""
        self.on_command: Callable[[bytes], None] | None = None
        """Called with each command, or what could not be read, before it is handled."""
        self._fault: Fault | None = None
        """What befalls the present answer."""
        self._held: list[bytes] = []  # events that came while a reply goes out in pieces
        self._work: Work | None = None
        self._waits_for: Reply | None = None

    # For subclasses; by itself it says nothing and takes all.

    def greeting(self) -> bytes:
        """Return what a client sees first."""
        return b""

    def room(self, data: bytes) -> int:
        """Return how much of `data` to feed now."""
        return len(data)

    def feed(self, data: bytes) -> None:
        """Take what the client sent."""

    @property
    def unfinished(self) -> bool:
        """Whether part of a message was fed, and the rest is missing."""
        return False

    def give_up(self, why: str) -> None:
        """Forget an unfinished message, and say so."""

    def filter(self, data: bytes) -> bytes:
        """Return what of all that was received concerns the monitor."""
        return data

    def _next(self) -> tuple[Work, Fault | None] | None:
        """Return what is to be done next, and what befalls the answer; None if there is nothing."""
        return None

    def _otherwise(self, fault: Fault) -> bytes:
        """Return the bytes of an answer that a fault gives, none for never and cut."""
        return b""

    def _tell(self, name: str, data: dict[str, object]) -> None:
        """Send an event."""

    # For servers.

    @property
    def suspended(self) -> bool:
        """Whether a command waits for a guest, and the next commands for it."""
        return self._waits_for is not None

    def greet(self) -> None:
        """Send the greeting, or what a fault makes of it."""
        greeting = self.greeting()
        if greeting:
            self._begin(iter((greeting,)), find_fault(self.machine, self._monitor.client, GREETING))

    def step(self) -> bool:
        """Handle the next command; False if there is none, the client is suspended, or the machine ended."""
        if self._waits_for is not None or self.machine.over:
            return False
        found = self._next()
        if found is None:
            return False
        self._begin(*found)
        return True

    def close(self) -> None:
        """The client is gone: nothing is sent any more, what it waits for is cancelled, and nothing of it is kept."""
        self.send = self._write = drop  # they hold who holds this session
        self.on_resume, self.on_command, self.on_cut = None, None, lambda: None
        self._held.clear()
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        reply, self._waits_for, self._work = self._waits_for, None, None
        if reply is not None:
            reply.cancel()

    def _begin(self, work: Work, fault: Fault | None) -> None:
        self._fault = fault
        self._work = work if fault is None else self._disturbed(work, fault)
        self._go_on()

    def _go_on(self) -> None:
        for each in self._work or ():
            if not isinstance(each, Reply):
                self.send(each)
            elif each.pending:
                self._waits_for = each
                each.on_done = self._resume
                return
        self._work = None

    def _resume(self, reply: Reply) -> None:
        """Answer the command that waited; what was kept is for the next `step`.

        Not handled here: the caller may be in the middle of another client's command, or of the device.
        """
        self._waits_for = None
        self._go_on()
        if self._waits_for is None and self.on_resume is not None:
            self.on_resume()

    def _disturbed(self, usual: Work, fault: Fault) -> Work:
        """Do `usual`, or what `fault` says instead, in its manner."""
        if fault.after:
            yield self._pause(fault.after)
        for event in fault.events:
            self._tell(*event)
        pieces: list[bytes] = []
        if fault.answer != "usual":
            usual = iter((self._otherwise(fault),))
        for each in usual:
            if isinstance(each, Reply):
                yield each
                continue
            pieces = fault.pieces(each)
            if pieces:
                self._write(pieces.pop(0))
            if pieces:  # what else is to be sent has to wait
                self.send = self._held.append
        while pieces:
            yield self._pause(fault.pause)
            self._write(pieces.pop(0))
        self.send, held, self._held = self._write, self._held, []
        for data in held:
            self.send(data)
        if fault.answer == "cut" or fault.cut_after is not None:
            self.on_cut()

    def _pause(self, duration: int) -> Reply:
        """Return a reply that ends after `duration` ns of host time."""
        reply = Reply()
        timer = self.machine.time.after(duration, lambda: reply.finish(""))
        reply.suspend(timer.cancel)
        return reply
