"""Small programs that hmp is measured against: bare Python runs this file with a mode and its arguments.

    fake QMP HMP      what projects write by hand to test against QEMU: asyncio's streams, json, canned replies
    fakes N DIR       N of `fake` in one process, on DIR/0.qmp, DIR/0.hmp and so on
    lines             what projects write by hand for a human monitor on a pipe: the standard library's cmd
    echo QMP HMP      the limit of a round trip: a server of asyncio that sends a constant for each line
    timer PATH        the limit of a wait: asyncio's own timer answers a line after five seconds

All but `lines` are servers, and print `ready` when they serve.
"""

from __future__ import annotations

import asyncio
import sys

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n'
)
RETURN = b'{"return": {"actual": 536870912}}\r\n'
BALLOON = "balloon: actual=512"
WAIT = 5.0


class Echo(asyncio.Protocol):
    """Sends `reply` for each line."""

    def __init__(self, greeting: bytes, reply: bytes) -> None:
        self.greeting, self.reply = greeting, reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.write = transport.write
        self.write(self.greeting)

    def data_received(self, data: bytes) -> None:
        """Answer; what is no line yet counts as one, for the client waits after each."""
        self.write(self.reply * max(1, data.count(b"\n")))


class Timer(Echo):
    """Sends its reply after five seconds."""

    def data_received(self, data: bytes) -> None:
        """Set the timer."""
        asyncio.get_running_loop().call_later(WAIT, self.write, self.reply)


async def fake_qmp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client of QMP."""
    import json

    replies = {"qmp_capabilities": {}, "query-balloon": {"actual": 536870912}, "query-status": {"status": "running"}}
    decoder = json.JSONDecoder()
    writer.write(GREETING)
    text = ""
    while data := await reader.read(1 << 16):
        text += data.decode()
        while text := text.lstrip():
            try:
                request, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            reply = {"return": replies.get(request["execute"], {})}
            writer.write(json.dumps(reply).encode() + b"\r\n")
        await writer.drain()


async def fake_hmp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client of the human monitor."""
    writer.write(b"(qemu) ")
    while line := await reader.readline():
        text = BALLOON if line.strip() == b"info balloon" else "unknown command"
        writer.write(f"{text}\r\n(qemu) ".encode())
        await writer.drain()


async def serve(mode: str, *arguments: str) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    if mode == "echo":
        await loop.create_unix_server(lambda: Echo(GREETING, RETURN), arguments[0])
        await loop.create_unix_server(lambda: Echo(b"(qemu) ", b"balloon: actual=512\r\n(qemu) "), arguments[1])
    elif mode == "timer":
        await loop.create_unix_server(lambda: Timer(b"(qemu) ", b"(qemu) "), arguments[0], backlog=1024)
    else:
        names = [f"{arguments[1]}/{number}" for number in range(int(arguments[0]))] if mode == "fakes" else []
        pairs = [(f"{name}.qmp", f"{name}.hmp") for name in names] or [(arguments[0], arguments[1])]
        for qmp, hmp in pairs:
            await asyncio.start_unix_server(fake_qmp, qmp)
            await asyncio.start_unix_server(fake_hmp, hmp)
    print("ready", flush=True)
    await asyncio.Event().wait()


def lines() -> None:
    """Answer lines from stdin."""
    import cmd

    class Monitor(cmd.Cmd):
        prompt = ""
        use_rawinput = False

        def do_info(self, words: str) -> None:
            """Answer as if there were a guest."""
            print(BALLOON if words == "balloon" else "unknown command")

        def do_EOF(self, _: str) -> bool:
            """End."""
            return True

    Monitor().cmdloop()


if __name__ == "__main__":
    if sys.argv[1] == "lines":
        lines()
    else:
        asyncio.run(serve(*sys.argv[1:]))
