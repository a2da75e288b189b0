"""How long a start takes: on a pipe, and to the first prompt on a terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import time
from functools import partial

from tests.bench.programs import HMP, OTHERS, PYTHON, folder, qemu, seconds
from tests.bench.turns import Bench, Goal

LITECLI = ".bench/bin/litecli"


def first_prompt(command: list[str], prompt: bytes) -> float:
    """Return the milliseconds until `command` on a pty of 80 columns shows `prompt`; it is killed then."""
    begun = time.perf_counter()
    pid, master = pty.fork()
    if not pid:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    data = b""
    try:
        while prompt not in data:
            if not select.select([master], [], [], 20)[0]:
                raise SystemExit(f"{command[0]} shows no prompt: {data[-300:]!r}")
            try:
                data += os.read(master, 4096)
            except OSError:
                raise SystemExit(f"{command[0]} ended: {data[-300:]!r}") from None
            if b"\x1b[6n" in data:  # where is the cursor? prompt_toolkit asks
                os.write(master, b"\x1b[1;1R")
                data = data.replace(b"\x1b[6n", b"")
        return (time.perf_counter() - begun) * 1e3
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(master)
        os.waitpid(pid, 0)


def measure(bench: Bench) -> None:
    """A piped `info balloon` from start to exit, and the first prompt."""
    real = qemu()
    lines = b"info balloon\n"

    def taken(command: list[str], more: bytes = b"") -> float:
        return seconds(command, lines + more) * 1e3

    bench.figure(
        "start",
        "start to exit, one piped `info balloon`",
        "ms",
        {
            "hmp": partial(taken, HMP),
            "qemu": partial(taken, [*real, "-monitor", "stdio"], b"quit\n") if real else None,
            "instead": partial(taken, [*OTHERS, "lines"]),
            "limit": partial(taken, [*PYTHON, "-c", "pass"]),
        },
        Goal("limit", most=1.5),
        Goal("qemu", most=0.55),
        share=3,
    )
    litecli = os.path.abspath(LITECLI) if os.path.exists(LITECLI) else shutil.which("litecli")
    with folder() as home:
        os.environ["XDG_CONFIG_HOME"] = home  # litecli writes a configuration; ours is not to be read
        toolkit = "import prompt_toolkit; print('(qemu) ', end='', flush=True); input()"
        bench.figure(
            "prompt",
            "first prompt on a pty",
            "ms",
            {
                "hmp": partial(first_prompt, HMP, b"(qemu) "),
                "qemu": partial(first_prompt, [*real, "-monitor", "stdio"], b"(qemu) ") if real else None,
                "instead": partial(first_prompt, [litecli, f"{home}/x.db"], b"x.db") if litecli else None,
                "limit": partial(first_prompt, [*PYTHON, "-c", toolkit], b"(qemu) "),
            },
            Goal("qemu", most=3.5),
            Goal("instead", most=0.33),
            share=2,
        )
