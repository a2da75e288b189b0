"""--count N: many independent machines in one process, and the errors if they cannot be made."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hmp.config import NUMBER
from hmp.monitor import UsageError
from hmp.options import parse
from hmp.sockets.fleet import check_descriptors, numbered
from tests.support.programs import Program, Talker
from tests.support.shell import HMP, environment
from tests.support.timing import takes_less_than, until


def qmp(path: Path) -> Talker:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    talker = Talker(made)
    talker.message()
    assert talker.ask("qmp_capabilities") == {"return": {}}
    return talker


def test_each_has_its_own_number_seed_addresses_and_snapshots(tmp_path: Path) -> None:
    arguments = f"--count 3 --seed 7 --name vm%d --qmp unix:q%d --monitor tcp:localhost:4%d --snapshot-dir {tmp_path}/%d --log l%d"
    config = parse(arguments.split())
    assert config is not None
    made = numbered(config, 2)
    assert (made.seed, made.name, made.snapshot_dir, made.log) == (9, "vm2", f"{tmp_path}/2", "l2")
    assert [(each.kind, each.host, each.port) for each in made.addresses] == [
        ("monitor", "localhost", 42),
        ("qmp", "q2", 0),
    ]
    assert (config.seed, config.name) == (7, f"vm{NUMBER}")


def test_clients_of_host_files_stay_so() -> None:
    config = parse(["--count", "2", "--qmp", "unix:q%d", "--allow-host-files"])
    assert config is not None
    assert numbered(config, 1).addresses[0].host_files


def test_a_machine_ends_alone_and_the_last_ends_hmp(tmp_path: Path) -> None:
    with Program("--count", "3", "--name", "vm%d", "--qmp", f"unix:{tmp_path}/q%d") as program:
        assert program.ready == f"hmp: ready pid={program.process.pid} count=3 qmp=unix:{tmp_path}/q0\n"
        talkers = [qmp(tmp_path / f"q{number}") for number in range(3)]
        assert [talker.ask("query-name")["return"]["name"] for talker in talkers] == ["vm0", "vm1", "vm2"]
        talkers[0].ask("stop")
        assert talkers[1].ask("query-status")["return"]["running"]
        for number in (1, 0):
            talkers[number].ask("quit")
            until(lambda number=number: not (tmp_path / f"q{number}").exists())  # type: ignore[misc]
        assert talkers[2].ask("query-status")["return"]["running"]
        talkers[2].ask("quit")
        assert program.end(0) == (0, "", "")
        for talker in talkers:
            talker.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_all_and_leaves_nothing(number: int, status: int, tmp_path: Path) -> None:
    with Program("--count", "2", "--monitor", f"unix:{tmp_path}/m%d", "--qmp", f"unix:{tmp_path}/q%d") as program:
        talker = qmp(tmp_path / "q1")
        program.process.send_signal(number)
        while (message := talker.message()).get("event") != "SHUTDOWN":
            pass
        assert message["data"] == {"guest": False, "reason": "host-signal"}
        talker.close()
        assert program.end(0) == (status, "", "")
    assert not list(tmp_path.iterdir())


MADE_UNDER_A_SIGNAL = """
import os, signal, sys
from hmp.sockets import fleet
made = fleet.Member
def make(config):
    os.kill(os.getpid(), signal.SIGTERM)
    return made(config)
fleet.Member = make
from hmp.cli import main
sys.exit(main())
"""


def test_a_signal_that_comes_while_they_are_made_ends_all_and_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MADE_UNDER_A_SIGNAL, "--count", "2", "--qmp", f"unix:{tmp_path}/q%d"],
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")
    assert not list(tmp_path.iterdir())


def test_each_waits_for_its_own_first_client(tmp_path: Path) -> None:
    with Program(
        "--count", "2", "--qmp", f"unix:{tmp_path}/q%d", "--monitor", f"unix:{tmp_path}/w%d,wait=on"
    ) as program:
        talkers = [qmp(tmp_path / f"q{number}") for number in range(2)]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/w1")
            assert talkers[1].message()["event"] == "RESUME"
            assert talkers[0].ask("query-status")["return"]["status"] == "prelaunch"
        for talker in talkers:
            talker.close()
        assert program.end() == (0, "", "")


class TestWhatCannotBeHad:
    """One line, exit 2, and nothing is left: not one of the machines runs."""

    def refused(self, *arguments: str, files: int | None = None) -> str:
        def fewer() -> None:
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        ended = subprocess.run(
            [*HMP, *arguments], capture_output=True, text=True, timeout=60, env=environment(), preexec_fn=fewer
        )
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended
        return ended.stderr

    def test_more_machines_than_descriptors(self, tmp_path: Path) -> None:
        line = self.refused("--count", "100", "--qmp", f"unix:{tmp_path}/q%d", files=256)
        assert line.startswith("hmp: too few open files for 100 more with 1 sockets each: 3")
        assert line.endswith(" are needed, this process may have 256 (ulimit -n)\n")
        assert not list(tmp_path.iterdir())
        options = ("--count", "50", "--qmp", f"unix:{tmp_path}/q%d")
        line = self.refused(*options, "--log", f"{tmp_path}/l%d", files=230)
        assert line.startswith("hmp: too few open files for 50 more")

    def test_an_address_of_one_of_them_that_is_in_use(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{tmp_path}/q2")
            other.listen()
            line = self.refused("--count", "4", "--qmp", f"unix:{tmp_path}/q%d")
            assert line == f"hmp: --qmp: 'unix:{tmp_path}/q2': a live server uses it\n"
        assert [path.name for path in tmp_path.iterdir()] == ["q2"]

    def test_a_directory_for_snapshots_that_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "s0").mkdir()
        line = self.refused("--count", "2", "--qmp", f"unix:{tmp_path}/q%d", "--snapshot-dir", f"{tmp_path}/s%d")
        assert f"{tmp_path}/s1" in line
        assert [path.name for path in tmp_path.iterdir()] == ["s0"]


def test_each_has_its_own_log(tmp_path: Path) -> None:
    with Program("--count", "2", "--qmp", f"unix:{tmp_path}/q%d", "--log", f"{tmp_path}/log%d") as program:
        qmp(tmp_path / "q1").close()
        program.end()
    assert f'"unix:{tmp_path}/q1"' in (tmp_path / "log1").read_text()
    assert (tmp_path / "log0").read_text() == ""


def test_as_many_as_fit_are_had() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    check_descriptors(1, 1)
    with pytest.raises(UsageError, match="ulimit -n"):
        check_descriptors(limit, 0)


@pytest.mark.slow
class TestAThousand:
    """With two sockets each: the real QEMU takes 43 GB and four minutes for as many."""

    def test_they_are_up_in_3_seconds_and_take_150_mb(self, tmp_path: Path) -> None:
        options = ["--count", "1000", "--qmp", f"unix:{tmp_path}/q%d", "--monitor", f"unix:{tmp_path}/m%d"]

        def start() -> float:
            """The processor time until all are up: other programs influence it less than real time."""
            with Program(*options) as program:
                spent = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                talker = qmp(tmp_path / "q999")
                assert talker.ask("query-balloon") == {"return": {"actual": 1 << 30}}
                talker.close()
                assert program.peak_memory < 150 << 20
                assert program.end() == (0, "", "")
            assert not list(tmp_path.iterdir())
            return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")

        takes_less_than(3, start)
