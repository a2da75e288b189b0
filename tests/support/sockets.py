"""A served machine and its clients in one event loop, on real sockets, in virtual time: no test sleeps.

def test_something() -> None:
    async def scene(served: Served) -> None:
        client = await served.hmp()
        assert await client.say("info status") == "VM status: running\n"

    play(scene, "linux")
"""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from device.clock import Clock
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.addresses import Address
from hmp.drive import MachineDriver
from hmp.sockets.listeners import listen
from hmp.sockets.server import Server
from tests.support.loop import VirtualLoop
from tests.support.screen import render

PROMPT = b"(qemu) "

C = TypeVar("C", bound="Client")


class Client:
    """A raw client. It waits for what it is asked to read; what it never reads stays in its socket."""

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self.loop = asyncio.get_running_loop()
        self.data = bytearray()
        """What was received and not yet asked for."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self.loop.sock_sendall(self.socket, data)

    async def more(self) -> bool:
        """Receive some more; False at the end, which a reset is too."""
        try:
            data = await self.loop.sock_recv(self.socket, 1 << 16)
        except ConnectionResetError:
            return False
        self.data += data
        return bool(data)

    async def until(self, end: bytes) -> bytes:
        """Return what comes up to and with `end`."""
        seen = 0
        while (at := self.data.find(end, max(0, seen - len(end)))) < 0:
            seen = len(self.data)
            assert await self.more(), f"hung up instead of {end!r}, behind {self.data[-200:]!r}"
        at += len(end)
        found = bytes(self.data[:at])
        del self.data[:at]
        return found

    async def rest(self) -> bytes:
        """Return everything up to the end."""
        while await self.more():
            pass
        data = bytes(self.data)
        self.data.clear()
        return data

    async def quiet(self, seconds: float = 1.0) -> bool:
        """Whether nothing comes for so long."""
        if self.data:
            return False
        try:
            await asyncio.wait_for(self.more(), seconds)
        except TimeoutError:
            return True
        return False

    def half_close(self) -> None:
        """Send no more."""
        self.socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Hang up."""
        self.socket.close()

    def reset(self) -> None:
        """Hang up without reading the rest: over TCP this is a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Hmp(Client):
    """A client of the human monitor, which has read the first prompt."""

    async def reply(self) -> str:
        """Return what is printed up to the next prompt, without the echoed line."""
        text = render((await self.until(PROMPT)).decode("latin-1"))
        return text.partition("\n")[2].removesuffix(PROMPT.decode())

    async def say(self, line: str) -> str:
        """Run a line; return what it prints."""
        await self.send(line.encode() + b"\n")
        return await self.reply()


class Qmp(Client):
    """A client of QMP. `events` collects, in order, what came between the replies."""

    def __init__(self, socket: socket.socket) -> None:
        super().__init__(socket)
        self.events: list[dict[str, Any]] = []

    async def message(self) -> dict[str, Any]:
        """Return the next message of any kind."""
        message = json.loads(await self.until(b"\r\n"))
        assert isinstance(message, dict)
        return message

    async def answer(self) -> dict[str, Any]:
        """Return the next reply."""
        while "event" in (message := await self.message()):
            self.events.append(message)
        return message

    async def event(self) -> dict[str, Any]:
        """Return the next event, which must be the next message, or one that came before."""
        if self.events:
            return self.events.pop(0)
        message = await self.message()
        assert "event" in message
        return message

    async def ask(self, name: str, id: object = None, **arguments: object) -> dict[str, Any]:
        """Run a command; return the whole reply."""
        await self.order(name, id, **arguments)
        return await self.answer()

    async def order(self, name: str, id: object = None, **arguments: object) -> None:
        """Send a command, as the common library does: without a newline."""
        command: dict[str, object] = {"execute": name}
        if id is not None:
            command["id"] = id
        if arguments:
            command["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        await self.send(json.dumps(command).encode())

    async def line(self, text: str, id: object = None) -> dict[str, Any]:
        """Run a line of HMP through human-monitor-command."""
        return await self.ask("human-monitor-command", id, command_line=text)


class Served:
    """The machine, its server, and how to become a client of it. `addresses` are the listeners' names."""

    def __init__(self, machine: Machine, driver: MachineDriver, server: Server, names: list[str], path: str) -> None:
        self.machine = machine
        self.driver = driver
        self.server = server
        self.names = names
        self.path = path
        self.loop = asyncio.get_running_loop()
        self._clients: list[Client] = []

    def name(self, kind: str) -> str:
        """Return the first address that begins with `kind`= as in the ready line."""
        return next(name.partition("=")[2] for name in self.names if name.startswith(kind))

    async def connect(self, name: str) -> socket.socket:
        """Connect to an address such as unix:PATH or tcp:HOST:PORT."""
        scheme, _, where = name.partition(":")
        if scheme == "unix":
            made = socket.socket(socket.AF_UNIX)
            target: Any = where
        else:
            host, _, port = where.rpartition(":")
            host = host.strip("[]")
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            target = (host, int(port))
        made.setblocking(False)
        await self.loop.sock_connect(made, target)
        return made

    async def raw(self, kind: str = "qmp") -> Client:
        """Return a client that has read nothing yet."""
        return self._keep(Client(await self.connect(self.name(kind))))

    async def hmp(self, name: str | None = None) -> Hmp:
        """Return a client at its first prompt."""
        client = self._keep(Hmp(await self.connect(name or self.name("monitor"))))
        await client.until(PROMPT)
        return client

    async def qmp(self, name: str | None = None, *, negotiate: bool = True) -> Qmp:
        """Return a client that has seen the greeting, and negotiated."""
        client = self._keep(Qmp(await self.connect(name or self.name("qmp"))))
        await client.until(b"\r\n")
        if negotiate:
            assert await client.ask("qmp_capabilities") == {"return": {}}
        return client

    def _keep(self, client: C) -> C:
        self._clients.append(client)
        return client

    async def settle(self, seconds: float = 0.0) -> None:
        """Let the server handle what happened, and let so much virtual time pass."""
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            client.socket.close()


def play(
    scene: Callable[[Served], Awaitable[None]],
    guest: str = "linux",
    *addresses: str,
    dialect: str = "seed",
    clock: Clock | None = None,
    paused: bool = False,
    memory: int = 512,
    started: bool = True,
    **options: Any,
) -> Machine:
    """Serve a machine with `guest` on `addresses` ("monitor=unix:m" and the like) and play `scene`; returns the machine.

    Unix paths are taken below a directory of their own. Without addresses there are one monitor and one qmp. Without
    `clock` host time is the loop's, which is virtual and calls itself real.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: faults.append(context))
        with tempfile.TemporaryDirectory() as directory:
            specs = addresses or ("monitor=unix:m", "qmp=unix:q")
            if not all("=unix:" in spec for spec in specs):
                loop.grace = 0.01
            wanted = [
                Address(kind, spec.replace("unix:", f"unix:{directory}/"))
                for kind, spec in (address.split("=", 1) for address in specs)
            ]
            listeners = listen(wanted, allow_remote=False)
            machine = Machine(clock or loop.machine_clock(), ram=memory * MIB, guest=make_guest(guest), **options)
            found.append(machine)
            driver = MachineDriver(machine, loop)
            server = Server(machine, driver, listeners, dialect)
            names = [f"{listener.address.kind}={listener.name}" for listener in listeners]
            served = Served(machine, driver, server, names, directory)
            try:
                server.start()
                driver.start()
                if started:
                    machine.start(paused=paused)
                    driver.reschedule()
                await scene(served)
            finally:
                await server.stop()
                driver.stop()
                served.close()
                for listener in listeners:
                    listener.close()
                machine.close()
        assert not faults, faults
        assert not machine.requests.pending, "the server left requests behind"

    found: list[Machine] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
    return found[0]
