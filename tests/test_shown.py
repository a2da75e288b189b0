"""Commands that README and docs show without what they print: each is run here, or where it says here.

What stands in `console` blocks, with its output, is tests/test_readme.py's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from tests.support.shell import ROOT, environment
from tests.test_docs import FENCE, PAGES, named


def shown(page: Path) -> list[str]:
    """The commands in indented blocks of a page, without the remarks behind them."""
    lines = re.findall(r"^    (\S.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def ci() -> str:
    return (ROOT / ".ci/run").read_text()


def ci_runs(command: str, folder: Path) -> None:
    assert re.search(rf"^{re.escape(command)}( <.*)?$", ci(), re.MULTILINE)


def ci_installs(command: str, folder: Path) -> None:
    for package in command.removeprefix("sudo apt-get install ").split():
        assert re.search(rf" {package}( |$)", ci(), re.MULTILINE), package


def its_test_is(test: str) -> Callable[[str, Path], None]:
    """The command runs in a test of its own, FILE::NAME."""

    def there(command: str, folder: Path) -> None:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text()

    return there


def a_shell_takes(command: str, folder: Path) -> None:
    """It puts files into the home or fills in the shell; the shells themselves are test_shell_completion's."""
    ended = subprocess.run(
        ["bash", "-c", f"mkdir -p ~/.config/fish/completions ~/.local/share/bash-completion/completions; {command}"],
        env=environment() | {"HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "zsh" not in command:
        assert (ended.returncode, ended.stderr) == (0, "")


def serves(command: str, folder: Path) -> None:
    program = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], env=environment(), cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert program.stderr is not None
    try:
        assert re.match(r"hmp: ready pid=\d+ qmp=tcp:127\.0\.0\.1:\d+\n", program.stderr.readline())
    finally:
        program.terminate()
        assert program.wait(20) == 0
        program.stderr.close()


def sits_down(command: str, folder: Path) -> pexpect.spawn:
    state = {"TERM": "xterm-256color", "XDG_STATE_HOME": str(folder), "PROMPT_TOOLKIT_NO_CPR": "1"}
    return pexpect.spawn(
        "bash",
        ["-c", f"exec {command}"],
        env=environment() | state,
        cwd=folder,
        encoding="utf-8",
        timeout=20,
        dimensions=(24, 80),
    )


def leaves(child: pexpect.spawn) -> None:
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def records(command: str, folder: Path) -> None:
    child = sits_down(command, folder)
    child.expect("qemu")
    child.send("info status\r")
    child.expect("VM status: running")
    leaves(child)
    assert "VM status: running" in (folder / "demo.cast").read_text()


def serves_beside_a_prompt(command: str, folder: Path) -> None:
    if shutil.which("socat") is None:
        pytest.skip("needs socat")
    child = sits_down(command, folder)
    child.expect("hmp: ready")
    child.expect("qemu")
    second = sits_down("socat -,raw,echo=0 unix:hmp.sock", folder)
    second.expect_exact("(qemu) ")
    child.send("info balloon\r")  # waits 2 s for this guest
    child.expect("waiting for the guest")
    second.send("info status\r")
    second.expect("VM status: running")
    child.expect("balloon: actual=1024")
    second.sendeof()
    second.close()
    leaves(child)
    assert not os.path.exists(folder / "hmp.sock")


LIVE, VIRSH = "tests/conformance/test_attach_live.py", "tests/hmp/attach/test_virsh.py"
ATTACHED = "tests/hmp/attach/test_programs.py"
INSTALLED = its_test_is("tests/test_project.py::test_the_line_of_the_readme_installs_it_into_an_empty_home")
COMPLETION = "tests/hmp/test_shell_completion.py"
KERNEL = "tests/hmp/recording/test_cast2svg.py::test_the_real_kernel_can_be_typed_at_again"
RUN: dict[str, Callable[[str, Path], None]] = {
    **dict.fromkeys(["pipx install hmp-emulator", "uv tool install hmp-emulator"], INSTALLED),
    "make run": ci_runs,
    "make test": ci_runs,
    "make check": ci_runs,
    "sudo apt-get install git make python3-venv": ci_installs,
    "sudo apt-get install user-mode-linux busybox-static": ci_installs,
    "hmp --headless -m 512 --guest slow,delay=2 --qmp tcp:127.0.0.1:0": serves,
    "hmp --guest slow --qmp unix:qmp.sock --monitor unix:hmp.sock": serves_beside_a_prompt,
    "hmp": its_test_is("tests/hmp/terminal/test_pty.py::test_the_typed_part_of_the_tutorial_shows_what_it_says"),
    "hmp --record demo.cast": records,
    "hmp --attach unix:/run/vm1/qmp.sock": its_test_is(f"{ATTACHED}::test_a_session"),
    "hmp --attach libvirt:vm1": its_test_is(f"{VIRSH}::test_a_fresh_answer_taints_nothing_and_puts_the_period_back"),
    "hmp --attach unix:/var/run/qemu-server/100.qmp": its_test_is(f"{ATTACHED}::test_proxmox_sockets_are_not_held"),
    "hmp --attach unix:vm1.sock --fail-stale -c 'info balloon'": its_test_is(
        f"{LIVE}::test_a_check_of_a_healthy_guest"
    ),
    "hmp --attach unix:qmp.sock --headless --qmp unix:shared.sock --monitor unix:hmp.sock": its_test_is(
        f"{ATTACHED}::test_many_share_the_one_socket"
    ),
    "mkdir -p ~/.local/share/bash-completion/completions": a_shell_takes,
    "_HMP_COMPLETE=bash_source hmp > ~/.local/share/bash-completion/completions/hmp": a_shell_takes,
    'eval "$(_HMP_COMPLETE=bash_source hmp)"': a_shell_takes,
    'eval "$(_HMP_CAST2SVG_COMPLETE=bash_source hmp-cast2svg)"': a_shell_takes,
    'eval "$(_HMP_QEMU_COMPLETE=bash_source hmp-qemu)"': a_shell_takes,
    'eval "$(_HMP_COMPLETE=zsh_source hmp)"': its_test_is(f"{COMPLETION}::test_zsh_completes"),
    "mkdir -p ~/.config/fish/completions": a_shell_takes,
    "_HMP_COMPLETE=fish_source hmp > ~/.config/fish/completions/hmp.fish": a_shell_takes,
    "hmp --guest uml,mem=128M": its_test_is(KERNEL),
    "hmp -m 128 --guest vhost-user,path=/tmp/b.sock": its_test_is(
        "tests/conformance/test_real_program.py::test_a_kernel_that_another_program_started_is_served"
    ),
    "linux.uml mem=128M ... virtio_uml.device=/tmp/b.sock:5": its_test_is(
        "tests/conformance/test_real_program.py::test_a_kernel_that_another_program_started_is_served"
    ),
}
"""What runs each of them."""


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_a_page_shows_is_run(page: Path) -> None:
    assert [command for command in shown(page) if command not in RUN] == []


def test_no_other_command_is_listed() -> None:
    assert set(RUN) == {command for page in PAGES for command in shown(page)}


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_does_what_its_page_says(command: str, tmp_path: Path) -> None:
    RUN[command](command, tmp_path)
