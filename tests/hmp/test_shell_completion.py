"""What a shell is told when it asks what can be typed next (docs/completion.md)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pexpect
import pyte
import pytest

from device.guest.table import PROFILES
from hmp.config import CLOCKS
from hmp.monitor.dialects import DIALECTS
from hmp.qemu.command_line import CommandLine
from hmp.qemu.table import ACTS, WITH_VALUE, WITHOUT
from tests.support.shell import TIMEOUT, environment, shell

SHELLS = ["bash", "zsh", "fish"]


def ask(words: str, *, instruction: str = "bash_complete", cword: int | str | None = None) -> list[str]:
    """What hmp answers a shell whose line is `words`, with the cursor at its end."""
    at = len(words.split(" ")) - 1 if cword is None else cword
    asked = {"_HMP_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(at)}
    ended = subprocess.run(
        ["hmp"], env=environment() | asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return [line for line in ended.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hmp --guest ", list(PROFILES)),
        ("hmp --guest linux-", ["linux-2.6.34", "linux-6.12"]),
        ("hmp --guest linux,", []),
        ("hmp --clock ", list(CLOCKS)),
        ("hmp --dialect ", list(DIALECTS)),
        ("hmp -m 512 --echo --dialect p", ["pve"]),
        ("hmp --no", ["--no-balloon"]),
        ("hmp --uuid ", []),
    ],
)
def test_names_are_offered(words: str, offered: list[str]) -> None:
    assert [line.removeprefix("plain,") for line in ask(words)] == offered


@pytest.mark.parametrize(
    ("words", "kind"), [("hmp ", "file"), ("hmp --record d", "file"), ("hmp --snapshot-dir d", "dir")]
)
def test_the_shell_is_told_to_look_for_files_itself(words: str, kind: str) -> None:
    assert ask(words) == [f"{kind},{words.split(' ')[-1]}"]


def test_each_guest_comes_with_what_it_is() -> None:
    lines = ask("hmp --guest s", instruction="zsh_complete")
    assert lines == [
        part for name in ("silent", "slow") for part in ("plain", name, PROFILES[name].help.replace(":", "\\:"))
    ]
    assert ask("hmp --clock w", instruction="fish_complete", cword="w") == [f"plain,warp\t{CLOCKS['warp'][1]}"]


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_for_each_shell_is_in_its_language(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    ended = shell(f"_HMP_COMPLETE={name}_source hmp > script && {name} -n script", cwd=tmp_path, merged=True)
    assert ended == (0, "", "")
    assert "_hmp_completion" in (tmp_path / "script").read_text()


def test_bash_completes() -> None:
    line = """
        eval "$(_HMP_COMPLETE=bash_source hmp)"
        complete -p hmp
        COMP_WORDS=(hmp --guest slo) COMP_CWORD=2
        _hmp_completion hmp slo --guest
        echo "${COMPREPLY[@]}"
    """
    assert shell(line).out.split() == ["complete", "-o", "nosort", "-F", "_hmp_completion", "hmp", "slow"]


def test_zsh_completes() -> None:
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh")
    line = """
        compdef() { :; }; compadd() { print -r -- "$@"; }; _describe() { print -r -- ${(P)3}; }
        eval "$(_HMP_COMPLETE=zsh_source hmp)"
        words=(hmp --guest slo) CURRENT=3
        _hmp_completion
    """
    assert f"slow:{PROFILES['slow'].help}" in shell(f"zsh -fc '{line.replace(chr(39), chr(34))}'").out


def test_fish_completes() -> None:
    if shutil.which("fish") is None:
        pytest.skip("needs fish")
    line = "_HMP_COMPLETE=fish_source hmp | source; complete -C 'hmp --guest slo'"
    assert shell(f'fish --no-config -c "{line}"').out == f"slow\t{PROFILES['slow'].help}\n"


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("hmp --guest=slo", "hmp --guest=slow"),
        ("hmp -m 512 --guest=slo", "hmp -m 512 --guest=slow"),
        ("hmp --record=./one", "hmp --record=./one-file"),
        ("hmp --snapshot-dir=./one", "hmp --snapshot-dir=./one-folder/"),
        ("hmp --guest=lin", "hmp --guest=linux"),
        ("hmp-cast2svg --over", "hmp-cast2svg --overwrite"),
        ("hmp-cast2svg --speed=2 ./one", "hmp-cast2svg --speed=2 ./one-file"),
        ("hmp-qemu -nogr", "hmp-qemu -nographic"),
        ("hmp-qemu -m 512 -pidfile ./one", "hmp-qemu -m 512 -pidfile ./one-file"),
        ("hmp-qemu -device virtio-balloon-pci-n", "hmp-qemu -device virtio-balloon-pci-non-transitional"),
    ],
)
@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.slow
def test_tab_keeps_what_was_typed(name: str, line: str, completed: str, tmp_path: Path) -> None:
    """In the real shell, on a terminal."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    program = line.split()[0]
    asked = f"_{program.upper().replace('-', '_')}_COMPLETE={name}_source {program}"
    if "dir" in line:
        (tmp_path / "one-folder").mkdir()
    else:
        (tmp_path / "one-file").touch()
    quiet, learn = {
        "bash": (["--norc", "--noprofile"], f"""eval "$({asked})"; PS1='# '"""),
        "zsh": (["-f"], f'autoload -Uz compinit; compinit -u; eval "$({asked})"; PS1="# "'),
        "fish": (["--no-config"], f"{asked} | source; function fish_prompt; echo -n '# '; end"),
    }[name]
    home = {"HOME": str(tmp_path), "TERM": "xterm"}
    spawn = pexpect.spawn(
        name, [*quiet, "-i"], env=environment() | home, cwd=tmp_path, dimensions=(24, 100), encoding="utf-8",
        timeout=TIMEOUT,
    )  # fmt: skip
    screen = pyte.Screen(100, 24)
    stream = pyte.Stream(screen)

    def until(text: str) -> None:
        while not any(re.search(f"[#%$>] {re.escape(text)} *$", shown) for shown in screen.display):
            got = spawn.read_nonblocking(65536, TIMEOUT)
            stream.feed(got)
            if "\x1b[c" in got or "\x1b[0c" in got:  # fish asks the terminal what it is
                spawn.send("\x1b[?62c")

    try:
        for typed, then in [
            (f"{learn}; clear\r", ""),
            (line, line),
            ("\t", completed),
        ]:
            spawn.send(typed)
            until(then)
    finally:
        spawn.close(force=True)


def test_completion_knows_which_options_of_qemu_mean_something() -> None:
    values = {
        "M": "pc", "action": "panic=none", "chardev": "null,id=a", "device": "virtio-balloon-pci", "m": "64",
        "mon": "chardev=a", "uuid": str(UUID(int=1)), "qmp": "unix:q", "qmp-pretty": "unix:q", "monitor": "none",
        "serial": "none", "parallel": "none", "debugcon": "null", "watchdog-action": "reset",
    }  # fmt: skip
    for name in WITH_VALUE | WITHOUT:
        line = CommandLine()
        line.read(
            ["-chardev", "null,id=a"] * (name == "mon") + [f"-{name}"] + [values.get(name, "x")] * (name in WITH_VALUE)
        )
        assert bool(line.ignored) == (name not in ACTS), name


def test_a_malformed_question_of_the_shell_is_answered_by_nothing() -> None:
    assert shell("_HMP_COMPLETE=nonsense hmp; echo $?") == (0, "1\n", "")
    assert shell("printf 'info status\\n' | _HMP_COMPLETE= hmp").out == "VM status: running\n"


def test_the_maker_of_pictures_completes_too() -> None:
    asked = {"_HMP_CAST2SVG_COMPLETE": "bash_complete", "COMP_WORDS": "hmp-cast2svg --ov", "COMP_CWORD": "1"}
    ended = subprocess.run(["hmp-cast2svg"], env=environment() | asked, capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "plain,--overwrite\n", "")
