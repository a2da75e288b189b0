"""The server: accepts clients on all addresses of one machine, and lets them go."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections import deque
from collections.abc import Callable

from device.machine.events import ClientRefused
from device.machine.machine import Machine
from hmp.drive import MachineDriver
from hmp.monitor.dialects import DIALECTS, Dialect
from hmp.monitor.monitor import History
from hmp.qjson import codec
from hmp.qmp.events import EventHub
from hmp.ratelimit import RateLimit
from hmp.sockets.clients import HmpConnection, QmpConnection
from hmp.sockets.connection import RECEIVE_SIZE, TURN, Connection
from hmp.sockets.hangups import HangUps
from hmp.sockets.listeners import Listener
from hmp.streams import complain

CLIENT_LIMIT = 4096
"""Clients at once: four times what anybody was seen to need, and with UNSENT_LIMIT still memory that a host has."""

SPARE_DESCRIPTORS = 64
"""Descriptors that clients leave to the rest of the program: guests, scripts, snapshots, and to refusing a client. No
more than an eighth of all: where these are few, clients matter more."""

ACCEPTED_AT_ONCE = 16
"""Clients of one address that are accepted before others get their turn: some 2 ms."""

LONGEST_ROUND = 0.02
"""Seconds that clients in the queue get before the loop looks again who else wants something."""

ACCEPT_PAUSE = 1.0
"""Seconds until clients are accepted again after the system had no descriptor left for one."""

GRACE = 0.2
"""Seconds that clients have at the end to take what is still to be sent."""

FAREWELL = 0.05
"""Seconds that a program whose command ended the machine has to hang up first: qmp-shell reports an error if it cannot
(with QEMU, which closes at once, it mostly does)."""

FOREIGN_SPACING = 10.0
"""Seconds between two lines about clients that speak HTTP and the like: a web page may try as fast as it can."""

TOO_MANY = "too many clients"


def leaves_enough(descriptor: int) -> bool:
    """Whether enough descriptors are free beside this new one: it got the lowest number that was."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit == resource.RLIM_INFINITY or descriptor < limit - min(SPARE_DESCRIPTORS, limit // 8)


class Server:
    """Serves one machine on listening sockets, inside a running event loop."""

    buffer = memoryview(bytearray(RECEIVE_SIZE))
    """One for all machines of a process: what is received is copied at once, and all are served by one thread."""

    def __init__(self, machine: Machine, driver: MachineDriver, listeners: list[Listener], dialect: str) -> None:
        self.machine = machine
        self.driver = driver
        self.clients = 0
        self.connections: set[Connection] = set()
        self.ended_by: Connection | None = None
        self.stopping = False
        self.note: Callable[[Connection, str, bytes], None] | None = None
        """Told of every client that comes or goes, and of what it sends and is sent."""
        self.now = time.monotonic
        self._loop = asyncio.get_running_loop()
        self.hub = EventHub(machine, self._loop.call_soon)
        self._turns: deque[Callable[[], None]] = deque()
        self._turning = False
        self._turned = 0.0
        self.hang_ups = HangUps(self._loop)
        self._ports = [_Port(self, listener, DIALECTS[listener.address.dialect or dialect]) for listener in listeners]
        self._awaited = {port for port in self._ports if port.listener.address.wait}
        self._clients_came = asyncio.Event()
        self._departure = asyncio.Event()
        self._foreign = RateLimit(FOREIGN_SPACING, now=self._loop.time)

    def start(self) -> None:
        """Accept clients from now on."""
        for port in self._ports:
            port.open()

    async def clients_came(self) -> None:
        """Return once each `wait` address had its first client."""
        if self._awaited:
            await self._clients_came.wait()

    def takes(self, client: socket.socket) -> bool:
        """Whether there is room for one more."""
        return self.clients < CLIENT_LIMIT and (leaves_enough(client.fileno()) or not self.clients)

    def came(self, port: _Port) -> None:
        """A client was accepted at `port`."""
        self.clients += 1
        self._awaited.discard(port)
        if not self._awaited:
            self._clients_came.set()

    def left(self) -> None:
        """A client is gone."""
        self.clients -= 1
        self._departure.set()

    def foreign(self, where: str, language: str) -> None:
        """A client at `where` spoke `language` and was hung up on: say so, now and then."""
        dropped = self._foreign.admit()
        if dropped is not None:
            more = f" ({dropped} more before)" if dropped else ""
            self.machine.emit(ClientRefused(f"it spoke {language} to {where}, as web pages can{more}"))

    @property
    def crowded(self) -> bool:
        """Whether clients wait for their turn."""
        return bool(self._turns)

    def queue(self, turn: Callable[[], None]) -> None:
        """Call `turn` soon, behind those that came before. Between them the loop looks who else wants something."""
        self._turns.append(turn)
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        start = self.now()
        # As long as all else took since the last time: new clients, who go first, cannot starve those in the queue.
        end = start + min(max(TURN, start - self._turned), LONGEST_ROUND)
        try:
            for _ in range(len(self._turns)):
                self._turns.popleft()()
                if self.now() >= end:
                    break
        finally:
            self._turned = self.now()
            self._turning = bool(self._turns)
            if self._turning:
                self._loop.call_soon(self._take_turns)

    async def stop(self) -> None:
        """Accept and run nothing more, send what is still to be sent, and let every client go. Once is enough."""
        if self.stopping:
            return
        self.stopping = True
        for port in self._ports:
            port.close()
        asker = self.ended_by if self.ended_by is not None and self.ended_by.lingers else None
        for connection in tuple(self.connections):
            if connection is not asker:
                connection.finish()
        if asker is not None:
            await self._until_gone({asker}, FAREWELL)
            asker.finish()
        await self._until_gone(set(self.connections), GRACE)
        if self.connections:
            for connection in tuple(self.connections):
                connection.cut_off()
            await asyncio.sleep(0)  # asyncio closes the sockets in its next round
        self.hub.close()
        self.hang_ups.close()

    async def _until_gone(self, these: set[Connection], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while these & self.connections:
                    self._departure.clear()
                    await self._departure.wait()
        except TimeoutError:
            pass


class _Port:
    """One address: accepts its clients and makes what talks to them.

    Not asyncio's own server: that one tries a thousand more times after it ran out of descriptors, and tells each time.
    """

    def __init__(self, server: Server, listener: Listener, dialect: Dialect) -> None:
        self.listener = listener
        self._server = server
        self._dialect = dialect
        self._history = History()
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._short = False  # of descriptors or memory; said once

    def open(self) -> None:
        """Accept clients."""
        self._loop.add_reader(self.listener.socket, self._accept)

    def close(self) -> None:
        """Accept none any more."""
        self._loop.remove_reader(self.listener.socket)
        if self._again is not None:
            self._again.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, _ = self.listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if not self._short:
                    complain(f"cannot accept a client at {self.listener.name}: {error.strerror}; trying again")
                self._short = True
                self.close()
                self._again = self._loop.call_later(ACCEPT_PAUSE, self.open)
                return
            self._short = False
            client.setblocking(False)
            if not self._server.takes(client):
                self._refuse(client)
                continue
            self._server.came(self)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, client))
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if task.cancelled() or task.exception() is not None:  # a client that is gone already is no news
            self._server.left()

    def _refuse(self, client: socket.socket) -> None:
        if self.listener.address.kind == "qmp":
            text = codec.encode({"error": {"class": "GenericError", "desc": TOO_MANY}})
        else:
            text = f"{TOO_MANY}\r\n".encode()
        try:
            client.send(text)
        except OSError:
            pass
        client.close()

    def _make(self) -> Connection:
        server, address = self._server, self.listener.address
        if address.kind == "qmp":
            return QmpConnection(server, self._dialect, host_files=address.host_files)
        telnet = address.scheme == "telnet"
        return HmpConnection(server, self._dialect, self._history, telnet=telnet, host_files=address.host_files)
