"""Machines for other projects' tests: what a test controls and sees, and that nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from device.errors import MisuseError
from hmp.log import LIMIT
from hmp.testing import FakeQemu, SimError
from hmp.testing.host import PREFIX, Folder, Host, sweep
from hmp.testing.machine import close_all
from tests.support.programs import Talker
from tests.support.timing import PATIENCE, until

NOON = 1_700_000_000
BALLOON = "/machine/peripheral/balloon0"


def left() -> tuple[list[str], list[str], int]:
    """What a machine could leave behind: threads, files, descriptors."""
    threads = [thread.name for thread in threading.enumerate() if thread.name == "hmp.testing"]
    files = [path.name for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if os.access(path, os.W_OK)]
    return threads, files, len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tmp_path_factory.getbasetemp()  # made now, where pytest makes it, and not in the folder that must be empty behind us
    own = tempfile.mkdtemp(prefix="t")  # short, and no other worker's
    monkeypatch.setattr(tempfile, "tempdir", own)
    before = left()
    yield
    assert left() == before
    os.rmdir(own)


def connect(where: Any) -> socket.socket:
    made = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    made.settimeout(PATIENCE)
    made.connect(where)
    return made


def qmp(machine: FakeQemu) -> Talker:
    """A client that blocks."""
    talker = Talker(connect(machine.qmp))
    talker.message()
    talker.ask("qmp_capabilities")
    return talker


def poll(client: Talker, times: int) -> None:
    for _ in range(times):
        client.ask("qom-get", path=BALLOON, property="guest-stats")


class TestTheMachine:
    def test_clients_connect_and_are_answered(self) -> None:
        with FakeQemu(memory="2G") as vm, closing(qmp(vm)) as client:
            assert client.ask("query-balloon") == {"return": {"actual": 2 << 30}}
            assert isinstance(vm.qmp, str)
            assert len(vm.qmp) < 107

    def test_on_tcp_with_ports_that_were_free(self) -> None:
        with FakeQemu(tcp=True) as vm, closing(qmp(vm)) as client, closing(connect(vm.monitor)) as human:
            assert vm.qmp[0] == "127.0.0.1"
            assert client.ask("query-status")["return"]["running"]
            assert human.recv(4) == b"QEMU"

    def test_options_are_those_of_the_program(self) -> None:
        with FakeQemu(name="vm 1", paused=True, no_balloon=True, guest="windows", dialect="seed", seed=None) as vm:
            assert vm.sim("info name") == "vm 1\n"
            assert vm.sim("info status") == "VM status: paused (prelaunch)\n"
            with pytest.raises(SimError, match="No balloon device"):
                vm.sim("info balloon")

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"memory": "x"}, "--memory: 'x' is not a size"),
            ({"guest": "nosuch"}, "--guest: no guest is called 'nosuch'"),
            ({"nosuch": 1}, "No such option '--nosuch'"),
            ({"record": "x"}, "record: not an option of a machine in a test"),
            ({"attach": "unix:x"}, "attach: not an option of a machine in a test"),
            ({"allow_disruptive": True}, "allow_disruptive: not an option of a machine in a test"),
            ({"save_replies": "x"}, "save_replies: not an option of a machine in a test"),
            ({"start": "yesterday"}, "start: 'yesterday' is not a number of seconds"),
            ({"start": float("inf")}, "start: inf is not a number of seconds"),
            ({"start": float("nan")}, "start: nan is not a number of seconds"),
            ({"start": 1e300}, "start: 1e+300 is not a number of seconds"),
            ({"clock": "real", "start": 1}, "start: the real clock has a time of its own"),
            ({"clock": "warp", "guest": "uml"}, "--clock warp cannot drive it"),
        ],
    )
    def test_what_is_wrong_with_options_is_one_line(self, options: dict[str, Any], told: str) -> None:
        with pytest.raises(MisuseError) as caught:
            FakeQemu(**options)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_arguments_that_are_no_line_or_number_are_refused(self) -> None:
        with FakeQemu() as vm:
            wrong: Any = b"hang"
            with pytest.raises(MisuseError, match=r"^sim: b.hang. is not a line of text$"):
                vm.sim(wrong)
            for wrong in ("x", None, float("inf"), float("nan"), 1e300):
                with pytest.raises(
                    MisuseError, match=rf"^advance: {re.escape(repr(wrong))} is not a number of seconds$"
                ):
                    vm.advance(wrong)
            assert vm.sim("info status") == "VM status: running\n"

    def test_many_share_one_thread_and_each_ends_alone(self) -> None:
        machines = [FakeQemu(name=f"vm{number}") for number in range(12)]
        try:
            assert [vm.sim("info name") for vm in machines] == [f"vm{number}\n" for number in range(12)]
            assert left()[0] == ["hmp.testing"]
            machines[3].close()
            machines[3].close()
            assert not os.path.exists(str(machines[3].qmp))
            assert machines[4].sim("info name") == "vm4\n"
        finally:
            close_all(machines)

    def test_too_few_descriptors_are_an_error_and_the_limit_stays(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = len(os.listdir("/proc/self/fd")) + 20
        machines: list[FakeQemu] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
        try:
            with pytest.raises(MisuseError, match=rf"^too few open files .* may have {few} \(ulimit -n\)$"):
                machines.extend(FakeQemu() for _ in range(20))
            assert len(machines) >= 1
            assert machines[-1].sim("info status") == "VM status: running\n"
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == few
        finally:
            close_all(machines)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    @pytest.mark.parametrize("begun", [False, True])
    def test_an_interrupt_while_it_starts_leaves_nothing(self, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Host.run

        def interrupted(host: Host, work: Any, timeout: float | None = None) -> Any:
            monkeypatch.setattr(Host, "run", run)
            if begun:
                run(host, work)
            else:
                work.close()
            raise KeyboardInterrupt

        monkeypatch.setattr(Host, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            FakeQemu()

    def test_where_no_thread_can_be_had_nothing_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none_left(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            FakeQemu()


class TestPullingStrings:
    def test_a_topic_of_sim_or_any_line(self) -> None:
        with FakeQemu(dialect="seed") as vm, closing(qmp(vm)) as client:
            assert vm.sim("info balloon").startswith("balloon: actual=1024,mem_swapped_in=")
            assert vm.sim("hang") == ""
            assert vm.sim("info balloon").endswith(",age=5000\n"), "waited for, in simulated time"
            assert vm.sim("sim wake") == ""
            vm.sim("stop")
            assert client.message()["event"] == "STOP"

    def test_a_line_that_fails_raises_what_the_monitor_says(self) -> None:
        with FakeQemu() as vm:
            with pytest.raises(SimError, match=r"^unknown command: 'nosuch'$"):
                vm.sim("nosuch")
            with pytest.raises(SimError, match=r"^Error: "):
                vm.sim("set nosuch 1")
            assert vm.sim("") == ""

    def test_nobody_waits_for_ever_on_a_clock_that_stands_still(self) -> None:
        with FakeQemu(clock="manual", guest="silent", dialect="seed") as vm:
            with pytest.raises(
                TimeoutError, match=r"^'info balloon' was not answered within 0.05 s .* until advance\(\)$"
            ):
                vm.sim("info balloon", timeout=0.05)
            assert vm.sim("info status") == "VM status: running\n"

    def test_a_machine_that_a_client_ended(self) -> None:
        with FakeQemu() as vm, closing(qmp(vm)) as client:
            client.ask("quit")
            with pytest.raises(SimError, match=r"^the machine has ended$"):
                vm.sim("info status")

    def test_a_line_that_waits_when_the_machine_ends(self) -> None:
        with FakeQemu(clock="manual", guest="silent", dialect="seed") as vm:
            caught: list[BaseException] = []

            def ask() -> None:
                with pytest.raises(SimError, match=r"^the machine ended before it was answered$") as error:
                    vm.sim("info balloon", timeout=PATIENCE)
                caught.append(error.value)

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: vm._machine.requests.pending)
            vm.sim("quit")
            asking.join(PATIENCE)
            assert caught

    def test_after_the_end_it_says_so(self) -> None:
        vm = FakeQemu()
        vm.close()
        for call in (lambda: vm.sim("stop"), lambda: vm.advance(1), lambda: vm.wait_for("x")):
            with pytest.raises(MisuseError, match=r"^the machine was closed$"):
                call()
        assert vm.commands == []


class TestTime:
    def test_the_wall_clock_starts_now_and_goes_on_by_simulated_time(self) -> None:
        before = time.time()
        with FakeQemu() as vm:
            begun = vm.time()
            assert before <= begun <= time.time()
            vm.advance(3600)
            assert vm.time() - begun == pytest.approx(3600)
            vm.advance(0.25)
            assert vm.time() - begun == pytest.approx(3600.25)

    @pytest.mark.parametrize("start", [NOON, float(NOON), datetime.fromtimestamp(NOON, UTC)])
    def test_or_at_the_time_that_was_given(self, start: Any) -> None:
        with FakeQemu(start=start) as vm, closing(qmp(vm)) as client:
            assert vm.time() == NOON
            vm.advance(10)
            vm.sim("stop")
            assert client.message()["timestamp"] == {"seconds": NOON + 10, "microseconds": 0}

    def test_real_time_cannot_be_moved(self) -> None:
        with (
            FakeQemu(clock="real") as vm,
            pytest.raises(MisuseError, match=r"^the real clock cannot be moved: ") as told,
        ):
            vm.advance(1)
        assert "have the client wait less" in str(told.value)
        assert 'clock="warp"' in str(told.value)

    @pytest.mark.parametrize("clock", ["warp", "manual"])
    def test_a_client_that_polls_while_time_stands_still_is_warned_of_once(self, clock: str) -> None:
        vm = FakeQemu(clock=clock)
        with closing(qmp(vm)) as client:
            poll(client, 10)
            assert "stood still" not in vm.transcript()  # polling is not on yet
            client.ask("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=1)
            poll(client, 25)
        assert f"the {clock} clock stood still at 0.000 s" in vm.transcript().splitlines()[-1]
        with pytest.warns(
            UserWarning, match=r"read at least 10 times .* vm\.time and vm\.advance .* clock=\"real\""
        ) as warned:
            vm.close()
        vm.close()
        assert [each.category.__name__ for each in warned] == ["StandstillWarning"]

    def test_a_client_that_moves_the_clock_between_its_reads_is_not_warned_of(self) -> None:
        with FakeQemu() as vm, closing(qmp(vm)) as client:
            client.ask("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=1)
            for _ in range(4):
                poll(client, 9)
                vm.advance(0.1)
            assert "stood still" not in vm.transcript()

    def test_a_client_that_polls_on_the_real_clock_is_not_warned_of(self) -> None:
        with FakeQemu(clock="real") as vm, closing(qmp(vm)) as client:
            client.ask("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=1)
            poll(client, 25)

    def test_time_does_not_go_back(self) -> None:
        with FakeQemu() as vm, pytest.raises(SimError, match="-1"):
            vm.advance(-1)

    def test_a_client_in_a_thread_waits_until_the_manual_clock_moves(self) -> None:
        with FakeQemu(clock="manual", guest="silent", dialect="seed") as vm:
            answers: list[Any] = []

            def client() -> None:
                with closing(qmp(vm)) as talker:
                    answers.append(talker.ask("human-monitor-command", command_line="info balloon"))

            thread = threading.Thread(target=client)
            thread.start()
            vm.wait_for("human-monitor-command")
            vm.advance(4.999)
            assert answers == []
            vm.advance(0.001)
            thread.join(PATIENCE)
            assert answers[0]["return"].endswith("age=5000\r\n")

    def test_a_test_that_froze_the_time_is_served_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with FakeQemu(guest="silent", dialect="seed") as vm:
            frozen = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: frozen)
            monkeypatch.setattr(time, "time", vm.time)
            with closing(qmp(vm)) as client:
                answer = client.ask("human-monitor-command", command_line="info balloon")
                assert answer["return"].endswith("age=5000\r\n")
            assert vm.sim("info balloon").endswith("age=10000\n")


class TestWhatClientsSaid:
    def test_commands_are_those_of_clients_in_order(self, fake_qemu: Callable[..., FakeQemu]) -> None:
        vm = fake_qemu()
        with closing(qmp(vm)) as client:
            client.ask("balloon", value=512 << 20)
            vm.sim("info status")
        assert vm.commands == [
            {"execute": "qmp_capabilities", "arguments": {}},
            {"execute": "balloon", "arguments": {"value": 512 << 20}},
        ]

    def test_the_log_has_both_ways_and_both_monitors(self) -> None:
        with FakeQemu(start=NOON) as vm:
            with closing(qmp(vm)) as client, closing(connect(vm.monitor)) as human:
                human.sendall(b"stop\n")
                assert client.message()["event"] == "STOP"
                client.socket.sendall(b'{"execute": "query-name", "id": 7} nonsense ')
                client.message()
                client.message()
            until(lambda: sum(entry["what"] == "disconnect" for entry in vm.log) == 2)
            log = vm.log
            assert [entry["what"] for entry in log if entry["monitor"] == "qmp"] == [
                "connect", "out", "in", "out", "event", "in", "out", "in", "out", "disconnect",
            ]  # fmt: skip
            assert [entry["client"] for entry in log if entry["what"] == "connect"] == [1, 2]
            assert {entry["wall"] for entry in log} == {NOON}
            typed = [entry["raw"] for entry in log if entry["monitor"] == "monitor" and entry["what"] == "in"]
            assert typed == ["stop"]
            assert any(entry.get("data") == {"return": {}, "id": 7} for entry in log)
            assert '     0.000 qmp 1 event      {"timestamp"' in vm.transcript()

    def test_the_readable_form_says_once_what_was_said_many_times(self) -> None:
        with FakeQemu() as vm, closing(qmp(vm)) as client:
            for number in range(31):
                vm.advance(2 * (number == 30))
                client.socket.sendall(json.dumps({"execute": "query-name", "id": number}).encode())
                client.message()
            for _ in range(2):
                client.ask("query-status")
            lines = vm.transcript().splitlines()
        assert [line.split("{")[0].split() for line in lines[4:]] == [
            ["0.000", "qmp", "1", "in"],
            ["0.000", "qmp", "1", "out"],
            ["2.000", "...", "30", "times", "the", "same"],
            *[["2.000", "qmp", "1", "in"], ["2.000", "qmp", "1", "out"]] * 2,
        ]

    def test_the_readable_form_shows_a_flood_as_one_event(self) -> None:
        with FakeQemu() as vm, closing(qmp(vm)) as client:
            vm.sim('event NOISE {"n": 1} count 5')
            for _ in range(5):
                client.message()
            lines = vm.transcript().splitlines()
        assert [" event " in line for line in lines].count(True) == 1
        assert [line.strip() for line in lines if "..." in line] == ["0.000 ... 4 times the same"]

    def test_broken_replies_are_in_the_log_as_they_were_sent(self) -> None:
        with FakeQemu() as vm, closing(qmp(vm)) as client:
            vm.sim('reply query-name raw "no JSON"')
            client.socket.sendall(b'{"execute": "query-name"}')
            client.socket.recv(4096)
            assert vm.log[-1]["raw"] == "no JSON"

    def test_long_commands_are_whole_and_a_log_file_has_their_beginning(self, tmp_path: Path) -> None:
        with FakeQemu(log=str(tmp_path / "log")) as vm, closing(qmp(vm)) as client:
            client.ask("query-name", x="y" * LIMIT)
            assert vm.commands[-1]["arguments"] == {"x": "y" * LIMIT}
            cut = json.loads((tmp_path / "log").read_text().splitlines()[-2])
            assert (cut["monitor"], len(cut["raw"])) == (f"unix:{vm.qmp}", LIMIT)

    def test_the_log_file_is_closed_with_the_machine(self, tmp_path: Path) -> None:
        before = left()
        FakeQemu(log=str(tmp_path / "log")).close()
        until(lambda: left() == before)

    def test_a_client_that_never_comes(self) -> None:
        with (
            FakeQemu() as vm,
            pytest.raises(TimeoutError, match=r"^no client sent 'quit' 2 times within 0.05 s of real"),
        ):
            vm.wait_for("quit", 2, timeout=0.05)


class TestCallers:
    def test_a_client_and_the_strings_in_one_event_loop(self) -> None:
        async def story() -> list[Any]:
            with FakeQemu(guest="silent", dialect="seed") as vm:
                reader, writer = await asyncio.open_unix_connection(str(vm.qmp))
                said = [json.loads(await reader.readline())]
                command = {"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}}
                writer.write(b'{"execute": "qmp_capabilities"}' + json.dumps(command).encode())
                said += [json.loads(await reader.readline()) for _ in range(2)]
                vm.sim("stop")
                said.append(json.loads(await reader.readline()))
                writer.close()
                await writer.wait_closed()
                return said

        said = asyncio.run(story())
        assert said[2]["return"].endswith("age=5000\r\n")
        assert said[3]["event"] == "STOP"

    def test_threads_make_use_and_close_machines_of_their_own(self) -> None:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for _ in range(3):
                    with FakeQemu(name=str(number)) as vm, closing(qmp(vm)) as client:
                        assert client.ask("query-name")["return"]["name"] == str(number)
                        assert vm.sim("info name") == f"{number}\n"
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert failures == []

    def test_a_fork_leaves_the_machine_to_its_parent(self) -> None:
        with FakeQemu() as vm:
            child = os.fork()
            if not child:
                status = 1
                try:
                    vm.close()
                    with pytest.raises(MisuseError, match=r"^the machine belongs to another process$"):
                        vm.sim("stop")
                    with FakeQemu(name="own") as own:
                        status = 0 if own.sim("info name") == "own\n" else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with closing(qmp(vm)) as client:
                assert client.ask("query-status")["return"]["running"]

    def test_a_client_that_waits_is_woken_by_the_end(self) -> None:
        vm = FakeQemu(clock="manual", guest="silent", dialect="seed")
        with closing(qmp(vm)) as client:
            client.socket.sendall(
                b'{"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}}'
            )
            vm.wait_for("human-monitor-command")
            vm.close()
            assert client.message()["event"] == "SHUTDOWN"
            assert client.socket.recv(1) == b""


def test_waiting_in_the_thread_that_serves_machines_is_refused() -> None:
    host = Host()

    async def nothing() -> None:
        raise AssertionError("it runs")

    async def within() -> None:
        with pytest.raises(MisuseError, match="not from the thread that serves the machines"):
            host.run(nothing())

    with pytest.raises(MisuseError, match="the machine is gone"):
        host.run(nothing())
    host.enter()
    host.run(within())
    host.leave()


class TestFolders:
    def test_the_child_of_a_fork_lets_go_of_the_lock_and_may_have_none(self) -> None:
        host = Host()
        host.forget()  # nothing was made
        path = Path(host.enter()).parent
        child = os.fork()
        if not child:
            before = len(os.listdir("/proc/self/fd"))
            host.forget()
            os._exit(before - len(os.listdir("/proc/self/fd")))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert path.exists()
        host.leave()
        assert not path.exists()

    def test_those_of_processes_that_are_gone_are_swept_and_others_stay(self) -> None:
        base = Path(tempfile.gettempdir())
        live = Folder()
        dead, odd, new = (base / f"{PREFIX}{name}" for name in ("dead", "odd", "new"))
        for folder in (dead, odd, new):
            folder.mkdir()
        for folder in (dead, odd):
            (folder / "lock").touch()
        (odd / "kept").touch()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{dead}/1q")
        sweep(str(base))
        assert {path.name for path in base.iterdir()} == {Path(live.path).name, odd.name, new.name}
        assert (odd / "kept").exists()
        for path in (odd / "kept", odd / "lock"):
            path.unlink(missing_ok=True)
        odd.rmdir()
        new.rmdir()
        live.close()
        assert not list(base.iterdir())

    def test_a_long_directory_for_temporary_files_is_passed_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = tempfile.gettempdir()
        monkeypatch.setattr(tempfile, "tempdir", f"{own}/{'x' * 80}")
        with FakeQemu() as vm:
            assert str(vm.qmp).startswith(f"/tmp/{PREFIX}")
        monkeypatch.setattr(tempfile, "tempdir", own)
