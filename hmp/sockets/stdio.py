"""Carries stdin and stdout, a terminal, a pipe or a file to a socket, so that they are a client like any other."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hmp.aiolines import PatientOutput, readable

SIZE = 1 << 16
"""The most bytes that are carried at once."""


PAUSE = 0.1
"""Seconds between two checks whether a client has opened our terminal; the kernel does not report that. QEMU's is 1."""


async def carry(near: socket.socket, ends: tuple[int, int] = (0, 1)) -> None:
    """Carry input from `ends` (the descriptors to read and to write) to `near`, and the output of `near` back.

    It ends when the far end is closed. The end of the input is a half-close, so all input is answered. A terminal on
    stdin is set to deliver each key without echo, because the line editor of the session echoes; it is restored at the
    end. Raises OSError if the output fails.
    """
    source, target = ends
    before = _quiet(source) if source == 0 else None
    inward = asyncio.create_task(_read(source, near)) if source >= 0 else None
    loop, out = asyncio.get_running_loop(), PatientOutput(target)
    try:
        while data := await _received(loop, near):
            out.add_bytes(data)
            await out.drain()
    finally:
        if inward is not None:
            inward.cancel()
            await asyncio.gather(inward, return_exceptions=True)
        near.close()  # if the output failed, the far end sees a hang-up
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


async def carry_all(terminal: int, make_client: Callable[[], socket.socket], over: Callable[[], bool]) -> None:
    """Serve each program that opens our pseudoterminal, one after the other, until `over` returns true.

    `make_client` makes a client and returns the `near` end of its socket pair.
    """
    poller = select.poll()
    poller.register(terminal, select.POLLIN)
    while not over():
        # From the close by one program to the open by the next, poll reports a hang-up.
        if [state for _, state in poller.poll(0)] == [select.POLLHUP]:
            await asyncio.sleep(PAUSE)
            continue
        with suppress(OSError):  # the program left before it read all
            await carry(make_client(), (terminal, terminal))


async def _received(loop: asyncio.AbstractEventLoop, near: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(near, SIZE)
    except ConnectionResetError:
        return b""


async def _read(source: int, near: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            await readable(source)
            try:
                data = os.read(source, SIZE)
            except BlockingIOError:
                continue
            if not data:
                break
            await loop.sock_sendall(near, data)
        near.shutdown(socket.SHUT_WR)
    except OSError:  # the terminal or the far end hung up
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)


def _quiet(descriptor: int) -> list[Any] | None:
    """Make a terminal deliver each key without echo. Returns its old settings, or None if it is not a terminal."""
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        return None
    now = list(before)
    # As QEMU does: Enter comes as CR, and Ctrl-S and Ctrl-Q are keys.
    now[0] &= ~(termios.ICRNL | termios.IXON)
    # ISIG stays, so Ctrl-C still ends hmp.
    now[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, now)
    return before
