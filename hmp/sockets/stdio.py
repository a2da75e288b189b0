"""Carries stdin and stdout to a socket, so that they are a client like any other."""

from __future__ import annotations

import asyncio
import os
import socket
import termios
from typing import Any

from hmp.aiolines import PatientOutput, readable

SIZE = 1 << 16
"""The most bytes that are carried at once."""


async def carry(near: socket.socket) -> None:
    """Carry stdin to `near` and the output of `near` to stdout, until the far end is closed.

    The end of stdin is a half-close: all input before it is answered. A terminal is set to deliver each key without
    echo, because the line editor behind the socket echoes; afterwards it is set back. Raises OSError if stdout fails.
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
        near.close()  # if stdout is gone, this tells the far end
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
    except OSError:  # the terminal or the far end hung up
        try:
            near.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _quiet(descriptor: int) -> list[Any] | None:
    """Make a terminal deliver each key without echo. Returns its old settings, or None if it is not a terminal."""
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        return None
    now = list(before)
    now[0] &= ~(termios.ICRNL | termios.IXON)
    # ISIG stays, so Ctrl-C still ends hmp.
    now[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, now)
    return before
