"""hmp as users run it: a program in a process of its own. It costs about 50 ms a time, so ask for it sparingly."""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.support.timing import PATIENCE

ROOT = Path(__file__).parents[2]
HMP = [sys.executable, "-m", "hmp"]
TIMEOUT = PATIENCE


class Ended(NamedTuple):
    """How a program ended, and what it printed."""

    status: int
    out: str
    err: str


@functools.cache
def environment() -> dict[str, str]:
    """The environment of a user who has hmp on the PATH, without our variables."""
    folder = tempfile.mkdtemp(prefix="hmp-path-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = Path(folder, "hmp")
    program.write_text(f'#!/bin/sh\nexec {shlex.join(HMP)} "$@"\n')
    program.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_", "HMP"))}
    ours = Path(sys.executable).parent  # its pytest, and the other programs that come with hmp
    path = f"{folder}{os.pathsep}{ours}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def hmp(*arguments: str | bytes, text: str | bytes = "", cwd: Path | None = None) -> Ended:
    """Run hmp with `arguments`, `text` coming from a pipe."""
    given = text.encode() if isinstance(text, str) else text
    ended = subprocess.run(
        [*HMP, *arguments], input=given, capture_output=True, timeout=TIMEOUT, env=environment(), cwd=cwd
    )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def shell(command: str, *, cwd: Path | None = None, merged: bool = False) -> Ended:
    """Run a line of bash in which `hmp` is hmp; with `merged` stderr is part of stdout, as on a terminal."""
    ended = subprocess.run(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        timeout=TIMEOUT * 4,
        env=environment(),
        cwd=cwd,
    )
    return Ended(ended.returncode, ended.stdout.decode(), (ended.stderr or b"").decode())


def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """Start hmp with pipes on all descriptors that `options` of Popen do not place elsewhere."""
    pipes: dict[str, object] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*HMP, *arguments], env=environment(), **(pipes | options))  # type: ignore[call-overload,no-any-return]
