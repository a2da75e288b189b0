"""hmp in a web page: a machine, and terminals that are clients of it, like those on sockets. Bytes in, bytes out.

Pyodide runs this in a web worker. The scripts of the page know no commands: they pass keys in, and show the bytes that
come out. Time is the time of the running loop, which uses the timers of the browser.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Container, Set
from functools import partial

from device.clock import SECOND
from device.errors import MisuseError
from device.guest.table import make_guest
from device.machine.events import Ended, Event, SnapshotDone
from device.machine.machine import Machine
from device.units import parse_size
from hmp.config import CLOCKS, Config, make_machine
from hmp.drive import MachineDriver
from hmp.monitor import escape
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import COLUMNS, History, Reply
from hmp.monitor.snapshots import SUFFIX, MemoryStore, store_of
from hmp.qmp.events import EventHub
from hmp.recording.cast import Tape
from hmp.recording.record import DEFAULT_SIZE, TITLE
from hmp.sockets.clients import HmpSession
from hmp.sockets.connection import SEND_SIZE, Connection
from hmp.sockets.hangups import HangUps
from hmp.sockets.readline import PROMPT, LineEditor
from hmp.terminal.countdown import AFTER, STEP, Countdown
from hmp.terminal.events import Announcer

TYPED_LIMIT = 64 << 10
"""The most bytes that may wait to be read. A longer paste is refused, all of it."""

TAPE_LIMIT = 16 << 20
"""The most bytes of a terminal's cast; it is kept in memory."""

RAM = "64M"
"""The default size of the guest's memory. It is small because in a page all of it is used at once, touched or not."""

NOT_HERE = "Error: not in a web page: hmp on a computer of your own can do that\n"
"""Takes the place of the errors that clients on sockets get for commands that are refused to them."""

_CHOICES: dict[str, Container[str]] = {"clock": CLOCKS, "dialect": DIALECTS}

_ROW = b"\r\x1b[J"
"""Go to the start of the row and erase it."""


class RowEditor(LineEditor):
    """A line editor for screens of any width, on which a long line has several rows.

    It moves left by BS, because cursor sequences stop at the start of a row. `Page` switches on the mode in which BS
    goes back to the row above.
    """

    left, erase = b"\b", b"\x1b[J"

    def _forth(self, count: int) -> bytes:
        return self._line[self._shown_cursor :][:count]

    def clear(self) -> None:
        """Forget the line, and the keys that were not handled yet."""
        self._keys.clear()
        self._close(0)
        self._line, self._cursor, self._place = b"", 0, -1
        self._redraw()

    def above(self, text: bytes) -> bytes:
        """Return the bytes that show a line above the prompt, and the prompt again."""
        back = b"\b" * (self._shown_cursor + len(PROMPT)) + b"\x1b[J"
        return back + text + PROMPT + self._shown + b"\b" * (len(self._shown) - self._shown_cursor)


class _Wire(asyncio.Transport):
    """Takes the place of a socket. `send` gets the bytes; `unread` counts those that the terminal has not shown yet."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write, self.unread, self._closed = send, 0, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unread += len(data)
        self._write(bytes(data))

    def get_write_buffer_size(self) -> int:
        return max(self.unread - SEND_SIZE, 0)  # a terminal is slow if it has not shown more than this

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class _Session(HmpSession):
    """The session of a client, with Ctrl-C, a countdown, and events above the prompt."""

    _editor: RowEditor
    editor = RowEditor

    def __init__(self, page: Page, history: History, dialect: str, send: Callable[[bytes], None], client: int) -> None:
        self._page, self._loop = page, asyncio.get_running_loop()
        super().__init__(page.machine, DIALECTS[dialect], history, send, client=client)
        self._announcer = Announcer(self._announce, now=page.now)
        self._countdown: asyncio.TimerHandle | None = None
        page.machine.subscribe(self._announcer.on_event)

    def columns(self, columns: int) -> None:
        """Let plots take no more than so many columns."""
        self._monitor.columns = lambda: columns

    def interrupt(self) -> None:
        """Clear the line, and end the wait for a command, which may still have its effect."""
        self._editor.clear()
        if self.suspended:
            self._stop_counting()
            self._stop_waiting()
            # While an answer is sent in pieces the editor is at its prompt already, but only the last piece has it.
            self.send(self._editor.show_prompt() if self._editor.waiting else b"\r\n" + PROMPT)

    def step(self) -> bool:
        """As Session. Events that the command itself causes are not shown, because its output shows them."""
        self._announcer.own = True
        try:
            stepped = super().step()
        finally:
            self._announcer.own = False
        self._page.list_snapshots()
        if self._waits_for is not None and self._countdown is None and not self.machine.clock.simulated:
            countdown = Countdown(self.machine, self._waits_for.until)
            self._countdown = self._loop.call_later(AFTER / SECOND, self._count, countdown)
        return stepped

    def _count(self, countdown: Countdown) -> None:
        self._countdown = self._loop.call_later(STEP / SECOND, self._count, countdown)
        self.send(_ROW + countdown.line(self.machine.clock.now()).encode())

    def _rendered(self, reply: Reply, typed: Set[str]) -> bytes:
        if reply.refused is not None:
            reply.text = NOT_HERE
        return super()._rendered(reply, typed)

    def _resume(self, reply: Reply) -> None:
        self._stop_counting()
        super()._resume(reply)

    def _stop_counting(self) -> None:
        if self._countdown is not None:
            self._countdown.cancel()
            self._countdown = None
            self.send(_ROW)

    def _announce(self, line: str) -> None:
        text = f"[{escape(line)}]".replace("\n", "\\n").encode() + b"\r\n"
        self.send(_ROW + text if self._editor.waiting else self._editor.above(text))

    def close(self) -> None:
        """As Session, and no more countdown."""
        self._stop_counting()
        super().close()


class Terminal(Connection):
    """A terminal of the page: a client without a socket."""

    session: _Session

    def __init__(
        self, page: Page, send: Callable[[bytes], object], history: History, dialect: str, size: tuple[int, int]
    ) -> None:
        super().__init__(page, lambda write, number: _Session(page, history, dialect, write, number))
        self._send_on = send
        # A file, because a cast is written to a descriptor; without a name, because nothing else should see it.
        self._file, path = tempfile.mkstemp()
        os.unlink(path)
        self._tape = Tape(self._file, size, title=TITLE, on_failure=partial(page.notify, "complaint"))
        self.resize(*size)
        self._wire = _Wire(self._show)
        self.connection_made(self._wire)

    def feed(self, data: bytes) -> str:
        """Take what was typed. Returns "", or if it was too much one line that says so; then none of it is kept."""
        if len(self._received) + len(data) > TYPED_LIMIT:
            return f"too much at once: {len(data):,} bytes; {TYPED_LIMIT:,} may wait to be read, paste it in parts"
        # Through the buffer that asyncio would fill: from here on a terminal is a client like one on a socket.
        self.host.buffer[: len(data)] = data
        self.buffer_updated(len(data))
        return ""

    def resize(self, columns: int, rows: int) -> None:
        """Let plots take no more than so many columns."""
        self._screen = columns, rows
        self.session.columns(max(1, min(COLUMNS, columns)))

    def shown(self, count: int) -> None:
        """Note that the terminal has shown `count` more bytes."""
        slow = self._stalled
        self._wire.unread -= count
        if slow and not self._stalled:
            self.resume_writing()

    def cast(self) -> bytes:
        """Return the cast of all that was shown so far, as --record makes it."""
        return os.pread(self._file, os.fstat(self._file).st_size, 0)

    def _show(self, data: bytes) -> None:
        self._tape.shown(data, self._screen)
        if os.fstat(self._file).st_size > TAPE_LIMIT:
            self._tape.cast.fail(f"a page keeps no more than {TAPE_LIMIT >> 20} MiB of it")
        self._send_on(data)

    def end(self) -> None:
        """Close the connection and the recording."""
        self.cut_off()
        self.connection_lost(None)
        self._tape.cast.close()

    def _incoming(self, data: bytes) -> bytes:
        # Ctrl-C drops what was typed before it, as the driver of a real terminal does.
        _, key, rest = data.rpartition(b"\x03")
        if key:
            self._received = b""
            self.session.interrupt()
            self._let_go()
            self.host.driver.reschedule()
        return rest

    # There is no socket to read from, and a terminal of the page neither hangs up nor stays slow for ever.

    def _flow(self) -> None:
        pass

    _unwatch = _watch_stall = _flow


class Page:
    """A started machine, and what its terminals need from a server.

    `send` is called with the number of a terminal and bytes for it. `notify` is called with a kind and a text: "ended"
    and one line when the machine is over, "complaint" and one line for the reader, "snapshots" and their tags, one per
    line.
    """

    stopping = crowded = False
    clients = 0
    ended_by: Connection | None = None

    def __init__(
        self, machine: Machine, send: Callable[[int, bytes], object], notify: Callable[[str, str], None], dialect: str
    ) -> None:
        """Start `machine` in the running loop."""
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.machine, self._send, self.notify, self._dialect = machine, send, notify, dialect
        self.driver = MachineDriver(machine, self._loop)
        self.hub = EventHub(machine)
        self.hang_ups = HangUps(self._loop)
        self.buffer = memoryview(bytearray(TYPED_LIMIT))
        self.connections: set[Connection] = set()
        self.terminals: list[Terminal] = []
        self._history = History()
        self._tags = ""
        emulated(machine)
        machine.subscribe(self._on_event)
        machine.start()
        self.driver.start()

    def open(self, columns: int = DEFAULT_SIZE[0], rows: int = DEFAULT_SIZE[1]) -> Terminal:
        """Return a new terminal of a size, which has its greeting and its prompt."""
        number = self.clients
        self.clients += 1
        self._send(number, b"\x1b[?45h")  # reverse wraparound: BS goes from the start of a row to the row above
        send = partial(self._send, number)
        self.terminals.append(Terminal(self, send, self._history, self._dialect, (columns, rows)))
        return self.terminals[-1]

    def list_snapshots(self) -> None:
        """Call `notify` with the tags of the snapshots, if they changed."""
        tags = "\n".join(store_of(self.machine).tags())
        if tags != self._tags:
            self._tags = tags
            self.notify("snapshots", tags)

    def snapshot(self, tag: str) -> bytes:
        """Return a snapshot as a file that --snapshot-dir takes. Raises SnapshotError."""
        return self._store.get(tag)

    def upload(self, name: str, data: bytes) -> str:
        """Take a file of that name as a snapshot; return its tag. loadvm checks all of it. Raises SnapshotError."""
        tag = name.removesuffix(SUFFIX)
        self._store.put(tag, data)
        self.list_snapshots()
        return tag

    @property
    def _store(self) -> MemoryStore:
        store = store_of(self.machine)
        assert isinstance(store, MemoryStore)  # noqa: S101 - there is no directory in a page
        return store

    def close(self) -> None:
        """Close the machine and its terminals; the page can start another."""
        for each in self.terminals:
            each.end()
        self.driver.stop()
        self.machine.close()

    def next_number(self) -> int:
        """Return the number of a new client."""
        return len(self.terminals) + 1

    def queue(self, turn: Callable[[], None]) -> None:
        """Call `turn` soon."""
        self._loop.call_soon(turn)

    def left(self) -> None:
        """Do nothing: terminals stay as long as the page."""

    def foreign(self, where: str, language: str) -> None:
        """Do nothing: only terminals of the page connect here."""

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Ended):
            # After this turn: the command that ended the machine still has to send its reply.
            self._loop.call_soon(self._over, f"the machine ended ({event.reason})")
        elif isinstance(event, SnapshotDone):
            self.list_snapshots()

    def _over(self, why: str) -> None:
        for each in self.terminals:
            each.finish()
        self.driver.stop()
        self.notify("ended", why)


def start(
    options: dict[str, str],
    send: Callable[[int, bytes], object],
    notify: Callable[[str, str], None] = lambda kind, text: None,
) -> Page:
    """Make the machine for `options`: ram, guest, clock and dialect, with values as on the command line.

    Raises MisuseError, one line, for a value that is wrong or cannot be used in a page.
    """
    config = Config()
    for name, value in {"ram": RAM, **options}.items():
        if value not in _CHOICES.get(name, (value,)) or name not in ("ram", "guest", *_CHOICES):
            raise MisuseError(f"{name}: '{escape(value)}' is not known")
        setattr(config, name, parse_size(value) if name == "ram" else value)
    guest = make_guest(config.guest)
    if guest.real:
        raise MisuseError(f"guest: '{escape(config.guest)}' is a real one: not in a web page")
    try:
        return Page(make_machine(config, guest), send, notify, config.dialect)
    except MemoryError:
        raise MisuseError(f"the browser has no {options.get('ram', RAM)} for the guest's memory") from None
