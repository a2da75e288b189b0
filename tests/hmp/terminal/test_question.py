"""One key answers a question, and only one that was typed after it was read."""

from __future__ import annotations

import asyncio
import os

import pytest

from hmp.terminal.question import AFTER, agreed
from hmp.terminal.screen import Screen
from tests.support.loop import VirtualLoop


@pytest.mark.parametrize(
    ("before", "after", "yes"),
    [(b"", b"y", True), (b"", b"Y", True), (b"", b"n", False), (b"", b"yy", False), (b"", b"", False),
     (b"y", b"n", False), (b"n", b"y", True)],
)  # fmt: skip
def test_one_key_answers_and_what_was_typed_before_does_not(before: bytes, after: bytes, yes: bool) -> None:
    reading, writing = os.pipe()
    written: list[str] = []

    async def ask() -> bool:
        loop = asyncio.get_running_loop()
        wait = loop.create_future()
        os.write(writing, before)
        loop.call_later(AFTER * 2, os.write, writing, after)
        loop.call_later(9, lambda: wait.done() or wait.set_result(None))  # as Ctrl-C does
        return await agreed(Screen(written.append), reading, wait, "stop it?", lambda: before and os.read(reading, 9))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(ask()) is yes
    assert "".join(written) == f"stop it?{'y' if yes else 'n'}\n"
    os.close(reading)
    os.close(writing)
