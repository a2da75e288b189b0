"""Listening sockets: all or none, and no file or socket of another program is lost."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hmp.addresses import Address
from hmp.config import Config
from hmp.monitor import UsageError
from hmp.sockets.listeners import Listener, listen
from hmp.sockets.service import Serving
from tests.support.timing import PATIENCE


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    """Listeners that the test need not close."""
    found: list[Listener] = []
    yield found
    for listener in found:
        listener.close()


def one(spec: str, opened: list[Listener], *, kind: str = "qmp", allow_remote: bool = False) -> Listener:
    opened += listen([Address(kind, spec)], allow_remote=allow_remote)
    return opened[-1]


def refused(*specs: str, allow_remote: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        listen([Address("qmp", spec) for spec in specs], allow_remote=allow_remote)
    text = str(caught.value)
    assert text.startswith("--qmp: '")
    assert "\n" not in text
    return text


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


class TestUnix:
    def test_the_mode_is_0600_whatever_the_umask_and_the_umask_stays(
        self, tmp_path: Path, opened: list[Listener]
    ) -> None:
        before = os.umask(0)
        try:
            one(f"unix:{tmp_path}/q", opened)
            assert os.umask(0) == 0
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "q").stat().st_mode) == 0o600

    def test_name_and_removal(self, tmp_path: Path) -> None:
        (listener,) = listen([Address("monitor", f"unix:{tmp_path}/q,server=on")], allow_remote=False)
        assert listener.name == f"unix:{tmp_path}/q"
        assert connects(tmp_path / "q")
        listener.close()
        assert not list(tmp_path.iterdir())
        listener.close()

    def test_a_relative_path(self, tmp_path: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert one("unix:q", opened).name == "unix:q"
        assert connects(tmp_path / "q")

    def test_a_stale_socket_is_replaced(self, tmp_path: Path, opened: list[Listener]) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "q"))
        one(f"unix:{tmp_path}/q", opened)
        assert connects(tmp_path / "q")

    def test_a_live_socket_is_not_replaced(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(str(tmp_path / "q"))
            live.listen()
            assert refused(f"unix:{tmp_path}/q").endswith(": a live server uses it")
            assert connects(tmp_path / "q")

    def test_a_live_socket_too_busy_to_accept_is_not_replaced(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as first:
            live.bind(str(tmp_path / "q"))
            live.listen(0)
            first.connect(str(tmp_path / "q"))
            assert refused(f"unix:{tmp_path}/q").endswith(": a live server uses it")

    def test_a_live_socket_of_another_type_is_not_replaced(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as live:
            live.bind(str(tmp_path / "q"))
            refused(f"unix:{tmp_path}/q")
            assert (tmp_path / "q").exists()

    MAKERS: dict[str, Callable[[Path], object]] = {
        "file": lambda path: path.write_text("precious"),
        "directory": lambda path: path.mkdir(),
        "fifo": lambda path: os.mkfifo(path),
        "link": lambda path: path.symlink_to("elsewhere"),
    }

    @pytest.mark.parametrize("what", MAKERS)
    def test_what_is_no_socket_is_left_alone(self, what: str, tmp_path: Path) -> None:
        self.MAKERS[what](tmp_path / "q")
        before = (tmp_path / "q").lstat()
        assert refused(f"unix:{tmp_path}/q").endswith(": the path exists and is not a socket; it is left alone")
        assert (tmp_path / "q").lstat() == before

    def test_a_directory_that_is_missing(self, tmp_path: Path) -> None:
        assert refused(f"unix:{tmp_path}/none/q").endswith(": the directory does not exist")
        assert not list(tmp_path.iterdir())

    def test_a_directory_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert refused(f"unix:{tmp_path}/file/q").endswith(": Not a directory")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        assert refused(f"unix:{tmp_path}/q").endswith(": Permission denied")

    def test_somebody_elses_socket_at_our_path_stays_at_the_end(self, tmp_path: Path) -> None:
        (listener,) = listen([Address("qmp", f"unix:{tmp_path}/q")], allow_remote=False)
        (tmp_path / "q").unlink()
        (tmp_path / "q").write_text("theirs")
        listener.close()
        assert (tmp_path / "q").read_text() == "theirs"

    def test_of_many_that_race_for_one_stale_path_one_wins(self, tmp_path: Path) -> None:
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(tmp_path / "q"))
            start = threading.Barrier(8)
            won: list[Listener] = []
            lost: list[str] = []

            def race(start: threading.Barrier, won: list[Listener], lost: list[str]) -> None:
                start.wait()
                try:
                    won += listen([Address("qmp", f"unix:{tmp_path}/q")], allow_remote=False)
                except UsageError as error:
                    lost.append(str(error))

            threads = [threading.Thread(target=race, args=(start, won, lost)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert (len(won), len(lost)) == (1, 7)
            assert connects(tmp_path / "q")
            won[0].close()
            assert not (tmp_path / "q").exists()


class TestAbstract:
    """`abstract=on`: a name of Linux's own namespace, which is no file."""

    def test_it_is_served_under_its_name_and_leaves_no_file(
        self, tmp_path: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        name = f"hmp-test-{os.getpid()}"
        assert one(f"unix:{name},abstract=on", opened).name == f"unix:{name},abstract=on"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{name}")
        assert not list(tmp_path.iterdir())

    def test_one_in_use(self, opened: list[Listener]) -> None:
        name = f"hmp-test-{os.getpid()}"
        one(f"unix:{name},abstract=on", opened)
        assert "Address already in use" in refused(f"unix:{name},abstract=on")


class TestTcp:
    @pytest.mark.parametrize(("options", "family"), [("ipv4", socket.AF_INET), ("ipv6=off", socket.AF_INET)])
    def test_the_protocol_that_is_asked_for(self, opened: list[Listener], options: str, family: int) -> None:
        assert one(f"tcp:localhost:0,{options}", opened).socket.family == family

    def test_a_host_without_the_protocol_that_is_asked_for(self) -> None:
        assert refused("tcp:127.0.0.1:0,ipv6=on")

    def test_port_0_picks_one_and_names_it(self, opened: list[Listener]) -> None:
        listener = one("tcp:127.0.0.1:0", opened)
        scheme, host, port = listener.name.split(":")
        assert (scheme, host) == ("tcp", "127.0.0.1")
        socket.create_connection((host, int(port))).close()

    def test_localhost_has_an_address(self, opened: list[Listener]) -> None:
        host, port = one("telnet:localhost:0", opened, kind="monitor").name.removeprefix("telnet:").rsplit(":", 1)
        socket.create_connection((host.strip("[]"), int(port))).close()

    def test_ipv6_is_named_in_brackets(self, opened: list[Listener]) -> None:
        try:
            listener = one("tcp:[::1]:0", opened)
        except UsageError as error:
            pytest.skip(f"no IPv6 here: {error}")
        assert listener.name.startswith("tcp:[::1]:")

    def test_a_port_in_use(self, opened: list[Listener]) -> None:
        name = one("tcp:127.0.0.1:0", opened).name
        assert refused(name).endswith(": Address already in use")

    @pytest.mark.parametrize("host", ["host.invalid", "a..b", "x" * 300, "1.2.3.4.5"])
    def test_a_host_that_is_none(self, host: str) -> None:
        text = refused(f"tcp:{host}:0", allow_remote=True)
        assert text.endswith((": unknown host", ": not a host name"))

    @pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "example.org"])
    def test_other_hosts_need_to_be_allowed(self, host: str) -> None:
        assert "--allow-remote" in refused(f"tcp:{host}:0")

    def test_allowed_ones_are_served(self, opened: list[Listener]) -> None:
        port = int(one("tcp::0", opened, allow_remote=True).name.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port)).close()

    def test_an_address_that_is_not_ours(self) -> None:
        assert refused("tcp:192.0.2.1:0", allow_remote=True).endswith(": Cannot assign requested address")


class TestAllOrNone:
    def test_one_bad_address_undoes_the_others(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        refused(f"unix:{tmp_path}/a", "tcp:127.0.0.1:0", f"unix:{tmp_path}/file")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_the_same_path_twice(self, tmp_path: Path) -> None:
        assert refused(f"unix:{tmp_path}/a", f"unix:{tmp_path}/a").endswith(": a live server uses it")
        assert not list(tmp_path.iterdir())

    def test_remote_is_seen_before_anything_is_made(self, tmp_path: Path) -> None:
        refused(f"unix:{tmp_path}/a", "tcp:192.0.2.1:0")
        assert not list(tmp_path.iterdir())


def test_the_limit_on_open_files_is_raised(tmp_path: Path) -> None:
    config = Config()
    config.addresses = [Address("qmp", f"unix:{tmp_path}/socket")]
    serving = Serving(config)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        serving.listen()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        serving.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
def test_of_processes_that_race_for_one_stale_path_one_wins(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "q"))
    command = [sys.executable, "-m", "hmp", "--headless", "--qmp", f"unix:{tmp_path}/q"]
    racers = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(6)]
    lines = [racer.stderr.readline() for racer in racers if racer.stderr]
    try:
        assert sorted(b"ready" in line for line in lines) == [False] * 5 + [True]
        assert all(b"a live server uses it" in line for line in lines if b"ready" not in line)
        assert connects(tmp_path / "q")
    finally:
        for racer in racers:
            racer.terminate()
            racer.wait(PATIENCE)
            if racer.stderr:
                racer.stderr.close()
    assert sorted(racer.returncode for racer in racers) == [0] + [2] * 5
    assert not (tmp_path / "q").exists()
