"""The official client library, qemu.qmp, and its two shells, against hmp."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmp.sockets.server import ASKER_GRACE
from tests.support.programs import Program
from tests.support.sockets import Served, play
from tests.support.timing import PATIENCE

qmp = pytest.importorskip("qemu.qmp", reason="the client library qemu.qmp is not installed")

BYTES = 512 << 20


def path(served: Served) -> str:
    return served.name("qmp").removeprefix("unix:")


class TestLibrary:
    def test_connect_execute_disconnect(self) -> None:
        async def scene(served: Served) -> None:
            client = qmp.QMPClient("test")
            await client.connect(path(served))
            assert client.greeting.QMP.version["qemu"] == {"major": 7, "minor": 2, "micro": 0}
            assert await client.execute("query-balloon") == {"actual": BYTES}
            assert await client.execute("balloon", {"value": 1 << 28}) == {}
            assert (await client.execute("query-status"))["status"] == "running"
            await client.disconnect()
            await served.settle()
            assert not served.server.connections

        play(scene)

    def test_over_tcp(self) -> None:
        async def scene(served: Served) -> None:
            client = qmp.QMPClient()
            await client.connect(("127.0.0.1", int(served.name("qmp").rpartition(":")[2])))
            assert await client.execute("query-name") == {"name": "vm"}
            await client.disconnect()

        play(scene, "linux", "qmp=tcp:127.0.0.1:0", name="vm")

    def test_errors_are_the_librarys(self) -> None:
        async def scene(served: Served) -> None:
            client = qmp.QMPClient()
            await client.connect(path(served))
            with pytest.raises(qmp.ExecuteError) as caught:
                await client.execute("nosuch")
            assert caught.value.error_class == "CommandNotFound"
            with pytest.raises(qmp.ExecuteError, match="Parameter 'value' is missing"):
                await client.execute("balloon")
            assert await client.execute("query-uuid")
            await client.disconnect()

        play(scene)

    def test_the_balloon_event_of_a_slow_guest(self) -> None:
        async def scene(served: Served) -> None:
            client = qmp.QMPClient()
            await client.connect(path(served))
            with client.listener("BALLOON") as listener:
                assert await client.execute("query-balloon") == {"actual": BYTES}
                event = await asyncio.wait_for(listener.get(), 10)
            assert served.loop.time() == pytest.approx(2)
            assert event["data"]["actual"] == BYTES
            assert "total_mem" in event["data"]
            await client.disconnect()

        play(scene, "slow,delay=2")

    def test_a_waiting_line_and_another_client(self) -> None:
        async def scene(served: Served) -> None:
            waits, other = qmp.QMPClient(), qmp.QMPClient()
            for client in (waits, other):
                await client.connect(path(served))
            line = asyncio.ensure_future(waits.execute("human-monitor-command", {"command-line": "info balloon"}))
            assert await other.execute("query-name") == {}
            assert served.loop.time() == 0
            assert await line == "balloon: actual=512,age=5000\r\n"
            assert served.loop.time() == pytest.approx(5)
            for client in (waits, other):
                await client.disconnect()

        play(scene, "silent")

    def test_pipelined_and_answered_by_id(self) -> None:
        async def scene(served: Served) -> None:
            client = qmp.QMPClient()
            await client.connect(path(served))
            names = ["query-name", "query-balloon", "query-uuid", "query-kvm"] * 25
            replies = await asyncio.gather(*(client.execute(name) for name in names))
            assert replies[:4] * 25 == replies
            await client.disconnect()

        play(scene)

    def test_the_server_quits(self) -> None:
        async def scene(served: Served) -> None:
            client = qmp.QMPClient()
            await client.connect(path(served))
            with client.listener("SHUTDOWN") as listener:
                assert await client.execute("quit") == {}
                assert (await listener.get())["data"]["reason"] == "host-qmp-quit"
            stopping = asyncio.ensure_future(served.server.stop())
            await client.disconnect()  # raises EOFError if the server is first
            await stopping
            assert served.loop.time() < ASKER_GRACE

        play(scene)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with Program("-m", "512", "--headless", "--name", "vm", "--qmp", f"unix:{tmp_path}/q") as found:
        yield found


def shell(program: Program, lines: str, *options: str) -> str:
    """What qmp-shell prints for these lines, without its prompts."""
    where = program.address("qmp").removeprefix("unix:")
    done = subprocess.run(
        [sys.executable, "-m", "qemu.qmp.qmp_shell", *options, where],
        input=lines,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "HOME": str(Path(where).parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("(QEMU) ", "")


@pytest.mark.slow
class TestShells:
    def test_qmp_shell(self, program: Program) -> None:
        said = shell(program, "query-balloon\nballoon value=268435456\nquery-name\nstop\nballoon\n")
        assert "Connected to QEMU 7.2.0\n" in said
        assert '{"return": {"actual": 536870912}}\n' in said
        assert '{"return": {"name": "vm"}}\n' in said
        assert '"desc": "Parameter \'value\' is missing"' in said
        talker = program.qmp()
        assert talker.ask("query-status")["return"]["status"] == "paused"
        talker.close()

    def test_quit_in_a_shell_is_no_error(self, program: Program) -> None:
        assert '{"return": {}}\n' in shell(program, "query-name\nquit\n")
        assert program.end(0) == (0, "", "")

    def test_qmp_shell_for_the_human_monitor(self, program: Program) -> None:
        said = shell(program, "info status\ninfo balloon\nhelp balloon\nnosuch\ninfo name\n", "-H")
        assert "Welcome to the HMP shell!\nConnected to QEMU 7.2.0\n" in said
        assert "VM status: running\n" in said
        assert "balloon: actual=512,mem_swapped_in=" in said
        assert "balloon target -- " in said
        assert "unknown command: 'nosuch'\n" in said
        assert "vm\n" in said
