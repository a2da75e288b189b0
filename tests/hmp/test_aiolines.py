"""Lines run inside an event loop: stdout does not block the loop, and text is written before a wait."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from hmp.aiolines import PatientOutput, working
from hmp.config import Config
from hmp.drive import MachineDriver
from hmp.monitor.monitor import Reply
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

    def test_a_reader_that_is_gone_is_reported_once(self) -> None:
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


def front(monkeypatch: pytest.MonkeyPatch, descriptor: int, *lines: str) -> Front:
    """Return a front whose machine runs on the warp clock and whose lines print to `descriptor`."""
    monkeypatch.setattr("hmp.aiolines.PatientOutput", lambda: PatientOutput(descriptor))
    config = Config()
    config.sources = [("-c", list(lines))]
    config.exit_on_error = True
    made = Front(config)
    made.machine = build("silent")
    made.runner = Runner(made.machine, monitor(made.machine), config)
    return made


def run_inside(front: Front, inside: Callable[[], object]) -> None:
    """Let the lines run in a loop, and call `inside` after the last."""

    async def scene() -> None:
        driver = MachineDriver(front.machine, asyncio.get_running_loop())
        driver.start()
        async with working(front, driver):
            inside()
        driver.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())


def test_what_was_printed_is_written_before_a_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []
    with open(tmp_path / "out", "w") as file:
        subject = front(monkeypatch, file.fileno(), "info status", "info balloon")
        subject.machine.time.after(1, lambda: seen.append((tmp_path / "out").read_text()))
        run_inside(subject, lambda: seen.append((tmp_path / "out").read_text()))
    assert seen[0] == "VM status: running\n"
    assert seen[1].startswith(f"{seen[0]}balloon: actual=512")


def test_a_command_that_fails_can_end_the_machine(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = front(monkeypatch, 1, "nosuch", "info status")
    over: list[bool] = []
    run_inside(subject, lambda: over.append(subject.machine.over))
    assert over == [True]
    assert capfd.readouterr().out == "unknown command: 'nosuch'\n"


@pytest.mark.parametrize(("complete", "printed"), [(True, "hung up\nVM status: running\n"), (False, "")])
def test_lines_go_on_after_a_wait_unless_it_was_given_up(
    complete: bool, printed: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = front(monkeypatch, 1, "info balloon", "info status")

    async def wait(reply: Reply) -> bool:
        reply.finish("hung up\n")
        return complete

    async def scene() -> None:
        driver = MachineDriver(subject.machine, asyncio.get_running_loop())
        driver.start()
        async with working(subject, driver, wait):
            pass
        driver.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())
    assert capfd.readouterr().out == printed
