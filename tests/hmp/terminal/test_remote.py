"""Keys typed ahead, over ssh and mosh: what runs is what the same keys would have run here, typed one by one."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.programs import ENVIRONMENT
from tests.support.timing import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.external]

SSHD = "/usr/sbin/sshd"

UP = "\x1b[A"
CASES = {
    "recalled": (f"info version\rinfo name{UP}{UP}\rinfo kvm\r\x10\r", ["info version", "info mem", "info kvm", "info kvm"]),
    "searched": ("info version\rinfo name\r\x12vers\r\rinfo kvm\r", ["info version", "info name", "info version", "info kvm"]),
    "edited": ("ifo name\x01\x1b[Cn\rinfo kvn\x7fm\r", ["info name", "info kvm"]),
    "completed": ("info ver\t\rinfo s\t\t\r\r", ["info version", "info sev"]),
    "behind a wait": (f"info balloon\rinfo kvm\r{UP}\r\x10\x10\r", ["info balloon", "info kvm", "info kvm", "info balloon"]),
    "pasted": (f"\x1b[200~info name\ninfo kvm\n\x1b[201~{UP}\r", ["info name", "info kvm", "info kvm"]),
}  # fmt: skip
"""What is typed, and the lines that run."""

KEY = re.compile(r"\x1b\[200~.*?\x1b\[201~|\x1b\[.|.", re.DOTALL)


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command that logs in to a server of our own on this machine."""
    if not os.path.exists(SSHD):
        pytest.skip("openssh-server is not installed")
    folder = tmp_path_factory.mktemp("ssh")
    folder.chmod(0o700)
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {folder}/host
        AuthorizedKeysFile {folder}/id.pub
        PidFile none
        UsePAM no
        StrictModes no
        """
    (folder / "settings").write_text(settings)
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "settings")], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert server.stderr is not None
        said = server.stderr.readline().decode()
        if "listening" not in said:
            pytest.skip(f"sshd does not run here: {said}")
        known = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known", "-o", "LogLevel=ERROR"]
        yield ["ssh", "-p", str(port), "-i", f"{folder}/id", "-o", "IdentitiesOnly=yes", *known]
    finally:
        server.terminate()
        server.wait()
        if server.stderr is not None:
            server.stderr.close()


def command(way: str, ssh: list[str], program: list[str]) -> list[str]:
    """Return what runs `program` on a terminal that is reached that way."""
    who = f"{getpass.getuser()}@127.0.0.1"
    if way == "mosh":
        if shutil.which("mosh") is None:
            pytest.skip("mosh is not installed")
        server = "env LC_ALL=C.UTF-8 MOSH_SERVER_NETWORK_TMOUT=60 mosh-server"
        return [
            "mosh",
            f"--ssh={shlex.join(ssh)}",
            f"--server={server}",
            "--bind-server=127.0.0.1",
            who,
            "--",
            *program,
        ]
    return [*ssh, "-tt", who, shlex.join(program)]


@pytest.mark.parametrize("arriving", ["in one packet", "before the prompt", "key by key"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["ssh", "mosh"])
def test_keys_run_the_same_over_a_network(ssh: list[str], way: str, case: str, arriving: str, tmp_path: Path) -> None:
    keys, lines = CASES[case]
    (tmp_path / "hmp").mkdir()
    (tmp_path / "hmp" / "history").write_text("info mem\n")
    variables = {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"], "XDG_STATE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    typed = [sys.executable, "-m", "hmp", "--guest", "silent", "--timeout", "0.5"]
    program = ["env", *(f"{name}={value}" for name, value in variables.items()), *typed]
    argv = command(way, ssh, program)
    child = pexpect.spawn(
        argv[0],
        argv[1:],
        env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    child.delaybeforesend = None
    saved = tmp_path / "typed"
    keys += f"sim save {saved}\rquit\r"
    try:
        # What is typed sooner is ssh's, or the shell's.
        child.expect("monitor" if arriving == "before the prompt" else r"\(qemu\)")
        for key in KEY.findall(keys) if arriving == "key by key" else [keys]:
            child.send(key)
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert saved.read_text().splitlines() == lines
