"""stdin and stdout as the two directions of a client's socket."""

from __future__ import annotations

import asyncio
import os
import socket
import termios
from typing import Any

from hmp.aiolines import PatientOutput, readable

SIZE = 1 << 16
"""Bytes carried at once."""


async def carry(near: socket.socket) -> None:
    """Carry what comes in to `near`, and what comes from there out, until the far end is closed.

    The end of stdin is a half-close: what came before is answered. A terminal is set to bring each key, unseen, as the
    line editor behind the socket wants it, and is as before afterwards. Raises OSError when stdout cannot be written.
    """
    before = _quiet(0)
    inward = asyncio.create_task(_read(near))
    loop, out = asyncio.get_running_loop(), PatientOutput()
    try:
        while data := await _received(loop, near):
            out.add_bytes(data)
            await out.drain()
    finally:
        inward.cancel()
        await asyncio.gather(inward, return_exceptions=True)
        near.close()  # where stdout is gone, the far end hears of it
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


async def _received(loop: asyncio.AbstractEventLoop, near: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(near, SIZE)
    except ConnectionResetError:
        return b""


async def _read(near: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            await readable(0)
            try:
                data = os.read(0, SIZE)
            except BlockingIOError:
                continue
            if not data:
                break
            await loop.sock_sendall(near, data)
        near.shutdown(socket.SHUT_WR)
    except OSError:  # a terminal that hung up, a far end that did
        try:
            near.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _quiet(descriptor: int) -> list[Any] | None:
    """Let a terminal bring each key and echo none; returns what it was set to, None for what is no terminal."""
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        return None
    now = list(before)
    now[0] &= ~(termios.ICRNL | termios.IXON)
    now[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, now)
    return before
