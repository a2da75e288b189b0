"""A question before a command that may stop a running VM. One key answers it; keys that were typed before do not."""

from __future__ import annotations

import os
from asyncio import Future, get_running_loop
from collections.abc import Callable

from hmp.terminal.screen import Screen

AFTER = 0.3
"""Seconds in which keys are ignored: they belong to a paste, or were typed before the person read the question."""


async def agreed(
    screen: Screen, descriptor: int, wait: Future[None], question: str, flush: Callable[[], None], after: float = AFTER
) -> bool:
    """Show `question` and return whether the answer from `descriptor` is the one key `y`.

    False if `wait` ends before a key comes.
    """
    loop, yes = get_running_loop(), False

    def listen() -> None:
        # Drop what was typed in the meantime: it was typed before the question was read.
        flush()
        loop.add_reader(descriptor, key)

    def key() -> None:
        nonlocal yes
        try:
            # Several keys at once are a paste and no answer.
            yes = os.read(descriptor, 4096) in (b"y", b"Y")
        except OSError:
            yes = False
        if not wait.done():
            wait.set_result(None)

    screen.write(question)
    timer = loop.call_later(after, listen)
    try:
        await wait
    finally:
        timer.cancel()
        loop.remove_reader(descriptor)
        screen.write("y\n" if yes else "n\n")
    return yes
