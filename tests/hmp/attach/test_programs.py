"""hmp attached to another hmp, as a program: exit statuses, all guests and dialects, the typed prompt, clients
beside."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from device.guest.table import PROFILES
from hmp.attach.address import Place
from tests.hmp.terminal.test_pty import Seat, seat
from tests.support.casts import screen
from tests.support.programs import Program, Talker
from tests.support.real import another_kernel, needs_kernel
from tests.support.shell import ROOT, Ended, hmp, shell
from tests.support.timing import PATIENCE, until

assert seat  # a fixture

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def client(program: Program) -> Iterator[Talker]:
    """A negotiated client of QMP."""
    talker = program.qmp()
    with contextlib.closing(talker.socket):
        yield talker


FRESH = 0
STALE = 3

EXPECTED = {
    "linux": FRESH,
    "linux-2.6.34": FRESH,
    "linux-6.12": FRESH,
    "windows": STALE,  # its service is not up yet
    "nostats": STALE,
    "nodriver": STALE,
    "silent": STALE,
    "hung": None,  # it answers once, perhaps within the same second as its first answer
    "slow": STALE,  # after 2 s, and a check that waits for 1
    "flaky": FRESH,  # polled again each second
    "partial": FRESH,
    "empty": FRESH,
    "hostile": None,  # it is random
    "host": FRESH,
}
"""What a check with --timeout 1.5 of each guest says."""


def attached(path: Path, *arguments: str, text: str = "") -> Ended:
    return hmp("--attach", f"unix:{path}", *arguments, text=text)


@pytest.mark.parametrize("dialect", ["seed", "qemu", "pve"])
@pytest.mark.parametrize("guest", [name for name, profile in PROFILES.items() if name not in ("uml", "vhost-user")])
def test_every_kind_of_guest_can_be_asked(tmp_path: Path, guest: str, dialect: str) -> None:
    if dialect != "seed" and guest not in ("linux", "nodriver"):
        pytest.skip("its dialect is a matter of the monitor, not of the guest")
    with Program("--headless", "--guest", guest, "--dialect", dialect, "--qmp", f"unix:{tmp_path}/q"):
        timeout = "1.5" if EXPECTED[guest] is STALE else "10"
        ended = attached(tmp_path / "q", "--timeout", timeout, "--fail-stale", "-c", "info balloon")
        found = re.fullmatch(r"balloon: actual=1024((?:,\w+=\d+)*)\n", ended.out)
        assert found, ended
        if EXPECTED[guest] is not None:
            assert ended.status == EXPECTED[guest], ended
            assert (",age=" in ended.out) == (ended.status == STALE)
            assert bool(ended.err) == (ended.status == STALE)
        interval = attached(tmp_path / "q", "-c", "qom-get /machine/peripheral/balloon0 guest-stats-polling-interval")
        assert interval == Ended(0, "0\n", "")


def answered(path: Path, guest: str, dialect: str, kernel: contextlib.AbstractContextManager[None]) -> None:
    """A real kernel at the other end, which may still be booting: it answers, gives memory back, and is left as it was."""
    options = "-m", "128", "--guest", guest, "--dialect", dialect
    with Program("--headless", *options, "--qmp", f"unix:{path}"), kernel:
        began = attached(path, "--timeout", str(PATIENCE), "--fail-stale", "-c", "info balloon")
        assert re.fullmatch(r"balloon: actual=128(,\w+=\d+){6}\n", began.out), began
        assert (began.status, began.err, ",age=" in began.out) == (0, "", False)
        shrunk = attached(path, "-c", "balloon 96", "-c", "info name")
        assert shrunk.status == 0
        until(lambda: attached(path, "--fail-stale", "-c", "info balloon").out.startswith("balloon: actual=96,mem_"))
        interval = attached(path, "-c", "qom-get /machine/peripheral/balloon0 guest-stats-polling-interval")
        assert interval == Ended(0, "0\n", "")


@pytest.mark.external
@needs_kernel
@pytest.mark.parametrize("dialect", ["seed", "qemu", "pve"])
class TestARealKernelBehindTheOtherEnd:
    def test_uml(self, tmp_path: Path, dialect: str) -> None:
        answered(tmp_path / "q", "uml", dialect, contextlib.nullcontext())

    def test_vhost_user(self, tmp_path: Path, dialect: str) -> None:
        path = tmp_path / "front"
        answered(tmp_path / "q", f"vhost-user,path={path}", dialect, another_kernel(path))


def test_an_error_while_attaching_names_the_address(tmp_path: Path) -> None:
    """Without the name nobody knows which of many checks has failed."""
    (tmp_path / "r.json").write_text(
        '{"version": 1, "qmp": {"query-name": [{"error": {"class": "GenericError", "desc": "not now"}}]}}'
    )
    with Program("--headless", "--replies", f"{tmp_path}/r.json", "--qmp", f"unix:{tmp_path}/q"):
        ended = attached(tmp_path / "q", "-c", "info balloon")
    assert (ended.status, ended.out, ended.err) == (4, "", f"hmp: unix:{tmp_path}/q: not now\n")


def test_a_front_end_that_never_comes_is_stale(tmp_path: Path) -> None:
    with Program("--headless", "--guest", f"vhost-user,path={tmp_path}/front", "--qmp", f"unix:{tmp_path}/q"):
        ended = attached(tmp_path / "q", "--timeout", "1.5", "--fail-stale", "-c", "info balloon")
    assert (ended.status, ended.err) == (3, "hmp: not fresh: the guest did not answer\n")
    assert re.fullmatch(r"balloon: actual=1024,age=\d{4}\n", ended.out)


def test_a_recorded_script_has_the_toolbar_and_hears_events(tmp_path: Path) -> None:
    script, cast = tmp_path / "a.hmp", tmp_path / "a.cast"
    script.write_text("#! wait 1G of 1G\nballoon 512\n#! wait balloon target reached: 512 MiB\n")
    with Program("--headless", "--qmp", f"unix:{tmp_path}/q"):
        assert attached(tmp_path / "q", "--record", str(cast), str(script)) == Ended(0, "", "")
    assert "512M of 1G" in "".join(screen(cast))


def test_scripts_pipes_and_statuses(tmp_path: Path) -> None:
    with Program("--headless", "--qmp", f"unix:{tmp_path}/q"):
        told = attached(tmp_path / "q", text="info status\nstop\n# no command\nnosuch\ninfo name\n")
        assert told.status == 1
        assert told.out.splitlines()[0] == "VM status: running"
        assert told.err.count("command failed: Error: ") == 2
        assert "<stdin>:2: " in told.err
        told = attached(tmp_path / "q", "--allow-disruptive", "--echo", "-e", text="stop\ninfo status\nnosuch\ncont\n")
        assert told.status == 1
        assert told.out == (
            "(qemu) stop\n(qemu) info status\nVM status: paused\n(qemu) nosuch\nunknown command: 'nosuch'\n"
        )
        assert attached(tmp_path / "q", "-c", "info status").out == "VM status: paused\n"
        assert attached(tmp_path / "q", "-c", "quit", "-c", "info status") == Ended(0, "left q running\n", "")
        assert attached(tmp_path / "q", "--allow-disruptive", "-c", "quit vm") == Ended(0, "", "")
    assert attached(tmp_path / "q", "-c", "info status").status == 4


def test_over_tcp(tmp_path: Path) -> None:
    with Program("--headless", "--qmp", "tcp:127.0.0.1:0") as vm:
        ended = hmp("--attach", vm.address("qmp"), "--fail-stale", "-c", "info balloon", "-c", "info status")
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.startswith("balloon: actual=1024,mem_swapped_in=")
        address = vm.address("qmp")
    assert hmp("--attach", address, "-c", "info balloon") == Ended(4, "", f"hmp: {address}: Connection refused\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to everything")
def test_permission_denied(tmp_path: Path) -> None:
    with Program("--headless", "--qmp", f"unix:{tmp_path}/q"):
        (tmp_path / "q").chmod(0)
        told = attached(tmp_path / "q", "-c", "info balloon")
    assert told == Ended(4, "", f"hmp: unix:{tmp_path}/q: Permission denied\n")


def test_what_is_no_qmp_is_an_error(tmp_path: Path) -> None:
    with Program("--headless", "--monitor", f"unix:{tmp_path}/m"):
        told = attached(tmp_path / "m", "-c", "info balloon")
    assert (told.status, told.out) == (4, "")
    assert "this is not QMP" in told.err
    assert told.err.count("\n") == 1


OTHERS = {
    "http": [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
    "tls": ["openssl", "s_server", "-accept", "127.0.0.1:0", "-nocert", "-cipher", "aNULL:@SECLEVEL=0"],
}
"""Servers of other protocols, which wait for a client's first word. Each says its port."""


@pytest.mark.parametrize("protocol", [pytest.param("http"), pytest.param("tls", marks=pytest.mark.external)])
def test_a_server_of_another_protocol_is_an_error(protocol: str) -> None:
    if shutil.which(OTHERS[protocol][0]) is None:
        pytest.skip("needs openssl")
    with subprocess.Popen(OTHERS[protocol], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = next(
                found[1] for line in server.stdout if (found := re.search(r"127\.0\.0\.1(?: port |:)(\d+)", line))
            )
            ended = hmp("--attach", f"tcp:127.0.0.1:{port}", "-c", "info balloon")
        finally:
            server.kill()
    why = "busy: another client holds this monitor, or this is not QMP"
    assert ended == Ended(4, "", f"hmp: tcp:127.0.0.1:{port}: {why}\n")


PAGE = (ROOT / "docs/attach.md").read_text()


def shown(name: str) -> str:
    """Return the file that the page shows under a name."""
    return next(text for text in re.findall(r"^```\w+\n(.*?)^```", PAGE, re.M | re.S) if f"# {name}" in text)


def settings(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in shown(unit).splitlines() if "=" in line)


UNIT = "/etc/systemd/system/check-guest@."


class TestTheDocsChecks:
    def test_the_line_for_cron(self, tmp_path: Path) -> None:
        *_, path, _, line = shown("/etc/cron.d/guests").splitlines()
        assert path == "PATH=/usr/local/bin:/usr/bin:/bin"
        when, _, line = line.partition(" root ")
        assert when == "*/5 * * * *"
        assert "%" not in line, "cron would make it the end of a line"
        line = line.replace("/run/vm1/qmp.sock", f"{tmp_path}/q")
        with Program("--headless", "--guest", "nodriver", "--qmp", f"unix:{tmp_path}/q"):
            told = shell(line.replace("hmp --", "hmp --timeout 1 --"))
            assert re.match(r"vm1: (hmp: not fresh: |balloon: actual=1024)", told.out)
        assert shell(line).out == f"vm1: hmp: unix:{tmp_path}/q: No such file or directory\n"
        with Program("--headless", "--qmp", f"unix:{tmp_path}/q"):
            assert shell(line) == Ended(0, "", "")

    def plugin(self, folder: Path) -> Path:
        path = folder / "check_guest"
        path.write_text(shown("/usr/local/bin/check_guest "))
        path.chmod(0o755)
        return path

    def test_the_unit_of_systemd_runs_the_plugin(self, tmp_path: Path) -> None:
        unit = settings(f"{UNIT}service")
        command = unit["ExecStart"].replace("/run/%i/", f"{tmp_path}/").replace("/usr/local/bin/", f"{tmp_path}/")
        self.plugin(tmp_path)
        good = {0, int(unit["SuccessExitStatus"])}
        for guest, well in (("linux", True), ("silent", True), (None, False)):  # silent for 5 s: a warning
            serving = contextlib.nullcontext()
            if guest is not None:
                serving = Program("--headless", "--guest", guest, "--qmp", f"unix:{tmp_path}/qmp.sock")  # type: ignore[assignment]
            with serving:
                assert (shell(command).status in good) == well, guest

    @pytest.mark.external
    def test_systemd_takes_the_unit_and_the_timer(self, tmp_path: Path) -> None:
        if shutil.which("systemd-analyze") is None:
            pytest.skip("needs systemd-analyze (Debian: systemd)")
        units = [tmp_path / f"check-guest@{each}" for each in (".service", ".timer")]
        for path in units:
            path.write_text(
                shown(f"{UNIT}{path.suffix[1:]}").replace("/usr/local/bin/check_guest", str(self.plugin(tmp_path)))
            )
        told = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
        assert (told.returncode, told.stderr) == (0, "")
        assert settings(f"{UNIT}timer")["OnCalendar"] == "*:0/5"
        next_times = subprocess.run(["systemd-analyze", "calendar", "*:0/5"], capture_output=True, text=True)
        assert "*-*-* *:00/5:00" in next_times.stdout

    @pytest.mark.parametrize(
        ("guest", "limits", "status", "told"),
        [
            ("linux", "64 60", 0, r"GUEST OK: balloon: actual=1024,.* \| free=\d+B age=0ms\n"),
            ("linux", "2000 60", 1, r"GUEST WARNING: \d+ MiB free \| free=\d+B age=0ms\n"),
            ("silent", "64 60", 1, r"GUEST WARNING: no answer for \d+ s \| free=UB age=\d+ms\n"),
            ("silent", "64 1", 2, r"GUEST CRITICAL: .*\| free=UB age=\d+ms\n"),
            (None, "64 60", 3, r"GUEST UNKNOWN: hmp: .*No such file.*\n"),
        ],
    )
    def test_the_plugin(self, tmp_path: Path, guest: str | None, limits: str, status: int, told: str) -> None:
        plugin = self.plugin(tmp_path)
        serving = contextlib.nullcontext()
        if guest is not None:
            serving = Program("--headless", "--guest", guest, "--qmp", f"unix:{tmp_path}/q")  # type: ignore[assignment]
        with serving:
            ended = shell(f"{plugin} unix:{tmp_path}/q {limits}")
        assert ended.status == status
        assert re.fullmatch(told, ended.out), ended


def test_proxmox_sockets_are_not_held() -> None:
    for path in ("/var/run/qemu-server/100.qmp", "/run/qemu-server/100.qmp"):
        assert not Place(f"unix:{path}").holds(wanted=True)
        assert Place(f"unix:{path},hold=on").holds(wanted=False)
    assert Place("unix:q").holds(wanted=True)
    assert not Place("unix:q").holds(wanted=False)
    assert not Place("tcp:127.0.0.1:1,hold=off").holds(wanted=True)


class TestClientsBeside:
    def test_many_share_the_one_socket(self, tmp_path: Path) -> None:
        with (
            Program("--headless", "--name", "vm1", "--qmp", f"unix:{tmp_path}/q") as vm,
            Program("--attach", f"unix:{tmp_path}/q", "--headless", "--qmp", f"unix:{tmp_path}/a") as front,
            contextlib.closing(front.connect()) as connection,
            client(front) as other,
            client(vm) as direct,
        ):
            one = Talker(connection)
            assert one.message()["QMP"]["version"]["qemu"]["major"] == 7
            assert one.ask("query-name")["error"]["class"] == "CommandNotFound"
            one.ask("qmp_capabilities")
            assert one.ask("query-name") == {"return": {"name": "vm1"}}
            assert "--allow-disruptive" in other.ask("stop")["error"]["desc"]
            assert other.ask("human-monitor-command", command_line="stop")["error"]["class"] == "GenericError"
            assert other.ask("qom-get", path="/x", property="y")["error"]["class"] == "DeviceNotFound"
            direct.ask("stop")
            assert [one.message()["event"], other.message()["event"]] == ["STOP", "STOP"]

    def test_the_interval_is_restored_for_a_client_that_dies_while_it_waits(self, tmp_path: Path) -> None:
        with (
            Program("--headless", "--guest", "silent", "--qmp", f"unix:{tmp_path}/q") as vm,
            Program("--attach", f"unix:{tmp_path}/q", "--headless", "--monitor", f"unix:{tmp_path}/m") as front,
            client(vm) as looks,
        ):
            asker = front.connect("monitor")

            def interval() -> object:
                asked = {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"}
                return looks.ask("qom-get", **asked)["return"]

            asker.sendall(b"info balloon\n")
            while interval() != 1:
                pass
            asker.close()
            while interval() != 0:
                pass


class TestTyped:
    def test_a_session(self, tmp_path: Path, seat: type[Seat]) -> None:
        with Program("--headless", "--name", "vm1", "--qmp", f"unix:{tmp_path}/q") as vm, client(vm) as direct:
            desk = seat("--attach", f"unix:{tmp_path}/q", columns=100)  # type: ignore[call-arg,arg-type]
            desk.see("running │ vm1 │ █+ 1G of 1G")
            desk.type("info balloon\r")
            desk.see(r"balloon: actual=1024,.*")
            desk.type("info sta\t\r")
            desk.see("VM status: running")
            desk.type("stop\ry")  # the answer comes before the question
            desk.see(r"stop may change or stop this VM. Run it\? \[y/N\]")
            for _ in range(600):  # keys that come too soon are no answer
                desk.type("n")
                with contextlib.suppress(pexpect.TIMEOUT):
                    desk.child.expect(".+", timeout=0.1)
                    break
            desk.see(r"Run it\? \[y/N\] n")
            assert direct.ask("query-status")["return"]["running"]
            desk.type("balloon 512\r")
            desk.see(r"\[balloon target reached: 512 MiB\]")
            direct.ask("stop")
            desk.see(r"\[the VM is stopped\]")
            desk.see("paused │ vm1")
            desk.type("quit\r")
            desk.see("left vm1 running")
            assert desk.ends() == 0
            assert direct.ask("query-name") == {"return": {"name": "vm1"}}

    @pytest.mark.parametrize("how", ["ctrl-c", "SIGTERM", "SIGHUP"])
    def test_ending_the_wait_restores_the_interval(self, tmp_path: Path, seat: type[Seat], how: str) -> None:
        with Program("--headless", "--guest", "silent", "--qmp", f"unix:{tmp_path}/q") as vm, client(vm) as direct:

            def interval() -> object:
                asked = {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"}
                return direct.ask("qom-get", **asked)["return"]

            desk = seat("--attach", f"unix:{tmp_path}/q", "--timeout", "60")  # type: ignore[call-arg,arg-type]
            desk.see("running")
            desk.type("info balloon\r")
            until(lambda: interval() == 1)
            if how == "ctrl-c":
                desk.type("\x03")
            else:
                desk.child.kill(getattr(signal, how))
            until(lambda: interval() == 0)
            if how == "ctrl-c":
                desk.type("quit\r")
            assert desk.ends() == {"ctrl-c": 0, "SIGTERM": 143, "SIGHUP": 129}[how]

    def test_the_vm_ends_beside(self, tmp_path: Path, seat: type[Seat]) -> None:
        with Program("--headless", "--qmp", f"unix:{tmp_path}/q") as vm:
            desk = seat("--attach", f"unix:{tmp_path}/q")  # type: ignore[call-arg,arg-type]
            desk.see("running")
            vm.process.kill()
            assert desk.ends() == 1
            assert "hung up" in desk.raw
