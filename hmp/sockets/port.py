"""One address of a server: accepts clients and makes their sessions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from hmp.monitor.dialects import Dialect
from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import History, Monitor
from hmp.monitor.session import Session
from hmp.qjson import codec
from hmp.qjson.codec import indented
from hmp.qmp.protocol import QmpSession
from hmp.sockets.clients import HmpSession
from hmp.sockets.connection import Connection
from hmp.sockets.listeners import CONNECT_PATIENCE, Listener, pair
from hmp.sockets.telnet import TelnetFilter
from hmp.streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hmp.sockets.server import Server

ACCEPTED_AT_ONCE = 16
"""How many clients of one address are accepted before others get their turn. That takes some 2 ms."""

ACCEPT_PAUSE = 1.0
"""Seconds until clients are accepted again after the system had no descriptor left."""

TOO_MANY = "too many clients"


def _pretty(send: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return a function that sends whole messages in the form of -qmp-pretty, and all other bytes unchanged."""

    def indent(data: bytes) -> None:
        # A fault may send pieces of messages, or garbage.
        whole = data.startswith(b"{") and data.endswith(b"}\r\n")
        send(type(data)(indented(data)) if whole else data)

    return indent


class Port:
    """One address: accepts its clients and makes their sessions.

    asyncio's own server was rejected: when no descriptor is left, it tries a thousand more times and reports each
    failure.
    """

    def __init__(self, server: Server, listener: Listener, dialect: Dialect) -> None:
        self.listener, self._server, self._dialect = listener, server, dialect
        self._history = History()
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._held = False
        self._short_reported = False  # of descriptors or memory; reported once

    def open(self) -> None:
        """Accept clients; if the socket is connected already, serve it."""
        socket, pause = self.listener.socket, self.listener.address.reconnect
        if pause is not None:
            self._connecting = self._loop.create_task(self._stay_connected(pause / 1e9))
        elif socket is not None and self.listener.listens:
            self._loop.add_reader(socket, self._accept, socket)
        elif socket is not None:
            self._take(socket)

    def make_client(self) -> socket.socket:
        """Make a client on a socket pair, and return the other end for the caller to serve."""
        far, near = pair()
        self._take(far)
        return near

    def close(self) -> None:
        """Accept no more clients."""
        if self.listener.socket is not None and self.listener.listens:
            self._loop.remove_reader(self.listener.socket)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._retry is not None:
            self._retry.cancel()

    async def _stay_connected(self, pause: float) -> None:
        """Connect, and again `pause` seconds after a failure or after the connection ended."""
        address, loop, reported = self.listener.address, self._loop, False
        while True:
            self._server.came(self)
            try:
                # Without it an attempt takes minutes if the address drops packets.
                async with asyncio.timeout(CONNECT_PATIENCE):
                    if address.scheme == "unix":
                        _, client = await loop.create_unix_connection(self._make, address.path)
                    else:
                        _, client = await loop.create_connection(self._make, address.host or "localhost", address.port)
            except (OSError, TimeoutError) as error:
                self._server.left()
                if address.spelled and not reported:
                    complain(f"Unable to connect character device {address.label}: {self.listener.explain(error)}")
                reported = True
            else:
                client.ended = loop.create_future()
                await client.ended
            await asyncio.sleep(pause)

    @property
    def _taken(self) -> bool:
        """Whether this address has a client, or one whose connection is being set up."""
        return bool(self._opening) or any(each.address is self.listener.address for each in self._server.connections)

    def accept_again(self) -> None:
        """Accept clients again, if the address serves one at a time and that one is gone."""
        if self._held and not self._server.stopping and not (self._server.one_client and self._taken):
            self._held = False
            self.open()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self._server.one_client and self._taken:
                self._loop.remove_reader(listening)
                # The next client waits in the kernel's queue, as with QEMU: it is connected and gets no greeting.
                self._held = True
                return
            try:
                client, _ = listening.accept()
            # No client is left, or it hung up before it was accepted.
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if not self._short_reported:
                    complain(f"cannot accept a client at {self.listener.name}: {error.strerror}; trying again")
                self._short_reported = True
                self.close()
                self._retry = self._loop.call_later(ACCEPT_PAUSE, self.open)
                return
            self._short_reported = False
            client.setblocking(False)
            if not self._server.takes(client):
                self._refuse(client)
                continue
            self._take(client)

    def _take(self, client: socket.socket) -> None:
        self._server.came(self)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, client))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if task.cancelled() or task.exception() is not None:  # the client is gone already
            self._server.left()

    def _refuse(self, client: socket.socket) -> None:
        if self.listener.address.kind == "qmp":
            # Refuse in the client's protocol, so that its library can show the reason.
            text = codec.encode({"error": {"class": "GenericError", "desc": TOO_MANY}})
        else:
            text = f"{TOO_MANY}\r\n".encode()
        try:
            client.send(text)
        except OSError:
            pass
        client.close()

    def shown(self) -> dict[str, object]:
        """Return what query-chardev shows for the address."""
        address, name = self.listener.address, self.listener.name
        if address.scheme in ("unix", "tcp", "telnet"):
            there = any(each.address is address for each in self._server.connections)
            name = f"{'' if there else 'disconnected:'}{name}{',server=on' if address.server else ''}"
        return {"frontend-open": address.used, "filename": name, "label": address.label}

    def _make(self) -> Connection:
        made = Connection(self._server, self._session)
        made.address = self.listener.address
        made.name = self.listener.name
        if made.address.scheme == "telnet":
            made.telnet = TelnetFilter()
        return made

    def _session(self, send: Callable[[bytes], None], client: int) -> Session:
        server, address = self._server, self.listener.address
        machine = server.machine
        for_all: Any = {"host_files": address.host_files, "client": client}
        if address.kind == "serial" and address.ports is None:  # the modelled guest writes nothing to it
            return Session(Monitor(machine, self._dialect), send)
        if address.kind == "qmp":
            made: Session = (emulated(machine).make_session or QmpSession)(
                machine, self._dialect, server.hub, _pretty(send) if address.pretty else send, **for_all
            )
            return made
        for_all |= {"ports": address.ports, "served": address.kind != "serial"}
        return HmpSession(machine, self._dialect, self._history, send, **for_all)
