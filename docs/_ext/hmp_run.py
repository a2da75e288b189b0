"""What the commands that a page shows are to a terminal in it: the lines they type, or why they cannot run there."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from device.errors import MisuseError
from device.guest.table import PROFILES
from hmp.config import Config
from hmp.monitor import UsageError
from hmp.options import parse

PROMPT, MORE = "$ ", "> "

FILE = re.compile(r"(?:#|//) ([\w.-]+\.\w+)\n")
"""The first line of a block that is a file of the page's commands: a comment with its name."""

NOT_HERE = {
    "addresses": 'sockets (--monitor, --qmp); "Open another terminal" is a second monitor',
    "attach": "a VM that runs elsewhere (--attach)",
    "record": "files (--record; the session's cast can be downloaded)",
    "snapshot_dir": "files (--snapshot-dir; snapshots can be downloaded and uploaded)",
    "guest": "a real guest",
}
"""What of the command line a page cannot have, by what it sets; the rest is named by the option alone."""

_SAME = {"ram", "guest", "clock", "dialect"}
_NEEDLESS = {"sources", "scripted", "echo", "exit_on_error", "fail_stale"}
_FILTER = re.compile(r"\| (?:sed|grep|tail|head)\b.*|; echo \"exit \$\?\"|\d?>/dev/null.*", re.DOTALL)
"""What only looks at the output: the terminal shows all of it."""


class Run(NamedTuple):
    """A command of a page: the machine it makes, in the words of `hmp.web.start`, and what it types there.

    Or `why` not, which goes on behind "not in a web page: "."""

    command: str
    options: dict[str, str]
    lines: list[str]
    why: str = ""

    @property
    def machine(self) -> str:
        """The command line that makes this machine, with its RAM always."""
        default = vars(Config())
        given = [
            f" --{name} {value}" for name, value in self.options.items() if name != "ram" and value != default[name]
        ]
        return f"hmp -m {self.options['ram']}{''.join(given)}"


def commands(block: str, *, console: bool = True) -> Iterable[str]:
    """Yield what a block shows as typed: behind `$ `, going on in lines that begin with `> `.

    A block that is no `console` has no prompts: there each line of hmp is one, without the remark behind it.
    """
    if not console:
        yield from (re.sub(r"\s+# .*", "", line) for line in block.splitlines() if re.match(r"hmp( |$)", line))
        return
    typed: list[str] = []
    for line in block.splitlines():
        if line.startswith(MORE) and typed:
            typed.append(line.removeprefix(MORE))
        else:
            if typed:
                yield "\n".join(typed)
            typed = [line.removeprefix(PROMPT)] if line.startswith(PROMPT) else []
    if typed:
        yield "\n".join(typed)


def read(command: str, files: dict[str, str]) -> Run:
    """Return what becomes of a command of a page that has `files`."""
    plain = _FILTER.sub("", command.replace("\\\n", " "))
    piped = re.fullmatch(r"printf '([^'%]*)' \| (hmp .*?)\s*", plain, re.DOTALL)
    if piped:
        plain = piped[2]
    try:
        words = list(shlex.shlex(plain, posix=True, punctuation_chars=True))
        name, *arguments = shlex.split(plain)
    except ValueError:
        return Run(command, {}, [], "a shell")
    if name not in ("hmp", "hmp-qemu", "hmp-cast2svg") or any(set(word) <= set("();<>|&") for word in words):
        return Run(command, {}, [], "a shell, and other programs")
    if name != "hmp":
        return Run(command, {}, [], name)
    if re.search(r"[$`*]", plain):
        return Run(command, {}, [], "a shell")
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            Path(folder, file).write_text(content)
        before = os.getcwd()
        os.chdir(folder)
        try:
            config = parse(arguments)
        except (UsageError, MisuseError) as error:
            return Run(command, {}, [], str(error))
        finally:
            os.chdir(before)
        if config is None:
            return Run(command, {}, [], "what is no session")
        lines = [line for _, source in config.sources for line in _lines(source)]
    if piped:
        lines = piped[1].encode().decode("unicode_escape").splitlines()
    if PROFILES[config.guest.partition(",")[0]].host:
        return Run(command, {}, [], NOT_HERE["guest"])
    default = vars(Config())
    for attribute, value in vars(config).items():
        if attribute not in _SAME | _NEEDLESS and value != default[attribute]:
            return Run(command, {}, [], NOT_HERE.get(attribute, f"--{attribute.replace('_', '-')}"))
    if any(re.match(r"sim (save|source)\b", line) for line in lines):
        return Run(command, {}, [], "files (sim save, sim source)")
    ram = f"{config.ram >> 20}M"
    return Run(command, {"ram": ram, "guest": config.guest, "clock": config.clock, "dialect": config.dialect}, lines)


def _lines(source: int | list[str]) -> list[str]:
    if isinstance(source, list):
        return source
    with os.fdopen(source) as file:
        return [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
