"""Lines run inside an event loop: stdout that holds nobody up, and what is written before a wait."""

from __future__ import annotations

import asyncio
import os
import select
from pathlib import Path

import pytest

from hmp.aiolines import PatientOutput, working
from hmp.config import Config
from hmp.drive import MachineDriver
from hmp.pipe import Front, Runner
from tests.support.loop import VirtualLoop
from tests.support.machines import build, monitor


class TestStdout:
    """PatientOutput on a pipe, in a loop of its own."""

    def test_it_never_blocks_and_loses_nothing(self) -> None:
        async def scene() -> None:
            reading, writing = os.pipe()
            out = PatientOutput(writing)
            text = "é" * 400_000
            out.add(text)
            out.flush()
            assert 0 < out.size < 800_000
            draining = asyncio.ensure_future(out.drain())
            found = b""
            while not draining.done():
                if select.select([reading], [], [], 0)[0]:
                    found += os.read(reading, 65536)
                await asyncio.sleep(0)
            os.close(writing)
            while data := os.read(reading, 65536):
                found += data
            assert found.decode() == text
            os.close(reading)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(scene())

    def test_a_reader_that_is_gone_is_told_once(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        out = PatientOutput(writing)
        out.add("x")
        with pytest.raises(BrokenPipeError):
            out.flush()
        out.flush()
        os.close(writing)

    def test_nothing_in_it_can_drive_a_terminal(self, tmp_path: Path) -> None:
        with open(tmp_path / "out", "wb") as file:
            out = PatientOutput(file.fileno())
            out.add("a\0\x1b[31m\x9b\x7f\udcff\té\n")
            out.flush()
        assert (tmp_path / "out").read_text() == "a\\x00\\x1b[31m\\x9b\\x7f\\xff\té\n"

    def test_a_file(self, tmp_path: Path) -> None:
        async def scene() -> None:
            with open(tmp_path / "out", "wb") as file:
                out = PatientOutput(file.fileno())
                out.add("x" * 100_000)
                await out.drain()

        asyncio.run(scene())
        assert (tmp_path / "out").stat().st_size == 100_000


def test_what_was_printed_is_written_before_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    seen: list[bytes] = []
    monkeypatch.setattr("hmp.aiolines.PatientOutput", lambda: PatientOutput(writing))

    async def scene() -> None:
        config = Config()
        config.sources = [("-c", ["info status", "info balloon"])]
        front = Front(config)
        front.machine = machine = build("silent")
        front.runner = Runner(machine, monitor(machine), config)
        machine.time.after(1, lambda: seen.append(os.read(reading, 99)))
        driver = MachineDriver(machine, asyncio.get_running_loop())
        driver.start()
        async with working(front, driver):
            seen.append(os.read(reading, 99))
        driver.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())
    assert seen[0] == b"VM status: running\n"
    assert seen[1].startswith(b"balloon: actual=512")
    for descriptor in (reading, writing):
        os.close(descriptor)
