"""A client of a monitor controls the simulated machine, and starts no programs and names no files of this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.guest.keys import KEYS
from device.guest.table import PROFILES
from hmp.monitor import registry
from hmp.monitor.registry import Command
from tests.support.machines import monitor_on, say, state_of
from tests.support.programs import Program
from tests.support.shell import hmp
from tests.support.sockets import Served, play

REFUSAL = "not from a socket: --allow-host-files allows it"
HOST_GUESTS = [name for name, profile in PROFILES.items() if profile.host]
FORMS = [
    "{}",
    "{},",
    "{},path=/tmp/x",
    "{},kernel=/bin/true",
    "{},mem=64M",
    " {} ",
    "{},nosuch=1",
    "{},kernel=/nosuch,",
]


def test_every_guest_that_takes_a_path_is_one_of_this_host() -> None:
    told = {name for name, profile in PROFILES.items() if any(KEYS[key][1].startswith("PATH") for key in profile.keys)}
    assert told == set(HOST_GUESTS) == {"uml", "vhost-user"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HOST_GUESTS)
def test_such_a_guest_is_refused_in_any_form_and_nothing_changes(name: str, form: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = subject.execute(f"sim guest {form.format(name)}")
    assert (reply.text, reply.failed) == (f"Error: {REFUSAL}\n", True)
    assert state_of(subject.machine) == before


def test_other_guests_are_not() -> None:
    subject = monitor_on()
    assert say(subject, "sim guest windows,delay=2") == ""
    assert say(subject, "sim guest").startswith("windows,delay=2 - ")


def test_with_permission_the_guests_own_error_is_shown() -> None:
    subject = monitor_on()
    subject.host_files = True
    assert say(subject, "sim guest vhost-user") == "Error: guest vhost-user: needs a path (vhost-user,path=SOCKET)\n"


def test_a_command_that_says_so_in_the_table_is_refused_before_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Command("peek", "file:s", "file", "show a file", "status:info_kvm", host=True)
    monkeypatch.setitem(registry.TABLE, "peek", made)
    subject = monitor_on()
    assert say(subject, "peek") == say(subject, "peek /etc/passwd") == f"Error: {REFUSAL}\n"
    subject.host_files = True
    assert say(subject, "peek /etc/passwd") == "kvm support: disabled\n"


@pytest.mark.parametrize("address", ["unix:m", "tcp:127.0.0.1:0", "telnet:127.0.0.1:0"])
def test_on_sockets_it_is_an_error_like_any_other(address: str) -> None:
    async def scene(served: Served) -> None:
        client = await served.hmp()
        for name in HOST_GUESTS:
            assert await client.say(f"sim guest {name},path={served.path}/x") == f"Error: {REFUSAL}\n"
        assert await client.say("sim guest slow") == ""

    assert play(scene, "linux", f"monitor={address}").guest.spec == "slow"


def test_over_qmp_it_is_a_generic_error_with_the_same_words() -> None:
    async def scene(served: Served) -> None:
        client = await served.qmp()
        for name in HOST_GUESTS:
            reply = await client.line(f"sim guest {name},path={served.path}/x", 7)
            assert reply == {"id": 7, "error": {"class": "GenericError", "desc": REFUSAL}}
        assert (await client.line("sim guest nosuch"))["return"].startswith("Error: no guest is called 'nosuch'")

    assert play(scene).guest.spec == "linux"


def test_pipes_and_commands_may_name_host_files(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("sim guest vhost-user\n")
    needs = "Error: guest vhost-user: needs a path (vhost-user,path=SOCKET)\n"
    assert hmp("-c", "sim guest vhost-user").out == needs
    assert hmp("script", cwd=tmp_path).out == needs
    assert hmp(text="sim guest vhost-user\n").out == needs


@pytest.mark.slow
@pytest.mark.parametrize("leave", [False, True])
def test_allow_host_files_lets_clients_name_them_too(leave: bool, tmp_path: Path) -> None:
    options = ["--allow-host-files"] if leave else []
    asked = ["-c", "sim guest vhost-user", "--qmp", f"unix:{tmp_path}/q", "--headless"]
    with Program(*asked, *options) as program:
        talker = program.qmp()
        reply = talker.ask("human-monitor-command", command_line="sim guest vhost-user")
        talker.close()
        _, out, _ = program.end()
    assert "needs a path" in out
    assert ("needs a path" in reply.get("return", "")) == leave
    assert ("error" in reply) == (not leave)
